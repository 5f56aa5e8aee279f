//! A record, its key in the store, and the order in which records win.
//!
//! Records of one key are totally ordered by (timestamp, delete over put, value, TTL), and merging
//! takes the greatest. So merging is commutative, associative and idempotent: a join-semilattice
//! (Shapiro et al., "Conflict-free Replicated Data Types", 2011), in which any order, grouping and
//! repetition of segments ends in the same records.

use std::time::Duration;

use super::EngineError;

/// Namespace and key together, in bytes. Two more bytes give the length of the namespace.
pub const MAX_KEY: usize = u16::MAX as usize - 2;

/// A record in a segment, in bytes. With what may precede it in its block, it stays below the
/// 2 MiB that a reader inflates.
pub const MAX_RECORD: usize = super::segment::MAX_BLOCK - super::segment::BLOCK_TARGET;

/// The writes of a batch, in bytes of namespaces, keys and values.
pub const MAX_BATCH: usize = 64 << 20;

/// What a record weighs in a segment besides key and value.
const OVERHEAD: usize = 4 + 4 + 8 + 8 + 4 + 1;

/// One live record as a read returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key in its namespace.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// Unix nanoseconds of the write.
    pub timestamp: i64,
    /// Seconds from the write, 0 for none.
    pub ttl: u32,
}

/// What the store holds under a key: a put or a tombstone. Ordered by who wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version<V> {
    pub(super) timestamp: i64,
    pub(super) deleted: bool,
    /// Empty for a tombstone.
    pub(super) value: V,
    pub(super) ttl: u32,
}

impl<V> Version<V> {
    /// Whether a read at `now` (Unix nanoseconds) finds it.
    pub(super) fn is_live(&self, now: i64) -> bool {
        !self.deleted && i128::from(now) < self.end()
    }

    /// Whether it has been deleted or expired for longer than `grace`.
    pub(super) fn is_past(&self, now: i64, grace: Duration) -> bool {
        let grace = i128::try_from(grace.as_nanos()).unwrap_or(i128::MAX);
        i128::from(now) >= self.end().saturating_add(grace)
    }

    /// When reads cease to find it, in Unix nanoseconds.
    fn end(&self) -> i128 {
        let written = i128::from(self.timestamp);
        match (self.deleted, self.ttl) {
            (true, _) => written,
            (false, 0) => i128::MAX,
            (false, ttl) => written + i128::from(ttl) * 1_000_000_000,
        }
    }
}

impl Version<Vec<u8>> {
    pub(super) fn as_ref(&self) -> Version<&[u8]> {
        let Self { timestamp, deleted, value, ttl } = self;
        Version { timestamp: *timestamp, deleted: *deleted, value, ttl: *ttl }
    }
}

impl Version<&[u8]> {
    pub(super) fn to_owned(self) -> Version<Vec<u8>> {
        let Self { timestamp, deleted, value, ttl } = self;
        Version { timestamp, deleted, value: value.to_vec(), ttl }
    }
}

/// A version in the store, with the segment that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored<V> {
    /// The id of a segment that holds this very version, or of the next flush. One at most, however
    /// many hold it: so a segment that owns nothing is not needed any more.
    pub(super) owner: u64,
    pub(super) version: Version<V>,
}

impl<V: AsRef<[u8]>> Stored<V> {
    /// `owner: u64, timestamp: i64, ttl: u32, op: u8, value`, little-endian; `op` as in a segment.
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { owner, version } = self;
        let value = version.value.as_ref();
        let mut bytes = Vec::with_capacity(8 + 8 + 4 + 1 + value.len());
        bytes.extend(owner.to_le_bytes());
        bytes.extend(version.timestamp.to_le_bytes());
        bytes.extend(version.ttl.to_le_bytes());
        bytes.push(op(version.deleted));
        bytes.extend(value);
        bytes
    }
}

impl<'a> Stored<&'a [u8]> {
    /// The one that wins; the first, if they are the same version.
    pub(super) fn greater(first: Option<Self>, second: Option<Self>) -> Option<Self> {
        match (first, second) {
            (Some(first), Some(second)) if second.version > first.version => Some(second),
            (first, second) => first.or(second),
        }
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, EngineError> {
        let parts = bytes.split_first_chunk::<8>().and_then(|(owner, rest)| {
            let (timestamp, rest) = rest.split_first_chunk::<8>()?;
            let (ttl, rest) = rest.split_first_chunk::<4>()?;
            let (op, value) = rest.split_first()?;
            let deleted = deleted(*op)?;
            let (timestamp, ttl) = (i64::from_le_bytes(*timestamp), u32::from_le_bytes(*ttl));
            let version = Version { timestamp, deleted, value, ttl };
            Some(Self { owner: u64::from_le_bytes(*owner), version })
        });
        parts.ok_or_else(|| EngineError::Corrupt("a stored record is cut or changed".to_owned()))
    }
}

/// The operation byte of the segment format.
pub(super) fn op(deleted: bool) -> u8 {
    if deleted { 2 } else { 1 }
}

/// Whether an operation byte says that the record is a tombstone; none when it says nothing.
pub(super) fn deleted(op: u8) -> Option<bool> {
    match op {
        1 => Some(false),
        2 => Some(true),
        _ => None,
    }
}

/// The key in store and segments: length of the namespace (`u16`, big-endian), namespace, key. So
/// a namespace is a contiguous range, whatever its name, and none is the prefix of another.
pub(super) fn store_key(ns: &[u8], key: &[u8]) -> Result<Vec<u8>, EngineError> {
    let bytes = ns.len() + key.len();
    if bytes > MAX_KEY {
        return Err(EngineError::KeyTooLong { bytes });
    }
    let mut store_key = Vec::with_capacity(2 + bytes);
    // Below 2^16 by the check.
    store_key.extend((ns.len() as u16).to_be_bytes());
    store_key.extend(ns);
    store_key.extend(key);
    Ok(store_key)
}

/// Namespace and key of a store key; none when it is no such.
pub(super) fn split(store_key: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = store_key.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

/// Bytes of a record in a segment, before compression.
pub(super) fn record_len(store_key: &[u8], value: &[u8]) -> usize {
    OVERHEAD + store_key.len() + value.len()
}

/// Checks what a local write may hold.
pub(super) fn check_size(store_key: &[u8], value: &[u8]) -> Result<(), EngineError> {
    let bytes = record_len(store_key, value);
    if bytes > MAX_RECORD { Err(EngineError::RecordTooLarge { bytes }) } else { Ok(()) }
}

/// Whole seconds, begun ones counted.
pub(super) fn ttl_secs(ttl: Option<Duration>) -> Result<u32, EngineError> {
    let Some(ttl) = ttl else { return Ok(0) };
    let secs = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
    u32::try_from(secs).ok().filter(|&secs| secs > 0).ok_or(EngineError::Ttl)
}

/// Unix nanoseconds, by the wall clock of this machine.
#[cfg(test)]
pub(super) fn now() -> i64 {
    super::WallClock::default().now()
}
