//! The memtable's records go to the record store, many at once and in key order; and come back
//! from the segment files after a crash before that.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::Ordering;

use fjall::PersistMode;

use super::index::Registration;
use super::memtable::Memtable;
use super::scan::merge;
use super::segment::{Bounds, Invalid, Reader, Records};
use super::store::Writer;
use super::{Engine, EngineError};
use crate::disk::{DiskFile, is_no_file};

/// More segments than this are not read again at a start.
const MAX_SEGMENTS: usize = 1000;

/// Reads a segment's file.
pub(super) type SegmentReader = Reader<Box<dyn DiskFile>>;

impl Drop for Engine {
    /// A start need not read again what was applied, and knows what it must find.
    fn drop(&mut self) {
        if self.folder.is_read_only() {
            return;
        }
        if let Err(error) = self.check_files() {
            self.folder.found_wrong(error.to_string());
            return;
        }
        self.settle();
        let writer = self.writer();
        // After a clean stop, a file that is registered nowhere is a sign of an older record store.
        let all_known = writer.unregistered.is_empty() && !self.has_strays.load(Ordering::Relaxed);
        if all_known && self.store.check().is_ok() && !std::thread::panicking() {
            self.folder.stopped(self.stop_progress(&writer));
        }
    }
}

impl Engine {
    pub(super) fn is_full(&self) -> bool {
        let memtable = self.memtable();
        memtable.weight() as u64 >= self.options.memtable_bytes
            || memtable.segments().len() >= MAX_SEGMENTS
    }

    /// Drains the memtable once it is full.
    pub(super) fn make_room(&self, writer: &mut Writer) -> Result<(), EngineError> {
        // A reader has no place for it but memory.
        if self.is_full() && !self.folder.is_read_only() { self.drain(writer) } else { Ok(()) }
    }

    /// Puts all records of the memtable into the record store. Reads find them in either
    /// meanwhile.
    pub(super) fn drain(&self, writer: &mut Writer) -> Result<(), EngineError> {
        let memtable = self.memtable();
        if memtable.is_empty() {
            return Ok(());
        }
        let records = merge(memtable.runs()).filter(|(key, _)| !writer.overwritten.contains(*key));
        self.store.ingest(records.map(|(key, stored)| {
            self.filter.insert(key);
            (key, stored.encode())
        }))?;

        let mut batch = self.store.batch(PersistMode::SyncAll);
        let ids: HashSet<u64> = memtable.segments().iter().copied().collect();
        for segment in self.index().all().iter().filter(|one| ids.contains(&one.meta.id)) {
            let (key, value) = Registration { drained: true, ..segment.clone() }.encode();
            batch.insert(&self.store.segments, key, value);
        }
        self.store.commit(batch)?;
        self.index_mut().drained(&ids);
        self.set_memtable(Memtable::default());
        writer.overwritten.clear();
        Ok(())
    }

    /// Fills the memtable with what was in it, from the files of these segments.
    pub(super) fn recover_memtable(&self, undrained: Vec<Registration>) -> Result<(), EngineError> {
        let mut writer = self.writer();
        for segment in undrained {
            let hash = segment.meta.hash;
            // What can't be read now may be at the next start.
            let held = match self.open_checked(&segment) {
                Ok(Ok(reader)) => {
                    self.hold_chunks(&mut writer, &segment, reader)?.map_err(|e| e.to_string())
                }
                Ok(Err(why)) => Err(why),
                Err(error) => Err(error.to_string()),
            };
            match held {
                Ok(_) => self.make_room(&mut writer)?,
                Err(why) => {
                    tracing::warn!(
                        %hash,
                        "{why}; the segment is pulled again from a peer that has it. If none has: \
                         verify --repair"
                    );
                    self.index_mut().remove(&[hash].into());
                    writer.absent.insert(hash, segment);
                }
            }
        }
        Ok(())
    }

    /// The records of a registered segment, or what is wrong with its file.
    pub(super) fn read_whole(
        &self,
        segment: &Registration,
    ) -> Result<Result<Records, String>, EngineError> {
        let meta = &segment.meta;
        let reader = match self.open_checked(segment)? {
            Ok(reader) => reader,
            Err(why) => return Ok(Err(why)),
        };
        Ok(match reader.read_all() {
            Ok(records) if records.len() as u64 == meta.records => Ok(records),
            Ok(records) => Err(format!("it has {} records, not {}", records.len(), meta.records)),
            Err(Invalid::Rejected(why)) => Err(why),
            Err(Invalid::Io(source)) => {
                return Err(EngineError::io("read", &self.folder.segment(&meta.hash))(source));
            }
        })
    }

    /// Opens a registered segment after a look at all of its bytes, or says what is wrong with
    /// them.
    pub(super) fn open_checked(
        &self,
        segment: &Registration,
    ) -> Result<Result<SegmentReader, String>, EngineError> {
        let meta = &segment.meta;
        let path = self.folder.segment(&meta.hash);
        let disk = self.folder.disk();
        if disk.len(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(Err("its file is gone".to_owned()));
        }
        let actual = match self.folder.hash_of(&meta.hash) {
            Err(EngineError::Io { source, .. }) if is_no_file(&source) => {
                return Ok(Err(format!("can't be opened: {source}")));
            }
            actual => actual?,
        };
        if actual != meta.hash {
            return Ok(Err(format!("its file has the bytes of {}", actual.short())));
        }
        // Bounded by what it was when it was applied.
        let file = disk.open(&path).map_err(EngineError::io("open", &path))?;
        match Reader::new(file, meta.bytes, Bounds::NONE) {
            Ok(reader) => Ok(Ok(reader)),
            Err(Invalid::Rejected(why)) => Ok(Err(why)),
            Err(Invalid::Io(source)) => Err(EngineError::io("read", &path)(source)),
        }
    }
}
