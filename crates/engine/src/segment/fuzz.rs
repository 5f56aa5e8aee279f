//! Bytes of any kind, read as a segment of a peer.

use super::*;
use crate::record::{MAX_RECORD, record_len};

/// Small ones, so that inputs reach them.
const BOUNDS: Bounds = Bounds { inflated: 4 << 20, file: 1 << 20 };

/// Reads `bytes` as a file, or as what the block of one inflates to where they begin as no file
/// does. zstd lets few changes of its own bytes through.
pub fn segment(bytes: &[u8]) {
    match bytes.starts_with(MAGIC) {
        true => read(bytes),
        false => read(&file_of_block(bytes)),
    }
}

/// A file with one block, which inflates to these bytes.
pub(super) fn file_of_block(block: &[u8]) -> Vec<u8> {
    let compressed = zstd::encode_all(block, LEVEL).expect("memory takes all");
    let mut file = HEADER.to_vec();
    writer::write_block(&mut file, &compressed).expect("memory takes all");
    file
}

fn reader(file: &[u8], bounds: Bounds) -> Result<Reader<&[u8]>, Invalid> {
    Reader::new(file, file.len() as u64, bounds)
}

fn entries(records: &Records) -> Vec<Entry> {
    records.iter().map(Entry::to_owned).collect()
}

fn read(file: &[u8]) {
    let whole = reader(file, BOUNDS).and_then(Reader::read_all);
    let chunks = in_chunks(file);
    let mut records = match (whole, chunks) {
        (Ok(records), Ok(chunks)) => {
            assert_eq!(entries(&records), chunks, "chunks have other records than the whole");
            records
        }
        (Err(_), Err(_)) => return,
        (whole, chunks) => panic!("only one is sound: {whole:?}, {:?}", chunks.map(|c| c.len())),
    };
    assert!(records.len() > 0, "a segment without records");
    let weight = records.weight() as u64;
    assert!(weight <= BOUNDS.inflated, "records that count for less take {weight} bytes");
    records.normalize();
    assert!((1..records.len()).all(|i| records.key(i - 1) < records.key(i)), "no key order");

    // A larger one is none that this node could have stored.
    let kept: Vec<_> = entries(&records)
        .into_iter()
        .filter(|entry| record_len(&entry.key, &entry.version.value) <= MAX_RECORD)
        .collect();
    if kept.is_empty() {
        return;
    }
    let mut written = Vec::new();
    let made = write(&mut written, kept.iter().cloned().map(Ok::<_, std::io::Error>));
    let (count, _) = made.expect("memory takes all");
    assert_eq!(count, kept.len() as u64);
    let again = reader(&written, Bounds::NONE).and_then(Reader::read_all);
    assert_eq!(entries(&again.expect("what this node writes, it reads")), kept);
}

fn in_chunks(file: &[u8]) -> Result<Vec<Entry>, Invalid> {
    let mut reader = reader(file, BOUNDS)?;
    let mut all = Vec::new();
    while let Some(records) = reader.read_chunk(1000)? {
        assert!(records.len() > 0, "a chunk without records before the end");
        all.extend(entries(&records));
    }
    Ok(all)
}
