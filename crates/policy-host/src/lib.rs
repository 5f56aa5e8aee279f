//! Sync policies: WebAssembly components that decide what to pull, when to retry and what to
//! remember, while the host does it.
//!
//! A policy is any component for the world `sync-policy` of `wit/sync.wit`, or of an older version
//! of that contract which is still accepted (`wit/`). [`PolicyEngine`] loads and checks one,
//! [`Policy::tick`] runs it once for one peer, in an instance that lives as long as the tick.
//! Whatever a policy does, it is held to its [`Limits`] and can reach nothing but its [`Services`]:
//! it has no files, no sockets, and not even the bytes of a segment. What goes wrong is a
//! [`LoadError`] or a [`TickError`] that says so in the user's words.

#![deny(unsafe_code)]
// These panic where nobody reads what they print.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

#[expect(missing_docs, reason = "the contract is documented in wit/sync.wit")]
mod bindings;
mod call;
mod check;
mod code_cache;
mod compiler;
mod contract;
mod downloads;
mod dry_run;
mod epoch;
mod error;
mod fetch_backoff;
mod host;
mod host_local;
mod instance;
mod limits;
mod load;
mod log;
#[cfg(any(test, feature = "testing"))]
mod memory_cursors;
#[doc(hidden)]
pub mod native;
mod observer;
mod outline;
mod peer;
mod resources;
mod services;
mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trap;
mod view;
mod wait;
mod words;

#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub use bindings::v0_1::fuzz::adapters as fuzz_adapters;
pub use compiler::Compiler;
pub use downloads::Downloads;
pub use dry_run::{DryRun, RehearsalError, dry_run};
pub use dry_run::{TRIAL_FOLDER, rehearse_settings};
pub use error::{LoadError, SettingsTooLarge, TickError};
pub use fetch_backoff::FetchBackoff;
pub use instance::Policy;
pub use limits::Limits;
pub use load::PolicyEngine;
pub use observer::{HostCall, Observer};
pub use outline::Outline;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub use outline::fuzz::component as fuzz_component;
pub use peer::Peer;
pub use services::{
    Archive, Clock, Context, CursorLayout, CursorStore, Reason, Services, SystemClock, TickReport,
    UploadOutcome,
};
pub use view::{Comparison, SetAside, SetAsideReason};
