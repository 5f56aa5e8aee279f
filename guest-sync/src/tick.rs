//! One round of anti-entropy with one peer: probe, compare roots, take the manifest, pull.
//!
//! The steps are those of the stock loop, in its order. What decides whether they are right is the
//! ledger: the attempt is stored before the probe, the pending segments before the pull, and the
//! peer's root only when all that its manifest listed is here.

use std::collections::VecDeque;

use edgestore_policy::prelude::*;

use crate::DefaultPolicy;

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
            let queue = self.ledger.queue(manifest.missing(), &mut self.report)?;
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
        let mut pull = Pull::new(host, budget, self.window);
        while let Some(landing) = pull.next(|_| Some((host.peer(), self.ledger.next(&mut queue)?)))
        {
            self.ledger.land(landing, &mut self.report)?;
            if self.ledger.peer_is_gone() {
                // No transfer will start, as if the host allowed none.
                return Ok(End::Blocked);
            }
        }
        self.ledger.cut_short(pull.abandon(), budget, &mut self.report);
        Ok(pull.end())
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
