//! The structs below are the wire format as the published crates declare it.

use serde::{Deserialize, Serialize};

use super::*;

#[derive(Serialize, Deserialize)]
struct StockMerkle {
    root: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct StockEntry {
    segment_id: u64,
    segment_hash: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct StockWatermark {
    confirmed_lsn: u64,
    wtoken: u64,
}

/// Has bytes below and above 128, which MessagePack writes in one and in two.
fn a_hash() -> Hash {
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = (i * 8) as u8;
    }
    Hash::from_bytes(bytes)
}

fn decode_manifest(
    body: &[u8],
    max_entries: usize,
) -> Result<Vec<SegmentRef>, rmp_serde::decode::Error> {
    let bounds = ListBounds { entries: max_entries, infos: usize::MAX };
    read_manifest(body, bounds).map(|list| list.iter().map(SegmentRef::from).collect())
}

fn stock_entry(id: u64, hash: &[u8]) -> StockEntry {
    StockEntry { segment_id: id, segment_hash: hash.to_vec() }
}

#[test]
fn a_root_is_written_as_the_published_server_writes_it() {
    let stock = StockMerkle { root: a_hash().as_bytes().to_vec() };
    let ours = MerkleBody { root: WireHash(a_hash()) };
    let bytes = encode(&ours).unwrap();
    assert_eq!(bytes, rmp_serde::to_vec_named(&stock).unwrap());
    // {"root": [0, 8, 16, ...
    assert_eq!(bytes[..12], *b"\x81\xa4root\xdc\x00\x20\x00\x08\x10");
    assert_eq!(serde_json::to_vec(&ours).unwrap(), serde_json::to_vec(&stock).unwrap());
}

#[test]
fn a_watermark_is_written_as_the_published_server_writes_it() {
    for (confirmed_lsn, wtoken) in [(0, 0), (127, 128), (70_000, u64::MAX)] {
        let stock = StockWatermark { confirmed_lsn, wtoken };
        let ours = WatermarkBody { confirmed_lsn, wtoken };
        assert_eq!(encode(&ours).unwrap(), rmp_serde::to_vec_named(&stock).unwrap());
        assert_eq!(serde_json::to_vec(&ours).unwrap(), serde_json::to_vec(&stock).unwrap());
    }
    assert_eq!(
        encode(&WatermarkBody { confirmed_lsn: 1, wtoken: 2 }).unwrap(),
        b"\x82\xadconfirmed_lsn\x01\xa6wtoken\x02"
    );
}

#[test]
fn a_manifest_is_written_as_the_published_server_writes_it() {
    for len in [0, 1, 20, 70_000] {
        let stock: Vec<_> = (0..len).map(|id| stock_entry(id, a_hash().as_bytes())).collect();
        let ours: Vec<_> = (0..len)
            .map(|id| SegmentEntry { segment_id: id, segment_hash: WireHash(a_hash()) })
            .collect();
        assert_eq!(encode(&ours).unwrap(), rmp_serde::to_vec_named(&stock).unwrap());
    }
}

#[test]
fn maps_and_arrays_and_both_forms_of_a_hash_are_read() {
    #[derive(Serialize)]
    struct WithBin<'a> {
        root: &'a serde_bytes::Bytes,
    }
    let hash = a_hash();
    let stock = StockMerkle { root: hash.as_bytes().to_vec() };
    let bin = WithBin { root: serde_bytes::Bytes::new(hash.as_bytes()) };
    for bytes in [
        rmp_serde::to_vec_named(&stock),
        rmp_serde::to_vec(&stock),
        rmp_serde::to_vec_named(&bin),
        rmp_serde::to_vec(&bin),
    ] {
        let decoded: MerkleBody = decode(&bytes.unwrap()).unwrap();
        assert_eq!(decoded.root.0, a_hash());
    }
    let watermark = StockWatermark { confirmed_lsn: 7, wtoken: 3 };
    for bytes in [rmp_serde::to_vec_named(&watermark), rmp_serde::to_vec(&watermark)] {
        let decoded: WatermarkBody = decode(&bytes.unwrap()).unwrap();
        assert_eq!(decoded, WatermarkBody { confirmed_lsn: 7, wtoken: 3 });
    }
    let manifest = [stock_entry(7, a_hash().as_bytes())];
    for bytes in [rmp_serde::to_vec_named(&manifest), rmp_serde::to_vec(&manifest)] {
        let decoded = decode_manifest(&bytes.unwrap(), 1).unwrap();
        assert_eq!(decoded, [SegmentRef { hash: a_hash(), id: 7, info: None }]);
    }
}

#[test]
fn fields_of_a_later_version_are_skipped() {
    #[derive(Serialize)]
    struct Later {
        root: Vec<u8>,
        algorithm: &'static str,
    }
    let later = Later { root: a_hash().as_bytes().to_vec(), algorithm: "blake3" };
    let decoded: MerkleBody = decode(&rmp_serde::to_vec_named(&later).unwrap()).unwrap();
    assert_eq!(decoded.root.0, a_hash());
}

#[test]
fn a_hash_of_another_length_is_refused_and_the_length_told() {
    for len in [0_usize, 16, 31, 33, 70_000] {
        let bytes = vec![7; len];
        let array = rmp_serde::to_vec_named(&StockMerkle { root: bytes.clone() }).unwrap();
        let bin = rmp_serde::to_vec(&(serde_bytes::Bytes::new(&bytes),)).unwrap();
        for body in [array, bin] {
            let error = decode::<MerkleBody>(&body).unwrap_err().to_string();
            assert!(error.ends_with(&format!("32 bytes, this one has {len}")), "{error}");
        }
        let manifest = [stock_entry(1, a_hash().as_bytes()), stock_entry(2, &bytes)];
        let error = decode_manifest(&rmp_serde::to_vec_named(&manifest).unwrap(), 2).unwrap_err();
        assert!(error.to_string().contains(&format!("has {len}")), "{error}");
    }
}

#[test]
fn a_manifest_keeps_the_peers_order_and_each_hash_once() {
    let (a, b) = (Hash::of(b"a"), Hash::of(b"b"));
    let manifest = [(9, b), (1, a), (5, b)].map(|(id, hash)| stock_entry(id, hash.as_bytes()));
    let decoded = decode_manifest(&rmp_serde::to_vec_named(&manifest).unwrap(), 3).unwrap();
    let plain = |(id, hash)| SegmentRef { hash, id, info: None };
    assert_eq!(decoded, [(9, b), (1, a)].map(plain));
}

#[test]
fn a_manifest_has_a_greatest_length_duplicates_included() {
    let manifest = [1, 2, 3].map(|id| stock_entry(id, a_hash().as_bytes()));
    let bytes = rmp_serde::to_vec_named(&manifest).unwrap();
    assert_eq!(decode_manifest(&bytes, 3).unwrap().len(), 1);
    let error = decode_manifest(&bytes, 2).unwrap_err().to_string();
    assert!(error.contains("more than 2 entries"), "{error}");
}

#[test]
fn a_length_prefix_alone_reserves_nothing() {
    // An array of 2^32 - 1 entries; the same for a hash as array and as `bin`;
    // an array of 2^32 - 1 in a field that is skipped.
    for body in [
        &b"\xdd\xff\xff\xff\xff"[..],
        b"\xdd\xff\xff\xff\xff\x92\x01\xdd\xff\xff\xff\xff\x01",
        b"\x91\x92\x01\xc6\xff\xff\xff\xff\x01",
        b"\x91\x81\xa1x\xdd\xff\xff\xff\xff\x01",
        b"\x91\x81\xdb\xff\xff\xff\xff",
    ] {
        assert!(decode_manifest(body, usize::MAX).is_err());
    }
}

#[test]
fn nesting_does_not_overflow_the_stack() {
    // {"x": [[[[... and [[[[...
    let body = [&b"\x81\xa1x"[..], &[0x91; 4000]].concat();
    for body in [&body[..], &body[3..]] {
        assert!(decode::<MerkleBody>(body).is_err());
        assert!(decode_manifest(body, 1).is_err());
    }
}

#[test]
fn no_prefix_of_a_manifest_is_a_manifest() {
    let manifest = [1, 2].map(|id| stock_entry(id, a_hash().as_bytes()));
    let bytes = rmp_serde::to_vec_named(&manifest).unwrap();
    for len in 0..bytes.len() {
        assert!(decode_manifest(&bytes[..len], 2).is_err(), "{len}");
    }
    assert!(decode_manifest(&bytes, 2).is_ok());
}
