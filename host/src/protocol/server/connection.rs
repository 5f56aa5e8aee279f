//! Connections: how many, for how long, and how they end.
//!
//! `axum::serve` has no limit for any of it, so the accept loop is spelled out
//! here, on hyper's HTTP/1 connection.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::ServerLimits;

/// Bytes of a connection's read and write buffers.
const BUFFER: usize = 64 * 1024;

/// Pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(500);

/// Serves connections until `stop` fires, then lets them end.
pub(super) async fn serve(
    listener: TcpListener,
    app: Router,
    limits: ServerLimits,
    mut stop: oneshot::Receiver<()>,
) {
    let slots = Semaphore::new(limits.max_connections.clamp(1, Semaphore::MAX_PERMITS));
    let slots = Arc::new(slots);
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_buf_size(BUFFER);
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, accept(&listener).await)
        };
        let (slot, accepted) = tokio::select! {
            _ = &mut stop => break,
            next = next => next,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Some errors are of one connection only, and are not worth
                // telling apart from those that last: the pause is short.
                tracing::warn!(%error, "can't accept a connection; is the open file limit reached?");
                sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let progress = Progress::new();
        let io = TokioIo::new(Watched { stream, progress: progress.clone() });
        let connection =
            graceful.watch(http.serve_connection(io, TowerToHyperService::new(app.clone())));
        tokio::spawn(async move {
            let _slot = slot;
            tokio::select! {
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, %error, "connection ended");
                    }
                }
                () = progress.stalled(limits.stall_timeout) => {
                    tracing::debug!(%peer, "connection without progress closed");
                }
            }
        });
    }
    drop(listener);
    if timeout(limits.shutdown_grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("responses were cut off: they did not end in the time for a shutdown");
    }
}

/// Accepts a connection whose answers go out at once.
///
/// An answer is sent in several writes. Without `TCP_NODELAY` the system holds back the second one
/// until the client has acknowledged the first, and clients acknowledge late: some 40 ms a request.
async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = listener.accept().await?;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "can't set TCP_NODELAY; answers to this client may be late");
    }
    Ok((stream, peer))
}

/// When bytes last moved on a connection.
#[derive(Clone)]
struct Progress {
    start: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Progress {
    fn new() -> Self {
        Self { start: Instant::now(), last_ms: Arc::default() }
    }

    fn note(&self, bytes: usize) {
        if bytes > 0 {
            let now = self.start.elapsed().as_millis();
            self.last_ms.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// Ends when nothing has moved for `limit`.
    async fn stalled(&self, limit: Duration) {
        loop {
            let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let idle = self.start.elapsed().saturating_sub(last);
            if idle >= limit {
                return;
            }
            sleep(limit - idle).await;
        }
    }
}

/// A socket that notes its progress.
struct Watched {
    stream: TcpStream,
    progress: Progress,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.progress.note(buf.filled().len() - before);
        Poll::Ready(read)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.progress.note(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.progress.note(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_sockets_send_answers_without_delay() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = accept(&listener).await.unwrap();
        assert!(accepted.nodelay().unwrap());
    }
}
