//! The segment file, `.dat` version 1 of `edgestore` 2.2.
//!
//! All integers are little-endian.
//!
//! ```text
//! file  = "GSDE" version:u8 = 1, 0, 0, 0   block+
//! block = "GSDE" len:u32  zstd[len]  zeros up to a multiple of 4096
//! zstd inflates to  record+, at most 2 MiB
//! record = key_len:u32 key  value_len:u32 value  lsn:u64  timestamp:i64  ttl:u32  op:u8
//! ```
//!
//! A key begins with the length of its namespace (`u16`, big-endian) and the namespace. `op` is 1
//! for a put and 2 for a tombstone, `timestamp` is in Unix nanoseconds, `ttl` in seconds from it, 0
//! for none, and `lsn` is the writer's own sequence number. The writer closes a block once it holds
//! 3900 bytes, and writes records in key order, each key once.

mod bounds;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod fuzz;
mod reader;
mod records;
mod writer;

pub(super) use bounds::{Bounds, MAX_INFLATED, record_weight};
pub use bounds::{MAX_FILE, MIN_INFLATED};
pub(super) use reader::{Invalid, Reader};
pub(super) use records::{Entry, Records};
pub(super) use writer::SegmentWriter;
#[cfg(any(test, feature = "testing"))]
pub(super) use writer::write;

/// Of the file and of each block: `EDGS` as the published crate has it, a little-endian `u32`.
const MAGIC: &[u8; 4] = b"GSDE";
const HEADER: &[u8; 8] = b"GSDE\x01\0\0\0";
/// Blocks are padded to a multiple of this.
const ALIGN: usize = 4096;
/// A block is closed when it holds this much, before compression.
pub(super) const BLOCK_TARGET: usize = 3900;
/// No reader inflates a block to more.
pub(super) const MAX_BLOCK: usize = ALIGN * 512;
/// zstd's level.
const LEVEL: i32 = 1;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A segment with a block for each record: of such ones, chunks of few records can be read.
    pub(crate) fn of_small_blocks(entries: &[Entry]) -> Vec<u8> {
        let mut bytes = HEADER.to_vec();
        for entry in entries {
            let mut one = Vec::new();
            write(&mut one, [Ok::<_, std::io::Error>(entry.clone())]).unwrap();
            bytes.extend(&one[HEADER.len()..]);
        }
        bytes
    }
}
