//! Policies that would lose or invent data.

use std::io;
use std::sync::Arc;

use edgestore_engine::Hash;

use super::super::super::testing::{context, logged};
use super::*;

const REPORT: &str = "(i32.const 1024)";

pub(super) const APPLIES_TWICE: Case = Case::new(
    "(local $segment i32)
    (local.set $segment (call $get (local.get $peer) (call $list (local.get $peer))))
    (call $check (i32.eqz (call $apply_it (local.get $segment))))
    (call $check (call $apply_it (local.get $segment)))
    (i32.const 1024)",
);

/// An error, and the one with the number 1.
pub(super) const UPLOADS_FIRST: Case = Case::new(
    "(call $upload (call $get (local.get $peer) (call $list (local.get $peer))) (i32.const 2192))
    (call $check (i32.load8_u (i32.const 2192)))
    (call $check (i32.eq (i32.load8_u (i32.const 2193)) (i32.const 1)))
    (i32.const 1024)",
);

pub(super) const STORES_AND_TRAPS: Case = Case::new("(call $remember (i32.const 7)) unreachable");

pub(super) const APPLIES_AND_TRAPS: Case = Case::new(
    "(drop (call $apply_it (call $get (local.get $peer) (call $list (local.get $peer)))))
    unreachable",
);

/// An error, the one with the number 0, and the limit.
pub(super) const LARGE_CURSOR: Case = Case::new(
    "(call $store_cursor (i32.const 0) (i32.const 1001) (i32.const 2192))
    (call $check (i32.load8_u (i32.const 2192)))
    (call $check (i32.eqz (i32.load8_u (i32.const 2200))))
    (call $check (i64.eq (i64.load (i32.const 2208)) (i64.const 1000)))
    (i32.const 1024)",
);

/// The report lies at 1032, behind the discriminant; its third field counts applied segments.
pub(super) const LYING_REPORT: Case = Case::new(
    "(i32.store (i32.const 1040) (i32.const 7)) (i64.store (i32.const 1048) (i64.const -1))
    (i32.const 1024)",
);

pub(super) const LOG_FLOOD: Case = Case::with(
    "(local $n i32)
    (loop
        (call $log (i32.const 2) (i32.const 100) (i32.const 1900))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if 0 (i32.lt_u (local.get $n) (i32.const 1000))))
    (i32.const 1024)",
    r#"(data (i32.const 100) "noise\1b[2J\nforged line")"#,
);

#[test]
fn what_was_applied_is_what_the_host_counted() {
    passes(&LYING_REPORT);
    let seen = Case::new("(i32.store (i32.const 1036) (i32.const 7)) (i32.const 1024)");
    assert_eq!(tick_of(&seen), Ok(TickReport { missing: 7, ..TickReport::default() }));
}

#[test]
fn what_a_policy_makes_up_is_held_against_it() {
    // A failure at 1024 says at 1032 which one. No peer and no disk has failed.
    for (kind, words) in [(0, "unreachable"), (1, "storage"), (2, "setting"), (3, "")] {
        let body = format!(
            "(i32.store8 (i32.const 1024) (i32.const 1))
            (i32.store8 (i32.const 1032) (i32.const {kind})) {REPORT}"
        );
        let error = tick_of(&Case::new(&body)).unwrap_err();
        assert!(matches!(error, TickError::Policy { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.blames_policy(), "{error:?}");
    }
}

#[test]
fn a_setting_is_held_against_who_set_it_and_no_setting_against_the_policy() {
    let refuses = format!(
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 2))
        {REPORT}"
    );
    let (world, policy) = (world(), load_with(limits(), &Case::new(&refuses)));
    let blamed = |policy: &Policy, value: Option<&str>| {
        let settings = value.map(|value| ("key".to_owned(), value.to_owned()));
        let context = Context { settings: settings.into_iter().collect(), ..context() };
        let error = policy.tick(world.services(), context).unwrap_err();
        assert!(error.to_string().contains("setting"), "{error}");
        error.blames_policy()
    };
    assert!(blamed(&policy, None));
    assert!(!blamed(&policy, Some("1")));
    // It took this one before, and no other.
    let passed = policy.having_passed(vec![("key".to_owned(), "1".to_owned())]);
    assert!(blamed(&passed, None) && blamed(&passed, Some("1")) && !blamed(&passed, Some("2")));
}

#[test]
fn applying_a_segment_twice_is_applying_it_once() {
    let (world, policy) = (world(), load_with(limits(), &APPLIES_TWICE));
    let report = world.tick(&policy).unwrap();
    assert_eq!((report.applied, report.records_written), (1, 1));
    assert_eq!(world.engine.stats().segments, 1);
}

#[test]
fn what_is_not_applied_is_not_archived() {
    struct Shelf;
    impl Archive for Shelf {
        fn upload(&self, _: &Engine, _: Hash) -> io::Result<UploadOutcome> {
            panic!("nothing was applied");
        }
    }
    let mut world = world();
    world.archive = Some(Arc::new(Shelf));
    let policy = load_with(limits(), &UPLOADS_FIRST);
    assert_eq!(world.tick(&policy), Ok(TickReport::default()));
}

#[test]
fn a_cursor_stands_once_it_is_stored_however_the_tick_ends() {
    let (world, policy) = (world(), load_with(limits(), &STORES_AND_TRAPS));
    assert!(world.tick(&policy).is_err());
    assert_eq!(world.cursors.values.lock().unwrap()["a"], [7, 0, 0, 0]);
}

#[test]
fn what_is_applied_stays_however_the_tick_ends() {
    let (world, policy) = (world(), load_with(limits(), &APPLIES_AND_TRAPS));
    for applied in 1..=3 {
        assert!(matches!(world.tick(&policy), Err(TickError::Trap(_))));
        assert_eq!(world.engine.stats().segments, applied, "each tick sees what is missing still");
    }
    for key in [b"1", b"2", b"3"] {
        assert_eq!(world.engine.get(b"ns", key).unwrap().as_deref(), Some(&b"value"[..]));
    }
}

#[test]
fn a_cursor_that_is_too_large_is_refused_with_the_limit() {
    passes(&LARGE_CURSOR);
    // Also one that is larger than what a call may carry.
    let huge = Case::new(
        "(drop (memory.grow (i32.const 512)))
        (call $store_cursor (i32.const 0) (i32.const 33000000) (i32.const 2192)) unreachable",
    );
    traps(&huge, "");
    let fits = Case::new(
        "(call $store_cursor (i32.const 0) (i32.const 1000) (i32.const 2192))
        (call $check (i32.eqz (i32.load8_u (i32.const 2192)))) (i32.const 1024)",
    );
    passes(&fits);
}

#[test]
fn settings_that_are_too_large_are_not_given_to_the_policy() {
    let policy = load_with(Limits { settings_bytes: 10, ..limits() }, &LYING_REPORT);
    let tick = |value: &str| {
        let settings = vec![("key".to_owned(), value.to_owned())];
        policy.tick(world().services(), Context { settings, ..context() })
    };
    assert!(tick("1234567").is_ok());
    let error = tick("12345678").unwrap_err();
    let too_large = SettingsTooLarge { bytes: 11, limit: 10 };
    assert_eq!(error, TickError::Settings(too_large));
    assert!(!error.blames_policy() && error.to_string().contains("limits.settings"), "{error}");
}

#[test]
fn a_flood_of_log_lines_is_dropped() {
    let (lines, result) = logged(|| tick_of(&LOG_FLOOD));
    assert!(result.is_ok(), "{result:?}");
    let noise = lines.lines().filter(|line| line.contains("noise\\u{1b}[2J\\nforged line"));
    assert_eq!(noise.clone().count(), 10, "{lines}");
    assert!(noise.clone().all(|line| line.contains("policy=\"hostile\" peer=\"a\"")), "{lines}");
    assert_eq!(lines.matches("further log lines of this tick are dropped").count(), 1, "{lines}");
    assert!(!lines.contains('\u{1b}') && lines.len() < 100_000);
}
