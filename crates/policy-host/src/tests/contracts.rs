//! Policies that were built for another version of the contract than the newest.

use std::sync::{Arc, Mutex};

use edgestore_engine::Engine;
use edgestore_engine::testing::LONG;
use edgestore_protocol::PeerError;

use super::super::testing::{
    DESCRIBE, FakePeer, MemoryArchive, World, component_of, context, logged, module, policies,
};
use super::super::wait::lock;
use super::super::*;

/// The default policy of the last host that spoke contract 0.1 alone: `guest-sync/sync.wasm` as it
/// was committed before `wit/sync.wit` became 0.2.
static OLD: &[u8] = include_bytes!("../../../../tests/fixtures/policy-0.1.wasm");

const NEWEST_WIT: &str = include_str!("../../../../wit/sync.wit");
const OLD_WIT: &str = include_str!("../../../../wit/v0_1/sync.wit");

fn engine() -> PolicyEngine {
    policies(LONG)
}

fn old_policy() -> Policy {
    engine().load(OLD).unwrap()
}

/// A policy that does nothing, for this version of the contract; `wit` is one that is like it.
fn built_for(version: &str, wit: &str) -> Vec<u8> {
    let (before, after) = wit.split_once("package edgestore:sync@").unwrap();
    let (_, after) = after.split_once(';').unwrap();
    let wit = format!("{before}package edgestore:sync@{version};{after}");
    let body = module("", DESCRIBE, "(i32.const 1024)", "");
    component_of(&body.replace("@0.2.0", &format!("@{version}")), &wit, "sync-policy")
}

fn refused(component: &[u8]) -> LoadError {
    engine().load(component).unwrap_err()
}

/// A peer that offers so many segments, of one record each.
fn offering(segments: u32) -> FakePeer {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("db")).unwrap();
    for n in 0..segments {
        engine.put(b"ns", &n.to_be_bytes(), b"value").unwrap();
        engine.flush().unwrap().unwrap();
    }
    FakePeer::offering(&engine)
}

#[test]
fn patch_releases_are_compatible() {
    for (version, wit, contract) in [
        ("0.2.0", NEWEST_WIT, "0.2"),
        ("0.2.3", NEWEST_WIT, "0.2"),
        ("0.1.0", OLD_WIT, "0.1"),
        ("0.1.14", OLD_WIT, "0.1"),
    ] {
        let policy = engine().load(&built_for(version, wit)).unwrap();
        assert_eq!((policy.name(), policy.contract()), ("hostile", contract), "{version}");
        World::new([FakePeer::default()]).tick(&policy).unwrap();
    }
}

#[test]
fn other_versions_are_refused_with_those_that_are_accepted() {
    for version in ["0.3.0", "1.0.0", "0.0.9", "0.10.0"] {
        let error = refused(&built_for(version, NEWEST_WIT));
        assert!(matches!(error, LoadError::WrongVersion { .. }), "{error:?}");
        let text = error.to_string();
        let starts = format!("built for edgestore:sync@{version}; this host speaks ");
        assert!(text.starts_with(&starts), "{text}");
        assert!(text.contains("edgestore:sync@0.2 and 0.1: rebuild the policy"), "{text}");
    }
    let import = r#"(component (import "edgestore:sync/log@0.3.0" (instance)))"#;
    let error = refused(&wat::parse_str(import).unwrap());
    assert!(matches!(error, LoadError::WrongVersion { .. }), "{error:?}");
}

#[test]
fn a_component_is_of_one_version_alone() {
    let interfaces = |imports: &[&str], export: &str| {
        let import = |name| format!(r#"(import "edgestore:sync/{name}" (instance))"#);
        let imports: String = imports.iter().map(import).collect();
        let text = format!(
            r#"(component {imports} (instance $it)
            (export "edgestore:sync/policy@{export}" (instance $it)))"#
        );
        refused(&wat::parse_str(text).unwrap())
    };
    for error in [
        interfaces(&["log@0.1.0", "clock@0.2.0"], "0.1.0"),
        interfaces(&["log@0.1.2"], "0.2.0"),
        interfaces(&["log@0.2.0", "clock@0.2.1"], "0.1.0"),
    ] {
        assert!(matches!(error, LoadError::MixedVersions { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("edgestore:sync@0.1") && text.contains("@0.2"), "{text}");
        assert!(text.contains("at once") && text.contains("one wit/sync.wit"), "{text}");
    }
    // Patches of one version may be.
    let error = interfaces(&["log@0.1.0", "clock@0.1.2"], "0.1.1");
    assert!(matches!(error, LoadError::Mismatch(_)), "{error:?}");
}

#[test]
fn what_0_2_added_is_not_there_for_a_policy_of_0_1() {
    let wit = "package edgestore:sync@0.1.0;
        interface types { record hash { a: u64, b: u64, c: u64, d: u64 } }
        interface policy { describe: func() -> u32; }
        interface local { use types.{hash}; fetching: func(hash: hash) -> bool; }
        world w { import local; export policy; }";
    let body = r#"(module
        (import "edgestore:sync/local@0.1.0" "fetching"
            (func (param i64 i64 i64 i64) (result i32)))
        (memory (export "memory") 1)
        (func (export "edgestore:sync/policy@0.1.0#describe") (result i32) unreachable))"#;
    let error = refused(&component_of(body, wit, "w"));
    assert!(matches!(error, LoadError::Mismatch(_)), "{error:?}");
    assert!(error.to_string().contains("fetching"), "{error}");
}

#[test]
fn a_policy_of_0_1_says_who_it_is_and_pulls() {
    let mut world = World::new([offering(10)]);
    let archive = Arc::new(MemoryArchive::default());
    world.archive = Some(archive.clone());
    let policy = old_policy();
    assert_eq!((policy.contract(), policy.name(), policy.cursor_schema()), ("0.1", "default", 1));
    assert_eq!(policy.hash(), edgestore_engine::Hash::of(OLD));
    let (lines, report) = logged(|| world.tick(&policy).unwrap());
    assert_eq!((report.applied, report.records_written), (10, 10), "{report:?}");
    assert!(report.in_sync, "{report:?}");
    assert!(lines.contains("INFO") && lines.contains("applied 10 of 10"), "{lines}");
    assert_eq!(lock(&archive.0).len(), 10);
    let report = world.tick(&policy).unwrap();
    assert!(report.in_sync && report.applied == 0, "{report:?}");
}

#[test]
fn a_policy_of_0_1_and_one_of_0_2_go_on_from_each_others_cursor() {
    let (old, new) = (old_policy(), engine().load_default().unwrap());
    assert_eq!((old.contract(), new.contract()), ("0.1", "0.2"));
    assert_eq!(old.cursor_layout(), new.cursor_layout());
    for (first, second) in [(&old, &new), (&new, &old)] {
        let world = World::new([offering(3)]);
        // So that the roots differ, and the cursor alone says that all has been pulled.
        world.engine.put(b"ns", b"own", b"value").unwrap();
        world.engine.flush().unwrap();
        assert_eq!(world.tick(first).unwrap().applied, 3);
        let watched = Arc::new(Watched::default());
        let services = Services { observer: Some(watched.clone()), ..world.services() };
        let report = second.tick(services, context()).unwrap();
        assert!(report.in_sync && report.applied == 0, "{report:?}");
        let calls = lock(&watched.0);
        assert!(calls.iter().any(|call| call.starts_with("peer.probe")), "{calls:#?}");
        assert!(!calls.iter().any(|call| call.starts_with("peer.manifest")), "{calls:#?}");
    }
}

#[test]
fn each_call_of_a_policy_of_0_1_is_told_as_one_of_0_2_is() {
    let world = World::new([offering(1)]);
    let watched = Arc::new(Watched::default());
    let services = Services { observer: Some(watched.clone()), ..world.services() };
    assert_eq!(old_policy().tick(services, context()).unwrap().applied, 1);
    let segment = world.engine.manifest()[0].hash.short();
    let root = world.engine.root().short();
    let calls = lock(&watched.0);
    for call in [
        "cursor.load() = none".to_owned(),
        format!("peer.probe(a) = root {root}"),
        format!("manifest.missing(manifest {root}) = 1 segments"),
        format!("peer.start-fetch(a, {segment}) = transfer {segment}"),
        format!("transfer.take(transfer {segment}) = segment {segment}"),
        format!("local.apply(segment {segment}) = 1 written, 0 skipped"),
        format!("segment.drop(segment {segment}) = "),
    ] {
        assert!(calls.contains(&call), "{call} is not among {calls:#?}");
    }
}

#[test]
fn a_policy_of_0_1_is_held_to_its_limits() {
    let import = r#"(import "edgestore:sync/peers@0.1.0" "all" (func $all (param i32)))"#;
    let body = "(loop (call $all (i32.const 2048)) (br 0)) unreachable";
    let leaks = module(import, DESCRIBE, body, "").replace("@0.2.0", "@0.1.0");
    let leaks = engine().load(&component_of(&leaks, OLD_WIT, "sync-policy")).unwrap();
    let error = World::new([FakePeer::default()]).tick(&leaks).unwrap_err();
    assert!(error.to_string().contains("handles"), "{error}");
    assert!(error.blames_policy());
}

#[test]
fn errors_cross_both_ways_between_a_policy_of_0_1_and_the_host() {
    let policy = old_policy();
    let world = World::new([FakePeer::failing(PeerError::Status(503))]);
    let error = world.tick(&policy).unwrap_err();
    assert!(error.to_string().contains("503") && !error.blames_policy(), "{error}");

    let settings = vec![("no-such".to_owned(), "1".to_owned())];
    let context = Context { settings, ..context() };
    let error = policy.tick(world.services(), context).unwrap_err();
    assert!(error.to_string().contains("does not take a setting: "), "{error}");
    assert!(error.to_string().contains("no-such") && !error.blames_policy(), "{error}");
}

/// Notes each call.
#[derive(Default)]
struct Watched(Mutex<Vec<String>>);

impl Observer for Watched {
    fn called(&self, call: &HostCall<'_>) {
        let HostCall { name, arguments, outcome, .. } = call;
        lock(&self.0).push(format!("{name}({arguments}) = {outcome}"));
    }
}
