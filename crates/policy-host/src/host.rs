//! The imports that reach peers: `peers` and `transfers`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use edgestore_engine::{ByteQuotaSpent, Hash};
use edgestore_protocol::{FetchError, Listing, PeerError, PeerTransport};
use wasmtime::component::Resource;

use super::SetAsideReason;
use super::bindings::{peers, transfers, types};
use super::limits::MANIFESTS;
use super::resources::{Content, Manifest, PeerHandle, Segment, Start, Transfer, handle};
use super::state::{State, Tick, lost};
use super::wait::Slot;

impl types::Host for State {}

impl peers::Host for State {
    fn all(&mut self) -> wasmtime::Result<Vec<Resource<PeerHandle>>> {
        self.call("peers.all", (), |state, ()| {
            let (table, tick) = state.parts()?;
            let peers = 0..tick.services.peers.len();
            peers.map(|peer| handle(table, PeerHandle(peer))).collect()
        })
    }
}

impl peers::HostPeer for State {
    fn id(&mut self, peer: Resource<PeerHandle>) -> wasmtime::Result<String> {
        self.call("peer.id", peer, |state, peer| {
            let (table, tick) = state.parts()?;
            let peer = table.get(&peer)?.0;
            Ok(tick.services.peers[peer].id().to_owned())
        })
    }

    fn load(&mut self, peer: Resource<PeerHandle>) -> wasmtime::Result<u32> {
        self.call("peer.load", peer, |state, peer| {
            let (table, tick) = state.parts()?;
            let peer = table.get(&peer)?.0;
            Ok(tick.services.peers[peer].load())
        })
    }

    fn probe(
        &mut self,
        peer: Resource<PeerHandle>,
    ) -> wasmtime::Result<Result<peers::RootInfo, types::PeerError>> {
        self.call("peer.probe", peer, |state, peer| {
            let (table, tick) = state.parts()?;
            let peer = table.get(&peer)?.0;
            let id = tick.services.peers[peer].id().to_owned();
            let answer = tick.ask(peer, move |transport| {
                let root = transport.root()?;
                // It is for information only.
                let watermark = transport.watermark().unwrap_or_else(|error| {
                    tracing::debug!(peer = id, %error, "no watermark");
                    None
                });
                Ok((root, watermark))
            });
            Ok(answer?.map(|(root, watermark)| {
                tick.services.peers[peer].note_root(root);
                peers::RootInfo {
                    root: root.into(),
                    watermark: watermark.map(|watermark| peers::Watermark {
                        confirmed_lsn: watermark.confirmed_lsn,
                        write_token: watermark.write_token,
                    }),
                }
            }))
        })
    }

    fn manifest(
        &mut self,
        peer: Resource<PeerHandle>,
    ) -> wasmtime::Result<Result<Resource<Manifest>, types::PeerError>> {
        self.call("peer.manifest", peer, |state, peer| {
            let (table, tick) = state.parts()?;
            let peer = table.get(&peer)?.0;
            if tick.manifests >= MANIFESTS {
                wasmtime::bail!("holds more than {MANIFESTS} manifests; drop those not needed");
            }
            tick.services.peers[peer].make_way_for_list();
            let answer = tick.ask(peer, |transport| transport.manifest());
            let mut list = match answer? {
                Ok(list) => list,
                Err(error) => return Ok(Err(error)),
            };
            let (table, tick) = state.parts()?;
            tick.services.peers[peer].note_list(list.listing());
            let limit = tick.current().list_memory();
            let listed = tick.listed.entry(peer).or_default();
            let known = listed.iter().find(|known| *known == list.listing()).cloned();
            let new = if known.is_some() { 0 } else { list.listing().memory() };
            let bytes = tick.list_bytes + list.memory_besides() + new;
            // How long they are is up to the peer, so no policy is to blame.
            if bytes as u64 > limit {
                let error = PeerError::TooLarge { what: "manifests of one tick", limit };
                return Ok(Err(tick.note_peer_error(peer, &error)));
            }
            match known {
                Some(known) => list.share(known),
                None => listed.push(Arc::clone(list.listing())),
            }
            tick.list_bytes = bytes;
            tick.manifests += 1;
            Ok(Ok(handle(table, Manifest { peer, list })?))
        })
    }

    fn start_fetch(
        &mut self,
        peer: Resource<PeerHandle>,
        hash: types::Hash,
    ) -> wasmtime::Result<Result<Resource<Transfer>, types::FetchError>> {
        self.call("peer.start-fetch", (peer, hash), |state, (peer, hash)| {
            let (table, tick) = state.parts()?;
            let peer = table.get(&peer)?.0;
            match start_fetch(tick, peer, hash.into()) {
                Ok(transfer) => {
                    let transfer = handle(table, transfer)?;
                    tick.transfers += 1;
                    Ok(Ok(transfer))
                }
                Err(error) => Ok(Err(error)),
            }
        })
    }

    fn drop(&mut self, peer: Resource<PeerHandle>) -> wasmtime::Result<()> {
        self.call("peer.drop", peer, |state, peer| {
            state.table.delete(peer)?;
            Ok(())
        })
    }
}

fn start_fetch(tick: &mut Tick, peer: usize, hash: Hash) -> Result<Transfer, types::FetchError> {
    let is_in = |listing: &Arc<Listing>| listing.position(&hash).is_some();
    if !tick.listed.get(&peer).is_some_and(|listed| listed.iter().any(is_in)) {
        return Err(types::FetchError::NotInManifest);
    }
    if tick.transfers + tick.staged >= tick.limits.transfers {
        return Err(types::FetchError::TooManyTransfers);
    }
    if tick.allowance.is_spent() {
        return Err(types::FetchError::TooManyBytes);
    }
    // First of all: to stage takes a while, in which other ticks would start to fetch it too.
    let begun = tick.services.clock.monotonic();
    let download = tick.services.downloads.begin(hash, begun);
    if let Some(staged) = tick.services.downloads.take_deferred(&hash) {
        let (slot, filler) = Slot::new(&tick.bell);
        filler.fill(Ok(staged));
        let (start, cancel, download) = (Arc::<Start>::default(), Arc::default(), Some(download));
        start.send(begun);
        return Ok(Transfer { hash, peer, start, cancel, slot, download });
    }
    if let Err(error) = tick.services.peers[peer].admit_fetch() {
        // A policy that takes the peer for dead gives up what it is fetching, which may end well.
        if tick.transfers > 0 {
            return Err(types::FetchError::TooManyTransfers);
        }
        return Err(types::FetchError::Peer(tick.note_peer_error(peer, &error)));
    }
    let staging = match tick.services.engine.stage() {
        Ok(staging) => staging.within(&tick.allowance).counting(download.bytes()),
        Err(error) => {
            tick.note_storage_error("can't stage a segment", &error);
            return Err(types::FetchError::Storage);
        }
    };
    let cancel = Arc::new(AtomicBool::new(false));
    let cancelled = Arc::clone(&cancel);
    let (engine, come) = (Arc::clone(&tick.services.engine), Arc::clone(download.bytes()));
    let start = Arc::<Start>::default();
    let (sending, clock) = (Arc::clone(&start), Arc::clone(&tick.services.clock));
    let fetch = move |transport: &dyn PeerTransport| {
        if !sending.send(clock.monotonic()) {
            return Err(FetchError::Cancelled);
        }
        let mut staged = transport.fetch(hash, staging, &cancelled)?;
        come.store(u64::MAX, Ordering::Relaxed);
        engine.prepare(&mut staged);
        Ok(staged)
    };
    match tick.services.peers[peer].submit_fetch(&tick.bell, &cancel, fetch) {
        Ok(slot) => Ok(Transfer { hash, peer, start, cancel, slot, download: Some(download) }),
        Err(error) => {
            tick.services.peers[peer].note_failure(hash, SetAsideReason::Failed, error.to_string());
            Err(types::FetchError::Peer(tick.note_peer_error(peer, &error)))
        }
    }
}

impl peers::HostManifest for State {
    fn length(&mut self, manifest: Resource<Manifest>) -> wasmtime::Result<u32> {
        self.call("manifest.length", manifest, |state, manifest| {
            let length = state.table.get(&manifest)?.list.len();
            Ok(length.try_into().unwrap_or(u32::MAX))
        })
    }

    fn root(&mut self, manifest: Resource<Manifest>) -> wasmtime::Result<types::Hash> {
        self.call("manifest.root", manifest, |state, manifest| {
            Ok(state.table.get(&manifest)?.list.root().into())
        })
    }

    fn missing(
        &mut self,
        manifest: Resource<Manifest>,
    ) -> wasmtime::Result<Vec<types::SegmentRef>> {
        self.call("manifest.missing", manifest, |state, manifest| {
            let (table, tick) = state.parts()?;
            let manifest = table.get(&manifest)?;
            let engine = &tick.services.engine;
            let peer = &tick.services.peers[manifest.peer];
            let start = peer.page_start(manifest.list.listing());
            let segments = manifest.list.iter_from(start).chain(manifest.list.iter().take(start));
            let mut missing = segments.filter(|segment| !engine.has(&segment.hash));
            let page = missing.by_ref().take(tick.limits.missing.min(peer.shown()));
            let page = page.map(Into::into).collect();
            if let Some(next) = missing.next() {
                peer.note_not_shown(next.hash);
            }
            Ok(page)
        })
    }

    fn keys(
        &mut self,
        manifest: Resource<Manifest>,
        hash: types::Hash,
    ) -> wasmtime::Result<Option<types::KeyRange>> {
        self.call("manifest.keys", (manifest, hash), |state, (manifest, hash)| {
            let manifest = state.table.get(&manifest)?;
            let info = manifest.list.find(&hash.into()).and_then(|segment| segment.info);
            Ok(info.and_then(|info| info.keys.as_ref()).map(Into::into))
        })
    }

    fn drop(&mut self, manifest: Resource<Manifest>) -> wasmtime::Result<()> {
        self.call("manifest.drop", manifest, |state, manifest| {
            let (table, tick) = state.parts()?;
            tick.list_bytes -= table.delete(manifest)?.list.memory_besides();
            tick.manifests -= 1;
            Ok(())
        })
    }
}

impl transfers::Host for State {
    fn wait_any(
        &mut self,
        transfers: Vec<Resource<Transfer>>,
        timeout_ms: u64,
    ) -> wasmtime::Result<Option<u32>> {
        self.call(
            "transfers.wait-any",
            (transfers, timeout_ms),
            |state, (transfers, timeout_ms)| {
                let (table, tick) = state.parts()?;
                let mut running = Vec::with_capacity(transfers.len());
                for (position, transfer) in (0..).zip(&transfers) {
                    let transfer = table.get(transfer)?;
                    if transfer.download.is_some() {
                        running.push((position, transfer));
                    }
                }
                if running.is_empty() {
                    return Ok(None);
                }
                let done = |late| {
                    let done = running.iter().find(|(_, transfer)| transfer.is_done(late));
                    done.map(|(position, _)| *position)
                };
                let timeout = Duration::from_millis(timeout_ms);
                let early = timeout.min(tick.until_late());
                // One wait is enough where all were sent.
                if early < timeout && running.iter().any(|(_, transfer)| transfer.start.is_open()) {
                    return Ok(match tick.wait(early, || done(false))? {
                        None => tick.wait(timeout - early, || done(true))?,
                        position => position,
                    });
                }
                Ok(tick.wait(timeout, || done(false))?)
            },
        )
    }
}

impl transfers::HostTransfer for State {
    fn hash(&mut self, transfer: Resource<Transfer>) -> wasmtime::Result<types::Hash> {
        self.call("transfer.hash", transfer, |state, transfer| {
            Ok(state.table.get(&transfer)?.hash.into())
        })
    }

    fn take(
        &mut self,
        transfer: Resource<Transfer>,
    ) -> wasmtime::Result<Result<Resource<Segment>, types::FetchError>> {
        self.call("transfer.take", transfer, |state, transfer| {
            let (table, tick) = state.parts()?;
            let late = tick.until_late().is_zero();
            let transfer = table.get_mut(&transfer)?;
            let Some(outcome) = transfer.slot.take() else {
                if !late || transfer.download.is_none() || !transfer.start.give_up() {
                    return Ok(Err(types::FetchError::NotReady));
                }
                transfer.download = None;
                tick.transfers -= 1;
                return Ok(Err(types::FetchError::TooManyBytes));
            };
            let download = transfer.download.take();
            tick.transfers -= 1;
            let (peer, hash) = (transfer.peer, transfer.hash);
            match outcome.unwrap_or_else(|| Err(lost().into())) {
                Ok(staged) => {
                    let (size, content) =
                        (staged.len(), Content::Staged(Box::new(staged), download));
                    let segment = handle(table, Segment { hash, peer, size, content })?;
                    tick.staged += 1;
                    Ok(Ok(segment))
                }
                Err(error) => Ok(Err(fetch_failed(tick, peer, hash, &error))),
            }
        })
    }

    fn drop(&mut self, transfer: Resource<Transfer>) -> wasmtime::Result<()> {
        self.call("transfer.drop", transfer, |state, transfer| {
            let transfer = state.table.delete(transfer)?;
            if transfer.download.is_some() {
                let tick = state.tick()?;
                tick.transfers -= 1;
                if !transfer.slot.is_done()
                    && transfer.start.sent().is_some_and(|sent| tick.was_waited_for(sent))
                {
                    let why = "it had not come when the policy gave it up".to_owned();
                    let peer = &tick.services.peers[transfer.peer];
                    peer.note_failure(transfer.hash, SetAsideReason::Failed, why);
                }
            }
            Ok(())
        })
    }
}

/// Logs the failure and says what the policy is told of it.
fn fetch_failed(tick: &mut Tick, peer: usize, hash: Hash, error: &FetchError) -> types::FetchError {
    if let FetchError::Storage(source) = error {
        if source.get_ref().is_some_and(|inner| inner.is::<ByteQuotaSpent>()) {
            if tick.may_log() {
                let (policy, peer) = (&tick.policy, tick.services.peers[peer].id());
                let limit = tick.limits.pulled_bytes;
                tracing::warn!(
                    policy,
                    peer,
                    "the tick has pulled the {limit} bytes that it may; the next one goes on. \
                     limits.pulled-bytes must be larger than the largest segment"
                );
            }
            return types::FetchError::TooManyBytes;
        }
        tick.note_storage_error(&format!("can't stage segment {hash}"), source);
        return types::FetchError::Storage;
    }
    tick.peer_failed = true;
    tick.services.peers[peer].note_failure(hash, SetAsideReason::Failed, error.to_string());
    if tick.may_log() {
        let (policy, peer) = (&tick.policy, tick.services.peers[peer].id());
        match error {
            // Somebody tampers with the bytes, or a disk does.
            FetchError::HashMismatch(_) => tracing::warn!(policy, peer, %error, "fetch failed"),
            _ => tracing::debug!(policy, peer, %hash, %error, "fetch failed"),
        }
    }
    match error {
        FetchError::Peer(error) => types::FetchError::Peer(tick.note_peer_error(peer, error)),
        FetchError::Cancelled => types::FetchError::Peer(tick.note_peer_error(peer, &lost())),
        FetchError::NotFound => types::FetchError::NotFound,
        FetchError::HashMismatch(_) => types::FetchError::HashMismatch,
        FetchError::Storage(_) => types::FetchError::Storage,
    }
}

impl transfers::HostSegment for State {
    fn hash(&mut self, segment: Resource<Segment>) -> wasmtime::Result<types::Hash> {
        self.call("segment.hash", segment, |state, segment| {
            Ok(state.table.get(&segment)?.hash.into())
        })
    }

    fn size(&mut self, segment: Resource<Segment>) -> wasmtime::Result<u64> {
        self.call("segment.size", segment, |state, segment| Ok(state.table.get(&segment)?.size))
    }

    fn drop(&mut self, segment: Resource<Segment>) -> wasmtime::Result<()> {
        self.call("segment.drop", segment, |state, segment| {
            let segment = state.table.delete(segment)?;
            if matches!(segment.content, Content::Staged(..)) {
                state.tick()?.staged -= 1;
            }
            Ok(())
        })
    }
}
