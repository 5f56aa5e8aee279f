//! What stands behind the handles that a policy holds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
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
    pub(super) start: Arc<Start>,
    pub(super) cancel: Arc<AtomicBool>,
    pub(super) slot: Arc<Slot<Result<StagedSegment, FetchError>>>,
    /// Until the outcome is taken.
    pub(super) download: Option<Download>,
}

impl Transfer {
    /// Whether there is an outcome to take. In a tick that is `late` one without a thread has one: it
    /// is for the next tick.
    pub(super) fn is_done(&self, late: bool) -> bool {
        self.slot.is_done() || (late && self.start.is_open())
    }
}

/// When the request of a transfer was sent, or that it never will be. Whoever is first decides.
#[derive(Debug, Default)]
pub(super) struct Start(OnceLock<Option<Duration>>);

impl Start {
    /// A thread is about to send it. False when it is given up.
    pub(super) fn send(&self, now: Duration) -> bool {
        self.0.set(Some(now)).is_ok()
    }

    /// It is not to be sent any more. False when it was.
    pub(super) fn give_up(&self) -> bool {
        self.0.set(None).is_ok()
    }

    /// Whether it waits for a thread.
    pub(super) fn is_open(&self) -> bool {
        self.0.get().is_none()
    }

    /// By the clock of the environment; none where it was not sent.
    pub(super) fn sent(&self) -> Option<Duration> {
        self.0.get().copied().flatten()
    }
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
