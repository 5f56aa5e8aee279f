//! The default policy's memory: what is missing, what failed and how often, and when that is
//! written down.
//!
//! A segment is applied durably before the ledger forgets it, so the stored cursor may lag behind
//! the data but is never ahead of it: a crash costs a look at the manifest, never a segment.

use std::collections::VecDeque;
use std::mem;

use crate::backoff;
use crate::budget::Budget;
use crate::host::Host;
use crate::pull::{Flight, Landing};
use crate::segments::{Landed, Rules, SOON_MS, Segments};
use crate::silence::Silence;
use crate::stock::{PENDING_BYTES, PeerCursor, Room};
use crate::types::{
    Hash, PolicyError, RootInfo, SegmentRef, Storage, StoreError, TickFailure, TickReport,
};

pub use crate::stock::SCHEMA;

pub(crate) mod round;

/// Save after this many applied segments, or after the 64th part of what is pending if that is
/// more: a save costs time in proportion to what is pending, and must not make the pull quadratic.
const SAVE_AFTER: usize = 16;
const SAVE_PART: usize = 64;
/// Save after this time, if there is anything to save.
const SAVE_MS: u64 = 2000;

/// The cursor of the peer being ticked, while the tick runs.
pub struct Ledger<'a, H> {
    cursor: PeerCursor,
    host: &'a H,
    rules: Rules,
    /// Failed ticks in a row before this one.
    failures: u32,
    /// Pending segments that other ticks are fetching.
    elsewhere: Vec<Hash>,
    /// As much as the host takes.
    room: Room,
    /// The cursor differs from the stored one.
    dirty: bool,
    applied_since_save: usize,
    saved_ms: u64,
    silence: Silence,
}

impl<'a, H: Host> Ledger<'a, H> {
    /// Reads the cursor. What cannot be read of it costs a warning in the log.
    pub fn load(host: &'a H, rules: Rules) -> Self {
        let (cursor, warning) = host
            .load_cursor()
            .map_or((PeerCursor::default(), None), |bytes| PeerCursor::decode(&bytes));
        if let Some(warning) = warning {
            host.warn(warning);
        }
        Ledger {
            failures: cursor.failures,
            elsewhere: Vec::new(),
            cursor,
            host,
            rules,
            room: Room::ALL,
            dirty: false,
            applied_since_save: 0,
            saved_ms: 0,
            silence: Silence::default(),
        }
    }

    /// What it holds now.
    pub fn cursor(&self) -> &PeerCursor {
        &self.cursor
    }

    /// Notes that a tick begins, and saves. To be called before the first request to the peer.
    pub fn begin(&mut self) -> Result<(), Storage> {
        self.cursor.last_attempt_secs = self.host.now_ms() / 1000;
        self.save()
    }

    /// Notes what a probe said: the peer lives. One whose write token grows has a new primary
    /// behind it, which is logged.
    pub fn peer_answered(&mut self, info: &RootInfo) {
        self.set(|c| &mut c.failures, 0);
        let (old, new) = (self.cursor.write_token, info.watermark.map_or(0, |w| w.write_token));
        if new > old {
            if old > 0 {
                let what = format_args!("write token grew from {old} to {new}: primary failover");
                self.host.warn(what);
            }
            self.set(|c| &mut c.write_token, new);
        }
    }

    /// Whether there is nothing to pull: the roots agree, or all that is behind the peer's root was
    /// pulled before. An engine without segments proves that the memory is of another one.
    pub fn is_in_sync_with(&mut self, peer_root: Hash) -> bool {
        let local_root = self.host.local_root();
        if peer_root == local_root {
            self.set(|c| &mut c.segments, Segments::default());
            self.set(|c| &mut c.last_root, Some(peer_root));
            return true;
        }
        self.cursor.last_root == Some(peer_root) && local_root != Hash::ZERO && self.is_drained()
    }

    /// Takes in what is missing of a manifest and returns what is to pull, in the order given: all
    /// but what was rejected. Forgets what the peer no longer offers, so the cursor stays bounded.
    pub fn learn(&mut self, missing: impl IntoIterator<Item = SegmentRef>) -> Vec<Hash> {
        let (segments, to_pull) = self.cursor.segments.learned(missing);
        self.set(|c| &mut c.segments, segments);
        to_pull
    }

    /// Those of the segments that may be tried now. What failed before comes last, so that it holds
    /// up nothing else; what has done its quarantine starts over.
    pub fn ready(&mut self, to_pull: Vec<Hash>) -> VecDeque<Hash> {
        let quarantined = self.cursor.segments.quarantined();
        let ready = self.cursor.segments.ready(to_pull, &self.rules, self.host.now_ms());
        self.dirty |= quarantined != self.cursor.segments.quarantined();
        ready
    }

    /// The next segment of the queue to fetch: one that no other tick has brought since the manifest
    /// was read, or is bringing. What another tick is fetching stays pending.
    pub fn next(&mut self, queue: &mut VecDeque<Hash>) -> Option<Hash> {
        while let Some(hash) = queue.pop_front() {
            // In this order: what stops being fetched between the two is here.
            let fetching = self.host.fetching(hash);
            if self.host.has(hash) {
                self.applied(hash, false);
            } else if fetching {
                self.elsewhere.push(hash);
            } else {
                return Some(hash);
            }
        }
        None
    }

    /// The segment is in the local engine: applied `here`, or by the tick of another peer.
    pub fn applied(&mut self, hash: Hash, here: bool) {
        self.dirty = true;
        self.cursor.segments.applied(&hash);
        self.cursor.applied_total += u64::from(here);
        self.applied_since_save += 1;
    }

    /// The segment can never be applied: it is not pulled again, and nobody waits for it.
    pub fn rejected(&mut self, hash: Hash) {
        self.dirty = true;
        self.cursor.segments.rejected(hash);
    }

    /// A try of the segment failed: leave it alone for a while, and for long after too many tries.
    /// True when it was set aside.
    pub fn failed(&mut self, hash: Hash) -> bool {
        self.dirty = true;
        let (now_ms, random) = (self.host.now_ms(), self.host.random());
        self.cursor.segments.failed(hash, &self.rules, now_ms, random)
    }

    /// A try of the segment failed, and time will heal it: leave it alone for a while, however often
    /// that happens.
    pub fn postponed(&mut self, hash: Hash) {
        self.dirty = true;
        let (now_ms, random) = (self.host.now_ms(), self.host.random());
        self.cursor.segments.postponed(hash, &self.rules, now_ms, random);
    }

    /// Whether nothing is left to pull.
    pub fn is_drained(&self) -> bool {
        self.cursor.segments.pending().next().is_none()
    }

    /// The pull has ended. If nothing is left then all that is behind this root is here; it must be
    /// the root of the manifest that was pulled, since the peer may have changed since the probe.
    pub fn pulled(&mut self, manifest_root: Hash) {
        for hash in mem::take(&mut self.elsewhere) {
            if self.host.has(hash) {
                self.applied(hash, false);
            } else {
                self.elsewhere.push(hash);
            }
        }
        if self.is_drained() {
            self.set(|c| &mut c.last_root, Some(manifest_root));
        }
    }

    /// How long after this tick there is something to try again: a segment that failed, or one that
    /// another tick was fetching. Never 0.
    pub fn next_try_ms(&self) -> Option<u64> {
        let failed_ms = self.cursor.segments.next_try_ms(&self.rules, self.host.now_ms());
        let elsewhere_ms = (!self.elsewhere.is_empty()).then_some(SOON_MS);
        failed_ms.into_iter().chain(elsewhere_ms).min()
    }

    /// Fills in what a report says of the whole: `in_sync`, `pending` and `quarantined`.
    pub fn fill(&self, report: &mut TickReport) {
        report.pending = self.cursor.segments.pending().count() as u32;
        report.quarantined = self.cursor.segments.quarantined() as u32;
        report.in_sync = report.pending == 0;
    }

    /// The tick failed as a whole: notes it, saves, and asks for the next one ever later, from
    /// `interval_ms` up to `cap_ms`.
    pub fn tick_failed(
        &mut self,
        mut failure: TickFailure,
        interval_ms: u64,
        cap_ms: u64,
    ) -> TickFailure {
        let failures = self.failures.saturating_add(1);
        self.set(|c| &mut c.failures, failures);
        if self.save_if_changed().is_err() {
            failure.error = PolicyError::Storage;
        }
        let wait_ms = backoff::peer_ms(failures, interval_ms, cap_ms, self.host.random());
        failure.next_tick_ms = Some(wait_ms);
        failure
    }

    /// Saves if enough has changed or enough time has passed.
    pub fn save_if_due(&mut self) -> Result<(), Storage> {
        let enough = SAVE_AFTER.max(self.cursor.segments.len() / SAVE_PART);
        let waited_ms = self.host.monotonic_ms().saturating_sub(self.saved_ms);
        if self.applied_since_save >= enough || waited_ms >= SAVE_MS {
            self.save_if_changed()?;
        }
        Ok(())
    }

    /// Saves what the host does not have yet. To be called before the first fetch, so that what is
    /// pending is on disk, and at the end.
    pub fn save_if_changed(&mut self) -> Result<(), Storage> {
        if self.dirty { self.save() } else { Ok(()) }
    }

    /// Saves. Where the host takes no cursor this large it gets as much of it as fits: pending
    /// segments are found again in the manifest, so what is lost is the record of failures.
    fn save(&mut self) -> Result<(), Storage> {
        let mut stored = self.store();
        if let Err(StoreError::TooLarge(limit)) = stored {
            // Half of the limit for what is pending leaves the other half to the failures.
            self.room.pending = (limit as usize / 2 / PENDING_BYTES).max(1);
            stored = self.store();
        }
        if let Err(StoreError::TooLarge(_)) = stored {
            self.room.extension = false;
            stored = self.store();
        }
        match stored {
            Ok(()) => {}
            Err(StoreError::Storage) => return Err(Storage),
            Err(StoreError::TooLarge(_)) => self.host.error("the host takes no cursor"),
        }
        self.dirty = false;
        self.applied_since_save = 0;
        self.saved_ms = self.host.monotonic_ms();
        Ok(())
    }

    fn store(&self) -> Result<(), StoreError> {
        let bytes = self.cursor.encode(&self.room).ok_or(StoreError::Storage)?;
        self.host.store_cursor(&bytes)
    }

    /// Sets a field of the cursor; what did not change need not be saved.
    fn set<T: PartialEq>(&mut self, field: impl FnOnce(&mut PeerCursor) -> &mut T, value: T) {
        let field = field(&mut self.cursor);
        if *field != value {
            *field = value;
            self.dirty = true;
        }
    }

    /// [`Segments::land`], saved when that is due.
    pub fn land(
        &mut self,
        landing: Landing<'_, H>,
        report: &mut TickReport,
    ) -> Result<Landed, Storage> {
        self.silence.note(&landing);
        let (hash, segments) = (landing.hash, &mut self.cursor.segments);
        let before = segments.get(&hash).copied();
        let landed = segments.land(self.host, landing, &self.rules, report)?;
        // What is not the segment's fault changes nothing that need be saved.
        self.dirty |= before != segments.get(&hash).copied();
        if landed == Landed::Applied {
            self.cursor.applied_total += 1;
            self.applied_since_save += 1;
        }
        self.save_if_due()?;
        Ok(landed)
    }

    /// [`Silence::is_gone`], of what landed.
    pub fn peer_is_gone(&mut self) -> bool {
        if !self.silence.is_long() {
            return false;
        }
        let gone = self.silence.is_gone(self.host, &mut self.cursor.segments, &self.rules);
        self.dirty |= !gone;
        gone
    }

    /// [`Segments::cut_short`].
    pub fn cut_short(
        &mut self,
        flights: Vec<Flight<'_, H>>,
        budget: Budget,
        report: &mut TickReport,
    ) {
        self.dirty |= !flights.is_empty();
        self.cursor.segments.cut_short(self.host, flights, budget, &self.rules, report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Manifest, Peer};
    use crate::mock::{MockHost, segment};

    #[test]
    fn what_another_tick_is_fetching_stays_pending_and_is_looked_at_again_within_a_second() {
        let host = MockHost::with([1, 2, 3]);
        host.elsewhere.borrow_mut().extend([segment(1), segment(2)]);
        let manifest = host.peer().manifest().unwrap();
        let mut ledger = Ledger::load(&host, Rules::default());
        let to_pull = ledger.learn(manifest.missing());
        let mut queue = ledger.ready(to_pull);
        assert_eq!(ledger.next(&mut queue), Some(segment(3)));
        assert_eq!(ledger.next(&mut queue), None);
        ledger.applied(segment(3), true);

        host.local.borrow_mut().insert(segment(1));
        ledger.pulled(manifest.root());
        assert_eq!(ledger.cursor().segments.keys().collect::<Vec<_>>(), [&segment(2)]);
        assert_eq!((ledger.next_try_ms(), ledger.cursor().last_root), (Some(1000), None));

        host.local.borrow_mut().insert(segment(2));
        ledger.pulled(manifest.root());
        assert_eq!((ledger.next_try_ms(), ledger.is_drained()), (None, true));
        assert_eq!(ledger.cursor().last_root, Some(manifest.root()));
        assert_eq!(ledger.cursor().applied_total, 1, "only what this tick applied");
    }
}
