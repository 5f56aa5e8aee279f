use proptest::prelude::*;

use super::*;
use crate::record::{Version, store_key};

fn entry() -> impl Strategy<Value = Entry> {
    let bytes = |len| proptest::collection::vec(any::<u8>(), len);
    let version = (any::<i64>(), any::<bool>(), bytes(0..3000), any::<u32>());
    let version = version.prop_map(|(timestamp, deleted, value, ttl)| {
        let value = if deleted { Vec::new() } else { value };
        Version { timestamp, deleted, value, ttl }
    });
    (bytes(0..20), bytes(1..40), version, any::<u64>()).prop_map(|(ns, key, version, lsn)| Entry {
        key: store_key(&ns, &key).unwrap(),
        version,
        lsn,
    })
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let entries = entries.iter().cloned().map(Ok::<_, std::io::Error>);
    write(&mut bytes, entries).unwrap();
    bytes
}

fn inflated(inflated: u64) -> Bounds {
    Bounds { inflated, ..Bounds::NONE }
}

fn decode(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let records =
        Reader::new(bytes, bytes.len() as u64, inflated(1 << 30)).and_then(Reader::read_all);
    records.map(|records| records.iter().map(Entry::to_owned).collect()).map_err(|invalid| {
        match invalid {
            Invalid::Rejected(why) => why,
            Invalid::Io(error) => panic!("{error}"),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(entries in proptest::collection::vec(entry(), 1..30)) {
        let bytes = encode(&entries);
        prop_assert_eq!(bytes.len() % ALIGN, HEADER.len());
        prop_assert_eq!(decode(&bytes).unwrap(), entries);
    }

    /// The published writer compresses each block by itself.
    #[test]
    fn blocks_are_compressed_as_if_each_were_the_first(
        blocks in proptest::collection::vec((any::<u64>(), 1..400_000_usize, 1..=255_u8), 1..4),
    ) {
        let mut deflate = writer::Deflate::new().unwrap();
        for (seed, len, range) in blocks {
            let mut random = fastrand::Rng::with_seed(seed);
            let block: Vec<u8> = (0..len).map(|_| random.u8(0..range)).collect();
            prop_assert_eq!(deflate.block(&block).unwrap(), zstd::encode_all(&block[..], LEVEL).unwrap());
        }
    }

    /// Whatever is cut off or changed: an error or other records, never a panic.
    #[test]
    fn damage_is_survived(
        entries in proptest::collection::vec(entry(), 1..10),
        cut in any::<prop::sample::Index>(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 0..5),
    ) {
        let mut bytes = encode(&entries);
        let cut = cut.index(bytes.len());
        prop_assert!(decode(&bytes[..cut]).is_err() || cut % ALIGN == HEADER.len());
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        let _ = decode(&bytes);
    }

    #[test]
    fn noise_in_a_block_is_survived(noise in proptest::collection::vec(any::<u8>(), 0..500)) {
        let _ = decode(&fuzz::file_of_block(&noise));
    }
}

#[test]
fn blocks_together_may_not_inflate_beyond_the_limit() {
    let value = vec![0; 100_000];
    let version = Version { timestamp: 1, deleted: false, value, ttl: 0 };
    let entry = Entry { key: store_key(b"ns", b"k").unwrap(), version, lsn: 1 };
    let bytes = encode(&vec![entry; 20]);
    let mut reader = Reader::new(&bytes[..], bytes.len() as u64, inflated(1_000_000)).unwrap();
    let mut records = Records::default();
    let error = loop {
        match reader.next_block(&mut records) {
            Ok(true) => {}
            Ok(false) => panic!("read it all"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Invalid::Rejected(why) if why.contains("1000000 bytes")));
    assert!(records.len() < 10);
}
