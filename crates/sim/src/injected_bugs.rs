//! Faults of hosts, put in on purpose: simulations must find them.
//!
//! Those of policies are in `tests/planted.rs`. How many seeds find each is printed by
//! `cargo test -p edgestore-host --lib sim::plants -- --include-ignored --nocapture`.

use std::path::Path;

use edgestore_engine::disk::FaultyDisk;
use edgestore_policy_host::{Limits, PolicyEngine};

use super::*;

/// What is wrong with all hosts of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plant {
    /// Nothing.
    None,
    /// Of two records with equal stamps, each node keeps the one that it had first.
    TiesKeepLocal,
    /// The bytes of segments are not synced, whether pulled or made here.
    SegmentNotSynced,
    /// Nor are their names in the folder of segments.
    FolderNotSynced,
}

impl Plant {
    pub(super) fn ties_keep_local(self) -> bool {
        self == Self::TiesKeepLocal
    }

    /// To be called when the database is made: its other files are no part of the fault.
    pub(super) fn into_disk(self, disk: &FaultyDisk) {
        match self {
            Self::None | Self::TiesKeepLocal => {}
            // Segments are written there, synced and then moved.
            Self::SegmentNotSynced => disk.skip_syncs(Path::new("db/staging")),
            Self::FolderNotSynced => disk.skip_syncs(Path::new("db/segments")),
        }
    }
}

/// Three nodes write to the same keys in the same instants, and lose power.
const SCENARIO: &str = r#"
name = "planted"
nodes = 3
topology = "mesh"
duration = "10m"

[link]
latency = "20ms"
bandwidth = "1MiB"
loss = 0.02

[[writers]]
per_minute = 12
keys = 20
skew = 1.0
conflicts = 0.3
deletes = 0.1

[[faults]]
kind = "crash"
per_hour = 20
lasts = "20s"
"#;

const SEEDS: u64 = 20;

/// What the default policy runs into on hosts with this fault.
fn violations(plant: Plant, seed: u64) -> Vec<Violation> {
    let component = include_bytes!("../../../guest-sync/sync.wasm").to_vec();
    let engine = PolicyEngine::new(None, Limits::default()).unwrap();
    let subject = PolicyUnderTest::new(component, engine).unwrap().on_hosts_with(plant);
    let scenario = Scenario::parse(SCENARIO, "planted.toml").unwrap();
    run(&scenario, &subject, seed, false).unwrap().violations
}

/// Looks for the fault, seed by seed. With the same seeds, nothing is found on sound hosts.
fn find(plant: Plant, invariant: Invariant) {
    for seed in 0..SEEDS {
        let sound = violations(Plant::None, seed);
        assert!(sound.is_empty(), "{seed}: {sound:#?}");
        let found = violations(plant, seed);
        if !found.is_empty() {
            eprintln!("{plant:?}: seeds needed: {}; {:?}", seed + 1, found[0]);
            assert!(found.iter().any(|one| one.invariant == invariant), "{found:#?}");
            return;
        }
    }
    panic!("{plant:?} is not found with {SEEDS} seeds");
}

#[test]
fn a_merge_that_keeps_the_local_value_on_ties_is_found() {
    find(Plant::TiesKeepLocal, Invariant::Convergence);
}

#[test]
fn a_segment_that_is_not_synced_is_found() {
    find(Plant::SegmentNotSynced, Invariant::Integrity);
}

#[test]
fn a_folder_of_segments_that_is_not_synced_is_found() {
    find(Plant::FolderNotSynced, Invariant::Integrity);
}

#[test]
#[ignore = "takes a minute; the figures in docs/simulation.md"]
fn how_many_seeds_find_each() {
    for plant in [Plant::TiesKeepLocal, Plant::SegmentNotSynced, Plant::FolderNotSynced] {
        let found = (0..SEEDS).filter(|seed| !violations(plant, *seed).is_empty()).count();
        eprintln!("{plant:?}: found with {found} of {SEEDS} seeds");
        assert!(found > 0);
    }
    for seed in 0..SEEDS {
        let sound = violations(Plant::None, seed);
        assert!(sound.is_empty(), "{seed}: {sound:#?}");
    }
}
