//! What was deleted, or has expired, long ago.
//!
//! A tombstone is needed as long as a segment holds an older version of its key: a peer that pulls
//! that segment must get the tombstone, too, and so must this node if it ever reads the segment
//! again. So all segments that hold something dead are read before a tombstone goes. And a peer may
//! have pulled such a segment shortly before it was retired, and not yet the tombstone's: what a
//! retired segment held beneath a tombstone is noted, and the tombstone stays for another grace
//! period.

use std::collections::HashSet;
use std::time::Duration;

use fjall::{OwnedWriteBatch, PersistMode};

use super::liveness::LivenessScan;
use super::{Compacted, CompactionStop, RateLimiter};
use crate::Hash;
use crate::clock::Distrust;
use crate::index::Registration;
use crate::record::Stored;
use crate::segment::{Entry, Records};
use crate::verify::display_key;
use crate::{Engine, EngineError};

/// Records that are removed while writes wait, and notes that are written together.
pub(super) const CHUNK: usize = 10_000;

/// How often segments that came meanwhile are looked at, too.
const ROUNDS: usize = 10;

/// What segments that are about to be retired hold beneath tombstones and what may expire.
#[derive(Debug)]
pub(super) struct ShadowedKeys {
    /// Records that are stamped after it are from the future.
    horizon: i64,
    now: i64,
    grace: Duration,
    /// Those that are not written down yet.
    pub(super) keys: Vec<Vec<u8>>,
    /// A record is beneath one from the future: peers do not take that one yet, and need this. Or it
    /// is a tombstone that the store does not have, as one with a shorter grace period has forgotten
    /// it.
    pub(super) is_needed: bool,
    /// Store key of a record that the store should have, and does not.
    behind: Option<Vec<u8>>,
    /// Segments that can't be read: nobody knows what they hold.
    unknown: Vec<Hash>,
}

impl ShadowedKeys {
    /// Notes a key if the segment's version of it is beneath such a one. Returns whether the version
    /// is needed, although it is not the store's.
    pub(super) fn note(&mut self, entry: &Entry<&[u8]>, stored: Option<&Stored<&[u8]>>) -> bool {
        let version = &entry.version;
        let needed = match stored {
            Some(Stored { version: there, .. }) if there < version => {
                self.behind = Some(entry.key.to_vec());
                true
            }
            Some(Stored { version: there, .. }) => {
                if (there.deleted || there.ttl > 0) && there > version {
                    self.keys.push(entry.key.to_vec());
                }
                there.timestamp > self.horizon && version.timestamp <= self.horizon
            }
            None => {
                if version.is_live(self.now) {
                    self.behind = Some(entry.key.to_vec());
                }
                !version.is_past(self.now, self.grace)
            }
        };
        self.is_needed |= needed;
        needed
    }

    /// Takes over what another one has noted.
    pub(super) fn extend(&mut self, other: Self) {
        self.keys.extend(other.keys);
        self.unknown.extend(other.unknown);
    }
}

impl Engine {
    /// Nothing yet. Records that are stamped after `horizon` are from the future.
    pub(super) fn nothing_shadowed(&self, horizon: i64) -> ShadowedKeys {
        ShadowedKeys {
            horizon,
            now: self.now(),
            grace: self.options.tombstone_grace,
            keys: Vec::new(),
            is_needed: false,
            behind: None,
            unknown: Vec::new(),
        }
    }

    /// Looks whether the store has what segments hold, before they go.
    ///
    /// # Errors
    /// When it does not: part of the record store is older than the rest. Nothing more is written.
    pub(super) fn check_merged(&self, shadowed: &ShadowedKeys) -> Result<(), CompactionStop> {
        let Some(key) = &shadowed.behind else { return Ok(()) };
        let error = EngineError::Corrupt(format!(
            "segments hold what the record store has lost, such as the record {}: stop the host, and \
             put a backup in the place of the database, or run `edgestore-host verify --repair`",
            display_key(key)
        ));
        Err(self.store.poison(error).into())
    }

    pub(super) fn note_shadowed(
        &self,
        segment: &Registration,
        shadowed: &mut ShadowedKeys,
        limiter: &RateLimiter,
    ) -> Result<(), CompactionStop> {
        let Some(mut reader) = self.open_paced(segment, limiter)? else {
            shadowed.unknown.push(segment.meta.hash);
            return Ok(());
        };
        let mut block = Records::default();
        while reader.next_block(&mut block)? {
            limiter.spend(block.weight() as u64)?;
            for entry in block.iter() {
                self.stored(entry.key, |stored| shadowed.note(&entry, stored.as_ref()))?;
                if shadowed.is_needed {
                    // It stays, and hides nothing.
                    shadowed.keys.clear();
                }
                self.write_full(shadowed)?;
            }
            block.clear();
        }
        self.check_merged(shadowed)
    }

    /// Writes down what was noted once it is much. Where the segment stays after all, tombstones stay
    /// longer than they must.
    pub(super) fn write_full(&self, shadowed: &mut ShadowedKeys) -> Result<(), EngineError> {
        if shadowed.keys.len() < CHUNK {
            return Ok(());
        }
        // Durable with the batch that retires the segment.
        let mut batch = self.store.batch(PersistMode::Buffer);
        self.shadow_in(&mut batch, shadowed);
        self.store.commit(batch)?;
        shadowed.keys.clear();
        Ok(())
    }

    /// Adds what was noted to a batch.
    pub(super) fn shadow_in(&self, batch: &mut OwnedWriteBatch, shadowed: &ShadowedKeys) {
        let time = self.note_time().to_le_bytes();
        for key in &shadowed.keys {
            batch.insert(&self.store.shadowed, key.as_slice(), time);
        }
        for hash in &shadowed.unknown {
            batch.insert(&self.store.lost, *hash.as_bytes(), time);
        }
    }

    /// Whether less than the grace period has passed since a noted time.
    fn is_recent(&self, time: &[u8]) -> bool {
        let grace = i64::try_from(self.options.tombstone_grace.as_nanos()).unwrap_or(i64::MAX);
        let time = time.first_chunk().map_or(0, |time| i64::from_le_bytes(*time));
        self.now() < time.saturating_add(grace)
    }

    pub(super) fn forget_past(
        &self,
        scan: &mut LivenessScan,
        limiter: &RateLimiter,
        done: &mut Compacted,
    ) -> Result<(), CompactionStop> {
        if self.check_wall_clock().is_err() {
            // What was noted expires by the same clock.
            done.waits |= !scan.past.is_empty() || !self.store.shadowed.is_empty()?;
            return Ok(());
        }
        self.forget_shadowed()?;
        if scan.past.is_empty() || self.may_come_back()? {
            return Ok(());
        }
        let dead = |segment: &&Registration| scan.owned(segment.meta.id) < segment.meta.records;
        let mut next: Vec<_> = scan.segments.iter().filter(dead).cloned().collect();
        let mut seen: HashSet<u64> = scan.segments.iter().map(|segment| segment.meta.id).collect();
        for _ in 0..ROUNDS {
            for segment in next {
                if !self.keep_needed(&segment, scan, limiter)? {
                    return Ok(());
                }
            }
            let writer = self.writer();
            if !writer.absent.is_empty() {
                // Nobody knows what is in them.
                return Ok(());
            }
            next = self.index().all().to_vec();
            next.retain(|segment| seen.insert(segment.meta.id));
            if next.is_empty() {
                // Few at a time; what comes between two of these holds no older versions, or is
                // looked at when the rest is forgotten.
                done.forgotten += self.forget_some(scan)?;
                if scan.past.is_empty() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Drops the notes that are older than the grace period.
    fn forget_shadowed(&self) -> Result<(), CompactionStop> {
        let mut old = Vec::new();
        let forget = |old: &mut Vec<_>| {
            let mut batch = self.store.batch(PersistMode::Buffer);
            old.drain(..).for_each(|key: fjall::UserKey| batch.remove(&self.store.shadowed, key));
            self.store.commit(batch)
        };
        for guard in self.store.shadowed.iter() {
            let (key, time) = guard.into_inner()?;
            if !self.is_recent(&time) {
                old.push(key);
            }
            if old.len() >= CHUNK {
                forget(&mut old)?;
            }
        }
        Ok(forget(&mut old)?)
    }

    /// Whether a segment that a repair gave up may be pulled again, with older versions in it. Once
    /// it is here, or was gone for the grace period, it is like any other.
    fn may_come_back(&self) -> Result<bool, CompactionStop> {
        for guard in self.store.lost.iter() {
            if self.is_recent(&guard.value()?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes off the list what `segment` has an older version of. False when it can't be read.
    fn keep_needed(
        &self,
        segment: &Registration,
        scan: &mut LivenessScan,
        limiter: &RateLimiter,
    ) -> Result<bool, CompactionStop> {
        let Some(mut reader) = self.open_paced(segment, limiter)? else { return Ok(false) };
        let mut block = Records::default();
        while reader.next_block(&mut block)? {
            limiter.spend(block.weight() as u64)?;
            for entry in block.iter() {
                let Some(past) = scan.past.get(entry.key) else { continue };
                if Stored::decode(past)?.version != entry.version {
                    scan.past.remove(entry.key);
                }
            }
            block.clear();
        }
        Ok(true)
    }

    /// Forgets some of what is on the list, and takes it off. The returned count is that of the
    /// forgotten ones; what has changed since is not among them. Nobody may write meanwhile.
    fn forget_some(&self, scan: &mut LivenessScan) -> Result<u64, CompactionStop> {
        let memtable = self.memtable();
        let mut batch = self.store.batch(PersistMode::SyncAll);
        let mut forgotten = 0;
        let mut some = Vec::new();
        while some.len() < CHUNK
            && let Some(first) = scan.past.pop_first()
        {
            some.push(first);
        }
        for (key, past) in &some {
            let same = self.store.records.get(key)?.is_some_and(|value| *value == **past);
            let shadowed = self.store.shadowed.get(key)?;
            let recent = shadowed.as_deref().is_some_and(|time| self.is_recent(time));
            if same && !recent && memtable.get(key).is_none() {
                batch.remove(&self.store.records, key.as_slice());
                scan.forget(key, &Stored::decode(past)?);
                forgotten += 1;
            }
        }
        self.store.commit(batch)?;
        Ok(forgotten)
    }
}

/// Says why what nobody needs is kept, and until when.
pub(super) fn say_why_it_waits(Distrust { ahead, left }: Distrust) {
    let left = humantime::format_duration(Duration::from_secs(left.as_secs() + 1));
    let Some(ahead) = ahead else {
        tracing::info!(
            %left,
            "what was deleted or written over is kept: the database is too new to know whether the \
             wall clock is right. It is trusted once it has gone on evenly for that long while the database is \
             open"
        );
        return;
    };
    let off = Duration::from_secs(ahead.unsigned_abs() / 1_000_000_000);
    tracing::warn!(
        off = %humantime::format_duration(off),
        direction = if ahead > 0 { "ahead" } else { "behind" },
        %left,
        "what was deleted or written over is kept: the wall clock is not where it should be by what \
         this database has seen. Check it; it is trusted again once it is right, or has gone on evenly for that long \
         while the database is open"
    );
}
