//! Which versions of the contract a policy may be built for, and how one of each is called.
//!
//! The host itself speaks the newest alone: what an older one says is translated in its module of
//! `bindings`. So nothing but these modules knows that there is more than one.

use wasmtime::component::{HasSelf, InstancePre, Linker, Resource};
use wasmtime::{Engine, Store};

use super::bindings::{SyncPolicy, SyncPolicyPre, policy, v0_1};
use super::resources::PeerHandle;
use super::state::State;

/// A version of the contract that is accepted, patch releases included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contract {
    V0_2,
    V0_1,
}

impl Contract {
    /// By the version of an interface; none of one that is not accepted.
    pub(super) fn of(version: &str) -> Option<Self> {
        [Self::V0_2, Self::V0_1].into_iter().find(|contract| {
            version.strip_prefix(contract.version()).is_some_and(|patch| patch.starts_with('.'))
        })
    }

    /// Without the number of the patch release.
    pub(super) fn version(self) -> &'static str {
        match self {
            Self::V0_2 => "0.2",
            Self::V0_1 => "0.1",
        }
    }
}

/// The imports of all versions. Their names differ by the version, so they stand side by side.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    SyncPolicy::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    v0_1::SyncPolicy::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    Ok(linker)
}

/// A component whose imports and exports were found to fit.
#[derive(Clone)]
pub(super) enum Linked {
    V0_2(SyncPolicyPre<State>),
    V0_1(v0_1::SyncPolicyPre<State>),
}

impl Linked {
    /// Fails when the export is not what `contract` says it is.
    pub(super) fn new(pre: InstancePre<State>, contract: Contract) -> wasmtime::Result<Self> {
        Ok(match contract {
            Contract::V0_2 => Self::V0_2(SyncPolicyPre::new(pre)?),
            Contract::V0_1 => Self::V0_1(v0_1::SyncPolicyPre::new(pre)?),
        })
    }

    pub(super) fn contract(&self) -> Contract {
        match self {
            Self::V0_2(_) => Contract::V0_2,
            Self::V0_1(_) => Contract::V0_1,
        }
    }

    pub(super) fn engine(&self) -> &Engine {
        match self {
            Self::V0_2(pre) => pre.engine(),
            Self::V0_1(pre) => pre.engine(),
        }
    }

    pub(super) fn instantiate(&self, store: &mut Store<State>) -> wasmtime::Result<Instance> {
        Ok(match self {
            Self::V0_2(pre) => Instance::V0_2(pre.instantiate(store)?),
            Self::V0_1(pre) => Instance::V0_1(pre.instantiate(store)?),
        })
    }
}

/// A running policy, which is called in the words of the newest contract.
pub(super) enum Instance {
    V0_2(SyncPolicy),
    V0_1(v0_1::SyncPolicy),
}

impl Instance {
    pub(super) fn describe(
        &self,
        store: &mut Store<State>,
    ) -> wasmtime::Result<policy::Description> {
        match self {
            Self::V0_2(instance) => instance.edgestore_sync_policy().call_describe(store),
            Self::V0_1(instance) => {
                instance.edgestore_sync_policy().call_describe(store).map(Into::into)
            }
        }
    }

    pub(super) fn tick(
        &self,
        store: &mut Store<State>,
        context: policy::Context,
        peer: Resource<PeerHandle>,
    ) -> wasmtime::Result<Result<policy::TickReport, policy::TickFailure>> {
        match self {
            Self::V0_2(instance) => {
                instance.edgestore_sync_policy().call_tick(store, &context, peer)
            }
            Self::V0_1(instance) => {
                let policy = instance.edgestore_sync_policy();
                Ok(policy
                    .call_tick(store, &context.into(), peer)?
                    .map(Into::into)
                    .map_err(Into::into))
            }
        }
    }
}
