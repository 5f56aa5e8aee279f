//! Bandwidth adaptive: as many transfers at a time as the line and the peer bear, found out by trying.
//!
//! For links that nobody has tuned `window` for: a long way with much bandwidth wants many transfers
//! in flight, a small peer wants few. The window grows by one as long as that brings more, and shrinks
//! when the peer is too slow to answer or refuses with 429 or 503 (see [`Window`]). What a busy peer
//! refused is asked for again in the same tick and is no failed try of the segment. The window is
//! kept in the cursor: the next tick begins where this one ended.
//!
//! `window` is where the first tick begins, `max-window` where growth ends. The host runs at most
//! eight requests to a peer at a time; a larger window only keeps them waiting there.

use std::collections::VecDeque;

use edgestore_policy::Silence;
use edgestore_policy::aimd::Window;
use edgestore_policy::prelude::*;
use edgestore_policy::segments::Backlog;
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// This many refusals in a row of a peer that is asked for one segment at a time end the tick.
const GIVE_UP_AFTER: u32 = 3;

/// The policy.
pub struct BandwidthAdaptive;

edgestore_policy::export!(BandwidthAdaptive);

/// The cursor.
#[derive(Default, Serialize, Deserialize)]
struct Memory {
    backlog: Backlog,
    /// None before the first pull.
    window: Option<usize>,
}

impl Policy for BandwidthAdaptive {
    const NAME: &str = "bandwidth-adaptive";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const CURSOR_SCHEMA: u32 = 1;

    fn tick<H: Host>(host: &H, context: &Context) -> Result<TickReport, TickFailure> {
        let budget = Budget::new(host, context);
        let mut settings = Settings::new(&context.settings);
        let first = settings.number("window", 4, 1..=64)?;
        let most = settings.number("max-window", 16, 1..=64)?;
        let rules = Rules::read(&mut settings)?;
        settings.finish()?;

        let memory: Cursor<Memory> = Cursor::load(host);
        let window = Window::new(memory.window.unwrap_or(first), most, host.monotonic_ms());
        let report = TickReport::default();
        let mut round = Round { host, budget, window, rules, memory, report };
        let next_tick_ms = round.sync()?;
        round.memory.store(host)?;
        round.memory.backlog.fill(&mut round.report);
        round.report.next_tick_ms = next_tick_ms.filter(|&ms| ms < context.interval_ms);
        Ok(round.report)
    }
}

struct Round<'a, H: Host> {
    host: &'a H,
    budget: Budget,
    window: Window,
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
        let to_pull = self.memory.backlog.learn(manifest.missing());
        self.report.missing = to_pull.len() as u32;
        self.memory.store(host)?;
        let queue = self.memory.backlog.ready(to_pull, &self.rules, host.now_ms());
        let next_tick_ms = self.pull(queue)?;
        self.memory.window = Some(self.window.size());
        self.memory.backlog.pulled(manifest.root());
        Ok(next_tick_ms)
    }

    fn pull(&mut self, mut queue: VecDeque<Hash>) -> Result<Option<u64>, Storage> {
        let host = self.host;
        let mut pull = Pull::new(host, self.budget, self.window.size());
        let (mut in_vain, mut silence) = (0, Silence::default());
        while let Some(landing) =
            pull.next(|_| Some((host.peer(), self.memory.backlog.next(host, &mut queue)?)))
        {
            let now_ms = host.monotonic_ms();
            let started_ms = now_ms.saturating_sub(landing.took_ms);
            let mut busy = false;
            match &landing.outcome {
                Ok(segment) => self.window.landed(segment.size(), now_ms),
                Err(FetchError::Peer(
                    error @ (PeerError::Timeout | PeerError::Status(429 | 503)),
                )) => {
                    self.window.failed(started_ms, now_ms);
                    busy = error.answered();
                }
                Err(_) => {}
            }
            pull.set_window(self.window.size());
            if busy {
                self.report.failed += 1;
                queue.push_back(landing.hash);
                in_vain = if self.window.size() == 1 { in_vain + 1 } else { 0 };
            } else {
                let backlog = &mut self.memory.backlog;
                silence.note(&landing);
                backlog.land(host, landing, &self.rules, &mut self.report)?;
                in_vain = 0;
            }
            let backlog = &mut self.memory.backlog;
            if in_vain == GIVE_UP_AFTER || silence.is_gone(host, backlog, &self.rules) {
                return Ok(None);
            }
        }
        let (backlog, report) = (&mut self.memory.backlog, &mut self.report);
        backlog.cut_short(host, pull.abandon(), self.budget, &self.rules, report);
        Ok(match pull.end() {
            // At once, unless the next tick would merely repeat this one.
            End::OutOfTime | End::OutOfBytes => (report.applied > 0).then_some(0),
            _ => backlog.next_try_ms(&self.rules, host.now_ms()),
        })
    }
}
