//! All versions of a range in key order: those of the record store, as of one instant, with those
//! of the memtable's runs, as of the same.

use std::ops::Bound;
use std::sync::Arc;

use super::EngineError;
use super::memtable::Run;
use super::record::Stored;

/// An iterator over store keys and encoded [`Stored`] versions.
pub(super) struct Scan {
    store: fjall::Iter,
    /// Of the store.
    next: Option<(fjall::UserKey, fjall::UserValue)>,
    begun: bool,
    /// With the positions of the next record and of the end.
    runs: Vec<(Arc<Run>, usize, usize)>,
}

impl Scan {
    /// Of a range of the runs, and the same range of the store.
    pub(super) fn new(
        store: fjall::Iter,
        runs: &[Arc<Run>],
        range: (&Bound<Vec<u8>>, &Bound<Vec<u8>>),
    ) -> Self {
        let runs = runs.iter().map(|run| {
            let start = match range.0 {
                Bound::Included(key) => run.seek(key, 0),
                Bound::Excluded(key) => past(run, key),
                Bound::Unbounded => 0,
            };
            let end = match range.1 {
                Bound::Included(key) => past(run, key),
                Bound::Excluded(key) => run.seek(key, 0),
                Bound::Unbounded => run.len(),
            };
            (Arc::clone(run), start, end)
        });
        let runs = runs.filter(|(_, start, end)| start < end).collect();
        Self { store, next: None, begun: false, runs }
    }

    fn advance_store(&mut self) -> Result<Option<(fjall::UserKey, fjall::UserValue)>, EngineError> {
        let next = self.store.next().map(fjall::Guard::into_inner).transpose()?;
        Ok(std::mem::replace(&mut self.next, next))
    }

    fn advance(&mut self) -> Result<Option<(fjall::UserKey, fjall::UserValue)>, EngineError> {
        if self.runs.is_empty() {
            return Ok(self.store.next().map(fjall::Guard::into_inner).transpose()?);
        }
        if !self.begun {
            self.begun = true;
            self.advance_store()?;
        }
        let heads = self.runs.iter().filter(|(_, at, end)| at < end);
        let Some(least) = heads.map(|(run, at, _)| run.key(*at)).min() else {
            return self.advance_store();
        };
        if self.next.as_ref().is_some_and(|(key, _)| &**key < least) {
            return self.advance_store();
        }
        let key = fjall::UserKey::from(least);
        let there = match &self.next {
            Some((next, _)) if *next == key => self.advance_store()?,
            _ => None,
        };
        let mut greatest = match &there {
            Some((_, value)) => match Stored::decode(value) {
                Ok(stored) => Some(stored),
                // Whoever reads it is told.
                Err(_) => return Ok(there),
            },
            None => None,
        };
        for (run, at, end) in &mut self.runs {
            if at < end && run.key(*at) == &*key {
                greatest = Stored::greater(greatest, Some(run.get(*at).1));
                *at += 1;
            }
        }
        // One of the runs has the key.
        Ok(greatest.map(|greatest| (key, greatest.encode().into())))
    }
}

impl Iterator for Scan {
    type Item = Result<(fjall::UserKey, fjall::UserValue), EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// The first position whose key is above `key`.
fn past(run: &Run, key: &[u8]) -> usize {
    let at = run.seek(key, 0);
    at + usize::from(at < run.len() && run.key(at) == key)
}

/// All records of runs in key order, the greatest version of each key.
pub(super) fn merge(runs: &[Arc<Run>]) -> impl Iterator<Item = (&[u8], Stored<&[u8]>)> {
    let mut heads: Vec<(&Run, usize)> = runs.iter().map(|run| (&**run, 0)).collect();
    std::iter::from_fn(move || {
        let left = heads.iter().filter(|(run, at)| *at < run.len());
        let key = left.map(|(run, at)| run.key(*at)).min()?;
        let mut greatest: Option<Stored<&[u8]>> = None;
        for (run, at) in &mut heads {
            if *at < run.len() && run.key(*at) == key {
                greatest = Stored::greater(greatest, Some(run.get(*at).1));
                *at += 1;
            }
        }
        greatest.map(|greatest| (key, greatest))
    })
}
