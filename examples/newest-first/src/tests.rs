//! What is promised of the order, and of looking again.

use edgestore_policy::mock::{Fate, Listed, MockHost, segment};
use edgestore_policy::types::{FetchError, PeerError, PolicyError};

use super::*;

/// Segments 1 to `n`, each newer than the one before, and each takes a second.
fn backlog(n: u64) -> MockHost {
    let host = MockHost::with([]);
    (1..=n).for_each(|n| host.peer().list(Listed::number(n).newest_ms(n * 1000)));
    host.peer().transfer_ms.set(1000);
    host.check_ledger.set(true);
    host
}

#[test]
fn the_newest_segment_comes_first() {
    let host = backlog(5);
    let report = host.tick::<NewestFirst>();
    assert_eq!(host.fetched(), [5, 4, 3, 2, 1]);
    assert!(report.in_sync && report.applied == 5, "{report:?}");
}

#[test]
fn a_peer_that_says_nothing_of_its_segments_is_pulled_in_its_own_order() {
    let host = MockHost::with([3, 1, 2]);
    assert!(host.tick::<NewestFirst>().in_sync);
    assert_eq!(host.fetched(), [3, 1, 2]);
}

#[test]
fn what_is_written_meanwhile_goes_before_the_rest_of_the_backlog() {
    let host = backlog(40).setting("look-again-secs", "3").setting("window", "2");
    let report = host.tick::<NewestFirst>();
    assert_eq!(host.fetched(), [40, 39, 38, 37, 36, 35]);
    assert_eq!((report.pending, report.next_tick_ms), (34, Some(0)));
    host.peer().list(Listed::number(99).newest_ms(99_000));
    host.tick::<NewestFirst>();
    assert_eq!(host.fetched()[..2], [99, 34]);
}

#[test]
fn a_slow_segment_is_not_cut_short_by_looking_again() {
    let host = backlog(1).takes_ms(1, 7000).setting("look-again-secs", "1");
    assert!(host.tick::<NewestFirst>().in_sync);
}

#[test]
fn no_tick_follows_at_once_when_nothing_comes() {
    let host = backlog(8);
    let gone = Fate::NotFetched(FetchError::Peer(PeerError::Unreachable));
    (1..=8).for_each(|n| host.peer().set_fate(n, gone));
    host.peer().probes_left.set(Some(1));
    let report = host.tick::<NewestFirst>();
    assert_eq!((report.failed, report.pending, report.next_tick_ms), (3, 8, None));
}

#[test]
fn a_dead_peer_is_probed_ever_more_rarely() {
    let host = backlog(1);
    host.peer().probe_error.set(Some(PeerError::Unreachable));
    let waits = [(); 3].map(|()| host.try_tick::<NewestFirst>().unwrap_err());
    assert!(waits.iter().all(|failed| failed.error == PolicyError::Peer(PeerError::Unreachable)));
    assert!(waits.is_sorted_by_key(|failed| failed.next_tick_ms), "{waits:?}");
    assert!(waits[2].next_tick_ms > Some(host.interval_ms.get()));
}

#[test]
fn a_segment_that_fails_is_tried_again_after_the_others() {
    let host = backlog(3).fate(3, Fate::NotFetched(FetchError::HashMismatch));
    let report = host.tick::<NewestFirst>();
    assert_eq!((report.applied, report.failed, report.pending), (2, 1, 1));
    host.peer().set_fate(3, Fate::Fine);
    host.peer().list(Listed::number(2));
    host.local.borrow_mut().remove(&segment(2));
    host.pass_ms(10_000);
    host.tick::<NewestFirst>();
    assert_eq!(host.fetched(), [2, 3]);
}
