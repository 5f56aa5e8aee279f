//! A program's end of the admin socket.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use edgestore_engine::{Compacted, Record};

use super::wire::{self, Hello, Request, Response, VERSION, Welcome, WireRecord};
use super::{Op, SegmentInfo, socket};
use crate::{HostStatus, PolicyChange, PolicyEvent};

/// How often in a row a host that works on a request may have no socket: it is stopping then.
const ABSENCES: u32 = 12;

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
    /// The host is there and says nothing.
    #[error(
        "the running host has not answered for {}: is it suspended, or short of memory or disk? \
         Try again later, or wait longer by --timeout",
        humantime::format_duration(*.0)
    )]
    Silent(Duration),
    /// The connection broke.
    #[error("the running host broke off or does not answer (is it stopping?): {0}")]
    Io(io::Error),
    /// A request does not fit a frame.
    #[error("{0}")]
    TooLarge(String),
    /// The host could not do it, and says why.
    #[error("{0}")]
    Failed(String),
    /// The host could not find out whether it can, and says why.
    #[error("{0}")]
    Unknown(String),
    /// The answer is none to this request: a bug in the host.
    #[error("the running host gave an answer that does not fit; please report this")]
    Unexpected,
}

/// A connection to the host that holds a database.
#[derive(Debug)]
pub struct AdminClient {
    stream: UnixStream,
    db: PathBuf,
    timeout: Duration,
}

impl AdminClient {
    /// How long a host may be silent, for [`AdminClient::connect`].
    pub const TIMEOUT: Duration = Duration::from_secs(10);

    /// [`AdminClient::connect_within`] the default time.
    ///
    /// # Errors
    /// As there.
    pub fn connect(db: &Path) -> Result<Self, AdminError> {
        Self::connect_within(db, Self::TIMEOUT)
    }

    /// Connects to the host that holds the database in the folder `db`. A request fails when the
    /// host is silent for `timeout`. Those whose work may take long (writes, scans, flushes,
    /// compactions, changes of the policy) wait on as long as the host greets new connections.
    ///
    /// # Errors
    /// [`AdminError::Absent`] when no host listens there, and [`AdminError::Silent`] when one does
    /// and says nothing.
    pub fn connect_within(db: &Path, timeout: Duration) -> Result<Self, AdminError> {
        let (stream, welcome) = greeted(db, timeout)?;
        match welcome.refusal {
            Some(refusal) => Err(AdminError::Refused(refusal)),
            None if welcome.version != VERSION => Err(AdminError::Refused(format!(
                "the running host speaks version {} of the admin protocol, and this program \
                 version {VERSION}: use the edgestore-host that the host was started with",
                welcome.version
            ))),
            None => Ok(Self { stream, db: db.to_owned(), timeout }),
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
        match self.ask_patiently(&Request::Write(ops))? {
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
        match self.ask_patiently(&Request::Flush)? {
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
    /// [`AdminError::Failed`] when the host does not take the policy, and why;
    /// [`AdminError::Unknown`] when it can't read the file.
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
    pub fn wake(&mut self, peer: Option<&str>, retry: bool) -> Result<bool, AdminError> {
        match self.ask(&Request::Wake { peer: peer.map(str::to_owned), retry })? {
            Response::Woken(woken) => Ok(woken),
            _ => Err(AdminError::Unexpected),
        }
    }

    /// Asks for something that takes no long work.
    fn ask(&mut self, request: &Request) -> Result<Response, AdminError> {
        self.send(request)?;
        self.answer(|timeout| Err(AdminError::Silent(timeout)))
    }

    /// Waits for the answer as long as the host greets other connections meanwhile.
    fn ask_patiently(&mut self, request: &Request) -> Result<Response, AdminError> {
        self.send(request)?;
        let (db, mut absences) = (self.db.clone(), 0);
        self.answer(|timeout| match greeted(&db, timeout) {
            // Also one that has no time for a further connection.
            Ok(_) => {
                absences = 0;
                Ok(())
            }
            // One that stops takes no connections, and ends what it has begun.
            Err(AdminError::Absent(_)) if absences < ABSENCES => {
                absences += 1;
                Ok(())
            }
            Err(_) => Err(AdminError::Silent(timeout)),
        })
    }

    fn send(&mut self, request: &Request) -> Result<(), AdminError> {
        wire::send(&mut self.stream, request).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => AdminError::TooLarge(error.to_string()),
            _ => broken(error, self.timeout),
        })
    }

    /// The answer. `silent` decides whether to wait on when there was none for the timeout.
    fn answer(
        &mut self,
        mut silent: impl FnMut(Duration) -> Result<(), AdminError>,
    ) -> Result<Response, AdminError> {
        let mut head = [0; 4];
        let (first, rest) = head.split_at_mut(1);
        loop {
            match self.stream.read_exact(first) {
                Ok(()) => break,
                Err(error) if is_timeout(&error) => silent(self.timeout)?,
                Err(error) => return Err(AdminError::Io(error)),
            }
        }
        let read = self.stream.read_exact(rest);
        let read = read.and_then(|()| wire::body(&mut self.stream, wire::frame_len(head)?));
        match read.map_err(|error| broken(error, self.timeout))? {
            Response::Error(text) => Err(AdminError::Failed(text)),
            Response::Unknown(text) => Err(AdminError::Unknown(text)),
            response => Ok(response),
        }
    }
}

/// A connection to the host of a database, and its greeting.
fn greeted(db: &Path, timeout: Duration) -> Result<(UnixStream, Welcome), AdminError> {
    let mut stream = connected(db, timeout)?;
    let timeouts = stream
        .set_read_timeout(Some(timeout))
        .and_then(|()| stream.set_write_timeout(Some(timeout)));
    timeouts.map_err(AdminError::Io)?;
    // A busy host has hung up already, but its refusal can be read.
    let sent = wire::send(&mut stream, &Hello { version: VERSION });
    let welcome = wire::receive(&mut stream).map_err(|error| match is_timeout(&error) {
        true => AdminError::Silent(timeout),
        false => AdminError::Absent(sent.err().unwrap_or(error)),
    })?;
    Ok((stream, welcome))
}

/// On a thread of its own, because a host that accepts nothing lets others wait in the end.
fn connected(db: &Path, timeout: Duration) -> Result<UnixStream, AdminError> {
    let (sender, connected) = mpsc::sync_channel(1);
    let path = db.to_owned();
    let connect = move || drop(sender.send(socket::connect(&path)));
    thread::Builder::new()
        .name("edgestore-connect".to_owned())
        .spawn(connect)
        .map_err(AdminError::Io)?;
    let stream = connected.recv_timeout(timeout).map_err(|_| AdminError::Silent(timeout))?;
    stream.map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => AdminError::Denied,
        _ => AdminError::Absent(error),
    })
}

fn broken(error: io::Error, timeout: Duration) -> AdminError {
    if is_timeout(&error) { AdminError::Silent(timeout) } else { AdminError::Io(error) }
}

/// Of a stream with a timeout. Which of the two it is depends on the system.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
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
        match self.client.ask_patiently(&request)? {
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
