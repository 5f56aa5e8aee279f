//! What is promised of the window, on lines that differ.

use edgestore_policy::mock::{Event, Fate, Listed, MockHost, PEER};

use super::*;

/// Segments of 1000 bytes, 100 ms away.
fn far(segments: u64) -> MockHost {
    let host = MockHost::with([]);
    (1..=segments).for_each(|n| host.peer().list(Listed::number(n).size(1000)));
    host.peer().latency_ms.set(100);
    host
}

#[test]
fn on_a_long_way_with_much_bandwidth_the_window_grows() {
    let host = far(150);
    assert!(host.tick::<BandwidthAdaptive>().in_sync);
    assert_eq!(host.most_in_flight.get(), 16);
}

#[test]
fn on_a_narrow_line_it_stays_small() {
    let host = far(100);
    host.peer().bytes_per_ms.set(Some(20));
    host.tick::<BandwidthAdaptive>();
    assert!(host.most_in_flight.get() <= 8, "{}", host.most_in_flight.get());
}

#[test]
fn the_next_tick_begins_with_the_window_of_the_last() {
    let host = far(150);
    host.tick::<BandwidthAdaptive>();
    (201..=212).for_each(|n| host.peer().list(Listed::number(n).size(1000)));
    host.tick::<BandwidthAdaptive>();
    assert_eq!(host.most_in_flight.get(), 12);
}

#[test]
fn a_busy_peer_is_asked_for_less_and_the_segment_is_not_to_blame() {
    let host = far(10);
    let busy = Fate::NotFetched(FetchError::Peer(PeerError::Status(503)));
    (1..=10).for_each(|n| host.peer().set_fate(n, busy));
    let report = host.tick::<BandwidthAdaptive>();
    // A window of four, one of two, and three of one.
    assert_eq!((report.failed, report.pending, report.quarantined), (9, 10, 0));
    assert_eq!(report.next_tick_ms, None);
    (1..=10).for_each(|n| host.peer().set_fate(n, Fate::Fine));
    assert!(host.tick::<BandwidthAdaptive>().in_sync);
}

#[test]
fn what_a_busy_peer_refused_comes_in_the_same_tick() {
    let host = far(3);
    host.peer().set_fate(2, Fate::NotFetched(FetchError::Peer(PeerError::Status(429))));
    host.tick::<BandwidthAdaptive>();
    assert!(host.fetched().iter().filter(|n| **n == 2).count() > 1, "{:?}", host.fetched());
}

#[test]
fn a_segment_that_is_wrong_leaves_the_window_as_it_is() {
    let host = far(60);
    (1..=20).for_each(|n| {
        host.peer().set_fate(n, Fate::NotFetched(FetchError::HashMismatch));
    });
    let report = host.tick::<BandwidthAdaptive>();
    assert_eq!((report.applied, report.failed), (40, 20));
    assert!(host.most_in_flight.get() > 4);
}

#[test]
fn a_peer_that_is_gone_ends_the_tick() {
    let host = far(10);
    let gone = Fate::NotFetched(FetchError::Peer(PeerError::Unreachable));
    (1..=10).for_each(|n| host.peer().set_fate(n, gone));
    host.peer().probes_left.set(Some(1));
    let report = host.tick::<BandwidthAdaptive>();
    assert_eq!((report.failed, report.next_tick_ms), (3, None));
}

#[test]
fn what_is_complete_is_not_listed_again() {
    let host = far(2);
    host.tick::<BandwidthAdaptive>();
    host.local.borrow_mut().insert(edgestore_policy::mock::segment(77));
    assert!(host.tick::<BandwidthAdaptive>().in_sync);
    assert_eq!(host.count(&Event::Manifest(PEER.into())), 0);
}
