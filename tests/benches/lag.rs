//! How long after a write was acknowledged on one node its replica has it, and what a pair of nodes
//! costs that has nothing to do. Two hosts as they are started by default, over loopback, on a disk.
//!
//! ```text
//! cargo bench -p edgestore-host-tests --bench lag                 # 30 s of each
//! cargo bench -p edgestore-host-tests --bench lag -- SECONDS [PROGRAM]
//! cargo bench -p edgestore-host-tests --bench lag -- many SEGMENTS [PROGRAM]
//! ```
//!
//! `many`: what one new segment costs where both have so many, in bytes over the network, and how long
//! it takes.
//!
//! One process writes and looks, through the admin sockets of both. PROGRAM is another build.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use edgestore_host::admin::{AdminClient, Op};
use edgestore_host::engine::{Engine, EngineOptions};
use edgestore_host_tests::relay::Relay;

const PROGRAM: &str = env!("CARGO_BIN_EXE_edgestore-host-under-test");

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let first = args.next();
    if first.as_deref() == Some("many") {
        let segments = args.next().context("how many?")?.parse()?;
        return many(segments, &args.next().unwrap_or_else(|| PROGRAM.to_owned()));
    }
    let seconds = first.map(|arg| arg.parse()).transpose()?.unwrap_or(30);
    let program = args.next().unwrap_or_else(|| PROGRAM.to_owned());
    let time = Duration::from_secs(seconds);
    // Not in memory: writes are fsynced.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("127.0.0.1:{port}");
    let primary = Host::start(&program, &a, &["--listen", &address])?;
    let peer = format!("primary=http://{address}");
    let replica = Host::start(&program, &b, &["--listen", "none", "--peer", &peer])?;
    for rate in [1, 100] {
        let mut lags = lags(&a, &b, rate, time)?;
        lags.sort_unstable();
        let at = |part: usize| lags[(lags.len() - 1) * part / 100].as_secs_f64() * 1000.0;
        println!(
            "{rate:>4} writes a second: {:>6} of them, p50 {:>9.1} ms, p99 {:>9.1} ms, most {:>9.1} ms",
            lags.len(),
            at(50),
            at(99),
            at(100)
        );
    }
    let before = (primary.cpu()?, replica.cpu()?);
    thread::sleep(time);
    let share = |before: Duration, after: Duration| {
        (after - before).as_secs_f64() / time.as_secs_f64() * 100.0
    };
    println!(
        "idle: {:.2} % of a core on the primary, {:.2} % on the replica",
        share(before.0, primary.cpu()?),
        share(before.1, replica.cpu()?)
    );
    Ok(())
}

/// One new segment beside so many others.
fn many(segments: u32, program: &str) -> Result<()> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    {
        let options = EngineOptions { sync_writes: false, ..EngineOptions::default() };
        let engine = Engine::open_with(&a, options)?;
        for n in 0..segments {
            engine.put(b"ns", &n.to_be_bytes(), &[7; 100])?;
            engine.flush()?;
        }
    }
    println!("{segments} segments are made");
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("127.0.0.1:{port}");
    let off = ["--compact-interval", "off"];
    let _primary = Host::start(program, &a, &[&["--listen", &address], &off[..]].concat())?;
    let relay = Relay::to(address.parse()?, None);
    let peer = format!("primary={}", relay.url());
    let start = Instant::now();
    let args = ["--listen", "none", "--interval", "1h", "--peer", &peer];
    let _replica = Host::start(program, &b, &[&args[..], &off[..]].concat())?;
    let mut replica = AdminClient::connect(&b)?;
    while !replica.status()?.peers[0].in_sync() {
        thread::sleep(Duration::from_millis(500));
    }
    println!("all are on the replica after {:.1} s", start.elapsed().as_secs_f64());
    let mut primary = AdminClient::connect(&a)?;
    for n in 0..5 {
        thread::sleep(Duration::from_secs(2));
        let (key, before) = (format!("new {n}").into_bytes(), relay.bytes());
        let (ns, value) = (b"lag".to_vec(), Some(vec![7; 100]));
        primary.write(vec![Op { ns, key: key.clone(), value, ttl: None }])?;
        let start = Instant::now();
        while replica.get(b"lag", &key)?.is_none() {
            thread::sleep(Duration::from_micros(200));
        }
        let took = start.elapsed();
        thread::sleep(Duration::from_millis(500));
        let size = primary.segments()?.last().map_or(0, |segment| segment.bytes);
        println!(
            "one more: {:>6.1} ms, {} bytes either way, of which {size} are the segment",
            took.as_secs_f64() * 1000.0,
            relay.bytes() - before
        );
    }
    Ok(())
}

/// From when each write was acknowledged until the replica has it.
fn lags(a: &Path, b: &Path, rate: u32, time: Duration) -> Result<Vec<Duration>> {
    let (sent, acknowledged) = mpsc::channel();
    let mut primary = AdminClient::connect(a)?;
    let writer = thread::spawn(move || -> Result<()> {
        let (start, pause) = (Instant::now(), Duration::from_secs(1) / rate);
        let mut due = start;
        while start.elapsed() < time {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            due += pause;
            let key = format!("{rate}-{:?}", start.elapsed()).into_bytes();
            let (ns, value) = (b"lag".to_vec(), Some(vec![7; 100]));
            primary.write(vec![Op { ns, key: key.clone(), value, ttl: None }])?;
            sent.send((key, Instant::now()))?;
        }
        Ok(())
    });
    let mut replica = AdminClient::connect(b)?;
    let mut lags = Vec::new();
    for (key, acknowledged) in acknowledged {
        while replica.get(b"lag", &key)?.is_none() {
            thread::sleep(Duration::from_micros(200));
        }
        lags.push(acknowledged.elapsed());
    }
    writer.join().expect("no panic")?;
    Ok(lags)
}

struct Host(Child);

impl Host {
    fn start(program: &str, db: &Path, args: &[&str]) -> Result<Self> {
        let mut host = Command::new(program);
        host.args(["run", "--db"]).arg(db).args(args).stdout(Stdio::null()).stderr(Stdio::null());
        let host = Self(host.spawn().context("can't start a host")?);
        let give_up = Instant::now() + Duration::from_secs(30);
        loop {
            match AdminClient::connect(db) {
                Ok(_) => return Ok(host),
                Err(error) if Instant::now() > give_up => return Err(error.into()),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// What it has used of the processors.
    fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
        let ticks = |at: usize| fields.get(at).context("/proc")?.parse::<u64>().context("/proc");
        // In hundredths of a second on every Linux.
        Ok(Duration::from_millis(10 * (ticks(12)? + ticks(13)?)))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}
