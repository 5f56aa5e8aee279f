//! What a host says about itself, as plain data that can cross a socket.

use std::net::SocketAddr;

use edgestore_engine::{Compacted, Engine, EngineStats, Hash};
use edgestore_policy_host::{Comparison, TickReport};
use serde::{Deserialize, Serialize};

use super::{MemoryUse, PolicyState};

/// A host at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Name and version of the policy, as it describes itself.
    pub policy: String,
    /// BLAKE3 of the component, 64 hex digits.
    pub policy_hash: String,
    /// How the policy came to run, and how it does.
    pub policy_state: PolicyState,
    /// Where peers reach this node; none when it does not serve.
    pub listen: Option<SocketAddr>,
    /// The peers, in the order in which they were configured.
    pub peers: Vec<PeerStatus>,
    /// Counters of the engine.
    pub engine: EngineStats,
    /// The root over the local segments, 64 hex digits.
    pub root: String,
    /// The last compaction since the start of the host.
    pub compaction: Option<LastCompaction>,
    /// What is wrong with this node's own data.
    pub health: Health,
    /// Threads of the host that have panicked and do not run any more.
    pub dead_threads: Vec<String>,
    /// What the host may take of memory, and what it has.
    #[serde(default)]
    pub memory: MemoryUse,
}

/// What is wrong with a node's own data.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Health {
    /// Why puts and downloads are refused for want of room; `None` where they are not.
    #[serde(default)]
    pub full: Option<String>,
    /// Why nothing more is written until the database is opened again; `None` where writes go on.
    pub poisoned: Option<String>,
    /// Why the last flush failed, so that no peer can pull what is pending; `None` where it did not.
    #[serde(default)]
    pub unflushed: Option<String>,
    /// What a start found to be lost, a sentence each, and no repair has reported.
    #[serde(default)]
    pub losses: Vec<String>,
    /// Registered segments whose files are missing or damaged.
    pub unreadable: u64,
    /// The first 100 of their hashes, 64 hex digits each.
    pub unreadable_segments: Vec<String>,
    /// Segments with records that reads don't find, because nothing here has them any more.
    pub lost: u64,
    /// The first 100 of their hashes.
    pub lost_segments: Vec<String>,
    /// Sound segment files with records that reads don't find, because no host or write has started
    /// since they came.
    pub unregistered: u64,
}

impl Health {
    /// What is wrong with an open database, as far as it is known without reading all of it.
    pub fn of(engine: &Engine) -> Self {
        let first = |hashes: &[Hash]| hashes.iter().take(100).map(ToString::to_string).collect();
        let unreadable = engine.unreadable();
        let (mut poisoned, mut lost, mut unregistered) = (engine.poisoned(), vec![], vec![]);
        match engine.lost().and_then(|lost| Ok((lost, engine.unregistered()?))) {
            Ok(found) => (lost, unregistered) = found,
            Err(error) => {
                poisoned.get_or_insert_with(|| format!("it can't be read: {error}"));
            }
        }
        Self {
            full: engine.full(),
            poisoned,
            unflushed: engine.unflushed(),
            losses: engine.losses().to_vec(),
            unreadable: unreadable.len() as u64,
            unreadable_segments: first(&unreadable),
            lost: lost.len() as u64,
            lost_segments: first(&lost),
            unregistered: unregistered.len() as u64,
        }
    }

    /// Whether nothing is known to be wrong.
    pub fn is_good(&self) -> bool {
        self.poisoned.is_none()
            && self.full.is_none()
            && self.unflushed.is_none()
            && self.unreadable == 0
            && self.is_complete()
    }

    /// Whether what reads don't find is not there.
    pub fn is_complete(&self) -> bool {
        self.lost == 0 && self.unregistered == 0 && self.losses.is_empty()
    }
}

/// How the last compaction went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCompaction {
    /// When it ended, in Unix seconds.
    pub ended_secs: u64,
    /// What it did. Of one that failed it is not told.
    pub done: Compacted,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// One peer at one moment. Totals are since the start of the host.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The name it was given.
    pub id: String,
    /// Where it is.
    pub url: String,
    /// Whether it tells at once of what is new there; otherwise it is asked at the interval.
    #[serde(default)]
    pub followed: bool,
    /// Ticks that have ended.
    pub ticks: u64,
    /// Failed ticks in a row, up to now.
    pub failures: u32,
    /// How this node compares with the peer, as the host worked it out after the last tick.
    pub comparison: Comparison,
    /// When the host last found the peer in sync, in Unix seconds; `None` where it never did since
    /// its start.
    pub last_in_sync_secs: Option<u64>,
    /// Ticks in a row that ended well and moved nothing, while segments were missing or the policy
    /// did not ask the peer.
    pub idle_ticks: u32,
    /// What the policy said of the last tick that ended well. Not verified but for what was applied.
    pub last_report: Option<TickReport>,
    /// Of the last tick, where that failed.
    pub last_error: Option<String>,
    /// When the last tick ended, in Unix seconds.
    pub last_tick_secs: Option<u64>,
    /// When the last tick ended that ended well, in Unix seconds.
    pub last_success_secs: Option<u64>,
    /// Until the next tick; none while one runs.
    pub next_tick_in_secs: Option<u64>,
    /// Segments applied in ticks that ended well.
    pub segments_applied: u64,
    /// Records written in ticks that ended well.
    pub records_written: u64,
}

impl PeerStatus {
    /// Idle ticks in a row from which on a peer counts as stalled.
    pub const STALLED: u32 = 5;

    /// Whether the last tick ended well, and every segment that the peer listed is here or was
    /// retired here. The host works this out; the policy's word does not count.
    pub fn in_sync(&self) -> bool {
        self.last_error.is_none() && self.comparison.in_sync
    }

    /// Whether segments are missing, and nothing has moved for a number of ticks.
    pub fn is_stalled(&self) -> bool {
        self.idle_ticks >= Self::STALLED
    }
}
