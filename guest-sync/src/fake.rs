//! A host for the tests: one peer, a virtual clock, and a list of what the policy asked for.
//!
//! It checks the cursor's promise itself, at every store: what is not pending any more is applied.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::bindings::exports::edgestore::sync::policy::{Context, Reason, TickFailure, TickReport};
use crate::cursor::Cursor;
use crate::tick;
use crate::world::{
    Applied, ApplyError, FetchError, Hash, Level, Offer, PeerError, RootInfo, SegmentRef,
    StoreError, Watermark, World,
};

pub const INTERVAL_MS: u64 = 30_000;
pub const BUDGET_MS: u64 = 10_000;

/// The hash of segment `n`.
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

/// How the host answers for one segment.
#[derive(Clone, Copy)]
pub enum Fate {
    Fine,
    /// `start-fetch` fails.
    NotStarted(FetchError),
    /// `take` fails.
    NotFetched(FetchError),
    /// `apply` fails.
    NotApplied(ApplyError),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Store,
    Probe,
    Manifest,
    Fetch(Hash),
    Apply(Hash),
    Archive(Hash),
}

pub struct Fake {
    /// What the peer lists, in its order.
    pub listed: RefCell<Vec<Hash>>,
    /// What the peer's probe answers instead of the root over its list.
    pub claimed_root: Cell<Option<Hash>>,
    pub probe_error: Cell<Option<PeerError>>,
    pub manifest_error: Cell<Option<PeerError>>,
    pub watermark: Cell<Option<Watermark>>,
    pub fates: RefCell<BTreeMap<Hash, Fate>>,
    /// How long a transfer takes; 10 ms where nothing is said.
    pub durations_ms: RefCell<BTreeMap<Hash, u64>>,
    pub local: RefCell<BTreeSet<Hash>>,
    /// A segment that another peer's tick brings while the first one is applied.
    pub arrives_with: Cell<Option<(Hash, Hash)>>,
    manifest_read: Cell<bool>,
    pub stored: RefCell<Option<Vec<u8>>>,
    pub stored_bytes: Cell<usize>,
    pub store_limit: Cell<Option<u64>>,
    pub disk_full: Cell<bool>,
    pub archive: Cell<Option<bool>>,
    pub transfer_limit: Cell<usize>,
    pub in_flight: Rc<Cell<usize>>,
    pub most_in_flight: Cell<usize>,
    pub wall_ms: Cell<u64>,
    pub clock_ms: Cell<u64>,
    pub events: RefCell<Vec<Event>>,
    pub logs: RefCell<Vec<String>>,
    pub settings: RefCell<Vec<(String, String)>>,
    pub budget_ms: Cell<u64>,
}

pub struct Transfer {
    hash: Hash,
    done_ms: u64,
    in_flight: Rc<Cell<usize>>,
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.in_flight.set(self.in_flight.get() - 1);
    }
}

impl Fake {
    /// A peer that lists the segments of these numbers, and an engine with segment 0 that the peer
    /// lists as well.
    pub fn with(numbers: impl IntoIterator<Item = u64>) -> Fake {
        let listed = std::iter::once(0).chain(numbers).map(segment).collect();
        Fake {
            listed: RefCell::new(listed),
            claimed_root: Cell::default(),
            probe_error: Cell::default(),
            manifest_error: Cell::default(),
            watermark: Cell::default(),
            fates: RefCell::default(),
            durations_ms: RefCell::default(),
            local: RefCell::new([segment(0)].into()),
            arrives_with: Cell::default(),
            manifest_read: Cell::default(),
            stored: RefCell::default(),
            stored_bytes: Cell::default(),
            store_limit: Cell::default(),
            disk_full: Cell::default(),
            archive: Cell::default(),
            transfer_limit: Cell::new(64),
            in_flight: Rc::default(),
            most_in_flight: Cell::default(),
            wall_ms: Cell::new(1_700_000_000_000),
            clock_ms: Cell::new(1_000),
            events: RefCell::default(),
            logs: RefCell::default(),
            settings: RefCell::default(),
            budget_ms: Cell::new(BUDGET_MS),
        }
    }

    pub fn fate(self, n: u64, fate: Fate) -> Fake {
        self.fates.borrow_mut().insert(segment(n), fate);
        self
    }

    pub fn takes_ms(self, n: u64, ms: u64) -> Fake {
        self.durations_ms.borrow_mut().insert(segment(n), ms);
        self
    }

    pub fn setting(self, key: &str, value: &str) -> Fake {
        self.settings.borrow_mut().push((key.into(), value.into()));
        self
    }

    /// One tick; the events and logs are those of this tick.
    pub fn try_tick(&self) -> Result<TickReport, TickFailure> {
        self.events.borrow_mut().clear();
        self.logs.borrow_mut().clear();
        self.most_in_flight.set(0);
        self.manifest_read.set(false);
        let report = tick::tick(
            self,
            &Context {
                reason: Reason::Interval,
                budget_ms: self.budget_ms.get(),
                interval_ms: INTERVAL_MS,
                settings: self.settings.borrow().clone(),
            },
        );
        assert_eq!(self.in_flight.get(), 0, "a transfer outlived the tick");
        report
    }

    pub fn tick(&self) -> TickReport {
        self.try_tick().unwrap()
    }

    /// Lets time pass between ticks.
    pub fn pass_ms(&self, ms: u64) {
        self.wall_ms.set(self.wall_ms.get() + ms);
        self.clock_ms.set(self.clock_ms.get() + ms);
    }

    pub fn cursor(&self) -> Cursor {
        Cursor::decode(self.stored.borrow().as_deref().unwrap()).0
    }

    pub fn peer_root(&self) -> Hash {
        root(&self.listed.borrow().iter().copied().collect())
    }

    /// The numbers of the segments that were asked for, in order.
    pub fn fetched(&self) -> Vec<u64> {
        let number =
            |event: &Event| if let Event::Fetch(hash) = event { Some(hash.a) } else { None };
        self.events.borrow().iter().filter_map(number).collect()
    }

    pub fn count(&self, event: &Event) -> usize {
        self.events.borrow().iter().filter(|e| *e == event).count()
    }

    pub fn logged(&self, part: &str) -> bool {
        self.logs.borrow().iter().any(|line| line.contains(part))
    }

    fn happened(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }

    fn fate_of(&self, hash: &Hash) -> Fate {
        self.fates.borrow().get(hash).copied().unwrap_or(Fate::Fine)
    }
}

impl World for Fake {
    type Transfer = Transfer;
    type Segment = Hash;

    fn probe(&self) -> Result<RootInfo, PeerError> {
        self.happened(Event::Probe);
        self.probe_error.get().map_or(Ok(()), Err)?;
        let root = self.claimed_root.get().unwrap_or_else(|| self.peer_root());
        Ok(RootInfo { root, watermark: self.watermark.get() })
    }

    fn manifest(&self) -> Result<Offer, PeerError> {
        self.happened(Event::Manifest);
        self.manifest_error.get().map_or(Ok(()), Err)?;
        self.manifest_read.set(true);
        let (listed, local) = (self.listed.borrow(), self.local.borrow());
        let missing = listed.iter().filter(|hash| !local.contains(hash));
        let missing = missing.map(|&hash| SegmentRef { hash, id: hash.a, info: None }).collect();
        Ok(Offer { root: self.peer_root(), missing })
    }

    fn start_fetch(&self, hash: Hash) -> Result<Transfer, FetchError> {
        assert!(self.manifest_read.get(), "nothing to fetch without a manifest");
        if let Fate::NotStarted(error) = self.fate_of(&hash) {
            return Err(error);
        }
        if self.in_flight.get() >= self.transfer_limit.get() {
            return Err(FetchError::TooManyTransfers);
        }
        self.happened(Event::Fetch(hash));
        self.in_flight.set(self.in_flight.get() + 1);
        self.most_in_flight.set(self.most_in_flight.get().max(self.in_flight.get()));
        let took_ms = self.durations_ms.borrow().get(&hash).copied().unwrap_or(10);
        let done_ms = self.clock_ms.get() + took_ms;
        Ok(Transfer { hash, done_ms, in_flight: self.in_flight.clone() })
    }

    fn wait_any(&self, transfers: &[&Transfer], timeout_ms: u64) -> Option<u32> {
        let (position, first) = transfers.iter().enumerate().min_by_key(|(_, t)| t.done_ms)?;
        let wait_ms = first.done_ms.saturating_sub(self.clock_ms.get());
        self.pass_ms(wait_ms.min(timeout_ms));
        (wait_ms <= timeout_ms).then_some(position as u32)
    }

    fn take(&self, transfer: Transfer) -> Result<Hash, FetchError> {
        assert!(transfer.done_ms <= self.clock_ms.get(), "taken before it was done");
        match self.fate_of(&transfer.hash) {
            Fate::NotFetched(error) => Err(error),
            _ => Ok(transfer.hash),
        }
    }

    fn local_root(&self) -> Hash {
        root(&self.local.borrow())
    }

    fn has(&self, hash: Hash) -> bool {
        self.local.borrow().contains(&hash)
    }

    fn apply(&self, segment: &Hash) -> Result<Applied, ApplyError> {
        self.happened(Event::Apply(*segment));
        if let Fate::NotApplied(error) = self.fate_of(segment) {
            return Err(error);
        }
        if let Some((first, other)) = self.arrives_with.get()
            && first == *segment
        {
            self.local.borrow_mut().insert(other);
        }
        let duplicate = !self.local.borrow_mut().insert(*segment);
        Ok(Applied { written: 2, skipped: 1, duplicate })
    }

    fn load(&self) -> Option<Vec<u8>> {
        self.stored.borrow().clone()
    }

    fn store(&self, value: &[u8]) -> Result<(), StoreError> {
        self.happened(Event::Store);
        if self.disk_full.get() {
            return Err(StoreError::Storage);
        }
        if let Some(limit) = self.store_limit.get()
            && value.len() as u64 > limit
        {
            return Err(StoreError::TooLarge(limit));
        }
        if self.manifest_read.get() && self.store_limit.get().is_none() {
            let (cursor, local) = (Cursor::decode(value).0, self.local.borrow());
            let remembered = |h| cursor.segments.contains_key(h);
            let lost =
                self.listed.borrow().iter().find(|h| !local.contains(h) && !remembered(h)).copied();
            assert!(lost.is_none(), "the cursor is ahead of the data");
        }
        self.stored_bytes.set(self.stored_bytes.get() + value.len());
        *self.stored.borrow_mut() = Some(value.to_vec());
        Ok(())
    }

    fn archive_available(&self) -> bool {
        self.archive.get().is_some()
    }

    fn archive(&self, segment: &Hash) -> bool {
        self.happened(Event::Archive(*segment));
        assert!(self.has(*segment), "archived before it was applied");
        self.archive.get() == Some(true)
    }

    fn now_ms(&self) -> u64 {
        self.wall_ms.get()
    }

    fn monotonic_ms(&self) -> u64 {
        self.clock_ms.get()
    }

    /// The shortest wait that jitter allows.
    fn random(&self) -> u64 {
        0
    }

    fn log(&self, _: Level, message: &str) {
        self.logs.borrow_mut().push(message.into());
    }
}
