//! What the algorithm sees of the host, as a trait, so that the tests can stand in for it.
//!
//! The functions are those of `wit/sync.wit` for the one peer being ticked; the types are the generated ones.

pub use crate::bindings::edgestore::sync::cursor::StoreError;
pub use crate::bindings::edgestore::sync::local::Applied;
pub use crate::bindings::edgestore::sync::log::Level;
pub use crate::bindings::edgestore::sync::peers::{RootInfo, Watermark};
pub use crate::bindings::edgestore::sync::types::{
    ApplyError, FetchError, Hash, PeerError, SegmentRef,
};

/// A peer's manifest, once read.
pub struct Offer {
    /// The root over all that the peer lists.
    pub root: Hash,
    /// What the local engine lacks of it, in the peer's order.
    pub missing: Vec<SegmentRef>,
}

pub trait World {
    /// A running download. Dropping it cancels it.
    type Transfer;
    /// A verified segment that is not applied yet.
    type Segment;

    fn probe(&self) -> Result<RootInfo, PeerError>;
    fn manifest(&self) -> Result<Offer, PeerError>;
    fn start_fetch(&self, hash: Hash) -> Result<Self::Transfer, FetchError>;
    /// The position of a transfer that is done or failed; none when the time is up.
    fn wait_any(&self, transfers: &[&Self::Transfer], timeout_ms: u64) -> Option<u32>;
    fn take(&self, transfer: Self::Transfer) -> Result<Self::Segment, FetchError>;

    fn local_root(&self) -> Hash;
    fn has(&self, hash: Hash) -> bool;
    fn apply(&self, segment: &Self::Segment) -> Result<Applied, ApplyError>;

    fn load(&self) -> Option<Vec<u8>>;
    fn store(&self, value: &[u8]) -> Result<(), StoreError>;

    fn archive_available(&self) -> bool;
    /// False when the archive did not take the segment.
    fn archive(&self, segment: &Self::Segment) -> bool;

    fn now_ms(&self) -> u64;
    fn monotonic_ms(&self) -> u64;
    fn random(&self) -> u64;
    fn log(&self, level: Level, message: &str);
}
