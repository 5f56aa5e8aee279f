//! Local writes: batches, limits, flushes.

use super::*;

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
fn what_a_peer_made_without_a_name_can_be_read_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, peer) = (open(&dir.path().join("a")), open(&dir.path().join("b")));
    let names = [(&b""[..], &b""[..]), (b"", b"k"), (b"ns", b"")];
    let mut keys: Vec<_> =
        names.iter().map(|(ns, key)| record::store_key(ns, key).unwrap()).collect();
    keys.sort();
    let planted = keys.into_iter().map(|key| {
        let version = Version { timestamp: 7, deleted: false, value: b"v".to_vec(), ttl: 0 };
        Entry { key, version, lsn: 1 }
    });
    let planted = segment_of(&planted.collect::<Vec<_>>());
    assert_eq!(apply(&engine, &planted).unwrap().written, 3);
    apply(&peer, &planted).unwrap();
    assert_eq!(engine.namespaces().unwrap(), [&b""[..], b"ns"]);
    for (ns, key) in names {
        assert_eq!(engine.get(ns, key).unwrap().unwrap(), b"v");
        assert!(engine.range(ns, b"", None).unwrap().any(|record| record.unwrap().key == key));
        assert!(engine.put(ns, key, b"w").is_err(), "this node makes none");
        engine.delete(ns, key).unwrap();
        assert_eq!(engine.get(ns, key).unwrap(), None);
    }
    assert!(engine.namespaces().unwrap().is_empty());
    // The deletes go to peers, and win there.
    let deletes = engine.flush().unwrap().unwrap();
    assert_eq!(deletes.records, 3);
    let deletes = fs::read(engine.folder.segment(&deletes.hash)).unwrap();
    assert_eq!(apply(&peer, &deletes).unwrap().written, 3);
    assert!(peer.namespaces().unwrap().is_empty());
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

/// As a bug in this crate would, while memory is changed.
#[test]
fn after_a_write_that_panics_nothing_is_written_until_the_database_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let now = Arc::clone(&broken);
    let clock = WallClock::new(move || {
        assert!(!now.load(Ordering::Relaxed), "on purpose");
        std::time::SystemTime::now()
    });
    let engine = Engine::open_with(dir.path(), EngineOptions { clock, ..fast() }).unwrap();
    engine.put(b"ns", b"a", b"1").unwrap();
    broken.store(true, Ordering::Relaxed);
    let put = std::panic::AssertUnwindSafe(|| engine.put(b"ns", b"b", b"1"));
    assert!(std::panic::catch_unwind(put).is_err());
    broken.store(false, Ordering::Relaxed);
    engine.put(b"ns", b"c", b"1").unwrap_err();
    engine.flush().unwrap_err();
    assert!(engine.poisoned().unwrap().contains("a write panicked: please report this"));
    assert!(!engine.should_reopen(), "nobody knows why");
    assert_eq!(engine.get(b"ns", b"a").unwrap().unwrap(), b"1", "reads go on");

    drop(engine);
    let engine = open(dir.path());
    engine.put(b"ns", b"c", b"1").unwrap();
    assert_eq!(engine.get(b"ns", b"a").unwrap().unwrap(), b"1");
}
