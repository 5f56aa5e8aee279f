//! A node that is killed (SIGKILL) at random instants, again and again on the same database, while
//! it takes writes, flushes, pulls, applies and notes its cursor. After each kill:
//!
//! - every acknowledged write is there;
//! - the database verifies whole: no half segment, no record that no peer could get;
//! - the cursor is not ahead of the data: what it notes as synced is here.
//!
//! `EDGESTORE_CRASH_ROUNDS` sets how many kills there are.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use edgestore_host::admin::{AdminClient, Op};
use edgestore_host::engine::Engine;
use edgestore_host::{Hash, Host};
use edgestore_host_tests::{localhost, open};
use edgestore_repl::PeerCursor;

const PROGRAM: &str = env!("CARGO_BIN_EXE_edgestore-host-under-test");
const ROUNDS: u32 = 200;
/// Databases that are killed side by side.
const LANES: u32 = 2;
/// Kills of one database.
const KILLS: u32 = 25;

#[test]
fn a_killed_node_has_lost_nothing() {
    let rounds = match std::env::var("EDGESTORE_CRASH_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("EDGESTORE_CRASH_ROUNDS is a number"),
        Err(_) => ROUNDS,
    };
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
}

/// A node that makes a segment every now and then.
struct Primary {
    url: String,
    /// What it had at each root.
    history: Arc<Mutex<HashMap<Hash, Vec<Hash>>>>,
    stop: Arc<AtomicBool>,
    writer: Option<std::thread::JoinHandle<()>>,
    _host: Host,
    _dir: tempfile::TempDir,
}

impl Primary {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        let host = Host::builder(Arc::clone(&engine)).listen(localhost()).start().unwrap();
        let url = format!("http://{}", host.local_addr().unwrap());
        let history = Arc::new(Mutex::new(HashMap::from([(Hash::ZERO, Vec::new())])));
        let stop = Arc::new(AtomicBool::new(false));
        let (history_of, stopped) = (Arc::clone(&history), Arc::clone(&stop));
        let writer = std::thread::spawn(move || {
            let mut n = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                let mut batch = edgestore_host::engine::WriteBatch::new();
                for _ in 0..200 {
                    n += 1;
                    let key = (n % 5000).to_be_bytes();
                    batch.put(b"theirs", &key, format!("{n:0100}").as_bytes(), None);
                }
                engine.write(batch).unwrap();
                // The root is known before any peer can have seen it.
                let mut history = history_of.lock().unwrap();
                engine.flush().unwrap();
                let hashes = engine.manifest().iter().map(|segment| segment.hash).collect();
                history.insert(engine.root(), hashes);
                drop(history);
                // A long list makes long ticks, of which each is cut by a kill.
                let pause = if engine.manifest().len() < 60 { 40 } else { 1000 };
                std::thread::sleep(Duration::from_millis(pause));
            }
        });
        Self { url, history, stop, writer: Some(writer), _host: host, _dir: dir }
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
        .args(["run", "--listen", "none", "--interval", "30ms", "--flush-interval", "20ms"])
        .args(["-q", "--peer", &format!("primary={}", primary.url), "--db"])
        .arg(db)
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

fn connect(db: &Path, child: &mut Child) -> AdminClient {
    let start = Instant::now();
    loop {
        match AdminClient::connect(db) {
            Ok(client) => return client,
            Err(error) => {
                assert!(child.try_wait().unwrap().is_none(), "the node ended: {error}");
                assert!(start.elapsed() < Duration::from_secs(60), "it does not start: {error}");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

fn kill_again_and_again(primary: &Primary, kills: u32, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("db");
    // The last acknowledged value of each key, and values that were sent and not acknowledged.
    let mut acknowledged: BTreeMap<u8, u64> = BTreeMap::new();
    let mut n = 0;
    for kill in 0..kills {
        let mut child = start(&db, primary);
        let mut client = connect(&db, &mut child);
        let life = Duration::from_micros(rng.u64(..250_000));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(life);
            child.kill().unwrap();
            child.wait().unwrap();
        });
        let mut sent: Vec<(u8, u64)> = Vec::new();
        loop {
            sent.clear();
            let ops: Vec<Op> = (0..rng.usize(1..20))
                .map(|_| {
                    n += 1;
                    let key = rng.u8(..);
                    sent.push((key, n));
                    let value = Some(n.to_be_bytes().to_vec());
                    Op { ns: b"own".to_vec(), key: vec![key], value, ttl: None }
                })
                .collect();
            if client.write(ops).is_err() {
                break;
            }
            acknowledged.extend(sent.iter().copied());
        }
        killer.join().unwrap();
        let context = format!("seed {seed}, kill {kill}");
        check(&db, primary, &mut acknowledged, &sent, &context);
    }
}

fn check(
    db: &Path,
    primary: &Primary,
    acknowledged: &mut BTreeMap<u8, u64>,
    sent: &[(u8, u64)],
    context: &str,
) {
    let engine = Engine::open(db).unwrap();
    // A batch that was sent and not acknowledged is there as a whole or not at all.
    let last: BTreeMap<u8, u64> = sent.iter().copied().collect();
    let value = |key: u8| {
        let value = engine.get(b"own", &[key]).unwrap();
        value.map(|value| u64::from_be_bytes(value.try_into().unwrap()))
    };
    let arrived = last.iter().filter(|(key, n)| value(**key) == Some(**n)).count();
    assert!(arrived == 0 || arrived == last.len(), "{context}: half a batch");
    if arrived > 0 {
        acknowledged.extend(last);
    }
    for (key, n) in acknowledged.iter() {
        assert_eq!(value(*key), Some(*n), "{context}: an acknowledged write is gone");
    }
    let found = engine.verify(false, |_, _| {}).unwrap();
    assert_eq!(found.count, 0, "{context}: {:?}", found.problems);

    let Ok(cursor) = std::fs::File::open(db.join("sync/primary.cursor")) else { return };
    let cursor: PeerCursor = rmp_serde::from_read(cursor).unwrap();
    let Ok(root) = Hash::try_from(&cursor.last_known_merkle_root[..]) else { return };
    let history = primary.history.lock().unwrap();
    let noted: HashSet<Hash> = history.get(&root).expect("a root it had").iter().copied().collect();
    assert!(noted.iter().all(|hash| engine.has(hash)), "{context}: the cursor is ahead");
}
