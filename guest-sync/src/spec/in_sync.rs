//! When a tick ends before the pull.

use super::*;

#[test]
fn equal_roots_end_the_tick_before_the_manifest() {
    let host = host_with([]);
    let report = host.run();
    assert!(report.in_sync);
    assert_eq!((report.missing, report.pending, report.next_tick_ms), (0, 0, None));
    assert_eq!(host.count(&manifest()), 0);
    assert_eq!(host.cursor().last_root, Some(host.peer().root()));
}

#[test]
fn so_does_a_root_that_was_pulled_completely_before() {
    let host = host_with([1, 2]);
    host.local.borrow_mut().insert(segment(99));
    assert_eq!(host.run().applied, 2);
    assert_ne!(root(&host.local.borrow()), host.peer().root());
    assert!(host.run().in_sync);
    assert_eq!(host.count(&manifest()), 0);
}

#[test]
fn but_not_while_something_is_pending() {
    let host = host_with([1]);
    let cursor = PeerCursor {
        last_root: Some(host.peer().root()),
        segments: [(segment(1), State::New)].into_iter().collect(),
        ..PeerCursor::default()
    };
    *host.stored.borrow_mut() = cursor.encode(&Room::ALL);
    assert_eq!(host.run().applied, 1);
}

#[test]
fn and_not_when_the_engine_has_lost_everything() {
    let host = host_with([1]);
    host.local.borrow_mut().insert(segment(99));
    host.run();
    host.local.borrow_mut().clear();
    assert_eq!(host.run().applied, 2);
}

#[test]
fn an_idle_tick_stores_the_attempt_and_nothing_else() {
    let host = host_with([]);
    host.run();
    host.pass_ms(INTERVAL_MS);
    host.run();
    assert_eq!(*host.events.borrow(), [Event::Store, probe()]);
    assert_eq!(host.cursor().last_attempt_secs, host.wall_ms.get() / 1000);
}

#[test]
fn two_empty_hosts_are_in_sync() {
    let host = host_with([]);
    host.peer().list_only([]);
    host.local.borrow_mut().clear();
    assert!(host.run().in_sync);
}
