//! What a request to a peer takes, loses and changes.
//!
//! A request goes through here on the task that makes it, which sleeps for as long as the way to the
//! peer and back takes. What the peer answers is what its engine has at the moment the request is
//! there. So a node answers while its own ticks wait, as a server does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use edgestore_engine::{Engine, Hash, StagedSegment, StagingFile, Watermark};
use edgestore_protocol::{
    FetchError, PeerError, PeerTransport, SegmentInfo, SegmentList, SegmentRef,
};

use super::log::EventLog;
use super::outcome::LinkCounts;
use super::scenario::Link;
use super::schedule::Schedule;

/// Until a connection is given up, and an answer of which no byte comes. As the client's defaults.
const CONNECT: Duration = Duration::from_secs(5);
const READ: Duration = Duration::from_secs(10);

/// Bytes of a segment that are sent at a time.
const CHUNK: usize = 64 << 10;

/// About the bytes of an answer to a probe, and of a segment in a manifest.
const PROBE_BYTES: u64 = 200;
const ENTRY_BYTES: u64 = 140;

/// The network of one simulation.
pub(super) struct Network {
    schedule: Schedule,
    log: Arc<EventLog>,
    /// By node; none while it is down.
    engines: Vec<Mutex<Option<Arc<Engine>>>>,
    links: BTreeMap<(usize, usize), Mutex<LinkState>>,
    faults: Mutex<NetworkFaults>,
    pulls: Mutex<Vec<Pulls>>,
    /// Lists that were sent, and those behind roots that were, by their roots.
    offered: Mutex<HashMap<Hash, Arc<[Hash]>>>,
    /// By node, what it had when it was last asked, by id, and the root of that.
    manifests: Vec<Mutex<(Hash, Vec<SegmentRef>)>>,
}

/// What one node has asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct Pulls {
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) segments: u64,
    pub(super) duplicates: u64,
    seen: BTreeSet<Hash>,
}

struct LinkState {
    link: Link,
    /// Transfers that share it now.
    active: u32,
    counts: LinkCounts,
}

/// What goes wrong on the network now, by node.
#[derive(Debug, Default)]
pub(super) struct NetworkFaults {
    /// Each of these sets can reach itself and not the rest.
    pub(super) partitions: Vec<BTreeSet<usize>>,
    pub(super) slow: BTreeMap<usize, f64>,
    pub(super) hanging: BTreeSet<usize>,
    pub(super) cutting: BTreeSet<usize>,
    pub(super) flipping: BTreeSet<usize>,
    pub(super) lying_root: BTreeSet<usize>,
    pub(super) lying_manifest: BTreeSet<usize>,
}

impl NetworkFaults {
    fn separates(&self, a: usize, b: usize) -> bool {
        self.partitions.iter().any(|island| island.contains(&a) != island.contains(&b))
    }
}

impl Network {
    pub(super) fn new(
        schedule: &Schedule,
        log: &Arc<EventLog>,
        nodes: usize,
        links: impl IntoIterator<Item = ((usize, usize), Link)>,
    ) -> Arc<Self> {
        let link = |((puller, source), link)| {
            let counts = LinkCounts { puller, source, ..LinkCounts::default() };
            ((puller, source), Mutex::new(LinkState { link, active: 0, counts }))
        };
        Arc::new(Self {
            schedule: schedule.clone(),
            log: Arc::clone(log),
            engines: (0..nodes).map(|_| Mutex::default()).collect(),
            links: links.into_iter().map(link).collect(),
            faults: Mutex::default(),
            pulls: Mutex::new(vec![Pulls::default(); nodes]),
            offered: Mutex::default(),
            manifests: (0..nodes).map(|_| Mutex::new((Hash::ZERO, Vec::new()))).collect(),
        })
    }

    pub(super) fn faults(&self) -> MutexGuard<'_, NetworkFaults> {
        lock(&self.faults)
    }

    /// The node is up with this engine, or down.
    pub(super) fn set_engine(&self, node: usize, engine: Option<Arc<Engine>>) {
        *lock(&self.manifests[node]) = (Hash::ZERO, Vec::new());
        *lock(&self.engines[node]) = engine;
    }

    pub(super) fn engine(&self, node: usize) -> Option<Arc<Engine>> {
        lock(&self.engines[node]).clone()
    }

    /// By puller, then source.
    pub(super) fn counts(&self) -> Vec<LinkCounts> {
        self.links.values().map(|link| lock(link).counts.clone()).collect()
    }

    /// What the nodes have asked for.
    pub(super) fn pulls(&self) -> Vec<Pulls> {
        lock(&self.pulls).clone()
    }

    /// The list that has this root.
    pub(super) fn offered(&self, root: &Hash) -> Option<Arc<[Hash]>> {
        lock(&self.offered).get(root).cloned()
    }

    /// What a node has. What is as it was is not read again.
    fn manifest(&self, node: usize, engine: &Engine) -> (Hash, Vec<SegmentRef>) {
        let mut known = lock(&self.manifests[node]);
        let (root, segments) = &mut *known;
        if *root != engine.root() {
            *root = engine.root();
            let now = engine.manifest();
            let same = segments.iter().zip(&now);
            let same = same
                .take_while(|(known, meta)| (known.hash, known.id) == (meta.hash, meta.id))
                .count();
            segments.truncate(same);
            let next = now.get(same).map_or(u64::MAX, |meta| meta.id);
            segments.extend(engine.extents_from(next).map(|(meta, extent)| {
                let info = extent.map(|extent| Box::new(SegmentInfo::new(&meta, extent)));
                SegmentRef { hash: meta.hash, id: meta.id, info }
            }));
        }
        (*root, segments.clone())
    }

    /// Remembers what is behind a root that was sent.
    fn offer<I: Iterator<Item = Hash>>(&self, root: Hash, hashes: impl FnOnce() -> I) {
        lock(&self.offered).entry(root).or_insert_with(|| hashes().collect());
    }

    /// The peers that a node pulls from.
    pub(super) fn sources(&self, puller: usize) -> Vec<usize> {
        let sources = self.links.keys().filter(|(node, _)| *node == puller);
        sources.map(|(_, source)| *source).collect()
    }

    pub(super) fn peer(self: &Arc<Self>, puller: usize, source: usize) -> SimPeer {
        SimPeer { network: Arc::clone(self), puller, source }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node as another one reaches it.
pub(super) struct SimPeer {
    network: Arc<Network>,
    puller: usize,
    source: usize,
}

impl SimPeer {
    fn link(&self) -> MutexGuard<'_, LinkState> {
        lock(&self.network.links[&(self.puller, self.source)])
    }

    fn sleep(&self, time: Duration) {
        let schedule = &self.network.schedule;
        schedule.sleep_until(schedule.time() + time);
    }

    /// One way over the link.
    fn latency(&self) -> Duration {
        let (latency, jitter) = {
            let state = self.link();
            (state.link.latency, state.link.jitter)
        };
        let jitter = jitter.mul_f64(self.network.schedule.chance());
        (latency + jitter).mul_f64(self.slowness())
    }

    fn slowness(&self) -> f64 {
        self.network.faults().slow.get(&self.source).copied().unwrap_or(1.0)
    }

    /// How long so many bytes take, while so many transfers share the link.
    fn transfer(&self, bytes: u64) -> Duration {
        let state = self.link();
        let Some(bandwidth) = state.link.bandwidth else { return Duration::ZERO };
        let seconds = bytes as f64 * f64::from(state.active.max(1)) / bandwidth as f64;
        drop(state);
        Duration::from_secs_f64(seconds * self.slowness())
    }

    /// Sends a request, and returns the engine that answers when it is there.
    fn ask(&self, what: &str) -> Result<Arc<Engine>, PeerError> {
        self.link().counts.requests += 1;
        let answer = self.send();
        {
            let mut pulls = lock(&self.network.pulls);
            pulls[self.puller].requests += 1;
            pulls[self.puller].failed += u64::from(answer.is_err());
        }
        let at = self.network.schedule.time();
        let (puller, source) = (self.puller, self.source);
        if let Err(error) = &answer {
            self.network.log.note(at, format_args!("n{puller} asks n{source} {what}: {error}"));
        } else {
            self.network.log.note(at, format_args!("n{puller} asks n{source} {what}"));
        }
        answer
    }

    fn send(&self) -> Result<Arc<Engine>, PeerError> {
        if self.network.faults().separates(self.puller, self.source) {
            self.sleep(CONNECT);
            return Err(PeerError::Unreachable("no route".into()));
        }
        let loss = self.link().link.loss;
        if loss > 0.0 && self.network.schedule.chance() < loss {
            self.sleep(READ);
            return Err(PeerError::Timeout("lost".into()));
        }
        self.sleep(self.latency());
        if self.network.faults().hanging.contains(&self.source) {
            self.sleep(READ);
            return Err(PeerError::Timeout("no byte came".into()));
        }
        match self.network.engine(self.source) {
            Some(engine) => Ok(engine),
            None => {
                self.sleep(self.latency());
                Err(PeerError::Unreachable("refused".into()))
            }
        }
    }

    /// The answer comes back.
    fn back<T>(&self, bytes: u64, answer: T) -> Result<T, PeerError> {
        self.link().counts.control_bytes += bytes;
        self.sleep(self.latency() + self.transfer(bytes));
        if self.network.faults().separates(self.puller, self.source) {
            self.sleep(READ);
            return Err(PeerError::Timeout("the answer did not come".into()));
        }
        Ok(answer)
    }

    fn flips(&self) -> bool {
        self.network.faults().flipping.contains(&self.source)
            && self.network.schedule.chance() < 0.5
    }

    fn flip(&self, hash: Hash) -> Hash {
        let mut bytes = *hash.as_bytes();
        let bit = self.network.schedule.below(256);
        bytes[bit / 8] ^= 1 << (bit % 8);
        Hash::from_bytes(bytes)
    }

    fn made_up(&self) -> Hash {
        Hash::of(&self.network.schedule.random().to_le_bytes())
    }
}

impl PeerTransport for SimPeer {
    fn root(&self) -> Result<Hash, PeerError> {
        let engine = self.ask("for its root")?;
        let mut root = if self.network.faults().lying_root.contains(&self.source) {
            self.made_up()
        } else {
            let root = engine.root();
            self.network.offer(root, || engine.manifest().into_iter().map(|meta| meta.hash));
            root
        };
        if self.flips() {
            root = self.flip(root);
        }
        self.back(PROBE_BYTES, root)
    }

    fn watermark(&self) -> Result<Option<Watermark>, PeerError> {
        let engine = self.ask("for its watermark")?;
        self.back(PROBE_BYTES, Some(engine.watermark()))
    }

    fn manifest(&self) -> Result<SegmentList, PeerError> {
        let engine = self.ask("for its manifest")?;
        let (root, mut segments) = self.network.manifest(self.source, &engine);
        let lies = self.network.faults().lying_manifest.contains(&self.source);
        if lies {
            segments.retain(|_| self.network.schedule.chance() < 0.7);
            for id in 0..3 {
                segments.push(SegmentRef { hash: self.made_up(), id: u64::MAX - id, info: None });
            }
        }
        let flips = self.flips();
        if flips && let Some(last) = segments.last_mut() {
            last.hash = self.flip(last.hash);
        }
        let hashes = || segments.iter().map(|segment| segment.hash);
        self.network.offer(if lies || flips { Hash::root(hashes()) } else { root }, hashes);
        let bytes = PROBE_BYTES + ENTRY_BYTES * segments.len() as u64;
        self.back(bytes, segments.into_iter().collect())
    }

    fn fetch(
        &self,
        hash: Hash,
        mut into: StagingFile,
        cancel: &Arc<AtomicBool>,
    ) -> Result<StagedSegment, FetchError> {
        let engine = self.ask(&format!("for segment {}", hash.short()))?;
        let opened = engine.open_segment(&hash);
        let Ok(Some((mut file, _))) = opened else {
            self.back(PROBE_BYTES, ())?;
            return Err(FetchError::NotFound);
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|_| PeerError::Malformed("the body ends".into()))?;
        if self.flips() {
            let bit = self.network.schedule.below(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let cut = self.network.faults().cutting.contains(&self.source);
        let end = if cut { bytes.len() / 2 } else { bytes.len() };
        self.sleep(self.latency());
        self.link().active += 1;
        let sent = self.stream(&bytes[..end], &mut into, cancel);
        self.link().active -= 1;
        sent?;
        if cut {
            return Err(PeerError::Malformed("the body ends before its end".into()).into());
        }
        let staged = into.verify(hash)?;
        let mut pulls = lock(&self.network.pulls);
        let pulls = &mut pulls[self.puller];
        pulls.segments += 1;
        pulls.duplicates += u64::from(!pulls.seen.insert(hash));
        Ok(staged)
    }
}

impl SimPeer {
    fn stream(
        &self,
        bytes: &[u8],
        into: &mut StagingFile,
        cancel: &Arc<AtomicBool>,
    ) -> Result<(), FetchError> {
        for chunk in bytes.chunks(CHUNK) {
            self.sleep(self.transfer(chunk.len() as u64));
            if cancel.load(Ordering::Relaxed) {
                return Err(FetchError::Cancelled);
            }
            let gone = self.network.engine(self.source).is_none()
                || self.network.faults().separates(self.puller, self.source);
            if gone {
                self.sleep(READ);
                return Err(PeerError::Timeout("no further byte came".into()).into());
            }
            self.link().counts.segment_bytes += chunk.len() as u64;
            into.write_all(chunk).map_err(FetchError::Storage)?;
        }
        Ok(())
    }
}
