//! The cursor's bytes against those of the stock loop.

use serde::{Deserialize, Serialize};

use super::*;

/// Field by field the cursor of `edgestore-repl` 2.2.1.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct StockCursor {
    last_known_merkle_root: Vec<u8>,
    segments_pending: Vec<Vec<u8>>,
    last_attempt_secs: u64,
    segments_applied_total: u64,
    last_known_wtoken: u64,
}

/// The same before the write token was added.
#[derive(Serialize)]
struct OlderStockCursor {
    last_known_merkle_root: Vec<u8>,
    segments_pending: Vec<Vec<u8>>,
    last_attempt_secs: u64,
    segments_applied_total: u64,
}

fn hash(byte: u8) -> Hash {
    Hash::from_bytes(&[byte; 32]).unwrap()
}

fn stock() -> StockCursor {
    StockCursor {
        last_known_merkle_root: vec![0xab; 32],
        segments_pending: vec![vec![1; 32], vec![0xfe; 32]],
        last_attempt_secs: 1_700_000_000,
        segments_applied_total: 300,
        last_known_wtoken: 7,
    }
}

/// What [`stock`] says, as this policy sees it.
fn ours() -> PeerCursor {
    PeerCursor {
        last_root: Some(hash(0xab)),
        segments: [(hash(1), State::New), (hash(0xfe), State::New)].into_iter().collect(),
        last_attempt_secs: 1_700_000_000,
        applied_total: 300,
        write_token: 7,
        ..PeerCursor::default()
    }
}

fn extended() -> PeerCursor {
    PeerCursor {
        failures: 3,
        segments: [
            (hash(1), State::Retry { tries: 2, not_before_ms: 1_700_000_000_500 }),
            (hash(0xee), State::Rejected),
            (hash(0xfe), State::Quarantined { until_ms: 1_700_003_600_000, tries: 5 }),
        ]
        .into_iter()
        .collect(),
        ..ours()
    }
}

fn encode(cursor: &PeerCursor) -> Vec<u8> {
    cursor.encode(&Room::ALL).unwrap()
}

#[test]
fn a_healthy_cursor_is_byte_for_byte_the_stock_one() {
    assert_eq!(encode(&ours()), rmp_serde::to_vec(&stock()).unwrap());
    let empty = StockCursor {
        last_known_merkle_root: vec![],
        segments_pending: vec![],
        last_attempt_secs: 0,
        segments_applied_total: 0,
        last_known_wtoken: 0,
    };
    assert_eq!(encode(&PeerCursor::default()), rmp_serde::to_vec(&empty).unwrap());
}

#[test]
fn a_stock_cursor_is_read() {
    assert_eq!(PeerCursor::decode(&rmp_serde::to_vec(&stock()).unwrap()), (ours(), None));
}

#[test]
fn so_is_an_older_one_without_the_write_token() {
    let StockCursor { last_known_merkle_root, segments_pending, last_attempt_secs, .. } = stock();
    let older = OlderStockCursor {
        last_known_merkle_root,
        segments_pending,
        last_attempt_secs,
        segments_applied_total: 300,
    };
    let expected = PeerCursor { write_token: 0, ..ours() };
    assert_eq!(PeerCursor::decode(&rmp_serde::to_vec(&older).unwrap()), (expected, None));
}

#[test]
fn ours_is_read_back() {
    for cursor in [PeerCursor::default(), ours(), extended()] {
        assert_eq!(PeerCursor::decode(&encode(&cursor)), (cursor, None));
    }
}

#[test]
fn the_stock_loop_reads_ours() {
    // It decodes from a file, as `from_read` does, which leaves alone what follows the first value.
    let read: StockCursor = rmp_serde::from_read(encode(&extended()).as_slice()).unwrap();
    assert_eq!(read, stock());
}

#[test]
fn hashes_that_are_not_32_bytes_are_skipped() {
    let mut odd = stock();
    odd.last_known_merkle_root.pop();
    odd.segments_pending.insert(1, vec![2; 31]);
    odd.segments_pending.push(vec![]);
    let expected = PeerCursor { last_root: None, ..ours() };
    assert_eq!(PeerCursor::decode(&rmp_serde::to_vec(&odd).unwrap()), (expected, None));
}

#[test]
fn anything_undecodable_is_an_empty_cursor_and_a_warning() {
    let cut = &encode(&ours())[..20];
    for bytes in [b"".as_slice(), b"hello", &[0x95, 0xc0], &[0xc1], &[0x93, 1, 2, 3], cut] {
        let (cursor, warning) = PeerCursor::decode(bytes);
        assert_eq!(cursor, PeerCursor::default());
        assert!(warning.is_some());
    }
}

#[test]
fn an_extension_of_a_newer_schema_is_ignored() {
    let mut bytes = encode(&ours());
    rmp_serde::encode::write(&mut bytes, &(SCHEMA + 1)).unwrap();
    rmp_serde::encode::write(&mut bytes, &("anything", vec![1.5])).unwrap();
    let (cursor, warning) = PeerCursor::decode(&bytes);
    assert_eq!(cursor, ours());
    assert!(warning.unwrap().contains("newer"));
}

#[test]
fn a_damaged_extension_is_ignored_too() {
    let whole = encode(&extended());
    let stock_len = encode(&ours()).len();
    for len in stock_len + 1..whole.len() {
        let (cursor, warning) = PeerCursor::decode(&whole[..len]);
        assert_eq!(cursor, ours(), "cut at {len}");
        assert!(warning.is_some());
    }
}

#[test]
fn no_bytes_at_all_make_it_panic() {
    let whole = encode(&extended());
    for at in 0..whole.len() {
        for byte in [0, 0x7f, 0x91, 0xc4, 0xc6, 0xdd, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            PeerCursor::decode(&bytes);
        }
    }
}

#[test]
fn a_cursor_can_be_written_in_part() {
    let bytes = extended().encode(&Room { pending: 1, extension: false }).unwrap();
    let expected = PeerCursor { segments: [(hash(1), State::New)].into_iter().collect(), ..ours() };
    assert_eq!(PeerCursor::decode(&bytes), (expected, None));
}

#[test]
fn a_pending_segment_takes_no_more_than_its_bytes() {
    let one = PeerCursor {
        segments: [(hash(0xff), State::New)].into_iter().collect(),
        ..PeerCursor::default()
    };
    assert!(encode(&one).len() - encode(&PeerCursor::default()).len() <= PENDING_BYTES);
}
