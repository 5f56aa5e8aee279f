//! Which segments this node has: in memory, as the store has them registered.

use std::collections::{BTreeSet, HashMap};

use super::{EngineError, SegmentMeta};
use crate::Hash;

/// The registered segments whose files are there.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// By id, ascending.
    segments: Vec<SegmentMeta>,
    by_hash: HashMap<Hash, usize>,
    /// For the root, which is taken over sorted hashes.
    sorted: BTreeSet<Hash>,
    root: Option<Hash>,
    bytes: u64,
    records: u64,
}

impl Index {
    /// Adds a segment; one of the same hash is left as it is.
    pub(super) fn insert(&mut self, segment: SegmentMeta) {
        if !self.sorted.insert(segment.hash) {
            return;
        }
        self.root = None;
        self.bytes += segment.bytes;
        self.records += segment.records;
        let at = self.segments.partition_point(|other| other.id < segment.id);
        self.segments.insert(at, segment);
        for (i, segment) in self.segments.iter().enumerate().skip(at) {
            self.by_hash.insert(segment.hash, i);
        }
    }

    /// Takes a segment out, if it is there. Slow: it happens once in a lifetime.
    pub(super) fn remove(&mut self, hash: &Hash) {
        let kept = self.segments.iter().filter(|segment| segment.hash != *hash).cloned();
        let kept: Vec<_> = kept.collect();
        *self = Self::default();
        kept.into_iter().for_each(|segment| self.insert(segment));
    }

    pub(super) fn get(&self, hash: &Hash) -> Option<&SegmentMeta> {
        self.by_hash.get(hash).map(|&i| &self.segments[i])
    }

    pub(super) fn all(&self) -> &[SegmentMeta] {
        &self.segments
    }

    /// Bytes of all segment files, and records in them.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.bytes, self.records)
    }

    /// The root, if it has been worked out since the last change.
    pub(super) fn cached_root(&self) -> Option<Hash> {
        self.root
    }

    pub(super) fn root(&mut self) -> Hash {
        *self.root.get_or_insert_with(|| Hash::root(self.sorted.iter().copied()))
    }
}

/// A segment as it is registered in the store: key and value, integers big-endian.
pub(super) fn encode(segment: &SegmentMeta) -> ([u8; 8], [u8; 48]) {
    let mut value = [0; 48];
    value[..32].copy_from_slice(segment.hash.as_bytes());
    value[32..40].copy_from_slice(&segment.bytes.to_be_bytes());
    value[40..].copy_from_slice(&segment.records.to_be_bytes());
    (segment.id.to_be_bytes(), value)
}

pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<SegmentMeta, EngineError> {
    let parse = || {
        let id = u64::from_be_bytes(key.try_into().ok()?);
        let (hash, rest) = value.split_first_chunk::<32>()?;
        let (bytes, records) = rest.split_first_chunk::<8>()?;
        Some(SegmentMeta {
            id,
            hash: Hash::from_bytes(*hash),
            bytes: u64::from_be_bytes(*bytes),
            records: u64::from_be_bytes(records.try_into().ok()?),
        })
    };
    parse().ok_or_else(|| EngineError::Corrupt("the registration of a segment".to_owned()))
}
