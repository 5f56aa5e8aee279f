//! How much of its time and memory the host gives to one peer.

use std::time::Duration;

/// The most that one request to a peer may take. The defaults suit peers across
/// the internet that hold segments of up to 256 MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientLimits {
    /// Time to resolve the name, and again to connect, TLS handshake included.
    /// Default: 5 s.
    pub connect_timeout: Duration,
    /// Time without a single byte, in headers and bodies alike. This is also
    /// the longest that a cancelled fetch lingers. Default: 10 s.
    pub read_timeout: Duration,
    /// Time for a whole request for a root, a watermark or a manifest, so that
    /// a peer that trickles holds up nobody for long. Default: 30 s.
    pub control_timeout: Duration,
    /// Time for the whole download of a segment. Default: 10 min.
    pub transfer_timeout: Duration,
    /// Size of all headers of an answer. Default: 16 KiB.
    pub max_header_bytes: usize,
    /// Size of a root or a watermark. Default: 4 KiB.
    pub max_root_bytes: u64,
    /// Size of what has changed in a manifest. Default: 1 MiB.
    pub max_changes_bytes: u64,
    /// Size of a manifest on the wire. Default: 64 MiB.
    pub max_manifest_bytes: u64,
    /// Memory for the list in a manifest: 44 bytes a segment. An eighth of it is
    /// for what version 2 says of segments; what has no room there is left out.
    /// Default: 96 MiB.
    pub max_list_bytes: u64,
    /// Size of a segment, which goes to disk. Default: 256 MiB.
    pub max_segment_bytes: u64,
}

impl Default for ClientLimits {
    fn default() -> Self {
        const KIB: u64 = 1024;
        const MIB: u64 = 1024 * KIB;
        Self {
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(10),
            control_timeout: Duration::from_secs(30),
            transfer_timeout: Duration::from_secs(10 * 60),
            max_header_bytes: 16 * 1024,
            max_root_bytes: 4 * KIB,
            max_changes_bytes: MIB,
            max_manifest_bytes: 64 * MIB,
            max_list_bytes: 96 * MIB,
            // As much as a node makes.
            max_segment_bytes: edgestore_engine::MAX_FILE,
        }
    }
}
