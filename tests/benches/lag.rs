//! How long after a write was acknowledged on one node its replica has it, and what a pair of nodes
//! costs that has nothing to do. Two hosts as they are started by default, over loopback, on a disk.
//!
//! ```text
//! cargo bench -p edgestore-host-tests --bench lag                 # 30 s of each
//! cargo bench -p edgestore-host-tests --bench lag -- SECONDS [PROGRAM]
//! ```
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

const PROGRAM: &str = env!("CARGO_BIN_EXE_edgestore-host-under-test");

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let seconds = args.next().map(|arg| arg.parse()).transpose()?.unwrap_or(30);
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
