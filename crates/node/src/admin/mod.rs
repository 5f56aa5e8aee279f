//! How another process reaches a database that a running host holds: requests and answers over a
//! Unix socket in the database folder, which only its owner can open.
//!
//! The file permissions are all the authentication there is: whoever may connect may read and
//! write. A connection begins with a hello that carries the version of the protocol, so that a
//! program of another version gets a sentence and no garbage. Every frame is bounded, and so are
//! the connections; long lists of records travel in pages.

mod backend;
mod client;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod fuzz;
mod server;
mod socket;
mod wire;

pub use self::backend::{Backend, RecordIter, batch};
pub use self::client::{AdminClient, AdminError, Scan};
pub use self::server::AdminServer;
pub use self::socket::SOCKET_NAME;
pub use self::wire::{MAX_FRAME, Op, SegmentInfo, VERSION};

#[cfg(test)]
mod tests;
