//! What is pulled, and when that is noted.

use super::*;

#[test]
fn everything_missing_is_pulled_in_the_peers_order() {
    let host = host_with([5, 3, 4]);
    let report = host.run();
    assert!(report.in_sync);
    assert_eq!((report.missing, report.applied, report.failed, report.pending), (3, 3, 0, 0));
    assert_eq!((report.records_written, report.records_skipped), (6, 3));
    assert_eq!(report.next_tick_ms, None);
    assert_eq!(host.fetched(), [5, 3, 4]);
    assert_eq!(root(&host.local.borrow()), host.peer().root());
    assert_eq!(host.cursor().applied_total, 3);
}

#[test]
fn the_pending_segments_are_stored_before_the_first_fetch() {
    let host = host_with([1, 2]).fate(1, Fate::NotStarted(FetchError::Storage));
    host.try_run().unwrap_err();
    let events = host.events.borrow();
    assert_eq!(events[..4], [Event::Store, probe(), manifest(), Event::Store]);
    assert_eq!(host.cursor().segments.pending().collect::<Vec<_>>(), [&segment(1), &segment(2)]);
}

#[test]
fn a_segment_listed_twice_is_pulled_once() {
    let host = host_with([1, 1]);
    assert_eq!(host.run().missing, 1);
    assert_eq!(host.fetched(), [1]);
}

#[test]
fn no_more_than_the_window_is_in_flight() {
    for (setting, expected) in [(None, 4), (Some("1"), 1), (Some("9"), 9)] {
        let mut host = host_with(1..30);
        if let Some(value) = setting {
            host = host.setting("window", value);
        }
        assert_eq!(host.run().applied, 29);
        assert_eq!(host.most_in_flight.get(), expected);
    }
}

#[test]
fn a_host_that_allows_fewer_transfers_narrows_the_window() {
    let host = host_with(1..30);
    host.transfer_limit.set(2);
    let report = host.run();
    assert_eq!((report.applied, report.failed), (29, 0));
    host.peer().list(Listed::number(99));
    host.transfer_limit.set(0);
    let report = host.run();
    assert_eq!((report.applied, report.pending, report.next_tick_ms), (0, 1, None));
}

#[test]
fn what_another_peer_brought_meanwhile_is_not_fetched() {
    let host = host_with(1..=6).setting("window", "1");
    host.arrives_with.set(Some((segment(2), segment(5))));
    let report = host.run();
    assert!(report.in_sync);
    assert_eq!((report.missing, report.applied), (6, 5));
    assert_eq!(host.fetched(), [1, 2, 3, 4, 6]);
    assert_eq!(host.cursor().applied_total, 5);
}

#[test]
fn what_another_tick_is_fetching_is_left_to_it_and_looked_at_again_in_a_second() {
    let host = host_with(1..=3);
    host.elsewhere.borrow_mut().insert(segment(2));
    let report = host.run();
    assert_eq!(host.fetched(), [1, 3]);
    assert_eq!((report.applied, report.failed, report.pending), (2, 0, 1));
    assert!(!report.in_sync);
    assert_eq!(report.next_tick_ms, Some(1000));
    assert_eq!(host.cursor().segments[&segment(2)], State::New);
    assert_eq!(host.cursor().last_root, None);

    let report = host.run();
    assert!(host.fetched().is_empty());
    assert_eq!((report.pending, report.next_tick_ms), (1, Some(1000)), "no busy loop");

    // The other tick has given up.
    host.elsewhere.borrow_mut().clear();
    assert!(host.run().in_sync);
    assert_eq!(host.fetched(), [2]);
}

#[test]
fn nor_is_there_a_busy_loop_about_a_segment_that_failed_before() {
    let host = host_with([1]).fate(1, MISMATCH);
    host.run();
    host.pass_ms(INTERVAL_MS);
    host.elsewhere.borrow_mut().insert(segment(1));
    assert_eq!(host.run().next_tick_ms, Some(1000));

    host.elsewhere.borrow_mut().clear();
    let host = host.fate(1, UNREACHABLE);
    assert_eq!(host.run().next_tick_ms, Some(1000));
}

#[test]
fn what_another_tick_was_fetching_and_has_brought_at_the_end_is_here() {
    let host = host_with(1..=3);
    host.elsewhere.borrow_mut().insert(segment(1));
    host.arrives_with.set(Some((segment(3), segment(1))));
    let report = host.run();
    assert!(report.in_sync);
    assert_eq!((report.applied, report.next_tick_ms), (2, None));
    assert_eq!(host.cursor().last_root, Some(host.peer().root()));
}

#[test]
fn a_short_interval_is_not_lengthened_by_what_others_fetch() {
    let host = host_with([1]);
    host.interval_ms.set(500);
    host.elsewhere.borrow_mut().insert(segment(1));
    assert_eq!(host.run().next_tick_ms, None);
}

#[test]
fn an_applied_segment_goes_to_the_archive_if_there_is_one() {
    let host = host_with([1]);
    host.run();
    assert_eq!(host.count(&Event::Upload(segment(1))), 0);

    for works in [true, false] {
        let host = host_with([1]);
        host.archive.set(Some(works));
        assert!(host.run().in_sync, "an archive is never fatal");
        assert_eq!(host.count(&Event::Upload(segment(1))), 1);
        assert_eq!(host.logged("archive"), !works);
    }
}

#[test]
fn the_root_is_that_of_the_manifest_so_a_peer_that_lies_is_pulled_again() {
    let host = host_with([1]);
    host.peer().claimed_root.set(Some(segment(77)));
    host.run();
    assert_eq!(host.cursor().last_root, Some(host.peer().root()));
    host.run();
    assert_eq!(host.count(&manifest()), 1);
}

#[test]
fn progress_is_saved_every_16_segments() {
    let host = host_with(1..=64);
    host.run();
    // The attempt, what is pending, four times 16, and the root.
    assert_eq!(host.count(&Event::Store), 7);
}

#[test]
fn progress_is_saved_every_two_seconds() {
    let host = (1..=4).fold(host_with(1..=4), |host, n| host.takes_ms(n, 1500));
    let host = host.setting("window", "1");
    host.run();
    assert_eq!(host.count(&Event::Store), 2 + 2 + 1);
}

#[test]
fn thousands_of_missing_segments_cost_no_quadratic_work() {
    const N: usize = 20_000;
    let host = host_with(1..=N as u64).setting("window", "64");
    host.budget_ms.set(u64::MAX / 2);
    // Without this the fake's own check of each stored cursor would be the quadratic part.
    host.store_limit.set(Some(u64::MAX));
    assert_eq!(host.run().applied as usize, N);
    assert!(host.count(&Event::Store) < 500);
    assert!(host.stored_bytes.get() < N * 8 * 1024, "{} bytes", host.stored_bytes.get());
}
