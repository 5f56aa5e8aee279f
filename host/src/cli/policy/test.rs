//! `policy test`: plays scenarios with a policy in a simulated network, and says what came of
//! it.

use std::fs;
use std::io::{self, BufWriter, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};

use super::super::config::LimitValue;
use super::super::{args, exit, output};
use super::compiler;
use crate::policy::{Limits, PolicyEngine};
use crate::sim::report::{Replay, Report, Side};
use crate::sim::{Outcome, PolicyUnderTest, Scenario, SimError, run as simulate, shrink};
use crate::text::{LINE, nearest, read_file, visible};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct TestArgs {
    /// The policy, a WebAssembly component [default: the embedded one]
    file: Option<PathBuf>,
    /// A scenario that ships, by its name, or a file of one; may be given many times
    /// [default: all that ship]
    #[arg(long = "scenario", value_name = "NAME|FILE")]
    scenarios: Vec<String>,
    /// Runs of each scenario, each with a seed of its own, from --seed on
    #[arg(long, value_name = "N", default_value_t = 10)]
    seeds: u64,
    /// The first seed, or the only one where --seeds is left out
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Another policy to compare with, on the same scenarios and seeds
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Runs at a time [default: one a core]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// A setting for the policy, beside those of the scenario; may be given many times
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = args::setting)]
    settings: Vec<(String, String)>,
    /// What the policy may use, as for `run`
    #[arg(long = "limit", value_name = "NAME=VALUE", value_parser = LimitValue::parse)]
    limits: Vec<LimitValue>,
    /// Prints JSON in place of tables
    #[arg(long)]
    json: bool,
    /// Writes JUnit XML to this file
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Writes a page with plots to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Prints all events of all runs, one line each
    #[arg(long)]
    events: bool,
    /// How long to look for a smaller scenario that fails as well, for the first run that failed;
    /// or off
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = args::duration_or_off)]
    shrink: args::OrOff<Duration>,
    /// Lists the scenarios that ship
    #[arg(long)]
    list: bool,
}

pub(super) fn run(test: &TestArgs) -> Result<ExitCode> {
    if test.list {
        return list();
    }
    if test.seeds == 0 {
        return Err(exit::usage("--seeds must be at least 1"));
    }
    let scenarios = scenarios(test)?;
    let limits = test.limits();
    let first = subject(test.file.as_deref(), &limits)?;
    let second = test.compare.as_deref().map(|file| subject(Some(file), &limits)).transpose()?;

    let subjects: Vec<&PolicyUnderTest> = std::iter::once(&first).chain(second.as_ref()).collect();
    let mut outcomes = play(test, &scenarios, &subjects)?;
    let compared = second.is_some().then(|| outcomes.pop().unwrap_or_default());
    let outcomes = outcomes.pop().unwrap_or_default();

    let name = |file: Option<&Path>| {
        file.map_or("the embedded policy".to_owned(), |file| file.display().to_string())
    };
    let (a, b) = (name(test.file.as_deref()), name(test.compare.as_deref()));
    let mut replay = test.replay(&scenarios);
    let other = Replay { embedded: false, ..replay.clone() };
    replay.embedded = test.file.is_none();
    let side = Side { file: &a, replay: Some(&replay), outcomes: &outcomes };
    let report = match &compared {
        Some(compared) => {
            let other = Side { file: &b, replay: Some(&other), outcomes: compared };
            Report::comparing(side, other)
        }
        None => Report::of(side),
    };
    if let Some(file) = &test.junit {
        let to =
            fs::File::create(file).with_context(|| format!("can't write {}", file.display()))?;
        report.write_junit(BufWriter::new(to))?;
    }
    if let Some(file) = &test.html {
        fs::write(file, report.html())
            .with_context(|| format!("can't write {}", file.display()))?;
    }
    if test.events {
        for outcome in &outcomes {
            output::print(&format!("{} seed {}\n", outcome.scenario, outcome.seed))?;
            output::print(&(outcome.log.join("\n") + "\n"))?;
        }
    }
    if test.json {
        let mut json = Vec::new();
        report.write_json(&mut json)?;
        output::print_json(&String::from_utf8_lossy(&json))?;
    } else {
        output::print(&report.text())?;
    }
    if report.passed() {
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(time) = test.shrink.0
        && !test.json
        && let Some(failed) = outcomes.iter().find(|outcome| !outcome.passed())
        && let Some(scenario) = scenarios.iter().find(|known| known.name == failed.scenario)
    {
        smaller(scenario, &first, failed.seed, time)?;
    }
    Ok(ExitCode::FAILURE)
}

impl TestArgs {
    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        for limit in &self.limits {
            limit.apply(&mut limits);
        }
        limits
    }

    /// What a command that repeats a run has besides the policy and the seed.
    fn replay(&self, scenarios: &[Scenario]) -> Replay {
        let sets = self.settings.iter().map(|(key, value)| ("--set", format!("{key}={value}")));
        let limits = self.limits.iter().map(|limit| ("--limit", limit.to_string()));
        let options =
            sets.chain(limits).flat_map(|(option, value)| [option.to_owned(), value]).collect();
        // Where none is named, all that ship are played, under their names.
        let given = scenarios.iter().zip(&self.scenarios);
        let scenarios = given.map(|(known, given)| (known.name.clone(), given.clone())).collect();
        Replay { embedded: false, options, scenarios }
    }

    fn seeds(&self) -> std::ops::Range<u64> {
        let first = self.seed.unwrap_or(1);
        // Whoever names a seed wants that one.
        let count = if self.seed.is_some() && self.seeds == 10 { 1 } else { self.seeds };
        first..first.saturating_add(count)
    }
}

fn list() -> Result<ExitCode> {
    let mut table = output::table(&["scenario", ">nodes", "about"]);
    for (name, scenario) in Scenario::shipped() {
        table.add_row([name.to_owned(), scenario.nodes.to_string(), scenario.about]);
    }
    output::print(&output::lines(&table))?;
    Ok(ExitCode::SUCCESS)
}

fn scenarios(test: &TestArgs) -> Result<Vec<Scenario>> {
    let shipped: Vec<_> = Scenario::shipped().collect();
    let mut chosen = Vec::new();
    for name in &test.scenarios {
        if let Some((_, scenario)) = shipped.iter().find(|(known, _)| known == name) {
            chosen.push(scenario.clone());
            continue;
        }
        let path = Path::new(name);
        if !path.exists() && !name.contains(['/', '.']) {
            let known: Vec<_> = shipped.iter().map(|(known, _)| *known).collect();
            let near = nearest(name, &known);
            let near = near.map_or(String::new(), |near| format!("; did you mean {near}?"));
            return Err(exit::usage(format!(
                "there is no scenario {name:?}{near} (`policy test --list` lists all)"
            )));
        }
        let text = read_file(path)
            .and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other))
            .with_context(|| format!("can't read the scenario {name}"))?;
        chosen.push(Scenario::parse(&text, name)?);
    }
    if chosen.is_empty() {
        chosen = shipped.into_iter().map(|(_, scenario)| scenario).collect();
    }
    for scenario in &mut chosen {
        for (key, value) in &test.settings {
            scenario.settings.retain(|(known, _)| known != key);
            scenario.settings.push((key.clone(), value.clone()));
        }
    }
    Ok(chosen)
}

fn subject(file: Option<&Path>, limits: &Limits) -> Result<PolicyUnderTest> {
    let component = match file {
        Some(file) => PolicyEngine::read_file(file)?,
        None => PolicyEngine::embedded().to_vec(),
    };
    let load = || {
        let engine = PolicyEngine::new(None, limits.clone())?.compile_by(compiler()?);
        anyhow::Ok(PolicyUnderTest::new(component, engine)?)
    };
    load().with_context(|| file.map_or(String::new(), |file| file.display().to_string()))
}

/// The outcomes of each policy, in the order of scenarios, then seeds.
fn play(
    test: &TestArgs,
    scenarios: &[Scenario],
    subjects: &[&PolicyUnderTest],
) -> Result<Vec<Vec<Outcome>>> {
    let mut work = Vec::new();
    for (at, _) in subjects.iter().enumerate() {
        for scenario in scenarios {
            work.extend(test.seeds().map(|seed| (at, scenario, seed)));
        }
    }
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let jobs = test.jobs.unwrap_or(cores).clamp(1, work.len());
    let progress = progress(work.len() as u64);
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let done: Mutex<Vec<Option<Result<Outcome, SimError>>>> =
        Mutex::new(work.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for job in 0..jobs {
            let (next, failed, done, work, progress) = (&next, &failed, &done, &work, &progress);
            scope.spawn(move || {
                stay_on_core(job, jobs);
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(subject, scenario, seed)) = work.get(at) else { return };
                    let mut outcome = simulate(scenario, subjects[subject], seed, test.events);
                    if let Ok(outcome) = &mut outcome
                        && test.html.is_none()
                    {
                        outcome.forget_plots();
                    }
                    let bad = !matches!(&outcome, Ok(outcome) if outcome.passed());
                    let failed = failed.fetch_add(usize::from(bad), Ordering::Relaxed);
                    progress.set_message(format!(
                        "{}, {} failed",
                        visible(&scenario.name, LINE),
                        failed + usize::from(bad)
                    ));
                    progress.inc(1);
                    let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    done[at] = Some(outcome);
                }
            });
        }
    });
    progress.finish_and_clear();
    let done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut sides: Vec<Vec<Outcome>> = subjects.iter().map(|_| Vec::new()).collect();
    for ((at, ..), outcome) in work.into_iter().zip(done) {
        sides[at].push(outcome.context("a run did not end")??);
    }
    Ok(sides)
}

/// Keeps this thread on one core, and those that it starts, where there is one for each job. Of a
/// simulation's threads one runs at a time: it wakes the next one on its own core in less time.
fn stay_on_core(job: usize, jobs: usize) {
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let Ok(allowed) = sched_getaffinity(None) else { return };
        let cores: Vec<_> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
        if cores.len() != jobs {
            return;
        }
        let mut one = CpuSet::new();
        one.set(cores[job]);
        // Without it, it takes longer.
        let _ = sched_setaffinity(None, &one);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (job, jobs);
}

fn progress(runs: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} runs, {eta} left: {msg}");
    ProgressBar::new(runs).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Prints a smaller scenario that fails in the same way.
fn smaller(
    scenario: &Scenario,
    subject: &PolicyUnderTest,
    seed: u64,
    time: Duration,
) -> Result<()> {
    let Some((small, outcome)) = shrink(scenario, subject, seed, time) else { return Ok(()) };
    let mut text = format!("\nA smaller scenario that fails as well, with --seed {seed}:\n\n");
    text += &small.to_toml();
    text.push('\n');
    for violation in &outcome.violations {
        text += &format!("# {:?} at {:?}: {}\n", violation.invariant, violation.at, violation.what);
    }
    output::print(&text)?;
    Ok(())
}
