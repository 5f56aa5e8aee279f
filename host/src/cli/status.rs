//! `status`: the database, and what the host that runs on it is doing.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use super::database::{Database, Status};
use super::{compact, output};
use crate::engine::{EngineOptions, EngineStats};
use crate::policy::Comparison;
use crate::runtime::{
    Health, HostStatus, LastCompaction, MemoryUse, PeerStatus, PolicyState, Probation,
};
use crate::text::{LINE, visible};

/// Of a comparison: null where it is unknown what is missing.
const COUNTS: [&str; 6] = ["missing", "fetching", "untried", "failed", "deferred", "rejected"];

#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Prints a JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(db: &Path, args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let status = Database::read(db)?.status()?;
    match args.json {
        true => output::print_json(&json(&status)?)?,
        false => output::print(&text(&status, now()))?,
    }
    let good = match &status {
        Status::Running(host) => {
            let in_sync = host.peers.iter().all(PeerStatus::in_sync);
            in_sync && host.health.is_good() && host.dead_threads.is_empty()
        }
        Status::Idle { health, .. } => health.is_good(),
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The fields of a [`HostStatus`], and `running`; of these `engine`, `root` and `health` alone when
/// no host runs. Each peer also has `in_sync` and `stalled`, which the host works out.
fn json(status: &Status) -> anyhow::Result<String> {
    let value = match status {
        Status::Running(host) => {
            let mut value = serde_json::to_value(host)?;
            value["running"] = true.into();
            for (value, peer) in
                value["peers"].as_array_mut().into_iter().flatten().zip(&host.peers)
            {
                value["in_sync"] = peer.in_sync().into();
                value["stalled"] = peer.is_stalled().into();
                if peer.comparison.unknown.is_some() {
                    for count in COUNTS {
                        value["comparison"][count] = serde_json::Value::Null;
                    }
                }
            }
            value
        }
        Status::Idle { engine, root, health } => serde_json::json!({
            "running": false, "engine": engine, "root": root, "health": health,
        }),
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
            text += &health_rows(&host.health);
            for thread in &host.dead_threads {
                let _ = writeln!(text, "DEAD      thread {thread} panicked: restart the host");
            }
            if !host.peers.is_empty() {
                let _ = write!(text, "\n{}", peer_rows(&host.peers, &host.root, now));
            }
        }
        Status::Idle { engine, root, health } => {
            text += "host      no host is running\n";
            text += &engine_rows(engine, root);
            text += &health_rows(health);
        }
    }
    text
}

fn host_rows(host: &HostStatus, now: u64) -> String {
    let listen = host.listen.map_or("serves nobody".to_owned(), |addr| format!("http://{addr}"));
    let hash = host.policy_hash.get(..8).unwrap_or(&host.policy_hash);
    let policy = policy_rows(&host.policy_state, now);
    let name = line(&host.policy);
    let memory = memory_row(host.memory);
    format!("host      running\npolicy    {name} ({hash})\n{policy}listen    {listen}\n{memory}")
}

fn memory_row(MemoryUse { budget, resident }: MemoryUse) -> String {
    let now = resident.map_or_else(String::new, |bytes| format!("{} of ", output::size(bytes)));
    format!("memory    {now}a budget of {}\n", output::size(budget))
}

/// How the policy stands.
fn policy_rows(state: &PolicyState, now: u64) -> String {
    let since = seconds(now.saturating_sub(state.since_secs));
    let mut rows = format!("          for {since}, from {}\n", line(&state.origin));
    if let Some(trial) = &state.probation {
        let Probation { passed, needed, failures, max_failures, fallback } = trial;
        let _ = writeln!(
            rows,
            "          on probation: {passed} of {needed} ticks ended well, {failures} of \
             {max_failures} failed in a row; falls back to {}",
            line(fallback)
        );
    }
    if let Some(last) = &state.last_event {
        let ago = seconds(now.saturating_sub(last.at_secs));
        let policy = line(last.policy.as_deref().unwrap_or("a policy"));
        let (event, why) = (last.event.as_str(), line(&last.why));
        let _ = writeln!(rows, "          last: {policy} {event} {ago} ago: {why}");
    }
    rows
}

fn engine_rows(stats: &EngineStats, root: &str) -> String {
    format!(
        "segments  {} ({}, {}), {} retired\npending   {}, {}\ndisk      {}{}\nroot      {root}\n",
        stats.segments,
        output::records(stats.segment_records),
        output::size(stats.segment_bytes),
        stats.retired_segments,
        output::records(stats.pending_records),
        output::size(stats.pending_bytes),
        output::size(stats.disk_bytes),
        room(stats),
    ) + &clock_row(stats)
}

/// What else the disk and the database's bound have.
fn room(stats: &EngineStats) -> String {
    let mut text = String::new();
    if let Some(max) = stats.max_db_bytes {
        let _ = write!(text, " of {} at most", output::size(max));
    }
    if let Some((free, reserve)) = stats.disk_free.zip(stats.disk_reserve) {
        let _ = write!(
            text,
            "; the disk has {} free, and {} of it stay free",
            output::size(free),
            output::size(reserve)
        );
    }
    text
}

/// None while peers take what is written here.
fn clock_row(stats: &EngineStats) -> String {
    if stats.clock_ahead_secs <= EngineOptions::default().max_clock_ahead.as_secs() {
        return String::new();
    }
    format!(
        "clock     stamps are {} ahead of it: peers wait with {} segments of {}, and with new \
         writes; see `clock`\n",
        seconds(stats.clock_ahead_secs),
        stats.segments_ahead,
        output::records(stats.records_ahead),
    )
}

fn compaction_row(last: Option<&LastCompaction>, now: u64) -> String {
    let Some(last) = last else { return "compacted not yet\n".to_owned() };
    let ago = seconds(now.saturating_sub(last.ended_secs));
    let what = match &last.error {
        Some(error) => format!("failed: {}", line(error)),
        None if last.done.stopped => format!("stopped: {}", compact::words(&last.done)),
        None => compact::words(&last.done),
    };
    format!("compacted {ago} ago: {what}\n")
}

/// What is wrong with the node's own data; nothing where all is well.
pub(super) fn health_rows(health: &Health) -> String {
    let name = |rows: &mut String, hashes: &[String]| {
        hashes.iter().for_each(|hash| *rows += &format!("          {hash}\n"));
    };
    let mut rows = String::new();
    if let Some(why) = &health.poisoned {
        let why = line(why);
        let _ = writeln!(rows, "POISONED  nothing is written now: {why}");
    }
    if let Some(why) = &health.full {
        let _ = writeln!(rows, "FULL      {}", line(why));
    }
    if let Some(why) = &health.unflushed {
        let _ = writeln!(
            rows,
            "UNFLUSHED no peer can pull what is pending, as the last flush failed: {}",
            line(why)
        );
    }
    for line in &health.losses {
        let _ =
            writeln!(rows, "LOSSES    {line}.\n          verify --repair reports it and ends this");
    }
    if health.unreadable > 0 {
        let _ = writeln!(
            rows,
            "DAMAGED   {} of this node without an intact file: pulled again from a peer that \
             has it.\n          If none has: verify --repair",
            segments(health.unreadable)
        );
        name(&mut rows, &health.unreadable_segments);
    }
    if health.lost > 0 {
        let _ = writeln!(
            rows,
            "LOST      {} with records that reads don't find: a peer that has it, or a backup, brings \
             them back.\n          If none has: verify --repair --accept-loss",
            segments(health.lost)
        );
        name(&mut rows, &health.lost_segments);
    }
    if health.unregistered > 0 {
        let _ = writeln!(
            rows,
            "UNREAD    {} in segments/ with records that reads don't find yet: the next write, or \
             start of a host, registers it",
            segments(health.unregistered)
        );
    }
    rows
}

fn peer_rows(peers: &[PeerStatus], root: &str, now: u64) -> String {
    let columns = [
        "peer",
        "in sync",
        ">missing",
        "last success",
        "next tick",
        "followed",
        ">ticks",
        ">segments",
        ">records",
        "url",
    ];
    let mut table = output::table(&columns);
    for peer in peers {
        let last = match peer.last_success_secs {
            Some(secs) => format!("{} ago", seconds(now.saturating_sub(secs))),
            None => "none yet".to_owned(),
        };
        let missing = match peer.comparison.unknown {
            Some(_) => "unknown".to_owned(),
            None => peer.comparison.missing.to_string(),
        };
        let next = peer.next_tick_in_secs;
        let next = next.map_or("running".to_owned(), |secs| format!("in {}", seconds(secs)));
        table.add_row([
            peer.id.clone(),
            yes_no(peer.in_sync()).to_owned(),
            missing,
            last,
            next,
            yes_no(peer.followed).to_owned(),
            peer.ticks.to_string(),
            peer.segments_applied.to_string(),
            peer.records_written.to_string(),
            peer.url.clone(),
        ]);
    }
    let mut text = output::lines(&table);
    for peer in peers {
        if let Some(error) = &peer.last_error {
            let (failures, error) = (peer.failures, line(error));
            let _ = writeln!(text, "{}: failed {failures} times in a row: {error}", peer.id);
        }
        if !peer.in_sync() && peer.ticks > 0 {
            text += &behind_rows(peer, root, now);
        }
    }
    text
}

/// Why a peer is not in sync, as far as that is known.
fn behind_rows(peer: &PeerStatus, root: &str, now: u64) -> String {
    let (id, comparison) = (&peer.id, &peer.comparison);
    let Comparison { missing, fetching, untried, failed, deferred, rejected, .. } = *comparison;
    let short = |hash: &str| hash.get(..16).unwrap_or(hash).to_owned();
    let theirs = comparison.peer_root.as_deref().map_or("unknown".to_owned(), short);
    let mut rows = format!("{id}: root {theirs} there, {} here\n", short(root));
    if let Some(why) = &comparison.unknown {
        let _ = writeln!(rows, "{id}: it is unknown what is missing: {}", line(why));
    }
    if let (Some(listed), 1..) = (comparison.listed, missing) {
        let kinds = [
            (untried, "not tried to the end yet"),
            (fetching, "being fetched"),
            (failed, "failed"),
            (deferred, "deferred (stamped in the future)"),
            (rejected, "rejected"),
        ];
        let kinds = kinds.iter().filter(|(count, _)| *count > 0);
        let kinds: Vec<_> = kinds.map(|(count, kind)| format!("{count} {kind}")).collect();
        let kinds = kinds.join(", ");
        let _ = writeln!(rows, "{id}: {missing} of {listed} segments are missing: {kinds}");
    }
    if peer.is_stalled() {
        let ticks = peer.idle_ticks;
        let _ = writeln!(rows, "{id}: STALLED: nothing has moved in {ticks} ticks");
    }
    for aside in &comparison.set_aside {
        let (hash, reason, tries) = (&aside.hash, aside.reason.as_str(), aside.tries);
        let _ = writeln!(rows, "  {hash} {reason} ({tries}x): {}", line(&aside.why));
    }
    if comparison.set_aside.len() as u64 == 100 {
        let _ = writeln!(rows, "  (only the first 100 are shown)");
    }
    if let Some(report) = &peer.last_report {
        let says = if report.in_sync { "in sync" } else { "not in sync" };
        let _ = writeln!(
            rows,
            "{id}: the policy says: {says}, {} pending, {} quarantined (`wake --retry` tries them \
             now)",
            report.pending, report.quarantined
        );
    }
    if let Some(secs) = peer.last_in_sync_secs {
        let ago = seconds(now.saturating_sub(secs));
        let _ = writeln!(rows, "{id}: last in sync {ago} ago");
    }
    rows
}

/// What others said, kept to its line, so that it forges no row.
fn line(text: &str) -> Cow<'_, str> {
    visible(text, LINE)
}

fn segments(count: u64) -> String {
    format!("{count} segment{}", if count == 1 { "" } else { "s" })
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
                last_tick_secs: Some(95),
                last_success_secs: Some(90),
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
            health: Health::default(),
            dead_threads: Vec::new(),
            memory: MemoryUse::default(),
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
    fn what_others_said_forges_no_row() {
        let mut host = host();
        let bad = "x\nDAMAGED   all\x1b[2J\u{202e}";
        host.peers[0].last_error = Some(bad.into());
        host.peers[0].comparison.unknown = Some(bad.into());
        host.policy_state.origin = bad.into();
        host.health.poisoned = Some(bad.into());
        let text = text(&Status::Running(Box::new(host)), 100);
        let shown = "x\\u{a}DAMAGED   all\\u{1b}[2J\\u{202e}";
        assert_eq!(text.matches(shown).count(), 4, "{text}");
        assert!(!text.lines().any(|line| line.starts_with("DAMAGED")), "{text}");
    }

    #[test]
    fn json_says_whether_a_host_runs() {
        let running = json(&Status::Running(Box::new(host()))).unwrap();
        let running: serde_json::Value = serde_json::from_str(&running).unwrap();
        assert_eq!(running["running"], true);
        assert_eq!(running["peers"][0]["in_sync"], false);
        assert_eq!(running["engine"]["segments"], 4);
        assert_eq!(running["compaction"]["done"]["retired"], 8);
        let idle = Status::Idle {
            engine: EngineStats::default(),
            root: String::new(),
            health: Box::default(),
        };
        assert!(json(&idle).unwrap().contains("\"running\": false"));
        assert!(text(&idle, 0).contains("no host is running"));
    }
}
