//! What can be set, and what it is when it is not.

use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

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

/// What the engine may use and promises.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The wall clock. Default: that of this machine.
    pub clock: WallClock,
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
    /// A segment that takes more than this many bytes in memory, 128 for each record included, is
    /// rejected. Default: 512 MiB.
    pub max_segment_inflated_bytes: u64,
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
    #[cfg(test)]
    pub(crate) ties_keep_local: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            clock: WallClock::default(),
            sync_writes: true,
            flush_bytes: 8 << 20,
            cache_bytes: 32 << 20,
            filter_bytes: 16 << 20,
            memtable_bytes: 16 << 20,
            max_segment_inflated_bytes: 512 << 20,
            max_merged_bytes: 32 << 20,
            tombstone_grace: Duration::from_secs(10 * 24 * 60 * 60),
            max_clock_ahead: Duration::from_secs(5 * 60),
            seed: None,
            #[cfg(test)]
            ties_keep_local: false,
        }
    }
}
