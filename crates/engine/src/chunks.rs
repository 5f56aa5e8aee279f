//! Segments whose records take more memory than there is for them are read and merged some records at
//! a time.
//!
//! Such a segment is registered first, as one whose records are not in the record store yet, and then
//! read: a crash in between leaves what any crash leaves, and the next start reads it again. Reads find
//! a part of its records meanwhile.

use fjall::OwnedWriteBatch;

use super::apply::not_applied;
use super::drain::SegmentReader;
use super::extent::{Extent, Measure};
use super::index::Registration;
use super::segment::{Bounds, Invalid, Reader, Records};
use super::store::Writer;
use super::{ApplyError, Engine, EngineError, SegmentMeta, StagedSegment};

/// The count and the extent of records that come in chunks.
pub(super) struct Survey {
    count: u64,
    measure: Measure<Vec<u8>>,
    /// The greatest key so far.
    last: Vec<u8>,
    /// Keys of a chunk are not above those of the one before, as in no file of known writers.
    is_mixed: bool,
}

impl Survey {
    pub(super) fn new() -> Self {
        Self { count: 0, measure: Measure::new(), last: Vec::new(), is_mixed: false }
    }

    /// Counts a chunk, and normalizes it.
    pub(super) fn add(&mut self, records: &mut Records) {
        self.count += records.len() as u64;
        records.normalize();
        let Some(last) = records.len().checked_sub(1) else { return };
        self.is_mixed |= self.last.as_slice() >= records.key(0);
        for entry in records.iter() {
            self.measure.add(entry.key.to_vec(), entry.version.timestamp);
        }
        self.last = records.key(last).to_vec();
    }

    pub(super) fn finish(self) -> (u64, Extent) {
        let extent = self.measure.finish();
        let keys = extent.keys.filter(|_| !self.is_mixed);
        (self.count, Extent { keys, ..extent })
    }
}

impl Engine {
    /// [`Engine::overtake`] for records that are not held in memory.
    pub(super) fn overtake_in_chunks(
        &self,
        writer: &Writer,
        segment: &mut StagedSegment,
        batch: &mut OwnedWriteBatch,
    ) -> Result<Vec<Vec<u8>>, ApplyError> {
        let mut overtaken = Vec::new();
        if writer.pending.is_empty() {
            return Ok(overtaken);
        }
        let hash = segment.hash();
        let invalid = |invalid| not_applied(hash, invalid);
        let bytes = self.options.memtable_bytes;
        let mut reader = segment.reader(self.options.reader_bounds()).map_err(invalid)?;
        while let Some(mut records) = reader.read_chunk(bytes).map_err(invalid)? {
            records.normalize();
            self.keep_winners(&mut records)?;
            overtaken.extend(self.overtake(writer, &records, batch));
        }
        Ok(overtaken)
    }

    /// Takes what wins of the file of a segment, whose registration is on disk, into the memtable.
    /// Returns how many records those are. After an error the segment counts as missing, as it does
    /// when a start can't read it; some of its records may be here.
    pub(super) fn hold_file(
        &self,
        writer: &mut Writer,
        segment: &Registration,
    ) -> Result<u64, EngineError> {
        let path = self.folder.segment(&segment.meta.hash);
        let mut hold = || {
            let file = self.folder.disk().open(&path).map_err(EngineError::io("open", &path))?;
            let won = match Reader::new(file, segment.meta.bytes, Bounds::NONE) {
                Ok(reader) => self.hold_chunks(writer, segment, reader)?,
                Err(invalid) => Err(invalid),
            };
            won.map_err(|invalid| match invalid {
                Invalid::Rejected(why) => {
                    EngineError::Corrupt(format!("{}: {why}", path.display()))
                }
                Invalid::Io(source) => EngineError::io("read", &path)(source),
            })
        };
        let won = hold();
        if won.is_err() {
            writer.absent.insert(segment.meta.hash, segment.clone());
            self.publish(writer)?;
        }
        won
    }

    /// [`Engine::hold_file`] from its reader. Returns what is wrong with the file, where something is.
    pub(super) fn hold_chunks(
        &self,
        writer: &mut Writer,
        segment: &Registration,
        mut reader: SegmentReader,
    ) -> Result<Result<u64, Invalid>, EngineError> {
        let SegmentMeta { id, records: registered, .. } = segment.meta;
        let (mut read, mut won) = (0, 0);
        loop {
            let mut records = match reader.read_chunk(self.options.memtable_bytes) {
                Ok(Some(records)) => records,
                Ok(None) => break,
                Err(invalid) => return Ok(Err(invalid)),
            };
            read += records.len() as u64;
            records.normalize();
            self.make_room(writer)?;
            self.keep_winners(&mut records)?;
            won += records.len() as u64;
            self.hold_part(writer, id, records);
        }
        self.hold(writer, id, Records::default());
        Ok(match read == registered {
            true => Ok(won),
            false => Err(Invalid::Rejected(format!("it has {read} records, not {registered}"))),
        })
    }
}
