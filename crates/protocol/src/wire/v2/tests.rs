use proptest::prelude::*;
use serde_json::json;

use super::fuzz::bodies;
use super::*;
use crate::list::ListBounds;
use crate::wire::{encode, read_manifest_v2};

type End = (Vec<u8>, Vec<u8>);

fn decode_manifest(
    body: &[u8],
    max_entries: usize,
) -> Result<Vec<SegmentRef>, rmp_serde::decode::Error> {
    let bounds = ListBounds { entries: max_entries, infos: usize::MAX };
    read_manifest_v2(body, bounds).map(|list| list.iter().map(SegmentRef::from).collect())
}

fn decode(body: &[u8]) -> Result<Vec<SegmentRef>, String> {
    decode_manifest(body, usize::MAX).map_err(|error| error.to_string())
}

fn segment() -> impl Strategy<Value = SegmentRef> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..100);
    let end = move || (bytes(), bytes());
    let keys = proptest::option::of((end(), end())).prop_map(|keys: Option<(End, End)>| {
        let range = |(first, last): (End, End)| {
            KeyRange::new((&first.0, &first.1), (&last.0, &last.1)).unwrap()
        };
        keys.map(range)
    });
    let info =
        (any::<[u64; 4]>(), keys).prop_map(|([size, records, newest_ms, created_ms], keys)| {
            Box::new(SegmentInfo { size, records, newest_ms, created_ms, keys })
        });
    (any::<[u8; 32]>(), any::<u64>(), proptest::option::of(info))
        .prop_map(|(hash, id, info)| SegmentRef { hash: Hash::from_bytes(hash), id, info })
}

proptest! {
    #[test]
    fn what_is_written_is_read(segments in proptest::collection::vec(segment(), 0..20)) {
        let bytes = encode(&bodies(&segments)).unwrap();
        prop_assert_eq!(decode(&bytes).unwrap(), segments);
    }

    /// Whatever is cut off or changed: an error or other segments, never a panic.
    #[test]
    fn damage_is_survived(
        segments in proptest::collection::vec(segment(), 1..5),
        cut in any::<prop::sample::Index>(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..5),
    ) {
        let mut bytes = encode(&bodies(&segments)).unwrap();
        prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        let _ = decode(&bytes);
    }

    #[test]
    fn noise_is_survived(noise in proptest::collection::vec(any::<u8>(), 0..500)) {
        let _ = decode(&noise);
    }
}

fn a_segment() -> SegmentRef {
    let keys = KeyRange::new((b"a", b"k"), (b"b", b""));
    let info = SegmentInfo { size: 4104, records: 3, newest_ms: 2, created_ms: 5, keys };
    SegmentRef { hash: Hash::ZERO, id: 7, info: Some(Box::new(info)) }
}

#[test]
fn an_entry_is_a_map_with_bin_for_bytes() {
    let expected = [
        &b"\x91\x83\xa2id\x07\xa4hash\xc4\x20"[..],
        &[0; 32],
        b"\xa4info\x85\xa4size\xcd\x10\x08\xa7records\x03\xa9newest_ms\x02\xaacreated_ms\x05",
        b"\xa4keys\x82\xa5first\x92\xc4\x01a\xc4\x01k\xa4last\x92\xc4\x01b\xc4\x00",
    ]
    .concat();
    assert_eq!(encode(&bodies(&[a_segment()])).unwrap(), expected);
    let plain = SegmentRef { info: None, ..a_segment() };
    let expected = [&b"\x91\x82\xa2id\x07\xa4hash\xc4\x20"[..], &[0; 32]].concat();
    assert_eq!(encode(&bodies(&[plain])).unwrap(), expected);
}

#[test]
fn the_order_stays_and_each_hash_comes_once() {
    let hash = Hash::of(b"b");
    let segments = [SegmentRef { hash, ..a_segment() }, a_segment(), a_segment()];
    let bytes = encode(&bodies(&segments)).unwrap();
    assert_eq!(decode(&bytes).unwrap(), segments[..2]);
    let error = decode_manifest(&bytes, 2).unwrap_err().to_string();
    assert!(error.contains("more than 2 entries"), "{error}");
}

/// An entry with an `info` of the test's own.
fn with_info(info: impl Serialize) -> Vec<u8> {
    #[derive(Serialize)]
    struct Entry<I> {
        id: u64,
        hash: Hash,
        later: [[&'static str; 1]; 1],
        info: I,
    }
    encode(&[Entry { id: 7, hash: Hash::ZERO, later: [["version"]], info }]).unwrap()
}

#[test]
fn fields_of_a_later_version_are_skipped_and_nil_says_nothing() {
    assert_eq!(decode(&with_info(())).unwrap(), [SegmentRef { info: None, ..a_segment() }]);
    let later = json!({
        "size": 4104, "checksum": "crc32c", "records": 3, "newest_ms": 2, "created_ms": 5,
        "keys": null,
    });
    let [SegmentRef { info: Some(info), .. }] = &decode(&with_info(later)).unwrap()[..] else {
        panic!("no info");
    };
    assert_eq!(**info, SegmentInfo { keys: None, ..*a_segment().info.unwrap() });
}

#[test]
fn what_is_told_by_halves_is_refused() {
    let numbers = json!({"size": 1, "records": 1, "newest_ms": 1, "created_ms": 1});
    for (field, value, words) in [
        ("size", json!(null), "invalid type"),
        ("records", json!(-1), "invalid value"),
        ("newest_ms", json!(1.5), "invalid type"),
        ("created_ms", json!("now"), "wrong msgpack marker"),
        ("keys", json!({"first": ["ns", "key"]}), "missing field `last`"),
        ("keys", json!({"first": ["ns", "key"], "last": ["ns"]}), "invalid length"),
        ("keys", json!({"first": ["ns", 1], "last": ["ns", "key"]}), "invalid type"),
    ] {
        let mut info = numbers.clone();
        info[field] = value;
        let error = decode(&with_info(&info)).unwrap_err();
        assert!(error.contains(words), "{info}: {error}");
    }
    let error = decode(&with_info(json!({"size": 1}))).unwrap_err();
    assert!(error.contains("missing field `records`"), "{error}");
    let error = decode(&encode(&[json!({"id": 1})]).unwrap()).unwrap_err();
    assert!(error.contains("missing field `hash`"), "{error}");
    for len in [0, 31, 33, 70_000] {
        #[derive(Serialize)]
        struct Entry<'a> {
            id: u64,
            hash: &'a Bytes,
        }
        let error = decode(&encode(&[Entry { id: 1, hash: Bytes::new(&vec![7; len]) }]).unwrap());
        assert!(error.unwrap_err().contains(&format!("invalid length {len}")));
    }
}

#[test]
fn a_key_that_is_longer_than_a_key_can_be_is_refused() {
    for (len, fits) in [(MAX_KEY - 2, true), (MAX_KEY - 1, false), (1 << 20, false)] {
        let key = vec![b'k'; len];
        let short = (Bytes::new(b"ns"), Bytes::new(b""));
        let long = (Bytes::new(b"ns"), Bytes::new(&key));
        for (first, last) in [(short, long), (long, short)] {
            let keys = Some(KeysBody { first, last });
            let body =
                with_info(InfoFields { size: 1, records: 1, newest_ms: 1, created_ms: 1, keys });
            match decode(&body) {
                Ok(_) => assert!(fits, "{len}"),
                Err(error) => assert!(!fits && error.contains("more than 65533 bytes"), "{error}"),
            }
        }
    }
}

#[test]
fn a_length_prefix_alone_reserves_nothing() {
    // Of the list, a hash, a key, and of what is skipped: 2^32 - 1 each.
    for body in [
        &b"\xdd\xff\xff\xff\xff"[..],
        b"\xdd\xff\xff\xff\xff\x82\xa2id\x01\xa4hash\xc6\xff\xff\xff\xff\x01",
        b"\x91\x81\xa4info\x81\xa4keys\x81\xa5first\x92\xc6\xff\xff\xff\xff\x01",
        b"\x91\x81\xa4info\x81\xa4keys\x81\xa5first\xdd\xff\xff\xff\xff\x01",
        b"\x91\x81\xa4info\xdf\xff\xff\xff\xff\xa1x\x01",
        b"\x91\x81\xa1x\xdd\xff\xff\xff\xff\x01",
    ] {
        assert!(decode(body).is_err());
    }
}

#[test]
fn nesting_does_not_overflow_the_stack() {
    let deep = [0x91; 4000];
    for body in [&b""[..], b"\x91\x81\xa1x", b"\x91\x81\xa4info\x81\xa1x"] {
        assert!(decode(&[body, &deep].concat()).is_err());
    }
}
