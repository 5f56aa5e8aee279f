//! DiskQuota on the disk: what of it stays free, and how much of it the database takes.
//!
//! Puts and downloads end before the reserve is used up: a disk that is full to the last byte stops
//! the record store in the middle of a batch. What makes room, or moves what is here already, goes on
//! into the reserve: deletes, flushes and compactions.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{EngineError, MonotonicClock};
use crate::disk::Disk;

/// Kept free where nothing else is said, and no more than a sixteenth of the disk.
const RESERVE: u64 = 64 << 20;

/// What is counted in the folder is believed for so long.
const BELIEVED: Duration = Duration::from_secs(10);

/// Where the database seems to have all that it may have: until it is counted again.
const SHORTLY: Duration = Duration::from_secs(1);

/// How much a database may take of its disk.
#[derive(Debug)]
pub(super) struct DiskQuota {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Bytes that stay free; `None` takes the default.
    reserve: Option<u64>,
    /// Maximum bytes of the database; `None` means unlimited.
    max: Option<u64>,
    taken: Mutex<Taken>,
    monotonic: MonotonicClock,
}

/// What the database takes, as far as it is known.
#[derive(Debug, Default)]
struct Taken {
    /// Bytes of the folder, and when they were counted.
    counted: Option<(Duration, u64)>,
    /// Bytes that were let in since.
    since: u64,
}

impl Taken {
    fn bytes(&self) -> u64 {
        self.counted.map_or(0, |(_, bytes)| bytes).saturating_add(self.since)
    }
}

impl DiskQuota {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        reserve: Option<u64>,
        max: Option<u64>,
        monotonic: MonotonicClock,
    ) -> Self {
        Self { disk, dir: dir.to_owned(), reserve, max, taken: Mutex::default(), monotonic }
    }

    /// Takes `bytes` more.
    ///
    /// # Errors
    /// [`EngineError::DiskReserve`] and [`EngineError::DatabaseFull`].
    pub(super) fn take(&self, bytes: u64) -> Result<(), EngineError> {
        self.check(bytes)?;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.since = taken.since.saturating_add(bytes);
        Ok(())
    }

    /// Whether `bytes` more may be taken.
    pub(super) fn check(&self, bytes: u64) -> Result<(), EngineError> {
        if let Some((free, reserve)) = self.free_and_reserve()
            && free < reserve.saturating_add(bytes)
        {
            return Err(EngineError::DiskReserve { free, reserve });
        }
        let Some(max) = self.max else { return Ok(()) };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |taken: &Taken| taken.bytes().saturating_add(bytes) <= max;
        let believed = if fits(&taken) { BELIEVED } else { SHORTLY };
        let now = self.monotonic.now();
        let is_fresh = taken.counted.is_some_and(|(at, _)| now.saturating_sub(at) < believed);
        // The store writes more than it is given.
        if !is_fresh || taken.since > max / 16 {
            *taken = Taken { counted: Some((now, self.taken())), since: 0 };
        }
        if fits(&taken) {
            return Ok(());
        }
        Err(EngineError::DatabaseFull { taken: taken.bytes(), max })
    }

    /// Bytes of the disk that are free for this user, and how many of them stay free; `None` where
    /// the disk does not say.
    pub(super) fn free_and_reserve(&self) -> Option<(u64, u64)> {
        let space = self.disk.space(&self.dir).ok()??;
        Some((space.free, self.reserve.unwrap_or(RESERVE.min(space.size / 16))))
    }

    /// Bytes that the database may take; `None` for no bound.
    pub(super) fn max(&self) -> Option<u64> {
        self.max
    }

    /// What the folder takes on disk. Files that vanish meanwhile count for nothing.
    pub(super) fn taken(&self) -> u64 {
        fn walk(dir: &Path) -> u64 {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let sizes = entries.map(|entry| match entry.metadata() {
                Ok(meta) if meta.is_dir() => walk(&entry.path()),
                Ok(meta) => on_disk(&meta),
                Err(_) => 0,
            });
            sizes.sum()
        }
        walk(&self.disk.real(&self.dir))
    }
}

/// The record store makes sparse files, whose length says nothing.
fn on_disk(meta: &fs::Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::blocks(meta) * 512;
    #[cfg(not(unix))]
    meta.len()
}
