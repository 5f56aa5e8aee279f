//! One round of anti-entropy with one peer: probe, compare roots, take the manifest, pull.
//!
//! The steps are those of the stock loop, in its order. What decides whether they are right is the
//! memory: the attempt is stored before the probe, the pending segments before the pull, and the
//! peer's root only when all that its manifest listed is here.

use crate::backoff;
use crate::bindings::exports::edgestore::sync::policy::{
    Context, PolicyError, TickFailure, TickReport,
};
use crate::memory::{Memory, Storage};
use crate::pull::{Budget, Counts, End, Pull};
use crate::settings::Settings;
use crate::world::{Hash, Level, PeerError, Watermark, World};

/// Why a tick fails as a whole.
pub enum Trouble {
    Peer(PeerError),
    Storage,
}

impl From<PeerError> for Trouble {
    fn from(error: PeerError) -> Trouble {
        Trouble::Peer(error)
    }
}

impl From<Storage> for Trouble {
    fn from(Storage: Storage) -> Trouble {
        Trouble::Storage
    }
}

pub fn tick<W: World>(world: &W, context: &Context) -> Result<TickReport, TickFailure> {
    let budget = Budget::new(world.monotonic_ms(), context.budget_ms);
    let settings = Settings::parse(&context.settings)
        .map_err(|why| TickFailure { error: PolicyError::Setting(why), next_tick_ms: None })?;
    let mut memory = Memory::load(world);
    let failures = memory.cursor.failures;

    let round = Round { world, settings: &settings, budget, interval_ms: context.interval_ms };
    round.run(&mut memory).map_err(|trouble| {
        let failures = failures.saturating_add(1);
        memory.set(|c| &mut c.failures, failures);
        // Whether or not this works, the trouble is told.
        let saved = memory.save_if_changed();
        let error = match (trouble, saved) {
            (Trouble::Peer(error), Ok(())) => PolicyError::Peer(error),
            _ => PolicyError::Storage,
        };
        let (interval_ms, cap_ms) = (context.interval_ms, settings.probe_cap_ms);
        let wait_ms = backoff::peer_ms(failures, interval_ms, cap_ms, world.random());
        TickFailure { error, next_tick_ms: Some(wait_ms) }
    })
}

struct Round<'a, W> {
    world: &'a W,
    settings: &'a Settings,
    budget: Budget,
    interval_ms: u64,
}

impl<W: World> Round<'_, W> {
    fn run(&self, memory: &mut Memory<W>) -> Result<TickReport, Trouble> {
        let world = self.world;
        memory.cursor.last_attempt_secs = world.now_ms() / 1000;
        memory.save()?;

        let info = world.probe()?;
        memory.set(|c| &mut c.failures, 0);
        if let Some(watermark) = info.watermark {
            self.note_write_token(memory, watermark);
        }

        let local_root = world.local_root();
        if info.root == local_root {
            memory.clear();
            memory.set(|c| &mut c.last_root, Some(info.root));
            return self.report(memory, 0, Counts::default(), End::Drained);
        }
        // An engine without segments proves that the memory is of another one.
        let pulled_before = memory.cursor.last_root == Some(info.root) && local_root != Hash::ZERO;
        if pulled_before && memory.cursor.pending().next().is_none() {
            return self.report(memory, 0, Counts::default(), End::Drained);
        }

        let offer = world.manifest()?;
        let to_pull = memory.learn(&offer);
        let missing = to_pull.len() as u32;
        memory.save_if_changed()?;

        let queue = self.queue(memory, to_pull);
        let (counts, end) = Pull::new(world, self.settings, &self.budget, memory).run(queue)?;
        if memory.cursor.pending().next().is_none() {
            memory.set(|c| &mut c.last_root, Some(offer.root));
        }
        self.report(memory, missing, counts, end)
    }

    /// A peer whose write token grows has a new primary behind it.
    fn note_write_token(&self, memory: &mut Memory<W>, watermark: Watermark) {
        let (old, new) = (memory.cursor.write_token, watermark.write_token);
        if new <= old {
            return;
        }
        if old > 0 {
            let (old, new) = (old.to_string(), new.to_string());
            let message = ["write token grew from ", &old, " to ", &new, ": primary failover"];
            self.world.log(Level::Warn, &message.concat());
        }
        memory.set(|c| &mut c.write_token, new);
    }

    /// The segments that may be tried now. Those that failed before come last, so that they hold up
    /// no others.
    fn queue(&self, memory: &mut Memory<W>, mut to_pull: Vec<Hash>) -> Vec<Hash> {
        let now_ms = self.world.now_ms();
        to_pull.retain(|hash| memory.wait_ms(hash, self.settings, now_ms).is_none());
        let (again, mut queue): (Vec<_>, Vec<_>) =
            to_pull.into_iter().partition(|hash| memory.release(hash));
        queue.extend(again);
        queue
    }

    fn report(
        &self,
        memory: &mut Memory<W>,
        missing: u32,
        counts: Counts,
        end: End,
    ) -> Result<TickReport, Trouble> {
        memory.save_if_changed()?;
        if counts.applied > 0 {
            let (applied, missing) = (counts.applied.to_string(), missing.to_string());
            let message = ["applied ", &applied, " of ", &missing, " missing segments"];
            self.world.log(Level::Info, &message.concat());
        }
        let cursor = &memory.cursor;
        let pending = cursor.pending().count() as u32;
        Ok(TickReport {
            in_sync: pending == 0,
            missing,
            applied: counts.applied,
            records_written: counts.written,
            records_skipped: counts.skipped,
            failed: counts.failed,
            pending,
            quarantined: cursor.quarantined() as u32,
            next_tick_ms: self.next_tick_ms(memory, counts, end),
        })
    }

    /// At once if only the budget ended the tick and the next one will not merely repeat it; else
    /// when the first failed segment may be tried again, if that is before the interval.
    fn next_tick_ms(&self, memory: &Memory<W>, counts: Counts, end: End) -> Option<u64> {
        match end {
            End::OutOfTime => (counts.applied + counts.failed > 0).then_some(0),
            End::GaveUp => None,
            End::Drained => memory
                .shortest_wait_ms(self.settings, self.world.now_ms())
                .filter(|&wait_ms| wait_ms < self.interval_ms),
        }
    }
}
