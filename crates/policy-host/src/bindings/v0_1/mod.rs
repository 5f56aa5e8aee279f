//! Contract 0.1. Its text is `wit/v0_1/sync.wit`, which stays as it was: policies are built
//! for `wit/sync.wit` alone, and only hosts still have to know this one.
//!
//! What 0.2 added, a policy of 0.1 is not told. All else is the same, so each import is forwarded
//! to the one of the newest contract (`imports`), where it is limited, counted and told to an
//! observer like any other; here the types are translated.

#[cfg(any(test, feature = "testing"))]
pub(crate) mod fuzz;
mod imports;

use wasmtime::component::bindgen;

use super::{archive, cursor, local, log, peers, policy, types};

bindgen!({
    path: "../../wit/v0_1",
    world: "sync-policy",
    imports: { default: trappable },
    with: {
        "edgestore:sync/peers.peer": crate::resources::PeerHandle,
        "edgestore:sync/peers.manifest": crate::resources::Manifest,
        "edgestore:sync/transfers.transfer": crate::resources::Transfer,
        "edgestore:sync/transfers.segment": crate::resources::Segment,
    },
});

use edgestore::sync as old;
use exports::edgestore::sync::policy as old_policy;

impl From<types::Hash> for old::types::Hash {
    fn from(hash: types::Hash) -> Self {
        let types::Hash { a, b, c, d } = hash;
        Self { a, b, c, d }
    }
}

impl From<old::types::Hash> for types::Hash {
    fn from(hash: old::types::Hash) -> Self {
        let old::types::Hash { a, b, c, d } = hash;
        Self { a, b, c, d }
    }
}

impl From<types::SegmentRef> for old::types::SegmentRef {
    fn from(segment: types::SegmentRef) -> Self {
        let types::SegmentRef { hash, id, info: _ } = segment;
        Self { hash: hash.into(), id }
    }
}

impl From<types::PeerError> for old::types::PeerError {
    fn from(error: types::PeerError) -> Self {
        match error {
            types::PeerError::Unreachable => Self::Unreachable,
            types::PeerError::Timeout => Self::Timeout,
            types::PeerError::Status(status) => Self::Status(status),
            types::PeerError::Malformed => Self::Malformed,
            types::PeerError::TooLarge => Self::TooLarge,
        }
    }
}

impl From<old::types::PeerError> for types::PeerError {
    fn from(error: old::types::PeerError) -> Self {
        match error {
            old::types::PeerError::Unreachable => Self::Unreachable,
            old::types::PeerError::Timeout => Self::Timeout,
            old::types::PeerError::Status(status) => Self::Status(status),
            old::types::PeerError::Malformed => Self::Malformed,
            old::types::PeerError::TooLarge => Self::TooLarge,
        }
    }
}

impl From<types::FetchError> for old::types::FetchError {
    fn from(error: types::FetchError) -> Self {
        match error {
            types::FetchError::Peer(error) => Self::Peer(error.into()),
            types::FetchError::NotFound => Self::NotFound,
            types::FetchError::HashMismatch => Self::HashMismatch,
            types::FetchError::NotInManifest => Self::NotInManifest,
            // Both say that the host starts no more fetches for now, and that nobody is at fault.
            types::FetchError::TooManyTransfers | types::FetchError::TooManyBytes => {
                Self::TooManyTransfers
            }
            types::FetchError::NotReady => Self::NotReady,
            types::FetchError::Storage => Self::Storage,
        }
    }
}

impl From<types::ApplyError> for old::types::ApplyError {
    fn from(error: types::ApplyError) -> Self {
        match error {
            types::ApplyError::Rejected => Self::Rejected,
            types::ApplyError::ClockAhead => Self::ClockAhead,
            types::ApplyError::Storage => Self::Storage,
        }
    }
}

impl From<peers::RootInfo> for old::peers::RootInfo {
    fn from(info: peers::RootInfo) -> Self {
        let watermark = info.watermark.map(|watermark| {
            let peers::Watermark { confirmed_lsn, write_token } = watermark;
            old::peers::Watermark { confirmed_lsn, write_token }
        });
        Self { root: info.root.into(), watermark }
    }
}

impl From<local::Applied> for old::local::Applied {
    fn from(applied: local::Applied) -> Self {
        let local::Applied { written, skipped, duplicate } = applied;
        Self { written, skipped, duplicate }
    }
}

impl From<cursor::StoreError> for old::cursor::StoreError {
    fn from(error: cursor::StoreError) -> Self {
        match error {
            cursor::StoreError::TooLarge(limit) => Self::TooLarge(limit),
            cursor::StoreError::Storage => Self::Storage,
        }
    }
}

impl From<archive::UploadOutcome> for old::archive::UploadOutcome {
    fn from(outcome: archive::UploadOutcome) -> Self {
        match outcome {
            archive::UploadOutcome::Stored => Self::Stored,
            archive::UploadOutcome::AlreadyThere => Self::AlreadyThere,
        }
    }
}

impl From<archive::UploadError> for old::archive::UploadError {
    fn from(error: archive::UploadError) -> Self {
        match error {
            archive::UploadError::Unavailable => Self::Unavailable,
            archive::UploadError::NotApplied => Self::NotApplied,
            archive::UploadError::Failed => Self::Failed,
        }
    }
}

impl From<old::log::Level> for log::Level {
    fn from(level: old::log::Level) -> Self {
        match level {
            old::log::Level::Error => Self::Error,
            old::log::Level::Warn => Self::Warn,
            old::log::Level::Info => Self::Info,
            old::log::Level::Debug => Self::Debug,
        }
    }
}

impl From<old_policy::Description> for policy::Description {
    fn from(description: old_policy::Description) -> Self {
        let old_policy::Description { name, version, cursor_schema } = description;
        Self { name, version, cursor_schema }
    }
}

impl From<policy::Context> for old_policy::Context {
    fn from(context: policy::Context) -> Self {
        let policy::Context { reason, budget_ms, interval_ms, settings } = context;
        let reason = match reason {
            policy::Reason::Interval => old_policy::Reason::Interval,
            policy::Reason::Wake => old_policy::Reason::Wake,
            policy::Reason::Swap => old_policy::Reason::Swap,
            policy::Reason::Retry => old_policy::Reason::Retry,
        };
        Self { reason, budget_ms, interval_ms, settings }
    }
}

impl From<old_policy::TickReport> for policy::TickReport {
    fn from(report: old_policy::TickReport) -> Self {
        Self {
            in_sync: report.in_sync,
            missing: report.missing,
            applied: report.applied,
            records_written: report.records_written,
            records_skipped: report.records_skipped,
            failed: report.failed,
            pending: report.pending,
            quarantined: report.quarantined,
            next_tick_ms: report.next_tick_ms,
        }
    }
}

impl From<old_policy::TickFailure> for policy::TickFailure {
    fn from(failure: old_policy::TickFailure) -> Self {
        let error = match failure.error {
            old_policy::PolicyError::Peer(error) => policy::PolicyError::Peer(error.into()),
            old_policy::PolicyError::Storage => policy::PolicyError::Storage,
            old_policy::PolicyError::Setting(text) => policy::PolicyError::Setting(text),
            old_policy::PolicyError::Other(text) => policy::PolicyError::Other(text),
        };
        Self { error, next_tick_ms: failure.next_tick_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_that_has_pulled_enough_may_start_no_more_transfers() {
        let told = old::types::FetchError::from(types::FetchError::TooManyBytes);
        assert!(matches!(told, old::types::FetchError::TooManyTransfers), "{told:?}");
    }
}
