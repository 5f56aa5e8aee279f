//! From a configuration to a running host, with every problem reported before anything runs.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use edgestore_engine::env::{Env, SystemEnv};
use edgestore_engine::{Compacted, Engine, EngineError};
use edgestore_policy_host::{
    Archive, Compiler, FetchBackoff, Limits, LoadError, Observer, Peer, PolicyEngine,
};
use edgestore_protocol::{
    ClientLimits, HttpPeer, InvalidUrl, KnownAddresses, PeerTransport, Server, ServerLimits,
};

use super::dead_threads::DeadThreads;
use super::flusher::{self, Flusher};
use super::follow::{Followed, Follower};
use super::maintenance::{Maintenance, OnCompaction, Plan};
use super::peer_loop::{Ended, OnTick, PeerLoop, Shared};
use super::policies::{FOLDER, Policies, Rules, Start};
use super::settings::Settings;
use super::{
    CursorFiles, Host, InvalidPeerId, MemoryBudget, PeerId, PeerStatus, SettingsError, SwapError,
};
#[cfg(feature = "watch")]
use crate::watch::FileWatch;

/// Requests that run at a time to one peer. The policy may ask for more; they wait.
const THREADS_PER_PEER: usize = 8;

/// Why a host does not start. Nothing runs then.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A peer's name can't be used.
    #[error(transparent)]
    PeerId(#[from] InvalidPeerId),
    /// Two peers have one name, and so one cursor.
    #[error("there are two peers called {0}: give each an id of its own, as in `ID=URL`")]
    DuplicatePeer(String),
    /// A peer's address can't be used.
    #[error("peer {id}: {source}")]
    Url {
        /// The peer's name.
        id: String,
        /// What is wrong with its address.
        source: InvalidUrl,
    },
    /// An interval is shorter than [`HostBuilder::SHORTEST`].
    #[error("an interval must be at least {} ms", HostBuilder::SHORTEST.as_millis())]
    Interval,
    /// The policy can't be used.
    #[error(transparent)]
    Policy(#[from] SwapError),
    /// The policy refuses its settings, or they are too large.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The address can't be served, the archive or cursor folder can't be used, or the system
    /// gives no thread.
    #[error("{context}{source}")]
    Io {
        /// What was attempted; empty where the source says so itself.
        context: String,
        /// What went wrong.
        source: io::Error,
    },
}

/// What a host is to do. Nothing happens before [`HostBuilder::start`].
#[must_use]
pub struct HostBuilder {
    engine: Arc<Engine>,
    peers: Vec<(String, Address)>,
    plugin: Option<PathBuf>,
    watch_plugin: bool,
    rules: Rules,
    policy_cache: Option<PathBuf>,
    policy_compiler: Option<Compiler>,
    interval: Duration,
    flush_delay: Option<Duration>,
    flush_interval: Option<Duration>,
    follow: bool,
    compaction: Plan,
    listen: Option<SocketAddr>,
    #[cfg(feature = "archive")]
    archive: Option<PathBuf>,
    settings: Settings,
    limits: Limits,
    client_limits: ClientLimits,
    memory: MemoryBudget,
    server_limits: ServerLimits,
    fetch_backoff: FetchBackoff,
    /// Addresses of peers.
    known: Arc<KnownAddresses>,
    env: Arc<dyn Env>,
    observer: Option<Arc<dyn Observer>>,
    policies: Option<PolicyEngine>,
    on_tick: Option<OnTick>,
    on_compaction: Option<OnCompaction>,
}

enum Address {
    Url(String),
    Transport(Arc<dyn PeerTransport>),
}

impl From<LoadError> for HostError {
    fn from(error: LoadError) -> Self {
        Self::Policy(error.into())
    }
}

impl HostBuilder {
    /// See [`HostBuilder::probation`].
    pub const PROBATION: u32 = 20;
    /// See [`HostBuilder::max_failures`].
    pub const MAX_FAILURES: u32 = 3;
    /// See [`HostBuilder::flush_delay`].
    pub const FLUSH_DELAY: Duration = Duration::from_millis(25);
    /// Shortest time between two ticks, flushes or looks at compactions.
    pub const SHORTEST: Duration = Duration::from_millis(1);

    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self {
            engine,
            peers: Vec::new(),
            plugin: None,
            watch_plugin: true,
            rules: Rules::default(),
            policy_cache: None,
            policy_compiler: None,
            interval: Duration::from_secs(30),
            flush_delay: Some(Self::FLUSH_DELAY),
            flush_interval: None,
            follow: true,
            compaction: Plan::default(),
            listen: None,
            #[cfg(feature = "archive")]
            archive: None,
            settings: Settings::default(),
            limits: Limits::default(),
            client_limits: ClientLimits::default(),
            memory: MemoryBudget::DEFAULT,
            server_limits: ServerLimits::default(),
            fetch_backoff: FetchBackoff::default(),
            known: Arc::default(),
            env: SystemEnv::shared(),
            observer: None,
            policies: None,
            on_tick: None,
            on_compaction: None,
        }
    }

    /// What is wrong with peers, as ids and URLs, for who wants to know before an engine is opened.
    /// A start says the first of it.
    pub fn check_peers<'a>(peers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<HostError> {
        let mut ids = PeerIds::default();
        let check = |(id, url)| {
            let id = ids.take(id)?;
            http_peer(&id, url, ClientLimits::default(), None).map(drop)
        };
        peers.into_iter().map(check).filter_map(Result::err).collect()
    }

    /// A peer to pull from. `id` names it in logs and names its cursor file (see [`PeerId`]).
    pub fn peer(mut self, id: impl Into<String>, url: impl Into<String>) -> Self {
        self.peers.push((id.into(), Address::Url(url.into())));
        self
    }

    /// A peer that is reached in a way of the caller's.
    pub fn transport(mut self, id: impl Into<String>, transport: Arc<dyn PeerTransport>) -> Self {
        self.peers.push((id.into(), Address::Transport(transport)));
        self
    }

    /// The file of a policy, to be used in place of the embedded one. Another component that is
    /// put in its place takes over while the host runs.
    pub fn plugin(mut self, path: impl Into<PathBuf>) -> Self {
        self.plugin = Some(path.into());
        self
    }

    /// Whether another component in the place of the plugin takes over by itself. Default: it does,
    /// with the feature `watch`.
    pub fn watch_plugin(mut self, watch: bool) -> Self {
        self.watch_plugin = watch;
        self
    }

    /// How many ticks of a new policy have to end well until it counts as good. Until then it is
    /// replaced by the last good one when [`HostBuilder::max_failures`] says so. Default: 20.
    pub fn probation(mut self, ticks: u32) -> Self {
        self.rules.probation = ticks.max(1);
        self
    }

    /// How many ticks of one peer may fail in a row by the fault of a policy on probation, the last
    /// one included. Default: 3.
    pub fn max_failures(mut self, ticks: u32) -> Self {
        self.rules.max_failures = ticks.max(1);
        self
    }

    /// Where compiled policies are kept. Default: a folder of the database.
    pub fn policy_cache(mut self, dir: impl Into<PathBuf>) -> Self {
        self.policy_cache = Some(dir.into());
        self
    }

    /// Compiles policies by this program, within limits. Default: in this process, without.
    pub fn policy_compiler(mut self, compiler: Compiler) -> Self {
        self.policy_compiler = Some(compiler);
        self
    }

    /// Time between two ticks of a peer, unless its policy says otherwise. Default: 30 s.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// The shortest time between two flushes: a write after a pause becomes a segment at once, and those
    /// that follow share segments. While writes go on without an end, the time grows to a quarter of a second.
    /// None leaves all to [`HostBuilder::flush_interval`]. Default: 25 ms.
    pub fn flush_delay(mut self, delay: Option<Duration>) -> Self {
        self.flush_delay = delay;
        self
    }

    /// Whether peers that can tell of changes are asked to, so that ticks come as soon as there is
    /// something to pull. Default: true.
    pub fn follow(mut self, follow: bool) -> Self {
        self.follow = follow;
        self
    }

    /// How often writes that are in no segment yet become one, so that peers can pull them.
    /// Default: the interval.
    pub fn flush_interval(mut self, interval: Duration) -> Self {
        self.flush_interval = Some(interval);
        self
    }

    /// How often to look whether a compaction is worth its while; none leaves it to
    /// [`Host::compact`] and [`Host::wake_compaction`]. Default: 1 min.
    pub fn compact_interval(mut self, interval: Option<Duration>) -> Self {
        self.compaction.interval = interval;
        self
    }

    /// How many bytes a second those compactions read and write together; `None` means unlimited.
    /// Default: 8 MiB.
    pub fn compact_rate(mut self, bytes_per_sec: Option<u64>) -> Self {
        self.compaction.bytes_per_sec = bytes_per_sec;
        self
    }

    /// Serves peers at this address; port 0 takes any free one. Default: does not serve.
    pub fn listen(mut self, addr: SocketAddr) -> Self {
        self.listen = Some(addr);
        self
    }

    /// Copies every segment that is applied to this folder as well.
    #[cfg(feature = "archive")]
    pub fn archive(mut self, dir: impl Into<PathBuf>) -> Self {
        self.archive = Some(dir.into());
        self
    }

    /// A setting for the policy, which alone knows what it means. A later value of a key replaces
    /// an earlier one.
    pub fn setting(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let mut settings = self.settings.get();
        settings.push((key.into(), value.into()));
        self.settings.set(settings);
        self
    }

    /// What the policy may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// What a peer may take when this host asks it.
    pub fn client_limits(mut self, limits: ClientLimits) -> Self {
        self.client_limits = limits;
        self
    }

    /// The memory of the host, of which the lists of segments of peers get their share. Each peer has
    /// the same part of it, and a list that needs more is refused. The shares of the engine and the
    /// server are set where those are ([`MemoryBudget::share`]). Default: 256 MiB.
    pub fn memory(mut self, budget: MemoryBudget) -> Self {
        self.memory = budget;
        self
    }

    /// What peers may take when they ask this host.
    pub fn server_limits(mut self, limits: ServerLimits) -> Self {
        self.server_limits = limits;
        self
    }

    /// When a peer whose fetches fail is left alone, and for how long.
    pub fn fetch_backoff(mut self, rule: FetchBackoff) -> Self {
        self.fetch_backoff = rule;
        self
    }

    /// Where the host runs: what gives it time, threads and chance. Default: this machine.
    pub fn env(mut self, env: Arc<dyn Env>) -> Self {
        self.env = env;
        self
    }

    /// Compiles policies by this engine, with its limits, and not by one of the host's own.
    pub fn policies(mut self, engine: PolicyEngine) -> Self {
        self.policies = Some(engine);
        self
    }

    /// Who is told of the end of each tick.
    pub fn on_tick(mut self, ended: impl Fn(&Ended<'_>) + Send + Sync + 'static) -> Self {
        self.on_tick = Some(Box::new(ended));
        self
    }

    /// Who is told of the end of each compaction, with what it did.
    pub fn on_compaction(
        mut self,
        ended: impl Fn(&Result<Compacted, EngineError>) + Send + Sync + 'static,
    ) -> Self {
        self.on_compaction = Some(Box::new(ended));
        self
    }

    /// Who is told of each call of the policy into the host.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Checks everything and starts ticking and serving.
    ///
    /// # Errors
    /// [`HostError`], which names what to change.
    pub fn start(mut self) -> Result<Host, HostError> {
        let interval = self.flush_interval.unwrap_or(self.interval);
        let flushes = flusher::Plan { delay: self.flush_delay, interval };
        let (listen, server_limits) = (self.listen, self.server_limits.clone());
        let known = Arc::clone(&self.known);
        let (plan, on_compaction) = (self.compaction, self.on_compaction.take());
        // Before it is loaded: what changes after that is noticed.
        #[cfg(feature = "watch")]
        let watched = self.plugin.clone().filter(|_| self.watch_plugin).map(|path| {
            let bytes = PolicyEngine::read_file(&path).unwrap_or_default();
            (path, bytes)
        });
        let (shared, urls) = self.prepare(false)?;
        let engine = Arc::clone(&shared.engine);
        let server = match listen {
            Some(addr) => Some(
                Server::start_knowing(Arc::clone(&engine), addr, server_limits, known)
                    .map_err(|source| HostError::Io { context: String::new(), source })?,
            ),
            None => None,
        };
        let peers = urls.into_iter().enumerate();
        let peers: Vec<_> = peers.map(|(i, url)| PeerLoop::new(&shared, i, url)).collect();
        let waking: Vec<_> = peers.iter().map(Arc::downgrade).collect();
        shared.policies.on_change(move || {
            waking.iter().filter_map(std::sync::Weak::upgrade).for_each(|peer| peer.wake());
        });
        // From here on an early return stops what runs already.
        let mut host = Host {
            flusher: Some(Flusher::start(&shared, flushes).map_err(no_thread)?),
            shared: Arc::clone(&shared),
            maintenance: Maintenance::new(&shared.env, &engine, plan, on_compaction),
            engine,
            server,
            peers,
            threads: Vec::new(),
            followers: Vec::new(),
            #[cfg(feature = "watch")]
            watch: None,
        };
        #[cfg(feature = "watch")]
        if let Some((path, bytes)) = watched {
            let shared = Arc::clone(&shared);
            let file = path.clone();
            let changed = move |bytes: Vec<u8>| {
                shared.policies.file_changed(&file, &bytes, shared.settings.get());
            };
            host.watch = Some(FileWatch::start(&path, &bytes, changed).map_err(no_thread)?);
        }
        host.threads.push(host.maintenance.spawn(&shared.dead).map_err(no_thread)?);
        for peer in &host.peers {
            host.threads.push(peer.spawn().map_err(no_thread)?);
            if let Some(followed) = peer.followed() {
                let follower =
                    Arc::new(Follower::new(Arc::clone(followed), &host.engine, shared.interval));
                host.threads.push(peer.follow(&follower).map_err(no_thread)?);
                host.followers.push(follower);
            }
        }
        Ok(host)
    }

    /// Checks everything, ticks each peer until its policy asks for no further tick at once, and
    /// returns how that went. Serves nobody, and does not compact. Peers are ticked side by side.
    ///
    /// # Errors
    /// [`HostError`]; a tick that fails is none, but stands in the status.
    pub fn run_once(self) -> Result<Vec<PeerStatus>, HostError> {
        let (shared, urls) = self.prepare(true)?;
        let peers: Vec<_> =
            urls.into_iter().enumerate().map(|(i, url)| PeerLoop::new(&shared, i, url)).collect();
        let statuses = thread::scope(|scope| {
            let runs: Vec<_> =
                peers.iter().map(|peer| (peer, scope.spawn(|| peer.run_once()))).collect();
            let status = |(peer, run): (&Arc<PeerLoop>, thread::ScopedJoinHandle<'_, _>)| {
                run.join().unwrap_or_else(|_| {
                    let last_error = Some("the tick panicked; please report this".to_owned());
                    PeerStatus { last_error, ..peer.status() }
                })
            };
            runs.into_iter().map(status).collect()
        });
        Ok(statuses)
    }

    /// Checks all that can be checked without running anything. The URLs are those of the peers.
    fn prepare(self, once: bool) -> Result<(Arc<Shared>, Vec<String>), HostError> {
        let intervals = [Some(self.interval), self.flush_interval, self.compaction.interval];
        if intervals.into_iter().flatten().any(|interval| interval < HostBuilder::SHORTEST) {
            return Err(HostError::Interval);
        }
        self.limits.check_settings(&self.settings.get()).map_err(SettingsError::from)?;
        let mut ids = PeerIds::default();
        let (mut peers, mut urls, mut followed) = (Vec::new(), Vec::new(), Vec::new());
        let list_memory = self.memory.lists() / self.peers.len().max(1) as u64;
        let mut client_limits = self.client_limits;
        client_limits.max_list_bytes = client_limits.max_list_bytes.min(list_memory);
        for (id, address) in self.peers {
            let id = ids.take(&id)?;
            let (transport, url): (Arc<dyn PeerTransport>, String) = match address {
                Address::Transport(transport) => (transport, String::new()),
                Address::Url(url) => {
                    let known = Some(&self.known);
                    let peer = http_peer(&id, &url, client_limits.clone(), known)?;
                    let url = peer.url().to_owned();
                    (Arc::new(peer), url)
                }
            };
            let mut transport = transport;
            followed.push((!once && self.follow && transport.has_changes()).then(|| {
                // A third: a tick holds a list of its own, and what is missing of it.
                let inner = Arc::clone(&transport);
                let following = Arc::new(Followed::new(inner, &self.env, list_memory / 3));
                transport = Arc::clone(&following) as _;
                following
            }));
            let peer = Peer::in_env(&self.env, id.as_str(), transport, THREADS_PER_PEER);
            let peer = peer.with_fetch_backoff(self.fetch_backoff);
            peers.push(Arc::new(peer.with_list_memory(list_memory)));
            urls.push(url);
        }
        let db = self.engine.path();
        let disk = self.engine.disk();
        let cursors = CursorFiles::open_on(db, Arc::clone(&disk), Arc::clone(&self.engine) as _)
            .map_err(|source| HostError::Io {
                context: format!("can't use {} for cursors: ", db.join("sync").display()),
                source,
            })?;
        #[cfg(feature = "archive")]
        let archive = match &self.archive {
            Some(dir) => {
                let archive = crate::FolderArchive::open(dir)
                    .map_err(|source| HostError::Io { context: String::new(), source })?;
                Some(Arc::new(archive) as Arc<dyn Archive>)
            }
            None => None,
        };
        #[cfg(not(feature = "archive"))]
        let archive = None::<Arc<dyn Archive>>;
        let cursors = Arc::new(cursors);
        let cache =
            self.policy_cache.unwrap_or_else(|| self.engine.home().join(FOLDER).join("cache"));
        let start =
            Start { db, plugin: self.plugin.as_deref(), rules: self.rules, fixed: once, disk };
        // A simulation shows itself what comes of settings, and waits for no real disk.
        let try_settings = self.policies.is_none();
        let policies = match self.policies {
            Some(policies) => policies,
            None => {
                let engine = PolicyEngine::new(Some(&cache), self.limits)?;
                match self.policy_compiler {
                    Some(compiler) => engine.compile_by(compiler),
                    None => engine,
                }
            }
        };
        let policies = Policies::open(&start, policies, Arc::clone(&cursors))?;
        let settings = self.settings.get();
        if try_settings && !settings.is_empty() {
            match policies.try_settings(&[], &settings, || {}) {
                Err(error @ SettingsError::Refused { .. }) if policies.is_named() => {
                    return Err(error.into());
                }
                // They are for the policy that is named, and another one runs: a node comes back
                // whatever was put in the place of its policy.
                Err(error) => tracing::warn!(%error, "starting with settings that are not tried"),
                Ok(()) => {}
            }
        }
        let shared = Shared {
            engine: self.engine,
            policies: Arc::new(policies),
            peers,
            followed,
            cursors,
            downloads: Arc::default(),
            observer: self.observer,
            on_tick: self.on_tick,
            archive,
            env: self.env,
            interval: self.interval,
            settings: self.settings,
            dead: DeadThreads::default(),
            memory: self.memory,
        };
        Ok((Arc::new(shared), urls))
    }
}

/// The ids of peers so far.
#[derive(Default)]
struct PeerIds(HashSet<String>);

impl PeerIds {
    fn take(&mut self, id: &str) -> Result<PeerId, HostError> {
        let id: PeerId = id.parse()?;
        // Some file systems hold names that differ in case alone to be the same.
        if !self.0.insert(id.as_str().to_ascii_lowercase()) {
            return Err(HostError::DuplicatePeer(id.to_string()));
        }
        Ok(id)
    }
}

fn http_peer(
    id: &PeerId,
    url: &str,
    limits: ClientLimits,
    known: Option<&Arc<KnownAddresses>>,
) -> Result<HttpPeer, HostError> {
    HttpPeer::noting(url, limits, known)
        .map_err(|source| HostError::Url { id: id.to_string(), source })
}

fn no_thread(source: io::Error) -> HostError {
    HostError::Io { context: "can't start a thread: ".to_owned(), source }
}
