//! Disks that are full, read-only or torn, and processes that are killed: a clear error, and nothing
//! lost that was acknowledged.
//!
//! The disks are made in a user namespace of their own (`unshare`, `mount`), where the system lets
//! us. Where it does not, these tests say so and pass.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use edgestore_host::Hash;
use edgestore_host::engine::{Engine, EngineError};
use edgestore_host_tests::{StockNode, open, pull};

const PROGRAM: &str = env!("CARGO_BIN_EXE_edgestore-host-under-test");

/// Runs a shell script as root of a new user and mount namespace. None where that can't be had.
fn in_namespace(script: &str, args: &[&Path]) -> Option<String> {
    let allowed = Command::new("unshare")
        .args(["-rm", "mount", "-t", "tmpfs", "none", "/mnt"])
        .stderr(Stdio::null())
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: this system gives no mount namespace (unshare -rm)");
        return None;
    }
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-euc", script, "sh", PROGRAM])
        .args(args)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "the script failed:\n{all}");
    Some(all)
}

#[test]
fn a_full_disk_is_told_and_everything_acknowledged_is_there_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let primary = StockNode::serve(&dir.path().join("stock"), |engine| {
        for i in 0..40_000_u32 {
            let mut value = [0; 512];
            fastrand::Rng::with_seed(i.into()).fill(&mut value);
            engine.put(b"ns", &i.to_be_bytes(), &value).unwrap();
            if i % 5000 == 4999 {
                engine.flush_to_segments().unwrap();
            }
        }
    });
    let url = primary.url.clone();
    // 20 MB do not fit on 14, once more on a disk that has room after all. The namespace shares
    // the network.
    let script = format!(
        r#"
        mkdir -p "$2" && mount -t tmpfs -o size=14m none "$2"
        "$1" put own key value --create --db "$2/db"
        if "$1" --db "$2/db" --peer primary={url} --once; then echo "it fits"; exit 1; fi
        echo "--- again"
        mount -o remount,size=200m "$2"
        test "$("$1" get own key --db "$2/db")" = value
        "$1" --db "$2/db" --peer primary={url} --once
        "$1" scan ns --db "$2/db" --hex | wc -l
        "#
    );
    let Some(output) = in_namespace(&script, &[&dir.path().join("mnt")]) else { return };
    let (first, second) = output.split_once("--- again").unwrap();
    let all = format!("{first}{second}").to_lowercase();
    assert!(all.contains("no space left") || all.contains("free space"), "{output}");
    assert!(second.contains("40000") || second.contains("40001"), "{output}");
}

#[test]
fn a_read_only_disk_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"
        mkdir -p "$2" && mount -t tmpfs -o size=200m none "$2"
        "$1" put own key value --create --db "$2/db"
        mount -o remount,ro "$2"
        if "$1" put own key other --db "$2/db"; then echo "it writes"; exit 1; fi
        mount -o remount,rw "$2"
        test "$("$1" get own key --db "$2/db")" = value
    "#;
    let Some(output) = in_namespace(script, &[&dir.path().join("mnt")]) else { return };
    assert!(output.contains("mount the disk writable"), "{output}");
}

#[test]
fn a_database_is_opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    assert!(matches!(Engine::open(dir.path()), Err(EngineError::Locked { .. })));
    // From another process, which finds no host to talk to either.
    let output =
        Command::new(PROGRAM).args(["get", "ns", "k", "--db"]).arg(dir.path()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("another process"), "{error}");
    drop(engine);
    open(dir.path());
}

#[test]
fn a_damaged_cursor_costs_a_look_at_the_manifest_and_no_data() {
    let dir = tempfile::tempdir().unwrap();
    let primary = StockNode::serve(&dir.path().join("stock"), |engine| {
        engine.put(b"ns", b"k", b"v").unwrap();
        engine.flush_to_segments().unwrap();
    });
    let db = dir.path().join("ours");
    let engine = open(&db);
    assert!(pull(&engine, &primary.url).in_sync());
    let file = db.join("sync/peer.cursor");
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[3] ^= 0x40;
    let damaged = [&b""[..], &whole[..whole.len() / 2], b"garbage, not a cursor", &flipped];
    for (n, bytes) in (1..).zip(damaged) {
        std::fs::write(&file, bytes).unwrap();
        let status = pull(&engine, &primary.url);
        assert!(status.in_sync() && status.segments_applied == 0, "{status:?}");
        let aside = db.join(format!("sync/peer.cursor.corrupt-{n}"));
        assert_eq!(std::fs::read(aside).unwrap(), bytes);
    }
    assert_eq!(engine.get(b"ns", b"k").unwrap().unwrap(), b"v");
}

/// Kills a process (SIGKILL) that writes and says what it has written. All of that must be there.
#[test]
fn a_killed_process_has_lost_no_acknowledged_write() {
    for round in 0..8_u64 {
        let dir = tempfile::tempdir().unwrap();
        let db = dir.path().join("db");
        let mut import = Command::new(PROGRAM)
            .args(["import", "--create", "-", "--ns", "ns", "--format", "jsonl", "--db"])
            .arg(&db)
            .args(["--ack", "--batch", "7"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // They fit a pipe: where rows stay away for a second, the program stores part of a batch.
        let lines: String =
            (0..1400).map(|i| format!("{{\"key\":\"{i:08}\",\"value\":\"{i}\"}}\n")).collect();
        let mut stdin = import.stdin.take().unwrap();
        stdin.write_all(lines.as_bytes()).unwrap();
        let mut acknowledged = 0;
        let wanted = 20 + round * 37;
        for line in BufReader::new(import.stdout.take().unwrap()).lines() {
            acknowledged = line.unwrap().parse::<u64>().unwrap();
            if acknowledged >= wanted {
                break;
            }
        }
        import.kill().unwrap();
        import.wait().unwrap();
        drop(stdin);
        assert!(acknowledged >= wanted);

        let engine = open(&db);
        let records: Vec<_> =
            engine.range(b"ns", b"", None).unwrap().map(|record| record.unwrap()).collect();
        assert!(records.len() as u64 >= acknowledged, "{} of {acknowledged}", records.len());
        assert!(records.len().is_multiple_of(7), "half a batch");
        for (i, record) in records.iter().enumerate() {
            assert_eq!(record.key, format!("{i:08}").into_bytes());
        }
        let segment = engine.flush().unwrap().unwrap();
        let file = db.join(format!("segments/{}.dat", segment.hash));
        assert_eq!(Hash::of(&std::fs::read(file).unwrap()), segment.hash);
    }
}

/// A delete may use what puts leave free, and so finds the end of the disk.
#[test]
fn a_host_whose_disk_was_full_to_the_last_byte_goes_on_by_itself() {
    let script = r#"
        mkdir -p "$2" && mount -t tmpfs -o size=32m none "$2"
        db="$2/db"
        "$1" run --db "$db" --listen none --disk-reserve off --flush-interval 1h >"$3" 2>&1 &
        host=$!
        for n in $(seq 600); do [ -S "$db/admin.sock" ] && break; sleep 0.05; done
        for n in 1 2 3; do "$1" put ns $n value$n --db "$db"; done
        cat /dev/zero >"$2/filler" 2>/dev/null || true
        key=$(head -c 15000 /dev/zero | tr '\0' k)
        failed=0
        for n in $(seq 100); do
            "$1" delete ns $n$key --db "$db" || { failed=$n; break; }
        done
        test "$failed" -gt 0
        code=0
        "$1" status --db "$db" || code=$?
        echo "status $code"
        test "$("$1" get ns 2 --db "$db")" = value2
        "$1" put ns 4 value4 --db "$db" && exit 1
        sleep 2.5
        kill -0 $host
        rm "$2/filler"
        resumed=no
        for look in $(seq 600); do
            if "$1" put ns 5 value5 --db "$db" 2>/dev/null; then resumed=yes; break; fi
            sleep 0.1
        done
        cat "$3"
        echo "resumed $resumed"
        "$1" status --db "$db"
        for n in 1 2 3 5; do test "$("$1" get ns $n --db "$db")" = value$n; done
        kill $host
        wait $host
        "$1" verify --db "$db"
        echo "all there"
    "#;
    let dir = tempfile::tempdir().unwrap();
    let paths = [dir.path().join("mnt"), dir.path().join("log")];
    let Some(output) = in_namespace(script, &paths.each_ref().map(AsRef::as_ref)) else { return };
    for word in ["status 1", "POISONED", "resumed yes", "opening it again", "all there"] {
        assert!(output.contains(word), "no {word:?} in\n{output}");
    }
}
