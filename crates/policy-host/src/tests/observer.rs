//! What somebody is told who watches a policy.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use edgestore_engine::testing::LONG;
use edgestore_engine::{Engine, Hash};
use edgestore_protocol::PeerError;

use super::super::testing::{FakePeer, World, context, policies, policy};
use super::super::wait::lock;
use super::super::*;

#[derive(Default)]
struct Seen {
    calls: Mutex<Vec<String>>,
    last: Mutex<Duration>,
}

impl Observer for Seen {
    fn called(&self, call: &HostCall<'_>) {
        let HostCall { name, arguments, outcome, at, took } = call;
        lock(&self.calls).push(format!("{name}({arguments}) = {outcome}"));
        assert!(*at >= *lock(&self.last), "calls come in order");
        *lock(&self.last) = *at;
        assert!(*took < Duration::from_secs(60));
    }
}

fn watched(world: &World, policy: &Policy) -> (Vec<String>, Result<TickReport, TickError>) {
    let seen = Arc::new(Seen::default());
    let services = Services { observer: Some(seen.clone()), ..world.services() };
    let result = policy.tick(services, context());
    (std::mem::take(&mut *lock(&seen.calls)), result)
}

#[test]
fn each_call_is_told_with_its_arguments_and_its_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("db")).unwrap();
    engine.put(b"ns", b"key", b"value").unwrap();
    let segment = engine.flush().unwrap().unwrap().hash.short();
    let (root, empty) = (engine.root().short(), Hash::ZERO.short());
    let world = World::new([FakePeer::offering(&engine)]);
    let policy = policies(LONG).load_default().unwrap();
    let (calls, result) = watched(&world, &policy);
    assert_eq!(result.unwrap().applied, 1);
    for call in [
        "cursor.load() = none".to_owned(),
        format!("local.root() = {empty}"),
        format!("peer.probe(a) = root {root}"),
        format!("peer.manifest(a) = manifest {root}"),
        format!("manifest.missing(manifest {root}) = 1 segments"),
        format!("peer.start-fetch(a, {segment}) = transfer {segment}"),
        format!("transfer.take(transfer {segment}) = segment {segment}"),
        format!("local.apply(segment {segment}) = 1 written, 0 skipped"),
        format!("segment.drop(segment {segment}) = "),
    ] {
        assert!(calls.contains(&call), "{call} is not among {calls:#?}");
    }
    let wait = calls.iter().find(|call| call.starts_with("transfers.wait-any(1 transfers, "));
    assert!(wait.unwrap().ends_with(" = 0"), "{calls:#?}");
    let store = calls.iter().find(|call| call.starts_with("cursor.store(")).unwrap();
    assert!(store.ends_with(" bytes) = "), "{store}");
}

#[test]
fn errors_are_told_by_the_names_of_the_contract() {
    let world = World::new([FakePeer::failing(PeerError::Status(503))]);
    let policy = policies(LONG).load_default().unwrap();
    let (calls, result) = watched(&world, &policy);
    assert!(result.is_err());
    assert!(calls.contains(&"peer.probe(a) = error status(503)".to_owned()), "{calls:#?}");
}

#[test]
fn a_call_that_ends_the_tick_is_told_too() {
    // Leaks two peer handles a round.
    let import = r#"(import "edgestore:sync/peers@0.2.0" "all" (func $all (param i32)))"#;
    let leaks = policy(import, "(loop (call $all (i32.const 2048)) (br 0)) unreachable", "");
    let leaks = policies(LONG).load(&leaks).unwrap();
    let (calls, _) = watched(&World::new([FakePeer::default()]), &leaks);
    assert_eq!(calls[0], "peers.all() = 1 peers");
    let last = calls.last().unwrap();
    assert!(
        last.starts_with("peers.all() = ends the tick: ") && last.contains("handles"),
        "{last}"
    );
}

#[test]
fn a_forged_line_stays_one_line() {
    let import = r#"(import "edgestore:sync/log@0.2.0" "write" (func $log (param i32 i32 i32)))"#;
    let body = "(call $log (i32.const 1) (i32.const 100) (i32.const 4)) (i32.const 1024)";
    let forged = policy(import, body, r#"(data (i32.const 100) "a\nb\1b")"#);
    let forged = policies(LONG).load(&forged).unwrap();
    let (calls, _) = watched(&World::new([FakePeer::default()]), &forged);
    assert_eq!(calls, [r"log.write(warn, a\nb\u{1b}) = "]);
}
