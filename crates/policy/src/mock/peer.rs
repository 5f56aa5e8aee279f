//! The peers of the mock, and what can be had from them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::rc::Rc;
use std::vec;

use super::{Event, World, root, segment};
use crate::host::{Manifest, Peer, Segment, Transfer};
use crate::types::{
    ApplyError, FetchError, Hash, KeyRange, PeerError, RootInfo, SegmentInfo, SegmentRef, Watermark,
};

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    /// It is fetched and applied.
    Fine,
    /// `start_fetch` fails.
    NotStarted(FetchError),
    /// `take` fails.
    NotFetched(FetchError),
    /// `apply` fails.
    NotApplied(ApplyError),
}

/// A segment that a peer lists.
#[derive(Clone, Debug)]
pub struct Listed {
    hash: Hash,
    /// None for a peer that speaks version 1 of the protocol alone.
    info: Option<SegmentInfo>,
    keys: Option<KeyRange>,
}

impl Listed {
    /// Segment `n`, of which the peer says nothing more.
    pub fn number(n: u64) -> Listed {
        Listed { hash: segment(n), info: None, keys: None }
    }

    /// The peer says how large it is. Where it does not, it counts as empty.
    pub fn size(mut self, bytes: u64) -> Listed {
        self.info_mut().size = bytes;
        self
    }

    /// The peer says how old its newest record is, since the Unix epoch.
    pub fn newest_ms(mut self, ms: u64) -> Listed {
        self.info_mut().newest_ms = ms;
        self
    }

    /// The peer says that its records lie in these namespaces and those between.
    pub fn namespaces(mut self, first: &str, last: &str) -> Listed {
        self.keys = Some(KeyRange {
            first_namespace: first.into(),
            first_key: Vec::new(),
            last_namespace: last.into(),
            last_key: Vec::new(),
        });
        self
    }

    fn info_mut(&mut self) -> &mut SegmentInfo {
        let unsaid = SegmentInfo { size: 0, records: 3, newest_ms: 0, created_ms: 0 };
        self.info.get_or_insert(unsaid)
    }

    fn bytes(&self) -> u64 {
        self.info.map_or(0, |info| info.size)
    }
}

/// How a peer is and answers. Change it between ticks.
pub struct PeerState {
    /// Its name.
    pub id: String,
    /// What it lists, in its order.
    pub listed: RefCell<Vec<Listed>>,
    /// What its probe answers instead of the root over its list.
    pub claimed_root: Cell<Option<Hash>>,
    /// Its probes fail.
    pub probe_error: Cell<Option<PeerError>>,
    /// How many probes are answered before it is unreachable; `None` for all.
    pub probes_left: Cell<Option<u32>>,
    /// Its manifests fail.
    pub manifest_error: Cell<Option<PeerError>>,
    /// What its probe says of its log.
    pub watermark: Cell<Option<Watermark>>,
    /// What becomes of segments; those that are not here are fine.
    pub fates: RefCell<BTreeMap<Hash, Fate>>,
    /// How long a request takes before its first byte.
    pub latency_ms: Cell<u64>,
    /// How long a transfer takes more than that.
    pub transfer_ms: Cell<u64>,
    /// How fast its line is, for all transfers together; none takes no time at all.
    pub bytes_per_ms: Cell<Option<u64>>,
    /// How long transfers take, whatever the latency and the line.
    pub durations_ms: RefCell<BTreeMap<Hash, u64>>,
    /// Requests to it by ticks of other peers.
    pub others_load: Cell<u32>,
    /// What manifests of this tick list, with the sizes.
    pub(super) offered: RefCell<BTreeMap<Hash, u64>>,
    /// What is being fetched from it, or was and is not applied.
    pub(super) flying: RefCell<Vec<Hash>>,
    /// When its line has nothing more to carry.
    line_free_ms: Cell<u64>,
}

impl PeerState {
    pub(super) fn new(id: &str, numbers: impl IntoIterator<Item = u64>) -> PeerState {
        PeerState {
            id: id.into(),
            listed: RefCell::new(numbers.into_iter().map(Listed::number).collect()),
            claimed_root: Cell::default(),
            probe_error: Cell::default(),
            probes_left: Cell::default(),
            manifest_error: Cell::default(),
            watermark: Cell::default(),
            fates: RefCell::default(),
            latency_ms: Cell::default(),
            transfer_ms: Cell::default(),
            bytes_per_ms: Cell::default(),
            durations_ms: RefCell::default(),
            others_load: Cell::default(),
            offered: RefCell::default(),
            flying: RefCell::default(),
            line_free_ms: Cell::default(),
        }
    }

    /// Lists one more segment.
    pub fn list(&self, listed: Listed) {
        self.listed.borrow_mut().push(listed);
    }

    /// Lists these segments, and no others any more.
    pub fn list_only(&self, numbers: impl IntoIterator<Item = u64>) {
        *self.listed.borrow_mut() = numbers.into_iter().map(Listed::number).collect();
    }

    /// Decides what becomes of segment `n`.
    pub fn set_fate(&self, n: u64, fate: Fate) {
        self.fates.borrow_mut().insert(segment(n), fate);
    }

    /// The root over what it lists.
    pub fn root(&self) -> Hash {
        root(&self.listed.borrow().iter().map(|listed| listed.hash).collect())
    }

    fn fate_of(&self, hash: &Hash) -> Fate {
        self.fates.borrow().get(hash).copied().unwrap_or(Fate::Fine)
    }

    /// When a transfer that starts now is done.
    fn done_ms(&self, hash: &Hash, bytes: u64, now_ms: u64) -> u64 {
        if let Some(ms) = self.durations_ms.borrow().get(hash) {
            return now_ms.saturating_add(*ms);
        }
        let first_byte_ms = now_ms + self.latency_ms.get() + self.transfer_ms.get();
        let Some(bytes_per_ms) = self.bytes_per_ms.get() else { return first_byte_ms };
        let last_byte_ms =
            first_byte_ms.max(self.line_free_ms.get()) + bytes.div_ceil(bytes_per_ms.max(1));
        self.line_free_ms.set(last_byte_ms);
        last_byte_ms
    }
}

/// A peer. Its fields are those of [`PeerState`].
#[derive(Clone)]
pub struct MockPeer {
    world: Rc<World>,
    state: Rc<PeerState>,
}

impl Deref for MockPeer {
    type Target = PeerState;

    fn deref(&self) -> &PeerState {
        &self.state
    }
}

impl MockPeer {
    pub(super) fn new(world: Rc<World>, state: Rc<PeerState>) -> MockPeer {
        MockPeer { world, state }
    }

    fn request(&self, error: Option<PeerError>) -> Result<(), PeerError> {
        let in_time = self.world.wait(self.latency_ms.get());
        error.or((!in_time).then_some(PeerError::Timeout)).map_or(Ok(()), Err)
    }
}

impl Peer for MockPeer {
    type Manifest = MockManifest;
    type Transfer = MockTransfer;

    fn id(&self) -> String {
        self.id.clone()
    }

    fn load(&self) -> u32 {
        self.flying.borrow().len() as u32 + self.others_load.get()
    }

    fn probe(&self) -> Result<RootInfo, PeerError> {
        self.world.happened(Event::Probe(self.id.clone()));
        let gone = self.probes_left.get() == Some(0);
        self.probes_left.set(self.probes_left.get().map(|left| left.saturating_sub(1)));
        self.request(self.probe_error.get().or(gone.then_some(PeerError::Unreachable)))?;
        let root = self.claimed_root.get().unwrap_or_else(|| self.root());
        Ok(RootInfo { root, watermark: self.watermark.get() })
    }

    fn manifest(&self) -> Result<MockManifest, PeerError> {
        self.world.happened(Event::Manifest(self.id.clone()));
        self.request(self.manifest_error.get())?;
        let listed = self.listed.borrow().clone();
        let sizes = listed.iter().map(|listed| (listed.hash, listed.bytes()));
        self.offered.borrow_mut().extend(sizes);
        Ok(MockManifest { world: self.world.clone(), root: self.root(), listed })
    }

    fn start_fetch(&self, hash: Hash) -> Result<MockTransfer, FetchError> {
        if let Fate::NotStarted(error) = self.fate_of(&hash) {
            return Err(error);
        }
        let offered = self.offered.borrow().get(&hash).copied();
        let bytes = offered.ok_or(FetchError::NotInManifest)?;
        let world = &self.world;
        if world.in_flight.get() >= world.transfer_limit.get() {
            return Err(FetchError::TooManyTransfers);
        }
        if world.started_bytes.get() >= world.byte_limit.get() {
            return Err(FetchError::TooManyBytes);
        }
        world.happened(Event::Fetch(self.id.clone(), hash));
        world.started_bytes.set(world.started_bytes.get() + bytes);
        let done_ms = self.done_ms(&hash, bytes, world.clock_ms.get());
        let slot = Slot::new(self.clone(), hash);
        Ok(MockTransfer { hash, bytes, done_ms, fate: self.fate_of(&hash), slot })
    }
}

/// What a peer listed.
pub struct MockManifest {
    world: Rc<World>,
    root: Hash,
    listed: Vec<Listed>,
}

impl Manifest for MockManifest {
    fn length(&self) -> u32 {
        self.listed.len() as u32
    }

    fn root(&self) -> Hash {
        self.root
    }

    fn missing(&self) -> vec::IntoIter<SegmentRef> {
        let local = self.world.local.borrow();
        let missing = self.listed.iter().filter(|listed| !local.contains(&listed.hash));
        let reference = |listed: &Listed| SegmentRef {
            hash: listed.hash,
            id: listed.hash.a,
            info: listed.info,
        };
        missing.map(reference).collect::<Vec<_>>().into_iter()
    }

    fn keys(&self, hash: Hash) -> Option<KeyRange> {
        self.listed.iter().find(|listed| listed.hash == hash)?.keys.clone()
    }
}

/// The place of a transfer, or of its segment, among those that the host allows.
struct Slot {
    peer: MockPeer,
    hash: Hash,
}

impl Slot {
    fn new(peer: MockPeer, hash: Hash) -> Slot {
        let world = &peer.world;
        world.in_flight.set(world.in_flight.get() + 1);
        world.most_in_flight.set(world.most_in_flight.get().max(world.in_flight.get()));
        peer.flying.borrow_mut().push(hash);
        Slot { peer, hash }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let world = &self.peer.world;
        world.in_flight.set(world.in_flight.get() - 1);
        let mut flying = self.peer.flying.borrow_mut();
        if let Some(position) = flying.iter().position(|hash| *hash == self.hash) {
            flying.swap_remove(position);
        }
    }
}

/// A running download.
pub struct MockTransfer {
    hash: Hash,
    bytes: u64,
    pub(super) done_ms: u64,
    fate: Fate,
    slot: Slot,
}

impl Transfer for MockTransfer {
    type Segment = MockSegment;

    fn hash(&self) -> Hash {
        self.hash
    }

    fn take(self) -> Result<MockSegment, FetchError> {
        if self.done_ms > self.slot.peer.world.clock_ms.get() {
            return Err(FetchError::NotReady);
        }
        if let Fate::NotFetched(error) = self.fate {
            return Err(error);
        }
        let slot = RefCell::new(Some(self.slot));
        Ok(MockSegment { hash: self.hash, bytes: self.bytes, fate: self.fate, slot })
    }
}

/// A verified segment.
pub struct MockSegment {
    hash: Hash,
    bytes: u64,
    pub(super) fate: Fate,
    slot: RefCell<Option<Slot>>,
}

impl MockSegment {
    /// It is no longer among those that are neither applied nor dropped.
    pub(super) fn applied(&self) {
        self.slot.borrow_mut().take();
    }
}

impl Segment for MockSegment {
    fn hash(&self) -> Hash {
        self.hash
    }

    fn size(&self) -> u64 {
        self.bytes
    }
}
