//! What the engine promises, checked against a model: a map from key to the greatest record.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::record::{Version, now};
use super::segment::Entry;
use super::*;

fn fast() -> EngineOptions {
    EngineOptions {
        sync_writes: false,
        cache_bytes: 1 << 20,
        max_clock_ahead: Duration::MAX,
        ..EngineOptions::default()
    }
}

fn open(path: &Path) -> Engine {
    Engine::open_with(path, fast()).unwrap()
}

fn segment_of(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let entries = entries.iter().cloned().map(Ok::<_, io::Error>);
    segment::write(&mut bytes, entries).unwrap();
    bytes
}

fn stage(engine: &Engine, bytes: &[u8]) -> StagedSegment {
    let mut file = engine.stage().unwrap();
    file.write_all(bytes).unwrap();
    file.verify(Hash::of(bytes)).unwrap()
}

fn apply(engine: &Engine, bytes: &[u8]) -> Result<Applied, ApplyError> {
    engine.apply(&mut stage(engine, bytes))
}

type Dump = BTreeMap<(Vec<u8>, Vec<u8>), Record>;

fn dump(engine: &Engine) -> Dump {
    let mut all = Dump::new();
    for ns in engine.namespaces().unwrap() {
        for record in engine.range(&ns, b"", None).unwrap() {
            let record = record.unwrap();
            assert_eq!(engine.get_record(&ns, &record.key).unwrap().as_ref(), Some(&record));
            all.insert((ns.clone(), record.key.clone()), record);
        }
    }
    all
}

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

#[test]
fn ranges_and_prefixes_are_those_of_a_sorted_map() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let keys = [&b"a"[..], b"a\0", b"ab", b"b", b"b\xff", b"b\xff\xff", b"\xff", b"\xff\xff"];
    for key in keys {
        for ns in [&b"n"[..], b"n\xff", b"m"] {
            engine.put(ns, key, key).unwrap();
        }
    }
    let range = |start: &[u8], end: Option<&[u8]>| -> Vec<Vec<u8>> {
        engine.range(b"n", start, end).unwrap().map(|record| record.unwrap().key).collect()
    };
    let prefix = |prefix: &[u8]| -> Vec<Vec<u8>> {
        engine.prefix(b"n", prefix).unwrap().map(|record| record.unwrap().key).collect()
    };
    assert_eq!(range(b"", None), keys);
    for start in keys {
        for end in keys {
            let expected: Vec<_> =
                keys.iter().filter(|key| **key >= start && **key < end).collect();
            assert_eq!(range(start, Some(end)).iter().collect::<Vec<_>>(), expected);
        }
        let expected: Vec<_> = keys.iter().filter(|key| key.starts_with(start)).collect();
        assert_eq!(prefix(start).iter().collect::<Vec<_>>(), expected);
    }
    assert_eq!(prefix(b""), keys);
    assert_eq!(engine.namespaces().unwrap(), [&b"m"[..], b"n", b"n\xff"]);
}

#[test]
fn a_range_is_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.put(b"ns", b"a", b"1").unwrap();
    engine.put(b"ns", b"b", b"1").unwrap();
    let mut range = engine.range(b"ns", b"", None).unwrap();
    engine.put(b"ns", b"b", b"2").unwrap();
    engine.put(b"ns", b"c", b"2").unwrap();
    engine.delete(b"ns", b"a").unwrap();
    let values: Vec<_> = range.by_ref().map(|record| record.unwrap().value).collect();
    assert_eq!(values, [b"1", b"1"]);
}

#[test]
fn an_expired_record_is_absent_and_a_ttl_travels() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (open(&dir.path().join("a")), open(&dir.path().join("b")));
    a.put_with_ttl(b"ns", b"short", b"v", Duration::from_millis(3500)).unwrap();
    a.put_with_ttl(b"ns", b"long", b"v", Duration::from_secs(3600)).unwrap();
    assert_eq!(a.get_record(b"ns", b"short").unwrap().unwrap().ttl, 4, "begun seconds count");
    let hash = a.flush().unwrap().unwrap().hash;
    apply(&b, &fs::read(a.folder.segment(&hash)).unwrap()).unwrap();
    assert_eq!(dump(&a).len(), 2);
    std::thread::sleep(Duration::from_millis(4100));
    for engine in [&a, &b] {
        assert_eq!(engine.get(b"ns", b"short").unwrap(), None);
        assert_eq!(dump(engine).len(), 1);
        assert_eq!(engine.get_record(b"ns", b"long").unwrap().unwrap().ttl, 3600);
    }
    for ttl in [Duration::ZERO, Duration::from_secs(1 << 32)] {
        assert!(matches!(a.put_with_ttl(b"ns", b"k", b"", ttl), Err(EngineError::Ttl)));
    }
}

/// A segment of one record, stamped this long from now.
fn stamped(ahead: Duration) -> Vec<u8> {
    let timestamp = now() + i64::try_from(ahead.as_nanos()).unwrap();
    let version = Version { timestamp, deleted: false, value: b"theirs".to_vec(), ttl: 0 };
    segment_of(&[Entry { key: record::store_key(b"ns", b"k").unwrap(), version, lsn: 1 }])
}

#[test]
fn no_stamp_goes_back_whatever_the_clocks_of_peers_and_restarts_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = Engine::open(dir.path()).unwrap();
    let ahead = Duration::from_secs(200);
    apply(&engine, &stamped(ahead)).unwrap();
    let stamp =
        |engine: &Engine, key: &[u8]| engine.get_record(b"ns", key).unwrap().unwrap().timestamp;
    let mut last = stamp(&engine, b"k");
    for i in 0..6_u8 {
        engine.put(b"ns", &[i % 2], &[i]).unwrap();
        assert!(stamp(&engine, &[i % 2]) > last);
        last = stamp(&engine, &[i % 2]);
        if i % 3 == 1 {
            drop(engine);
            engine = Engine::open(dir.path()).unwrap();
        }
    }
    engine.put(b"ns", b"k", b"ours").unwrap();
    assert_eq!(engine.get(b"ns", b"k").unwrap().unwrap(), b"ours");
}

#[test]
fn a_record_from_too_far_in_the_future_waits() {
    let dir = tempfile::tempdir().unwrap();
    let bound = Duration::from_secs(2);
    let options = EngineOptions { max_clock_ahead: bound, ..fast() };
    let engine = Engine::open_with(dir.path(), options).unwrap();
    engine.put(b"ns", b"k", b"ours").unwrap();
    let mut staged = stage(&engine, &stamped(Duration::from_secs(8)));
    let error = engine.apply(&mut staged).unwrap_err();
    assert!(matches!(&error, ApplyError::ClockAhead { ahead, .. } if *ahead >= bound));
    assert!(error.to_string().contains("s ahead") && error.to_string().contains("NTP"), "{error}");
    assert_eq!(engine.get(b"ns", b"k").unwrap().unwrap(), b"ours");
    assert!(engine.manifest().is_empty());
    std::thread::sleep(Duration::from_millis(6200));
    assert_eq!(engine.apply(&mut staged).unwrap().written, 1);
    let far = apply(&engine, &stamped(Duration::from_secs(1 << 32))).unwrap_err();
    assert!(far.to_string().contains("years"), "{far}");
}

#[test]
fn a_batch_is_done_as_a_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut batch = WriteBatch::new();
    batch.put(b"ns", b"a", b"1", None);
    batch.put(b"ns", b"b", b"1", None);
    batch.delete(b"ns", b"a");
    batch.put(b"ns", b"b", b"2", None);
    assert_eq!((batch.len(), engine.write(batch.clone()).unwrap()), (4, 4));
    assert_eq!(engine.get(b"ns", b"a").unwrap(), None);
    assert_eq!(engine.get(b"ns", b"b").unwrap().unwrap(), b"2");
    let mut other = batch.clone();
    batch.put(b"ns", b"", b"no key", None);
    assert!(matches!(engine.write(batch), Err(EngineError::EmptyKey)));
    other.put(b"", b"k", b"no namespace", None);
    assert!(matches!(engine.write(other), Err(EngineError::EmptyNamespace)));
    assert_eq!(engine.write(WriteBatch::new()).unwrap(), 4, "nothing was numbered");
    assert_eq!(engine.flush().unwrap().unwrap().records, 2, "the delete goes to peers");
    assert_eq!(engine.watermark(), Watermark { confirmed_lsn: 4, write_token: 0 });
}

#[test]
fn sizes_beyond_the_format_are_refused_and_those_at_the_limit_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let longest = vec![0xff; MAX_KEY - 2];
    engine.put(b"ns", &longest, b"v").unwrap();
    assert_eq!(engine.prefix(b"ns", &longest).unwrap().count(), 1);
    let longer = vec![0xff; MAX_KEY - 1];
    let error = engine.put(b"ns", &longer, b"v").unwrap_err();
    assert!(matches!(error, EngineError::KeyTooLong { bytes } if bytes == MAX_KEY + 1));
    assert!(!error.is_storage());
    assert_eq!(engine.get(b"ns", &longer).unwrap(), None);

    let largest = vec![7; MAX_RECORD - 29 - 5];
    engine.put(b"ns", b"k", &largest).unwrap();
    let larger = vec![7; largest.len() + 1];
    let error = engine.put(b"ns", b"k", &larger).unwrap_err();
    assert!(matches!(error, EngineError::RecordTooLarge { bytes } if bytes == MAX_RECORD + 1));

    let hash = engine.flush().unwrap().unwrap().hash;
    let replica = open(&dir.path().join("replica"));
    apply(&replica, &fs::read(engine.folder.segment(&hash)).unwrap()).unwrap();
    assert_eq!(replica.get(b"ns", b"k").unwrap(), Some(largest));
}

#[test]
fn writes_flush_themselves_when_they_are_many() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open_with(dir.path(), EngineOptions { flush_bytes: 10_000, ..fast() });
    let engine = engine.unwrap();
    for i in 0..50_u32 {
        engine.put(b"ns", &i.to_be_bytes(), &[0; 500]).unwrap();
    }
    let stats = engine.stats();
    assert_eq!((stats.segments, stats.segment_records + stats.pending_records), (2, 50));
    assert!(stats.pending_bytes < 10_000 && stats.disk_bytes > stats.segment_bytes);
    drop(engine);
    let reopened = open(dir.path()).stats();
    assert_eq!((reopened.pending_bytes, reopened.segments), (stats.pending_bytes, 2));
}

#[test]
fn pending_writes_numbers_and_tokens_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    assert_eq!(engine.put(b"ns", b"a", b"1").unwrap(), 1);
    engine.set_write_token(9).unwrap();
    drop(engine);
    let engine = open(dir.path());
    assert_eq!(engine.watermark(), Watermark { confirmed_lsn: 0, write_token: 9 });
    assert_eq!(engine.put(b"ns", b"b", b"1").unwrap(), 2);
    assert_eq!(engine.flush().unwrap().unwrap().records, 2);
    drop(engine);
    let engine = open(dir.path());
    assert_eq!(engine.flush().unwrap(), None);
    assert_eq!(engine.watermark(), Watermark { confirmed_lsn: 2, write_token: 9 });
}

#[test]
fn a_pending_write_that_a_peer_overtakes_is_not_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.put(b"ns", b"k", b"ours").unwrap();
    let version = Version { timestamp: i64::MAX, deleted: true, value: Vec::new(), ttl: 0 };
    let key = record::store_key(b"ns", b"k").unwrap();
    apply(&engine, &segment_of(&[Entry { key, version, lsn: 1 }])).unwrap();
    assert_eq!(engine.stats().pending_records, 0);
    assert_eq!(engine.flush().unwrap(), None);
    drop(engine);
    assert_eq!(open(dir.path()).stats().pending_bytes, 0);
}

#[test]
fn one_engine_at_a_time_and_no_foreign_folder() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let engine = open(&path);
    let error = Engine::open(&path).unwrap_err();
    assert!(matches!(&error, EngineError::Locked { path: locked } if *locked == path));
    drop(engine);
    drop(open(&path));

    fs::write(path.join("FORMAT"), "edgestore-host 3\n").unwrap();
    let error = Engine::open(&path).unwrap_err().to_string();
    assert!(error.contains("edgestore-host 3"), "{error}");

    let project = dir.path().join("project");
    fs::create_dir_all(project.join("staging")).unwrap();
    fs::write(project.join("staging/release-notes"), "precious").unwrap();
    let error = Engine::open(&project).unwrap_err().to_string();
    assert!(error.contains("staging") && error.contains("folder of its own"), "{error}");
    assert!(project.join("staging/release-notes").exists() && !project.join("LOCK").exists());

    let stock = dir.path().join("stock");
    fs::create_dir(&stock).unwrap();
    fs::write(stock.join("manifest.mf"), "").unwrap();
    let error = Engine::open(&stock).unwrap_err().to_string();
    assert!(error.contains("folder of its own"), "{error}");
    assert_eq!(fs::read_dir(&stock).unwrap().count(), 1, "it was touched");
}

/// A kill while a database is being made leaves one of these, and the next start goes on.
#[test]
fn a_half_made_database_is_made_whole() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    drop(open(&whole));
    for (n, left) in ["", "segments", "records.new", "records"].into_iter().enumerate() {
        let path = dir.path().join(n.to_string());
        fs::create_dir_all(path.join("staging")).unwrap();
        fs::write(path.join("LOCK"), "").unwrap();
        fs::write(path.join("staging/fetch-abc.part"), "edgesto").unwrap();
        match left {
            "" => {}
            // What the record store itself can't open.
            "records.new" => {
                fs::create_dir(path.join(left)).unwrap();
                fs::write(path.join("records.new/0.jnl"), "").unwrap();
            }
            "records" => fs::rename(whole.join(left), path.join(left)).unwrap(),
            _ => fs::create_dir(path.join(left)).unwrap(),
        }
        open(&path).put(b"ns", b"k", b"v").unwrap();
        assert_eq!(open(&path).get(b"ns", b"k").unwrap().unwrap(), b"v", "{left}");
        assert!(!path.join("records.new").exists());
    }
    // A whole one without its records is no new one: its segments may be all that is left.
    let error = Engine::open(&whole).unwrap_err().to_string();
    assert!(error.contains("records is missing"), "{error}");
}

/// Whatever a failed commit did on the disk: the file stays for it, and the segment can be applied
/// by a later start as well as by this one.
#[test]
fn after_a_failed_commit_nothing_is_written_and_nothing_is_lost() {
    use std::sync::atomic::Ordering;
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.put(b"ns", b"own", b"1").unwrap();
    let bytes = stamped(Duration::ZERO);
    let mut staged = stage(&engine, &bytes);
    // Fails after the file has its name.
    let (mut other, meta) = (
        stage(&engine, &bytes),
        Registration {
            meta: SegmentMeta {
                id: 9,
                hash: Hash::of(&bytes),
                bytes: bytes.len() as u64,
                records: 1,
            },
            own: false,
            tied: false,
            drained: true,
        },
    );
    engine.store.poisoned.store(true, Ordering::Relaxed);
    let batch = engine.store.batch(PersistMode::SyncAll);
    assert!(engine.commit_with(batch, &mut other, &meta).unwrap_err().is_storage());
    assert!(engine.folder.segment(&meta.meta.hash).exists());
    for error in [
        engine.apply(&mut staged).map(drop).unwrap_err().to_string(),
        engine.put(b"ns", b"own", b"2").map(drop).unwrap_err().to_string(),
        engine.flush().map(drop).unwrap_err().to_string(),
        engine.stage().map(drop).unwrap_err().to_string(),
    ] {
        assert!(error.contains("restart"), "{error}");
    }
    assert_eq!(engine.get(b"ns", b"own").unwrap().unwrap(), b"1", "reads go on");
    assert_eq!((engine.manifest().len(), engine.stats().pending_records), (0, 1));

    // Had the error passed, the same staged segment would do.
    engine.store.poisoned.store(false, Ordering::Relaxed);
    assert_eq!(engine.apply(&mut other).unwrap().written, 1);
    assert!(engine.apply(&mut staged).unwrap().duplicate);
    drop((staged, other));
    assert_eq!(fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
    drop(engine);
    let engine = open(dir.path());
    assert_eq!((engine.manifest().len(), engine.verify(false, |_, _| {}).unwrap().count), (1, 0));
}

#[test]
fn a_batch_that_no_segment_could_hold_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut batch = WriteBatch::new();
    while batch.bytes() <= MAX_BATCH {
        batch.put(b"ns", &batch.len().to_be_bytes(), &[0; 1 << 20], None);
    }
    let error = engine.write(batch).unwrap_err();
    assert!(error.to_string().contains("split it") && !error.is_storage(), "{error}");
}

#[test]
fn files_and_registrations_agree_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.put(b"ns", b"a", b"1").unwrap();
    let lost = engine.flush().unwrap().unwrap();
    engine.put(b"ns", b"b", b"1").unwrap();
    let cut = engine.flush().unwrap().unwrap();
    engine.put(b"ns", b"c", b"1").unwrap();
    let kept = engine.flush().unwrap().unwrap();
    let file = |hash: &Hash| dir.path().join(format!("segments/{hash}.dat"));
    let bytes = fs::read(file(&lost.hash)).unwrap();
    drop(engine);
    fs::remove_file(file(&lost.hash)).unwrap();
    File::options().write(true).open(file(&cut.hash)).unwrap().set_len(100).unwrap();
    let orphan = file(&Hash::of(b"orphan"));
    fs::write(&orphan, b"renamed, never registered").unwrap();
    fs::write(dir.path().join("staging/fetch-x.part"), b"half").unwrap();

    let engine = open(dir.path());
    assert_eq!(engine.manifest(), std::slice::from_ref(&kept));
    assert_eq!(engine.root(), Hash::root([kept.hash]));
    assert!(!orphan.exists());
    assert_eq!(fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
    assert_eq!(dump(&engine).len(), 3, "records don't depend on segment files");
    assert_eq!(engine.missing(&[lost.hash, kept.hash, cut.hash]), [lost.hash, cut.hash]);
    assert!(engine.open_segment(&lost.hash).unwrap().is_none());

    let applied = apply(&engine, &bytes).unwrap();
    assert_eq!((applied.written, applied.skipped, applied.duplicate), (0, 1, false));
    assert_eq!(engine.manifest(), [lost, kept]);
}

#[test]
fn a_rejected_segment_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let version = Version { timestamp: 1, deleted: false, value: vec![1; 4000], ttl: 0 };
    let entry = |key: &[u8]| Entry {
        key: record::store_key(b"ns", key).unwrap(),
        version: version.clone(),
        lsn: 1,
    };
    let sound = segment_of(&[entry(b"a"), entry(b"b")]);
    let mut second_block_bad = sound.clone();
    second_block_bad[8 + 4096] ^= 1;
    let error = apply(&engine, &second_block_bad).unwrap_err();
    assert!(
        matches!(&error, ApplyError::Rejected { hash, .. } if *hash == Hash::of(&second_block_bad))
    );
    assert!(dump(&engine).is_empty() && engine.manifest().is_empty());
    assert_eq!(fs::read_dir(dir.path().join("segments")).unwrap().count(), 0);
    assert_eq!(apply(&engine, &sound).unwrap().written, 2);
    assert_eq!(fs::read_dir(dir.path().join("staging")).unwrap().count(), 0);
}

#[test]
fn readers_go_on_while_segments_are_applied() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    engine.put(b"ns", b"own", b"1").unwrap();
    std::thread::scope(|scope| {
        for n in 0..4_u8 {
            let engine = &engine;
            scope.spawn(move || {
                for i in 0..20_u8 {
                    let version =
                        Version { timestamp: i.into(), deleted: false, value: vec![n, i], ttl: 0 };
                    let key = record::store_key(b"ns", b"contended").unwrap();
                    apply(engine, &segment_of(&[Entry { key, version, lsn: 1 }])).unwrap();
                    assert!(engine.get(b"ns", b"own").unwrap().is_some());
                    engine.put(b"ns", &[n, i], b"x").unwrap();
                    engine.root();
                }
            });
        }
    });
    assert_eq!(engine.get(b"ns", b"contended").unwrap().unwrap(), [3, 19]);
    assert_eq!(engine.manifest().len(), 80);
    assert_eq!(dump(&engine).len(), 82);
}

#[test]
fn a_sound_database_verifies_after_everything_that_happens_to_one() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    for i in 0..50_u8 {
        engine.put(b"ns", &[i], &[i; 200]).unwrap();
        if i % 10 == 9 {
            engine.flush().unwrap();
        }
        if i % 7 == 0 {
            engine.delete(b"ns", &[i / 2]).unwrap();
        }
    }
    apply(&engine, &stamped(Duration::ZERO)).unwrap();
    let found = engine.verify(false, |_, _| {}).unwrap();
    assert_eq!((found.count, found.segments, found.records), (0, 6, 51), "{found:?}");
}

/// Whatever is broken: told, mended, and in the end a replica has all that the node has.
#[test]
fn damage_is_told_and_mended() {
    type Harm = fn(&Engine, &Path, &SegmentMeta);
    let harms: [(&str, Harm); 5] = [
        ("has the bytes of", |_, file, _| {
            let mut bytes = fs::read(file).unwrap();
            bytes[20] ^= 1;
            fs::write(file, bytes).unwrap();
        }),
        ("is missing", |_, file, _| fs::remove_file(file).unwrap()),
        ("can't be read", |engine, _, _| {
            let key = record::store_key(b"ns", b"a").unwrap();
            engine.store.records.insert(key, b"garbage").unwrap();
        }),
        ("has a later one", |engine, _, _| {
            let key = record::store_key(b"ns", b"a").unwrap();
            engine.store.records.remove(key).unwrap();
        }),
        ("is in no segment", |engine, _, segment| {
            // As if it had never been registered.
            engine.store.segments.remove(segment.id.to_be_bytes()).unwrap();
        }),
    ];
    for (words, harm) in harms {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        engine.put(b"ns", b"a", b"1").unwrap();
        engine.put(b"ns", b"b", b"1").unwrap();
        let segment = engine.flush().unwrap().unwrap();
        let expected = dump(&engine);
        let file = engine.folder.segment(&segment.hash);
        harm(&engine, &file, &segment);
        drop(engine);

        let engine = open(dir.path());
        let found = engine.verify(false, |_, _| {}).unwrap();
        let texts: Vec<_> = found.problems.iter().map(ToString::to_string).collect();
        assert!(texts.iter().any(|text| text.contains(words)), "{words}: {texts:?}");
        let unchanged = engine.verify(false, |_, _| {}).unwrap();
        assert_eq!(unchanged.problems, found.problems, "a look changes nothing");
        engine.verify(true, |_, _| {}).unwrap();
        let left = engine.verify(false, |_, _| {}).unwrap();
        assert_eq!(left.count, 0, "{words}: {left:?}");
        engine.flush().unwrap();
        assert_eq!(engine.verify(false, |_, _| {}).unwrap().count, 0, "{words}");
        assert_eq!(dump(&engine), expected, "{words}");

        let replica = open(&dir.path().join("replica"));
        for segment in engine.manifest() {
            apply(&replica, &fs::read(engine.folder.segment(&segment.hash)).unwrap()).unwrap();
        }
        assert_eq!(dump(&replica), expected, "{words}");
    }
}
