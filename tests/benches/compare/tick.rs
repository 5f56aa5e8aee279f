//! What it costs to find out that nothing is to be done.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use edgestore::replication::ReplicationProtocol as _;
use edgestore_host::policy::{Context, Limits, Peer, PolicyEngine, Reason, Services, SystemClock};
use edgestore_host::protocol::{ClientLimits, HttpPeer, PeerTransport};
use edgestore_host::runtime::CursorFiles;
use edgestore_repl::HttpReplicationClient;
use serde::{Deserialize, Serialize};

use crate::engines::{Node, open_ours, open_stock};
use crate::job::Measured;
use crate::machine::peak_rss;

/// Ticks of a replica that is in sync.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tick {
    pub node: Node,
    pub db: PathBuf,
    pub url: String,
    pub times: usize,
}

/// Medians.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ticks {
    pub tick: Measured,
    /// The two requests of a tick alone.
    pub probe: Measured,
}

pub fn measure(job: &Tick) -> Result<Ticks> {
    match job.node {
        Node::Ours => ours(job),
        Node::Stock => stock(job),
    }
}

/// As the host's own loop ticks: the embedded policy, in a fresh instance each time.
fn ours(job: &Tick) -> Result<Ticks> {
    let engine = Arc::new(open_ours(&job.db)?);
    let cache = job.db.join("policies/cache");
    let policy = PolicyEngine::new(Some(&cache), Limits::default())?.load_default()?;
    let transport: Arc<dyn PeerTransport> =
        Arc::new(HttpPeer::new(&job.url, ClientLimits::default())?);
    let peers = vec![Arc::new(Peer::new("primary", Arc::clone(&transport), 8))];
    let cursors = Arc::new(CursorFiles::open(&job.db)?);
    let tick = median(job.times, || {
        let services = Services {
            engine: Arc::clone(&engine),
            peers: peers.clone(),
            current: 0,
            cursors: cursors.clone(),
            archive: None,
            clock: Arc::new(SystemClock),
            seed: fastrand::u64(..),
        };
        let context = Context {
            reason: Reason::Interval,
            interval: Duration::from_secs(30),
            settings: Vec::new(),
        };
        let report = policy.tick(services, context)?;
        ensure!(report.in_sync && report.missing == 0, "not in sync: {report:?}");
        Ok(())
    })?;
    let probe = median(job.times, || {
        transport.watermark()?;
        transport.root()?;
        Ok(())
    })?;
    Ok(Ticks { tick, probe })
}

/// What the stock loop calls when the roots agree. Its cursor, which it then writes twice, is left
/// out: the functions for that are private.
fn stock(job: &Tick) -> Result<Ticks> {
    let engine = Arc::new(Mutex::new(open_stock(&job.db)?));
    let tick = median(job.times, || {
        let client = HttpReplicationClient::new(&job.url);
        client.watermark()?;
        let root = client.merkle_root()?;
        let engine = engine.lock().map_err(|_| anyhow!("the lock is poisoned"))?;
        ensure!(engine.compare_merkle(&root)?, "not in sync");
        Ok(())
    })?;
    let probe = median(job.times, || {
        let client = HttpReplicationClient::new(&job.url);
        client.watermark()?;
        client.merkle_root()?;
        Ok(())
    })?;
    Ok(Ticks { tick, probe })
}

/// The first tenth is a warm-up.
fn median(times: usize, mut run: impl FnMut() -> Result<()>) -> Result<Measured> {
    for _ in 0..times / 10 {
        run()?;
    }
    let mut seconds = Vec::with_capacity(times);
    for _ in 0..times.max(1) {
        let start = Instant::now();
        run()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    Ok(Measured { seconds: median, records: 0, bytes: 0, peak_rss: peak_rss() })
}
