//! The contract as Rust types, and how they translate to the host's own. Here is the newest
//! version; each older one that is still accepted has a module, which maps it onto this one.

pub(super) mod v0_1;

use edgestore_engine::Hash;
use edgestore_protocol::{KeyRange, ListedSegment, PeerError};
use wasmtime::component::bindgen;

bindgen!({
    path: "../../wit",
    world: "sync-policy",
    imports: { default: trappable },
    with: {
        "edgestore:sync/peers.peer": super::resources::PeerHandle,
        "edgestore:sync/peers.manifest": super::resources::Manifest,
        "edgestore:sync/transfers.transfer": super::resources::Transfer,
        "edgestore:sync/transfers.segment": super::resources::Segment,
    },
});

pub(super) use edgestore::sync::{
    archive, clock, cursor, local, log, peers, random, transfers, types,
};
pub(super) use exports::edgestore::sync::policy;

impl From<Hash> for types::Hash {
    fn from(hash: Hash) -> Self {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&hash.as_bytes()[at..at + 8]);
            u64::from_be_bytes(word)
        };
        Self { a: word(0), b: word(8), c: word(16), d: word(24) }
    }
}

impl From<types::Hash> for Hash {
    fn from(hash: types::Hash) -> Self {
        let mut bytes = [0; 32];
        for (at, word) in [hash.a, hash.b, hash.c, hash.d].into_iter().enumerate() {
            bytes[at * 8..][..8].copy_from_slice(&word.to_be_bytes());
        }
        Self::from_bytes(bytes)
    }
}

impl From<ListedSegment<'_>> for types::SegmentRef {
    fn from(segment: ListedSegment<'_>) -> Self {
        let info = segment.info.map(|info| types::SegmentInfo {
            size: info.size,
            records: info.records,
            newest_ms: info.newest_ms,
            created_ms: info.created_ms,
        });
        Self { hash: segment.hash.into(), id: segment.id, info }
    }
}

impl From<&KeyRange> for types::KeyRange {
    fn from(range: &KeyRange) -> Self {
        let (first, last) = (range.first(), range.last());
        Self {
            first_namespace: first.0.to_vec(),
            first_key: first.1.to_vec(),
            last_namespace: last.0.to_vec(),
            last_key: last.1.to_vec(),
        }
    }
}

impl From<&PeerError> for types::PeerError {
    fn from(error: &PeerError) -> Self {
        match error {
            PeerError::Unreachable(_) => Self::Unreachable,
            PeerError::Timeout(_) => Self::Timeout,
            PeerError::Status(status) => Self::Status(*status),
            PeerError::Malformed(_) => Self::Malformed,
            PeerError::TooLarge { .. } => Self::TooLarge,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_cross_the_boundary_unchanged_and_in_order() {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(1..).for_each(|(byte, n)| *byte = n);
        let words = types::Hash::from(Hash::from_bytes(bytes));
        assert_eq!((words.a, words.d), (0x0102_0304_0506_0708, 0x191a_1b1c_1d1e_1f20));
        assert_eq!(Hash::from(words), Hash::from_bytes(bytes));
    }
}
