//! Which task runs, and what time it is.
//!
//! Tasks are threads, of which one runs at a time: the others are parked here. A task that waits
//! hands over to the one that became ready first. When none is ready, the clock jumps to the first
//! moment that one waits for. So neither the machine's speed nor its scheduler has a say in what
//! happens, and no time is spent on waiting.
//!
//! What runs on other threads, such as those of the record store, is not under this schedule. It
//! may take what time it likes, as long as it changes nothing that a task sees.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::{self, Debug};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, SystemTime};

use edgestore_engine::env::{Env, Notify, Task};
use edgestore_policy_host::Clock;

/// Of the threads of tasks. A policy's stack is 1 MiB of it.
const STACK_BYTES: usize = 4 << 20;

/// What time it is at the start of every simulation: 2025-01-01, in Unix seconds.
pub(super) const EPOCH_SECS: u64 = 1_735_689_600;

/// The first task: the thread that made the schedule.
const FIRST: TaskId = 0;

/// The schedule of one simulation. Clones are the same one.
#[derive(Clone)]
pub(super) struct Schedule {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    signals: AtomicU64,
    /// The task whose turn it is. Changed with the lock on `state`, read without it.
    running: AtomicU64,
    /// Nothing runs any more.
    ended: AtomicBool,
}

type TaskId = u64;
type SignalId = u64;
type Body = Box<dyn FnOnce() + Send>;

struct State {
    time: Duration,
    random: fastrand::Rng,
    next_task: TaskId,
    /// Of entries in `timed`.
    sequence: u64,
    ready: VecDeque<TaskId>,
    /// Who waits for a time, in order of that and of who came first.
    timed: BTreeMap<(Duration, u64), TaskId>,
    waiting: HashMap<TaskId, Waiting>,
    /// Who waits for a signal.
    waiters: BTreeSet<(SignalId, TaskId)>,
    threads: HashMap<TaskId, Thread>,
    /// Tasks that have a thread and have not begun.
    bodies: HashMap<TaskId, Body>,
    /// Threads whose task is done.
    idle: Vec<Arc<Worker>>,
    /// Every task waits for ever.
    stuck: bool,
}

/// What a task waits for.
struct Waiting {
    signal: SignalId,
    timed: Option<(Duration, u64)>,
}

/// A thread that runs one task after another: there are many short ones.
#[derive(Debug)]
struct Worker {
    /// Its task, or the one that it has done.
    task: AtomicU64,
}

impl Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({:?})", self.time())
    }
}

impl Schedule {
    /// A new one, in which the calling thread is the running task. To be ended.
    pub(super) fn new(seed: u64) -> Self {
        let state = State {
            time: Duration::ZERO,
            random: fastrand::Rng::with_seed(seed),
            next_task: FIRST + 1,
            sequence: 0,
            ready: VecDeque::new(),
            timed: BTreeMap::new(),
            waiting: HashMap::new(),
            waiters: BTreeSet::new(),
            threads: HashMap::from([(FIRST, thread::current())]),
            bodies: HashMap::new(),
            idle: Vec::new(),
            stuck: false,
        };
        let inner = Inner {
            state: Mutex::new(state),
            signals: AtomicU64::new(0),
            running: AtomicU64::new(FIRST),
            ended: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Lets the threads go that have nothing to do. Those of tasks that still wait stay.
    pub(super) fn end(&self) {
        self.inner.ended.store(true, Ordering::Release);
        let state = self.state();
        let idle = state.idle.iter().map(|worker| worker.task.load(Ordering::Relaxed));
        idle.filter_map(|task| state.threads.get(&task)).for_each(Thread::unpark);
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

    /// A number from 0 up to, and without, `end`: the same on all machines.
    pub(super) fn below(&self, end: usize) -> usize {
        (self.random() % end as u64) as usize
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
        let me = self.inner.running.load(Ordering::Relaxed);
        let timed = until.map(|until| {
            state.sequence += 1;
            (until.max(state.time), state.sequence)
        });
        if let Some(timed) = timed {
            state.timed.insert(timed, me);
        }
        state.waiting.insert(me, Waiting { signal, timed });
        state.waiters.insert((signal, me));
        self.hand_over(state);
        self.await_turn(me);
    }

    /// Lets the next task run; the one that runs now must be waiting, or at its end.
    fn hand_over(&self, mut state: MutexGuard<'_, State>) {
        let next = state.next();
        // The first task is told when nothing can happen any more.
        state.stuck |= next.is_none();
        let next = next.unwrap_or(FIRST);
        let thread = state.threads.get(&next).cloned();
        self.inner.running.store(next, Ordering::Release);
        drop(state);
        if let Some(thread) = thread {
            thread.unpark();
        }
    }

    fn await_turn(&self, me: TaskId) {
        while self.inner.running.load(Ordering::Acquire) != me {
            thread::park();
        }
        if me == FIRST {
            let stuck = std::mem::take(&mut self.state().stuck);
            assert!(!stuck, "every task of the simulation waits for ever");
        }
    }

    /// Something to wait for.
    pub(super) fn notify(&self) -> Box<dyn Notify> {
        Box::new(SimSignal::new(self))
    }

    fn spawn(&self, run: Body) -> io::Result<Task> {
        let ended = Arc::new(SimSignal::new(self));
        let good = Arc::new(AtomicBool::new(false));
        let body = {
            let (ended, good) = (Arc::clone(&ended), Arc::clone(&good));
            Box::new(move || {
                good.store(catch_unwind(AssertUnwindSafe(run)).is_ok(), Ordering::Release);
                ended.raise();
            })
        };
        let mut state = self.state();
        let id = state.next_task;
        let thread = match state.idle.pop() {
            Some(worker) => {
                let before = worker.task.swap(id, Ordering::AcqRel);
                state.threads.remove(&before)
            }
            None => None,
        };
        let thread = match thread {
            Some(thread) => thread,
            None => {
                let (this, worker) = (self.clone(), Worker { task: AtomicU64::new(id) });
                let name = "simulated task".to_owned();
                let builder = thread::Builder::new().name(name).stack_size(STACK_BYTES);
                builder.spawn(move || this.work(&Arc::new(worker)))?.thread().clone()
            }
        };
        state.next_task += 1;
        state.threads.insert(id, thread);
        state.bodies.insert(id, body);
        state.ready.push_back(id);
        drop(state);
        Ok(Task::new(move || {
            ended.wait(0, None);
            good.load(Ordering::Acquire)
        }))
    }

    /// What the threads of tasks do.
    fn work(&self, worker: &Arc<Worker>) {
        loop {
            let task = worker.task.load(Ordering::Acquire);
            if self.inner.running.load(Ordering::Acquire) != task {
                if self.inner.ended.load(Ordering::Acquire) {
                    return;
                }
                thread::park();
                continue;
            }
            let body = self.state().bodies.remove(&task);
            if let Some(body) = body {
                body();
            }
            let mut state = self.state();
            state.idle.push(Arc::clone(worker));
            self.hand_over(state);
        }
    }
}

impl State {
    /// Whose turn it is now; none when all wait for ever.
    fn next(&mut self) -> Option<TaskId> {
        if let Some(task) = self.ready.pop_front() {
            return Some(task);
        }
        let (&key, _) = self.timed.first_key_value()?;
        let task = self.timed.remove(&key)?;
        self.time = self.time.max(key.0);
        if let Some(Waiting { signal, .. }) = self.waiting.remove(&task) {
            self.waiters.remove(&(signal, task));
        }
        Some(task)
    }

    /// Makes those ready who wait for `signal`, in the order of their numbers.
    fn wake(&mut self, signal: SignalId) {
        while let Some(&waiter) = self.waiters.range((signal, 0)..=(signal, TaskId::MAX)).next() {
            self.waiters.remove(&waiter);
            let (_, task) = waiter;
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

impl Notify for SimSignal {
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

/// The environment of one node: the schedule of all, and a clock of its own.
pub(super) struct NodeEnv {
    schedule: Schedule,
    /// How far the wall clock is ahead, in nanoseconds.
    ahead: Arc<AtomicI64>,
    /// How much too fast it runs, in parts per billion.
    drift: i64,
}

impl NodeEnv {
    pub(super) fn new(schedule: &Schedule, ahead: Arc<AtomicI64>) -> Self {
        Self { schedule: schedule.clone(), ahead, drift: 0 }
    }

    /// With a wall clock that runs too fast by this, or too slow, in parts per billion.
    pub(super) fn with_drift(self, drift: i64) -> Self {
        Self { drift, ..self }
    }
}

impl Debug for NodeEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeWorld({:?})", self.schedule.time())
    }
}

impl Clock for NodeEnv {
    fn now(&self) -> SystemTime {
        let since = self.schedule.time();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_SECS) + since;
        let drifted = since.as_nanos() as i128 * i128::from(self.drift) / 1_000_000_000;
        let drifted = i64::try_from(drifted).unwrap_or_default();
        let ahead = self.ahead.load(Ordering::Relaxed).saturating_add(drifted);
        let by = Duration::from_nanos(ahead.unsigned_abs());
        if ahead < 0 { time - by } else { time + by }
    }

    fn monotonic(&self) -> Duration {
        self.schedule.time()
    }
}

impl Env for NodeEnv {
    fn random(&self) -> u64 {
        self.schedule.random()
    }

    fn spawn(&self, _name: String, run: Box<dyn FnOnce() + Send>) -> io::Result<Task> {
        // Its thread is used for others later.
        self.schedule.spawn(run)
    }

    fn notify(&self) -> Box<dyn Notify> {
        self.schedule.notify()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(schedule: &Schedule) -> Arc<NodeEnv> {
        Arc::new(NodeEnv::new(schedule, Arc::default()))
    }

    #[test]
    fn a_day_takes_no_time_and_tasks_take_turns_in_the_order_of_their_times() {
        let schedule = Schedule::new(1);
        let env = env(&schedule);
        let log = Arc::new(Mutex::new(Vec::new()));
        let tasks: Vec<_> = [3, 1, 2]
            .map(|hours| {
                let (env, log) = (Arc::clone(&env), Arc::clone(&log));
                let run = move || {
                    for _ in 0..8 {
                        env.sleep(Duration::from_secs(hours * 3600));
                        log.lock().unwrap().push((env.monotonic().as_secs() / 3600, hours));
                    }
                };
                schedule.clone().spawn(Box::new(run)).unwrap()
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
        let env = env(&schedule);
        let signal: Arc<dyn Notify> = env.notify().into();
        let (raising, early) = (Arc::clone(&signal), Arc::clone(&env));
        let raise = move || {
            early.sleep(Duration::from_secs(5));
            raising.raise();
            panic!("on purpose");
        };
        let task = env.spawn("raise".into(), Box::new(raise)).unwrap();
        signal.wait(0, Some(Duration::from_secs(60)));
        assert_eq!(schedule.time(), Duration::from_secs(5));
        assert!(!task.join());
        signal.wait(1, Some(Duration::from_secs(60)));
        assert_eq!(schedule.time(), Duration::from_secs(60));
    }

    #[test]
    fn a_wall_clock_may_jump_and_drift() {
        let schedule = Schedule::new(1);
        let ahead = Arc::new(std::sync::atomic::AtomicI64::new(-2_000_000_000));
        let slow = NodeEnv::new(&schedule, Arc::clone(&ahead)).with_drift(-200_000);
        let right = env(&schedule);
        let behind = || right.now().duration_since(slow.now()).unwrap();
        assert_eq!(behind(), Duration::from_secs(2));
        schedule.sleep_until(Duration::from_secs(10_000));
        assert_eq!(behind(), Duration::from_secs(4), "200 millionths of 10,000 s");
        ahead.store(-3_000_000_000, Ordering::Relaxed);
        assert_eq!(behind(), Duration::from_secs(5));
        assert_eq!(slow.monotonic(), right.monotonic());
    }

    #[test]
    #[should_panic(expected = "waits for ever")]
    fn a_wait_that_can_not_end_is_told() {
        env(&Schedule::new(1)).notify().wait(0, None);
    }
}
