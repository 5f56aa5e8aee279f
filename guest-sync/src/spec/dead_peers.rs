//! Peers that fail.

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
    host.peer().probes_left.set(Some(1));
    let report = host.run();
    assert_eq!((report.applied, report.failed, report.pending), (3, 3, 27));
    assert_eq!(report.next_tick_ms, None);
    assert!(host.cursor().segments.values().all(|state| *state == State::New));
}

/// As where a box on the way cuts the connections by what goes over them.
#[test]
fn segments_that_a_peer_does_not_give_while_it_answers_go_behind_the_others() {
    let host = (1..=8).fold(host_with(1..=30), |host, n| host.fate(n, UNREACHABLE));
    // On its way while others are cut off.
    let report = host.takes_ms(9, 5000).run();
    assert_eq!((report.applied, report.failed), (22, 8));
}

#[test]
fn an_answer_in_between_starts_the_count_again() {
    let host = [1, 2, 4, 5].into_iter().fold(host_with(1..=6), |h, n| h.fate(n, UNREACHABLE));
    let report = host.setting("window", "1").run();
    assert_eq!((report.applied, report.failed), (2, 4));
}

/// As of a peer that hangs once it is to send a segment.
#[test]
fn segments_that_take_too_long_while_the_peer_answers_go_behind_the_others() {
    let host = (1..=9).fold(host_with(1..=20), |host, n| host.fate(n, TIMEOUT));
    let report = host.setting("window", "1").run();
    assert_eq!((report.applied, report.failed), (11, 9));
}

#[test]
fn three_timeouts_of_a_peer_that_answers_nothing_any_more_end_the_pull() {
    let host = (1..=9).fold(host_with(1..=9), |host, n| host.fate(n, TIMEOUT));
    host.peer().probes_left.set(Some(1));
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
