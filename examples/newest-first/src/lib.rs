//! Newest first: of a backlog, the segments with the freshest records come before all others.
//!
//! For dashboards and alarms, where today's records are wanted now and last week's can wait. After
//! `look-again-secs` a tick starts nothing more and the next one follows at once, so that what the
//! peer has written meanwhile goes before the rest of the backlog.
//!
//! A peer that speaks version 1 of the protocol alone does not say how fresh its segments are. They
//! are pulled in its own order then, as by the default policy.

use std::collections::VecDeque;

use edgestore_policy::ledger;
use edgestore_policy::prelude::*;

#[cfg(test)]
mod tests;

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

        let look_again_ms = look_again_secs * 1000;
        Ledger::load(host, rules).round(context, |ledger, manifest, report| {
            let queue = ledger.queue(manifest.missing().newest_first(), report)?;
            let mut round = Round { host, budget, window, look_again_ms, ledger };
            round.pull(queue, report)
        })
    }
}

struct Round<'a, 'l, H: Host> {
    host: &'a H,
    budget: Budget,
    window: usize,
    look_again_ms: u64,
    ledger: &'l mut Ledger<'a, H>,
}

impl<H: Host> Round<'_, '_, H> {
    /// Pulls in the order given. Returns when to go on.
    fn pull(
        &mut self,
        mut queue: VecDeque<Hash>,
        report: &mut TickReport,
    ) -> Result<Option<u64>, Storage> {
        let (host, ledger) = (self.host, &mut *self.ledger);
        let mut pull = Pull::new(host, self.budget, self.window);
        let until_ms = host.monotonic_ms().saturating_add(self.look_again_ms);
        while let Some(landing) = pull.next(|_| {
            let in_time = host.monotonic_ms() < until_ms;
            let hash = if in_time { ledger.next(&mut queue)? } else { return None };
            Some((host.peer(), hash))
        }) {
            ledger.land(landing, report)?;
            if ledger.peer_is_gone() {
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
