//! Runs the whole suite again and again on a machine that is busy with something else. A test that
//! fails here and not alone depends on what else runs, or on how fast.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

const ROUNDS: u32 = 20;

/// The task by which this program keeps a core busy.
pub const SPIN: &str = "spin";

/// Computes nothing, until whoever started this has ended or closes the pipe.
pub fn spin() -> Result<()> {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    loop {
        std::hint::spin_loop();
    }
}

/// Keeps this many cores busy until dropped.
struct Busy(Vec<Child>);

impl Busy {
    fn new(cores: usize) -> Result<Self> {
        let mut busy = Self(Vec::new());
        for _ in 0..cores {
            let spin =
                Command::new(std::env::current_exe()?).arg(SPIN).stdin(Stdio::piped()).spawn();
            busy.0.push(spin.context("cannot start a process that keeps a core busy")?);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// How the variables begin by which cargo tells a program of its own crate.
const ABOUT_US: [&str; 2] = ["CARGO_MANIFEST_", "CARGO_PKG_"];

/// Runs the suite as `args` say.
pub fn run(args: &[&str]) -> Result<()> {
    let (mut rounds, mut at_once) = (ROUNDS, 1);
    let mut cores = std::thread::available_parallelism()?.get();
    let (options, filter) = match args.iter().position(|arg| *arg == "--") {
        Some(at) => (&args[..at], &args[at + 1..]),
        None => (args, &[][..]),
    };
    for option in options.chunks(2) {
        match option {
            ["--rounds", number] => rounds = number.parse().context("--rounds")?,
            ["--busy", number] => cores = number.parse().context("--busy")?,
            ["--at-once", number] => at_once = number.parse().context("--at-once")?,
            _ => bail!("unknown option: {}", option.join(" ")),
        }
    }
    let built = suite(&["--no-run"]).status()?;
    ensure!(built.success(), "the tests do not compile");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/stress");
    fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;

    let _busy = Busy::new(cores)?;
    println!(
        "{rounds} rounds, {at_once} at once, beside {cores} busy loops; logs in {}",
        folder.display()
    );
    let next = AtomicU32::new(1);
    let found = Mutex::new(Found::default());
    std::thread::scope(|scope| -> Result<()> {
        let one_after_the_other = || -> Result<()> {
            loop {
                let round = next.fetch_add(1, Ordering::Relaxed);
                if round > rounds {
                    return Ok(());
                }
                let log = folder.join(format!("round-{round}.log"));
                let (passed, took) = one_round(filter, &log)?;
                let read = Round::read(&fs::read_to_string(&log)?);
                found
                    .lock()
                    .map_err(|_| anyhow!("another round panicked"))?
                    .note(round, passed, took, read);
            }
        };
        let runs: Vec<_> = (0..at_once).map(|_| scope.spawn(one_after_the_other)).collect();
        runs.into_iter().try_for_each(|run| run.join().map_err(|_| anyhow!("a round panicked"))?)
    })?;
    let found = found.into_inner().map_err(|_| anyhow!("a round panicked"))?;
    println!("\nthe longest that each took:");
    for (binary, seconds) in found.slowest {
        println!("{seconds:>8.1} s  {binary}");
    }
    for (name, count) in &found.failures {
        println!("failed in {count} of {rounds} rounds: {name}");
    }
    let failed = found.failed_rounds;
    ensure!(failed == 0, "{failed} of {rounds} rounds failed");
    println!("{rounds} of {rounds} rounds passed");
    Ok(())
}

/// What all rounds have shown until now.
#[derive(Default)]
struct Found {
    failed_rounds: u32,
    failures: BTreeMap<String, u32>,
    slowest: BTreeMap<String, f64>,
}

impl Found {
    fn note(&mut self, round: u32, passed: bool, took: Duration, read: Round) {
        self.failed_rounds += u32::from(!passed);
        let verdict = if passed { "ok" } else { "FAILED" };
        println!("round {round}: {verdict} in {:.0} s", took.as_secs_f64());
        for name in read.failed {
            println!("    {name}");
            *self.failures.entry(name).or_insert(0) += 1;
        }
        for (binary, seconds) in read.seconds {
            let most = self.slowest.entry(binary).or_default();
            *most = most.max(seconds);
        }
    }
}

fn suite(args: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut command = Command::new(cargo);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command.args(["test", "--workspace", "--locked"]).args(args);
    // What `cargo run` says of this crate has some dependencies built anew, and all behind them.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| ABOUT_US.iter().any(|about| name.starts_with(about))) {
            command.env_remove(name);
        }
    }
    command
}

/// Whether all passed, and how long it took.
fn one_round(filter: &[&str], log: &Path) -> Result<(bool, Duration)> {
    let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let start = Instant::now();
    let mut command = suite(&["--no-fail-fast"]);
    let status = command
        .args(filter)
        .env("CARGO_TERM_COLOR", "never")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()?;
    Ok((status.success(), start.elapsed()))
}

/// What a log says.
#[derive(Default)]
struct Round {
    failed: Vec<String>,
    /// By test binary.
    seconds: Vec<(String, f64)>,
}

impl Round {
    fn read(log: &str) -> Self {
        let mut round = Self::default();
        let mut binary = "";
        for line in log.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("Running ").or(line.strip_prefix("Doc-tests ")) {
                let file = name.rsplit('/').next().unwrap_or(name).trim_end_matches(')');
                binary = file.rsplit_once('-').map_or(file, |(binary, _hash)| binary);
            } else if let Some(name) =
                line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"))
            {
                round.failed.push(format!("{binary}: {name}"));
            } else if let Some((_, seconds)) = line.split_once("finished in ") {
                let seconds = seconds.trim_end_matches('s').parse().unwrap_or_default();
                round.seconds.push((binary.to_owned(), seconds));
            }
        }
        round
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stress_reads_failures_and_durations_from_a_log() {
        let round = Round::read(
            "     Running tests/peers.rs (target/debug/deps/peers-0123)\n\
             test a_cut_body_is_tried_again ... ok\n\
             test a_peer_that_hangs ... FAILED\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; finished in 12.50s\n\
             \x20  Doc-tests edgestore_host\n\
             test result: ok. 3 passed; 0 failed; finished in 1.00s\n",
        );
        assert_eq!(round.failed, ["peers: a_peer_that_hangs"]);
        let seconds = [("peers".to_owned(), 12.5), ("edgestore_host".to_owned(), 1.0)];
        assert_eq!(round.seconds, seconds);
    }
}
