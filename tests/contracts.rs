//! A policy that was built for contract 0.1 and one for 0.2 take turns on a node, and lose nothing.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edgestore_host::engine::Engine;
use edgestore_host::policy::{CursorLayout, CursorStore as _};
use edgestore_host::runtime::{CursorFiles, PolicyEventKind, policy_history};
use edgestore_host::{Hash, Host};
use edgestore_host_tests::{dump, open, serve, wait_until};

/// The default policy of the last host that spoke contract 0.1 alone: `guest-sync/sync.wasm` as it
/// was committed before `wit/sync.wit` became 0.2.
const OLD: &str = "fixtures/policy-0.1.wasm";
const NEW: &str = "../guest-sync/sync.wasm";

fn path(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn hash(of: &str) -> String {
    Hash::of(&fs::read(path(of)).unwrap()).to_string()
}

/// Five segments more, of one record each.
fn fill(engine: &Engine, round: u32) {
    for n in 0..5 {
        engine.put(b"ns", &(5 * round + n).to_be_bytes(), &[7; 100]).unwrap();
        engine.flush().unwrap();
    }
}

/// `segments_applied_total` of the cursor of `source`.
fn applied_total(replica: &Engine) -> u64 {
    type Stock = (Vec<u8>, Vec<Vec<u8>>, u64, u64, u64);
    let layout = CursorLayout { policy: "default".into(), schema: 1 };
    let cursors = CursorFiles::look(replica.path());
    let cursor = cursors.load("source", &layout).unwrap().expect("the cursor is there");
    rmp_serde::from_slice::<Stock>(&cursor).unwrap().3
}

#[test]
fn policies_of_both_versions_take_turns_with_one_cursor() {
    let dir = tempfile::tempdir().unwrap();
    let source = open(&dir.path().join("source"));
    let (server, url) = serve(&source);
    let replica = open(&dir.path().join("replica"));
    replica.put(b"ns", b"own", b"record").unwrap();
    replica.flush().unwrap();
    fill(&source, 0);

    let builder = || {
        Host::builder(Arc::clone(&replica))
            .peer("source", &url)
            .interval(Duration::from_millis(20))
            .compact_interval(None)
            .probation(2)
    };
    let host = builder().start().unwrap();
    assert_eq!(host.status().policy_hash, hash(NEW));
    let pulled = |round: u64| {
        let has_all = || source.manifest().iter().all(|meta| replica.has(&meta.hash));
        wait_until("all is pulled", has_all);
        wait_until("the cursor knows", || applied_total(&replica) == 5 * (round + 1));
    };
    pulled(0);
    for (round, policy) in [(1, OLD), (2, NEW), (3, OLD)] {
        let change = host.swap_policy(&path(policy)).unwrap();
        assert!(change.changed && change.hash == hash(policy), "{change:?}");
        fill(&source, round);
        pulled(round.into());
        let proven = || host.status().policy_state.probation.is_none();
        wait_until("it is good", proven);
    }
    host.shutdown();

    // It comes back with the node, and goes when somebody asks for it.
    let host = builder().start().unwrap();
    assert_eq!(host.status().policy_hash, hash(OLD));
    fill(&source, 4);
    pulled(4);
    host.roll_back_policy().unwrap();
    assert_eq!(host.status().policy_hash, hash(NEW));
    fill(&source, 5);
    pulled(5);
    wait_until("the host is in sync", || host.status().peers[0].in_sync());
    host.shutdown();

    assert_eq!(dump(&replica, b"ns").len(), 1 + 30);
    let events = policy_history(replica.path(), 1000).unwrap();
    let failed = |kind| kind == PolicyEventKind::Failed || kind == PolicyEventKind::Refused;
    assert!(events.iter().all(|event| !failed(event.event)), "{events:?}");
    let kept_aside = |name: &str| name.contains("corrupt") || name.contains("before");
    for entry in fs::read_dir(replica.path().join("sync")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!kept_aside(&name), "{name}");
    }
    server.shutdown();
}
