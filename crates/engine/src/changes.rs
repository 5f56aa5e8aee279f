//! What has changed among the segments, for peers that follow a node instead of reading its whole
//! manifest again: a log of the last changes, each with a sequence number, as the watch of etcd has it
//! (<https://etcd.io/docs/latest/learning/api/#watch-api>).

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError, Weak};

use super::{Engine, Extent, SegmentMeta};
use crate::Hash;

/// Changes that are remembered. Whoever has missed more reads the manifest.
const REMEMBERED: usize = 4096;

/// A state of the segments of a node: after how many changes since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revision {
    /// Drawn each time that a database is opened, so that one that was restored or cloned is not taken
    /// for the one before.
    pub epoch: u64,
    /// Changes since then.
    pub seq: u64,
}

impl fmt::Display for Revision {
    /// As it stands in a URL: `EPOCH:SEQ`, the epoch in hex.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}:{}", self.epoch, self.seq)
    }
}

impl FromStr for Revision {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, seq) = text.split_once(':').unwrap_or((text, ""));
        Ok(Self { epoch: u64::from_str_radix(epoch, 16)?, seq: seq.parse()? })
    }
}

/// The segments now, compared with a [`Revision`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Now.
    pub revision: Revision,
    /// The root over the segments, now.
    pub root: Hash,
    /// What came and what went; `None` where that is not known of the revision asked for, and the whole
    /// manifest is to be read.
    pub delta: Option<Delta>,
}

/// What came and what went between two revisions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Segments that came and are here, by id, as [`Engine::extents`] has them.
    pub added: Vec<(SegmentMeta, Option<Extent>)>,
    /// Segments that are not here any more.
    pub removed: Vec<Hash>,
}

/// Those who want to be woken.
#[derive(Default)]
pub(super) struct Watchers(Mutex<Vec<Weak<Waker>>>);

/// Called with locks held: it must not call the engine.
pub type Waker = dyn Fn() + Send + Sync;

impl Watchers {
    fn add(&self, waker: Weak<Waker>) {
        let mut wakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.retain(|waker| waker.strong_count() > 0);
        wakers.push(waker);
    }

    pub(super) fn wake(&self) {
        let wakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.iter().filter_map(Weak::upgrade).for_each(|wake| wake());
    }
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchers").finish_non_exhaustive()
    }
}

/// The last changes.
#[derive(Debug, Default)]
pub(super) struct ChangeLog {
    /// Of the last change.
    seq: u64,
    /// What came or went, oldest first.
    last: VecDeque<Hash>,
    watchers: Watchers,
}

impl ChangeLog {
    /// A segment came or went.
    pub(super) fn push(&mut self, hash: Hash) {
        self.seq += 1;
        if self.last.len() == REMEMBERED {
            self.last.pop_front();
        }
        self.last.push_back(hash);
        self.watchers.wake();
    }

    /// What came or went after `seq`, each once; none where that is forgotten, or still to come.
    fn since(&self, seq: u64) -> Option<HashSet<Hash>> {
        let missed = usize::try_from(self.seq.checked_sub(seq)?).ok()?;
        let skipped = self.last.len().checked_sub(missed)?;
        Some(self.last.range(skipped..).copied().collect())
    }
}

impl Engine {
    /// Where the segments are now.
    pub fn revision(&self) -> Revision {
        Revision { epoch: self.epoch, seq: self.index().log().seq }
    }

    /// What has changed since a revision; without one, how things are.
    pub fn changes(&self, since: Option<Revision>) -> Changes {
        let mut index = self.index_mut();
        let root = index.root();
        let log = index.log();
        let revision = Revision { epoch: self.epoch, seq: log.seq };
        let since = since.filter(|since| since.epoch == self.epoch);
        let known = since.and_then(|since| log.since(since.seq));
        let Some(changed) = known else { return Changes { revision, root, delta: None } };
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for hash in changed {
            match index.get(&hash) {
                Some(segment) => added.push(segment.meta.clone()),
                None => removed.push(hash),
            }
        }
        drop(index);
        added.sort_unstable_by_key(|segment| segment.id);
        removed.sort_unstable();
        let with_extent = |segment: SegmentMeta| {
            let extent = self.store.extent(segment.id).unwrap_or_else(|error| {
                tracing::warn!(%error, "the extents of segments are left out of what peers read");
                None
            });
            (segment, extent)
        };
        let added = added.into_iter().map(with_extent).collect();
        Changes { revision, root, delta: Some(Delta { added, removed }) }
    }

    /// Has `waker` called after each change of the segments, for as long as it lives. It is called with
    /// locks held: it must not call the engine.
    pub fn watch_segments(&self, waker: Weak<Waker>) {
        self.index().log().watchers.add(waker);
    }

    /// Has `waker` called when there are writes to flush and there were none, for as long as it lives.
    /// It is called with locks held: it must not call the engine.
    pub fn watch_pending(&self, waker: Weak<Waker>) {
        self.pending_watchers.add(waker);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::RateLimiter;

    fn counter() -> (Arc<AtomicUsize>, Arc<Waker>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let waker = move || {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        (count, Arc::new(waker))
    }

    fn put(engine: &Engine, n: u8) -> Hash {
        engine.put(b"ns", &[n], b"value").unwrap();
        engine.flush().unwrap().unwrap().hash
    }

    #[test]
    fn a_delta_has_what_came_and_what_went_since_a_revision() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path()).unwrap();
        let start = engine.revision();
        let (a, b) = (put(&engine, 1), put(&engine, 2));
        let changes = engine.changes(Some(start));
        assert_eq!((changes.root, changes.revision), (engine.root(), engine.revision()));
        let delta = changes.delta.unwrap();
        let added =
            |delta: &Delta| delta.added.iter().map(|(meta, _)| meta.hash).collect::<Vec<_>>();
        assert_eq!((added(&delta), &delta.removed), (vec![a, b], &vec![]));
        assert_eq!(delta.added, engine.extents().collect::<Vec<_>>());

        // Nothing of the first one is read any more.
        let c = put(&engine, 1);
        engine.compact(&RateLimiter::new(None)).unwrap();
        let after = engine.changes(Some(changes.revision)).delta.unwrap();
        assert_eq!((added(&after), after.removed), (vec![c], vec![a]));
        // What came and went in between is not said to have come.
        let whole = engine.changes(Some(start)).delta.unwrap();
        assert_eq!((added(&whole), whole.removed), (vec![b, c], vec![a]));
        assert_eq!(engine.changes(Some(engine.revision())).delta, Some(Delta::default()));
    }

    #[test]
    fn of_another_epoch_and_of_what_is_forgotten_there_is_no_delta() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path()).unwrap();
        let old = engine.revision();
        put(&engine, 1);
        for other in [
            Revision { epoch: old.epoch.wrapping_add(1), ..old },
            Revision { seq: u64::MAX, ..old },
            Revision { seq: engine.revision().seq + 1, ..old },
        ] {
            assert_eq!(engine.changes(Some(other)).delta, None, "{other}");
        }
        drop(engine);
        let engine = Engine::open(dir.path()).unwrap();
        assert_ne!(engine.revision().epoch, old.epoch);
        assert_eq!(engine.changes(Some(old)).delta, None);

        let mut log = ChangeLog::default();
        (0..REMEMBERED as u64 + 5).for_each(|n| log.push(Hash::of(&n.to_be_bytes())));
        assert_eq!((log.since(4), log.since(5).unwrap().len()), (None, REMEMBERED));
    }

    #[test]
    fn who_waits_is_woken_by_what_it_waits_for() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path()).unwrap();
        let ((segments, on_segments), (pending, on_pending)) = (counter(), counter());
        engine.watch_segments(Arc::downgrade(&on_segments));
        engine.watch_pending(Arc::downgrade(&on_pending));
        let counts = || (segments.load(Ordering::Relaxed), pending.load(Ordering::Relaxed));
        engine.put(b"ns", b"a", b"1").unwrap();
        engine.put(b"ns", b"b", b"2").unwrap();
        assert_eq!(counts(), (0, 1), "there were some already");
        engine.flush().unwrap();
        assert_eq!(counts(), (1, 1));
        drop((on_segments, on_pending));
        put(&engine, 9);
        assert_eq!(counts(), (1, 1));
    }

    #[test]
    fn a_revision_is_read_back_from_its_text() {
        let revision = Revision { epoch: 0xabc, seq: 42 };
        assert_eq!(revision.to_string(), "0000000000000abc:42");
        assert_eq!(revision.to_string().parse(), Ok(revision));
        for bad in ["", ":", "1", "1:", ":1", "g:1", "1:-1", "1:2:3", "11111111111111111:1"] {
            assert!(bad.parse::<Revision>().is_err(), "{bad}");
        }
    }
}
