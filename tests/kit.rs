//! The authoring kit, end to end: in each language from `policy new` to a pull between two nodes,
//! and what it says of files that are no policies.
//!
//! A language whose tools are missing and can't be installed is skipped, or fails the test where
//! `EDGESTORE_KIT=all` is set. What was built stays in `target/kit`; without that variable a second
//! run builds only what has changed.
#![allow(clippy::unwrap_used)]

mod program;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use edgestore_host::engine::Engine;
use edgestore_host::policy::{HostCall, Limits, Observer};
use edgestore_host::runtime::PeerStatus;
use edgestore_host::{Hash, Host, HostBuilder};
use edgestore_host_tests::component::{component, policy, wat};
use edgestore_host_tests::policies::components;
use edgestore_host_tests::{
    answer, dump, fake_peer, merkle_body, open, put, segment, segments_body, serve, wait_until,
};
use program::{Folder, Ran, edgestore, ran};

/// How `build.sh` ends when a tool can't be had.
const NO_TOOL: i32 = 3;

/// Where things are kept from one run to the next.
fn kept(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let dir = target.join("kit").join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn kit(args: &[&str]) -> Ran {
    let mut command = edgestore(&[&["policy"], args].concat());
    ran(command.env("XDG_CACHE_HOME", kept("cache")).stdin(Stdio::null()).output().unwrap())
}

/// A project by `policy new`, in a folder that keeps what was installed and built in it before.
struct Project {
    lang: &'static str,
    dir: PathBuf,
    /// No other run of this test uses the folder. The lock ends with the file.
    _lock: File,
}

impl Project {
    fn new(lang: &'static str) -> Self {
        let fresh = Folder::new();
        let name = format!("my-{lang}");
        let made = kit(&["new", &name, "--lang", lang, "--dir", &fresh.path("new")]);
        let steps = made.ok();
        assert!(steps.contains("build.sh") && steps.contains("policy check"), "{steps}");
        let lock = File::create(kept("locks").join(lang)).unwrap();
        lock.lock().unwrap();
        let project = Self { lang, dir: kept(&name), _lock: lock };
        if update(&fresh.0.path().join("new"), &project.dir) {
            let _ = fs::remove_file(project.component());
        }
        project
    }

    fn component(&self) -> PathBuf {
        self.dir.join(format!("my-{}.wasm", self.lang))
    }

    /// The component, built by `build.sh`; none where a tool is missing. What takes a minute to build
    /// is built where its files have changed, or `EDGESTORE_KIT=all` is set.
    fn build(&self) -> Option<PathBuf> {
        let quick = !["js", "python"].contains(&self.lang);
        if quick || wants_all() || !self.component().exists() {
            let build = self.dir.join("build.sh");
            // From elsewhere, as an editor may call it.
            author_runs(Path::new("/"), build.to_str().unwrap(), &[])?;
        }
        Some(self.component())
    }
}

/// Copies the files that differ, and returns whether any did: the time of the others tells that
/// nothing is to be done again.
fn update(from: &Path, to: &Path) -> bool {
    fs::create_dir_all(to).unwrap();
    let mut changed = false;
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            changed |= update(&from, &to);
        } else if fs::read(&to).ok() != Some(fs::read(&from).unwrap()) {
            fs::copy(&from, &to).unwrap();
            changed = true;
        }
    }
    changed
}

fn wants_all() -> bool {
    std::env::var("EDGESTORE_KIT").is_ok_and(|value| value == "all")
}

/// Runs a command of a project's author; none where a tool is missing.
fn author_runs(project: &Path, program: &str, args: &[&str]) -> Option<()> {
    let output = Command::new(program)
        .args(args)
        .current_dir(project)
        .env("EDGESTORE_HOST", env!("CARGO_BIN_EXE_edgestore-host-under-test"))
        .env("CARGO_TARGET_DIR", kept("rust-target"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let ran = ran(output);
    if ran.code == Some(NO_TOOL) {
        assert!(!wants_all(), "a tool is missing, and EDGESTORE_KIT=all: {ran:?}");
        eprintln!("skipped: {program} lacks a tool here: {}", ran.err.trim());
        return None;
    }
    assert_eq!(ran.code, Some(0), "{ran:?}");
    Some(())
}

/// Pulls by a policy that may have `window` transfers, and is to use them all.
fn puller(engine: &Arc<Engine>, policy: &Path, url: &str, window: usize) -> HostBuilder {
    Host::builder(Arc::clone(engine))
        .peer("peer", url)
        .plugin(policy)
        .policy_cache(kept("cache/edgestore-host/policies"))
        .limits(Limits { transfers: window, ..Limits::default() })
        .setting("window", window.to_string())
}

fn pull(engine: &Arc<Engine>, policy: &Path, url: &str, window: usize) -> PeerStatus {
    puller(engine, policy, url, window).run_once().unwrap().remove(0)
}

/// All that is promised of a project, whatever it is written in.
fn from_new_to_a_pull(project: &Project) {
    let Some(file) = project.build() else { return };
    passes_the_check(project.lang, file.to_str().unwrap());
    pulls_between_two_nodes(&file);
    remembers_what_it_has_pulled(&file);
    gives_back_what_it_can_not_apply(&file);
    tells_of_a_dead_peer(&file);
}

fn passes_the_check(lang: &str, path: &str) {
    let check = kit(&["check", path, "--set", "window=2"]).ok();
    assert!(check.contains("pulled 3 of 3 segments") && !check.contains('✗'), "{check}");
    assert!(check.contains("peer.probe(") && check.contains("cursor.store("), "{check}");
    let json: serde_json::Value =
        serde_json::from_str(&kit(&["describe", path, "--json"]).ok()).unwrap();
    assert_eq!(json["name"], format!("my-{lang}"), "{json}");
    assert_eq!(json["contract"], "0.2", "{json}");
    assert_eq!(json["cached"], true, "the check has compiled it: {json}");
    let imports: Vec<_> = json["imports"].as_array().unwrap().iter().collect();
    assert!(!imports.is_empty());
    for import in imports {
        assert!(import.as_str().unwrap().starts_with("edgestore:sync/"), "{import}");
    }
    let bad = kit(&["check", path, "--set", "windwo=2"]);
    assert_eq!(bad.code, Some(1), "{bad:?}");
    assert!(bad.out.contains("✗ a tick") && bad.out.contains("window"), "{bad:?}");
}

fn pulls_between_two_nodes(policy: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let (primary, replica) = (open(&dir.path().join("a")), open(&dir.path().join("b")));
    for n in 0..20_u8 {
        for key in 0..20_u8 {
            primary.put(b"ns", &[key], &[n; 50]).unwrap();
        }
        primary.flush().unwrap();
    }
    let (_host, url) = serve(&primary);
    let status = pull(&replica, policy, &url, 3);
    assert!(status.in_sync(), "{status:?}");
    assert_eq!((status.ticks, status.segments_applied), (1, 20), "{status:?}");
    assert_eq!(replica.root(), primary.root());
    assert_eq!(dump(&replica, b"ns"), dump(&primary, b"ns"));
}

/// A peer that serves these segments, and counts how often it was asked for the list.
fn counting_peer(segments: Vec<Vec<u8>>) -> (String, Arc<AtomicU32>) {
    let lists = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&lists);
    let hashes: Vec<Hash> = segments.iter().map(|bytes| Hash::of(bytes)).collect();
    let url = fake_peer(move |path, stream| match path {
        "/merkle" => answer(stream, &merkle_body(Hash::root(hashes.clone()).as_bytes())),
        "/segments" => {
            counter.fetch_add(1, Ordering::Relaxed);
            answer(stream, &segments_body(&hashes));
        }
        path => {
            let name = path.trim_start_matches("/segments/");
            match hashes.iter().position(|hash| hash.to_string() == name) {
                Some(at) => answer(stream, &segments[at]),
                // It speaks version 1 of the protocol alone.
                None => {
                    let _ = stream.write_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n");
                }
            }
        }
    });
    (url, lists)
}

fn remembers_what_it_has_pulled(policy: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let replica = open(dir.path());
    // So the roots never agree.
    replica.put(b"own", b"key", b"value").unwrap();
    replica.flush().unwrap();
    let (url, lists) = counting_peer(vec![segment(&[put("a", "1", 1)])]);
    // A host that has just started reads the list once by itself, to check what the policy says.
    for starts in 1..=2 {
        let often = Duration::from_millis(20);
        let host = puller(&replica, policy, &url, 1).interval(often).start().unwrap();
        let status = || host.status().peers.remove(0);
        wait_until("it has ticked some times", || status().ticks >= 5);
        let status = status();
        assert!(status.in_sync() && status.last_error.is_none(), "{status:?}");
        assert_eq!(lists.load(Ordering::Relaxed), starts);
        host.shutdown();
    }
    assert_eq!(dump(&replica, b"ns").len(), 1);
}

/// Counts the handles that a policy got and those that it gave back.
#[derive(Default)]
struct Handles(Mutex<BTreeMap<&'static str, i32>>);

impl Observer for Handles {
    fn called(&self, call: &HostCall<'_>) {
        let change = match call.name {
            "peer.manifest" => ("manifest", 1),
            "peer.start-fetch" if call.outcome.starts_with("transfer ") => ("transfer", 1),
            "transfer.take" if call.outcome.starts_with("segment ") => ("segment", 1),
            "manifest.drop" => ("manifest", -1),
            "transfer.drop" => ("transfer", -1),
            "segment.drop" => ("segment", -1),
            _ => return,
        };
        *self.0.lock().unwrap().entry(change.0).or_default() += change.1;
    }
}

/// A segment that waits for its time counts against the transfers of a tick until it is given back.
fn gives_back_what_it_can_not_apply(policy: &Path) {
    const YEAR_2096: i64 = 4_000_000_000_000_000_000;
    let dir = tempfile::tempdir().unwrap();
    let replica = open(dir.path());
    let early = (0..6).map(|n| segment(&[put("early", "1", YEAR_2096 + n)]));
    let now = segment(&[put("now", "1", 1)]);
    let (url, _) = counting_peer(early.chain([now]).collect());
    let handles = Arc::new(Handles::default());
    let host = puller(&replica, policy, &url, 2).observer(Arc::clone(&handles) as _);
    let status = host.run_once().unwrap().remove(0);
    let report = status.last_report.as_ref().unwrap();
    assert_eq!((report.applied, report.failed, report.pending), (1, 6, 6), "{status:?}");
    assert!(!report.in_sync);
    assert_eq!((status.ticks, dump(&replica, b"ns").len()), (1, 1), "{status:?}");
    let left = [("manifest", 0), ("segment", 0), ("transfer", 0)];
    assert_eq!(*handles.0.lock().unwrap(), BTreeMap::from(left), "handles are left");
}

fn tells_of_a_dead_peer(policy: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let status = pull(&open(dir.path()), policy, "http://127.0.0.1:9", 1);
    assert!(status.last_error.as_ref().unwrap().contains("unreachable"), "{status:?}");
}

#[test]
fn a_policy_in_rust_is_made_tested_built_and_pulls() {
    let project = Project::new("rust");
    // The versions that this workspace has are there already.
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    if !project.dir.join("Cargo.lock").exists() {
        fs::copy(lock, project.dir.join("Cargo.lock")).unwrap();
    }
    from_new_to_a_pull(&project);
    author_runs(&project.dir, "cargo", &["test", "--quiet"]);
}

/// What a policy has logged, with the level.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Observer for Log {
    fn called(&self, call: &HostCall<'_>) {
        if call.name == "log.write" {
            self.0.lock().unwrap().push(call.arguments.to_owned());
        }
    }
}

#[test]
fn a_panic_in_rust_is_in_the_log_with_its_words_and_its_place() {
    let Some(folder) = components(&["panics".to_owned()]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let replica = open(dir.path());
    let log = Arc::new(Log::default());
    let host = puller(&replica, &folder.join("panics.wasm"), "http://127.0.0.1:9", 1)
        .observer(Arc::clone(&log) as _);
    let status = host.run_once().unwrap().remove(0);
    assert!(status.last_error.is_some(), "{status:?}");
    let lines = log.0.lock().unwrap();
    let [line] = &lines[..] else { panic!("{lines:?}") };
    for part in
        ["error", "panicked at tests/fixtures/panics/src/lib.rs:16:9: ", "what to do\\nwith peer"]
    {
        assert!(line.contains(part), "no {part} in {line}");
    }
}

#[test]
fn a_policy_in_javascript_is_made_built_and_pulls() {
    from_new_to_a_pull(&Project::new("js"));
}

#[test]
fn a_policy_in_python_is_made_built_and_pulls() {
    from_new_to_a_pull(&Project::new("python"));
}

#[test]
fn a_policy_in_c_is_made_built_and_pulls() {
    from_new_to_a_pull(&Project::new("c"));
}

#[test]
fn a_project_has_a_good_name_and_a_folder_of_its_own() {
    let dir = Folder::new();
    let new = |name: &str, lang: &str, to: &str| {
        kit(&["new", name, "--lang", lang, "--dir", &dir.path(to)])
    };
    for name in ["Mine", "a_b", "../up", "default", "a b"] {
        new(name, "rust", "x").fails(&["lower-case letters", "nightly-pull"]);
    }
    new("mine", "cobol", "x").fails(&["cobol", "python"]);
    assert!(!dir.0.path().join("x").exists());

    new("mine", "js", "mine").ok();
    new("mine", "js", "mine").fails(&["mine is not empty", "--dir"]);
    let file = dir.write("file", b"precious");
    kit(&["new", "mine", "--lang", "c", "--dir", &file]).fails(&["can't write", "file"]);
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_module_is_packed_whole_or_not_at_all() {
    let dir = Folder::new();
    let packed = dir.write("packed.wasm", b"old");
    let refused = |module: &str, words: &[&str]| {
        kit(&["pack", module, "-o", &packed]).fails(words);
        assert_eq!(fs::read(&packed).unwrap(), b"old");
    };
    refused(&dir.path("no-such.wasm"), &["no-such.wasm"]);
    refused(dir.0.path().to_str().unwrap(), &["can't read"]);
    refused(&dir.write("empty.wasm", b""), &["empty.wasm", "not WebAssembly"]);
    refused(&dir.write("component.wasm", &policy("")), &["a component already"]);
    let module = dir.write("module.wasm", b"\0asm\x01\0\0\0");
    refused(&module, &["built without bindings of wit/sync.wit", "policy new"]);
    assert_eq!(fs::read_dir(dir.0.path()).unwrap().count(), 4, "something is left behind");
}

/// The component of a policy's core module, with something in it replaced.
fn changed(from: &str, to: &str) -> Vec<u8> {
    let text = wat("");
    assert!(text.contains(from));
    component(&text.replace(from, to))
}

#[test]
fn what_is_wrong_with_a_file_is_told_at_the_step_where_it_shows() {
    let dir = Folder::new();
    let mut files = 0;
    let mut fails = |bytes: &[u8], step: &str, words: &[&str]| {
        files += 1;
        let file = dir.write(&format!("{files}.wasm"), bytes);
        let text = kit(&["check", &file]);
        let json = kit(&["check", &file, "--json"]);
        assert_eq!((text.code, json.code), (Some(1), Some(1)), "{text:?}");
        assert!(text.out.contains(&format!("✗ {step}")), "{text:?}");
        let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
        let last = json["steps"].as_array().unwrap().last().unwrap();
        assert_eq!((&json["ok"], &last["ok"]), (&false.into(), &false.into()), "{json}");
        assert_eq!(last["step"], step, "{json}");
        for word in words {
            assert!(last["error"].as_str().unwrap().contains(word), "{word:?} is not in {last}");
            assert!(text.out.contains(word), "{word:?} is not in {text:?}");
        }
    };
    fails(b"", "WebAssembly", &["not WebAssembly"]);
    fails(b"#!/bin/sh", "WebAssembly", &["not WebAssembly"]);
    fails(b"\0asm\x01\0\0\0", "a component", &["core WebAssembly module", "policy pack"]);
    let torn = policy("");
    fails(&torn[..torn.len() / 2], "a component", &["does not compile"]);
    let text = |text: &str| wat::parse_str(text).unwrap();
    let wasi = text(r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#);
    fails(&wasi, "imports", &["wasi:cli/environment@0.2.0", "--stub-wasi"]);
    let other = text(r#"(component (import "edgestore:sync/log@9.0.0" (instance)))"#);
    fails(&other, "imports", &["edgestore:sync@9.0.0", "wit/sync.wit"]);
    fails(&text("(component)"), "exports", &["lacks the export edgestore:sync/policy@"]);
    let silent = changed("(result i32) (i32.const 64))", "(result i32) unreachable)");
    fails(&silent, "describe", &["`describe` failed", "at once"]);
    fails(&changed("\"hostile\"", "\"hos\\0aile\""), "describe", &["not printable"]);
    fails(&policy("unreachable"), "a tick", &["trapped"]);
    // Of time or instructions, whichever this machine comes to the end of first.
    fails(&policy("(loop $l (br $l))"), "a tick", &["raise limits."]);
}

#[test]
fn a_file_that_is_not_there_or_is_a_folder_is_no_policy() {
    let dir = Folder::new();
    for path in [dir.path("no-such.wasm"), dir.path("")] {
        let check = kit(&["check", &path]);
        assert_eq!(check.code, Some(3), "{check:?}");
        assert!(check.out.contains("✗ readable") && check.out.contains("check the path"));
        kit(&["describe", &path]).fails(&["can't read the policy", "check the path"]);
    }
    let text = dir.write("text", b"hello");
    kit(&["describe", &text]).fails(&["text", "not WebAssembly"]);
    // Nobody writes to the pipe, and the device has no end.
    let pipe = dir.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [&pipe, "/dev/zero"] {
        for args in [
            &["check", path][..],
            &["describe", path],
            &["test", path],
            &["pack", path, "-o", &dir.path("packed.wasm")],
            &["run", path, "--once", "--peer", "http://127.0.0.1:9"],
        ] {
            let ran = kit(args);
            assert_eq!(ran.code, Some(3), "{args:?}: {ran:?}");
            ran.fails(&["it is no regular file"]);
        }
    }
}

#[test]
fn a_policy_is_tried_on_a_real_peer_and_leaves_nothing_unless_it_is_told_where() {
    let dir = Folder::new();
    let primary = open(&dir.0.path().join("primary"));
    primary.put(b"ns", b"key", b"value").unwrap();
    primary.flush().unwrap();
    let (_host, url) = serve(&primary);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-sync/sync.wasm");
    let (peer, temporary) = (format!("primary={url}"), dir.path("tmp"));
    fs::create_dir(&temporary).unwrap();
    let run = |more: &[&str]| {
        let args = ["policy", "run", file.to_str().unwrap(), "--peer", &peer, "--once"];
        let mut command = edgestore(&[&args[..], more].concat());
        command.env("XDG_CACHE_HOME", kept("cache")).env("TMPDIR", &temporary);
        ran(command.stdin(Stdio::null()).output().unwrap())
    };
    let explained = run(&["--explain"]);
    for call in ["peer.probe(primary) -> root ", "peer.start-fetch(", "local.apply("] {
        assert!(explained.err.contains(call), "{call} is not in {explained:?}");
    }
    let quiet = run(&[]);
    assert!(!quiet.err.contains("peer.probe("), "{quiet:?}");
    for table in [explained.ok(), quiet.ok()] {
        assert!(table.contains("primary") && table.contains("yes"), "{table}");
    }
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "a database is left");

    let db = dir.path("db");
    run(&["--db", &db, "--set", "window=1"]).ok();
    assert_eq!(ran(edgestore(&["get", "ns", "key", "--db", &db]).output().unwrap()).ok(), "value");
    let refused = run(&["--set", "windwo=1"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.err.contains("windwo"), "{refused:?}");
}
