//! Both ends over a real socket, with a made-up host.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use edgestore_engine::testing::{LONG, wait_until};
use edgestore_engine::{Compacted, EngineError, EngineStats, Hash, Record};
use edgestore_policy_host::LoadError;

use super::wire::{self, Hello, Welcome};
use super::*;
use crate::{
    Health, HostStatus, MemoryUse, PeerStatus, PolicyChange, PolicyEvent, PolicyEventKind,
    PolicyState, SwapError,
};

type Key = (Vec<u8>, Vec<u8>);

/// Records in memory. A write to the namespace `stuck` waits for the test.
#[derive(Default)]
struct Fake {
    records: Mutex<BTreeMap<Key, Vec<u8>>>,
    gate: Mutex<Option<mpsc::Receiver<()>>>,
}

impl Backend for Fake {
    fn status(&self) -> HostStatus {
        HostStatus {
            policy: "fake 1".into(),
            policy_hash: String::new(),
            policy_state: PolicyState::default(),
            listen: Some(([127, 0, 0, 1], 8900).into()),
            peers: vec![PeerStatus { id: "a".into(), ..PeerStatus::default() }],
            engine: EngineStats { segments: 7, ..EngineStats::default() },
            root: String::new(),
            compaction: None,
            health: Health::default(),
            dead_threads: Vec::new(),
            memory: MemoryUse::default(),
        }
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        // More than a frame takes, and with ids that are missing.
        let segment =
            |n: u64| SegmentInfo { id: 3 * n, hash: Hash::of(b"x"), bytes: 2, records: 3 };
        (0..250_000).map(segment).collect()
    }

    fn get(&self, ns: &[u8], key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.records.lock().unwrap().get(&(ns.to_vec(), key.to_vec())).cloned())
    }

    fn range(
        &self,
        ns: &[u8],
        start: &[u8],
        end: Option<&[u8]>,
    ) -> Result<RecordIter, EngineError> {
        let records = self.records.lock().unwrap();
        let found: Vec<_> = records
            .iter()
            .filter(|((n, k), _)| n == ns && &k[..] >= start && end.is_none_or(|end| &k[..] < end))
            .map(|((_, key), value)| {
                Ok(Record { key: key.clone(), value: value.clone(), timestamp: 1, ttl: 2 })
            })
            .collect();
        Ok(Box::new(found.into_iter()))
    }

    fn write(&self, ops: &[Op]) -> Result<u64, EngineError> {
        for op in ops {
            match op.ns.as_slice() {
                b"full" => return Err(EngineError::Corrupt("the disk is full".into())),
                b"stuck" => {
                    let gate = self.gate.lock().unwrap().take();
                    let _ = gate.map(|gate| gate.recv());
                }
                _ => {}
            }
            let key = (op.ns.clone(), op.key.clone());
            let mut records = self.records.lock().unwrap();
            match &op.value {
                Some(value) => drop(records.insert(key, value.clone())),
                None => drop(records.remove(&key)),
            }
        }
        Ok(42)
    }

    fn flush(&self) -> Result<Option<SegmentInfo>, EngineError> {
        Ok(None)
    }

    fn compact(&self, bytes_per_sec: Option<u64>) -> Result<Compacted, EngineError> {
        Ok(Compacted { retired: bytes_per_sec.unwrap_or(1), ..Compacted::default() })
    }

    fn wake(&self, peer: Option<&str>, _retry: bool) -> bool {
        peer.is_none_or(|peer| peer == "a")
    }

    fn swap_policy(&self, path: &Path) -> Result<PolicyChange, SwapError> {
        if path == Path::new("unreadable") {
            let error = std::io::ErrorKind::PermissionDenied.into();
            return Err(LoadError::Io { path: path.to_owned(), error }.into());
        }
        if path == Path::new("no policy") {
            return Err(LoadError::NotWasm.into());
        }
        let (from, to) = ("fake 1".to_owned(), path.display().to_string());
        Ok(PolicyChange { from, to, hash: String::new(), changed: true })
    }

    fn roll_back_policy(&self) -> Result<PolicyChange, SwapError> {
        Err(SwapError::NoFallback)
    }

    fn policy_history(&self, limit: usize) -> std::io::Result<Vec<PolicyEvent>> {
        let event = |n: usize| PolicyEvent {
            at_secs: 7,
            event: PolicyEventKind::Failed,
            policy: Some("fake 1".into()),
            hash: None,
            // The longest that a trap is told in.
            why: format!("{n}{}", "x".repeat(1100)),
        };
        Ok((0..10_000).map(event).take(limit).collect())
    }
}

fn put(ns: &str, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Op {
    Op { ns: ns.into(), key: key.into(), value: Some(value.into()), ttl: None }
}

fn start(db: &Path) -> AdminServer {
    AdminServer::start(db, Arc::new(Fake::default())).unwrap()
}

#[test]
fn every_request_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let mut client = AdminClient::connect(dir.path()).unwrap();
    assert_eq!(client.status().unwrap(), Fake::default().status());
    assert_eq!(client.segments().unwrap(), Fake::default().segments());
    assert_eq!(client.write(vec![put("n", "a", [0, 255]), put("n", "b", "")]).unwrap(), 42);
    assert_eq!(client.get(b"n", b"a").unwrap(), Some(vec![0, 255]));
    assert_eq!(client.get(b"n", b"b").unwrap(), Some(vec![]));
    client.write(vec![Op { value: None, ..put("n", "a", "") }]).unwrap();
    assert_eq!(client.get(b"n", b"a").unwrap(), None);
    assert_eq!(client.flush().unwrap(), None);
    assert_eq!(client.compact(Some(9)).unwrap().retired, 9);
    assert!(client.wake(None, false).unwrap() && client.wake(Some("a"), true).unwrap());
    assert!(!client.wake(Some("b"), false).unwrap());
    let error = client.write(vec![put("full", "a", "")]).unwrap_err();
    assert_eq!(error.to_string(), "the database is damaged: the disk is full");
    assert!(client.flush().is_ok(), "a failed request does not end the connection");
    server.shutdown();
}

#[test]
fn long_scans_come_in_pages_and_end_where_they_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let _server = start(dir.path());
    let mut client = AdminClient::connect(dir.path()).unwrap();
    // More than fit a page by number, and three that fill one each.
    let key = |n: u32| n.to_be_bytes().to_vec();
    client.write((0..25_000).map(|n| put("many", key(n), "v")).collect()).unwrap();
    for n in 0..3 {
        client.write(vec![put("large", key(n), vec![7; 6 << 20])]).unwrap();
    }
    let keys = |client: &mut AdminClient, ns: &[u8], start: u32, end: Option<u32>, limit| {
        let end = end.map(key);
        let scan = client.scan(ns, &key(start), end.as_deref(), limit);
        scan.map(|record| record.unwrap().key).collect::<Vec<_>>()
    };
    let all: Vec<_> = (0..25_000).map(key).collect();
    assert_eq!(keys(&mut client, b"many", 0, None, u64::MAX), all);
    assert_eq!(keys(&mut client, b"many", 5, Some(15_000), u64::MAX), all[5..15_000]);
    assert_eq!(keys(&mut client, b"many", 0, None, 12_345), all[..12_345]);
    assert_eq!(keys(&mut client, b"many", 0, None, 0), all[..0]);
    assert_eq!(keys(&mut client, b"large", 0, None, u64::MAX), all[..3]);
    assert_eq!(keys(&mut client, b"none", 0, None, u64::MAX), all[..0]);
}

#[test]
fn what_does_not_fit_a_frame_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Arc::new(Fake::default());
    fake.write(&[put("n", "k", vec![0; MAX_FRAME])]).unwrap();
    let _server = AdminServer::start(dir.path(), fake).unwrap();
    let mut client = AdminClient::connect(dir.path()).unwrap();
    let error = client.write(vec![put("n", "a", vec![0; MAX_FRAME])]).unwrap_err();
    assert!(matches!(&error, AdminError::TooLarge(text) if text.contains("smaller")), "{error}");
    let error = client.get(b"n", b"k").unwrap_err();
    assert!(matches!(&error, AdminError::Failed(text) if text.contains("smaller")), "{error}");
    assert!(client.scan(b"n", b"", None, 9).any(|record| record.is_err()));
    assert!(client.status().is_ok());
}

#[test]
fn the_socket_is_the_owners_alone_and_goes_with_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET_NAME);
    // As a crashed host leaves it.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(matches!(AdminClient::connect(dir.path()), Err(AdminError::Absent(_))));
    let server = start(dir.path());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(AdminClient::connect(dir.path()).is_ok());
    let names = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 1, "nothing else is left in the folder");
    server.shutdown();
    assert!(!path.exists());
    assert!(matches!(AdminClient::connect(dir.path()), Err(AdminError::Absent(_))));
}

#[cfg(target_os = "linux")]
#[test]
fn long_paths_do_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&db).unwrap();
    let server = start(&db);
    assert!(AdminClient::connect(&db).unwrap().flush().is_ok());
    server.shutdown();
    assert!(!db.join(SOCKET_NAME).exists());
}

#[test]
fn a_host_that_says_nothing_is_given_up_and_one_that_works_is_not() {
    let short = Duration::from_millis(50);
    let silent = |result: Result<_, AdminError>| {
        assert!(matches!(&result, Err(AdminError::Silent(_))), "{:?}", result.err());
    };
    // One that accepts nothing, as when it is suspended.
    let dir = tempfile::tempdir().unwrap();
    let _listener = UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
    silent(AdminClient::connect_within(dir.path(), short).map(drop));

    // One that says hello and no more, and is suspended then.
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
    let greet = thread::spawn(move || {
        let mut greeted = Vec::new();
        for _ in 0..2 {
            let mut stream = listener.accept().unwrap().0;
            let _: Hello = wire::receive(&mut stream).unwrap();
            wire::send(&mut stream, &Welcome { version: VERSION, refusal: None }).unwrap();
            greeted.push(stream);
        }
        (listener, greeted)
    });
    let mut clients: Vec<_> =
        (0..2).map(|_| AdminClient::connect_within(dir.path(), short).unwrap()).collect();
    let _held = greet.join().unwrap();
    silent(clients[0].status().map(drop));
    silent(clients[1].compact(None).map(drop));

    // One that works on a request for longer than the timeout.
    let dir = tempfile::tempdir().unwrap();
    let (open, gate) = mpsc::channel();
    let fake = Arc::new(Fake { gate: Mutex::new(Some(gate)), ..Fake::default() });
    let _server = AdminServer::start(dir.path(), fake).unwrap();
    let mut client = AdminClient::connect_within(dir.path(), Duration::from_secs(1)).unwrap();
    let write = thread::spawn(move || client.write(vec![put("stuck", "k", "v")]));
    thread::sleep(Duration::from_millis(2500));
    open.send(()).unwrap();
    assert_eq!(write.join().unwrap().unwrap(), 42);
}

#[test]
fn a_socket_that_another_host_has_put_there_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (start(dir.path()), start(dir.path()));
    first.shutdown();
    assert!(AdminClient::connect(dir.path()).unwrap().flush().is_ok());
    second.shutdown();
    assert!(!dir.path().join(SOCKET_NAME).exists());
}

#[test]
fn a_socket_that_was_removed_is_made_again_and_connections_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET_NAME);
    let mut server = start(dir.path());
    let mut open = AdminClient::connect(dir.path()).unwrap();
    assert!(server.is_in_place());
    std::fs::remove_file(&path).unwrap();
    assert!(!server.is_in_place());
    server.renew().unwrap();
    assert!(server.is_in_place() && AdminClient::connect(dir.path()).unwrap().flush().is_ok());
    // Something else in its place, and what can't be replaced.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "in the way").unwrap();
    assert!(!server.is_in_place());
    server.renew().unwrap();
    assert!(AdminClient::connect(dir.path()).unwrap().flush().is_ok());
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(!server.is_in_place() && server.renew().is_err());
    std::fs::remove_dir(&path).unwrap();
    server.renew().unwrap();
    assert!(AdminClient::connect(dir.path()).unwrap().flush().is_ok());
    assert!(open.flush().is_ok());
    server.shutdown();
    assert!(!path.exists() && open.flush().is_err());
}

/// The host can't read the file, which says nothing of the policy.
#[test]
fn what_the_host_could_not_find_out_is_told_from_a_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let _server = start(dir.path());
    let mut client = AdminClient::connect(dir.path()).unwrap();
    let error = client.swap_policy("unreadable").unwrap_err();
    assert!(matches!(&error, AdminError::Unknown(text) if text.contains("unreadable")), "{error}");
    let error = client.swap_policy("no policy").unwrap_err();
    assert!(matches!(error, AdminError::Failed(_)), "{error}");
}

#[test]
fn another_version_gets_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let _server = start(dir.path());
    let mut stream = UnixStream::connect(dir.path().join(SOCKET_NAME)).unwrap();
    wire::send(&mut stream, &Hello { version: VERSION + 1 }).unwrap();
    let welcome: Welcome = wire::receive(&mut stream).unwrap();
    assert_eq!(welcome.version, VERSION);
    assert!(welcome.refusal.unwrap().contains("use the edgestore-host"));
    assert!(wire::receive::<Welcome>(&mut stream).is_err(), "the connection ends");
}

#[test]
fn one_connection_too_many_is_told_so_and_room_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let _server = start(dir.path());
    let mut clients: Vec<_> = (0..16).map(|_| AdminClient::connect(dir.path()).unwrap()).collect();
    let error = AdminClient::connect(dir.path()).unwrap_err();
    assert!(matches!(&error, AdminError::Refused(text) if text.contains("busy")), "{error}");
    assert!(clients[15].flush().is_ok());
    clients.pop();
    wait_until("there is room after a client has gone", || {
        AdminClient::connect(dir.path()).is_ok()
    });
}

#[test]
fn noise_ends_a_connection_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let _server = start(dir.path());
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0; 64], &[2, 0, 0, 0, 1, 2]] {
        let mut stream = UnixStream::connect(dir.path().join(SOCKET_NAME)).unwrap();
        stream.write_all(noise).unwrap();
        assert!(wire::receive::<Welcome>(&mut stream).is_err());
    }
    assert!(AdminClient::connect(dir.path()).unwrap().flush().is_ok());
}

#[test]
fn a_shutdown_waits_for_no_client_but_for_the_running_request() {
    let dir = tempfile::tempdir().unwrap();
    let (open, gate) = mpsc::channel();
    let fake = Arc::new(Fake { gate: Mutex::new(Some(gate)), ..Fake::default() });
    let server = AdminServer::start(dir.path(), Arc::clone(&fake) as _).unwrap();
    // One that says nothing, one in the middle of a frame, one between requests.
    let path = dir.path().join(SOCKET_NAME);
    let _mute = UnixStream::connect(&path).unwrap();
    let mut half = UnixStream::connect(&path).unwrap();
    half.write_all(&[9, 0]).unwrap();
    let mut idle = AdminClient::connect(dir.path()).unwrap();
    idle.status().unwrap();
    let mut busy = AdminClient::connect(dir.path()).unwrap();
    let write = thread::spawn(move || busy.write(vec![put("stuck", "k", "v")]));
    while fake.gate.lock().unwrap().is_some() {
        thread::sleep(Duration::from_millis(1));
    }
    let begin = Instant::now();
    let stop = thread::spawn(move || server.shutdown());
    thread::sleep(Duration::from_millis(100));
    assert!(!stop.is_finished(), "the request runs");
    open.send(()).unwrap();
    stop.join().unwrap();
    assert!(begin.elapsed() < LONG);
    assert_eq!(fake.get(b"stuck", b"k").unwrap(), Some(b"v".into()));
    assert!(write.join().unwrap().is_ok(), "what was done is said to be done");
    assert!(matches!(idle.status(), Err(AdminError::Io(_))));
}
