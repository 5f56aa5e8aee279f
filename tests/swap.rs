//! Policies that take over while the node runs: good ones stay, bad ones go by themselves, and
//! neither costs a segment or a cursor.
#![allow(clippy::unwrap_used)]

#[path = "program.rs"]
mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgestore_host::engine::Engine;
use edgestore_host::policy::CursorLayout;
use edgestore_host::policy::CursorStore as _;
use edgestore_host::runtime::{CursorFiles, HostStatus, PolicyEventKind, policy_history};
use edgestore_host::{Hash, Host, HostBuilder};
use edgestore_host_tests::component::{component, policy, wat, wat_with};
use edgestore_host_tests::{dump, open, serve, setting, wait_showing, wait_until};
use program::{Folder, Running, run};

/// `context.reason` of the contract.
const RETRY: u32 = 3;

/// Traps in each tick but that of a dry run, which has an interval of 30 s. The hosts of these
/// tests have a shorter one. The reason of a tick does not tell: a peer that is woken once more has
/// that of a dry run.
fn traps_later() -> Vec<u8> {
    let call = "(call $body";
    let unless_rehearsed = "(if (i64.lt_u (local.get 2) (i64.const 1000)) (then unreachable))";
    component(&wat("").replacen(call, &format!("{unless_rehearsed} {call}"), 1))
}

/// The embedded policy in a file that nobody has seen yet.
fn variant(n: u32) -> Vec<u8> {
    let mut component = default_policy();
    // A custom section: its id, its size, the size of its name, its name.
    component.extend_from_slice(&[0, 9, 4, b't', b'e', b's', b't']);
    component.extend_from_slice(&n.to_le_bytes());
    component
}

fn default_policy() -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read(root.join("../guest-sync/sync.wasm")).unwrap()
}

/// A node that is pulled from, and one that pulls.
struct Nodes {
    dir: tempfile::TempDir,
    source: Arc<Engine>,
    server: Host,
    url: String,
    replica: Arc<Engine>,
}

impl Nodes {
    fn new(segments: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = open(&dir.path().join("source"));
        fill(&source, 0..segments);
        let (server, url) = serve(&source);
        let replica = open(&dir.path().join("replica"));
        replica.put(b"ns", b"own", b"record").unwrap();
        replica.flush().unwrap();
        Self { dir, source, server, url, replica }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A host of the replica that ticks often.
    fn builder(&self) -> HostBuilder {
        Host::builder(Arc::clone(&self.replica))
            .peer("source", &self.url)
            .interval(Duration::from_millis(20))
            .compact_interval(None)
            .probation(5)
    }

    fn has_all(&self) -> bool {
        self.source.manifest().iter().all(|meta| self.replica.has(&meta.hash))
    }

    /// What happened, without the starts.
    fn events(&self) -> Vec<PolicyEventKind> {
        let events = policy_history(self.replica.path(), 1000).unwrap();
        let events = events.into_iter().map(|event| event.event);
        events.filter(|event| *event != PolicyEventKind::Started).collect()
    }
}

/// One record a segment.
fn fill(engine: &Engine, numbers: std::ops::Range<u32>) {
    for n in numbers {
        engine.put(b"ns", &n.to_be_bytes(), &[7; 100]).unwrap();
        engine.flush().unwrap();
    }
}

fn ticks(host: &Host) -> u64 {
    host.status().peers[0].ticks
}

fn proven(status: &HostStatus) -> bool {
    status.policy_state.probation.is_none()
}

#[test]
fn a_policy_that_is_swapped_in_proves_itself_and_survives_a_restart() {
    let nodes = Nodes::new(3);
    let host = nodes.builder().start().unwrap();
    wait_until("the embedded policy pulls", || nodes.has_all());
    let new = nodes.file("new.wasm", &variant(1));

    let change = host.swap_policy(&new).unwrap();
    assert!(change.changed && change.hash == Hash::of(&variant(1)).to_string(), "{change:?}");
    let state = host.status().policy_state;
    assert_eq!(state.origin, new.display().to_string());
    assert!(!host.swap_policy(&new).unwrap().changed, "it runs already");
    wait_until("it is good", || proven(&host.status()));
    fill(&nodes.source, 3..6);
    wait_until("it pulls", || nodes.has_all());
    host.shutdown();
    // The file may go: the database has its own.
    fs::remove_file(new).unwrap();
    let host = nodes.builder().start().unwrap();
    assert_eq!(host.status().policy_hash, Hash::of(&variant(1)).to_string());
    assert!(proven(&host.status()));
    assert_eq!(nodes.events(), [PolicyEventKind::Swapped, PolicyEventKind::Proven]);

    let change = host.roll_back_policy().unwrap();
    assert_eq!(change.hash, Hash::of(&default_policy()).to_string());
    assert!(host.roll_back_policy().unwrap_err().to_string().contains("nothing to go back to"));
    host.shutdown();
    nodes.server.shutdown();
}

#[test]
fn a_bad_policy_under_load_is_rolled_back_by_itself() {
    let nodes = Nodes::new(200);
    let host = nodes.builder().start().unwrap();
    let before = host.status().policy_hash;
    let bad = nodes.file("bad.wasm", &traps_later());
    assert!(host.swap_policy(&bad).unwrap().changed);
    let rolled_back = || host.status().policy_hash == before;
    wait_showing("it is rolled back", rolled_back, || host.status());
    fill(&nodes.source, 200..210);
    wait_showing("all is pulled", || nodes.has_all(), || host.status());
    assert!(proven(&host.status()));
    let last = host.status().policy_state.last_event.unwrap();
    assert_eq!(last.event, PolicyEventKind::RolledBack);
    assert!(
        last.why.contains("3 ticks in a row failed") && last.why.contains("trapped"),
        "{last:?}"
    );
    use PolicyEventKind::{Failed, RolledBack, Swapped};
    assert_eq!(nodes.events(), [Swapped, Failed, Failed, Failed, RolledBack]);
    // It may be tried again, and goes again.
    assert!(host.swap_policy(&bad).unwrap().changed);
    wait_showing("it is rolled back", rolled_back, || host.status());
    host.shutdown();
    nodes.server.shutdown();
}

/// Returns a `setting` error in each tick but that of a dry run, as `traps_later` traps.
fn refuses_settings_later() -> Vec<u8> {
    let call = "(call $body";
    let refuse = "(if (i64.lt_u (local.get 2) (i64.const 1000)) (then
        (i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 2))
        (call $drop (local.get 5)) (return (i32.const 1024))))";
    component(&wat("").replacen(call, &format!("{refuse} {call}"), 1))
}

#[test]
fn a_policy_that_makes_up_a_bad_setting_is_rolled_back() {
    for settings in [&[][..], &[("window", "2")]] {
        let nodes = Nodes::new(1);
        let mut builder = nodes.builder();
        for (key, value) in settings {
            builder = builder.setting(*key, *value);
        }
        let host = builder.start().unwrap();
        host.swap_policy(&nodes.file("bad.wasm", &refuses_settings_later())).unwrap();
        wait_until("it is rolled back", || {
            nodes.events().last() == Some(&PolicyEventKind::RolledBack)
        });
        let why = host.status().policy_state.last_event.unwrap().why;
        assert!(why.contains("does not take a setting"), "{why}");
        fill(&nodes.source, 1..2);
        wait_until("it pulls", || nodes.has_all());
        host.shutdown();
        nodes.server.shutdown();
    }
}

#[test]
fn a_probation_goes_on_after_a_restart() {
    let nodes = Nodes::new(1);
    let host = nodes.builder().probation(1_000_000).start().unwrap();
    wait_until("all is pulled", || nodes.has_all());
    host.swap_policy(&nodes.file("new.wasm", &variant(1))).unwrap();
    wait_until("it has ticked", || {
        host.status().policy_state.probation.is_some_and(|trial| trial.passed > 0)
    });
    host.shutdown();
    let host = nodes.builder().probation(1_000_000).start().unwrap();
    assert_eq!(host.status().policy_hash, Hash::of(&variant(1)).to_string());
    let trial = host.status().policy_state.probation.unwrap();
    assert!(trial.fallback.starts_with("default "), "{trial:?}");
    host.roll_back_policy().unwrap();
    assert_eq!(host.status().policy_hash, Hash::of(&default_policy()).to_string());
}

/// The worst that a bad policy can do: it shares its cursor with the good one, and notes there that
/// all has been pulled.
#[test]
fn a_cursor_that_lies_goes_with_the_policy_that_wrote_it() {
    let nodes = Nodes::new(1);
    let host = nodes.builder().start().unwrap();
    wait_until("all is pulled", || nodes.has_all());
    host.shutdown();
    fill(&nodes.source, 1..4);

    let root = nodes.source.root();
    let stock = (root.as_bytes().to_vec(), Vec::<Vec<u8>>::new(), 1_u64, 9_u64, 0_u64);
    let lie = rmp_serde::to_vec(&stock).unwrap();
    let data: String = lie.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let imports = r#"(import "edgestore:sync/cursor@0.2.0" "store"
        (func $store (param i32 i32 i32)))"#;
    let body = format!(
        "(call $store (i32.const 2000) (i32.const {}) (i32.const 3000))
        (if (i32.ge_u (local.get $reason) (i32.const {RETRY})) (then unreachable))",
        lie.len()
    );
    let liar = wat_with(imports, &body)
        .replace("(global $next", &format!("(data (i32.const 2000) \"{data}\") (global $next"))
        .replace("hostile", "default");
    // Nobody pulls while it runs: it takes over before the first tick.
    let file = nodes.file("liar.wasm", &component(&liar));
    let host = nodes.builder().plugin(&file).probation(1_000_000).start().unwrap();
    wait_until("it has written its lie", || ticks(&host) > 0);
    let cursors = CursorFiles::look(nodes.replica.path());
    let layout = CursorLayout { policy: "default".into(), schema: 1 };
    assert_eq!(cursors.load("source", &layout).unwrap(), Some(lie));
    assert!(!nodes.has_all());

    host.roll_back_policy().unwrap();
    wait_until("the good policy pulls what the other one had claimed", || nodes.has_all());
    host.shutdown();
    nodes.server.shutdown();
}

#[test]
fn what_is_no_good_policy_is_refused_and_the_old_one_serves_on() {
    let nodes = Nodes::new(1);
    let host = nodes.builder().start().unwrap();
    let before = host.status().policy_hash;
    let refused = |bytes: &[u8], words: &str| {
        let file = nodes.file("bad.wasm", bytes);
        let error = host.swap_policy(&file).unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
        assert_eq!(host.status().policy_hash, before);
    };
    refused(b"hello", "not WebAssembly");
    refused(&default_policy()[..5000], "does not compile");
    refused(&policy("unreachable"), "a trial tick against a canned peer failed");
    let gone = host.swap_policy(Path::new("/no/such.wasm")).unwrap_err().to_string();
    assert!(gone.contains("/no/such.wasm"), "{gone}");
    assert_eq!(nodes.events(), [PolicyEventKind::Refused; 3]);
    wait_until("it pulls", || nodes.has_all());
    host.shutdown();
    nodes.server.shutdown();
}

#[test]
fn a_peer_that_is_down_is_not_the_policys_fault() {
    let nodes = Nodes::new(0);
    let host = Host::builder(Arc::clone(&nodes.replica))
        .peer("down", "http://127.0.0.1:9")
        .interval(Duration::from_millis(5))
        .start()
        .unwrap();
    host.swap_policy(&nodes.file("new.wasm", &variant(1))).unwrap();
    let since = ticks(&host);
    wait_until("many ticks have failed", || {
        host.wake(None);
        ticks(&host) > since + 10
    });
    assert_eq!(host.status().policy_hash, Hash::of(&variant(1)).to_string());
    let trial = host.status().policy_state.probation.unwrap();
    assert_eq!((trial.passed, trial.failures), (0, 0));
}

#[test]
fn the_file_of_the_plugin_is_watched() {
    let nodes = Nodes::new(2);
    let file = nodes.file("sync.wasm", &variant(1));
    let host = nodes.builder().plugin(&file).start().unwrap();
    wait_until("it pulls", || nodes.has_all());
    wait_until("it is good", || proven(&host.status()));
    let runs = |n: u32| host.status().policy_hash == Hash::of(&variant(n)).to_string();
    assert!(runs(1));

    // Written bit by bit, and looked at in between. The host looks at what is no policy once more
    // a second later; where this test has been held up for longer, it has to try again.
    let refusals =
        || nodes.events().iter().filter(|event| **event == PolicyEventKind::Refused).count();
    let mut latest = 1;
    let mut in_time = false;
    while !in_time {
        latest += 1;
        let before = refusals();
        let new = variant(latest);
        let begin = Instant::now();
        fs::write(&file, &new[..new.len() / 2]).unwrap();
        std::thread::sleep(Duration::from_millis(700));
        fs::write(&file, &new).unwrap();
        in_time = begin.elapsed() < Duration::from_secs(1);
        wait_until("the new one runs", || runs(latest));
        wait_until("it is good", || proven(&host.status()));
        assert!(!in_time || refusals() == before, "{:?}", nodes.events());
    }

    let before = refusals();
    fs::write(&file, b"garbage").unwrap();
    wait_until("it is refused", || refusals() > before);
    assert!(runs(latest));

    // A broken file does not keep the node from coming back.
    host.shutdown();
    let host = nodes.builder().plugin(&file).start().unwrap();
    assert_eq!(host.status().policy_hash, Hash::of(&variant(latest)).to_string());
    let next = nodes.file("next.wasm", &variant(latest + 1));
    fs::rename(next, &file).unwrap();
    let next = Hash::of(&variant(latest + 1)).to_string();
    wait_until("the one that replaces it runs", || host.status().policy_hash == next);
    host.shutdown();

    // Whoever leaves the option out wants the built-in one.
    let host = nodes.builder().start().unwrap();
    assert_eq!(host.status().policy_hash, Hash::of(&default_policy()).to_string());
    host.shutdown();
    nodes.server.shutdown();
}

#[test]
fn swaps_during_a_bootstrap_lose_no_segment_and_no_cursor() {
    // Most of the time goes into compiling: each policy is another one.
    let wanted = setting("EDGESTORE_SWAPS", 20);
    let nodes = Nodes::new(300);
    let host = nodes.builder().probation(1).start().unwrap();
    let (mut swaps, mut during, mut written) = (0, 0, 300);
    // Mostly swaps that something was still to pull at.
    while swaps < wanted || during < wanted * 9 / 10 {
        assert!(
            swaps < 10 * wanted,
            "the bootstrap had ended at all but {during} of {swaps} swaps"
        );
        // Good ones and bad ones; the file's name is the same, as its users would have it.
        let bytes = if swaps % 4 == 3 { traps_later() } else { variant(swaps) };
        let file = nodes.file("sync.wasm", &bytes);
        if !nodes.has_all() {
            during += 1;
        }
        host.swap_policy(&file).unwrap();
        // The source goes on writing, so the bootstrap does not end before the swaps do.
        fill(&nodes.source, written..written + 3);
        (swaps, written) = (swaps + 1, written + 3);
    }
    wait_showing("all is pulled", || nodes.has_all(), || host.status());
    assert_eq!(dump(&nodes.replica, b"ns").len(), 1 + written as usize);
    let staging = nodes.replica.path().join("staging");
    wait_until("no transfer is left", || fs::read_dir(&staging).unwrap().count() == 0);
    wait_until("the host is in sync", || host.status().peers[0].in_sync());
    host.shutdown();
    let cursors = CursorFiles::look(nodes.replica.path());
    assert!(cursors.damaged().unwrap().is_empty());
    let layout = CursorLayout { policy: "default".into(), schema: 1 };
    let cursor = cursors.load("source", &layout).unwrap().expect("the cursor is there");
    type Stock = (Vec<u8>, Vec<Vec<u8>>, u64, u64, u64);
    let cursor: Stock = rmp_serde::from_slice(&cursor).unwrap();
    assert_eq!(cursor.0, nodes.source.root().as_bytes(), "it knows what was pulled");
    assert!(cursor.1.is_empty(), "nothing is pending");
    let aside: Vec<_> = fs::read_dir(nodes.replica.path().join("sync"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("corrupt") || name.contains("before"))
        .collect();
    assert!(aside.is_empty(), "{aside:?}");
    nodes.server.shutdown();
}

#[test]
fn a_running_host_is_told_by_the_program_to_swap_and_to_roll_back() {
    let dir = Folder::new();
    let db = dir.path("db");
    let policy_command = |args: &[&str]| run(&[&["policy"], args, &["--db", &db]].concat());
    run(&["put", "--create", "ns", "k", "v", "--db", &db]).ok();
    policy_command(&["rollback"]).fails(&["no host runs"]);
    policy_command(&["swap", "x.wasm"]).fails(&["no host runs"]);
    assert!(policy_command(&["history"]).ok().contains("no policy has run yet"));

    let peer = ["--peer", "down=http://127.0.0.1:9", "--listen", "none", "--interval", "20ms"];
    let mut host = Running::start(&db, &peer);
    policy_command(&["rollback"]).fails(&["nothing to go back to"]);
    policy_command(&["swap", "no-such.wasm"]).fails(&["no-such.wasm"]);
    let folder = policy_command(&["swap", &dir.path("")]);
    assert_eq!(folder.code, Some(3), "{folder:?}");
    folder.fails(&["it is no regular file"]);
    let text = dir.write("text.wasm", b"hello");
    let text = policy_command(&["swap", &text]);
    assert_eq!(text.code, Some(1), "{text:?}");
    text.fails(&["text.wasm", "not WebAssembly"]);
    let new = dir.write("new.wasm", &variant(1));
    assert!(policy_command(&["swap", &new]).ok().contains("runs in place of default"));
    assert!(policy_command(&["swap", &new]).ok().contains("runs already"));
    let status = run(&["status", "--db", &db]).answers();
    assert!(status.contains("on probation: 0 of 20") && status.contains("new.wasm"), "{status}");
    assert!(policy_command(&["rollback"]).ok().contains("runs in place of"));
    assert_eq!(host.status()["policy_state"]["last_event"]["event"], "rolled-back");
    assert_eq!(host.stop("-TERM"), Some(0));

    let history = policy_command(&["history"]).ok();
    for word in ["started", "refused", "swapped", "rolled back", "somebody asked for it"] {
        assert!(history.contains(word), "{word} is not in\n{history}");
    }
    let last = policy_command(&["history", "--json", "--limit", "1"]).ok();
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!(last["event"], "rolled-back");
}
