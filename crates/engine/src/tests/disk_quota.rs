//! Disks with too little room: what is refused then, what goes on, and that the end of it is noticed.

use super::*;

fn with(dir: &Path, options: EngineOptions) -> Engine {
    Engine::open_with(dir, options).unwrap()
}

#[test]
fn what_stays_free_is_not_written_to_and_deletes_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let engine = with(dir.path(), EngineOptions { disk_reserve: Some(0), ..Default::default() });
    engine.put(b"ns", b"k", b"v").unwrap();
    assert_eq!(engine.full(), None);
    drop(engine);

    // More than any disk has.
    let reserve = Some(1 << 60);
    let engine = with(dir.path(), EngineOptions { disk_reserve: reserve, ..Default::default() });
    assert!(engine.full().unwrap().contains("--disk-reserve"));
    let refused = engine.put(b"ns", b"other", b"v").unwrap_err();
    assert!(matches!(refused, EngineError::DiskReserve { .. }) && refused.is_storage());
    let refused = engine.stage().err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    assert_eq!(engine.get(b"ns", b"other").unwrap(), None);
    assert_eq!((engine.poisoned(), engine.should_reopen()), (None, false), "it is no failure");

    assert_eq!(engine.get(b"ns", b"k").unwrap().as_deref(), Some(&b"v"[..]));
    engine.delete(b"ns", b"k").unwrap();
    engine.flush().unwrap().unwrap();
    engine.compact(&RateLimiter::new(None)).unwrap();
    let stats = engine.stats();
    assert_eq!((stats.disk_reserve, stats.pending_records), (reserve, 0));
}

#[test]
fn a_database_takes_no_more_than_it_may() {
    let dir = tempfile::tempdir().unwrap();
    const MAX: u64 = 4 << 20;
    let options =
        EngineOptions { max_db_bytes: Some(MAX), disk_reserve: Some(0), ..Default::default() };
    let engine = with(dir.path(), options);
    let mut value = vec![0; 64 << 10];
    let mut random = fastrand::Rng::with_seed(3);
    let mut written = 0_u32;
    let refused = loop {
        random.fill(&mut value);
        match engine.put(b"ns", &written.to_be_bytes(), &value) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100, "it takes too much: {:?}", engine.stats());
    };
    assert!(matches!(refused, EngineError::DatabaseFull { max: MAX, .. }), "{refused}");
    assert!(written > 10, "{refused} after {written} writes");
    assert!(engine.full().is_some() && engine.stage().is_err());
    // What was written is in the journal and in a segment.
    engine.flush().unwrap().unwrap();
    assert!(engine.stats().disk_bytes < 3 * MAX);
    for key in 0..written {
        engine.delete(b"ns", &key.to_be_bytes()).unwrap();
    }
    assert_eq!(engine.range(b"ns", b"", None).unwrap().count(), 0);
}

/// A download is refused in the middle, where the room ends.
#[test]
fn a_download_takes_no_more_than_there_is_room_for() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        EngineOptions { max_db_bytes: Some(4 << 20), disk_reserve: Some(0), ..Default::default() };
    let engine = with(dir.path(), options);
    let mut file = engine.stage().unwrap();
    let piece = vec![7; 100_000];
    let refused = loop {
        if let Err(error) = file.write_all(&piece) {
            break error;
        }
        assert!(file.len() < 10 << 20);
    };
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull, "{refused}");
    assert!(refused.to_string().contains("--max-db-bytes"), "{refused}");
    assert!(file.len() > 1 << 20, "{}", file.len());
    drop(file);
    assert!(!engine.full().is_some_and(|why| why.contains("poison")));
}

#[test]
fn a_shortage_is_told_from_other_failures() {
    let full = || io::Error::from(io::ErrorKind::StorageFull);
    for (error, shortage) in [
        (EngineError::io("write", Path::new("x"))(full()), true),
        (fjall::Error::Io(full()).into(), true),
        (fjall::Error::Io(io::Error::from_raw_os_error(24)).into(), true),
        (fjall::Error::Poisoned.into(), true),
        (fjall::Error::Io(io::Error::from_raw_os_error(5)).into(), false),
        (fjall::Error::Io(io::ErrorKind::UnexpectedEof.into()).into(), false),
        (EngineError::Replaced, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        engine.put(b"ns", b"k", b"v").unwrap();
        let text = format!("{error:?}");
        engine.store.poison(error);
        assert_eq!(engine.should_reopen(), shortage, "{text}");
        assert!(engine.put(b"ns", b"k", b"other").is_err(), "{text}");
        assert!(engine.get(b"ns", b"k").unwrap().is_some(), "{text}");
        drop(engine);
        let engine = open(dir.path());
        assert_eq!(engine.poisoned(), None);
        engine.put(b"ns", b"k", b"other").unwrap();
        assert_eq!(fs::read_dir(dir.path().join("staging")).unwrap().count(), 0, "{text}");
    }
}
