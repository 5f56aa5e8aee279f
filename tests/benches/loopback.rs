//! What the server adds to short requests, over loopback: a client that asks for a root, a manifest
//! and a small segment, a bootstrap of many small segments, and one download on a new connection.
//!
//! `cargo bench -p edgestore-host-tests --bench loopback`

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use edgestore_host::engine::Engine;
use edgestore_host::protocol::{ClientLimits, HttpPeer, PeerTransport as _};
use edgestore_host::{Hash, Host};
use edgestore_host_tests::{localhost, open};

const SMALL_SEGMENTS: u32 = 300;
const RUNS: usize = 5;

fn main() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let small = open(&dir.path().join("small"));
    for n in 0..SMALL_SEGMENTS {
        small.put(b"ns", &n.to_be_bytes(), &[7; 100])?;
        small.flush()?;
    }
    let large = open(&dir.path().join("large"));
    let mut random = fastrand::Rng::with_seed(1);
    for n in 0..4000_u32 {
        let value: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(100).collect();
        large.put(b"ns", &n.to_be_bytes(), &value)?;
    }
    large.flush()?;

    let (_host, url) = serve(&small)?;
    let scratch = open(&dir.path().join("scratch"));
    let peer = HttpPeer::new(&url, ClientLimits::default())?;
    let three = median(10 * RUNS, || {
        let start = Instant::now();
        peer.root()?;
        let list = peer.manifest()?;
        let segment = list.iter().next().context("the peer has no segment")?.hash;
        fetch(&peer, &scratch, segment)?;
        Ok(start.elapsed())
    })?;
    println!("root, manifest, small segment   {:>9.2} ms", ms(three));

    // So that the policy is compiled once, before the first run that counts.
    let cache = dir.path().join("cache");
    let warm = open(&dir.path().join("warm"));
    Host::builder(warm).peer("peer", &url).policy_cache(&cache).run_once()?;
    let mut replicas = 0;
    let bootstrap = median(RUNS, || {
        replicas += 1;
        let replica = open(&dir.path().join(format!("replica-{replicas}")));
        let start = Instant::now();
        let host = Host::builder(Arc::clone(&replica)).peer("peer", &url).policy_cache(&cache);
        let status = host.run_once()?.remove(0);
        ensure!(status.in_sync() && replica.root() == small.root(), "{status:?}");
        Ok(start.elapsed())
    })?;
    println!("bootstrap of {SMALL_SEGMENTS} small segments {:>9.2} ms", ms(bootstrap));

    let (_host, url) = serve(&large)?;
    let segment = large.manifest()[0].hash;
    let single = median(10 * RUNS, || {
        let peer = HttpPeer::new(&url, ClientLimits::default())?;
        let start = Instant::now();
        fetch(&peer, &scratch, segment)?;
        Ok(start.elapsed())
    })?;
    let size = large.manifest()[0].bytes / 1024;
    println!("one download of {size} KiB         {:>9.2} ms", ms(single));
    Ok(())
}

fn serve(engine: &Arc<Engine>) -> Result<(Host, String)> {
    let host =
        Host::builder(Arc::clone(engine)).listen(localhost()).compact_interval(None).start()?;
    let url = format!("http://{}", host.local_addr().expect("it serves"));
    Ok((host, url))
}

fn fetch(peer: &HttpPeer, into: &Engine, hash: Hash) -> Result<()> {
    peer.fetch(hash, into.stage()?, &Arc::default())?;
    Ok(())
}

fn median(runs: usize, mut run: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut times = (0..runs).map(|_| run()).collect::<Result<Vec<_>>>()?;
    times.sort_unstable();
    Ok(times[runs / 2])
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
