//! Which keys can't be in the record store: a Bloom filter (Bloom, "Space/Time Trade-offs in Hash
//! Coding with Allowable Errors", 1970) over all of its keys, in memory. Most records that a new
//! replica pulls are new to it, and cost no look into the store.

use std::sync::atomic::{AtomicBool, Ordering};

use fastbloom::AtomicBloomFilter;

/// One key of a hundred is looked up in vain when a key has ten bits.
const HASHES: u32 = 4;

/// A filter that lets through what may be in the store.
#[derive(Debug)]
pub(super) struct Filter {
    bits: AtomicBloomFilter,
    /// Whether all keys of the store are in it. It lets everything through before.
    complete: AtomicBool,
}

impl Filter {
    /// One that takes `bytes` of memory, for a store that is `empty` or not.
    pub(super) fn new(bytes: usize, empty: bool) -> Self {
        let bits = AtomicBloomFilter::with_num_bits(bytes.max(64) * 8).hashes(HASHES);
        Self { bits, complete: AtomicBool::new(empty) }
    }

    /// To be told of each key before it is in the store.
    pub(super) fn insert(&self, key: &[u8]) {
        self.bits.insert(key);
    }

    /// All keys that were in the store when the filter was made have been inserted.
    pub(super) fn complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// False only if the key is not in the store.
    pub(super) fn may_contain(&self, key: &[u8]) -> bool {
        !self.is_complete() || self.bits.contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inserted_is_let_through_and_most_other_keys_are_not() {
        let filter = Filter::new(1250, false);
        assert!(filter.may_contain(b"anything, as long as it is not complete"));
        (0..1000_u32).for_each(|i| filter.insert(&i.to_be_bytes()));
        filter.complete();
        assert!((0..1000_u32).all(|i| filter.may_contain(&i.to_be_bytes())));
        let through = (1000..11_000_u32).filter(|i| filter.may_contain(&i.to_be_bytes())).count();
        assert!(through < 500, "{through} of 10,000");
    }
}
