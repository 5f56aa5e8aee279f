//! Connections: how many, for how long, and how they end.
//!
//! `axum::serve` has no limit for any of it, so the accept loop is spelled out
//! here, on hyper's HTTP/1 connection. Which connection makes way when there are
//! too many is the table's to say; one that does just ends.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use super::ServerLimits;
use super::changes::{self, Feed};
use super::routes::IsManifest;
use super::table::{Connection, Entry, Gate, Place, Table};

/// Bytes of a connection's read and write buffers.
const BUFFER: usize = 64 * 1024;

/// Pause after an accept that failed for want of file descriptors or memory,
/// where no connection could be closed.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(500);

/// The same where some were closed.
const RELIEVED: Duration = Duration::from_millis(10);

/// Time between two looks for a place, while connections wait for one.
const LOOK: Duration = Duration::from_millis(50);

/// How long a connection that waits has a claim to go on waiting.
const CLAIM: Duration = Duration::from_secs(1);

/// Where connections come from.
pub(super) trait Accept {
    /// The next one.
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)>;
}

impl Accept for TcpListener {
    /// Its answers go out at once.
    ///
    /// An answer is sent in several writes. Without `TCP_NODELAY` the system holds back the second
    /// one until the client has acknowledged the first, and clients acknowledge late: some 40 ms a
    /// request.
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.accept().await?;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(
                %peer, %error, "can't set TCP_NODELAY; answers to this client may be late"
            );
        }
        Ok((stream, peer))
    }
}

/// The time since the server's start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Uptime(Instant);

impl Uptime {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> Duration {
        self.0.elapsed()
    }
}

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) app: Router,
    /// What holds answers back, where the app has such.
    pub(super) feed: Option<Arc<Feed>>,
    pub(super) limits: ServerLimits,
    pub(super) table: Arc<Table>,
    pub(super) uptime: Uptime,
}

/// Serves connections until `stop` fires, then lets them end.
pub(super) async fn serve(listener: impl Accept, shared: Shared, mut stop: oneshot::Receiver<()>) {
    let Shared { table, limits, uptime, .. } = &shared;
    let graceful = GracefulShutdown::new();
    let mut waiting = VecDeque::<Waiting>::new();
    let mut failures = Gate::default();
    loop {
        place(&mut waiting, &shared, &graceful).await;
        let is_full = waiting.len() >= table.max_waiting();
        let has_claim = |first: &Waiting| uptime.now().saturating_sub(first.since) < CLAIM;
        let may_accept = !is_full || !waiting.front().is_some_and(has_claim);
        let accepted = tokio::select! {
            _ = &mut stop => break,
            () = table.changed.notified() => continue,
            () = sleep(LOOK), if !waiting.is_empty() => continue,
            accepted = Accept::accept(&listener), if may_accept => accepted,
        };
        let pause = match accepted {
            Ok((stream, peer)) => {
                if is_full {
                    // It has waited in vain, and others have a right to, too.
                    waiting.pop_front();
                }
                waiting.push_back(Waiting { stream, peer, since: uptime.now() });
                continue;
            }
            Err(error) if is_of_one_connection(&error) => {
                tracing::debug!(%error, "a connection ended before it was accepted");
                continue;
            }
            Err(error) => {
                let closed = table.relieve(uptime.now());
                if let Some(times) = failures.pass(uptime.now()) {
                    tracing::warn!(
                        %error, times, closed,
                        "can't accept connections, so idle ones are closed: if the open file limit \
                         is reached, raise it (ulimit -n), or lower max-connections"
                    );
                }
                if closed > 0 { RELIEVED } else { ACCEPT_BACKOFF }
            }
        };
        tokio::select! {
            _ = &mut stop => break,
            () = sleep(pause) => {}
        }
    }
    drop(listener);
    drop(waiting);
    if let Some(feed) = &shared.feed {
        feed.close();
    }
    if timeout(limits.shutdown_grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("responses were cut off: they did not end in the time for a shutdown");
    }
}

/// Serves the connections that find a place. One of a known peer may find one where others don't.
async fn place(waiting: &mut VecDeque<Waiting>, shared: &Shared, graceful: &GracefulShutdown) {
    let Shared { table, uptime, .. } = shared;
    let (mut at, mut none_for) = (0, [false; 2]);
    while let Some(next) = waiting.get(at) {
        let (address, now) = (next.peer.ip(), uptime.now());
        let none = &mut none_for[usize::from(table.knows(address, now))];
        *none = *none || table.place(address, now) == Place::None;
        if *none {
            at += 1;
            continue;
        }
        if let Some(next) = waiting.remove(at) {
            shared.spawn(next, graceful.watcher());
        }
        // What made way closes its socket.
        yield_now().await;
    }
}

/// A connection that was accepted, and has no place yet.
struct Waiting {
    stream: TcpStream,
    peer: SocketAddr,
    since: Duration,
}

/// Whether an accept failed by what its client did, and the next one may be well.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted,
        NetworkDown, NetworkUnreachable, PermissionDenied, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | PermissionDenied
            | TimedOut
    )
}

impl Shared {
    /// Serves a connection in a task of its own.
    fn spawn(&self, Waiting { stream, peer, .. }: Waiting, watcher: Watcher) {
        let (uptime, stall_timeout) = (self.uptime, self.limits.stall_timeout);
        let entry = self.table.enter(peer.ip(), uptime.now());
        let connection = Arc::clone(entry.connection());
        let watch = Watch { connection: Arc::clone(&connection), uptime };
        let io = TokioIo::new(Watched { stream, watch, table: Arc::clone(&self.table) });
        let service = Noting {
            inner: TowerToHyperService::new(self.app.clone()),
            connection: Arc::clone(&connection),
        };
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(BUFFER);
        let served = watcher.watch(http.serve_connection(io, service));
        tokio::spawn(async move {
            let _entry: Entry = entry;
            tokio::select! {
                ended = served => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, %error, "connection ended");
                    }
                }
                () = connection.closed() => {
                    tracing::debug!(%peer, "connection closed in favour of another");
                }
                () = stalled(&connection, uptime, stall_timeout) => {
                    tracing::debug!(%peer, "connection without progress closed");
                }
            }
        });
    }
}

/// Ends when nothing has moved for `limit`.
async fn stalled(connection: &Connection, uptime: Uptime, limit: Duration) {
    loop {
        let still = uptime.now().saturating_sub(connection.activity().moved());
        if still >= limit {
            return;
        }
        sleep(limit - still).await;
    }
}

/// The routes, with a note of when an answer begins and when all of it was given to be written.
struct Noting {
    inner: TowerToHyperService<Router>,
    connection: Arc<Connection>,
}

impl Service<Request<Incoming>> for Noting {
    type Response = Response<NotedBody>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let connection = Arc::clone(&self.connection);
        // One that waits is idle, and makes way for others.
        let waits = changes::may_wait(request.uri().path());
        if !waits {
            connection.activity().begin();
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            if waits {
                connection.activity().begin();
            }
            if answer.extensions().get::<IsManifest>().is_some() {
                connection.activity().is_manifest();
            }
            Ok(answer.map(|body| NotedBody { body, connection }))
        })
    }
}

/// The body of an answer. It is dropped when it has been given to be written.
struct NotedBody {
    body: Body,
    connection: Arc<Connection>,
}

impl hyper::body::Body for NotedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for NotedBody {
    fn drop(&mut self) {
        self.connection.activity().complete();
    }
}

/// What a connection notes of itself.
struct Watch {
    connection: Arc<Connection>,
    uptime: Uptime,
}

impl Watch {
    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        let mut activity = self.connection.activity();
        match written {
            Poll::Ready(Ok(bytes)) => activity.wrote(*bytes, self.uptime.now()),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => activity.blocked(self.uptime.now()),
        }
    }
}

/// A socket that notes its progress.
struct Watched {
    stream: TcpStream,
    watch: Watch,
    table: Arc<Table>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        if buf.filled().len() > before {
            self.watch.connection.activity().read(self.watch.uptime.now());
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper calls this when it has nothing left to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.table.flushed(&self.watch.connection, self.watch.uptime.now());
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
