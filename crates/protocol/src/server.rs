//! What this node shows its peers: the `GET`s of the protocol, on a thread of
//! its own.
//!
//! There is no authentication, as in `edgestore-repl`: whoever reaches the
//! address can read everything, and can change nothing. Bind it to a private
//! network or put a proxy in front. What a client can cost is bounded: the
//! number of connections, the time to send a request's headers, the time without
//! progress, the bytes of all manifests in memory, and 64 KiB of a segment for
//! each download. Clients that are idle or slow keep nobody else out.

mod bodies;
mod changes;
mod connection;
mod limits;
mod routes;
mod table;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use edgestore_engine::Engine;
use tokio::sync::oneshot;

use self::bodies::Bodies;
use self::changes::Feed;
use self::connection::{Shared, Uptime};
pub use self::limits::ServerLimits;
pub use self::routes::router;
use self::table::Table;
use crate::KnownAddresses;

/// Threads for disk reads and encoding; requests beyond them wait.
const BLOCKING_THREADS: usize = 8;

/// A running server. Stops when dropped, as by [`Server::shutdown`].
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `engine` at `addr`; port 0 takes any free port.
    ///
    /// # Errors
    /// When the address can't be bound; the message names it and what to do.
    pub fn start(engine: Arc<Engine>, addr: SocketAddr, limits: ServerLimits) -> io::Result<Self> {
        Self::start_knowing(engine, addr, limits, Arc::default())
    }

    /// The same, with the addresses of peers, for which places are kept.
    pub fn start_knowing(
        engine: Arc<Engine>,
        addr: SocketAddr,
        limits: ServerLimits,
        known: Arc<KnownAddresses>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).map_err(|error| bind_error(addr, &error))?;
        Self::run(engine, listener, limits, known)
    }

    /// Serves `engine` on a listener that is bound already, such as one that was
    /// handed over by a supervisor.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub fn start_on(
        engine: Arc<Engine>,
        listener: TcpListener,
        limits: ServerLimits,
    ) -> io::Result<Self> {
        Self::run(engine, listener, limits, Arc::default())
    }

    fn run(
        engine: Arc<Engine>,
        listener: TcpListener,
        limits: ServerLimits,
        known: Arc<KnownAddresses>,
    ) -> io::Result<Self> {
        let local_addr = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("edgestore-http-io")
            .build()?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let (stop, stopped) = oneshot::channel();
        let shared = shared(engine, limits, known);
        let thread =
            std::thread::Builder::new().name("edgestore-http".into()).spawn(move || {
                runtime.block_on(connection::serve(listener, shared, stopped));
                runtime.shutdown_timeout(Duration::from_secs(1));
            })?;
        tracing::info!(%local_addr, "serving peers");
        Ok(Self { local_addr, stop: Some(stop), thread: Some(thread) })
    }

    /// The address that peers connect to, with the port that was chosen.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Takes no more connections, gives the running responses
    /// [`ServerLimits::shutdown_grace`] to end, and returns when all is closed.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        // Fails when the thread has ended by itself, which `join` reports.
        let _ = self.stop.take().map(|stop| stop.send(()));
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(addr = %self.local_addr, "the server thread panicked");
        }
    }
}

fn shared(engine: Arc<Engine>, limits: ServerLimits, known: Arc<KnownAddresses>) -> Shared {
    let (table, uptime) = (Table::new(&limits, known), Uptime::start());
    let relieved = Arc::clone(&table);
    let bodies = Bodies::new(limits.max_manifest_bytes, move || {
        let closed = relieved.cut_slow_manifests(uptime.now());
        if closed > 0 {
            tracing::info!(closed, "slow clients were cut off: their manifests take all the room");
        }
    });
    let feed = Feed::new(Arc::clone(&engine));
    let app = routes::app(engine, bodies, Arc::clone(&feed));
    Shared { app, feed: Some(feed), limits, table, uptime }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn bind_error(addr: SocketAddr, error: &io::Error) -> io::Error {
    let fix = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process has the port: stop it, or choose another port"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need privileges: choose a higher one"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; no network interface has this address: use one that has, or 0.0.0.0 or [::] for all"
        }
        _ => "",
    };
    io::Error::new(error.kind(), format!("can't listen on {addr}: {error}{fix}"))
}

#[cfg(test)]
mod tests;
