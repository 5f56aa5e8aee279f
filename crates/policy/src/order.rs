//! In which order to pull what is missing, and what of it.
//!
//! A peer that speaks version 1 of the protocol alone says nothing of its segments. Those come last
//! in an order, and stay where the peer had them; a filter lets them through.

use std::cmp::Reverse;
use std::vec;

use crate::host::Manifest;
use crate::types::{KeyRange, SegmentInfo, SegmentRef};

/// Orders and filters for [`Manifest::missing`] and whatever else gives segments.
pub trait Order: Iterator<Item = SegmentRef> + Sized {
    /// By the newest record of each segment, newest first.
    fn newest_first(self) -> vec::IntoIter<SegmentRef> {
        sorted(self, |info| Reverse(info.newest_ms))
    }

    /// By the newest record of each segment, oldest first.
    fn oldest_first(self) -> vec::IntoIter<SegmentRef> {
        sorted(self, |info| info.newest_ms)
    }

    /// By the size of the segment files.
    fn smallest_first(self) -> vec::IntoIter<SegmentRef> {
        sorted(self, |info| info.size)
    }

    /// By the size of the segment files.
    fn largest_first(self) -> vec::IntoIter<SegmentRef> {
        sorted(self, |info| Reverse(info.size))
    }

    /// Those that may hold records of the namespaces from `first` to `last`, both included.
    fn in_namespaces<M: Manifest>(
        self,
        manifest: &M,
        first: &[u8],
        last: &[u8],
    ) -> impl Iterator<Item = SegmentRef> {
        let may_hold = move |keys: KeyRange| {
            keys.first_namespace.as_slice() <= last && first <= keys.last_namespace.as_slice()
        };
        self.filter(move |segment| manifest.keys(segment.hash).is_none_or(may_hold))
    }
}

impl<I: Iterator<Item = SegmentRef>> Order for I {}

fn sorted<K: Ord>(
    segments: impl Iterator<Item = SegmentRef>,
    key: impl Fn(&SegmentInfo) -> K,
) -> vec::IntoIter<SegmentRef> {
    let mut segments: Vec<_> = segments.collect();
    segments.sort_by_key(|segment| match &segment.info {
        Some(info) => (false, Some(key(info))),
        None => (true, None),
    });
    segments.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Host, Peer};
    use crate::mock::{Listed, MockHost};

    /// Of segment 3 the peer says nothing.
    fn host() -> MockHost {
        let host = MockHost::with([]);
        for listed in [
            Listed::number(1).size(20).newest_ms(300).namespaces("a", "c"),
            Listed::number(2).size(30).newest_ms(100).namespaces("c", "c"),
            Listed::number(3),
            Listed::number(4).size(10).newest_ms(200).namespaces("x", "z"),
        ] {
            host.peer().list(listed);
        }
        host
    }

    fn numbers(segments: impl Iterator<Item = SegmentRef>) -> Vec<u64> {
        segments.map(|segment| segment.hash.a).collect()
    }

    #[test]
    fn segments_are_ordered_by_age_or_size_and_unknown_ones_come_last() {
        let host = host();
        let manifest = host.peer().manifest().unwrap();
        assert_eq!(numbers(manifest.missing()), [1, 2, 3, 4]);
        assert_eq!(numbers(manifest.missing().newest_first()), [1, 4, 2, 3]);
        assert_eq!(numbers(manifest.missing().oldest_first()), [2, 4, 1, 3]);
        assert_eq!(numbers(manifest.missing().smallest_first()), [4, 1, 2, 3]);
        assert_eq!(numbers(manifest.missing().largest_first()), [2, 1, 4, 3]);
    }

    #[test]
    fn a_range_of_namespaces_includes_both_ends_and_whatever_may_hold_it() {
        let host = host();
        let manifest = host.peer().manifest().unwrap();
        for (first, last, expected) in [
            ("c", "c", vec![1, 2, 3]),
            ("d", "x", vec![3, 4]),
            ("d", "w", vec![3]),
            ("", "~", vec![1, 2, 3, 4]),
        ] {
            let found =
                manifest.missing().in_namespaces(&manifest, first.as_bytes(), last.as_bytes());
            assert_eq!(numbers(found), expected, "{first} to {last}");
        }
    }

    #[test]
    fn adaptors_chain() {
        let host = host();
        let manifest = host.peer().manifest().unwrap();
        let found = manifest.missing().in_namespaces(&manifest, b"a", b"d").smallest_first();
        assert_eq!(numbers(found), [1, 2, 3]);
    }
}
