//! What a pull promises, one test a promise.

use super::*;
use crate::mock::{Fate, Listed, MockHost, MockPeer, segment};
use crate::types::PeerError;

/// A host whose peer lists segments 1 to `count`, and whose manifest was read.
fn host(count: u64) -> MockHost {
    let host = MockHost::with(1..=count);
    host.peer().manifest().unwrap();
    host
}

fn pull(host: &MockHost, window: usize) -> Pull<'_, MockHost> {
    Pull::new(host, Budget::new(host, &host.context()), window)
}

/// Pulls from the peer being ticked until nothing comes: what landed, with true for a segment.
fn drain<'a>(
    pull: &mut Pull<'a, MockHost>,
    host: &'a MockHost,
    numbers: impl IntoIterator<Item = u64>,
) -> Vec<(u64, bool)> {
    let mut numbers = numbers.into_iter();
    let mut landed = Vec::new();
    while let Some(landing) = pull.next(|_| numbers.next().map(|n| (host.peer(), segment(n)))) {
        landed.push((landing.hash.a, landing.outcome.is_ok()));
    }
    landed
}

#[test]
fn segments_land_in_the_order_they_are_done_with_as_many_in_flight_as_the_window() {
    let host = host(4).takes_ms(1, 30).takes_ms(2, 10).takes_ms(3, 10).takes_ms(4, 100);
    let mut pull = pull(&host, 2);
    assert_eq!(drain(&mut pull, &host, 1..=4), [(2, true), (3, true), (1, true), (4, true)]);
    assert_eq!((pull.end(), host.most_in_flight.get()), (End::Drained, 2));
}

#[test]
fn an_error_lands_like_a_segment_whether_or_not_the_transfer_started() {
    let host = host(3)
        .fate(1, Fate::NotStarted(FetchError::NotFound))
        .fate(2, Fate::NotFetched(FetchError::HashMismatch));
    assert_eq!(drain(&mut pull(&host, 1), &host, 1..=3), [(1, false), (2, false), (3, true)]);
}

#[test]
fn the_window_may_change_while_the_pull_runs_but_is_never_empty() {
    let host = (1..=20).fold(host(20), |host, n| host.takes_ms(n, 10));
    let mut pull = pull(&host, 0);
    let mut numbers = 1..=20;
    let mut in_flight = Vec::new();
    for window in [1, 4, 4, 2, 2, 2, 0] {
        pull.set_window(window);
        pull.next(|_| numbers.next().map(|n| (host.peer(), segment(n))));
        in_flight.push(pull.flights().len());
    }
    // One of them has landed each time.
    assert_eq!(in_flight, [0, 3, 3, 2, 1, 1, 0]);
}

#[test]
fn a_landing_says_how_long_it_took() {
    let host = host(1).takes_ms(1, 70);
    let mut pull = pull(&host, 4);
    let mut numbers = 1..=1;
    let landing = pull.next(|_| numbers.next().map(|n| (host.peer(), segment(n)))).unwrap();
    assert_eq!((landing.took_ms, landing.peer.id().as_str()), (70, "peer"));
}

#[test]
fn the_source_chooses_the_peer_by_what_is_in_flight() {
    let host = MockHost::with(1..=6);
    host.add_peer("b", 1..=6);
    let peers = host.peers();
    for peer in &peers {
        peer.manifest().unwrap();
        peer.latency_ms.set(10);
    }
    let mut numbers = 1..=6;
    let mut pull = pull(&host, 4);
    let landings = std::iter::from_fn(|| {
        pull.next(|flights| {
            let busy = |peer: &&MockPeer| flights.iter().filter(|f| f.peer.id == peer.id).count();
            Some((peers.iter().min_by_key(busy)?, segment(numbers.next()?)))
        })
    });
    assert_eq!(landings.count(), 6);
    assert_eq!((host.fetched_from("peer").len(), host.fetched_from("b").len()), (3, 3));
}

#[test]
fn a_host_that_allows_fewer_transfers_narrows_the_window_and_nothing_is_lost() {
    let host = host(9);
    host.transfer_limit.set(2);
    let mut pull = pull(&host, 8);
    assert_eq!(drain(&mut pull, &host, 1..=9).len(), 9);
    assert_eq!((pull.window(), pull.end()), (2, End::Drained));
}

#[test]
fn a_host_that_allows_no_transfer_blocks_the_pull() {
    let host = host(2);
    host.transfer_limit.set(0);
    let mut pull = pull(&host, 8);
    assert!(drain(&mut pull, &host, 1..=2).is_empty());
    assert_eq!(pull.end(), End::Blocked);
    host.transfer_limit.set(1);
    assert_eq!(
        drain(&mut pull, &host, 2..=2),
        [(1, true), (2, true)],
        "what was asked for is kept"
    );
}

#[test]
fn when_the_bytes_of_the_tick_are_pulled_what_flies_still_lands() {
    let host = MockHost::with([]);
    (1..=9).for_each(|n| host.peer().list(Listed::number(n).size(100)));
    host.peer().manifest().unwrap();
    host.byte_limit.set(250);
    let mut pull = pull(&host, 2);
    assert_eq!(drain(&mut pull, &host, 1..=9), [(1, true), (2, true), (3, true)]);
    assert_eq!(pull.end(), End::OutOfBytes);
}

#[test]
fn so_it_is_when_they_run_out_in_the_midst_of_a_transfer() {
    let host = host(9).fate(2, Fate::NotFetched(FetchError::TooManyBytes)).takes_ms(1, 5);
    let mut pull = pull(&host, 2);
    assert_eq!(drain(&mut pull, &host, 1..=9), [(1, true)]);
    assert_eq!(pull.end(), End::OutOfBytes);
}

#[test]
fn nothing_starts_in_the_last_fifth_of_the_budget() {
    let host = (1..=9).fold(host(9), |host, n| host.takes_ms(n, 3000));
    let mut pull = pull(&host, 1);
    assert_eq!(drain(&mut pull, &host, 1..=9).len(), 3);
    assert_eq!((pull.end(), host.clock_ms.get()), (End::OutOfTime, 10_000));
}

#[test]
fn what_flies_when_the_time_is_up_can_be_counted_and_is_cancelled() {
    let host = host(2).takes_ms(1, 50_000).takes_ms(2, 50_000);
    let mut pull = pull(&host, 2);
    assert!(drain(&mut pull, &host, 1..=2).is_empty());
    assert_eq!((pull.end(), host.clock_ms.get()), (End::OutOfTime, 10_500));
    let abandoned = pull.abandon();
    assert_eq!(abandoned.iter().map(|flight| flight.hash.a).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(host.in_flight.get(), 0);
}

#[test]
fn a_slow_transfer_can_be_raced_by_another_peer() {
    let host = host(1).takes_ms(1, 9_000);
    let b = host.add_peer("b", [1]);
    b.manifest().unwrap();
    let mut pull = pull(&host, 2);
    pull.set_patience_ms(100);
    let mut first = Some((host.peer(), segment(1)));
    assert!(pull.next(|_| first.take()).is_none());
    assert_eq!(pull.end(), End::Quiet);

    let mut second = Some((&b, segment(1)));
    let landing = pull.next(|_| second.take()).unwrap();
    assert_eq!(landing.peer.id, "b");
    pull.cancel(landing.hash);
    assert!(pull.flights().is_empty());
    assert!(pull.next(|_| None).is_none());
    assert_eq!(pull.end(), End::Drained);
}

#[test]
fn dropping_a_pull_cancels_what_flies() {
    let host =
        host(3).takes_ms(2, 100).fate(1, Fate::NotFetched(FetchError::Peer(PeerError::Timeout)));
    let mut pull = pull(&host, 3);
    let mut numbers = 1..=3;
    assert!(pull.next(|_| numbers.next().map(|n| (host.peer(), segment(n)))).is_some());
    assert_eq!(host.in_flight.get(), 2);
    drop(pull);
    assert_eq!(host.in_flight.get(), 0);
}
