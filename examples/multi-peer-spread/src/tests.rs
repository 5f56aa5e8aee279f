//! What is promised of the shares, and of peers that fail.

use std::collections::BTreeSet;

use edgestore_policy::mock::{Event, Fate, Listed, MockHost, PEER, segment};
use edgestore_policy::types::{FetchError, PeerError};

use super::*;

/// Three peers with the same segments, 1 to `n`, each behind a line that takes 100 ms for one.
fn three(n: u64) -> MockHost {
    let host = MockHost::with([]);
    host.check_ledger.set(true);
    host.add_peer("b", []);
    host.add_peer("c", []);
    for peer in host.peers() {
        (1..=n).for_each(|n| peer.list(Listed::number(n).size(1000)));
        peer.bytes_per_ms.set(Some(10));
    }
    host
}

fn shares(host: &MockHost) -> [usize; 3] {
    [PEER, "b", "c"].map(|id| host.fetched_from(id).len())
}

#[test]
fn one_tick_takes_about_equal_shares_from_all_peers_and_each_segment_once() {
    let host = three(30);
    assert!(host.tick::<MultiPeerSpread>().in_sync);
    assert!(shares(&host).iter().all(|share| (8..=12).contains(share)), "{:?}", shares(&host));
    assert_eq!(host.fetched().into_iter().collect::<BTreeSet<_>>(), (1..=30).collect());
    assert_eq!(host.fetched().len(), 30);
}

#[test]
fn a_peer_that_others_load_is_spared() {
    let host = three(12);
    host.peer().others_load.set(4);
    assert!(host.tick::<MultiPeerSpread>().in_sync);
    assert_eq!(shares(&host), [0, 6, 6]);
}

#[test]
fn where_all_are_loaded_one_request_is_made_nevertheless() {
    let host = MockHost::with([1, 2]);
    host.peer().others_load.set(9);
    assert!(host.tick::<MultiPeerSpread>().in_sync);
    assert_eq!(host.most_in_flight.get(), 1);
}

#[test]
fn what_one_peer_alone_has_comes_first() {
    let host = MockHost::with(1..=6).setting("window", "1");
    host.peer().transfer_ms.set(100);
    host.add_peer("b", 1..=3).transfer_ms.set(100);
    assert!(host.tick::<MultiPeerSpread>().in_sync);
    assert_eq!(host.fetched_from(PEER), [4, 5, 6]);
    assert_eq!(host.fetched_from("b"), [1, 2, 3]);
}

#[test]
fn only_what_the_ticked_peer_lists_is_pulled() {
    let host = MockHost::with([1]);
    host.add_peer("b", [1, 2]);
    assert!(host.tick::<MultiPeerSpread>().in_sync);
    assert_eq!(host.fetched(), [1]);
}

#[test]
fn what_other_ticks_are_fetching_is_left_to_them() {
    let host = three(12);
    host.elsewhere.borrow_mut().extend((1..=11).map(segment));
    let report = host.tick::<MultiPeerSpread>();
    assert_eq!(host.fetched(), [12]);
    assert_eq!((report.pending, report.next_tick_ms), (11, Some(1000)));
}

#[test]
fn a_segment_that_one_peer_gives_wrong_is_taken_from_another() {
    let host = MockHost::with([1]);
    host.peer().set_fate(1, Fate::NotFetched(FetchError::HashMismatch));
    host.add_peer("b", [1]);
    let report = host.tick::<MultiPeerSpread>();
    assert_eq!((report.in_sync, report.applied, report.failed), (true, 1, 1));
}

#[test]
fn a_segment_that_can_never_be_applied_is_fetched_once() {
    let host = MockHost::with([1]).fate(1, Fate::NotApplied(ApplyError::Rejected));
    host.add_peer("b", [1]).set_fate(1, Fate::NotApplied(ApplyError::Rejected));
    assert!(host.tick::<MultiPeerSpread>().in_sync);
    assert_eq!(host.fetched(), [1]);
}

#[test]
fn a_peer_that_is_gone_costs_three_fetches() {
    let host = three(12);
    let gone = Fate::NotFetched(FetchError::Peer(PeerError::Unreachable));
    (1..=12).for_each(|n| host.peers()[1].set_fate(n, gone));
    host.tick::<MultiPeerSpread>();
    assert!(shares(&host)[1] <= 4, "one more was in flight: {:?}", shares(&host));
    host.peers()[1].manifest_error.set(Some(PeerError::Unreachable));
    assert!(host.tick::<MultiPeerSpread>().in_sync);
    assert_eq!(shares(&host)[1], 0);
}

#[test]
fn without_anything_to_pull_no_other_peer_is_asked() {
    let host = MockHost::with([]);
    host.add_peer("b", [1]);
    assert!(host.tick::<MultiPeerSpread>().in_sync);
    assert_eq!(host.count(&Event::Manifest("b".into())), 0);
}
