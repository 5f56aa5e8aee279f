//! Which task runs, and what time it is.
//!
//! Tasks are threads, of which one runs at a time: the others are parked here. A task that waits
//! hands over to the one that became ready first. When none is ready, the clock jumps to the first
//! moment that one waits for. So neither the machine's speed nor its scheduler has a say in what
//! happens, and no time is spent on waiting.
//!
//! What runs on other threads, such as those of the record store, is not under this schedule. It
//! may take what time it likes, as long as it changes nothing that a task sees.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::{self, Debug};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::policy::Clock;
use crate::world::{Signal, Task, World};

/// Of the threads of tasks. A policy's stack is 1 MiB of it.
const STACK_BYTES: usize = 4 << 20;

/// What time it is at the start of every simulation: 2025-01-01, in Unix seconds.
const EPOCH_SECS: u64 = 1_735_689_600;

/// The schedule of one simulation. Clones are the same one.
#[derive(Clone)]
pub(super) struct Schedule {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    signals: AtomicU64,
}

type TaskId = u64;
type SignalId = u64;

struct State {
    time: Duration,
    random: fastrand::Rng,
    next_task: TaskId,
    /// Of entries in `timed`.
    sequence: u64,
    running: TaskId,
    ready: VecDeque<TaskId>,
    /// Who waits for a time, in order of that and of who came first.
    timed: BTreeMap<(Duration, u64), TaskId>,
    waiting: HashMap<TaskId, Waiting>,
    parked: HashMap<TaskId, Arc<Condvar>>,
    /// Every task waits for ever.
    stuck: bool,
}

/// What a task waits for.
struct Waiting {
    signal: SignalId,
    timed: Option<(Duration, u64)>,
}

impl Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({:?})", self.time())
    }
}

impl Schedule {
    /// A new one, in which the calling thread is the running task.
    pub(super) fn new(seed: u64) -> Self {
        let state = State {
            time: Duration::ZERO,
            random: fastrand::Rng::with_seed(seed),
            next_task: 1,
            sequence: 0,
            running: 0,
            ready: VecDeque::new(),
            timed: BTreeMap::new(),
            waiting: HashMap::new(),
            parked: HashMap::from([(0, Arc::new(Condvar::new()))]),
            stuck: false,
        };
        let inner = Inner { state: Mutex::new(state), signals: AtomicU64::new(0) };
        Self { inner: Arc::new(inner) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the start.
    pub(super) fn time(&self) -> Duration {
        self.state().time
    }

    /// Any number.
    pub(super) fn random(&self) -> u64 {
        self.state().random.u64(..)
    }

    /// From 0 up to, and without, 1.
    pub(super) fn chance(&self) -> f64 {
        self.state().random.f64()
    }

    /// Waits until the clock is at `time`.
    pub(super) fn sleep_until(&self, time: Duration) {
        // A signal that nobody raises.
        self.block(u64::MAX, Some(time));
    }

    /// Parks the running task until `signal` is raised, or the clock is at `until`.
    fn block(&self, signal: SignalId, until: Option<Duration>) {
        let mut state = self.state();
        let me = state.running;
        let timed = until.map(|until| {
            state.sequence += 1;
            (until.max(state.time), state.sequence)
        });
        if let Some(timed) = timed {
            state.timed.insert(timed, me);
        }
        state.waiting.insert(me, Waiting { signal, timed });
        state.hand_over();
        self.park(state, me);
    }

    fn park(&self, mut state: MutexGuard<'_, State>, me: TaskId) {
        let Some(condvar) = state.parked.get(&me).cloned() else { return };
        while state.running != me {
            state = condvar.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let stuck = std::mem::take(&mut state.stuck);
        drop(state);
        assert!(!stuck, "every task of the simulation waits for ever");
    }

    fn spawn(&self, name: String, run: Box<dyn FnOnce() + Send>) -> io::Result<Task> {
        let id = {
            let mut state = self.state();
            let id = state.next_task;
            state.next_task += 1;
            state.parked.insert(id, Arc::new(Condvar::new()));
            state.ready.push_back(id);
            id
        };
        let (this, ended) = (self.clone(), Arc::new(SimSignal::new(self)));
        let end = Arc::clone(&ended);
        let body = move || {
            this.park(this.state(), id);
            let result = catch_unwind(AssertUnwindSafe(run));
            end.raise();
            let mut state = this.state();
            state.parked.remove(&id);
            state.hand_over();
            drop(state);
            result.is_ok()
        };
        let spawned = thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(body);
        match spawned {
            Ok(thread) => Ok(Task::new(move || {
                ended.wait(0, None);
                thread.join().unwrap_or(false)
            })),
            Err(error) => {
                let mut state = self.state();
                state.parked.remove(&id);
                state.ready.retain(|other| *other != id);
                Err(error)
            }
        }
    }
}

impl State {
    /// Lets the next task run; the one that runs now must be waiting, or at its end.
    fn hand_over(&mut self) {
        let next = self.ready.pop_front().or_else(|| {
            let (&key, _) = self.timed.first_key_value()?;
            let task = self.timed.remove(&key)?;
            self.time = self.time.max(key.0);
            self.waiting.remove(&task);
            Some(task)
        });
        // The first task is told when nothing can happen any more.
        self.stuck |= next.is_none();
        self.running = next.unwrap_or(0);
        if let Some(condvar) = self.parked.get(&self.running) {
            condvar.notify_all();
        }
    }

    /// Makes those ready who wait for `signal`, in the order of their numbers.
    fn wake(&mut self, signal: SignalId) {
        let waiting = self.waiting.iter().filter(|(_, waiting)| waiting.signal == signal);
        let mut tasks: Vec<_> = waiting.map(|(task, _)| *task).collect();
        tasks.sort_unstable();
        for task in tasks {
            if let Some(Waiting { timed: Some(timed), .. }) = self.waiting.remove(&task) {
                self.timed.remove(&timed);
            }
            self.ready.push_back(task);
        }
    }
}

struct SimSignal {
    schedule: Schedule,
    id: SignalId,
    count: AtomicU64,
}

impl SimSignal {
    fn new(schedule: &Schedule) -> Self {
        let id = schedule.inner.signals.fetch_add(1, Ordering::Relaxed);
        Self { schedule: schedule.clone(), id, count: AtomicU64::new(0) }
    }
}

impl Debug for SimSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimSignal({})", self.id)
    }
}

impl Signal for SimSignal {
    fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    fn raise(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.schedule.state().wake(self.id);
    }

    fn wait(&self, seen: u64, until: Option<Duration>) {
        let over = |until| self.schedule.time() >= until;
        if self.count() == seen && !until.is_some_and(over) {
            self.schedule.block(self.id, until);
        }
    }
}

/// The world of one node: the schedule of all, and a clock of its own.
pub(super) struct NodeWorld {
    schedule: Schedule,
    /// How far the wall clock is ahead, in nanoseconds.
    ahead: Arc<std::sync::atomic::AtomicI64>,
}

impl NodeWorld {
    pub(super) fn new(schedule: &Schedule, ahead: Arc<std::sync::atomic::AtomicI64>) -> Self {
        Self { schedule: schedule.clone(), ahead }
    }
}

impl Debug for NodeWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeWorld({:?})", self.schedule.time())
    }
}

impl Clock for NodeWorld {
    fn now(&self) -> SystemTime {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_SECS) + self.schedule.time();
        let ahead = self.ahead.load(Ordering::Relaxed);
        let by = Duration::from_nanos(ahead.unsigned_abs());
        if ahead < 0 { time - by } else { time + by }
    }

    fn monotonic(&self) -> Duration {
        self.schedule.time()
    }
}

impl World for NodeWorld {
    fn random(&self) -> u64 {
        self.schedule.random()
    }

    fn spawn(&self, name: String, run: Box<dyn FnOnce() + Send>) -> io::Result<Task> {
        self.schedule.spawn(name, run)
    }

    fn signal(&self) -> Box<dyn Signal> {
        Box::new(SimSignal::new(&self.schedule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(schedule: &Schedule) -> Arc<NodeWorld> {
        Arc::new(NodeWorld::new(schedule, Arc::default()))
    }

    #[test]
    fn a_day_takes_no_time_and_tasks_take_turns_in_the_order_of_their_times() {
        let schedule = Schedule::new(1);
        let world = world(&schedule);
        let log = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = [3, 1, 2]
            .map(|hours| {
                let (world, log) = (Arc::clone(&world), Arc::clone(&log));
                let run = move || {
                    for _ in 0..8 {
                        world.sleep(Duration::from_secs(hours * 3600));
                        log.lock().unwrap().push((world.monotonic().as_secs() / 3600, hours));
                    }
                };
                schedule.clone().spawn(format!("every {hours}"), Box::new(run)).unwrap()
            })
            .into_iter()
            .collect();
        assert!(tasks.into_iter().all(Task::join));
        assert_eq!(schedule.time(), Duration::from_secs(24 * 3600));
        let log = log.lock().unwrap();
        assert_eq!(log[..5], [(1, 1), (2, 2), (2, 1), (3, 3), (3, 1)]);
        assert_eq!(log.len(), 24);
    }

    #[test]
    fn a_signal_comes_before_the_time_and_whoever_panics_harms_no_other() {
        let schedule = Schedule::new(1);
        let world = world(&schedule);
        let signal: Arc<dyn Signal> = world.signal().into();
        let (raising, early) = (Arc::clone(&signal), Arc::clone(&world));
        let raise = move || {
            early.sleep(Duration::from_secs(5));
            raising.raise();
            panic!("on purpose");
        };
        let task = world.spawn("raise".into(), Box::new(raise)).unwrap();
        signal.wait(0, Some(Duration::from_secs(60)));
        assert_eq!(schedule.time(), Duration::from_secs(5));
        assert!(!task.join());
        signal.wait(1, Some(Duration::from_secs(60)));
        assert_eq!(schedule.time(), Duration::from_secs(60));
    }

    #[test]
    #[should_panic(expected = "waits for ever")]
    fn a_wait_that_can_not_end_is_told() {
        world(&Schedule::new(1)).signal().wait(0, None);
    }
}
