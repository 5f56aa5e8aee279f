//! For authors of sync policies: everything between the contract (`wit/sync.wit`) and a policy.
//!
//! A policy implements [`Policy`]: a name, a version, and a tick over whatever implements [`Host`].
//! [`export!`] makes a component of it; [`mock::MockHost`] runs the very same tick in a unit test.
//! The rest are parts to build a tick from, none of them required:
//!
//! - [`Order`]: what is missing, in another order than the peer's, or a part of it
//! - [`Pull`] and [`Budget`]: a window of transfers in flight, within the time of the tick
//! - [`Silence`]: whether fetches without an answer mean that the peer is gone
//! - [`Ledger`]: the cursor of the default policy, with backoff, quarantine and what is pending, and
//!   the steps of a tick around the pull; or `Cursor`: one of the author's own type (feature `serde`)
//! - [`Settings`]: what the user may tune, with errors that say what is wrong
//! - [`aimd`]: a window that adapts; [`quota`]: bytes an hour; [`daily`]: a time of the day
//!
//! A complete policy, that pulls the newest segments first and remembers nothing:
//!
//! ```
//! use edgestore_policy::prelude::*;
//!
//! pub struct NewestFirst;
//!
//! impl Policy for NewestFirst {
//!     const NAME: &str = "newest-first";
//!     const VERSION: &str = "1.0.0";
//!     const CURSOR_SCHEMA: u32 = 1;
//!
//!     fn tick<H: Host>(host: &H, context: &Context) -> Result<TickReport, TickFailure> {
//!         let budget = Budget::new(host, context);
//!         let mut settings = Settings::new(&context.settings);
//!         let window = settings.number("window", 4, 1..=64)?;
//!         settings.finish()?;
//!
//!         let peer = host.peer();
//!         let mut report = TickReport::default();
//!         if peer.probe()?.root == host.local_root() {
//!             return Ok(report);
//!         }
//!         let mut missing = peer.manifest()?.missing().newest_first();
//!         report.missing = missing.len() as u32;
//!
//!         let mut pull = Pull::new(host, budget, window);
//!         while let Some(landing) = pull.next(|_| missing.next().map(|next| (peer, next.hash))) {
//!             let applied = landing.outcome.map(|segment| host.apply(&segment));
//!             match applied {
//!                 Ok(Ok(applied)) => report.count(&applied),
//!                 Ok(Err(ApplyError::Storage)) => return Err(Storage.into()),
//!                 _ => report.failed += 1,
//!             }
//!         }
//!         report.pending = report.missing - report.applied;
//!         report.in_sync = report.pending == 0;
//!         Ok(report)
//!     }
//! }
//!
//! edgestore_policy::export!(NewestFirst);
//!
//! // A test of it; in a crate of your own it is a `#[test]` in a `#[cfg(test)] mod tests`.
//! use edgestore_policy::mock::{Fate, Listed, MockHost};
//!
//! # fn main() {
//! let host = MockHost::with([]).fate(2, Fate::NotFetched(FetchError::HashMismatch));
//! host.peer().list(Listed::number(1).newest_ms(1000));
//! host.peer().list(Listed::number(2).newest_ms(2000));
//! host.peer().list(Listed::number(3).newest_ms(3000));
//! let report = host.tick::<NewestFirst>();
//! assert_eq!(host.fetched(), [3, 2, 1]);
//! assert_eq!((report.applied, report.failed, report.in_sync), (2, 1, false));
//! # }
//! ```

#![deny(unsafe_code)]

pub mod aimd;
pub mod backoff;
mod budget;
mod component;
#[cfg(feature = "serde")]
pub mod cursor;
pub mod daily;
mod hash;
pub mod host;
pub mod ledger;
pub mod mock;
pub mod order;
pub mod pull;
pub mod quota;
pub mod segments;
pub mod settings;
mod silence;
#[cfg(not(target_family = "wasm"))]
mod simulate;
pub mod stock;
pub mod types;

pub use budget::Budget;
#[cfg(feature = "serde")]
pub use cursor::{Cursor, CursorError};
pub use host::Host;
pub use ledger::Ledger;
pub use order::Order;
pub use pull::Pull;
pub use settings::{SettingError, Settings};
pub use silence::Silence;
#[cfg(not(target_family = "wasm"))]
pub use simulate::simulate;
pub use types::{Context, Hash, TickFailure, TickReport};

/// All that most policies use.
pub mod prelude {
    #[cfg(feature = "serde")]
    pub use crate::cursor::Cursor;
    pub use crate::host::{Host, Manifest as _, Peer as _, Segment as _, Transfer as _};
    pub use crate::ledger::Ledger;
    pub use crate::pull::{End, Landing, Pull};
    pub use crate::segments::Rules;
    pub use crate::types::*;
    pub use crate::{Budget, Order, Policy, Settings};
}

/// What wit-bindgen makes of the contract. The types to use are those of [`types`] and [`host`].
#[doc(hidden)]
#[allow(missing_docs, unsafe_code, clippy::all)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "sync-policy",
        pub_export_macro: true,
        export_macro_name: "export_component",
        additional_derives: [PartialEq, Eq],
        additional_type_attributes: {
            "edgestore:sync/types@0.2.0/hash": [#[derive(PartialOrd, Ord, ::core::hash::Hash)]],
        },
    });
}

/// A sync policy.
pub trait Policy {
    /// What tells it from other policies. A cursor is given to a policy of the same name alone.
    const NAME: &'static str;
    /// For the log and for `status`: most often `env!("CARGO_PKG_VERSION")`.
    const VERSION: &'static str;
    /// To be raised when the cursor's layout changes so that older cursors cannot be read.
    const CURSOR_SCHEMA: u32;

    /// One round of anti-entropy with [`Host::peer`].
    fn tick<H: Host>(host: &H, context: &Context) -> Result<TickReport, TickFailure>;
}

/// Makes a type that implements [`Policy`] the policy of the component that the crate builds to.
///
/// A native linker does not take the names that a component's exports have. On native targets this
/// only checks the type, so that the crate's tests build.
#[macro_export]
macro_rules! export {
    ($policy:ident) => {
        #[cfg(target_family = "wasm")]
        $crate::bindings::export_component!($policy with_types_in $crate::bindings);

        #[cfg(not(target_family = "wasm"))]
        const _: fn() = $crate::is_a_policy::<$policy>;
    };
}

/// For [`export!`].
#[doc(hidden)]
pub fn is_a_policy<P: Policy>() {}
