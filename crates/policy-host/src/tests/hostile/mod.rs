//! Policies that are wrong, slow or hostile. `docs/threat-model.md` lists what each of them tries.

mod boundary;
mod data;
mod guest;
mod handles;
mod load;
mod memory;
#[cfg(target_os = "linux")]
mod soak;
mod time;
mod transfers;

use edgestore_engine::Engine;

use self::guest::Case;
use super::super::testing::{FakePeer, World, limits};
use super::super::*;

/// A peer with three segments of one record each.
fn offering() -> FakePeer {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("db")).unwrap();
    for key in [b"1", b"2", b"3"] {
        engine.put(b"ns", key, b"value").unwrap();
        engine.flush().unwrap().unwrap();
    }
    FakePeer::offering(&engine)
}

/// That peer as `a`, and a peer `b` without segments.
fn world() -> World {
    World::new([offering(), FakePeer::default()])
}

fn load_with(limits: Limits, case: &Case) -> Policy {
    PolicyEngine::new(None, limits).unwrap().load(&case.component()).unwrap()
}

fn tick_with(limits: Limits, case: &Case) -> Result<TickReport, TickError> {
    world().tick(&load_with(limits, case))
}

fn tick_of(case: &Case) -> Result<TickReport, TickError> {
    tick_with(limits(), case)
}

/// The policy gets through its tick, and reports nothing.
#[track_caller]
fn passes(case: &Case) {
    assert_eq!(tick_of(case), Ok(TickReport::default()));
}

/// The policy traps with these words, on one short line, and is blamed.
#[track_caller]
fn traps(case: &Case, words: &str) {
    let error = tick_of(case).unwrap_err();
    assert!(matches!(error, TickError::Trap(_)) && error.blames_policy(), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(words), "{text}");
    assert!(text.len() < 1200 && !text.contains('\n'), "{text}");
}

#[test]
fn a_policy_that_does_nothing_reports_nothing() {
    passes(&Case::new("(i32.const 1024)"));
}
