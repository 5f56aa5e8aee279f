//! What the client makes of each way in which a peer can misbehave. Limits are
//! small here; a test that hangs has found a missing one.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use edgestore_engine::testing::LONG;

use super::*;
use crate::SegmentRef;
use crate::test_peer::{
    ok, peer, peer_hanging_after, peer_repeating, peer_saying, recording_peer, wait_for_hang_up,
};

/// What the published server says to paths that it does not know.
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found";

/// Small sizes, and times that a busy machine keeps.
fn limits() -> ClientLimits {
    ClientLimits {
        connect_timeout: LONG,
        read_timeout: LONG,
        control_timeout: LONG,
        transfer_timeout: LONG,
        max_header_bytes: 2048,
        max_root_bytes: 128,
        max_changes_bytes: 10_000,
        max_manifest_bytes: 10_000,
        max_list_bytes: 1 << 20,
        max_segment_bytes: 200_000,
    }
}

/// Times that the peers in these tests exceed.
fn impatient() -> ClientLimits {
    ClientLimits {
        read_timeout: Duration::from_millis(100),
        control_timeout: Duration::from_millis(250),
        transfer_timeout: Duration::from_millis(250),
        ..limits()
    }
}

fn client(url: &str) -> HttpPeer {
    HttpPeer::new(url, limits()).unwrap()
}

fn root(url: &str) -> PeerError {
    client(url).root().unwrap_err()
}

fn impatient_root(url: &str) -> PeerError {
    HttpPeer::new(url, impatient()).unwrap().root().unwrap_err()
}

fn fetch(url: &str, hash: Hash) -> Result<StagedSegment, FetchError> {
    fetch_with(&client(url), hash, &Arc::default())
}

fn impatient_fetch(url: &str) -> Result<StagedSegment, FetchError> {
    fetch_with(&HttpPeer::new(url, impatient()).unwrap(), Hash::ZERO, &Arc::default())
}

fn fetch_with(
    peer: &HttpPeer,
    hash: Hash,
    cancel: &Arc<AtomicBool>,
) -> Result<StagedSegment, FetchError> {
    let dir = tempfile::tempdir().unwrap();
    let result = peer.fetch(hash, StagingFile::for_test(dir.path()), cancel);
    if result.is_err() {
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "bytes were left behind");
    }
    result
}

fn root_body(hash: &[u8]) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Root<'a> {
        root: &'a [u8],
    }
    rmp_serde::to_vec_named(&Root { root: hash }).unwrap()
}

#[track_caller]
fn assert_malformed(error: PeerError, text: &str) {
    match error {
        PeerError::Malformed(message) if message.contains(text) => {}
        other => panic!("expected Malformed(..{text}..), got {other:?}"),
    }
}

#[test]
fn a_well_behaved_peer_is_understood() {
    let hash = Hash::of(b"segment");
    let url = peer(move |head, stream| {
        let path = head.split(' ').nth(1).unwrap();
        let body = match path {
            "/edge/merkle" => root_body(hash.as_bytes()),
            "/edge/watermark" => rmp_serde::to_vec(&(7, 3)).unwrap(),
            "/edge/v2/segments" => {
                return stream.write_all(NOT_FOUND).unwrap();
            }
            "/edge/segments" => rmp_serde::to_vec(&[(5, hash.as_bytes())]).unwrap(),
            _ if path == format!("/edge/segments/{hash}") => b"segment".to_vec(),
            other => panic!("{other}"),
        };
        stream.write_all(&ok(body)).unwrap();
    });
    let url = format!("{url}/edge/");
    let client = client(&url);
    assert_eq!(client.root(), Ok(hash));
    assert_eq!(client.watermark(), Ok(Some(Watermark { confirmed_lsn: 7, write_token: 3 })));
    let listed = SegmentRef { hash, id: 5, info: None };
    assert_eq!(client.manifest(), Ok([listed].into_iter().collect()));
    let segment = fetch(&url, hash).unwrap();
    assert_eq!((segment.hash(), segment.len()), (hash, 7));
}

#[test]
fn a_request_says_who_asks_and_takes_no_coding() {
    let (url, seen) = recording_peer(ok(root_body(Hash::ZERO.as_bytes())));
    client(&url).root().unwrap();
    let head = seen.recv().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /merkle http/1.1\r\n"), "{head}");
    assert!(head.contains("user-agent: edgestore-host/"), "{head}");
    assert!(head.contains("accept-encoding: identity\r\n"), "{head}");
    assert!(!head.contains("cookie") && !head.contains("authorization"), "{head}");
}

#[test]
fn a_chunked_answer_and_one_that_ends_with_the_connection_are_fine() {
    let segment = b"segment";
    let hash = Hash::of(segment);
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nseg\r\n4\r\nment\r\n0\r\n\r\n";
    assert_eq!(fetch(&peer_saying(chunked), hash).unwrap().len(), 7);
    let until_closed = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsegment";
    assert_eq!(fetch(&peer_saying(until_closed), hash).unwrap().len(), 7);
}

#[test]
fn a_segment_of_many_chunks_comes_whole() {
    let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    let hash = Hash::of(&bytes);
    assert_eq!(fetch(&peer_saying(ok(bytes)), hash).unwrap().len(), 200_000);
}

#[test]
fn a_peer_that_is_down_is_unreachable() {
    // No test gets this port, as it may one that was free a moment ago.
    let error = root("http://127.0.0.1:9");
    assert!(matches!(&error, PeerError::Unreachable(text) if text.contains("refused")), "{error}");
    // RFC 6761: never resolves.
    let error = root("http://peer.invalid");
    assert!(matches!(error, PeerError::Unreachable(_)), "{error}");
}

#[test]
fn a_peer_that_hangs_up_without_an_answer_is_unreachable() {
    let error = root(&peer_saying(""));
    assert!(matches!(error, PeerError::Unreachable(_)), "{error}");
}

#[test]
fn a_peer_without_tls_is_unreachable_by_https() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let error = root(&url);
    assert!(matches!(error, PeerError::Unreachable(_)), "{error}");
}

#[test]
fn a_peer_that_stays_silent_times_out() {
    for said in
        ["", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"]
    {
        let url = peer_hanging_after(said);
        assert!(matches!(impatient_root(&url), PeerError::Timeout(_)), "after {said:?}");
        let fetched = impatient_fetch(&url);
        assert!(matches!(fetched, Err(FetchError::Peer(PeerError::Timeout(_)))), "{fetched:?}");
    }
}

#[test]
fn a_peer_that_trickles_runs_out_of_its_total_time() {
    // Each byte is in time for the read timeout.
    let trickle = |head: &'static str| {
        peer(move |_, stream| {
            stream.write_all(head.as_bytes()).unwrap();
            while stream.write_all(b"a").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        })
    };
    let error = impatient_root(&trickle("HTTP/1.1 200 OK\r\nX: "));
    assert!(matches!(error, PeerError::Timeout(_)), "{error}");
    let url = trickle("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
    assert!(matches!(impatient_root(&url), PeerError::Timeout(_)));
    let fetched = impatient_fetch(&url);
    assert!(matches!(fetched, Err(FetchError::Peer(PeerError::Timeout(_)))), "{fetched:?}");
}

#[test]
fn a_root_of_another_length_is_malformed_and_the_length_told() {
    assert_malformed(root(&peer_saying(ok(root_body(&[1; 20])))), "this one has 20");
}

#[test]
fn what_is_no_messagepack_is_malformed() {
    for body in ["", "\u{1}", "<html>", "garbage"] {
        let url = peer_saying(ok(body));
        assert_malformed(root(&url), "GET ");
        assert_malformed(client(&url).manifest().unwrap_err(), "/segments");
        assert_malformed(client(&url).watermark().unwrap_err(), "/watermark");
    }
    let four_billion = ok(b"\xdd\xff\xff\xff\xff");
    assert_malformed(client(&peer_saying(four_billion)).manifest().unwrap_err(), "");
    assert_malformed(root(&peer_saying("SSH-2.0-OpenSSH_9.9\r\n\r\n")), "protocol");
}

#[test]
fn a_cut_body_is_malformed() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabcdefg";
    assert_malformed(root(&peer_saying(cut)), "ended after 7 of 100 bytes");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nabcdefg\r\n";
    for answer in [cut, chunked] {
        match fetch(&peer_saying(answer), Hash::of(b"abcdefg")) {
            Err(FetchError::Peer(error)) => assert_malformed(error, "ended after 7"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_stated_length_over_the_limit_is_refused_at_once() {
    // The peer sends no body at all: waiting for one would be a timeout.
    let url = peer_hanging_after("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n");
    assert_eq!(root(&url), PeerError::TooLarge { what: "root", limit: 128 });
    let too_large = PeerError::TooLarge { what: "manifest", limit: 10_000 };
    assert_eq!(client(&url).manifest(), Err(too_large));
    let too_large = PeerError::TooLarge { what: "segment", limit: 200_000 };
    assert!(matches!(fetch(&url, Hash::ZERO), Err(FetchError::Peer(e)) if e == too_large));
}

#[test]
fn an_endless_body_is_cut_at_the_limit() {
    let url = peer(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [&b"1000\r\n"[..], &[0x91; 0x1000], b"\r\n"].concat();
        while stream.write_all(&chunk).is_ok() {}
    });
    assert!(matches!(root(&url), PeerError::TooLarge { what: "root", .. }));
    assert!(matches!(client(&url).manifest(), Err(PeerError::TooLarge { .. })));
    let fetched = fetch(&url, Hash::ZERO);
    assert!(matches!(fetched, Err(FetchError::Peer(PeerError::TooLarge { .. }))), "{fetched:?}");
}

#[test]
fn endless_headers_are_cut_at_the_limit() {
    let url = peer(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ");
        while stream.write_all(&[b'x'; 100]).is_ok() {}
    });
    assert!(matches!(root(&url), PeerError::TooLarge { what: "response header", .. }));
}

/// The states of an answer that a peer can make last for ever, and what it sends for that.
const ENDLESS: [(&str, &str, &str); 7] = [
    ("silence", "", ""),
    ("a header", "HTTP/1.1 200 OK\r\nX: ", "x"),
    ("headers", "HTTP/1.1 200 OK\r\n", "X: y\r\n"),
    ("interim answers", "", "HTTP/1.1 103 Early Hints\r\n\r\n"),
    ("chunks with extensions", CHUNKED, "1;extension=x\r\ny\r\n"),
    ("a chunk size", CHUNKED, "0"),
    ("trailers", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X: y\r\n"),
];
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Between two pieces of an answer: so long that no limit of size is reached before one of time.
const TRICKLE: Duration = Duration::from_millis(20);

#[test]
fn a_cancelled_fetch_ends_in_every_state_of_an_answer() {
    for (state, head, again) in ENDLESS {
        let cancel = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&cancel);
        // The limits are so long that nothing else ends it.
        let url =
            peer_repeating(head, again, TRICKLE, move || asked.store(true, Ordering::Relaxed));
        let fetched = fetch_with(&client(&url), Hash::ZERO, &cancel);
        assert!(matches!(fetched, Err(FetchError::Cancelled)), "{state}: {fetched:?}");
    }
}

#[test]
fn a_request_ends_in_time_in_every_state_of_an_answer() {
    for (state, head, again) in ENDLESS {
        let url = peer_repeating(head, again, TRICKLE, || ());
        // Only the whole time is short.
        let limits = ClientLimits {
            control_timeout: Duration::from_millis(250),
            transfer_timeout: Duration::from_millis(250),
            ..limits()
        };
        let peer = HttpPeer::new(&url, limits).unwrap();
        let root = peer.root();
        assert!(matches!(root, Err(PeerError::Timeout(_))), "{state}: {root:?}");
        let fetched = fetch_with(&peer, Hash::ZERO, &Arc::default());
        let timeout = matches!(fetched, Err(FetchError::Peer(PeerError::Timeout(_))));
        assert!(timeout, "{state}: {fetched:?}");
    }
}

#[test]
fn a_flood_ends_in_every_state_of_an_answer_long_before_its_time() {
    for (state, head, again) in ENDLESS.into_iter().skip(1) {
        let again: &str = Box::leak(again.repeat(1000).into_boxed_str());
        let url = peer_repeating(head, again, Duration::ZERO, || ());
        let root = root(&url);
        let ended = matches!(root, PeerError::TooLarge { .. } | PeerError::Malformed(_));
        assert!(ended, "{state}: {root:?}");
        let fetched = fetch(&url, Hash::ZERO);
        let ended = matches!(
            fetched,
            Err(FetchError::Peer(PeerError::TooLarge { .. } | PeerError::Malformed(_)))
        );
        assert!(ended, "{state}: {fetched:?}");
    }
}

#[test]
fn many_small_chunks_are_fine() {
    let bytes = vec![b'x'; 100_000];
    let hash = Hash::of(&bytes);
    let chunks = "1\r\nx\r\n".repeat(bytes.len());
    let url = peer_saying(format!("{CHUNKED}{chunks}0\r\n\r\n"));
    assert_eq!(fetch(&url, hash).unwrap().len(), 100_000);
}

#[test]
fn a_redirect_is_not_followed() {
    let (elsewhere, seen) = recording_peer(ok(root_body(&[0; 32])));
    for status in [301, 302, 307, 308] {
        let redirect = format!(
            "HTTP/1.1 {status} Moved\r\nLocation: {elsewhere}/merkle\r\nContent-Length: 0\r\n\r\n"
        );
        assert_eq!(root(&peer_saying(redirect)), PeerError::Status(status));
    }
    assert!(seen.try_recv().is_err(), "somebody was asked");
}

#[test]
fn a_content_coding_is_refused() {
    for coding in ["gzip", "br", "deflate", "identity, gzip"] {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: 3\r\n\r\nabc"
        );
        let url = peer_saying(answer);
        assert_malformed(root(&url), "Content-Encoding");
        let fetched = fetch(&url, Hash::of(b"abc"));
        assert!(matches!(fetched, Err(FetchError::Peer(PeerError::Malformed(_)))), "{fetched:?}");
    }
    let identity = "HTTP/1.1 200 OK\r\nContent-Encoding: Identity\r\nContent-Length: 3\r\n\r\nabc";
    assert!(fetch(&peer_saying(identity), Hash::of(b"abc")).is_ok());
}

#[test]
fn the_bytes_of_another_segment_are_thrown_away() {
    let (asked, sent) = (Hash::of(b"asked"), Hash::of(b"sent"));
    match fetch(&peer_saying(ok("sent")), asked) {
        Err(FetchError::HashMismatch(error)) => {
            assert_eq!((error.expected, error.actual), (asked, sent));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(fetch(&peer_saying(ok("")), asked), Err(FetchError::HashMismatch(_))));
}

#[test]
fn statuses_are_told_apart() {
    let gone = peer_saying(NOT_FOUND);
    assert!(matches!(fetch(&gone, Hash::ZERO), Err(FetchError::NotFound)));
    assert_eq!(client(&gone).watermark(), Ok(None));
    assert_eq!(client(&gone).manifest(), Err(PeerError::Status(404)));
    assert_eq!(root(&gone), PeerError::Status(404));
    // 206 would be a part, and 204 nothing.
    for status in [500, 503, 204, 206, 403] {
        let url = peer_saying(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(root(&url), PeerError::Status(status));
        let fetched = fetch(&url, Hash::ZERO);
        assert!(matches!(fetched, Err(FetchError::Peer(PeerError::Status(s))) if s == status));
    }
}

#[test]
fn a_cancelled_fetch_ends_before_the_peer_does() {
    let cancel = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&cancel);
    let url = peer(move |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nabc").unwrap();
        asked.store(true, Ordering::Relaxed);
        let _ = stream.write_all(b"def");
        wait_for_hang_up(stream);
    });
    let result = fetch_with(&client(&url), Hash::ZERO, &cancel);
    assert!(matches!(result, Err(FetchError::Cancelled)), "{result:?}");
    let result = fetch_with(&client("http://127.0.0.1:1"), Hash::ZERO, &cancel);
    assert!(matches!(result, Err(FetchError::Cancelled)), "not even a connection: {result:?}");
}

#[test]
fn messages_say_what_was_asked_and_what_happened() {
    let url = peer_hanging_after("");
    let error = impatient_root(&url).to_string();
    assert!(error.contains(&format!("GET {url}/merkle")) && error.contains("in time"), "{error}");
}

/// A server closes a kept connection when it likes, be it between the client's look at it and the
/// next request.
#[test]
fn a_kept_connection_that_dies_under_a_request_costs_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let root = Hash::of(b"root");
    let body = ok(wire::encode(&MerkleBody { root: wire::WireHash(root) }).unwrap());
    let server = thread::spawn(move || {
        let mut connections = 0;
        while connections < 2 {
            let (mut stream, _) = listener.accept().unwrap();
            connections += 1;
            let mut head = [0; 1024];
            assert!(stream.read(&mut head).unwrap() > 0);
            stream.write_all(&body).unwrap();
            // Takes the next request of this connection, and hangs up.
            if connections == 1 {
                assert!(stream.read(&mut head).unwrap() > 0);
            }
        }
    });
    let peer = client(&url);
    assert_eq!(peer.root().unwrap(), root);
    assert_eq!(peer.root().unwrap(), root);
    server.join().unwrap();
}

/// A peer that answers `/v2/segments` with these bytes, and `/segments` by version 1; the paths
/// that it was asked for.
fn peer_of_version1(v2: impl Into<Vec<u8>>) -> (HttpPeer, mpsc::Receiver<String>) {
    let (paths, asked) = mpsc::channel();
    let v2 = v2.into();
    let url = peer(move |head, stream| {
        let path = head.split(' ').nth(1).unwrap();
        paths.send(path.to_owned()).unwrap();
        let v1 = || ok(rmp_serde::to_vec(&[(5, Hash::ZERO.as_bytes())]).unwrap());
        stream.write_all(&if path == "/segments" { v1() } else { v2.clone() }).unwrap();
    });
    (client(&url), asked)
}

const PLAIN: SegmentRef = SegmentRef { hash: Hash::ZERO, id: 5, info: None };

#[test]
fn a_peer_without_version_2_is_asked_for_it_once_in_a_while() {
    let (peer, asked) = peer_of_version1(NOT_FOUND);
    let start = Instant::now();
    for (minutes, paths) in [
        (0, &["/v2/segments", "/segments"][..]),
        (1, &["/segments"]),
        (9, &["/segments"]),
        (10, &["/v2/segments", "/segments"]),
        (19, &["/segments"]),
    ] {
        let now = start + Duration::from_secs(minutes * 60);
        assert_eq!(peer.manifest_at(now), Ok([PLAIN].into_iter().collect()));
        assert_eq!(asked.try_iter().collect::<Vec<_>>(), paths, "after {minutes} min");
    }
}

#[test]
fn version_1_is_used_where_version_2_is_refused_or_too_large() {
    let too_large = ok(vec![0x90; 10_001]);
    let refusals = [400, 403, 405, 410, 501]
        .map(|status| format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n").into_bytes());
    for answer in refusals.into_iter().chain([too_large]) {
        let (peer, asked) = peer_of_version1(answer);
        assert_eq!(peer.manifest(), Ok([PLAIN].into_iter().collect()));
        assert_eq!(asked.try_iter().count(), 2);
    }
}

#[test]
fn a_peer_without_version_1_fails_by_its_version_2() {
    let url = peer(|head, stream| {
        let too_large = ok(vec![0x90; 10_001]);
        let has_it = head.starts_with("GET /v2/segments ");
        stream.write_all(if has_it { &too_large } else { NOT_FOUND }).unwrap();
    });
    let client = client(&url);
    for _ in 0..2 {
        let too_large = PeerError::TooLarge { what: "manifest", limit: 10_000 };
        assert_eq!(client.manifest(), Err(too_large));
    }
}

/// It has version 2. The next try is one of the same.
#[test]
fn a_failure_of_version_2_is_none_of_version_1() {
    for status in [401, 408, 429, 500, 503] {
        let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n");
        let (peer, asked) = peer_of_version1(answer);
        for _ in 0..2 {
            assert_eq!(peer.manifest(), Err(PeerError::Status(status)));
            assert_eq!(asked.try_iter().collect::<Vec<_>>(), ["/v2/segments"]);
        }
    }
    let (peer, asked) = peer_of_version1(ok("garbage"));
    assert_malformed(peer.manifest().unwrap_err(), "/v2/segments");
    assert_eq!(asked.try_iter().collect::<Vec<_>>(), ["/v2/segments"]);
}
