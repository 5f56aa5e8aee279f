//! A host for unit tests: peers that do as they are told, a virtual clock, and a list of what the
//! policy asked for. A test runs as natively and as fast as any other.
//!
//! It checks by itself that no transfer outlives its tick, and, for policies that use the
//! [`Ledger`](crate::Ledger) and where [`check_ledger`](World::check_ledger) is set, that the cursor
//! is never ahead of the data. See the crate's first page for an example.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Deref;
use std::rc::Rc;

use crate::Policy;
use crate::host::{Host, Segment as _};
use crate::stock::PeerCursor;
use crate::types::{
    Applied, ApplyError, Context, Hash, Level, Reason, StoreError, TickFailure, TickReport,
    UploadError, UploadOutcome,
};

mod peer;

pub use peer::{Fate, Listed, MockManifest, MockPeer, MockSegment, MockTransfer, PeerState};

/// The name of the peer being ticked.
pub const PEER: &str = "peer";

/// The hash of segment `n`: its first word is `n`.
pub fn segment(n: u64) -> Hash {
    Hash { a: n, b: 0, c: 0, d: 1 }
}

/// Like the real root it depends on the set alone, and is zero when that is empty.
pub fn root(segments: &BTreeSet<Hash>) -> Hash {
    segments.iter().fold(Hash::ZERO, |root, hash| Hash {
        a: root.a.wrapping_mul(31).wrapping_add(hash.a + 1),
        b: root.b + 1,
        ..root
    })
}

/// What a policy asked for, with the peer's name where there is one.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A cursor to store.
    Store,
    /// A probe.
    Probe(String),
    /// A manifest.
    Manifest(String),
    /// A transfer, and it was started.
    Fetch(String, Hash),
    /// To apply a segment.
    Apply(Hash),
    /// To upload a segment.
    Upload(Hash),
}

/// The host. Its fields are those of [`World`].
pub struct MockHost {
    world: Rc<World>,
    ticked: MockPeer,
}

/// All there is around a policy. Change it between ticks, and look at it after them.
pub struct World {
    /// The segments in the local engine.
    pub local: RefCell<BTreeSet<Hash>>,
    /// What other peers' ticks are fetching.
    pub elsewhere: RefCell<BTreeSet<Hash>>,
    /// While the first segment is applied, another peer's tick brings the second one.
    pub arrives_with: Cell<Option<(Hash, Hash)>>,
    /// The cursor.
    pub stored: RefCell<Option<Vec<u8>>>,
    /// Bytes of all cursors stored so far.
    pub stored_bytes: Cell<usize>,
    /// The largest cursor that is taken.
    pub store_limit: Cell<Option<u64>>,
    /// No cursor can be stored.
    pub disk_full: Cell<bool>,
    /// Whether cursors are those of a [`Ledger`](crate::Ledger), to be checked against the data.
    pub check_ledger: Cell<bool>,
    /// Whether there is an archive, and whether it works.
    pub archive: Cell<Option<bool>>,
    /// Most transfers, and segments neither applied nor dropped, at a time.
    pub transfer_limit: Cell<usize>,
    /// Bytes after which no transfer starts in a tick.
    pub byte_limit: Cell<u64>,
    /// Transfers, and segments neither applied nor dropped.
    pub in_flight: Cell<usize>,
    /// The most of them in the last tick.
    pub most_in_flight: Cell<usize>,
    /// The wall clock.
    pub wall_ms: Cell<u64>,
    /// The monotonic clock.
    pub clock_ms: Cell<u64>,
    /// What [`Host::random`] gives; 0 is the shortest wait that jitter allows.
    pub random: Cell<u64>,
    /// What was asked for in the last tick, in order.
    pub events: RefCell<Vec<Event>>,
    /// The lines logged in the last tick.
    pub logs: RefCell<Vec<String>>,
    /// The user's settings.
    pub settings: RefCell<Vec<(String, String)>>,
    /// See [`Context`].
    pub reason: Cell<Reason>,
    /// See [`Context`].
    pub budget_ms: Cell<u64>,
    /// See [`Context`].
    pub interval_ms: Cell<u64>,
    peers: RefCell<Vec<Rc<PeerState>>>,
    /// When the host ends the tick, by the monotonic clock.
    tick_ends_ms: Cell<u64>,
    started_bytes: Cell<u64>,
}

impl Deref for MockHost {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl MockHost {
    /// One peer, [`PEER`], that lists the segments of these numbers, and an engine with segment 0,
    /// which the peer lists as well. Ticks have 10 s and come every 30 s.
    pub fn with(numbers: impl IntoIterator<Item = u64>) -> MockHost {
        let world = Rc::new(World {
            local: RefCell::new([segment(0)].into()),
            elsewhere: RefCell::default(),
            arrives_with: Cell::default(),
            stored: RefCell::default(),
            stored_bytes: Cell::default(),
            store_limit: Cell::default(),
            disk_full: Cell::default(),
            check_ledger: Cell::default(),
            archive: Cell::default(),
            transfer_limit: Cell::new(64),
            byte_limit: Cell::new(u64::MAX),
            in_flight: Cell::default(),
            most_in_flight: Cell::default(),
            wall_ms: Cell::new(1_700_000_000_000),
            clock_ms: Cell::new(1_000),
            random: Cell::default(),
            events: RefCell::default(),
            logs: RefCell::default(),
            settings: RefCell::default(),
            reason: Cell::new(Reason::Interval),
            budget_ms: Cell::new(10_000),
            interval_ms: Cell::new(30_000),
            peers: RefCell::default(),
            tick_ends_ms: Cell::new(u64::MAX),
            started_bytes: Cell::default(),
        });
        let ticked = world.add(PEER, std::iter::once(0).chain(numbers));
        MockHost { world, ticked }
    }

    /// Another peer, that lists the segments of these numbers.
    pub fn add_peer(&self, id: &str, numbers: impl IntoIterator<Item = u64>) -> MockPeer {
        self.world.add(id, numbers)
    }

    /// Decides what becomes of segment `n` at the peer being ticked.
    pub fn fate(self, n: u64, fate: Fate) -> MockHost {
        self.ticked.fates.borrow_mut().insert(segment(n), fate);
        self
    }

    /// Decides how long segment `n` takes from the peer being ticked.
    pub fn takes_ms(self, n: u64, ms: u64) -> MockHost {
        self.ticked.durations_ms.borrow_mut().insert(segment(n), ms);
        self
    }

    /// Adds a setting of the user's.
    pub fn setting(self, key: &str, value: &str) -> MockHost {
        self.settings.borrow_mut().push((key.into(), value.into()));
        self
    }

    /// What the next tick is given.
    pub fn context(&self) -> Context {
        Context {
            reason: self.reason.get(),
            budget_ms: self.budget_ms.get(),
            interval_ms: self.interval_ms.get(),
            settings: self.settings.borrow().clone(),
        }
    }

    /// One tick. Events and logs are those of this tick from here on.
    pub fn try_tick<P: Policy>(&self) -> Result<TickReport, TickFailure> {
        self.events.borrow_mut().clear();
        self.logs.borrow_mut().clear();
        self.most_in_flight.set(0);
        self.started_bytes.set(0);
        self.tick_ends_ms.set(self.clock_ms.get().saturating_add(self.budget_ms.get()));
        self.peers.borrow().iter().for_each(|peer| peer.offered.borrow_mut().clear());
        let report = P::tick(self, &self.context());
        assert_eq!(self.in_flight.get(), 0, "a transfer or a segment outlived the tick");
        self.tick_ends_ms.set(u64::MAX);
        report
    }

    /// One tick that does not fail.
    #[track_caller]
    pub fn tick<P: Policy>(&self) -> TickReport {
        match self.try_tick::<P>() {
            Ok(report) => report,
            Err(failure) => panic!("the tick failed: {failure:?}"),
        }
    }
}

impl World {
    /// Lets time pass.
    pub fn pass_ms(&self, ms: u64) {
        self.wall_ms.set(self.wall_ms.get().saturating_add(ms));
        self.clock_ms.set(self.clock_ms.get().saturating_add(ms));
    }

    /// The numbers of the segments that were asked for, in order, whoever was asked.
    pub fn fetched(&self) -> Vec<u64> {
        self.fetches().into_iter().map(|(_, n)| n).collect()
    }

    /// The numbers of the segments that this peer was asked for, in order.
    pub fn fetched_from(&self, id: &str) -> Vec<u64> {
        self.fetches().into_iter().filter(|(peer, _)| peer == id).map(|(_, n)| n).collect()
    }

    /// How often something was asked for.
    pub fn count(&self, event: &Event) -> usize {
        self.events.borrow().iter().filter(|e| *e == event).count()
    }

    /// Whether a line in the log has this part.
    pub fn logged(&self, part: &str) -> bool {
        self.logs.borrow().iter().any(|line| line.contains(part))
    }

    fn add(self: &Rc<Self>, id: &str, numbers: impl IntoIterator<Item = u64>) -> MockPeer {
        let state = Rc::new(PeerState::new(id, numbers));
        self.peers.borrow_mut().push(state.clone());
        MockPeer::new(self.clone(), state)
    }

    fn fetches(&self) -> Vec<(String, u64)> {
        let fetch = |event: &Event| match event {
            Event::Fetch(peer, hash) => Some((peer.clone(), hash.a)),
            _ => None,
        };
        self.events.borrow().iter().filter_map(fetch).collect()
    }

    fn happened(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }

    /// Waits, but not beyond the end of the tick: false when that came first.
    fn wait(&self, ms: u64) -> bool {
        let left_ms = self.tick_ends_ms.get().saturating_sub(self.clock_ms.get());
        self.pass_ms(ms.min(left_ms));
        ms <= left_ms
    }

    /// What the ticked peer offered in this tick is either here or remembered.
    fn check_cursor(&self, value: &[u8]) {
        let (cursor, local) = (PeerCursor::decode(value).0, self.local.borrow());
        let Some(ticked) = self.peers.borrow().first().cloned() else { return };
        let offered = ticked.offered.borrow();
        let lost = offered.keys().find(|h| !local.contains(h) && !cursor.segments.contains_key(h));
        assert!(lost.is_none(), "the cursor is ahead of the data: it forgets {lost:?}");
    }
}

impl Host for MockHost {
    type Peer = MockPeer;
    type Manifest = MockManifest;
    type Transfer = MockTransfer;
    type Segment = MockSegment;

    fn peer(&self) -> &MockPeer {
        &self.ticked
    }

    fn peers(&self) -> Vec<MockPeer> {
        let peers = self.peers.borrow();
        peers.iter().map(|state| MockPeer::new(self.world.clone(), state.clone())).collect()
    }

    fn wait_any(&self, transfers: &[&MockTransfer], timeout_ms: u64) -> Option<u32> {
        let (position, first) = transfers.iter().enumerate().min_by_key(|(_, t)| t.done_ms)?;
        let wait_ms = first.done_ms.saturating_sub(self.clock_ms.get());
        let in_time = self.wait(wait_ms.min(timeout_ms));
        (in_time && wait_ms <= timeout_ms).then_some(position as u32)
    }

    fn local_root(&self) -> Hash {
        root(&self.local.borrow())
    }

    fn has(&self, hash: Hash) -> bool {
        self.local.borrow().contains(&hash)
    }

    fn fetching(&self, hash: Hash) -> bool {
        let here = |peer: &Rc<PeerState>| peer.flying.borrow().contains(&hash);
        self.elsewhere.borrow().contains(&hash) || self.peers.borrow().iter().any(here)
    }

    fn apply(&self, segment: &MockSegment) -> Result<Applied, ApplyError> {
        let hash = segment.hash();
        self.happened(Event::Apply(hash));
        if let Fate::NotApplied(error) = segment.fate {
            return Err(error);
        }
        if let Some((first, other)) = self.arrives_with.get()
            && first == hash
        {
            self.local.borrow_mut().insert(other);
        }
        let duplicate = !self.local.borrow_mut().insert(hash);
        segment.applied();
        Ok(Applied { written: 2, skipped: 1, duplicate })
    }

    fn load_cursor(&self) -> Option<Vec<u8>> {
        self.stored.borrow().clone()
    }

    fn store_cursor(&self, value: &[u8]) -> Result<(), StoreError> {
        self.happened(Event::Store);
        if self.disk_full.get() {
            return Err(StoreError::Storage);
        }
        if let Some(limit) = self.store_limit.get()
            && value.len() as u64 > limit
        {
            return Err(StoreError::TooLarge(limit));
        }
        // A cursor that had to be cut is no promise.
        if self.world.check_ledger.get() && self.store_limit.get().is_none() {
            self.world.check_cursor(value);
        }
        self.stored_bytes.set(self.stored_bytes.get() + value.len());
        *self.stored.borrow_mut() = Some(value.to_vec());
        Ok(())
    }

    fn archive_available(&self) -> bool {
        self.archive.get().is_some()
    }

    fn upload(&self, segment: &MockSegment) -> Result<UploadOutcome, UploadError> {
        self.happened(Event::Upload(segment.hash()));
        match self.archive.get() {
            None => Err(UploadError::Unavailable),
            Some(_) if !self.has(segment.hash()) => Err(UploadError::NotApplied),
            Some(false) => Err(UploadError::Failed),
            Some(true) => Ok(UploadOutcome::Stored),
        }
    }

    fn now_ms(&self) -> u64 {
        self.wall_ms.get()
    }

    fn monotonic_ms(&self) -> u64 {
        self.clock_ms.get()
    }

    fn random(&self) -> u64 {
        self.random.get()
    }

    fn log(&self, _: Level, message: &str) {
        self.logs.borrow_mut().push(message.into());
    }
}

#[cfg(test)]
mod tests;
