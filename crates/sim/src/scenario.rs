//! What a simulation plays: nodes, how they are linked, who writes what, and what goes wrong.
//!
//! A scenario is data. Two runs of one scenario with one seed and one policy are the same run.

#[cfg(any(test, feature = "testing"))]
pub(super) mod fuzz;
mod read;
mod shipped;
#[cfg(test)]
mod strategies;
mod table;
#[cfg(test)]
mod tests;
mod values;
mod write;

use std::time::Duration;

pub use self::read::ScenarioError;

/// A scenario, checked. See docs/simulation.md for the file that it is read from.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Its name, in kebab case.
    pub name: String,
    /// What it shows, in a sentence.
    pub about: String,
    /// How many nodes: 2 to 100. Their ids are `n0`, `n1` and so on.
    pub nodes: usize,
    /// Who pulls from whom.
    pub topology: Topology,
    /// What all links are like, but those between regions.
    pub link: Link,
    /// How long there are writes and faults. After that the nodes have to become equal.
    pub duration: Duration,
    /// Between two ticks of a peer, unless the policy says otherwise.
    pub interval: Duration,
    /// After which writes become a segment.
    pub flush_interval: Duration,
    /// Between two looks whether a compaction is worth its while; none for no compactions.
    pub compact_interval: Option<Duration>,
    /// How far the clocks of nodes are off, at most, in either direction.
    pub clock_skew: Duration,
    /// How much too fast or too slow the clocks of nodes run, at most, in parts per million.
    pub clock_drift_ppm: u64,
    /// Settings of the policy.
    pub settings: Vec<(String, String)>,
    /// Who writes what.
    pub writers: Vec<Writer>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// What has to hold beside the invariants.
    pub expect: Expect,
}

/// Who pulls from whom.
#[derive(Debug, Clone, PartialEq)]
pub enum Topology {
    /// All from the first node, and that from all.
    Star,
    /// Each from the one before and the one after.
    Ring,
    /// Each from each.
    Mesh,
    /// Each with this many others, chosen by the seed, such that all are connected.
    Random {
        /// How many.
        degree: usize,
    },
    /// Regions of about equal size: a mesh within each, and the first nodes of the regions with
    /// each other by slower links.
    Wan {
        /// How many.
        regions: usize,
        /// Between regions.
        between: Link,
    },
}

/// One direction of a link.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// Of one way.
    pub latency: Duration,
    /// Added to the latency of one way, by chance, from nothing up to this.
    pub jitter: Duration,
    /// Bytes a second, which the transfers of the link share; none for no bound.
    pub bandwidth: Option<u64>,
    /// The chance that a request is lost: 0 to 1.
    pub loss: f64,
}

/// A source of writes.
#[derive(Debug, Clone, PartialEq)]
pub struct Writer {
    /// The nodes that it writes to, each write to one of them by chance.
    pub nodes: Vec<usize>,
    /// Writes a minute, in the mean.
    pub per_minute: f64,
    /// How many keys there are.
    pub keys: u64,
    /// How uneven the keys are chosen: 0 for even, 1 for Zipf's law.
    pub skew: f64,
    /// The share of writes that two of the nodes make to one key in the same instant, each its own:
    /// 0 to 1. Where the clocks of the two agree, so do the stamps.
    pub conflicts: f64,
    /// The share of writes that delete: 0 to 1.
    pub deletes: f64,
    /// The share of writes with a time to live: 0 to 1.
    pub expiring: f64,
    /// That time.
    pub ttl: Duration,
    /// Bytes of a value, from and to.
    pub value_bytes: (usize, usize),
}

/// Something that goes wrong, once or again and again.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// When.
    pub when: When,
    /// For how long; of a backup, how old it is when it is restored.
    pub lasts: Duration,
    /// The nodes that it may hit; one of them is chosen by chance each time, but for a partition.
    pub nodes: Vec<usize>,
}

/// When a fault happens.
#[derive(Debug, Clone, PartialEq)]
pub enum When {
    /// At these times since the start.
    At(Vec<Duration>),
    /// By chance, this often an hour in the mean.
    PerHour(f64),
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum FaultKind {
    /// The nodes of the fault can't reach the others, nor these them.
    Partition,
    /// A node loses power, while it waits or within one of the next operations of its disk, and is
    /// back after the time: what it had not synced may be gone.
    Crash,
    /// What a node sends takes so many times as long.
    Slow {
        /// The factor.
        factor: f64,
    },
    /// A node takes requests and never answers.
    Hang,
    /// Segments that a node sends end before their end.
    CutBody,
    /// A bit of what a node sends is another one.
    BitFlip,
    /// A node names a root that is not its own.
    LyingRoot,
    /// A node lists segments that it has not, and leaves out some that it has.
    LyingManifest,
    /// A node's disk takes no more bytes.
    DiskFull,
    /// The policy is swapped for the same one from another file, whatever it is doing, and the first
    /// file's comes back after the time.
    Swap,
    /// A node's clock jumps by this, and back after the time.
    ClockJump {
        /// Seconds, forward or back.
        by_secs: i64,
    },
    /// A node's clock is far ahead, and right again after the time. What it writes meanwhile, and
    /// what it stamps later to win over that, is of use to no other node until its time has come.
    ClockFarAhead {
        /// Seconds, forward.
        by_secs: i64,
    },
    /// A node loses power, and the file of one of its segments is gone when it is back.
    SegmentLost,
    /// A node loses power, and a bit of the file of one of its segments is another one when it is
    /// back.
    SegmentDamaged,
    /// A node's records and segments are copied. After the time it loses power, and starts with the
    /// copy in the place of what it had; all other files stay.
    BackupRestored,
}

/// What has to hold beside the invariants.
#[derive(Debug, Clone, PartialEq)]
pub struct Expect {
    /// All nodes are equal so long after the last write and fault.
    pub converge_within: Duration,
    /// The bytes of segments over the network, as a multiple of the least possible; none for any.
    pub max_overhead: Option<f64>,
}
