//! Priority namespaces: segments that may hold records of the first namespace come first, then those
//! of the second, then the rest.
//!
//! For a link that carries both alerts and bulk data: `namespaces=alerts,metrics`. A segment counts
//! by the first of the namespaces that its key range spans, so one that was compacted from many
//! counts as urgent, and so does one of which the peer does not say what is in it: it may well be.
//!
//! After `bulk-secs` a tick starts no more of the rest, and the next one follows at once: an alert
//! that was written meanwhile waits for some seconds, and not for the backlog.

use std::collections::{HashSet, VecDeque};

use edgestore_policy::ledger;
use edgestore_policy::prelude::*;

#[cfg(test)]
mod tests;

/// The policy.
pub struct PriorityNamespaces;

edgestore_policy::export!(PriorityNamespaces);

impl Policy for PriorityNamespaces {
    const NAME: &str = "priority-namespaces";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const CURSOR_SCHEMA: u32 = ledger::SCHEMA;

    fn tick<H: Host>(host: &H, context: &Context) -> Result<TickReport, TickFailure> {
        let budget = Budget::new(host, context);
        let mut settings = Settings::new(&context.settings);
        let window = settings.number("window", 4, 1..=64)?;
        let bulk_secs: u64 = settings.number("bulk-secs", 10, 1..=3600)?;
        let namespaces = settings.list("namespaces");
        let rules = Rules::read(&mut settings)?;
        settings.finish()?;
        if namespaces.is_empty() {
            let what = "namespaces must name at least one, such as namespaces=alerts,metrics";
            return Err(PolicyError::Setting(what.into()).into());
        }

        let bulk_ms = bulk_secs * 1000;
        Ledger::load(host, rules).round(context, |ledger, manifest, report| {
            let rank =
                |segment: SegmentRef| (rank(manifest.keys(segment.hash), &namespaces), segment);
            let mut ranked: Vec<_> = manifest.missing().map(rank).collect();
            // Stable: within a rank it stays the peer's order.
            ranked.sort_by_key(|(rank, _)| *rank);
            let bulk = ranked.iter().filter(|(rank, _)| *rank == namespaces.len());
            let bulk = bulk.map(|(_, segment)| segment.hash).collect();
            let queue = ledger.queue(ranked.into_iter().map(|(_, segment)| segment), report)?;
            let mut round = Round { host, budget, window, bulk_ms, ledger };
            round.pull(queue, &bulk, report)
        })
    }
}

/// The position of the first namespace of which records may lie in the range.
fn rank(keys: Option<KeyRange>, namespaces: &[&str]) -> usize {
    let Some(keys) = keys else { return 0 };
    let range = keys.first_namespace.as_slice()..=keys.last_namespace.as_slice();
    let spanned = namespaces.iter().position(|name| range.contains(&name.as_bytes()));
    spanned.unwrap_or(namespaces.len())
}

struct Round<'a, 'l, H: Host> {
    host: &'a H,
    budget: Budget,
    window: usize,
    bulk_ms: u64,
    ledger: &'l mut Ledger<'a, H>,
}

impl<H: Host> Round<'_, '_, H> {
    /// Pulls in the order given. Returns when to go on.
    fn pull(
        &mut self,
        mut queue: VecDeque<Hash>,
        bulk: &HashSet<Hash>,
        report: &mut TickReport,
    ) -> Result<Option<u64>, Storage> {
        let (host, ledger) = (self.host, &mut *self.ledger);
        let mut pull = Pull::new(host, self.budget, self.window);
        let bulk_until_ms = host.monotonic_ms().saturating_add(self.bulk_ms);
        while let Some(landing) = pull.next(|_| {
            if host.monotonic_ms() >= bulk_until_ms {
                // Something urgent that failed before may stand behind the rest.
                queue.retain(|hash| !bulk.contains(hash));
            }
            Some((host.peer(), ledger.next(&mut queue)?))
        }) {
            ledger.land(landing, report)?;
            if ledger.peer_is_gone() {
                return Ok(None);
            }
        }
        let bulk_is_cut = host.monotonic_ms() >= bulk_until_ms;
        let left = bulk_is_cut || matches!(pull.end(), End::OutOfTime | End::OutOfBytes);
        ledger.cut_short(pull.abandon(), self.budget, report);
        if left && !ledger.is_drained() {
            // At once, unless the next tick would merely repeat this one.
            return Ok((report.applied + report.failed > 0).then_some(0));
        }
        Ok(ledger.next_try_ms())
    }
}
