//! One node: a host, its engine, its disk and its clock, through crashes and restarts.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use edgestore_engine::disk::{Fault, FaultyDisk};
use edgestore_engine::env::{Env, Notify};
use edgestore_engine::{
    Compacted, Engine, EngineError, EngineOptions, Hash, MonotonicClock, Verified, WallClock,
};
use edgestore_node::{Ended, Host, HostError, PeerStatus};
use edgestore_policy_host::{HostCall, Observer, PolicyEngine, TickReport};

use super::log::EventLog;
use super::model::Write;
use super::network::Network;
use super::outcome::TickMark;
use super::scenario::Scenario;
use super::schedule::{NodeEnv, Schedule};

/// Ticks of a node that are told one by one.
const MARKS: usize = 5000;

/// Bytes a second that a compaction reads and writes: so few that much else happens meanwhile.
const COMPACT_RATE: u64 = 16 << 10;

/// So many segments are the newest ones.
const NEWEST: usize = 4;

/// What all nodes of a run share.
pub(super) struct Setup {
    pub(super) schedule: Schedule,
    pub(super) network: Arc<Network>,
    /// Raised when a node loses power within an operation of its disk.
    pub(super) power: Arc<dyn Notify>,
    pub(super) log: Arc<EventLog>,
    pub(super) scenario: Scenario,
    pub(super) policies: PolicyEngine,
    /// The file of the policy.
    pub(super) plugin: PathBuf,
    /// The same policy with another hash.
    pub(super) variant: PathBuf,
    /// What is wrong with the hosts on purpose.
    #[cfg(test)]
    pub(super) plant: super::injected_bugs::Plant,
}

/// What a node's ticks did, for whoever counts.
#[derive(Debug, Default)]
pub(super) struct Ticks {
    pub(super) fuel: AtomicU64,
    pub(super) inner: Mutex<TickCounts>,
}

#[derive(Debug, Default)]
pub(super) struct TickCounts {
    pub(super) ended: u64,
    pub(super) failed: u64,
    /// When the last tick of each peer ended, and when the next one is due.
    pub(super) last: std::collections::BTreeMap<String, (Duration, Duration)>,
    /// The first of them.
    pub(super) marks: Vec<TickMark>,
    /// What only the policy can have done wrong.
    pub(super) blamed: Vec<(Duration, String)>,
}

impl Observer for Ticks {
    fn called(&self, _call: &HostCall<'_>) {}

    fn watches_calls(&self) -> bool {
        false
    }

    fn spent(&self, fuel: u64) {
        self.fuel.fetch_add(fuel, Ordering::Relaxed);
    }
}

impl Ticks {
    pub(super) fn counts(&self) -> std::sync::MutexGuard<'_, TickCounts> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One node.
pub(super) struct Node {
    setup: Arc<Setup>,
    pub(super) index: usize,
    root: PathBuf,
    generation: u32,
    /// Times that it was started.
    boots: u64,
    disk: FaultyDisk,
    disk_is_full: bool,
    running: Option<Running>,
    ahead: Arc<AtomicI64>,
    env: Arc<dyn Env>,
    pub(super) ticks: Arc<Ticks>,
    pub(super) up_since: Duration,
    pub(super) crashes: u64,
    pub(super) writes: u64,
    /// By the engines of before the last crash.
    flushed: u64,
    /// Its segments before the last crash, oldest first.
    had: Vec<Hash>,
    /// Segments whose files vanished, or changed.
    pub(super) hurt: Vec<Hurt>,
    /// An older copy of its data was put back.
    pub(super) restored: bool,
}

/// What became of the file of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hurt {
    pub(super) hash: Hash,
    /// A bit is another one. Without that the file is gone.
    pub(super) damaged: bool,
}

struct Running {
    engine: Arc<Engine>,
    host: Host,
}

impl Node {
    /// Makes the node in a folder of its own, and starts it. Its clock is ahead by nanoseconds, and
    /// too fast by parts per billion.
    pub(super) fn start(
        setup: &Arc<Setup>,
        index: usize,
        root: &Path,
        (ahead, drift): (i64, i64),
    ) -> Result<Self, String> {
        let root = root.join(format!("n{index}"));
        let folder = root.join("0");
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let ahead = Arc::new(AtomicI64::new(ahead));
        let env = NodeEnv::new(&setup.schedule, Arc::clone(&ahead)).with_drift(drift);
        let mut node = Self {
            setup: Arc::clone(setup),
            index,
            disk: FaultyDisk::new(&folder),
            disk_is_full: false,
            root,
            generation: 0,
            boots: 0,
            running: None,
            ahead,
            env: Arc::new(env),
            ticks: Arc::default(),
            up_since: Duration::ZERO,
            crashes: 0,
            writes: 0,
            flushed: 0,
            had: Vec::new(),
            hurt: Vec::new(),
            restored: false,
        };
        node.plug_in(node.disk.clone());
        node.boot()?;
        Ok(node)
    }

    fn folder(&self) -> PathBuf {
        self.root.join(self.generation.to_string())
    }

    /// The folder of the database.
    pub(super) fn db(&self) -> PathBuf {
        self.folder().join("db")
    }

    /// None while it is down.
    pub(super) fn engine(&self) -> Option<&Arc<Engine>> {
        self.running().map(|running| &running.engine)
    }

    /// Whether peers see this segment in its list.
    pub(super) fn lists(&self, hash: &Hash) -> bool {
        self.engine().is_some_and(|engine| engine.manifest().iter().any(|one| one.hash == *hash))
    }

    /// What it has of a key, shown or not; none while it is down.
    pub(super) fn stored(&self, namespace: &[u8], key: &[u8]) -> Option<Write> {
        let stored = self.engine()?.stored_version(namespace, key).ok()??;
        let (stamp, deleted, value, ttl) = stored;
        Some(Write { stamp, deleted, value, ttl })
    }

    /// What its host says of its peers; nothing while it is down.
    pub(super) fn peers(&self) -> Vec<PeerStatus> {
        self.running().map(|running| running.host.peers()).unwrap_or_default()
    }

    /// What has lost power still runs until [`Node::crash`], and does nothing that counts.
    fn running(&self) -> Option<&Running> {
        self.running.as_ref().filter(|_| !self.lost_power())
    }

    /// Whether it has lost power, and [`Node::crash`] is to follow.
    pub(super) fn lost_power(&self) -> bool {
        self.disk.lost_power()
    }

    /// Power is lost at the `n`-th operation from now on that changes something on its disk,
    /// unless the node crashes before.
    pub(super) fn plan_power_loss(&self, n: u64) {
        self.disk.plan(n, Fault::PowerLoss);
    }

    /// Takes a disk into use.
    fn plug_in(&mut self, disk: FaultyDisk) {
        let (setup, index) = (Arc::clone(&self.setup), self.index);
        disk.on_power_loss(move |what| {
            let at = setup.schedule.time();
            setup.log.note(at, format_args!("n{index} loses power where it was to {what}"));
            // Nobody gets an answer from now on, and the run is to see to the rest.
            setup.network.set_engine(index, None);
            setup.power.raise();
        });
        disk.set_room(self.disk_is_full.then_some(0));
        self.disk = disk;
    }

    /// Bytes of the segments that it has made of writes.
    pub(super) fn flushed_bytes(&self) -> u64 {
        let now = self.running.as_ref().map_or(0, |running| running.engine.flushed_bytes());
        self.flushed + now
    }

    /// Ends its compactions as soon as its tasks get to it.
    pub(super) fn stop_compacting(&self) {
        if let Some(running) = &self.running {
            running.host.stop_compacting();
        }
    }

    /// Unix nanoseconds, by the node's clock.
    pub(super) fn now(&self) -> i64 {
        let since = self.env.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }

    pub(super) fn jump(&self, by: i64) {
        self.ahead.fetch_add(by, Ordering::Relaxed);
    }

    /// Until it has room again, whether it loses power meanwhile or not.
    pub(super) fn set_disk_full(&mut self, full: bool) {
        self.disk_is_full = full;
        self.disk.set_room(full.then_some(0));
    }

    /// Another file of the same policy takes over, or the first one again.
    pub(super) fn swap(&self, variant: bool) -> Result<(), String> {
        let Some(Running { host, .. }) = self.running() else { return Ok(()) };
        let file = if variant { &self.setup.variant } else { &self.setup.plugin };
        host.swap_policy(file).map(drop).map_err(|error| error.to_string())
    }

    /// Power is lost, with what was not synced, or has been within an operation of the disk.
    pub(super) fn crash(&mut self) {
        let running = self.running.take();
        if running.is_none() && !self.lost_power() {
            // What was planned for its next start is off.
            self.disk.cancel();
            return;
        }
        self.crashes += 1;
        self.disk.cut_power();
        self.setup.network.set_engine(self.index, None);
        let seed = self.setup.schedule.random();
        let next = self.root.join((self.generation + 1).to_string());
        self.disk.crash(seed, &next);
        // What it still does is done to a disk that is gone.
        if let Some(running) = running {
            self.flushed += running.engine.flushed_bytes();
            self.had = running.engine.manifest().into_iter().map(|segment| segment.hash).collect();
            running.host.shutdown();
        }
        // Somebody may still read from it; then it goes with the whole run.
        let _ = std::fs::remove_dir_all(self.folder());
        self.generation += 1;
        self.plug_in(FaultyDisk::new(&next));
    }

    /// While it is down, the file of one of its segments vanishes, or a bit of it changes. Half of
    /// the time it is one of the newest, which others may not have yet. None where there is none.
    pub(super) fn hurt_segment(&mut self, damage: bool) -> std::io::Result<Option<Hash>> {
        let dir = self.db().join("segments");
        let file = |hash: &Hash| dir.join(format!("{hash}.dat"));
        let there: Vec<Hash> =
            self.had.iter().filter(|hash| file(hash).exists()).copied().collect();
        if there.is_empty() {
            return Ok(None);
        }
        let schedule = &self.setup.schedule;
        let among = if schedule.chance() < 0.5 { NEWEST.min(there.len()) } else { there.len() };
        let hash = there[there.len() - 1 - schedule.below(among)];
        if damage {
            let mut bytes = std::fs::read(file(&hash))?;
            let bit = schedule.below(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(file(&hash), bytes)?;
        } else {
            std::fs::remove_file(file(&hash))?;
        }
        self.hurt.push(Hurt { hash, damaged: damage });
        self.plug_in(FaultyDisk::new(&self.folder()));
        Ok(Some(hash))
    }

    /// Whether a registered segment's file is not what its hash says.
    pub(super) fn is_damaged(&self, hash: &Hash) -> bool {
        let Some(engine) = self.engine() else { return false };
        let file = self.db().join(format!("segments/{hash}.dat"));
        engine.manifest().iter().any(|segment| segment.hash == *hash)
            && std::fs::read(file).is_ok_and(|bytes| Hash::of(&bytes) != *hash)
    }

    fn copy_folder(&self, fault: usize) -> PathBuf {
        self.root.join(format!("copy-{fault}"))
    }

    /// Copies all that is on its disk at this instant.
    pub(super) fn back_up(&self, fault: usize) {
        // All that was written counts: a copy sees what reads see.
        self.disk.crash(1, &self.copy_folder(fault));
    }

    /// While it is down, the records and segments of the copy are put in the place of its own. What
    /// else is in the database's folder stays.
    pub(super) fn restore(&mut self, fault: usize) -> std::io::Result<()> {
        let (copy, db) = (self.copy_folder(fault), self.db());
        for name in ["records", "segments"] {
            std::fs::remove_dir_all(db.join(name))?;
            std::fs::rename(copy.join("db").join(name), db.join(name))?;
        }
        std::fs::remove_dir_all(copy)?;
        self.restored = true;
        self.plug_in(FaultyDisk::new(&self.folder()));
        Ok(())
    }

    /// Power is back, and `verify --repair` comes before the host. Returns what that found.
    pub(super) fn boot_after_repair(&mut self) -> Result<Verified, String> {
        let engine = self.open()?;
        let repaired = engine.verify(true, |_, _| {});
        let found = repaired.map_err(|error| format!("can't repair: {error}"))?;
        self.run(engine).map(|()| found)
    }

    /// Power is back, and `clock --restamp` comes before the host.
    pub(super) fn boot_after_restamp(&mut self) -> Result<(), String> {
        let engine = self.open()?;
        engine.restamp(false).map_err(|error| format!("can't stamp again: {error}"))?;
        self.run(engine)
    }

    /// Power is back.
    pub(super) fn boot(&mut self) -> Result<(), String> {
        if self.running.is_some() {
            return Ok(());
        }
        let engine = self.open()?;
        self.run(engine)
    }

    fn open(&mut self) -> Result<Arc<Engine>, String> {
        self.boots += 1;
        let (clock, monotonic) = (Arc::clone(&self.env), Arc::clone(&self.env));
        let options = EngineOptions {
            clock: WallClock::new(move || clock.now()),
            monotonic: MonotonicClock::new(move || monotonic.monotonic()),
            cache_bytes: 1 << 20,
            filter_bytes: 64 << 10,
            memtable_bytes: 1 << 20,
            seed: Some((self.index as u64) << 32 | self.boots),
            #[cfg(test)]
            ties_keep_local: self.setup.plant.ties_keep_local(),
            ..EngineOptions::default()
        };
        let engine = Engine::open_on(&self.db(), options, self.disk.shared());
        Ok(Arc::new(engine.map_err(|error| format!("can't open: {error}"))?))
    }

    fn run(&mut self, engine: Arc<Engine>) -> Result<(), String> {
        #[cfg(test)]
        self.setup.plant.into_disk(&self.disk);
        let host = self.host(&engine).map_err(|error| format!("can't start: {error}"))?;
        if !self.lost_power() {
            self.setup.network.set_engine(self.index, Some(Arc::clone(&engine)));
        }
        self.running = Some(Running { engine, host });
        self.up_since = self.setup.schedule.time();
        Ok(())
    }

    fn host(&self, engine: &Arc<Engine>) -> Result<Host, HostError> {
        let setup = &self.setup;
        let (log, schedule) = (Arc::clone(&setup.log), setup.schedule.clone());
        let (index, ticks) = (self.index, Arc::clone(&self.ticks));
        let disk = self.disk.clone();
        let ended = move |&Ended { peer, took, result, next }: &Ended<'_>| {
            if disk.lost_power() {
                // That a node without power fails is no fault of its policy.
                return;
            }
            let at = schedule.time();
            let mut counts = ticks.counts();
            counts.ended += 1;
            counts.last.insert(peer.to_owned(), (at, at + next.unwrap_or_default()));
            if counts.marks.len() < MARKS {
                let (at, ok) = (at.saturating_sub(took), result.is_ok());
                counts.marks.push(TickMark { at, node: index, took, ok });
            }
            match result {
                Ok(TickReport { in_sync, missing, applied, failed, pending, .. }) => {
                    let counts = format!(
                        "missing {missing}, applied {applied}, failed {failed}, pending {pending}"
                    );
                    let state = if *in_sync { "in sync" } else { "not in sync" };
                    log.note(at, format_args!("n{index} tick {peer}: {counts}, {state}"));
                }
                Err(error) => {
                    counts.failed += 1;
                    log.note(at, format_args!("n{index} tick {peer}: {error}"));
                    if error.blames_policy() {
                        counts.blamed.push((at, format!("n{index} tick {peer}: {error}")));
                    }
                }
            }
        };
        let compacted = self.compacted();
        let mut builder = Host::builder(Arc::clone(engine))
            .env(Arc::clone(&self.env))
            .policies(setup.policies.clone())
            .plugin(&setup.plugin)
            .watch_plugin(false)
            // What is under test is the policy, however bad it is.
            .max_failures(u32::MAX)
            .interval(setup.scenario.interval)
            .flush_interval(setup.scenario.flush_interval)
            .flush_delay(None)
            .compact_interval(setup.scenario.compact_interval)
            .compact_rate(Some(COMPACT_RATE))
            .on_compaction(compacted)
            .observer(Arc::clone(&self.ticks) as _)
            .on_tick(ended);
        for (key, value) in &setup.scenario.settings {
            builder = builder.setting(key, value);
        }
        for source in setup.network.sources(self.index) {
            let peer = setup.network.peer(self.index, source);
            builder = builder.transport(format!("n{source}"), Arc::new(peer));
        }
        builder.start()
    }

    /// Notes what a compaction did.
    fn compacted(&self) -> impl Fn(&Result<Compacted, EngineError>) + Send + Sync + 'static {
        let (setup, disk, index) = (Arc::clone(&self.setup), self.disk.clone(), self.index);
        move |result| {
            let at = setup.schedule.time();
            match result {
                _ if disk.lost_power() => {}
                Ok(Compacted { retired: 0, made: 0, forgotten: 0, .. }) => {}
                Ok(Compacted { retired, merged, made, forgotten, .. }) => {
                    let did = format!("retired {retired}, made {made} of {merged}");
                    setup
                        .log
                        .note(at, format_args!("n{index} compacts: {did}, forgot {forgotten}"));
                }
                Err(error) => setup.log.note(at, format_args!("n{index} can't compact: {error}")),
            }
        }
    }

    /// Ends the node in order.
    pub(super) fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            self.setup.network.set_engine(self.index, None);
            running.host.shutdown();
        }
    }
}
