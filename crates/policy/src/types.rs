//! The vocabulary of `wit/sync.wit`: the generated types, and what policies want to know of them.

pub use crate::bindings::edgestore::sync::archive::{UploadError, UploadOutcome};
pub use crate::bindings::edgestore::sync::cursor::StoreError;
pub use crate::bindings::edgestore::sync::local::Applied;
pub use crate::bindings::edgestore::sync::log::Level;
pub use crate::bindings::edgestore::sync::peers::{RootInfo, Watermark};
pub use crate::bindings::edgestore::sync::types::{
    ApplyError, FetchError, Hash, KeyRange, PeerError, SegmentInfo, SegmentRef,
};
pub use crate::bindings::exports::edgestore::sync::policy::{
    Context, PolicyError, Reason, TickFailure, TickReport,
};

/// The host could not write: its disk is full or failing. No peer and no segment is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage;

impl PeerError {
    /// In words, for a log.
    pub fn why(&self) -> &'static str {
        match self {
            PeerError::Unreachable => "the peer is unreachable",
            PeerError::Timeout => "timeout",
            PeerError::Status(_) => "the peer refused",
            PeerError::Malformed => "malformed answer",
            PeerError::TooLarge => "too large",
        }
    }

    /// Whether there was a peer to answer at all.
    pub fn answered(&self) -> bool {
        !matches!(self, PeerError::Unreachable | PeerError::Timeout)
    }
}

impl FetchError {
    /// In words, for a log.
    pub fn why(&self) -> &'static str {
        match self {
            FetchError::Peer(error) => error.why(),
            FetchError::NotFound => "the peer does not have it",
            FetchError::HashMismatch => "hash mismatch",
            FetchError::NotInManifest => "no manifest lists it",
            FetchError::TooManyTransfers | FetchError::NotReady => "no transfer",
            FetchError::TooManyBytes => "as many bytes as the host allows",
            FetchError::Storage => "the host cannot write",
        }
    }

    /// Whether there was a peer to answer at all. Some in a row that did not: it is gone.
    pub fn answered(&self) -> bool {
        !matches!(self, FetchError::Peer(error) if !error.answered())
    }

    /// Whether to count it as a failed try of the segment. A peer that is gone is not the segment's
    /// fault, nor is what the host lacks; but a segment that takes a peer too long may be its own.
    pub fn blames_segment(&self) -> bool {
        !matches!(
            self,
            FetchError::Peer(PeerError::Unreachable)
                | FetchError::TooManyBytes
                | FetchError::Storage
        )
    }
}

impl ApplyError {
    /// In words, for a log.
    pub fn why(&self) -> &'static str {
        match self {
            ApplyError::Rejected => "rejected, and never fetched again",
            ApplyError::ClockAhead => "a record in it is from the future",
            ApplyError::Storage => "the host cannot write",
        }
    }
}

/// In sync, and nothing was done.
impl Default for TickReport {
    fn default() -> Self {
        TickReport {
            in_sync: true,
            missing: 0,
            applied: 0,
            records_written: 0,
            records_skipped: 0,
            failed: 0,
            pending: 0,
            quarantined: 0,
            next_tick_ms: None,
        }
    }
}

impl TickReport {
    /// Counts a segment that was applied.
    pub fn count(&mut self, applied: &Applied) {
        self.applied += 1;
        self.records_written += applied.written;
        self.records_skipped += applied.skipped;
    }
}

/// The next tick comes at the configured interval.
impl From<PolicyError> for TickFailure {
    fn from(error: PolicyError) -> Self {
        TickFailure { error, next_tick_ms: None }
    }
}

impl From<PeerError> for TickFailure {
    fn from(error: PeerError) -> Self {
        PolicyError::Peer(error).into()
    }
}

impl From<Storage> for TickFailure {
    fn from(Storage: Storage) -> Self {
        PolicyError::Storage.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_peer_that_is_gone_or_slow_did_not_answer() {
        for (error, answered) in [
            (FetchError::Peer(PeerError::Unreachable), false),
            (FetchError::Peer(PeerError::Timeout), false),
            (FetchError::Peer(PeerError::Status(503)), true),
            (FetchError::NotFound, true),
            (FetchError::HashMismatch, true),
        ] {
            assert_eq!(error.answered(), answered, "{error:?}");
        }
    }

    #[test]
    fn no_segment_is_to_blame_for_a_dead_peer_a_full_disk_or_a_full_budget() {
        for (error, blamed) in [
            (FetchError::Peer(PeerError::Unreachable), false),
            (FetchError::Storage, false),
            (FetchError::TooManyBytes, false),
            (FetchError::Peer(PeerError::Timeout), true),
            (FetchError::HashMismatch, true),
        ] {
            assert_eq!(error.blames_segment(), blamed, "{error:?}");
        }
    }
}
