//! Each strategy of `examples/` against the default policy, where it is meant to be better: the
//! components in the real host, between real engines, over lines with latency and bounds.
//!
//! What is compared are counts wherever that says it. `docs/strategies.md` has the numbers; each
//! test prints them.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgestore_host::engine::Engine;
use edgestore_host::policy::{Limits, Policy};
use edgestore_host::protocol::PeerTransport;
use edgestore_host::runtime::PeerStatus;
use edgestore_host::{Hash, Host};
use edgestore_host_tests::lines::{Line, duplicates};
use edgestore_host_tests::policies::example;
use edgestore_host_tests::replica::{Replica, load};
use edgestore_host_tests::{LONG, open};

const HOUR: Duration = Duration::from_secs(3600);

/// Compares what takes real time. Whatever else the machine does disturbs that, and the less the
/// slower the lines are: a comparison that fails is repeated on lines that are so many times slower.
fn on_ever_slower_lines(compare: impl Fn(u32) -> anyhow::Result<()>) {
    for slower in [1, 2, 5] {
        match compare(slower) {
            Ok(()) => return,
            Err(error) => eprintln!("on lines that are {slower} times slower: {error}"),
        }
    }
    panic!("on no lines");
}

/// A node that has something to give.
struct Source {
    engine: Arc<Engine>,
    dir: tempfile::TempDir,
}

impl Source {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(&dir.path().join("source"));
        Self { engine, dir }
    }

    /// One segment of one record that does not compress.
    fn segment(&self, namespace: &str, bytes: usize) -> Hash {
        let mut random = fastrand::Rng::with_seed(self.engine.manifest().len() as u64);
        let value: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(bytes).collect();
        let key = random.u64(..).to_be_bytes();
        self.engine.put(namespace.as_bytes(), &key, &value).unwrap();
        // Some milliseconds tell one segment from the next: that is how peers tell of ages.
        std::thread::sleep(Duration::from_millis(2));
        self.engine.flush().unwrap().unwrap().hash
    }

    fn segments(&self, count: usize, namespace: &str, bytes: usize) -> Vec<Hash> {
        (0..count).map(|_| self.segment(namespace, bytes)).collect()
    }

    /// A new node that pulls over these lines.
    fn replica(&self, name: &str, lines: &[&Arc<Line>]) -> Replica {
        Replica::open(&self.dir.path().join(name), &transports(lines))
    }
}

fn transports(lines: &[&Arc<Line>]) -> Vec<Arc<dyn PeerTransport>> {
    lines.iter().map(|line| Arc::clone(line) as _).collect()
}

/// The policy of an example and the default one; returns where the example can't be built.
macro_rules! policies {
    ($name:literal) => {
        match example($name) {
            Some(file) => (load(Some(&file)), load(None)),
            None => return,
        }
    };
}

#[test]
fn newest_first_has_the_newest_records_after_the_first_tick() {
    let (strategy, default) = policies!("newest-first");
    let source = Source::new();
    let all = source.segments(40, "log", 20_000);
    // As large as a window less than a tick pulls at least.
    let newest = &all[34..];
    // The newest there are, and ticks until the last record is here.
    let outcome = |name, policy: &Policy| {
        let line = Arc::new(Line::to(&source.engine));
        let replica = source.replica(name, &[&line]);
        let tick = || {
            line.up_for(210_000);
            replica.tick(policy)
        };
        tick();
        let (first, newest) = (replica.has(&all), replica.has(newest));
        let mut ticks = 1;
        while replica.has(&all[39..]) == 0 {
            tick();
            ticks += 1;
        }
        while !tick().in_sync {}
        assert_eq!(replica.engine.root(), source.engine.root());
        eprintln!(
            "{name}: {newest} of the 6 newest in a first tick of {first}; the newest in tick {ticks}"
        );
        (newest, ticks)
    };
    assert_eq!(outcome("newest-first", &strategy), (6, 1));
    let (newest, ticks) = outcome("default", &default);
    assert!(newest == 0 && ticks >= 3, "{newest}, {ticks}");
}

#[test]
fn smallest_first_gets_more_of_the_same_bytes_and_keeps_to_them_over_a_restart() {
    const BUDGET: u64 = 450_000;
    let (strategy, default) = policies!("smallest-first");
    let source = Source::new();
    let mut all = source.segments(5, "images", 200_000);
    all.extend(source.segments(25, "readings", 3_000));

    let line = Arc::new(Line::to(&source.engine));
    let by_default = source.replica("default", &[&line]);
    line.up_for(BUDGET);
    by_default.tick(&default);
    // Some came and were thrown away when the line went down.
    let (segments, bytes) = (line.counts().fetched.len(), line.counts().bytes);
    eprintln!("default: {segments} segments of {bytes} bytes");

    let line = Arc::new(Line::to(&source.engine));
    let replica = |at: Duration| {
        let replica = source.replica("smallest-first", &[&line]);
        replica.set_time(at);
        replica.setting("bytes-per-hour", &BUDGET.to_string())
    };
    let first = replica(12 * HOUR);
    let report = first.tick(&strategy);
    let (more, pulled) = (first.has(&all), line.counts().bytes);
    eprintln!("smallest-first: {more} segments of {pulled} bytes");
    assert!(pulled <= BUDGET && pulled <= bytes && more >= 5 * segments, "{more}, {pulled}");
    assert_eq!(report.next_tick, Some(HOUR));
    for minutes in [1, 30] {
        first.set_time(12 * HOUR + Duration::from_secs(60 * minutes));
        first.tick(&strategy);
    }
    drop(first);
    let restarted = replica(13 * HOUR - Duration::from_secs(1));
    restarted.tick(&strategy);
    assert_eq!(line.counts().bytes, pulled, "the hour is not over");

    // Hour by hour the rest, and never more than the budget.
    let mut before = pulled;
    for hour in 13..20 {
        restarted.set_time(hour * HOUR);
        restarted.tick(&strategy);
        let now = line.counts().bytes;
        assert!(now - before <= BUDGET, "{} bytes in hour {hour}", now - before);
        before = now;
    }
    assert_eq!(restarted.engine.root(), source.engine.root());
}

#[test]
fn priority_namespaces_completes_the_urgent_one_while_bulk_is_still_coming() {
    let (strategy, default) = policies!("priority-namespaces");
    let source = Source::new();
    let mut alerts = Vec::new();
    for _ in 0..6 {
        source.segments(6, "bulk", 20_000);
        alerts.push(source.segment("alerts", 1_000));
    }
    let outcome = |name, policy: &Policy| {
        let line = Arc::new(Line::to(&source.engine));
        let mut replica = source.replica(name, &[&line]);
        if name != "default" {
            replica = replica.setting("namespaces", "alerts");
        }
        line.up_for(160_000);
        let report = replica.tick(policy);
        let here = replica.has(&alerts);
        line.up_for(u64::MAX);
        while !replica.tick(policy).in_sync {}
        let fetched = line.counts().fetched;
        let fetches = 1 + fetched.iter().rposition(|hash| alerts.contains(hash)).unwrap();
        eprintln!(
            "{name}: {here} of 6 alerts after a tick of {}; all after {fetches} fetches",
            report.applied
        );
        assert!(report.pending > 0, "bulk is still coming: {report:?}");
        (here, fetches)
    };
    assert_eq!(outcome("priority-namespaces", &strategy), (6, 6));
    let (here, fetches) = outcome("default", &default);
    assert!(here <= 2 && fetches == 42, "{here}, {fetches}");
}

#[test]
fn night_window_pulls_no_bulk_in_daytime_and_all_of_it_at_night() {
    let (strategy, default) = policies!("night-window");
    let source = Source::new();
    let bulk = source.segments(8, "video", 200_000);
    let small = source.segments(8, "readings", 1_000);
    let outcome = |name, policy: &Policy| {
        let line = Arc::new(Line::to(&source.engine));
        let replica = source.replica(name, &[&line]).interval(24 * HOUR);
        let replica = if name == "default" {
            replica
        } else {
            replica.setting("from", "23:30").setting("to", "05:00").setting("utc-offset", "+01:00")
        };
        replica.set_time(9 * HOUR);
        let report = replica.tick(policy);
        let (by_day, bytes) = (replica.has(&bulk), line.counts().bytes);
        assert_eq!(replica.has(&small), 8);
        eprintln!("{name}: {by_day} of 8 bulk segments by day, {bytes} bytes in all");
        (by_day, bytes, report.next_tick, replica)
    };
    let (by_day, bytes, next_tick, replica) = outcome("night-window", &strategy);
    assert!(by_day == 0 && bytes <= 8 * 8192, "{by_day}, {bytes}");
    assert_eq!(next_tick, Some(HOUR * 27 / 2), "at half past ten in UTC");
    for (at, expected) in [(HOUR * 45 / 2 - Duration::from_secs(1), 0), (HOUR * 45 / 2, 8)] {
        replica.set_time(at);
        replica.tick(&strategy);
        assert_eq!(replica.has(&bulk), expected, "at {at:?}");
    }
    assert_eq!(replica.engine.root(), source.engine.root());
    assert_eq!(outcome("default", &default).0, 8);
}

/// Pulls once over all lines at the same time, with a host of its own. Says how long that took.
fn run_once(
    dir: &Path,
    policy: Option<&Path>,
    settings: &[(&str, &str)],
    lines: &[&Arc<Line>],
) -> (Arc<Engine>, Vec<PeerStatus>, Duration) {
    let engine = open(dir);
    let limits = Limits { tick_timeout: 2 * LONG, ..Limits::default() };
    let mut host = Host::builder(Arc::clone(&engine)).limits(limits);
    for (name, transport) in ('a'..).zip(transports(lines)) {
        host = host.transport(name.to_string(), transport);
    }
    if let Some(file) = policy {
        host = host.plugin(file);
    }
    for (key, value) in settings {
        host = host.setting(*key, *value);
    }
    let start = Instant::now();
    let statuses = host.run_once().unwrap();
    (engine, statuses, start.elapsed())
}

/// Bytes over each of three lines.
fn shares(lines: &[Arc<Line>]) -> Vec<u64> {
    lines.iter().map(|line| line.counts().bytes).collect()
}

/// Whether each is between a half and one and a half of an equal share.
fn are_about_equal(shares: &[u64]) -> bool {
    let third = shares.iter().sum::<u64>() / 3;
    shares.iter().all(|&share| share > third / 2 && share < third * 3 / 2)
}

#[test]
fn multi_peer_spread_takes_equal_shares_where_one_peer_is_due_and_each_segment_once() {
    let (strategy, default) = policies!("multi-peer-spread");
    let source = Source::new();
    let all = source.segments(60, "log", 20_000);
    let outcome = |name, policy: &Policy, slower| {
        let rate = u64::from(800_000 / slower);
        let lines = [(); 3].map(|()| Arc::new(Line::to(&source.engine).bytes_per_sec(rate)));
        let replica = source.replica(&format!("{name}-{slower}"), &lines.each_ref());
        let start = Instant::now();
        assert!(replica.tick(policy).in_sync && replica.has(&all) == 60);
        let (took, shares) = (start.elapsed(), shares(&lines));
        assert_eq!(duplicates(&lines.each_ref().map(|line| &**line)), 0);
        eprintln!("{name}, one tick: {shares:?} bytes in {took:?}");
        (shares, took)
    };
    on_ever_slower_lines(|slower| {
        let (shares, took) = outcome("multi-peer-spread", &strategy, slower);
        anyhow::ensure!(are_about_equal(&shares), "{shares:?}");
        let (shares, by_default) = outcome("default", &default, slower);
        assert_eq!(shares[1..], [0, 0]);
        anyhow::ensure!(took < by_default * 3 / 4, "{took:?} and {by_default:?}");
        Ok(())
    });
}

#[test]
fn multi_peer_spread_pulls_nothing_twice_while_the_ticks_of_all_peers_run_side_by_side() {
    let Some(strategy) = example("multi-peer-spread") else { return };
    let source = Source::new();
    source.segments(60, "log", 20_000);
    let outcome = |name, policy, slower| {
        let rate = u64::from(800_000 / slower);
        let lines = [(); 3].map(|()| Arc::new(Line::to(&source.engine).bytes_per_sec(rate)));
        let dir = source.dir.path().join(format!("{name}-{slower}"));
        let (engine, _, took) = run_once(&dir, policy, &[], &lines.each_ref());
        assert_eq!(engine.root(), source.engine.root());
        let (shares, twice) = (shares(&lines), duplicates(&lines.each_ref().map(|line| &**line)));
        eprintln!("{name}, three ticks: {shares:?} bytes, {twice} fetched twice, in {took:?}");
        (shares, twice)
    };
    on_ever_slower_lines(|slower| {
        let (shares, twice) = outcome("multi-peer-spread", Some(&*strategy), slower);
        assert_eq!(twice, 0);
        anyhow::ensure!(are_about_equal(&shares), "{shares:?}");
        Ok(())
    });
    outcome("default", None, 1);
}

#[test]
fn multi_peer_spread_leaves_to_a_hub_what_it_alone_has() {
    let Some(strategy) = example("multi-peer-spread") else { return };
    let (hub, edges) = (Source::new(), [Source::new(), Source::new()]);
    for edge in &edges {
        edge.segments(20, "log", 20_000);
        let (engine, transport) = (Arc::clone(&hub.engine), Line::to(&edge.engine));
        Host::builder(engine).transport("edge", Arc::new(transport)).run_once().unwrap();
    }
    hub.segments(20, "log", 20_000);
    let outcome = |name, policy, slower| {
        let rate = u64::from(400_000 / slower);
        let nodes = [&hub, &edges[0], &edges[1]];
        let lines = nodes.map(|node| Arc::new(Line::to(&node.engine).bytes_per_sec(rate)));
        let dir = hub.dir.path().join(format!("{name}-{slower}"));
        let (engine, _, took) = run_once(&dir, policy, &[], &lines.each_ref());
        assert_eq!(engine.root(), hub.engine.root());
        let fetches = lines[0].counts().fetched.len();
        eprintln!("{name}: {fetches} of 60 segments from the hub, in {took:?}");
        fetches
    };
    // Twenty it has to give.
    on_ever_slower_lines(|slower| {
        let fetches = outcome("multi-peer-spread", Some(&*strategy), slower);
        let by_default = outcome("default", None, slower);
        anyhow::ensure!(fetches < by_default && fetches <= 25, "{fetches}, {by_default}");
        Ok(())
    });
}

#[test]
fn bandwidth_adaptive_needs_less_time_on_a_long_way_with_enough_bandwidth() {
    let Some(strategy) = example("bandwidth-adaptive") else { return };
    let source = Source::new();
    source.segments(120, "log", 2_000);
    on_ever_slower_lines(|slower| {
        let policies = [("bandwidth-adaptive", Some(&*strategy)), ("default", None)];
        let [took, by_default] = policies.map(|(name, policy)| {
            let line = Line::to(&source.engine).latency_ms(150 * u64::from(slower));
            let dir = source.dir.path().join(format!("{name}-{slower}"));
            let (engine, _, took) = run_once(&dir, policy, &[], &[&Arc::new(line)]);
            assert_eq!(engine.root(), source.engine.root());
            eprintln!("{name}: {took:?}");
            took
        });
        anyhow::ensure!(took < by_default * 5 / 6, "{took:?} and {by_default:?}");
        Ok(())
    });
}

#[test]
fn bandwidth_adaptive_is_refused_less_by_a_small_peer_than_a_large_window() {
    let (strategy, default) = policies!("bandwidth-adaptive");
    let source = Source::new();
    let all = source.segments(80, "log", 2_000);
    let outcome = |name, policy, slower| {
        let line = Line::to(&source.engine).latency_ms(20 * u64::from(slower)).most_fetches(3);
        let line = Arc::new(line);
        let replica = source.replica(&format!("{name}-{slower}"), &[&line]).setting("window", "64");
        replica.tick(policy);
        let (here, refused) = (replica.has(&all), line.counts().refused);
        eprintln!("{name}: {here} of 80 segments in the first tick, {refused} fetches refused");
        (here, refused)
    };
    on_ever_slower_lines(|slower| {
        let (here, refused) = outcome("bandwidth-adaptive", &strategy, slower);
        let (fewer, more) = outcome("default", &default, slower);
        anyhow::ensure!(here == 80 && fewer < 80, "{here}, {fewer}");
        anyhow::ensure!(refused * 3 / 2 < more, "{refused}, {more}");
        Ok(())
    });
}
