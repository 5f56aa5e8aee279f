//! Which version of the protocol a peer speaks.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A peer that had no version 2 may have been updated after this time.
const ASK_AGAIN: Duration = Duration::from_secs(10 * 60);

/// When a peer was last found to have no use for version 2, so that it costs a
/// peer of version 1 no request more each time.
#[derive(Debug, Default)]
pub(super) struct Version1(Mutex<Option<Instant>>);

impl Version1 {
    pub(super) fn note(&self, now: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// Whether that was not long ago.
    pub(super) fn is_recent(&self, now: Instant) -> bool {
        let noted = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.is_some_and(|noted| now.saturating_duration_since(noted) < ASK_AGAIN)
    }
}
