//! What each segment owns, counted in one pass over the records.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use fjall::{OwnedWriteBatch, Readable as _};

use super::{CompactionStop, RateLimiter};
use crate::index::Registration;
use crate::record::{Stored, Version, record_len};
use crate::redirect::{Redirect, Redirects};
use crate::segment::record_weight;
use crate::store::Store;
use crate::{Engine, EngineError};

/// Records that one compaction forgets at most, and the bytes that they take in memory; the rest is
/// for the next one.
const MAX_PAST: usize = 100_000;
const MAX_PAST_BYTES: usize = 16 << 20;

/// What a segment owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) records: u64,
    /// Those of them that are stamped after the horizon.
    pub(crate) ahead: u64,
    /// What they count for in a segment, see `segment::Bounds`.
    pub(crate) weight: u64,
    /// The latest stamp of them.
    pub(crate) newest: i64,
}

impl Default for Owned {
    fn default() -> Self {
        Self { records: 0, ahead: 0, weight: 0, newest: i64::MIN }
    }
}

impl Owned {
    fn add(&mut self, other: Self) {
        self.records += other.records;
        self.ahead += other.ahead;
        self.weight += other.weight;
        self.newest = self.newest.max(other.newest);
    }
}

/// The records as they were at one instant, by their owners.
pub(crate) struct LivenessScan {
    pub(super) snapshot: fjall::Snapshot,
    /// Those that were registered then, and have not been retired since.
    pub(crate) segments: Vec<Registration>,
    owned: HashMap<u64, Owned>,
    /// Records that are stamped later are from the future.
    pub(super) horizon: i64,
    /// The latest stamp that is not.
    pub(crate) latest: i64,
    /// Segments that hold what nobody here owns: the file of its owner is gone.
    needed: HashSet<u64>,
    redirects: Redirects,
    /// What is not on disk yet of `redirects`; none for those that are not needed any more.
    changed_redirects: Vec<(u64, Option<Redirect>)>,
    /// Segments that own all that wins of what they hold.
    pub(super) untied: HashSet<u64>,
    /// Owner of what waits for the next flush.
    pub(crate) flush_id: u64,
    /// What may be forgotten: store keys and stored versions.
    pub(super) past: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl LivenessScan {
    /// Records that are stamped later are from the future.
    pub(crate) fn horizon(&self) -> i64 {
        self.horizon
    }

    /// How many records a segment owns.
    pub(super) fn owned(&self, id: u64) -> u64 {
        self.owned.get(&id).map_or(0, |owned| owned.records)
    }

    /// What a segment owns, or what waits for the next flush.
    pub(crate) fn all_owned(&self, id: u64) -> Owned {
        self.owned.get(&id).copied().unwrap_or_default()
    }

    /// The segment of an id, until some are retired.
    pub(super) fn segment(&self, id: u64) -> Option<&Registration> {
        let at = self.segments.binary_search_by_key(&id, |segment| segment.meta.id);
        at.ok().map(|at| &self.segments[at])
    }

    /// Keeps a segment, whatever it owns.
    pub(super) fn keep(&mut self, id: u64) {
        self.needed.insert(id);
    }

    /// Whether a segment may go.
    pub(super) fn is_unneeded(&self, id: u64) -> bool {
        self.owned(id) == 0 && !self.needed.contains(&id)
    }

    /// Who owns a version now.
    pub(super) fn owner(&self, key: &[u8], stored: &Stored<&[u8]>) -> u64 {
        self.redirects.owner(key, stored)
    }

    /// Whether all that a segment owned went to another one.
    pub(super) fn is_given(&self, id: u64) -> bool {
        self.redirects.contains(id)
    }

    /// Gives all that one segment owns to another.
    pub(super) fn give(&mut self, from: u64, to: u64) {
        let given = self.owned.remove(&from).unwrap_or_default();
        self.owned.entry(to).or_default().add(given);
        self.redirects.insert(from, Redirect::One(to));
        self.changed_redirects.push((from, Some(Redirect::One(to))));
    }

    /// Forgets who took over from segments that no record names any more, nor leads through.
    fn forget_redirects(&mut self, named: HashSet<u64>) {
        let gone = self.redirects.retain_named(named);
        self.changed_redirects.extend(gone.into_iter().map(|id| (id, None)));
    }

    /// One record less.
    pub(super) fn forget(&mut self, key: &[u8], stored: &Stored<&[u8]>) {
        let owner = self.owner(key, stored);
        if let Some(owned) = self.owned.get_mut(&owner) {
            owned.records = owned.records.saturating_sub(1);
        }
    }

    /// Adds what has changed of the redirects to a batch.
    pub(super) fn write_redirects(&mut self, batch: &mut OwnedWriteBatch, store: &Store) {
        for (from, to) in self.changed_redirects.drain(..) {
            match to {
                Some(to) => batch.insert(&store.redirects, from.to_be_bytes(), to.encode()),
                None => batch.remove(&store.redirects, from.to_be_bytes()),
            }
        }
    }
}

impl Engine {
    pub(crate) fn scan_liveness(
        &self,
        limiter: &RateLimiter,
        horizon: i64,
    ) -> Result<LivenessScan, CompactionStop> {
        while self.store.has_many_tables() {
            limiter.spend(0)?;
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut writer = self.writer();
        self.drain(&mut writer)?;
        let snapshot = self.store.snapshot();
        let segments = self.index().all().to_vec();
        let flush_id = writer.position.flush_id;
        drop(writer);
        let redirects = self.store.load_redirects()?;
        let mut scan = LivenessScan {
            snapshot,
            segments,
            owned: HashMap::new(),
            horizon,
            latest: 0,
            needed: HashSet::new(),
            redirects,
            changed_redirects: Vec::new(),
            untied: HashSet::new(),
            flush_id,
            past: BTreeMap::new(),
        };
        let (mut named, mut past_bytes) = (HashSet::new(), 0);
        let (now, grace) = (self.now(), self.options.tombstone_grace);
        for guard in scan.snapshot.iter(&self.store.records) {
            let (key, value) = guard.into_inner()?;
            limiter.spend((key.len() + value.len()) as u64)?;
            let stored = Stored::decode(&value).map_err(|_| {
                let why = "a stored record can't be read: run verify --repair";
                EngineError::Corrupt(why.to_owned())
            })?;
            if !self.filter.is_complete() {
                self.filter.insert(&key);
            }
            named.insert(stored.owner);
            let owner = scan.owner(&key, &stored);
            let Version { timestamp, value: bytes, .. } = stored.version;
            let ahead = timestamp > horizon;
            scan.owned.entry(owner).or_default().add(Owned {
                records: 1,
                ahead: u64::from(ahead),
                weight: record_weight(record_len(&key, bytes)),
                newest: timestamp,
            });
            if !ahead {
                scan.latest = scan.latest.max(timestamp);
            }
            let past = owner != flush_id && stored.version.is_past(now, grace);
            if past && scan.past.len() < MAX_PAST && past_bytes < MAX_PAST_BYTES {
                past_bytes += key.len() + value.len();
                scan.past.insert(key.to_vec(), value.to_vec());
            }
        }
        self.filter.complete();
        scan.forget_redirects(named);
        Ok(scan)
    }
}
