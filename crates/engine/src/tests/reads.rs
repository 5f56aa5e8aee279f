//! Reads: ranges, snapshots, expiry.

use super::*;
use crate::testing::TestClock;

#[test]
fn ranges_and_prefixes_are_those_of_a_sorted_map() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let keys = [&b"a"[..], b"a\0", b"ab", b"b", b"b\xff", b"b\xff\xff", b"\xff", b"\xff\xff"];
    for key in keys {
        for ns in [&b"n"[..], b"n\xff", b"m", b"\xff", b"\xff\xff"] {
            engine.put(ns, key, key).unwrap();
        }
    }
    let range_of = |ns: &[u8], start: &[u8], end: Option<&[u8]>| -> Vec<Vec<u8>> {
        engine.range(ns, start, end).unwrap().map(|record| record.unwrap().key).collect()
    };
    let prefix = |prefix: &[u8]| -> Vec<Vec<u8>> {
        engine.prefix(b"n", prefix).unwrap().map(|record| record.unwrap().key).collect()
    };
    for ns in engine.namespaces().unwrap() {
        assert_eq!(range_of(&ns, b"", None), keys, "{ns:?}");
    }
    let range = |start: &[u8], end| range_of(b"n", start, end);
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
    assert_eq!(engine.namespaces().unwrap(), [&b"m"[..], b"n", b"\xff", b"n\xff", b"\xff\xff"]);
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
    let clock = TestClock::new();
    let open = |name| {
        Engine::open_with(dir.path().join(name), EngineOptions { clock: clock.wall(), ..fast() })
    };
    let (a, b) = (open("a").unwrap(), open("b").unwrap());
    a.put_with_ttl(b"ns", b"short", b"v", Duration::from_millis(3500)).unwrap();
    a.put_with_ttl(b"ns", b"long", b"v", Duration::from_secs(3600)).unwrap();
    assert_eq!(a.get_record(b"ns", b"short").unwrap().unwrap().ttl, 4, "begun seconds count");
    let hash = a.flush().unwrap().unwrap().hash;
    apply(&b, &fs::read(a.folder.segment(&hash)).unwrap()).unwrap();
    assert_eq!(dump(&a).len(), 2);
    clock.advance(Duration::from_millis(4100));
    for engine in [&a, &b] {
        assert_eq!(engine.get(b"ns", b"short").unwrap(), None);
        assert_eq!(dump(engine).len(), 1);
        assert_eq!(engine.get_record(b"ns", b"long").unwrap().unwrap().ttl, 3600);
    }
    for ttl in [Duration::ZERO, Duration::from_secs(1 << 32)] {
        assert!(matches!(a.put_with_ttl(b"ns", b"k", b"", ttl), Err(EngineError::Ttl)));
    }
}
