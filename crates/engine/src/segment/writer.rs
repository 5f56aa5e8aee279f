//! Records to bytes, in the very bytes that the published writer would make of them.

use std::io::{self, Write};

use zstd::stream::raw::{Encoder, InBuffer, Operation as _, OutBuffer};
use zstd::zstd_safe::compress_bound;

use super::bounds::{Bounds, Budget, padded, padded_bound};
use super::{ALIGN, BLOCK_TARGET, Entry, HEADER, LEVEL, MAGIC};
use crate::extent::{Extent, Measure};
use crate::record::{op, record_len};

/// Writes one segment, which stays within its bounds.
pub(crate) struct SegmentWriter<W> {
    out: W,
    bounds: Bounds,
    budget: Budget,
    deflate: Deflate,
    /// Records of the block that is not written yet.
    block: Vec<u8>,
    /// Bytes written.
    written: u64,
    count: u64,
    measure: Measure<Vec<u8>>,
}

impl<W: Write> SegmentWriter<W> {
    pub(crate) fn new(mut out: W, bounds: Bounds) -> io::Result<Self> {
        out.write_all(HEADER)?;
        let (budget, deflate) = (Budget::new(bounds.inflated), Deflate::new()?);
        let (written, measure) = (HEADER.len() as u64, Measure::new());
        Ok(Self { out, bounds, budget, deflate, block: Vec::new(), written, count: 0, measure })
    }

    /// Whether the segment stays within its bounds with another entry. The first one always fits:
    /// there is no smaller segment for it.
    pub(crate) fn fits(&self, entry: &Entry<&[u8]>) -> bool {
        let len = encoded_len(entry);
        // What is not written yet is taken to be incompressible.
        let file = self.written.saturating_add(padded_bound(self.block.len() + len));
        self.count == 0 || (self.budget.fits(len) && file <= self.bounds.file)
    }

    /// Adds an entry. Its key must be above that of the entry before.
    pub(crate) fn push(&mut self, entry: Entry) -> io::Result<()> {
        self.budget.add(encoded_len(&entry.as_ref()));
        encode(&entry, &mut self.block);
        self.measure.add(entry.key, entry.version.timestamp);
        self.count += 1;
        if self.block.len() >= BLOCK_TARGET { self.write_block() } else { Ok(()) }
    }

    fn write_block(&mut self) -> io::Result<()> {
        let compressed = self.deflate.block(&self.block)?;
        write_block(&mut self.out, compressed)?;
        self.written += padded(compressed.len()) as u64;
        self.block.clear();
        Ok(())
    }

    /// Ends the segment. Returns what it was written to, the number of records, and their extent.
    pub(crate) fn finish(mut self) -> io::Result<(W, u64, Extent)> {
        if !self.block.is_empty() {
            self.write_block()?;
        }
        Ok((self.out, self.count, self.measure.finish()))
    }
}

/// Writes a segment of these entries, which must be in key order, however large it gets.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn write<E: From<io::Error>>(
    out: &mut impl Write,
    entries: impl IntoIterator<Item = Result<Entry, E>>,
) -> Result<(u64, Extent), E> {
    let mut writer = SegmentWriter::new(out, Bounds::NONE)?;
    for entry in entries {
        writer.push(entry?)?;
    }
    let (_, count, extent) = writer.finish()?;
    Ok((count, extent))
}

/// Bytes of an entry in its block.
fn encoded_len(entry: &Entry<&[u8]>) -> usize {
    record_len(entry.key, entry.version.value)
}

fn encode(entry: &Entry, block: &mut Vec<u8>) {
    let version = &entry.version;
    for bytes in [&entry.key, &version.value] {
        // Both are far below 4 GiB: a record is no larger than a block.
        block.extend((bytes.len() as u32).to_le_bytes());
        block.extend(bytes);
    }
    block.extend(entry.lsn.to_le_bytes());
    block.extend(version.timestamp.to_le_bytes());
    block.extend(version.ttl.to_le_bytes());
    block.push(op(version.deleted));
}

pub(super) fn write_block(out: &mut impl Write, compressed: &[u8]) -> io::Result<()> {
    out.write_all(MAGIC)?;
    out.write_all(&(compressed.len() as u32).to_le_bytes())?;
    out.write_all(compressed)?;
    let len = MAGIC.len() + 4 + compressed.len();
    out.write_all(&[0; ALIGN][..padded(compressed.len()) - len])
}

/// Compresses block after block, as `zstd::encode_all` does each: what that takes is made once, which
/// is more work than a block is.
pub(super) struct Deflate {
    encoder: Encoder<'static>,
    compressed: Vec<u8>,
}

impl Deflate {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { encoder: Encoder::new(LEVEL)?, compressed: Vec::new() })
    }

    /// The compressed bytes of a block.
    pub(super) fn block(&mut self, block: &[u8]) -> io::Result<&[u8]> {
        self.encoder.reinit()?;
        self.compressed.clear();
        self.compressed.reserve(compress_bound(block.len()));
        let mut input = InBuffer::around(block);
        let mut output = OutBuffer::around(&mut self.compressed);
        while input.pos() < block.len() {
            self.encoder.run(&mut input, &mut output)?;
        }
        if self.encoder.finish(&mut output, true)? > 0 {
            return Err(io::Error::other("a block is larger than zstd's bound"));
        }
        Ok(&self.compressed)
    }
}
