//! Files of segments that vanish or change while the database is open.
//!
//! Nothing tells the engine. So it lists its folder now and then, and takes it seriously when
//! whoever reads a file finds other bytes in it. Such a segment counts as missing from then on: it
//! is named, and pulled again from a peer that has it.

use std::collections::HashSet;
use std::sync::{PoisonError, TryLockError};
use std::time::Duration;

use super::index::Registration;
use super::{Engine, EngineError};
use crate::Hash;

/// Between two looks at the folder, at least.
const RARELY: Duration = Duration::from_secs(10);

impl Engine {
    /// Looks whether the files of all segments are there, unless somebody did a moment ago. What is
    /// gone is in [`Engine::unreadable`] then.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn look_for_lost_files(&self) -> Result<(), EngineError> {
        let now = self.options.monotonic.now();
        {
            let mut last = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|last| now.saturating_sub(last) < RARELY) {
                return Ok(());
            }
            *last = Some(now);
        }
        // In this order: what comes meanwhile is not looked for.
        let known = self.manifest();
        let there: HashSet<(Hash, u64)> = self.folder.segment_files()?.files.into_iter().collect();
        for segment in known {
            if !there.contains(&(segment.hash, segment.bytes)) {
                self.note_damage(&segment.hash)?;
            }
        }
        Ok(())
    }

    /// Somebody found that the file of a segment is not what it should be. Where that is so, the
    /// segment counts as missing from here on, and what is left of the file is in `quarantine/`.
    /// While a compaction runs nothing happens.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn note_damage(&self, hash: &Hash) -> Result<(), EngineError> {
        let _maintenance = match self.maintenance.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        let Some(segment) = self.index().get(hash).cloned() else { return Ok(()) };
        match self.open_checked(&segment)? {
            Ok(_) => Ok(()),
            Err(why) => self.give_up(&segment, &why),
        }
    }

    /// As [`Engine::note_damage`], for who has looked, and keeps others from retiring segments.
    pub(super) fn give_up(&self, segment: &Registration, why: &str) -> Result<(), EngineError> {
        if self.folder.is_read_only() {
            return Ok(());
        }
        self.check_files()?;
        // The memtable has what was in it.
        self.drain(&mut self.writer())?;
        self.quarantine(segment)?;
        tracing::warn!(
            hash = %segment.meta.hash,
            why,
            "a segment is damaged; it is pulled again from a peer that has it. If none has: verify \
             --repair"
        );
        Ok(())
    }
}
