//! `import`, end to end: every row of a file is stored as it is given, or the exit status and the
//! message say which one is not.
#![allow(clippy::unwrap_used)]

mod program;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use program::{Folder, Ran, edgestore, ran, run};

fn import(dir: &Folder, file: &str, options: &[&str]) -> Ran {
    let db = dir.path("db");
    run(&[&["import", file, "--ns", "n", "--create", "--db", &db], options].concat())
}

/// Keys and values of the namespace `n`, by `scan`.
fn records(dir: &Folder) -> Vec<(String, String)> {
    let out = run(&["scan", "n", "--format", "jsonl", "--db", &dir.path("db")]).ok();
    let record = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| record[name].as_str().unwrap().to_owned();
        (text("key"), text("value"))
    };
    out.lines().map(record).collect()
}

#[test]
fn import_refuses_what_it_does_not_understand_and_says_how_far_it_came() {
    let row = r#"{"key":"ok","value":"1"}"#;
    let long = "x".repeat(20 << 20);
    for (name, text, place, part) in [
        ("open-quote.csv", "key,value\nok,1\nb,\"2\nc,3\n".to_owned(), "3:3", "never closed"),
        ("long.csv", format!("key,value\nok,1\nb,\"{long}"), "3:1", "more than"),
        ("long.jsonl", format!("{row}\n{{\"key\":\"b\",\"value\":\"{long}"), "2:1", "more than"),
        (
            "long.json",
            format!("[{row},\n{{\"key\":\"b\",\"value\":[\"{long}\"]}}]"),
            "2:1",
            "more than",
        ),
        ("half.json", format!("[{row},\n"), "2:1", "ends within the array"),
        (
            "pair.jsonl",
            format!("{row}\n{{\"key\":\"b\",\"value\":\"\\ud83d\"}}"),
            "2:20",
            "surrogate",
        ),
        (
            "ttl.jsonl",
            format!("{row}\n{{\"key\":1,\"value\":1,\"ttl\":1e400}}"),
            "2:26",
            "whole number",
        ),
        ("ns.jsonl", format!("{row}\n{{\"key\":1,\"value\":1,\"ns\":[[]]}}"), "2:25", "quote it"),
        (
            "twice.jsonl",
            format!("{row}\n{{\"key\":1,\"key\":2,\"value\":1}}"),
            "2:16",
            "second time",
        ),
        ("near.jsonl", format!("{row}\n{{\"key\":1,\"value\":1,\"TTL\":60}}"), "2:26", "\"ttl\""),
    ] {
        let dir = Folder::new();
        let file = dir.write(name, text.as_bytes());
        let ran = import(&dir, &file, &[]);
        assert_eq!(ran.code, Some(1), "{name}: {ran:?}");
        let at = format!("{file}:{place}: ");
        for part in [&*at, part, "(imported before it: 1 record; ", "--skip 1)"] {
            assert!(ran.err.contains(part), "{name}: {part}: {}", ran.err);
        }
        assert_eq!(records(&dir), [("ok".to_owned(), "1".to_owned())], "{name}");
    }
}

#[test]
fn import_takes_arrays_and_other_delimiters_whatever_the_file_is_called() {
    let (a, b) = (r#"{"key":"a","value":"1;2"}"#, r#"{"key":"b","value":1.50}"#);
    for (name, text) in [
        ("array.json", format!("[{a},{b}]")),
        ("array.jsonl", format!("[\n  {a},\n  {b}\n]\n")),
        ("array", format!("\u{feff} [{a}, {b}]")),
        ("lines", format!("{a}\r\n\r\n{b}")),
        ("semicolon.csv", "key;value\na;\"1;2\"\nb;1.50\n".to_owned()),
        ("tab.tsv", "key\tvalue\na\t1;2\nb\t1.50\n".to_owned()),
        ("excel.csv", "\u{feff}sep=;\r\nkey;value\r\na;\"1;2\"\r\nb;1.50\r\n".to_owned()),
    ] {
        let dir = Folder::new();
        let file = dir.write(name, text.as_bytes());
        import(&dir, &file, &[]).ok();
        let expected = [("a", "1;2"), ("b", "1.50")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(records(&dir), expected, "{name}");
    }
    let dir = Folder::new();
    let file = dir.write("odd.csv", b"name,a;b\nx,1\n");
    let ran = import(&dir, &file, &[]);
    assert!(ran.code == Some(1) && ran.err.contains("give --delimiter"), "{ran:?}");
    import(&dir, &file, &["--delimiter", ","]).ok();
    assert_eq!(records(&dir), [("x".to_owned(), r#"{"name":"x","a;b":"1"}"#.to_owned())]);
}

#[test]
fn import_goes_on_where_it_was_refused() {
    let dir = Folder::new();
    let lines = |bad: &str| {
        let mut text = String::new();
        for n in 0..1000 {
            let value = if n == 700 { bad.to_owned() } else { n.to_string() };
            writeln!(text, "{{\"key\":\"{n:04}\",\"value\":{value}}}").unwrap();
        }
        text
    };
    let file = dir.write("a.jsonl", lines("\"\\ud800\"").as_bytes());
    let ran = import(&dir, &file, &["--batch", "300"]);
    assert!(ran.code == Some(1) && ran.err.contains("go on with --skip 700"), "{ran:?}");
    assert_eq!(records(&dir).len(), 700);
    let file = dir.write("a.jsonl", lines("700").as_bytes());
    let ran = import(&dir, &file, &["--skip", "700", "--ack"]);
    assert!(ran.err.contains("imported 300 records"), "{ran:?}");
    assert_eq!(ran.ok(), "1000\n");
    assert_eq!(records(&dir).len(), 1000);
    let ran = import(&dir, &file, &["--skip", "1001"]);
    assert!(ran.code == Some(1) && ran.err.contains("has 1000 rows"), "{ran:?}");
}

#[test]
fn import_goes_on_when_nobody_reads_the_acknowledgements() {
    let dir = Folder::new();
    let db = dir.path("db");
    let mut child =
        edgestore(&["import", "-", "--ns", "n", "--format", "csv", "--create", "--db", &db])
            .args(["--ack", "--batch", "20"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "key,value").unwrap();
    let mut rows = |from: u32, to: u32| {
        let rows: String = (from..to).map(|n| format!("{n:04},{n}\n")).collect();
        stdin.write_all(rows.as_bytes()).unwrap();
    };
    rows(0, 21);
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "20\n");
    drop(reader);
    rows(21, 3000);
    drop(stdin);
    let ran = ran(child.wait_with_output().unwrap());
    assert!(ran.code == Some(0) && ran.err.contains("imported 3000 records"), "{ran:?}");
    assert_eq!(records(&dir).len(), 3000);
}

#[cfg(target_os = "linux")]
#[test]
fn import_says_that_it_could_not_acknowledge() {
    let dir = Folder::new();
    let file = dir.write("a.csv", b"key,value\na,1\nb,2\n");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command =
        edgestore(&["import", &file, "--ns", "n", "--create", "--db", &dir.path("db"), "--ack"]);
    let ran =
        ran(command.stdin(Stdio::null()).stdout(full).stderr(Stdio::piped()).output().unwrap());
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains("all rows are stored"), "{ran:?}");
    assert!(ran.err.to_lowercase().contains("no space left"), "{ran:?}");
    assert_eq!(records(&dir).len(), 2);
}

#[test]
fn import_has_an_exit_status_for_each_outcome() {
    let dir = Folder::new();
    let good = dir.write("good.csv", b"key,value\na,1\n");
    let bad = dir.write("bad.csv", b"key,value\n,1\n");
    let json = dir.write("good.json", b"{\"key\":1,\"value\":2}");
    let large = dir.write("large.csv", format!("key,value\n{},1\n", "x".repeat(70_000)).as_bytes());
    let foreign = dir.write("foreign", b"no folder");
    let missing = dir.path("missing.csv");
    for (code, file, options) in [
        (0, &good, &[][..]),
        (1, &bad, &[]),
        (1, &large, &[]),
        (2, &good, &["--delimiter", "ab"]),
        (2, &json, &["--delimiter", ","]),
        (2, &good, &["--batch", "0"]),
        (3, &missing, &[]),
        (3, &dir.path(""), &[]),
        (3, &good, &["--db", &foreign]),
    ] {
        let db = dir.path("db");
        let db = if options.contains(&"--db") { vec![] } else { vec!["--db", &db] };
        let ran = run(&[&["import", file, "--ns", "n", "--create"], &db[..], options].concat());
        assert_eq!(ran.code, Some(code), "{file} {options:?}: {ran:?}");
    }
    let ran = run(&["import", &good, "--ns", "", "--create", "--db", &dir.path("db")]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let digits = dir.write("digits.jsonl", b"{\"key\":12,\"value\":\"ff\"}");
    let ran = import(&dir, &digits, &["--hex"]);
    assert!(ran.code == Some(1) && ran.err.contains(":1:8: "), "{ran:?}");
    let help = run(&["import", "--help"]).ok();
    for part in ["array", "`;`", "tab"] {
        assert!(help.contains(part), "{part}: {help}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn import_from_a_standard_input_that_is_closed_is_an_error_and_from_an_empty_one_none() {
    let dir = Folder::new();
    for (stdin, code) in [("<&-", 3), ("</dev/null", 0)] {
        let output = Command::new("sh")
            .args([
                "-c",
                &format!(r#""$0" import - --ns n --format jsonl --create --db "$1" {stdin}"#),
            ])
            .args([env!("CARGO_BIN_EXE_edgestore-host-under-test"), &dir.path("db")])
            .output();
        let ran = ran(output.unwrap());
        assert_eq!(ran.code, Some(code), "{stdin}: {ran:?}");
        assert_eq!(ran.err.contains("standard input: it is closed"), code == 3, "{ran:?}");
    }
}

/// Runs in a user namespace of its own, where the system gives one.
#[cfg(target_os = "linux")]
#[test]
fn import_through_a_host_whose_disk_fills_says_so() {
    let allowed = Command::new("unshare")
        .args(["-rm", "mount", "-t", "tmpfs", "none", "/mnt"])
        .stderr(Stdio::null())
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: this system gives no mount namespace (unshare -rm)");
        return;
    }
    let dir = Folder::new();
    let mut rows = "key,value\n".to_owned();
    let mut random = fastrand::Rng::with_seed(7);
    for n in 0..40_000 {
        let value: String = std::iter::repeat_with(|| random.alphanumeric()).take(1000).collect();
        writeln!(rows, "{n:06},{value}").unwrap();
    }
    let file = dir.write("rows.csv", rows.as_bytes());
    let script = r#"
        mkdir -p "$2" && mount -t tmpfs -o size=16m none "$2"
        "$1" run --db "$2/db" --listen none 2>"$4" &
        host=$!
        for n in $(seq 200); do [ -S "$2/db/admin.sock" ] && break; sleep 0.05; done
        code=0
        "$1" import "$3" --ns n --db "$2/db" --ack >"$5" || code=$?
        echo "exit $code"
        kill $host
        wait $host || true
        mount -o remount,size=200m "$2"
        acked=$(tail -n 1 "$5")
        stored=$("$1" scan n --db "$2/db" | wc -l)
        test "$stored" -ge "${acked:-0}"
        echo "stored enough"
    "#;
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-euc", script, "sh", env!("CARGO_BIN_EXE_edgestore-host-under-test")])
        .args([&dir.path("mnt"), &file, &dir.path("log"), &dir.path("acks")])
        .output()
        .unwrap();
    let ran = ran(output);
    let log = std::fs::read_to_string(dir.path("log")).unwrap_or_default();
    assert_eq!(ran.code, Some(0), "{ran:?}\n{log}");
    assert!(ran.out.contains("exit 3") && ran.out.contains("stored enough"), "{ran:?}\n{log}");
    assert!(ran.err.to_lowercase().contains("no space left"), "{ran:?}\n{log}");
    assert!(ran.err.contains("go on with --skip"), "{ran:?}");
}
