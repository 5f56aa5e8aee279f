//! The steps of a tick in the order that keeps the promise of the cursor. What is between them, in
//! which order to pull and from whom, is the policy's.

use std::collections::VecDeque;

use super::Ledger;
use crate::budget::Budget;
use crate::host::{Host, Manifest, Peer};
use crate::pull::{End, Pull};
use crate::types::{Context, Hash, SegmentRef, Storage, TickFailure, TickReport};

/// The longest wait between two probes of a dead peer.
const PROBE_CAP_MS: u64 = 15 * 60 * 1000;

impl<H: Host> Ledger<'_, H> {
    /// One round with the peer being ticked: probes it, compares roots, and where something may be
    /// missing gives its manifest to `pull`. That says when to go on, which is in the report if it
    /// is before the interval is over; what it pulls must come from [`queue`](Ledger::queue). A
    /// round that failed is asked for ever later, up to a quarter of an hour.
    pub fn round(
        &mut self,
        context: &Context,
        pull: impl FnOnce(&mut Self, &H::Manifest, &mut TickReport) -> Result<Option<u64>, Storage>,
    ) -> Result<TickReport, TickFailure> {
        let interval_ms = context.interval_ms;
        let done = self.steps(interval_ms, pull);
        done.map_err(|failure| self.tick_failed(failure, interval_ms, PROBE_CAP_MS))
    }

    fn steps(
        &mut self,
        interval_ms: u64,
        pull: impl FnOnce(&mut Self, &H::Manifest, &mut TickReport) -> Result<Option<u64>, Storage>,
    ) -> Result<TickReport, TickFailure> {
        let peer = self.host.peer();
        let mut report = TickReport::default();
        self.begin()?;
        let info = peer.probe()?;
        self.peer_answered(&info);
        if !self.is_in_sync_with(info.root) {
            let manifest = peer.manifest()?;
            let next_tick_ms = pull(self, &manifest, &mut report)?;
            report.next_tick_ms = next_tick_ms.filter(|&ms| ms < interval_ms);
            self.pulled(manifest.root());
        }
        self.save_if_changed()?;
        self.fill(&mut report);
        Ok(report)
    }

    /// Takes in what is missing of a manifest, saves it, and returns what may be tried now, in the
    /// order given but for what failed before: that comes last.
    pub fn queue(
        &mut self,
        missing: impl IntoIterator<Item = SegmentRef>,
        report: &mut TickReport,
    ) -> Result<VecDeque<Hash>, Storage> {
        let to_pull = self.learn(missing);
        report.missing = to_pull.len() as u32;
        self.save_if_changed()?;
        Ok(self.ready(to_pull))
    }

    /// The pull gives nothing more: notes what the end of the tick cuts short, and says when to go
    /// on. At once if only a budget, of time or of bytes, ended the pull and the next tick will not
    /// merely repeat this one; else when the first segment may be tried again.
    pub fn ended(
        &mut self,
        mut pull: Pull<'_, H>,
        budget: Budget,
        report: &mut TickReport,
    ) -> Option<u64> {
        self.cut_short(pull.abandon(), budget, report);
        match pull.end() {
            End::OutOfTime | End::OutOfBytes => (report.applied + report.failed > 0).then_some(0),
            _ => self.next_try_ms(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Policy;
    use crate::mock::{Event, Fate, MockHost, PEER, segment};
    use crate::segments::Rules;
    use crate::types::{FetchError, PeerError};

    /// The default policy without settings, with so many transfers in flight.
    pub(crate) struct Plain<const WINDOW: usize>;

    impl<const WINDOW: usize> Policy for Plain<WINDOW> {
        const NAME: &str = "plain";
        const VERSION: &str = "1.0.0";
        const CURSOR_SCHEMA: u32 = crate::ledger::SCHEMA;

        fn tick<H: Host>(host: &H, context: &Context) -> Result<TickReport, TickFailure> {
            let budget = Budget::new(host, context);
            Ledger::load(host, Rules::default()).round(context, |ledger, manifest, report| {
                let mut queue = ledger.queue(manifest.missing(), report)?;
                let mut pull = Pull::new(host, budget, WINDOW);
                while let Some(landing) =
                    pull.next(|_| Some((host.peer(), ledger.next(&mut queue)?)))
                {
                    ledger.land(landing, report)?;
                    if ledger.peer_is_gone() {
                        return Ok(None);
                    }
                }
                Ok(ledger.ended(pull, budget, report))
            })
        }
    }

    fn host(numbers: impl IntoIterator<Item = u64>) -> MockHost {
        let host = MockHost::with(numbers);
        host.check_ledger.set(true);
        host
    }

    #[test]
    fn what_is_pending_is_stored_before_the_first_fetch() {
        let host = host([1]);
        let report = host.tick::<Plain<2>>();
        assert_eq!((report.missing, report.applied, report.in_sync), (1, 1, true));
        let (peer, hash) = (PEER.to_owned(), segment(1));
        let expected = [
            Event::Store,
            Event::Probe(peer.clone()),
            Event::Manifest(peer.clone()),
            Event::Store,
            Event::Fetch(peer, hash),
            Event::Apply(hash),
            Event::Store,
        ];
        assert_eq!(*host.events.borrow(), expected);
    }

    #[test]
    fn what_is_complete_is_not_listed_again() {
        let host = host([1]);
        host.tick::<Plain<2>>();
        host.local.borrow_mut().insert(segment(77));
        assert!(host.tick::<Plain<2>>().in_sync);
        assert_eq!(host.count(&Event::Manifest(PEER.into())), 0);
    }

    #[test]
    fn a_dead_peer_is_probed_ever_more_rarely_up_to_a_quarter_of_an_hour() {
        let host = host([1]);
        host.peer().probe_error.set(Some(PeerError::Unreachable));
        let mut waits_ms = Vec::new();
        for _ in 0..8 {
            let failure = host.try_tick::<Plain<2>>().unwrap_err();
            waits_ms.push(failure.next_tick_ms.unwrap());
        }
        assert_eq!(waits_ms[0], 30_000);
        assert!(waits_ms.is_sorted() && (PROBE_CAP_MS / 2..=PROBE_CAP_MS).contains(&waits_ms[7]));
    }

    #[test]
    fn the_next_tick_comes_at_once_after_a_budget_unless_it_would_repeat_this_one() {
        let cut = host([1, 2, 3]);
        cut.peer().transfer_ms.set(5_000);
        let report = cut.tick::<Plain<2>>();
        assert_eq!((report.applied, report.next_tick_ms), (2, Some(0)));

        let stuck = host([1]);
        stuck.byte_limit.set(0);
        assert_eq!(stuck.tick::<Plain<2>>().next_tick_ms, None);
    }

    #[test]
    fn the_next_tick_comes_when_a_segment_may_be_tried_again_if_that_is_before_the_interval() {
        let host = host([1]).fate(1, Fate::NotFetched(FetchError::HashMismatch));
        assert_eq!(host.tick::<Plain<2>>().next_tick_ms, Some(500));
        host.interval_ms.set(400);
        host.pass_ms(500);
        assert_eq!(host.tick::<Plain<2>>().next_tick_ms, None);
    }
}
