//! The server as its clients see it: our own, and bare sockets that know what
//! the published server answers.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use edgestore_engine::testing::{LONG, wait_until};
use edgestore_engine::{Hash, StagingFile};

use super::*;
use crate::{ClientLimits, FetchError, HttpPeer, PeerTransport, SegmentInfo, SegmentRef};

/// An engine with two segments, one of them larger than the chunk that bodies
/// are streamed in.
fn engine() -> (tempfile::TempDir, Arc<Engine>) {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path()).unwrap();
    engine.put(b"ns", b"key", b"value").unwrap();
    engine.flush().unwrap();
    let mut rng = fastrand::Rng::with_seed(7);
    for key in 0..200_u32 {
        let value: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(2000).collect();
        engine.put(b"ns", &key.to_be_bytes(), &value).unwrap();
    }
    engine.flush().unwrap();
    (dir, Arc::new(engine))
}

fn localhost() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn start(engine: &Arc<Engine>, limits: ServerLimits) -> Server {
    Server::start(Arc::clone(engine), localhost(), limits).unwrap()
}

fn client(server: &Server) -> HttpPeer {
    HttpPeer::new(&format!("http://{}", server.local_addr()), ClientLimits::default()).unwrap()
}

struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| {
            line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name))
        })?;
        Some(line.split_once(':')?.1.trim())
    }
}

/// One request by hand, on a connection of its own.
fn request(server: &Server, method: &str, path: &str) -> Reply {
    let mut stream = TcpStream::connect(server.local_addr()).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head, body: answer[end + 4..].to_vec() }
}

/// Until the server hangs up, which it must do well before this panics.
fn read_to_hang_up(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the server did not hang up: {error}"),
    }
    bytes
}

#[test]
fn our_client_gets_everything() {
    let (dir, engine) = engine();
    let server = start(&engine, ServerLimits::default());
    let client = client(&server);
    assert_eq!(client.root().unwrap(), engine.root());
    assert_eq!(client.watermark().unwrap(), Some(engine.watermark()));
    let manifest = client.manifest().unwrap();
    let manifest: Vec<_> = manifest.iter().map(SegmentRef::from).collect();
    let local: Vec<_> = engine
        .extents()
        .map(|(meta, extent)| {
            let info = Some(Box::new(SegmentInfo::new(&meta, extent.unwrap())));
            SegmentRef { hash: meta.hash, id: meta.id, info }
        })
        .collect();
    assert_eq!((manifest.len(), &manifest), (2, &local));
    let info = manifest[1].info.as_ref().unwrap();
    let keys = info.keys.as_ref().unwrap();
    assert_eq!((info.size, info.records), (engine.manifest()[1].bytes, 200));
    assert_eq!(keys.first(), (&b"ns"[..], &0_u32.to_be_bytes()[..]));
    assert_eq!(keys.last(), (&b"ns"[..], &199_u32.to_be_bytes()[..]));
    let newest = engine.get_record(b"ns", &199_u32.to_be_bytes()).unwrap().unwrap().timestamp;
    assert_eq!(info.newest_ms, u64::try_from(newest).unwrap() / 1_000_000);
    assert!(info.created_ms >= info.newest_ms);
    let mut sizes = Vec::new();
    for segment in manifest {
        let into = engine.stage().unwrap();
        let staged = client.fetch(segment.hash, into, &Arc::default()).unwrap();
        sizes.push(staged.len());
    }
    assert!(sizes.iter().any(|&size| size > 200_000), "not more than one chunk: {sizes:?}");
    let into = StagingFile::for_test(dir.path());
    let missing = client.fetch(Hash::of(b"missing"), into, &Arc::default());
    assert!(matches!(missing, Err(FetchError::NotFound)));
}

#[test]
fn control_answers_are_those_of_the_published_server() {
    #[derive(serde::Serialize)]
    struct Merkle {
        root: Vec<u8>,
    }
    #[derive(serde::Serialize)]
    struct Entry {
        segment_id: u64,
        segment_hash: Vec<u8>,
    }
    #[derive(serde::Serialize)]
    struct Watermark {
        confirmed_lsn: u64,
        wtoken: u64,
    }
    let (_dir, engine) = engine();
    let server = start(&engine, ServerLimits::default());
    let merkle = Merkle { root: engine.root().as_bytes().to_vec() };
    let entries: Vec<_> = engine
        .manifest()
        .iter()
        .map(|meta| Entry { segment_id: meta.id, segment_hash: meta.hash.as_bytes().to_vec() })
        .collect();
    let mark = engine.watermark();
    let watermark = Watermark { confirmed_lsn: mark.confirmed_lsn, wtoken: mark.write_token };
    for (path, msgpack, json) in [
        ("/merkle", rmp_serde::to_vec_named(&merkle), serde_json::to_vec(&merkle)),
        ("/segments", rmp_serde::to_vec_named(&entries), serde_json::to_vec(&entries)),
        ("/watermark", rmp_serde::to_vec_named(&watermark), serde_json::to_vec(&watermark)),
    ] {
        let msgpack = msgpack.unwrap();
        for path in
            [path.to_owned(), format!("/{path}"), format!("{path}/"), format!("{path}?debug=yes&x")]
        {
            let reply = request(&server, "GET", &path);
            assert_eq!((reply.status, &reply.body), (200, &msgpack), "{path}");
            assert_eq!(reply.header("content-type"), Some("application/msgpack"));
            assert_eq!(reply.header("content-length"), Some(&*msgpack.len().to_string()));
        }
        let reply = request(&server, "GET", &format!("{path}?x=1&debug=json"));
        assert_eq!((reply.status, &reply.body), (200, &json.unwrap()), "{path}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
}

#[test]
fn version_2_tells_more_of_each_segment_in_both_forms() {
    let (_dir, engine) = engine();
    let server = start(&engine, ServerLimits::default());
    let meta = engine.manifest()[0].clone();
    let msgpack = request(&server, "GET", "/v2/segments");
    assert_eq!(
        (msgpack.status, msgpack.header("content-type")),
        (200, Some("application/msgpack"))
    );
    let json = request(&server, "GET", "/v2/segments?debug=json");
    assert_eq!((json.status, json.header("content-type")), (200, Some("application/json")));
    let told: serde_json::Value = serde_json::from_slice(&json.body).unwrap();
    let Some([first, _]) = told.as_array().map(Vec::as_slice) else { panic!("{told}") };
    let info = &first["info"];
    assert_eq!((&first["id"], &info["records"]), (&meta.id.into(), &1.into()));
    assert_eq!(
        (&first["hash"], &info["size"]),
        (&meta.hash.as_bytes()[..].into(), &meta.bytes.into())
    );
    let end = serde_json::json!([b"ns", b"key"]);
    assert_eq!((&info["keys"]["first"], &info["keys"]["last"]), (&end, &end));
}

#[test]
fn a_segment_is_raw_bytes_with_their_length() {
    let (_dir, engine) = engine();
    let server = start(&engine, ServerLimits::default());
    for meta in engine.manifest() {
        let hash = meta.hash.to_string();
        for digits in [hash.to_uppercase(), hash] {
            let reply = request(&server, "GET", &format!("/segments/{digits}"));
            assert_eq!((reply.status, Hash::of(&reply.body)), (200, meta.hash));
            assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
            assert_eq!(reply.header("content-length"), Some(&*reply.body.len().to_string()));
            assert_eq!(reply.header("transfer-encoding"), None);
        }
    }
}

#[test]
fn wrong_requests_get_the_published_servers_words() {
    let (_dir, engine) = engine();
    let server = start(&engine, ServerLimits::default());
    let (length, digits) = ("hash_hex must be 64 hex characters", "invalid hex encoding in hash");
    for (path, status, text) in [
        ("/", 404, "not found"),
        ("/merkle/x", 404, "not found"),
        ("/segments/0/x", 404, "not found"),
        ("/v2", 404, "not found"),
        ("/v2/merkle", 404, "not found"),
        (&format!("/v2/segments/{:064}", 0), 404, "not found"),
        (&format!("/segments/{:064}", 0), 404, "segment not found"),
        ("/segments/abc", 400, length),
        (&format!("/segments/{:065}", 0), 400, length),
        ("/segments/%ff", 400, length),
        ("/segments/..%2f..%2fetc%2fpasswd", 400, length),
        (&format!("/segments/{}", "g".repeat(64)), 400, digits),
        (&format!("/segments/{}", "%c3%a9".repeat(32)), 400, length),
    ] {
        let reply = request(&server, "GET", path);
        assert_eq!((reply.status, &*reply.body), (status, text.as_bytes()), "{path}");
        assert_eq!(reply.header("content-type"), Some("text/plain; charset=UTF-8"));
    }
}

#[test]
fn head_has_no_body_and_nothing_can_be_written() {
    let (_dir, engine) = engine();
    let server = start(&engine, ServerLimits::default());
    let segment = format!("/segments/{}", engine.manifest()[0].hash);
    for path in ["/merkle", "/watermark", "/segments", "/v2/segments", &segment] {
        let (get, head) = (request(&server, "GET", path), request(&server, "HEAD", path));
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        for name in ["content-length", "content-type"] {
            assert_eq!(head.header(name), get.header(name), "{path}");
        }
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let reply = request(&server, method, path);
            assert_eq!((reply.status, reply.header("allow")), (405, Some("GET,HEAD")), "{path}");
        }
    }
}

#[test]
fn a_request_body_is_ignored() {
    let (_dir, engine) = engine();
    let server = start(&engine, ServerLimits::default());
    let mut stream = TcpStream::connect(server.local_addr()).unwrap();
    let head = "GET /merkle HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\n";
    stream.write_all(format!("{head}abc").as_bytes()).unwrap();
    assert!(read_to_hang_up(&mut stream).starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[test]
fn a_client_that_sends_no_request_is_hung_up_on() {
    let (_dir, engine) = engine();
    let limits =
        ServerLimits { header_timeout: Duration::from_millis(100), ..ServerLimits::default() };
    let server = start(&engine, limits);
    let answer = |said: &str| {
        let mut stream = TcpStream::connect(server.local_addr()).unwrap();
        // It may have been hung up on already.
        let _ = stream.write_all(said.as_bytes());
        read_to_hang_up(&mut stream)
    };
    let answered = |said: &str| answer(said).starts_with(b"HTTP/1.1 200 OK");
    for said in ["", "GET /merkle HTTP/1.1\r\nX: "] {
        assert!(!answered(said));
    }
    wait_until("a request is in time", || answered("GET /merkle HTTP/1.1\r\nHost: x\r\n\r\n"));
}

#[test]
fn a_client_without_progress_is_hung_up_on() {
    let (_dir, engine) = engine();
    let limits =
        ServerLimits { stall_timeout: Duration::from_millis(100), ..ServerLimits::default() };
    let server = start(&engine, limits);
    let mut stream = TcpStream::connect(server.local_addr()).unwrap();
    read_to_hang_up(&mut stream);
}

/// So patient that nothing but what a test is about closes a connection.
fn patient() -> ServerLimits {
    ServerLimits {
        header_timeout: 2 * LONG,
        stall_timeout: 2 * LONG,
        shutdown_grace: Duration::ZERO,
        ..ServerLimits::default()
    }
}

#[test]
fn connections_that_are_idle_or_trickle_make_way_for_others() {
    let (_dir, engine) = engine();
    for said in ["", "GET /merkle HTTP/1.1\r\nX: ", "GET /merkle HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let server = start(&engine, ServerLimits { max_connections: 1, ..patient() });
        let mut first = TcpStream::connect(server.local_addr()).unwrap();
        first.write_all(said.as_bytes()).unwrap();
        let trickle = first.try_clone().unwrap();
        let trickling = std::thread::spawn(move || {
            while said.ends_with(' ') && (&trickle).write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        assert_eq!(request(&server, "GET", "/merkle").status, 200, "after {said:?}");
        read_to_hang_up(&mut first);
        trickling.join().unwrap();
    }
}

#[test]
fn a_shutdown_closes_the_port_and_idle_connections_at_once() {
    let (_dir, engine) = engine();
    let limits = ServerLimits {
        header_timeout: 2 * LONG,
        stall_timeout: 2 * LONG,
        shutdown_grace: 2 * LONG,
        ..ServerLimits::default()
    };
    // An address at which no other test takes the port that is free again.
    let addr = if cfg!(target_os = "linux") { [127, 86, 75, 30] } else { [127, 0, 0, 1] };
    let server = Server::start(Arc::clone(&engine), (addr, 0).into(), limits).unwrap();
    let addr = server.local_addr();
    let client = client(&server);
    client.root().unwrap();
    let start = Instant::now();
    server.shutdown();
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
    assert!(TcpStream::connect(addr).is_err());
    assert!(client.root().is_err());
    wait_until("the server lets go of the engine", || Arc::strong_count(&engine) == 1);
}

#[test]
fn a_shutdown_lets_a_running_request_end() {
    let (_dir, engine) = engine();
    let limits = ServerLimits {
        header_timeout: 2 * LONG,
        shutdown_grace: 2 * LONG,
        ..ServerLimits::default()
    };
    // Nobody says when the connection has been accepted, without which it is refused.
    let answer = [100, 1000, 10_000].into_iter().find_map(|pause| {
        let server = start(&engine, limits.clone());
        let mut stream = TcpStream::connect(server.local_addr()).unwrap();
        stream.write_all(b"GET /merkle HTTP/1.1\r\nX: ").unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        let stopping = std::thread::spawn(move || server.shutdown());
        std::thread::sleep(Duration::from_millis(100));
        let _ = stream.write_all(b"x\r\nHost: x\r\n\r\n");
        let answer = read_to_hang_up(&mut stream);
        stopping.join().unwrap();
        (!answer.is_empty()).then_some(answer)
    });
    assert!(answer.is_some_and(|answer| answer.starts_with(b"HTTP/1.1 200 OK\r\n")));
}

#[test]
fn a_shutdown_does_not_wait_for_ever() {
    let (_dir, engine) = engine();
    let limits = ServerLimits {
        header_timeout: 2 * LONG,
        shutdown_grace: Duration::from_millis(200),
        ..ServerLimits::default()
    };
    let server = start(&engine, limits);
    let mut stream = TcpStream::connect(server.local_addr()).unwrap();
    stream.write_all(b"GET /merkle HTTP/1.1\r\nX: ").unwrap();
    let start = Instant::now();
    drop(server);
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
    assert!(read_to_hang_up(&mut stream).is_empty());
}

#[test]
fn a_bind_error_names_the_address_and_the_fix() {
    let (_dir, engine) = engine();
    let server = start(&engine, ServerLimits::default());
    let addr = server.local_addr();
    let error = Server::start(Arc::clone(&engine), addr, ServerLimits::default()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    let text = error.to_string();
    assert!(text.contains(&addr.to_string()) && text.contains("choose another port"), "{text}");
    // TEST-NET-1, which no interface has.
    let addr = SocketAddr::from(([192, 0, 2, 1], 0));
    let text = Server::start(engine, addr, ServerLimits::default()).unwrap_err().to_string();
    assert!(text.contains("192.0.2.1:0") && text.contains("0.0.0.0"), "{text}");
}

#[test]
fn changes_are_told_as_soon_as_they_are_there() {
    let (_dir, engine) = engine();
    let server = start(&engine, ServerLimits::default());
    let client = client(&server);
    let never = Arc::default();
    let first = client.changes(None, LONG, &never).unwrap();
    assert_eq!((first.root, first.revision, first.delta), (engine.root(), engine.revision(), None));
    assert_eq!(first.watermark, Some(engine.watermark()));

    let start = Instant::now();
    let wait = Duration::from_millis(50);
    let same = client.changes(Some(first.revision), wait, &never).unwrap();
    assert!(start.elapsed() >= wait);
    assert_eq!((same.revision, same.delta), (first.revision, Some(crate::Delta::default())));

    let waiting = std::thread::spawn(move || {
        client.changes(Some(first.revision), LONG, &Arc::default()).unwrap()
    });
    engine.put(b"ns", b"new", b"value").unwrap();
    let segment = engine.flush().unwrap().unwrap();
    let new = waiting.join().unwrap();
    let [added] = &new.delta.as_ref().unwrap().added[..] else { panic!("{new:?}") };
    assert_eq!((added.hash, added.id), (segment.hash, segment.id));
    assert_eq!(added.info.as_ref().unwrap().records, 1);
    assert_eq!(new.root, engine.root());
}

#[test]
fn who_waits_for_changes_is_answered_at_a_shutdown_and_gives_up_when_it_is_to() {
    let (_dir, engine) = engine();
    let server = start(&engine, ServerLimits::default());
    let (a, b) = (client(&server), client(&server));
    let revision = Some(engine.revision());
    let cancel = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let cancelled = Arc::clone(&cancel);
    let gives_up = std::thread::spawn(move || a.changes(revision, LONG, &cancelled));
    cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(gives_up.join().unwrap().is_err());
    let start = Instant::now();
    let waits =
        std::thread::spawn(move || b.changes(revision, Duration::from_secs(45), &Arc::default()));
    // Until the request is there; one that comes later finds nobody.
    std::thread::sleep(Duration::from_millis(300));
    server.shutdown();
    assert!(waits.join().unwrap().is_ok_and(|changes| Some(changes.revision) == revision));
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn changes_are_for_people_too_and_questions_that_are_wrong_are_refused() {
    let (_dir, engine) = engine();
    let server = start(&engine, ServerLimits::default());
    let revision = engine.revision();
    let json = request(&server, "GET", &format!("/v2/changes?since={revision}&debug=json"));
    let body: serde_json::Value = serde_json::from_slice(&json.body).unwrap();
    assert_eq!(body["epoch"], format!("{:016x}", revision.epoch));
    assert_eq!((&body["seq"], &body["added"]), (&revision.seq.into(), &serde_json::json!([])));
    assert_eq!(request(&server, "GET", "/v2/changes?since=what").status, 400);
    assert_eq!(request(&server, "HEAD", "/v2/changes?wait=45s").status, 200);
    assert_eq!(request(&server, "POST", "/v2/changes").status, 405);
}

#[test]
fn those_that_wait_for_changes_make_way_for_others() {
    let (_dir, engine) = engine();
    let server = start(&engine, ServerLimits { max_connections: 4, ..ServerLimits::default() });
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(server.local_addr()).unwrap();
            let revision = engine.revision();
            write!(stream, "GET /v2/changes?since={revision}&wait=45s HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
            stream
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(client(&server).root().unwrap(), engine.root());
    drop(waiting);
}
