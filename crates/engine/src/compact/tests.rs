//! Whatever is compacted and when: reads stay the same, and so does what a new replica gets.

use std::fs;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::disk::test_folder;
use crate::record::{Version, store_key};
use crate::segment::{self, Entry};
use crate::testing::{self, TestClock};
use crate::{EngineOptions, Record, StagedSegment, WallClock, WriteBatch};

fn open(path: &Path, grace: Duration) -> Engine {
    open_at(path, grace, WallClock::default())
}

fn open_at(path: &Path, grace: Duration, clock: WallClock) -> Engine {
    let options = EngineOptions {
        clock,
        sync_writes: false,
        cache_bytes: 1 << 20,
        filter_bytes: 64 << 10,
        tombstone_grace: grace,
        ..EngineOptions::default()
    };
    let engine = Engine::open_with(path, options).unwrap();
    engine.trust_wall_clock();
    engine
}

/// Longer than anything here is old.
const LONG: Duration = Duration::from_secs(1 << 33);

fn compact(engine: &Engine) -> Compacted {
    engine.compact(&RateLimiter::unbounded()).unwrap()
}

fn dump(engine: &Engine) -> Vec<(Vec<u8>, Record)> {
    let mut all = Vec::new();
    for ns in engine.namespaces().unwrap() {
        let records = engine.range(&ns, b"", None).unwrap();
        all.extend(records.map(|record| (ns.clone(), record.unwrap())));
    }
    all
}

fn stage(engine: &Engine, bytes: &[u8]) -> StagedSegment {
    let mut file = engine.stage().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    file.verify(Hash::of(bytes)).unwrap()
}

/// What a peer of version 1 does: it asks for all that it does not have, by hash.
fn pull(to: &Engine, from: &Engine) -> usize {
    let hashes: Vec<Hash> = from.manifest().iter().map(|segment| segment.hash).collect();
    let missing = to.missing(&hashes);
    for hash in &missing {
        let bytes = fs::read(from.folder.segment(hash)).unwrap();
        to.apply(&mut stage(to, &bytes)).unwrap();
    }
    missing.len()
}

fn check(engine: &Engine) {
    let found = engine.verify(false, |_, _| {}).unwrap();
    assert_eq!(found.count, 0, "{:?}", found.problems);
    let dir = test_folder();
    let replica = open(dir.path(), LONG);
    pull(&replica, engine);
    let pending = engine.stats().pending_records;
    assert!(pending > 0 || dump(&replica) == dump(engine), "a new replica has other records");
}

fn put_many(engine: &Engine, keys: std::ops::Range<u32>, value: u32) {
    for key in keys {
        engine.put(b"ns", &key.to_be_bytes(), &value.to_be_bytes()).unwrap();
    }
}

#[test]
fn what_is_superseded_is_retired_and_never_pulled_again() {
    let dir = test_folder();
    let engine = open(&dir.path().join("a"), LONG);
    put_many(&engine, 0..10, 1);
    let old = engine.flush().unwrap().unwrap();
    let bytes = fs::read(engine.folder.segment(&old.hash)).unwrap();
    put_many(&engine, 0..10, 2);
    let new = engine.flush().unwrap().unwrap();
    let mut reading = engine.range(b"ns", b"", None).unwrap();
    assert_eq!(reading.next().unwrap().unwrap().value, 2_u32.to_be_bytes());

    let done = compact(&engine);
    assert_eq!((done.retired, done.made, done.stopped), (1, 0, false));
    assert_eq!(engine.manifest(), std::slice::from_ref(&new));
    assert_eq!(reading.count(), 9, "a read goes on");
    assert!(engine.has(&old.hash) && engine.missing(&[old.hash]).is_empty());
    assert!(engine.apply(&mut stage(&engine, &bytes)).unwrap().duplicate);
    // A peer that is about to pull it still can, until the next compaction.
    assert!(engine.open_segment(&old.hash).unwrap().is_some());
    compact(&engine);
    assert!(engine.open_segment(&old.hash).unwrap().is_none());
    assert_eq!(fs::read_dir(dir.path().join("a/segments")).unwrap().count(), 1);
    check(&engine);

    drop(engine);
    let engine = open(&dir.path().join("a"), LONG);
    assert!(engine.missing(&[old.hash]).is_empty(), "it is remembered");
    assert_eq!((engine.manifest(), engine.stats().retired_segments), (vec![new], 1));
}

/// What is beneath tombstones is written down some at a time, and taken away so.
#[test]
fn many_deletes_take_the_memory_of_a_few() {
    const KEYS: u32 = 2 * forget::CHUNK as u32 + 5_000;
    let dir = test_folder();
    let clock = TestClock::new();
    let grace = Duration::from_secs(1000);
    let engine = open_at(dir.path(), grace, clock.wall());
    let write = |deletes: bool| {
        let mut batch = WriteBatch::new();
        for key in 0..KEYS {
            match deletes {
                true => batch.delete(b"ns", &key.to_be_bytes()),
                false => batch.put(b"ns", &key.to_be_bytes(), b"value", None),
            }
        }
        engine.write(batch).unwrap();
        engine.flush().unwrap().unwrap()
    };
    let shadowed = || engine.store.shadowed.iter().count();
    let old = write(false);
    write(true);
    let segment = engine.index().get(&old.hash).unwrap().clone();
    let mut under = engine.nothing_shadowed(engine.horizon());
    engine.note_shadowed(&segment, &mut under, &RateLimiter::unbounded()).unwrap();
    assert!(under.keys.len() < forget::CHUNK, "{}", under.keys.len());

    assert_eq!((compact(&engine).retired, shadowed()), (1, KEYS as usize));
    clock.advance(2 * grace);
    engine.trust_wall_clock();
    assert_eq!((compact(&engine).forgotten, shadowed()), (u64::from(KEYS), 0));
    check(&engine);
}

#[test]
fn small_segments_become_one_and_a_replica_follows() {
    let dir = test_folder();
    let (a, b) = (open(&dir.path().join("a"), LONG), open(&dir.path().join("b"), LONG));
    for i in 0..20 {
        put_many(&a, i * 5..i * 5 + 10, i);
        a.flush().unwrap();
        if i == 10 {
            pull(&b, &a);
        }
    }
    let expected = dump(&a);
    let done = compact(&a);
    assert_eq!((done.merged, done.made, a.manifest().len()), (20, 1, 1));
    assert_eq!(dump(&a), expected);
    check(&a);

    assert_eq!(pull(&b, &a), 1, "one segment brings all that is new");
    assert_eq!(b.manifest().len(), 12);
    compact(&b);
    assert_eq!((b.manifest().len(), b.root(), dump(&b)), (1, a.root(), expected));
    check(&b);
    // Nothing is left to do.
    assert_eq!((compact(&a), compact(&b)), Default::default());
}

#[test]
fn only_those_who_wrote_a_segment_merge_it() {
    let dir = test_folder();
    let (a, b) = (open(&dir.path().join("a"), LONG), open(&dir.path().join("b"), LONG));
    for i in 0..8 {
        put_many(&a, i * 10..i * 10 + 10, i);
        a.flush().unwrap();
    }
    pull(&b, &a);
    assert_eq!(compact(&b), Compacted::default());
    assert_eq!(b.manifest().len(), 8);
}

#[test]
fn a_tombstone_stays_for_the_grace_period_and_as_long_as_it_has_something_to_hide() {
    let dir = test_folder();
    for grace in [LONG, Duration::ZERO] {
        let engine = open(&dir.path().join(format!("{grace:?}")), grace);
        put_many(&engine, 0..10, 1);
        let first = engine.flush().unwrap().unwrap();
        for key in 0..5_u32 {
            engine.delete(b"ns", &key.to_be_bytes()).unwrap();
        }
        let second = engine.flush().unwrap().unwrap();
        let done = compact(&engine);
        // The first segment still has the values that were deleted.
        assert_eq!((done.forgotten, engine.manifest()), (0, vec![first.clone(), second.clone()]));
        check(&engine);

        put_many(&engine, 5..10, 2);
        let third = engine.flush().unwrap().unwrap();
        let retired = compact(&engine);
        let forgotten = if grace == LONG { 0 } else { 5 };
        assert_eq!((retired.retired, retired.forgotten), (1, forgotten), "{grace:?}");
        compact(&engine);
        let left = if grace == LONG { vec![second, third] } else { vec![third] };
        assert_eq!((engine.manifest(), dump(&engine).len()), (left, 5), "{grace:?}");
        check(&engine);
    }
}

#[test]
fn what_has_expired_is_forgotten() {
    let dir = test_folder();
    let clock = TestClock::new();
    let engine = open_at(dir.path(), Duration::from_millis(100), clock.wall());
    engine.put_with_ttl(b"ns", b"k", &[7; 1000], Duration::from_secs(1)).unwrap();
    engine.flush().unwrap();
    assert_eq!(compact(&engine).forgotten, 0);
    clock.advance(Duration::from_millis(1200));
    assert_eq!(compact(&engine).forgotten, 1);
    assert_eq!((compact(&engine).retired, engine.manifest().len()), (1, 0));
    assert_eq!(engine.verify(false, |_, _| {}).unwrap().records, 0);
}

#[test]
fn a_compaction_stops_at_once_and_goes_on_later() {
    let dir = test_folder();
    let engine = open(dir.path(), LONG);
    for i in 0..8 {
        put_many(&engine, i * 1000..i * 1000 + 1000, i);
        engine.flush().unwrap();
    }
    // So slow that it would take longer than the test waits.
    let limiter = RateLimiter::new(Some(100));
    std::thread::scope(|scope| {
        let compacting = scope.spawn(|| engine.compact(&limiter).unwrap());
        std::thread::sleep(Duration::from_millis(200));
        let start = std::time::Instant::now();
        limiter.stop();
        assert!(compacting.join().unwrap().stopped);
        assert!(start.elapsed() < testing::LONG);
    });
    assert_eq!(engine.manifest().len(), 8);
    check(&engine);
    assert_eq!((compact(&engine).made, engine.manifest().len()), (1, 1));
    assert_eq!(fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
}

/// The only copy of a record's segment is gone, and another segment holds the record: that one
/// stays, although it brought nothing new.
#[test]
fn a_segment_that_stands_in_for_a_lost_one_stays() {
    let dir = test_folder();
    let (path, other) = (dir.path().join("a"), open(&dir.path().join("b"), LONG));
    let engine = open(&path, LONG);
    put_many(&engine, 0..10, 1);
    let lost = engine.flush().unwrap().unwrap();
    pull(&other, &engine);
    // The peer makes a segment of its own that holds half of it.
    let version = |key: u32| {
        let record = other.get_record(b"ns", &key.to_be_bytes()).unwrap().unwrap();
        Version { timestamp: record.timestamp, deleted: false, value: record.value, ttl: 0 }
    };
    let entries = (0..5).map(|key: u32| {
        let store_key = store_key(b"ns", &key.to_be_bytes()).unwrap();
        Ok::<_, std::io::Error>(Entry { key: store_key, version: version(key), lsn: 1 })
    });
    let mut half = Vec::new();
    segment::write(&mut half, entries).unwrap();
    drop(engine);
    fs::remove_file(path.join(format!("segments/{}.dat", lost.hash))).unwrap();

    let engine = open(&path, LONG);
    assert_eq!(engine.apply(&mut stage(&engine, &half)).unwrap().skipped, 5);
    compact(&engine);
    assert_eq!(engine.manifest().len(), 1);
    engine.verify(true, |_, _| {}).unwrap();
    compact(&engine);
    engine.flush().unwrap();
    compact(&engine);
    check(&engine);
}

/// A peer has pulled a segment that is then retired, and not yet the tombstone for what is in it.
#[test]
fn a_tombstone_stays_for_peers_that_have_pulled_what_it_deletes() {
    let dir = test_folder();
    let (grace, clock) = (Duration::from_secs(2), TestClock::new());
    let engine = open_at(&dir.path().join("a"), grace, clock.wall());
    let peer = open_at(&dir.path().join("b"), LONG, clock.wall());
    put_many(&engine, 0..2, 1);
    engine.flush().unwrap();
    pull(&peer, &engine);
    engine.delete(b"ns", &0_u32.to_be_bytes()).unwrap();
    put_many(&engine, 1..3, 2);
    engine.flush().unwrap();
    clock.advance(grace);
    let first = compact(&engine);
    assert_eq!((first.retired, first.forgotten, compact(&engine).forgotten), (1, 0, 0));
    pull(&peer, &engine);
    assert_eq!(dump(&peer), dump(&engine));
    check(&engine);
    clock.advance(grace);
    assert_eq!(compact(&engine).forgotten, 1);
}

#[derive(Debug, Clone)]
enum Step {
    Put(usize, u8, u8),
    Delete(usize, u8),
    Flush(usize),
    Apply(usize, Vec<(u8, i64, Option<bool>)>),
    Pull(usize),
    Compact(usize),
    Reopen(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (node, key) = (0..2_usize, 0..12_u8);
    // They often hold the very same versions.
    let ancient = proptest::collection::vec((0..5_u8, 1..3_i64, any::<Option<bool>>()), 1..6);
    prop_oneof![
        4 => (node.clone(), key.clone(), any::<u8>()).prop_map(|(n, k, v)| Step::Put(n, k, v)),
        2 => (node.clone(), key).prop_map(|(n, k)| Step::Delete(n, k)),
        4 => node.clone().prop_map(Step::Flush),
        1 => (node.clone(), ancient).prop_map(|(n, entries)| Step::Apply(n, entries)),
        2 => node.clone().prop_map(Step::Pull),
        3 => node.clone().prop_map(Step::Compact),
        1 => node.prop_map(Step::Reopen),
    ]
}

/// A segment of somebody else's, from long ago.
fn ancient(entries: &[(u8, i64, Option<bool>)]) -> Vec<u8> {
    let mut entries: Vec<_> = entries
        .iter()
        .map(|&(key, timestamp, value)| {
            let (deleted, value) = (value.is_none(), value.into_iter().map(u8::from).collect());
            let version = Version { timestamp, deleted, value, ttl: 0 };
            Entry { key: store_key(b"ns", &[key]).unwrap(), version, lsn: 1 }
        })
        .collect();
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    entries.dedup_by(|a, b| a.key == b.key);
    segment_of(entries)
}

fn segment_of(entries: Vec<Entry>) -> Vec<u8> {
    let mut bytes = Vec::new();
    segment::write(&mut bytes, entries.into_iter().map(Ok::<_, std::io::Error>)).unwrap();
    bytes
}

fn entry(key: &[u8], timestamp: i64) -> Entry {
    let version = Version { timestamp, deleted: false, value: b"v".to_vec(), ttl: 0 };
    Entry { key: store_key(b"ns", key).unwrap(), version, lsn: 1 }
}

fn apply(engine: &Engine, keys: &[&[u8]], timestamp: i64) -> Hash {
    let bytes = segment_of(keys.iter().map(|key| entry(key, timestamp)).collect());
    engine.apply(&mut stage(engine, &bytes)).unwrap();
    Hash::of(&bytes)
}

#[test]
fn a_segment_with_a_key_twice_takes_over_nothing() {
    let dir = test_folder();
    let engine = open(dir.path(), LONG);
    apply(&engine, &[b"a", b"b"], 1);
    apply(&engine, &[b"a", b"a"], 1);
    compact(&engine);
    assert_eq!(engine.manifest().len(), 2);
    check(&engine);
}

/// Segments that overlap without holding each other: what one took over, it must hold.
#[test]
fn what_a_segment_took_over_goes_on_only_to_one_that_holds_it() {
    let dir = test_folder();
    let engine = open(dir.path(), LONG);
    apply(&engine, &[b"e", b"q"], 1);
    apply(&engine, &[b"a", b"z"], 1);
    apply(&engine, &[b"a", b"c", b"d"], 1);
    apply(&engine, &[b"a", b"e", b"z"], 1);
    compact(&engine);
    check(&engine);
    apply(&engine, &[b"q", b"z"], 2);
    for _ in 0..3 {
        compact(&engine);
        check(&engine);
    }
}

/// A merged segment is lost, and given up by a repair: what is written after that has ids of its
/// own, whatever was taken over before.
#[test]
fn an_id_is_never_used_again() {
    let dir = test_folder();
    let (a, path) = (open(&dir.path().join("a"), LONG), dir.path().join("b"));
    let mut b = open(&path, LONG);
    for i in 0..4 {
        put_many(&a, i * 10..i * 10 + 10, i);
        a.flush().unwrap();
        pull(&b, &a);
    }
    compact(&a);
    pull(&b, &a);
    compact(&b);
    let [merged] = &b.manifest()[..] else { panic!("not merged") };
    let file = path.join(format!("segments/{}.dat", merged.hash));
    drop(b);
    fs::remove_file(file).unwrap();
    b = open(&path, LONG);
    b.verify(true, |_, _| {}).unwrap();
    drop(b);
    b = open(&path, LONG);
    for i in 10..15 {
        b.flush().unwrap();
        put_many(&b, i * 10..i * 10 + 10, i);
        compact(&b);
        check(&b);
    }
    b.flush().unwrap();
    compact(&b);
    check(&b);
}

/// A peer may still have an older version of what a tombstone hides, in a segment that was lost
/// here.
#[test]
fn nothing_is_forgotten_while_a_lost_segment_may_come_back() {
    let dir = test_folder();
    let (peer, path) = (open(&dir.path().join("peer"), LONG), dir.path().join("a"));
    let (grace, clock) = (Duration::from_secs(2), TestClock::new());
    let engine = open_at(&path, grace, clock.wall());
    put_many(&engine, 0..3, 1);
    let lost = engine.flush().unwrap().unwrap().hash;
    pull(&peer, &engine);
    engine.delete(b"ns", &1_u32.to_be_bytes()).unwrap();
    engine.flush().unwrap();
    drop(engine);
    fs::remove_file(path.join(format!("segments/{lost}.dat"))).unwrap();
    clock.advance(grace);
    let engine = open_at(&path, grace, clock.wall());
    engine.verify(true, |_, _| {}).unwrap();
    engine.flush().unwrap();
    assert_eq!((compact(&engine).forgotten, compact(&engine).forgotten), (0, 0));
    assert_eq!(pull(&engine, &peer), 1);
    assert_eq!(dump(&engine).len(), 2, "what was deleted is back");
    compact(&engine);
    check(&engine);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// Two nodes that write, pull and compact in any order. With a long grace period, both have
    /// the same records and segments in the end; with none, nothing old comes after a compaction.
    #[test]
    fn no_compaction_changes_what_nodes_and_replicas_read(
        mut steps in proptest::collection::vec(step(), 1..60),
        forgets in any::<bool>(),
        foreign in any::<bool>(),
    ) {
        let dir = test_folder();
        let grace = if forgets { Duration::ZERO } else { LONG };
        let path = |node: usize| dir.path().join(node.to_string());
        let mut nodes = vec![open(&path(0), grace), open(&path(1), grace)];
        let mut compacted = false;
        steps.retain(|step| foreign || !matches!(step, Step::Apply(..)));
        let overlaps = steps.iter().any(|step| matches!(step, Step::Apply(..)));
        for step in steps {
            compacted |= matches!(step, Step::Compact(_));
            match step {
                Step::Put(n, key, value) => drop(nodes[n].put(b"ns", &[key], &[value]).unwrap()),
                Step::Delete(n, key) => drop(nodes[n].delete(b"ns", &[key]).unwrap()),
                Step::Flush(n) => drop(nodes[n].flush().unwrap()),
                // What was forgotten, they may bring back.
                Step::Pull(_) | Step::Apply(..) if forgets && compacted => {}
                Step::Apply(n, entries) => {
                    let mut staged = stage(&nodes[n], &ancient(&entries));
                    nodes[n].apply(&mut staged).unwrap();
                }
                Step::Pull(n) => drop(pull(&nodes[n], &nodes[1 - n])),
                Step::Compact(n) => {
                    let before = dump(&nodes[n]);
                    compact(&nodes[n]);
                    prop_assert_eq!(dump(&nodes[n]), before);
                    check(&nodes[n]);
                }
                Step::Reopen(n) => {
                    let before = dump(&nodes[n]);
                    nodes.insert(n, open(&dir.path().join("spare"), grace));
                    drop(nodes.remove(n + 1));
                    nodes.insert(n, open(&path(n), grace));
                    drop(nodes.remove(n + 1));
                    prop_assert_eq!(dump(&nodes[n]), before);
                }
            }
        }
        for node in &nodes {
            node.flush().unwrap();
        }
        nodes.iter().for_each(check);
        if !forgets {
            for _ in 0..4 {
                pull(&nodes[0], &nodes[1]);
                pull(&nodes[1], &nodes[0]);
                for node in &nodes {
                    compact(node);
                }
            }
            prop_assert_eq!(dump(&nodes[0]), dump(&nodes[1]));
            prop_assert_eq!((pull(&nodes[0], &nodes[1]), pull(&nodes[1], &nodes[0])), (0, 0));
            // With segments of others that overlap, nodes may keep different ones.
            if !overlaps {
                prop_assert_eq!(nodes[0].root(), nodes[1].root());
            }
            nodes.iter().for_each(check);
        }
    }
}
