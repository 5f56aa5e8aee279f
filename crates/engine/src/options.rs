//! What can be set, and what it is when it is not.

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::clock::MAX_AHEAD;
use super::segment::{Bounds, MAX_FILE, MAX_INFLATED};

/// Tells the time.
#[derive(Clone)]
pub struct WallClock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl WallClock {
    /// A clock that shows what `now` returns.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// In Unix nanoseconds; 0 for times before.
    pub(super) fn now(&self) -> i64 {
        let since = (self.0)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl Debug for WallClock {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("WallClock")
    }
}

/// A clock that never jumps.
#[derive(Clone)]
pub struct MonotonicClock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl MonotonicClock {
    /// A clock that shows what `now` returns, the time since some fixed instant.
    pub fn new(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub(super) fn now(&self) -> Duration {
        (self.0)()
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        let start = Instant::now();
        Self::new(move || start.elapsed())
    }
}

impl Debug for MonotonicClock {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("MonotonicClock")
    }
}

/// What the engine may use and promises.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The wall clock. Default: that of this machine.
    pub clock: WallClock,
    /// A clock that never jumps, to see when the wall clock does. Default: that of this machine.
    pub monotonic: MonotonicClock,
    /// Whether a write is on disk (fsynced) when it returns. Without it, a write survives the
    /// death of the process and may be lost with the machine. Segments are always fsynced.
    /// Default: true.
    pub sync_writes: bool,
    /// Writes are flushed to a segment by themselves when they take this many bytes, at most
    /// [`MAX_BATCH`](super::MAX_BATCH). Default: 8 MiB.
    pub flush_bytes: u64,
    /// Cache of the record store, for blocks, indexes and filters, in bytes. Default: 32 MiB.
    pub cache_bytes: u64,
    /// Memory for a filter that knows which keys are not in the record store, in bytes: ten bits a
    /// key are plenty. Default: 16 MiB.
    pub filter_bytes: usize,
    /// Records of applied segments are gathered in memory until they take this many bytes, and then
    /// put into the record store together. Default: 16 MiB.
    pub memtable_bytes: u64,
    /// Memory for segments that are read ahead while others are applied, in bytes. Default: 64 MiB.
    pub prepared_bytes: u64,
    /// A segment that takes more than this many bytes in memory, 128 for each record included, is
    /// rejected. This node makes none that takes more, nor more than the default, whatever is set
    /// here. Default: 512 MiB.
    pub max_segment_inflated_bytes: u64,
    /// A segment whose file has more bytes is rejected. This node makes none that has more, nor
    /// more than the default, whatever is set here. Default: 256 MiB.
    pub max_segment_file_bytes: u64,
    /// Bytes of the disk that puts and downloads leave free. Default: `None`, which is for 64 MiB, or
    /// a sixteenth of the disk where that is less.
    pub disk_reserve: Option<u64>,
    /// Bytes of disk that the database may take, roughly; what makes room may exceed them for a
    /// while. Default: `None`, no bound.
    pub max_db_bytes: Option<u64>,
    /// A compaction makes segments of at most this many bytes, roughly. Default: 32 MiB.
    pub max_merged_bytes: u64,
    /// What was deleted, or has expired, for longer than this may be forgotten. A peer that was away
    /// for longer may bring back what was deleted meanwhile. Default: 10 days.
    pub tombstone_grace: Duration,
    /// A segment with a record that is stamped further than this in the future is not applied.
    /// Default: 5 min.
    pub max_clock_ahead: Duration,
    /// Where the random ids of epochs come from, for runs that are to be the same each time; `None`
    /// takes the system's randomness. Default: `None`.
    pub seed: Option<u64>,
    /// A fault, to see whether simulations find it: of records with equal stamps, the one that is
    /// here already stays.
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    pub ties_keep_local: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            clock: WallClock::default(),
            monotonic: MonotonicClock::default(),
            sync_writes: true,
            flush_bytes: 8 << 20,
            cache_bytes: 32 << 20,
            filter_bytes: 16 << 20,
            memtable_bytes: 16 << 20,
            prepared_bytes: 64 << 20,
            max_segment_inflated_bytes: MAX_INFLATED,
            max_segment_file_bytes: MAX_FILE,
            disk_reserve: None,
            max_db_bytes: None,
            max_merged_bytes: 32 << 20,
            tombstone_grace: Duration::from_secs(10 * 24 * 60 * 60),
            max_clock_ahead: MAX_AHEAD,
            seed: None,
            #[cfg(any(test, feature = "testing"))]
            ties_keep_local: false,
        }
    }
}

impl EngineOptions {
    /// Another one each time that a database is opened.
    pub(super) fn epoch(&self) -> u64 {
        let opened = self.monotonic.now().as_nanos() as u64;
        let seed = self.seed.map(|seed| seed.wrapping_add(opened));
        seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed).u64(..)
    }

    /// What a segment of a peer may take.
    pub(super) fn reader_bounds(&self) -> Bounds {
        Bounds { inflated: self.max_segment_inflated_bytes, file: self.max_segment_file_bytes }
    }

    /// What a segment that this node makes may take: all that its peers take, if their bounds are
    /// the default ones.
    pub(super) fn writer_bounds(&self) -> Bounds {
        let Bounds { inflated, file } = self.reader_bounds();
        Bounds { inflated: inflated.min(MAX_INFLATED), file: file.min(MAX_FILE) }
    }
}
