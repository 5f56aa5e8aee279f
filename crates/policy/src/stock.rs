//! The bytes of the default policy's cursor, which databases in the field hold.
//!
//! They are a stream of MessagePack values. The first is exactly what the stock loop writes (five
//! fields in array form, hashes as arrays of integers); that loop reads one value and ignores what
//! follows, so a database can go from it to this policy and back. Then, only where there is
//! something to say, come a schema number and an array of what the stock loop does not know. A
//! reader that does not know the schema keeps the first value.
//!
//! It is written with `rmp`, the crate under `rmp-serde`: the same bytes, in a fifth of the code.

use rmp::{decode, encode};

use crate::segments::{Segments, State};
use crate::types::Hash;

/// The layout of what follows the stock fields.
pub const SCHEMA: u32 = 1;

/// Most bytes that a pending segment takes: an array header and 32 integers of one or two bytes.
pub const PENDING_BYTES: usize = 3 + 2 * 32;

/// What is known of one peer; the name is that of the stock loop.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeerCursor {
    /// The root of the last manifest that was pulled completely.
    pub last_root: Option<Hash>,
    /// When the last tick began, since the Unix epoch.
    pub last_attempt_secs: u64,
    /// Segments applied so far.
    pub applied_total: u64,
    /// The highest that the peer showed.
    pub write_token: u64,
    /// Ticks in a row that failed.
    pub failures: u32,
    /// What the peer offers and the engine lacks.
    pub segments: Segments,
}

/// What to tell the user about a cursor that was read in part or not at all.
pub type Warning = Option<&'static str>;

/// How much of a cursor to write.
pub struct Room {
    /// How many of the pending segments. The rest is found again in the peer's manifest.
    pub pending: usize,
    /// Whether to write what the stock loop does not know.
    pub extension: bool,
}

impl Room {
    /// The whole cursor.
    pub const ALL: Room = Room { pending: usize::MAX, extension: true };
}

impl PeerCursor {
    /// The segments that failed, and how.
    fn failed(&self) -> impl Iterator<Item = (&Hash, &State)> {
        self.segments.iter().filter(|(_, state)| **state != State::New)
    }

    /// Reads whatever it can; what it cannot read is as if it had never been written.
    pub fn decode(mut bytes: &[u8]) -> (PeerCursor, Warning) {
        let Some(mut cursor) = read_stock(&mut bytes) else {
            let warning = "the cursor is undecodable; starting from an empty one";
            return (PeerCursor::default(), Some(warning));
        };
        if bytes.is_empty() {
            return (cursor, None);
        }
        let warning = match read::<u32>(&mut bytes) {
            Some(newer) if newer > SCHEMA => "a newer policy wrote the cursor; forgetting failures",
            Some(SCHEMA) if let Some((failures, segments)) = read_extension(&mut bytes) => {
                cursor.failures = failures;
                cursor.segments.extend(segments);
                return (cursor, None);
            }
            _ => "the cursor's failures are undecodable; forgetting them",
        };
        (cursor, Some(warning))
    }

    /// The whole cursor, or as much of it as `room` allows. None is not expected: writing to memory
    /// does not fail.
    pub fn encode(&self, room: &Room) -> Option<Vec<u8>> {
        let pending = self.segments.pending().count().min(room.pending);
        let mut bytes = Vec::with_capacity(256 + pending * PENDING_BYTES);
        let out = &mut bytes;
        encode::write_array_len(out, 5).ok()?;
        match self.last_root {
            Some(root) => write_stock_hash(out, &root)?,
            None => encode::write_array_len(out, 0).ok().map(|_| ())?,
        }
        encode::write_array_len(out, pending as u32).ok()?;
        self.segments.pending().take(pending).try_for_each(|hash| write_stock_hash(out, hash))?;
        for number in [self.last_attempt_secs, self.applied_total, self.write_token] {
            encode::write_uint(out, number).ok()?;
        }
        let failed = self.failed().count();
        if room.extension && (self.failures > 0 || failed > 0) {
            encode::write_uint(out, SCHEMA.into()).ok()?;
            encode::write_array_len(out, 2).ok()?;
            encode::write_uint(out, self.failures.into()).ok()?;
            encode::write_array_len(out, failed as u32).ok()?;
            self.failed().try_for_each(|(hash, state)| write_failed(out, hash, state))?;
        }
        Some(bytes)
    }
}

const RETRY: u32 = 1;
const QUARANTINED: u32 = 2;
const REJECTED: u32 = 3;

fn write_failed(out: &mut Vec<u8>, hash: &Hash, state: &State) -> Option<()> {
    let (kind, tries, time_ms) = match *state {
        State::New => return Some(()),
        State::Retry { tries, not_before_ms } => (RETRY, tries, not_before_ms),
        State::Quarantined { until_ms, tries } => (QUARANTINED, tries, until_ms),
        State::Rejected => (REJECTED, 0, 0),
    };
    encode::write_array_len(out, 4).ok()?;
    encode::write_bin(out, &hash.to_bytes()).ok()?;
    for number in [kind.into(), tries.into(), time_ms] {
        encode::write_uint(out, number).ok()?;
    }
    Some(())
}

fn write_stock_hash(out: &mut Vec<u8>, hash: &Hash) -> Option<()> {
    encode::write_array_len(out, 32).ok()?;
    for byte in hash.to_bytes() {
        encode::write_uint(out, byte.into()).ok()?;
    }
    Some(())
}

/// Older files of the stock loop lack the write token.
fn read_stock(bytes: &mut &[u8]) -> Option<PeerCursor> {
    let fields = decode::read_array_len(bytes).ok()?;
    if !(4..=5).contains(&fields) {
        return None;
    }
    let mut cursor = PeerCursor { last_root: read_stock_hash(bytes)?, ..PeerCursor::default() };
    for _ in 0..decode::read_array_len(bytes).ok()? {
        if let Some(hash) = read_stock_hash(bytes)? {
            cursor.segments.extend([(hash, State::New)]);
        }
    }
    cursor.last_attempt_secs = read(bytes)?;
    cursor.applied_total = read(bytes)?;
    if fields == 5 {
        cursor.write_token = read(bytes)?;
    }
    Some(cursor)
}

/// The failed ticks in a row, and the segments that failed.
fn read_extension(bytes: &mut &[u8]) -> Option<(u32, Vec<(Hash, State)>)> {
    read_len(bytes, 2)?;
    let failures = read(bytes)?;
    let mut segments = Vec::new();
    for _ in 0..decode::read_array_len(bytes).ok()? {
        read_len(bytes, 4)?;
        let len = decode::read_bin_len(bytes).ok()? as usize;
        let hash = Hash::from_bytes(bytes.split_off(..len)?)?;
        let (kind, tries, time_ms) = (read(bytes)?, read(bytes)?, read(bytes)?);
        let state = match kind {
            RETRY => State::Retry { tries, not_before_ms: time_ms },
            QUARANTINED => State::Quarantined { until_ms: time_ms, tries },
            REJECTED => State::Rejected,
            _ => return None,
        };
        segments.push((hash, state));
    }
    Some((failures, segments))
}

/// The inner value is none where the array is no hash.
fn read_stock_hash(bytes: &mut &[u8]) -> Option<Option<Hash>> {
    let mut hash = [0; 32];
    let len = decode::read_array_len(bytes).ok()?;
    for i in 0..len {
        let byte = read::<u8>(bytes)?;
        if let Some(place) = hash.get_mut(i as usize) {
            *place = byte;
        }
    }
    Some(Hash::from_bytes(&hash).filter(|_| len == 32))
}

fn read<T: TryFrom<u64>>(bytes: &mut &[u8]) -> Option<T> {
    T::try_from(decode::read_int::<u64, _>(bytes).ok()?).ok()
}

fn read_len(bytes: &mut &[u8], expected: u32) -> Option<()> {
    (decode::read_array_len(bytes).ok()? == expected).then_some(())
}

#[cfg(test)]
#[path = "stock_tests.rs"]
mod tests;
