//! What a segment may take: counted alike by the nodes that write one and by those that read it.
//!
//! A reader keeps all records of a segment in memory, and a peer downloads its file as a whole. So
//! both sizes are bounded, and a writer closes a segment before it would exceed what readers with
//! default bounds take.

use zstd::zstd_safe::compress_bound;

use super::{ALIGN, MAX_BLOCK};

/// Memory that the records of a segment may take by default, in bytes.
pub(crate) const MAX_INFLATED: u64 = 512 << 20;

/// Bytes that the file of a segment may have by default.
pub const MAX_FILE: u64 = 256 << 20;

/// What a record takes in memory besides its bytes, roughly.
const RECORD_COST: u64 = 128;

/// The least bound on memory that takes any single record.
pub const MIN_INFLATED: u64 = MAX_BLOCK as u64 + RECORD_COST;

/// The most that a segment may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Bytes of memory: those of the inflated records, and 128 for each record.
    pub(crate) inflated: u64,
    /// Bytes of the file.
    pub(crate) file: u64,
}

impl Bounds {
    /// For what this node has accepted or made before.
    pub(crate) const NONE: Self = Self { inflated: u64::MAX, file: u64::MAX };
}

/// Bytes of memory that a record of `len` bytes in a block counts for.
pub(crate) fn record_weight(len: usize) -> u64 {
    RECORD_COST + len as u64
}

/// Counts what a segment takes, record by record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    limit: u64,
    used: u64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, used: 0 }
    }

    /// Whether another record of `len` bytes in its block stays within the limit.
    pub(super) fn fits(&self, len: usize) -> bool {
        self.used.saturating_add(record_weight(len)) <= self.limit
    }

    pub(super) fn add(&mut self, len: usize) {
        self.used = self.used.saturating_add(record_weight(len));
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }
}

/// Bytes that a block of `len` compressed bytes takes in a file.
pub(super) fn padded(len: usize) -> usize {
    (8 + len).next_multiple_of(ALIGN)
}

/// Most bytes that a block of `len` inflated bytes may take in a file.
pub(super) fn padded_bound(len: usize) -> u64 {
    padded(compress_bound(len)) as u64
}
