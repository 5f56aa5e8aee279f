//! One peer's ticks, on a thread of its own: wait until one is due, run it, plan the next.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use edgestore_engine::Engine;
use edgestore_engine::env::{Env, Notify, Task};
use edgestore_policy_host::{
    Archive, Comparison, Context, Downloads, Observer, Peer, Reason, Services, TickError,
    TickReport,
};
use edgestore_protocol::PeerError;

use super::dead_threads::DeadThreads;
use super::follow::{Followed, Follower};
use super::policies::{ActivePolicy, Policies, Verdict};
use super::schedule::Schedule;
use super::settings::Settings;
use super::{CursorFiles, MemoryBudget, PeerStatus};

/// Before a policy on probation is ticked again that has failed by its own fault: a bad one is to be
/// found out soon.
const TRIAL_RETRY: Duration = Duration::from_secs(1);

/// Further looks at a peer that changes all the time, where there is to be one tick.
const MOST_LOOKS: u32 = 3;

/// What the status says after a panic.
const PANICKED: &str = "the host panicked; please report this";

/// Who is told of the end of a tick: with the id of its peer, and how long it took.
pub(super) type OnTick = Box<dyn Fn(&Ended<'_>) + Send + Sync>;

/// A tick that ended.
pub struct Ended<'a> {
    /// Of which peer.
    pub peer: &'a str,
    /// How long it lasted.
    pub took: Duration,
    /// What came of it.
    pub result: &'a Result<TickReport, TickError>,
    /// The next one is due after this. None where the host makes no plans.
    pub next: Option<Duration>,
}

/// What the loops of all peers share.
pub(super) struct Shared {
    pub(super) engine: Arc<Engine>,
    pub(super) policies: Arc<Policies>,
    pub(super) peers: Vec<Arc<Peer>>,
    /// Those of them that can be followed, at the same places.
    pub(super) followed: Vec<Option<Arc<Followed>>>,
    pub(super) cursors: Arc<CursorFiles>,
    pub(super) downloads: Arc<Downloads>,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) on_tick: Option<OnTick>,
    pub(super) archive: Option<Arc<dyn Archive>>,
    pub(super) env: Arc<dyn Env>,
    pub(super) interval: Duration,
    pub(super) settings: Settings,
    pub(super) dead: DeadThreads,
    pub(super) memory: MemoryBudget,
}

/// The loop of one peer, as others see it.
pub(super) struct PeerLoop {
    shared: Arc<Shared>,
    /// Position among the shared peers.
    index: usize,
    state: Mutex<State>,
    changed: Box<dyn Notify>,
}

struct State {
    stopping: bool,
    woken: bool,
    /// The peer says that it has something new.
    changed: bool,
    /// None while a tick runs.
    due: Option<Duration>,
    status: PeerStatus,
    /// See [`Tick::suspect_ticks`].
    suspect_ticks: u32,
    /// See [`Tick::distrusted`].
    distrusted: bool,
}

impl PeerLoop {
    pub(super) fn new(shared: &Arc<Shared>, index: usize, url: String) -> Arc<Self> {
        let id = shared.peers[index].id().to_owned();
        let state = State {
            stopping: false,
            woken: true,
            changed: false,
            due: None,
            suspect_ticks: 0,
            distrusted: false,
            status: PeerStatus {
                id,
                url,
                comparison: Comparison::unknown("no tick has ended since the host started"),
                ..PeerStatus::default()
            },
        };
        let changed = shared.env.notify();
        let (shared, state) = (Arc::clone(shared), Mutex::new(state));
        Arc::new(Self { shared, index, state, changed })
    }

    pub(super) fn id(&self) -> &str {
        self.peer().id()
    }

    fn peer(&self) -> &Arc<Peer> {
        &self.shared.peers[self.index]
    }

    /// The peer, where it can be followed.
    pub(super) fn followed(&self) -> Option<&Arc<Followed>> {
        self.shared.followed[self.index].as_ref()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread, which ticks at once and ends after [`PeerLoop::stop`].
    pub(super) fn spawn(self: &Arc<Self>) -> std::io::Result<Task> {
        let this = Arc::clone(self);
        let name = format!("edgestore-tick-{}", self.id());
        let thread = name.clone();
        let run = move || {
            let _watched = this.shared.dead.watch(&thread);
            let mut course = Course {
                schedule: Schedule::new(this.shared.interval),
                reason: Reason::Wake,
                last: None,
            };
            while let Some(cause) = this.wait() {
                // What panics here may cost a tick, and not the peer.
                let step = AssertUnwindSafe(|| this.step(&mut course, cause));
                if catch_unwind(step).is_err() {
                    tracing::error!(peer = this.id(), "the tick loop panicked; it goes on");
                    let mut state = this.state();
                    let now = this.shared.env.monotonic();
                    state.due = Some(now.saturating_add(this.shared.interval));
                    state.status.last_error = Some(PANICKED.to_owned());
                    state.status.failures = state.status.failures.saturating_add(1);
                }
            }
        };
        self.shared.env.spawn(name, Box::new(run))
    }

    /// One tick, and the plan for the next one.
    fn step(&self, course: &mut Course, cause: Cause) {
        // With many segments it takes a while, for which what is new need not wait.
        if cause != Cause::Changed {
            self.look_for_lost_files();
        }
        let turn = self.shared.policies.turn();
        let swapped = course.last.is_some_and(|last| last != turn.generation);
        if swapped {
            // What the last policy failed at says nothing of this one, and is still to be tried by it.
            course.schedule = Schedule::new(self.shared.interval);
            self.peer().forget_failures();
            let mut state = self.state();
            (state.suspect_ticks, state.distrusted) = (0, false);
        }
        let reason = match (swapped, cause) {
            (true, _) => Reason::Swap,
            (false, Cause::Woken) => Reason::Wake,
            (false, Cause::Due | Cause::Changed) => course.reason,
        };
        let tick = self.tick(&turn, reason, course.last != Some(turn.generation));
        if !matches!(tick.result, Err(TickError::Storage(_))) {
            course.last = Some(turn.generation);
        }
        let mut due = course.schedule.after(&tick.result, self.shared.env.random());
        if tick.look_again || (turn.probation && matches!(tick.verdict, Verdict::Blamed(_))) {
            due.wait = due.wait.min(TRIAL_RETRY);
        }
        course.reason = due.reason;
        self.ended(tick, course.schedule.failures(), Some(due.wait));
        if cause == Cause::Changed {
            self.look_for_lost_files();
        }
    }

    fn look_for_lost_files(&self) {
        if let Err(error) = self.shared.engine.look_for_lost_files() {
            tracing::warn!(%error, "can't look at the files of segments");
        }
    }

    /// Ticks on this thread until the policy asks for no further tick at once, or one fails.
    pub(super) fn run_once(&self) -> PeerStatus {
        let (mut reason, mut looks) = (Reason::Wake, 0);
        let turn = self.shared.policies.turn();
        loop {
            self.state().due = None;
            self.look_for_lost_files();
            let tick = self.tick(&turn, reason, reason == Reason::Wake);
            reason = Reason::Interval;
            looks += u32::from(tick.look_again);
            let again = (tick.look_again && looks <= MOST_LOOKS)
                || matches!(&tick.result, Ok(report)
                    if report.next_tick == Some(Duration::ZERO) && report.applied > 0);
            let failures = u32::from(tick.result.is_err());
            self.ended(tick, failures, None);
            if !again || self.state().stopping {
                return self.status();
            }
        }
    }

    /// Ticks soon, and the policy starts from an empty cursor.
    pub(super) fn retry(&self) {
        self.shared.cursors.forget(self.id());
        self.peer().forget_failed_fetches();
        self.wake();
    }

    pub(super) fn wake(&self) {
        self.state().woken = true;
        self.changed.raise();
    }

    /// Ticks as soon as the peer says that it has something that is not here, until the follower is
    /// stopped.
    pub(super) fn follow(self: &Arc<Self>, follower: &Arc<Follower>) -> std::io::Result<Task> {
        let (this, follower) = (Arc::clone(self), Arc::clone(follower));
        let name = format!("edgestore-follow-{}", self.id());
        let thread = name.clone();
        let run = move || {
            let _watched = this.shared.dead.watch(&thread);
            follower.run(this.id(), || {
                this.state().changed = true;
                this.changed.raise();
            });
        };
        self.shared.env.spawn(name, Box::new(run))
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
            state.due.map(|due| due.saturating_sub(self.shared.env.monotonic()).as_secs());
        let followed = self.followed().is_some_and(|peer| peer.is_live());
        let mut status = PeerStatus { next_tick_in_secs, followed, ..state.status.clone() };
        drop(state);
        if status.in_sync() {
            // Since the last tick, a segment may have been lost.
            let comparison = self.compare();
            if !comparison.in_sync {
                status.comparison = comparison;
            }
        }
        status
    }

    /// Until a tick is due: why, or none when this loop is to stop.
    fn wait(&self) -> Option<Cause> {
        loop {
            let seen = self.changed.count();
            let mut state = self.state();
            if state.stopping {
                return None;
            }
            let due = state.due.unwrap_or_default();
            let cause = match (state.woken, state.changed) {
                (true, _) => Some(Cause::Woken),
                (false, true) => Some(Cause::Changed),
                (false, false) => (self.shared.env.monotonic() >= due).then_some(Cause::Due),
            };
            if cause.is_some() {
                (state.due, state.woken, state.changed) = (None, false, false);
                return cause;
            }
            drop(state);
            self.changed.wait(seen, Some(due));
        }
    }

    /// `first`: of this policy for this peer, as far as is known.
    fn tick(&self, turn: &ActivePolicy, reason: Reason, first: bool) -> Tick {
        let shared = &self.shared;
        let start = shared.env.monotonic();
        if first {
            let hash = turn.policy.hash();
            let entered = shared
                .cursors
                .enter(self.id(), &hash, turn.probation, &|other| shared.policies.is_good(other));
            if let Err(error) = entered {
                let what = format!("can't ready the cursor for the policy: {error}");
                return Tick::failed(TickError::Storage(what), self.compare());
            }
        }
        let services = Services {
            engine: Arc::clone(&shared.engine),
            peers: shared.peers.clone(),
            current: self.index,
            cursors: Arc::clone(&shared.cursors) as _,
            archive: shared.archive.clone(),
            clock: Arc::clone(&shared.env) as _,
            downloads: Arc::clone(&shared.downloads),
            seed: shared.env.random(),
            observer: shared.observer.clone(),
        };
        let context =
            Context { reason, interval: shared.interval, settings: shared.settings.get() };
        tracing::debug!(peer = self.id(), ?reason, "tick begins");
        let before = Before {
            counts: self.peer().counts(),
            forgotten: shared.cursors.is_forgotten(self.id()),
            distrusted: self.state().distrusted,
        };
        // A bug in the host may cost a tick, and not the peer.
        let tick = AssertUnwindSafe(|| turn.policy.tick(services, context));
        let result =
            catch_unwind(tick).unwrap_or_else(|_| Err(TickError::System(PANICKED.to_owned())));
        let elapsed = shared.env.monotonic().saturating_sub(start);
        let tick = self.assess(&before, result, elapsed);
        let in_sync = tick.comparison.in_sync;
        match &tick.result {
            Ok(report) if report.applied > 0 || report.failed > 0 => tracing::info!(
                peer = self.id(),
                in_sync,
                applied = report.applied,
                missing = tick.comparison.missing,
                failed = report.failed,
                records = report.records_written,
                says_in_sync = report.in_sync,
                says_pending = report.pending,
                says_quarantined = report.quarantined,
                ?elapsed,
                "tick"
            ),
            Ok(report) => tracing::debug!(
                peer = self.id(),
                in_sync,
                missing = tick.comparison.missing,
                says_in_sync = report.in_sync,
                ?elapsed,
                "tick"
            ),
            Err(error) => tracing::warn!(peer = self.id(), %error, ?elapsed, "tick failed"),
        }
        shared.policies.ticked(self.index, turn.generation, &tick.verdict);
        tick
    }

    fn compare(&self) -> Comparison {
        self.peer().compare(&self.shared.engine, &self.shared.downloads)
    }

    /// Works out what a tick has brought, whatever its policy says.
    fn assess(
        &self,
        before: &Before,
        mut result: Result<TickReport, TickError>,
        took: Duration,
    ) -> Tick {
        let in_part = self.peer().turn_page();
        let report = match &mut result {
            Ok(report) => report,
            Err(TickError::Closed) => {
                return Tick { took, ..Tick::failed(TickError::Closed, self.last()) };
            }
            Err(error) => return Tick { took, ..Tick::failed(error.clone(), self.compare()) },
        };
        let (answers, setbacks) = self.peer().counts();
        let (asked, tried) = (answers > before.counts.0, setbacks > before.counts.1);
        let shown = self.peer().last_root();
        // Twice where nothing moves: one failure hides no policy that stands still.
        let twice = !tried && report.applied == 0;
        let ask = |check: &dyn Fn() -> Result<(), PeerError>| {
            check().or_else(|error| if twice { check() } else { Err(error) })
        };
        let mut checked = ask(&|| self.peer().settle(&self.shared.engine));
        let mut comparison = self.compare();
        let unsure = !asked || (comparison.unknown.is_some() && !self.peer().misleads());
        if unsure && (report.in_sync || (asked && !tried)) {
            // Whoever says that all is here is taken at their word by nobody; and what is missing of
            // a list that was not read is not known.
            checked = ask(&|| self.peer().look(&self.shared.engine, asked));
            comparison = self.compare();
        }
        // Whatever the policy does, it can't move what the peer does not give.
        let by_peer = (asked || report.in_sync) && (checked.is_err() || self.peer().misleads());
        let unknown = match checked {
            Err(error) => Some(format!("the peer could not be asked again: {error}")),
            Ok(()) if !asked && !report.in_sync => {
                Some("the policy did not ask the peer in its last tick".to_owned())
            }
            Ok(()) => None,
        };
        if unknown.is_some() {
            (comparison.in_sync, comparison.unknown) = (false, unknown);
        }

        let (last_missing, idle_ticks, suspect_ticks) = {
            let state = self.state();
            (state.status.comparison.missing, state.status.idle_ticks, state.suspect_ticks)
        };
        let moved = report.applied > 0 || comparison.missing < last_missing;
        let waits = report.next_tick.is_some_and(|wait| wait > self.shared.interval);
        let idle = !(comparison.in_sync || moved || tried)
            && (comparison.untried > 0 || comparison.unknown.is_some());
        let known = comparison.unknown.is_none();
        // What the policy said was of what the peer had then.
        let changed = asked && self.peer().last_root() != shown;
        let stands_still = idle && !waits;
        let is_suspect = stands_still && !changed && !by_peer;
        let count = |ticks: u32, one_more| match one_more {
            true => ticks.saturating_add(1),
            false if idle => ticks,
            false => 0,
        };
        let idle_ticks = count(idle_ticks, stands_still);
        let suspect_ticks = count(suspect_ticks, is_suspect);
        let contradicts = idle && known && report.in_sync && !changed && !by_peer && !in_part;
        // Its cursor may be of a host before this one, and have set aside what is missing.
        let passes_over = is_suspect
            && known
            && suspect_ticks == PeerStatus::STALLED.min(self.shared.policies.probation());
        // Once, until something moves: a tick that failed in between may have stored a cursor.
        let distrusted = (contradicts || passes_over) && !(before.forgotten || before.distrusted);
        let behind = || {
            let Comparison { untried, listed, .. } = comparison;
            format!("{untried} of {} segments are missing and were not tried", listed.unwrap_or(0))
        };
        let verdict = if distrusted {
            Verdict::Neutral
        } else if contradicts {
            Verdict::Blamed(format!("it reports that the peer is in sync, and {}", behind()))
        } else if is_suspect && suspect_ticks >= self.shared.policies.probation() {
            let why = comparison.unknown.clone().unwrap_or_else(behind);
            Verdict::Blamed(format!("{suspect_ticks} ticks moved nothing: {why}"))
        } else if asked && !idle {
            Verdict::Good
        } else {
            Verdict::Neutral
        };
        if distrusted {
            tracing::warn!(
                peer = self.id(),
                missing = comparison.missing,
                untried = comparison.untried,
                says_in_sync = report.in_sync,
                "the policy pulls nothing, though segments are missing that were not tried: its cursor \
                 is wrong or too old, so its next tick starts from an empty one"
            );
            self.shared.cursors.forget(self.id());
        }
        if in_part && report.in_sync {
            // It can't know that there is more, nor must its cursor say that there is none.
            self.shared.cursors.forget(self.id());
            if report.applied > 0 {
                report.next_tick = Some(Duration::ZERO);
            }
        }
        let look_again = (distrusted && suspect_ticks <= 1) || (idle && changed);
        let distrusted = distrusted || (before.distrusted && idle);
        Tick {
            took,
            result,
            comparison,
            verdict,
            idle_ticks,
            suspect_ticks,
            distrusted,
            look_again,
        }
    }

    /// The comparison that the status shows.
    fn last(&self) -> Comparison {
        self.state().status.comparison.clone()
    }

    fn ended(&self, tick: Tick, failures: u32, next: Option<Duration>) {
        let Tick { took, result, comparison, idle_ticks, suspect_ticks, distrusted, .. } = tick;
        if let Some(told) = &self.shared.on_tick {
            told(&Ended { peer: self.id(), took, result: &result, next });
        }
        let mut state = self.state();
        state.due = next.map(|wait| self.shared.env.monotonic().saturating_add(wait));
        if result.is_ok() {
            (state.suspect_ticks, state.distrusted) = (suspect_ticks, distrusted);
        }
        let status = &mut state.status;
        status.ticks += 1;
        status.failures = failures;
        status.comparison = comparison;
        let now = self.shared.env.now().duration_since(SystemTime::UNIX_EPOCH);
        status.last_tick_secs = now.ok().map(|now| now.as_secs());
        match result {
            Ok(report) => {
                status.segments_applied =
                    status.segments_applied.saturating_add(report.applied.into());
                status.records_written =
                    status.records_written.saturating_add(report.records_written);
                status.idle_ticks = idle_ticks;
                status.last_success_secs = status.last_tick_secs;
                status.last_report = Some(report);
                status.last_error = None;
                if status.comparison.in_sync {
                    status.last_in_sync_secs = status.last_tick_secs;
                }
            }
            Err(error) => status.last_error = Some(error.to_string()),
        }
    }
}

/// Why a tick is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Its time has come.
    Due,
    /// Somebody asked for it.
    Woken,
    /// The peer has something new.
    Changed,
}

/// What a loop keeps from one tick to the next.
struct Course {
    schedule: Schedule,
    reason: Reason,
    /// Number of the policy of the last tick.
    last: Option<u64>,
}

/// What a tick is compared with.
struct Before {
    /// Answers of the peer, and what failed, up to then.
    counts: (u64, u64),
    /// The policy starts from an empty cursor.
    forgotten: bool,
    /// It did so because it pulled nothing, and has pulled nothing since.
    distrusted: bool,
}

/// A tick that ended, and what the host makes of it.
struct Tick {
    took: Duration,
    result: Result<TickReport, TickError>,
    comparison: Comparison,
    verdict: Verdict,
    /// In a row, this one included.
    idle_ticks: u32,
    /// Of these, the peer gave no reason for.
    suspect_ticks: u32,
    /// Its cursor was not believed, and nothing has moved since.
    distrusted: bool,
    /// The next one is to come soon: the policy believed a cursor that is not true, or the peer has
    /// changed since it looked.
    look_again: bool,
}

impl Tick {
    fn failed(error: TickError, mut comparison: Comparison) -> Self {
        if !matches!(error, TickError::Closed) {
            comparison.in_sync = false;
            comparison.unknown.get_or_insert_with(|| "the last tick failed".to_owned());
        }
        let verdict = match error.blames_policy() {
            true => Verdict::Blamed(error.to_string()),
            false => Verdict::Neutral,
        };
        Self {
            took: Duration::ZERO,
            result: Err(error),
            comparison,
            verdict,
            idle_ticks: 0,
            suspect_ticks: 0,
            distrusted: false,
            look_again: false,
        }
    }
}
