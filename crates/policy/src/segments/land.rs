//! What most policies do on the way of a segment: from the queue to what became of it.

use std::collections::VecDeque;

use super::{Rules, Segments};
use crate::budget::Budget;
use crate::host::Host;
use crate::pull::{Flight, Landing};
use crate::types::{ApplyError, FetchError, Hash, Storage, TickReport};

/// What became of a landing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landed {
    /// The segment is in the local engine.
    Applied,
    /// It is not; it was the segment's fault, or the peer refused.
    Failed,
    /// No peer answered. Some of these in a row: it is gone.
    Unanswered,
}

impl Segments {
    /// The next segment of the queue to fetch: one that neither is here nor is being fetched. What
    /// another tick is fetching stays pending.
    pub fn next(&mut self, host: &impl Host, queue: &mut VecDeque<Hash>) -> Option<Hash> {
        while let Some(hash) = queue.pop_front() {
            // In this order: what stops being fetched between the two is here.
            let fetching = host.fetching(hash);
            if host.has(hash) {
                self.applied(&hash);
            } else if !fetching {
                return Some(hash);
            }
        }
        None
    }

    /// Applies what landed, and notes how that went: here, in the report and in the log. Gives the
    /// segment to the archive, where there is one. An error is the end of the tick: the host cannot
    /// write.
    pub fn land<H: Host>(
        &mut self,
        host: &H,
        landing: Landing<'_, H>,
        rules: &Rules,
        report: &mut TickReport,
    ) -> Result<Landed, Storage> {
        let hash = landing.hash;
        let segment = match landing.outcome {
            Ok(segment) => segment,
            Err(FetchError::Storage) => return Err(Storage),
            Err(error) => {
                self.note(host, hash, error.why(), error.blames_segment().then_some(rules), report);
                return Ok(if error.answered() { Landed::Failed } else { Landed::Unanswered });
            }
        };
        match host.apply(&segment) {
            Ok(applied) => {
                report.count(&applied);
                self.applied(&hash);
                if host.archive_available() && host.upload(&segment).is_err() {
                    warn(host, hash, "the archive did not take it");
                }
                return Ok(Landed::Applied);
            }
            Err(ApplyError::Storage) => return Err(Storage),
            Err(error @ ApplyError::ClockAhead) => {
                self.postponed(hash, rules, host.now_ms(), host.random());
                self.note(host, hash, error.why(), None, report);
            }
            Err(error @ ApplyError::Rejected) => {
                self.rejected(hash);
                self.note(host, hash, error.why(), None, report);
            }
        }
        Ok(Landed::Failed)
    }

    /// Notes which transfers the end of the tick cut short, as [`Pull::abandon`] gives them. One that
    /// had the better part of the tick counts as failed: it must not hold its place for ever.
    ///
    /// [`Pull::abandon`]: crate::Pull::abandon
    pub fn cut_short<H: Host>(
        &mut self,
        host: &H,
        flights: Vec<Flight<'_, H>>,
        budget: Budget,
        rules: &Rules,
        report: &mut TickReport,
    ) {
        let now_ms = host.monotonic_ms();
        for flight in flights {
            if budget.was_long(now_ms.saturating_sub(flight.started_ms)) {
                self.note(host, flight.hash, "not done within the tick", Some(rules), report);
            }
        }
    }

    /// Fills in what a report says of the whole: `in_sync`, `pending` and `quarantined`.
    pub fn fill(&self, report: &mut TickReport) {
        report.pending = self.pending().count() as u32;
        report.quarantined = self.quarantined() as u32;
        report.in_sync = report.pending == 0;
    }

    /// A failure; without rules it is not the segment's.
    fn note<H: Host>(
        &mut self,
        host: &H,
        hash: Hash,
        why: &str,
        rules: Option<&Rules>,
        report: &mut TickReport,
    ) {
        report.failed += 1;
        warn(host, hash, why);
        if let Some(rules) = rules
            && self.failed(hash, rules, host.now_ms(), host.random())
        {
            warn(host, hash, "set aside after too many tries");
        }
    }
}

fn warn(host: &impl Host, hash: Hash, what: &str) {
    host.warn(format_args!("segment {}: {what}", hash.short()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Manifest, Peer};
    use crate::mock::{Fate, MockHost, segment};
    use crate::segments::State;
    use crate::types::{Context, PeerError, TickFailure};
    use crate::{Ledger, Policy, Pull};

    /// Lands all that its peer lists, and ends.
    struct LandsAll;

    impl Policy for LandsAll {
        const NAME: &str = "lands-all";
        const VERSION: &str = "1.0.0";
        const CURSOR_SCHEMA: u32 = crate::ledger::SCHEMA;

        fn tick<H: Host>(host: &H, context: &Context) -> Result<TickReport, TickFailure> {
            let budget = Budget::new(host, context);
            let mut ledger = Ledger::load(host, Rules::default());
            let mut report = TickReport::default();
            let to_pull = ledger.learn(host.peer().manifest()?.missing());
            let mut queue = ledger.ready(to_pull);
            let mut pull = Pull::new(host, budget, 8);
            let mut outcomes = Vec::new();
            while let Some(landing) = pull.next(|_| Some((host.peer(), ledger.next(&mut queue)?))) {
                outcomes.push((landing.hash.a, ledger.land(landing, &mut report)?));
            }
            ledger.cut_short(pull.abandon(), budget, &mut report);
            ledger.save_if_changed()?;
            host.info(format_args!("{outcomes:?}"));
            Ok(report)
        }
    }

    fn states(host: &MockHost) -> Vec<(u64, State)> {
        let ledger = Ledger::load(host, Rules::default());
        ledger.cursor().segments.iter().map(|(hash, state)| (hash.a, *state)).collect()
    }

    #[test]
    fn what_landed_is_applied_archived_and_forgotten() {
        let host = MockHost::with([1]);
        host.archive.set(Some(true));
        let report = host.tick::<LandsAll>();
        assert_eq!((report.applied, report.failed), (1, 0));
        assert!(host.logged("[(1, Applied)]"));
        assert_eq!(host.count(&crate::mock::Event::Upload(segment(1))), 1);
        assert_eq!(states(&host), []);
    }

    #[test]
    fn what_failed_is_remembered_as_far_as_it_is_to_blame() {
        let host = MockHost::with([1, 2, 3, 4])
            .fate(1, Fate::NotFetched(FetchError::HashMismatch))
            .fate(2, Fate::NotFetched(FetchError::Peer(PeerError::Unreachable)))
            .fate(3, Fate::NotApplied(ApplyError::Rejected))
            .fate(4, Fate::NotApplied(ApplyError::ClockAhead));
        let report = host.tick::<LandsAll>();
        assert_eq!((report.applied, report.failed), (0, 4));
        assert!(host.logged("[(1, Failed), (2, Unanswered), (3, Failed), (4, Failed)]"));
        let not_before_ms = host.wall_ms.get() + 500;
        let retry = State::Retry { tries: 1, not_before_ms };
        let expected = [(1, retry), (2, State::New), (3, State::Rejected), (4, retry)];
        assert_eq!(states(&host), expected);
    }

    #[test]
    fn a_transfer_that_had_half_of_the_tick_and_more_counts_as_failed() {
        let host = MockHost::with([1, 2]).takes_ms(1, u64::MAX / 2);
        let report = host.tick::<LandsAll>();
        assert_eq!((report.applied, report.failed), (1, 1));
        assert!(host.logged("not done within the tick"));
        assert!(matches!(states(&host)[..], [(1, State::Retry { tries: 1, .. })]));
    }

    #[test]
    fn what_is_here_or_on_its_way_is_not_fetched() {
        let host = MockHost::with([1, 2, 3]);
        host.elsewhere.borrow_mut().insert(segment(1));
        let mut segments = Segments::default();
        let to_pull = segments.learn(host.peer().manifest().unwrap().missing());
        host.local.borrow_mut().insert(segment(2));
        assert_eq!(segments.next(&host, &mut to_pull.into()), Some(segment(3)));
        let mut report = TickReport::default();
        segments.fill(&mut report);
        assert_eq!((report.pending, report.in_sync), (2, false));
    }

    #[test]
    fn a_disk_that_is_full_ends_the_tick() {
        for fate in [Fate::NotFetched(FetchError::Storage), Fate::NotApplied(ApplyError::Storage)] {
            let host = MockHost::with([1]).fate(1, fate);
            assert_eq!(host.try_tick::<LandsAll>(), Err(Storage.into()));
        }
    }
}
