//! The replication protocol: how a node asks a peer what it has, and how it
//! answers.
//!
//! Four `GET`s carry everything. `/merkle` is the root over the segment hashes,
//! `/segments` the manifest, `/segments/{hash}` the bytes of one segment and
//! `/watermark` the peer's progress. Control answers are MessagePack (see
//! `wire`), segments are raw bytes that the hash in the URL names. Both ends
//! work with the published crates `edgestore` and `edgestore-repl` 2.2. That is
//! version 1; version 2 adds `/v2/segments`, a manifest that says more of each
//! segment, and `/v2/changes`, which is held open until there is something new,
//! and does without where a peer has none.
//!
//! A peer is not trusted. [`HttpPeer`] puts a limit on every byte and every
//! second that a peer may take (see [`ClientLimits`]), and [`Server`] does the
//! same to its clients. The rest of the host sees a peer as a [`PeerTransport`]
//! alone, which the simulator implements without a network.
#![forbid(unsafe_code)]
// These panic where nobody reads what they print.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

mod client;
mod known;
mod list;
mod server;
#[cfg(test)]
mod test_peer;
mod wire;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

pub use client::{ClientLimits, HttpPeer, InvalidUrl};
use edgestore_engine::{Extent, Hash, HashMismatch, SegmentMeta, StagedSegment, StagingFile};
pub use edgestore_engine::{KeyRange, Revision, Watermark};
pub use known::{KnownAddresses, group};
pub use list::{ListedSegment, Listing, SegmentList};
pub use server::{Server, ServerLimits, router};

#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub use self::wire::fuzz::manifest as fuzz_manifest;

/// One segment as a peer's manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SegmentRef {
    /// The BLAKE3 of the segment's bytes, and so its name on every node.
    pub hash: Hash,
    /// The peer's own number of the segment. Says nothing of other peers.
    pub id: u64,
    /// What the peer says of it; none where it does not, as in version 1.
    pub info: Option<Box<SegmentInfo>>,
}

/// What a peer says of one of its segments. Good enough to decide what to pull
/// first, and no more: only the hash is ever verified.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SegmentInfo {
    /// Size of the segment file, in bytes.
    pub size: u64,
    /// Records in it, superseded ones included.
    pub records: u64,
    /// Timestamp of its newest record, in Unix milliseconds.
    pub newest_ms: u64,
    /// When its node made it, in Unix milliseconds. A node that has pulled it
    /// does not know, and says `newest_ms`.
    pub created_ms: u64,
    /// Between which keys its records are; none where the peer does not say.
    pub keys: Option<KeyRange>,
}

impl SegmentInfo {
    /// What this node says of a segment of its own. Times before 1970 count as
    /// 1970.
    pub fn new(meta: &SegmentMeta, extent: Extent) -> Self {
        let ms = |ns: i64| u64::try_from(ns / 1_000_000).unwrap_or(0);
        Self {
            size: meta.bytes,
            records: meta.records,
            newest_ms: ms(extent.newest),
            created_ms: ms(extent.created),
            keys: extent.keys,
        }
    }
}

/// What has changed at a peer: see [`PeerTransport::changes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Where the peer is now.
    pub revision: Revision,
    /// The root over its segments.
    pub root: Hash,
    /// How far it is; none where it does not say.
    pub watermark: Option<Watermark>,
    /// What came and what went; none where the peer does not know, and its manifest is to be read.
    pub delta: Option<Delta>,
}

/// What came and what went between two revisions of a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Segments that came.
    pub added: Vec<SegmentRef>,
    /// Segments that it has no more.
    pub removed: Vec<Hash>,
}

/// One peer, however it is reached. Calls block; any number may run at a time.
pub trait PeerTransport: Send + Sync {
    /// The root over the peer's segment hashes, [`Hash::ZERO`] when it has none.
    ///
    /// # Errors
    /// When the peer gives no usable answer.
    fn root(&self) -> Result<Hash, PeerError>;

    /// How far the peer is; none where it does not serve a watermark.
    ///
    /// # Errors
    /// When the peer gives no usable answer.
    fn watermark(&self) -> Result<Option<Watermark>, PeerError>;

    /// The peer's segments.
    ///
    /// # Errors
    /// When the peer gives no usable answer.
    fn manifest(&self) -> Result<SegmentList, PeerError>;

    /// Whether [`PeerTransport::changes`] is worth a try.
    fn has_changes(&self) -> bool {
        false
    }

    /// What has changed at the peer since a revision; answered once there is something, or after `wait`.
    /// Without a revision it is answered at once. Returns soon after `cancel` becomes true.
    ///
    /// # Errors
    /// When the peer gives no usable answer; [`PeerError::Status`] where it has no such route.
    fn changes(
        &self,
        since: Option<Revision>,
        wait: Duration,
        cancel: &Arc<AtomicBool>,
    ) -> Result<Changes, PeerError> {
        let _ = (since, wait, cancel);
        Err(PeerError::Status(404))
    }

    /// Downloads one segment into `into` and verifies it. Returns soon after
    /// `cancel` becomes true, whatever the peer does.
    ///
    /// # Errors
    /// See [`FetchError`]. The bytes are gone from disk then.
    fn fetch(
        &self,
        hash: Hash,
        into: StagingFile,
        cancel: &Arc<AtomicBool>,
    ) -> Result<StagedSegment, FetchError>;
}

/// Why a peer gave no usable answer. The variants are those of `peer-error` in
/// `wit/sync.wit`; the text is for the log. All of these may pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// No connection: the name does not resolve, the peer refuses, the TLS
    /// handshake fails, or the peer hangs up without an answer.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// The peer did not answer within the limits.
    #[error("no answer in time: {0}")]
    Timeout(String),
    /// The peer answered with this HTTP status.
    #[error("the peer answered with HTTP status {0}{hint}", hint = status_hint(*.0))]
    Status(u16),
    /// The answer is not what the protocol says.
    #[error("not an answer of the replication protocol: {0}")]
    Malformed(String),
    /// The answer is larger than the host takes.
    #[error("the {what} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Which part of which answer.
        what: &'static str,
        /// The limit that it exceeds.
        limit: u64,
    },
}

/// What to do about a status, where that is known.
fn status_hint(status: u16) -> &'static str {
    match status {
        300..=399 => "; redirects are not followed: configure the address that it redirects to",
        401 | 403 | 407 => {
            "; the protocol has no credentials: let this host through by its address"
        }
        404 => "; check that the peer's URL is that of a replication server, with its path prefix",
        _ => "",
    }
}

/// Why a fetch gave no segment. The variants are those of `fetch-error` in
/// `wit/sync.wit` that a transport can meet, and `Cancelled`, which no policy
/// sees: it has dropped the transfer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The transfer failed.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The peer does not have the segment, whatever its manifest said.
    #[error("the peer does not have the segment (any more)")]
    NotFound,
    /// The bytes that came are not those the hash names.
    #[error(transparent)]
    HashMismatch(#[from] HashMismatch),
    /// The bytes could not be written.
    #[error("can't stage the segment; check free space and permissions of the data directory")]
    Storage(#[source] io::Error),
    /// `cancel` became true.
    #[error("the transfer was cancelled")]
    Cancelled,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transport_is_an_object() {
        fn takes(_: Option<Box<dyn PeerTransport>>) {}
        takes(None);
    }

    #[test]
    fn errors_name_the_fix() {
        let text = PeerError::Status(301).to_string();
        assert!(text.contains("301") && text.contains("configure the address"), "{text}");
        assert!(PeerError::Status(404).to_string().contains("path prefix"));
        assert!(PeerError::Status(500).to_string().ends_with("500"));
    }
}
