//! `status`: the database, and what the host that runs on it is doing.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use super::database::{Database, Status};
use super::{compact, output};
use crate::engine::EngineStats;
use crate::runtime::{HostStatus, LastCompaction, PeerStatus, PolicyState, Probation};

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Prints a JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(db: &Path, args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let status = Database::read(db)?.status()?;
    let text = if args.json { json(&status)? } else { text(&status, now()) };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The fields of a [`HostStatus`], and `running`; of these `engine` and `root` alone when no host
/// runs.
fn json(status: &Status) -> anyhow::Result<String> {
    let value = match status {
        Status::Running(host) => {
            let mut value = serde_json::to_value(host)?;
            value["running"] = true.into();
            for (value, peer) in
                value["peers"].as_array_mut().into_iter().flatten().zip(&host.peers)
            {
                value["in_sync"] = peer.in_sync().into();
            }
            value
        }
        Status::Idle { engine, root } => {
            serde_json::json!({ "running": false, "engine": engine, "root": root })
        }
    };
    Ok(format!("{value:#}\n"))
}

fn text(status: &Status, now: u64) -> String {
    let mut text = String::new();
    match status {
        Status::Running(host) => {
            text += &host_rows(host, now);
            text += &engine_rows(&host.engine, &host.root);
            text += &compaction_row(host.compaction.as_ref(), now);
            if !host.peers.is_empty() {
                let _ = write!(text, "\n{}", peer_rows(&host.peers, now));
            }
        }
        Status::Idle { engine, root } => {
            text += "host      no host is running\n";
            text += &engine_rows(engine, root);
        }
    }
    text
}

fn host_rows(host: &HostStatus, now: u64) -> String {
    let listen = host.listen.map_or("serves nobody".to_owned(), |addr| format!("http://{addr}"));
    let hash = host.policy_hash.get(..8).unwrap_or(&host.policy_hash);
    let policy = policy_rows(&host.policy_state, now);
    format!("host      running\npolicy    {} ({hash})\n{policy}listen    {listen}\n", host.policy)
}

/// How the policy stands.
fn policy_rows(state: &PolicyState, now: u64) -> String {
    let since = seconds(now.saturating_sub(state.since_secs));
    let mut rows = format!("          for {since}, from {}\n", state.origin);
    if let Some(trial) = &state.probation {
        let Probation { passed, needed, failures, max_failures, fallback } = trial;
        let _ = writeln!(
            rows,
            "          on probation: {passed} of {needed} ticks ended well, {failures} of \
             {max_failures} failed in a row; falls back to {fallback}"
        );
    }
    if let Some(last) = &state.last_event {
        let ago = seconds(now.saturating_sub(last.at_secs));
        let policy = last.policy.as_deref().unwrap_or("a policy");
        let event = last.event.as_str();
        let _ = writeln!(rows, "          last: {policy} {event} {ago} ago: {}", last.why);
    }
    rows
}

fn engine_rows(stats: &EngineStats, root: &str) -> String {
    format!(
        "segments  {} ({}, {}), {} retired\npending   {}, {}\ndisk      {}\nroot      {root}\n",
        stats.segments,
        output::records(stats.segment_records),
        output::size(stats.segment_bytes),
        stats.retired_segments,
        output::records(stats.pending_records),
        output::size(stats.pending_bytes),
        output::size(stats.disk_bytes),
    )
}

fn compaction_row(last: Option<&LastCompaction>, now: u64) -> String {
    let Some(last) = last else { return "compacted not yet\n".to_owned() };
    let ago = seconds(now.saturating_sub(last.ended_secs));
    let what = match &last.error {
        Some(error) => format!("failed: {error}"),
        None if last.done.stopped => format!("stopped: {}", compact::words(&last.done)),
        None => compact::words(&last.done),
    };
    format!("compacted {ago} ago: {what}\n")
}

fn peer_rows(peers: &[PeerStatus], now: u64) -> String {
    let columns =
        ["peer", "in sync", "last tick", "next tick", ">ticks", ">segments", ">records", "url"];
    let mut table = output::table(&columns);
    for peer in peers {
        let last = match peer.last_tick_secs {
            Some(secs) => format!("{} ago", seconds(now.saturating_sub(secs))),
            None => "none yet".to_owned(),
        };
        let next = peer.next_tick_in_secs;
        let next = next.map_or("running".to_owned(), |secs| format!("in {}", seconds(secs)));
        table.add_row([
            peer.id.clone(),
            yes_no(peer.in_sync()).to_owned(),
            last,
            next,
            peer.ticks.to_string(),
            peer.segments_applied.to_string(),
            peer.records_written.to_string(),
            peer.url.clone(),
        ]);
    }
    let mut text = output::lines(&table);
    for peer in peers {
        if let Some(error) = &peer.last_error {
            let failures = peer.failures;
            let _ = writeln!(text, "{}: failed {failures} times in a row: {error}", peer.id);
        }
    }
    text
}

fn seconds(secs: u64) -> String {
    humantime::format_duration(Duration::from_secs(secs)).to_string()
}

pub(super) fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Compacted;

    fn host() -> HostStatus {
        HostStatus {
            policy: "sync 1.0".into(),
            policy_hash: "ab".repeat(32),
            policy_state: PolicyState {
                since_secs: 70,
                origin: "sync.wasm".into(),
                probation: Some(Probation {
                    passed: 4,
                    needed: 20,
                    failures: 1,
                    max_failures: 3,
                    fallback: "default 0.1".into(),
                }),
                last_event: None,
            },
            listen: Some(([127, 0, 0, 1], 8900).into()),
            peers: vec![PeerStatus {
                id: "a".into(),
                url: "http://a:1".into(),
                ticks: 3,
                failures: 2,
                last_error: Some("no route".into()),
                last_tick_secs: Some(90),
                next_tick_in_secs: Some(18),
                ..PeerStatus::default()
            }],
            engine: EngineStats { segments: 4, retired_segments: 8, ..EngineStats::default() },
            root: "00".repeat(32),
            compaction: Some(LastCompaction {
                ended_secs: 40,
                done: Compacted { retired: 8, ..Compacted::default() },
                error: None,
            }),
        }
    }

    #[test]
    fn a_running_host_shows_its_peers_and_their_errors() {
        let text = text(&Status::Running(Box::new(host())), 100);
        for part in [
            "policy    sync 1.0 (abababab)\n          for 30s, from sync.wasm",
            "4 of 20 ticks ended well, 1 of 3 failed in a row; falls back to default 0.1",
            "http://127.0.0.1:8900",
            "10s ago",
            "4 (0 records, 0 B), 8 retired",
            "compacted 1m ago: retired 8 segments",
            "in 18s",
            "a: failed 2 times in a row: no route",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn json_says_whether_a_host_runs() {
        let running = json(&Status::Running(Box::new(host()))).unwrap();
        let running: serde_json::Value = serde_json::from_str(&running).unwrap();
        assert_eq!(running["running"], true);
        assert_eq!(running["peers"][0]["in_sync"], false);
        assert_eq!(running["engine"]["segments"], 4);
        assert_eq!(running["compaction"]["done"]["retired"], 8);
        let idle = Status::Idle { engine: EngineStats::default(), root: String::new() };
        assert!(json(&idle).unwrap().contains("\"running\": false"));
        assert!(text(&idle, 0).contains("no host is running"));
    }
}
