//! Which measurements follow one another, on which databases.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::args::{Args, Part};
use crate::bootstrap::{Pull, Raw};
use crate::data::Data;
use crate::engines::Node;
use crate::job::{Job, Measured};
use crate::process::run as run_job;
use crate::reads::{ReadRates, Reads};
use crate::server::Server;
use crate::tick::{Tick, Ticks};
use crate::writes::Writes;

/// All figures.
#[derive(Default)]
pub struct Results {
    pub bootstraps: Vec<Sync>,
    pub incremental: Option<Sync>,
    pub rows: Vec<Row>,
}

/// One sync, measured in all ways.
pub struct Sync {
    /// Records of the replica before it.
    pub before: u32,
    /// That it brings.
    pub records: u32,
    pub raw: Vec<Measured>,
    pub ours: Vec<Measured>,
    pub stock: Option<Measured>,
}

/// Anything else, in `unit`.
pub struct Row {
    pub what: String,
    pub unit: &'static str,
    pub less_is_better: bool,
    /// Of each run.
    pub ours: Vec<f64>,
    pub stock: Option<f64>,
}

/// Databases that were bootstrapped, and are kept.
#[derive(Default)]
struct Replicas {
    ours: Vec<PathBuf>,
    stock: Option<PathBuf>,
}

/// Runs what was asked for, in folders below `dir`.
pub fn run(args: &Args, dir: &Path) -> Result<Results> {
    let mut results = Results::default();
    for records in args.sizes() {
        let dir = dir.join(records.to_string());
        fs::create_dir(&dir).context("can't make a folder")?;
        of_size(args, records, &dir, &mut results)?;
        fs::remove_dir_all(&dir).context("can't remove a folder")?;
    }
    if args.wants(Part::Writes) {
        writes(args, dir, &mut results.rows)?;
    }
    Ok(results)
}

/// All that is measured beside one primary.
fn of_size(args: &Args, records: u32, dir: &Path, results: &mut Results) -> Result<()> {
    progress(&format!("fills a primary with {records} records"));
    let data = Data { records, value: args.value };
    let mut server = Server::start(Node::Stock, dir.join("primary"), data)?;
    let primary = &server.primary;
    let peak = primary.peak_rss.map_or("-".to_owned(), |peak| format!("{} MiB", peak >> 20));
    progress(&format!(
        "took {:.1} s and {peak}: {} segments, {} bytes",
        primary.seconds, primary.segments, primary.bytes
    ));
    let (sync, replicas) = bootstrap(args, &server, dir)?;
    results.bootstraps.push(sync);
    if records != args.middle() {
        return Ok(());
    }
    if args.wants(Part::Tick) {
        ticks(args, &server, dir, &replicas, &mut results.rows)?;
    }
    if args.wants(Part::Reads) {
        reads(args, &server, dir, &replicas, &mut results.rows)?;
    }
    if args.wants(Part::Incremental) {
        results.incremental = Some(incremental(&mut server, dir, &replicas)?);
    }
    Ok(())
}

fn bootstrap(args: &Args, server: &Server, dir: &Path) -> Result<(Sync, Replicas)> {
    let primary = &server.primary;
    let records = primary.data.records;
    let mut sync = Sync { before: 0, records, raw: vec![], ours: vec![], stock: None };
    let mut replicas = Replicas::default();
    let new = New { records: records.into(), segments: primary.segments, bytes: primary.bytes };
    for run in 0..args.runs() {
        sync.raw.push(raw(server, dir, &new)?);
        let db = dir.join(format!("ours-{run}"));
        sync.ours.push(pull(Node::Ours, &db, server, dir, &new)?);
        replicas.ours.push(db);
        if records != args.middle() {
            replicas.remove()?;
        }
    }
    if args.stock_at(records) {
        let db = dir.join("stock");
        sync.stock = Some(pull(Node::Stock, &db, server, dir, &new)?);
        replicas.stock = Some(db);
    }
    Ok((sync, replicas))
}

/// One in a hundred records more, as one segment, to each replica.
fn incremental(server: &mut Server, dir: &Path, replicas: &Replicas) -> Result<Sync> {
    let before = server.primary.clone();
    let records = (before.data.records / 100).max(1);
    server.add(records)?;
    let new = New {
        records: records.into(),
        segments: server.primary.segments - before.segments,
        bytes: server.primary.bytes - before.bytes,
    };
    let before = before.data.records;
    let mut sync = Sync { before, records, raw: vec![], ours: vec![], stock: None };
    for db in &replicas.ours {
        sync.raw.push(raw(server, dir, &new)?);
        sync.ours.push(pull(Node::Ours, db, server, dir, &new)?);
    }
    if let Some(db) = &replicas.stock {
        sync.stock = Some(pull(Node::Stock, db, server, dir, &new)?);
    }
    Ok(sync)
}

/// What a sync is to bring.
struct New {
    records: u64,
    segments: u64,
    bytes: u64,
}

fn raw(server: &Server, dir: &Path, new: &New) -> Result<Measured> {
    let (db, primary) = (dir.join("raw"), server.primary.clone());
    let skip = (primary.segments - new.segments) as usize;
    let job = Job::Raw(Raw { db: db.clone(), primary, skip, records: new.records });
    let measured: Measured = run_job(&job, dir)?;
    progress(&format!("raw: {:.3} s for {} records", measured.seconds, measured.records));
    fs::remove_dir_all(&db).context("can't remove a database")?;
    Ok(measured)
}

fn pull(node: Node, db: &Path, server: &Server, dir: &Path, new: &New) -> Result<Measured> {
    let (db, primary) = (db.to_owned(), server.primary.clone());
    let job = Job::Pull(Pull { node, db, primary, records: new.records, bytes: new.bytes });
    let measured: Measured = run_job(&job, dir)?;
    progress(&format!("{node:?}: {:.3} s for {} records", measured.seconds, measured.records));
    Ok(measured)
}

fn ticks(
    args: &Args,
    server: &Server,
    dir: &Path,
    replicas: &Replicas,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let url = &server.primary.url;
    let (ours, stock) = replicas.each(dir, "ticks", |node, db| {
        Job::Tick(Tick { node, db, url: url.clone(), times: args.ticks() })
    })?;
    let mut row = |what: &str, of: fn(&Ticks) -> Measured| {
        let micros = |ticks: &Ticks| of(ticks).seconds * 1e6;
        let (ours, stock) = (ours.iter().map(micros).collect(), stock.as_ref().map(micros));
        let what = what.to_owned();
        rows.push(Row { what, unit: "µs", less_is_better: true, ours, stock });
    };
    row("tick in sync", |ticks| ticks.tick);
    row("the same, no cursor put on disk", |ticks| ticks.unstored);
    row("its two requests alone", |ticks| ticks.probe);
    Ok(())
}

fn reads(
    args: &Args,
    server: &Server,
    dir: &Path,
    replicas: &Replicas,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let data = server.primary.data;
    let (ours, stock) = replicas.each(dir, "reads", |node, db| {
        Job::Reads(Reads { node, db, data, seconds: args.read_seconds() })
    })?;
    let mut row = |what: &str, unit, of: fn(&ReadRates) -> Measured| {
        let rate = |rates: &ReadRates| of(rates).rate();
        let (ours, stock) = (ours.iter().map(rate).collect(), stock.as_ref().map(rate));
        rows.push(Row { what: what.to_owned(), unit, less_is_better: false, ours, stock });
    };
    row("get, key present", "gets/s", |rates| rates.get_present);
    row("get, key absent", "gets/s", |rates| rates.get_absent);
    row("scan of 100 records", "records/s", |rates| rates.scan_100);
    row("scan of all records", "records/s", |rates| rates.scan_all);
    Ok(())
}

impl Replicas {
    /// Makes room: nobody looks at them any more.
    fn remove(&mut self) -> Result<()> {
        let mut all = self.ours.drain(..).chain(self.stock.take());
        all.try_for_each(fs::remove_dir_all).context("can't remove a database")
    }

    fn each<T: serde::de::DeserializeOwned>(
        &self,
        dir: &Path,
        what: &str,
        job: impl Fn(Node, PathBuf) -> Job,
    ) -> Result<(Vec<T>, Option<T>)> {
        progress(&format!("{what} of {} replicas", self.ours.len()));
        let ours = self.ours.iter().map(|db| run_job(&job(Node::Ours, db.clone()), dir));
        let ours = ours.collect::<Result<_>>()?;
        let stock = self.stock.as_ref().map(|db| {
            progress(&format!("{what} of the stock replica"));
            run_job(&job(Node::Stock, db.clone()), dir)
        });
        Ok((ours, stock.transpose()?))
    }
}

fn writes(args: &Args, dir: &Path, rows: &mut Vec<Row>) -> Result<()> {
    for (sync, batch, what) in [
        (true, 1, "single puts with fsync"),
        (true, 100, "batches of 100 with fsync"),
        (false, 1, "single puts without fsync"),
        (false, 100, "batches of 100 without fsync"),
    ] {
        progress(what);
        let write = |node| -> Result<f64> {
            let db = dir.join("writes");
            let data = Data { records: args.writes(), value: args.value };
            let seconds = args.write_seconds();
            let job = Job::Writes(Writes { node, db: db.clone(), data, sync, batch, seconds });
            let measured: Measured = run_job(&job, dir)?;
            fs::remove_dir_all(&db).context("can't remove a database")?;
            Ok(measured.rate())
        };
        let ours = (0..args.runs()).map(|_| write(Node::Ours)).collect::<Result<_>>()?;
        // A stock transaction always does an fsync.
        let stock = args.stock && (sync || batch == 1);
        let stock = stock.then(|| write(Node::Stock)).transpose()?;
        let what = what.to_owned();
        rows.push(Row { what, unit: "records/s", less_is_better: false, ours, stock });
    }
    Ok(())
}

fn progress(what: &str) {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    eprintln!("{:6.1} s: {what}", START.elapsed().as_secs_f64());
}
