//! Against a model: a map from key to the greatest record.

use proptest::prelude::*;

use super::*;

/// Few keys, so that they meet: prefixes of each other, 0xff, namespaces that are prefixes.
fn key() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let ns = prop::sample::select(vec![&b"\0"[..], b"a", b"ab", b"b", b"\xff", b"\xff\xff"]);
    let key = prop::sample::select(vec![&b"\0"[..], b"k", b"k\0", b"kk", b"\xff", b"\xff\xff"]);
    (ns, key).prop_map(|(ns, key)| (ns.to_vec(), key.to_vec()))
}

/// Timestamps that tie often, in the past and in the future.
fn entry() -> impl Strategy<Value = Entry> {
    let timestamp = prop::sample::select(vec![i64::MIN, 0, 1, 2, now() + (1 << 60), i64::MAX]);
    let value = prop::sample::select(vec![&b""[..], b"x", b"xx", b"y"]);
    let version = (timestamp, any::<bool>(), value, prop::sample::select(vec![0, 1, u32::MAX]));
    (key(), version, any::<u64>()).prop_map(|((ns, key), version, lsn)| {
        let (timestamp, deleted, value, ttl) = version;
        let value = if deleted { Vec::new() } else { value.to_vec() };
        let key = record::store_key(&ns, &key).unwrap();
        Entry { key, version: Version { timestamp, deleted, value, ttl }, lsn }
    })
}

fn segments() -> impl Strategy<Value = Vec<Vec<Entry>>> {
    proptest::collection::vec(proptest::collection::vec(entry(), 1..12), 1..6)
}

/// The model of the merge: the greatest version of each key.
fn model(segments: &[Vec<Entry>]) -> BTreeMap<Vec<u8>, Version<Vec<u8>>> {
    let mut model = BTreeMap::new();
    for entry in segments.iter().flatten() {
        let there = model.entry(entry.key.clone()).or_insert_with(|| entry.version.clone());
        *there = entry.version.clone().max(there.clone());
    }
    model
}

fn live(model: &BTreeMap<Vec<u8>, Version<Vec<u8>>>) -> Dump {
    let live = model.iter().filter(|(_, version)| version.is_live(now()));
    let record = |(key, version): (&Vec<u8>, &Version<Vec<u8>>)| {
        let (ns, key) = record::split(key).unwrap();
        let Version { timestamp, value, ttl, .. } = version.clone();
        ((ns.to_vec(), key.to_vec()), Record { key: key.to_vec(), value, timestamp, ttl })
    };
    live.map(record).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_order_and_repetition_of_segments_ends_in_the_same_records(
        segments in segments(),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let bytes: Vec<_> = segments.iter().map(|entries| segment_of(entries)).collect();
        let expected = live(&model(&segments));
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        let order = order.iter().map(|index| index.index(bytes.len())).chain(0..bytes.len());
        for i in order {
            let known = engine.has(&Hash::of(&bytes[i]));
            prop_assert_eq!(apply(&engine, &bytes[i]).unwrap().duplicate, known);
        }
        prop_assert_eq!(dump(&engine), expected.clone());
        prop_assert_eq!(engine.root(), Hash::root(engine.manifest().iter().map(|s| s.hash)));
        drop(engine);
        prop_assert_eq!(dump(&open(dir.path())), expected);
    }

    #[test]
    fn counts_of_an_apply_add_up(segments in segments()) {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        for entries in &segments {
            let applied = apply(&engine, &segment_of(entries)).unwrap();
            if !applied.duplicate {
                prop_assert_eq!(applied.written + applied.skipped, entries.len() as u64);
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put((Vec<u8>, Vec<u8>), Vec<u8>),
    Expire((Vec<u8>, Vec<u8>)),
    Delete((Vec<u8>, Vec<u8>)),
    Flush,
    Apply(Vec<Entry>),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let past = entry().prop_map(|mut entry| {
        // What wins over any local write is another test's.
        entry.version.timestamp = entry.version.timestamp.min(2);
        entry
    });
    prop_oneof![
        4 => (key(), proptest::collection::vec(any::<u8>(), 0..4)).prop_map(|(k, v)| Step::Put(k, v)),
        1 => key().prop_map(Step::Expire),
        2 => key().prop_map(Step::Delete),
        1 => Just(Step::Flush),
        2 => proptest::collection::vec(past, 1..6).prop_map(Step::Apply),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A node and a replica that gets nothing but its segments agree with the model.
    #[test]
    fn local_writes_win_over_what_was_there_and_reach_a_replica(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut engine = open(&path);
        // Of live records: value, and whether it may expire.
        let mut model: BTreeMap<(Vec<u8>, Vec<u8>), Vec<u8>> = BTreeMap::new();
        let mut versions: BTreeMap<Vec<u8>, Version<Vec<u8>>> = BTreeMap::new();
        let mut local: std::collections::HashSet<(Vec<u8>, Vec<u8>)> = Default::default();
        for step in steps {
            match step {
                Step::Put(k, v) => {
                    engine.put(&k.0, &k.1, &v).unwrap();
                    local.insert(k.clone());
                    model.insert(k, v);
                }
                Step::Expire(k) => {
                    engine.put_with_ttl(&k.0, &k.1, b"short", Duration::from_nanos(1)).unwrap();
                    engine.delete(&k.0, &k.1).unwrap();
                    local.insert(k.clone());
                    model.remove(&k);
                }
                Step::Delete(k) => {
                    engine.delete(&k.0, &k.1).unwrap();
                    local.insert(k.clone());
                    model.remove(&k);
                }
                Step::Flush => drop(engine.flush().unwrap()),
                Step::Apply(entries) => {
                    apply(&engine, &segment_of(&entries)).unwrap();
                    for entry in entries {
                        let there = versions.entry(entry.key).or_insert(entry.version.clone());
                        *there = entry.version.max(there.clone());
                    }
                    for (key, record) in live(&versions) {
                        if !local.contains(&key) {
                            model.insert(key, record.value);
                        }
                    }
                    let dead = |key: &(Vec<u8>, Vec<u8>)| {
                        let key = record::store_key(&key.0, &key.1).unwrap();
                        versions.get(&key).is_some_and(|version| !version.is_live(now()))
                    };
                    model.retain(|key, _| local.contains(key) || !dead(key));
                }
                Step::Reopen => {
                    drop(engine);
                    engine = open(&path);
                }
            }
            let read: BTreeMap<_, _> =
                dump(&engine).into_iter().map(|(key, record)| (key, record.value)).collect();
            prop_assert_eq!(&read, &model);
        }
        engine.flush().unwrap();
        let replica = open(&dir.path().join("b"));
        for segment in engine.manifest().iter().rev() {
            let bytes = fs::read(engine.folder.segment(&segment.hash)).unwrap();
            prop_assert_eq!(Hash::of(&bytes), segment.hash);
            apply(&replica, &bytes).unwrap();
        }
        prop_assert_eq!(dump(&replica), dump(&engine));
        prop_assert_eq!(replica.root(), engine.root());
    }
}
