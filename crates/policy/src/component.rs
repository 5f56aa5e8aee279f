//! The host of a component: every function is one call out of the sandbox.

use std::panic::{self, PanicHookInfo};
use std::vec;

use crate::Policy;
use crate::bindings::edgestore::sync::transfers;
use crate::bindings::edgestore::sync::{archive, clock, cursor, local, log, peers, random};
use crate::bindings::exports::edgestore::sync::policy::{Description, Guest};
use crate::host::{Host, Manifest, Peer, Segment, Transfer};
use crate::types::{
    Applied, ApplyError, Context, FetchError, Hash, KeyRange, Level, PeerError, RootInfo,
    SegmentRef, StoreError, TickFailure, TickReport, UploadError, UploadOutcome,
};

impl<P: Policy> Guest for P {
    fn describe() -> Description {
        Description {
            name: P::NAME.into(),
            version: P::VERSION.into(),
            cursor_schema: P::CURSOR_SCHEMA,
        }
    }

    fn tick(context: Context, peer: &peers::Peer) -> Result<TickReport, TickFailure> {
        panic::set_hook(Box::new(log_panic));
        P::tick(&Component { peer }, &context)
    }
}

/// Without it a panic is a trap that says nothing: a component has no standard error. Not for
/// `describe`, which may call no import.
fn log_panic(info: &PanicHookInfo) {
    let what = info.payload_as_str().unwrap_or("the policy panicked");
    let line = match info.location() {
        Some(place) => format!("panicked at {place}: {what}"),
        None => format!("panicked: {what}"),
    };
    log::write(Level::Error, &line);
}

/// The host, seen from the tick of one peer.
struct Component<'a> {
    peer: &'a peers::Peer,
}

impl Host for Component<'_> {
    type Peer = peers::Peer;
    type Manifest = peers::Manifest;
    type Transfer = transfers::Transfer;
    type Segment = transfers::Segment;

    fn peer(&self) -> &peers::Peer {
        self.peer
    }

    fn peers(&self) -> Vec<peers::Peer> {
        peers::all()
    }

    fn wait_any(&self, transfers: &[&transfers::Transfer], timeout_ms: u64) -> Option<u32> {
        transfers::wait_any(transfers, timeout_ms)
    }

    fn local_root(&self) -> Hash {
        local::root()
    }

    fn has(&self, hash: Hash) -> bool {
        local::has(hash)
    }

    fn fetching(&self, hash: Hash) -> bool {
        local::fetching(hash)
    }

    fn apply(&self, segment: &transfers::Segment) -> Result<Applied, ApplyError> {
        local::apply(segment)
    }

    fn load_cursor(&self) -> Option<Vec<u8>> {
        cursor::load()
    }

    fn store_cursor(&self, value: &[u8]) -> Result<(), StoreError> {
        cursor::store(value)
    }

    fn archive_available(&self) -> bool {
        archive::available()
    }

    fn upload(&self, segment: &transfers::Segment) -> Result<UploadOutcome, UploadError> {
        archive::upload(segment)
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

// The generated functions have the names of the trait's, and precedence over them.

impl Peer for peers::Peer {
    type Manifest = peers::Manifest;
    type Transfer = transfers::Transfer;

    fn id(&self) -> String {
        peers::Peer::id(self)
    }

    fn load(&self) -> u32 {
        peers::Peer::load(self)
    }

    fn probe(&self) -> Result<RootInfo, PeerError> {
        peers::Peer::probe(self)
    }

    fn manifest(&self) -> Result<peers::Manifest, PeerError> {
        peers::Peer::manifest(self)
    }

    fn start_fetch(&self, hash: Hash) -> Result<transfers::Transfer, FetchError> {
        peers::Peer::start_fetch(self, hash)
    }
}

impl Manifest for peers::Manifest {
    fn length(&self) -> u32 {
        peers::Manifest::length(self)
    }

    fn root(&self) -> Hash {
        peers::Manifest::root(self)
    }

    fn missing(&self) -> vec::IntoIter<SegmentRef> {
        peers::Manifest::missing(self).into_iter()
    }

    fn keys(&self, hash: Hash) -> Option<KeyRange> {
        peers::Manifest::keys(self, hash)
    }
}

impl Transfer for transfers::Transfer {
    type Segment = transfers::Segment;

    fn hash(&self) -> Hash {
        transfers::Transfer::hash(self)
    }

    fn take(self) -> Result<transfers::Segment, FetchError> {
        transfers::Transfer::take(&self)
    }
}

impl Segment for transfers::Segment {
    fn hash(&self) -> Hash {
        transfers::Segment::hash(self)
    }

    fn size(&self) -> u64 {
        transfers::Segment::size(self)
    }
}
