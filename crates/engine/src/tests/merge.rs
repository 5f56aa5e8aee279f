//! Segments of peers become part of a node.

use super::*;

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
            bounded: false,
            drained: true,
        },
    );
    engine.store.poisoned.store(true, Ordering::Relaxed);
    let batch = engine.store.batch(PersistMode::SyncAll);
    let extent = Extent { newest: 1, created: 1, keys: None };
    assert!(engine.commit_with(batch, &mut other, &meta, &extent).unwrap_err().is_storage());
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
