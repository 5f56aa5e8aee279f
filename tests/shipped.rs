//! The policies of this repository, in all scenarios that ship.
//!
//! One seed of each, the examples in a few of them; or all, with as many seeds as `EDGESTORE_SEEDS`
//! says, played by the program of another build if `EDGESTORE_PROGRAM` names it. A thousand, and a table
//! of what came of them: `EDGESTORE_SEEDS=1000 cargo test --release -p edgestore-host-tests --test shipped -- --nocapture`
#![allow(clippy::unwrap_used)]

#[path = "program.rs"]
mod program;

use edgestore_host_tests::policies;
use program::run;
use serde_json::Value;

/// What runs of seed 1 with the default policy have for their event logs.
const HASHES: &str = include_str!("fixtures/run-hashes.txt");

/// What an example is played in when nobody asks for more.
const FEW: [&str; 4] = [
    "two-nodes-conflicts",
    "crash-and-restart",
    "slow-and-hanging-peer",
    "lost-and-damaged-segments",
];

fn seeds() -> Option<String> {
    std::env::var("EDGESTORE_SEEDS").ok()
}

/// Plays all scenarios, and returns the report once all is well.
fn passes(name: &str, args: &[&str]) -> Value {
    let ran = run(&[&["policy", "test"], args, &["--json", "--jobs", "1"]].concat());
    let report: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"));
    let policy = &report["policies"][0];
    for summary in policy["summaries"].as_array().unwrap() {
        let scenario = summary["scenario"].as_str().unwrap();
        let (passed, runs) = (&summary["passed"], &summary["runs"]);
        let (slowest, bytes) = (&summary["converge_seconds"]["max"], &summary["overhead"]["max"]);
        let hours = summary["node_hours"].as_f64().unwrap();
        println!(
            "{name} {scenario}: {passed} of {runs} passed, equal after {slowest} s at most, \
             {bytes} times the least bytes at most, {hours:.0} node-hours"
        );
    }
    let failed = policy["runs"].as_array().unwrap().iter().filter(|run| run["passed"] == false);
    let failed: Vec<_> = failed.map(|run| (&run["replay"], &run["violations"][0])).collect();
    assert!(failed.is_empty() && ran.code == Some(0), "{name}: {failed:#?}");
    report
}

/// An example, where it can be built.
fn example_passes(name: &str, settings: &[&str]) {
    let Some(component) = policies::example(name) else { return };
    let seeds = seeds();
    let mut args = vec![component.to_str().unwrap(), "--seeds", seeds.as_deref().unwrap_or("1")];
    if seeds.is_none() {
        args.extend(FEW.iter().flat_map(|scenario| ["--scenario", scenario]));
    }
    args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    passes(name, &args);
}

#[test]
fn default_passes_and_its_first_runs_are_the_same_on_every_build() {
    let report = passes("default", &["--seeds", seeds().as_deref().unwrap_or("1")]);
    let runs = report["policies"][0]["runs"].as_array().unwrap();
    let first = runs.iter().filter(|run| run["seed"] == 1);
    let line = |run: &Value| {
        format!("{} {}\n", run["scenario"].as_str().unwrap(), run["log_hash"].as_str().unwrap())
    };
    let found: String = first.map(line).collect();
    assert_eq!(
        found, HASHES,
        "runs differ from those of other builds; if what nodes do was meant to change, this is to \
         be in tests/fixtures/run-hashes.txt:\n{found}"
    );
}

#[test]
fn newest_first_passes() {
    example_passes("newest-first", &[]);
}

#[test]
fn smallest_first_passes() {
    example_passes("smallest-first", &[]);
}

#[test]
fn priority_namespaces_passes() {
    example_passes("priority-namespaces", &["namespaces=sim"]);
}

#[test]
fn multi_peer_spread_passes() {
    example_passes("multi-peer-spread", &[]);
}

#[test]
fn night_window_passes() {
    example_passes("night-window", &[]);
}

#[test]
fn bandwidth_adaptive_passes() {
    example_passes("bandwidth-adaptive", &[]);
}
