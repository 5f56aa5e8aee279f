//! Pulling what a primary has: all of it into an empty database, or what is new into a replica.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use edgestore_host::Host;
use edgestore_host::engine::Engine;
use edgestore_host::protocol::{ClientLimits, HttpPeer, PeerTransport as _};
use edgestore_repl::AntiEntropyLoop;
use serde::{Deserialize, Serialize};

use crate::engines::{Node, check, open_ours, open_stock};
use crate::job::Measured;
use crate::machine::peak_rss;
use crate::server::Primary;

/// The least that any client could do: download, BLAKE3 and fsync, one segment after the other.
#[derive(Debug, Serialize, Deserialize)]
pub struct Raw {
    pub db: PathBuf,
    pub primary: Primary,
    /// Leaves out so many segments, the oldest ones.
    pub skip: usize,
    /// In the segments that are left.
    pub records: u64,
}

/// One sync, until the roots are equal.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pull {
    pub node: Node,
    pub db: PathBuf,
    pub primary: Primary,
    /// That are new to the replica.
    pub records: u64,
    /// Of segments that are new to it.
    pub bytes: u64,
}

/// A stock loop that never gets there is given up after this time.
const PATIENCE: Duration = Duration::from_secs(3600);

pub fn raw(job: &Raw) -> Result<Measured> {
    let engine = open_ours(&job.db)?;
    let peer = HttpPeer::new(&job.primary.url, ClientLimits::default())?;
    let start = Instant::now();
    let manifest = peer.manifest()?;
    let mut segments: Vec<_> = manifest.iter().collect();
    segments.sort_by_key(|segment| segment.id);
    let mut bytes = 0;
    for segment in segments.iter().skip(job.skip) {
        let mut staged = peer.fetch(segment.hash, engine.stage()?, &Arc::default())?;
        staged.sync()?;
        bytes += staged.len();
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Measured { seconds, records: job.records, bytes, peak_rss: peak_rss() })
}

pub fn pull(job: &Pull) -> Result<Measured> {
    let (seconds, peak_rss) = match job.node {
        Node::Ours => pull_ours(job)?,
        Node::Stock => pull_stock(job)?,
    };
    Ok(Measured { seconds, records: job.records, bytes: job.bytes, peak_rss })
}

fn pull_ours(job: &Pull) -> Result<(f64, Option<u64>)> {
    let engine = Arc::new(open_ours(&job.db)?);
    let start = Instant::now();
    until_in_sync(&engine, &job.primary.url)?;
    let measured = (start.elapsed().as_secs_f64(), peak_rss());
    check(&*engine, &job.primary.data, job.primary.root)?;
    Ok(measured)
}

/// A run ends by itself when all is here, and after a failure.
fn until_in_sync(engine: &Arc<Engine>, url: &str) -> Result<()> {
    loop {
        let statuses = Host::builder(Arc::clone(engine)).peer("primary", url).run_once()?;
        let status = statuses.first().context("no status of the peer")?;
        if status.in_sync() {
            return Ok(());
        }
        ensure!(status.segments_applied > 0, "not in sync, and no segment applied: {status:?}");
        eprintln!("goes on after {} segments", status.segments_applied);
    }
}

fn pull_stock(job: &Pull) -> Result<(f64, Option<u64>)> {
    let engine = Arc::new(Mutex::new(open_stock(&job.db)?));
    let root = job.primary.root;
    let url = job.primary.url.clone();
    let ae = AntiEntropyLoop::new(Arc::clone(&engine), url, "primary".into(), job.db.clone());
    let lock = || engine.lock().unwrap_or_else(PoisonError::into_inner);
    // Without an interval, the loop begins at once. It never ends; the process does.
    let start = Instant::now();
    ae.with_interval(0).start();
    // The lock is free only between two segments, so asking costs the loop next to nothing.
    while !lock().compare_merkle(root.as_bytes())? {
        ensure!(start.elapsed() < PATIENCE, "the stock loop is not in sync after an hour");
        std::thread::sleep(Duration::from_millis(2));
    }
    let measured = (start.elapsed().as_secs_f64(), peak_rss());
    check(&*lock(), &job.primary.data, root)?;
    Ok(measured)
}
