//! Which segments this host is fetching now, whichever tick does it.
//!
//! Ticks of several peers run side by side and miss the same segments. This is how each finds out
//! what the others are at, so that a policy need not pull anything twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::wait::lock;
use crate::Hash;
use crate::engine::{Engine, StagedSegment};

/// Segments that are kept until their time comes, and the bytes that they take on disk together.
const MAX_DEFERRED: usize = 256;
const MAX_DEFERRED_BYTES: u64 = 64 << 20;

/// The segments that are on their way, or here and not applied yet.
#[derive(Debug, Default)]
pub struct Downloads {
    running: Mutex<HashMap<Hash, usize>>,
    /// Fetched and verified, and stamped too far ahead of this node's clock to be applied.
    deferred: Mutex<HashMap<Hash, StagedSegment>>,
}

impl Downloads {
    /// Whether some tick is fetching the segment or holds it unapplied.
    pub fn has(&self, hash: &Hash) -> bool {
        lock(&self.running).contains_key(hash)
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
    pub(super) fn begin(self: &Arc<Self>, hash: Hash) -> Download {
        *lock(&self.running).entry(hash).or_default() += 1;
        Download { all: Arc::clone(self), hash }
    }
}

/// One download of one segment.
#[derive(Debug)]
pub(super) struct Download {
    all: Arc<Downloads>,
    hash: Hash,
}

impl Drop for Download {
    fn drop(&mut self) {
        let mut running = lock(&self.all.running);
        if let Some(count) = running.get_mut(&self.hash) {
            *count -= 1;
            if *count == 0 {
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
        let first = downloads.begin(a);
        let second = downloads.begin(a);
        assert!(downloads.has(&a) && !downloads.has(&b));
        drop(first);
        assert!(downloads.has(&a));
        drop(second);
        assert!(!downloads.has(&a) && downloads.is_empty());
    }
}
