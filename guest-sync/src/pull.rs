//! The transfers of one tick: a window of them in flight, each applied as it arrives.

use crate::memory::{Memory, Storage};
use crate::settings::Settings;
use crate::world::{ApplyError, FetchError, Hash, Level, PeerError, World};

/// This many answers in a row without a peer behind them end the pull.
const GIVE_UP_AFTER: u32 = 3;

/// The time a tick has, by the monotonic clock.
pub struct Budget {
    start_ms: u64,
    total_ms: u64,
}

impl Budget {
    pub fn new(start_ms: u64, total_ms: u64) -> Budget {
        Budget { start_ms, total_ms }
    }

    /// No fetch starts in the last fifth of the budget.
    fn may_start(&self, now_ms: u64) -> bool {
        now_ms < self.start_ms.saturating_add(self.total_ms - self.total_ms / 5)
    }

    /// How long to wait for transfers: the last twentieth is kept to apply one and to save.
    fn wait_ms(&self, now_ms: u64) -> u64 {
        let end_ms = self.start_ms.saturating_add(self.total_ms - self.total_ms / 20);
        end_ms.saturating_sub(now_ms)
    }

    /// Whether a transfer that was cut short had had its fair time.
    fn was_long(&self, duration_ms: u64) -> bool {
        duration_ms >= self.total_ms / 2
    }
}

/// What a pull did.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    pub applied: u32,
    pub written: u64,
    pub skipped: u64,
    pub failed: u32,
}

/// How a pull ended.
#[derive(Clone, Copy, PartialEq)]
pub enum End {
    /// Nothing is left to try now.
    Drained,
    OutOfTime,
    /// The peer is gone, or the host starts no transfers.
    GaveUp,
}

struct Flight<T> {
    hash: Hash,
    transfer: T,
    started_ms: u64,
}

pub struct Pull<'a, 'm, W: World> {
    world: &'a W,
    settings: &'a Settings,
    budget: &'a Budget,
    memory: &'a mut Memory<'m, W>,
    flights: Vec<Flight<W::Transfer>>,
    window: usize,
    archive: bool,
    unanswered: u32,
    counts: Counts,
}

impl<'a, 'm, W: World> Pull<'a, 'm, W> {
    pub fn new(
        world: &'a W,
        settings: &'a Settings,
        budget: &'a Budget,
        memory: &'a mut Memory<'m, W>,
    ) -> Self {
        Pull {
            world,
            settings,
            budget,
            memory,
            flights: Vec::new(),
            window: settings.window,
            archive: false,
            unanswered: 0,
            counts: Counts::default(),
        }
    }

    /// Tries each segment of the queue once. Fails only when the host cannot write.
    pub fn run(mut self, queue: Vec<Hash>) -> Result<(Counts, End), Storage> {
        self.archive = !queue.is_empty() && self.world.archive_available();
        let mut queue = queue.into_iter().peekable();
        loop {
            let may_start = self.budget.may_start(self.world.monotonic_ms());
            while may_start && self.flights.len() < self.window && self.unanswered < GIVE_UP_AFTER {
                let Some(&hash) = queue.peek() else { break };
                if !self.start(hash)? {
                    self.window = self.flights.len();
                    break;
                }
                queue.next();
            }
            if self.unanswered >= GIVE_UP_AFTER || self.window == 0 {
                return Ok((self.counts, End::GaveUp));
            }
            if self.flights.is_empty() {
                let end = if queue.peek().is_none() { End::Drained } else { End::OutOfTime };
                return Ok((self.counts, end));
            }
            match self.wait() {
                Some(flight) => self.land(flight)?,
                None => {
                    self.cut_short();
                    return Ok((self.counts, End::OutOfTime));
                }
            }
            self.memory.save_if_due()?;
        }
    }

    /// False when the host takes no further transfer.
    fn start(&mut self, hash: Hash) -> Result<bool, Storage> {
        // Another peer's tick may have brought the segment since the manifest was read.
        if self.world.has(hash) {
            self.memory.applied(&hash, false);
            return Ok(true);
        }
        match self.world.start_fetch(hash) {
            Ok(transfer) => {
                let started_ms = self.world.monotonic_ms();
                self.flights.push(Flight { hash, transfer, started_ms });
            }
            Err(FetchError::TooManyTransfers | FetchError::TooManyBytes) => return Ok(false),
            Err(error) => self.not_fetched(hash, error)?,
        }
        Ok(true)
    }

    /// The next transfer to be done; none when the time is up.
    fn wait(&mut self) -> Option<Flight<W::Transfer>> {
        let wait_ms = self.budget.wait_ms(self.world.monotonic_ms());
        if wait_ms == 0 {
            return None;
        }
        let transfers: Vec<_> = self.flights.iter().map(|flight| &flight.transfer).collect();
        let position = self.world.wait_any(&transfers, wait_ms)? as usize;
        (position < self.flights.len()).then(|| self.flights.remove(position))
    }

    fn land(&mut self, flight: Flight<W::Transfer>) -> Result<(), Storage> {
        let Flight { hash, transfer, .. } = flight;
        let segment = match self.world.take(transfer) {
            Ok(segment) => segment,
            Err(error) => return self.not_fetched(hash, error),
        };
        self.unanswered = 0;
        match self.world.apply(&segment) {
            Ok(applied) => {
                self.counts.applied += 1;
                self.counts.written += applied.written;
                self.counts.skipped += applied.skipped;
                self.memory.applied(&hash, true);
                if self.archive && !self.world.archive(&segment) {
                    self.warn(hash, "the archive did not take it");
                }
                Ok(())
            }
            Err(ApplyError::Rejected) => {
                self.counts.failed += 1;
                self.memory.rejected(hash);
                self.warn(hash, "rejected, and never fetched again");
                Ok(())
            }
            Err(ApplyError::ClockAhead) => {
                self.failed(hash, "a record in it is from the future", true);
                Ok(())
            }
            Err(ApplyError::Storage) => Err(Storage),
        }
    }

    /// Whose fault was it? A peer that does not answer is not the segment's, but a segment that
    /// takes the peer too long may be its own.
    fn not_fetched(&mut self, hash: Hash, error: FetchError) -> Result<(), Storage> {
        let (why, answered, blame) = match error {
            FetchError::Storage => return Err(Storage),
            FetchError::Peer(PeerError::Unreachable) => ("the peer is unreachable", false, false),
            FetchError::Peer(PeerError::Timeout) => ("timeout", false, true),
            FetchError::Peer(PeerError::Status(_)) => ("the peer refused", true, true),
            FetchError::Peer(PeerError::Malformed) => ("malformed answer", true, true),
            FetchError::Peer(PeerError::TooLarge) => ("too large", true, true),
            FetchError::NotFound => ("the peer does not have it", true, true),
            FetchError::HashMismatch => ("hash mismatch", true, true),
            FetchError::NotInManifest => ("no manifest lists it", true, true),
            FetchError::TooManyTransfers | FetchError::TooManyBytes | FetchError::NotReady => {
                ("no transfer", true, true)
            }
        };
        self.unanswered = if answered { 0 } else { self.unanswered + 1 };
        self.failed(hash, why, blame);
        Ok(())
    }

    /// Gives up the transfers in flight. One that had the better part of the tick counts as failed:
    /// it must not hold its place in the window for ever.
    fn cut_short(&mut self) {
        let now_ms = self.world.monotonic_ms();
        for flight in std::mem::take(&mut self.flights) {
            if self.budget.was_long(now_ms.saturating_sub(flight.started_ms)) {
                self.failed(flight.hash, "not done within the tick", true);
            }
        }
    }

    fn failed(&mut self, hash: Hash, why: &str, blame: bool) {
        self.counts.failed += 1;
        let set_aside = blame && self.memory.failed(hash, self.settings);
        self.warn(hash, why);
        if set_aside {
            self.warn(hash, "set aside after too many tries");
        }
    }

    fn warn(&self, hash: Hash, what: &str) {
        self.world.log(Level::Warn, &["segment ", &hash.short(), ": ", what].concat());
    }
}
