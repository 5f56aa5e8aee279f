//! The real [`World`]: every function is one call into the host.

use crate::bindings::edgestore::sync::peers::Peer;
use crate::bindings::edgestore::sync::transfers::{Segment, Transfer, wait_any};
use crate::bindings::edgestore::sync::{archive, clock, cursor, local, log, random};
use crate::world::{
    Applied, ApplyError, FetchError, Hash, Level, Offer, PeerError, RootInfo, StoreError, World,
};

/// The host, seen from the tick of one peer.
pub struct Host<'a>(pub &'a Peer);

impl World for Host<'_> {
    type Transfer = Transfer;
    type Segment = Segment;

    fn probe(&self) -> Result<RootInfo, PeerError> {
        self.0.probe()
    }

    fn manifest(&self) -> Result<Offer, PeerError> {
        let manifest = self.0.manifest()?;
        Ok(Offer { root: manifest.root(), missing: manifest.missing() })
    }

    fn start_fetch(&self, hash: Hash) -> Result<Transfer, FetchError> {
        self.0.start_fetch(hash)
    }

    fn wait_any(&self, transfers: &[&Transfer], timeout_ms: u64) -> Option<u32> {
        wait_any(transfers, timeout_ms)
    }

    fn take(&self, transfer: Transfer) -> Result<Segment, FetchError> {
        transfer.take()
    }

    fn local_root(&self) -> Hash {
        local::root()
    }

    fn has(&self, hash: Hash) -> bool {
        local::has(hash)
    }

    fn apply(&self, segment: &Segment) -> Result<Applied, ApplyError> {
        local::apply(segment)
    }

    fn load(&self) -> Option<Vec<u8>> {
        cursor::load()
    }

    fn store(&self, value: &[u8]) -> Result<(), StoreError> {
        cursor::store(value)
    }

    fn archive_available(&self) -> bool {
        archive::available()
    }

    fn archive(&self, segment: &Segment) -> bool {
        archive::upload(segment).is_ok()
    }

    fn now_ms(&self) -> u64 {
        clock::now_ms()
    }

    fn monotonic_ms(&self) -> u64 {
        clock::monotonic_ms()
    }

    fn random(&self) -> u64 {
        random::next_u64()
    }

    fn log(&self, level: Level, message: &str) {
        log::write(level, message);
    }
}
