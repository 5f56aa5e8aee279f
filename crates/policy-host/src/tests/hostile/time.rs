//! Policies that take too long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use edgestore_engine::testing::LONG;

use super::*;

pub(super) const ENDLESS_LOOP: Case = Case::new("(loop (br 0)) unreachable");

pub(super) const ENDLESS_RECURSION: Case =
    Case::with("(call $f)", "(func $f (result i32) (i32.add (call $f) (i32.const 1)))");

pub(super) const CALL_FLOOD: Case = Case::new("(loop (drop (call $random)) (br 0)) unreachable");

const WAITS_FOR_EVER: Case = Case::new(
    "(i32.store (i32.const 2080) (call $fetch (local.get $peer) (call $list (local.get $peer))))
    (loop
        (call $wait_any (i32.const 2080) (i32.const 1) (i64.const -1) (i32.const 2088))
        (br 0))
    unreachable",
);

pub(super) const WAITS_FOR_NOTHING: Case = Case::new(
    "(call $wait_any (i32.const 0) (i32.const 0) (i64.const -1) (i32.const 2088))
    (call $check (i32.eqz (i32.load8_u (i32.const 2088))))
    (i32.const 1024)",
);

pub(super) const WAITS_TWICE_FOR_ONE: Case = Case::new(
    "(local $transfer i32)
    (local.set $transfer (call $fetch (local.get $peer) (call $list (local.get $peer))))
    (i32.store (i32.const 2080) (local.get $transfer))
    (i32.store (i32.const 2084) (local.get $transfer))
    (call $wait_any (i32.const 2080) (i32.const 2) (i64.const 20000) (i32.const 2088))
    (call $check (i32.load8_u (i32.const 2088)))
    (call $check (i32.eqz (i32.load (i32.const 2092))))
    (i32.const 1024)",
);

#[test]
fn an_endless_loop_ends_at_the_timeout() {
    let timeout = Duration::from_millis(200);
    let start = Instant::now();
    let limits = Limits { tick_timeout: timeout, fuel: u64::MAX, ..limits() };
    assert_eq!(tick_with(limits, &ENDLESS_LOOP), Err(TickError::Timeout(timeout)));
    assert!(start.elapsed() >= timeout, "{:?}", start.elapsed());
    assert!(TickError::Timeout(timeout).to_string().contains("limits.tick-timeout"));
}

#[test]
fn an_endless_loop_ends_when_its_instructions_are_spent() {
    let result = tick_with(Limits { fuel: 1_000_000, ..limits() }, &ENDLESS_LOOP);
    assert_eq!(result, Err(TickError::Fuel(1_000_000)));
    assert!(TickError::Fuel(1).to_string().contains("limits.fuel"));
}

#[test]
fn an_endless_loop_ends_when_the_peer_is_closed() {
    let limits = Limits { tick_timeout: 2 * LONG, fuel: u64::MAX, ..limits() };
    let (world, looping) = (world(), load_with(limits, &ENDLESS_LOOP));
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(100));
            world.peers[0].close();
        });
        assert_eq!(world.tick(&looping), Err(TickError::Closed));
    });
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
    assert_eq!(world.tick(&looping), Err(TickError::Closed));
}

#[test]
fn endless_recursion_is_a_trap() {
    traps(&ENDLESS_RECURSION, "call stack exhausted");
}

#[test]
fn host_calls_are_limited() {
    let result = tick_with(Limits { host_calls: 5000, ..limits() }, &CALL_FLOOD);
    assert_eq!(result, Err(TickError::HostCalls(5000)));
    assert!(TickError::HostCalls(1).to_string().contains("limits.host-calls"));
}

#[test]
fn a_policy_that_waits_for_ever_ends_at_the_timeout() {
    let mut peer = offering();
    let fetches = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&fetches);
    peer.before_fetch = Box::new(move |cancel| {
        seen.fetch_add(1, Ordering::Relaxed);
        while !cancel.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        Err(edgestore_protocol::FetchError::Cancelled)
    });
    // Longer than the way to the fetch takes.
    let timeout = Duration::from_secs(5);
    let waiting = load_with(Limits { tick_timeout: timeout, ..limits() }, &WAITS_FOR_EVER);
    assert_eq!(World::new([peer]).tick(&waiting), Err(TickError::Timeout(timeout)));
    assert_eq!(fetches.load(Ordering::Relaxed), 1);
}

#[test]
fn waiting_for_nothing_takes_no_time() {
    // It would take all the time of the tick, which would fail.
    passes(&WAITS_FOR_NOTHING);
}

#[test]
fn waiting_twice_for_one_transfer_names_its_first_place() {
    passes(&WAITS_TWICE_FOR_ONE);
}
