//! Who owns now what a segment owned that is not here any more.
//!
//! Records name their owner by id, and are not written again when it changes. Where several
//! segments were made of one, or of one flush, each of them owns the records that it holds: which
//! one that is follows from the key and the timestamp of a record.

use std::collections::HashMap;

use super::record::Stored;

/// Who took over from a segment, or from a flush that made several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Redirect {
    /// One segment has all.
    One(u64),
    /// Several segments have a part each.
    Split {
        /// Records that are stamped later are in segments of their own.
        horizon: i64,
        /// At least one, by `ahead`, then `first`.
        parts: Vec<Part>,
    },
}

/// A segment that took over some of the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) id: u64,
    /// Whether its records are stamped after the horizon.
    pub(super) ahead: bool,
    /// It has the store keys from this one up to that of the next part.
    pub(super) first: Vec<u8>,
}

impl Redirect {
    /// Who has a record.
    fn of(&self, key: &[u8], timestamp: i64) -> u64 {
        match self {
            Self::One(id) => *id,
            Self::Split { horizon, parts } => {
                let place = (timestamp > *horizon, key);
                let after = parts.partition_point(|part| (part.ahead, &*part.first) <= place);
                parts[after.saturating_sub(1)].id
            }
        }
    }

    fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        let (one, parts) = match self {
            Self::One(id) => (Some(*id), &[][..]),
            Self::Split { parts, .. } => (None, &parts[..]),
        };
        one.into_iter().chain(parts.iter().map(|part| part.id))
    }

    /// `id: u64`, or `horizon: i64, (id: u64, ahead: u8, len: u32, first)+`; integers big-endian.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (horizon, parts) = match self {
            Self::One(id) => return id.to_be_bytes().to_vec(),
            Self::Split { horizon, parts } => (horizon, parts),
        };
        let mut value = horizon.to_be_bytes().to_vec();
        for Part { id, ahead, first } in parts {
            value.extend(id.to_be_bytes());
            value.push(u8::from(*ahead));
            // A key has fewer than 2^16 bytes.
            value.extend((first.len() as u32).to_be_bytes());
            value.extend(first);
        }
        value
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let (head, mut rest) = value.split_first_chunk::<8>()?;
        if rest.is_empty() {
            return Some(Self::One(u64::from_be_bytes(*head)));
        }
        let mut parts = Vec::new();
        while !rest.is_empty() {
            let (id, after) = rest.split_first_chunk::<8>()?;
            let (ahead, after) = after.split_first()?;
            let (len, after) = after.split_first_chunk::<4>()?;
            let (first, after) = after.split_at_checked(u32::from_be_bytes(*len) as usize)?;
            let (id, ahead) = (u64::from_be_bytes(*id), *ahead != 0);
            parts.push(Part { id, ahead, first: first.to_vec() });
            rest = after;
        }
        Some(Self::Split { horizon: i64::from_be_bytes(*head), parts })
    }
}

/// All redirects, by the id of the segment that they took over from.
#[derive(Debug, Clone, Default)]
pub(super) struct Redirects(HashMap<u64, Redirect>);

impl Redirects {
    /// Follows the owner that a record names to the one that has taken over.
    pub(super) fn owner(&self, key: &[u8], stored: &Stored<&[u8]>) -> u64 {
        let mut id = stored.owner;
        // There are no circles.
        for _ in 0..self.0.len() {
            match self.0.get(&id) {
                Some(redirect) => id = redirect.of(key, stored.version.timestamp),
                None => break,
            }
        }
        id
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.0.contains_key(&id)
    }

    pub(super) fn insert(&mut self, from: u64, redirect: Redirect) {
        self.0.insert(from, redirect);
    }

    /// Keeps those that the named ids lead through. Returns the others.
    pub(super) fn retain_named(&mut self, named: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut needed = HashMap::new();
        let mut next = Vec::from_iter(named);
        while let Some(id) = next.pop() {
            if let Some(redirect) = self.0.remove(&id) {
                next.extend(redirect.ids());
                needed.insert(id, redirect);
            }
        }
        let mut gone: Vec<u64> = std::mem::replace(&mut self.0, needed).into_keys().collect();
        gone.sort_unstable();
        gone
    }
}

impl FromIterator<(u64, Redirect)> for Redirects {
    fn from_iter<I: IntoIterator<Item = (u64, Redirect)>>(redirects: I) -> Self {
        Self(redirects.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Version;

    fn stored(owner: u64, timestamp: i64) -> Stored<&'static [u8]> {
        Stored { owner, version: Version { timestamp, deleted: false, value: b"", ttl: 0 } }
    }

    #[test]
    fn a_redirect_is_found_by_key_and_time_and_read_as_it_was_written() {
        let part = |id, ahead, first: &[u8]| Part { id, ahead, first: first.to_vec() };
        let parts = vec![part(7, false, b""), part(8, false, b"m"), part(9, true, b"")];
        let split = Redirect::Split { horizon: 100, parts };
        for redirect in [&split, &Redirect::One(3)] {
            assert_eq!(Redirect::decode(&redirect.encode()).as_ref(), Some(redirect));
        }
        let mut redirects = Redirects::default();
        redirects.insert(1, split);
        redirects.insert(8, Redirect::One(20));
        redirects.insert(40, Redirect::One(41));
        let owner = |key: &[u8], timestamp| redirects.owner(key, &stored(1, timestamp));
        let found = [owner(b"a", 100), owner(b"m", 1), owner(b"z", 1), owner(b"z", 101)];
        assert_eq!(found, [7, 20, 20, 9]);
        assert_eq!(redirects.clone().retain_named([1]), [40]);
        assert_eq!(redirects.retain_named([8, 5]), [1, 40]);
        assert_eq!(redirects.owner(b"z", &stored(8, 0)), 20);
    }
}
