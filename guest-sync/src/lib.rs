//! The default sync policy: pull what a peer has and the local engine lacks.
//!
//! It is the stock anti-entropy loop as a component, with what that loop does without: transfers in
//! flight side by side, backoff for dead peers and bad segments, a quarantine, and a memory of
//! segments that can never be applied. Start reading at `tick.rs`, or at `spec.rs` for what is
//! promised; the parts are those of `edgestore-policy`.

#![forbid(unsafe_code)]

mod tick;

#[cfg(test)]
mod spec;

pub use edgestore_policy::Policy;

/// The policy. `DefaultPolicy::tick` runs natively as well, on any host.
pub struct DefaultPolicy;

edgestore_policy::export!(DefaultPolicy);
