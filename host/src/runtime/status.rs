//! What a host says about itself, as plain data that can cross a socket.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::PolicyState;
use crate::engine::{Compacted, EngineStats};
use crate::policy::TickReport;

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
    /// Ticks that have ended.
    pub ticks: u64,
    /// Failed ticks in a row, up to now.
    pub failures: u32,
    /// Of the last tick that ended well.
    pub last_report: Option<TickReport>,
    /// Of the last tick, where that failed.
    pub last_error: Option<String>,
    /// When the last tick ended, in Unix seconds.
    pub last_tick_secs: Option<u64>,
    /// Until the next tick; none while one runs.
    pub next_tick_in_secs: Option<u64>,
    /// Segments applied in ticks that ended well.
    pub segments_applied: u64,
    /// Records written in ticks that ended well.
    pub records_written: u64,
}

impl PeerStatus {
    /// Whether the last tick ended well and found nothing left to pull.
    pub fn in_sync(&self) -> bool {
        self.last_error.is_none() && self.last_report.as_ref().is_some_and(|report| report.in_sync)
    }
}
