//! Hostile policies, hanging peers and slow clients in a running host: they cost their own peer its
//! ticks, and nobody else anything. What a policy can try inside a tick is tested beside the code that
//! contains it; `docs/threat-model.md` lists all of it.
#![allow(clippy::unwrap_used)]

#[path = "program.rs"]
mod program;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use edgestore_host::engine::{Engine, StagedSegment, StagingFile};
use edgestore_host::policy::Limits;
use edgestore_host::protocol::{
    ClientLimits, FetchError, PeerError, PeerTransport, SegmentList, ServerLimits, Watermark,
};
use edgestore_host::runtime::{HostBuilder, PeerStatus};
use edgestore_host::{Hash, Host};
use edgestore_host_tests::component::{component, wat_with};
use edgestore_host_tests::{
    LONG, answer, fake_peer, localhost, manifest_v2_body, merkle_body, not_found, open, put,
    segment, wait_showing, wait_until,
};
use program::{Folder, Running, edgestore};

/// A peer without segments.
struct Empty;

/// A peer that never answers.
struct Hanging;

fn hang<T>() -> T {
    loop {
        thread::park();
    }
}

impl PeerTransport for Empty {
    fn root(&self) -> Result<Hash, PeerError> {
        Ok(Hash::ZERO)
    }

    fn watermark(&self) -> Result<Option<Watermark>, PeerError> {
        Ok(None)
    }

    fn manifest(&self) -> Result<SegmentList, PeerError> {
        Ok(SegmentList::default())
    }

    fn fetch(
        &self,
        _: Hash,
        _: StagingFile,
        _: &Arc<AtomicBool>,
    ) -> Result<StagedSegment, FetchError> {
        Err(FetchError::NotFound)
    }
}

impl PeerTransport for Hanging {
    fn root(&self) -> Result<Hash, PeerError> {
        hang()
    }

    fn watermark(&self) -> Result<Option<Watermark>, PeerError> {
        hang()
    }

    fn manifest(&self) -> Result<SegmentList, PeerError> {
        hang()
    }

    fn fetch(
        &self,
        _: Hash,
        _: StagingFile,
        _: &Arc<AtomicBool>,
    ) -> Result<StagedSegment, FetchError> {
        hang()
    }
}

struct Node {
    dir: tempfile::TempDir,
    engine: Arc<Engine>,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(&dir.path().join("db"));
        Self { dir, engine }
    }

    fn host(&self, tick_timeout: Duration) -> HostBuilder {
        let limits = Limits { tick_timeout, ..Limits::default() };
        Host::builder(Arc::clone(&self.engine)).interval(Duration::from_millis(20)).limits(limits)
    }

    /// The file of a policy.
    fn policy(&self, imports: &str, body: &str) -> PathBuf {
        let path = self.dir.path().join("policy.wasm");
        std::fs::write(&path, component(&wat_with(imports, body))).unwrap();
        path
    }

    /// The node does its other work.
    fn works(&self) {
        self.engine.put(b"ns", b"key", b"value").unwrap();
        assert_eq!(self.engine.get(b"ns", b"key").unwrap().as_deref(), Some(&b"value"[..]));
    }
}

fn status(host: &Host, id: &str) -> PeerStatus {
    host.status().peers.into_iter().find(|peer| peer.id == id).unwrap()
}

#[test]
fn a_peer_that_hangs_delays_no_other_one() {
    let node = Node::new();
    // So long that the hanging peer is in its first tick to the end of the test.
    let host = node.host(2 * LONG);
    let host = host.transport("hanging", Arc::new(Hanging)).transport("good", Arc::new(Empty));
    let host = host.start().unwrap();
    wait_until("the good peer is ticked", || status(&host, "good").ticks >= 20);
    assert!(status(&host, "good").last_report.unwrap().in_sync);
    assert_eq!(status(&host, "hanging").ticks, 0);
    node.works();
    let start = Instant::now();
    host.shutdown();
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
}

#[test]
fn a_policy_that_loops_on_one_peer_delays_no_other_one() {
    let node = Node::new();
    let import =
        r#"(import "edgestore:sync/peers@0.2.0" "[method]peer.id" (func $id (param i32 i32)))"#;
    // Loops where the id begins with a b, as in "bad".
    let loops = "(call $id (local.get $peer) (i32.const 2048))
        (if (i32.eq (i32.load8_u (i32.load (i32.const 2048))) (i32.const 98))
            (then (loop (br 0))))";
    let policy = node.policy(import, loops);
    // It is not rolled back, though it times out and never asks a peer: this test is of what it does
    // until then.
    let host = node.host(Duration::from_secs(1)).plugin(policy).max_failures(u32::MAX);
    let host = host.transport("bad", Arc::new(Empty)).transport("good", Arc::new(Empty));
    let host = host.start().unwrap();
    wait_until("the good peer is ticked", || status(&host, "good").ticks >= 20);
    wait_until("the bad one times out", || status(&host, "bad").ticks >= 1);
    let error = status(&host, "bad").last_error.unwrap();
    assert!(error.contains("longer than 1s"), "{error}");
    // A tick may have taken a second where something else kept the machine busy.
    wait_until("the good one is well", || status(&host, "good").last_error.is_none());
    let ticks = status(&host, "good").ticks;
    wait_until("the good peer is ticked still", || status(&host, "good").ticks >= ticks + 20);
    node.works();
    host.shutdown();
}

#[test]
fn a_policy_that_wants_the_next_tick_at_once_for_ever_makes_no_busy_loop() {
    let node = Node::new();
    // Some, and no wait.
    let policy = node.policy("", "(i32.store8 (i32.const 1080) (i32.const 1))");
    let host = node.host(LONG).interval(Duration::from_secs(30));
    let host = host.plugin(policy).transport("peer", Arc::new(Empty)).start().unwrap();
    wait_until("it is ticked again", || status(&host, "peer").ticks >= 2);
    let (start, before) = (Instant::now(), status(&host, "peer").ticks);
    thread::sleep(Duration::from_secs(2));
    let (passed, ticks) = (start.elapsed(), status(&host, "peer").ticks - before);
    assert_eq!(status(&host, "peer").last_report.unwrap().next_tick, Some(Duration::ZERO));
    // Doubling from 100 ms there is time for five; idle, it would be ticked thousands of times.
    assert!(u128::from(ticks) < passed.as_millis() / 100, "{ticks} ticks in {passed:?}");
    host.shutdown();
}

/// A client that sends this, then reads or writes hardly anything, and comes back when it is hung
/// up on.
fn slow_client(addr: SocketAddr, says: String, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            if let Ok(mut stream) = TcpStream::connect(addr) {
                let _ = stream.write_all(says.as_bytes());
                let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
                while !stop.load(Ordering::Relaxed) && is_open(&mut stream, &says) {}
            }
            thread::sleep(Duration::from_millis(200));
        }
    })
}

/// Takes one byte of an answer, or adds one to the headers.
fn is_open(stream: &mut TcpStream, says: &str) -> bool {
    if says.ends_with(": ") && stream.write_all(b"x").is_err() {
        return false;
    }
    match stream.read(&mut [0]) {
        Ok(bytes) => {
            thread::sleep(Duration::from_millis(200));
            bytes > 0
        }
        Err(error) => {
            matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
        }
    }
}

#[test]
fn slow_clients_of_the_same_address_keep_no_replica_out() {
    let (primary, replica) = (Node::new(), Node::new());
    let mut rng = fastrand::Rng::with_seed(7);
    for key in 0..60_u32 {
        let value: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(1000).collect();
        primary.engine.put(b"ns", &key.to_be_bytes(), &value).unwrap();
        primary.engine.flush().unwrap();
    }
    // More than the system holds for a client that does not read.
    for key in 0..1000_u32 {
        let value: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(20_000).collect();
        primary.engine.put(b"large", &key.to_be_bytes(), &value).unwrap();
    }
    primary.engine.flush().unwrap();
    let large = primary.engine.manifest().iter().max_by_key(|meta| meta.bytes).unwrap().hash;
    // Nothing but the rule about places closes a connection.
    let limits = ServerLimits {
        max_connections: 32,
        max_per_address: 16,
        header_timeout: 3 * LONG,
        stall_timeout: 3 * LONG,
        slow_grace: Duration::from_millis(200),
        ..ServerLimits::default()
    };
    let host = Host::builder(Arc::clone(&primary.engine)).listen(localhost());
    let host = host.server_limits(limits).start().unwrap();
    let addr = host.local_addr().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..90)
        .map(|n| match n % 3 {
            0 => String::new(),
            1 => "GET /merkle HTTP/1.1\r\nX: ".to_owned(),
            _ => format!("GET /segments/{large} HTTP/1.1\r\nHost: x\r\n\r\n"),
        })
        .map(|says| slow_client(addr, says, Arc::clone(&stop)))
        .collect();
    thread::sleep(Duration::from_secs(1));
    let patient =
        ClientLimits { read_timeout: LONG, control_timeout: LONG, ..ClientLimits::default() };
    let pulled = replica.host(2 * LONG).peer("primary", format!("http://{addr}"));
    let pulled = pulled.client_limits(patient).run_once().unwrap().remove(0);
    assert!(pulled.in_sync(), "{pulled:?}");
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    host.shutdown();
}

/// The most memory that a running program had so far, in MiB.
#[cfg(target_os = "linux")]
fn peak_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// As long as a list can be: its body is just below 64 MiB.
#[cfg(target_os = "linux")]
#[test]
fn lists_as_long_as_they_can_be_stay_within_the_budget() {
    let good = segment(&[put("good", "value", 1)]);
    let hash = Hash::of(&good);
    // After the one that it has come those that nobody has.
    let made_up = (0..1_800_000_u32).map(|n| Hash::of(&n.to_le_bytes()));
    let hashes: Vec<_> = std::iter::once(hash).chain(made_up).collect();
    let (list, root) = (manifest_v2_body(&hashes), Hash::root(hashes));
    let url = fake_peer(move |path, stream| match path {
        "/merkle" => answer(stream, &merkle_body(root.as_bytes())),
        "/v2/segments" => answer(stream, &list),
        path if path.ends_with(&hash.to_string()) => answer(stream, &good),
        _ => not_found(stream),
    });
    let folder = Folder::new();
    for (name, peers, words) in [
        ("alone", &["a"][..], "\"listed\":1800001"),
        // Half of the memory for each of them is too little.
        ("two", &["a", "b"], "no memory for more (--memory-budget)"),
    ] {
        let db = folder.path(name);
        let peers: Vec<_> = peers.iter().map(|id| format!("--peer={id}={url}")).collect();
        let args = ["--listen=none", "--interval=1s", "--memory-budget=256MiB"];
        let args: Vec<_> = args.into_iter().chain(peers.iter().map(String::as_str)).collect();
        let host = Running::start(&db, &args);
        let found = || {
            let peers = &host.status()["peers"];
            peers.as_array().unwrap().iter().all(|peer| peer.to_string().contains(words))
        };
        wait_showing("the list is read, or refused", found, || host.status().to_string());
        // Another list takes the place of the first.
        let ticks = || host.status()["peers"][0]["ticks"].as_u64().unwrap();
        wait_until("further ticks", || ticks() >= 3);
        let status = host.status();
        assert_eq!(status["memory"]["budget"], 256 << 20);
        assert!(status["memory"]["resident"].as_u64().unwrap() > 1 << 20, "{status}");
        let peak = peak_mib(host.pid());
        eprintln!("{name}: {peak} MiB at most");
        assert!(peak < 256, "{name}: {peak} MiB");
        let got = edgestore(&["get", "ns", "good", "--db", &db]).output().unwrap();
        assert_eq!(got.status.code(), Some(i32::from(name == "two")), "{got:?}");
    }
}
