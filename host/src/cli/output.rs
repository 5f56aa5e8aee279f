//! Standard output: buffered, with bytes that may be no text, and with readers that may leave.

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use super::exit::usage;
/// Writes a line to standard error, for people. Never fails.
pub(super) use super::stderr::line as note;
pub(super) use crate::text::{bytes as size, lines, table};

/// Standard output. What is written is there after `flush`. Once its reader has gone it takes
/// everything and writes nothing: the command does its work all the same.
pub(super) struct Output(BufWriter<Stdout>);

/// Whether the reader of standard output has gone.
static CLOSED: AtomicBool = AtomicBool::new(false);

struct Stdout(StdoutLock<'static>);

impl Output {
    pub(super) fn new() -> Self {
        Self(BufWriter::with_capacity(64 << 10, Stdout(io::stdout().lock())))
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
        self.0.write(bytes).or_else(|error| unless_closed(error, bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        if CLOSED.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.0.flush().or_else(|error| unless_closed(error, ()))
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
    io::stdout().is_terminal()
}

/// Prints all of `text`. A reader that has gone is no error.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut output = Output::new();
    output.write_all(text.as_bytes())?;
    output.flush()
}

/// What a terminal shows as one line: printable text as it is, other bytes as `0x…`.
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
        usage(format!("{argument:?} is not hexadecimal ({error}): with --hex, write as in 00ff"))
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
