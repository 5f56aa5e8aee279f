//! How fast the record store (fjall) takes the records of a bootstrap, by itself: in batches, as
//! local writes get there, or as sorted runs, as applied segments do; with their values, or with
//! places in segment files instead, which would have to be read for each value.
//!
//! ```text
//! cargo bench -p edgestore-host-tests --bench store -- [RECORDS]
//! ```

use std::path::Path;
use std::time::{Duration, Instant};

use fjall::{Database, KeyspaceCreateOptions, PersistMode};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Records of a segment.
const SEGMENT: u32 = 20_000;
/// Bytes of a sorted run.
const RUN: usize = 16 << 20;
/// What is stored besides a value: owner, timestamp, TTL, operation.
const FIXED: usize = 21;

fn main() -> Result<()> {
    let number = |arg: String| arg.parse::<u32>().ok();
    let records = std::env::args().skip(1).find_map(number).unwrap_or(2_000_000);
    println!("{records} records");
    println!("| | seconds | records/s |\n|---|---:|---:|");
    for (what, value) in [("values of 100 bytes", 100), ("places of 16 bytes", 16)] {
        for sorted in [false, true] {
            let dir = tempfile::tempdir()?;
            let elapsed = if sorted { runs } else { batches }(dir.path(), records, value)?;
            let how = if sorted { "sorted runs" } else { "batches, fsynced" };
            let (secs, rate) = (elapsed.as_secs_f64(), f64::from(records) / elapsed.as_secs_f64());
            println!("| {what}, {how} | {secs:.2} | {rate:.0} |");
        }
    }
    Ok(())
}

type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// The records of the n-th segment, in key order. Key ranges of segments overlap.
fn segment(n: u32, value: usize) -> Records {
    let record = |i: u32| {
        let mut rng = fastrand::Rng::with_seed(u64::from(i));
        let value = std::iter::repeat_with(|| rng.alphanumeric() as u8).take(FIXED + value);
        (format!("sensor-{:05}/{i:010}", i % 997).into_bytes(), value.collect())
    };
    let mut records: Records = (n * SEGMENT..(n + 1) * SEGMENT).map(record).collect();
    records.sort();
    records
}

/// Looks each key up, as a merge must, and puts a segment's records into one batch.
fn batches(dir: &Path, records: u32, value: usize) -> Result<Duration> {
    let db = Database::builder(dir).cache_size(32 << 20).worker_threads(1).open()?;
    let store = db.keyspace("records", KeyspaceCreateOptions::default)?;
    let mut elapsed = Duration::ZERO;
    for n in 0..records / SEGMENT {
        let segment = segment(n, value);
        let start = Instant::now();
        let mut batch = db.batch().durability(Some(PersistMode::SyncAll));
        for (key, value) in segment {
            if store.get(&key)?.is_none() {
                batch.insert(&store, key, value);
            }
        }
        batch.commit()?;
        elapsed += start.elapsed();
    }
    Ok(elapsed)
}

/// Looks each key up, and ingests many segments at once.
fn runs(dir: &Path, records: u32, value: usize) -> Result<Duration> {
    let db = Database::builder(dir).cache_size(32 << 20).worker_threads(1).open()?;
    let store = db.keyspace("records", KeyspaceCreateOptions::default)?;
    let mut elapsed = Duration::ZERO;
    let (mut run, mut bytes) = (Records::new(), 0);
    for n in 0..records / SEGMENT {
        let segment = segment(n, value);
        let start = Instant::now();
        for (key, value) in segment {
            if store.get(&key)?.is_none() {
                bytes += key.len() + value.len();
                run.push((key, value));
            }
        }
        if bytes >= RUN || n + 1 == records / SEGMENT {
            run.sort();
            let mut ingestion = store.start_ingestion()?;
            for (key, value) in run.drain(..) {
                ingestion.write(key, value)?;
            }
            ingestion.finish()?;
            bytes = 0;
        }
        elapsed += start.elapsed();
    }
    Ok(elapsed)
}
