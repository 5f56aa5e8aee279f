//! The bytes of a file with their place, and a bound on the bytes of a row.

use std::fmt;
use std::io::{self, BufRead, Read as _};

use crate::text::size_text;

/// What some editors put in front of UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Bytes that are looked at to find out how a file begins.
const MAX_HEAD: usize = 64 << 10;

/// A file without its byte order mark, and the first byte that is not white space.
///
/// # Errors
/// When the file can't be read.
pub(super) fn begin<R: BufRead>(mut input: R) -> io::Result<(impl BufRead + use<R>, Option<u8>)> {
    let mut head = Vec::new();
    let mut first = None;
    for byte in input.by_ref().bytes().take(MAX_HEAD) {
        head.push(byte?);
        let text = head.strip_prefix(BOM).unwrap_or(&head);
        let may_be_mark = head.len() < BOM.len() && BOM.starts_with(&head);
        first = text.trim_ascii_start().first().copied().filter(|_| !may_be_mark);
        if first.is_some() {
            break;
        }
    }
    let head = head.strip_prefix(BOM).map(<[u8]>::to_vec).unwrap_or(head);
    Ok((io::Cursor::new(head).chain(input), first))
}

/// Where something stands in the file. Both count from 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: u64,
    pub(super) column: u64,
}

impl Place {
    pub(super) const START: Self = Self { line: 1, column: 1 };

    /// The place behind `text`, which begins here.
    pub(super) fn after(mut self, text: &str) -> Self {
        for c in text.chars() {
            if c == '\n' {
                self = Self { line: self.line + 1, column: 1 };
            } else {
                self.column += 1;
            }
        }
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Why the import ends before the end of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) place: Place,
    /// What is wrong, and what to change.
    pub(super) text: String,
    /// Whether the file could not be read or the database not be written, as opposed to a row that
    /// is wrong.
    pub(super) io: bool,
}

impl Problem {
    pub(super) fn row(place: Place, text: impl Into<String>) -> Self {
        Self { place, text: text.into(), io: false }
    }

    pub(super) fn io(place: Place, text: impl Into<String>) -> Self {
        Self { place, text: text.into(), io: true }
    }
}

/// Reads bytes one by one, and counts where they stand and how many the row has.
pub(super) struct Source<R> {
    input: R,
    place: Place,
    /// The last byte was a carriage return. It ends the line unless a line feed follows.
    after_cr: bool,
    row_start: Place,
    row_bytes: u64,
    row_limit: u64,
}

impl<R: BufRead> Source<R> {
    /// Rows of more than `row_limit` bytes are refused.
    pub(super) fn new(input: R, row_limit: u64) -> Self {
        let (place, row_start) = (Place::START, Place::START);
        Self { input, place, after_cr: false, row_start, row_bytes: 0, row_limit }
    }

    /// Where the next byte stands.
    pub(super) fn place(&self) -> Place {
        let next_line = Place { line: self.place.line + 1, column: 1 };
        if self.after_cr { next_line } else { self.place }
    }

    /// From here on bytes belong to another row. Returns where it begins.
    pub(super) fn begin_row(&mut self) -> Place {
        self.row_bytes = 0;
        self.row_start = self.place();
        self.row_start
    }

    /// Where the row begins.
    pub(super) fn row_start(&self) -> Place {
        self.row_start
    }

    /// The next byte, which stays; none at the end.
    ///
    /// # Errors
    /// [`Problem`] when the file can't be read.
    pub(super) fn peek(&mut self) -> Result<Option<u8>, Problem> {
        loop {
            match self.input.fill_buf() {
                Ok(bytes) => return Ok(bytes.first().copied()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Problem::io(self.place(), format!("can't read on: {error}")));
                }
            }
        }
    }

    /// Steps over `byte`, which [`peek`](Self::peek) has shown.
    ///
    /// # Errors
    /// [`Problem`] when the row has too many bytes.
    pub(super) fn take(&mut self, byte: u8) -> Result<(), Problem> {
        self.row_bytes += 1;
        if self.row_bytes > self.row_limit {
            let limit = size_text(self.row_limit);
            let text = format!(
                "the row that begins here has more than {limit}: see that its quotes and brackets \
                 are closed, and split a large value over several keys"
            );
            return Err(Problem::row(self.row_start, text));
        }
        self.input.consume(1);
        if byte == b'\n' {
            self.place = Place { line: self.place.line + 1, column: 1 };
        } else {
            self.place = self.place();
            // Other bytes of a character than its first are no column of their own.
            self.place.column += u64::from(byte & 0xc0 != 0x80);
        }
        self.after_cr = byte == b'\r';
        Ok(())
    }

    /// Steps over what comes next, which has to have been [peeked](Self::peek) at, up to a byte that
    /// is one of `stops` or ends a line. Adds it to `to`. May stop before, and at the bound of the
    /// row: bytes are then to be [taken](Self::take) one by one.
    ///
    /// # Errors
    /// [`Problem`] when the file can't be read.
    pub(super) fn take_run(&mut self, stops: &[u8], to: &mut Vec<u8>) -> Result<(), Problem> {
        let place = self.place();
        let bytes = match self.input.fill_buf() {
            Ok(bytes) => bytes,
            Err(error) => return Err(Problem::io(place, format!("can't read on: {error}"))),
        };
        let room = usize::try_from(self.row_limit - self.row_bytes).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(room)];
        let ends = |byte: &u8| matches!(byte, b'\n' | b'\r') || stops.contains(byte);
        let run = &bytes[..bytes.iter().position(ends).unwrap_or(bytes.len())];
        if run.is_empty() {
            return Ok(());
        }
        to.extend_from_slice(run);
        (self.place, self.after_cr) = (place, false);
        self.place.column += run.iter().filter(|&&byte| byte & 0xc0 != 0x80).count() as u64;
        self.row_bytes += run.len() as u64;
        let len = run.len();
        self.input.consume(len);
        Ok(())
    }
}

pub(super) fn not_utf8(place: Place) -> Problem {
    Problem::row(place, "what stands here is not UTF-8: save the file in this encoding")
}
