//! Smallest first, within a budget of bytes an hour: for metered links.
//!
//! Small segments first makes the most segments of the same bytes. What a segment will take is set
//! aside in the cursor before it is fetched, and corrected by what really came: neither a restart
//! nor transfers side by side exceed the budget. When it is used up no request is made until the
//! hour is over. An hour begins with the first tick after the last one.
//!
//! Two things are to be known. The cursor is one a peer, and so is the budget: with two peers, give
//! each a half. And a segment that is larger than the budget of an hour is pulled in an hour of its
//! own, and the hours after it pay for it; else it would never come.

use std::collections::{HashMap, VecDeque};

use edgestore_policy::Silence;
use edgestore_policy::prelude::*;
use edgestore_policy::quota::Hour;
use edgestore_policy::segments::Backlog;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// The policy.
pub struct SmallestFirst;

edgestore_policy::export!(SmallestFirst);

/// The cursor.
#[derive(Default, Serialize, Deserialize)]
struct Memory {
    backlog: Backlog,
    hour: Hour,
}

impl Policy for SmallestFirst {
    const NAME: &str = "smallest-first";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const CURSOR_SCHEMA: u32 = 1;

    fn tick<H: Host>(host: &H, context: &Context) -> Result<TickReport, TickFailure> {
        let budget = Budget::new(host, context);
        let mut settings = Settings::new(&context.settings);
        let window = settings.number("window", 4, 1..=64)?;
        let per_hour = settings.number("bytes-per-hour", 10 << 20, 1..=1 << 40)?;
        let rules = Rules::read(&mut settings)?;
        settings.finish()?;

        let memory = Cursor::load(host);
        let report = TickReport::default();
        let mut round = Round { host, budget, window, per_hour, rules, memory, report };
        round.memory.hour.turn(host.now_ms(), per_hour);
        round.report.next_tick_ms = if round.memory.hour.is_used_up(per_hour) {
            Some(round.memory.hour.left_ms(host.now_ms()))
        } else {
            round.sync()?
        };
        round.memory.store(host)?;
        round.memory.backlog.fill(&mut round.report);
        Ok(round.report)
    }
}

struct Round<'a, H: Host> {
    host: &'a H,
    budget: Budget,
    window: usize,
    per_hour: u64,
    rules: Rules,
    memory: Cursor<Memory>,
    report: TickReport,
}

impl<H: Host> Round<'_, H> {
    /// Returns when to go on.
    fn sync(&mut self) -> Result<Option<u64>, TickFailure> {
        let host = self.host;
        let root = host.peer().probe()?.root;
        if self.memory.backlog.is_in_sync_with(host, root) {
            return Ok(None);
        }
        let manifest = host.peer().manifest()?;
        let missing: Vec<_> = manifest.missing().smallest_first().collect();
        let size = |segment: &SegmentRef| Some((segment.hash, segment.info?.size));
        let sizes = missing.iter().filter_map(size).collect();
        let to_pull = self.memory.backlog.learn(missing);
        self.report.missing = to_pull.len() as u32;
        self.memory.store(host)?;
        let queue = self.memory.backlog.ready(to_pull, &self.rules, host.now_ms());
        let next_tick_ms = self.pull(queue, &sizes)?;
        self.memory.backlog.pulled(manifest.root());
        Ok(next_tick_ms)
    }

    fn pull(
        &mut self,
        mut queue: VecDeque<Hash>,
        sizes: &HashMap<Hash, u64>,
    ) -> Result<Option<u64>, Storage> {
        let (host, per_hour) = (self.host, self.per_hour);
        let mut set_aside: HashMap<Hash, u64> = HashMap::new();
        let mut pull = Pull::new(host, self.budget, self.window);
        let mut silence = Silence::default();
        while let Some(landing) = pull.next(|flights| {
            let hash = self.memory.backlog.next(host, &mut queue)?;
            // What is of unknown size comes last, and one by one: it may be anything.
            let size = sizes.get(&hash).copied();
            let alone = size.is_some() || flights.is_empty();
            if !(alone && self.memory.hour.reserve(size.unwrap_or(0), per_hour)) {
                queue.push_front(hash);
                return None;
            }
            // Where it can't be stored, the store at the end of the tick says so.
            self.memory.store(host).ok()?;
            set_aside.insert(hash, size.unwrap_or(0));
            Some((host.peer(), hash))
        }) {
            let reserved = set_aside.remove(&landing.hash).unwrap_or(0);
            self.memory.hour.settle(reserved, &landing.outcome);
            let backlog = &mut self.memory.backlog;
            silence.note(&landing);
            backlog.land(host, landing, &self.rules, &mut self.report)?;
            if silence.is_gone(host, backlog, &self.rules) {
                return Ok(None);
            }
        }
        // Of a transfer that is cut short some bytes came. What is left then was never started.
        for flight in pull.abandon() {
            set_aside.remove(&flight.hash);
        }
        self.memory.hour.release(set_aside.values().sum());
        let now_ms = host.now_ms();
        Ok(match pull.end() {
            End::OutOfTime | End::OutOfBytes => (self.report.applied > 0).then_some(0),
            _ if !queue.is_empty() => Some(self.memory.hour.left_ms(now_ms)),
            _ => self.memory.backlog.next_try_ms(&self.rules, now_ms),
        })
    }
}
