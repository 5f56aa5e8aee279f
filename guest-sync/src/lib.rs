//! The default sync policy: pull what a peer has and the local engine lacks.
//!
//! It is the stock anti-entropy loop as a component, with what that loop does without: transfers in
//! flight side by side, backoff for dead peers and bad segments, a quarantine, and a memory of
//! segments that can never be applied. This file holds the bindings and nothing else; start reading
//! at `tick.rs`, or at `spec.rs` for what is promised.

mod backoff;
mod cursor;
mod hash;
mod host;
mod memory;
mod pull;
mod settings;
mod tick;
mod world;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod spec;

/// What wit-bindgen makes of `wit/sync.wit`.
#[allow(missing_docs, clippy::all)]
mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "sync-policy",
        additional_derives: [PartialEq, Eq],
        additional_type_attributes: { "edgestore:sync/types@0.2.0/hash": [#[derive(PartialOrd, Ord)]] },
    });
}

use bindings::exports::edgestore::sync::policy::{
    Context, Description, Guest, Peer, TickFailure, TickReport,
};

/// The component's exports.
pub struct Policy;

impl Guest for Policy {
    fn describe() -> Description {
        Description {
            name: "default".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            cursor_schema: cursor::SCHEMA,
        }
    }

    fn tick(context: Context, peer: &Peer) -> Result<TickReport, TickFailure> {
        tick::tick(&host::Host(peer), &context)
    }
}

// A native linker does not take the names that a component's exports have.
#[cfg(target_family = "wasm")]
bindings::export!(Policy with_types_in bindings);
