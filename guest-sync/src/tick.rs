//! One round of anti-entropy with one peer: probe, compare roots, take the manifest, pull.
//!
//! The steps are those of the stock loop, in its order. What decides whether they are right is the
//! ledger: the attempt is stored before the probe, the pending segments before the pull, and the
//! peer's root only when all that its manifest listed is here.

use std::collections::VecDeque;

use edgestore_policy::prelude::*;

use crate::DefaultPolicy;

/// This many answers in a row without a peer behind them end the pull.
const GIVE_UP_AFTER: u32 = 3;

impl Policy for DefaultPolicy {
    const NAME: &str = "default";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const CURSOR_SCHEMA: u32 = edgestore_policy::ledger::SCHEMA;

    fn tick<H: Host>(host: &H, context: &Context) -> Result<TickReport, TickFailure> {
        let budget = Budget::new(host, context);
        let mut settings = Settings::new(&context.settings);
        let window = settings.number("window", 4, 1..=64)?;
        let rules = Rules::read(&mut settings)?;
        let probe_cap_secs: u64 = settings.number("probe-cap-secs", 900, 1..=24 * 3600)?;
        settings.finish()?;

        let ledger = Ledger::load(host, rules);
        let mut round = Round { host, window, budget, ledger, report: TickReport::default() };
        match round.run(context.interval_ms) {
            Ok(()) => Ok(round.report),
            Err(failure) => {
                let (interval_ms, cap_ms) = (context.interval_ms, probe_cap_secs * 1000);
                Err(round.ledger.tick_failed(failure, interval_ms, cap_ms))
            }
        }
    }
}

struct Round<'a, H: Host> {
    host: &'a H,
    window: usize,
    budget: Budget,
    ledger: Ledger<'a, H>,
    report: TickReport,
}

impl<H: Host> Round<'_, H> {
    fn run(&mut self, interval_ms: u64) -> Result<(), TickFailure> {
        let host = self.host;
        self.ledger.begin()?;
        let info = host.peer().probe()?;
        self.ledger.peer_answered(&info);
        let mut next_tick_ms = None;
        if !self.ledger.is_in_sync_with(info.root) {
            let manifest = host.peer().manifest()?;
            let to_pull = self.ledger.learn(manifest.missing());
            self.report.missing = to_pull.len() as u32;
            self.ledger.save_if_changed()?;

            let queue = self.ledger.ready(to_pull);
            let end = self.pull(queue)?;
            self.ledger.pulled(manifest.root());
            next_tick_ms = self.next_tick_ms(end).filter(|&ms| ms < interval_ms);
        }
        self.ledger.save_if_changed()?;
        self.ledger.fill(&mut self.report);
        self.report.next_tick_ms = next_tick_ms;
        let TickReport { applied, missing, .. } = self.report;
        if applied > 0 {
            host.info(format_args!("applied {applied} of {missing} missing segments"));
        }
        Ok(())
    }

    /// Tries each segment of the queue once. Fails only when the host cannot write.
    fn pull(&mut self, mut queue: VecDeque<Hash>) -> Result<End, Storage> {
        let (host, budget) = (self.host, self.budget);
        let archive = !queue.is_empty() && host.archive_available();
        let mut pull = Pull::new(host, budget, self.window);
        let mut unanswered = 0;
        while let Some(landing) = pull.next(|_| Some((host.peer(), self.ledger.next(&mut queue)?)))
        {
            match landing.outcome {
                Ok(segment) => {
                    unanswered = 0;
                    self.apply(landing.hash, &segment, archive)?;
                }
                Err(FetchError::Storage) => return Err(Storage),
                Err(error) => {
                    unanswered = if error.answered() { 0 } else { unanswered + 1 };
                    self.failed(landing.hash, error.why(), error.blames_segment());
                    if unanswered == GIVE_UP_AFTER {
                        // No transfer will start, as if the host allowed none.
                        return Ok(End::Blocked);
                    }
                }
            }
            self.ledger.save_if_due()?;
        }
        // A transfer that had the better part of the tick counts as failed: it must not hold its
        // place in the window for ever.
        let now_ms = host.monotonic_ms();
        for flight in pull.abandon() {
            if budget.was_long(now_ms.saturating_sub(flight.started_ms)) {
                self.failed(flight.hash, "not done within the tick", true);
            }
        }
        Ok(pull.end())
    }

    fn apply(&mut self, hash: Hash, segment: &H::Segment, archive: bool) -> Result<(), Storage> {
        match self.host.apply(segment) {
            Ok(applied) => {
                self.report.count(&applied);
                self.ledger.applied(hash, true);
                if archive && self.host.upload(segment).is_err() {
                    self.warn(hash, "the archive did not take it");
                }
            }
            Err(ApplyError::Storage) => return Err(Storage),
            Err(error @ ApplyError::ClockAhead) => {
                self.ledger.postponed(hash);
                self.failed(hash, error.why(), false);
            }
            Err(error @ ApplyError::Rejected) => {
                self.report.failed += 1;
                self.ledger.rejected(hash);
                self.warn(hash, error.why());
            }
        }
        Ok(())
    }

    fn failed(&mut self, hash: Hash, why: &str, blame: bool) {
        self.report.failed += 1;
        self.warn(hash, why);
        if blame && self.ledger.failed(hash) {
            self.warn(hash, "set aside after too many tries");
        }
    }

    fn warn(&self, hash: Hash, what: &str) {
        self.host.warn(format_args!("segment {}: {what}", hash.short()));
    }

    /// At once if only a budget, of time or of bytes, ended the tick and the next one will not merely
    /// repeat it; else when the first segment may be tried again.
    fn next_tick_ms(&self, end: End) -> Option<u64> {
        match end {
            End::OutOfTime | End::OutOfBytes => {
                (self.report.applied + self.report.failed > 0).then_some(0)
            }
            End::Blocked | End::Quiet => None,
            End::Drained => self.ledger.next_try_ms(),
        }
    }
}
