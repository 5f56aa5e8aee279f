//! `verify` reports what is broken, and repairs it.

use super::*;

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

/// Whatever is broken is reported and repaired, and in the end a replica has all that the node has.
#[test]
fn damage_is_reported_and_repaired() {
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
        ("is in no segment", |engine, file, segment| {
            // As if it had never been registered.
            engine.store.segments.remove(segment.id.to_be_bytes()).unwrap();
            fs::remove_file(file).unwrap();
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
        // It would find what was done behind the engine's back.
        clean_stop::Mark::remove(&dir.path().join("records")).unwrap();

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
