//! What is promised of the order and of the budget.

use edgestore_policy::mock::{Event, Fate, Listed, MockHost, PEER};

use super::*;

const HOUR_MS: u64 = 3_600_000;

/// Segments with these sizes, numbered from 1, and a budget of 100 bytes an hour.
fn sizes(sizes: &[u64]) -> MockHost {
    let host = MockHost::with([]).setting("bytes-per-hour", "100");
    (1..).zip(sizes).for_each(|(n, size)| host.peer().list(Listed::number(n).size(*size)));
    host
}

fn after_an_hour(host: &MockHost) -> Vec<u64> {
    host.pass_ms(HOUR_MS);
    host.tick::<SmallestFirst>();
    host.fetched()
}

#[test]
fn the_smallest_come_first_and_what_does_not_fit_waits_for_the_next_hour() {
    let host = sizes(&[90, 30, 10, 50, 20]);
    let report = host.tick::<SmallestFirst>();
    assert_eq!(host.fetched(), [3, 5, 2]);
    assert_eq!((report.applied, report.pending, report.in_sync), (3, 2, false));
    assert_eq!(report.next_tick_ms, Some(HOUR_MS));
    assert_eq!(after_an_hour(&host), [4]);
    assert_eq!(after_an_hour(&host), [1]);
}

#[test]
fn the_budget_is_kept_from_tick_to_tick() {
    let host = sizes(&[60, 70]);
    host.tick::<SmallestFirst>();
    host.peer().list(Listed::number(3).size(40));
    host.pass_ms(60_000);
    host.tick::<SmallestFirst>();
    assert_eq!(host.fetched(), [3]);
    host.pass_ms(60_000);
    let report = host.tick::<SmallestFirst>();
    assert_eq!(host.count(&Event::Probe(PEER.into())), 0, "no request at all");
    assert_eq!((report.pending, report.next_tick_ms), (1, Some(HOUR_MS - 120_000)));
}

#[test]
fn it_is_set_aside_before_the_bytes_come() {
    let host = sizes(&[60, 70]);
    host.tick::<SmallestFirst>();
    let events = host.events.borrow();
    let fetched = events.iter().position(|event| matches!(event, Event::Fetch(..))).unwrap();
    assert_eq!(events[fetched - 1], Event::Store);
}

#[test]
fn bytes_that_came_in_vain_count_and_those_that_did_not_come_do_not() {
    let host = sizes(&[60, 70]).fate(1, Fate::NotFetched(FetchError::HashMismatch));
    host.tick::<SmallestFirst>();
    assert_eq!(host.fetched(), [1], "60 of 100 are gone");
    let host = sizes(&[60, 70]).fate(1, Fate::NotFetched(FetchError::NotFound));
    host.tick::<SmallestFirst>();
    assert_eq!(host.fetched(), [1, 2]);
}

#[test]
fn what_was_never_started_does_not_count() {
    let host = sizes(&[10, 20, 30]);
    host.byte_limit.set(10);
    host.tick::<SmallestFirst>();
    assert_eq!(host.fetched(), [1]);
    host.byte_limit.set(u64::MAX);
    host.peer().list(Listed::number(4).size(40));
    host.tick::<SmallestFirst>();
    assert_eq!(host.fetched(), [2, 3, 4], "10 + 20 + 30 + 40 bytes");
}

#[test]
fn a_segment_larger_than_an_hour_comes_alone_and_is_paid_off() {
    let host = sizes(&[250, 10]);
    host.tick::<SmallestFirst>();
    assert_eq!(host.fetched(), [2]);
    assert_eq!(after_an_hour(&host), [1]);
    host.peer().list(Listed::number(3).size(10));
    assert_eq!(after_an_hour(&host), [0; 0]);
    assert_eq!(after_an_hour(&host), [3]);
}

#[test]
fn segments_of_unknown_size_come_last_and_one_by_one() {
    let host = MockHost::with([1, 2]).setting("bytes-per-hour", "100");
    host.peer().list(Listed::number(3).size(10));
    assert!(host.tick::<SmallestFirst>().in_sync);
    assert_eq!(host.fetched(), [3, 1, 2]);
    assert_eq!(host.most_in_flight.get(), 1);
}

#[test]
fn what_is_complete_is_not_listed_again() {
    let host = sizes(&[10]);
    host.tick::<SmallestFirst>();
    host.local.borrow_mut().insert(edgestore_policy::mock::segment(77));
    assert!(host.tick::<SmallestFirst>().in_sync);
    assert_eq!(host.count(&Event::Manifest(PEER.into())), 0);
}
