//! The time a tick has, and what it is kept for.

use crate::host::Host;
use crate::types::Context;

/// The time of a tick, by the monotonic clock, counted from when this was made.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    start_ms: u64,
    total_ms: u64,
}

impl Budget {
    /// What the host gives the tick. Make it first thing in the tick.
    pub fn new(host: &impl Host, context: &Context) -> Budget {
        Budget { start_ms: host.monotonic_ms(), total_ms: context.budget_ms }
    }

    /// Time until the host ends the tick as failed.
    pub fn left_ms(&self, host: &impl Host) -> u64 {
        self.until_ms(host, self.total_ms)
    }

    /// Whether there is time to start a fetch: not in the last fifth of the budget.
    pub fn may_start(&self, host: &impl Host) -> bool {
        self.until_ms(host, self.total_ms - self.total_ms / 5) > 0
    }

    /// How long to wait for transfers: the last twentieth is kept to apply one and to save.
    pub fn wait_ms(&self, host: &impl Host) -> u64 {
        self.until_ms(host, self.total_ms - self.total_ms / 20)
    }

    /// Whether a transfer that was cut short after this time had had its fair time.
    pub fn was_long(&self, duration_ms: u64) -> bool {
        duration_ms >= self.total_ms / 2
    }

    fn until_ms(&self, host: &impl Host, part_ms: u64) -> u64 {
        self.start_ms.saturating_add(part_ms).saturating_sub(host.monotonic_ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::MockHost;

    #[test]
    fn fetches_start_in_four_fifths_of_it_and_waits_end_a_twentieth_before() {
        let host = MockHost::with([]);
        host.budget_ms.set(1000);
        let budget = Budget::new(&host, &host.context());
        for (at_ms, may_start, wait_ms, left_ms) in [
            (0, true, 950, 1000),
            (799, true, 151, 201),
            (800, false, 150, 200),
            (2000, false, 0, 0),
        ] {
            host.clock_ms.set(1000 + at_ms);
            assert_eq!(budget.may_start(&host), may_start, "at {at_ms} ms");
            assert_eq!((budget.wait_ms(&host), budget.left_ms(&host)), (wait_ms, left_ms));
        }
        assert!(budget.was_long(500) && !budget.was_long(499));
    }

    #[test]
    fn a_budget_without_end_overflows_nothing() {
        let host = MockHost::with([]);
        host.budget_ms.set(u64::MAX);
        let budget = Budget::new(&host, &host.context());
        assert!(budget.may_start(&host) && budget.wait_ms(&host) > u64::MAX / 2);
    }
}
