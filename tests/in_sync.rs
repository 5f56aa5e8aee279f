//! "In sync" is what the host found, not what a policy reports; and what a node has lost is pulled
//! again by every policy.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edgestore_host::engine::Engine;
use edgestore_host::policy::{Comparison, Limits, SetAsideReason};
use edgestore_host::runtime::{PeerStatus, PolicyEventKind, policy_history};
use edgestore_host::{Hash, Host, HostBuilder};
use edgestore_host_tests::component::policy;
use edgestore_host_tests::{
    answer, fake_peer, merkle_body, not_found, open, put, segment, segments_body, wait_until,
};

const POLICIES: [&str; 2] = ["../guest-sync/sync.wasm", "fixtures/policy-0.1.wasm"];

fn shipped(policy: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(policy)
}

/// A node with ten segments, and a folder for one that pulls them.
struct Nodes {
    dir: tempfile::TempDir,
    source: Arc<Engine>,
    _server: Host,
    url: String,
}

impl Nodes {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = open(&dir.path().join("source"));
        fill(&source, 0..10);
        // What it lists stays as it is.
        let server = Host::builder(Arc::clone(&source)).listen(([127, 0, 0, 1], 0).into());
        let server = server.compact_interval(None).start().unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        Self { dir, source, _server: server, url }
    }

    fn db(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A replica with a segment of its own, so that the roots differ for good.
    fn replica(&self, name: &str) -> Arc<Engine> {
        let replica = open(&self.db(name));
        replica.put(b"ns", b"own", b"record").unwrap();
        replica.flush().unwrap();
        replica
    }

    fn builder(&self, replica: &Arc<Engine>) -> HostBuilder {
        Host::builder(Arc::clone(replica))
            .peer("source", &self.url)
            .interval(Duration::from_millis(20))
            .compact_interval(None)
    }

    /// Ticks the policy until it asks for no further tick.
    fn pull(&self, replica: &Arc<Engine>, policy: &Path) -> PeerStatus {
        self.builder(replica).plugin(policy).run_once().unwrap().remove(0)
    }

    fn records(&self, replica: &Engine) -> usize {
        (0..10_u32).filter(|n| replica.get(b"ns", &n.to_be_bytes()).unwrap().is_some()).count()
    }
}

fn fill(engine: &Engine, numbers: std::ops::Range<u32>) {
    for n in numbers {
        engine.put(b"ns", &n.to_be_bytes(), &[7; 100]).unwrap();
        engine.flush().unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn in_sync_after_a_lost_segment_is_said_only_once_it_was_pulled_again() {
    let nodes = Nodes::new();
    for (n, policy) in POLICIES.iter().enumerate() {
        let name = format!("replica-{n}");
        let replica = nodes.replica(&name);
        let first = nodes.pull(&replica, &shipped(policy));
        assert!(first.in_sync() && nodes.records(&replica) == 10, "{first:?}");
        drop(replica);
        let lost = nodes.source.manifest()[3].hash;
        fs::remove_file(nodes.db(&name).join(format!("segments/{lost}.dat"))).unwrap();

        let replica = open(&nodes.db(&name));
        assert_eq!(replica.unreadable(), [lost]);
        let again = nodes.pull(&replica, &shipped(policy));
        assert_eq!((again.in_sync(), again.segments_applied), (true, 1), "{policy}: {again:?}");
        assert!(replica.has(&lost) && nodes.records(&replica) == 10);
        assert!(replica.unreadable().is_empty());
        let calm = nodes.pull(&replica, &shipped(policy));
        assert_eq!((calm.in_sync(), calm.segments_applied), (true, 0));
    }
}

#[test]
fn in_sync_after_a_repair_or_a_flip_before_the_drain_is_said_only_once_all_is_here() {
    let nodes = Nodes::new();
    let replica = nodes.replica("replica");
    assert!(nodes.pull(&replica, &shipped(POLICIES[0])).in_sync());
    let flipped = nodes.source.manifest()[5].hash;
    let flip = |db: &Path| {
        let file = db.join(format!("segments/{flipped}.dat"));
        let mut bytes = fs::read(&file).unwrap();
        bytes[100] ^= 0x10;
        fs::write(&file, bytes).unwrap();
    };
    // As a crash leaves it: what was pulled is in the segment files alone.
    copy(&nodes.db("replica"), &nodes.db("crashed"));
    flip(&nodes.db("crashed"));
    let crashed = open(&nodes.db("crashed"));
    assert_eq!((crashed.unreadable(), nodes.records(&crashed)), (vec![flipped], 9));
    let again = nodes.pull(&crashed, &shipped(POLICIES[0]));
    assert_eq!((again.in_sync(), again.segments_applied, nodes.records(&crashed)), (true, 1, 10));

    flip(&nodes.db("replica"));
    assert!(replica.verify(true, |_, _| {}).unwrap().count > 0);
    assert!(!replica.has(&flipped));
    let again = nodes.pull(&replica, &shipped(POLICIES[0]));
    assert_eq!((again.in_sync(), again.segments_applied), (true, 1), "{again:?}");
    assert_eq!(replica.verify(false, |_, _| {}).unwrap().count, 0);
}

#[test]
fn in_sync_after_a_backup_was_restored_under_a_newer_cursor_is_said_only_once_all_is_here() {
    let nodes = Nodes::new();
    for (n, policy) in POLICIES.iter().enumerate() {
        let (name, backup) = (format!("replica-{n}"), format!("backup-{n}"));
        let replica = nodes.replica(&name);
        drop(replica);
        copy(&nodes.db(&name), &nodes.db(&backup));
        let replica = open(&nodes.db(&name));
        assert!(nodes.pull(&replica, &shipped(policy)).in_sync());
        drop(replica);
        for folder in ["records", "segments"] {
            let (from, to) = (nodes.db(&backup).join(folder), nodes.db(&name).join(folder));
            fs::remove_dir_all(&to).unwrap();
            copy(&from, &to);
        }
        // As far as the backup was taken, and then some.
        let replica = open(&nodes.db(&name));
        for n in 0..20_u8 {
            replica.put(b"more", &[n], b"").unwrap();
            replica.flush().unwrap();
        }
        assert_eq!(nodes.records(&replica), 0);
        let again = nodes.pull(&replica, &shipped(policy));
        assert_eq!((again.in_sync(), nodes.records(&replica)), (true, 10), "{policy}: {again:?}");
    }
}

#[test]
fn in_sync_is_not_what_a_policy_says_that_pulls_nothing_and_its_probation_fails() {
    let nodes = Nodes::new();
    let replica = nodes.replica("replica");
    // `in-sync` of the report.
    let says = nodes.db("says.wasm");
    fs::write(&says, policy("(i32.store8 (i32.const 1032) (i32.const 1))")).unwrap();
    let once = nodes.pull(&replica, &says);
    let comparison = &once.comparison;
    assert!(!once.in_sync() && once.last_report.as_ref().unwrap().in_sync, "{once:?}");
    assert_eq!((comparison.listed, comparison.missing, comparison.untried), (Some(10), 10, 10));

    let host = nodes.builder(&replica).probation(5).start().unwrap();
    wait_until("the embedded policy pulls", || host.status().peers[0].in_sync());
    let before = host.status().policy_hash;
    // While nothing is missing it neither fails nor proves itself: it does not ask the peer.
    let seen = host.status().peers[0].ticks;
    host.swap_policy(&says).unwrap();
    wait_until("it ticks", || host.status().peers[0].ticks > seen + 10);
    assert_eq!(host.status().policy_state.probation.unwrap().passed, 0);
    fill(&nodes.source, 10..20);
    wait_until("it is rolled back", || host.status().policy_hash == before);
    let last = policy_history(replica.path(), 1000).unwrap();
    let last = last.iter().rfind(|event| event.event == PolicyEventKind::RolledBack).unwrap();
    assert!(last.why.contains("it reports that the peer is in sync"), "{last:?}");
    // What the host has seen last may be older than the end of `fill`.
    let has_all = || nodes.source.manifest().iter().all(|meta| replica.has(&meta.hash));
    wait_until("all is pulled", || has_all() && host.status().peers[0].in_sync());
}

#[test]
fn in_sync_is_not_needed_to_see_that_a_policy_stalls() {
    let nodes = Nodes::new();
    let replica = nodes.replica("replica");
    let idle = nodes.db("idle.wasm");
    fs::write(&idle, policy("")).unwrap();
    let host = nodes.builder(&replica).plugin(&idle).probation(8).max_failures(3);
    let host = host.start().unwrap();
    wait_until("it stalls", || host.status().peers[0].is_stalled());
    assert!(!host.status().peers[0].in_sync());
    wait_until("it is rolled back", || host.status().peers[0].in_sync());
    assert_eq!(nodes.records(&replica), 10);
}

#[test]
fn in_sync_is_not_said_of_a_peer_with_a_segment_that_is_rejected_or_that_it_does_not_give() {
    let good = segment(&[put("good", "value", 1)]);
    let (bad, gone) = (b"no segment at all".to_vec(), Hash::of(b"gone"));
    let hashes = [Hash::of(&good), Hash::of(&bad), gone];
    let url = fake_peer(move |path, stream| match path {
        "/merkle" => answer(stream, &merkle_body(Hash::root(hashes).as_bytes())),
        "/segments" => answer(stream, &segments_body(&hashes)),
        path if path.ends_with(&hashes[0].to_string()) => answer(stream, &good),
        path if path.ends_with(&hashes[1].to_string()) => answer(stream, &bad),
        _ => not_found(stream),
    });
    let dir = tempfile::tempdir().unwrap();
    let replica = open(dir.path());
    let host = Host::builder(Arc::clone(&replica))
        .peer("bad", &url)
        .setting("max-tries", "1")
        .setting("quarantine-secs", "3600")
        .interval(Duration::from_millis(20))
        .start()
        .unwrap();
    let peer = || host.status().peers.remove(0);
    wait_until("all was tried", || {
        let comparison = peer().comparison;
        (comparison.rejected, comparison.failed) == (1, 1)
    });
    let status = peer();
    assert!(!status.in_sync() && status.comparison.missing == 2, "{status:?}");
    let aside = &status.comparison.set_aside;
    assert_eq!(aside[0].hash, hashes[1].to_string());
    assert_eq!(
        (aside[0].reason, aside[1].reason),
        (SetAsideReason::Rejected, SetAsideReason::Failed)
    );
    assert!(aside[1].why.contains("does not have the segment"), "{aside:?}");

    // The policy has set it aside for an hour; whoever asks gets a try at once.
    let tries = |status: &PeerStatus| status.comparison.set_aside[1].tries;
    let before = tries(&peer());
    assert!(host.retry(Some("bad")) && !host.retry(Some("nobody")));
    wait_until("it is tried again", || tries(&peer()) > before);
}

#[test]
fn in_sync_does_not_depend_on_the_memory_of_the_host() {
    let rejected = b"no segment at all".to_vec();
    let hashes = [Hash::of(&rejected)];
    let url = fake_peer(move |path, stream| match path {
        "/merkle" => answer(stream, &merkle_body(Hash::root(hashes).as_bytes())),
        "/segments" => answer(stream, &segments_body(&hashes)),
        path if path.ends_with(&hashes[0].to_string()) => answer(stream, &rejected),
        _ => not_found(stream),
    });
    let dir = tempfile::tempdir().unwrap();
    let replica = open(dir.path());
    replica.put(b"ns", b"own", b"record").unwrap();
    replica.flush().unwrap();
    for _ in 0..3 {
        // The policy remembers that it was rejected and counts as done; a host that has just started
        // finds out.
        let once = Host::builder(Arc::clone(&replica)).peer("bad", &url).run_once().unwrap();
        assert!(!once[0].in_sync(), "{once:?}");
        assert_eq!((once[0].comparison.missing, once[0].comparison.rejected), (1, 1), "{once:?}");
    }
}

/// A list that a policy can't hold would trap it, by the fault of the peer.
#[test]
fn peer_that_lists_more_than_a_tick_is_shown_is_pulled_whole_and_no_policy_is_blamed() {
    let nodes = Nodes::new();
    let limits = || Limits { missing: 3, ..Limits::default() };
    for (n, policy) in POLICIES.iter().enumerate() {
        let replica = nodes.replica(&format!("once-{n}"));
        let once = nodes.builder(&replica).limits(limits()).plugin(shipped(policy));
        let once = once.run_once().unwrap().remove(0);
        assert!(once.in_sync() && nodes.records(&replica) == 10, "{policy}: {once:?}");

        let name = format!("running-{n}");
        let replica = nodes.replica(&name);
        let host = nodes.builder(&replica).limits(limits()).plugin(shipped(policy));
        let host = host.probation(3).max_failures(1).start().unwrap();
        wait_until("all is pulled", || host.status().peers[0].in_sync());
        wait_until("the policy is proven", || host.status().policy_state.probation.is_none());
        drop(host);
        let events = policy_history(&nodes.db(&name), 1000).unwrap();
        let bad = [PolicyEventKind::Failed, PolicyEventKind::RolledBack];
        assert!(!events.iter().any(|event| bad.contains(&event.event)), "{policy}: {events:?}");
    }
}

/// As many segments as a tick is shown can't be had, and stand before those that can.
#[test]
fn segments_that_a_peer_does_not_give_keep_no_policy_from_those_behind_them() {
    let good: Vec<_> = (0..4).map(|n| segment(&[put(&format!("good-{n}"), "value", 1)])).collect();
    let gone = (0..7_u8).map(|n| Hash::of(&[n]));
    let listed: Vec<_> = gone.chain(good.iter().map(|bytes| Hash::of(bytes))).collect();
    let (list, root) = (segments_body(&listed), Hash::root(listed.iter().copied()));
    let url = fake_peer(move |path, stream| match path {
        "/merkle" => answer(stream, &merkle_body(root.as_bytes())),
        "/segments" => answer(stream, &list),
        path => match good.iter().find(|bytes| path.ends_with(&Hash::of(bytes).to_string())) {
            Some(bytes) => answer(stream, bytes),
            None => not_found(stream),
        },
    });
    for policy in POLICIES {
        let dir = tempfile::tempdir().unwrap();
        let replica = open(dir.path());
        let host = Host::builder(Arc::clone(&replica)).peer("holes", &url);
        let limits = Limits { missing: 3, ..Limits::default() };
        let host = host.limits(limits).interval(Duration::from_millis(50)).plugin(shipped(policy));
        let host = host.start().unwrap();
        wait_until("all that can be had is here", || replica.manifest().len() == 4);
        let status = host.status();
        assert!(!status.peers[0].in_sync(), "{policy}: {status:?}");
    }
}

#[test]
fn in_sync_is_not_said_of_a_peer_whose_list_is_not_that_of_its_root() {
    let segment = segment(&[put("good", "value", 1)]);
    let hash = Hash::of(&segment);
    // As with a cache between the two: the root is of now, and the list of some other time.
    for listed in [vec![], vec![hash]] {
        let list = segments_body(&listed);
        let segment = segment.clone();
        let url = fake_peer(move |path, stream| match path {
            "/merkle" => answer(stream, &merkle_body(&[7; 32])),
            "/segments" => answer(stream, &list),
            path if path.ends_with(&hash.to_string()) => answer(stream, &segment),
            _ => not_found(stream),
        });
        for policy in POLICIES {
            let dir = tempfile::tempdir().unwrap();
            let replica = open(dir.path());
            let host = Host::builder(Arc::clone(&replica)).peer("cached", &url);
            let once = host.plugin(shipped(policy)).run_once().unwrap().remove(0);
            let Comparison { unknown, peer_root, .. } = &once.comparison;
            assert!(!once.in_sync() && unknown.is_some(), "{policy}: {once:?}");
            assert_eq!(*peer_root, Some("07".repeat(32)), "{policy}");
            assert_eq!(replica.manifest().len(), listed.len(), "what it gives is taken");
        }
    }
}

#[test]
fn in_sync_is_not_said_while_the_file_of_a_segment_is_gone_from_under_a_host() {
    let nodes = Nodes::new();
    let replica = nodes.replica("replica");
    let host = nodes.builder(&replica).listen(([127, 0, 0, 1], 0).into()).start().unwrap();
    wait_until("all is pulled", || host.status().peers[0].in_sync());
    let hashes: Vec<_> = nodes.source.manifest().iter().map(|meta| meta.hash).collect();
    let file = |hash: &Hash| nodes.db("replica").join(format!("segments/{hash}.dat"));
    fs::remove_file(file(&hashes[2])).unwrap();
    wait_until("it is pulled again", || file(&hashes[2]).exists());
    fs::write(file(&hashes[3]), b"cut").unwrap();
    wait_until("it is pulled again", || {
        fs::read(file(&hashes[3])).is_ok_and(|bytes| Hash::of(&bytes) == hashes[3])
    });
    // As long as before: whoever pulls it finds out, and takes nothing.
    let mut bytes = fs::read(file(&hashes[4])).unwrap();
    bytes[60] ^= 1;
    fs::write(file(&hashes[4]), bytes).unwrap();
    let url = format!("http://{}", host.local_addr().unwrap());
    let other = open(&nodes.db("other"));
    let once = Host::builder(Arc::clone(&other)).peer("replica", &url).run_once().unwrap();
    assert!(!once[0].in_sync() && !other.has(&hashes[4]), "{once:?}");
    wait_until("it is pulled again", || {
        fs::read(file(&hashes[4])).is_ok_and(|bytes| Hash::of(&bytes) == hashes[4])
    });
    wait_until("all is well", || host.status().peers[0].in_sync());
    assert!(host.status().health.is_good());
    assert_eq!(nodes.records(&replica), 10);
    assert!(nodes.db("replica/quarantine").join(format!("{}.dat", hashes[4])).exists());
}

/// As with a cache that keeps roots for longer than lists: of the root, all is here.
#[test]
fn a_root_that_is_older_than_the_list_is_no_proof() {
    let sound = segment(&[put("good", "value", 1)]);
    let (here, gone) = (Hash::of(&sound), Hash::of(b"gone"));
    let (root, list) = (Hash::root([here]), segments_body(&[here, gone]));
    let url = fake_peer(move |path, stream| match path {
        "/merkle" => answer(stream, &merkle_body(root.as_bytes())),
        "/segments" => answer(stream, &list),
        path if path.ends_with(&here.to_string()) => answer(stream, &sound),
        _ => not_found(stream),
    });
    for policy in POLICIES {
        let dir = tempfile::tempdir().unwrap();
        let replica = open(dir.path());
        let host = Host::builder(Arc::clone(&replica)).peer("cached", &url);
        let once = host.plugin(shipped(policy)).run_once().unwrap().remove(0);
        assert_eq!(replica.root(), root, "{policy}");
        assert_eq!((once.in_sync(), once.comparison.missing), (false, 1), "{policy}: {once:?}");

        let dir = tempfile::tempdir().unwrap();
        let host = Host::builder(open(dir.path())).peer("cached", &url).plugin(shipped(policy));
        let host = host.interval(Duration::from_millis(10)).start().unwrap();
        wait_until("it ticks", || {
            let peer = host.status().peers.remove(0);
            assert!(!peer.in_sync(), "{policy}: {peer:?}");
            peer.ticks > 20
        });
    }
}
