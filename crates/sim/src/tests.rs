//! The simulator itself: whole runs, and that they can be repeated.

use std::time::Duration;

use edgestore_policy_host::{Limits, PolicyEngine};

use super::*;

fn subject() -> PolicyUnderTest {
    let component = include_bytes!("../../../guest-sync/sync.wasm").to_vec();
    PolicyUnderTest::new(component, PolicyEngine::new(None, Limits::default()).unwrap()).unwrap()
}

fn link() -> Link {
    Link {
        latency: Duration::from_millis(20),
        jitter: Duration::from_millis(5),
        bandwidth: Some(1 << 20),
        loss: 0.0,
    }
}

fn scenario(nodes: usize) -> Scenario {
    Scenario {
        name: "test".into(),
        about: String::new(),
        nodes,
        topology: Topology::Mesh,
        link: link(),
        duration: Duration::from_secs(20 * 60),
        interval: Duration::from_secs(30),
        flush_interval: Duration::from_secs(30),
        compact_interval: None,
        clock_skew: Duration::from_secs(1),
        clock_drift_ppm: 0,
        settings: Vec::new(),
        writers: vec![Writer {
            nodes: (0..nodes).collect(),
            per_minute: 6.0,
            keys: 20,
            skew: 1.0,
            conflicts: 0.0,
            deletes: 0.1,
            expiring: 0.1,
            ttl: Duration::from_secs(300),
            value_bytes: (20, 200),
        }],
        faults: Vec::new(),
        expect: Expect { converge_within: Duration::from_secs(300), max_overhead: None },
    }
}

fn fault(kind: FaultKind, minute: u64, minutes: u64, nodes: &[usize]) -> Fault {
    let at = |minutes| Duration::from_secs(minutes * 60);
    Fault { kind, when: When::At(vec![at(minute)]), lasts: at(minutes), nodes: nodes.to_vec() }
}

#[test]
fn nodes_converge_when_nothing_goes_wrong() {
    let outcome = run(&scenario(3), &subject(), 1, false).unwrap();
    assert!(outcome.passed(), "{:#?}\n{}", outcome.violations, outcome.log.join("\n"));
    assert!(outcome.converged_after.is_some());
    assert!(outcome.simulated >= Duration::from_secs(1200));
    assert!(outcome.nodes.iter().all(|node| node.ticks > 30 && node.failed_ticks == 0));
    assert!(outcome.nodes.iter().all(|node| node.fuel > 0 && node.pulls > 0));
    assert!(outcome.overhead().unwrap() >= 1.0);
}

#[test]
fn a_seed_makes_the_same_run_event_for_event() {
    let mut scenario = scenario(3);
    scenario.link.loss = 0.05;
    scenario.faults = vec![
        fault(FaultKind::Crash, 3, 2, &[0, 1, 2]),
        fault(FaultKind::Partition, 6, 3, &[1]),
        fault(FaultKind::BitFlip, 10, 3, &[0, 2]),
    ];
    let subject = subject();
    let runs = [7, 7, 8].map(|seed| run(&scenario, &subject, seed, true).unwrap());
    for (n, (a, b)) in runs[0].log.iter().zip(&runs[1].log).enumerate() {
        assert_eq!(a, b, "line {n}\n{}", runs[0].log[n.saturating_sub(20)..n].join("\n"));
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0].log_hash, runs[2].log_hash);
}

#[test]
fn nodes_converge_after_all_that_can_go_wrong() {
    let mut scenario = scenario(4);
    scenario.faults = vec![
        fault(FaultKind::Crash, 2, 1, &[0]),
        fault(FaultKind::Partition, 3, 3, &[0, 1]),
        fault(FaultKind::Slow { factor: 20.0 }, 5, 3, &[1]),
        fault(FaultKind::Hang, 6, 2, &[2]),
        fault(FaultKind::CutBody, 8, 2, &[3]),
        fault(FaultKind::BitFlip, 9, 2, &[0]),
        fault(FaultKind::LyingRoot, 10, 2, &[1]),
        fault(FaultKind::LyingManifest, 11, 2, &[2]),
        fault(FaultKind::DiskFull, 13, 2, &[3]),
        fault(FaultKind::Swap, 14, 2, &[0]),
        fault(FaultKind::ClockJump { by_secs: -40 }, 16, 2, &[1]),
    ];
    scenario.expect.converge_within = Duration::from_secs(3600);
    for seed in 0..3 {
        let outcome = run(&scenario, &subject(), seed, false).unwrap();
        assert!(outcome.passed(), "{seed}: {:#?}\n{}", outcome.violations, outcome.log.join("\n"));
        assert_eq!(outcome.faults.len(), 11);
    }
}

/// The build of these tests is another one than that of the program, whose runs are compared with
/// the same hashes by `tests/shipped.rs`, as are those of release builds.
#[test]
fn a_seed_makes_the_same_run_on_every_build() {
    let hashes = include_str!("../../../tests/fixtures/run-hashes.txt");
    let subject = subject();
    for name in ["crash-and-restart", "corrupt-peer", "swap-in-flight"] {
        let (_, scenario) = Scenario::shipped().find(|(known, _)| *known == name).unwrap();
        let outcome = run(&scenario, &subject, 1, false).unwrap();
        let line = format!("{name} {}", outcome.log_hash);
        assert!(hashes.lines().any(|known| known == line), "{line} is not among\n{hashes}");
    }
}

/// Found by a run of the storm: a node lost power, and its disk was full when it came back.
#[test]
fn a_node_whose_disk_is_full_is_started_again_when_there_is_room() {
    let mut scenario = scenario(3);
    scenario.faults = vec![
        fault(FaultKind::Crash, 5, 2, &[1]),
        fault(FaultKind::DiskFull, 6, 4, &[1]),
        // Until the end.
        fault(FaultKind::Crash, 18, 1, &[2]),
        fault(FaultKind::DiskFull, 18, 5, &[2]),
    ];
    scenario.expect.converge_within = Duration::from_secs(1800);
    let outcome = run(&scenario, &subject(), 1, true).unwrap();
    assert!(outcome.passed(), "{:#?}", outcome.violations);
    assert!(outcome.faults.iter().any(|span| span.what == "n1 does not start"));
}

#[test]
fn power_is_lost_while_all_wait_and_within_operations_of_a_disk() {
    let mut scenario = scenario(3);
    let crash = fault(FaultKind::Crash, 0, 1, &[0, 1, 2]);
    scenario.faults = vec![Fault { when: When::PerHour(40.0), ..crash }];
    scenario.expect.converge_within = Duration::from_secs(1800);
    let subject = subject();
    let (mut at_once, mut within, mut of_segments) = (0, 0, None);
    for seed in 0..4 {
        let outcome = run(&scenario, &subject, seed, true).unwrap();
        assert!(outcome.passed(), "{seed}: {:#?}", outcome.violations);
        let crashes = |what: &str| {
            let named = outcome.faults.iter().filter(|span| span.what.contains(what));
            named.count()
        };
        within += crashes("without power, between two operations");
        let planned = outcome.log.iter().filter(|line| line.contains("is to lose power")).count();
        at_once += crashes("without power") - planned;
        // Only a flush and an apply do something there, as nothing is compacted.
        let lost = |line: &&String| line.contains("loses power where") && line.contains("segments");
        if of_segments.is_none() && outcome.log.iter().any(|line| lost(&line)) {
            of_segments = Some(outcome);
        }
    }
    assert!(at_once > 0 && within > 0, "{at_once} and {within}");
    let first = of_segments.expect("none within a flush or an apply");
    assert_eq!(first, run(&scenario, &subject, first.seed, true).unwrap());
}

#[test]
fn clocks_that_drift_are_within_what_the_scenario_allows() {
    let mut scenario = scenario(3);
    scenario.clock_drift_ppm = 50_000;
    scenario.expect.converge_within = Duration::from_secs(1800);
    let subject = subject();
    let drifting = run(&scenario, &subject, 3, true).unwrap();
    assert!(drifting.passed(), "{:#?}", drifting.violations);
    assert_eq!(drifting, run(&scenario, &subject, 3, true).unwrap());
    // At the end, clocks that are a twentieth off are a minute off.
    let off = |line: &String| {
        let (at, stamp) = (line.split(' ').next()?, line.split_once(", stamp ")?.1);
        let (at, stamp): (f64, i64) = (at.parse().ok()?, stamp.parse().ok()?);
        Some((stamp as f64 / 1e9 - 1_735_689_600.0 - at).abs())
    };
    let most = |outcome: &Outcome| outcome.log.iter().filter_map(off).fold(0.0, f64::max);
    assert!((10.0..70.0).contains(&most(&drifting)), "{}", most(&drifting));
    scenario.clock_drift_ppm = 0;
    let exact = run(&scenario, &subject, 3, true).unwrap();
    assert!((0.0..2.0).contains(&most(&exact)), "{}", most(&exact));
}

#[test]
fn compactions_happen_beside_all_else_and_a_seed_still_makes_the_same_run() {
    let mut scenario = scenario(3);
    scenario.compact_interval = Some(Duration::from_secs(60));
    scenario.link.loss = 0.05;
    let crash = fault(FaultKind::Crash, 0, 1, &[0, 1, 2]);
    scenario.faults = vec![Fault { when: When::PerHour(20.0), ..crash }];
    scenario.expect.converge_within = Duration::from_secs(1800);
    let subject = subject();
    for seed in 0..2 {
        let outcome = run(&scenario, &subject, seed, true).unwrap();
        assert!(outcome.passed(), "{seed}: {:#?}", outcome.violations);
        let made = |line: &&String| line.contains(" compacts: ") && !line.contains("made 0");
        let compactions = outcome.log.iter().filter(made).count();
        assert!(compactions >= 5, "{compactions}");
        let again = run(&scenario, &subject, seed, true).unwrap();
        for (n, (a, b)) in outcome.log.iter().zip(&again.log).enumerate() {
            assert_eq!(a, b, "{seed}, line {n}");
        }
        assert_eq!(outcome, again);
    }
}

#[test]
fn a_full_disk_stays_full_when_its_node_loses_power() {
    let mut scenario = scenario(3);
    scenario.faults =
        vec![fault(FaultKind::DiskFull, 4, 8, &[1]), fault(FaultKind::Crash, 5, 1, &[1])];
    scenario.expect.converge_within = Duration::from_secs(1800);
    let outcome = run(&scenario, &subject(), 1, true).unwrap();
    assert!(outcome.passed(), "{:#?}", outcome.violations);
    assert!(outcome.faults.iter().any(|span| span.what == "n1 does not start"));
}

#[test]
fn a_node_is_down_until_the_last_of_its_crashes_is_over() {
    let mut scenario = scenario(3);
    scenario.faults =
        vec![fault(FaultKind::Crash, 5, 6, &[1]), fault(FaultKind::Crash, 7, 1, &[1])];
    for seed in 0..4 {
        let outcome = run(&scenario, &subject(), seed, true).unwrap();
        assert!(outcome.passed(), "{seed}: {:#?}", outcome.violations);
        let from = outcome.faults.iter().map(|span| span.from).min().unwrap();
        let until = outcome.faults.iter().map(|span| span.until).max().unwrap();
        let up = |divergence: &&Divergence| {
            divergence.at > from && divergence.at < until && divergence.behind[1].is_some()
        };
        let up = outcome.divergence.iter().filter(up).count();
        assert_eq!(up, 0, "{seed}: {:#?}", outcome.faults);
    }
}

/// With few writes and often a fault of this kind, on all nodes.
fn often(kind: FaultKind, per_hour: f64) -> Scenario {
    let mut scenario = scenario(3);
    scenario.compact_interval = Some(Duration::from_secs(120));
    scenario.writers[0].per_minute = 3.0;
    scenario.writers[0].expiring = 0.0;
    scenario.faults =
        vec![Fault { when: When::PerHour(per_hour), ..fault(kind, 0, 1, &[0, 1, 2]) }];
    scenario.faults[0].lasts = Duration::from_secs(10);
    scenario.expect.converge_within = Duration::from_secs(1800);
    scenario
}

/// Runs of some seeds that pass and can be repeated. Returns how many lines have this in them.
fn passes(scenario: &Scenario, what: &str) -> usize {
    let subject = subject();
    let mut count = 0;
    for seed in 0..3 {
        let outcome = run(scenario, &subject, seed, true).unwrap();
        assert!(outcome.passed(), "{seed}: {:#?}\n{}", outcome.violations, outcome.log.join("\n"));
        assert_eq!(outcome, run(scenario, &subject, seed, true).unwrap());
        count += outcome.log.iter().filter(|line| line.contains(what)).count();
    }
    count
}

#[test]
fn segment_files_that_vanish_come_again() {
    let lost = passes(&often(FaultKind::SegmentLost, 20.0), " is lost");
    assert!(lost >= 6, "{lost}");
}

#[test]
fn segment_files_that_change_are_noticed_and_repaired() {
    let repaired = passes(&often(FaultKind::SegmentDamaged, 20.0), " is repaired");
    // Most are pulled again before that.
    assert!(repaired >= 1, "{repaired}");
}

#[test]
fn a_restored_backup_gets_back_what_others_have() {
    let mut scenario = often(FaultKind::BackupRestored, 6.0);
    scenario.faults[0].lasts = Duration::from_secs(300);
    let restored = passes(&scenario, "ends: ");
    assert!(restored >= 3, "{restored}");
}

#[test]
fn writes_of_a_clock_that_is_far_ahead_stay_where_they_are_and_hold_back_nothing() {
    let mut scenario = often(FaultKind::ClockFarAhead { by_secs: 30 * 24 * 3600 }, 6.0);
    scenario.writers[0].expiring = 0.2;
    scenario.writers[0].ttl = Duration::from_secs(7200);
    scenario.faults[0].nodes = vec![1];
    scenario.faults[0].lasts = Duration::from_secs(120);
    let ahead = passes(&scenario, "begins: n1's clock is ahead");
    assert!(ahead >= 2, "{ahead}");
}
