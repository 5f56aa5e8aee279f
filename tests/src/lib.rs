//! What the tests share: stock nodes, nodes of our own, and segments made to order.

pub mod component;
pub mod lines;
pub mod policies;
pub mod relay;
pub mod replica;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use edgestore::segment::SegmentWriter;
use edgestore::types::{MemEntry, Operation, SegmentMeta, encode_key};
use edgestore::{EdgestoreConfig, Engine as StockEngine, InMemorySegmentReader};
use edgestore_host::engine::{
    Engine, EngineError, EngineOptions, MonotonicClock, RateLimiter, WallClock,
};
use edgestore_host::runtime::PeerStatus;
use edgestore_host::{Hash, Host};
use edgestore_repl::HttpReplicationServer;

/// A database of the published crate, behind its own server.
pub struct StockNode {
    /// The database.
    pub engine: Arc<Mutex<StockEngine>>,
    /// Where its server listens, until the process ends.
    pub url: String,
}

impl StockNode {
    /// Opens a database in `dir`, fills it and serves it.
    pub fn serve(dir: &Path, fill: impl FnOnce(&mut StockEngine)) -> Self {
        let mut engine = StockEngine::open(EdgestoreConfig::new(dir)).expect("a stock engine");
        fill(&mut engine);
        let engine = Arc::new(Mutex::new(engine));
        let server = HttpReplicationServer::new(Arc::clone(&engine));
        let (_, port) = server.start("127.0.0.1:0").expect("a stock server");
        Self { engine, url: format!("http://127.0.0.1:{port}") }
    }

    /// The root over its segments.
    pub fn root(&self) -> Hash {
        let root = self.engine.lock().expect("no panic").range_merkle_root().expect("a root");
        Hash::from_bytes(root)
    }
}

/// Any free port of this machine.
pub fn localhost() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Opens an engine of ours.
pub fn open(dir: &Path) -> Arc<Engine> {
    Arc::new(open_with(dir, &EngineOptions::default()))
}

/// Opens an engine of ours with these options.
///
/// A process that another test is starting holds everything that this process has open, until it
/// has become its program: a database that was just closed may be locked for a moment.
pub fn open_with(dir: &Path, options: &EngineOptions) -> Engine {
    let mut opened = None;
    wait_until("the database is free", || {
        opened = Some(Engine::open_with(dir, options.clone()));
        !matches!(opened, Some(Err(EngineError::Locked { .. })))
    });
    opened.expect("a try").expect("an engine")
}

/// Makes a database that has seen its clock go on evenly for an hour, and so forgets by it.
pub fn make_trusting(dir: &Path) {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let passed = Arc::new(AtomicBool::new(false));
    let elapsed = move |passed: &AtomicBool| match passed.load(Ordering::Relaxed) {
        true => HOUR,
        false => Duration::ZERO,
    };
    let (by_wall, by_monotonic) = (Arc::clone(&passed), Arc::clone(&passed));
    let start = SystemTime::now() - HOUR;
    let options = EngineOptions {
        clock: WallClock::new(move || start + elapsed(&by_wall)),
        monotonic: MonotonicClock::new(move || elapsed(&by_monotonic)),
        ..EngineOptions::default()
    };
    let engine = open_with(dir, &options);
    passed.store(true, Ordering::Relaxed);
    // The second one notes what the first one came to.
    for _ in 0..2 {
        assert!(!engine.compact(&RateLimiter::unbounded()).expect("a compaction").waits);
    }
}

/// Serves an engine of ours; returns the host and its URL.
pub fn serve(engine: &Arc<Engine>) -> (Host, String) {
    let host = Host::builder(Arc::clone(engine)).listen(localhost()).start().expect("a host");
    let url = format!("http://{}", host.local_addr().expect("it serves"));
    (host, url)
}

/// Ticks the embedded policy with one peer, called `peer`, until it asks for no further tick.
pub fn pull(engine: &Arc<Engine>, url: &str) -> PeerStatus {
    let once = Host::builder(Arc::clone(engine)).peer("peer", url).run_once();
    once.expect("a host").remove(0)
}

/// The limit of everything that tests wait for. No machine is so busy that it takes this long: a
/// test that reaches it waits for something that never happens.
pub const LONG: Duration = Duration::from_secs(300);

/// Waits until `done`; panics after [`LONG`].
#[track_caller]
pub fn wait_until(what: &str, done: impl FnMut() -> bool) {
    wait_showing(what, done, || ());
}

/// Waits until `done`; panics after [`LONG`], with the state at that time.
#[track_caller]
pub fn wait_showing<S: Debug>(
    what: &str,
    mut done: impl FnMut() -> bool,
    state: impl FnOnce() -> S,
) {
    let start = Instant::now();
    while !done() {
        if start.elapsed() >= LONG {
            panic!("not in {LONG:?}: {what}. The state: {:#?}", state());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The number in an environment variable by which a test does more or less; `or` where it is not set.
///
/// # Panics
/// When it is no number.
pub fn setting(name: &str, or: u32) -> u32 {
    let value = std::env::var(name);
    value
        .map_or(or, |value| value.parse().unwrap_or_else(|error| panic!("{name}={value}: {error}")))
}

/// Runs the test of this name in a process of its own: what a whole process holds is disturbed by
/// other tests. To be called by the test itself; true in that process, where it goes on.
///
/// # Panics
/// When the test fails there.
pub fn is_alone(name: &str) -> bool {
    const ALONE: &str = "EDGESTORE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut test = Command::new(std::env::current_exe().expect("a path of this program"));
    let done = test.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output();
    let done = done.expect("a process");
    let output = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(done.status.success() && output[0].contains("1 passed"), "{}", output.concat());
    false
}

/// All live records of a namespace: key to value and TTL.
pub fn dump(engine: &Engine, ns: &[u8]) -> BTreeMap<Vec<u8>, (Vec<u8>, u32)> {
    let records = engine.range(ns, b"", None).expect("a range");
    let records = records.map(|record| record.expect("a record"));
    records.map(|record| (record.key, (record.value, record.ttl))).collect()
}

/// One record of a made-up segment, in namespace `ns`.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Key in the namespace.
    pub key: Vec<u8>,
    /// None for a tombstone.
    pub value: Option<Vec<u8>>,
    /// Unix nanoseconds.
    pub timestamp: i64,
    /// Seconds, 0 for none.
    pub ttl: u32,
}

/// A put of text at a time.
pub fn put(key: &str, value: &str, timestamp: i64) -> Entry {
    Entry { key: key.into(), value: Some(value.into()), timestamp, ttl: 0 }
}

/// A tombstone at a time.
pub fn tombstone(key: &str, timestamp: i64) -> Entry {
    Entry { key: key.into(), value: None, timestamp, ttl: 0 }
}

/// The bytes of a segment as the published crate writes them; entries in key order.
pub fn segment(entries: &[Entry]) -> Vec<u8> {
    let entries: Vec<_> = entries
        .iter()
        .zip(1..)
        .map(|(entry, lsn)| {
            let key = encode_key(b"ns", &entry.key);
            let op = if entry.value.is_some() { Operation::Put } else { Operation::Delete };
            let Entry { value, timestamp, ttl, .. } = entry.clone();
            (key.clone(), MemEntry { key, value, op, lsn, timestamp, ttl })
        })
        .collect();
    stock_segment(&entries).0
}

/// A segment of these entries by the published writer, with what that notes beside it.
pub fn stock_segment(entries: &[(Vec<u8>, MemEntry)]) -> (Vec<u8>, SegmentMeta) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut writer = SegmentWriter::new(dir.path().to_owned(), 0, 3600);
    let meta = writer.flush(entries).expect("a segment");
    (std::fs::read(dir.path().join("segment-00000000.dat")).expect("its bytes"), meta)
}

/// What the published reader finds in a segment.
pub fn stock_entries(segment: &[u8]) -> Vec<(Vec<u8>, MemEntry)> {
    let (key, op) = (vec![0, 0], Operation::Delete);
    let any = MemEntry { key: key.clone(), value: None, op, lsn: 1, timestamp: 1, ttl: 0 };
    let (_, mut meta) = stock_segment(&[(key, any)]);
    meta.max_key = vec![0xff; 8];
    let hash = *Hash::of(segment).as_bytes();
    let reader = InMemorySegmentReader::from_bytes(0, hash, meta, segment).expect("a segment");
    reader.range_scan(b"", &[0xff; 8]).expect("its entries")
}

/// A peer that says whatever a test wants: the closure gets each request's path and the socket.
/// Returns its URL; it serves until the process ends.
pub fn fake_peer(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind(localhost()).expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (answer, mut stream) = (Arc::clone(&answer), stream.expect("a connection"));
            std::thread::spawn(move || {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read_exact(&mut byte).is_err() {
                        return;
                    }
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head);
                answer(head.split(' ').nth(1).expect("a path"), &mut stream);
            });
        }
    });
    url
}

/// A whole answer. Errors are the peer's to ignore: the client may have hung up.
pub fn answer(stream: &mut TcpStream, body: &[u8]) {
    let head =
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

/// The answer to what a peer does not have. Errors are the peer's to ignore, as in [`answer`].
pub fn not_found(stream: &mut TcpStream) {
    let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
}

/// The protocol's answer to `/merkle`.
pub fn merkle_body(root: &[u8]) -> Vec<u8> {
    rmp_serde::to_vec_named(&BTreeMap::from([("root", root)])).expect("MessagePack")
}

/// The protocol's answer to `/v2/segments`, in as few bytes as it can have.
pub fn manifest_v2_body(hashes: &[Hash]) -> Vec<u8> {
    let mut body = vec![0xdd];
    body.extend((hashes.len() as u32).to_be_bytes());
    for hash in hashes {
        // An array of the id 1 and 32 bytes.
        body.extend([0x92, 1, 0xc4, 32]);
        body.extend(hash.as_bytes());
    }
    body
}

/// The protocol's answer to `/segments`.
pub fn segments_body(hashes: &[Hash]) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Entry<'a> {
        segment_id: u64,
        segment_hash: &'a [u8],
    }
    let entries: Vec<Entry<'_>> = hashes
        .iter()
        .zip(0..)
        .map(|(hash, segment_id)| Entry { segment_id, segment_hash: hash.as_bytes() })
        .collect();
    rmp_serde::to_vec_named(&entries).expect("MessagePack")
}
