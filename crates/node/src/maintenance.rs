//! Compaction: when it happens by itself, and that it ends when the host does.
//!
//! A thread looks every now and then whether a compaction is worth its while, and keeps it slow, so
//! that reads and writes hardly notice. Whoever asks for one gets it at once, on a thread of their
//! own: it takes the place of one that runs, because no step of a compaction is done by half, and
//! what the one has left the other does.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use edgestore_engine::env::{Env, Notify, Task};
use edgestore_engine::{Compacted, Engine, EngineError, RateLimiter};

use super::LastCompaction;
use super::dead_threads::DeadThreads;

/// After the start, at most: peers and programs that waited for the host come first.
const FIRST: Duration = Duration::from_secs(10);

/// Things expire without a new segment.
const RARELY: Duration = Duration::from_secs(60 * 60);

/// When and how fast a host compacts by itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Between two looks; none waits until it is woken.
    pub(super) interval: Option<Duration>,
    /// Bytes a second, read and written together; none for no bound.
    pub(super) bytes_per_sec: Option<u64>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { interval: Some(Duration::from_secs(60)), bytes_per_sec: Some(8 << 20) }
    }
}

/// Who is told of the end of each compaction.
pub(super) type OnCompaction = Box<dyn Fn(&Result<Compacted, EngineError>) + Send + Sync>;

/// The compactions of a host, one at a time.
pub(super) struct Maintenance {
    engine: Arc<Engine>,
    plan: Plan,
    told: Option<OnCompaction>,
    state: Mutex<State>,
    changed: Box<dyn Notify>,
    env: Arc<dyn Env>,
}

#[derive(Debug)]
struct State {
    stopping: bool,
    woken: bool,
    /// Of the compaction that runs.
    running: Option<Arc<RateLimiter>>,
    /// Until a compaction is due whatever is new; none while the last one was not through.
    fresh_until: Option<Duration>,
    last: Option<LastCompaction>,
}

impl Maintenance {
    pub(super) fn new(
        env: &Arc<dyn Env>,
        engine: &Arc<Engine>,
        plan: Plan,
        told: Option<OnCompaction>,
    ) -> Arc<Self> {
        let state =
            State { stopping: false, woken: false, running: None, fresh_until: None, last: None };
        let (engine, state) = (Arc::clone(engine), Mutex::new(state));
        let (changed, env) = (env.notify(), Arc::clone(env));
        Arc::new(Self { engine, plan, told, state, changed, env })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread, which ends after [`Maintenance::stop`].
    pub(super) fn spawn(self: &Arc<Self>, dead: &DeadThreads) -> io::Result<Task> {
        const NAME: &str = "edgestore-compact";
        let (this, dead) = (Arc::clone(self), dead.clone());
        let run = move || {
            let _watched = dead.watch(NAME);
            let interval = this.plan.interval;
            let mut wait = interval.map(|interval| interval.min(FIRST));
            while let Some(woken) = this.until_next_look(wait) {
                let begin = this.env.monotonic();
                if let Err(error) = this.engine.look_for_lost_files() {
                    tracing::warn!(%error, "can't look at the files of segments");
                }
                if woken || this.is_due() {
                    // What came of it is logged.
                    let _ = this.compact(this.plan.bytes_per_sec, false);
                }
                // A large database is not read all the time.
                wait = interval.map(|interval| interval.max(this.env.monotonic() - begin));
            }
        };
        self.env.spawn(NAME.to_owned(), Box::new(run))
    }

    /// Whether somebody woke the thread, or none when it is to end.
    fn until_next_look(&self, wait: Option<Duration>) -> Option<bool> {
        let due = wait.map(|wait| self.env.monotonic().saturating_add(wait));
        loop {
            let seen = self.changed.count();
            let mut state = self.state();
            if state.stopping {
                return None;
            }
            if state.woken || due.is_some_and(|due| self.env.monotonic() >= due) {
                return Some(std::mem::take(&mut state.woken));
            }
            drop(state);
            self.changed.wait(seen, due);
        }
    }

    fn is_due(&self) -> bool {
        let fresh = self.state().fresh_until.is_some_and(|until| self.env.monotonic() < until);
        !fresh || self.engine.compaction_due()
    }

    /// Has the thread compact soon.
    pub(super) fn wake(&self) {
        self.state().woken = true;
        self.changed.raise();
    }

    /// Ends the running compaction and the thread. No other compaction begins.
    pub(super) fn stop(&self) {
        let mut state = self.state();
        state.stopping = true;
        if let Some(limiter) = &state.running {
            limiter.stop();
        }
        self.changed.raise();
    }

    pub(super) fn last(&self) -> Option<LastCompaction> {
        self.state().last.clone()
    }

    /// Compacts on this thread. `asked`: in place of a compaction that runs, which ends; otherwise
    /// leaves it alone and does nothing.
    pub(super) fn compact(
        &self,
        bytes_per_sec: Option<u64>,
        asked: bool,
    ) -> Result<Compacted, EngineError> {
        let stopped = Compacted { stopped: true, ..Compacted::default() };
        let limiter = Arc::new(RateLimiter::in_env(&self.env, bytes_per_sec));
        loop {
            let seen = self.changed.count();
            let mut state = self.state();
            if state.stopping {
                return Ok(stopped);
            }
            let Some(running) = &state.running else {
                state.running = Some(Arc::clone(&limiter));
                break;
            };
            if !asked {
                return Ok(stopped);
            }
            running.stop();
            drop(state);
            self.changed.wait(seen, None);
        }

        tracing::debug!(asked, "compaction begins");
        let start = self.env.monotonic();
        // A bug in the engine may cost a compaction, and not the thread.
        let compact = AssertUnwindSafe(|| self.engine.compact(&limiter));
        let result = catch_unwind(compact).unwrap_or_else(|_| {
            let why = "a compaction panicked: run verify, and please report this";
            Err(EngineError::Corrupt(why.to_owned()))
        });
        log(&result, self.env.monotonic().saturating_sub(start));
        if let Some(told) = &self.told {
            told(&result);
        }
        let through = matches!(&result, Ok(done) if !done.stopped);
        let mut state = self.state();
        state.running = None;
        state.fresh_until = through.then(|| self.env.monotonic().saturating_add(RARELY));
        state.last = Some(LastCompaction {
            ended_secs: unix_secs(self.env.now()),
            done: result.as_ref().copied().unwrap_or_default(),
            error: result.as_ref().err().map(ToString::to_string),
        });
        self.changed.raise();
        result
    }
}

fn unix_secs(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn log(result: &Result<Compacted, EngineError>, elapsed: Duration) {
    match result {
        Ok(done) if done.retired > 0 || done.forgotten > 0 => tracing::info!(
            retired = done.retired,
            merged = done.merged,
            made = done.made,
            made_bytes = done.made_bytes,
            forgotten = done.forgotten,
            stopped = done.stopped,
            ?elapsed,
            "compacted"
        ),
        Ok(done) => tracing::debug!(stopped = done.stopped, ?elapsed, "nothing to compact"),
        Err(error) => {
            tracing::error!(%error, ?elapsed, "can't compact; what is left is tried again later");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use edgestore_engine::env::SystemEnv;
    use edgestore_engine::testing::{LONG, wait_until};

    use super::*;

    /// Writes over the same keys, in as many segments.
    fn engine(dir: &std::path::Path, segments: u32) -> Arc<Engine> {
        let engine = Arc::new(Engine::open(dir).unwrap());
        more(&engine, segments);
        engine
    }

    fn more(engine: &Engine, segments: u32) {
        for n in 0..segments {
            for key in 0..10_u8 {
                engine.put(b"ns", &[key], &n.to_be_bytes().repeat(50)).unwrap();
            }
            engine.flush().unwrap();
        }
    }

    #[test]
    fn the_thread_compacts_at_first_and_then_when_there_is_something_new() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(dir.path(), 3);
        let plan = Plan { interval: Some(Duration::from_millis(10)), ..Plan::default() };
        let maintenance = Maintenance::new(&SystemEnv::shared(), &engine, plan, None);
        let thread = maintenance.spawn(&DeadThreads::default()).unwrap();
        wait_until("one is left", || engine.manifest().len() == 1);
        wait_until("it says so", || maintenance.last().is_some_and(|last| last.done.retired == 2));
        let first = maintenance.last();
        thread::sleep(Duration::from_millis(100));
        assert_eq!(maintenance.last(), first, "there is nothing new");
        more(&engine, 5);
        // The last of them may be too few for one more.
        wait_until("the new ones are merged", || {
            maintenance.last() != first && engine.manifest().len() < 5
        });
        maintenance.stop();
        assert!(thread.join());
    }

    #[test]
    fn without_an_interval_it_compacts_when_it_is_woken() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(dir.path(), 5);
        let maintenance = Maintenance::new(
            &SystemEnv::shared(),
            &engine,
            Plan { interval: None, bytes_per_sec: None },
            None,
        );
        let thread = maintenance.spawn(&DeadThreads::default()).unwrap();
        thread::sleep(Duration::from_millis(50));
        assert_eq!((engine.manifest().len(), maintenance.last()), (5, None));
        maintenance.wake();
        wait_until("one is left", || engine.manifest().len() == 1);
        maintenance.stop();
        assert!(thread.join());
    }

    #[test]
    fn who_asks_takes_the_place_of_a_slow_one_and_a_stop_ends_all() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(dir.path(), 5);
        let plan = Plan { interval: Some(Duration::from_millis(1)), bytes_per_sec: Some(1) };
        let maintenance = Maintenance::new(&SystemEnv::shared(), &engine, plan, None);
        let thread = maintenance.spawn(&DeadThreads::default()).unwrap();
        wait_until("one runs", || maintenance.state().running.is_some());
        assert!(maintenance.compact(Some(1), false).unwrap().stopped, "one runs");
        let done = maintenance.compact(None, true).unwrap();
        assert_eq!((done.retired, done.stopped, engine.manifest().len()), (4, false, 1));

        more(&engine, 5);
        wait_until("one runs", || maintenance.state().running.is_some());
        let asked = Arc::clone(&maintenance);
        let asked = thread::spawn(move || asked.compact(Some(1), true).unwrap());
        thread::sleep(Duration::from_millis(50));
        let start = Instant::now();
        maintenance.stop();
        assert!(thread.join());
        assert!(asked.join().unwrap().stopped && start.elapsed() < LONG);
        assert!(maintenance.compact(None, true).unwrap().stopped, "for good");
    }
}
