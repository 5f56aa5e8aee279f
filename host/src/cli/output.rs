//! Standard output: buffered, with bytes that may be no text, and with readers that may leave.
//!
//! A program reads what was written. A terminal obeys what it reads, so there all that peers and
//! users stored is escaped where it would act on the terminal or hide: see [`crate::text::visible`].

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::exit::usage;
use super::streams;
use crate::text::{
    LINE, LINES, Style, exact, json_without_secrets, push_bytes, push_escaped, without_secrets,
};

/// Writes a line to standard error, for people. Never fails.
pub(super) use super::stderr::line as note;
pub(super) use crate::text::{bytes as size, lines, table};

/// Standard output. What is written is there after `flush`. Once its reader has gone it takes
/// everything and writes nothing: the command does its work all the same. On a terminal what is
/// hidden is escaped.
pub(super) struct Output(BufWriter<Stdout>);

/// Whether the reader of standard output has gone.
static CLOSED: AtomicBool = AtomicBool::new(false);

struct Stdout {
    lock: StdoutLock<'static>,
    /// Something reads it, or did at the start.
    is_open: bool,
    /// On a terminal.
    filter: Option<Filter>,
}

impl Output {
    pub(super) fn new() -> Self {
        Self::with_style(Style::Text)
    }

    /// For JSON, which stays JSON on a terminal and says the same.
    pub(super) fn json() -> Self {
        Self::with_style(Style::Json)
    }

    fn with_style(style: Style) -> Self {
        let filter = is_terminal().then(|| Filter::new(style));
        let lock = io::stdout().lock();
        let is_open = !streams::no_output();
        Self(BufWriter::with_capacity(64 << 10, Stdout { lock, is_open, filter }))
    }

    /// Whether nobody reads on, so that a command that only lists may stop.
    pub(super) fn is_closed(&self) -> bool {
        CLOSED.load(Ordering::Relaxed)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if CLOSED.load(Ordering::Relaxed) {
            return Ok(bytes.len());
        }
        if !self.is_open {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "can't write the output: standard output is closed",
            ));
        }
        match &mut self.filter {
            None => self.lock.write(bytes),
            Some(filter) => {
                self.lock.write_all(filter.take(bytes).as_bytes()).map(|()| bytes.len())
            }
        }
        .or_else(|error| unless_closed(error, bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        if CLOSED.load(Ordering::Relaxed) {
            return Ok(());
        }
        let rest = self.filter.as_mut().map(Filter::rest).unwrap_or_default();
        self.lock
            .write_all(rest.as_bytes())
            .and_then(|()| self.lock.flush())
            .or_else(|error| unless_closed(error, ()))
    }
}

/// Escapes what is hidden in bytes that come in pieces.
struct Filter {
    style: Style,
    /// The first bytes of a character, whose others are still to come.
    begun: Vec<u8>,
}

impl Filter {
    fn new(style: Style) -> Self {
        Self { style, begun: Vec::new() }
    }

    /// What to show of these bytes, and of those that waited for them.
    fn take(&mut self, bytes: &[u8]) -> String {
        self.begun.extend(bytes);
        let bytes = std::mem::take(&mut self.begun);
        let mut shown = String::with_capacity(bytes.len());
        let mut rest = &bytes[..];
        loop {
            let (valid, invalid, more) = match std::str::from_utf8(rest) {
                Ok(text) => (text.len(), 0, true),
                // Without a length, the next bytes may complete it.
                Err(error) => (
                    error.valid_up_to(),
                    error.error_len().unwrap_or(0),
                    error.error_len().is_none(),
                ),
            };
            let (text, after) = rest.split_at(valid);
            push_escaped(&mut shown, &String::from_utf8_lossy(text), self.style, LINES);
            push_bytes(&mut shown, &after[..invalid]);
            rest = &after[invalid..];
            if more {
                self.begun = rest.to_vec();
                return shown;
            }
        }
    }

    /// What to show of bytes that nothing completes.
    fn rest(&mut self) -> String {
        let mut shown = String::new();
        push_bytes(&mut shown, &std::mem::take(&mut self.begun));
        shown
    }
}

/// A reader that has gone is noted and is no error.
fn unless_closed<T>(error: io::Error, done: T) -> io::Result<T> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => {
            CLOSED.store(true, Ordering::Relaxed);
            Ok(done)
        }
        // A writer tries again after these.
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Err(error),
        kind => Err(io::Error::new(kind, format!("can't write the output: {error}"))),
    }
}

/// Reports of work that goes on whatever becomes of them. The first failure is kept for the end.
#[derive(Debug, Default)]
pub(super) struct Reports {
    failed: Option<io::Error>,
}

impl Reports {
    /// Prints all of `text`, unless an earlier text could not be printed.
    pub(super) fn print(&mut self, text: &str) {
        if self.failed.is_none() {
            self.failed = print(text).err();
        }
    }

    /// After the work.
    ///
    /// # Errors
    /// Why a text could not be printed. A reader that has gone is no error.
    pub(super) fn finish(self) -> io::Result<()> {
        self.failed.map_or(Ok(()), Err)
    }
}

/// Whether a person reads standard output.
pub(super) fn is_terminal() -> bool {
    static TERMINAL: OnceLock<bool> = OnceLock::new();
    *TERMINAL.get_or_init(|| io::stdout().is_terminal())
}

/// Prints all of `text`, which is a report and no data: without the secrets of URLs, such as a path
/// that is none. A reader that has gone is no error.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut output = Output::new();
    output.write_all(without_secrets(text).as_bytes())?;
    output.flush()
}

/// Prints all of a JSON text, as [`print`] does.
pub(super) fn print_json(text: &str) -> io::Result<()> {
    let mut output = Output::json();
    output.write_all(json_without_secrets(text).as_bytes())?;
    output.flush()
}

/// A value as a terminal shows it: text with what is hidden in it escaped, other bytes as `0x…`. It
/// can be read back: text that begins with `0x` has its first character escaped.
pub(super) fn cell(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => match text.strip_prefix('0').filter(|rest| rest.starts_with('x')) {
            None => exact(bytes, LINE),
            Some(rest) => format!("\\u{{30}}{}", exact(rest.as_bytes(), LINE)).into(),
        },
        Err(_) => printable(bytes),
    }
}

/// What a program reads as one line: printable text as it is, other bytes as `0x…`.
pub(super) fn printable(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.into(),
        _ => format!("0x{}", hex::encode(bytes)).into(),
    }
}

/// A key or value of the command line.
pub(super) fn bytes(argument: &str, is_hex: bool) -> anyhow::Result<Vec<u8>> {
    if !is_hex {
        return Ok(argument.as_bytes().to_vec());
    }
    hex::decode(argument.strip_prefix("0x").unwrap_or(argument)).map_err(|error| {
        usage(format!("{argument:?} is not hexadecimal ({error}): write it as in 00ff"))
    })
}

/// `1 record`, `2 records`.
pub(super) fn records(count: u64) -> String {
    format!("{count} record{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_printable_text_are_hexadecimal() {
        assert_eq!(printable("grün 21.5°".as_bytes()), "grün 21.5°");
        assert_eq!(printable(b"a\nb"), "0x610a62");
        assert_eq!(printable(&[0xff, 0]), "0xff00");
        assert_eq!(printable(b""), "");
    }

    #[test]
    fn a_cell_of_a_terminal_can_be_read_back() {
        for (value, shown) in [
            (&b"plain"[..], "plain"),
            (b"a\x1b[2J\n", "a\\u{1b}[2J\\u{a}"),
            ("x\u{202e}y".as_bytes(), "x\\u{202e}y"),
            (b"\\u{1b}", "\\u{5c}u{1b}"),
            (b"\xff\x1b", "0xff1b"),
            (b"0xff1b", "\\u{30}xff1b"),
            (b"0x\\u{1b}", "\\u{30}x\\u{5c}u{1b}"),
        ] {
            assert_eq!(cell(value), shown);
        }
    }

    #[test]
    fn what_a_terminal_gets_is_escaped_however_it_is_cut() {
        let bytes =
            b"gr\xc3\xbcn \xc2\x9b2J\x1b[0m\xff \xe2\x80\xae \xf0\x9f\x98\x80\xe2\x80\n\xe2\x80";
        let expected = "grün \\u{9b}2J\\u{1b}[0m\\xff \\u{202e} \u{1f600}\\xe2\\x80\n\\xe2\\x80";
        for size in 1..=bytes.len() {
            let mut filter = Filter::new(Style::Text);
            let mut shown: String = bytes.chunks(size).map(|piece| filter.take(piece)).collect();
            shown += &filter.rest();
            assert_eq!(shown, expected, "in pieces of {size}");
        }
        assert_eq!(Filter::new(Style::Json).take("\"\u{202e}\"\n".as_bytes()), "\"\\u202e\"\n");
    }

    #[test]
    fn hexadecimal_arguments_may_have_a_prefix() {
        assert_eq!(bytes("0x00ff", true).unwrap(), [0, 255]);
        assert_eq!(bytes("00FF", true).unwrap(), [0, 255]);
        assert_eq!(bytes("00ff", false).unwrap(), b"00ff");
        assert!(bytes("0", true).unwrap_err().to_string().contains("00ff"));
    }

    #[test]
    fn a_closed_output_is_no_error_and_a_full_disk_is_one() {
        assert_eq!(unless_closed(io::ErrorKind::BrokenPipe.into(), 3).unwrap(), 3);
        let full = unless_closed(io::ErrorKind::StorageFull.into(), 3).unwrap_err();
        assert!(full.to_string().starts_with("can't write the output"), "{full}");
    }
}
