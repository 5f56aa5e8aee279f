//! Records as they came out of a segment: the inflated bytes as they are, and where each record is
//! in them. No record has an allocation of its own.

use crate::record::Version;

/// One record of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry<B = Vec<u8>> {
    /// As in the store, with its namespace.
    pub(crate) key: B,
    pub(crate) version: Version<B>,
    /// The sequence number that the writer gave it.
    pub(crate) lsn: u64,
}

impl Entry<&[u8]> {
    pub(crate) fn to_owned(self) -> Entry {
        Entry { key: self.key.to_vec(), version: self.version.to_owned(), lsn: self.lsn }
    }
}

impl Entry {
    pub(crate) fn as_ref(&self) -> Entry<&[u8]> {
        Entry { key: &self.key, version: self.version.as_ref(), lsn: self.lsn }
    }
}

/// Where a record is, and what of it has a fixed size.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// Of the key. Four bytes after its end, the value begins.
    at: u32,
    value_len: u32,
    timestamp: i64,
    lsn: u64,
    ttl: u32,
    key_len: u16,
    deleted: bool,
}

/// Records of one segment.
#[derive(Debug, Default)]
pub(crate) struct Records {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
}

impl Records {
    /// With room for records of so many bytes.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), slots: Vec::with_capacity(bytes / 100) }
    }

    /// Gives up the room that is not used.
    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.slots.shrink_to_fit();
    }

    /// How many records.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of memory that they take.
    pub(crate) fn weight(&self) -> usize {
        self.bytes.capacity() + self.slots.capacity() * size_of::<Slot>()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.slots.clear();
    }

    #[inline]
    pub(crate) fn key(&self, i: usize) -> &[u8] {
        let slot = &self.slots[i];
        &self.bytes[slot.at as usize..][..usize::from(slot.key_len)]
    }

    #[inline]
    pub(crate) fn get(&self, i: usize) -> Entry<&[u8]> {
        Self::entry(&self.bytes, &self.slots[i])
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = Entry<&[u8]>> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Key order, the greatest version of each key alone. Known writers leave nothing to do.
    pub(crate) fn normalize(&mut self) {
        if (1..self.len()).all(|i| self.key(i - 1) < self.key(i)) {
            return;
        }
        let mut slots = std::mem::take(&mut self.slots);
        let of = |slot: &Slot| Self::entry(&self.bytes, slot);
        slots.sort_by(|a, b| {
            let (a, b) = (of(a), of(b));
            a.key.cmp(b.key).then_with(|| b.version.cmp(&a.version))
        });
        slots.dedup_by(|later, first| of(later).key == of(first).key);
        self.slots = slots;
    }

    /// Keeps the records at these positions, which ascend.
    pub(crate) fn keep(&mut self, positions: &[usize]) {
        for (to, &from) in positions.iter().enumerate() {
            self.slots[to] = self.slots[from];
        }
        self.slots.truncate(positions.len());
        self.slots.shrink_to_fit();
    }

    #[inline]
    fn entry<'a>(bytes: &'a [u8], slot: &Slot) -> Entry<&'a [u8]> {
        let (key, rest) = bytes[slot.at as usize..].split_at(usize::from(slot.key_len));
        let value = if slot.deleted { &[] } else { &rest[4..][..slot.value_len as usize] };
        let Slot { timestamp, deleted, ttl, lsn, .. } = *slot;
        Entry { key, version: Version { timestamp, deleted, value, ttl }, lsn }
    }

    /// The inflated bytes so far, to append a block to. What is appended is followed by
    /// [`Records::push`] of its records.
    pub(super) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Notes a record whose key is at `at`. Lengths were checked against the bytes.
    pub(super) fn push(&mut self, at: u32, key_len: u16, value_len: u32, fixed: Fixed) {
        let Fixed { timestamp, lsn, ttl, deleted } = fixed;
        self.slots.push(Slot { at, value_len, timestamp, lsn, ttl, key_len, deleted });
    }
}

/// What follows a value.
pub(super) struct Fixed {
    pub(super) lsn: u64,
    pub(super) timestamp: i64,
    pub(super) ttl: u32,
    pub(super) deleted: bool,
}
