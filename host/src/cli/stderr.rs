//! Standard error: its reader may be gone or asleep, and its disk full. None of that stops or ends
//! the program, so nothing here fails, and a host does not wait for it.
//!
//! Secrets of URLs are left out of every line, and on a terminal what is hidden is escaped: errors
//! repeat what peers said and users typed.

use std::backtrace::Backtrace;
use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write};
use std::panic;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use crate::text::{LINES, Style, json_without_secrets, push_escaped, visible, without_secrets};

/// Lines that wait for a slow reader. Further ones are dropped and counted.
const WAITING: usize = 4096;
/// How long the end of the program waits until all is written.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// Of a program that does not wait for standard error.
static QUEUE: OnceLock<SyncSender<Message>> = OnceLock::new();
/// Lines that standard error did not take since this was last reported.
static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Message {
    Text(Vec<u8>),
    /// All before it is written, as far as it can be.
    Flushed(SyncSender<()>),
}

/// From here on a thread of its own writes, and [`write`] never waits. Panics are reported in the
/// same way: the report of the standard library waits for its reader.
pub(super) fn detach() -> io::Result<()> {
    let (sender, messages) = mpsc::sync_channel(WAITING);
    thread::Builder::new().name("edgestore-log".to_owned()).spawn(move || write_all(&messages))?;
    if QUEUE.set(sender).is_ok() {
        panic::set_hook(Box::new(|panic| {
            let thread = thread::current();
            let name = thread.name().unwrap_or("unnamed");
            let trace = Backtrace::capture();
            line(&format!("thread '{name}' {panic}\n{trace}"));
        }));
    }
    Ok(())
}

fn write_all(messages: &Receiver<Message>) {
    // Whether the last line was cut, as by a disk that is full.
    let mut torn = false;
    for message in messages {
        match message {
            Message::Text(mut text) => {
                if torn {
                    text.insert(0, b'\n');
                }
                if let Err(written) = to_stderr(&text) {
                    torn = if torn { written != 1 } else { written > 0 };
                    DROPPED.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                torn = false;
                let lines = DROPPED.swap(0, Ordering::Relaxed);
                if lines > 0 {
                    tracing::warn!(lines, "standard error did not take these lines of the log");
                }
            }
            Message::Flushed(done) => drop(done.send(())),
        }
    }
}

/// # Errors
/// How many bytes were written before it failed.
fn to_stderr(bytes: &[u8]) -> Result<(), usize> {
    let mut stderr = io::stderr().lock();
    let mut written = 0;
    while written < bytes.len() {
        match stderr.write(&bytes[written..]) {
            Ok(0) => return Err(written),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(written),
        }
    }
    Ok(())
}

/// Writes these bytes, or drops them where standard error does not take them.
pub(super) fn write(bytes: &[u8]) {
    let Some(queue) = QUEUE.get() else {
        let _ = to_stderr(bytes);
        return;
    };
    if queue.try_send(Message::Text(bytes.to_owned())).is_err() {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes a line, or several.
pub(super) fn line(text: &str) {
    write(format!("{}\n", shown(text, is_terminal())).as_bytes());
}

/// Writes a line of JSON.
pub(super) fn json_line(text: &str) {
    write(format!("{}\n", shown_json(text, is_terminal())).as_bytes());
}

/// Whether a person reads standard error.
pub(super) fn is_terminal() -> bool {
    static TERMINAL: OnceLock<bool> = OnceLock::new();
    *TERMINAL.get_or_init(|| io::stderr().is_terminal())
}

/// Text of this program with text of others in it, as it may be shown.
pub(super) fn shown(text: &str, on_terminal: bool) -> Cow<'_, str> {
    match (without_secrets(text), on_terminal) {
        (clean, false) => clean,
        (Cow::Borrowed(clean), true) => visible(clean, LINES),
        (Cow::Owned(clean), true) => visible(&clean, LINES).into_owned().into(),
    }
}

/// The same of a line of JSON, which stays JSON.
pub(super) fn shown_json(line: &str, on_terminal: bool) -> Cow<'_, str> {
    let clean = json_without_secrets(line);
    if !on_terminal {
        return clean;
    }
    let mut escaped = String::with_capacity(clean.len());
    push_escaped(&mut escaped, &clean, Style::Json, LINES);
    escaped.into()
}

/// Waits until all is written, but not for a reader that sleeps.
pub(super) fn flush() {
    let Some(queue) = QUEUE.get() else { return };
    let give_up = Instant::now() + LAST_WAIT;
    let (done, flushed) = mpsc::sync_channel(1);
    let mut message = Message::Flushed(done);
    while let Err(TrySendError::Full(unsent)) = queue.try_send(message) {
        if Instant::now() >= give_up {
            return;
        }
        message = unsent;
        thread::sleep(Duration::from_millis(10));
    }
    let _ = flushed.recv_timeout(give_up.saturating_duration_since(Instant::now()));
}

/// Standard error as a writer that takes all it is given: whole lines of the log, of which those for
/// people are fit to be shown, and those of JSON are made so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stderr {
    Human,
    Json,
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match (self, std::str::from_utf8(bytes)) {
            (Self::Json, Ok(line)) => write(shown_json(line, is_terminal()).as_bytes()),
            _ => write(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_no_secrets_and_on_a_terminal_nothing_hidden() {
        let text = "can't ask http://me:hunter2@a/?x\x1b[2J: \u{202e}\n  two";
        assert_eq!(shown(text, true), "can't ask http://***@a/?***\\u{1b}[2J: \\u{202e}\n  two");
        assert_eq!(shown(text, false), "can't ask http://***@a/?***\x1b[2J: \u{202e}\n  two");
        let line = serde_json::json!({ "error": text, "n": 1 }).to_string() + "\n";
        for on_terminal in [true, false] {
            let shown = shown_json(&line, on_terminal);
            assert_eq!(shown.contains("\\u202e"), on_terminal, "{shown}");
            let read: serde_json::Value = serde_json::from_str(&shown).unwrap();
            assert_eq!(read["error"], self::shown(text, false).into_owned());
        }
    }
}
