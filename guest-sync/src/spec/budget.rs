//! Ticks that end before everything is pulled.

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
