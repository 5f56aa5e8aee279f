//! What goes over the boundary, in a few words for somebody who watches: hashes as eight hex
//! digits, handles as what they stand for, lists as their length, errors as the contract names
//! them. Nothing here is for a machine to read.

use edgestore_engine::Hash;
use wasmtime::component::Resource;

use super::bindings::{archive, cursor, local, log, peers, types};
use super::log::printable;
use super::resources::{Manifest, PeerHandle, Segment, Transfer};
use super::state::State;

/// An argument or an outcome of a host call.
pub(super) trait Words {
    /// One line, empty where there is nothing to tell. `state` knows what handles stand for.
    fn words(&self, state: &State) -> String;
}

impl Words for () {
    fn words(&self, _: &State) -> String {
        String::new()
    }
}

impl Words for bool {
    fn words(&self, _: &State) -> String {
        self.to_string()
    }
}

impl Words for u32 {
    fn words(&self, _: &State) -> String {
        self.to_string()
    }
}

impl Words for u64 {
    fn words(&self, _: &State) -> String {
        self.to_string()
    }
}

impl Words for String {
    fn words(&self, _: &State) -> String {
        printable(self)
    }
}

impl Words for Vec<u8> {
    fn words(&self, _: &State) -> String {
        format!("{} bytes", self.len())
    }
}

impl<A: Words, B: Words> Words for (A, B) {
    fn words(&self, state: &State) -> String {
        format!("{}, {}", self.0.words(state), self.1.words(state))
    }
}

impl<T: Words> Words for Option<T> {
    fn words(&self, state: &State) -> String {
        self.as_ref().map_or_else(|| "none".into(), |some| some.words(state))
    }
}

impl<T: Words, E: Words> Words for Result<T, E> {
    fn words(&self, state: &State) -> String {
        match self {
            Ok(outcome) => outcome.words(state),
            Err(error) => format!("error {}", error.words(state)),
        }
    }
}

impl Words for types::Hash {
    fn words(&self, _: &State) -> String {
        Hash::from(*self).short()
    }
}

/// The words of what a handle stands for.
fn behind<T: 'static>(
    state: &State,
    handle: &Resource<T>,
    words: impl FnOnce(&T) -> String,
) -> String {
    state.table.get(handle).map_or_else(|_| "a handle of nothing".into(), words)
}

impl Words for Resource<PeerHandle> {
    fn words(&self, state: &State) -> String {
        behind(state, self, |peer| {
            let peers = state.running_tick().map(|tick| &tick.services.peers);
            let peer = peers.and_then(|peers| peers.get(peer.0));
            peer.map_or_else(String::new, |peer| peer.id().to_owned())
        })
    }
}

impl Words for Resource<Manifest> {
    fn words(&self, state: &State) -> String {
        behind(state, self, |manifest| format!("manifest {}", manifest.list.root().short()))
    }
}

impl Words for Resource<Transfer> {
    fn words(&self, state: &State) -> String {
        behind(state, self, |transfer| format!("transfer {}", transfer.hash.short()))
    }
}

impl Words for Resource<Segment> {
    fn words(&self, state: &State) -> String {
        behind(state, self, |segment| format!("segment {}", segment.hash.short()))
    }
}

impl Words for Vec<Resource<PeerHandle>> {
    fn words(&self, _: &State) -> String {
        format!("{} peers", self.len())
    }
}

impl Words for Vec<Resource<Transfer>> {
    fn words(&self, _: &State) -> String {
        format!("{} transfers", self.len())
    }
}

impl Words for Vec<types::SegmentRef> {
    fn words(&self, _: &State) -> String {
        format!("{} segments", self.len())
    }
}

impl Words for peers::RootInfo {
    fn words(&self, state: &State) -> String {
        let root = self.root.words(state);
        match self.watermark {
            None => format!("root {root}"),
            Some(peers::Watermark { confirmed_lsn, write_token }) => {
                format!("root {root}, confirmed-lsn {confirmed_lsn}, write-token {write_token}")
            }
        }
    }
}

impl Words for types::KeyRange {
    fn words(&self, _: &State) -> String {
        let end = |namespace: &[u8], key: &[u8]| {
            let text = |bytes: &[u8]| printable(&String::from_utf8_lossy(bytes));
            format!("{}/{}", text(namespace), text(key))
        };
        let first = end(&self.first_namespace, &self.first_key);
        format!("{first} to {}", end(&self.last_namespace, &self.last_key))
    }
}

impl Words for local::Applied {
    fn words(&self, _: &State) -> String {
        match self {
            Self { duplicate: true, .. } => "duplicate".into(),
            Self { written, skipped, .. } => format!("{written} written, {skipped} skipped"),
        }
    }
}

impl Words for types::PeerError {
    fn words(&self, _: &State) -> String {
        match self {
            Self::Unreachable => "unreachable".into(),
            Self::Timeout => "timeout".into(),
            Self::Status(status) => format!("status({status})"),
            Self::Malformed => "malformed".into(),
            Self::TooLarge => "too-large".into(),
        }
    }
}

impl Words for types::FetchError {
    fn words(&self, state: &State) -> String {
        match self {
            Self::Peer(error) => format!("peer({})", error.words(state)),
            Self::NotFound => "not-found".into(),
            Self::HashMismatch => "hash-mismatch".into(),
            Self::NotInManifest => "not-in-manifest".into(),
            Self::TooManyTransfers => "too-many-transfers".into(),
            Self::TooManyBytes => "too-many-bytes".into(),
            Self::NotReady => "not-ready".into(),
            Self::Storage => "storage".into(),
        }
    }
}

impl Words for types::ApplyError {
    fn words(&self, _: &State) -> String {
        match self {
            Self::Rejected => "rejected".into(),
            Self::ClockAhead => "clock-ahead".into(),
            Self::Storage => "storage".into(),
        }
    }
}

impl Words for cursor::StoreError {
    fn words(&self, _: &State) -> String {
        match self {
            Self::TooLarge(limit) => format!("too-large({limit})"),
            Self::Storage => "storage".into(),
        }
    }
}

impl Words for archive::UploadOutcome {
    fn words(&self, _: &State) -> String {
        match self {
            Self::Stored => "stored".into(),
            Self::AlreadyThere => "already-there".into(),
        }
    }
}

impl Words for archive::UploadError {
    fn words(&self, _: &State) -> String {
        match self {
            Self::Unavailable => "unavailable".into(),
            Self::NotApplied => "not-applied".into(),
            Self::Failed => "failed".into(),
        }
    }
}

impl Words for log::Level {
    fn words(&self, _: &State) -> String {
        match self {
            Self::Error => "error".into(),
            Self::Warn => "warn".into(),
            Self::Info => "info".into(),
            Self::Debug => "debug".into(),
        }
    }
}
