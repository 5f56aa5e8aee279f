//! Night window: bulk is pulled between two times of the day, small segments at any time.
//!
//! For links that are wanted for something else in the daytime, or are cheaper at night: `from` and
//! `to` are times such as 22:00 and 06:00, `utc-offset` is such as +02:00. Outside of the window
//! only segments of at most `always-below` bytes are pulled; with `always-below=0` the peer is not
//! even asked. Transfers that run when the window ends are cancelled and tried again the next night.
//!
//! In the daytime a segment of unknown size counts as bulk, and so all of a peer that speaks version
//! 1 of the protocol alone. The offset is a fixed one: it knows nothing of summer time.

use std::collections::{HashSet, VecDeque};

use edgestore_policy::daily::Daily;
use edgestore_policy::ledger;
use edgestore_policy::prelude::*;

#[cfg(test)]
mod tests;

/// The policy.
pub struct NightWindow;

edgestore_policy::export!(NightWindow);

impl Policy for NightWindow {
    const NAME: &str = "night-window";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const CURSOR_SCHEMA: u32 = ledger::SCHEMA;

    fn tick<H: Host>(host: &H, context: &Context) -> Result<TickReport, TickFailure> {
        let mut settings = Settings::new(&context.settings);
        let window = settings.number("window", 4, 1..=64)?;
        let always_below = settings.number("always-below", 64 << 10, 0..=1 << 40)?;
        let night = Daily::read(&mut settings, "22:00", "06:00")?;
        let rules = Rules::read(&mut settings)?;
        settings.finish()?;

        let night_left_ms = night.left_ms(host.now_ms());
        // A tick that ends with the night takes no byte of the day.
        let budget_ms = context.budget_ms.min(night_left_ms.unwrap_or(u64::MAX));
        let budget = Budget::new(host, &Context { budget_ms, ..context.clone() });
        let small = night_left_ms.is_none().then_some(always_below);
        let mut ledger = Ledger::load(host, rules);
        if small == Some(0) {
            let mut report = TickReport::default();
            ledger.fill(&mut report);
            report.in_sync = false;
            report.next_tick_ms = Some(night.starts_in_ms(host.now_ms()));
            return Ok(report);
        }
        let mut report = ledger.round(context, |ledger, manifest, report| {
            let missing: Vec<_> = manifest.missing().collect();
            let may_come = missing.iter().filter(|segment| may_come(segment, small));
            let may_come: HashSet<_> = may_come.map(|segment| segment.hash).collect();
            let mut queue = ledger.queue(missing, report)?;
            queue.retain(|hash| may_come.contains(hash));
            pull(host, budget, window, ledger, queue, report)
        })?;
        if small.is_some() && report.pending > 0 {
            let night_ms = Some(night.starts_in_ms(host.now_ms()));
            let night_ms = night_ms.filter(|&ms| ms < context.interval_ms);
            report.next_tick_ms = report.next_tick_ms.into_iter().chain(night_ms).min();
        }
        Ok(report)
    }
}

/// In the daytime, whether a segment is known to have at most so many bytes.
fn may_come(segment: &SegmentRef, small: Option<u64>) -> bool {
    small.is_none_or(|most| segment.info.is_some_and(|info| info.size <= most))
}

/// Pulls in the order given. Returns when to go on.
fn pull<H: Host>(
    host: &H,
    budget: Budget,
    window: usize,
    ledger: &mut Ledger<'_, H>,
    mut queue: VecDeque<Hash>,
    report: &mut TickReport,
) -> Result<Option<u64>, Storage> {
    let mut pull = Pull::new(host, budget, window);
    while let Some(landing) = pull.next(|_| Some((host.peer(), ledger.next(&mut queue)?))) {
        ledger.land(landing, report)?;
        if ledger.peer_is_gone() {
            return Ok(None);
        }
    }
    Ok(ledger.ended(pull, budget, report))
}
