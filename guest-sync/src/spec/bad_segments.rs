//! Segments that fail.

use super::*;

#[test]
fn the_peers_root_is_noted_only_when_nothing_is_pending() {
    let host = host_with([1, 2]).fate(1, MISMATCH);
    let report = host.run();
    assert!(!report.in_sync);
    assert_eq!((report.applied, report.failed, report.pending), (1, 1, 1));
    assert_eq!(host.cursor().last_root, None);

    host.peer().fates.borrow_mut().clear();
    host.pass_ms(report.next_tick_ms.unwrap());
    assert!(host.run().in_sync);
    assert_eq!(host.fetched(), [1]);
    assert_eq!(host.cursor().last_root, Some(host.peer().root()));
}

#[test]
fn a_failure_backs_off_and_five_are_a_quarantine() {
    let host = host_with([1]).fate(1, MISMATCH);
    // The jitter of the fake is the shortest: half of 1, 2, 4 and 8 seconds.
    for wait_ms in [500, 1000, 2000, 4000] {
        let report = host.run();
        assert_eq!((report.failed, report.quarantined), (1, 0));
        assert_eq!(report.next_tick_ms, Some(wait_ms));
        host.pass_ms(wait_ms - 1);
        assert_eq!(host.run().failed, 0, "tried too early");
        host.pass_ms(1);
    }
    let report = host.run();
    assert_eq!((report.failed, report.pending, report.quarantined), (1, 1, 1));
    assert_eq!(report.next_tick_ms, None, "a minute is more than the interval");
    assert!(host.logged("set aside"));
    host.pass_ms(59_000);
    let report = host.run();
    assert!(host.fetched().is_empty());
    assert_eq!(report.next_tick_ms, Some(1000));
}

#[test]
fn after_the_quarantine_it_gets_another_round_of_tries() {
    let host = host_with([1]).fate(1, MISMATCH).setting("max-tries", "2");
    let rounds = |host: &MockHost| {
        let mut tries = 0;
        while host.run().quarantined == 0 {
            tries += host.fetched().len();
            host.pass_ms(600);
        }
        tries + host.fetched().len()
    };
    assert_eq!(rounds(&host), 2);
    host.pass_ms(3_600_000);
    assert_eq!(rounds(&host), 2);
    host.pass_ms(3_600_000);
    host.peer().fates.borrow_mut().clear();
    assert!(host.run().in_sync);
}

#[test]
fn a_bad_segment_does_not_hold_up_the_others() {
    let host = host_with(1..=4).fate(1, MISMATCH).setting("window", "1");
    assert_eq!(host.run().applied, 3);
    host.peer().list(Listed::number(9));
    host.pass_ms(INTERVAL_MS);
    host.run();
    assert_eq!(host.fetched(), [9, 1], "what failed before comes last");
}

#[test]
fn every_bad_answer_about_a_segment_counts_for_it() {
    let errors = [
        FetchError::NotFound,
        FetchError::HashMismatch,
        FetchError::NotInManifest,
        FetchError::Peer(PeerError::Status(500)),
        FetchError::Peer(PeerError::Malformed),
        FetchError::Peer(PeerError::TooLarge),
        FetchError::Peer(PeerError::Timeout),
    ];
    for error in errors {
        for fate in [Fate::NotFetched(error), Fate::NotStarted(error)] {
            let host = host_with([1, 2]).fate(1, fate);
            let report = host.run();
            assert_eq!((report.applied, report.failed, report.pending), (1, 1, 1), "{error:?}");
            let state = host.cursor().segments[&segment(1)];
            assert!(matches!(state, State::Retry { tries: 1, .. }), "{error:?}: {state:?}");
        }
    }
}

#[test]
fn a_rejected_segment_is_never_fetched_again_and_nobody_waits_for_it() {
    let host = host_with([1, 2]).fate(1, Fate::NotApplied(ApplyError::Rejected));
    let report = host.run();
    assert!(report.in_sync);
    assert_eq!((report.applied, report.failed, report.pending), (1, 1, 0));
    assert_eq!(host.cursor().last_root, Some(host.peer().root()));

    assert!(host.run().in_sync);
    host.peer().list(Listed::number(3));
    let report = host.run();
    assert_eq!((report.missing, host.fetched()), (1, vec![3]));
}

#[test]
fn what_the_peer_no_longer_lists_is_forgotten() {
    let host = host_with([1, 2, 3])
        .fate(1, MISMATCH)
        .fate(2, Fate::NotApplied(ApplyError::Rejected))
        .setting("max-tries", "1")
        .fate(3, MISMATCH);
    host.run();
    let cursor = host.cursor();
    assert_eq!((cursor.segments[&segment(2)], cursor.segments.quarantined()), (State::Rejected, 2));
    host.peer().list_only([0, 3, 4]);
    host.run();
    let known: Vec<_> = host.cursor().segments.keys().copied().collect();
    assert_eq!(known, [segment(3)]);
    host.peer().list_only([0, 4]);
    host.run();
    assert!(host.cursor().segments.is_empty());
}

#[test]
fn a_wall_clock_that_was_put_back_holds_up_nothing() {
    let host = host_with([1]).fate(1, MISMATCH);
    host.run();
    host.peer().fates.borrow_mut().clear();
    host.wall_ms.set(host.wall_ms.get() - 86_400_000);
    assert_eq!(host.run().applied, 1);
}

/// Found by the simulator: a clock that was ahead for five minutes kept segments away for an hour.
#[test]
fn a_segment_from_the_future_is_tried_until_its_time_has_come() {
    let host = host_with([1]).fate(1, Fate::NotApplied(ApplyError::ClockAhead));
    for _ in 0..20 {
        let report = host.run();
        assert_eq!((report.pending, report.quarantined, report.in_sync), (1, 0, false));
        host.pass_ms(5 * 60 * 1000);
    }
    host.peer().fates.borrow_mut().clear();
    assert!(host.run().in_sync);
}
