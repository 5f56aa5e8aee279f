//! The tick loop: peers, schedule, cursors and the archive, put together as a [`Host`].
//!
//! Each peer has a thread that does one thing: wait until a tick is due, run it, work out when the
//! next one is. So a policy that waits holds up nobody else, and a tick never meets another tick
//! of the same peer. Whatever a tick needs it gets anew each time, and what it leaves behind is in
//! the engine and the cursor: a failed tick, a restart and the next tick are the same to it.
//!
//! Two more threads keep the database in order: one flushes, one compacts.
//!
//! This crate is for Unix. The crates under it also build on Windows.
#![forbid(unsafe_code)]
// These panic where nobody reads what they print.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

#[cfg(not(unix))]
compile_error!(
    "edgestore-node is for Unix: its admin socket and the bounds of its files are Unix's"
);

pub mod admin;
#[cfg(feature = "archive")]
mod archive;
mod builder;
mod cursors;
mod dead_threads;
mod flusher;
mod follow;
mod maintenance;
mod memory;
mod peer_id;
mod peer_loop;
mod policies;
mod schedule;
mod settings;
mod status;
#[cfg(feature = "watch")]
pub mod watch;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use edgestore_engine::env::Task;
use edgestore_engine::{Compacted, Engine, EngineError};
use edgestore_protocol::Server;
use flusher::Flusher;
use follow::Follower;
use maintenance::Maintenance;
pub use peer_loop::Ended;
use peer_loop::{PeerLoop, Shared};

#[cfg(feature = "archive")]
pub use self::archive::FolderArchive;
pub use self::builder::{HostBuilder, HostError};
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub use self::cursors::fuzz::cursor as fuzz_cursor;
pub use self::cursors::{CursorFiles, DataState, MAX_CURSOR_FILE};
pub use self::memory::{MemoryBudget, MemoryUse};
pub use self::peer_id::{InvalidPeerId, PeerId};
pub use self::policies::{
    PolicyChange, PolicyEvent, PolicyEventKind, PolicyState, Probation, SwapError, policy_history,
};
pub use self::settings::SettingsError;
pub use self::status::{Health, HostStatus, LastCompaction, PeerStatus};
#[cfg(feature = "watch")]
use self::watch::FileWatch;

/// A running host. Stops when dropped, as by [`Host::shutdown`].
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use edgestore_engine::Engine;
/// use edgestore_node::Host;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // One node with data, served to whoever asks.
/// let dir = tempfile::tempdir()?;
/// let engine = Arc::new(Engine::open(dir.path().join("a"))?);
/// engine.put(b"sensors", b"t1", b"21.5")?;
/// engine.flush()?;
/// let a = Host::builder(engine).listen("127.0.0.1:0".parse()?).start()?;
///
/// // Another one that pulls from it, and may write its own data meanwhile.
/// let replica = Arc::new(Engine::open(dir.path().join("b"))?);
/// let url = format!("http://{}", a.local_addr().unwrap());
/// let b = Host::builder(Arc::clone(&replica)).peer("a", url).start()?;
/// while replica.get(b"sensors", b"t1")?.is_none() {
///     std::thread::sleep(Duration::from_millis(10));
/// }
/// b.shutdown();
/// a.shutdown();
/// # Ok(())
/// # }
/// ```
pub struct Host {
    engine: Arc<Engine>,
    shared: Arc<Shared>,
    server: Option<Server>,
    peers: Vec<Arc<PeerLoop>>,
    threads: Vec<Task>,
    flusher: Option<Flusher>,
    followers: Vec<Arc<Follower>>,
    maintenance: Arc<Maintenance>,
    /// Of the file of the policy.
    #[cfg(feature = "watch")]
    watch: Option<FileWatch>,
}

impl Host {
    /// A host for `engine`, with defaults for everything else.
    pub fn builder(engine: Arc<Engine>) -> HostBuilder {
        HostBuilder::new(engine)
    }

    /// Ticks the peer of this id now, or all of them. False when there is no such peer.
    pub fn wake(&self, id: Option<&str>) -> bool {
        self.chosen(id).map(|peer| peer.wake()).count() > 0
    }

    /// As [`Host::wake`], and the policy starts from an empty cursor: what it has set aside is tried
    /// now, whatever policy it is.
    pub fn retry(&self, id: Option<&str>) -> bool {
        self.chosen(id).map(|peer| peer.retry()).count() > 0
    }

    /// The peer of this id, or all of them.
    fn chosen(&self, id: Option<&str>) -> impl Iterator<Item = &Arc<PeerLoop>> {
        self.peers.iter().filter(move |peer| id.is_none_or(|id| peer.id() == id))
    }

    /// Compacts now, and returns what was done. Takes the place of a compaction that runs, which
    /// ends. At most `bytes_per_sec` are read and written together; `None` means unlimited.
    ///
    /// # Errors
    /// As [`Engine::compact`].
    pub fn compact(&self, bytes_per_sec: Option<u64>) -> Result<Compacted, EngineError> {
        self.maintenance.compact(bytes_per_sec, true)
    }

    /// Has the host compact soon, at its own pace, and does not wait for it.
    pub fn wake_compaction(&self) {
        self.maintenance.wake();
    }

    /// Ends a running compaction, and no other begins: the first step of a shutdown, for those who
    /// wait in [`Host::compact`].
    pub fn stop_compacting(&self) {
        self.maintenance.stop();
    }

    /// Lets the policy in a file take over, between two ticks of each peer. It is compiled and
    /// rehearsed first, while the one that runs goes on; returns when it has taken over. It is on
    /// probation then: see [`HostBuilder::probation`].
    ///
    /// # Errors
    /// [`SwapError`]; the policy that runs goes on.
    pub fn swap_policy(&self, path: &Path) -> Result<PolicyChange, SwapError> {
        self.shared.policies.swap(path, self.shared.settings.get())
    }

    /// Lets the last policy that is known to be good take over from the one that runs.
    ///
    /// # Errors
    /// [`SwapError::NoFallback`] when there is no other one.
    pub fn roll_back_policy(&self) -> Result<PolicyChange, SwapError> {
        self.shared.policies.roll_back("somebody asked for it")
    }

    /// The last `limit` events in the life of this database's policies, oldest first.
    ///
    /// # Errors
    /// When the journal can't be read.
    pub fn policy_history(&self, limit: usize) -> io::Result<Vec<PolicyEvent>> {
        policy_history(&self.engine.home(), limit)
    }

    /// Gives the policy other settings in place of all that it had, if it takes them in a dry run.
    /// Ticks that begin from now on have them; none is woken. Of a key that is given twice the
    /// later value holds.
    ///
    /// # Errors
    /// [`SettingsError`]; the settings before stay.
    pub fn set_settings(
        &self,
        settings: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), SettingsError> {
        let new = settings::Settings::default();
        new.set(settings);
        let (old, new) = (self.shared.settings.get(), new.get());
        self.shared.policies.change_settings(&old, &new, || self.shared.settings.set(new.clone()))
    }

    /// Where peers reach this node; none when it does not serve.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(Server::local_addr)
    }

    /// The engine that this host works on.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// What the host is doing.
    pub fn status(&self) -> HostStatus {
        let policy = self.shared.policies.turn().policy;
        HostStatus {
            policy: policies::title(&policy),
            policy_hash: policy.hash().to_string(),
            policy_state: self.shared.policies.state(),
            listen: self.local_addr(),
            peers: self.peers(),
            engine: self.engine.stats(),
            root: self.engine.root().to_string(),
            compaction: self.maintenance.last(),
            health: Health::of(&self.engine),
            dead_threads: self.shared.dead.names(),
            memory: MemoryUse::now(self.shared.memory),
        }
    }

    /// The peers' part of [`Host::status`], which reads nothing from disk.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.peers.iter().map(|peer| peer.status()).collect()
    }

    /// Ends running ticks and answers to peers, and returns when all is closed. Writes that are in
    /// no segment yet stay in the database, as they are.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        #[cfg(feature = "watch")]
        drop(self.watch.take());
        self.maintenance.stop();
        self.followers.iter().for_each(|follower| follower.stop());
        for peer in &self.peers {
            peer.stop();
        }
        drop(self.flusher.take());
        if let Some(server) = self.server.take() {
            server.shutdown();
        }
        for thread in self.threads.drain(..) {
            if !thread.join() {
                tracing::error!("a thread of the host panicked");
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop();
    }
}
