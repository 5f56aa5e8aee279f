//! Bytes that a peer chose to records, or to a reason why they are none.
//!
//! A valid hash says that the bytes are the ones that the peer named, not that they are sound. So
//! nothing is taken for granted, and memory is bounded before it is used: a block inflates into a
//! buffer of fixed size, and all blocks together stay within the [`Bounds`] that writers keep, too.

use std::fmt;
use std::io::{self, BufReader, Read};

use super::bounds::{Bounds, Budget, padded};
use super::records::{Fixed, Records};
use super::{HEADER, MAGIC, MAX_BLOCK};
use crate::record::{MAX_KEY, deleted, split};

/// Why there is no next block.
#[derive(Debug)]
pub(crate) enum Invalid {
    /// These bytes are no segment.
    Rejected(String),
    /// They could not be read.
    Io(io::Error),
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(why) => f.write_str(why),
            Self::Io(error) => write!(f, "can't read its file: {error}"),
        }
    }
}

impl From<io::Error> for Invalid {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn reject<T>(why: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid::Rejected(why.into()))
}

/// No more is reserved before it is there, in bytes.
const MAX_RESERVED: u64 = 64 << 20;

/// Read at a time, in bytes.
const READ: u64 = 256 << 10;

/// Into a buffer of so many times the compressed bytes a block is inflated first.
const LIKELY_RATIO: usize = 8;

/// Reads a segment block by block.
pub(crate) struct Reader<R> {
    input: BufReader<R>,
    /// Bytes of the file that are still to come.
    left: u64,
    budget: Budget,
    inflate: zstd::bulk::Decompressor<'static>,
    compressed: Vec<u8>,
    block: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Begins to read a file of `len` bytes.
    pub(crate) fn new(input: R, len: u64, bounds: Bounds) -> Result<Self, Invalid> {
        if len > bounds.file {
            let most = bounds.file;
            return reject(format!("its file has {len} bytes, and this node takes {most} at most"));
        }
        let mut input = BufReader::with_capacity(len.min(READ) as usize, input);
        let mut header = [0; HEADER.len()];
        if len < header.len() as u64 {
            return reject("it is shorter than a header");
        }
        input.read_exact(&mut header)?;
        if !header.starts_with(MAGIC) {
            return reject("it does not begin as a segment does");
        }
        if header != *HEADER {
            return reject(format!(
                "it is of version {}, and this host reads version 1: update the host",
                header[4]
            ));
        }
        let left = len - header.len() as u64;
        if left == 0 {
            return reject("it has no records");
        }
        let (compressed, block) = (Vec::new(), Vec::new());
        let inflate = zstd::bulk::Decompressor::new()?;
        let budget = Budget::new(bounds.inflated);
        Ok(Self { input, left, budget, inflate, compressed, block })
    }

    /// Bytes of memory that the records so far count for.
    pub(crate) fn weight(&self) -> u64 {
        self.budget.used()
    }

    /// Whether there are no more records.
    pub(crate) fn is_at_end(&self) -> bool {
        self.left == 0
    }

    /// All records, in the order of the file.
    pub(crate) fn read_all(mut self) -> Result<Records, Invalid> {
        Ok(self.read_chunk(u64::MAX)?.unwrap_or_default())
    }

    /// The next records in the order of the file: whole blocks, until they count for this many bytes
    /// of memory. `None` at the end.
    pub(crate) fn read_chunk(&mut self, bytes: u64) -> Result<Option<Records>, Invalid> {
        if self.is_at_end() {
            return Ok(None);
        }
        // Grown step by step, many of them at once would leave holes in the heap. What is reserved
        // and not used costs nothing.
        let limit = self.budget.limit().min(bytes).min(MAX_RESERVED);
        let mut records = Records::with_capacity(self.left.saturating_mul(2).min(limit) as usize);
        let end = self.weight().saturating_add(bytes);
        while self.weight() < end && self.next_block(&mut records)? {}
        records.shrink();
        Ok(Some(records))
    }

    /// Appends the records of the next block to `records`. False when there was none.
    pub(crate) fn next_block(&mut self, records: &mut Records) -> Result<bool, Invalid> {
        if self.left == 0 {
            return Ok(false);
        }
        self.inflate_block()?;
        let mut at = records.bytes().len();
        if u32::try_from(at + self.block.len()).is_err() {
            return reject("it takes more than 4 GiB in memory");
        }
        records.bytes_mut().extend_from_slice(&self.block);
        let mut rest = &self.block[..];
        while !rest.is_empty() {
            let before = rest.len();
            let Some((key, value, fixed)) = take_record(&mut rest)? else {
                return reject("a record is cut");
            };
            let len = before - rest.len();
            if !self.budget.fits(len) {
                return reject(format!(
                    "it takes more than {} bytes in memory: raise --max-segment-inflated, or let \
                     the node that made it compact, which splits it",
                    self.budget.limit()
                ));
            }
            self.budget.add(len);
            // All lengths are below that of the block, and the key's was checked.
            records.push((at + 4) as u32, key as u16, value as u32, fixed);
            at += len;
        }
        Ok(true)
    }

    fn inflate_block(&mut self) -> Result<(), Invalid> {
        let mut head = [0; 8];
        if self.left < head.len() as u64 {
            return reject("the header of a block is cut");
        }
        self.input.read_exact(&mut head)?;
        let [m0, m1, m2, m3, len @ ..] = head;
        if [m0, m1, m2, m3] != *MAGIC {
            return reject("a block does not begin as a block does");
        }
        let len = u32::from_le_bytes(len) as usize;
        if len > zstd::zstd_safe::compress_bound(MAX_BLOCK) {
            return reject(format!("a block of {len} compressed bytes is larger than any"));
        }
        let padded = padded(len) - head.len();
        self.left -= head.len() as u64;
        if self.left < padded as u64 {
            return reject("a block is cut");
        }
        self.left -= padded as u64;
        self.compressed.resize(padded, 0);
        self.input.read_exact(&mut self.compressed)?;
        if let Err(error) = self.inflate(len) {
            return reject(format!(
                "a block does not inflate to at most {MAX_BLOCK} bytes: {error}"
            ));
        }
        match self.block.len() {
            0 => reject("a block has no records"),
            // The allocator may have given more room than was asked for.
            len if len > MAX_BLOCK => reject("a block inflates to more than 2 MiB"),
            _ => Ok(()),
        }
    }

    /// Inflates the first `len` compressed bytes. zstd stops at the end of the buffer, which is that
    /// of the largest block only where it has to be: most are small, and memory takes its time.
    fn inflate(&mut self, len: usize) -> io::Result<usize> {
        self.block.clear();
        self.block.reserve((len * LIKELY_RATIO).clamp(16 << 10, MAX_BLOCK));
        match self.inflate.decompress_to_buffer(&self.compressed[..len], &mut self.block) {
            Err(_) if self.block.capacity() < MAX_BLOCK => {
                self.block.clear();
                self.block.reserve(MAX_BLOCK);
                self.inflate.decompress_to_buffer(&self.compressed[..len], &mut self.block)
            }
            result => result,
        }
    }
}

/// The lengths of key and value, and what follows them; none where it is cut.
fn take_record(rest: &mut &[u8]) -> Result<Option<(usize, usize, Fixed)>, Invalid> {
    let Some(key) = take_bytes(rest) else { return Ok(None) };
    let Some(value) = take_bytes(rest) else { return Ok(None) };
    let Some((fixed, after)) = rest.split_first_chunk::<21>() else { return Ok(None) };
    *rest = after;
    let [l0, l1, l2, l3, l4, l5, l6, l7, t @ .., x0, x1, x2, x3, op] = *fixed;
    if split(key).is_none() || key.len() > MAX_KEY + 2 {
        return reject("a key has no namespace, or is too long");
    }
    let Some(deleted) = deleted(op) else { return reject(format!("{op} is no operation")) };
    let fixed = Fixed {
        lsn: u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]),
        timestamp: i64::from_le_bytes(t),
        ttl: u32::from_le_bytes([x0, x1, x2, x3]),
        deleted,
    };
    Ok(Some((key.len(), value.len(), fixed)))
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, after) = rest.split_first_chunk::<4>()?;
    let (bytes, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    *rest = after;
    Some(bytes)
}
