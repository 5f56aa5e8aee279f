//! What a peer lists. A list may have two million segments, so what is known of them is kept once,
//! one array for each kind of it, whoever looks for a segment or goes through all.

use std::collections::HashSet;
use std::sync::Arc;

use edgestore_engine::Hash;

use super::{Delta, SegmentInfo, SegmentRef};

/// The most entries taken from one list: at 32 bytes a hash, the limit of a body leaves no room for
/// many more.
pub(super) const MAX_ENTRIES: usize = 2_000_000;

/// Bytes that an entry takes of which nothing is said.
const ENTRY: usize = size_of::<Hash>() + size_of::<u32>() + size_of::<u64>();

/// The most that is taken of one list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ListBounds {
    /// Segments. A list with more is refused.
    pub(super) entries: usize,
    /// Bytes of what is said of segments besides their hashes and numbers. What has no room is left
    /// out, as version 1 does.
    pub(super) infos: usize,
}

impl ListBounds {
    /// Those of a list that may take so many bytes of memory.
    pub(super) fn within(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let infos = bytes / 8;
        Self { entries: ((bytes - infos) / ENTRY).min(MAX_ENTRIES), infos }
    }
}

/// The hashes of one list, each once, in the peer's order. Each takes 36 bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Listing {
    hashes: Vec<Hash>,
    /// Positions in the order of the hashes.
    order: Vec<u32>,
    root: Hash,
}

impl Listing {
    /// All of them, in the peer's order.
    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    /// The root over them.
    pub fn root(&self) -> Hash {
        self.root
    }

    /// What it takes of memory, in bytes.
    pub fn memory(&self) -> usize {
        size_of_val(&*self.hashes) + size_of_val(&*self.order)
    }

    /// Where this one is in the list.
    pub fn position(&self, hash: &Hash) -> Option<usize> {
        let found = self.order.binary_search_by_key(hash, |&at| self.hashes[at as usize]);
        found.ok().map(|at| self.order[at] as usize)
    }
}

/// The segments that a peer has listed, each hash once, in the peer's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentList {
    listing: Arc<Listing>,
    ids: Vec<u64>,
    /// Of the first ones; nothing is said of those that follow.
    infos: Vec<Option<Arc<SegmentInfo>>>,
}

/// One segment of a [`SegmentList`]: a borrowed [`SegmentRef`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedSegment<'a> {
    /// As [`SegmentRef::hash`].
    pub hash: Hash,
    /// As [`SegmentRef::id`].
    pub id: u64,
    /// As [`SegmentRef::info`].
    pub info: Option<&'a SegmentInfo>,
}

impl From<ListedSegment<'_>> for SegmentRef {
    fn from(ListedSegment { hash, id, info }: ListedSegment<'_>) -> Self {
        Self { hash, id, info: info.cloned().map(Box::new) }
    }
}

impl SegmentList {
    /// How many segments it has.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = ListedSegment<'_>> {
        self.iter_from(0)
    }

    /// Those from this place on.
    pub fn iter_from(&self, start: usize) -> impl Iterator<Item = ListedSegment<'_>> {
        (start..self.len()).filter_map(|at| self.at(at))
    }

    /// The segment of this name.
    pub fn find(&self, hash: &Hash) -> Option<ListedSegment<'_>> {
        self.at(self.listing.position(hash)?)
    }

    fn at(&self, at: usize) -> Option<ListedSegment<'_>> {
        let info = self.infos.get(at).and_then(Option::as_deref);
        Some(ListedSegment { hash: *self.listing.hashes.get(at)?, id: *self.ids.get(at)?, info })
    }

    /// The root over its hashes.
    pub fn root(&self) -> Hash {
        self.listing.root
    }

    /// Its hashes.
    pub fn listing(&self) -> &Arc<Listing> {
        &self.listing
    }

    /// Keeps these hashes, which are the same, in the place of its own.
    pub fn share(&mut self, hashes: Arc<Listing>) {
        debug_assert_eq!(self.listing, hashes);
        self.listing = hashes;
    }

    /// What it takes of memory, about, in bytes.
    pub fn memory(&self) -> usize {
        self.listing.memory() + self.memory_besides()
    }

    /// The list after changes: what is removed is gone, and what is added and was not in it follows.
    #[must_use]
    pub fn changed(self, delta: Delta) -> Self {
        let Delta { added, removed } = delta;
        let removed: HashSet<Hash> = removed.into_iter().collect();
        let added: Vec<_> = added
            .into_iter()
            .filter(|new| {
                self.listing.position(&new.hash).is_none() && !removed.contains(&new.hash)
            })
            .collect();
        if added.is_empty() && !removed.iter().any(|hash| self.listing.position(hash).is_some()) {
            return self;
        }
        let Self { listing, mut ids, mut infos } = self;
        let mut gone: Vec<_> =
            removed.iter().filter_map(|hash| u32::try_from(listing.position(hash)?).ok()).collect();
        gone.sort_unstable();
        let mut hashes = listing.hashes.clone();
        remove(&mut hashes, &gone);
        remove(&mut ids, &gone);
        remove(&mut infos, &gone);
        let stays = |at: &&u32| gone.binary_search(at).is_err();
        let moved = |at: &u32| at - gone.partition_point(|gone| gone < at) as u32;
        let mut order: Vec<_> = listing.order.iter().filter(stays).map(moved).collect();
        for SegmentRef { hash, id, info } in added {
            let place = order.partition_point(|&at| hashes[at as usize] < hash);
            if order.get(place).is_some_and(|&at| hashes[at as usize] == hash) {
                continue;
            }
            order.insert(place, hashes.len() as u32);
            if info.is_some() {
                infos.resize(hashes.len(), None);
                infos.push(info.map(Arc::from));
            }
            hashes.push(hash);
            ids.push(id);
        }
        let root = Hash::root_of_sorted(order.iter().map(|&at| hashes[at as usize]));
        Self { listing: Arc::new(Listing { hashes, order, root }), ids, infos }
    }

    /// What it takes of memory besides its hashes, about, in bytes.
    pub fn memory_besides(&self) -> usize {
        self.ids.len() * size_of::<u64>() + self.infos.iter().map(info_memory).sum::<usize>()
    }
}

/// What is said of one segment, in memory.
fn info_memory(info: &Option<Arc<SegmentInfo>>) -> usize {
    let info = info.as_deref().map_or(0, |info| {
        let keys = info.keys.as_ref().map_or(0, |keys| {
            let (first, last) = (keys.first(), keys.last());
            first.0.len() + first.1.len() + last.0.len() + last.1.len()
        });
        size_of::<SegmentInfo>() + keys
    });
    size_of::<Option<Arc<SegmentInfo>>>() + info
}

impl Default for SegmentList {
    fn default() -> Self {
        ListBuilder::new(0).finish()
    }
}

impl FromIterator<SegmentRef> for SegmentList {
    /// Of segments with the same hash, the first stays.
    fn from_iter<I: IntoIterator<Item = SegmentRef>>(segments: I) -> Self {
        let mut builder = ListBuilder::new(usize::MAX);
        segments.into_iter().for_each(|segment| builder.push(segment));
        builder.finish()
    }
}

/// Takes in the entries of a list as they come.
#[derive(Debug)]
pub(super) struct ListBuilder {
    hashes: Vec<Hash>,
    ids: Vec<u64>,
    infos: Vec<Option<Arc<SegmentInfo>>>,
    /// Bytes that are left for these.
    infos_left: usize,
}

impl ListBuilder {
    /// Keeps at most `max_infos` bytes of what is said of segments.
    pub(super) fn new(max_infos: usize) -> Self {
        let (hashes, ids, infos) = (Vec::new(), Vec::new(), Vec::new());
        Self { hashes, ids, infos, infos_left: max_infos }
    }

    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    pub(super) fn push(&mut self, segment: SegmentRef) {
        let SegmentRef { hash, id, info } = segment;
        let info = info.map(Arc::from);
        if info.is_some() {
            let skipped = self.hashes.len() - self.infos.len();
            let bytes = skipped * size_of::<Option<Arc<SegmentInfo>>>() + info_memory(&info);
            if let Some(left) = self.infos_left.checked_sub(bytes) {
                self.infos_left = left;
                self.infos.resize(self.hashes.len(), None);
                self.infos.push(info);
            }
        }
        self.hashes.push(hash);
        self.ids.push(id);
    }

    pub(super) fn finish(mut self) -> SegmentList {
        let mut order = self.in_order();
        let hash = |at: u32| self.hashes[at as usize];
        let same = |pair: &&[u32]| hash(pair[0]) == hash(pair[1]);
        let mut again: Vec<_> = order.windows(2).filter(same).map(|pair| pair[1]).collect();
        if !again.is_empty() {
            again.sort_unstable();
            remove(&mut self.hashes, &again);
            remove(&mut self.ids, &again);
            remove(&mut self.infos, &again);
            order = self.in_order();
        }
        let Self { hashes, ids, infos, .. } = self;
        let root = Hash::root_of_sorted(order.iter().map(|&at| hashes[at as usize]));
        SegmentList { listing: Arc::new(Listing { hashes, order, root }), ids, infos }
    }

    /// All positions by their hash; those of the same hash stay in order.
    fn in_order(&self) -> Vec<u32> {
        // No list has 2^32 entries.
        let mut order: Vec<_> = (0..self.hashes.len() as u32).collect();
        order.sort_unstable_by_key(|&at| (self.hashes[at as usize], at));
        order
    }
}

/// Removes what is at these positions, which are in order.
fn remove<T>(from: &mut Vec<T>, positions: &[u32]) {
    let (mut positions, mut at) = (positions.iter().peekable(), 0);
    from.retain(|_| {
        let is_one = positions.next_if_eq(&&at).is_some();
        at += 1;
        !is_one
    });
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn entry(id: u64, n: u16, size: Option<u64>) -> SegmentRef {
        let info = |size| SegmentInfo { size, records: 1, newest_ms: 1, created_ms: 1, keys: None };
        SegmentRef { hash: Hash::of(&n.to_le_bytes()), id, info: size.map(info).map(Box::new) }
    }

    proptest! {
        #[test]
        fn each_hash_is_found_where_it_came_first_and_no_other(
            listed in proptest::collection::vec((0..500_u16, proptest::option::of(any::<u64>())), 0..600),
            other in 0..1000_u16,
        ) {
            let entries: Vec<_> =
                (0..).zip(&listed).map(|(id, &(n, size))| entry(id, n, size)).collect();
            let mut seen = HashSet::new();
            let expected: Vec<_> =
                entries.iter().filter(|one| seen.insert(one.hash)).cloned().collect();
            let list: SegmentList = entries.into_iter().collect();
            prop_assert_eq!(list.iter().map(SegmentRef::from).collect::<Vec<_>>(), expected.clone());
            prop_assert_eq!(list.len(), expected.len());
            for one in &expected {
                let found = list.find(&one.hash).map(SegmentRef::from);
                prop_assert_eq!(found.as_ref(), Some(one));
            }
            let other = entry(0, other, None).hash;
            prop_assert_eq!(list.find(&other).is_some(), seen.contains(&other));
            prop_assert_eq!(list.root(), Hash::root(expected.iter().map(|one| one.hash)));
        }
    }

    proptest! {
        #[test]
        fn a_list_after_changes_is_what_would_be_read_then(
            before in proptest::collection::vec((0..60_u16, proptest::option::of(any::<u64>())), 0..80),
            added in proptest::collection::vec((0..90_u16, proptest::option::of(any::<u64>())), 0..30),
            removed in proptest::collection::hash_set(0..90_u16, 0..30),
        ) {
            let entries = |of: &[(u16, Option<u64>)]| -> Vec<_> {
                of.iter().map(|&(n, size)| entry(n.into(), n, size)).collect()
            };
            let (before, added) = (entries(&before), entries(&added));
            let removed: Vec<_> = removed.into_iter().map(|n| entry(0, n, None).hash).collect();
            let all = before.iter().chain(&added).filter(|one| !removed.contains(&one.hash));
            let expected: SegmentList = all.cloned().collect();
            let list: SegmentList = before.into_iter().collect();
            let after = list.changed(Delta { added, removed });
            prop_assert_eq!(after.root(), expected.root());
            let segments = |list: &SegmentList| -> Vec<_> {
                list.iter().map(SegmentRef::from).collect()
            };
            prop_assert_eq!(segments(&after), segments(&expected));
            for one in expected.iter() {
                prop_assert_eq!(after.find(&one.hash), Some(one));
            }
        }
    }

    #[test]
    fn what_is_said_of_segments_takes_a_bounded_amount_of_memory() {
        let each = info_memory(&entry(0, 0, Some(1)).info.map(Arc::from));
        let mut builder = ListBuilder::new(10 * each);
        (0..100).for_each(|n| builder.push(entry(n.into(), n, Some(1))));
        let list = builder.finish();
        let with_info = list.iter().take_while(|one| one.info.is_some()).count();
        assert_eq!((list.len(), with_info), (100, 10));
        assert!(list.iter().skip(with_info).all(|one| one.info.is_none()));
        let memory = list.listing().memory() + list.memory_besides();
        assert_eq!(memory, 100 * ENTRY + 10 * each);

        // Those of which nothing is said take room before one of which something is.
        let mut builder = ListBuilder::new(10 * each);
        (0..5000).for_each(|n| builder.push(entry(n.into(), n, (n == 4999).then_some(1))));
        assert!(builder.finish().infos.is_empty());
    }
}
