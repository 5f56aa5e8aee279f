//! A program's end of the admin socket.

use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::wire::{self, Hello, Request, Response, VERSION, Welcome, WireRecord};
use super::{Op, SegmentInfo, socket};
use crate::engine::{Compacted, Record};
use crate::runtime::{HostStatus, PolicyChange, PolicyEvent};

/// Until a host that is busy with a large flush is given up.
const ANSWER_TIME: Duration = Duration::from_secs(120);

/// What went wrong between a program and a running host.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// There is no socket, or nobody behind it: no host runs, or it is starting or stopping.
    #[error("no host answers on the admin socket: {0}")]
    Absent(io::Error),
    /// The socket belongs to another user.
    #[error("the running host belongs to another user: run this as that user, or as root")]
    Denied,
    /// The host does not talk to this program, and says why.
    #[error("{0}")]
    Refused(String),
    /// The connection broke.
    #[error("the running host broke off or does not answer (is it stopping?): {0}")]
    Io(io::Error),
    /// A request does not fit a frame.
    #[error("{0}")]
    TooLarge(String),
    /// The host could not do it, and says why.
    #[error("{0}")]
    Failed(String),
    /// The answer is none to this request: a mistake in the host.
    #[error("the running host gave an answer that does not fit; please report this")]
    Unexpected,
}

/// A connection to the host that holds a database.
#[derive(Debug)]
pub struct AdminClient {
    stream: UnixStream,
}

impl AdminClient {
    /// Connects to the host that holds the database in the folder `db`.
    ///
    /// # Errors
    /// [`AdminError::Absent`] when no host listens there.
    pub fn connect(db: &Path) -> Result<Self, AdminError> {
        let mut stream = socket::connect(db).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => AdminError::Denied,
            _ => AdminError::Absent(error),
        })?;
        let timeouts = stream
            .set_read_timeout(Some(ANSWER_TIME))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_TIME)));
        timeouts.map_err(AdminError::Io)?;
        // A busy host has hung up already, but its refusal can be read.
        let sent = wire::send(&mut stream, &Hello { version: VERSION });
        let welcome: Welcome = wire::receive(&mut stream)
            .map_err(|error| AdminError::Absent(sent.err().unwrap_or(error)))?;
        match welcome.refusal {
            Some(refusal) => Err(AdminError::Refused(refusal)),
            None if welcome.version != VERSION => Err(AdminError::Refused(format!(
                "the running host speaks version {} of the admin protocol, and this program \
                 version {VERSION}: use the edgestore-host that the host was started with",
                welcome.version
            ))),
            None => Ok(Self { stream }),
        }
    }

    /// What the host is doing.
    ///
    /// # Errors
    /// [`AdminError`], as for every request.
    pub fn status(&mut self) -> Result<HostStatus, AdminError> {
        match self.ask(&Request::Status)? {
            Response::Status(status) => Ok(*status),
            _ => Err(AdminError::Unexpected),
        }
    }

    /// All segments, in order of registration.
    ///
    /// # Errors
    /// [`AdminError`], as for every request.
    pub fn segments(&mut self) -> Result<Vec<SegmentInfo>, AdminError> {
        let mut all: Vec<SegmentInfo> = Vec::new();
        loop {
            let after = all.last().map(|segment| segment.id);
            match self.ask(&Request::Segments { after })? {
                Response::Segments(page) if page.is_empty() => return Ok(all),
                Response::Segments(page) => all.extend(page),
                _ => return Err(AdminError::Unexpected),
            }
        }
    }

    /// The value of a live record.
    ///
    /// # Errors
    /// [`AdminError`], as for every request.
    pub fn get(&mut self, ns: &[u8], key: &[u8]) -> Result<Option<Vec<u8>>, AdminError> {
        match self.ask(&Request::Get { ns: ns.to_vec(), key: key.to_vec() })? {
            Response::Value(value) => Ok(value),
            _ => Err(AdminError::Unexpected),
        }
    }

    /// Makes all changes together, and returns the last LSN.
    ///
    /// # Errors
    /// [`AdminError::TooLarge`] when they do not fit a frame: write fewer at a time.
    pub fn write(&mut self, ops: Vec<Op>) -> Result<u64, AdminError> {
        match self.ask(&Request::Write(ops))? {
            Response::Written(lsn) => Ok(lsn),
            _ => Err(AdminError::Unexpected),
        }
    }

    /// At most `limit` live records with start <= key < end, or to the end of the namespace.
    /// They are asked for page by page; each page is a snapshot of its own.
    pub fn scan(&mut self, ns: &[u8], start: &[u8], end: Option<&[u8]>, limit: u64) -> Scan<'_> {
        let end = end.map(<[u8]>::to_vec);
        let (next, page) = (Some(start.to_vec()), VecDeque::new());
        Scan { client: self, ns: ns.to_vec(), end, next, page, left: limit }
    }

    /// Makes a segment of the pending writes; none when there are none.
    ///
    /// # Errors
    /// [`AdminError`], as for every request.
    pub fn flush(&mut self) -> Result<Option<SegmentInfo>, AdminError> {
        match self.ask(&Request::Flush)? {
            Response::Flushed(segment) => Ok(segment),
            _ => Err(AdminError::Unexpected),
        }
    }

    /// Compacts now, at most at this pace, and returns what was done when it is through, however
    /// long that takes.
    ///
    /// # Errors
    /// [`AdminError`], as for every request.
    pub fn compact(&mut self, bytes_per_sec: Option<u64>) -> Result<Compacted, AdminError> {
        match self.ask_patiently(&Request::Compact { bytes_per_sec })? {
            Response::Compacted(done) => Ok(done),
            _ => Err(AdminError::Unexpected),
        }
    }

    /// Lets the policy in a file take over, and returns when it has. The host reads the file, so
    /// the path should be absolute.
    ///
    /// # Errors
    /// [`AdminError::Failed`] when the host does not take the policy, and why.
    pub fn swap_policy(&mut self, path: &str) -> Result<PolicyChange, AdminError> {
        // Large components are compiled for a while.
        match self.ask_patiently(&Request::SwapPolicy(path.to_owned()))? {
            Response::PolicyChanged(change) => Ok(change),
            _ => Err(AdminError::Unexpected),
        }
    }

    /// Lets the last good policy take over.
    ///
    /// # Errors
    /// [`AdminError::Failed`] when there is none.
    pub fn roll_back_policy(&mut self) -> Result<PolicyChange, AdminError> {
        match self.ask_patiently(&Request::RollBackPolicy)? {
            Response::PolicyChanged(change) => Ok(change),
            _ => Err(AdminError::Unexpected),
        }
    }

    /// The last events of the policies, oldest first; the host bounds how many.
    ///
    /// # Errors
    /// [`AdminError`], as for every request.
    pub fn policy_history(&mut self, limit: u32) -> Result<Vec<PolicyEvent>, AdminError> {
        match self.ask(&Request::PolicyHistory(limit))? {
            Response::PolicyHistory(events) => Ok(events),
            _ => Err(AdminError::Unexpected),
        }
    }

    /// Ticks a peer now, or all. False when there is no such peer.
    ///
    /// # Errors
    /// [`AdminError`], as for every request.
    pub fn wake(&mut self, peer: Option<&str>) -> Result<bool, AdminError> {
        match self.ask(&Request::Wake(peer.map(str::to_owned)))? {
            Response::Woken(woken) => Ok(woken),
            _ => Err(AdminError::Unexpected),
        }
    }

    /// [`Self::ask`], however long the answer takes.
    fn ask_patiently(&mut self, request: &Request) -> Result<Response, AdminError> {
        self.stream.set_read_timeout(None).map_err(AdminError::Io)?;
        let answer = self.ask(request);
        self.stream.set_read_timeout(Some(ANSWER_TIME)).map_err(AdminError::Io)?;
        answer
    }

    fn ask(&mut self, request: &Request) -> Result<Response, AdminError> {
        wire::send(&mut self.stream, request).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => AdminError::TooLarge(error.to_string()),
            _ => AdminError::Io(error),
        })?;
        match wire::receive(&mut self.stream).map_err(AdminError::Io)? {
            Response::Error(text) => Err(AdminError::Failed(text)),
            response => Ok(response),
        }
    }
}

/// The records of [`AdminClient::scan`]. Ends after the first error.
#[derive(Debug)]
pub struct Scan<'a> {
    client: &'a mut AdminClient,
    ns: Vec<u8>,
    end: Option<Vec<u8>>,
    /// Where the next page starts.
    next: Option<Vec<u8>>,
    page: VecDeque<WireRecord>,
    left: u64,
}

impl Scan<'_> {
    fn fetch(&mut self, start: Vec<u8>) -> Result<(), AdminError> {
        let (ns, end) = (self.ns.clone(), self.end.clone());
        let request = Request::Scan { ns, start, end, limit: self.left };
        match self.client.ask(&request)? {
            Response::Page(page) => {
                self.page = page.records.into();
                self.next = page.next;
                Ok(())
            }
            _ => Err(AdminError::Unexpected),
        }
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Record, AdminError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            if let Some(record) = self.page.pop_front() {
                self.left -= 1;
                return Some(Ok(record.into()));
            }
            let start = self.next.take()?;
            if let Err(error) = self.fetch(start) {
                self.left = 0;
                return Some(Err(error));
            }
        }
        None
    }
}
