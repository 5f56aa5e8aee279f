//! The host's end: one thread that accepts, and one for each connection.

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::oneshot;

use super::socket::SocketFile;
use super::wire::{self, Hello, MAX_FRAME, Page, Request, Response, VERSION, Welcome};
use super::{Backend, socket};
use crate::{PolicyChange, SwapError};

/// Connections at a time. A program has one, and few programs run at a time.
const MAX_CONNECTIONS: usize = 16;
/// Of one page of records, in bytes; the last record may exceed it.
const PAGE_BYTES: usize = 1 << 20;
/// Segments of one page, of less than 100 bytes each.
const PAGE_SEGMENTS: usize = 50_000;
/// Events of a history. They are of less than 2 KB each.
const PAGE_EVENTS: usize = 5000;
/// Records of one page.
const PAGE_RECORDS: u64 = 10_000;
/// To say hello, and to send the rest of a frame once it has begun.
const FRAME_TIME: Duration = Duration::from_secs(10);
/// Between two requests.
const IDLE_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The admin socket of a running host. Stops when dropped, as by [`AdminServer::shutdown`].
pub struct AdminServer {
    db: PathBuf,
    /// None once it has stopped.
    listener: Option<Listener>,
    connections: Arc<Connections>,
}

/// A socket, and the thread that accepts its connections.
struct Listener {
    file: SocketFile,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl AdminServer {
    /// Opens the socket in the folder `db`. The caller holds the lock of the database, so a
    /// socket that is there already is a stale one, and is replaced.
    ///
    /// # Errors
    /// When the socket can't be made, or the system gives no thread.
    pub fn start(db: &Path, backend: Arc<dyn Backend>) -> io::Result<Self> {
        let connections = Arc::new(Connections { backend, open: Mutex::default() });
        let listener = Some(Listener::start(db, &connections)?);
        Ok(Self { db: db.to_owned(), listener, connections })
    }

    /// Whether its socket is where programs look for it.
    pub fn is_in_place(&self) -> bool {
        self.listener.as_ref().is_some_and(|listener| listener.file.is_in_place())
    }

    /// Makes the socket anew, in place of whatever is there. Connections that are open go on.
    ///
    /// # Errors
    /// As [`AdminServer::start`]; the old socket stays as it is.
    pub fn renew(&mut self) -> io::Result<()> {
        let new = Listener::start(&self.db, &self.connections)?;
        if let Some(old) = self.listener.replace(new) {
            old.stop();
        }
        Ok(())
    }

    /// Takes no more connections, ends those that are open once their running request is done,
    /// and removes the socket.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        let Some(listener) = self.listener.take() else { return };
        listener.stop();
        self.connections.close();
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Listener {
    fn start(db: &Path, connections: &Arc<Connections>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (listener, file) = socket::bind(db)?;
        listener.set_nonblocking(true)?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::UnixListener::from_std(listener)?
        };
        let (stop, mut stopped) = oneshot::channel::<()>();
        let accepting = Arc::clone(connections);
        let accept = async move {
            loop {
                let accepted = tokio::select! {
                    _ = &mut stopped => return,
                    accepted = listener.accept() => accepted,
                };
                match accepted.and_then(|(stream, _)| stream.into_std()) {
                    Ok(stream) => accepting.spawn(stream),
                    Err(error) => {
                        // Such as no descriptors left: goes on when some are.
                        tracing::warn!(%error, "the admin socket can't accept a connection");
                        thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        };
        let thread = thread::Builder::new()
            .name("edgestore-admin".to_owned())
            .spawn(move || runtime.block_on(accept))?;
        Ok(Self { file, stop, thread })
    }

    /// Removes the socket, if it is there, and ends the thread.
    fn stop(self) {
        if let Err(error) = self.file.remove() {
            tracing::debug!(%error, "no admin socket to remove");
        }
        // Fails when the thread has panicked.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the admin socket's thread panicked");
        }
    }
}

struct Connections {
    backend: Arc<dyn Backend>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// A handle of each stream, to close it with, and its thread.
    streams: HashMap<u64, UnixStream>,
    threads: HashMap<u64, JoinHandle<()>>,
}

impl Connections {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(self: &Arc<Self>, stream: UnixStream) {
        if let Err(error) = self.try_spawn(stream) {
            tracing::warn!(%error, "an admin connection was dropped");
        }
    }

    fn try_spawn(self: &Arc<Self>, mut stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(FRAME_TIME))?;
        let mut open = self.open();
        open.threads.retain(|_, thread| !thread.is_finished());
        if open.streams.len() >= MAX_CONNECTIONS {
            drop(open);
            let refusal = format!(
                "the running host is busy with {MAX_CONNECTIONS} other programs: try again later"
            );
            return wire::send(&mut stream, &Welcome { version: VERSION, refusal: Some(refusal) });
        }
        let id = open.next;
        open.next += 1;
        open.streams.insert(id, stream.try_clone()?);
        let this = Arc::clone(self);
        let serve = move || {
            let _registered = Registered { connections: &this, id };
            if let Err(error) = serve(&mut stream, &*this.backend) {
                tracing::debug!(%error, "an admin connection broke off");
            }
        };
        match thread::Builder::new().name(format!("edgestore-admin-{id}")).spawn(serve) {
            Ok(thread) => {
                open.threads.insert(id, thread);
                Ok(())
            }
            Err(error) => {
                open.streams.remove(&id);
                Err(error)
            }
        }
    }

    /// After the accepting thread has ended.
    fn close(&self) {
        let threads = {
            let mut open = self.open();
            for stream in open.streams.values() {
                // Wakes a thread that reads; one that works on a request answers it first. Fails
                // when the client has gone.
                let _ = stream.shutdown(Shutdown::Read);
            }
            std::mem::take(&mut open.threads)
        };
        for thread in threads.into_values() {
            if thread.join().is_err() {
                tracing::error!("an admin connection's thread panicked");
            }
        }
    }
}

/// Takes the connection off the list when its thread ends, however it does.
struct Registered<'a> {
    connections: &'a Connections,
    id: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.connections.open().streams.remove(&self.id);
    }
}

fn serve(stream: &mut UnixStream, backend: &dyn Backend) -> io::Result<()> {
    stream.set_read_timeout(Some(FRAME_TIME))?;
    let hello: Hello = wire::receive(stream)?;
    if hello.version != VERSION {
        let refusal = format!(
            "the running host speaks version {VERSION} of the admin protocol, and this program \
             version {}: use the edgestore-host that the host was started with",
            hello.version
        );
        return wire::send(stream, &Welcome { version: VERSION, refusal: Some(refusal) });
    }
    wire::send(stream, &Welcome { version: VERSION, refusal: None })?;
    while let Some(request) = next_request(stream)? {
        let response = answer(backend, request);
        let frame = wire::encode(&response)
            .or_else(|error| wire::encode(&Response::Error(error.to_string())))?;
        io::Write::write_all(stream, &frame)?;
    }
    Ok(())
}

/// None when the client has hung up.
fn next_request(stream: &mut UnixStream) -> io::Result<Option<Request>> {
    let mut head = [0; 4];
    stream.set_read_timeout(Some(IDLE_TIME))?;
    let (first, rest) = head.split_at_mut(1);
    match stream.read_exact(first) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    stream.set_read_timeout(Some(FRAME_TIME))?;
    stream.read_exact(rest)?;
    wire::body(stream, wire::frame_len(head)?).map(Some)
}

fn answer(backend: &dyn Backend, request: Request) -> Response {
    let result = match request {
        Request::Status => Ok(Response::Status(Box::new(backend.status()))),
        Request::Segments { after } => {
            let mut segments = backend.segments();
            segments.retain(|segment| after.is_none_or(|after| segment.id > after));
            segments.truncate(PAGE_SEGMENTS);
            Ok(Response::Segments(segments))
        }
        Request::Get { ns, key } => backend.get(&ns, &key).map(Response::Value),
        Request::Scan { ns, start, end, limit } => {
            page(backend, &ns, &start, end.as_deref(), limit)
        }
        Request::Write(ops) => backend.write(&ops).map(Response::Written),
        Request::Flush => backend.flush().map(Response::Flushed),
        Request::Compact { bytes_per_sec } => {
            backend.compact(bytes_per_sec).map(Response::Compacted)
        }
        Request::SwapPolicy(path) => {
            return changed(backend.swap_policy(Path::new(&path)));
        }
        Request::RollBackPolicy => return changed(backend.roll_back_policy()),
        Request::PolicyHistory(limit) => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(PAGE_EVENTS);
            return told(backend.policy_history(limit).map(Response::PolicyHistory));
        }
        Request::Wake { peer, retry } => Ok(Response::Woken(backend.wake(peer.as_deref(), retry))),
    };
    told(result)
}

fn told<E: std::fmt::Display>(result: Result<Response, E>) -> Response {
    result.unwrap_or_else(|error| Response::Error(error.to_string()))
}

fn changed(result: Result<PolicyChange, SwapError>) -> Response {
    match result {
        Err(error) if !error.is_answer() => Response::Unknown(error.to_string()),
        result => told(result.map(Response::PolicyChanged)),
    }
}

fn page(
    backend: &dyn Backend,
    ns: &[u8],
    start: &[u8],
    end: Option<&[u8]>,
    limit: u64,
) -> Result<Response, edgestore_engine::EngineError> {
    let limit = limit.min(PAGE_RECORDS);
    let mut page = Page { records: Vec::new(), next: None };
    let (mut bytes, mut count) = (0, 0);
    for record in backend.range(ns, start, end)? {
        let record = record?;
        let size = record.key.len() + record.value.len();
        // A large record does not make a page too large that others have filled.
        if count >= limit || bytes >= PAGE_BYTES || (count > 0 && bytes + size > MAX_FRAME / 2) {
            page.next = Some(record.key);
            break;
        }
        bytes += size;
        count += 1;
        page.records.push(record.into());
    }
    Ok(Response::Page(page))
}
