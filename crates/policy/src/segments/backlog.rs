//! What a cursor of the author's own type remembers of a peer at least.

use std::ops::{Deref, DerefMut};

use super::Segments;
use crate::host::Host;
use crate::types::Hash;

/// The segments still to pull, and whether all others that the peer had are here: then it need not
/// be asked for its manifest. The [`Ledger`](crate::Ledger) has its own.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Backlog {
    segments: Segments,
    /// The root of the last manifest, where all of that is here.
    complete: Option<Hash>,
}

impl Deref for Backlog {
    type Target = Segments;

    fn deref(&self) -> &Segments {
        &self.segments
    }
}

impl DerefMut for Backlog {
    fn deref_mut(&mut self) -> &mut Segments {
        &mut self.segments
    }
}

impl Backlog {
    /// Whether there is nothing to pull: the roots agree, or all that is behind the peer's root was
    /// pulled before. An engine without segments proves that the memory is of another one.
    pub fn is_in_sync_with(&mut self, host: &impl Host, peer_root: Hash) -> bool {
        let local_root = host.local_root();
        if peer_root == local_root {
            self.segments = Segments::default();
            return true;
        }
        self.complete == Some(peer_root) && local_root != Hash::ZERO
    }

    /// The pull has ended. If nothing is left then all that is behind this root is here; it must be
    /// the root of the manifest that was pulled, since the peer may have changed since the probe.
    pub fn pulled(&mut self, manifest_root: Hash) {
        self.complete = self.segments.pending().next().is_none().then_some(manifest_root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::{MockHost, root, segment};
    use crate::segments::State;

    /// The root of a peer with this segment.
    fn root_of(n: u64) -> Hash {
        root(&[segment(n)].into())
    }

    #[test]
    fn what_was_pulled_whole_is_in_sync_until_the_peer_or_the_engine_changes() {
        let host = MockHost::with([]);
        let mut backlog = Backlog::default();
        assert!(!backlog.is_in_sync_with(&host, root_of(1)));
        backlog.pulled(root_of(1));
        assert!(backlog.is_in_sync_with(&host, root_of(1)));
        assert!(!backlog.is_in_sync_with(&host, root_of(2)));
        host.local.borrow_mut().clear();
        assert!(!backlog.is_in_sync_with(&host, root_of(1)), "the database is a new one");
    }

    #[test]
    fn with_something_left_it_is_not_complete_and_what_is_rejected_is_not_left() {
        let host = MockHost::with([]);
        let segments = [(segment(1), State::New)].into_iter().collect();
        let mut backlog = Backlog { segments, ..Backlog::default() };
        backlog.pulled(root_of(1));
        assert!(!backlog.is_in_sync_with(&host, root_of(1)));
        backlog.rejected(segment(1));
        backlog.pulled(root_of(1));
        assert!(backlog.is_in_sync_with(&host, root_of(1)));
    }

    #[test]
    fn equal_roots_leave_nothing_to_pull() {
        let host = MockHost::with([]);
        let segments = [(segment(1), State::New)].into_iter().collect();
        let mut backlog = Backlog { segments, ..Backlog::default() };
        assert!(backlog.is_in_sync_with(&host, host.local_root()));
        assert!(backlog.is_empty());
    }
}
