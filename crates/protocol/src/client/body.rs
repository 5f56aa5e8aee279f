//! Reading an answer without trusting it: sizes are checked before bytes are
//! kept, and each way to fail becomes the [`PeerError`] that says so.

use std::io::{self, Read as _};
use std::ops::Range;
use std::rc::Rc;

use ureq::http::{HeaderMap, header};
use ureq::{Body, BodyReader, Error};

use super::CHUNK;
use super::transport::{Request, TooMuchFraming};
use crate::PeerError;

/// The body of an answer, cut off at a limit.
pub(super) struct Answer {
    url: String,
    what: &'static str,
    limit: u64,
    stated: Option<u64>,
    taken: u64,
    reader: BodyReader<'static>,
    request: Rc<Request>,
}

impl Answer {
    /// # Errors
    /// [`PeerError::TooLarge`] when the stated length is over `limit`.
    pub(super) fn new(
        url: String,
        body: Body,
        what: &'static str,
        limit: u64,
        request: Rc<Request>,
    ) -> Result<Self, PeerError> {
        let stated = body.content_length();
        if stated.is_some_and(|stated| stated > limit) {
            return Err(PeerError::TooLarge { what, limit });
        }
        Ok(Self { url, what, limit, stated, taken: 0, reader: body.into_reader(), request })
    }

    /// The next bytes, none at the end.
    pub(super) fn next<'b>(&mut self, buf: &'b mut [u8]) -> Result<&'b [u8], PeerError> {
        let n = loop {
            match self.reader.read(buf) {
                Ok(n) => break n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.in_body(error.into())),
            }
        };
        self.taken += n as u64;
        self.request.deliver(n);
        if self.taken > self.limit {
            return Err(PeerError::TooLarge { what: self.what, limit: self.limit });
        }
        Ok(&buf[..n])
    }

    /// The whole body. Memory grows with the bytes that come, not with the
    /// length that is promised.
    pub(super) fn read_all(mut self) -> Result<Vec<u8>, PeerError> {
        let mut all = Vec::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            let bytes = self.next(&mut chunk)?;
            if bytes.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(bytes);
        }
    }

    fn in_body(&self, error: Error) -> PeerError {
        if TooMuchFraming::of(&error).is_some() {
            return before_body(&self.url, error);
        }
        let Error::Io(error) = error else { return before_body(&self.url, error) };
        let of = self.stated.map_or(String::new(), |stated| format!(" of {stated}"));
        let Self { url, taken, .. } = self;
        PeerError::Malformed(format!("GET {url}: the body ended after {taken}{of} bytes: {error}"))
    }
}

/// The body of an answer for those who read it piece by piece.
pub(super) struct AnswerReader {
    answer: Answer,
    chunk: Vec<u8>,
    /// What of the chunk was not read yet.
    rest: Range<usize>,
    failed: Option<PeerError>,
}

impl AnswerReader {
    pub(super) fn new(answer: Answer) -> Self {
        Self { answer, chunk: vec![0; CHUNK], rest: 0..0, failed: None }
    }

    /// What came of the reading. The rest of the body is skipped; where it fails, that is the cause.
    pub(super) fn finish<T>(mut self, read: Result<T, PeerError>) -> Result<T, PeerError> {
        if let Some(failed) = self.failed {
            return Err(failed);
        }
        while !self.answer.next(&mut self.chunk)?.is_empty() {}
        read
    }
}

impl io::Read for AnswerReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            self.rest = match self.answer.next(&mut self.chunk) {
                Ok(bytes) => 0..bytes.len(),
                Err(failed) => {
                    self.failed = Some(failed);
                    return Err(io::Error::other("the answer failed"));
                }
            };
        }
        let n = buf.len().min(self.rest.len());
        buf[..n].copy_from_slice(&self.chunk[self.rest.start..][..n]);
        self.rest.start += n;
        Ok(n)
    }
}

/// What a failure means that came before the body, or is the same inside it.
pub(super) fn before_body(url: &str, error: Error) -> PeerError {
    if let Some(&TooMuchFraming { limit }) = TooMuchFraming::of(&error) {
        return PeerError::TooLarge { what: "part of the answer around its body", limit };
    }
    let text = format!("GET {url}: {error}");
    match error {
        Error::Timeout(_) => PeerError::Timeout(text),
        Error::LargeResponseHeader(_, limit) => {
            PeerError::TooLarge { what: "response header", limit: limit as u64 }
        }
        Error::Protocol(_) | Error::Http(_) | Error::BadUri(_) | Error::BodyStalled => {
            PeerError::Malformed(text)
        }
        _ => PeerError::Unreachable(text),
    }
}

/// A coding was not asked for. Undoing one would let a few bytes become many.
pub(super) fn check_encoding(url: &str, headers: &HeaderMap) -> Result<(), PeerError> {
    let unasked = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .find(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    match unasked {
        None => Ok(()),
        Some(coding) => Err(PeerError::Malformed(format!(
            "GET {url}: the answer has Content-Encoding {coding:?}, which was not asked for; a \
             proxy in between must not compress"
        ))),
    }
}
