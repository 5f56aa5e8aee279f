//! Beside the published crates `edgestore` and `edgestore-repl` 2.2, in both directions, and beside
//! another host of this kind.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use edgestore::{EdgestoreConfig, Engine as StockEngine};
use edgestore_host::engine::{Engine, EngineOptions, RateLimiter, WallClock};
use edgestore_host::protocol::{ClientLimits, HttpPeer, PeerTransport as _};
use edgestore_host::{Hash, Host};
use edgestore_host_tests::{
    StockNode, dump, fake_peer, localhost, open, pull, put, segment, serve, stock_entries,
    tombstone, wait_until,
};
use edgestore_repl::{AntiEntropyLoop, PeerCursor};

/// Four segments: values, newer values over some of them, tombstones over others, and TTLs.
fn fill(engine: &mut StockEngine) {
    for i in 0..2000_u32 {
        engine.put(b"ns", &i.to_be_bytes(), format!("first {i}").as_bytes()).unwrap();
    }
    engine.put(b"other", b"empty value", b"").unwrap();
    engine.put(b"ns\xff", &[0xff; 40], &[0; 5000]).unwrap();
    engine.flush_to_segments().unwrap();
    for i in (0..2000_u32).step_by(3) {
        engine.put(b"ns", &i.to_be_bytes(), format!("second {i}").as_bytes()).unwrap();
    }
    engine.flush_to_segments().unwrap();
    for i in (0..2000_u32).step_by(5) {
        engine.delete(b"ns", &i.to_be_bytes()).unwrap();
    }
    engine.flush_to_segments().unwrap();
    engine.put_with_ttl(b"ttl", b"long", b"lives", 3600).unwrap();
    engine.put_with_ttl(b"ttl", b"short", b"dies", 2).unwrap();
    engine.flush_to_segments().unwrap();
}

fn filled() -> BTreeMap<Vec<u8>, (Vec<u8>, u32)> {
    let live = (0..2000_u32).filter(|i| i % 5 != 0);
    let value =
        |i: u32| if i.is_multiple_of(3) { format!("second {i}") } else { format!("first {i}") };
    live.map(|i| (i.to_be_bytes().to_vec(), (value(i).into_bytes(), 0))).collect()
}

#[test]
fn a_host_pulls_every_value_tombstone_and_ttl_from_a_stock_server() {
    let dir = tempfile::tempdir().unwrap();
    let primary = StockNode::serve(&dir.path().join("stock"), fill);
    let engine = open(&dir.path().join("ours"));

    let status = pull(&engine, &primary.url);
    assert!(status.in_sync(), "{status:?}");
    assert_eq!(status.segments_applied, 4);
    assert_eq!(engine.root(), primary.root());
    assert_eq!(dump(&engine, b"ns"), filled());
    assert_eq!(engine.get(b"ns", &0_u32.to_be_bytes()).unwrap(), None, "a tombstone");
    assert_eq!(engine.get(b"other", b"empty value").unwrap().as_deref(), Some(&b""[..]));
    assert_eq!(engine.get(b"ns\xff", &[0xff; 40]).unwrap(), Some(vec![0; 5000]));
    assert_eq!(engine.get_record(b"ttl", b"long").unwrap().unwrap().ttl, 3600);
    wait_until("the short TTL has passed", || engine.get(b"ttl", b"short").unwrap().is_none());

    // The next tick finds nothing to do, and a restart changes nothing.
    assert_eq!(pull(&engine, &primary.url).segments_applied, 0);
    drop(engine);
    let engine = open(&dir.path().join("ours"));
    assert_eq!((dump(&engine, b"ns"), engine.root()), (filled(), primary.root()));

    primary.engine.lock().unwrap().put(b"ns", b"later", b"x").unwrap();
    primary.engine.lock().unwrap().flush_to_segments().unwrap();
    assert_eq!(pull(&engine, &primary.url).segments_applied, 1);
    assert_eq!(engine.get(b"ns", b"later").unwrap().as_deref(), Some(&b"x"[..]));
}

#[test]
fn a_stock_loop_pulls_from_a_host_and_reads_every_key() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir.path().join("ours"));
    for i in 0..3000_u32 {
        engine.put(b"ns", &i.to_be_bytes(), format!("value {i}").as_bytes()).unwrap();
        if i == 1000 {
            engine.flush().unwrap();
        }
    }
    engine.delete(b"ns", &7_u32.to_be_bytes()).unwrap();
    engine.put(b"ns", &8_u32.to_be_bytes(), b"new").unwrap();
    engine.flush().unwrap();
    assert_eq!(engine.manifest().len(), 2);
    let (_host, url) = serve(&engine);

    let db = dir.path().join("stock");
    let stock = StockEngine::open(EdgestoreConfig::new(&db)).unwrap();
    let stock = Arc::new(Mutex::new(stock));
    AntiEntropyLoop::new(Arc::clone(&stock), url, "ours".into(), db).with_interval(1).start();
    wait_until("the stock loop has converged", || {
        let root = *engine.root().as_bytes();
        stock.lock().unwrap().compare_merkle(&root).unwrap()
    });
    let stock = stock.lock().unwrap();
    for i in 0..3000_u32 {
        let expected = match i {
            7 => None,
            8 => Some(b"new".to_vec()),
            _ => Some(format!("value {i}").into_bytes()),
        };
        assert_eq!(stock.get(b"ns", &i.to_be_bytes()).unwrap(), expected, "key {i}");
    }
}

/// A flush that takes several segments, some of them from the future, and a merge that does.
#[test]
fn a_stock_loop_pulls_what_a_host_had_to_split() {
    let dir = tempfile::tempdir().unwrap();
    let ahead = Arc::new(Mutex::new(Duration::ZERO));
    let shown = Arc::clone(&ahead);
    let options = EngineOptions {
        clock: WallClock::new(move || SystemTime::now() + *shown.lock().unwrap()),
        max_segment_inflated_bytes: 4 << 20,
        ..EngineOptions::default()
    };
    let engine = Arc::new(Engine::open_with(dir.path().join("ours"), options).unwrap());
    let value = vec![b'x'; 100_000];
    for i in 0..70_u8 {
        engine.put(b"ns", &[i], &value).unwrap();
    }
    *ahead.lock().unwrap() = Duration::from_secs(400 * 24 * 3600);
    for i in 70..80_u8 {
        engine.put(b"ns", &[i], &value).unwrap();
    }
    assert!(engine.flush_all().unwrap().len() >= 3);
    *ahead.lock().unwrap() = Duration::ZERO;
    engine.compact(&RateLimiter::unbounded()).unwrap();
    let (_host, url) = serve(&engine);

    let db = dir.path().join("stock");
    let stock = StockEngine::open(EdgestoreConfig::new(&db)).unwrap();
    let stock = Arc::new(Mutex::new(stock));
    AntiEntropyLoop::new(Arc::clone(&stock), url, "ours".into(), db).with_interval(1).start();
    wait_until("the stock loop has converged", || {
        let root = *engine.root().as_bytes();
        stock.lock().unwrap().compare_merkle(&root).unwrap()
    });
    let stock = stock.lock().unwrap();
    for i in 0..80_u8 {
        assert_eq!(stock.get(b"ns", &[i]).unwrap().as_ref(), Some(&value), "key {i}");
    }
}

/// Between the two is a proxy that tells what is asked for.
#[test]
fn a_stock_server_is_asked_for_version_2_once_and_pulled_from_by_version_1() {
    let dir = tempfile::tempdir().unwrap();
    let primary = StockNode::serve(&dir.path().join("stock"), fill);
    let (url, paths) = recording_proxy(&primary.url);
    let peer = HttpPeer::new(&url, ClientLimits::default()).unwrap();
    for manifests in 1..=3 {
        let manifest = peer.manifest().unwrap();
        assert_eq!(manifest.len(), 4);
        assert!(manifest.iter().all(|segment| segment.info.is_none()));
        let asked =
            |path: &str| paths.lock().unwrap().iter().filter(|asked| *asked == path).count();
        assert_eq!((asked("/v2/segments"), asked("/segments")), (1, manifests));
    }

    // And so does a whole host, tick after tick.
    paths.lock().unwrap().clear();
    let engine = open(&dir.path().join("ours"));
    let host = Host::builder(Arc::clone(&engine))
        .peer("stock", &url)
        .interval(Duration::from_millis(50))
        .start()
        .unwrap();
    wait_until("the host has pulled", || engine.root() == primary.root());
    for i in 0..3_u8 {
        primary.engine.lock().unwrap().put(b"ns", &[i], b"later").unwrap();
        primary.engine.lock().unwrap().flush_to_segments().unwrap();
        wait_until("the host has pulled again", || engine.root() == primary.root());
    }
    host.shutdown();
    let paths = paths.lock().unwrap();
    let asked = |path: &str| paths.iter().filter(|asked| *asked == path).count();
    assert_eq!(asked("/v2/segments"), 1);
    assert!(asked("/segments") >= 4, "{paths:?}");
}

/// Hands requests on to a server; returns its URL, and the paths that it was asked for.
fn recording_proxy(to: &str) -> (String, Arc<Mutex<Vec<String>>>) {
    let to = to.trim_start_matches("http://").to_owned();
    let paths = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&paths);
    let url = fake_peer(move |path, stream| {
        seen.lock().unwrap().push(path.to_owned());
        let mut server = TcpStream::connect(&to).unwrap();
        write!(server, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let _ = std::io::copy(&mut server, stream);
    });
    (url, paths)
}

#[test]
fn our_segments_are_byte_for_byte_those_of_the_stock_writer() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut rng = fastrand::Rng::with_seed(11);
    for i in 0..500_u32 {
        let mut value = vec![0; rng.usize(..9000)];
        rng.fill(&mut value);
        engine.put(b"ns", &i.to_be_bytes(), &value).unwrap();
    }
    engine.delete(b"ns", &3_u32.to_be_bytes()).unwrap();
    let hash = engine.flush().unwrap().unwrap().hash;
    let ours = std::fs::read(dir.path().join(format!("segments/{hash}.dat"))).unwrap();

    // What the stock reader makes of it, written again by the stock writer.
    let again = dir.path().join("again");
    std::fs::create_dir(&again).unwrap();
    let entries = stock_entries(&ours);
    assert_eq!(entries.len(), 500);
    edgestore::segment::SegmentWriter::new(again.clone(), 0, 3600).flush(&entries).unwrap();
    assert_eq!(Hash::of(&std::fs::read(again.join("segment-00000000.dat")).unwrap()), hash);
}

/// Three nodes of ours write to the same few keys, flush and pull from each other at random; in the
/// end all pull from all, and all must hold the same.
#[test]
fn hosts_with_conflicting_writes_end_equal_whatever_the_order() {
    for seed in 0..4 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let dir = tempfile::tempdir().unwrap();
        let engines: Vec<_> = (0..3).map(|n| open(&dir.path().join(n.to_string()))).collect();
        let nodes: Vec<_> = engines.iter().map(serve).collect();
        for _ in 0..60 {
            let engine = &engines[rng.usize(..3)];
            let key = [rng.u8(..8)];
            match rng.u8(..10) {
                0..5 => drop(engine.put(b"ns", &key, &[rng.u8(..)]).unwrap()),
                5..7 => drop(engine.delete(b"ns", &key).unwrap()),
                7..9 => drop(engine.flush().unwrap()),
                _ => {
                    let status = pull(engine, &nodes[rng.usize(..3)].1);
                    assert!(status.last_error.is_none(), "{status:?}");
                }
            }
        }
        for engine in &engines {
            engine.flush().unwrap();
        }
        for engine in &engines {
            for (_, url) in &nodes {
                assert!(pull(engine, url).in_sync());
            }
        }
        let expected = dump(&engines[0], b"ns");
        for engine in &engines {
            assert_eq!(dump(engine, b"ns"), expected, "seed {seed}");
            assert_eq!(engine.root(), engines[0].root(), "seed {seed}");
        }
    }
}

#[test]
fn ties_end_the_same_in_every_order() {
    let segments = [
        segment(&[put("a", "one", 100), put("b", "x", 100), tombstone("c", 100)]),
        segment(&[put("a", "two", 100), tombstone("b", 100), put("c", "y", 100)]),
        segment(&[put("a", "three", 100), put("b", "z", 99), put("c", "late", 101)]),
    ];
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path()).unwrap();
        for i in order {
            for _ in 0..2 {
                let mut staged = engine.stage().unwrap();
                std::io::Write::write_all(&mut staged, &segments[i]).unwrap();
                let mut staged = staged.verify(Hash::of(&segments[i])).unwrap();
                engine.apply(&mut staged).unwrap();
            }
        }
        let got = |key: &[u8]| engine.get(b"ns", key).unwrap();
        assert_eq!(got(b"a").as_deref(), Some(&b"two"[..]), "the greatest value, {order:?}");
        assert_eq!(got(b"b"), None, "a delete goes before a put, {order:?}");
        assert_eq!(got(b"c").as_deref(), Some(&b"late"[..]), "the later one, {order:?}");
    }
}

#[test]
fn a_cursor_of_the_stock_loop_is_not_believed_and_ours_is_readable_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let primary = StockNode::serve(&dir.path().join("primary"), fill);
    let old_db = dir.path().join("old");
    let stock = StockEngine::open(EdgestoreConfig::new(&old_db)).unwrap();
    let stock = Arc::new(Mutex::new(stock));
    AntiEntropyLoop::new(stock, primary.url.clone(), "primary".into(), old_db.clone())
        .with_interval(1)
        .start();
    let read = |path: &std::path::Path| -> Option<PeerCursor> {
        rmp_serde::from_read(std::fs::File::open(path).ok()?).ok()
    };
    let old = old_db.join("sync/primary.cursor");
    wait_until("the stock loop has noted the root", || {
        read(&old).is_some_and(|cursor| !cursor.last_known_merkle_root.is_empty())
    });

    let db = dir.path().join("ours");
    let engine = open(&db);
    engine.put(b"ns", b"own", b"record").unwrap();
    engine.flush().unwrap();
    std::fs::create_dir_all(db.join("sync")).unwrap();
    let ours = db.join("sync/primary.cursor");
    std::fs::copy(&old, &ours).unwrap();
    let before = read(&old).unwrap();
    let builder = Host::builder(Arc::clone(&engine)).peer("primary", &primary.url);
    let status = builder.run_once().unwrap().remove(0);
    // The noted root is none of this engine's own: nobody knows what the cursor speaks of.
    assert!(status.in_sync() && status.segments_applied == 4, "{status:?}");
    let after = read(&ours).unwrap();
    assert_eq!(after.segments_applied_total, 4);
    assert_eq!(after.last_known_merkle_root, primary.root().as_bytes());
    assert!(after.last_attempt_secs >= before.last_attempt_secs);
}

#[test]
fn two_running_hosts_keep_each_other_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (open(&dir.path().join("a")), open(&dir.path().join("b")));
    let (served, url) = serve(&a);
    let interval = Duration::from_millis(100);
    let host_b = Host::builder(Arc::clone(&b))
        .peer("a", &url)
        .listen(localhost())
        .interval(interval)
        .start()
        .unwrap();
    let url_b = format!("http://{}", host_b.local_addr().unwrap());
    let host_a = Host::builder(Arc::clone(&a)).peer("b", url_b).interval(interval).start().unwrap();
    a.put(b"ns", b"from a", b"1").unwrap();
    b.put(b"ns", b"from b", b"2").unwrap();
    wait_until("each has what the other wrote", || {
        dump(&a, b"ns").len() == 2 && dump(&b, b"ns").len() == 2
    });
    a.delete(b"ns", b"from b").unwrap();
    wait_until("the delete is everywhere", || dump(&b, b"ns").len() == 1);
    for host in [host_a, host_b, served] {
        host.shutdown();
    }
    for engine in [&a, &b] {
        wait_until("nothing holds the engine any more", || Arc::strong_count(engine) == 1);
    }
}
