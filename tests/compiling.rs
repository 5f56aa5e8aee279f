//! The compiler takes so much time and memory and no more, whatever it is given, and nothing of the
//! host. Compiled code that was damaged is never run.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod program;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use edgestore_host_tests::component::{component, policy, wat_with};
use edgestore_host_tests::{serve, wait_until};
use program::{Folder, Running, ran, run};

/// A policy of one function that is nested this deep. The compiler's time grows with its square.
fn nested(depth: usize) -> Vec<u8> {
    let (blocks, ends) = ("block ".repeat(depth), "end ".repeat(depth));
    let wat = wat_with("", "");
    let end = wat.rfind(')').unwrap();
    component(&format!("{} (func {blocks} {ends}))", &wat[..end]))
}

/// One that no machine compiles in a second.
fn slow() -> Vec<u8> {
    nested(200_000)
}

/// Whether the policy of this name runs.
fn runs(host: &Running, policy: &str) -> bool {
    host.status()["policy"].as_str().unwrap().starts_with(policy)
}

#[test]
fn policy_that_compiles_too_long_is_refused_and_the_host_runs_on() {
    let dir = Folder::new();
    let (db, slow) = (dir.path("db"), dir.write("slow.wasm", &slow()));
    let limit = ["--limit", "compile-time=1s", "--listen", "none"];
    let host = Running::start(&db, &limit);
    run(&["policy", "swap", &slow, "--db", &db]).fails(&["1s of processor time", "compile-time"]);
    assert!(runs(&host, "default"));
    drop(host);

    // A first start by it says why there is none.
    let other = dir.path("other");
    let start = [&["run", "--db", &other, "--plugin", &slow], &limit[..]].concat();
    run(&start).fails(&["slow.wasm", "1s of processor time"]);
    run(&start).fails(&["1s of processor time", "tried before"]);
    // With another limit it is tried again.
    let longer = [&start[..], &["--limit", "compile-time=2s"]].concat();
    let again = run(&longer);
    assert!(again.err.contains("2s of processor time"), "{again:?}");
    assert!(!again.err.contains("tried before"), "{again:?}");
}

#[test]
fn policy_that_was_put_in_place_of_another_and_compiles_too_long_stops_no_start() {
    let dir = Folder::new();
    let (db, plugin) = (dir.path("db"), dir.write("plugin.wasm", &policy("")));
    let args = ["--plugin", &plugin, "--limit", "compile-time=1s", "--listen", "none"];
    assert_eq!(Running::start(&db, &args).stop("-TERM"), Some(0));
    fs::write(&plugin, slow()).unwrap();
    for words in ["1s of processor time", "tried before"] {
        let host = Running::start(&db, &args);
        let logged = || host.log().contains(words);
        wait_until("the log says why", logged);
        assert!(runs(&host, "hostile"), "the one before runs");
    }
}

#[test]
fn policy_that_needs_too_much_memory_to_compile_is_refused() {
    let dir = Folder::new();
    let (db, large) = (dir.path("db"), dir.write("large.wasm", &nested(20_000)));
    let limit = ["--limit", "compile-memory=4MiB", "--listen", "none"];
    let host = Running::start(&db, &limit);
    run(&["policy", "swap", &large, "--db", &db]).fails(&["more memory to compile", "compile-mem"]);
    assert!(runs(&host, "default"));
}

#[test]
fn compiled_code_with_flipped_bits_is_compiled_again() {
    let dir = Folder::new();
    let (db, plugin) = (dir.path("db"), dir.write("plugin.wasm", &policy("")));
    let args = ["--plugin", &plugin, "--listen", "none"];
    assert_eq!(Running::start(&db, &args).stop("-TERM"), Some(0));
    let cache = dir.0.path().join("db/policies/cache");
    let code = || -> Vec<PathBuf> {
        let files = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|name| name == "code")).collect()
    };
    assert!(!code().is_empty());
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..5 {
        for file in code() {
            let mut bytes = fs::read(&file).unwrap();
            let at = random.usize(..bytes.len());
            bytes[at] ^= 1 << random.u8(..8);
            fs::write(&file, bytes).unwrap();
        }
        let mut host = Running::start(&db, &args);
        assert!(host.log().contains("a compiled policy is damaged"), "{}", host.log());
        assert!(runs(&host, "hostile"));
        assert_eq!(host.stop("-TERM"), Some(0));
    }
}

#[test]
fn host_pulls_where_address_space_is_limited() {
    let dir = Folder::new();
    let source = edgestore_host_tests::open(&dir.0.path().join("source"));
    source.put(b"ns", b"key", b"value").unwrap();
    source.flush().unwrap();
    let (_serves, url) = serve(&source);
    let db = dir.path("db");
    let command = format!(
        "ulimit -v 4000000; exec {} run --once --db {db} --peer a={url} --peer b={url}",
        program::PROGRAM
    );
    let once = || {
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).stdin(Stdio::null());
        shell
    };
    let output = once().output().unwrap();
    // One of the two may have begun while the other one was fetching.
    let first = ran(output);
    assert!(!first.err.contains("did not start"), "{first:?}");
    assert_eq!(run(&["get", "ns", "key", "--db", &db]).ok(), "value");
    ran(once().output().unwrap()).ok();
}
