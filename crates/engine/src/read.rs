//! Reads: the live records, from a snapshot.

use std::ops::Bound;
use std::sync::PoisonError;

use super::record::{Record, Stored, Version, split, store_key};
use super::scan::Scan;
use super::{Engine, EngineError};

/// Stamp, whether it was deleted, value, and time to live in seconds.
pub type StoredVersion = (i64, bool, Vec<u8>, u32);

impl Engine {
    /// The value under a key; none when there is none, or when it was deleted or has expired.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn get(&self, ns: &[u8], key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.get_record(ns, key)?.map(|record| record.value))
    }

    /// As [`Engine::get`], with what is known of the value.
    ///
    /// # Errors
    /// As there.
    pub fn get_record(&self, ns: &[u8], key: &[u8]) -> Result<Option<Record>, EngineError> {
        let Ok(store_key) = store_key(ns, key) else { return Ok(None) };
        self.version(&store_key, |version| live(key, version?, self.now()))
    }

    /// What is stored under a key, deleted and expired versions included.
    pub fn stored_version(
        &self,
        ns: &[u8],
        key: &[u8],
    ) -> Result<Option<StoredVersion>, EngineError> {
        let store_key = store_key(ns, key)?;
        self.version(&store_key, |version| {
            let Version { timestamp, deleted, value, ttl } = version?;
            Some((timestamp, deleted, value.to_vec(), ttl))
        })
    }

    /// Live records with `start` <= key < `end`, in key order; without an end, to the end of the
    /// namespace. Later writes don't show.
    ///
    /// # Errors
    /// [`EngineError::KeyTooLong`]; when the disk fails, as an item.
    pub fn range(
        &self,
        ns: &[u8],
        start: &[u8],
        end: Option<&[u8]>,
    ) -> Result<impl Iterator<Item = Result<Record, EngineError>> + use<>, EngineError> {
        let start = store_key(ns, start)?;
        let end = match end {
            Some(end) => Bound::Excluded(store_key(ns, end)?),
            None => after(&store_key(ns, b"")?),
        };
        Ok(self.scan(start, end))
    }

    /// Live records whose keys begin with `prefix`, in key order. Later writes don't show.
    ///
    /// # Errors
    /// As [`Engine::range`].
    pub fn prefix(
        &self,
        ns: &[u8],
        prefix: &[u8],
    ) -> Result<impl Iterator<Item = Result<Record, EngineError>> + use<>, EngineError> {
        let start = store_key(ns, prefix)?;
        let end = after(&start);
        Ok(self.scan(start, end))
    }

    /// All namespaces that have live records, shorter ones first.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn namespaces(&self) -> Result<Vec<Vec<u8>>, EngineError> {
        let mut namespaces = Vec::new();
        let mut from = Bound::Unbounded;
        while let Some(first) = self.versions((from, Bound::Unbounded)).next() {
            let (key, _) = first?;
            let ns = split(&key).map(|(ns, _)| ns.to_vec()).unwrap_or_default();
            if self.range(&ns, b"", None)?.next().transpose()?.is_some() {
                namespaces.push(ns.clone());
            }
            from = match after(&store_key(&ns, b"")?) {
                Bound::Excluded(next) => Bound::Included(next),
                _ => break,
            };
        }
        Ok(namespaces)
    }

    fn scan(
        &self,
        start: Vec<u8>,
        end: Bound<Vec<u8>>,
    ) -> impl Iterator<Item = Result<Record, EngineError>> + use<> {
        let empty = matches!(&end, Bound::Excluded(end) if *end <= start);
        let found = (!empty).then(|| self.versions((Bound::Included(start), end)));
        let now = self.now();
        found.into_iter().flatten().filter_map(move |version| {
            let record = || -> Result<Option<Record>, EngineError> {
                let (key, value) = version?;
                let key = split(&key).map(|(_, key)| key).unwrap_or_default();
                Ok(live(key, Stored::decode(&value)?.version, now))
            };
            record().transpose()
        })
    }

    /// Runs `read` on the version of a key.
    pub(super) fn version<T>(
        &self,
        key: &[u8],
        read: impl FnOnce(Option<Version<&[u8]>>) -> T,
    ) -> Result<T, EngineError> {
        self.stored(key, |stored| read(stored.map(|stored| stored.version)))
    }

    /// Runs `read` on the version of a key, and who owns it.
    pub(super) fn stored<T>(
        &self,
        key: &[u8],
        read: impl FnOnce(Option<Stored<&[u8]>>) -> T,
    ) -> Result<T, EngineError> {
        // First the memtable: what goes from there is in the store before.
        let memtable = self.memtable();
        let applied = memtable.get(key);
        self.store.committed_version(key, |stored| read(Stored::greater(stored, applied)))
    }

    /// All versions in a range of store keys, as they are now.
    pub(super) fn versions(&self, range: (Bound<Vec<u8>>, Bound<Vec<u8>>)) -> Scan {
        // While the memtable is held, nothing goes from it to the store, and nothing comes to it.
        let memtable = self.memtable.read().unwrap_or_else(PoisonError::into_inner);
        let (start, end) = (range.0.clone(), range.1.clone());
        Scan::new(self.store.range(range), memtable.runs(), (&start, &end))
    }
}

fn live(key: &[u8], version: Version<&[u8]>, now: i64) -> Option<Record> {
    let Version { timestamp, value, ttl, .. } = version;
    version.is_live(now).then(|| Record { key: key.into(), value: value.into(), timestamp, ttl })
}

/// The first key after all that begin with `prefix`; none when no key is.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte < 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

fn after(prefix: &[u8]) -> Bound<Vec<u8>> {
    prefix_end(prefix).map_or(Bound::Unbounded, Bound::Excluded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_the_next_one_begins() {
        assert_eq!(prefix_end(b"ab").unwrap(), b"ac");
        assert_eq!(prefix_end(b"a\xff\xff").unwrap(), b"b");
        assert_eq!(prefix_end(b"\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
