//! The mock is as strict as the host.

use super::*;
use crate::host::{Manifest, Peer, Transfer};
use crate::segments::Rules;
use crate::types::{FetchError, PeerError};
use crate::{Budget, Ledger, Pull};

#[test]
fn only_what_a_manifest_of_this_tick_lists_can_be_fetched() {
    let host = MockHost::with([1]);
    let peer = host.peer();
    assert_eq!(peer.start_fetch(segment(1)).err(), Some(FetchError::NotInManifest));
    peer.manifest().unwrap();
    assert!(peer.start_fetch(segment(1)).is_ok());
    assert_eq!(peer.start_fetch(segment(7)).err(), Some(FetchError::NotInManifest));
}

#[test]
fn a_segment_that_was_taken_counts_until_it_is_applied_or_dropped() {
    let host = MockHost::with([1, 2]);
    let peer = host.peer();
    peer.manifest().unwrap();
    host.transfer_limit.set(1);
    let held = peer.start_fetch(segment(1)).unwrap().take().unwrap();
    assert_eq!(peer.start_fetch(segment(2)).err(), Some(FetchError::TooManyTransfers));
    assert!(host.fetching(segment(1)));
    host.apply(&held).unwrap();
    assert!(host.has(segment(1)) && !host.fetching(segment(1)));
    assert!(peer.start_fetch(segment(2)).is_ok());
}

#[test]
fn transfers_of_a_peer_share_its_line() {
    let host = MockHost::with([]);
    let peer = host.peer();
    peer.latency_ms.set(5);
    peer.bytes_per_ms.set(Some(10));
    (1..=2).for_each(|n| peer.list(Listed::number(n).size(100)));
    peer.manifest().unwrap();
    let start_ms = host.clock_ms.get();
    let [a, b] = [1, 2].map(|n| peer.start_fetch(segment(n)).unwrap());
    assert_eq!(host.wait_any(&[&b, &a], 1000), Some(1));
    assert_eq!(host.clock_ms.get() - start_ms, 15);
    assert_eq!(host.wait_any(&[&b], 1000), Some(0));
    assert_eq!(host.clock_ms.get() - start_ms, 25);
}

#[test]
fn a_request_that_takes_longer_than_the_tick_is_a_timeout() {
    struct Probes;
    impl Policy for Probes {
        const NAME: &str = "probes";
        const VERSION: &str = "1";
        const CURSOR_SCHEMA: u32 = 1;

        fn tick<H: Host>(host: &H, _: &Context) -> Result<TickReport, TickFailure> {
            host.peer().probe()?;
            Ok(TickReport::default())
        }
    }
    let host = MockHost::with([]);
    host.peer().latency_ms.set(60_000);
    assert_eq!(host.try_tick::<Probes>(), Err(PeerError::Timeout.into()));
    assert_eq!(host.clock_ms.get(), 11_000);
}

#[test]
#[should_panic(expected = "the cursor is ahead of the data")]
fn a_ledger_that_forgets_a_segment_too_early_is_caught() {
    let host = MockHost::with([1, 2]);
    host.check_ledger.set(true);
    let missing = host.peer().manifest().unwrap().missing();
    let mut ledger = Ledger::load(&host, Rules::default());
    ledger.learn(missing);
    ledger.save_if_changed().unwrap();
    ledger.applied(segment(1), true);
    ledger.save_if_changed().unwrap();
}

#[test]
#[should_panic(expected = "outlived the tick")]
fn a_transfer_that_is_never_given_back_is_caught() {
    struct Leaks;
    impl Policy for Leaks {
        const NAME: &str = "leaks";
        const VERSION: &str = "1";
        const CURSOR_SCHEMA: u32 = 1;

        fn tick<H: Host>(host: &H, context: &Context) -> Result<TickReport, TickFailure> {
            let peer = host.peer();
            let mut missing = peer.manifest()?.missing();
            let mut pull = Pull::new(host, Budget::new(host, context), 1);
            let landing = pull.next(|_| missing.next().map(|next| (peer, next.hash)));
            std::mem::forget(landing);
            Ok(TickReport::default())
        }
    }
    MockHost::with([1]).tick::<Leaks>();
}
