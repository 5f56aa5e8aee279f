//! What the policy promises, one test a promise.

use edgestore_policy::mock::{Event, Fate, Listed, MockHost, PEER, root, segment};
use edgestore_policy::prelude::*;
use edgestore_policy::segments::State;
use edgestore_policy::stock::{PeerCursor, Room};

use crate::DefaultPolicy;

const BUDGET_MS: u64 = 10_000;
const INTERVAL_MS: u64 = 30_000;

const MISMATCH: Fate = Fate::NotFetched(FetchError::HashMismatch);
const UNREACHABLE: Fate = Fate::NotFetched(FetchError::Peer(PeerError::Unreachable));
const TIMEOUT: Fate = Fate::NotFetched(FetchError::Peer(PeerError::Timeout));

/// A peer that lists these segments, and a host that checks every cursor against its data.
fn host_with(numbers: impl IntoIterator<Item = u64>) -> MockHost {
    let host = MockHost::with(numbers);
    host.check_ledger.set(true);
    host.budget_ms.set(BUDGET_MS);
    host.interval_ms.set(INTERVAL_MS);
    // A transfer takes its time even where a test does not care.
    host.peer().transfer_ms.set(10);
    host
}

fn probe() -> Event {
    Event::Probe(PEER.into())
}

fn manifest() -> Event {
    Event::Manifest(PEER.into())
}

/// The policy on a host, and what the tests look at.
trait Ticks {
    fn try_run(&self) -> Result<TickReport, TickFailure>;
    fn run(&self) -> TickReport;
    fn cursor(&self) -> PeerCursor;
}

impl Ticks for MockHost {
    fn try_run(&self) -> Result<TickReport, TickFailure> {
        self.try_tick::<DefaultPolicy>()
    }

    fn run(&self) -> TickReport {
        self.tick::<DefaultPolicy>()
    }

    fn cursor(&self) -> PeerCursor {
        PeerCursor::decode(self.stored.borrow().as_deref().unwrap()).0
    }
}

mod in_sync {
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
}

mod pull {
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
        assert_eq!(
            host.cursor().segments.pending().collect::<Vec<_>>(),
            [&segment(1), &segment(2)]
        );
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
}

mod bad_segments {
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
        assert_eq!(report.next_tick_ms, None, "an hour is more than the interval");
        assert!(host.logged("set aside"));
        host.pass_ms(3_599_000);
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
        assert_eq!(
            (cursor.segments[&segment(2)], cursor.segments.quarantined()),
            (State::Rejected, 2)
        );
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
}

mod dead_peers {
    use super::*;

    fn failure(host: &MockHost) -> TickFailure {
        host.try_run().unwrap_err()
    }

    #[test]
    fn a_dead_peer_is_probed_ever_more_rarely_and_at_once_when_it_is_back() {
        let host = host_with([1]);
        host.peer().probe_error.set(Some(PeerError::Unreachable));
        // The jitter of the fake is the shortest: three quarters, but never below the interval.
        for wait_ms in [30_000, 45_000, 90_000, 180_000, 360_000, 675_000, 675_000] {
            let failed = failure(&host);
            assert_eq!(failed.error, PolicyError::Peer(PeerError::Unreachable));
            assert_eq!(failed.next_tick_ms, Some(wait_ms));
        }
        assert_eq!(host.cursor().failures, 7);
        host.peer().probe_error.set(None);
        assert_eq!(host.run().applied, 1);
        assert_eq!(host.cursor().failures, 0);
        host.peer().probe_error.set(Some(PeerError::Timeout));
        assert_eq!(failure(&host).next_tick_ms, Some(INTERVAL_MS));
    }

    #[test]
    fn the_attempt_is_stored_before_the_probe() {
        let host = host_with([]);
        host.peer().probe_error.set(Some(PeerError::Timeout));
        failure(&host);
        assert_eq!(*host.events.borrow(), [Event::Store, probe(), Event::Store]);
    }

    #[test]
    fn a_peer_that_answers_probes_but_has_no_manifest_backs_off_too() {
        let host = host_with([1]);
        host.peer().manifest_error.set(Some(PeerError::TooLarge));
        for wait_ms in [30_000, 45_000, 90_000] {
            let failed = failure(&host);
            assert_eq!(failed.error, PolicyError::Peer(PeerError::TooLarge));
            assert_eq!(failed.next_tick_ms, Some(wait_ms));
        }
    }

    #[test]
    fn three_unreachables_in_a_row_end_the_pull_and_blame_no_segment() {
        let host = (4..=30).fold(host_with(1..=30), |host, n| host.fate(n, UNREACHABLE));
        let report = host.run();
        assert_eq!((report.applied, report.failed, report.pending), (3, 3, 27));
        assert_eq!(report.next_tick_ms, None);
        assert!(host.cursor().segments.values().all(|state| *state == State::New));
    }

    #[test]
    fn an_answer_in_between_starts_the_count_again() {
        let host = [1, 2, 4, 5].into_iter().fold(host_with(1..=6), |h, n| h.fate(n, UNREACHABLE));
        let report = host.setting("window", "1").run();
        assert_eq!((report.applied, report.failed), (2, 4));
    }

    #[test]
    fn three_timeouts_end_the_pull_and_count_for_their_segments() {
        let host = (1..=9).fold(host_with(1..=9), |host, n| host.fate(n, TIMEOUT));
        let report = host.setting("window", "1").run();
        assert_eq!((report.applied, report.failed), (0, 3));
    }

    #[test]
    fn a_write_token_that_grows_is_a_failover() {
        let host = host_with([]);
        let token = |write_token| Some(Watermark { confirmed_lsn: 1, write_token });
        for (write_token, warned) in [(5, false), (5, false), (7, true), (6, false), (7, false)] {
            host.peer().watermark.set(token(write_token));
            host.run();
            assert_eq!(host.logged("primary failover"), warned, "token {write_token}");
        }
        assert_eq!(host.cursor().write_token, 7);
    }
}

mod budget {
    use super::*;

    #[test]
    fn no_fetch_starts_in_the_last_fifth_and_the_next_tick_comes_at_once() {
        let host = (1..=100).fold(host_with(1..=100), |host, n| host.takes_ms(n, 1000));
        let report = host.setting("window", "1").run();
        assert_eq!((report.applied, report.pending, report.failed), (8, 92, 0));
        assert_eq!(report.next_tick_ms, Some(0));
    }

    #[test]
    fn a_transfer_that_had_the_better_part_of_a_tick_counts_as_failed() {
        let host = host_with(1..=9).setting("window", "1").takes_ms(1, u64::MAX / 2);
        let start_ms = host.clock_ms.get();
        let report = host.run();
        assert_eq!((report.applied, report.failed, report.next_tick_ms), (0, 1, Some(0)));
        assert!(host.clock_ms.get() - start_ms < BUDGET_MS, "the tick ends within its budget");
        let report = host.run();
        assert_eq!(report.applied, 8, "the others get their turn");
    }

    #[test]
    fn a_tick_that_can_do_nothing_does_not_ask_for_another_at_once() {
        let host = host_with(1..=9);
        host.budget_ms.set(0);
        let report = host.run();
        assert_eq!((report.applied, report.pending, report.next_tick_ms), (0, 9, None));
    }

    #[test]
    fn when_the_bytes_of_the_tick_are_pulled_the_next_one_goes_on_at_once() {
        let host = host_with([]);
        (1..=5).for_each(|n| host.peer().list(Listed::number(n).size(100)));
        host.byte_limit.set(200);
        let host = host.setting("window", "1");
        let report = host.run();
        assert_eq!((report.applied, report.failed, report.pending), (2, 0, 3));
        assert_eq!(report.next_tick_ms, Some(0));
        assert!(host.cursor().segments.values().all(|state| *state == State::New));
        host.run();
        assert!(host.run().in_sync);
    }

    #[test]
    fn a_host_that_lets_a_tick_pull_nothing_is_not_asked_again_at_once() {
        let host = host_with([1]);
        host.byte_limit.set(0);
        let report = host.run();
        assert_eq!((report.applied, report.failed, report.next_tick_ms), (0, 0, None));
    }

    #[test]
    fn a_full_pull_takes_as_many_ticks_as_it_needs() {
        let host = (1..=40).fold(host_with(1..=40), |host, n| host.takes_ms(n, 3000));
        let mut ticks = 1;
        while host.run().next_tick_ms == Some(0) {
            ticks += 1;
        }
        assert_eq!((ticks, host.local.borrow().len()), (4, 41));
    }
}

mod trouble {
    use super::*;

    fn assert_storage(host: &MockHost) {
        let failed = host.try_run().unwrap_err();
        assert_eq!(failed.error, PolicyError::Storage);
        assert!(failed.next_tick_ms >= Some(INTERVAL_MS));
    }

    #[test]
    fn a_host_that_cannot_write_ends_the_tick_at_once_and_keeps_what_was_done() {
        let fates = [
            Fate::NotStarted(FetchError::Storage),
            Fate::NotFetched(FetchError::Storage),
            Fate::NotApplied(ApplyError::Storage),
        ];
        for fate in fates {
            let host = host_with(1..=9).fate(3, fate).setting("window", "1");
            assert_storage(&host);
            let cursor = host.cursor();
            assert_eq!((cursor.applied_total, cursor.segments.len(), cursor.failures), (2, 7, 1));
            let blamed = cursor.segments.values().any(|state| *state != State::New);
            assert!(!blamed, "a full disk is not the segment's fault");
        }
    }

    #[test]
    fn a_cursor_that_cannot_be_stored_ends_the_tick_before_the_probe() {
        let host = host_with([1]);
        host.disk_full.set(true);
        assert_storage(&host);
        assert_eq!(host.count(&probe()), 0);
    }

    #[test]
    fn a_cursor_that_is_too_large_keeps_the_failures_and_some_of_what_is_pending() {
        let host = (1..=500).fold(host_with(1..=500), |host, n| host.fate(n, UNREACHABLE));
        let host = host.fate(1, MISMATCH).setting("window", "1");
        host.store_limit.set(Some(4096));
        let report = host.run();
        assert_eq!(report.pending, 500);
        let cursor = host.cursor();
        assert!(matches!(cursor.segments[&segment(1)], State::Retry { .. }));
        assert!((2..500).contains(&cursor.segments.len()));
        host.peer().fates.borrow_mut().clear();
        host.pass_ms(INTERVAL_MS);
        assert!(host.run().in_sync);
    }

    #[test]
    fn a_host_that_takes_no_cursor_at_all_is_still_brought_in_sync() {
        let host = host_with([1, 2]);
        host.store_limit.set(Some(1));
        assert!(host.run().in_sync);
        assert!(host.logged("the host takes no cursor"));
    }

    #[test]
    fn a_damaged_cursor_costs_a_warning_and_a_manifest() {
        let host = host_with([1]);
        *host.stored.borrow_mut() = Some(b"not a cursor".to_vec());
        assert!(host.run().in_sync);
        assert!(host.logged("undecodable"));
        assert!(host.run().in_sync && !host.logged("undecodable"));
    }

    #[test]
    fn a_setting_nobody_understands_fails_the_tick_before_it_does_anything() {
        let host = host_with([1]).setting("windw", "3");
        let failed = host.try_run().unwrap_err();
        let PolicyError::Setting(message) = &failed.error else { panic!("{failed:?}") };
        assert!(message.contains("windw") && message.contains("max-tries"), "{message}");
        assert!(host.events.borrow().is_empty());
    }

    #[test]
    fn every_documented_setting_is_known_and_has_a_range() {
        for key in [
            "window",
            "max-tries",
            "backoff-ms",
            "backoff-cap-ms",
            "quarantine-secs",
            "probe-cap-secs",
        ] {
            assert!(host_with([]).setting(key, "1").run().in_sync, "{key}");
            let failed = host_with([]).setting(key, "0").try_run().unwrap_err();
            let PolicyError::Setting(message) = &failed.error else { panic!("{failed:?}") };
            let expected = format!("{key} must be a whole number from 1 to ");
            assert!(message.starts_with(&expected), "{message}");
            assert_eq!(failed.next_tick_ms, None);
        }
    }
}
