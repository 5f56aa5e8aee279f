//! The imports of contract 0.1: each is the one of the newest contract.

use wasmtime::component::Resource;

use super::super::{archive, clock, cursor, local, log, peers, random, transfers};
use super::old;
use super::old::types::{ApplyError, FetchError, Hash, PeerError, SegmentRef};
use crate::resources::{Manifest, PeerHandle, Segment, Transfer};
use crate::state::State;

/// What an import returns, in the types of 0.1.
fn translated<T: Into<U>, E: Into<F>, U, F>(
    result: wasmtime::Result<Result<T, E>>,
) -> wasmtime::Result<Result<U, F>> {
    Ok(result?.map(Into::into).map_err(Into::into))
}

impl old::types::Host for State {}

impl old::peers::Host for State {
    fn all(&mut self) -> wasmtime::Result<Vec<Resource<PeerHandle>>> {
        peers::Host::all(self)
    }
}

impl old::peers::HostPeer for State {
    fn id(&mut self, peer: Resource<PeerHandle>) -> wasmtime::Result<String> {
        peers::HostPeer::id(self, peer)
    }

    fn probe(
        &mut self,
        peer: Resource<PeerHandle>,
    ) -> wasmtime::Result<Result<old::peers::RootInfo, PeerError>> {
        translated(peers::HostPeer::probe(self, peer))
    }

    fn manifest(
        &mut self,
        peer: Resource<PeerHandle>,
    ) -> wasmtime::Result<Result<Resource<Manifest>, PeerError>> {
        translated(peers::HostPeer::manifest(self, peer))
    }

    fn start_fetch(
        &mut self,
        peer: Resource<PeerHandle>,
        hash: Hash,
    ) -> wasmtime::Result<Result<Resource<Transfer>, FetchError>> {
        translated(peers::HostPeer::start_fetch(self, peer, hash.into()))
    }

    fn drop(&mut self, peer: Resource<PeerHandle>) -> wasmtime::Result<()> {
        peers::HostPeer::drop(self, peer)
    }
}

impl old::peers::HostManifest for State {
    fn length(&mut self, manifest: Resource<Manifest>) -> wasmtime::Result<u32> {
        peers::HostManifest::length(self, manifest)
    }

    fn root(&mut self, manifest: Resource<Manifest>) -> wasmtime::Result<Hash> {
        peers::HostManifest::root(self, manifest).map(Into::into)
    }

    fn missing(&mut self, manifest: Resource<Manifest>) -> wasmtime::Result<Vec<SegmentRef>> {
        let missing = peers::HostManifest::missing(self, manifest)?;
        Ok(missing.into_iter().map(Into::into).collect())
    }

    fn drop(&mut self, manifest: Resource<Manifest>) -> wasmtime::Result<()> {
        peers::HostManifest::drop(self, manifest)
    }
}

impl old::transfers::Host for State {
    fn wait_any(
        &mut self,
        transfers: Vec<Resource<Transfer>>,
        timeout_ms: u64,
    ) -> wasmtime::Result<Option<u32>> {
        transfers::Host::wait_any(self, transfers, timeout_ms)
    }
}

impl old::transfers::HostTransfer for State {
    fn hash(&mut self, transfer: Resource<Transfer>) -> wasmtime::Result<Hash> {
        transfers::HostTransfer::hash(self, transfer).map(Into::into)
    }

    fn take(
        &mut self,
        transfer: Resource<Transfer>,
    ) -> wasmtime::Result<Result<Resource<Segment>, FetchError>> {
        translated(transfers::HostTransfer::take(self, transfer))
    }

    fn drop(&mut self, transfer: Resource<Transfer>) -> wasmtime::Result<()> {
        transfers::HostTransfer::drop(self, transfer)
    }
}

impl old::transfers::HostSegment for State {
    fn hash(&mut self, segment: Resource<Segment>) -> wasmtime::Result<Hash> {
        transfers::HostSegment::hash(self, segment).map(Into::into)
    }

    fn size(&mut self, segment: Resource<Segment>) -> wasmtime::Result<u64> {
        transfers::HostSegment::size(self, segment)
    }

    fn drop(&mut self, segment: Resource<Segment>) -> wasmtime::Result<()> {
        transfers::HostSegment::drop(self, segment)
    }
}

impl old::local::Host for State {
    fn root(&mut self) -> wasmtime::Result<Hash> {
        local::Host::root(self).map(Into::into)
    }

    fn has(&mut self, hash: Hash) -> wasmtime::Result<bool> {
        local::Host::has(self, hash.into())
    }

    fn apply(
        &mut self,
        segment: Resource<Segment>,
    ) -> wasmtime::Result<Result<old::local::Applied, ApplyError>> {
        translated(local::Host::apply(self, segment))
    }
}

impl old::cursor::Host for State {
    fn load(&mut self) -> wasmtime::Result<Option<Vec<u8>>> {
        cursor::Host::load(self)
    }

    fn store(&mut self, value: Vec<u8>) -> wasmtime::Result<Result<(), old::cursor::StoreError>> {
        translated(cursor::Host::store(self, value))
    }
}

impl old::archive::Host for State {
    fn available(&mut self) -> wasmtime::Result<bool> {
        archive::Host::available(self)
    }

    fn upload(
        &mut self,
        segment: Resource<Segment>,
    ) -> wasmtime::Result<Result<old::archive::UploadOutcome, old::archive::UploadError>> {
        translated(archive::Host::upload(self, segment))
    }
}

impl old::clock::Host for State {
    fn now_ms(&mut self) -> wasmtime::Result<u64> {
        clock::Host::now_ms(self)
    }

    fn monotonic_ms(&mut self) -> wasmtime::Result<u64> {
        clock::Host::monotonic_ms(self)
    }
}

impl old::random::Host for State {
    fn next_u64(&mut self) -> wasmtime::Result<u64> {
        random::Host::next_u64(self)
    }
}

impl old::log::Host for State {
    fn write(&mut self, level: old::log::Level, message: String) -> wasmtime::Result<()> {
        log::Host::write(self, level.into(), message)
    }
}
