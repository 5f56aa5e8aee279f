//! `demo`: two nodes with data of their own pull from each other over HTTP, through the embedded
//! policy, until they hold the same. Nothing in it is staged: whatever differs fails it.

mod compare;
mod data;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};

use self::compare::Comparison;
use super::{exit, output};
use crate::Hash;
use crate::engine::Engine;
use crate::runtime::Host;

/// Between two looks at how far a node is.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Records that the primary writes; the replica writes a tenth of it
    #[arg(long, value_name = "N", default_value_t = 100_000,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    records: u64,
    /// Makes the databases in this folder, and leaves them there
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// One direction of the sync.
struct Pull {
    what: &'static str,
    segments: u64,
    records: u64,
    seconds: f64,
}

pub(super) fn run(args: &DemoArgs) -> Result<ExitCode> {
    // Goes when this returns, after the engines in it.
    let temporary;
    let dir = match &args.keep {
        Some(dir) => {
            make_empty(dir)?;
            dir
        }
        None => {
            let made = tempfile::Builder::new().prefix("edgestore-demo-").tempdir();
            temporary = made.context("can't make a temporary folder: give --keep DIR")?;
            temporary.path()
        }
    };
    let primary = Arc::new(Engine::open(dir.join("primary"))?);
    let replica = Arc::new(Engine::open(dir.join("replica"))?);

    let bar = bar("writing readings", args.records);
    data::write(&primary, &replica, args.records, |done| bar.set_position(done))?;
    bar.finish_and_clear();
    if primary.root() == replica.root() {
        bail!("the nodes do not differ before they sync; please report this");
    }
    let there = pull(&replica, "primary", &primary, "replica from primary")?;
    let back = pull(&primary, "replica", &replica, "primary from replica")?;

    let spinner = ProgressBar::new_spinner().with_message("comparing all records");
    spinner.enable_steady_tick(PAUSE * 2);
    let Comparison { records, mut difference } = compare::engines(&primary, &replica)?;
    spinner.finish_and_clear();
    if difference.is_none() && primary.root() != replica.root() {
        difference = Some("all records are equal, but the roots are not".to_owned());
    }
    output::print(&report(&primary, &replica, records, &[there, back]))?;
    if let Some(difference) = difference {
        return Err(exit::no(format!("the nodes differ: {difference}")));
    }
    output::print("converged: both nodes hold the same records and have the same root\n")?;
    if let Some(dir) = &args.keep {
        let replica = dir.join("replica");
        output::note(&format!(
            "to look into one: edgestore-host --db {} scan devices",
            replica.display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn make_empty(dir: &Path) -> Result<()> {
    let empty = fs::create_dir_all(dir)
        .and_then(|()| fs::read_dir(dir))
        .map(|mut entries| entries.next().is_none())
        .with_context(|| format!("can't use {} for the databases", dir.display()))?;
    if !empty {
        return Err(exit::usage(format!(
            "{} is not empty: give --keep a new folder",
            dir.display()
        )));
    }
    Ok(())
}

/// Serves `source` on a free port and pulls all that `engine` lacks.
fn pull(
    engine: &Arc<Engine>,
    source_id: &str,
    source: &Arc<Engine>,
    what: &'static str,
) -> Result<Pull> {
    let host = Host::builder(Arc::clone(source)).listen((Ipv4Addr::LOCALHOST, 0).into()).start()?;
    let addr = host.local_addr().context("the host does not serve")?;
    let hashes: Vec<Hash> = source.manifest().iter().map(|segment| segment.hash).collect();
    let bar = bar(what, u64::try_from(hashes.len())?);
    let show = || {
        let missing = engine.missing(&hashes).len();
        bar.set_position(u64::try_from(hashes.len() - missing).unwrap_or_default());
    };
    let client = Host::builder(Arc::clone(engine)).peer(source_id, format!("http://{addr}"));
    let start = Instant::now();
    let peers = thread::scope(|scope| {
        let client = scope.spawn(|| client.run_once());
        while !client.is_finished() {
            show();
            thread::sleep(PAUSE);
        }
        client.join().map_err(|_| anyhow!("the sync panicked; please report this"))
    })??;
    let seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();
    host.shutdown();
    let peer = peers.first().context("the host has no peer")?;
    if !peer.in_sync() {
        let error = peer.last_error.as_deref().unwrap_or("segments are still missing");
        bail!("{what}: {error}");
    }
    Ok(Pull { what, segments: peer.segments_applied, records: peer.records_written, seconds })
}

fn report(primary: &Engine, replica: &Engine, records: [u64; 2], pulls: &[Pull]) -> String {
    let mut nodes = output::table(&["node", ">segments", ">records", ">bytes", "root"]);
    for (name, engine, records) in
        [("primary", primary, records[0]), ("replica", replica, records[1])]
    {
        let stats = engine.stats();
        nodes.add_row([
            name.to_owned(),
            stats.segments.to_string(),
            records.to_string(),
            stats.segment_bytes.to_string(),
            engine.root().to_string(),
        ]);
    }
    let mut table = output::table(&["pulled", ">segments", ">records", ">seconds", ">records/s"]);
    for pull in pulls {
        table.add_row([
            pull.what.to_owned(),
            pull.segments.to_string(),
            pull.records.to_string(),
            format!("{:.2}", pull.seconds),
            format!("{:.0}", pull.records as f64 / pull.seconds.max(1e-9)),
        ]);
    }
    format!("{}\n{}\n", output::lines(&nodes), output::lines(&table))
}

/// On standard error, and hidden when that is no terminal.
fn bar(message: &'static str, len: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:22} {bar:32} {pos}/{len}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(len).with_style(style).with_message(message)
}
