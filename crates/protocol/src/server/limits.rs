//! How much of this node its peers may use.

use std::time::Duration;

/// The most that clients may take. The defaults suit some dozens of peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections at a time, at least one. When there are so many, one makes way
    /// for the next: first the one that is idle for longest, then the one whose
    /// answer lags most, by [`ServerLimits::slow_grace`] at least. One that was
    /// answered and is idle for less than a second comes last, and one that is
    /// idle for less than 100 ms stays. Where none makes way, the next one waits.
    /// An eighth is kept for the addresses of this node's own peers, and those
    /// that took 1 MiB on one connection in the last 10 minutes; others take no
    /// place of theirs. Default: 256.
    pub max_connections: usize,
    /// Connections at a time from one address (in IPv6: from one /64) at which
    /// its next one takes the place of one of its own, even when there is room.
    /// Where none of its own makes way it takes the room, so replicas behind one
    /// proxy are served as long as all of them are at work. Default: 128.
    pub max_per_address: usize,
    /// How long a client may keep an answer waiting, beyond what it takes at
    /// 16 KiB/s, before the answer is cut for another connection or for the
    /// memory of another manifest. Default: 2 s.
    pub slow_grace: Duration,
    /// Bytes of manifests in memory, over which no further one is made until one
    /// has been sent. All that ask for the same one share it. Default: 16 MiB.
    pub max_manifest_bytes: u64,
    /// Time from the end of one request, or from the connect, to the end of the
    /// next request's headers. So also the time that an idle connection lives.
    /// Default: 15 s.
    pub header_timeout: Duration,
    /// Time in which not one byte can be sent or received, such as to a client
    /// that asks for a segment and does not read it. Default: 60 s.
    pub stall_timeout: Duration,
    /// Time for running responses to end at a shutdown. Default: 5 s.
    pub shutdown_grace: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_connections: 256,
            max_per_address: 128,
            slow_grace: Duration::from_secs(2),
            max_manifest_bytes: 16 << 20,
            header_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}
