//! The hashes that a peer has listed. A list may have two million of them, so they are kept once,
//! whoever looks for one or goes through them.

use std::sync::Arc;

use crate::Hash;
use crate::protocol::SegmentRef;

/// The hashes of one list, each once, in the peer's order.
#[derive(Debug)]
pub(super) struct Listing {
    hashes: Arc<[Hash]>,
    /// Positions in the order of the hashes.
    order: Box<[u32]>,
    root: Hash,
}

impl Listing {
    pub(super) fn of(segments: &[SegmentRef]) -> Arc<Self> {
        let hashes: Arc<[Hash]> = segments.iter().map(|segment| segment.hash).collect();
        // No list has 2^32 entries.
        let mut order: Box<[u32]> = (0..hashes.len() as u32).collect();
        order.sort_unstable_by_key(|&at| hashes[at as usize]);
        let root = Hash::root_of_sorted(order.iter().map(|&at| hashes[at as usize]));
        Arc::new(Self { hashes, order, root })
    }

    pub(super) fn hashes(&self) -> &Arc<[Hash]> {
        &self.hashes
    }

    /// The root over them.
    pub(super) fn root(&self) -> Hash {
        self.root
    }

    /// Where this one is in the list.
    pub(super) fn position(&self, hash: &Hash) -> Option<usize> {
        let found = self.order.binary_search_by_key(hash, |&at| self.hashes[at as usize]);
        found.ok().map(|at| self.order[at] as usize)
    }

    /// What it takes of memory, about, in bytes.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.hashes) + size_of_val(&*self.order)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_hash_is_found_where_it_is_and_no_other(
            listed in proptest::collection::hash_set(any::<u16>(), 0..3000),
            other in any::<u16>(),
        ) {
            let hash = |n: &u16| Hash::of(&n.to_le_bytes());
            let listed: Vec<u16> = listed.into_iter().collect();
            let of = |n| SegmentRef { hash: hash(n), id: 1, info: None };
            let listing = Listing::of(&listed.iter().map(of).collect::<Vec<_>>());
            for (at, n) in listed.iter().enumerate() {
                prop_assert_eq!(listing.position(&hash(n)), Some(at));
            }
            prop_assert_eq!(listing.position(&hash(&other)).is_some(), listed.contains(&other));
            prop_assert_eq!(listing.root(), Hash::root(listed.iter().map(hash)));
        }
    }
}
