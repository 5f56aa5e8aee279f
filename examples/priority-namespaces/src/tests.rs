//! What is promised of the order, and of alerts that come late.

use edgestore_policy::mock::{Listed, MockHost};

use super::*;

/// Segments of bulk data, 1 to 6, between which there are alerts (11) and metrics (21).
fn host() -> MockHost {
    let host = MockHost::with([]).setting("namespaces", "alerts, metrics");
    host.check_ledger.set(true);
    let list = |n: u64, namespace: &str| {
        host.peer().list(Listed::number(n).namespaces(namespace, namespace));
    };
    (1..=3).for_each(|n| list(n, "bulk"));
    list(21, "metrics");
    (4..=6).for_each(|n| list(n, "bulk"));
    list(11, "alerts");
    host
}

#[test]
fn namespaces_are_pulled_in_the_order_of_the_setting_and_then_the_rest() {
    let host = host();
    assert!(host.tick::<PriorityNamespaces>().in_sync);
    assert_eq!(host.fetched(), [11, 21, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn what_may_hold_the_first_namespace_counts_as_such() {
    let host = host();
    host.peer().list(Listed::number(31).namespaces("a", "z"));
    host.peer().list(Listed::number(32));
    host.peer().list(Listed::number(33).namespaces("alerts2", "b"));
    host.tick::<PriorityNamespaces>();
    assert_eq!(host.fetched(), [11, 31, 32, 21, 1, 2, 3, 4, 5, 6, 33]);
}

#[test]
fn an_alert_that_is_written_meanwhile_does_not_wait_for_the_backlog() {
    let host = host().setting("bulk-secs", "2").setting("window", "1");
    host.peer().transfer_ms.set(1000);
    let report = host.tick::<PriorityNamespaces>();
    assert_eq!(host.fetched(), [11, 21]);
    assert_eq!((report.pending, report.next_tick_ms), (6, Some(0)));
    host.peer().list(Listed::number(12).namespaces("alerts", "alerts"));
    host.tick::<PriorityNamespaces>();
    assert_eq!(host.fetched(), [12, 1]);
}

#[test]
fn urgent_segments_are_pulled_for_as_long_as_the_tick_lasts() {
    let host = host().setting("bulk-secs", "1").setting("window", "1");
    host.peer().transfer_ms.set(3000);
    host.tick::<PriorityNamespaces>();
    assert_eq!(host.fetched(), [11, 21]);
}

#[test]
fn without_namespaces_the_tick_says_what_is_missing() {
    let host = MockHost::with([1]);
    let failure = host.try_tick::<PriorityNamespaces>().unwrap_err();
    let PolicyError::Setting(what) = failure.error else { panic!("{failure:?}") };
    assert!(what.contains("namespaces=alerts"), "{what}");
}
