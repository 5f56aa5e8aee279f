//! What a node knows of where the records of its segments lie.

use proptest::prelude::*;

use super::*;
use crate::record::store_key;

fn extents(engine: &Engine) -> Vec<Option<Extent>> {
    engine.extents().map(|(_, extent)| extent).collect()
}

fn stamp(engine: &Engine, ns: &[u8], key: &[u8]) -> i64 {
    engine.get_record(ns, key).unwrap().unwrap().timestamp
}

fn range(first: (&[u8], &[u8]), last: (&[u8], &[u8])) -> Option<KeyRange> {
    KeyRange::new(first, last)
}

fn entry(ns: &[u8], key: &[u8], timestamp: i64) -> Entry {
    let version = Version { timestamp, deleted: false, value: b"v".to_vec(), ttl: 0 };
    Entry { key: store_key(ns, key).unwrap(), version, lsn: 1 }
}

/// Namespaces are in the order of their bytes, unlike in a segment, where shorter ones are first.
#[test]
fn a_flush_notes_range_and_times_and_another_node_finds_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir.path().join("a"));
    engine.put(b"b", b"1", b"").unwrap();
    engine.put(b"b", b"2", b"").unwrap();
    engine.delete(b"aa", b"z").unwrap();
    engine.put(b"aa", b"m", b"").unwrap();
    let newest = stamp(&engine, b"aa", b"m");
    let (before, segment, after) = (now(), engine.flush().unwrap().unwrap(), now());

    let (meta, extent) = engine.extents().next().unwrap();
    let extent = extent.unwrap();
    assert_eq!(meta, segment);
    assert_eq!(extent.keys, range((b"aa", b"m"), (b"b", b"2")));
    assert_eq!(extent.newest, newest);
    assert!((before..=after).contains(&extent.created));

    let bytes = fs::read(engine.folder.segment(&segment.hash)).unwrap();
    let replica = open(&dir.path().join("b"));
    let mut staged = stage(&replica, &bytes);
    // Other tests leave it all to `apply`.
    replica.prepare(&mut staged);
    replica.apply(&mut staged).unwrap();
    // A segment does not say when it was made.
    assert_eq!(extents(&replica), [Some(Extent { created: newest, ..extent.clone() })]);

    drop((engine, replica));
    assert_eq!(extents(&open(&dir.path().join("a"))), [Some(extent.clone())]);
    let created = newest;
    assert_eq!(extents(&open(&dir.path().join("b"))), [Some(Extent { created, ..extent })]);
}

#[test]
fn a_segment_is_not_made_before_its_records() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    apply(&engine, &stamped(Duration::from_secs(60))).unwrap();
    // By the clock of the node, a minute ahead.
    engine.put(b"ns", b"later", b"").unwrap();
    let flushed = engine.flush().unwrap().unwrap();
    let newest = stamp(&engine, b"ns", b"later");
    let (_, extent) = engine.extents().find(|(segment, _)| *segment == flushed).unwrap();
    let keys = range((b"ns", b"later"), (b"ns", b"later"));
    assert_eq!(extent, Some(Extent { newest, created: newest, keys }));
}

#[test]
fn a_segment_in_disorder_is_measured_whole() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let entries = [(&b"b"[..], &b"x"[..], 1), (b"a", b"y", 9), (b"b", b"x", 4), (b"a", b"c", 2)];
    apply(&engine, &segment_of(&entries.map(|(ns, key, time)| entry(ns, key, time)))).unwrap();
    let keys = range((b"a", b"c"), (b"b", b"x"));
    assert_eq!(extents(&engine), [Some(Extent { newest: 9, created: 9, keys })]);
}

#[test]
fn a_compaction_notes_the_extent_of_what_it_makes_and_forgets_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    for key in [b"d", b"a", b"c", b"b"] {
        engine.put(b"ns", key, b"").unwrap();
        engine.flush().unwrap();
    }
    let newest = stamp(&engine, b"ns", b"b");
    let before = now();
    assert_eq!(engine.compact(&RateLimiter::unbounded()).unwrap().made, 1);
    let [Some(merged)] = &extents(&engine)[..] else { panic!("no extent") };
    assert_eq!(merged.keys, range((b"ns", b"a"), (b"ns", b"d")));
    assert_eq!(merged.newest, newest);
    assert!((before..=now()).contains(&merged.created));
    assert_eq!(engine.store.extents_from(0).count(), 1);

    let merged = merged.clone();
    drop(engine);
    assert_eq!(extents(&open(dir.path())), [Some(merged)]);
}

#[test]
fn a_repair_forgets_the_extents_of_what_it_gives_up() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.put(b"ns", b"a", b"").unwrap();
    let segment = engine.flush().unwrap().unwrap();
    let file = engine.folder.segment(&segment.hash);
    drop(engine);
    fs::remove_file(file).unwrap();
    let engine = open(dir.path());
    engine.verify(true, |_, _| {}).unwrap();
    assert_eq!(engine.store.extents_from(0).count(), 0);
    engine.flush().unwrap().unwrap();
    let [Some(again)] = &extents(&engine)[..] else { panic!("no extent") };
    assert_eq!(again.keys, range((b"ns", b"a"), (b"ns", b"a")));
}

/// As an earlier version of the host has left it.
#[test]
fn a_database_without_extents_opens_and_notes_those_of_new_segments() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    for key in [b"a", b"b"] {
        engine.put(b"ns", key, b"").unwrap();
        engine.flush().unwrap();
    }
    apply(&engine, &segment_of(&[entry(b"ns", b"c", 5)])).unwrap();
    let (root, expected, old) = (engine.root(), dump(&engine), engine.manifest());
    for segment in &old {
        engine.store.extents.remove(segment.id.to_be_bytes()).unwrap();
    }
    drop(engine);

    let engine = open(dir.path());
    assert_eq!((engine.root(), dump(&engine)), (root, expected));
    assert_eq!(extents(&engine), [None, None, None]);
    assert_eq!(engine.verify(false, |_, _| {}).unwrap().count, 0);
    engine.put(b"ns", b"d", b"").unwrap();
    engine.flush().unwrap();
    apply(&engine, &segment_of(&[entry(b"ns", b"e", 6)])).unwrap();
    assert_eq!(engine.manifest().len(), 5);
    for (segment, extent) in engine.extents() {
        assert_eq!(extent.is_none(), old.contains(&segment), "{segment:?}");
    }
}

#[test]
fn an_extent_that_can_not_be_read_is_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    for key in [b"a", b"b"] {
        engine.put(b"ns", key, b"").unwrap();
        engine.flush().unwrap();
    }
    let [first, last] = [0, 1].map(|n| engine.manifest()[n].id.to_be_bytes());
    for garbage in [&b""[..], &[1; 15], &[1; 20], &[0xff; 28]] {
        engine.store.extents.insert(last, garbage).unwrap();
        assert!(matches!(extents(&engine)[..], [Some(_), None]), "{garbage:?}");
    }
    engine.store.extents.insert(first, b"garbage").unwrap();
    assert_eq!(extents(&engine), [None, None]);
}

/// Keys of few different bytes, around the length at which ends are cut.
fn long_key() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0_u8), Just(1), Just(0xfe), Just(0xff)];
    prop_oneof![
        proptest::collection::vec(byte.clone(), 1..4),
        (byte, 60..70_usize, any::<[bool; 3]>()).prop_map(|(byte, len, changes)| {
            let mut key = vec![byte; len];
            for (at, change) in [0, len / 2, len - 1].into_iter().zip(changes) {
                key[at] ^= u8::from(change);
            }
            key
        }),
    ]
}

proptest! {
    #[test]
    fn a_range_covers_all_its_records_and_its_ends_are_short(
        entries in proptest::collection::vec((long_key(), long_key(), any::<i64>()), 1..8),
    ) {
        let mut sorted: Vec<_> =
            entries.iter().map(|(ns, key, time)| (store_key(ns, key).unwrap(), *time)).collect();
        sorted.sort();
        let mut measure = extent::Measure::new();
        sorted.iter().for_each(|(key, time)| measure.add(key, *time));
        let extent = measure.finish();
        prop_assert_eq!(Extent::decode(&extent.encode()), Some(extent.clone()));

        prop_assert_eq!(extent.newest, entries.iter().map(|entry| entry.2).max().unwrap());
        let ends = |(ns, key, _): &(Vec<u8>, Vec<u8>, i64)| (ns.clone(), key.clone());
        let (first, last) =
            (entries.iter().map(ends).min().unwrap(), entries.iter().map(ends).max().unwrap());
        let cut = |bytes: &[u8]| bytes[..bytes.len().min(64)].to_vec();
        let Some(keys) = extent.keys else {
            // Nothing is above what is left of the last one.
            let left = if last.0.len() > 64 { cut(&last.0) } else { cut(&last.1) };
            prop_assert_eq!(left, [0xff; 64]);
            return Ok(());
        };
        let short = |(ns, key): (&[u8], &[u8])| ns.len() <= 64 && key.len() <= 64;
        prop_assert!(short(keys.first()) && short(keys.last()));
        prop_assert!(keys.first() <= (&first.0[..], &first.1[..]));
        prop_assert!(keys.last() >= (&last.0[..], &last.1[..]));
        if first.0.len() <= 64 && first.1.len() <= 64 {
            prop_assert_eq!(keys.first(), (&first.0[..], &first.1[..]));
        }
        if last.0.len() <= 64 && last.1.len() <= 64 {
            prop_assert_eq!(keys.last(), (&last.0[..], &last.1[..]));
        }
    }
}
