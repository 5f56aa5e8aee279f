//! Policies that collect handles, or use ones that they do not have.

use super::*;

/// Leaks two peer handles a round.
pub(super) const HANDLE_FLOOD: Case =
    Case::new("(loop (call $all (i32.const 2048)) (br 0)) unreachable");

pub(super) const MANIFEST_FLOOD: Case =
    Case::new("(loop (drop (call $manifest_of (local.get $peer))) (br 0)) unreachable");

pub(super) const DROPS_TWICE: Case = Case::new(
    "(local $manifest i32)
    (local.set $manifest (call $manifest_of (local.get $peer)))
    (call $drop_manifest (local.get $manifest))
    (call $drop_manifest (local.get $manifest))
    (i32.const 1024)",
);

pub(super) const USES_AFTER_DROP: Case = Case::new(
    "(local $manifest i32)
    (local.set $manifest (call $manifest_of (local.get $peer)))
    (call $drop_manifest (local.get $manifest))
    (drop (call $length (local.get $manifest)))
    (i32.const 1024)",
);

/// A manifest, used as a segment.
pub(super) const WRONG_TYPE: Case =
    Case::new("(drop (call $size (call $manifest_of (local.get $peer)))) (i32.const 1024)");

pub(super) const MADE_UP: Case = Case::new("(drop (call $size (i32.const 77))) (i32.const 1024)");

/// Uses the number of a handle that an earlier tick left in the cursor.
pub(super) const FROM_ANOTHER_TICK: Case = Case::new(
    "(local $before i32)
    (local.set $before (call $remembered))
    (if (local.get $before) (then (drop (call $length (local.get $before)))))
    (call $remember (call $manifest_of (local.get $peer)))
    (i32.const 1024)",
);

/// Ends what it was lent, and the tick's own end does so once more.
pub(super) const DROPS_ITS_LOAN: Case =
    Case::new("(call $drop (local.get $peer)) (i32.const 1024)");

#[test]
fn handles_are_limited() {
    assert_eq!(tick_of(&HANDLE_FLOOD), Err(TickError::Handles(10_000)));
    let few = Limits { handles: 7, ..limits() };
    assert_eq!(tick_with(few, &HANDLE_FLOOD), Err(TickError::Handles(7)));
    assert!(TickError::Handles(1).to_string().contains("limits.handles"));
}

#[test]
fn manifests_are_limited() {
    traps(&MANIFEST_FLOOD, "more than 16 manifests");
}

#[test]
fn a_handle_is_dropped_once() {
    traps(&DROPS_TWICE, "unknown handle index");
    traps(&DROPS_ITS_LOAN, "unknown handle index");
}

#[test]
fn a_dropped_handle_is_none() {
    traps(&USES_AFTER_DROP, "unknown handle index");
}

#[test]
fn a_handle_of_another_type_is_none() {
    traps(&WRONG_TYPE, "handle index 2 used with the wrong type");
}

#[test]
fn a_number_is_no_handle() {
    traps(&MADE_UP, "unknown handle index 77");
}

#[test]
fn a_handle_ends_with_its_tick() {
    let (world, policy) = (world(), load_with(limits(), &FROM_ANOTHER_TICK));
    assert_eq!(world.tick(&policy), Ok(TickReport::default()));
    let error = world.tick(&policy).unwrap_err();
    assert!(error.to_string().contains("unknown handle index"), "{error}");
}
