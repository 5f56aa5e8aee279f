//! A node that pulls, one tick at a time, at a time of the day that the test says.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use edgestore_host::Hash;
use edgestore_host::engine::Engine;
use edgestore_host::policy::{
    Clock, Context, Limits, Peer, Policy, PolicyEngine, Reason, Services, SystemClock, TickReport,
};
use edgestore_host::protocol::PeerTransport;
use edgestore_host::runtime::CursorFiles;

use crate::LONG;

/// As many requests to a peer as the host runs at a time.
const THREADS_PER_PEER: usize = 8;

/// The embedded policy, or the one in a file.
///
/// # Panics
/// When it can't be loaded.
pub fn load(file: Option<&Path>) -> Policy {
    // Compiling it takes some tenths of a second.
    static ENGINE: LazyLock<PolicyEngine> = LazyLock::new(|| {
        let limits = Limits { tick_timeout: 2 * LONG, ..Limits::default() };
        PolicyEngine::new(None, limits).expect("an engine")
    });
    match file {
        Some(file) => ENGINE.load_file(file),
        None => ENGINE.load_default(),
    }
    .expect("a policy")
}

/// The node. What is in its folder outlives it.
pub struct Replica {
    /// The database.
    pub engine: Arc<Engine>,
    peers: Vec<Arc<Peer>>,
    cursors: Arc<CursorFiles>,
    clock: Arc<SetClock>,
    settings: HashMap<String, String>,
    interval: Duration,
}

impl Replica {
    /// Opens the database in a folder. The peers are called a, b and so on; it is noon.
    ///
    /// # Panics
    /// When there is none to be had.
    pub fn open(dir: &Path, transports: &[Arc<dyn PeerTransport>]) -> Self {
        let engine = crate::open(dir);
        let peer = |(name, transport): (char, &Arc<dyn PeerTransport>)| {
            Arc::new(Peer::new(name.to_string(), Arc::clone(transport), THREADS_PER_PEER))
        };
        let cursors = Arc::new(CursorFiles::open(engine.path()).expect("a folder for cursors"));
        let peers = ('a'..).zip(transports).map(peer).collect();
        let (clock, settings) = (Arc::default(), HashMap::new());
        Self { engine, peers, cursors, clock, settings, interval: Duration::from_secs(30) }
    }

    /// A setting of the policy.
    #[must_use]
    pub fn setting(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The time between two ticks, as the policy is told.
    #[must_use]
    pub fn interval(self, interval: Duration) -> Self {
        Self { interval, ..self }
    }

    /// Sets the wall clock to so long after a midnight.
    pub fn set_time(&self, since_midnight: Duration) {
        let ms = since_midnight.as_millis().try_into().unwrap_or(u64::MAX);
        self.clock.0.store(ms, Ordering::SeqCst);
    }

    /// One tick for the first peer.
    ///
    /// # Panics
    /// When it fails.
    pub fn tick(&self, policy: &Policy) -> TickReport {
        let services = Services {
            engine: Arc::clone(&self.engine),
            peers: self.peers.clone(),
            current: 0,
            cursors: Arc::clone(&self.cursors) as _,
            downloads: Arc::default(),
            archive: None,
            clock: Arc::clone(&self.clock) as _,
            seed: 7,
            observer: None,
        };
        let settings = self.settings.clone().into_iter().collect();
        let context = Context { reason: Reason::Interval, interval: self.interval, settings };
        policy.tick(services, context).expect("a tick")
    }

    /// How many of these segments it has.
    pub fn has(&self, segments: &[Hash]) -> usize {
        segments.iter().filter(|hash| self.engine.has(hash)).count()
    }
}

/// A wall clock that stands still until it is set: milliseconds since a midnight.
struct SetClock(AtomicU64);

impl Default for SetClock {
    fn default() -> Self {
        Self(AtomicU64::new(12 * 3_600_000))
    }
}

impl Clock for SetClock {
    fn now(&self) -> SystemTime {
        // Any one.
        const MIDNIGHT: Duration = Duration::from_secs(20_000 * 24 * 3600);
        SystemTime::UNIX_EPOCH + MIDNIGHT + Duration::from_millis(self.0.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }
}
