//! The host as a policy sees it, as traits: the same tick runs as a component, in a unit test on
//! [`MockHost`](crate::mock::MockHost), and natively on whatever implements [`Host`].
//!
//! The functions are those of `wit/sync.wit`, and so are their promises. A handle that is dropped
//! is given back: a transfer is cancelled, a segment that was not applied is thrown away.

use std::fmt::Display;
use std::vec;

use crate::types::{
    Applied, ApplyError, FetchError, Hash, KeyRange, Level, PeerError, RootInfo, SegmentRef,
    StoreError, UploadError, UploadOutcome,
};

/// All that a tick can ask for. Times are in milliseconds, sizes in bytes.
pub trait Host {
    /// A configured peer.
    type Peer: Peer<Manifest = Self::Manifest, Transfer = Self::Transfer>;
    /// What a peer offered when it was asked.
    type Manifest: Manifest;
    /// A running download.
    type Transfer: Transfer<Segment = Self::Segment>;
    /// A verified segment that is not applied yet.
    type Segment: Segment;

    /// The peer being ticked.
    fn peer(&self) -> &Self::Peer;
    /// All configured peers, the one being ticked among them.
    fn peers(&self) -> Vec<Self::Peer>;

    /// The position of a transfer that is done or failed; none when the time is up.
    fn wait_any(&self, transfers: &[&Self::Transfer], timeout_ms: u64) -> Option<u32>;

    /// The local root, made as a peer's is.
    fn local_root(&self) -> Hash;
    /// Whether the segment has been applied.
    fn has(&self, hash: Hash) -> bool;
    /// Whether a tick of this host, this one or another peer's, is fetching the segment or holds it.
    fn fetching(&self, hash: Hash) -> bool;
    /// Merges a segment into the local engine, durably. Twice is harmless.
    fn apply(&self, segment: &Self::Segment) -> Result<Applied, ApplyError>;

    /// The cursor that was stored last for the peer being ticked.
    fn load_cursor(&self) -> Option<Vec<u8>>;
    /// Replaces the cursor. It is on disk when this returns.
    fn store_cursor(&self, value: &[u8]) -> Result<(), StoreError>;

    /// Whether there is an archive to upload to.
    fn archive_available(&self) -> bool;
    /// Gives an applied segment to the archive. A failure is never fatal.
    fn upload(&self, segment: &Self::Segment) -> Result<UploadOutcome, UploadError>;

    /// Since the Unix epoch, by the wall clock: it may be put forward and back.
    fn now_ms(&self) -> u64;
    /// Since some instant; never goes back in a tick.
    fn monotonic_ms(&self) -> u64;
    /// Any number. For jitter and sampling, not for secrets.
    fn random(&self) -> u64;

    /// Writes a line to the host's log.
    fn log(&self, level: Level, message: &str);

    /// Logs what went wrong for good.
    fn error(&self, message: impl Display) {
        self.log(Level::Error, &message.to_string());
    }

    /// Logs what went wrong, and is got over.
    fn warn(&self, message: impl Display) {
        self.log(Level::Warn, &message.to_string());
    }

    /// Logs what was done.
    fn info(&self, message: impl Display) {
        self.log(Level::Info, &message.to_string());
    }

    /// Logs what only the author wants to know.
    fn debug(&self, message: impl Display) {
        self.log(Level::Debug, &message.to_string());
    }
}

/// One configured peer.
pub trait Peer {
    /// See [`Host::Manifest`].
    type Manifest;
    /// See [`Host::Transfer`].
    type Transfer;

    /// Its name in the host's configuration.
    fn id(&self) -> String;
    /// Requests to it that run or wait now, those of other ticks included.
    fn load(&self) -> u32;
    /// Asks for its root: one small request.
    fn probe(&self) -> Result<RootInfo, PeerError>;
    /// Asks for the list of all its segments.
    fn manifest(&self) -> Result<Self::Manifest, PeerError>;
    /// Starts to fetch a segment that a manifest of this peer and this tick lists.
    fn start_fetch(&self, hash: Hash) -> Result<Self::Transfer, FetchError>;
}

/// What a peer offered when it was asked.
pub trait Manifest {
    /// How many segments it lists.
    fn length(&self) -> u32;
    /// The root over its hashes.
    fn root(&self) -> Hash;
    /// What the local engine lacks of it, in the peer's order. See [`Order`](crate::Order) for
    /// other orders.
    fn missing(&self) -> vec::IntoIter<SegmentRef>;
    /// Where the records of one of its segments lie; none where the peer does not say.
    fn keys(&self, hash: Hash) -> Option<KeyRange>;
}

/// A running download.
pub trait Transfer {
    /// See [`Host::Segment`].
    type Segment;

    /// What is being fetched.
    fn hash(&self) -> Hash;
    /// The outcome, once [`Host::wait_any`] has named this transfer.
    fn take(self) -> Result<Self::Segment, FetchError>;
}

/// A verified segment in the host's staging area.
pub trait Segment {
    /// BLAKE3 over the segment file.
    fn hash(&self) -> Hash;
    /// Size of the segment file.
    fn size(&self) -> u64;
}
