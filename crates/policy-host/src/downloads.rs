//! Which segments this host is fetching now, whichever tick does it.
//!
//! Ticks of several peers run side by side and miss the same segments. This is how each finds out
//! what the others are at, so that a policy need not pull anything twice.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use edgestore_engine::{Engine, Hash, StagedSegment};

use super::wait::lock;

/// Segments that are kept until their time comes, and the bytes that they take on disk together.
const MAX_DEFERRED: usize = 256;
const MAX_DEFERRED_BYTES: u64 = 64 << 20;

/// Others do not wait for a download that went slower than this for so long, in bytes a second: a slow
/// peer would keep all it lists from being pulled elsewhere.
const PACE: u64 = 16 << 10;
const LATELY: Duration = Duration::from_secs(10);

/// The segments that are on their way, or here and not applied yet.
#[derive(Debug, Default)]
pub struct Downloads {
    running: Mutex<HashMap<Hash, Vec<Arc<Progress>>>>,
    /// Fetched and verified, and stamped too far ahead of this node's clock to be applied.
    deferred: Mutex<HashMap<Hash, StagedSegment>>,
}

impl Downloads {
    /// Whether some tick is fetching the segment or holds it unapplied.
    pub fn has(&self, hash: &Hash) -> bool {
        lock(&self.running).contains_key(hash)
    }

    /// Whether some tick is at the segment, as [`Downloads::has`], and not too slow to be waited for.
    pub(super) fn is_awaited(&self, hash: &Hash, now: Duration) -> bool {
        let running = lock(&self.running);
        running.get(hash).is_some_and(|all| all.iter().any(|progress| !progress.is_slow(now)))
    }

    /// Whether no tick fetches or holds anything.
    pub fn is_empty(&self) -> bool {
        lock(&self.running).is_empty()
    }

    /// Keeps a segment whose time has not come, so that the next try need not fetch it again. What
    /// does not fit is thrown away, and fetched again.
    pub(super) fn defer(&self, segment: StagedSegment, engine: &Engine) {
        let mut deferred = lock(&self.deferred);
        deferred.retain(|hash, _| !engine.has(hash));
        let bytes: u64 = deferred.values().map(StagedSegment::len).sum();
        if deferred.len() < MAX_DEFERRED && bytes + segment.len() <= MAX_DEFERRED_BYTES {
            deferred.insert(segment.hash(), segment);
        }
    }

    /// The bytes of a deferred segment, to be tried again.
    pub(super) fn take_deferred(&self, hash: &Hash) -> Option<StagedSegment> {
        lock(&self.deferred).remove(hash)
    }

    /// Counts the segment for as long as the result lives.
    pub(super) fn begin(self: &Arc<Self>, hash: Hash, now: Duration) -> Download {
        let progress = Arc::new(Progress::new(now));
        lock(&self.running).entry(hash).or_default().push(Arc::clone(&progress));
        Download { all: Arc::clone(self), hash, progress }
    }
}

/// How far a download is.
#[derive(Debug)]
struct Progress {
    bytes: Arc<AtomicU64>,
    seen: Mutex<Seen>,
}

/// What a look at a download found, by the clock of the environment.
#[derive(Debug)]
struct Seen {
    at: Duration,
    bytes: u64,
    /// Whether it had been slow since the look before.
    slow: bool,
}

impl Progress {
    fn new(now: Duration) -> Self {
        Self { bytes: Arc::default(), seen: Mutex::new(Seen { at: now, bytes: 0, slow: false }) }
    }

    fn is_slow(&self, now: Duration) -> bool {
        let (mut seen, bytes) = (lock(&self.seen), self.bytes.load(Ordering::Relaxed));
        let since = now.saturating_sub(seen.at);
        if bytes == u64::MAX || since < LATELY {
            return seen.slow && bytes != u64::MAX;
        }
        let slow = bytes - seen.bytes < since.as_secs().saturating_mul(PACE);
        *seen = Seen { at: now, bytes, slow };
        slow
    }
}

/// One download of one segment.
#[derive(Debug)]
pub(super) struct Download {
    all: Arc<Downloads>,
    hash: Hash,
    progress: Arc<Progress>,
}

impl Download {
    /// Counts the bytes that come; with the greatest number all have come.
    pub(super) fn bytes(&self) -> &Arc<AtomicU64> {
        &self.progress.bytes
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let mut running = lock(&self.all.running);
        if let Some(all) = running.get_mut(&self.hash) {
            all.retain(|progress| !Arc::ptr_eq(progress, &self.progress));
            if all.is_empty() {
                running.remove(&self.hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_fetched_until_its_last_download_ends() {
        let downloads = Arc::new(Downloads::default());
        let (a, b) = (Hash::of(b"a"), Hash::of(b"b"));
        let first = downloads.begin(a, Duration::ZERO);
        let second = downloads.begin(a, Duration::ZERO);
        assert!(downloads.has(&a) && !downloads.has(&b));
        drop(first);
        assert!(downloads.has(&a));
        drop(second);
        assert!(!downloads.has(&a) && downloads.is_empty());
    }

    #[test]
    fn a_download_that_trickles_is_not_waited_for() {
        let downloads = Arc::new(Downloads::default());
        let (hash, second) = (Hash::of(b"a"), Duration::from_secs(1));
        let slow = downloads.begin(hash, second);
        let awaited = |seconds| downloads.is_awaited(&hash, seconds * second);
        assert!(awaited(1) && awaited(10) && !awaited(11) && downloads.has(&hash));
        // What came early is no credit for later.
        slow.bytes().store(1000 * PACE, Ordering::Relaxed);
        assert!(!awaited(20), "nobody has looked again");
        assert!(awaited(21) && awaited(30) && !awaited(31));
        let other = downloads.begin(hash, 31 * second);
        assert!(awaited(40) && !awaited(41));
        other.bytes().store(u64::MAX, Ordering::Relaxed);
        assert!(awaited(42) && awaited(4000), "it waits to be applied");
        drop(other);
        assert!(!awaited(4000) && downloads.has(&hash));
    }
}
