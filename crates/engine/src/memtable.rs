//! Records of applied segments that are not in the record store yet.
//!
//! An LSM tree's memtable (O'Neil et al., "The Log-Structured Merge-Tree", 1996) whose log is the
//! segment files: a segment is applied when its file and registration are on disk, its records are
//! here, and [`super::drain`] puts many of them into the record store at once, in key order. After
//! a crash they are read again from the files.
//!
//! Each segment is a sorted run; runs of like size become one, so that there are few to look into.

use std::sync::Arc;

use super::record::Stored;
use super::segment::{Entry, Records};

/// A sorted run: the records of one or more segments, each key once.
#[derive(Debug)]
pub(super) struct Run {
    parts: Vec<Arc<Part>>,
    /// Which part, and where in it.
    order: Vec<(u32, u32)>,
}

/// What won of one segment.
#[derive(Debug)]
struct Part {
    /// The segment's id.
    owner: u64,
    records: Records,
}

impl Run {
    /// Of the records of one segment, which are in key order, each key once.
    pub(super) fn new(owner: u64, records: Records) -> Self {
        // A segment has fewer than 2^32 records, because it has fewer bytes.
        let order = (0..records.len() as u32).map(|i| (0, i)).collect();
        Self { parts: vec![Arc::new(Part { owner, records })], order }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn key(&self, i: usize) -> &[u8] {
        let (part, at) = self.order[i];
        self.parts[part as usize].records.key(at as usize)
    }

    pub(super) fn get(&self, i: usize) -> (&[u8], Stored<&[u8]>) {
        let (part, at) = self.order[i];
        let Part { owner, records } = &*self.parts[part as usize];
        let Entry { key, version, .. } = records.get(at as usize);
        (key, Stored { owner: *owner, version })
    }

    /// The first position whose key is not below `key`, looked for from `from` on, near it first.
    pub(super) fn seek(&self, key: &[u8], from: usize) -> usize {
        let (mut low, mut step) = (from, 1);
        while low + step <= self.len() && self.key(low + step - 1) < key {
            low += step;
            step *= 2;
        }
        let (mut low, mut high) = (low, (low + step).min(self.len()));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// One run of two; of a key's versions the greater stays.
    fn merge(a: &Self, b: &Self) -> Self {
        let shift = a.parts.len() as u32;
        let of_b = |i: usize| (b.order[i].0 + shift, b.order[i].1);
        let mut order = Vec::with_capacity(a.len() + b.len());
        let (mut i, mut j) = (0, 0);
        while i < a.len() && j < b.len() {
            match a.key(i).cmp(b.key(j)) {
                std::cmp::Ordering::Less => {
                    order.push(a.order[i]);
                    i += 1;
                }
                std::cmp::Ordering::Greater => {
                    order.push(of_b(j));
                    j += 1;
                }
                std::cmp::Ordering::Equal => {
                    let first = a.get(i).1.version > b.get(j).1.version;
                    order.push(if first { a.order[i] } else { of_b(j) });
                    (i, j) = (i + 1, j + 1);
                }
            }
        }
        order.extend_from_slice(&a.order[i..]);
        order.extend((j..b.len()).map(of_b));
        let parts = a.parts.iter().chain(&b.parts).cloned().collect();
        Self { parts, order }
    }

    fn weight(&self) -> usize {
        self.parts.iter().map(|part| part.records.weight()).sum::<usize>() + self.len() * 8
    }
}

/// All runs. A changed one is a new one: readers keep theirs.
#[derive(Debug, Clone, Default)]
pub(super) struct Memtable {
    /// Long ones first.
    runs: Vec<Arc<Run>>,
    /// The ids of the segments that are in them as a whole, and of those that brought what is in them
    /// already.
    segments: Vec<u64>,
}

impl Memtable {
    /// One with another segment's run.
    pub(super) fn with(&self, id: u64, run: Run) -> Self {
        let mut memtable = self.with_part(run);
        memtable.segments.push(id);
        memtable
    }

    /// One with a run of a part of a segment. [`Memtable::with`] follows once all parts were taken: what
    /// is drained before that is not the whole segment.
    pub(super) fn with_part(&self, run: Run) -> Self {
        let mut memtable = self.clone();
        if run.len() == 0 {
            return memtable;
        }
        let mut last = Arc::new(run);
        while let Some(before) = memtable.runs.pop_if(|before| before.len() < 2 * last.len()) {
            last = Arc::new(Run::merge(&before, &last));
        }
        memtable.runs.push(last);
        memtable
    }

    pub(super) fn runs(&self) -> &[Arc<Run>] {
        &self.runs
    }

    pub(super) fn segments(&self) -> &[u64] {
        &self.segments
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.runs.is_empty()
    }

    /// Bytes of memory.
    pub(super) fn weight(&self) -> usize {
        self.runs.iter().map(|run| run.weight()).sum()
    }

    /// The greatest version of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<Stored<&[u8]>> {
        Cursors::new(&self.runs).get(key)
    }
}

/// Looks up ascending keys in all runs.
pub(super) struct Cursors<'a>(Vec<(&'a Run, usize)>);

impl<'a> Cursors<'a> {
    pub(super) fn new(runs: &'a [Arc<Run>]) -> Self {
        Self(runs.iter().map(|run| (&**run, 0)).collect())
    }

    /// The greatest version of a key, which must not be below that of the call before.
    pub(super) fn get(&mut self, key: &[u8]) -> Option<Stored<&'a [u8]>> {
        let mut greatest: Option<Stored<&[u8]>> = None;
        for (run, at) in &mut self.0 {
            *at = run.seek(key, *at);
            if *at < run.len() && run.key(*at) == key {
                greatest = Stored::greater(greatest, Some(run.get(*at).1));
            }
        }
        greatest
    }
}
