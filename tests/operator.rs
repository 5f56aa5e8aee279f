//! What an operator relies on: a log that can't be written ends nothing, exit statuses say what
//! holds, a host that is silent is given up, and signals and folders that move do no harm.
#![allow(clippy::unwrap_used)]

mod program;

use std::fs::{self, File};
use std::io::pipe;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use edgestore_host_tests::wait_until;
use program::{Folder, Ran, Running, edgestore, ran, run};

/// A host whose standard error goes somewhere else. Killed when dropped.
struct Host {
    child: Child,
    db: String,
}

impl Host {
    fn start(db: &str, args: &[&str], stderr: impl Into<Stdio>) -> Self {
        let mut command = edgestore(&["run", "--db", db]);
        let child = command.args(args).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let socket = Path::new(db).join("admin.sock");
        wait_until("the host runs", || socket.exists());
        Self { child, db: db.to_owned() }
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_str(&run(&["status", "--json", "--db", &self.db]).answers()).unwrap()
    }

    fn signal(&self, signal: &str) {
        kill(signal, self.child.id());
    }

    /// The exit status; `None` where a signal ended it.
    fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until("the host ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kill(signal: &str, pid: u32) {
    // Built into the shell, and not a program everywhere.
    let kill = Command::new("sh").args(["-c", "kill $0 $1", signal, &pid.to_string()]).status();
    assert!(kill.unwrap().success());
}

/// Runs the program with nobody who reads its output.
fn unread(args: &[&str]) -> Ran {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let child =
        edgestore(args).stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    ran(child.wait_with_output().unwrap())
}

/// A database with these records in a segment of their own, and its folder.
fn database(dir: &Folder, name: &str, records: u32) -> String {
    let db = dir.path(name);
    let rows: String = (0..records).map(|n| format!("k{n:05},value\n")).collect();
    let file = dir.write(&format!("{name}.csv"), format!("key,value\n{rows}").as_bytes());
    run(&["import", &file, "--ns", "ns", "--create", "--db", &db]).ok();
    run(&["flush", "--db", &db]).ok();
    db
}

/// Has a host that logs to `stderr` pull twice, and stop in order.
fn syncs_and_stops(log: &[&str], stderr: impl Into<Stdio>, ticks: u64) {
    let dir = Folder::new();
    let source = Running::start(&database(&dir, "source", 10), &["--listen", "127.0.0.1:0"]);
    let peer = format!("p=http://{}", source.status()["listen"].as_str().unwrap());
    let args = ["--peer", &peer, "--listen", "none", "--interval", "5ms"];
    let db = dir.path("replica");
    let mut host = Host::start(&db, &[&args[..], log].concat(), stderr);
    let got = |key: &str| run(&["get", "ns", key, "--db", &db]).code == Some(0);
    wait_until("it pulls what is there", || got("k00009"));
    wait_until("it ticks on", || host.status()["peers"][0]["ticks"].as_u64().unwrap() >= ticks);
    let from = dir.path("source");
    run(&["put", "ns", "later", "v", "--db", &from]).ok();
    run(&["flush", "--db", &from]).ok();
    wait_until("it pulls what comes later", || got("later"));
    host.signal("-TERM");
    assert_eq!(host.ended(), Some(0));
    assert!(!Path::new(&db).join("admin.sock").exists());
}

#[test]
fn a_log_whose_reader_has_gone_does_not_end_replication() {
    for log in [&["-vv"][..], &["-vv", "--log-format", "json"]] {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        syncs_and_stops(log, writer, 20);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_log_on_a_full_disk_does_not_end_replication() {
    syncs_and_stops(&["-vv"], File::options().write(true).open("/dev/full").unwrap(), 20);
}

#[test]
fn a_log_that_nobody_reads_does_not_stop_replication() {
    // More is logged than the pipe holds.
    let (reader, writer) = pipe().unwrap();
    syncs_and_stops(&["-vv"], writer, 500);
    drop(reader);
}

#[test]
fn an_exit_status_says_what_holds() {
    let dir = Folder::new();
    let db = database(&dir, "db", 3);
    let none = dir.path("no-database");
    let garbage = dir.write("garbage.wasm", b"garbage");
    let no_file = dir.path("no-file.wasm");
    let folder = dir.path("");
    let bad_config = dir.write("bad.toml", b"[host]\nintervall = \"1s\"\n");
    let dead = "p=http://127.0.0.1:9";
    for (code, args) in [
        (0, &["get", "ns", "k00001", "--db", &db][..]),
        (0, &["scan", "ns", "--db", &db]),
        (0, &["verify", "--db", &db]),
        (0, &["flush", "--db", &db]),
        (0, &["--help"]),
        (1, &["get", "ns", "none", "--db", &db]),
        (1, &["run", "--once", "--peer", dead, "--db", &db]),
        (1, &["policy", "check", &garbage]),
        (1, &["policy", "describe", &garbage]),
        (1, &["policy", "pack", &garbage]),
        (1, &["config", "check", &bad_config]),
        (3, &["config", "check", "/dev/zero"]),
        (3, &["policy", "test", "--scenario", "/dev/zero"]),
        (1, &["config", "check", "--set", "nope=1"]),
        (1, &["config", "check", "--plugin", &garbage]),
        (1, &["config", "check", "--plugin", &no_file]),
        (1, &["config", "check", "--peer", "nope", "--peer", "p=ftp://x"]),
        (1, &["config", "check", "--limit", "memory=1B"]),
        (1, &["config", "check", "--archive", "/proc/x"]),
        (1, &["config", "check", "--db", "/proc/x"]),
        (1, &["run", "--once", "--peer", dead, "--plugin", &garbage, "--db", &db]),
        (2, &["get", "ns"]),
        (2, &["get", "ns", "zz", "--hex", "--db", &db]),
        (2, &["put", "ns", "", "v", "--db", &db]),
        (2, &["put", "", "k", "v", "--db", &db]),
        (2, &["get", "zz", "k", "--hex-ns", "--db", &db]),
        // A peer may have made such records, so they can be read and deleted.
        (1, &["get", "", "k", "--db", &db]),
        (0, &["scan", "", "--db", &db]),
        (0, &["delete", "", "k", "--db", &db]),
        (2, &["run", "--once", "--db", &db]),
        (2, &["run", "--config", &bad_config]),
        (2, &["run", "--db", &none, "--peer", "nope"]),
        (2, &["run", "--db", &none, "--peer", "p=ftp://x"]),
        (2, &["run", "--db", &none, "--peer", "p=http://h:99999"]),
        (2, &["run", "--db", &none, "--peer", "p=http://u@h"]),
        (2, &["run", "--db", &none, "--peer", "p=http://h/?q=1"]),
        (2, &["run", "--db", &none, "--peer", "p=http://h", "--peer", "P=http://i"]),
        (2, &["run", "--db", &none, "--limit", "memory=1B"]),
        (2, &["run", "--db", &none, "--limit", "fuel=1"]),
        (2, &["run", "--db", &none, "--limit", "instances=1"]),
        (2, &["run", "--db", &none, "--limit", "settings=1B", "--set", "window=1"]),
        (2, &["policy", "run", &garbage, "--db", &none, "--peer", "p=ftp://x"]),
        (2, &["run", "--db", &db, "--interval", "1ns"]),
        (2, &["run", "--db", &db, "--flush-interval", "1ns"]),
        (2, &["run", "--db", &db, "--compact-interval", "999us"]),
        (2, &["policy", "test", "--scenario", "no-scenario"]),
        (3, &["get", "ns", "k", "--db", &none]),
        (3, &["put", "ns", "k", "v", "--db", &none]),
        (3, &["delete", "ns", "k", "--db", &none]),
        (3, &["scan", "ns", "--db", &none]),
        (3, &["status", "--db", &none]),
        (3, &["verify", "--db", &none]),
        (3, &["wake", "--db", &db]),
        (3, &["run", "--db", &none, "--archive", "/proc/x"]),
        (3, &["policy", "check", &no_file]),
        (3, &["policy", "pack", &no_file]),
        (3, &["policy", "check", &folder]),
        (3, &["policy", "describe", &folder]),
        (3, &["policy", "test", &folder]),
        (3, &["policy", "pack", &folder]),
        (3, &["policy", "history", "--db", &none]),
        (3, &["config", "check", &no_file]),
    ] {
        let ran = run(args);
        assert_eq!(ran.code, Some(code), "{args:?}: {ran:?}");
        assert!(code == 0 || !ran.err.is_empty() || !ran.out.is_empty(), "{args:?} says nothing");
    }
    assert!(!Path::new(&none).exists(), "a mistyped --db makes no database");
    run(&["put", "", "k", "v", "--db", &db]).fails(&["a namespace must have at least one byte"]);
    assert!(run(&["--help"]).ok().contains("edgestore-host [OPTIONS] [COMMAND]\n"));
    run(&["run", "--db", &db, "--flush-interval", "1ns"]).fails(&["--flush-interval", "1ms"]);
    run(&["put", "ns", "k", "v", "--db", &none]).fails(&["--create", "no-database"]);
    run(&["put", "ns", "k", "v", "--db", &none, "--create"]).ok();
    assert_eq!(run(&["get", "ns", "k", "--db", &none]).ok().trim(), "v");
}

#[test]
fn an_exit_status_holds_when_nobody_reads_the_output() {
    let dir = Folder::new();
    let db = database(&dir, "db", 5000);
    for format in ["csv", "jsonl", "table"] {
        let scan = unread(&["scan", "ns", "--format", format, "--db", &db]);
        assert_eq!((scan.code, scan.err.as_str()), (Some(0), ""), "{format}");
    }
    assert_eq!(unread(&["status", "--db", &db]).code, Some(0));
    assert_eq!(unread(&["--help"]).code, Some(0));
    let dead = ["run", "--once", "--peer", "p=http://127.0.0.1:9", "--db", &db];
    assert_eq!(unread(&dead).code, Some(1));
    let garbage = dir.write("garbage.wasm", b"garbage");
    assert_eq!(unread(&["policy", "check", &garbage]).code, Some(1));
    assert_eq!(unread(&["get", "ns", "none", "--db", &db]).code, Some(1));

    // All rows of an import are written, also without a reader of what is acknowledged.
    let rows: String =
        (0..3000).map(|n| format!("{{\"key\":\"{n}\",\"value\":\"v\"}}\n")).collect();
    let rows = dir.write("rows.jsonl", rows.as_bytes());
    let import = ["import", &rows, "--ns", "acked", "--ack", "--batch", "20", "--db", &db];
    let import = unread(&import);
    assert_eq!(import.code, Some(0), "{import:?}");
    let all = run(&["scan", "acked", "--format", "jsonl", "--db", &db]).ok();
    assert_eq!(all.lines().count(), 3000);

    let segments = fs::read_dir(Path::new(&db).join("segments")).unwrap();
    let segment = segments.map(|entry| entry.unwrap().path()).next().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let verify = unread(&["verify", "--db", &db]);
    assert_eq!(verify.code, Some(1), "{verify:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn an_exit_status_says_when_the_output_could_not_be_written() {
    let dir = Folder::new();
    let db = database(&dir, "db", 3);
    for args in [&["get", "ns", "k00001", "--db", &db][..], &["status", "--db", &db], &["--help"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let child = edgestore(args).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        let ended = ran(child.wait_with_output().unwrap());
        assert_eq!(ended.code, Some(3), "{args:?}: {ended:?}");
    }
    let redirected = |args: &str, redirection: &str| {
        let script = format!("exec \"$0\" {args} --db \"$1\" {redirection}");
        let child = Command::new("sh").args(["-c", &script, program::PROGRAM, &db]).output();
        ran(child.unwrap())
    };
    for args in ["get ns k00001", "status", "verify", "segments"] {
        for closed in [">&-", "1</dev/null"] {
            let ended = redirected(args, closed);
            assert_eq!(ended.code, Some(3), "{args} {closed}: {ended:?}");
            assert!(ended.err.contains("standard output is closed"), "{args}: {ended:?}");
        }
        // As other programs open the null device for those that they start.
        let ended = redirected(args, "1<>/dev/null");
        assert_ne!(ended.code, Some(3), "{args}: {ended:?}");
    }
    for args in ["--help", "--version"] {
        let ended = redirected(args, ">&-");
        assert_eq!(ended.code, Some(3), "{args}: {ended:?}");
    }
}

#[test]
fn a_host_that_does_not_answer_is_given_up() {
    let dir = Folder::new();
    let db = database(&dir, "db", 3);
    let mut host = Host::start(&db, &["--listen", "none"], Stdio::null());
    host.signal("-STOP");
    for command in [
        &["status"][..],
        &["get", "ns", "k00001"],
        &["put", "ns", "k", "v"],
        &["scan", "ns"],
        &["flush"],
        &["compact"],
        &["wake"],
        &["segments"],
        &["policy", "rollback"],
    ] {
        let ran = run(&[command, &["--timeout", "200ms", "--db", &db]].concat());
        assert_eq!(ran.code, Some(3), "{command:?}: {ran:?}");
        assert!(ran.err.contains("has not answered for 200ms"), "{command:?}: {ran:?}");
    }
    host.signal("-CONT");
    assert_eq!(host.status()["running"], true);
    host.signal("-TERM");
    assert_eq!(host.ended(), Some(0));
}

#[test]
fn a_hangup_reloads_the_configuration_and_ends_nothing() {
    let dir = Folder::new();
    let file =
        dir.write("host.toml", b"[host]\nlisten = \"none\"\n[policy.settings]\nwindow = 2\n");
    let db = dir.path("db");
    let mut host = Running::start(&db, &["--config", &file]);
    host.signal("-HUP");
    wait_until("it has looked at the file", || host.log().contains("nothing new in the file"));
    dir.write("host.toml", b"[host]\nlisten = \"none\"\n[policy.settings]\nwindow = 3\n");
    host.signal("-HUP");
    wait_until("it has the new settings", || host.log().contains("changed=\"window\""));
    dir.write("host.toml", b"[host]\nlisten = 7 7\n");
    host.signal("-HUP");
    wait_until("it refuses the file", || host.log().contains("the file is refused"));
    assert_eq!(host.status()["running"], true);
    assert_eq!(host.stop("-TERM"), Some(0));
    assert!(!Path::new(&db).join("admin.sock").exists());

    let mut host = Running::start(&db, &["--listen", "none"]);
    host.signal("-HUP");
    wait_until("it says that there is no file", || host.log().contains("without a file"));
    assert_eq!(host.status()["running"], true);
    assert_eq!(host.stop("-INT"), Some(0));
}

#[test]
fn a_host_with_the_shortest_intervals_can_be_stopped() {
    let dir = Folder::new();
    let db = database(&dir, "db", 3);
    let intervals = ["--interval", "1ms", "--flush-interval", "1ms", "--compact-interval", "1ms"];
    let peer = ["--peer", "p=http://127.0.0.1:9", "--listen", "none"];
    let mut host = Host::start(&db, &[&intervals[..], &peer].concat(), Stdio::null());
    run(&["put", "ns", "k", "v", "--db", &db]).ok();
    host.signal("-TERM");
    assert_eq!(host.ended(), Some(0));
}

#[cfg(target_os = "linux")]
#[test]
fn a_host_whose_folder_was_moved_stops_and_touches_no_other() {
    let dir = Folder::new();
    let db = database(&dir, "db", 3);
    let moved = dir.path("moved");
    let log = dir.path("log");
    let args = ["--listen", "none", "--flush-interval", "1ms"];
    let mut host = Host::start(&db, &args, File::create(&log).unwrap());
    fs::rename(&db, &moved).unwrap();
    let mut other =
        Host::start(&db, &["--listen", "none", "--flush-interval", "1h"], Stdio::null());
    // The first host stops soon; until then it is reached where its folder is now.
    let put = run(&["put", "ns", "moved", "v", "--db", &moved]);
    assert_eq!(put.code, Some(0), "{put:?}");
    assert_eq!(host.ended(), Some(3));
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("was moved, removed or replaced"), "{log}");

    assert!(Path::new(&db).join("admin.sock").exists(), "the socket of the other is left alone");
    assert_eq!(other.status()["running"], true);
    assert_eq!(run(&["scan", "ns", "--format", "jsonl", "--db", &db]).ok(), "");
    assert_eq!(run(&["segments", "--json", "--db", &db]).ok().trim(), "[]");
    assert_eq!(fs::read_dir(Path::new(&db).join("segments")).unwrap().count(), 0);
    other.signal("-TERM");
    assert_eq!(other.ended(), Some(0));

    assert!(!Path::new(&moved).join("admin.sock").exists());
    for key in ["k00001", "moved"] {
        assert_eq!(run(&["get", "ns", key, "--db", &moved]).code, Some(0), "{key}");
    }
    run(&["verify", "--db", &moved]).ok();
}

/// They wait for the database, and it is gone when their turn comes.
#[test]
fn a_command_makes_no_database_where_one_was_moved_away() {
    let dir = Folder::new();
    let commands: [&[&str]; 5] = [
        &["put", "ns", "k", "v"],
        &["delete", "ns", "k00001"],
        &["flush"],
        &["compact"],
        &["verify", "--repair"],
    ];
    for (n, command) in commands.into_iter().enumerate() {
        let db = database(&dir, &format!("db-{n}"), 3);
        let lock = File::open(Path::new(&db).join("LOCK")).unwrap();
        lock.lock().unwrap();
        let mut waiting = edgestore(&[command, &["--db", &db]].concat());
        let mut waiting = waiting.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        fs::rename(&db, dir.path("moved")).unwrap();
        drop(lock);
        let status = waiting.wait().unwrap();
        assert!(!status.success(), "{command:?}");
        assert!(!Path::new(&db).exists(), "{command:?}");
        run(&["verify", "--db", &dir.path("moved")]).ok();
        fs::remove_dir_all(dir.path("moved")).unwrap();
    }
}

#[test]
fn a_host_under_which_a_backup_is_put_back_stops_and_leaves_it_alone() {
    let dir = Folder::new();
    let db = database(&dir, "db", 3);
    let backup = dir.path("backup");
    let copy = |from: &str, to: &str| {
        let copied = Command::new("cp").args(["-a", &format!("{from}/."), to]).status().unwrap();
        assert!(copied.success());
    };
    copy(&db, &backup);
    for by_name in [false, true] {
        let log = dir.path("log");
        let args = ["--listen", "none", "--flush-interval", "1ms", "--compact-interval", "1ms"];
        let mut host = Host::start(&db, &args, File::create(&log).unwrap());
        run(&["put", "ns", "later", "v", "--db", &db]).ok();
        // The second time, its database is known to be older.
        run(&["compact", "--db", &db]).answers();
        if by_name {
            for entry in fs::read_dir(&db).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() { fs::remove_dir_all(entry) } else { fs::remove_file(entry) }
                    .unwrap();
            }
        }
        copy(&backup, &db);
        assert_eq!(host.ended(), Some(3));
        let log = fs::read_to_string(&log).unwrap();
        assert!(log.contains("removed, replaced or cut while it was open"), "{log}");
    }
    run(&["verify", "--db", &db]).ok();
    assert_eq!(run(&["get", "ns", "k00001", "--db", &db]).code, Some(0));
    assert_eq!(run(&["get", "ns", "later", "--db", &db]).code, Some(1), "it is not in the backup");
}

#[test]
fn a_host_whose_admin_socket_is_removed_makes_it_again() {
    let dir = Folder::new();
    let db = database(&dir, "db", 3);
    let log = dir.path("log");
    let mut host = Host::start(&db, &["--listen", "none"], File::create(&log).unwrap());
    let socket = Path::new(&db).join("admin.sock");
    for n in 1..=2 {
        fs::remove_file(&socket).unwrap();
        wait_until("it is there again", || socket.exists());
        assert_eq!(host.status()["running"], true);
        let said = "the admin socket was removed";
        wait_until("it says so, once", || {
            fs::read_to_string(&log).unwrap().matches(said).count() == n
        });
    }
    run(&["put", "ns", "k", "v", "--db", &db]).ok();
    host.signal("-TERM");
    assert_eq!(host.ended(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn a_host_whose_folder_is_gone_stops_with_an_error() {
    let dir = Folder::new();
    let db = database(&dir, "db", 3);
    let log = dir.path("log");
    let mut host = Host::start(&db, &["--listen", "none"], File::create(&log).unwrap());
    fs::remove_dir_all(&db).unwrap();
    assert_eq!(host.ended(), Some(3));
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("was moved, removed or replaced"), "{log}");
    assert!(!Path::new(&db).exists(), "it makes no new one");
}

/// The lints keep this, too, where somebody runs them.
#[test]
fn no_source_of_the_program_prints_in_a_way_that_panics() {
    fn walk(dir: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let of_tests = ["tests", "tests.rs", "crash_tests.rs", "plants.rs"].contains(&name);
            if path.is_dir() && !of_tests {
                walk(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") && !of_tests {
                let text = fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                for (n, line) in text.lines().enumerate() {
                    let code = line.split("//").next().unwrap();
                    if ["print!(", "println!(", "dbg!("].iter().any(|print| code.contains(print)) {
                        found.push(format!("{}:{}: {line}", path.display(), n + 1));
                    }
                }
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    for part in ["host/src", "guest-sync/src", "examples"] {
        walk(&root.join(part), &mut found);
    }
    assert!(found.is_empty(), "write through cli::output or tracing: {found:#?}");
}

#[test]
fn a_database_without_its_format_is_named_and_not_taken_for_none() {
    let dir = Folder::new();
    let db = database(&dir, "db", 3);
    let format = Path::new(&db).join("FORMAT");
    let text = fs::read_to_string(&format).unwrap();
    fs::remove_file(&format).unwrap();
    for args in [
        &["status"][..],
        &["put", "ns", "k", "v"],
        &["put", "ns", "k", "v", "--create"],
        &["verify", "--repair"],
        &["policy", "history"],
        &["run", "--listen", "none", "--once", "--peer", "p=http://127.0.0.1:9"],
    ] {
        let ran = run(&[args, &["--db", &db]].concat());
        assert_ne!(ran.code, Some(0), "{args:?}: {ran:?}");
        ran.fails(&["FORMAT is missing", text.trim_end()]);
        assert!(!format.exists(), "{args:?}");
    }
    fs::write(&format, text).unwrap();
    run(&["verify", "--db", &db]).ok();
}

#[test]
fn a_value_that_may_not_be_the_latest_is_no_yes() {
    let dir = Folder::new();
    let [db, other] = ["db", "other"].map(|name| dir.path(name));
    for (db, value) in [(&db, "older"), (&other, "later")] {
        run(&["put", "--create", "ns", "k", value, "--db", db]).ok();
        run(&["flush", "--db", db]).ok();
    }
    for entry in fs::read_dir(Path::new(&other).join("segments")).unwrap() {
        let entry = entry.unwrap();
        let to = Path::new(&db).join("segments").join(entry.file_name());
        fs::copy(entry.path(), to).unwrap();
    }
    let got = run(&["get", "ns", "k", "--db", &db]);
    assert_eq!((got.code, got.out.trim()), (Some(3), "older"), "{}", got.err);
    got.fails(&["there may be a later value", "status"]);
    run(&["flush", "--db", &db]).ok();
    // The files of a newer database look like that as well.
    let got = run(&["get", "ns", "k", "--db", &db]);
    assert_eq!((got.code, got.out.trim()), (Some(3), "later"), "{}", got.err);
    let status = run(&["status", "--db", &db]);
    assert!(status.code == Some(1) && status.out.contains("LOSSES"), "{status:?}");
    let repaired = run(&["verify", "--repair", "--db", &db]);
    assert!(repaired.code == Some(1) && repaired.out.contains("record store is older"));
    assert_eq!(run(&["get", "ns", "k", "--db", &db]).ok().trim(), "later");
    run(&["status", "--db", &db]).ok();
}

#[test]
fn a_host_that_can_not_flush_says_so() {
    let dir = Folder::new();
    let db = database(&dir, "db", 3);
    let staging = Path::new(&db).join("staging");
    let mut host = Running::start(&db, &["--listen", "none", "--flush-interval", "10ms"]);
    fs::remove_dir(&staging).unwrap();
    run(&["put", "ns", "k", "v", "--db", &db]).ok();
    let status = || run(&["status", "--db", &db]);
    wait_until("it says so", || {
        let said = status();
        said.code == Some(1) && said.out.contains("UNFLUSHED") && said.out.contains("staging")
    });
    fs::create_dir(&staging).unwrap();
    wait_until("it flushes", || status().code == Some(0));
    assert_eq!(host.stop("-TERM"), Some(0));
}

#[test]
fn a_repair_sets_a_damaged_cursor_aside_and_is_done() {
    let dir = Folder::new();
    let db = database(&dir, "db", 3);
    let sync = Path::new(&db).join("sync");
    fs::create_dir_all(&sync).unwrap();
    fs::write(sync.join("p.cursor"), b"garbage").unwrap();
    let look = run(&["verify", "--db", &db]);
    assert!(look.code == Some(1) && look.out.contains("p.cursor"), "{look:?}");
    assert!(sync.join("p.cursor").exists());
    let out = run(&["verify", "--repair", "--db", &db]).ok();
    for part in ["p.cursor.corrupt-1", "repaired 1 of 1 problems", "sound: "] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert_eq!(fs::read(sync.join("p.cursor.corrupt-1")).unwrap(), b"garbage");
    assert!(!sync.join("p.cursor").exists());
    run(&["verify", "--db", &db]).ok();
}
