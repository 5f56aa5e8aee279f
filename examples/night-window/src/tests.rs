//! What is promised of the day and of the night.

use edgestore_policy::mock::{Event, Listed, MockHost, PEER};

use super::*;

const HOUR_MS: u64 = 3_600_000;

/// At an hour of the day: segments 1 and 3 have a megabyte, 2 is small, of 4 nothing is said.
fn at(hour: u64) -> MockHost {
    let host = MockHost::with([]);
    host.check_ledger.set(true);
    host.wall_ms.set(20_000 * 24 * HOUR_MS + hour * HOUR_MS);
    host.peer().list(Listed::number(1).size(1 << 20));
    host.peer().list(Listed::number(2).size(4096));
    host.peer().list(Listed::number(3).size(1 << 20));
    host.peer().list(Listed::number(4));
    host
}

#[test]
fn in_the_daytime_only_small_segments_come() {
    let host = at(12);
    let report = host.tick::<NightWindow>();
    assert_eq!(host.fetched(), [2]);
    assert_eq!((report.in_sync, report.missing, report.pending), (false, 4, 3));
}

#[test]
fn at_night_all_come() {
    let host = at(23);
    assert!(host.tick::<NightWindow>().in_sync);
    assert_eq!(host.fetched(), [1, 2, 3, 4]);
}

#[test]
fn a_tick_is_asked_for_at_the_start_of_the_window_where_the_interval_would_miss_it() {
    let host = at(12);
    assert_eq!(host.tick::<NightWindow>().next_tick_ms, None, "the interval is 30 s");
    host.interval_ms.set(24 * HOUR_MS);
    assert_eq!(host.tick::<NightWindow>().next_tick_ms, Some(10 * HOUR_MS));
    host.pass_ms(10 * HOUR_MS);
    assert!(host.tick::<NightWindow>().in_sync);
}

#[test]
fn where_nothing_is_small_enough_the_peer_is_left_in_peace_until_the_window() {
    let host = at(12).setting("always-below", "0");
    let report = host.tick::<NightWindow>();
    assert_eq!(host.count(&Event::Probe(PEER.into())), 0);
    assert_eq!((report.in_sync, report.next_tick_ms), (false, Some(10 * HOUR_MS)));
}

#[test]
fn a_transfer_does_not_outlast_the_window() {
    let host = at(6);
    host.wall_ms.set(host.wall_ms.get() - 2000);
    host.peer().bytes_per_ms.set(Some(1000));
    let report = host.tick::<NightWindow>();
    assert!(host.now_ms() % (24 * HOUR_MS) <= 6 * HOUR_MS, "{}", host.now_ms());
    assert_eq!(report.applied, 2, "segment 3 would take until after the end");
    host.pass_ms(1000);
    host.tick::<NightWindow>();
    assert_eq!(host.fetched(), [0; 0], "it waits for the next night");
}

#[test]
fn the_window_is_in_local_time() {
    let host = at(23).setting("utc-offset", "-06:00");
    host.tick::<NightWindow>();
    assert_eq!(host.fetched(), [2], "it is five in the afternoon");
}
