//! Segments of this node's own that no peer takes, because they are larger than readers allow.

use std::collections::{HashMap, HashSet};

use fjall::PersistMode;

use super::liveness::LivenessScan;
use super::{CompactionStop, RateLimiter};
use crate::Engine;
use crate::extent::Measure;
use crate::segment::Records;

impl Engine {
    /// Those of this node's own segments that exceed the bounds of readers. Older versions of this
    /// host made such ones, and did not note the size of others: each is read once.
    pub(crate) fn find_oversized(
        &self,
        scan: &mut LivenessScan,
        limiter: &RateLimiter,
    ) -> Result<HashSet<u64>, CompactionStop> {
        let bounds = self.options.writer_bounds();
        let (mut oversized, mut bounded) = (HashSet::new(), HashMap::new());
        for segment in scan.segments.iter().filter(|one| one.own && !one.bounded) {
            let Some(mut reader) = self.open_paced(segment, limiter)? else { continue };
            let (mut block, mut measure) = (Records::default(), Measure::new());
            while reader.next_block(&mut block)? {
                limiter.spend(block.weight() as u64)?;
                for entry in block.iter() {
                    measure.add(entry.key.to_vec(), entry.version.timestamp);
                }
                block.clear();
            }
            if reader.weight() > bounds.inflated || segment.meta.bytes > bounds.file {
                oversized.insert(segment.meta.id);
            } else {
                bounded.insert(segment.meta.id, measure.finish());
            }
        }
        if !bounded.is_empty() {
            let ids: HashSet<u64> = bounded.keys().copied().collect();
            let writer = self.writer();
            let mut batch = self.store.batch(PersistMode::SyncAll);
            for segment in scan.segments.iter_mut().filter(|one| ids.contains(&one.meta.id)) {
                segment.bounded = true;
                let (key, value) = segment.encode();
                batch.insert(&self.store.segments, key, value);
                if self.store.extents.get(key)?.is_none() {
                    batch.insert(&self.store.extents, key, bounded[&segment.meta.id].encode());
                }
            }
            self.store.commit(batch)?;
            self.index_mut().bounded(&ids);
            drop(writer);
        }
        Ok(oversized)
    }

    /// The latest stamps in this node's own segments, of dead records, too, as far as they are
    /// known.
    pub(crate) fn newest_of_own(
        &self,
        scan: &LivenessScan,
    ) -> Result<HashMap<u64, i64>, CompactionStop> {
        let own: HashSet<u64> =
            scan.segments.iter().filter(|one| one.own).map(|one| one.meta.id).collect();
        let mut newest = HashMap::new();
        for (meta, extent) in self.extents() {
            if let Some(extent) = extent.filter(|_| own.contains(&meta.id)) {
                newest.insert(meta.id, extent.newest);
            }
        }
        Ok(newest)
    }
}
