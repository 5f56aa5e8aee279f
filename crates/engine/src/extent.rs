//! Where the records of a segment lie, in the keys and in time: for peers to choose what they pull
//! first.
//!
//! It is stored when a segment is made or applied, beside its registration, and read when somebody
//! asks: of many segments it takes more memory than all else that is known of them.

use super::record::{MAX_KEY, split};
use super::{Engine, EngineError, SegmentMeta, prefix_end};

/// Longest namespace and longest key that are told of an end, in bytes.
const MAX_END: usize = 64;

/// What is known of the records of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Timestamp of the newest record, in Unix nanoseconds.
    pub newest: i64,
    /// When the segment was made, in Unix nanoseconds. A segment does not say it: where it was
    /// pulled, this is `newest`.
    pub created: i64,
    /// Between which keys they are. None where the last key is so long that it was to be cut, and
    /// there is none above what is left of it.
    pub keys: Option<KeyRange>,
}

/// All records of a segment are in it. Ends are pairs of namespace and key, and ordered as such.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// Namespace and key of the first end, and those of the last.
    bytes: Box<[u8]>,
    /// Where the first three of them end.
    ends: [u32; 3],
}

impl KeyRange {
    /// A range with these ends, both included. None when one of them is longer than a namespace and
    /// a key can be.
    pub fn new(first: (&[u8], &[u8]), last: (&[u8], &[u8])) -> Option<Self> {
        let fits = |(ns, key): (&[u8], &[u8])| ns.len() + key.len() <= MAX_KEY;
        if !(fits(first) && fits(last)) {
            return None;
        }
        let bytes = [first.0, first.1, last.0, last.1].concat();
        let ends = [first.0.len(), first.0.len() + first.1.len(), bytes.len() - last.1.len()];
        // Four times 64 KiB at most.
        Some(Self { bytes: bytes.into(), ends: ends.map(|end| end as u32) })
    }

    /// A range of this node's own making, with short ends, around these.
    fn around(first: (&[u8], &[u8]), last: (&[u8], &[u8])) -> Option<Self> {
        // A prefix is below what it was cut from.
        let first = match first {
            (ns, _) if ns.len() > MAX_END => (&ns[..MAX_END], &[][..]),
            (ns, key) => (ns, &key[..key.len().min(MAX_END)]),
        };
        match last {
            (ns, _) if ns.len() > MAX_END => Self::new(first, (&prefix_end(&ns[..MAX_END])?, &[])),
            (ns, key) if key.len() > MAX_END => {
                Self::new(first, (ns, &prefix_end(&key[..MAX_END])?))
            }
            last => Self::new(first, last),
        }
    }

    /// Namespace and key of the first end.
    pub fn first(&self) -> (&[u8], &[u8]) {
        (self.part(0), self.part(1))
    }

    /// Namespace and key of the last end.
    pub fn last(&self) -> (&[u8], &[u8]) {
        (self.part(2), self.part(3))
    }

    fn part(&self, n: usize) -> &[u8] {
        let start = n.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        let end = self.ends.get(n).map_or(self.bytes.len(), |&end| end as usize);
        &self.bytes[start..end]
    }
}

impl std::fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = |(ns, key)| format!("{}/{}", hex::encode(ns), hex::encode(key));
        write!(f, "KeyRange({}..={})", end(self.first()), end(self.last()))
    }
}

impl Extent {
    /// Of a segment that this node has just made, at `now`. Its clock may be behind its records.
    pub(super) fn made(self, now: i64) -> Self {
        Self { created: now.max(self.newest), ..self }
    }

    /// `created: i64, newest: i64`, and where the keys are known `ends: [u32; 3], bytes`; integers
    /// big-endian.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = [self.created.to_be_bytes(), self.newest.to_be_bytes()].concat();
        if let Some(keys) = &self.keys {
            keys.ends.iter().for_each(|end| value.extend(end.to_be_bytes()));
            value.extend(&keys.bytes);
        }
        value
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let (created, rest) = value.split_first_chunk::<8>()?;
        let (newest, rest) = rest.split_first_chunk::<8>()?;
        let keys = match rest.split_first_chunk::<12>() {
            None if rest.is_empty() => None,
            None => return None,
            Some((ends, bytes)) => {
                let (&[a, b, c], []) = ends.as_chunks::<4>() else { return None };
                let ends = [a, b, c].map(u32::from_be_bytes);
                let sound = ends.is_sorted() && ends[2] as usize <= bytes.len();
                Some(sound.then(|| KeyRange { bytes: bytes.into(), ends })?)
            }
        };
        let (newest, created) = (i64::from_be_bytes(*newest), i64::from_be_bytes(*created));
        Some(Self { newest, created, keys })
    }
}

/// Takes the extent of records that come in the order of their store keys, in which shorter
/// namespaces are first: within a namespace, that is the order of a range.
#[derive(Debug)]
pub(super) struct Measure<K> {
    newest: i64,
    /// Of the namespaces so far.
    first: Option<K>,
    /// Of the namespaces before the one of `latest`.
    last: Option<K>,
    latest: Option<K>,
}

impl<K: AsRef<[u8]> + Clone> Measure<K> {
    pub(super) fn new() -> Self {
        Self { newest: i64::MIN, first: None, last: None, latest: None }
    }

    pub(super) fn add(&mut self, key: K, timestamp: i64) {
        self.newest = self.newest.max(timestamp);
        if self.latest.as_ref().is_none_or(|latest| namespace(latest) != namespace(&key)) {
            self.end_namespace();
            if self.first.as_ref().is_none_or(|first| is_below(&key, first)) {
                self.first = Some(key.clone());
            }
        }
        self.latest = Some(key);
    }

    fn end_namespace(&mut self) {
        let Some(latest) = self.latest.take() else { return };
        if self.last.as_ref().is_none_or(|last| is_below(last, &latest)) {
            self.last = Some(latest);
        }
    }

    /// The extent, as it is where nobody knows when the segment was made.
    pub(super) fn finish(mut self) -> Extent {
        self.end_namespace();
        let ends = self.first.as_ref().zip(self.last.as_ref());
        let keys = ends.and_then(|(first, last)| {
            KeyRange::around(split(first.as_ref())?, split(last.as_ref())?)
        });
        Extent { newest: self.newest, created: self.newest, keys }
    }
}

fn namespace<K: AsRef<[u8]>>(key: &K) -> Option<&[u8]> {
    split(key.as_ref()).map(|(ns, _)| ns)
}

/// By namespace, then key.
fn is_below<K: AsRef<[u8]>>(a: &K, b: &K) -> bool {
    split(a.as_ref()) < split(b.as_ref())
}

impl Engine {
    /// All segments, by id, each with its extent: none where it was registered by a version of this
    /// host that did not note it, or can't be read. They are read as the iterator goes.
    pub fn extents(&self) -> impl ExactSizeIterator<Item = (SegmentMeta, Option<Extent>)> + use<> {
        self.extents_from(0)
    }

    /// Those whose id is at least `first`.
    pub fn extents_from(
        &self,
        first: u64,
    ) -> impl ExactSizeIterator<Item = (SegmentMeta, Option<Extent>)> + use<> {
        // In this order: of what is registered now, all is in the store.
        let mut segments = self.manifest();
        segments.drain(..segments.partition_point(|segment| segment.id < first));
        let stored = Some(self.store.extents_from(first));
        Extents { segments: segments.into_iter(), stored, next: None }
    }
}

/// Segments and stored extents, both by id.
struct Extents {
    segments: std::vec::IntoIter<SegmentMeta>,
    /// None after an error.
    stored: Option<fjall::Iter>,
    /// The extent that was read last, of a segment that may be still to come.
    next: Option<(u64, Extent)>,
}

impl Iterator for Extents {
    type Item = (SegmentMeta, Option<Extent>);

    fn next(&mut self) -> Option<Self::Item> {
        let segment = self.segments.next()?;
        while self.next.as_ref().is_none_or(|(id, _)| *id < segment.id) {
            let Some(guard) = self.stored.as_mut().and_then(Iterator::next) else { break };
            self.next = read(guard)
                .inspect_err(|error| {
                    tracing::warn!(%error, "the extents of segments are left out of what peers read");
                    self.stored = None;
                })
                .ok();
        }
        let extent = self.next.take_if(|(id, _)| *id == segment.id).map(|(_, extent)| extent);
        Some((segment, extent))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.segments.size_hint()
    }
}

impl ExactSizeIterator for Extents {}

fn read(guard: fjall::Guard) -> Result<(u64, Extent), EngineError> {
    let (id, value) = guard.into_inner()?;
    let id = <[u8; 8]>::try_from(&*id).ok().map(u64::from_be_bytes);
    let corrupt = || EngineError::Corrupt("the extent of a segment".to_owned());
    id.zip(Extent::decode(&value)).ok_or_else(corrupt)
}
