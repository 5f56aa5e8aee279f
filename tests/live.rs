//! Live sync: what one node writes is on the others at once, and nodes that agree ask each other for
//! nothing. Intervals are so long here that nothing comes by them.
#![allow(clippy::unwrap_used)]

use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use edgestore_host::engine::Engine;
use edgestore_host::runtime::PeerStatus;
use edgestore_host::{Hash, Host};
use edgestore_host_tests::relay::Relay;
use edgestore_host_tests::{
    StockNode, answer, fake_peer, localhost, merkle_body, not_found, open, segments_body,
    wait_until,
};
use serde::Serialize;
use serde_bytes::Bytes;

const LONG: Duration = Duration::from_secs(3600);

fn node(dir: &Path) -> (Arc<Engine>, Host) {
    let engine = open(dir);
    let host = Host::builder(Arc::clone(&engine)).listen(localhost()).interval(LONG).start();
    (engine, host.unwrap())
}

fn replica(dir: &Path, url: &str) -> (Arc<Engine>, Host) {
    let engine = open(dir);
    let host = Host::builder(Arc::clone(&engine)).peer("peer", url).interval(LONG).start();
    (engine, host.unwrap())
}

fn peer(host: &Host) -> PeerStatus {
    host.status().peers.remove(0)
}

fn comes(what: &str, from: &Engine, to: &Engine) {
    from.put(b"ns", what.as_bytes(), b"value").unwrap();
    wait_until(what, || to.get(b"ns", what.as_bytes()).unwrap().is_some());
}

#[test]
fn a_write_is_on_the_replica_long_before_the_interval_is_over() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (primary, host) = node(a.path());
    let relay = Relay::to(host.local_addr().unwrap(), None);
    let (engine, replica) = replica(b.path(), relay.url());
    wait_until("the first tick", || peer(&replica).ticks > 0);
    for what in ["a", "b", "c"] {
        comes(what, &primary, &engine);
    }
    wait_until("it is in sync", || peer(&replica).in_sync());
    assert!(peer(&replica).followed);

    // A tick asks for nothing that is known already.
    let before =
        ["/merkle", "/watermark", "/segments", "/v2/segments"].map(|of| relay.requests(of));
    let ticks = peer(&replica).ticks;
    for n in 1..=3 {
        assert!(replica.wake(None));
        wait_until("it ticks", || peer(&replica).ticks >= ticks + n);
        assert!(peer(&replica).in_sync());
    }
    let after = ["/merkle", "/watermark", "/segments", "/v2/segments"].map(|of| relay.requests(of));
    assert_eq!(after, before);
    // After a change it asks for the segment.
    comes("d", &primary, &engine);
    let whole = ["/merkle", "/v2/segments"].map(|of| relay.requests(of));
    assert_eq!(whole, [before[0], before[3]]);
    assert_eq!(relay.requests("/segments/"), before[2] + 1);
}

#[test]
fn a_box_that_cuts_what_waits_holds_nothing_up() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (primary, host) = node(a.path());
    let relay = Relay::to(host.local_addr().unwrap(), Some(Duration::from_millis(1500)));
    let (engine, replica) = replica(b.path(), relay.url());
    wait_until("it was cut and has asked again", || relay.requests("/v2/changes") >= 4);
    for what in ["a", "b"] {
        comes(what, &primary, &engine);
    }
    wait_until("it is in sync", || peer(&replica).in_sync());
}

/// Another epoch, at the same address: what was known of the old one counts for nothing.
#[test]
fn a_peer_whose_database_is_another_one_is_read_anew() {
    let (a, b, c) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (primary, host) = node(a.path());
    let (engine, replica) = replica(b.path(), &format!("http://{}", host.local_addr().unwrap()));
    comes("a", &primary, &engine);
    let address = host.local_addr().unwrap();
    host.shutdown();
    let other = open(c.path());
    other.put(b"ns", b"other", b"value").unwrap();
    let _host = Host::builder(Arc::clone(&other)).listen(address).interval(LONG).start().unwrap();
    wait_until("it comes", || engine.get(b"ns", b"other").unwrap().is_some());
    comes("new", &other, &engine);
    wait_until("it is in sync", || peer(&replica).in_sync());
}

#[test]
fn peers_that_can_not_be_followed_are_polled() {
    let dir = tempfile::tempdir().unwrap();
    let stock = StockNode::serve(&dir.path().join("stock"), |engine| {
        engine.put(b"ns", b"key", b"value").unwrap();
        engine.flush_to_segments().unwrap();
    });
    let engine = open(&dir.path().join("db"));
    let interval = Duration::from_millis(20);
    let host = Host::builder(Arc::clone(&engine)).peer("stock", &stock.url).interval(interval);
    let host = host.start().unwrap();
    wait_until("it comes", || engine.get(b"ns", b"key").unwrap().is_some());
    wait_until("it ticks on", || peer(&host).ticks > 5 && peer(&host).in_sync());
    assert!(!peer(&host).followed);
}

/// Of the protocol: the epoch in hex, hashes as bytes.
#[derive(Serialize)]
struct ChangesBody<'a> {
    epoch: &'a str,
    seq: u64,
    root: &'a Bytes,
}

fn changes(seq: u64, root: &[u8; 32]) -> Vec<u8> {
    rmp_serde::to_vec_named(&ChangesBody { epoch: "1", seq, root: Bytes::new(root) }).unwrap()
}

/// It says at once, and every time, that it has something new.
#[test]
fn a_peer_that_never_waits_is_not_asked_all_the_time() {
    let (asked, gone) = (Arc::new(AtomicUsize::new(0)), Hash::of(b"gone"));
    let (count, seq, list) = (Arc::clone(&asked), AtomicU64::new(0), segments_body(&[gone]));
    let url = fake_peer(move |path, stream: &mut TcpStream| match path {
        path if path.starts_with("/v2/changes") => {
            count.fetch_add(1, Ordering::Relaxed);
            let seq = seq.fetch_add(1, Ordering::Relaxed);
            answer(stream, &changes(seq, Hash::of(&seq.to_be_bytes()).as_bytes()));
        }
        "/merkle" => answer(stream, &merkle_body(Hash::root([gone]).as_bytes())),
        "/segments" => answer(stream, &list),
        _ => not_found(stream),
    });
    let dir = tempfile::tempdir().unwrap();
    let (_, host) = replica(dir.path(), &url);
    wait_until("it was asked often", || asked.load(Ordering::Relaxed) >= 10);
    let (before, ticks) = (asked.load(Ordering::Relaxed), peer(&host).ticks);
    std::thread::sleep(Duration::from_secs(3));
    let (more, ticks) = (asked.load(Ordering::Relaxed) - before, peer(&host).ticks - ticks);
    assert!(more <= 6 && ticks <= 8, "{more} questions and {ticks} ticks in three seconds");
    assert!(!peer(&host).in_sync());
}

/// What a peer says of its root proves nothing of what is in its list.
#[test]
fn a_root_that_is_told_and_not_of_the_list_is_not_in_sync() {
    let (gone, url_root) = (Hash::of(b"gone"), [7; 32]);
    let list = segments_body(&[gone]);
    let url = fake_peer(move |path, stream: &mut TcpStream| match path {
        "/v2/changes" => answer(stream, &changes(1, &url_root)),
        path if path.starts_with("/v2/changes") => {
            std::thread::sleep(Duration::from_secs(5));
            answer(stream, &changes(1, &url_root));
        }
        "/merkle" => answer(stream, &merkle_body(&url_root)),
        "/segments" => answer(stream, &list),
        _ => not_found(stream),
    });
    let dir = tempfile::tempdir().unwrap();
    let (_, host) = replica(dir.path(), &url);
    for n in 1..=5 {
        wait_until("it ticks", || peer(&host).ticks >= n);
        assert!(!peer(&host).in_sync(), "{:?}", peer(&host));
        assert!(host.wake(None));
    }
}

/// As from a cache: the answer to who waits for changes is always the same, and its root and list are not.
#[test]
fn a_peer_that_keeps_its_changes_to_itself_is_polled() {
    let (source, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let primary = open(source.path());
    primary.put(b"ns", b"old", b"value").unwrap();
    primary.flush().unwrap();
    let (stale, peer_engine) = (*primary.root().as_bytes(), Arc::clone(&primary));
    let url = fake_peer(move |path, stream: &mut TcpStream| match path {
        path if path.starts_with("/v2/changes") => {
            if path.contains("since") {
                std::thread::sleep(Duration::from_millis(300));
            }
            answer(stream, &changes(1, &stale));
        }
        "/merkle" => answer(stream, &merkle_body(peer_engine.root().as_bytes())),
        "/segments" => {
            let hashes: Vec<_> = peer_engine.manifest().iter().map(|one| one.hash).collect();
            answer(stream, &segments_body(&hashes));
        }
        path => match path.strip_prefix("/segments/").map(|hash| hash.parse().unwrap()) {
            Some(hash) => {
                let (mut file, _) = peer_engine.open_segment(&hash).unwrap().unwrap();
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
                answer(stream, &bytes);
            }
            None => not_found(stream),
        },
    });
    let engine = open(dir.path());
    let interval = Duration::from_millis(500);
    let host = Host::builder(Arc::clone(&engine)).peer("peer", &url).interval(interval);
    let _host = host.start().unwrap();
    wait_until("the old one", || engine.get(b"ns", b"old").unwrap().is_some());
    primary.put(b"ns", b"new", b"value").unwrap();
    primary.flush().unwrap();
    wait_until("the new one", || engine.get(b"ns", b"new").unwrap().is_some());
}
