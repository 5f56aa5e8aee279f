//! EdgeStore Host: a node that keeps a replicated database, and pulls from its peers by a policy
//! that is a WebAssembly component.
//!
//! ```text
//! cli ──► admin ──► runtime ──► policy ──► protocol ──► engine
//!   └──► sim ─────────┘
//! ```
//!
//! - [`engine`] keeps records on disk, merges, and makes segments to exchange them;
//! - [`protocol`] is how nodes ask each other, as `edgestore-repl` does;
//! - [`policy`] runs a component in bounds, and lets it reach engine and peers by handles;
//! - [`kit`] is for those who write policies: a project to begin with, in four languages;
//! - [`runtime`] ticks the policy for each peer, and is where a program starts: see [`Host`];
//! - [`sim`] runs whole hosts in a [`world`] that it makes up, to test policies.
//!
//! Segment bytes, URLs and keys stay on this side of `wit/sync.wit`; every byte of a peer is
//! checked before it is used.
#![deny(unsafe_code)]
// These panic where nobody reads what they print: see `cli::stderr` and `cli::output`.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

#[cfg(unix)]
pub mod admin;
pub mod cli;
mod disk;
pub mod engine;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod hash;
pub mod kit;
pub mod policy;
pub mod protocol;
pub mod runtime;
pub mod sim;
#[cfg(test)]
mod testing;
mod text;
mod watch;
pub mod world;

pub use hash::{Hash, ParseHashError};
pub use runtime::{Host, HostBuilder, HostError, MemoryBudget};
