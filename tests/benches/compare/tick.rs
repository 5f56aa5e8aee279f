//! What it costs to find out that nothing is to be done.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use edgestore::replication::ReplicationProtocol as _;
use edgestore_host::policy::{
    Context, CursorLayout, CursorStore, Limits, Peer, PolicyEngine, Reason, Services, SystemClock,
};
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
    /// One that does not put its cursor on disk.
    pub unstored: Measured,
    /// The two requests of a tick alone.
    pub probe: Measured,
}

/// A cursor that is kept in memory.
struct InMemory(Mutex<Option<Vec<u8>>>);

impl CursorStore for InMemory {
    fn load(&self, _peer: &str, _layout: &CursorLayout) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn store(&self, _peer: &str, _layout: &CursorLayout, value: &[u8]) -> io::Result<()> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value.into());
        Ok(())
    }
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
    let ticks = |cursors: Arc<dyn CursorStore>| {
        median(job.times, || {
            let services = Services {
                engine: Arc::clone(&engine),
                peers: peers.clone(),
                current: 0,
                cursors: Arc::clone(&cursors),
                archive: None,
                clock: Arc::new(SystemClock),
                downloads: Arc::default(),
                seed: fastrand::u64(..),
                observer: None,
            };
            let (reason, interval) = (Reason::Interval, Duration::from_secs(30));
            let report =
                policy.tick(services, Context { reason, interval, settings: Vec::new() })?;
            ensure!(report.in_sync && report.missing == 0, "not in sync: {report:?}");
            Ok(())
        })
    };
    let files = CursorFiles::open(&job.db)?;
    let cursor =
        files.load("primary", &policy.cursor_layout())?.context("the replica has no cursor")?;
    let unstored = ticks(Arc::new(InMemory(Mutex::new(Some(cursor)))))?;
    let tick = ticks(Arc::new(files))?;
    let probe = median(job.times, || {
        transport.watermark()?;
        transport.root()?;
        Ok(())
    })?;
    Ok(Ticks { tick, unstored, probe })
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
    Ok(Ticks { tick, unstored: tick, probe })
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
