//! What others stored, typed or said, in the hands of an operator: nothing of it acts on a terminal or
//! hides there, no secret is repeated, and every record has a name that the program takes.
#![allow(clippy::unwrap_used)]

mod program;

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use edgestore::types::{MemEntry, Operation, encode_key};
use edgestore_host::Hash;
use edgestore_host_tests::{StockNode, fake_peer, open, stock_segment, wait_until};
use program::{Folder, Ran, Running, edgestore, ran, run};

/// Escape sequences, a C1 control as a character and as a byte, and what turns or hides text.
const NASTY: &[u8] =
    b"a\x1b[2J\x1b]0;title\x07\r\xc2\x9b2J \x9b2J \xe2\x80\xae \xe2\x81\xa6 \xe2\x80\x8f \
                       \xd8\x9c \xe2\x80\xa8 \xe2\x80\xa9 \xe2\x80\x8b \x7f \x08z";

/// [`NASTY`] without the byte that is no text.
fn nasty() -> String {
    String::from_utf8_lossy(NASTY).replace('\u{fffd}', "")
}

/// Runs the program on a terminal of its own, which `script` makes. `None` where there is none. Both
/// outputs are in `out`.
fn on_terminal(args: &[&str], env: &[(&str, &str)]) -> Option<Ran> {
    let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
    let program = edgestore(&[]).get_program().to_str().unwrap().to_owned();
    let line = std::iter::once(program.as_str()).chain(args.iter().copied()).map(quoted);
    let line = line.collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c", &line, "/dev/null"]).envs(env.iter().copied());
    script.env("SHELL", "/bin/sh").stdin(Stdio::null());
    match script.output() {
        Ok(output) => Some(ran(output)),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "skipped: no `script` makes a terminal: {error}");
            None
        }
    }
}

/// Nothing is left of what acts or hides, but for the colours of this program's own log.
#[track_caller]
fn is_harmless(text: &str) {
    let mut plain = text.replace("\r\n", "\n");
    for code in ["0m", "1m", "2m", "3m", "31m", "32m", "33m", "34m", "35m", "36m"] {
        plain = plain.replace(&format!("\x1b[{code}"), "");
    }
    let hidden = |c: char| {
        (c.is_control() && !"\n\t".contains(c))
            || ('\u{202a}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c)
            || "\u{200b}\u{200e}\u{200f}\u{61c}\u{2028}\u{2029}\u{fffd}".contains(c)
    };
    assert!(!plain.contains(hidden), "{plain:?}");
}

#[test]
fn what_was_stored_does_nothing_to_a_terminal_and_is_whole_in_a_pipe() {
    let dir = Folder::new();
    let db = dir.path("db");
    let text = nasty();
    {
        let engine = open(db.as_ref());
        engine.put(b"ns", b"value", NASTY).unwrap();
        engine.put(b"ns", text.as_bytes(), text.as_bytes()).unwrap();
        engine.put(b"ns", b"\\u{1b}", b"0xff").unwrap();
    }
    let db = db.as_str();
    let at = |args: &[&'static str]| -> Vec<&str> { [args, &["--db", db]].concat() };
    // A pipe has every byte.
    let raw = edgestore(&at(&["get", "ns", "value"])).output().unwrap();
    assert_eq!(raw.stdout, NASTY);
    let csv = run(&at(&["scan", "ns", "--start", "\\", "--end", "]", "--format", "csv"])).ok();
    assert!(csv.contains("\\u{1b},0xff"), "{csv}");

    let Some(got) = on_terminal(&at(&["get", "ns", "value"]), &[]) else { return };
    assert_eq!(got.code, Some(0), "{got:?}");
    is_harmless(&got.out);
    let shown = "a\\u{1b}[2J\\u{1b}]0;title\\u{7}\\u{d}\\u{9b}2J \\x9b2J \\u{202e} \\u{2066} \\u{200f} \
                 \\u{61c} \\u{2028} \\u{2029} \\u{200b} \\u{7f} \\u{8}z\r\n";
    assert_eq!(got.out, shown);
    for format in ["table", "csv", "jsonl"] {
        let args = ["scan", "ns", "--end", "value", "--format", format];
        let got = on_terminal(&at(&args), &[]).unwrap();
        assert_eq!(got.code, Some(0), "{got:?}");
        is_harmless(&got.out);
        if format == "jsonl" {
            let mut keys = got.out.lines().map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["key"].clone()
            });
            assert!(keys.any(|key| key == *text), "JSON says the same: {}", got.out);
        } else {
            assert!(
                got.out.contains("a\\u{1b}[2J") && got.out.contains("\\u{202e}"),
                "{}",
                got.out
            );
            assert!(got.out.contains("\\u{5c}u{1b}"), "it can be read back: {}", got.out);
        }
    }
    // Errors, of the database and of the command line, and the log.
    for args in [
        &["get", &text, &text, "--db", db][..],
        &["get", "ns", "key", "--db", &format!("{db}{text}")],
        &["verify", "--db", &format!("{db}{text}")],
        &["import", &format!("no{text}"), "--ns", "ns", "--db", db],
        &["get", "ns", &text, "--hex", "--db", db],
        &[&text],
        &["status", &format!("--{text}"), "--db", db],
    ] {
        for format in ["human", "json"] {
            let args = [args, &["--log-format", format]].concat();
            let got = on_terminal(&args, &[("EDGESTORE_LOG", &text)]).unwrap();
            assert!(matches!(got.code, Some(1..=3)), "{got:?}");
            is_harmless(&got.out);
        }
    }
}

#[test]
fn what_a_peer_says_does_nothing_to_a_terminal_and_forges_no_row() {
    let dir = Folder::new();
    let peer = fake_peer(|_, stream| {
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: x\xc2\x9b\xe2\x80\xae\x9b2J\r\n\
              Content-Length: 0\r\nConnection: close\r\n\r\n",
        );
    });
    let peer = format!("a={peer}");
    let once = ["run", "--db", &dir.path("db"), "--peer", &peer, "--once"];
    let piped = run(&once);
    assert_eq!(piped.code, Some(1), "{piped:?}");
    assert_eq!(piped.out.lines().count(), 2, "a header and a row: {piped:?}");
    let Some(shown) = on_terminal(&once, &[]) else { return };
    assert_eq!(shown.code, Some(1), "{shown:?}");
    is_harmless(&shown.out);
}

#[test]
fn no_secret_of_a_url_is_in_an_error_a_log_or_a_status() {
    let dir = Folder::new();
    let db = dir.path("db");
    let url = "http://me:hunter2@127.0.0.1:9/?token=hunter2#hunter2";
    let config = |name: &str, text: &str| dir.write(name, text.as_bytes());
    let refused = config("peer.toml", &format!("[peers]\na = \"{url}\"\n"));
    let torn = config("torn.toml", &format!("[peers]\na = \"{url}\n"));
    let archive = config("archive.toml", &format!("[host]\narchive = \"{url}\"\n"));
    let policy = config("policy.toml", &format!("[policy.settings]\nwindow = \"{url}\"\n"));
    let plugin = config("plugin.toml", &format!("[policy]\nplugin = \"{url}\"\n"));
    let files = [&refused, &torn, &archive, &policy, &plugin];
    let mut tried = vec![
        vec!["run", "--once", "--db", &db, "--peer", url],
        vec!["run", "--once", "--db", &db, "--peer", "a b=http://me:hunter2@a"],
        vec!["run", "--once", "--db", &db, "--peer", "a=http://127.0.0.1:9", "--archive", url],
        vec!["run", "--once", "--db", &db, "--peer", "a=http://127.0.0.1:9", "--plugin", url],
        vec!["policy", "run", "policy.wasm", "--once", "--db", &db, "--peer", url],
        vec!["policy", "check", url],
        vec!["wake", url, "--db", &db],
        vec!["status", "--db", url],
        vec!["import", url, "--ns", "ns", "--db", &db],
        vec![url],
    ];
    for file in files {
        tried.push(vec!["config", "check", file]);
        tried.push(vec!["run", "--config", file, "--db", &db]);
        tried.push(vec!["status", "--config", file]);
    }
    for args in tried {
        for format in ["human", "json"] {
            let said = run(&[&args[..], &["--log-format", format]].concat());
            assert_ne!(said.code, Some(0), "{said:?}");
            assert!(!format!("{said:?}").contains("hunter2"), "{args:?}: {said:?}");
        }
    }
    // A running host, whose file gets secrets while it runs.
    let file = config("host.toml", "[host]\nlisten = \"none\"\n");
    let host = Running::start(&db, &["--config", &file, "-v"]);
    for text in [
        format!("[host]\nlisten = \"none\"\n[policy.settings]\nwindow = \"{url}\"\n"),
        format!("[host]\nlisten = \"none\"\n[peers]\nb = \"{url}\"\n"),
        format!("[host]\nlisten = \"none\"\n[peers]\nb = \"{url}\n"),
    ] {
        let refusals = || host.log().matches("refused").count();
        let before = refusals();
        config("host.toml", &text);
        wait_until("the file is refused", || refusals() > before);
    }
    let said = [
        host.log(),
        run(&["status", "--db", &db]).ok(),
        host.status().to_string(),
        run(&["policy", "history", "--db", &db]).ok(),
        run(&["policy", "history", "--json", "--db", &db]).ok(),
    ];
    for said in said {
        assert!(!said.contains("hunter2"), "{said}");
    }
}

/// Namespaces and keys that no command of this program makes, or that no terminal takes.
fn names() -> Vec<(Vec<u8>, Vec<u8>)> {
    // Namespace and key together, in bytes.
    const MOST: usize = 65_533;
    let odd = b"\0\n\x1b\x7f\xff\xfe".to_vec();
    vec![
        (vec![], vec![]),
        (vec![], b"k".to_vec()),
        (b"ns".to_vec(), vec![]),
        (odd.clone(), odd),
        (vec![0xff], vec![0xff; 3]),
        (b"ns".to_vec(), vec![0xff; MOST - 2]),
        (vec![0xff; MOST], vec![]),
        (b"-n".to_vec(), b"--key".to_vec()),
    ]
}

#[test]
fn each_record_of_a_peer_can_be_read_listed_and_deleted_whatever_its_name() {
    let dir = Folder::new();
    let mut entries: Vec<_> = names()
        .iter()
        .map(|(ns, key)| {
            let (key, op) = (encode_key(ns, key), Operation::Put);
            let entry = MemEntry {
                key: key.clone(),
                value: Some(b"v".to_vec()),
                op,
                lsn: 1,
                timestamp: 1,
                ttl: 0,
            };
            (key, entry)
        })
        .collect();
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    let planted = stock_segment(&entries).0;
    let plant = |db: &str| {
        let engine = open(db.as_ref());
        let mut staging = engine.stage().unwrap();
        staging.write_all(&planted).unwrap();
        let mut staged = staging.verify(Hash::of(&planted)).unwrap();
        assert_eq!(engine.apply(&mut staged).unwrap().written, names().len() as u64);
    };
    for with_host in [false, true] {
        let db = dir.path(if with_host { "served" } else { "alone" });
        plant(&db);
        let host = with_host.then(|| Running::start(&db, &["--listen", "none"]));
        for (ns, key) in names() {
            let (ns, key) = (format!("0x{}", hex(&ns)), format!("0x{}", hex(&key)));
            let named = ["--hex", "--hex-ns", "--db", &db];
            let on = |command: &str| run(&[&[command, &ns, &key][..], &named].concat());
            let list = || {
                let args = [&["scan", &ns, "--format", "jsonl"][..], &named].concat();
                run(&args).ok()
            };
            let row = format!("{{\"key\":\"{}\",\"value\":\"76\"", &key[2..]);
            assert_eq!(on("get").ok(), "76\n");
            assert!(list().contains(&row));
            on("delete").ok();
            assert_eq!(on("get").code, Some(1));
            assert!(!list().contains(&row));
        }
        // Without hexadecimals an empty argument names them, too; this program makes none.
        assert_eq!(run(&["get", "", "", "--db", &db]).code, Some(1));
        run(&["delete", "", "", "--db", &db]).ok();
        for (ns, key) in [("", "k"), ("ns", "")] {
            let put = run(&["put", ns, key, "v", "--db", &db]);
            assert_eq!(put.code, Some(2), "{put:?}");
            put.fails(&["must have at least one byte"]);
        }
        drop(host);
    }
}

/// A stock node has such records, and takes the deletes.
#[test]
fn a_stock_peer_has_keys_without_a_name_and_takes_their_deletes() {
    let dir = Folder::new();
    let stock = StockNode::serve(dir.0.path().join("stock").as_path(), |engine| {
        engine.put(b"ns", b"", b"v").unwrap();
        engine.flush_to_segments().unwrap();
    });
    let db = dir.path("db");
    let pull = ["run", "--db", &db, "--peer", &format!("stock={}", stock.url), "--once"];
    run(&pull).ok();
    assert_eq!(run(&["get", "ns", "", "--db", &db]).ok(), "v");
    run(&["delete", "ns", "", "--db", &db]).ok();
    run(&["flush", "--db", &db]).ok();
    // What that node would pull.
    let engine = open(db.as_ref());
    let mut stock = stock.engine.lock().unwrap();
    assert_eq!(engine.manifest().len(), 2);
    for segment in engine.manifest() {
        let (mut file, _) = engine.open_segment(&segment.hash).unwrap().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        stock.import_segment(&bytes, segment.hash.as_bytes()).unwrap();
    }
    assert_eq!(stock.get(b"ns", b"").unwrap(), None);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
