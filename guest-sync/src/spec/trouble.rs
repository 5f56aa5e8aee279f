//! Hosts that fail, and users.

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
    host.peer().probes_left.set(Some(1));
    let report = host.run();
    assert_eq!(report.pending, 500);
    let cursor = host.cursor();
    assert!(matches!(cursor.segments[&segment(1)], State::Retry { .. }));
    assert!((2..500).contains(&cursor.segments.len()));
    host.peer().fates.borrow_mut().clear();
    host.peer().probes_left.set(None);
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
    for key in
        ["window", "max-tries", "backoff-ms", "backoff-cap-ms", "quarantine-secs", "probe-cap-secs"]
    {
        assert!(host_with([]).setting(key, "1").run().in_sync, "{key}");
        let failed = host_with([]).setting(key, "0").try_run().unwrap_err();
        let PolicyError::Setting(message) = &failed.error else { panic!("{failed:?}") };
        let expected = format!("{key} must be a whole number from 1 to ");
        assert!(message.starts_with(&expected), "{message}");
        assert_eq!(failed.next_tick_ms, None);
    }
}
