//! Night window: bulk is pulled between two times of the day, small segments at any time.
//!
//! For links that are wanted for something else in the daytime, or are cheaper at night: `from` and
//! `to` are times such as 22:00 and 06:00, `utc-offset` is such as +02:00. Outside of the window
//! only segments of at most `always-below` bytes are pulled; with `always-below=0` the peer is not
//! even asked. Transfers that run when the window ends are cancelled and tried again the next night.
//!
//! In the daytime a segment of unknown size counts as bulk, and so all of a peer that speaks version
//! 1 of the protocol alone. The offset is a fixed one: it knows nothing of summer time.

use std::collections::HashSet;

use edgestore_policy::ledger;
use edgestore_policy::prelude::*;
use edgestore_policy::segments::Landed;

mod night;
#[cfg(test)]
mod tests;

use night::Night;

/// This many fetches in a row without an answer end the tick.
const GIVE_UP_AFTER: u32 = 3;
/// The longest wait between two probes of a dead peer.
const PROBE_CAP_MS: u64 = 15 * 60 * 1000;

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
        let night = Night::read(&mut settings)?;
        let rules = Rules::read(&mut settings)?;
        settings.finish()?;

        let night_left_ms = night.left_ms(host.now_ms());
        // A tick that ends with the night takes no byte of the day.
        let budget_ms = context.budget_ms.min(night_left_ms.unwrap_or(u64::MAX));
        let budget = Budget::new(host, &Context { budget_ms, ..context.clone() });
        let small = night_left_ms.is_none().then_some(always_below);
        let ledger = Ledger::load(host, rules);
        if small == Some(0) {
            let mut report = TickReport::default();
            ledger.fill(&mut report);
            report.in_sync = false;
            report.next_tick_ms = Some(night.starts_in_ms(host.now_ms()));
            return Ok(report);
        }
        let mut round = Round { host, budget, window, small, ledger };
        let mut report = round.run().map_err(|failure| {
            round.ledger.tick_failed(failure, context.interval_ms, PROBE_CAP_MS)
        })?;
        if small.is_some() && report.pending > 0 {
            let starts_in_ms = night.starts_in_ms(host.now_ms());
            report.next_tick_ms = report.next_tick_ms.into_iter().chain([starts_in_ms]).min();
        }
        report.next_tick_ms = report.next_tick_ms.filter(|&ms| ms < context.interval_ms);
        Ok(report)
    }
}

struct Round<'a, H: Host> {
    host: &'a H,
    budget: Budget,
    window: usize,
    /// In the daytime, the bytes that a segment may have.
    small: Option<u64>,
    ledger: Ledger<'a, H>,
}

impl<H: Host> Round<'_, H> {
    fn run(&mut self) -> Result<TickReport, TickFailure> {
        let peer = self.host.peer();
        let mut report = TickReport::default();
        self.ledger.begin()?;
        let info = peer.probe()?;
        self.ledger.peer_answered(&info);
        if !self.ledger.is_in_sync_with(info.root) {
            let manifest = peer.manifest()?;
            let missing: Vec<_> = manifest.missing().collect();
            let may_come = |segment: &&SegmentRef| match (self.small, segment.info) {
                (None, _) => true,
                (Some(most), info) => info.is_some_and(|info| info.size <= most),
            };
            let may_come: HashSet<_> =
                missing.iter().filter(may_come).map(|segment| segment.hash).collect();
            let mut to_pull = self.ledger.learn(missing);
            report.missing = to_pull.len() as u32;
            self.ledger.save_if_changed()?;
            to_pull.retain(|hash| may_come.contains(hash));
            report.next_tick_ms = self.pull(to_pull, &mut report)?;
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
        let mut unanswered = 0;
        while let Some(landing) = pull.next(|_| Some((host.peer(), ledger.next(&mut queue)?))) {
            match ledger.land(landing, report)? {
                Landed::Unanswered => unanswered += 1,
                Landed::Applied | Landed::Failed => unanswered = 0,
            }
            if unanswered == GIVE_UP_AFTER {
                return Ok(None);
            }
        }
        ledger.cut_short(pull.abandon(), self.budget, report);
        Ok(match pull.end() {
            // At once, unless the next tick would merely repeat this one.
            End::OutOfTime | End::OutOfBytes => (report.applied + report.failed > 0).then_some(0),
            _ => ledger.next_try_ms(),
        })
    }
}
