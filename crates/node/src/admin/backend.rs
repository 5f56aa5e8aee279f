//! What the server answers from: a running host, or something like it in a test.

use std::io;
use std::path::Path;

use edgestore_engine::{Compacted, EngineError, Record, WriteBatch};

use super::{Op, SegmentInfo};
use crate::{Host, HostStatus, PolicyChange, PolicyEvent, SwapError};

/// Live records in key order.
pub type RecordIter = Box<dyn Iterator<Item = Result<Record, EngineError>>>;

/// What an [`AdminServer`](super::AdminServer) gives access to.
pub trait Backend: Send + Sync + 'static {
    /// What the host is doing.
    fn status(&self) -> HostStatus;
    /// All segments, in order of registration.
    fn segments(&self) -> Vec<SegmentInfo>;
    /// The value of a live record.
    fn get(&self, ns: &[u8], key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;
    /// Live records with start <= key < end, or to the end of the namespace.
    fn range(&self, ns: &[u8], start: &[u8], end: Option<&[u8]>)
    -> Result<RecordIter, EngineError>;
    /// All changes together. Returns the last LSN.
    fn write(&self, ops: &[Op]) -> Result<u64, EngineError>;
    /// Makes a segment of the pending writes; none when there are none.
    fn flush(&self) -> Result<Option<SegmentInfo>, EngineError>;
    /// Compacts now, at most at this pace, and returns when that is through or is stopped.
    fn compact(&self, bytes_per_sec: Option<u64>) -> Result<Compacted, EngineError>;
    /// Ticks a peer now, or all; `retry` has them try what is set aside. False when there is no such
    /// peer.
    fn wake(&self, peer: Option<&str>, retry: bool) -> bool;
    /// Lets the policy in a file take over, and returns when it has.
    fn swap_policy(&self, path: &Path) -> Result<PolicyChange, SwapError>;
    /// Lets the last good policy take over.
    fn roll_back_policy(&self) -> Result<PolicyChange, SwapError>;
    /// The last events of the policies, oldest first.
    fn policy_history(&self, limit: usize) -> io::Result<Vec<PolicyEvent>>;
}

impl Backend for Host {
    fn status(&self) -> HostStatus {
        self.status()
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        self.engine().manifest().into_iter().map(SegmentInfo::from).collect()
    }

    fn get(&self, ns: &[u8], key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.engine().get(ns, key)
    }

    fn range(
        &self,
        ns: &[u8],
        start: &[u8],
        end: Option<&[u8]>,
    ) -> Result<RecordIter, EngineError> {
        Ok(Box::new(self.engine().range(ns, start, end)?))
    }

    fn write(&self, ops: &[Op]) -> Result<u64, EngineError> {
        self.engine().write(batch(ops))
    }

    fn flush(&self) -> Result<Option<SegmentInfo>, EngineError> {
        Ok(self.engine().flush()?.map(SegmentInfo::from))
    }

    fn compact(&self, bytes_per_sec: Option<u64>) -> Result<Compacted, EngineError> {
        self.compact(bytes_per_sec)
    }

    fn wake(&self, peer: Option<&str>, retry: bool) -> bool {
        if retry { self.retry(peer) } else { self.wake(peer) }
    }

    fn swap_policy(&self, path: &Path) -> Result<PolicyChange, SwapError> {
        self.swap_policy(path)
    }

    fn roll_back_policy(&self) -> Result<PolicyChange, SwapError> {
        self.roll_back_policy()
    }

    fn policy_history(&self, limit: usize) -> io::Result<Vec<PolicyEvent>> {
        self.policy_history(limit)
    }
}

/// The same changes as the engine takes them.
pub fn batch(ops: &[Op]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for op in ops {
        match &op.value {
            Some(value) => batch.put(&op.ns, &op.key, value, op.ttl),
            None => batch.delete(&op.ns, &op.key),
        }
    }
    batch
}
