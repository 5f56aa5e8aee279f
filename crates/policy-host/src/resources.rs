//! What stands behind the handles that a policy holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use edgestore_engine::{Hash, StagedSegment};
use edgestore_protocol::{FetchError, SegmentList};
use wasmtime::component::{Resource, ResourceTable, ResourceTableError};

use super::TickError;
use super::downloads::Download;
use super::wait::Slot;

/// A new handle.
pub(super) fn handle<T: Send + 'static>(
    table: &mut ResourceTable,
    of: T,
) -> wasmtime::Result<Resource<T>> {
    table.push(of).map_err(|error| match error {
        ResourceTableError::Full => TickError::Handles(table.max_capacity()).into(),
        error => error.into(),
    })
}

/// A peer, by its position among the configured ones.
pub struct PeerHandle(pub(super) usize);

/// A peer's segments at one moment.
pub struct Manifest {
    /// The position of the peer that it is of.
    pub(super) peer: usize,
    pub(super) list: SegmentList,
}

/// One download.
pub struct Transfer {
    pub(super) hash: Hash,
    /// The position of the peer that it comes from.
    pub(super) peer: usize,
    /// When, by the clock of the environment.
    pub(super) begun: Duration,
    pub(super) cancel: Arc<AtomicBool>,
    pub(super) slot: Arc<Slot<Result<StagedSegment, FetchError>>>,
    /// Until the outcome is taken.
    pub(super) download: Option<Download>,
}

impl Drop for Transfer {
    /// Also when the tick ends: handles that the policy kept are dropped with its instance.
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

/// A verified segment.
pub struct Segment {
    pub(super) hash: Hash,
    /// The position of the peer that it came from.
    pub(super) peer: usize,
    pub(super) size: u64,
    pub(super) content: Content,
}

/// What is left of a segment's bytes.
pub(super) enum Content {
    /// As long as they are here, the segment counts as being fetched.
    Staged(
        Box<StagedSegment>,
        #[expect(dead_code, reason = "it counts until it is dropped")] Option<Download>,
    ),
    /// They are the engine's now.
    Applied,
    /// They are no segment, and gone.
    Rejected,
    /// They wait for their time, in the host's keeping.
    Deferred,
}
