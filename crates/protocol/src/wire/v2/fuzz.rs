//! Bytes of any kind, read as each control answer of a peer.

use std::collections::HashSet;

use super::super::{
    MerkleBody, SegmentEntry, WatermarkBody, decode, encode, read_manifest, read_manifest_v2,
};
use super::*;
use crate::SegmentList;
use crate::list::ListBounds;

/// Reads `bytes` as a manifest of both versions, as a root and as a watermark.
pub fn manifest(bytes: &[u8]) {
    for bounds in [ListBounds::within(1 << 20), ListBounds { entries: 3, infos: 200 }] {
        if let Ok(list) = read_manifest(bytes, bounds) {
            check(&list, bounds);
            assert!(list.iter().all(|segment| segment.info.is_none()), "version 1 says no more");
        }
        if let Ok(list) = read_manifest_v2(bytes, bounds) {
            check(&list, bounds);
        }
    }
    if let Ok(body) = decode::<MerkleBody>(bytes) {
        let again = encode(&body).expect("a root can be written");
        assert_eq!(decode::<MerkleBody>(&again).expect("and read"), body);
    }
    if let Ok(body) = decode::<WatermarkBody>(bytes) {
        let again = encode(&body).expect("a watermark can be written");
        assert_eq!(decode::<WatermarkBody>(&again).expect("and read"), body);
    }
}

fn check(list: &SegmentList, bounds: ListBounds) {
    assert!(list.len() <= bounds.entries);
    let hashes: HashSet<_> = list.iter().map(|segment| segment.hash).collect();
    assert_eq!(hashes.len(), list.len(), "a hash stands twice");
    assert_eq!(list.root(), Hash::root(hashes.iter().copied()));
    for segment in list.iter() {
        assert_eq!(list.find(&segment.hash), Some(segment));
    }

    // As a peer that lists the same would send it.
    let refs: Vec<_> = list.iter().map(SegmentRef::from).collect();
    let entry = |segment: &SegmentRef| SegmentEntry {
        segment_id: segment.id,
        segment_hash: super::super::WireHash(segment.hash),
    };
    let first = encode(&refs.iter().map(entry).collect::<Vec<_>>()).expect("a list can be written");
    let again = read_manifest(&first[..], bounds).expect("and read");
    let ids = |list: &SegmentList| list.iter().map(|s| (s.hash, s.id)).collect::<Vec<_>>();
    assert_eq!(ids(&again), ids(list));

    let second = encode(&bodies(&refs));
    // What had no room was left out: all that is left has.
    let bounds = ListBounds { infos: usize::MAX, ..bounds };
    let again = read_manifest_v2(&second.expect("a list can be written")[..], bounds);
    assert!(again.expect("and read").iter().map(SegmentRef::from).eq(refs));
}

/// The entries of a manifest that lists these.
pub(super) fn bodies(segments: &[SegmentRef]) -> Vec<SegmentBody> {
    let body = |SegmentRef { hash, id, info }| {
        let info = info.map(|info: Box<SegmentInfo>| InfoBody(*info));
        SegmentBody { id, hash, info }
    };
    segments.iter().cloned().map(body).collect()
}
