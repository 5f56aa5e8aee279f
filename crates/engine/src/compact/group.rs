//! Which segments are merged with which, or written again.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::liveness::LivenessScan;
use crate::index::Registration;

/// As many of like size are merged, and as many times larger are those of the next size: the
/// size-tiered way (Apache Cassandra's `SizeTieredCompactionStrategy`), in which a record is
/// rewritten as often as there are sizes.
pub(super) const FANOUT: u64 = 4;

/// Segments below this are of one size.
const SMALLEST: u64 = 64 << 10;

/// More files are not read at a time.
const MAX_GROUP: usize = 64;

/// What is known when the choice is made.
pub(super) struct Choice<'a> {
    pub(super) scan: &'a LivenessScan,
    /// Those of this node's own segments that are larger than readers allow.
    pub(super) oversized: &'a HashSet<u64>,
    /// The latest stamps in files, by id.
    pub(super) newest: &'a HashMap<u64, i64>,
    /// Records that are stamped later are from the future by the wall clock. It is later than the
    /// horizon of the liveness scan while the wall clock is not trusted.
    pub(super) wall_horizon: i64,
    /// Bytes of a file that a merge makes, at most, roughly.
    pub(super) max_bytes: u64,
    /// Bytes of memory that its records may count for.
    pub(super) max_inflated: u64,
}

impl Choice<'_> {
    /// Groups of this node's own segments that are to be merged, each into one segment; or, of one
    /// that peers can't take, into several.
    pub(super) fn groups(&self) -> Vec<Vec<Registration>> {
        // Those that may be from the future stay apart.
        let mut tiers: BTreeMap<(bool, u32), Vec<Registration>> = BTreeMap::new();
        let mut groups = Vec::new();
        for segment in self.scan.segments.iter().filter(|one| one.own && !one.tied) {
            let (id, live) = (segment.meta.id, self.live_bytes(segment));
            let owned = self.scan.all_owned(id);
            let newest = self.newest.get(&id).copied().unwrap_or(owned.newest);
            // Good records that wait for others.
            let mixed = newest > self.scan.horizon && owned.ahead < owned.records;
            if self.oversized.contains(&id) || mixed {
                groups.push(vec![segment.clone()]);
                continue;
            }
            if newest > self.wall_horizon {
                // Merged with later ones, they would wait for these.
                continue;
            }
            let small = live * FANOUT <= self.max_bytes
                && owned.weight.saturating_mul(FANOUT) <= self.max_inflated;
            if small {
                let ahead = newest > self.scan.horizon;
                tiers.entry((ahead, tier(live))).or_default().push(segment.clone());
            } else if live * 2 < segment.meta.bytes {
                groups.push(vec![segment.clone()]);
            }
        }
        for tier in tiers.into_values() {
            self.group(tier, &mut groups);
        }
        groups
    }

    /// Of segments of like size, each of which is at most a quarter of what a merge may make.
    fn group(&self, tier: Vec<Registration>, groups: &mut Vec<Vec<Registration>>) {
        let mut group = Vec::new();
        let (mut bytes, mut weight) = (0, 0);
        for segment in tier {
            let live = self.live_bytes(&segment);
            let more = self.scan.all_owned(segment.meta.id).weight;
            let full = bytes + live > self.max_bytes || weight + more > self.max_inflated;
            if group.len() == MAX_GROUP || full {
                groups.push(std::mem::take(&mut group));
                (bytes, weight) = (0, 0);
            }
            bytes += live;
            weight += more;
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

    /// Bytes of a segment's file that its live records take, roughly.
    fn live_bytes(&self, segment: &Registration) -> u64 {
        let (owned, records) = (self.scan.owned(segment.meta.id), segment.meta.records.max(1));
        (segment.meta.bytes as f64 * (owned.min(records) as f64 / records as f64)) as u64
    }
}

fn tier(bytes: u64) -> u32 {
    (bytes / SMALLEST).max(1).ilog(FANOUT)
}
