//! One peer's ticks, on a thread of its own: wait until one is due, run it, plan the next.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::policies::{Policies, Turn};
use super::schedule::Schedule;
use super::settings::Settings;
use super::{CursorFiles, PeerStatus};
use crate::engine::Engine;
use crate::policy::{
    Archive, Context, Downloads, Observer, Peer, Reason, Services, TickError, TickReport,
};
use crate::world::{Signal, Task, World};

/// Before a policy on probation is ticked again that has failed by its own fault: a bad one is to be
/// found out soon.
const TRIAL_RETRY: Duration = Duration::from_secs(1);

/// Who is told of the end of a tick: with the id of its peer, and how long it took.
pub(super) type OnTick = Box<dyn Fn(&Ended<'_>) + Send + Sync>;

/// A tick that ended.
pub(crate) struct Ended<'a> {
    /// Of which peer.
    pub(crate) peer: &'a str,
    /// How long it lasted.
    pub(crate) took: Duration,
    pub(crate) result: &'a Result<TickReport, TickError>,
    /// The next one is due after this. None where the host makes no plans.
    pub(crate) next: Option<Duration>,
}

/// What the loops of all peers share.
pub(super) struct Shared {
    pub(super) engine: Arc<Engine>,
    pub(super) policies: Arc<Policies>,
    pub(super) peers: Vec<Arc<Peer>>,
    pub(super) cursors: Arc<CursorFiles>,
    pub(super) downloads: Arc<Downloads>,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) on_tick: Option<OnTick>,
    pub(super) archive: Option<Arc<dyn Archive>>,
    pub(super) world: Arc<dyn World>,
    pub(super) interval: Duration,
    pub(super) settings: Settings,
}

/// The loop of one peer, as others see it.
pub(super) struct PeerLoop {
    shared: Arc<Shared>,
    /// Position among the shared peers.
    index: usize,
    state: Mutex<State>,
    changed: Box<dyn Signal>,
}

struct State {
    stopping: bool,
    woken: bool,
    /// None while a tick runs.
    due: Option<Duration>,
    status: PeerStatus,
}

impl PeerLoop {
    pub(super) fn new(shared: &Arc<Shared>, index: usize, url: String) -> Arc<Self> {
        let id = shared.peers[index].id().to_owned();
        let state = State {
            stopping: false,
            woken: true,
            due: None,
            status: PeerStatus { id, url, ..PeerStatus::default() },
        };
        let changed = shared.world.signal();
        let (shared, state) = (Arc::clone(shared), Mutex::new(state));
        Arc::new(Self { shared, index, state, changed })
    }

    pub(super) fn id(&self) -> &str {
        self.peer().id()
    }

    fn peer(&self) -> &Arc<Peer> {
        &self.shared.peers[self.index]
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread, which ticks at once and ends after [`PeerLoop::stop`].
    pub(super) fn spawn(self: &Arc<Self>) -> std::io::Result<Task> {
        let this = Arc::clone(self);
        let run = move || {
            let mut schedule = Schedule::new(this.shared.interval);
            let mut reason = Reason::Wake;
            let mut last = None;
            while let Some(woken) = this.wait() {
                let turn = this.shared.policies.turn();
                let swapped = last.is_some_and(|last| last != turn.generation);
                if swapped {
                    // What the last policy failed at says nothing of this one.
                    schedule = Schedule::new(this.shared.interval);
                }
                reason = match (swapped, woken) {
                    (true, _) => Reason::Swap,
                    (false, true) => Reason::Wake,
                    (false, false) => reason,
                };
                let (took, result) = this.tick(&turn, reason, last != Some(turn.generation));
                if !matches!(result, Err(TickError::Storage(_))) {
                    last = Some(turn.generation);
                }
                let mut due = schedule.after(&result, this.shared.world.random());
                if turn.probation && matches!(&result, Err(error) if error.blames_policy()) {
                    due.wait = due.wait.min(TRIAL_RETRY);
                }
                reason = due.reason;
                this.ended(took, &result, schedule.failures(), Some(due.wait));
            }
        };
        self.shared.world.spawn(format!("edgestore-tick-{}", self.id()), Box::new(run))
    }

    /// Ticks on this thread until the policy asks for no further tick at once, or one fails.
    pub(super) fn run_once(&self) -> PeerStatus {
        let mut reason = Reason::Wake;
        let turn = self.shared.policies.turn();
        loop {
            self.state().due = None;
            let (took, result) = self.tick(&turn, reason, reason == Reason::Wake);
            reason = Reason::Interval;
            let again = matches!(&result, Ok(report)
                if report.next_tick == Some(Duration::ZERO) && report.applied > 0);
            self.ended(took, &result, u32::from(result.is_err()), None);
            if !again || self.state().stopping {
                return self.status();
            }
        }
    }

    pub(super) fn wake(&self) {
        self.state().woken = true;
        self.changed.raise();
    }

    /// Ends the running tick, and the loop.
    pub(super) fn stop(&self) {
        self.state().stopping = true;
        self.changed.raise();
        self.peer().close();
    }

    pub(super) fn status(&self) -> PeerStatus {
        let state = self.state();
        let next_tick_in_secs =
            state.due.map(|due| due.saturating_sub(self.shared.world.monotonic()).as_secs());
        PeerStatus { next_tick_in_secs, ..state.status.clone() }
    }

    /// Until a tick is due: whether somebody woke this loop, or none when it is to stop.
    fn wait(&self) -> Option<bool> {
        loop {
            let seen = self.changed.count();
            let mut state = self.state();
            if state.stopping {
                return None;
            }
            let due = state.due.unwrap_or_default();
            if state.woken || self.shared.world.monotonic() >= due {
                state.due = None;
                return Some(std::mem::take(&mut state.woken));
            }
            drop(state);
            self.changed.wait(seen, Some(due));
        }
    }

    /// `first`: of this policy for this peer, as far as is known. Returns how long it took.
    fn tick(
        &self,
        turn: &Turn,
        reason: Reason,
        first: bool,
    ) -> (Duration, Result<TickReport, TickError>) {
        let shared = &self.shared;
        let start = shared.world.monotonic();
        if first {
            let hash = turn.policy.hash();
            let entered = shared
                .cursors
                .enter(self.id(), &hash, turn.probation, &|other| shared.policies.is_good(other));
            if let Err(error) = entered {
                let what = format!("can't ready the cursor for the policy: {error}");
                return (Duration::ZERO, Err(TickError::Storage(what)));
            }
        }
        let services = Services {
            engine: Arc::clone(&shared.engine),
            peers: shared.peers.clone(),
            current: self.index,
            cursors: Arc::clone(&shared.cursors) as _,
            archive: shared.archive.clone(),
            clock: Arc::clone(&shared.world) as _,
            downloads: Arc::clone(&shared.downloads),
            seed: shared.world.random(),
            observer: shared.observer.clone(),
        };
        let context =
            Context { reason, interval: shared.interval, settings: shared.settings.get() };
        tracing::debug!(peer = self.id(), ?reason, "tick begins");
        // A mistake in the host may cost a tick, and not the peer.
        let tick = AssertUnwindSafe(|| turn.policy.tick(services, context));
        let result = catch_unwind(tick).unwrap_or_else(|_| {
            Err(TickError::System("the host panicked; please report this".to_owned()))
        });
        let elapsed = shared.world.monotonic().saturating_sub(start);
        match &result {
            Ok(report) if report.applied > 0 || report.failed > 0 => tracing::info!(
                peer = self.id(),
                applied = report.applied,
                failed = report.failed,
                pending = report.pending,
                quarantined = report.quarantined,
                records = report.records_written,
                in_sync = report.in_sync,
                ?elapsed,
                "tick"
            ),
            Ok(report) => {
                tracing::debug!(peer = self.id(), in_sync = report.in_sync, ?elapsed, "tick");
            }
            Err(error) => tracing::warn!(peer = self.id(), %error, ?elapsed, "tick failed"),
        }
        shared.policies.ticked(self.index, turn.generation, &result);
        (elapsed, result)
    }

    fn ended(
        &self,
        took: Duration,
        result: &Result<TickReport, TickError>,
        failures: u32,
        next: Option<Duration>,
    ) {
        if let Some(told) = &self.shared.on_tick {
            told(&Ended { peer: self.id(), took, result, next });
        }
        let mut state = self.state();
        state.due = next.map(|wait| self.shared.world.monotonic().saturating_add(wait));
        let status = &mut state.status;
        status.ticks += 1;
        status.failures = failures;
        let now = self.shared.world.now().duration_since(SystemTime::UNIX_EPOCH);
        status.last_tick_secs = now.ok().map(|now| now.as_secs());
        match result {
            Ok(report) => {
                status.segments_applied =
                    status.segments_applied.saturating_add(report.applied.into());
                status.records_written =
                    status.records_written.saturating_add(report.records_written);
                status.last_report = Some(report.clone());
                status.last_error = None;
            }
            Err(error) => status.last_error = Some(error.to_string()),
        }
    }
}
