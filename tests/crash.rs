//! A node that is killed (SIGKILL) at random instants, again and again on the same database, while
//! it takes writes and deletes, flushes, pulls, applies, notes its cursor and compacts all the time:
//! it merges its own segments, retires those that its primary has merged or written over, and
//! forgets tombstones that are a twentieth of a second old. After each kill:
//!
//! - every acknowledged write and delete is there, and nothing that was deleted has come back;
//! - the database verifies whole: no half segment, no record that no peer could get;
//! - the cursor is not ahead of the data: the segments that it notes as synced are here, or were and
//!   are not needed any more, and so is each record that they held, or a later one.
//!
//! `EDGESTORE_CRASH_ROUNDS` sets how many kills there are; `.ci/run` does 200.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use edgestore_host::admin::{AdminClient, Op};
use edgestore_host::engine::{Engine, EngineOptions, RateLimiter, WriteBatch};
use edgestore_host::{Hash, Host};
use edgestore_host_tests::{LONG, localhost, make_trusting, open, open_with, setting, wait_until};
use edgestore_repl::PeerCursor;

const PROGRAM: &str = env!("CARGO_BIN_EXE_edgestore-host-under-test");
const ROUNDS: u32 = 30;
/// Databases that are killed side by side.
const LANES: u32 = 2;
/// Kills of one database.
const KILLS: u32 = 25;
/// Tombstones are forgotten after this.
const GRACE: Duration = Duration::from_millis(50);

#[test]
fn a_killed_node_has_lost_nothing() {
    let rounds = setting("EDGESTORE_CRASH_ROUNDS", ROUNDS);
    let primary = Primary::start();
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let primary = &primary;
            scope.spawn(move || {
                let mut left = rounds / LANES + u32::from(lane < rounds % LANES);
                let mut seed = u64::from(lane);
                while left > 0 {
                    let kills = left.min(KILLS);
                    kill_again_and_again(primary, kills, seed);
                    left -= kills;
                    seed += u64::from(LANES);
                }
            });
        }
    });
    let [known, unknown] =
        [&primary.known, &primary.unknown].map(|count| count.load(Ordering::Relaxed));
    eprintln!("cursors: {known} at roots that are known, {unknown} at others");
    assert!(
        known > 0,
        "no cursor was checked: {unknown} note roots that were there for an instant"
    );
}

/// A primary at a root.
#[derive(Clone, Default)]
struct Noted {
    segments: Vec<Hash>,
    /// Its last write.
    n: u64,
}

/// Keys that the primary writes, in turn.
const KEYS: u64 = 5000;

/// Flushes of the primary between two of its compactions.
const FLUSHES: u64 = 15;

/// A node that makes a segment every now and then, and merges them.
struct Primary {
    url: String,
    /// What it had at each root, but for those in the midst of a compaction.
    history: Arc<Mutex<HashMap<Hash, Noted>>>,
    /// Cursors that noted such a root, and others.
    known: AtomicU32,
    unknown: AtomicU32,
    stop: Arc<AtomicBool>,
    writer: Option<std::thread::JoinHandle<()>>,
    _host: Host,
    _dir: tempfile::TempDir,
}

impl Primary {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        let builder = Host::builder(Arc::clone(&engine)).listen(localhost());
        let host = builder.compact_interval(None).start().unwrap();
        let url = format!("http://{}", host.local_addr().unwrap());
        let history = Arc::new(Mutex::new(HashMap::from([(Hash::ZERO, Noted::default())])));
        let stop = Arc::new(AtomicBool::new(false));
        let (history_of, stopped) = (Arc::clone(&history), Arc::clone(&stop));
        let writer = std::thread::spawn(move || {
            let mut n = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                let mut batch = WriteBatch::new();
                for _ in 0..200 {
                    n += 1;
                    let key = (n % KEYS).to_be_bytes();
                    batch.put(b"theirs", &key, format!("{n:0100}").as_bytes(), None);
                }
                engine.write(batch).unwrap();
                // The root is known before any peer can have seen it.
                let mut history = history_of.lock().unwrap();
                let mut note = || {
                    let segments = engine.manifest().iter().map(|segment| segment.hash).collect();
                    history.insert(engine.root(), Noted { segments, n });
                };
                engine.flush().unwrap();
                note();
                if (n / 200).is_multiple_of(FLUSHES) {
                    engine.compact(&RateLimiter::unbounded()).unwrap();
                    note();
                }
                drop(history);
                std::thread::sleep(Duration::from_millis(40));
            }
        });
        Self {
            url,
            history,
            known: AtomicU32::default(),
            unknown: AtomicU32::default(),
            stop,
            writer: Some(writer),
            _host: host,
            _dir: dir,
        }
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.writer.take().map(std::thread::JoinHandle::join);
    }
}

fn start(db: &Path, primary: &Primary) -> Child {
    Command::new(PROGRAM)
        .args(["run", "--listen", "none", "--interval", "30ms", "--flush-interval", "10ms"])
        .args(["--compact-interval", "10ms", "--compact-rate", "off"])
        .args(["--tombstone-grace", &humantime::format_duration(GRACE).to_string()])
        .args(["-q", "--peer", &format!("primary={}", primary.url), "--db"])
        .arg(db)
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// The killed node's database, with the options that it had.
fn reopen(db: &Path) -> Engine {
    let options = EngineOptions { tombstone_grace: GRACE, ..EngineOptions::default() };
    open_with(db, &options)
}

fn connect(db: &Path, child: &mut Child) -> AdminClient {
    let start = Instant::now();
    loop {
        match AdminClient::connect(db) {
            Ok(client) => return client,
            Err(error) => {
                assert!(child.try_wait().unwrap().is_none(), "the node ended: {error}");
                assert!(start.elapsed() < LONG, "it does not start: {error}");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// What was done last to each key; none is a delete.
type Writes = BTreeMap<u8, Option<u64>>;

fn kill_again_and_again(primary: &Primary, kills: u32, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    make_trusting(&db);
    let mut acknowledged = Writes::new();
    let mut n = 0;
    for kill in 0..kills {
        let mut child = start(&db, primary);
        let mut client = connect(&db, &mut child);
        let life = Duration::from_micros(rng.u64(..250_000));
        // On a busy machine, no life may be long enough for a whole pull: so some go on for one.
        let pulls = (kill % 5 == 4).then(|| db.clone());
        let killer = std::thread::spawn(move || {
            if let Some(db) = pulls {
                wait_until("a whole pull is noted", || noted_root(&db).is_some());
            }
            std::thread::sleep(life);
            child.kill().unwrap();
            child.wait().unwrap();
        });
        let mut sent = Writes::new();
        loop {
            sent.clear();
            // Deletes are of other keys than puts, of which there is one at least.
            let odd = rng.u8(..2);
            let ops: Vec<Op> = (0..rng.usize(1..20))
                .map(|i| {
                    n += 1;
                    let delete = i > 0 && rng.u8(..4) == 0;
                    let key = rng.u8(..) & !1 | (odd ^ u8::from(delete));
                    let value = (!delete).then_some(n);
                    sent.insert(key, value);
                    let value = value.map(|n: u64| n.to_be_bytes().to_vec());
                    Op { ns: b"own".to_vec(), key: vec![key], value, ttl: None }
                })
                .collect();
            if client.write(ops).is_err() {
                break;
            }
            acknowledged.extend(sent.iter().map(|(key, value)| (*key, *value)));
        }
        killer.join().unwrap();
        let context = format!("seed {seed}, kill {kill}");
        let engine = reopen(&db);
        check_writes(&engine, &mut acknowledged, &sent, &context);
        check_cursor(&db, &engine, primary, &context);
    }
    // What the kills left can be compacted as well.
    let engine = reopen(&db);
    engine.compact(&RateLimiter::unbounded()).unwrap();
    check_writes(&engine, &mut acknowledged, &Writes::new(), &format!("seed {seed}, the end"));
    let stats = engine.stats();
    assert!(stats.retired_segments > 0, "seed {seed}: it has not compacted: {stats:?}");
}

fn check_writes(engine: &Engine, acknowledged: &mut Writes, sent: &Writes, context: &str) {
    let found = engine.verify(false, |_, _| {}).unwrap();
    assert_eq!(found.count, 0, "{context}: {:?}", found.problems);
    // A batch that was sent and not acknowledged is there as a whole or not at all.
    let value = |key: u8| {
        let value = engine.get(b"own", &[key]).unwrap();
        value.map(|value| u64::from_be_bytes(value.try_into().unwrap()))
    };
    let puts = || sent.iter().filter(|(_, n)| n.is_some());
    let arrived = puts().filter(|(key, n)| value(**key) == **n).count();
    assert!(arrived == 0 || arrived == puts().count(), "{context}: half a batch");
    if arrived > 0 {
        acknowledged.extend(sent);
    }
    for (key, n) in acknowledged.iter() {
        assert_eq!(value(*key), *n, "{context}: an acknowledged write is gone");
    }
}

/// The root of the last list of the primary that was pulled whole.
fn noted_root(db: &Path) -> Option<Hash> {
    let cursor = std::fs::File::open(db.join("sync/primary.cursor")).ok()?;
    let cursor: PeerCursor = rmp_serde::from_read(cursor).unwrap();
    Hash::try_from(&cursor.last_known_merkle_root[..]).ok()
}

fn check_cursor(db: &Path, engine: &Engine, primary: &Primary, context: &str) {
    let Some(root) = noted_root(db) else { return };
    let noted = primary.history.lock().unwrap().get(&root).cloned();
    let Some(Noted { segments, n }) = noted else {
        primary.unknown.fetch_add(1, Ordering::Relaxed);
        return;
    };
    primary.known.fetch_add(1, Ordering::Relaxed);
    assert!(segments.iter().all(|hash| engine.has(hash)), "{context}: the cursor is ahead");
    let mut count = 0;
    for record in engine.range(b"theirs", b"", None).unwrap() {
        let record = record.unwrap();
        let key = u64::from_be_bytes(record.key.try_into().unwrap());
        let here: u64 = String::from_utf8(record.value).unwrap().parse().unwrap();
        // The last write of this key up to then.
        let then = n - (n - key.min(n)) % KEYS;
        assert!(here >= then, "{context}: key {key} is {here} and was {then}");
        count += 1;
    }
    assert!(count >= n.min(KEYS), "{context}: {count} records of {}", n.min(KEYS));
}
