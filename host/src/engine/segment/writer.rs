//! Records to bytes, in the very bytes that the published writer would make of them.

use std::io::{self, Write};

use zstd::stream::raw::{Encoder, InBuffer, Operation as _, OutBuffer};
use zstd::zstd_safe::compress_bound;

use super::{ALIGN, BLOCK_TARGET, Entry, HEADER, LEVEL, MAGIC};
use crate::engine::extent::{Extent, Measure};
use crate::engine::record::op;

/// Writes a segment of these entries, which must be in key order. The returned count is theirs, and
/// so is the extent.
pub(in crate::engine) fn write<E>(
    out: &mut impl Write,
    entries: impl IntoIterator<Item = Result<Entry, E>>,
) -> Result<(u64, Extent), E>
where
    E: From<io::Error>,
{
    out.write_all(HEADER)?;
    let mut deflate = Deflate::new()?;
    let (mut block, mut count, mut measure) = (Vec::new(), 0, Measure::new());
    for entry in entries {
        let entry = entry?;
        encode(&entry, &mut block);
        measure.add(entry.key, entry.version.timestamp);
        count += 1;
        if block.len() >= BLOCK_TARGET {
            write_block(out, deflate.block(&block)?)?;
            block.clear();
        }
    }
    if !block.is_empty() {
        write_block(out, deflate.block(&block)?)?;
    }
    Ok((count, measure.finish()))
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

fn write_block(out: &mut impl Write, compressed: &[u8]) -> io::Result<()> {
    out.write_all(MAGIC)?;
    out.write_all(&(compressed.len() as u32).to_le_bytes())?;
    out.write_all(compressed)?;
    let len = MAGIC.len() + 4 + compressed.len();
    out.write_all(&[0; ALIGN][..len.next_multiple_of(ALIGN) - len])
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
