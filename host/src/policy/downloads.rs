//! Which segments this host is fetching now, whichever tick does it.
//!
//! Ticks of several peers run side by side and miss the same segments. This is how each finds out
//! what the others are at, so that a policy need not pull anything twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::wait::lock;
use crate::Hash;

/// The segments that are on their way, or here and not applied yet.
#[derive(Debug, Default)]
pub struct Downloads {
    running: Mutex<HashMap<Hash, usize>>,
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
