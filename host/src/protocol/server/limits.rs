//! How much of this node its peers may use.

use std::time::Duration;

/// The most that clients may take. The defaults suit some dozens of peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections at a time, at least one; more wait to be accepted.
    /// Default: 256.
    pub max_connections: usize,
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
            header_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}
