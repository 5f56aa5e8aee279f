//! A peer without a network, whose answers cost next to nothing.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use edgestore_host::Hash;
use edgestore_host::engine::{StagedSegment, StagingFile};
use edgestore_host::protocol::{
    FetchError, PeerError, PeerTransport, SegmentList, SegmentRef, Watermark,
};

use crate::source::Made;

/// What it has is in memory.
pub struct MemoryPeer {
    root: Hash,
    listed: SegmentList,
    segments: HashMap<Hash, Arc<[u8]>>,
}

impl MemoryPeer {
    /// Lists `known`, which are never fetched, and `made`.
    pub fn new(known: &[SegmentRef], made: &[Made]) -> Self {
        let made_refs = made.iter().map(|made| made.listed.clone());
        let listed: SegmentList = known.iter().cloned().chain(made_refs).collect();
        Self {
            root: listed.root(),
            listed,
            segments: made.iter().map(|made| (made.listed.hash, Arc::clone(&made.bytes))).collect(),
        }
    }
}

impl PeerTransport for MemoryPeer {
    fn root(&self) -> Result<Hash, PeerError> {
        Ok(self.root)
    }

    fn watermark(&self) -> Result<Option<Watermark>, PeerError> {
        Ok(Some(Watermark { confirmed_lsn: 1, write_token: 1 }))
    }

    fn manifest(&self) -> Result<SegmentList, PeerError> {
        Ok(self.listed.clone())
    }

    fn fetch(
        &self,
        hash: Hash,
        mut into: StagingFile,
        _cancel: &Arc<AtomicBool>,
    ) -> Result<StagedSegment, FetchError> {
        let bytes = self.segments.get(&hash).ok_or(FetchError::NotFound)?;
        into.write_all(bytes).map_err(FetchError::Storage)?;
        Ok(into.verify(hash)?)
    }
}
