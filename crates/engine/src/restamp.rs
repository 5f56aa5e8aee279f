//! What a clock that was wrong once leaves, and the way back.
//!
//! A record that is stamped far ahead wins over all that is written until then, peers do not take
//! it before, and this node stamps whatever it writes next still later. Such records can be
//! stamped again, by a clock that is right, as long as no peer has taken them: the later stamp
//! would win on nodes that have it. So their segments are retired in the very step that stamps
//! them again.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::time::Duration;

use fjall::PersistMode;

use super::compact::{Compacted, CompactionStop, LivenessScan, RateLimiter};
use super::flush::MAX_AHEAD_INFLATED;
use super::index::Registration;
use super::record::{Stored, Version};
use super::segment::{Invalid, Records};
use super::store::{POSITION, Pending, Position, Writer};
use super::{Engine, EngineError, SegmentMeta};

/// Pending writes are stamped again in batches of about so many bytes.
const BATCH: u64 = 16 << 20;

/// How often it begins anew when others write meanwhile.
const ATTEMPTS: usize = 5;

/// How far this node's stamps are ahead of its wall clock, and what is stamped so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockState {
    /// The wall clock, in Unix nanoseconds.
    pub wall: i64,
    /// The latest stamp that was given to a record, or seen in one, in Unix nanoseconds. The next
    /// local write is stamped later.
    pub stamp: i64,
    /// How far that is ahead of the wall clock, in seconds; 0 when it is not.
    pub ahead_secs: u64,
    /// How far ahead a record may be stamped for peers to take it, in seconds.
    pub bound_secs: u64,
    /// Local records that are stamped further ahead, the pending ones included.
    pub records: u64,
    /// Those of them that are in no segment yet.
    pub pending: u64,
    /// Segments of this node's own that hold records stamped further ahead. Peers do not apply
    /// them yet.
    pub segments: Vec<SegmentMeta>,
    /// Segments of peers that hold such records.
    pub foreign: Vec<SegmentMeta>,
}

impl ClockState {
    /// Whether anything is stamped further ahead than peers take.
    pub fn is_ahead(&self) -> bool {
        self.ahead_secs > self.bound_secs || !(self.segments.is_empty() && self.foreign.is_empty())
    }
}

/// What [`Engine::restamp`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restamped {
    /// Records that were stamped again.
    pub records: u64,
    /// Segments that were retired, because all in them was stamped again.
    pub retired: u64,
    /// Records that keep their stamps, because a peer has brought one of the same key from the
    /// future.
    pub kept: u64,
    /// The latest stamp now, in Unix nanoseconds.
    pub stamp: i64,
}

/// Why records were not stamped again, or not all of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestampError {
    /// Peers have brought records from the future, too.
    #[error(
        "{count} segments of peers have records from the future, such as {first}: those peers had \
         the same wrong clock, and may have taken what this node wrote by it. Stamped again here, \
         it loses against what they have. Start those peers from empty folders afterwards, and \
         confirm by --despite-peers"
    )]
    Foreign {
        /// How many.
        count: usize,
        /// One of them.
        first: crate::Hash,
    },
    /// Files are gone or damaged.
    #[error("segment {0} is missing or damaged: run verify --repair first")]
    Damaged(crate::Hash),
    /// Others write to the database.
    #[error("the database is written to meanwhile: stop what writes, and try again")]
    Busy,
    /// The disk fails.
    #[error(transparent)]
    Storage(#[from] EngineError),
}

impl From<CompactionStop> for RestampError {
    fn from(halt: CompactionStop) -> Self {
        match halt {
            CompactionStop::Failed(error) => Self::Storage(error),
            // Nobody stops it.
            CompactionStop::Stopped => Self::Busy,
        }
    }
}

impl From<fjall::Error> for RestampError {
    fn from(error: fjall::Error) -> Self {
        Self::Storage(error.into())
    }
}

/// Own segments that hold records from the future, and other things that were found on the way.
struct Found {
    scan: LivenessScan,
    own: Vec<Registration>,
    foreign: Vec<Registration>,
    /// The latest stamp that is not from the future.
    latest: i64,
}

impl Engine {
    /// How far the latest stamp is ahead of the wall clock. Local writes are stamped still later.
    pub fn clock_ahead(&self) -> Duration {
        let stamp = self.progress.read().unwrap_or_else(PoisonError::into_inner).stamp;
        Duration::from_nanos(u64::try_from(stamp.saturating_sub(self.now())).unwrap_or(0))
    }

    /// Segments of this node's own from the future, and the records in them.
    pub(super) fn count_ahead(&self, stamp: i64) -> (u64, u64) {
        let horizon = self.wall_horizon();
        if stamp <= horizon {
            return (0, 0);
        }
        let own: HashSet<u64> =
            self.index().all().iter().filter(|one| one.own).map(|one| one.meta.id).collect();
        let ahead = self.extents().filter(|(meta, extent)| {
            own.contains(&meta.id) && extent.as_ref().is_some_and(|one| one.newest > horizon)
        });
        ahead.fold((0, 0), |(segments, records), (meta, _)| (segments + 1, records + meta.records))
    }

    /// Looks for records that are stamped further ahead of the wall clock than peers take. Reads
    /// all records.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn clock_state(&self) -> Result<ClockState, EngineError> {
        let _maintenance = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        let Found { scan, own, foreign, .. } = self.find_ahead().map_err(|error| match error {
            RestampError::Storage(error) => error,
            other => EngineError::Corrupt(other.to_string()),
        })?;
        let pending = scan.all_owned(scan.flush_id).ahead;
        let (wall, stamp) = (self.now(), self.last_stamp());
        let in_segments = own.iter().map(|one| scan.all_owned(one.meta.id).ahead).sum::<u64>();
        Ok(ClockState {
            wall,
            stamp,
            ahead_secs: self.clock_ahead().as_secs(),
            bound_secs: self.ahead_bound().as_secs(),
            records: pending + in_segments,
            pending,
            segments: own.into_iter().map(|one| one.meta).collect(),
            foreign: foreign.into_iter().map(|one| one.meta).collect(),
        })
    }

    fn find_ahead(&self) -> Result<Found, RestampError> {
        let (limiter, horizon) = (RateLimiter::unbounded(), self.wall_horizon());
        let mut scan = self.scan_liveness(&limiter, horizon)?;
        // Notes where the records of own segments lie, where an older version of this host did not.
        self.find_oversized(&mut scan, &limiter)?;
        let mut found = Found { own: Vec::new(), foreign: Vec::new(), latest: scan.latest, scan };
        let extents: Vec<_> = self.extents().collect();
        for segment in &found.scan.segments {
            let id = segment.meta.id;
            let at = extents.binary_search_by_key(&id, |(meta, _)| meta.id).ok();
            let known = at.and_then(|at| extents[at].1.as_ref()).map(|extent| extent.newest);
            let newest = match known {
                Some(newest) => newest,
                None => self.newest_in(segment)?,
            };
            match (newest > horizon, segment.own) {
                (true, true) => found.own.push(segment.clone()),
                (true, false) => found.foreign.push(segment.clone()),
                (false, _) => found.latest = found.latest.max(newest),
            }
        }
        Ok(found)
    }

    /// The latest stamp in a segment.
    fn newest_in(&self, segment: &Registration) -> Result<i64, RestampError> {
        let mut newest = i64::MIN;
        self.for_each_block(segment, |block| {
            newest = block.iter().map(|entry| entry.version.timestamp).fold(newest, i64::max);
        })?;
        Ok(newest)
    }

    fn for_each_block(
        &self,
        segment: &Registration,
        mut look: impl FnMut(&Records),
    ) -> Result<(), RestampError> {
        let hash = segment.meta.hash;
        let damaged = |_| RestampError::Damaged(hash);
        let mut reader = self.open_checked(segment)?.map_err(damaged)?;
        let mut block = Records::default();
        loop {
            block.clear();
            match reader.next_block(&mut block) {
                Ok(true) => look(&block),
                Ok(false) => return Ok(()),
                Err(Invalid::Rejected(_)) => return Err(RestampError::Damaged(hash)),
                Err(Invalid::Io(error)) => return Err(EngineError::from(error).into()),
            }
        }
    }

    /// Stamps this node's own records that are further ahead of the wall clock than peers take
    /// again, by the wall clock, which must be right by now. Values, tombstones and TTLs stay as
    /// they are; a TTL counts from the new stamp. Their segments are retired, all is put into new
    /// ones, and local writes are stamped by the wall clock again.
    ///
    /// It is for records that no peer has taken: nodes with a right clock do not. One whose clock
    /// was as wrong may have; it keeps them, and goes on to prefer them to all that is written
    /// before their time, until it is started from an empty folder.
    ///
    /// When peers have brought records from the future, too, nothing is done, unless
    /// `despite_peers` says so. Records whose keys are among those keep their stamps then, and local
    /// writes are stamped after what the peers have brought, still.
    ///
    /// Each step leaves the database whole. After a crash or an error, do it again.
    ///
    /// # Errors
    /// [`RestampError::Foreign`] as above; when segments are damaged; when the disk fails.
    pub fn restamp(&self, despite_peers: bool) -> Result<Restamped, RestampError> {
        let _maintenance = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        self.store.check()?;
        for _ in 0..ATTEMPTS {
            let Found { scan, own, foreign, latest } = self.find_ahead()?;
            if let Some(absent) = self.writer().absent.keys().next() {
                return Err(RestampError::Damaged(*absent));
            }
            if let [first, ..] = &foreign[..]
                && !despite_peers
            {
                let hash = first.meta.hash;
                return Err(RestampError::Foreign { count: foreign.len(), first: hash });
            }
            let (mut unsorted, horizon) = (false, scan.horizon());
            for segment in &own {
                let owned = scan.all_owned(segment.meta.id);
                let all = owned.ahead == segment.meta.records;
                if all && owned.weight <= MAX_AHEAD_INFLATED && segment.bounded {
                    continue;
                }
                // Apart from what is good, and without what is dead: a step of a compaction.
                unsorted = true;
                let mut done = Compacted::default();
                let group = std::slice::from_ref(segment);
                self.merge_segments(group, horizon, &RateLimiter::unbounded(), &mut done)?;
                if done.retired == 0 {
                    return Err(RestampError::Damaged(segment.meta.hash));
                }
            }
            drop(scan);
            if unsorted {
                continue;
            }
            let theirs = self.foreign_keys(&foreign, horizon)?;
            if let Some(done) = self.restamp_sorted(&own, &theirs, horizon, latest)? {
                return Ok(done);
            }
        }
        Err(RestampError::Busy)
    }

    fn foreign_keys(
        &self,
        segments: &[Registration],
        horizon: i64,
    ) -> Result<Foreign, RestampError> {
        let ids = segments.iter().map(|segment| segment.meta.id).collect();
        let mut theirs = Foreign { ids, keys: HashSet::new(), newest: i64::MIN };
        for segment in segments {
            self.for_each_block(segment, |block| {
                for entry in block.iter().filter(|one| one.version.timestamp > horizon) {
                    theirs.newest = theirs.newest.max(entry.version.timestamp);
                    theirs.keys.insert(entry.key.to_vec());
                }
            })?;
        }
        Ok(theirs)
    }

    /// [`Engine::restamp`] of segments in which all records are alive and from the future. None when
    /// somebody has written meanwhile.
    fn restamp_sorted(
        &self,
        own: &[Registration],
        theirs: &Foreign,
        horizon: i64,
        latest: i64,
    ) -> Result<Option<Restamped>, RestampError> {
        let mut writer = self.writer();
        self.drain(&mut writer)?;
        let ids = own.iter().map(|segment| segment.meta.id).chain(theirs.ids.iter().copied());
        let known: HashSet<u64> = ids.collect();
        let mut latest = latest;
        for (meta, extent) in self.extents() {
            let newest = extent.map_or(i64::MIN, |extent| extent.newest);
            match newest > horizon {
                true if known.contains(&meta.id) => {}
                true => return Ok(None),
                false => latest = latest.max(newest),
            }
        }
        for segment in own {
            if !self.is_all_alive(segment)? {
                return Ok(None);
            }
        }
        let next = self.now().max(latest);
        let mut stamps = Stamps { next, kept: theirs.newest, ..Stamps::default() };
        for segment in own {
            self.restamp_segment(segment, theirs, &mut writer, &mut stamps)?;
        }
        self.restamp_pending(horizon, theirs, &mut writer, &mut stamps)?;
        let stamp = stamps.next.max(stamps.kept);
        let position = Position { stamp, ..writer.position };
        let mut batch = self.store.batch(PersistMode::SyncAll);
        batch.insert(&self.store.state, POSITION, position.encode());
        self.note_clock(&mut batch);
        self.store.commit(batch)?;
        writer.position = position;
        self.flush_locked(&mut writer)?;
        self.publish(&writer)?;
        // Nobody should pull what was from the future.
        self.remove_leaving();
        Ok(Some(Restamped { stamp, ..stamps.done }))
    }

    /// Whether a segment owns all that it holds.
    fn is_all_alive(&self, segment: &Registration) -> Result<bool, RestampError> {
        let redirects = self.store.load_redirects()?;
        let records = self.read_restampable(segment)?;
        for entry in records.iter() {
            let alive = self.store.version(entry.key, |stored| {
                stored.is_some_and(|stored| {
                    stored.version == entry.version
                        && redirects.owner(entry.key, &stored) == segment.meta.id
                })
            })?;
            if !alive {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read_restampable(&self, segment: &Registration) -> Result<Records, RestampError> {
        self.read_whole(segment)?.map_err(|_| RestampError::Damaged(segment.meta.hash))
    }

    /// Stamps all records of a segment again and retires it, in one step.
    fn restamp_segment(
        &self,
        segment: &Registration,
        theirs: &Foreign,
        writer: &mut Writer,
        stamps: &mut Stamps,
    ) -> Result<(), RestampError> {
        let records = self.read_restampable(segment)?;
        let mut batch = self.store.batch(PersistMode::SyncAll);
        let mut position = writer.position;
        let mut pending = Vec::new();
        for entry in records.iter() {
            position.lsn += 1;
            // What keeps its stamp goes to another segment, so that this one can go.
            let timestamp = stamps.of(entry.key, entry.version.timestamp, theirs);
            let version = Version { timestamp, ..entry.version };
            let stored = Stored { owner: position.flush_id, version };
            let bytes = (entry.key.len() + version.value.len()) as u64;
            let mark = Pending { lsn: position.lsn, bytes };
            batch.insert(&self.store.records, entry.key, stored.encode());
            batch.insert(&self.store.pending, entry.key, mark.encode());
            pending.push((entry.key, mark));
        }
        let retired = [segment.clone()];
        self.retire_in(&mut batch, &retired);
        batch.insert(&self.store.state, POSITION, position.encode());
        self.store.commit(batch)?;
        writer.position = position;
        for (key, mark) in pending {
            writer.note_pending(key.to_vec(), mark);
        }
        self.leave(writer, &retired, Vec::new());
        stamps.done.retired += 1;
        Ok(())
    }

    /// Stamps again what is in no segment yet.
    fn restamp_pending(
        &self,
        horizon: i64,
        theirs: &Foreign,
        writer: &mut Writer,
        stamps: &mut Stamps,
    ) -> Result<(), RestampError> {
        // What has just got there and keeps its stamp was counted.
        let kept = stamps.done.kept;
        let mut keys: Vec<Vec<u8>> = writer.pending.keys().cloned().collect();
        keys.retain(|key| kept == 0 || !stamps.seen.contains(key));
        while !keys.is_empty() {
            let mut batch = self.store.batch(PersistMode::SyncAll);
            let mut position = writer.position;
            let (mut pending, mut bytes) = (Vec::new(), 0);
            while bytes < BATCH
                && let Some(key) = keys.pop()
            {
                let restamped = self.store.version(&key, |stored| {
                    let stored = stored.filter(|one| one.version.timestamp > horizon)?;
                    position.lsn += 1;
                    let len = (key.len() + stored.version.value.len()) as u64;
                    let timestamp = stamps.of(&key, stored.version.timestamp, theirs);
                    let version = Version { timestamp, ..stored.version };
                    let stored = Stored { owner: position.flush_id, version };
                    Some((stored.encode(), Pending { lsn: position.lsn, bytes: len }))
                })?;
                if let Some((stored, mark)) = restamped {
                    batch.insert(&self.store.records, key.as_slice(), stored);
                    batch.insert(&self.store.pending, key.as_slice(), mark.encode());
                    bytes += mark.bytes;
                    pending.push((key, mark));
                }
            }
            batch.insert(&self.store.state, POSITION, position.encode());
            self.store.commit(batch)?;
            writer.position = position;
            for (key, mark) in pending {
                writer.note_pending(key, mark);
            }
        }
        Ok(())
    }
}

/// The new stamps, each later than all before and than what is not from the future.
#[derive(Debug, Default)]
struct Stamps {
    next: i64,
    /// The latest stamp of those that stay.
    kept: i64,
    /// The keys of local records that keep their stamps.
    seen: HashSet<Vec<u8>>,
    done: Restamped,
}

impl Stamps {
    /// The stamp that a record is to have.
    fn of(&mut self, key: &[u8], timestamp: i64, theirs: &Foreign) -> i64 {
        if theirs.keys.contains(key) {
            self.kept = self.kept.max(timestamp);
            self.done.kept += 1;
            self.seen.insert(key.to_vec());
            return timestamp;
        }
        self.next = self.next.saturating_add(1);
        self.done.records += 1;
        self.next
    }
}

/// What peers have brought from the future.
struct Foreign {
    ids: HashSet<u64>,
    keys: HashSet<Vec<u8>>,
    newest: i64,
}
