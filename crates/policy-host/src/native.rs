//! Native code in the place of a policy: on the same state, through the same host functions, with
//! no WebAssembly between. It is what a policy would cost if it were a part of the host, and so
//! what benchmarks measure policies against. The host itself makes no use of it.
//!
//! A function that returns an error would have ended an instance; native code has to end by itself.

use std::cell::RefCell;

use wasmtime::Result;
use wasmtime::component::Resource;

use super::instance::told;
use super::resources::{self, PeerHandle, handle};
use super::state::State;
use super::{CursorLayout, Limits, Services};

pub use super::bindings::edgestore::sync::{archive, cursor, local, log, peers, transfers, types};
pub use super::bindings::exports::edgestore::sync::policy::Context;

use super::bindings::{clock, random};

/// The imports of the contract that are no methods of a handle.
pub struct NativeHost(RefCell<State>);

/// A handle, given back when it is dropped, as an instance does.
pub struct Handle<'a, T: Handled> {
    host: &'a NativeHost,
    resource: Resource<T>,
}

/// A configured peer.
pub type Peer<'a> = Handle<'a, PeerHandle>;
/// A peer's segments at one moment.
pub type Manifest<'a> = Handle<'a, resources::Manifest>;
/// One download.
pub type Transfer<'a> = Handle<'a, resources::Transfer>;
/// A verified segment.
pub type Segment<'a> = Handle<'a, resources::Segment>;

/// One tick of `run`, which gets what a policy gets: the imports, the peer and the context. Its
/// time limit is the budget alone: nothing interrupts native code.
///
/// # Errors
/// When the settings are too large, or the limits allow no handle at all.
///
/// # Panics
/// When `services.current` is no position in `services.peers`.
pub fn tick<R>(
    limits: &Limits,
    layout: CursorLayout,
    services: Services,
    context: super::Context,
    run: impl for<'a> FnOnce(&'a NativeHost, Peer<'a>, Context) -> R,
) -> Result<R> {
    limits.check_settings(&context.settings)?;
    let current = services.current;
    let mut state = State::with_services(limits, layout, services);
    // A borrow, which nobody gives back: it goes with the state.
    let peer = Resource::new_borrow(handle(&mut state.table, PeerHandle(current))?.rep());
    let host = NativeHost(RefCell::new(state));
    let peer = Handle { host: &host, resource: peer };
    Ok(run(&host, peer, told(context, limits)))
}

impl NativeHost {
    fn call<R>(&self, import: impl FnOnce(&mut State) -> R) -> R {
        import(&mut self.0.borrow_mut())
    }

    fn own<T: Handled>(&self, resource: Resource<T>) -> Handle<'_, T> {
        Handle { host: self, resource }
    }
}

#[expect(missing_docs, reason = "they stand in wit/sync.wit")]
impl NativeHost {
    pub fn peers(&self) -> Result<Vec<Peer<'_>>> {
        let peers = self.call(peers::Host::all)?;
        Ok(peers.into_iter().map(|peer| self.own(peer)).collect())
    }

    pub fn wait_any(&self, transfers: &[&Transfer<'_>], timeout_ms: u64) -> Result<Option<u32>> {
        let transfers = transfers.iter().map(|transfer| transfer.borrow()).collect();
        self.call(|state| transfers::Host::wait_any(state, transfers, timeout_ms))
    }

    pub fn root(&self) -> Result<types::Hash> {
        self.call(local::Host::root)
    }

    pub fn has(&self, hash: types::Hash) -> Result<bool> {
        self.call(|state| local::Host::has(state, hash))
    }

    pub fn fetching(&self, hash: types::Hash) -> Result<bool> {
        self.call(|state| local::Host::fetching(state, hash))
    }

    pub fn load_cursor(&self) -> Result<Option<Vec<u8>>> {
        self.call(cursor::Host::load)
    }

    pub fn store_cursor(&self, value: &[u8]) -> Result<Result<(), cursor::StoreError>> {
        self.call(|state| cursor::Host::store(state, value.to_vec()))
    }

    pub fn archive_available(&self) -> Result<bool> {
        self.call(archive::Host::available)
    }

    pub fn now_ms(&self) -> Result<u64> {
        self.call(clock::Host::now_ms)
    }

    pub fn monotonic_ms(&self) -> Result<u64> {
        self.call(clock::Host::monotonic_ms)
    }

    pub fn random(&self) -> Result<u64> {
        self.call(random::Host::next_u64)
    }

    pub fn log(&self, level: log::Level, message: &str) -> Result<()> {
        self.call(|state| log::Host::write(state, level, message.to_owned()))
    }
}

impl<T: Handled> Handle<'_, T> {
    fn borrow(&self) -> Resource<T> {
        Resource::new_borrow(self.resource.rep())
    }

    fn call<R>(&self, import: impl FnOnce(&mut State, Resource<T>) -> R) -> R {
        self.host.call(|state| import(state, self.borrow()))
    }
}

#[expect(missing_docs, reason = "they stand in wit/sync.wit")]
impl<'a> Peer<'a> {
    pub fn id(&self) -> Result<String> {
        self.call(peers::HostPeer::id)
    }

    pub fn load(&self) -> Result<u32> {
        self.call(peers::HostPeer::load)
    }

    pub fn probe(&self) -> Result<Result<peers::RootInfo, types::PeerError>> {
        self.call(peers::HostPeer::probe)
    }

    pub fn manifest(&self) -> Result<Result<Manifest<'a>, types::PeerError>> {
        let manifest = self.call(peers::HostPeer::manifest)?;
        Ok(manifest.map(|manifest| self.host.own(manifest)))
    }

    pub fn start_fetch(
        &self,
        hash: types::Hash,
    ) -> Result<Result<Transfer<'a>, types::FetchError>> {
        let transfer = self.call(|state, peer| peers::HostPeer::start_fetch(state, peer, hash))?;
        Ok(transfer.map(|transfer| self.host.own(transfer)))
    }
}

#[expect(missing_docs, reason = "they stand in wit/sync.wit")]
impl Manifest<'_> {
    pub fn length(&self) -> Result<u32> {
        self.call(peers::HostManifest::length)
    }

    pub fn root(&self) -> Result<types::Hash> {
        self.call(peers::HostManifest::root)
    }

    pub fn missing(&self) -> Result<Vec<types::SegmentRef>> {
        self.call(peers::HostManifest::missing)
    }

    pub fn keys(&self, hash: types::Hash) -> Result<Option<types::KeyRange>> {
        self.call(|state, manifest| peers::HostManifest::keys(state, manifest, hash))
    }
}

#[expect(missing_docs, reason = "they stand in wit/sync.wit")]
impl<'a> Transfer<'a> {
    pub fn hash(&self) -> Result<types::Hash> {
        self.call(transfers::HostTransfer::hash)
    }

    pub fn take(&self) -> Result<Result<Segment<'a>, types::FetchError>> {
        let segment = self.call(transfers::HostTransfer::take)?;
        Ok(segment.map(|segment| self.host.own(segment)))
    }
}

#[expect(missing_docs, reason = "they stand in wit/sync.wit")]
impl Segment<'_> {
    pub fn hash(&self) -> Result<types::Hash> {
        self.call(transfers::HostSegment::hash)
    }

    pub fn size(&self) -> Result<u64> {
        self.call(transfers::HostSegment::size)
    }

    pub fn apply(&self) -> Result<Result<local::Applied, types::ApplyError>> {
        self.call(local::Host::apply)
    }

    pub fn upload(&self) -> Result<Result<archive::UploadOutcome, archive::UploadError>> {
        self.call(archive::Host::upload)
    }
}

/// What stands behind a handle.
pub trait Handled: Sized + 'static {
    #[expect(missing_docs, private_interfaces, reason = "for `Handle` alone")]
    fn dropped(state: &mut State, resource: Resource<Self>) -> Result<()>;
}

macro_rules! handled {
    ($($resource:ty: $import:path),*) => {$(
        impl Handled for $resource {
            #[expect(private_interfaces, reason = "for `Handle` alone")]
            fn dropped(state: &mut State, resource: Resource<Self>) -> Result<()> {
                $import(state, resource)
            }
        }
    )*};
}

handled!(
    PeerHandle: peers::HostPeer::drop,
    resources::Manifest: peers::HostManifest::drop,
    resources::Transfer: transfers::HostTransfer::drop,
    resources::Segment: transfers::HostSegment::drop
);

impl<T: Handled> Drop for Handle<'_, T> {
    fn drop(&mut self) {
        if self.resource.owned() {
            // After the last call that is allowed this fails; then it goes with the state.
            let _ =
                self.host.call(|state| T::dropped(state, Resource::new_own(self.resource.rep())));
        }
    }
}
