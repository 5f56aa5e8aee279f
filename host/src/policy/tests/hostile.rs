//! Policies that try to take more than they may.

use std::thread;
use std::time::{Duration, Instant};

use super::super::testing::{FakePeer, World, logged, policies, policy};
use super::super::*;

/// Returns a report of zeros.
const REPORT: &str = "(i32.const 1024)";

fn tick_of(imports: &str, body: &str, more: &str) -> Result<TickReport, TickError> {
    let policy = policies(Duration::from_secs(10)).load(&policy(imports, body, more)).unwrap();
    World::new([FakePeer::default(), FakePeer::default()]).tick(&policy)
}

#[track_caller]
fn trap(result: Result<TickReport, TickError>, words: &str) {
    match result {
        Err(TickError::Trap(text)) => {
            assert!(text.contains(words), "{text}");
            assert!(text.len() < 1100 && !text.contains('\n'), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_policy_that_does_nothing_reports_nothing() {
    assert_eq!(tick_of("", REPORT, ""), Ok(TickReport::default()));
}

#[test]
fn what_was_applied_is_what_the_host_counted() {
    // The report lies at 1032, behind the discriminant; its third field counts applied segments.
    let lie = "(i32.store (i32.const 1040) (i32.const 7))
               (i64.store (i32.const 1048) (i64.const -1)) (i32.const 1024)";
    assert_eq!(tick_of("", lie, ""), Ok(TickReport::default()));
    let seen = "(i32.store (i32.const 1036) (i32.const 7)) (i32.const 1024)";
    assert_eq!(tick_of("", seen, ""), Ok(TickReport { missing: 7, ..TickReport::default() }));
}

#[test]
fn traps_say_what_and_where() {
    trap(tick_of("", "unreachable", ""), "unreachable");
    let named = "(func $deeply_wrong (result i32) (i32.div_u (i32.const 1) (i32.const 0)))";
    let result = tick_of("", "(call $deeply_wrong)", named);
    trap(result, "divide by zero, in deeply_wrong, called by body, called by ");
    trap(tick_of("", "(i32.load (i32.const -4))", ""), "out of bounds");
    trap(tick_of("", "(i32.const -4)", ""), "");
    trap(tick_of("", "(call $drop (local.get $peer)) (i32.const 1024)", ""), "");
}

#[test]
fn what_a_policy_makes_up_is_held_against_it() {
    // A failure at 1024 says at 1032 which one. No peer and no disk has failed.
    for (kind, words) in [(0, "unreachable"), (1, "storage"), (2, "setting"), (3, "")] {
        let body = format!(
            "(i32.store8 (i32.const 1024) (i32.const 1))
            (i32.store8 (i32.const 1032) (i32.const {kind})) {REPORT}"
        );
        let error = tick_of("", &body, "").unwrap_err();
        assert!(matches!(error, TickError::Policy { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.blames_policy(), "{error:?}");
    }
    assert!(tick_of("", "unreachable", "").unwrap_err().blames_policy());
}

#[test]
fn endless_recursion_is_a_trap() {
    let recursion = "(func $f (result i32) (i32.add (call $f) (i32.const 1)))";
    trap(tick_of("", "(call $f)", recursion), "call stack exhausted");
}

#[test]
fn an_endless_loop_ends_at_the_timeout() {
    let timeout = Duration::from_millis(200);
    let looping = policies(timeout).load(&policy("", "(loop (br 0)) unreachable", "")).unwrap();
    let world = World::new([FakePeer::default()]);
    let start = Instant::now();
    assert_eq!(world.tick(&looping), Err(TickError::Timeout(timeout)));
    assert!((timeout..timeout * 100).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[test]
fn an_endless_loop_ends_when_the_peer_is_closed() {
    let looping = policy("", "(loop (br 0)) unreachable", "");
    let looping = policies(Duration::from_secs(60)).load(&looping).unwrap();
    let world = World::new([FakePeer::default()]);
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(100));
            world.peers[0].close();
        });
        assert_eq!(world.tick(&looping), Err(TickError::Closed));
    });
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(world.tick(&looping), Err(TickError::Closed));
}

#[test]
fn memory_is_limited() {
    let greedy =
        "(loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
    assert_eq!(tick_of("", greedy, ""), Err(TickError::Memory(64 << 20)));
    let table = "(table $t 1 funcref)";
    let grow = "(drop (table.grow $t (ref.null func) (i32.const 200000))) (i32.const 1024)";
    trap(tick_of("", grow, table), "100000 table elements");
}

#[test]
fn handles_are_limited() {
    // Leaks two peer handles a round.
    let import = r#"(import "edgestore:sync/peers@0.2.0" "all" (func $all (param i32)))"#;
    trap(
        tick_of(import, "(loop (call $all (i32.const 2048)) (br 0)) unreachable", ""),
        "more than 10000 handles",
    );
}

#[test]
fn manifests_are_limited() {
    let import = r#"(import "edgestore:sync/peers@0.2.0" "[method]peer.manifest"
        (func $manifest (param i32 i32)))"#;
    let body = "(loop (call $manifest (local.get $peer) (i32.const 2048)) (br 0)) unreachable";
    trap(tick_of(import, body, ""), "more than 16 manifests");
}

#[test]
fn a_flood_of_log_lines_is_dropped() {
    let import = r#"(import "edgestore:sync/log@0.2.0" "write" (func $log (param i32 i32 i32)))"#;
    let body = r#"(local $n i32)
        (loop
            (call $log (i32.const 2) (i32.const 100) (i32.const 5000))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if 0 (i32.lt_u (local.get $n) (i32.const 1000))))
        (i32.const 8192)"#;
    let noise = r#"(data (i32.const 100) "noise\1b[2J\nforged line")"#;
    let (lines, result) = logged(|| tick_of(import, body, noise));
    assert!(result.is_ok(), "{result:?}");
    let noise = lines.lines().filter(|line| line.contains("noise\\u{1b}[2J\\nforged line"));
    assert_eq!(noise.clone().count(), 10, "{lines}");
    assert!(noise.clone().all(|line| line.contains("policy=\"hostile\" peer=\"a\"")), "{lines}");
    assert_eq!(lines.matches("further log lines of this tick are dropped").count(), 1, "{lines}");
    assert!(!lines.contains('\u{1b}') && lines.len() < 100_000);
}

#[test]
fn a_segment_that_no_manifest_lists_is_not_fetched() {
    let import = r#"(import "edgestore:sync/peers@0.2.0" "[method]peer.start-fetch"
        (func $fetch (param i32 i64 i64 i64 i64 i32)))"#;
    // An error, and the one with the number 3.
    let body = r#"
        (call $fetch (local.get $peer)
            (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4) (i32.const 2048))
        (if (i32.ne (i32.load8_u (i32.const 2048)) (i32.const 1)) (then unreachable))
        (if (i32.ne (i32.load8_u (i32.const 2052)) (i32.const 3)) (then unreachable))
        (i32.const 1024)"#;
    assert_eq!(tick_of(import, body, ""), Ok(TickReport::default()));
}

#[test]
fn waiting_for_nothing_takes_no_time() {
    let import = r#"(import "edgestore:sync/transfers@0.2.0" "wait-any"
        (func $wait (param i32 i32 i64 i32)))"#;
    let body = r#"
        (call $wait (i32.const 0) (i32.const 0) (i64.const -1) (i32.const 2048))
        (if (i32.load8_u (i32.const 2048)) (then unreachable))
        (i32.const 1024)"#;
    let start = Instant::now();
    assert_eq!(tick_of(import, body, ""), Ok(TickReport::default()));
    assert!(start.elapsed() < Duration::from_secs(8));
}

#[test]
fn a_cursor_that_is_too_large_is_refused_with_the_limit() {
    let import = r#"(import "edgestore:sync/cursor@0.2.0" "store"
        (func $store (param i32 i32 i32)))"#;
    // An error, the one with the number 0, and the limit.
    let body = |len: u32| {
        format!(
            "(call $store (i32.const 0) (i32.const {len}) (i32.const 2048))
            (if (i32.ne (i32.load8_u (i32.const 2048)) (i32.const 1)) (then unreachable))
            (if (i32.load8_u (i32.const 2056)) (then unreachable))
            (if (i64.ne (i64.load (i32.const 2064)) (i64.const 1000)) (then unreachable))
            (i32.const 1024)"
        )
    };
    assert_eq!(tick_of(import, &body(1001), ""), Ok(TickReport::default()));
    assert_eq!(tick_of(import, &body(100_000), ""), Ok(TickReport::default()));
    trap(tick_of(import, &body(1000), ""), "unreachable");
}
