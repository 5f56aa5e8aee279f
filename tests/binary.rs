//! The program `edgestore-host`, end to end: what a user types, and what comes of it.
#![allow(clippy::unwrap_used)]

mod program;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use edgestore_host_tests::component::policy;
use edgestore_host_tests::{StockNode, wait_until};
use program::{Folder, Ran, Running, edgestore, ran, run};

fn run_with(args: &[&str], stdin: &str) -> Ran {
    let mut child = edgestore(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may fail before it has read all of it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    ran(child.wait_with_output().unwrap())
}

fn default_policy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-sync/sync.wasm")
}

fn primary(dir: &Folder) -> StockNode {
    StockNode::serve(&dir.0.path().join("stock"), |engine| {
        for i in 0..3000_u32 {
            let (key, value) = (format!("sensor-{i:04}"), format!("{}", i * 2));
            engine.put(b"readings", key.as_bytes(), value.as_bytes()).unwrap();
        }
        engine.flush_to_segments().unwrap();
        engine.delete(b"readings", b"sensor-0001").unwrap();
        engine.flush_to_segments().unwrap();
    })
}

#[test]
fn a_policy_from_a_file_replicates_a_stock_primary() {
    let dir = Folder::new();
    let primary = primary(&dir);
    let (db, plugin) = (dir.path("db"), default_policy());
    let peer = format!("primary={}", primary.url);
    let (plugin, archive) = (plugin.to_str().unwrap(), dir.path("archive"));
    let once = ["--db", &db, "--peer", &peer, "--plugin", plugin, "--once"];
    let once = run(&[&once[..], &["--archive", &archive, "--log-format", "json"]].concat());
    for line in once.err.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    let table = once.ok();
    // 3001 unless the segment of the tombstone was applied first: what it deletes is skipped then.
    assert!(table.contains("primary") && table.contains("  300"), "{table}");
    assert_eq!(std::fs::read_dir(&archive).unwrap().count(), 2);
    assert_eq!(run(&["get", "readings", "sensor-0700", "--db", &db]).ok().trim(), "1400");
    run(&["get", "readings", "sensor-0001", "--db", &db]).fails(&["sensor-0001"]);
    assert_eq!(
        run(&["scan", "readings", "--format", "jsonl", "--db", &db]).ok().lines().count(),
        2999
    );
    let segments = run(&["segments", "--json", "--db", &db]).ok();
    assert_eq!(segments.matches("hash").count(), 2, "{segments}");
    let status: serde_json::Value =
        serde_json::from_str(&run(&["status", "--json", "--db", &db]).ok()).unwrap();
    assert_eq!(status["root"], primary.root().to_string(), "{status}");
}

#[test]
fn what_is_no_policy_is_refused_with_the_way_to_fix_it() {
    let dir = Folder::new();
    let db = dir.path("db");
    let refused = |plugin: &str, words: &[&str]| {
        run(&["--db", &db, "--peer", "http://127.0.0.1:9", "--once", "--plugin", plugin])
            .fails(words);
    };
    refused(&dir.path("no-such.wasm"), &["no-such.wasm"]);
    refused(&dir.write("text.wasm", b"hello"), &["text.wasm", "not"]);
    refused(&dir.write("empty.wasm", b""), &["empty.wasm"]);
    refused(&dir.write("core.wasm", &wat::parse_str("(module)").unwrap()), &["policy pack"]);
    let mut cut = std::fs::read(default_policy()).unwrap();
    cut.truncate(cut.len() / 2);
    refused(&dir.write("cut.wasm", &cut), &["cut.wasm"]);
    let no_export = wat::parse_str("(component)").unwrap();
    refused(&dir.write("no-export.wasm", &no_export), &["edgestore:sync/policy"]);
    let wasi = r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#;
    refused(&dir.write("wasi.wasm", &wat::parse_str(wasi).unwrap()), &["wasi:cli/environment"]);
    let other = r#"(component (import "edgestore:sync/local@1.0.0" (instance)))"#;
    refused(&dir.write("other.wasm", &wat::parse_str(other).unwrap()), &["1.0.0", "0.2"]);
}

#[test]
fn a_policy_that_traps_loops_or_allocates_fails_its_tick_and_not_the_host() {
    let dir = Folder::new();
    let peer = "p=http://127.0.0.1:9";
    let hostile = [
        ("trap", "unreachable", "unreachable"),
        ("loop", "(loop (br 0))", "longer than 1s"),
        ("allocate", "(loop (drop (memory.grow (i32.const 16))) (br 0))", "memory"),
        ("recurse", "(call $body (local.get 0) (local.get 1))", "stack"),
    ];
    for (name, body, word) in hostile {
        let db = dir.path(&format!("{name}-db"));
        run(&["put", "--create", "ns", "key", "value", "--db", &db]).ok();
        let file = dir.write(&format!("{name}.wasm"), &policy(body));
        let timeout = if name == "loop" { "1s" } else { "60s" };
        let args = ["--peer", peer, "--plugin", &file, "--tick-timeout", timeout];
        run(&[&["--db", &db, "--once", "--memory-limit", "32MiB"], &args[..]].concat())
            .fails(&["tick failed"]);
        let mut host = Running::start(&db, &[&args[..], &["--listen", "none"]].concat());
        let error = || host.status()["peers"][0]["last_error"].as_str().map(str::to_owned);
        wait_until("the tick has failed", || error().is_some());
        let error = error().unwrap();
        assert!(error.contains(word), "{name}: {error}");
        assert_eq!(run(&["get", "ns", "key", "--db", &db]).ok().trim(), "value");
        run(&["put", "--create", "ns", "key", "new", "--db", &db]).ok();
        assert_eq!(host.stop("-TERM"), Some(0));
        assert_eq!(run(&["get", "ns", "key", "--db", &db]).ok().trim(), "new");
    }
    // The same component without a fault is fine, and is not in sync by its own word.
    let db = dir.path("idle-db");
    let file = dir.write("idle.wasm", &policy(""));
    let once = run(&["--db", &db, "--peer", peer, "--plugin", &file, "--once"]);
    assert!(once.code == Some(1) && !once.err.contains("WARN"), "{once:?}");
}

#[test]
fn a_running_node_is_read_written_and_asked_through_its_socket() {
    let dir = Folder::new();
    let primary = primary(&dir);
    let db = dir.path(&format!("a folder {}", "with a long name ".repeat(9)));
    let peer = format!("primary={}", primary.url);
    let mut host = Running::start(
        &db,
        &["--peer", &peer, "--listen", "127.0.0.1:0", "--interval", "1s", "--flush-delay", "off"],
    );
    wait_until("it has pulled", || host.status()["peers"][0]["segments_applied"] == 2);
    let mode = std::fs::metadata(Path::new(&db).join("admin.sock")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);

    let at = ["--db", &db];
    let on = |args: &[&str]| run(&[args, &at[..]].concat());
    assert_eq!(on(&["get", "readings", "sensor-0700"]).ok().trim(), "1400");
    on(&["put", "--create", "own", "key", "value"]).ok();
    on(&["put", "--create", "own", "gone", "value", "--ttl", "1s"]).ok();
    on(&["delete", "readings", "sensor-0002"]).ok();
    on(&["get", "readings", "sensor-0002"]).fails(&["sensor-0002"]);
    assert_eq!(on(&["get", "own", "key"]).ok().trim(), "value");
    // More than one page.
    let all = on(&["scan", "readings", "--format", "jsonl"]).ok();
    assert_eq!(all.lines().count(), 2998);
    let some = on(&["scan", "readings", "--prefix", "sensor-00", "--limit", "5"]).ok();
    assert!(some.contains("sensor-0006") && !some.contains("sensor-0007"), "{some}");
    let flushed = on(&["flush"]).ok();
    assert!(flushed.starts_with("segment ") && flushed.contains("3 records"), "{flushed}");
    assert_eq!(on(&["segments", "--json"]).ok().matches("hash").count(), 3);
    let status = on(&["status"]).ok();
    assert!(status.contains("default") && status.contains("primary"), "{status}");
    wait_until("the TTL has passed", || on(&["get", "own", "gone"]).code == Some(1));

    on(&["wake", "primary"]).ok();
    on(&["wake", "nobody"]).fails(&["no such peer", "primary"]);
    // A second host can't have the same database.
    run(&["run", "--db", &db, "--listen", "none"]).fails(&["a host runs", "already"]);
    // A peer can pull what was written here.
    let url = format!("me=http://{}", host.status()["listen"].as_str().unwrap());
    let replica = dir.path("replica");
    run(&["--db", &replica, "--peer", &url, "--once"]).ok();
    assert_eq!(run(&["get", "own", "key", "--db", &replica]).ok().trim(), "value");
    assert_eq!(host.stop("-INT"), Some(0));
    assert!(!Path::new(&db).join("admin.sock").exists());
    assert_eq!(on(&["get", "own", "key"]).ok().trim(), "value");
}

#[test]
fn a_socket_that_a_crash_left_is_no_host() {
    let dir = Folder::new();
    let db = dir.path("db");
    let mut host = Running::start(&db, &["--listen", "none"]);
    run(&["put", "--create", "ns", "key", "value", "--db", &db]).ok();
    host.stop("-KILL");
    assert!(Path::new(&db).join("admin.sock").exists());
    assert_eq!(run(&["get", "ns", "key", "--db", &db]).ok().trim(), "value");
    let mut host = Running::start(&db, &["--listen", "none"]);
    wait_until("the new host answers", || host.status()["running"] == true);
    assert_eq!(run(&["get", "ns", "key", "--db", &db]).ok().trim(), "value");
    assert_eq!(host.stop("-TERM"), Some(0));
}

#[test]
fn csv_and_json_lines_go_in_and_come_out() {
    let dir = Folder::new();
    let db = dir.path("db");
    let csv = "key,value\nα,\"with, comma\"\nb,\"two\nlines\"\n";
    let csv = dir.write("data.csv", csv.as_bytes());
    assert!(run(&["import", "--create", &csv, "--ns", "csv", "--db", &db]).code == Some(0));
    assert_eq!(run(&["get", "csv", "α", "--db", &db]).ok().trim_end(), "with, comma");
    assert_eq!(run(&["get", "csv", "b", "--db", &db]).ok().trim_end(), "two\nlines");

    let lines = "{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"b\",\"value\":{\"n\":2},\"ttl\":60}\n";
    let import = ["import", "--create", "-", "--ns", "json", "--format", "jsonl", "--db", &db];
    run_with(&import, lines).ok();
    assert_eq!(run(&["get", "json", "b", "--db", &db]).ok().trim_end(), "{\"n\":2}");
    // What a scan prints can be imported. Only the time of the write is another one then.
    let scan = |ns: &str| run(&["scan", ns, "--format", "jsonl", "--db", &db]).ok();
    let records = |lines: &str| -> Vec<serde_json::Value> {
        let mut records: Vec<serde_json::Value> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for record in &mut records {
            assert!(record.as_object_mut().unwrap().remove("written").is_some());
        }
        records
    };
    let out = scan("json");
    run_with(&["import", "--create", "-", "--ns", "again", "--format", "jsonl", "--db", &db], &out)
        .ok();
    assert_eq!(records(&scan("again")), records(&out));

    // Bytes that are no text go out and in as hexadecimal digits.
    run(&["put", "--create", "bytes", "00ff", "c300", "--hex", "--db", &db]).ok();
    run(&["scan", "bytes", "--format", "jsonl", "--db", &db]).fails(&["--hex"]);
    let hex = run(&["scan", "bytes", "--format", "csv", "--hex", "--db", &db]).ok();
    run_with(&["import", "--create", "-", "--ns", "back", "--hex", "--db", &db], &hex).ok();
    let back = run(&["get", "back", "00ff", "--hex", "--db", &db]).ok();
    assert_eq!(back.trim(), "c300");

    // Each acknowledged number is on disk, also where one row is refused.
    let long = format!("{{\"key\":\"{}\",\"value\":\"\"}}\n", "x".repeat(70_000));
    let row = |n| format!("{{\"key\":\"{n}\",\"value\":\"\"}}\n");
    let rows: String = (0..4).map(row).collect();
    let ack = ["import", "--create", "-", "--ns", "ack", "--ack", "--batch", "3", "--db", &db];
    let acked = run_with(&ack, &(rows + &long));
    assert_eq!((acked.code, acked.out.lines().last()), (Some(1), Some("4")), "{acked:?}");

    // What is wrong is told with its place, and what came before it is in.
    let bad = "{\"key\":\"c\",\"value\":\"3\"}\nnot json\n";
    run_with(&import, bad).fails(&["2"]);
    assert_eq!(run(&["get", "json", "c", "--db", &db]).ok().trim_end(), "3");
    run_with(&import, "{\"value\":\"no key\"}\n").fails(&["key", "1"]);
    run(&["import", "--create", &dir.path("none.csv"), "--ns", "x", "--db", &db])
        .fails(&["none.csv"]);
}

#[test]
fn the_demo_converges() {
    let demo = run(&["demo", "--records", "3000"]);
    let (err, out) = (demo.err.clone(), demo.ok());
    assert!(out.contains("converged"), "{out}{err}");
}

#[test]
fn problems_are_reported_before_anything_happens() {
    let dir = Folder::new();
    let db = dir.path("db");
    let peer = "p=http://127.0.0.1:9";
    run(&["--db", &db, "--peer", "ftp://x", "--once"]).fails(&["http"]);
    run(&["--db", &db, "--peer", peer, "--peer", peer, "--once"]).fails(&["two peers called p"]);
    run(&["--db", &db, "--peer", "../x=http://127.0.0.1:9", "--once"]).fails(&["../x"]);
    run(&["--db", &db, "--peer", peer, "--interval", "5", "--once"]).fails(&["interval"]);
    run(&["--db", &db, "--peer", peer, "--interval", "0s", "--once"]).fails(&["interval"]);
    run(&["--db", &db, "--peer", peer, "--set", "window", "--once"]).fails(&["KEY=VALUE"]);
    run(&["--db", &db, "--peer", peer, "--set", "windw=1", "--once"]).fails(&["windw", "window"]);
    run(&["--db", &db, "--listen", "nowhere"]).fails(&["listen"]);
    run(&["--db", &db, "--compact-interval", "5"]).fails(&["compact-interval", "unit", "or off"]);
    run(&["--db", &db, "--compact-rate", "fast"]).fails(&["compact-rate", "256MiB", "or off"]);
    run(&["--db", &db, "--tombstone-grace", "0s"]).fails(&["tombstone-grace", "longer than zero"]);
    run(&["--db", &db, "--once"]).fails(&["--peer"]);
    run(&["put", "--create", "ns", "", "v", "--db", &db]).fails(&["key"]);
    run(&["put", "--create", "ns", "k", "v", "--ttl", "0s", "--db", &db]).fails(&["--ttl", "zero"]);
    run(&["put", "--create", "ns", "k", "v", "--db", &db]).ok();
    run(&["wake", "--db", &db]).fails(&["no host runs"]);
    for command in
        [&["get", "ns", "k"][..], &["scan", "ns"], &["status"], &["segments"], &["compact"]]
    {
        let none = dir.path("no-database");
        run(&[command, &["--db", &none]].concat()).fails(&["no-database"]);
        assert!(!Path::new(&none).exists(), "{command:?} makes a database");
    }
    // A down peer is a failed sync, told with its name.
    let down = run(&["--db", &db, "--peer", peer, "--once"]);
    assert!(down.out.contains("unreachable") || down.err.contains("unreachable"), "{down:?}");
    assert_eq!(down.code, Some(1));
}
