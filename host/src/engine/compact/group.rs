//! Which segments are merged with which.

use std::collections::BTreeMap;

use super::census::Census;
use crate::engine::index::Registration;

/// As many of like size are merged, and as many times larger are those of the next size: the
/// size-tiered way (Apache Cassandra's `SizeTieredCompactionStrategy`), in which a record is
/// rewritten as often as there are sizes.
pub(super) const FANOUT: u64 = 4;

/// Segments below this are of one size.
const SMALLEST: u64 = 64 << 10;

/// More files are not read at a time.
const MAX_GROUP: usize = 64;

/// Groups of this node's own segments that are to be merged, each into one segment of at most
/// `max_bytes`, roughly.
pub(super) fn choose(census: &Census, max_bytes: u64) -> Vec<Vec<Registration>> {
    let live_bytes = |segment: &Registration| {
        let (owned, records) = (census.owned(segment.meta.id), segment.meta.records.max(1));
        (segment.meta.bytes as f64 * (owned.min(records) as f64 / records as f64)) as u64
    };
    let mut tiers: BTreeMap<u32, Vec<Registration>> = BTreeMap::new();
    let mut groups = Vec::new();
    for segment in census.segments.iter().filter(|segment| segment.own && !segment.tied) {
        let live = live_bytes(segment);
        if live * FANOUT <= max_bytes {
            tiers.entry(tier(live)).or_default().push(segment.clone());
        } else if live * 2 < segment.meta.bytes {
            groups.push(vec![segment.clone()]);
        }
    }
    for tier in tiers.into_values() {
        let mut group = Vec::new();
        let mut bytes = 0;
        for segment in tier {
            let live = live_bytes(&segment);
            if group.len() == MAX_GROUP || bytes + live > max_bytes {
                groups.push(std::mem::take(&mut group));
                bytes = 0;
            }
            bytes += live;
            group.push(segment);
        }
        let dead = |group: &[Registration]| {
            let all: u64 = group.iter().map(|segment| segment.meta.bytes).sum();
            bytes * 2 < all && group.iter().any(|segment| segment.meta.bytes > SMALLEST)
        };
        if group.len() as u64 >= FANOUT || dead(&group) {
            groups.push(group);
        }
    }
    groups
}

fn tier(bytes: u64) -> u32 {
    (bytes / SMALLEST).max(1).ilog(FANOUT)
}
