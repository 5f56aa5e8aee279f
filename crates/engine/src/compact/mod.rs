//! Fewer segments, and none that nobody needs.
//!
//! Each stored version has one owner, a segment that holds it. A compaction counts what each
//! segment owns, in one pass over the records, and then
//!
//! - retires the segments that own nothing: all they hold is superseded, or held by others, too
//!   (but for one that stands in for another whose file is gone);
//! - gives what a segment owns to another one that holds all of it, if there is such a one, so that
//!   it can go: that is how a replica drops what a peer has merged;
//! - forgets what was deleted or has expired for longer than a grace period, unless a segment
//!   holds an older version that would come back, or did within that time;
//! - merges small segments of this node's own, and rewrites those that are mostly dead, and those
//!   that peers can't take: too large, or with good records beside such from the future. Others'
//!   segments are theirs to merge, so no two nodes merge the same ones in different ways.
//!
//! Ownership only ever goes away from a segment. So what a count says stays true while reads and
//! writes go on: what owned nothing then will own nothing later. Retired hashes are remembered, and
//! never pulled again. Their files stay until the next compaction, for peers that are about to pull
//! them.

mod forget;
mod group;
mod liveness;
mod merge;
mod oversized;
mod rate_limiter;
mod tied;

use std::collections::HashSet;
use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use fjall::PersistMode;

use self::forget::say_why_it_waits;
use self::group::Choice;
pub(super) use self::liveness::LivenessScan;
pub use self::rate_limiter::RateLimiter;
use super::drain::SegmentReader;
use super::index::Registration;
use super::segment::Invalid;
use super::store::Writer;
use super::{Engine, EngineError};
use crate::Hash;

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Compacted {
    /// Segments that are not needed any more, the merged ones included.
    pub retired: u64,
    /// Segments that were merged, or rewritten without what is dead in them.
    pub merged: u64,
    /// Segments that were made of those.
    pub made: u64,
    /// Their bytes.
    pub made_bytes: u64,
    /// Records that were forgotten: deleted or expired for longer than the grace period.
    pub forgotten: u64,
    /// Whether it was stopped before it was through.
    pub stopped: bool,
    /// Whether it kept what it may have retired or forgotten, because the wall clock has
    /// jumped, or the database is new, and the clock is not trusted yet.
    #[serde(default)]
    pub waits: bool,
}

/// Why a compaction ends early.
#[derive(Debug)]
pub(super) enum CompactionStop {
    Stopped,
    Failed(EngineError),
}

impl From<EngineError> for CompactionStop {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

impl From<fjall::Error> for CompactionStop {
    fn from(error: fjall::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<std::io::Error> for CompactionStop {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl Engine {
    /// Retires, merges and forgets what can be, as fast as `limiter` allows. Reads and writes go on.
    ///
    /// # Errors
    /// When the disk fails, or a stored record can't be read. What was done by then stays done; no
    /// step is done by half.
    pub fn compact(&self, limiter: &RateLimiter) -> Result<Compacted, EngineError> {
        let _maintenance = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = Compacted::default();
        match self.compact_with(limiter, &mut done) {
            Ok(()) => {}
            Err(CompactionStop::Stopped) => done.stopped = true,
            Err(CompactionStop::Failed(error)) => return Err(error),
        }
        Ok(done)
    }

    /// Whether there are new segments enough for a compaction to be worth its while.
    pub fn compaction_due(&self) -> bool {
        self.registered.load(Ordering::Relaxed) >= group::FANOUT
    }

    fn compact_with(
        &self,
        limiter: &RateLimiter,
        done: &mut Compacted,
    ) -> Result<(), CompactionStop> {
        self.store.check()?;
        let registered = self.registered.load(Ordering::Relaxed);
        self.remove_leaving();
        let (horizon, wall_horizon) = (self.horizon(), self.wall_horizon());
        let mut scan = self.scan_liveness(limiter, horizon)?;
        for segment in scan.segments.clone().iter().filter(|segment| segment.tied) {
            self.give_up_tied(segment, &mut scan, limiter)?;
        }
        self.retire_unneeded(&mut scan, limiter, done)?;
        self.forget_past(&mut scan, limiter, done)?;
        if done.waits
            && let Err(distrust) = self.check_wall_clock()
        {
            say_why_it_waits(distrust);
        }
        let oversized = self.find_oversized(&mut scan, limiter)?;
        let choice = Choice {
            scan: &scan,
            oversized: &oversized,
            newest: &self.newest_of_own(&scan)?,
            wall_horizon,
            max_bytes: self.options.max_merged_bytes,
            max_inflated: self.options.writer_bounds().inflated,
        };
        let groups = choice.groups();
        // The record store keeps what its snapshots see.
        drop(scan);
        for group in groups {
            self.merge_segments(&group, horizon, limiter, done)?;
        }
        self.registered.fetch_sub(registered, Ordering::Relaxed);
        Ok(())
    }

    /// Removes the files of what was retired by the compaction before.
    pub(super) fn remove_leaving(&self) {
        let mut leaving: Vec<Hash> = self.leaving().keys().copied().collect();
        leaving.sort_unstable();
        if leaving.is_empty() || self.check_files().is_err() {
            return;
        }
        for hash in leaving {
            let path = self.folder.segment(&hash);
            match self.folder.disk().remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let error = EngineError::io("remove", &path)(error);
                    tracing::warn!(%error, "a retired segment stays until the next compaction");
                }
                _ => drop(self.leaving().remove(&hash)),
            }
        }
    }

    /// Retires what owns nothing.
    fn retire_unneeded(
        &self,
        scan: &mut LivenessScan,
        limiter: &RateLimiter,
        done: &mut Compacted,
    ) -> Result<(), CompactionStop> {
        let segments = std::mem::take(&mut scan.segments);
        let unneeded = |segment: &Registration| scan.is_unneeded(segment.meta.id);
        let (candidates, mut kept): (Vec<_>, Vec<_>) = segments.into_iter().partition(unneeded);
        let (mut shadowed, mut retired) = (self.nothing_shadowed(scan.horizon), Vec::new());
        for segment in candidates {
            let mut under = self.nothing_shadowed(scan.horizon);
            self.note_shadowed(&segment, &mut under, limiter)?;
            if under.is_needed {
                done.waits |= self.check_wall_clock().is_err();
                kept.push(segment);
            } else {
                shadowed.extend(under);
                self.write_full(&mut shadowed)?;
                retired.push(segment);
            }
        }
        kept.sort_unstable_by_key(|segment| segment.meta.id);
        scan.segments = kept;
        let mut writer = self.writer();
        let mut batch = self.store.batch(PersistMode::SyncAll);
        self.note_clock(&mut batch);
        scan.write_redirects(&mut batch, &self.store);
        self.retire_in(&mut batch, &retired);
        self.shadow_in(&mut batch, &shadowed);
        for segment in scan.segments.iter().filter(|one| scan.untied.contains(&one.meta.id)) {
            let (key, value) = Registration { tied: false, ..segment.clone() }.encode();
            batch.insert(&self.store.segments, key, value);
        }
        self.store.commit(batch)?;
        self.index_mut().untied(&scan.untied);
        self.leave(&mut writer, &retired, Vec::new());
        drop(writer);
        done.retired += retired.len() as u64;
        Ok(())
    }

    /// Adds to a batch that these segments are not needed any more.
    pub(super) fn retire_in(&self, batch: &mut fjall::OwnedWriteBatch, retired: &[Registration]) {
        let time = self.note_time().to_le_bytes();
        for segment in retired {
            self.store.unregister(batch, segment.meta.id);
            batch.insert(&self.store.retired, *segment.meta.hash.as_bytes(), time);
        }
    }

    /// After the batch: peers do not see them any more, but what came of them.
    pub(super) fn leave(
        &self,
        writer: &mut Writer,
        retired: &[Registration],
        made: Vec<Registration>,
    ) {
        let hashes: HashSet<Hash> = retired.iter().map(|segment| segment.meta.hash).collect();
        // Of one that was found to be damaged a moment ago, nobody misses the file any more.
        let here = retired.iter().filter(|one| writer.absent.remove(&one.meta.hash).is_none());
        let files = here.map(|segment| (segment.meta.hash, segment.meta.bytes));
        self.leaving().extend(files);
        let mut index = self.index_mut();
        index.remove(&hashes);
        *index.retired_mut() += hashes.len() as u64;
        for made in made {
            self.leaving().remove(&made.meta.hash);
            index.insert(made);
        }
    }

    /// Opens a segment to read all of it; none, with a warning, when its bytes are not what its
    /// hash says.
    fn open_paced(
        &self,
        segment: &Registration,
        limiter: &RateLimiter,
    ) -> Result<Option<SegmentReader>, CompactionStop> {
        limiter.spend(segment.meta.bytes)?;
        match self.open_checked(segment)? {
            Ok(reader) => Ok(Some(reader)),
            Err(why) => {
                self.give_up(segment, &why)?;
                Ok(None)
            }
        }
    }
}

impl From<Invalid> for CompactionStop {
    fn from(invalid: Invalid) -> Self {
        match invalid {
            // Its hash is right, and it was read when it was applied.
            Invalid::Rejected(why) => EngineError::Corrupt(format!("a segment: {why}")).into(),
            Invalid::Io(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests;
