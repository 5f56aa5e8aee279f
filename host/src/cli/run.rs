//! `run`: a host, until a signal ends it.

mod node;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::value_parser;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::node::{Ended, Node, Pauses, Stopped, start_again};
use super::args::{self, DEFAULT_PORT, Listen, OrOff, PeerSpec};
use super::config::{Effective, LimitValue, limits_help};
use super::database::{Database, Missing};
use super::policy::compiler;
use super::status::{health_rows, yes_no};
use super::{exit, output, stderr};
use crate::engine::{Engine, EngineOptions, EngineStats};
use crate::policy::{FetchBackoff, Limits};
use crate::protocol::ServerLimits;
use crate::runtime::{Health, Host, HostBuilder, HostError, MemoryBudget, PeerStatus};
use crate::text::{LINE, visible};

#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// A node to pull from; may be given many times. ID names it in logs and is made from the
    /// URL where it is left out
    #[arg(long = "peer", value_name = "[ID=]URL", value_parser = args::peer)]
    pub(super) peers: Vec<PeerSpec>,
    /// The sync policy, a WebAssembly component [default: the embedded one]
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// Time between two ticks of a peer, unless the policy says otherwise
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = args::interval)]
    interval: Duration,
    /// Shortest time between two flushes of writes to a segment that peers can pull, or off; it
    /// grows to 250 ms while writes go on
    #[arg(long, value_name = "DURATION", default_value = "25ms", value_parser = args::interval_or_off)]
    flush_delay: OrOff<Duration>,
    /// Time after which writes become a segment in any case [default: as --interval]
    #[arg(long, value_name = "DURATION", value_parser = args::interval)]
    flush_interval: Option<Duration>,
    /// Asks peers at the interval alone, also those that could tell at once of what is new
    #[arg(long)]
    poll: bool,
    /// Where to serve peers: ADDR:PORT, PORT on loopback, or none [default: 127.0.0.1:8900]
    #[arg(long, value_name = "ADDR", value_parser = args::listen)]
    listen: Option<Listen>,
    /// Copies every segment that is pulled to this folder as well
    #[arg(long, value_name = "DIR")]
    archive: Option<PathBuf>,
    /// Pulls from each peer once, serves nobody, prints how it went, and exits with 0 when all
    /// peers are in sync
    #[arg(long)]
    once: bool,
    /// A setting for the policy; may be given many times
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = args::setting)]
    settings: Vec<(String, String)>,
    #[arg(long = "limit", value_name = "NAME=VALUE", value_parser = LimitValue::parse,
        help = limits_help())]
    limits: Vec<LimitValue>,
    /// Longest time of a tick: short for --limit tick-timeout=DURATION
    #[arg(long, value_name = "DURATION", value_parser = LimitValue::tick_timeout)]
    tick_timeout: Option<LimitValue>,
    /// Most memory of the policy: short for --limit memory=SIZE
    #[arg(long, value_name = "SIZE", value_parser = LimitValue::memory)]
    memory_limit: Option<LimitValue>,
    /// Ticks that must end well before a new policy counts as good
    #[arg(long, value_name = "TICKS", default_value_t = HostBuilder::PROBATION,
        value_parser = value_parser!(u32).range(1..))]
    probation: u32,
    /// A new policy whose ticks of one peer fail this often in a row, by its own fault, makes way
    /// for the last good one
    #[arg(long, value_name = "TICKS", default_value_t = HostBuilder::MAX_FAILURES,
        value_parser = value_parser!(u32).range(1..))]
    max_failures: u32,
    /// Segments with records from further in the future wait until they are not
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = args::duration)]
    max_clock_ahead: Duration,
    /// Most memory that a segment of a peer may take, 128 bytes a record included; one that takes
    /// more is refused. Below the default, this node may refuse what its peers make
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = args::inflated)]
    max_segment_inflated: u64,
    /// Space of the disk that writes and pulls leave free, or off. Deletes, flushes and compactions
    /// may use it [default: 64MiB, or a sixteenth of the disk where that is less]
    #[arg(long, value_name = "SIZE", value_parser = args::size_or_off)]
    disk_reserve: Option<OrOff<u64>>,
    /// Most space of the disk that the database takes, roughly. Writes and pulls are refused then;
    /// deletes, flushes and compactions may take more for a while [default: no bound]
    #[arg(long, value_name = "SIZE", value_parser = args::size)]
    max_db_bytes: Option<u64>,
    /// How often to look whether segments should be merged or dropped, or off
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = args::interval_or_off)]
    compact_interval: OrOff<Duration>,
    /// Most bytes that this reads and writes a second, or off for no bound
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = args::size_or_off)]
    compact_rate: OrOff<u64>,
    /// Deletes and expired records are forgotten after this. A node that was away for longer may
    /// bring back what was deleted: let it start from an empty folder
    #[arg(long, value_name = "DURATION", default_value = "10d", value_parser = args::duration)]
    tombstone_grace: Duration,
    /// Most connections of peers that this host serves at a time. When there are so many, idle and
    /// slow ones are closed for new ones. An eighth is kept for known peers
    #[arg(long, value_name = "COUNT", default_value_t = 256, value_parser = value_parser!(u32).range(1..))]
    max_connections: u32,
    /// Connections from one address at which a new one replaces an idle or slow one of that address.
    /// Raise it where many replicas share an address and all keep many connections
    #[arg(long, value_name = "COUNT", default_value_t = 128, value_parser = value_parser!(u32).range(1..))]
    max_connections_per_address: u32,
    /// How far a client may lag behind 16 KiB/s in taking an answer, before the answer may be cut for
    /// another client
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = args::duration)]
    slow_client_grace: Duration,
    /// Memory that this host may take. Caches, segments that are being merged, and lists of segments
    /// have shares of it; policies have limits of their own [default: the limit of the control group
    /// (cgroup), or 256MiB without one]
    #[arg(long, value_name = "SIZE", value_parser = args::memory)]
    memory_budget: Option<MemoryBudget>,
    /// Memory for manifests that are being sent to peers. When it is full, a client that asks for
    /// another one is told to come back (HTTP status 503) [default: a 16th of --memory-budget]
    #[arg(long, value_name = "SIZE", value_parser = args::size)]
    manifest_memory: Option<u64>,
    /// Fetches from one peer that fail in a row before the host leaves the peer alone for a while
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = value_parser!(u32).range(1..))]
    fetch_failures: u32,
    /// Longest time that the host leaves such a peer alone. The first pause takes 1 s, and each
    /// further one twice as long
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = args::duration)]
    fetch_backoff: Duration,
}

pub(super) fn run(config: Effective) -> Result<ExitCode> {
    let config = Arc::new(config);
    let (db, args) = (config.db(), config.args());
    if let Some(file) = config.path() {
        tracing::info!(file = %file.display(), "configuration");
    }
    config.check()?;
    if args.once {
        if args.peers.is_empty() {
            return Err(exit::usage(
                "--once needs a peer: give --peer [ID=]URL, or name one in [peers] of the file",
            ));
        }
        let engine = Arc::new(Database::own(db, Missing::Create, &args.engine())?);
        return once(args.builder(Arc::clone(&engine))?, &engine);
    }
    // From here on a signal ends the program in order, even while it starts.
    let signals = signals()?;
    let listen = match args.listen.unwrap_or(Listen::loopback(DEFAULT_PORT)) {
        Listen::At(addr) => Some(addr),
        Listen::Nobody => None,
    };
    let mut node = Node::start(&config, Missing::Create, listen)?;
    let mut pauses = Pauses::new();
    loop {
        let ended = node.wait(&signals, &config, pauses.next());
        match &ended {
            Ok(Ended::Signal(signal)) => {
                tracing::info!(signal, "stopping; a second signal exits at once");
            }
            Ok(Ended::Recovered) => tracing::warn!(
                "the disk takes writes again: closing the database, and opening it again"
            ),
            Err(error) => tracing::error!(%error, "stopping"),
        }
        let Stopped { listen, wrong } = node.stop();
        let next = match ended {
            Ok(Ended::Recovered) => start_again(&config, listen, &signals)?,
            _ => None,
        };
        match next {
            Some(started) => node = started,
            None => {
                tracing::info!("stopped");
                ended?;
                return wrong.map_or(Ok(ExitCode::SUCCESS), |why| Err(anyhow!(why)));
            }
        }
        pauses.begin();
    }
}

/// Raises the number of files that this process may have open as far as it is allowed to, and leaves
/// clients no more than half of it: the database needs the rest.
fn within_descriptors(mut limits: ServerLimits) -> ServerLimits {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    // Without a number there is no limit.
    let most = if raised.is_ok() { maximum } else { current };
    if let Some(half) = most.and_then(|most| usize::try_from(most / 2).ok())
        && half < limits.max_connections
    {
        tracing::warn!(
            connections = half,
            "fewer connections than --max-connections: the system allows this process too few \
             open files (ulimit -n)"
        );
        limits.max_connections = half;
    }
    limits
}

impl RunArgs {
    /// Whether it ends by itself.
    pub(super) fn is_once(&self) -> bool {
        self.once
    }

    pub(super) fn archive(&self) -> Option<&Path> {
        self.archive.as_deref()
    }

    fn engine(&self) -> EngineOptions {
        let mut options = EngineOptions {
            max_clock_ahead: self.max_clock_ahead,
            max_segment_inflated_bytes: self.max_segment_inflated,
            tombstone_grace: self.tombstone_grace,
            disk_reserve: self.disk_reserve.map(|OrOff(bytes)| bytes.unwrap_or(0)),
            max_db_bytes: self.max_db_bytes,
            ..EngineOptions::default()
        };
        self.memory().share(&mut options);
        options
    }

    /// What the host may take of memory.
    pub(super) fn memory(&self) -> MemoryBudget {
        self.memory_budget.unwrap_or_else(MemoryBudget::of_this_process)
    }

    /// Those of the policy.
    pub(super) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        for limit in self.limits.iter().chain(&self.tick_timeout).chain(&self.memory_limit) {
            limit.apply(&mut limits);
        }
        limits
    }

    /// What clients may take.
    pub(super) fn server_limits(&self) -> ServerLimits {
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        ServerLimits {
            max_connections: count(self.max_connections),
            max_per_address: count(self.max_connections_per_address),
            slow_grace: self.slow_client_grace,
            max_manifest_bytes: self.manifest_memory.unwrap_or_else(|| self.memory().manifests()),
            ..ServerLimits::default()
        }
    }

    /// When a peer is left alone.
    pub(super) fn fetch_backoff(&self) -> FetchBackoff {
        FetchBackoff { failures: self.fetch_failures, longest: self.fetch_backoff }
    }

    fn builder(&self, engine: Arc<Engine>) -> Result<HostBuilder> {
        let mut builder = Host::builder(engine)
            .interval(self.interval)
            .limits(self.limits())
            .policy_compiler(compiler()?)
            .probation(self.probation)
            .max_failures(self.max_failures)
            .compact_interval(self.compact_interval.0)
            .compact_rate(self.compact_rate.0)
            .server_limits(within_descriptors(self.server_limits()))
            .fetch_backoff(self.fetch_backoff())
            .memory(self.memory());
        for PeerSpec { id, url } in &self.peers {
            builder = builder.peer(id, url);
        }
        for (key, value) in &self.settings {
            builder = builder.setting(key, value);
        }
        if let Some(plugin) = &self.plugin {
            builder = builder.plugin(plugin);
        }
        builder = builder.flush_delay(self.flush_delay.0).follow(!self.poll);
        if let Some(interval) = self.flush_interval {
            builder = builder.flush_interval(interval);
        }
        if let Some(archive) = &self.archive {
            builder = builder.archive(archive);
        }
        Ok(builder)
    }
}

fn log_start(db: &Path, host: &Host) {
    let status = host.status();
    let listen = status.listen.map_or("none".to_owned(), |addr| addr.to_string());
    tracing::info!(
        database = %db.display(),
        policy = status.policy,
        peers = status.peers.len(),
        listen,
        "started"
    );
    warn_clock_ahead(&status.engine);
    for peer in &status.peers {
        tracing::info!(peer = peer.id, url = peer.url, "pulls from");
    }
    match (status.peers.is_empty(), status.listen) {
        (true, None) => {
            tracing::warn!("this host neither pulls nor serves: give --peer or --listen")
        }
        (true, Some(_)) => {
            tracing::info!("there are no peers (--peer [ID=]URL): this node is only pulled from");
        }
        (false, _) => {}
    }
    if let Some(addr) = status.listen.filter(|addr| !is_loopback(addr)) {
        tracing::warn!(
            %addr,
            "whoever reaches this address can read all data: there is no authentication, so \
             keep it in a private network or behind a proxy that asks for one"
        );
    }
}

/// A clock that was wrong once leaves its stamps behind.
fn warn_clock_ahead(stats: &EngineStats) {
    if stats.clock_ahead_secs <= EngineOptions::default().max_clock_ahead.as_secs() {
        return;
    }
    tracing::warn!(
        ahead = %humantime::format_duration(Duration::from_secs(stats.clock_ahead_secs)),
        segments = stats.segments_ahead,
        records = stats.records_ahead,
        "the latest stamp of this database is ahead of the clock, and so is all that is written \
         from here on: peers wait with it. Is the clock right? `edgestore-host clock` shows what \
         to do"
    );
}

fn is_loopback(addr: &SocketAddr) -> bool {
    addr.ip().to_canonical().is_loopback()
}

/// Each SIGHUP is sent, and the first SIGINT or SIGTERM; the second of these ends the process.
fn signals() -> Result<Receiver<i32>> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("can't watch for signals")?;
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new()
        .name("edgestore-signals".to_owned())
        .spawn(move || {
            let mut stopping = false;
            for signal in signals.forever() {
                let stops = signal != SIGHUP;
                // While the host stops, nobody receives a SIGHUP any more.
                let sent = sender.send(signal).is_ok() || !stops;
                if stops && (stopping || !sent) {
                    stderr::flush();
                    // As a shell reports a process that a signal ended.
                    std::process::exit(128 + signal);
                }
                stopping |= stops;
            }
        })
        .context("can't start a thread")?;
    Ok(receiver)
}

/// Who gave no port does not know which one is meant.
fn default_port_taken(args: &RunArgs, error: HostError) -> anyhow::Error {
    let taken = matches!(&error, HostError::Io { source, .. }
        if source.kind() == std::io::ErrorKind::AddrInUse);
    let error = anyhow::Error::from(error);
    if taken && args.listen.is_none() {
        return error.context(format!(
            "a host serves at port {DEFAULT_PORT} unless told otherwise: choose another by \
             --listen PORT, or serve nobody by --listen none"
        ));
    }
    error
}

/// Pulls once, and prints how it went, and what is wrong with the node's own data.
pub(super) fn once(builder: HostBuilder, engine: &Engine) -> Result<ExitCode> {
    let peers = builder.run_once()?;
    let columns = ["peer", ">segments", ">records", "in sync", "error"];
    let mut table = output::table(&columns);
    for peer in &peers {
        table.add_row([
            peer.id.clone(),
            peer.segments_applied.to_string(),
            peer.records_written.to_string(),
            yes_no(peer.in_sync()).to_owned(),
            visible(peer.last_error.as_deref().unwrap_or_default(), LINE).into_owned(),
        ]);
    }
    engine.settle();
    let health = Health::of(engine);
    output::print(&(output::lines(&table) + &health_rows(&health)))?;
    let good = peers.iter().all(PeerStatus::in_sync) && health.is_good();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
