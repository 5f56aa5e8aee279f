//! `policy test`, as an author uses it: what it prints, writes and returns.
#![allow(clippy::unwrap_used)]

#[path = "program.rs"]
mod program;

use edgestore_host_tests::component::policy;
use program::{Folder, Ran, run};

const SMALL: &str = r#"
name = "small"
nodes = 3
topology = "ring"
duration = "10m"

[[writers]]
per_minute = 6
keys = 5

[[faults]]
kind = "crash"
at = "4m"
lasts = "1m"

[expect]
converge_within = "10m"
"#;

fn test(args: &[&str]) -> Ran {
    run(&[&["policy", "test"], args].concat())
}

#[test]
fn the_embedded_policy_passes_and_a_run_is_repeated_to_the_byte() {
    let dir = Folder::new();
    let small = dir.write("small.toml", SMALL.as_bytes());
    let (junit, html) = (dir.path("junit.xml"), dir.path("page.html"));
    let args = ["--scenario", &small, "--seeds", "2"];
    let text = test(&[&args[..], &["--junit", &junit, "--html", &html]].concat()).ok();
    assert!(text.contains("small") && text.contains("2"), "{text}");
    let junit = std::fs::read_to_string(junit).unwrap();
    assert!(junit.contains("<testsuite") && !junit.contains("<failure"), "{junit}");
    let html = std::fs::read_to_string(html).unwrap();
    assert!(html.contains("<svg") && !html.contains("src=\"http"), "no page");

    let json = |jobs: &str| {
        let out = test(&[&args[..], &["--json", "--jobs", jobs]].concat()).ok();
        serde_json::from_str::<serde_json::Value>(&out).unwrap()
    };
    assert_eq!(json("1"), json("2"), "whatever runs beside it");
    let events = || test(&["--scenario", &small, "--seed", "7", "--events"]).ok();
    let first = events();
    assert!(first.contains("n0 asks") && first.contains("without power"), "{first}");
    assert_eq!(first, events());
}

#[test]
fn a_policy_that_pulls_nothing_fails_and_a_smaller_scenario_is_shown() {
    let dir = Folder::new();
    let beside =
        "duration = \"10m\"\nclock_skew = \"2s\"\nclock_drift_ppm = 50\ncompact_interval = \"1m\"";
    let small = SMALL.replace("duration = \"10m\"", beside) + "\n[link]\nloss = 0.01\n";
    let small = dir.write("small.toml", small.as_bytes());
    let idle = dir.write("idle.wasm", &policy(""));
    let junit = dir.path("junit.xml");
    // Time enough to the end, on any machine.
    let args = ["--scenario", &small, "--seed", "3", "--junit", &junit, "--shrink", "5m"];
    let ran = test(&[&[&*idle], &args[..]].concat());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for part in ["nodes still differ", "--seed 3", "A smaller scenario", "nodes = 2"] {
        assert!(ran.out.contains(part), "{part} is not in\n{}", ran.out);
    }
    // What has no part in it is left out.
    for part in ["clock_skew = \"0s\"", "clock_drift_ppm = 0", "compact_interval = \"off\""] {
        assert!(ran.out.contains(part), "{part} is not in\n{}", ran.out);
    }
    assert!(ran.out.contains("loss = 0.0\n") && !ran.out.contains("[[faults]]"), "{}", ran.out);
    assert!(std::fs::read_to_string(junit).unwrap().contains("<failure"));
    // What it prints is a scenario that fails.
    let from = ran.out.find("name = \"small\"").unwrap();
    let shrunk = dir.write("shrunk.toml", &ran.out.as_bytes()[from..]);
    let again = test(&[&idle, "--scenario", &shrunk, "--seed", "3", "--shrink", "off"]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(!again.out.contains("A smaller scenario"), "{}", again.out);
}

#[test]
fn two_policies_are_compared_on_the_same_seeds() {
    let dir = Folder::new();
    let small = dir.write("small.toml", SMALL.as_bytes());
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../guest-sync/sync.wasm");
    let old = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/policy-0.1.wasm");
    let args = [default, "--scenario", &small, "--seeds", "3", "--compare", old];
    let text = test(&args).ok();
    assert!(text.contains("95"), "no confidence interval in\n{text}");
    let json = test(&[&args[..], &["--json"]].concat()).ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json.to_string().contains("policy-0.1.wasm"), "{json}");
}

#[test]
fn what_is_wrong_with_the_arguments_is_told() {
    let dir = Folder::new();
    test(&["--scenario", "two-nodes-claen"]).fails(&["did you mean two-nodes-clean"]);
    test(&["--scenario", "no-such.toml"]).fails(&["no-such.toml"]);
    let bad = dir.write("bad.toml", b"name = \"x\"\nnodes = 1\ntopolgy = \"ring\"\n");
    test(&["--scenario", &bad]).fails(&["bad.toml", "topolgy", "topology"]);
    test(&[&dir.write("text.wasm", b"hello")]).fails(&["not WebAssembly"]);
    test(&["--seeds", "0"]).fails(&["at least 1"]);
    let list = test(&["--list"]).ok();
    assert_eq!(list.lines().filter(|line| line.contains('-')).count(), 15, "{list}");
}
