//! Standard output: buffered, with bytes that may be no text, and with readers that may leave.

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

pub(super) use crate::text::{bytes as size, lines, table};

/// Standard output. What is written is there after `flush`.
pub(super) struct Output(BufWriter<StdoutLock<'static>>);

/// The reader of standard output has gone. Told from broken pipes of other kinds.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output")]
struct Closed;

impl Output {
    pub(super) fn new() -> Self {
        Self(BufWriter::with_capacity(64 << 10, io::stdout().lock()))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(mark)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(mark)
    }
}

fn mark(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::other(Closed),
        // Those that a writer tries again.
        io::ErrorKind::Interrupted => error,
        kind => io::Error::new(kind, format!("can't write the output: {error}")),
    }
}

/// Whether a command failed only because the reader of its output has gone.
pub(super) fn is_closed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause.is::<Closed>() || inner.is_some_and(|inner| inner.is::<Closed>())
    })
}

/// Whether a person reads standard output.
pub(super) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Prints all of `text`.
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
        anyhow::anyhow!("{argument:?} is not hexadecimal ({error}): with --hex, write as in 00ff")
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
    fn only_the_closed_output_ends_quietly() {
        let closed = anyhow::Error::from(mark(io::ErrorKind::BrokenPipe.into())).context("scan");
        assert!(is_closed(&closed));
        assert!(!is_closed(&anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe))));
    }
}
