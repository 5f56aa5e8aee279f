//! What the engine promises. The property tests are in [`model`]; each other file is about one part.

mod clock;
mod damage;
mod extents;
mod merge;
mod model;
mod reads;
mod start;
mod verify;
mod writes;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use super::record::{Version, now};
use super::segment::Entry;
use super::*;

fn fast() -> EngineOptions {
    EngineOptions {
        sync_writes: false,
        cache_bytes: 1 << 20,
        filter_bytes: 64 << 10,
        // Little, for drains to happen now and then.
        memtable_bytes: 100 << 10,
        // What peers bring is very old here.
        tombstone_grace: Duration::MAX,
        max_clock_ahead: Duration::MAX,
        ..EngineOptions::default()
    }
}

fn open(path: &Path) -> Engine {
    Engine::open_with(path, fast()).unwrap()
}

fn segment_of(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let entries = entries.iter().cloned().map(Ok::<_, io::Error>);
    segment::write(&mut bytes, entries).unwrap();
    bytes
}

fn stage(engine: &Engine, bytes: &[u8]) -> StagedSegment {
    let mut file = engine.stage().unwrap();
    file.write_all(bytes).unwrap();
    file.verify(Hash::of(bytes)).unwrap()
}

fn apply(engine: &Engine, bytes: &[u8]) -> Result<Applied, ApplyError> {
    engine.apply(&mut stage(engine, bytes))
}

type Dump = BTreeMap<(Vec<u8>, Vec<u8>), Record>;

fn dump(engine: &Engine) -> Dump {
    let mut all = Dump::new();
    for ns in engine.namespaces().unwrap() {
        for record in engine.range(&ns, b"", None).unwrap() {
            let record = record.unwrap();
            assert_eq!(engine.get_record(&ns, &record.key).unwrap().as_ref(), Some(&record));
            all.insert((ns.clone(), record.key.clone()), record);
        }
    }
    all
}

/// A segment of one record, stamped this long from now.
fn stamped(ahead: Duration) -> Vec<u8> {
    let timestamp = now() + i64::try_from(ahead.as_nanos()).unwrap();
    let version = Version { timestamp, deleted: false, value: b"theirs".to_vec(), ttl: 0 };
    segment_of(&[Entry { key: record::store_key(b"ns", b"k").unwrap(), version, lsn: 1 }])
}
