//! What a peer does is held against no policy: none is called failed or stalled by it, and none is
//! rolled back.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use edgestore_host::policy::Limits;
use edgestore_host::runtime::{PeerStatus, PolicyEventKind, policy_history};
use edgestore_host::{Hash, Host, HostBuilder};
use edgestore_host_tests::component::{component, policy, wat_with};
use edgestore_host_tests::{
    answer, fake_peer, merkle_body, not_found, open, segments_body, wait_until,
};

const POLICIES: [&str; 2] = ["../guest-sync/sync.wasm", "fixtures/policy-0.1.wasm"];
const PROBATION: u32 = 3;
const INTERVAL: Duration = Duration::from_millis(10);

fn shipped(policy: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(policy)
}

/// A host that soon calls a policy failed, and a policy that soon sets a segment aside.
fn builder(db: &Path, url: &str, policy: &Path) -> HostBuilder {
    Host::builder(open(db))
        .peer("peer", url)
        .plugin(policy)
        .setting("max-tries", "1")
        .setting("quarantine-secs", "3600")
        .probation(PROBATION)
        .max_failures(1)
        .interval(INTERVAL)
}

/// What the host says of the peer after some more ticks, and whether it holds anything against the
/// policy.
fn after_ticks(host: &Host, ticks: u64) -> PeerStatus {
    let peer = || host.status().peers.remove(0);
    let before = peer().ticks;
    wait_until("it ticks", || peer().ticks >= before + ticks);
    peer()
}

fn is_blamed(db: &Path) -> bool {
    let bad = [PolicyEventKind::Failed, PolicyEventKind::RolledBack];
    policy_history(db, 1000).unwrap().iter().any(|event| bad.contains(&event.event))
}

/// A policy that says "in sync", and asks nobody.
fn idle_policy(dir: &Path) -> PathBuf {
    let file = dir.join("idle.wasm");
    std::fs::write(&file, policy("(i32.store8 (i32.const 1032) (i32.const 1))")).unwrap();
    file
}

/// A peer with this root and list that has no segment.
fn liar(root: [u8; 32], list: &[Hash]) -> String {
    let list = segments_body(list);
    fake_peer(move |path, stream| match path {
        "/merkle" => answer(stream, &merkle_body(&root)),
        "/segments" => answer(stream, &list),
        _ => not_found(stream),
    })
}

#[test]
fn a_root_that_is_of_no_list_is_held_against_no_policy() {
    let (a, b) = (Hash::of(b"a"), Hash::of(b"b"));
    for (root, list) in [
        ([7; 32], vec![]),
        ([7; 32], vec![a, b]),
        // Of the list as it stands, where that has hashes twice.
        (*Hash::of(&[*a.as_bytes(), *a.as_bytes()].concat()).as_bytes(), vec![a, a]),
    ] {
        let url = liar(root, &list);
        for policy in POLICIES {
            let dir = tempfile::tempdir().unwrap();
            let host = builder(dir.path(), &url, &shipped(policy)).start().unwrap();
            let status = after_ticks(&host, 5 * u64::from(PROBATION));
            let why = status.comparison.unknown.as_deref().unwrap_or_default();
            assert!(why.contains("not of the root that it shows"), "{policy}: {status:?}");
            // That nothing moves is said all the same.
            assert!(!status.in_sync() && status.is_stalled(), "{policy}: {status:?}");
            assert!(!is_blamed(dir.path()), "{policy} beside {} hashes", list.len());
        }
    }
}

/// A peer that fails the first of two questions that come soon after each other.
#[test]
fn a_peer_that_fails_once_hides_no_policy_that_pulls_nothing() {
    let gone = Hash::of(b"gone");
    let idle = tempfile::tempdir().unwrap();
    let idle_policy = idle_policy(idle.path());
    let (root, list) = (merkle_body(Hash::root([gone]).as_bytes()), segments_body(&[gone]));
    let last = Mutex::new(None::<Instant>);
    let url = fake_peer(move |path, stream| match path {
        "/merkle" => {
            let last = last.lock().unwrap().replace(Instant::now());
            match last.is_some_and(|last| last.elapsed() < INTERVAL * 4 / 5) {
                true => answer(stream, &root),
                false => unavailable(stream),
            }
        }
        "/segments" => answer(stream, &list),
        _ => not_found(stream),
    });
    let dir = tempfile::tempdir().unwrap();
    let _host = builder(dir.path(), &url, &idle_policy).start().unwrap();
    wait_until("it is blamed", || is_blamed(dir.path()));
}

/// Its ticks fail each second time, by the peer's failure; each stores a cursor.
#[test]
fn a_peer_that_fails_now_and_then_hides_no_policy_that_says_in_sync_and_pulls_nothing() {
    let imports = r#"
        (import "edgestore:sync/cursor@0.2.0" "load" (func $load (param i32)))
        (import "edgestore:sync/cursor@0.2.0" "store" (func $store (param i32 i32 i32)))
        (import "edgestore:sync/peers@0.2.0" "[method]peer.probe" (func $probe (param i32 i32)))"#;
    // In sync, or the peer's error.
    let body = "
        (call $load (i32.const 3000))
        (call $store (i32.const 16) (i32.const 7) (i32.const 3000))
        (call $probe (local.get $peer) (i32.const 3000))
        (i32.store8 (i32.const 1024) (i32.load8_u (i32.const 3000)))
        (i32.store8 (i32.const 1032) (i32.eqz (i32.load8_u (i32.const 3000))))";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("idle.wasm");
    std::fs::write(&file, component(&wat_with(imports, body))).unwrap();
    let gone = Hash::of(b"gone");
    let (root, list) = (merkle_body(Hash::root([gone]).as_bytes()), segments_body(&[gone]));
    let asked = AtomicUsize::new(0);
    let url = fake_peer(move |path, stream| match path {
        "/merkle" if asked.fetch_add(1, Ordering::Relaxed) % 2 == 1 => unavailable(stream),
        "/merkle" => answer(stream, &root),
        "/segments" => answer(stream, &list),
        _ => not_found(stream),
    });
    let db = tempfile::tempdir().unwrap();
    let _host = builder(db.path(), &url, &file).start().unwrap();
    wait_until("it is blamed", || is_blamed(db.path()));
}

/// The host looks for itself where a policy says that all is here.
#[test]
fn a_policy_that_pulls_nothing_is_blamed_beside_an_honest_peer_alone() {
    let gone = Hash::of(b"gone");
    let idle = tempfile::tempdir().unwrap();
    let idle_policy = idle_policy(idle.path());
    for (root, blamed) in [([7; 32], false), (*Hash::root([gone]).as_bytes(), true)] {
        let url = liar(root, &[gone]);
        let dir = tempfile::tempdir().unwrap();
        let host = builder(dir.path(), &url, &idle_policy).start().unwrap();
        if blamed {
            wait_until("it is blamed", || is_blamed(dir.path()));
        } else {
            let status = after_ticks(&host, 5 * u64::from(PROBATION));
            assert!(!status.in_sync() && !is_blamed(dir.path()), "{status:?}");
        }
    }
}

#[test]
fn what_a_policy_set_aside_before_a_restart_is_tried_again_and_not_held_against_it() {
    let gone = Hash::of(b"gone");
    let url = liar(*Hash::root([gone]).as_bytes(), &[gone]);
    for policy in POLICIES {
        let dir = tempfile::tempdir().unwrap();
        for start in 0..3 {
            let host = builder(dir.path(), &url, &shipped(policy)).start().unwrap();
            let peer = || host.status().peers.remove(0);
            wait_until("it is tried", || peer().comparison.failed == 1);
            let status = after_ticks(&host, 5 * u64::from(PROBATION));
            assert!(!status.is_stalled() && !is_blamed(dir.path()), "{start} {policy}: {status:?}");
        }
    }
}

/// What the policy before it has tried in vain is not tried by it.
#[test]
fn a_policy_that_pulls_nothing_is_not_proven_by_what_another_one_tried() {
    let gone = Hash::of(b"gone");
    let url = liar(*Hash::root([gone]).as_bytes(), &[gone]);
    let dir = tempfile::tempdir().unwrap();
    let host = builder(dir.path(), &url, &shipped(POLICIES[0])).start().unwrap();
    wait_until("it is tried", || host.status().peers[0].comparison.failed == 1);
    let idle = idle_policy(dir.path());
    host.swap_policy(&idle).unwrap();
    wait_until("it is blamed", || is_blamed(dir.path()));
}

/// A segment that does not come within a tick.
#[test]
fn a_segment_that_comes_too_slowly_is_held_against_no_policy() {
    let slow = Hash::of(b"slow");
    let (root, list) = (Hash::root([slow]), segments_body(&[slow]));
    let url = fake_peer(move |path, stream| match path {
        "/merkle" => answer(stream, &merkle_body(root.as_bytes())),
        "/segments" => answer(stream, &list),
        path if path.ends_with(&slow.to_string()) => trickle(stream),
        _ => not_found(stream),
    });
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { tick_timeout: Duration::from_secs(1), ..Limits::default() };
    let host = builder(dir.path(), &url, &shipped(POLICIES[0])).limits(limits).start().unwrap();
    let peer = || host.status().peers.remove(0);
    wait_until("it is given up", || peer().comparison.failed == 1);
    let status = after_ticks(&host, 5 * u64::from(PROBATION));
    let aside = &status.comparison.set_aside[0];
    assert!(aside.why.contains("had not come"), "{status:?}");
    assert!(!status.is_stalled() && !is_blamed(dir.path()), "{status:?}");
}

fn unavailable(stream: &mut TcpStream) {
    let _ = stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
}

fn trickle(stream: &mut TcpStream) {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n";
    let mut sent = stream.write_all(head);
    while sent.is_ok() {
        thread::sleep(Duration::from_millis(50));
        sent = stream.write_all(b"x");
    }
}
