//! Scenarios by chance, all of them such as a file can say.

use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::subsequence;

use super::read::MAX_DRIFT_PPM;
use super::values::{LONGEST, MAX_VALUE_BYTES};
use super::{Expect, Fault, FaultKind, Link, Scenario, Topology, When, Writer};

/// Any scenario.
pub(crate) fn scenario() -> BoxedStrategy<Scenario> {
    (2..=100_usize, time(1)).prop_flat_map(|(nodes, duration)| of(nodes, duration)).boxed()
}

fn of(nodes: usize, duration: Duration) -> impl Strategy<Value = Scenario> {
    let head = ("[a-z0-9]{1,4}(-[a-z0-9]{1,4}){0,3}", any::<String>(), topology(nodes), link());
    let intervals = (time(1_000_000), time(1_000_000), option::of(time(1_000_000)));
    let times = (intervals, time(0), 0..=MAX_DRIFT_PPM);
    let writers = vec(writer(nodes), 0..4);
    let faults = vec(fault(nodes, duration), 0..5);
    (head, times, settings(), writers, faults, expect()).prop_map(
        move |(head, times, settings, writers, faults, expect)| {
            let (name, about, topology, link) = head;
            let (intervals, clock_skew, clock_drift_ppm) = times;
            let (interval, flush_interval, compact_interval) = intervals;
            Scenario {
                name,
                about,
                nodes,
                topology,
                link,
                duration,
                interval,
                flush_interval,
                compact_interval,
                clock_skew,
                clock_drift_ppm,
                settings,
                writers,
                faults,
                expect,
            }
        },
    )
}

/// From this many nanoseconds.
fn time(least: u64) -> BoxedStrategy<Duration> {
    let most = LONGEST.as_nanos() as u64;
    let round = (1..=LONGEST.as_secs()).prop_map(Duration::from_secs);
    prop_oneof![
        round,
        (least..=most).prop_map(Duration::from_nanos),
        Just(Duration::from_nanos(least))
    ]
    .boxed()
}

fn share() -> BoxedStrategy<f64> {
    prop_oneof![Just(0.0), Just(1.0), 0.0..=1.0].boxed()
}

fn topology(nodes: usize) -> BoxedStrategy<Topology> {
    let degrees = if nodes == 2 { 1..=1 } else { 2..=nodes - 1 };
    prop_oneof![
        Just(Topology::Star),
        Just(Topology::Ring),
        Just(Topology::Mesh),
        degrees.prop_map(|degree| Topology::Random { degree }),
        (2..=nodes, link()).prop_map(|(regions, between)| Topology::Wan { regions, between }),
    ]
    .boxed()
}

fn link() -> BoxedStrategy<Link> {
    (time(0), time(0), option::of(1..=u64::MAX), share())
        .prop_map(|(latency, jitter, bandwidth, loss)| Link { latency, jitter, bandwidth, loss })
        .boxed()
}

fn settings() -> BoxedStrategy<Vec<(String, String)>> {
    let keys = proptest::collection::btree_set("[^=]{1,6}", 0..4);
    (keys, vec(any::<String>(), 4))
        .prop_map(|(keys, values)| keys.into_iter().zip(values).collect())
        .boxed()
}

/// Some, each once.
fn some_of(nodes: usize, most: usize) -> BoxedStrategy<Vec<usize>> {
    let all: Vec<_> = (0..nodes).collect();
    let some = subsequence(all.clone(), 1..=most);
    prop_oneof![some.clone(), some.prop_shuffle(), Just(all[..most].to_vec())].boxed()
}

fn writer(nodes: usize) -> BoxedStrategy<Writer> {
    let sizes = (1..=MAX_VALUE_BYTES, 1..=MAX_VALUE_BYTES);
    let sizes = sizes.prop_map(|(a, b)| (a.min(b), a.max(b)));
    let rates = (0.001..=60_000.0, 1..=1_000_000_u64, 0.0..=5.0);
    let shares = (share(), share(), share());
    let ttl = (1..=LONGEST.as_secs()).prop_map(Duration::from_secs);
    (some_of(nodes, nodes), rates, shares, ttl, sizes)
        .prop_map(|(nodes, (per_minute, keys, skew), shares, ttl, value_bytes)| {
            let (conflicts, deletes, expiring) = shares;
            Writer { nodes, per_minute, keys, skew, conflicts, deletes, expiring, ttl, value_bytes }
        })
        .boxed()
}

fn kind() -> BoxedStrategy<FaultKind> {
    let year = LONGEST.as_secs() as i64;
    let jump = prop_oneof![-year..=-1, 1..=year];
    prop_oneof![
        Just(FaultKind::Partition),
        Just(FaultKind::Crash),
        (1.0..=100_000.0).prop_map(|factor| FaultKind::Slow { factor }),
        Just(FaultKind::Hang),
        Just(FaultKind::CutBody),
        Just(FaultKind::BitFlip),
        Just(FaultKind::LyingRoot),
        Just(FaultKind::LyingManifest),
        Just(FaultKind::DiskFull),
        Just(FaultKind::Swap),
        jump.prop_map(|by_secs| FaultKind::ClockJump { by_secs }),
        (1..=year).prop_map(|by_secs| FaultKind::ClockFarAhead { by_secs }),
        Just(FaultKind::SegmentLost),
        Just(FaultKind::SegmentDamaged),
        Just(FaultKind::BackupRestored),
    ]
    .boxed()
}

fn fault(nodes: usize, duration: Duration) -> BoxedStrategy<Fault> {
    let last = duration.as_nanos() as u64 - 1;
    let times = proptest::collection::btree_set(0..=last, 1..4);
    let times = times.prop_map(|times| times.into_iter().map(Duration::from_nanos).collect());
    let when = prop_oneof![times.prop_map(When::At), (0.001..=3600.0).prop_map(When::PerHour),];
    (kind(), when.boxed(), time(1))
        .prop_flat_map(move |(kind, when, lasts)| {
            let most = if kind == FaultKind::Partition { nodes - 1 } else { nodes };
            some_of(nodes, most).prop_map(move |nodes| Fault {
                kind: kind.clone(),
                when: when.clone(),
                lasts,
                nodes,
            })
        })
        .boxed()
}

fn expect() -> BoxedStrategy<Expect> {
    (time(1), option::of(1.0..=1_000_000.0))
        .prop_map(|(converge_within, max_overhead)| Expect { converge_within, max_overhead })
        .boxed()
}
