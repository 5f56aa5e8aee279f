//! Compaction as users and peers see it: fewer segments, and nothing missing, on nodes of ours and
//! of the published crates, whichever of them compacts.
#![allow(clippy::unwrap_used)]

mod program;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use edgestore::{EdgestoreConfig, Engine as StockEngine};
use edgestore_host::Host;
use edgestore_host::engine::{Engine, EngineOptions, RateLimiter, WallClock};
use edgestore_host_tests::{
    LONG, StockNode, dump, localhost, make_trusting, open, pull, wait_until,
};
use edgestore_repl::AntiEntropyLoop;
use program::{Folder, Running, edgestore, ran, run};

/// What a key must read as; none where it was deleted.
type Expected = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Many small segments that write over each other and delete from each other.
fn churn(engine: &Engine, rounds: std::ops::Range<u32>, expected: &mut Expected) {
    for round in rounds {
        for i in (0..200_u32).filter(|i| i % 7 == round % 7) {
            let (key, value) = (i.to_be_bytes().to_vec(), format!("{round} {i}").into_bytes());
            if (i + round) % 5 == 0 {
                engine.delete(b"ns", &key).unwrap();
                expected.insert(key, None);
            } else {
                engine.put(b"ns", &key, &value).unwrap();
                expected.insert(key, Some(value));
            }
        }
        engine.flush().unwrap();
    }
}

fn live(expected: &Expected) -> BTreeMap<Vec<u8>, (Vec<u8>, u32)> {
    let live = expected.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
    live.map(|(key, value)| (key, (value, 0))).collect()
}

/// A node of ours that compacts when it is told to.
fn serve(engine: &Arc<Engine>) -> (Host, String) {
    let builder = Host::builder(Arc::clone(engine)).listen(localhost()).compact_interval(None);
    let host = builder.start().unwrap();
    let url = format!("http://{}", host.local_addr().unwrap());
    (host, url)
}

/// A stock database that pulls from `url` once a second, until the process ends.
fn stock_replica(db: &Path, url: &str) -> Arc<Mutex<StockEngine>> {
    let stock = Arc::new(Mutex::new(StockEngine::open(EdgestoreConfig::new(db)).unwrap()));
    AntiEntropyLoop::new(Arc::clone(&stock), url.to_owned(), "ours".into(), db.to_owned())
        .with_interval(1)
        .start();
    stock
}

fn has_all(stock: &Mutex<StockEngine>, expected: &Expected) -> bool {
    let stock = stock.lock().unwrap();
    expected.iter().all(|(key, value)| stock.get(b"ns", key).unwrap() == *value)
}

#[test]
fn stock_peers_find_every_live_record_whenever_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir.path().join("ours"));
    let mut expected = Expected::new();
    churn(&engine, 0..20, &mut expected);
    let (host, url) = serve(&engine);
    let early = stock_replica(&dir.path().join("early"), &url);
    let root = *engine.root().as_bytes();
    wait_until("the early peer is in sync", || {
        early.lock().unwrap().compare_merkle(&root).unwrap()
    });

    for rounds in [20..25, 25..45] {
        churn(&engine, rounds, &mut expected);
        let before = engine.manifest().len();
        let done = host.compact(None).unwrap();
        assert!(done.made == 1 && done.retired > 5 && !done.stopped, "{done:?}");
        assert_eq!(engine.manifest().len() as u64, before as u64 + done.made - done.retired);
        assert_eq!(dump(&engine, b"ns"), live(&expected));
        wait_until("the early peer has every record", || has_all(&early, &expected));
    }
    let late = stock_replica(&dir.path().join("late"), &url);
    let root = *engine.root().as_bytes();
    wait_until("the late peer is in sync", || late.lock().unwrap().compare_merkle(&root).unwrap());
    assert!(has_all(&late, &expected));
}

#[test]
fn two_nodes_of_ours_that_compact_have_the_same_root_again() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (open(&dir.path().join("a")), open(&dir.path().join("b")));
    let (host_a, url_a) = serve(&a);
    let (host_b, url_b) = serve(&b);
    let (mut of_a, mut of_b) = (Expected::new(), Expected::new());
    for rounds in [0..10, 10..30, 30..35] {
        churn(&a, rounds.clone(), &mut of_a);
        for n in rounds {
            let value = n.to_be_bytes().to_vec();
            b.put(b"b", &[n as u8 % 3], &value).unwrap();
            of_b.insert(vec![n as u8 % 3], Some(value));
            b.flush().unwrap();
        }
        assert!(pull(&a, &url_b).in_sync() && pull(&b, &url_a).in_sync());
        assert_eq!(a.root(), b.root());
        host_a.compact(None).unwrap();
        assert_ne!(a.root(), b.root());
        host_b.compact(None).unwrap();
        assert!(pull(&a, &url_b).in_sync() && pull(&b, &url_a).in_sync());
        let retired = |host: &Host| host.compact(None).unwrap().retired;
        assert!(retired(&host_a) + retired(&host_b) > 0, "what was merged by the other");
        assert_eq!(a.root(), b.root());
        // Nothing that was retired comes back.
        assert_eq!(pull(&a, &url_b).segments_applied + pull(&b, &url_a).segments_applied, 0);
        for engine in [&a, &b] {
            assert_eq!(dump(engine, b"ns"), live(&of_a));
            assert_eq!(dump(engine, b"b"), live(&of_b));
            assert_eq!(engine.verify(false, |_, _| {}).unwrap().count, 0);
        }
        assert!(a.manifest().len() < 12, "{}", a.manifest().len());
    }
}

#[test]
fn what_a_stock_peer_has_compacted_is_retired_here_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Expected::new();
    let primary = StockNode::serve(&dir.path().join("stock"), |engine| {
        for round in 0..12_u32 {
            for i in (0..100_u32).filter(|i| (i + round) % 3 != 0) {
                let (key, value) = (i.to_be_bytes().to_vec(), format!("{round} {i}").into_bytes());
                engine.put(b"ns", &key, &value).unwrap();
                expected.insert(key, Some(value));
            }
            engine.flush_to_segments().unwrap();
        }
    });
    let engine = open(&dir.path().join("ours"));
    assert_eq!(pull(&engine, &primary.url).segments_applied, 12);
    assert_eq!(engine.root(), primary.root());

    let stats = primary.engine.lock().unwrap().compact_once().unwrap();
    assert!(stats.segments_written > 0, "{stats:?}");
    assert_ne!(engine.root(), primary.root());
    let status = pull(&engine, &primary.url);
    assert_eq!(status.segments_applied, stats.segments_written, "{status:?}");
    let done = engine.compact(&RateLimiter::unbounded()).unwrap();
    assert_eq!((done.retired, done.merged), (12, 0), "{done:?}");
    assert_eq!(engine.root(), primary.root());
    assert_eq!(dump(&engine, b"ns"), live(&expected));
    assert_eq!(pull(&engine, &primary.url).segments_applied, 0);
}

#[test]
fn a_running_node_compacts_by_itself() {
    let dir = Folder::new();
    let db = dir.path("db");
    let often = ["--flush-interval", "1h", "--compact-interval", "50ms", "--listen", "0"];
    let mut host = Running::start(&db, &often);
    for n in 0..40 {
        let (key, value) = (format!("k{}", n % 10), n.to_string());
        run(&["put", "--create", "ns", &key, &value, "--db", &db]).ok();
        run(&["flush", "--db", &db]).ok();
    }
    let retired = || host.status()["engine"]["retired_segments"].as_u64().unwrap();
    let segments = || host.status()["engine"]["segments"].as_u64().unwrap();
    // Of one record each there would be ten.
    wait_until("it has compacted", || retired() >= 30 && segments() <= 7);
    let status = run(&["status", "--db", &db]).ok();
    assert!(status.contains("compacted ") && status.contains(" retired\n"), "{status}");

    let url = format!("http://{}", host.status()["listen"].as_str().unwrap());
    let stock = stock_replica(&dir.0.path().join("stock"), &url);
    let all: Expected =
        (0..10).map(|n| (format!("k{n}").into(), Some(format!("{}", 30 + n).into()))).collect();
    wait_until("a stock peer has every record", || has_all(&stock, &all));
    assert_eq!(host.stop("-TERM"), Some(0));
    assert!(run(&["verify", "--db", &db]).ok().contains("sound"));
    assert_eq!(run(&["get", "ns", "k2", "--db", &db]).ok().trim(), "32");
}

#[test]
fn compact_is_a_command_with_a_host_and_without() {
    let dir = Folder::new();
    let db = dir.path("db");
    let segments = |count: u32| {
        for n in 0..count {
            run(&["put", "--create", "ns", &format!("k{n}"), "value", "--db", &db]).ok();
            run(&["flush", "--db", &db]).ok();
        }
    };
    let compact = |args: &[&str]| run(&[&["compact", "--db", &db], args].concat());
    segments(4);
    let told = compact(&[]).ok();
    assert!(told.starts_with("retired 4 segments, 4 of them merged into 1 ("), "{told}");
    assert!(compact(&[]).err.contains("nothing to compact"));
    segments(4);
    let mut host = Running::start(&db, &["--listen", "none", "--compact-interval", "off"]);
    let done: serde_json::Value = serde_json::from_str(&compact(&["--json"]).ok()).unwrap();
    assert_eq!((&done["retired"], &done["stopped"]), (&5.into(), &false.into()), "{done}");
    assert_eq!(host.status()["compaction"]["done"], done);
    compact(&["--tombstone-grace", "1d"]).fails(&["a host runs", "leave it out"]);
    compact(&["--rate", "slow"]).fails(&["--rate", "or off"]);
    assert_eq!(host.stop("-TERM"), Some(0));
}

#[test]
fn clock_shows_what_is_stamped_too_far_ahead_and_stamps_it_again() {
    let dir = Folder::new();
    let db = dir.path("db");
    let year = Duration::from_secs(365 * 24 * 3600);
    let clock = WallClock::new(move || SystemTime::now() + year);
    let options = EngineOptions { clock, ..EngineOptions::default() };
    let engine = Engine::open_with(&db, options).unwrap();
    engine.put(b"ns", b"k", b"value").unwrap();
    engine.flush().unwrap();
    drop(engine);

    let clock = |args: &[&str]| run(&[&["clock", "--db", &db], args].concat());
    let said = clock(&[]).ok();
    assert!(said.contains("1 record, 0 of them") && said.contains("--restamp"), "{said}");
    let status = run(&["status", "--db", &db]).ok();
    assert!(status.contains("peers wait with 1 segments of 1 record"), "{status}");
    let mut host = Running::start(&db, &["--listen", "none"]);
    wait_until("it warns", || host.log().contains("is ahead of the clock"));
    clock(&["--restamp"]).fails(&["a host runs", "stop it first"]);
    assert_eq!(host.stop("-TERM"), Some(0));

    let said = clock(&["--restamp"]).ok();
    assert!(said.starts_with("stamped 1 record again, and retired 1 segment;"), "{said}");
    assert!(clock(&[]).ok().contains("nothing is stamped too far ahead"));
    assert_eq!(run(&["get", "ns", "k", "--db", &db]).ok().trim(), "value");
    assert!(run(&["verify", "--db", &db]).ok().contains("sound"));
    assert!(!run(&["status", "--db", &db]).ok().contains("clock"));
}

#[test]
fn a_slow_compaction_holds_up_neither_requests_nor_the_end() {
    let dir = Folder::new();
    let db = dir.path("db");
    for n in 0..5 {
        run(&["put", "--create", "ns", &format!("k{n}"), "value", "--db", &db]).ok();
        run(&["flush", "--db", &db]).ok();
    }
    // A byte a second: it would run for hours.
    let slow = ["--listen", "none", "--compact-interval", "10ms", "--compact-rate", "1"];
    let mut host = Running::start(&db, &slow);
    std::thread::sleep(Duration::from_millis(300));
    assert!(host.status()["compaction"].is_null(), "it runs");
    let asked = edgestore(&["compact", "--rate", "1", "--db", &db])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("it has taken the place of the first", || !host.status()["compaction"].is_null());
    let begin = Instant::now();
    run(&["put", "--create", "ns", "k0", "new", "--db", &db]).ok();
    assert_eq!(run(&["get", "ns", "k0", "--db", &db]).ok().trim(), "new");
    run(&["flush", "--db", &db]).ok();
    assert!(begin.elapsed() < LONG, "{:?}", begin.elapsed());

    let begin = Instant::now();
    assert_eq!(host.stop("-TERM"), Some(0));
    assert!(begin.elapsed() < LONG, "{:?}", begin.elapsed());
    ran(asked.wait_with_output().unwrap()).fails(&["stopped before it was through"]);

    // Without a bound it takes the place of the slow one, and is through at once.
    let mut host = Running::start(&db, &slow);
    std::thread::sleep(Duration::from_millis(300));
    let told = run(&["compact", "--db", &db]).ok();
    assert!(told.starts_with("retired "), "{told}");
    assert_eq!(host.stop("-INT"), Some(0));
    assert_eq!(run(&["get", "ns", "k0", "--db", &db]).ok().trim(), "new");
}

#[test]
fn deletes_are_forgotten_after_the_grace_and_verify_is_told_of_it() {
    let dir = Folder::new();
    let db = dir.path("db");
    run(&["put", "--create", "ns", "k", "value", "--db", &dir.path("new")]).ok();
    run(&["delete", "ns", "k", "--db", &dir.path("new")]).ok();
    run(&["flush", "--db", &dir.path("new")]).ok();
    let told = run(&["compact", "--tombstone-grace", "10ms", "--db", &dir.path("new")]).ok();
    assert!(told.contains("the database is too new to tell"), "{told}");
    make_trusting(Path::new(&db));
    for n in 0..5 {
        let key = format!("k{n}");
        run(&["put", "ns", &key, "value", "--db", &db]).ok();
        run(&["flush", "--db", &db]).ok();
        run(&["delete", "ns", &key, "--db", &db]).ok();
        run(&["flush", "--db", &db]).ok();
    }
    let grace = ["--tombstone-grace", "10ms"];
    let with_grace = |command: &str| run(&[&[command, "--db", &db], &grace[..]].concat());
    let told = run(&["compact", "--db", &db]).ok();
    assert!(told.contains("merged") && !told.contains("forgot"), "ten days: {told}");
    let told = with_grace("compact").ok();
    assert!(told.contains("forgot 5 records"), "{told}");
    with_grace("verify").ok();
    with_grace("compact");
    let status = run(&["status", "--db", &db]).ok();
    assert!(status.contains("segments  0 (0 records, 0 B)"), "{status}");
    run(&["get", "ns", "k0", "--db", &db]).fails(&["k0"]);
}
