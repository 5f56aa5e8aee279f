//! EdgeStore Host: a node that keeps a replicated database, and pulls from its peers by a policy
//! that is a WebAssembly component. This package is the program; the parts that it is made of are
//! crates of their own:
//!
//! ```text
//! cli ──► node ──► policy-host ──► protocol ──► engine
//!   └──► sim ──► node
//! ```
//!
//! - [`engine`] keeps records on disk, merges, and makes segments to exchange them;
//! - [`protocol`] is how nodes ask each other, as `edgestore-repl` does;
//! - [`policy`] runs a component in bounds, and lets it reach engine and peers by handles;
//! - [`runtime`] ticks the policy for each peer, and is where a program starts: see [`Host`];
//! - [`sim`] runs whole hosts in an [environment](mod@env) that it makes up, to test policies;
//! - [`kit`] is for those who write policies: a project to begin with, in four languages.
//!
//! Segment bytes, URLs and keys stay on this side of `wit/sync.wit`; every byte of a peer is
//! checked before it is used.
#![deny(unsafe_code)]
// These panic where nobody reads what they print: see `cli::stderr` and `cli::output`.
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::dbg_macro)]

pub mod cli;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;

use edgestore_engine::disk;
pub use edgestore_engine::{self as engine, Hash, ParseHashError, env};
pub use edgestore_kit as kit;
pub use edgestore_node::admin;
pub use edgestore_node::{self as runtime, Host, HostBuilder, HostError, MemoryBudget};
pub use edgestore_policy_host as policy;
pub use edgestore_protocol as protocol;
pub use edgestore_sim as sim;
use edgestore_text as text;
