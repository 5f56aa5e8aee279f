//! Newest first: of a backlog, the segments with the freshest records come before all others.
//!
//! For dashboards and alarms, where today's records are wanted now and last week's can wait. After
//! `look-again-secs` a tick starts nothing more and the next one follows at once, so that what the
//! peer has written meanwhile goes before the rest of the backlog.
//!
//! A peer that speaks version 1 of the protocol alone does not say how fresh its segments are. They
//! are pulled in its own order then, as by the default policy.

use edgestore_policy::ledger;
use edgestore_policy::prelude::*;
use edgestore_policy::segments::Landed;

#[cfg(test)]
mod tests;

/// This many fetches in a row without an answer end the tick.
const GIVE_UP_AFTER: u32 = 3;
/// The longest wait between two probes of a dead peer.
const PROBE_CAP_MS: u64 = 15 * 60 * 1000;

/// The policy.
pub struct NewestFirst;

edgestore_policy::export!(NewestFirst);

impl Policy for NewestFirst {
    const NAME: &str = "newest-first";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const CURSOR_SCHEMA: u32 = ledger::SCHEMA;

    fn tick<H: Host>(host: &H, context: &Context) -> Result<TickReport, TickFailure> {
        let budget = Budget::new(host, context);
        let mut settings = Settings::new(&context.settings);
        let window = settings.number("window", 4, 1..=64)?;
        let look_again_secs: u64 = settings.number("look-again-secs", 10, 1..=3600)?;
        let rules = Rules::read(&mut settings)?;
        settings.finish()?;

        let ledger = Ledger::load(host, rules);
        let look_again_ms = look_again_secs * 1000;
        let mut round = Round { host, budget, window, look_again_ms, ledger };
        let done = round.run(context.interval_ms);
        done.map_err(|failure| round.ledger.tick_failed(failure, context.interval_ms, PROBE_CAP_MS))
    }
}

struct Round<'a, H: Host> {
    host: &'a H,
    budget: Budget,
    window: usize,
    look_again_ms: u64,
    ledger: Ledger<'a, H>,
}

impl<H: Host> Round<'_, H> {
    fn run(&mut self, interval_ms: u64) -> Result<TickReport, TickFailure> {
        let peer = self.host.peer();
        let mut report = TickReport::default();
        self.ledger.begin()?;
        let info = peer.probe()?;
        self.ledger.peer_answered(&info);
        if !self.ledger.is_in_sync_with(info.root) {
            let manifest = peer.manifest()?;
            let to_pull = self.ledger.learn(manifest.missing().newest_first());
            report.missing = to_pull.len() as u32;
            self.ledger.save_if_changed()?;
            let next_tick_ms = self.pull(to_pull, &mut report)?;
            report.next_tick_ms = next_tick_ms.filter(|&ms| ms < interval_ms);
            self.ledger.pulled(manifest.root());
        }
        self.ledger.save_if_changed()?;
        self.ledger.fill(&mut report);
        Ok(report)
    }

    /// Pulls in the order given. Returns when to go on.
    fn pull(
        &mut self,
        to_pull: Vec<Hash>,
        report: &mut TickReport,
    ) -> Result<Option<u64>, Storage> {
        let (host, ledger) = (self.host, &mut self.ledger);
        let mut queue = ledger.ready(to_pull);
        let mut pull = Pull::new(host, self.budget, self.window);
        let until_ms = host.monotonic_ms().saturating_add(self.look_again_ms);
        let mut unanswered = 0;
        while let Some(landing) = pull.next(|_| {
            let in_time = host.monotonic_ms() < until_ms;
            let hash = if in_time { ledger.next(&mut queue)? } else { return None };
            Some((host.peer(), hash))
        }) {
            match ledger.land(landing, report)? {
                Landed::Unanswered => unanswered += 1,
                Landed::Applied | Landed::Failed => unanswered = 0,
            }
            if unanswered == GIVE_UP_AFTER {
                return Ok(None);
            }
        }
        let left = !queue.is_empty() || matches!(pull.end(), End::OutOfTime | End::OutOfBytes);
        ledger.cut_short(pull.abandon(), self.budget, report);
        if left {
            // At once, unless the next tick would merely repeat this one.
            return Ok((report.applied + report.failed > 0).then_some(0));
        }
        Ok(ledger.next_try_ms())
    }
}
