//! Policies that hand over bytes which are not what they say, or have none to take.

use super::super::super::testing::{DESCRIBE, component, module};
use super::*;

pub(super) const TRAPS: Case = Case::new("unreachable");

pub(super) const INVALID_UTF8: Case = Case::with(
    "(call $log (i32.const 2) (i32.const 100) (i32.const 3)) (i32.const 1024)",
    r#"(data (i32.const 100) "\ff\fe\fd")"#,
);

pub(super) const WILD_STRING: Case =
    Case::new("(call $log (i32.const 2) (i32.const 100) (i32.const -1)) (i32.const 1024)");

/// 60 MiB of zeros, which a line of a log has no use for.
pub(super) const HUGE_STRING: Case = Case::new(
    "(drop (memory.grow (i32.const 1000)))
    (call $log (i32.const 2) (i32.const 0) (i32.const 62914560)) (i32.const 1024)",
);

pub(super) const WILD_LIST: Case = Case::new(
    "(call $wait_any (i32.const -8) (i32.const 1000) (i64.const 0) (i32.const 2088))
    (i32.const 1024)",
);

pub(super) const CROOKED_LIST: Case = Case::new(
    "(call $wait_any (i32.const 2081) (i32.const 1) (i64.const 0) (i32.const 2088))
    (i32.const 1024)",
);

/// The host is to write its answer where there is no memory.
pub(super) const WILD_RESULT: Case =
    Case::new("(call $probe (local.get $peer) (i32.const -16)) (i32.const 1024)");

pub(super) const WILD_REPORT: Case = Case::new("(i32.const -8)");

/// Neither a report nor a failure.
pub(super) const NO_SUCH_CASE: Case =
    Case::new("(i32.store8 (i32.const 1024) (i32.const 9)) (i32.const 1024)");

/// A failure in words that lie nowhere.
pub(super) const WILD_FAILURE: Case = Case::new(
    "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 3))
    (i32.store (i32.const 1036) (i32.const -100)) (i32.store (i32.const 1040) (i32.const 4000))
    (i32.const 1024)",
);

pub(super) const CALLS_AFTER_THE_END: Case = Case::with(
    "(i32.const 1024)",
    r#"(func (export "cabi_post_edgestore:sync/policy@0.2.0#tick") (param i32)
        (drop (call $random)))"#,
);

pub(super) const LOOPS_AFTER_THE_END: Case = Case::with(
    "(i32.const 1024)",
    r#"(func (export "cabi_post_edgestore:sync/policy@0.2.0#tick") (param i32) (loop (br 0)))"#,
);

/// A policy whose `cabi_realloc` is this, and which needs it for a list of peers.
pub(super) fn with_realloc(body: &str) -> Vec<u8> {
    const IMPORTS: &str = r#"
        (import "edgestore:sync/peers@0.2.0" "all" (func $all (param i32)))
        (import "edgestore:sync/random@0.2.0" "next-u64" (func $random (result i64)))"#;
    let tick = "(call $all (i32.const 2048)) (i32.const 1024)";
    let sound = module(IMPORTS, DESCRIBE, tick, "");
    let realloc = sound.find("(local $at i32)").unwrap()
        ..sound.find("(func (export \"edgestore:sync/policy@0.2.0#describe\")").unwrap();
    component(&[&sound[..realloc.start], body, ")", &sound[realloc.end..]].concat())
}

/// What a `cabi_realloc` can do wrong.
pub(super) const REALLOCS: [(&str, &str); 5] = [
    ("unreachable", "unreachable"),
    ("(i32.const -64)", "beyond end of memory"),
    ("(i32.const 4097)", "not aligned"),
    ("(drop (call $random)) (i32.const 4096)", "cannot leave component instance"),
    ("(loop (br 0)) unreachable", ""),
];

fn realloc_of(body: &str) -> Result<TickReport, TickError> {
    let limits = Limits { fuel: 1_000_000, ..limits() };
    world().tick(&PolicyEngine::new(None, limits).unwrap().load(&with_realloc(body)).unwrap())
}

#[test]
fn traps_say_what_and_where() {
    traps(&TRAPS, "unreachable");
    let named = "(func $deeply_wrong (result i32) (i32.div_u (i32.const 1) (i32.const 0)))";
    let called = Case::with("(call $deeply_wrong)", named);
    traps(&called, "divide by zero, in deeply_wrong, called by body, called by ");
    traps(&Case::new("(i32.load (i32.const -4))"), "out of bounds");
}

#[test]
fn strings_are_checked() {
    traps(&INVALID_UTF8, "utf-8");
    traps(&WILD_STRING, "out of bounds");
    traps(&HUGE_STRING, "fuel");
}

#[test]
fn lists_are_checked() {
    traps(&WILD_LIST, "out of bounds");
    traps(&CROOKED_LIST, "not aligned");
}

#[test]
fn where_the_host_writes_is_checked() {
    traps(&WILD_RESULT, "out of bounds");
}

#[test]
fn what_a_tick_returns_is_checked() {
    traps(&WILD_REPORT, "out of bounds");
    traps(&NO_SUCH_CASE, "discriminant");
    traps(&WILD_FAILURE, "out of bounds");
}

#[test]
fn a_tick_that_has_returned_calls_nothing_and_has_no_more_time() {
    traps(&CALLS_AFTER_THE_END, "cannot leave component instance");
    let result = tick_with(Limits { fuel: 1_000_000, ..limits() }, &LOOPS_AFTER_THE_END);
    assert_eq!(result, Err(TickError::Fuel(1_000_000)));
}

#[test]
fn a_realloc_is_trusted_with_nothing() {
    for (body, words) in REALLOCS {
        let error = realloc_of(body).unwrap_err();
        assert!(error.blames_policy() && error.to_string().contains(words), "{body}: {error}");
    }
    // Memory that overlaps something else is the policy's own loss: here, its description.
    assert_eq!(realloc_of("(i32.const 16)"), Ok(TickReport::default()));
}
