//! What is measured. Each case checks what it does: a tick that finds something else than it should
//! ends the run.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use criterion::Criterion;
use edgestore_host::engine::{Engine, WriteBatch};
use edgestore_host::policy::{Limits, Policy, PolicyEngine};
use edgestore_host::protocol::{ClientLimits, HttpPeer, Server, ServerLimits};
use edgestore_host_tests::component;

use crate::data;
use crate::native::Nothing;
use crate::pairs::{Effort, Pairs, Side, Spread};
use crate::peer::MemoryPeer;
use crate::source::{Folders, Made, Source};
use crate::world::World;

/// Segments that a long manifest lists, and how many of them the node lacks.
const LISTED: u32 = 100_000;
const MISSING: u32 = 10;

/// Transfers of one tick, and the value in each of the segments, which makes it one of 4 KiB.
const TRANSFERS: u32 = 10_000;
const VALUE: usize = 3000;

/// Records of the bootstrap.
const RECORDS: u32 = 400_000;

/// What was measured.
pub struct Cases {
    /// A component to machine code, as for a new database.
    pub compile: Option<Spread>,
    /// Machine code from the cache, as at each start.
    pub load: Option<Spread>,
    /// A fresh instance that says its name.
    pub instantiate: Option<Spread>,
    pub empty: Pairs,
    pub in_sync: Pairs,
    pub in_sync_on_disk: Pairs,
    pub manifest: Pairs,
    pub transfers: Pairs,
    pub bootstrap: Pairs,
}

pub fn run(criterion: &mut Criterion, folders: &Folders) -> Result<Cases> {
    let engine = PolicyEngine::new(None, Limits::default())?;
    let policy = engine.load_default()?;
    Ok(Cases {
        compile: single(criterion, "compile", || drop(engine.load_default().expect("it compiles"))),
        load: load(criterion, folders)?,
        instantiate: single(criterion, "instantiate", || policy.instantiate().expect("it starts")),
        empty: empty_tick(criterion, &engine, folders)?,
        in_sync: in_sync(criterion, &policy, "in-sync tick", folders.memory(), false)?,
        in_sync_on_disk: in_sync(
            criterion,
            &policy,
            "in-sync tick, cursor on disk",
            folders.disk(),
            true,
        )?,
        manifest: manifest(criterion, &policy, folders)?,
        transfers: transfers(criterion, &policy, folders)?,
        bootstrap: bootstrap(criterion, &policy, folders)?,
    })
}

/// What only WebAssembly needs. None when criterion was told to leave it out.
fn single(criterion: &mut Criterion, name: &str, mut run: impl FnMut()) -> Option<Spread> {
    let mut times = Vec::new();
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).measurement_time(Duration::from_secs(1));
    group.warm_up_time(Duration::from_millis(100));
    group.bench_function("wasm", |bencher| {
        bencher.iter_custom(|iterations| {
            let runs = (0..iterations).map(|_| {
                let start = Instant::now();
                run();
                let took = start.elapsed();
                times.push(took.as_secs_f64() * 1e6);
                took
            });
            runs.sum()
        });
    });
    group.finish();
    Spread::of(times)
}

fn load(criterion: &mut Criterion, folders: &Folders) -> Result<Option<Spread>> {
    let cache = folders.disk().join("cache");
    // Another one, for an engine keeps what it has compiled.
    let load = || PolicyEngine::new(Some(&cache), Limits::default())?.load_default();
    load()?;
    Ok(single(criterion, "load from the cache", || drop(load().expect("it loads"))))
}

/// A policy that does nothing, on both sides.
fn empty_tick(
    criterion: &mut Criterion,
    engine: &PolicyEngine,
    folders: &Folders,
) -> Result<Pairs> {
    let policy = engine.load(&component::policy(""))?;
    let local = Engine::open(folders.memory().join("empty"))?;
    let world = World::new(&policy, local, MemoryPeer::new(&[], &[]));
    let world = world.with_policy::<Nothing>(&policy);
    Ok(Pairs::measure(criterion, "empty tick", Effort::Short, |side| {
        world.tick(side).expect("a tick that does nothing").0
    }))
}

/// A tick that finds nothing to do. `dir` has the database, and the cursor when it is a file.
fn in_sync(
    criterion: &mut Criterion,
    policy: &Policy,
    name: &'static str,
    dir: &Path,
    cursor_files: bool,
) -> Result<Pairs> {
    let mut source = Source::open(&dir.join("in-sync"))?;
    let listed = [source.list(VALUE)?];
    let mut world = World::new(policy, source.into_engine(), MemoryPeer::new(&listed, &[]));
    if cursor_files {
        world = world.with_cursor_files(dir)?;
    }
    world.tick(Side::Wasm)?;
    world.check_calls()?;
    Ok(Pairs::measure(criterion, name, Effort::Short, |side| {
        let (took, report) = world.tick(side).expect("a tick in sync");
        assert!(report.in_sync && report.missing == 0, "{report:?}");
        took
    }))
}

/// A peer that lists many segments, of which the node lacks a few.
fn manifest(criterion: &mut Criterion, policy: &Policy, folders: &Folders) -> Result<Pairs> {
    eprintln!("makes {LISTED} segments");
    let mut local = Source::open(&folders.memory().join("long"))?;
    let known: Vec<_> = (0..LISTED - MISSING).map(|_| local.list(0)).collect::<Result<_>>()?;
    let mut remote = Source::open(&folders.memory().join("long-remote"))?;
    let mut world = World::new(policy, local.into_engine(), MemoryPeer::new(&known, &[]));
    Ok(Pairs::measure(criterion, "long manifest", Effort::Long, |side| {
        let made: Vec<_> = (0..MISSING).map(|_| remote.make(VALUE).expect("a segment")).collect();
        world.set_peer(MemoryPeer::new(&known, &made));
        world.pull(side, MISSING).expect("what is missing")
    }))
}

/// Many small segments for an empty node.
fn transfers(criterion: &mut Criterion, policy: &Policy, folders: &Folders) -> Result<Pairs> {
    eprintln!("makes {TRANSFERS} segments");
    let mut remote = Source::open(&folders.memory().join("many"))?;
    let made: Vec<Made> = (0..TRANSFERS).map(|_| remote.make(VALUE)).collect::<Result<_>>()?;
    let small = |made: &Made| (4096..4200).contains(&made.bytes.len());
    ensure!(made.iter().all(small), "segments that are not of 4 KiB");
    Ok(Pairs::measure(criterion, "many transfers", Effort::Long, |side| {
        let dir = tempfile::tempdir_in(folders.memory()).expect("a folder");
        let local = Engine::open(dir.path().join("db")).expect("a database");
        let world = World::new(policy, local, MemoryPeer::new(&[], &made));
        world.pull(side, TRANSFERS).expect("all segments")
    }))
}

/// An empty node gets all of another one over HTTP, as a host does when it starts.
fn bootstrap(criterion: &mut Criterion, policy: &Policy, folders: &Folders) -> Result<Pairs> {
    eprintln!("makes {RECORDS} records");
    let remote = Arc::new(Engine::open(folders.disk().join("remote"))?);
    for first in (0..RECORDS).step_by(data::SEGMENT as usize) {
        let mut batch = WriteBatch::new();
        for i in first..first + data::SEGMENT {
            let (key, value) = data::Data { records: RECORDS, value: 100 }.pair(i);
            batch.put(data::NAMESPACE, &key, &value, None);
        }
        remote.write(batch)?;
        remote.flush()?;
    }
    let (root, segments) = (remote.root(), remote.manifest().len());
    let segments = u32::try_from(segments)?;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::start(remote, any, ServerLimits::default())?;
    let url = format!("http://{}", server.local_addr());
    let pairs = Pairs::measure(criterion, "bootstrap", Effort::Long, |side| {
        let dir = tempfile::tempdir_in(folders.disk()).expect("a folder");
        let local = Engine::open(dir.path().join("db")).expect("a database");
        let peer = HttpPeer::new(&url, ClientLimits::default()).expect("a peer");
        let world = World::new(policy, local, peer);
        let world = world.with_cursor_files(&dir.path().join("db")).expect("a folder for cursors");
        let took = world.pull(side, segments).expect("all segments");
        assert_eq!(world.root(), root);
        took
    });
    server.shutdown();
    Ok(pairs)
}
