//! Several segments of this node's own become one, without what is dead in them; or one that peers
//! can't take becomes several.

use std::collections::HashSet;

use fjall::PersistMode;

use super::forget::ShadowedKeys;
use super::{Compacted, CompactionStop, RateLimiter, SegmentReader};
use crate::Engine;
use crate::flush::{Made, redirect};
use crate::index::Registration;
use crate::redirect::Redirects;
use crate::segment::{Entry, Records};
use crate::store::POSITION;

impl Engine {
    /// Records that are stamped after `horizon` go to segments of their own.
    pub(crate) fn merge_segments(
        &self,
        group: &[Registration],
        horizon: i64,
        limiter: &RateLimiter,
        done: &mut Compacted,
    ) -> Result<(), CompactionStop> {
        let mut inputs = Vec::new();
        for segment in group {
            match self.open_paced(segment, limiter)? {
                Some(reader) => inputs.push(Input::new(reader)?),
                None => return Ok(()),
            }
        }
        let ids: HashSet<u64> = group.iter().map(|segment| segment.meta.id).collect();
        let redirects = self.store.load_redirects()?;
        let mut shadowed = self.nothing_shadowed(horizon);
        let live = Live { ids: &ids, redirects: &redirects, shadowed: &mut shadowed };
        let mut made = self.write_live(inputs, live, horizon, limiter)?;
        self.check_merged(&shadowed)?;
        if shadowed.is_needed && group.len() > 1 {
            // Later, when the time of the records that hide them has come.
            return Ok(());
        }

        let mut writer = self.writer();
        let mut position = writer.position;
        let (mut kept, mut adopted) = (HashSet::new(), Vec::new());
        for one in &mut made {
            let Some(same) = self.index().get(&one.staged.hash()).cloned() else {
                one.id = position.take_id();
                continue;
            };
            // It is one of them, and there was nothing to leave out and nothing to add; or it was
            // adopted after a crash that cut short this very merge.
            kept.insert(same.meta.id);
            one.id = same.meta.id;
            if !ids.contains(&same.meta.id) {
                adopted.push(Registration { own: true, ..same });
            }
        }
        let retired: Vec<_> =
            group.iter().filter(|segment| !kept.contains(&segment.meta.id)).cloned().collect();
        let mut batch = self.store.batch(PersistMode::SyncAll);
        self.retire_in(&mut batch, &retired);
        self.shadow_in(&mut batch, &shadowed);
        if let Some(redirect) = redirect(horizon, &made) {
            for segment in &retired {
                batch.insert(
                    &self.store.redirects,
                    segment.meta.id.to_be_bytes(),
                    redirect.encode(),
                );
            }
        }
        made.retain(|one| !kept.contains(&one.id));
        for segment in &adopted {
            let (key, value) = segment.encode();
            batch.insert(&self.store.segments, key, value);
        }
        let mut back = 0;
        for one in &made {
            back += u64::from(self.store.was_retired(&one.staged.hash())?);
            batch.remove(&self.store.retired, *one.staged.hash().as_bytes());
        }
        if !made.is_empty() {
            batch.insert(&self.store.state, POSITION, position.encode());
        }
        let registered = self.commit_made(batch, &mut made)?;
        writer.position = position;
        self.index_mut().own(&adopted.iter().map(|segment| segment.meta.id).collect());
        done.made += registered.len() as u64;
        done.made_bytes += registered.iter().map(|segment| segment.meta.bytes).sum::<u64>();
        self.leave(&mut writer, &retired, registered);
        *self.index_mut().retired_mut() -= back;
        done.merged += retired.len() as u64;
        done.retired += retired.len() as u64;
        Ok(())
    }

    /// Writes what the segments own, in key order.
    fn write_live(
        &self,
        mut inputs: Vec<Input>,
        Live { ids, redirects, shadowed }: Live<'_>,
        horizon: i64,
        limiter: &RateLimiter,
    ) -> Result<Vec<Made>, CompactionStop> {
        let alone = inputs.len() == 1;
        // Of a version that several of them hold, one is enough.
        let mut last: Option<Vec<u8>> = None;
        let live = std::iter::from_fn(|| {
            loop {
                let entry = match next(&mut inputs) {
                    Ok(entry) => entry?,
                    Err(halt) => return Some(Err(halt)),
                };
                let bytes = (entry.key.len() + entry.version.value.len()) as u64;
                let wanted = self.write_full(shadowed).and_then(|()| {
                    self.stored(&entry.key, |stored| {
                        let needed = shadowed.note(&entry.as_ref(), stored.as_ref());
                        let owned = stored.is_some_and(|stored| {
                            stored.version == entry.version.as_ref()
                                && ids.contains(&redirects.owner(&entry.key, &stored))
                        });
                        owned || (needed && alone)
                    })
                });
                // Read once, and maybe written.
                match limiter.spend(bytes).and(wanted.map_err(CompactionStop::from)) {
                    Ok(true) if last.as_ref() != Some(&entry.key) => {
                        last = Some(entry.key.clone());
                        return Some(limiter.spend(bytes).map(|()| entry));
                    }
                    Ok(_) => {}
                    Err(halt) => return Some(Err(halt)),
                }
            }
        });
        self.write_segments(live, horizon)
    }
}

/// Of which segments what is live is written.
struct Live<'a> {
    ids: &'a HashSet<u64>,
    redirects: &'a Redirects,
    /// Gets what is not live, and beneath what may be forgotten.
    shadowed: &'a mut ShadowedKeys,
}

/// A segment that is read in key order, a block at a time.
struct Input {
    reader: SegmentReader,
    block: Records,
    at: usize,
}

impl Input {
    fn new(reader: SegmentReader) -> Result<Self, CompactionStop> {
        let mut input = Self { reader, block: Records::default(), at: 0 };
        input.fill()?;
        Ok(input)
    }

    fn fill(&mut self) -> Result<(), CompactionStop> {
        while self.at == self.block.len() {
            self.block.clear();
            self.at = 0;
            if !self.reader.next_block(&mut self.block)? {
                break;
            }
        }
        Ok(())
    }

    fn key(&self) -> Option<&[u8]> {
        (self.at < self.block.len()).then(|| self.block.key(self.at))
    }
}

/// The entry of the least key.
fn next(inputs: &mut [Input]) -> Result<Option<Entry>, CompactionStop> {
    let least = inputs.iter_mut().filter(|input| input.key().is_some());
    let Some(input) = least.min_by(|a, b| a.key().cmp(&b.key())) else { return Ok(None) };
    let entry = input.block.get(input.at).to_owned();
    input.at += 1;
    input.fill()?;
    Ok(Some(entry))
}
