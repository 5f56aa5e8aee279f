//! What is in two segments needs to be in one.

use std::collections::HashMap;

use fjall::Readable as _;

use super::liveness::LivenessScan;
use super::{CompactionStop, RateLimiter};
use crate::Engine;
use crate::index::Registration;
use crate::record::Stored;
use crate::segment::Records;

impl Engine {
    /// Gives to `segment` what other segments own, of each all or nothing: where it holds all of
    /// it.
    pub(super) fn give_up_tied(
        &self,
        segment: &Registration,
        scan: &mut LivenessScan,
        limiter: &RateLimiter,
    ) -> Result<(), CompactionStop> {
        let id = segment.meta.id;
        if scan.is_given(id) {
            // What it would get now would go to where the rest went, and may not be there.
            scan.keep(id);
            return Ok(());
        }
        let Some(mut reader) = self.open_paced(segment, limiter)? else {
            scan.keep(id);
            return Ok(());
        };
        let mut tied: HashMap<u64, u64> = HashMap::new();
        let mut block = Records::default();
        let mut last = Vec::new();
        while reader.next_block(&mut block)? {
            for entry in block.iter() {
                if *entry.key <= *last {
                    // No known writer makes such a one. A key that came twice would count twice.
                    scan.keep(id);
                    return Ok(());
                }
                last.clear();
                last.extend_from_slice(entry.key);
                limiter.spend((entry.key.len() + entry.version.value.len()) as u64)?;
                let Some(value) = scan.snapshot.get(&self.store.records, entry.key)? else {
                    continue;
                };
                let stored = Stored::decode(&value)?;
                let owner = scan.owner(entry.key, &stored);
                if stored.version == entry.version && owner != id && owner != scan.flush_id {
                    *tied.entry(owner).or_default() += 1;
                }
            }
            block.clear();
        }
        let mut left = tied.len();
        let mut here = Vec::new();
        for (owner, n) in tied {
            match scan.segment(owner) {
                Some(other) => here.push((other.clone(), n)),
                None if n == scan.owned(owner) => {
                    scan.give(owner, id);
                    left -= 1;
                }
                None => scan.keep(id),
            }
        }
        let useful = scan.owned(id) + here.iter().map(|(_, n)| n).sum::<u64>();
        here.sort_by_key(|(other, _)| other.meta.id);
        for (other, n) in here {
            let owned = scan.owned(other.meta.id);
            // Of two that hold the same, nodes keep the same one, if they come to it at all: a merged
            // one rather than what it was made of.
            let rank = |one: &Registration| (one.meta.records, std::cmp::Reverse(one.meta.hash));
            if n == owned && (useful > owned || rank(segment) > rank(&other)) {
                scan.give(other.meta.id, id);
                left -= 1;
            }
        }
        if left == 0 {
            scan.untied.insert(id);
        }
        // Where no single segment holds all of it, it depends on the order in which they came who
        // could go, and nodes would keep different ones. So it stays.
        if scan.owned(id) == 0 && left > 1 {
            scan.keep(id);
        }
        Ok(())
    }
}
