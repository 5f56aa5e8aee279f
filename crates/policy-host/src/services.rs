//! What a tick needs of the rest of the host.

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use edgestore_engine::env::{Clock, SystemClock};
use edgestore_engine::{Engine, Hash};

use super::{Downloads, Observer, Peer};

/// What one tick can reach.
pub struct Services {
    /// The local engine.
    pub engine: Arc<Engine>,
    /// All configured peers.
    pub peers: Vec<Arc<Peer>>,
    /// The position in `peers` of the one being ticked.
    pub current: usize,
    /// Where the policy's memory is kept.
    pub cursors: Arc<dyn CursorStore>,
    /// What the ticks of all peers are fetching.
    pub downloads: Arc<Downloads>,
    /// The second home for segments, where there is one.
    pub archive: Option<Arc<dyn Archive>>,
    /// What the policy takes for the time. Timeouts are by the machine's clock in any case.
    pub clock: Arc<dyn Clock>,
    /// Of `random`.
    pub seed: u64,
    /// Who is told of each host call; none in normal operation.
    pub observer: Option<Arc<dyn Observer>>,
}

/// Whose cursor it is: policies of one name and one schema read what the others wrote.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CursorLayout {
    /// The name by which the policy describes itself.
    pub policy: String,
    /// Its `cursor-schema`.
    pub schema: u32,
}

/// Where cursors are kept, one a peer and layout. The one that was used last is the peer's current
/// one; when a policy of another layout takes over, the others are kept for their owners.
pub trait CursorStore: Send + Sync {
    /// The last value that was stored in this layout; none at first.
    ///
    /// # Errors
    /// When the value is there but can't be read.
    fn load(&self, peer: &str, layout: &CursorLayout) -> io::Result<Option<Vec<u8>>>;

    /// Replaces the value of this layout. It is on disk when this returns.
    ///
    /// # Errors
    /// When it can't be written. The old value stands then.
    fn store(&self, peer: &str, layout: &CursorLayout, value: &[u8]) -> io::Result<()>;
}

/// What became of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadOutcome {
    /// The archive has it now.
    Stored,
    /// The archive had it before.
    AlreadyThere,
}

/// A second home for segments.
pub trait Archive: Send + Sync {
    /// Copies the segment `hash` out of `engine`.
    ///
    /// # Errors
    /// When the engine lacks the segment or the archive fails.
    fn upload(&self, engine: &Engine, hash: Hash) -> io::Result<UploadOutcome>;
}

/// Why a tick happens now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The interval, or the time that the last report asked for, has passed.
    Interval,
    /// Somebody asked for it: the first tick after the start, or a wake.
    Wake,
    /// The first tick of a new policy.
    Swap,
    /// The last tick failed.
    Retry,
}

/// What a policy is told about its tick.
#[derive(Debug, Clone)]
pub struct Context {
    /// Why now.
    pub reason: Reason,
    /// The configured time between ticks.
    pub interval: Duration,
    /// The user's settings for the policy, unchecked.
    pub settings: Vec<(String, String)>,
}

/// What a policy says about a tick that went well. See `tick-report` in the WIT.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct TickReport {
    /// Everything the peer offered is here.
    pub in_sync: bool,
    /// Segments found missing at the start.
    pub missing: u32,
    /// Segments applied. This and the next two are what the host counted, whatever the policy says.
    pub applied: u32,
    /// Records that won the merge.
    pub records_written: u64,
    /// Records that lost it.
    pub records_skipped: u64,
    /// Fetches and applies that failed.
    pub failed: u32,
    /// Segments still to pull, those set aside included.
    pub pending: u32,
    /// Segments set aside after too many tries.
    pub quarantined: u32,
    /// When to tick next; none at the interval.
    pub next_tick: Option<Duration>,
}
