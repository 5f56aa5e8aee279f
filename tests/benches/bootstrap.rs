//! How long an empty node takes to get everything from a stock `HttpReplicationServer`: this host
//! through its embedded policy, the stock `AntiEntropyLoop`, and the least that any client could
//! take (download, BLAKE3 and fsync, no merge), side by side in one run.
//!
//! ```text
//! cargo bench -p edgestore-host-tests --bench bootstrap -- [--records N] [--value BYTES] [--no-stock]
//! ```

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use edgestore::{EdgestoreConfig, Engine as StockEngine};
use edgestore_host::Host;
use edgestore_host::engine::Engine;
use edgestore_host::protocol::{ClientLimits, HttpPeer, PeerTransport as _};
use edgestore_host_tests::{StockNode, open};
use edgestore_repl::AntiEntropyLoop;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Args {
    records: u32,
    value: usize,
    stock: bool,
}

fn main() -> Result<()> {
    let args = args()?;
    let dir = tempfile::tempdir()?;
    println!("{} records of {} bytes", args.records, args.value);
    let primary = StockNode::serve(&dir.path().join("primary"), |engine| fill(engine, &args));

    let (raw, bytes) = raw(&primary, &dir.path().join("raw"))?;
    report("download + BLAKE3 + fsync", raw, &args, bytes);
    let ours = ours(&primary, &dir.path().join("ours"), &args)?;
    report("edgestore-host", ours, &args, bytes);
    if args.stock {
        let stock = stock(&primary, &dir.path().join("stock"), &args)?;
        report("AntiEntropyLoop", stock, &args, bytes);
        println!("edgestore-host is {:.1} times as fast", stock.as_secs_f64() / ours.as_secs_f64());
    }
    println!(
        "edgestore-host runs at {:.2} of the raw limit",
        raw.as_secs_f64() / ours.as_secs_f64()
    );
    Ok(())
}

fn args() -> Result<Args> {
    let mut parsed = Args { records: 400_000, value: 100, stock: true };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--records" => parsed.records = args.next().ok_or("--records N")?.parse()?,
            "--value" => parsed.value = args.next().ok_or("--value BYTES")?.parse()?,
            "--no-stock" => parsed.stock = false,
            // Cargo's own.
            "--bench" => {}
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(parsed)
}

fn key(i: u32) -> Vec<u8> {
    format!("sensor-{:05}/{i:010}", i % 997).into_bytes()
}

/// Does not compress to nothing, and is the same at every call.
fn value(i: u32, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(u64::from(i));
    std::iter::repeat_with(|| rng.alphanumeric() as u8).take(len).collect()
}

/// Segments of 20,000 records, whose key ranges overlap.
fn fill(engine: &mut StockEngine, args: &Args) {
    for i in 0..args.records {
        engine.put(b"readings", &key(i), &value(i, args.value)).expect("a put");
        if i % 20_000 == 19_999 || i + 1 == args.records {
            engine.flush_to_segments().expect("a flush");
        }
    }
}

fn raw(primary: &StockNode, db: &Path) -> Result<(Duration, u64)> {
    let engine = open(db);
    let peer = HttpPeer::new(&primary.url, ClientLimits::default())?;
    let start = Instant::now();
    let mut bytes = 0;
    for segment in peer.manifest()? {
        let file = engine.stage()?;
        let mut staged = peer.fetch(segment.hash, file, &AtomicBool::new(false))?;
        staged.sync()?;
        bytes += staged.len();
    }
    Ok((start.elapsed(), bytes))
}

fn ours(primary: &StockNode, db: &Path, args: &Args) -> Result<Duration> {
    let engine = Arc::new(Engine::open(db)?);
    let start = Instant::now();
    let status = Host::builder(Arc::clone(&engine)).peer("primary", &primary.url).run_once()?;
    let elapsed = start.elapsed();
    if !status[0].in_sync() || engine.root() != primary.root() {
        return Err(format!("not in sync: {status:?}").into());
    }
    let mut count = 0;
    for record in engine.range(b"readings", b"", None)? {
        record?;
        count += 1;
    }
    if count != args.records {
        return Err(format!("{count} records").into());
    }
    for i in (0..args.records).step_by(1009) {
        if engine.get(b"readings", &key(i))? != Some(value(i, args.value)) {
            return Err(format!("record {i} is wrong").into());
        }
    }
    Ok(elapsed)
}

fn stock(primary: &StockNode, db: &Path, args: &Args) -> Result<Duration> {
    let engine = Arc::new(Mutex::new(StockEngine::open(EdgestoreConfig::new(db))?));
    let root = primary.root();
    let ae = AntiEntropyLoop::new(
        Arc::clone(&engine),
        primary.url.clone(),
        "primary".into(),
        db.to_owned(),
    );
    // Without an interval, the loop begins at once. It never ends; the process does.
    let start = Instant::now();
    ae.with_interval(0).start();
    // The lock is free only between two segments, so asking costs the loop next to nothing.
    while !engine.lock().map_err(|_| "the loop panicked")?.compare_merkle(root.as_bytes())? {
        std::thread::sleep(Duration::from_millis(20));
    }
    let elapsed = start.elapsed();
    let engine = engine.lock().map_err(|_| "the loop panicked")?;
    let last = args.records - 1;
    if engine.get(b"readings", &key(last))? != Some(value(last, args.value)) {
        return Err("a record is wrong".into());
    }
    Ok(elapsed)
}

fn report(what: &str, elapsed: Duration, args: &Args, bytes: u64) {
    let secs = elapsed.as_secs_f64();
    let (rate, mb) = (f64::from(args.records) / secs, bytes as f64 / 1e6 / secs);
    println!("{what:28} {secs:8.2} s  {rate:10.0} records/s  {mb:8.1} MB/s of segments");
}
