//! The cursor while a tick runs: what the policy learns, and when that is written down.
//!
//! A segment is applied durably before the cursor forgets it, so a cursor may lag behind the data
//! but is never ahead of it: a crash costs a look at the manifest, never a segment.

use std::collections::BTreeMap;

use crate::backoff;
use crate::cursor::{Cursor, PENDING_BYTES, Room, State};
use crate::settings::Settings;
use crate::world::{Hash, Level, Offer, StoreError, World};

/// Save after this many applied segments, or after the 64th part of what is pending if that is
/// more: a save costs time in proportion to what is pending, and must not make the pull quadratic.
const SAVE_AFTER: usize = 16;
const SAVE_PART: usize = 64;
/// Save after this time, if there is anything to save.
const SAVE_MS: u64 = 2000;

/// The host could not write.
pub struct Storage;

pub struct Memory<'a, W> {
    pub cursor: Cursor,
    world: &'a W,
    /// As much as the host takes.
    room: Room,
    /// The cursor differs from the stored one.
    dirty: bool,
    applied_since_save: usize,
    saved_ms: u64,
}

impl<'a, W: World> Memory<'a, W> {
    pub fn load(world: &'a W) -> Self {
        let (cursor, warning) =
            world.load().map_or((Cursor::default(), None), |bytes| Cursor::decode(&bytes));
        if let Some(warning) = warning {
            world.log(Level::Warn, warning);
        }
        Memory { cursor, world, room: Room::ALL, dirty: false, applied_since_save: 0, saved_ms: 0 }
    }

    /// Sets a field of the cursor; what did not change need not be saved.
    pub fn set<T: PartialEq>(&mut self, field: impl FnOnce(&mut Cursor) -> &mut T, value: T) {
        let field = field(&mut self.cursor);
        if *field != value {
            *field = value;
            self.dirty = true;
        }
    }

    /// Takes in a manifest and returns what is to pull, in the peer's order: all that is missing
    /// but was not rejected. Forgets what the peer no longer offers, so the cursor stays bounded.
    pub fn learn(&mut self, offer: &Offer) -> Vec<Hash> {
        let mut to_pull = Vec::with_capacity(offer.missing.len());
        let mut segments = BTreeMap::new();
        for segment in &offer.missing {
            let known = self.cursor.segments.get(&segment.hash);
            let state = known.copied().unwrap_or(State::New);
            if segments.insert(segment.hash, state).is_none() && state != State::Rejected {
                to_pull.push(segment.hash);
            }
        }
        self.set(|c| &mut c.segments, segments);
        to_pull
    }

    /// Forgets all segments: there is nothing to pull.
    pub fn clear(&mut self) {
        self.set(|c| &mut c.segments, BTreeMap::new());
    }

    /// How long a segment has to wait still; none when it may be tried now. A wall clock that was
    /// put back, or a setting that was lowered, never makes it wait for longer than the setting.
    pub fn wait_ms(&self, hash: &Hash, settings: &Settings, now_ms: u64) -> Option<u64> {
        let (until_ms, longest_ms) = match *self.cursor.segments.get(hash)? {
            State::Quarantined { until_ms } => (until_ms, settings.quarantine_ms),
            State::Retry { not_before_ms, .. } => (not_before_ms, settings.backoff_cap_ms),
            State::New | State::Rejected => return None,
        };
        until_ms.checked_sub(now_ms).filter(|wait_ms| (1..=longest_ms).contains(wait_ms))
    }

    /// The shortest wait among all segments that failed; 0 when one may be tried now.
    pub fn shortest_wait_ms(&self, settings: &Settings, now_ms: u64) -> Option<u64> {
        let failed =
            self.cursor.segments.iter().filter(|(_, state)| {
                matches!(state, State::Retry { .. } | State::Quarantined { .. })
            });
        failed.map(|(hash, _)| self.wait_ms(hash, settings, now_ms).unwrap_or(0)).min()
    }

    /// True for a segment that failed before. One that has done its quarantine starts over.
    pub fn release(&mut self, hash: &Hash) -> bool {
        let Some(state) = self.cursor.segments.get_mut(hash) else { return false };
        let failed = *state != State::New;
        if let State::Quarantined { .. } = state {
            *state = State::New;
            self.dirty = true;
        }
        failed
    }

    /// The segment is in the local engine, by this tick or by that of another peer.
    pub fn applied(&mut self, hash: &Hash, here: bool) {
        self.dirty = true;
        self.cursor.segments.remove(hash);
        self.cursor.applied_total += u64::from(here);
        self.applied_since_save += 1;
    }

    /// The segment can never be applied: it is not pulled again, and nobody waits for it.
    pub fn rejected(&mut self, hash: Hash) {
        self.dirty = true;
        self.cursor.segments.insert(hash, State::Rejected);
    }

    /// A try of the segment failed: leave it alone for a while, and for long after too many tries.
    /// True when it was set aside.
    pub fn failed(&mut self, hash: Hash, settings: &Settings) -> bool {
        self.dirty = true;
        let now_ms = self.world.now_ms();
        let state = self.cursor.segments.entry(hash).or_insert(State::New);
        let before = if let State::Retry { tries, .. } = *state { tries } else { 0 };
        let tries = before.saturating_add(1);
        if tries >= settings.max_tries {
            *state = State::Quarantined { until_ms: now_ms.saturating_add(settings.quarantine_ms) };
            return true;
        }
        let (base_ms, cap_ms) = (settings.backoff_ms, settings.backoff_cap_ms);
        let wait_ms = backoff::segment_ms(tries, base_ms, cap_ms, self.world.random());
        *state = State::Retry { tries, not_before_ms: now_ms.saturating_add(wait_ms) };
        false
    }

    /// Saves if enough has changed or enough time has passed.
    pub fn save_if_due(&mut self) -> Result<(), Storage> {
        let enough = SAVE_AFTER.max(self.cursor.segments.len() / SAVE_PART);
        let waited_ms = self.world.monotonic_ms().saturating_sub(self.saved_ms);
        if self.applied_since_save >= enough || waited_ms >= SAVE_MS {
            self.save_if_changed()?;
        }
        Ok(())
    }

    pub fn save_if_changed(&mut self) -> Result<(), Storage> {
        if self.dirty { self.save() } else { Ok(()) }
    }

    /// Saves. Where the host takes no cursor this large it gets as much of it as fits: pending
    /// segments are found again in the manifest, so what is lost is the record of failures.
    pub fn save(&mut self) -> Result<(), Storage> {
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
            Err(StoreError::TooLarge(_)) => {
                self.world.log(Level::Error, "the host takes no cursor")
            }
        }
        self.dirty = false;
        self.applied_since_save = 0;
        self.saved_ms = self.world.monotonic_ms();
        Ok(())
    }

    fn store(&self) -> Result<(), StoreError> {
        self.world.store(&self.cursor.encode(&self.room).ok_or(StoreError::Storage)?)
    }
}
