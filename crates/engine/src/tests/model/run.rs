//! Runs cases: a few with the tests, and millions by command.
//!
//! ```sh
//! EDGESTORE_PROPERTY_CASES=10000000 \
//!     cargo test --release -p edgestore-host --lib engine::tests::model -- --nocapture
//! ```
//!
//! Cases come in chunks, each with a seed and new engines of its own. A failure names the seed of
//! its chunk; `EDGESTORE_PROPERTY_SEED` begins with that chunk.

use std::cell::RefCell;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Instant;

use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use super::*;

/// What was done to engines.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ops {
    pub(super) writes: u64,
    pub(super) flushes: u64,
    pub(super) applies: u64,
    /// Records in applied segments.
    pub(super) records: u64,
    pub(super) reads: u64,
    pub(super) reopens: u64,
}

impl std::ops::AddAssign for Ops {
    fn add_assign(&mut self, other: Self) {
        self.writes += other.writes;
        self.flushes += other.flushes;
        self.applies += other.applies;
        self.records += other.records;
        self.reads += other.reads;
        self.reopens += other.reopens;
    }
}

/// A kind of cases.
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// Its share of the cases of a run by command.
    pub(super) permille: u64,
    /// Inputs that share engines; an input may be several cases.
    pub(super) chunk: u32,
    /// Inputs with the tests.
    pub(super) some: u32,
}

/// Held by the kind that runs by command, so that each has all cores.
static ALONE: Mutex<()> = Mutex::new(());

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|error| panic!("{name}={value}: {error}")))
}

/// Whether this is a run by command.
pub(super) fn by_command() -> bool {
    std::env::var_os("EDGESTORE_PROPERTY_CASES").is_some()
}

impl Kind {
    /// Runs this kind's share. `strategy` is told whether this is a run by command. `check` does
    /// one input in a world that others may have used, and tells how many cases it was; `finish`
    /// looks at a world when its chunk is done.
    pub(super) fn run<W, S: Strategy>(
        &self,
        strategy: impl Fn(bool) -> S + Sync,
        world: impl Fn() -> W + Sync,
        check: impl Fn(&mut W, S::Value) -> Check<u64> + Sync,
        finish: impl Fn(W) -> Check<Ops> + Sync,
    ) {
        let wanted = setting("EDGESTORE_PROPERTY_CASES").map(|cases| cases * self.permille / 1000);
        let _alone = wanted.map(|_| ALONE.lock().unwrap_or_else(PoisonError::into_inner));
        let seed = setting("EDGESTORE_PROPERTY_SEED").unwrap_or_else(|| fastrand::u64(..1 << 48));
        let (chunk, threads) = match wanted {
            None => (self.some, 1),
            Some(_) => (self.chunk, std::thread::available_parallelism().map_or(1, usize::from)),
        };
        let (name, start) = (self.name, Instant::now());
        let (next, cases, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
        let enough = || match wanted {
            None => cases.load(Ordering::Relaxed) > 0,
            Some(wanted) => cases.load(Ordering::Relaxed) >= wanted,
        };
        let one_chunk = |seed: u64| -> Result<Ops, String> {
            let mut runner = runner(seed, chunk);
            let there = RefCell::new(None);
            let result = runner.run(&strategy(wanted.is_some()), |input| {
                if stop.load(Ordering::Relaxed) || (wanted.is_some() && enough()) {
                    return Ok(());
                }
                // A failure leaves none, so that smaller inputs are tried in a new one.
                let mut used = there.take().unwrap_or_else(&world);
                cases.fetch_add(check(&mut used, input)?, Ordering::Relaxed);
                there.replace(Some(used));
                Ok(())
            });
            let failed = |why: &dyn std::fmt::Display, input: &dyn Debug| {
                let cases =
                    wanted.map(|_| " and EDGESTORE_PROPERTY_CASES as now").unwrap_or_default();
                format!(
                    "{name}: {why}\nAgain: EDGESTORE_PROPERTY_SEED={seed}{cases}\nThe smallest \
                     input that fails: {input:?}"
                )
            };
            match result {
                Ok(()) => match there.into_inner().map(&finish) {
                    None => Ok(Ops::default()),
                    Some(finished) => finished.map_err(|why| failed(&why, &"all of its chunk")),
                },
                Err(TestError::Fail(why, input)) => Err(failed(&why, &input)),
                Err(TestError::Abort(why)) => Err(failed(&why, &())),
            }
        };
        let worker = || -> Result<Ops, String> {
            let mut ops = Ops::default();
            while !stop.load(Ordering::Relaxed) && !enough() {
                let seed = seed.wrapping_add(next.fetch_add(1, Ordering::Relaxed));
                ops += one_chunk(seed).inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
            }
            Ok(ops)
        };
        let mut ops = Ops::default();
        std::thread::scope(|scope| {
            let (running, done) = mpsc::channel::<()>();
            let spawn = |_| {
                let running = running.clone();
                scope.spawn(|| {
                    let _running = running;
                    worker()
                })
            };
            let workers: Vec<_> = (0..threads).map(spawn).collect();
            drop(running);
            while let Err(RecvTimeoutError::Timeout) = done.recv_timeout(Duration::from_secs(10)) {
                let (cases, secs) = (cases.load(Ordering::Relaxed), start.elapsed().as_secs());
                eprintln!("{name}: {cases} of {} cases after {secs} s", wanted.unwrap_or(0));
            }
            for worker in workers {
                match worker.join() {
                    Ok(Ok(done)) => ops += done,
                    Ok(Err(failed)) => panic!("{failed}"),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        let (cases, secs) = (cases.into_inner(), start.elapsed().as_secs_f64());
        let seeds = next.into_inner();
        eprintln!(
            "{name}: {cases} cases in {secs:.1} s, seeds {seed} to {}, {ops:?}",
            seed.wrapping_add(seeds - 1)
        );
    }
}

fn runner(seed: u64, inputs: u32) -> TestRunner {
    // Each try of a smaller input may make databases.
    let config = Config {
        cases: inputs,
        failure_persistence: None,
        max_shrink_iters: 4096,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}
