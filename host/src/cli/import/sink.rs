//! Writes rows to the database in batches.

use anyhow::Result;

use super::Row;
use super::source::{Place, Problem};
use crate::admin::{AdminError, Op};
use crate::cli::logging;
use crate::engine::{EngineError, WriteBatch};

/// A batch is written when it has so many bytes, however few records those are.
const BATCH_BYTES: usize = 1 << 20;

/// Collects rows into batches.
pub(super) struct Sink<W> {
    write: W,
    batch_records: u64,
    batch: Vec<(Place, Op)>,
    batch_bytes: usize,
    /// Rows that are left out at first.
    skip: u64,
    /// Rows that were left out.
    pub(super) skipped: u64,
    /// Written so far.
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl<W: FnMut(Vec<Op>) -> Result<()>> Sink<W> {
    pub(super) fn new(batch_records: u64, skip: u64, write: W) -> Self {
        let (batch, batch_bytes) = (Vec::new(), 0);
        Self { write, batch_records, batch, batch_bytes, skip, skipped: 0, records: 0, bytes: 0 }
    }

    /// Writes all rows up to the first wrong one; where there is none for now, those so far.
    /// `written` gets how many rows of the file are on disk, after each batch.
    ///
    /// # Errors
    /// The first [`Problem`]. All rows before it are on disk, and counted; where the database
    /// failed, those of the batch are not counted, and may be on disk.
    pub(super) fn take_all(
        &mut self,
        rows: impl Iterator<Item = Option<Row>>,
        mut written: impl FnMut(u64),
    ) -> Result<(), Problem> {
        for row in rows {
            let Some(row) = row else {
                self.write_batch(&mut written)?;
                continue;
            };
            let row = row.and_then(|(place, op)| {
                let checked = WriteBatch::check(&op.ns, &op.key, op.value.as_deref(), op.ttl);
                checked.map_err(|error| Problem::row(place, error.to_string()))?;
                Ok((place, op))
            });
            let (place, op) = match row {
                Ok(_) if self.skipped < self.skip => {
                    self.skipped += 1;
                    continue;
                }
                Ok(row) => row,
                Err(problem) => {
                    self.write_batch(&mut written)?;
                    return Err(problem);
                }
            };
            // A large record goes by itself, because a batch must fit the admin socket.
            let full = self.batch_bytes + op.bytes() > BATCH_BYTES;
            if full || self.batch.len() as u64 >= self.batch_records {
                self.write_batch(&mut written)?;
            }
            self.batch_bytes += op.bytes();
            self.batch.push((place, op));
        }
        self.write_batch(&mut written)
    }

    fn write_batch(&mut self, written: &mut impl FnMut(u64)) -> Result<(), Problem> {
        let bytes = std::mem::take(&mut self.batch_bytes);
        let batch = std::mem::take(&mut self.batch);
        let Some(&(first, _)) = batch.first() else { return Ok(()) };
        let records = batch.len() as u64;
        (self.write)(batch.into_iter().map(|(_, op)| op).collect()).map_err(|error| {
            let io = !is_refusal(&error);
            Problem { place: first, text: logging::chain(&error), io }
        })?;
        self.records += records;
        self.bytes += u64::try_from(bytes).unwrap_or_default();
        written(self.skipped + self.records);
        Ok(())
    }
}

/// Whether the database did not take the records, as opposed to failing, or being out of reach.
fn is_refusal(error: &anyhow::Error) -> bool {
    let engine = error.downcast_ref::<EngineError>().is_some_and(|error| !error.is_storage());
    let host = error
        .downcast_ref::<AdminError>()
        .is_some_and(|error| matches!(error, AdminError::TooLarge(_)));
    engine || host
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(line: u64) -> Place {
        Place { line, column: 1 }
    }

    fn row(line: u64, bytes: usize) -> Row {
        let key = line.to_be_bytes().to_vec();
        Ok((place(line), Op { ns: b"n".to_vec(), key, value: Some(vec![0; bytes]), ttl: None }))
    }

    /// Sizes of the batches that were written, of which none may have a value of 14 bytes.
    fn batches(skip: u64, rows: Vec<Row>) -> (Vec<usize>, Option<Problem>) {
        let mut sizes = Vec::new();
        let mut sink = Sink::new(1000, skip, |ops: Vec<Op>| {
            let mut lens = ops.iter().map(|op| op.value.as_ref().map_or(0, Vec::len));
            anyhow::ensure!(!lens.any(|len| len == 14), "the disk is full");
            sizes.push(ops.len());
            Ok(())
        });
        let mut acknowledged = skip;
        let rows = rows.into_iter().map(|row| match row {
            Err(Problem { place: Place { line: SILENT, .. }, .. }) => None,
            row => Some(row),
        });
        let problem = sink.take_all(rows, |rows| acknowledged = rows).err();
        let records = sink.records;
        assert_eq!((sizes.iter().sum::<usize>() as u64, acknowledged - skip), (records, records));
        (sizes, problem)
    }

    #[test]
    fn batches_are_bounded_in_records_and_bytes() {
        assert_eq!(batches(0, (0..2500).map(|n| row(n, 1)).collect()).0, [1000, 1000, 500]);
        assert_eq!(batches(0, (0..3).map(|n| row(n, 600 << 10)).collect()).0, [1, 1, 1]);
        assert_eq!(batches(0, vec![row(0, 1), row(1, 2_000_000), row(2, 1)]).0, [1, 1, 1]);
        assert_eq!(batches(0, vec![]).0, [0; 0]);
    }

    /// Stands for a source that is silent, in these tests.
    const SILENT: u64 = u64::MAX;

    #[test]
    fn rows_do_not_wait_for_a_silent_source() {
        let silent = || Err(Problem::row(place(SILENT), ""));
        let rows = vec![silent(), row(0, 1), row(1, 1), silent(), silent(), row(2, 1)];
        assert_eq!(batches(0, rows), (vec![2, 1], None));
    }

    #[test]
    fn what_is_before_a_wrong_row_is_written() {
        let wrong = || Problem::row(place(4), "x");
        let rows = vec![row(0, 1), row(1, 1), Err(wrong()), row(2, 1)];
        assert_eq!(batches(0, rows), (vec![2], Some(wrong())));
    }

    #[test]
    fn rows_that_are_skipped_are_counted_and_not_written() {
        assert_eq!(batches(3, (0..5).map(|n| row(n, 1)).collect()), (vec![2], None));
        let wrong = || Problem::row(place(4), "x");
        let rows = vec![row(0, 14), row(1, 1), Err(wrong())];
        assert_eq!(batches(1, rows), (vec![1], Some(wrong())));
    }

    #[test]
    fn a_record_that_no_database_takes_is_named() {
        let wrong = Problem::row(place(2), EngineError::EmptyKey.to_string());
        let mut empty = row(2, 1);
        empty.as_mut().unwrap().1.key.clear();
        assert_eq!(
            batches(0, vec![row(0, 1), row(1, 1), empty, row(3, 1)]),
            (vec![2], Some(wrong))
        );
        let (sizes, problem) = batches(0, vec![row(0, 1), row(1, 2 << 20), row(2, 1)]);
        let problem = problem.unwrap();
        assert!(problem.text.contains("split the value"), "{problem:?}");
        assert_eq!((sizes, problem.place, problem.io), (vec![1], place(1), false));
    }

    #[test]
    fn a_database_that_fails_is_not_asked_again() {
        let wrong = Problem::io(place(0), "the disk is full");
        assert_eq!(batches(0, vec![row(0, 1), row(1, 14)]), (vec![], Some(wrong)));
    }
}
