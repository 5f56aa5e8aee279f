//! What the engine promises. The property tests are in [`model`]; each other file is about one part.

mod ahead;
mod bounds;
mod chunks;
mod clock;
mod damage;
mod disk_quota;
mod extents;
mod forgetting;
mod merge;
mod model;
mod older_records;
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

/// A wall clock and one that never jumps, both set by the test.
#[derive(Debug, Clone, Default)]
struct Clocks {
    /// In seconds.
    wall: Arc<std::sync::atomic::AtomicI64>,
    monotonic: Arc<std::sync::atomic::AtomicI64>,
}

impl Clocks {
    const START: i64 = 1_800_000_000;
    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * Self::HOUR;
    const YEAR: i64 = 365 * Self::DAY;

    fn new() -> Self {
        let clocks = Self::default();
        clocks.wall.store(Self::START, Ordering::SeqCst);
        clocks
    }

    /// Time goes by.
    fn pass(&self, secs: i64) {
        self.jump(secs);
        self.monotonic.fetch_add(secs, Ordering::SeqCst);
    }

    /// The wall clock is set.
    fn jump(&self, secs: i64) {
        self.wall.fetch_add(secs, Ordering::SeqCst);
    }

    /// In Unix nanoseconds.
    fn now(&self) -> i64 {
        self.wall.load(Ordering::SeqCst) * 1_000_000_000
    }

    fn options(&self) -> EngineOptions {
        let (wall, monotonic) = (Arc::clone(&self.wall), Arc::clone(&self.monotonic));
        let secs = |clock: &std::sync::atomic::AtomicI64| {
            Duration::from_secs(clock.load(Ordering::SeqCst).unsigned_abs())
        };
        EngineOptions {
            clock: WallClock::new(move || std::time::UNIX_EPOCH + secs(&wall)),
            monotonic: MonotonicClock::new(move || secs(&monotonic)),
            max_clock_ahead: EngineOptions::default().max_clock_ahead,
            tombstone_grace: EngineOptions::default().tombstone_grace,
            ..fast()
        }
    }
}

/// What a peer does: it takes all that it does not have and can take. Returns how many segments
/// that was, and why it took no others.
fn pull(to: &Engine, from: &Engine) -> (usize, Vec<ApplyError>) {
    let hashes: Vec<Hash> = from.manifest().iter().map(|segment| segment.hash).collect();
    let (mut taken, mut errors) = (0, Vec::new());
    for hash in to.missing(&hashes) {
        let bytes = fs::read(from.folder.segment(&hash)).unwrap();
        match apply(to, &bytes) {
            Ok(_) => taken += 1,
            Err(error) => errors.push(error),
        }
    }
    (taken, errors)
}

fn compact(engine: &Engine) -> Compacted {
    engine.compact(&RateLimiter::unbounded()).unwrap()
}

fn assert_sound(engine: &Engine) {
    let found = engine.verify(false, |_, _| {}).unwrap();
    assert_eq!(found.count, 0, "{:?}", found.problems);
}

/// As older versions of this host left its registrations.
fn forget_bounds(engine: &Engine) {
    let mut batch = engine.store.batch(PersistMode::SyncAll);
    for segment in engine.index().all() {
        let (key, value) = Registration { bounded: false, ..segment.clone() }.encode();
        batch.insert(&engine.store.segments, key, value);
    }
    engine.store.commit(batch).unwrap();
}
