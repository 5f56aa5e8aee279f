//! Policies that are wrong on purpose, each in one way: a simulation finds it, and passes the
//! policy without it, and the default one, in the same scenario with the same seeds.
//!
//! Faults of hosts are in `crates/sim/src/plants.rs`. How many seeds find each is printed by
//! `cargo test -p edgestore-host-tests --test planted -- --include-ignored --nocapture`.
#![allow(clippy::unwrap_used)]

use edgestore_host::policy::{Limits, PolicyEngine};
use edgestore_host::sim::{Invariant, PolicyUnderTest, Scenario, Violation, run};
use edgestore_host_tests::policies::components;

const SEEDS: u64 = 20;

/// The same for all; only the planted policy knows the setting.
fn scenario(plant: Option<&str>) -> Scenario {
    let scenario = Scenario::parse(include_str!("planted/scenario.toml"), "scenario.toml");
    let settings = plant.map(|plant| ("plant".to_owned(), plant.to_owned()));
    Scenario { settings: settings.into_iter().collect(), ..scenario.unwrap() }
}

/// The default policy, and the planted one; none where that can't be built.
fn subjects() -> Option<(PolicyUnderTest, PolicyUnderTest)> {
    let folder = components(&["planted".to_owned()])?;
    let engine = || PolicyEngine::new(None, Limits::default()).unwrap();
    let subject = |component| PolicyUnderTest::new(component, engine()).unwrap();
    let planted = std::fs::read(folder.join("planted.wasm")).unwrap();
    let default = include_bytes!("../guest-sync/sync.wasm").to_vec();
    Some((subject(default), subject(planted)))
}

fn violations(subject: &PolicyUnderTest, plant: Option<&str>, seed: u64) -> Vec<Violation> {
    run(&scenario(plant), subject, seed, false).unwrap().violations
}

/// Looks for the fault, seed by seed, until its cursor is caught.
fn find(plant: &str) {
    let Some((default, planted)) = subjects() else { return };
    for seed in 0..SEEDS {
        for (sound, setting) in [(&default, None), (&planted, Some("none"))] {
            let found = violations(sound, setting, seed);
            assert!(found.is_empty(), "{setting:?}, {seed}: {found:#?}");
        }
        let found = violations(&planted, Some(plant), seed);
        if let Some(first) = found.first() {
            eprintln!("{plant}: seeds needed: {}; {first:?}", seed + 1);
            assert_eq!(first.invariant, Invariant::Cursor, "{found:#?}");
            return;
        }
    }
    panic!("{plant} is not found with {SEEDS} seeds");
}

#[test]
fn a_cursor_that_is_noted_before_the_segments_are_applied_is_found() {
    find("cursor-before-apply");
}

#[test]
fn a_policy_that_forgets_pending_segments_is_found() {
    find("forgets-pending");
}

#[test]
fn a_root_that_is_noted_too_early_is_found() {
    find("root-too-early");
}

#[test]
fn a_policy_that_starves_a_peer_is_found_where_nobody_else_would_notice() {
    let Some((_, planted)) = subjects() else { return };
    let calm = r#"
        name = "calm"
        nodes = 3
        topology = "mesh"
        duration = "90m"
        writers = [{ per_minute = 1, nodes = [1, 2] }]
    "#;
    let play = |plant: &str| {
        let settings = vec![("plant".to_owned(), plant.to_owned())];
        let scenario = Scenario { settings, ..Scenario::parse(calm, "calm.toml").unwrap() };
        run(&scenario, &planted, 1, false).unwrap().violations
    };
    assert_eq!(play("none"), []);
    let found = play("starves-a-peer");
    assert!(!found.is_empty());
    let other = found.iter().find(|violation| violation.invariant != Invariant::Starvation);
    assert!(other.is_none(), "{found:#?}");
}

#[test]
fn a_policy_that_says_in_sync_and_pulls_nothing_is_believed_by_no_host() {
    let Some((_, planted)) = subjects() else { return };
    for seed in 0..3 {
        let found = violations(&planted, Some("claims-in-sync"), seed);
        let broken = |invariant| found.iter().any(|violation| violation.invariant == invariant);
        assert!(broken(Invariant::Convergence), "{found:#?}");
        assert!(!broken(Invariant::Honesty), "{found:#?}");
    }
}

#[test]
#[ignore = "takes minutes; the figures in docs/simulation.md"]
fn how_many_seeds_find_each() {
    let Some((default, planted)) = subjects() else { return };
    for plant in ["cursor-before-apply", "forgets-pending", "root-too-early"] {
        let all: Vec<_> = (0..SEEDS).map(|seed| violations(&planted, Some(plant), seed)).collect();
        let count = |of: fn(&Violation) -> bool| all.iter().filter(|v| v.iter().any(of)).count();
        let found = count(|_| true);
        // Of a policy whose cursor has another form, only what comes of it is seen.
        let other = count(|violation| violation.invariant != Invariant::Cursor);
        eprintln!("{plant}: found with {found} of {SEEDS} seeds, {other} without its cursor");
        assert!(found > 0);
    }
    for (sound, setting) in [(&default, None), (&planted, Some("none"))] {
        let finds = |seed: &u64| !violations(sound, setting, *seed).is_empty();
        assert_eq!((0..SEEDS).find(finds), None, "{setting:?}");
    }
}
