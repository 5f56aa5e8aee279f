//! Which segments this node has: in memory, as the store has them registered.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::changes::ChangeLog;
use super::{EngineError, SegmentMeta};
use crate::Hash;

/// A segment as it is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registration {
    pub(super) meta: SegmentMeta,
    /// This node made it, and so may make another one of it.
    pub(super) own: bool,
    /// It brought versions that were here already: what has those may not be needed any more.
    pub(super) tied: bool,
    /// Its records are in the record store, and not only in the memtable.
    pub(super) drained: bool,
    /// It is known to be within the bounds that readers apply by default. Older versions of this
    /// host made segments of any size.
    pub(super) bounded: bool,
}

/// The registered segments whose files are there.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// By id, ascending.
    segments: Vec<Registration>,
    by_hash: HashMap<Hash, usize>,
    /// For the root, which is taken over sorted hashes.
    sorted: BTreeSet<Hash>,
    root: Option<Hash>,
    bytes: u64,
    records: u64,
    /// How many are not needed any more. The store has their hashes.
    retired: u64,
    log: ChangeLog,
}

impl Index {
    /// Adds a segment; one of the same hash is left as it is.
    pub(super) fn insert(&mut self, segment: Registration) {
        let hash = segment.meta.hash;
        if !self.sorted.insert(hash) {
            return;
        }
        self.root = None;
        self.bytes += segment.meta.bytes;
        self.records += segment.meta.records;
        let at = self.segments.partition_point(|other| other.meta.id < segment.meta.id);
        self.segments.insert(at, segment);
        self.number(at);
        self.log.push(hash);
    }

    /// Takes segments out, those that are there.
    pub(super) fn remove(&mut self, hashes: &HashSet<Hash>) {
        let first = self.segments.iter().position(|segment| hashes.contains(&segment.meta.hash));
        let Some(first) = first else { return };
        for removed in self.segments.extract_if(first.., |one| hashes.contains(&one.meta.hash)) {
            self.sorted.remove(&removed.meta.hash);
            self.by_hash.remove(&removed.meta.hash);
            self.bytes -= removed.meta.bytes;
            self.records -= removed.meta.records;
            self.log.push(removed.meta.hash);
        }
        self.root = None;
        self.number(first);
    }

    fn number(&mut self, from: usize) {
        for (i, segment) in self.segments.iter().enumerate().skip(from) {
            self.by_hash.insert(segment.meta.hash, i);
        }
    }

    pub(super) fn get(&self, hash: &Hash) -> Option<&Registration> {
        self.by_hash.get(hash).map(|&i| &self.segments[i])
    }

    pub(super) fn log(&self) -> &ChangeLog {
        &self.log
    }

    pub(super) fn all(&self) -> &[Registration] {
        &self.segments
    }

    /// Notes that these are not in the memtable any more.
    pub(super) fn drained(&mut self, ids: &HashSet<u64>) {
        let drained = self.segments.iter_mut().filter(|segment| ids.contains(&segment.meta.id));
        drained.for_each(|segment| segment.drained = true);
    }

    /// Notes that these own all that wins of what they hold.
    pub(super) fn untied(&mut self, ids: &HashSet<u64>) {
        let untied = self.segments.iter_mut().filter(|segment| ids.contains(&segment.meta.id));
        untied.for_each(|segment| segment.tied = false);
    }

    /// Notes that this node made these.
    pub(super) fn own(&mut self, ids: &HashSet<u64>) {
        let own = self.segments.iter_mut().filter(|segment| ids.contains(&segment.meta.id));
        own.for_each(|segment| segment.own = true);
    }

    /// Notes that these are within the bounds of readers.
    pub(super) fn bounded(&mut self, ids: &HashSet<u64>) {
        let bounded = self.segments.iter_mut().filter(|segment| ids.contains(&segment.meta.id));
        bounded.for_each(|segment| segment.bounded = true);
    }

    /// How many segments are not needed any more.
    pub(super) fn retired(&self) -> u64 {
        self.retired
    }

    /// The same, to count on.
    pub(super) fn retired_mut(&mut self) -> &mut u64 {
        &mut self.retired
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

const OWN: u8 = 1;
const TIED: u8 = 2;
const DRAINED: u8 = 4;
const BOUNDED: u8 = 8;

impl Registration {
    /// Key and value in the store: `id`; `hash, bytes, records, flags`; integers big-endian.
    pub(super) fn encode(&self) -> ([u8; 8], [u8; 49]) {
        let mut value = [0; 49];
        value[..32].copy_from_slice(self.meta.hash.as_bytes());
        value[32..40].copy_from_slice(&self.meta.bytes.to_be_bytes());
        value[40..48].copy_from_slice(&self.meta.records.to_be_bytes());
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        value[48] = flag(self.own, OWN)
            | flag(self.tied, TIED)
            | flag(self.drained, DRAINED)
            | flag(self.bounded, BOUNDED);
        (self.meta.id.to_be_bytes(), value)
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self, EngineError> {
        let parse = || {
            let id = u64::from_be_bytes(key.try_into().ok()?);
            let (hash, rest) = value.split_first_chunk::<32>()?;
            let (bytes, rest) = rest.split_first_chunk::<8>()?;
            let (records, rest) = rest.split_first_chunk::<8>()?;
            let &[flags] = rest else { return None };
            let meta = SegmentMeta {
                id,
                hash: Hash::from_bytes(*hash),
                bytes: u64::from_be_bytes(*bytes),
                records: u64::from_be_bytes(*records),
            };
            let set = |flag: u8| flags & flag != 0;
            let (own, tied, drained, bounded) = (set(OWN), set(TIED), set(DRAINED), set(BOUNDED));
            Some(Self { meta, own, tied, drained, bounded })
        };
        parse().ok_or_else(|| EngineError::Corrupt("the registration of a segment".to_owned()))
    }
}
