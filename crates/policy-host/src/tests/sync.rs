//! The default policy, on peers that work and on peers that do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use edgestore_engine::Engine;
use edgestore_engine::testing::{LONG, wait_until};
use edgestore_protocol::{FetchError, PeerError};

use super::super::testing::{Cursors, FakePeer, MemoryArchive, World, logged, policies};
use super::super::wait::lock;
use super::super::*;

fn default_policy(tick_timeout: Duration) -> Policy {
    policies(tick_timeout).load_default().unwrap()
}

/// A peer that offers so many segments of one record each.
pub(super) fn offering(segments: usize) -> FakePeer {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("db")).unwrap();
    for n in 0..segments {
        engine.put(b"ns", format!("key {n}").as_bytes(), b"value").unwrap();
        engine.flush().unwrap().unwrap();
    }
    FakePeer::offering(&engine)
}

fn message(result: Result<TickReport, TickError>) -> String {
    match result {
        Err(TickError::Policy { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_peer_offers_is_pulled_and_stays() {
    let world = World::new([offering(10)]);
    let policy = default_policy(LONG);
    let report = world.tick(&policy).unwrap();
    assert_eq!((report.applied, report.records_written), (10, 10), "{report:?}");
    assert!(report.in_sync, "{report:?}");
    assert_eq!(world.engine.get(b"ns", b"key 3").unwrap().as_deref(), Some(&b"value"[..]));
    let report = world.tick(&policy).unwrap();
    assert!(report.in_sync && report.applied == 0, "{report:?}");
}

#[test]
fn segments_are_archived_too() {
    let mut world = World::new([offering(3)]);
    let archive = Arc::new(MemoryArchive::default());
    world.archive = Some(archive.clone());
    assert_eq!(world.tick(&default_policy(LONG)).unwrap().applied, 3);
    assert_eq!(lock(&archive.0).len(), 3);
}

#[test]
fn errors_of_a_peer_reach_the_user_in_the_words_of_the_host() {
    let errors = [
        (PeerError::Unreachable("refused by 10.0.0.1".into()), "peer a: unreachable", "10.0.0.1"),
        (PeerError::Timeout("after 7 s".into()), "peer a: timeout", "after 7 s"),
        (PeerError::Status(503), "peer a: ", "503"),
        (PeerError::Malformed("3 bytes".into()), "peer a: malformed", "3 bytes"),
        (PeerError::TooLarge { what: "manifest", limit: 9 }, "too large", "the manifest"),
    ];
    let policy = default_policy(LONG);
    for (error, start, detail) in errors {
        let text = message(World::new([FakePeer::failing(error)]).tick(&policy));
        assert!(text.contains(start) && text.contains(detail), "{text}");
    }
}

#[test]
fn what_a_peer_or_the_disk_did_is_not_held_against_the_policy() {
    let policy = default_policy(LONG);
    let blamed = |world: &World| world.tick(&policy).unwrap_err().blames_policy();
    assert!(!blamed(&World::new([FakePeer::failing(PeerError::Status(503))])));
    for (unreadable, unwritable) in [(true, false), (false, true)] {
        let mut world = World::new([offering(1)]);
        world.cursors = Arc::new(Cursors { unreadable, unwritable, ..Cursors::default() });
        assert!(!blamed(&world));
    }
    let world = World::new([FakePeer::default()]);
    world.peers[0].close();
    assert!(!blamed(&world));
}

#[test]
fn a_peer_that_hangs_is_given_up_before_the_tick_is() {
    // The policy has the last tenth of it to say so.
    let timeout = Duration::from_secs(10);
    let start = Instant::now();
    let text = message(World::new([FakePeer::hanging()]).tick(&default_policy(timeout)));
    assert!(text.contains("timeout") && text.contains("ran out of time"), "{text}");
    assert!(start.elapsed() >= timeout / 2, "{:?}", start.elapsed());
}

#[test]
fn closing_a_peer_that_hangs_ends_its_tick_at_once() {
    let policy = default_policy(2 * LONG);
    let world = World::new([FakePeer::hanging()]);
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(100));
            world.peers[0].close();
        });
        assert_eq!(world.tick(&policy), Err(TickError::Closed));
    });
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
}

#[test]
fn transfers_are_cancelled_when_their_peer_is_closed() {
    let mut peer = offering(3);
    let (cancelled, started) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (seen, running) = (Arc::clone(&cancelled), Arc::clone(&started));
    peer.before_fetch = Box::new(move |cancel| {
        running.store(true, Ordering::Relaxed);
        while !cancel.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        seen.fetch_add(1, Ordering::Relaxed);
        Err(FetchError::Cancelled)
    });
    let (world, policy) = (World::new([peer]), default_policy(2 * LONG));
    let ticked = thread::scope(|scope| {
        let tick = scope.spawn(|| world.tick(&policy));
        while !started.load(Ordering::Relaxed) && !tick.is_finished() {
            thread::yield_now();
        }
        world.peers[0].close();
        tick.join().unwrap()
    });
    assert_eq!(ticked, Err(TickError::Closed));
    wait_until("a transfer is cancelled", || cancelled.load(Ordering::Relaxed) > 0);
}

#[test]
fn bytes_that_are_not_those_asked_for_are_never_applied() {
    let mut peer = offering(2);
    peer.segments[0].1 = b"something else".to_vec();
    let world = World::new([peer]);
    let report = world.tick(&default_policy(LONG)).unwrap();
    assert_eq!((report.applied, report.failed, report.in_sync), (1, 1, false), "{report:?}");
    assert_eq!(world.engine.stats().segments, 1);
}

#[test]
fn bytes_that_are_no_segment_are_never_applied() {
    let mut peer = offering(1);
    let bytes = b"well hashed rubbish".to_vec();
    peer.segments.push((edgestore_engine::Hash::of(&bytes), bytes));
    let world = World::new([peer]);
    let (lines, report) = logged(|| world.tick(&default_policy(LONG)).unwrap());
    assert_eq!((report.applied, report.failed), (1, 1), "{report:?}");
    assert_eq!(world.engine.stats().segments, 1);
    assert!(lines.contains("segment rejected"), "{lines}");
}

#[test]
fn a_request_that_panics_fails_the_tick_alone() {
    let peer = FakePeer { first: Box::new(|| panic!("on purpose")), ..FakePeer::default() };
    let world = World::new([peer]);
    let policy = default_policy(LONG);
    assert!(message(world.tick(&policy)).contains("unreachable"));
    assert!(message(world.tick(&policy)).contains("unreachable"));
}

#[test]
fn a_cursor_that_cannot_be_read_is_not_replaced() {
    let mut world = World::new([offering(1)]);
    world.cursors = Arc::new(Cursors { unreadable: true, ..Cursors::default() });
    match world.tick(&default_policy(LONG)) {
        Err(TickError::Storage(text)) => assert!(text.contains("bad sector"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cursor_that_cannot_be_written_fails_the_tick() {
    let mut world = World::new([offering(1)]);
    world.cursors = Arc::new(Cursors { unwritable: true, ..Cursors::default() });
    let text = message(world.tick(&default_policy(LONG)));
    assert!(text.contains("storage") && text.contains("disk full"), "{text}");
}

#[test]
fn a_setting_that_the_policy_does_not_take_is_told() {
    let world = World::new([FakePeer::default()]);
    let settings = vec![("no such setting".to_owned(), "1".to_owned())];
    let context = Context { settings, ..super::super::testing::context() };
    let text = message(default_policy(LONG).tick(world.services(), context));
    assert!(text.contains("setting") && text.contains("no such setting"), "{text}");
}
