//! `clock`: how far this node's stamps are ahead of its wall clock, and the way back.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};

use super::args;
use super::database::{Database, Missing, Status};
use super::output;
use crate::engine::{ClockState, EngineOptions, EngineStats};

#[derive(Debug, clap::Args)]
pub(super) struct ClockArgs {
    /// Stamps local records from too far ahead again, by the clock as it is now, and makes new
    /// segments of them. For records that no peer has taken: set the clock right first
    #[arg(long)]
    restamp: bool,
    /// Does so although peers have brought records from the future, too, and may have taken these
    #[arg(long, requires = "restamp")]
    despite_peers: bool,
    /// As of `run`, where no host runs: what is further ahead is from the future
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    max_clock_ahead: Option<Duration>,
    /// Prints a JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(db: &Path, args: &ClockArgs) -> Result<ExitCode> {
    let mut options = EngineOptions::default();
    options.max_clock_ahead = args.max_clock_ahead.unwrap_or(options.max_clock_ahead);
    let mut database = Database::open_with(db, Missing::Fail, &options)?;
    let engine = match &database {
        Database::Direct(engine) => engine,
        Database::Remote(_) if args.restamp => bail!(
            "a host runs on {}: stop it first, because it stamps new writes meanwhile",
            db.display()
        ),
        Database::Remote(_) => {
            let Status::Running(host) = database.status()? else { bail!("the host has stopped") };
            output::print(&summary(&host.engine, args.json))?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    if args.restamp {
        let done = engine.restamp(args.despite_peers)?;
        let text = if args.json {
            let done = serde_json::json!({
                "records": done.records, "retired": done.retired, "kept": done.kept,
                "stamp": done.stamp,
            });
            format!("{done:#}\n")
        } else if done.records == 0 {
            "no local record is stamped too far ahead\n".to_owned()
        } else {
            format!(
                "stamped {} again, and retired {} segment{}; the latest stamp is {} now\n",
                output::records(done.records),
                done.retired,
                if done.retired == 1 { "" } else { "s" },
                time(done.stamp)
            )
        };
        output::print(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let state = engine.clock_state()?;
    output::print(&if args.json { json(&state) } else { text(&state) })?;
    Ok(ExitCode::SUCCESS)
}

/// What a running host says.
fn summary(stats: &EngineStats, json: bool) -> String {
    let EngineStats { clock_ahead_secs, segments_ahead, records_ahead, .. } = *stats;
    if json {
        let value = serde_json::json!({
            "ahead_secs": clock_ahead_secs,
            "segments_ahead": segments_ahead,
            "records_ahead": records_ahead,
        });
        return format!("{value:#}\n");
    }
    let mut text = format!("ahead     {}\n", seconds(clock_ahead_secs));
    if segments_ahead > 0 {
        text += &format!(
            "          peers wait with {segments_ahead} segments of {}: stop the host for more\n",
            output::records(records_ahead)
        );
    }
    text
}

fn json(state: &ClockState) -> String {
    let segments = |list: &[crate::engine::SegmentMeta]| {
        let segments = list.iter().map(|segment| {
            serde_json::json!({
                "id": segment.id,
                "hash": segment.hash.to_string(),
                "records": segment.records,
            })
        });
        serde_json::Value::from_iter(segments)
    };
    let value = serde_json::json!({
        "wall": state.wall,
        "stamp": state.stamp,
        "ahead_secs": state.ahead_secs,
        "bound_secs": state.bound_secs,
        "records": state.records,
        "pending": state.pending,
        "segments": segments(&state.segments),
        "foreign": segments(&state.foreign),
    });
    format!("{value:#}\n")
}

fn text(state: &ClockState) -> String {
    let mut text = format!(
        "clock     {}\nstamp     {}\nahead     {}, and peers take {}\n",
        time(state.wall),
        time(state.stamp),
        seconds(state.ahead_secs),
        seconds(state.bound_secs),
    );
    if !state.is_ahead() {
        return text + "          nothing is stamped too far ahead\n";
    }
    text += &format!(
        "too far   {}, {} of them in no segment yet\n",
        output::records(state.records),
        state.pending
    );
    for (whose, segments) in [("own", &state.segments), ("peer's", &state.foreign)] {
        for segment in segments {
            let (hash, records) = (segment.hash, output::records(segment.records));
            text += &format!("          {whose} segment {hash}, {records}\n");
        }
    }
    text + "Peers with a right clock take none of this before its time, and what is written here now \
            is stamped\nstill later. Set the clock right, then give --restamp. It is for records that \
            no peer has taken: one\nwhose clock was as wrong may have, and keeps them until it is \
            started from an empty folder.\n"
}

fn time(nanos: i64) -> String {
    let nanos = u64::try_from(nanos).unwrap_or(0);
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanos));
    at.map_or("never".to_owned(), |at| humantime::format_rfc3339_seconds(at).to_string())
}

fn seconds(secs: u64) -> String {
    humantime::format_duration(Duration::from_secs(secs)).to_string()
}
