//! How far the wall clock may be trusted to forget records by it, and to say which ones are from
//! the future.
//!
//! What is forgotten by a clock that is ahead is gone too early, and peers bring back what was
//! deleted. So the wall clock is compared with the time that this database has seen before, and,
//! while it is open, with a clock that never jumps. When they disagree, the wall clock is trusted
//! again once it agrees with what was seen before, or has gone on evenly for [`PROBATION`] while
//! the database was open. That time is counted across restarts, so a node that was off for long
//! waits for that once. A new database has seen nothing, and waits for that, too: a node may start
//! before its clock is set.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use fjall::OwnedWriteBatch;

use super::options::EngineOptions;
use super::store::Store;
use super::{Engine, EngineError};

/// Key of the [`Seen`] among the state.
const CLOCK: &[u8] = b"clock";

/// How long a clock that has jumped must go on evenly before it is trusted.
pub(super) const PROBATION: Duration = Duration::from_secs(60 * 60);

/// Clocks may always differ by this much.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// Most of a time between two opens of the database that counts as gone evenly.
const PAUSE: Duration = Duration::from_secs(10 * 60);

/// Peers apply no record that is stamped further ahead of their clocks than this, by default.
pub(super) const MAX_AHEAD: Duration = Duration::from_secs(5 * 60);

/// It is written again when it has changed by this much, in nanoseconds.
const STEP: i64 = 1_000_000_000;

/// What is on disk of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// The latest wall clock time that was trusted, in Unix nanoseconds; of a new database, the
    /// least likely to be ahead.
    trusted: i64,
    /// What the wall clock was at last, while it was not trusted; 0 while it is.
    doubted: i64,
    /// How long that clock has gone on evenly, in nanoseconds.
    proven: i64,
    /// No clock was trusted to forget by it yet.
    new: bool,
}

/// Two clocks at the same instant, in nanoseconds.
#[derive(Debug, Clone, Copy)]
struct Instant {
    wall: i64,
    monotonic: i64,
}

impl Instant {
    /// What the wall clock should show when the other one shows `monotonic`.
    fn wall_at(self, monotonic: i64) -> i64 {
        self.wall.saturating_add(monotonic.saturating_sub(self.monotonic))
    }
}

/// A wall clock that has jumped.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    since: Instant,
    /// How long it had gone on evenly before, in nanoseconds.
    before: i64,
}

/// What the engine knows of its clocks.
#[derive(Debug)]
pub(super) struct ClockTrust {
    tolerance: i64,
    /// The last instant at which the wall clock was found to be right; of a new database, the one
    /// that is the least likely to be ahead.
    trusted: Instant,
    /// No clock was trusted to forget by it yet, so agreeing with `trusted` proves nothing.
    new: bool,
    doubt: Option<Doubt>,
    /// As it was written last.
    written: Option<Seen>,
}

/// Why a compaction does not forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Distrust {
    /// How far the wall clock is ahead of what it should be, in nanoseconds; negative when it is
    /// behind. `None` when the database is too new to tell.
    pub(super) ahead: Option<i64>,
    /// How much longer it must go on evenly.
    pub(super) left: Duration,
}

pub(super) fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

impl ClockTrust {
    /// For a database that is opened at `now`, and had `seen` this. `stamp` is the latest stamp of
    /// a database that has not noted what it saw, 0 for a new one.
    fn new(now: Instant, seen: Option<Seen>, stamp: i64, grace: Duration) -> Self {
        let tolerance = nanos(TOLERANCE.max(grace / 10));
        let unknown = Seen {
            trusted: if stamp > 0 { stamp } else { now.wall },
            doubted: 0,
            proven: 0,
            new: stamp == 0,
        };
        let was = seen.unwrap_or(unknown);
        let goes_on = was.doubted > 0 && now.wall >= was.doubted.saturating_sub(tolerance);
        let pause = match goes_on {
            true => now.wall.saturating_sub(was.doubted).clamp(0, nanos(PAUSE)),
            false => 0,
        };
        let trusted = Instant { wall: was.trusted.saturating_add(pause), ..now };
        let mut trust = Self { tolerance, trusted, new: was.new, doubt: None, written: seen };
        if trust.agrees(now) {
            // Off for a while.
            trust.trusted = now;
        } else {
            trust.begin_doubt(now, if goes_on { was.proven.saturating_add(pause) } else { 0 });
        }
        trust
    }

    /// Whether the wall clock is where it should be by what was seen before.
    fn agrees(&self, now: Instant) -> bool {
        !self.new && self.is_even(self.trusted, now)
    }

    fn begin_doubt(&mut self, since: Instant, before: i64) {
        self.doubt = Some(Doubt { since, before });
        if self.new && since.wall < self.trusted.wall_at(since.monotonic) {
            self.trusted = since;
        }
    }

    fn is_even(&self, from: Instant, now: Instant) -> bool {
        from.wall_at(now.monotonic).abs_diff(now.wall) <= self.tolerance.unsigned_abs()
    }

    /// Compares the clocks.
    fn observe(&mut self, now: Instant) {
        if self.agrees(now) {
            self.doubt = None;
        } else if self.doubt.is_none_or(|doubt| !self.is_even(doubt.since, now)) {
            self.begin_doubt(now, 0);
        }
    }

    fn proven(doubt: Doubt, now: Instant) -> i64 {
        let here = now.monotonic.saturating_sub(doubt.since.monotonic);
        doubt.before.saturating_add(here)
    }

    /// Whether records may be forgotten by the wall clock.
    fn check(&mut self, now: Instant) -> Result<(), Distrust> {
        self.observe(now);
        let Some(doubt) = self.doubt else { return Ok(()) };
        let left = nanos(PROBATION).saturating_sub(Self::proven(doubt, now));
        if left <= 0 {
            (self.trusted, self.new, self.doubt) = (now, false, None);
            return Ok(());
        }
        let ahead = now.wall.saturating_sub(self.trusted.wall_at(now.monotonic));
        let ahead = (!self.new).then_some(ahead);
        Err(Distrust { ahead, left: Duration::from_nanos(left.unsigned_abs()) })
    }

    /// The time, as far as it is trusted: never ahead of what it should be.
    fn sober(&self, now: Instant) -> i64 {
        match self.doubt {
            Some(_) => now.wall.min(self.trusted.wall_at(now.monotonic)),
            None => now.wall,
        }
    }

    fn seen(&self, now: Instant) -> Seen {
        match self.doubt {
            None => Seen { trusted: now.wall, doubted: 0, proven: 0, new: false },
            Some(doubt) => Seen {
                trusted: self.trusted.wall_at(now.monotonic),
                doubted: now.wall,
                proven: Self::proven(doubt, now),
                new: self.new,
            },
        }
    }
}

impl Seen {
    /// All numbers, little-endian, in their order, and a byte that is 1 when it is new.
    fn encode(self) -> Vec<u8> {
        let mut bytes = [self.trusted, self.doubted, self.proven].map(i64::to_le_bytes).concat();
        bytes.extend(self.new.then_some(1));
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[trusted, doubted, proven], new @ ([] | [1])) = bytes.as_chunks::<8>() else {
            return None;
        };
        let [trusted, doubted, proven] = [trusted, doubted, proven].map(i64::from_le_bytes);
        Some(Self { trusted, doubted, proven, new: !new.is_empty() })
    }

    fn is_near(self, other: Self) -> bool {
        let near = |a: i64, b: i64| a.abs_diff(b) < STEP.unsigned_abs();
        let (a, b) = (self, other);
        let numbers = [(a.trusted, b.trusted), (a.doubted, b.doubted), (a.proven, b.proven)];
        a.new == b.new && numbers.into_iter().all(|(a, b)| near(a, b))
    }
}

impl EngineOptions {
    fn instant(&self) -> Instant {
        Instant { wall: self.clock.now(), monotonic: nanos(self.monotonic.now()) }
    }

    /// Begins to compare the clocks.
    pub(super) fn trust(&self, store: &Store, stamp: i64) -> Result<ClockTrust, EngineError> {
        let seen = store.state.get(CLOCK)?;
        // What can't be read is as if it had never been.
        let seen = seen.and_then(|bytes| Seen::decode(&bytes));
        Ok(ClockTrust::new(self.instant(), seen, stamp, self.tombstone_grace))
    }
}

impl Engine {
    fn trust(&self) -> MutexGuard<'_, ClockTrust> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to a batch what the clocks show, if it is news.
    pub(super) fn note_clock(&self, batch: &mut OwnedWriteBatch) {
        let mut trust = self.trust();
        let now = self.options.instant();
        trust.observe(now);
        let seen = trust.seen(now);
        if trust.written.is_none_or(|written| !written.is_near(seen)) {
            trust.written = Some(seen);
            batch.insert(&self.store.state, CLOCK, seen.encode());
        }
    }

    /// Whether a compaction may forget by the wall clock.
    pub(super) fn check_wall_clock(&self) -> Result<(), Distrust> {
        self.trust().check(self.options.instant())
    }

    /// As if the database had been open for an hour.
    #[cfg(test)]
    pub(super) fn trust_wall_clock(&self) {
        let (mut trust, now) = (self.trust(), self.options.instant());
        (trust.trusted, trust.new, trust.doubt) = (now, false, None);
    }

    /// The time for notes that expire: never behind what it should be.
    pub(super) fn note_time(&self) -> i64 {
        let (trust, now) = (self.trust(), self.options.instant());
        now.wall.max(trust.trusted.wall_at(now.monotonic))
    }

    /// How far ahead a record may be stamped for peers with default bounds to take it.
    pub(super) fn ahead_bound(&self) -> Duration {
        self.options.max_clock_ahead.min(MAX_AHEAD)
    }

    /// Records that are stamped later are from the future: peers do not take them yet.
    pub(super) fn wall_horizon(&self) -> i64 {
        self.now().saturating_add(nanos(self.ahead_bound()))
    }

    /// Records that are stamped later are from the future, or would be if a wall clock that has
    /// jumped were wrong. They share no segment with others.
    pub(super) fn horizon(&self) -> i64 {
        let (mut trust, now) = (self.trust(), self.options.instant());
        trust.observe(now);
        trust.sober(now).saturating_add(nanos(self.ahead_bound()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: i64 = 1_000_000_000;
    const HOUR: i64 = 3600 * SEC;
    const DAY: i64 = 24 * HOUR;
    const GRACE: Duration = Duration::from_secs(10 * 24 * 60 * 60);
    const START: i64 = 20_000 * DAY;

    fn at(wall: i64, monotonic: i64) -> Instant {
        Instant { wall: START + wall, monotonic }
    }

    /// That of a database that has seen this instant.
    fn first() -> ClockTrust {
        ClockTrust::new(at(0, 0), None, START, GRACE)
    }

    fn reopened(trust: &ClockTrust, left: Instant, now: Instant) -> ClockTrust {
        let seen = Seen::decode(&trust.seen(left).encode()).unwrap();
        ClockTrust::new(now, Some(seen), 1, GRACE)
    }

    #[test]
    fn a_clock_that_goes_on_evenly_is_trusted_across_restarts() {
        let mut trust = first();
        trust.check(at(0, 0)).unwrap();
        trust.check(at(90 * DAY, 90 * DAY + SEC)).unwrap();
        let mut again = reopened(&trust, at(90 * DAY, 90 * DAY), at(90 * DAY + 20 * HOUR, 5));
        again.check(at(90 * DAY + 21 * HOUR, HOUR)).unwrap();
    }

    #[test]
    fn a_clock_that_jumps_is_not_trusted_until_it_is_back() {
        for jump in [400 * DAY, -400 * DAY] {
            let mut trust = first();
            let distrust = trust.check(at(jump + HOUR, HOUR)).unwrap_err();
            assert_eq!((distrust.ahead, distrust.left), (Some(jump), PROBATION));
            assert_eq!(trust.sober(at(jump + HOUR, HOUR)), START + HOUR + jump.min(0));
            trust.check(at(jump + HOUR + HOUR / 2, HOUR + HOUR / 2)).unwrap_err();
            trust.check(at(2 * HOUR, 2 * HOUR)).unwrap();
            // The same, with a restart between.
            trust.check(at(jump + 3 * HOUR, 3 * HOUR)).unwrap_err();
            let mut again = reopened(&trust, at(jump + 3 * HOUR, 3 * HOUR), at(4 * HOUR, 0));
            again.check(at(4 * HOUR, 0)).unwrap();
        }
    }

    #[test]
    fn a_node_that_was_off_for_long_is_trusted_after_an_hour() {
        let trust = first();
        let mut again = reopened(&trust, at(0, 0), at(30 * DAY, 0));
        again.check(at(30 * DAY, 0)).unwrap_err();
        let distrust = again.check(at(30 * DAY + HOUR / 2, HOUR / 2)).unwrap_err();
        assert_eq!(distrust.left, PROBATION / 2);
        // It jumps once more: that begins anew.
        again.check(at(60 * DAY, HOUR)).unwrap_err();
        again.check(at(60 * DAY + HOUR / 2, HOUR + HOUR / 2)).unwrap_err();
        again.check(at(60 * DAY + HOUR, 2 * HOUR)).unwrap();
        again.check(at(61 * DAY, 25 * HOUR)).unwrap();
    }

    #[test]
    fn a_new_database_waits_for_its_first_hour_whatever_its_clock_shows() {
        for reopen in [false, true] {
            let mut new = ClockTrust::new(at(400 * DAY, 0), None, 0, GRACE);
            let left = |trust: &mut ClockTrust, now| trust.check(now).unwrap_err().left;
            assert_eq!(left(&mut new, at(400 * DAY, 0)), PROBATION);
            assert_eq!(left(&mut new, at(400 * DAY + HOUR / 2, HOUR / 2)), PROBATION / 2);
            if reopen {
                let left = at(400 * DAY + HOUR / 2, HOUR / 2);
                new = reopened(&new, left, at(HOUR / 2, HOUR / 2));
            }
            // The clock is set. What it showed before holds nothing up.
            let set = at(HOUR / 2, HOUR / 2);
            assert_eq!(new.check(set), Err(Distrust { ahead: None, left: PROBATION }));
            assert_eq!(new.sober(at(HOUR, HOUR)), START + HOUR);
            // Nothing shares a segment with records of a clock that goes ahead again.
            let mut other = reopened(&new, set, set);
            other.check(at(400 * DAY + HOUR, HOUR)).unwrap_err();
            assert_eq!(other.sober(at(400 * DAY + HOUR, HOUR)), START + HOUR);
            new.check(at(HOUR + HOUR / 2, HOUR + HOUR / 2)).unwrap();
            assert_eq!(new.check(at(90 * DAY, 2 * HOUR)).unwrap_err().left, PROBATION);
        }
    }

    /// As by commands that each open it, the second ten minutes after the first.
    #[test]
    fn a_new_database_that_is_off_for_a_while_takes_its_own_records_for_no_future_ones() {
        let minutes = |count: i64| at(count * 60 * SEC, 0);
        let mut new = ClockTrust::new(minutes(0), None, 0, GRACE);
        for (left, later) in [(0, 4), (4, 14), (14, 20)] {
            new = reopened(&new, minutes(left), minutes(later));
            assert_eq!(new.sober(minutes(later)), minutes(later).wall);
        }
        // So much is believed, and no more.
        let far = reopened(&new, minutes(20), minutes(200));
        assert_eq!(far.sober(minutes(200)), minutes(30).wall);
    }

    #[test]
    fn a_node_that_never_runs_for_an_hour_is_trusted_in_the_end() {
        let mut trust = first();
        let (mut wall, mut trusted) = (0, 0);
        for _ in 0..20 {
            wall += 7 * DAY;
            trust = reopened(&trust, at(wall - 7 * DAY, 5 * SEC), at(wall, 0));
            trusted += i32::from(trust.check(at(wall, 5 * SEC)).is_ok());
        }
        assert!(trusted >= 2, "{trusted}");
    }

    #[test]
    fn a_database_of_an_older_version_is_judged_by_its_latest_stamp() {
        let now = at(0, 0);
        for (stamp, ok) in [(-HOUR, true), (-30 * DAY, false), (400 * DAY, false)] {
            let mut trust = ClockTrust::new(now, None, START + stamp, GRACE);
            assert_eq!(trust.check(now).is_ok(), ok, "{stamp}");
        }
    }
}
