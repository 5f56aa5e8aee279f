//! Local writes: stamped so that they win over what they replace, and marked for the next flush.

use std::collections::BTreeMap;
use std::time::Duration;

use fjall::PersistMode;

use super::record::{MAX_BATCH, Stored, Version, check_size, store_key, ttl_secs};
use super::store::{POSITION, Pending};
use super::{Engine, EngineError};

/// Many writes that become visible, and durable, together. Of several writes to a key, the last
/// one counts.
#[derive(Debug, Clone, Default)]
pub struct WriteBatch {
    ops: Vec<Op>,
    bytes: usize,
}

#[derive(Debug, Clone)]
struct Op {
    ns: Vec<u8>,
    key: Vec<u8>,
    /// None to delete.
    value: Option<Vec<u8>>,
    ttl: Option<Duration>,
}

impl WriteBatch {
    /// One without writes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a value, for ever or for a time.
    pub fn put(&mut self, ns: &[u8], key: &[u8], value: &[u8], ttl: Option<Duration>) {
        self.push(Op { ns: ns.into(), key: key.into(), value: Some(value.into()), ttl });
    }

    /// Deletes a value, whether or not there is one. Namespace and key may be empty, as those that
    /// peers have made.
    pub fn delete(&mut self, ns: &[u8], key: &[u8]) {
        self.push(Op { ns: ns.into(), key: key.into(), value: None, ttl: None });
    }

    /// Checks what a write may hold, as [`Engine::write`] does. A `value` of `None` deletes.
    ///
    /// # Errors
    /// As [`Engine::put_with_ttl`], when such a write is refused.
    pub fn check(
        ns: &[u8],
        key: &[u8],
        value: Option<&[u8]>,
        ttl: Option<Duration>,
    ) -> Result<(), EngineError> {
        checked(ns, key, value, ttl).map(drop)
    }

    fn push(&mut self, op: Op) {
        self.bytes += op.ns.len() + op.key.len() + op.value.as_ref().map_or(0, Vec::len);
        self.ops.push(op);
    }

    /// How many writes.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes of namespaces, keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The key in the store and the seconds to live of a write that may be done.
fn checked(
    ns: &[u8],
    key: &[u8],
    value: Option<&[u8]>,
    ttl: Option<Duration>,
) -> Result<(Vec<u8>, u32), EngineError> {
    // Nodes of the published crate have such keys, and then they come here in a segment. So they can
    // be deleted as well.
    if value.is_some() && ns.is_empty() {
        return Err(EngineError::EmptyNamespace);
    }
    if value.is_some() && key.is_empty() {
        return Err(EngineError::EmptyKey);
    }
    let key = store_key(ns, key)?;
    check_size(&key, value.unwrap_or_default())?;
    Ok((key, ttl_secs(ttl)?))
}

impl Engine {
    /// Sets a value. Returns the write's sequence number.
    ///
    /// # Errors
    /// [`EngineError::EmptyNamespace`], [`EngineError::EmptyKey`], [`EngineError::KeyTooLong`],
    /// [`EngineError::RecordTooLarge`], [`EngineError::BatchTooLarge`], [`EngineError::DiskReserve`],
    /// [`EngineError::DatabaseFull`], and when the disk fails.
    pub fn put(&self, ns: &[u8], key: &[u8], value: &[u8]) -> Result<u64, EngineError> {
        let mut batch = WriteBatch::new();
        batch.put(ns, key, value, None);
        self.write(batch)
    }

    /// Sets a value that reads find until `ttl` has passed, in whole seconds, begun ones counted.
    ///
    /// # Errors
    /// As [`Engine::put`], and [`EngineError::Ttl`].
    pub fn put_with_ttl(
        &self,
        ns: &[u8],
        key: &[u8],
        value: &[u8],
        ttl: Duration,
    ) -> Result<u64, EngineError> {
        let mut batch = WriteBatch::new();
        batch.put(ns, key, value, Some(ttl));
        self.write(batch)
    }

    /// Deletes a value, here and, once flushed, on every node. Namespace and key may be empty: no
    /// node of this host makes such a record, but a peer may have.
    ///
    /// # Errors
    /// As [`Engine::put`], but for those of an empty namespace or key.
    pub fn delete(&self, ns: &[u8], key: &[u8]) -> Result<u64, EngineError> {
        let mut batch = WriteBatch::new();
        batch.delete(ns, key);
        self.write(batch)
    }

    /// Does all writes of a batch in one step. Returns the sequence number of the last one.
    ///
    /// # Errors
    /// As [`Engine::put`], for any of them; none is done then.
    pub fn write(&self, batch: WriteBatch) -> Result<u64, EngineError> {
        if batch.bytes > MAX_BATCH {
            return Err(EngineError::BatchTooLarge { bytes: batch.bytes });
        }
        let bytes = batch.bytes as u64;
        let mut checked = Vec::with_capacity(batch.ops.len());
        for op in batch.ops {
            let (key, ttl) = self::checked(&op.ns, &op.key, op.value.as_deref(), op.ttl)?;
            checked.push((key, op.value, ttl));
        }
        if checked.iter().any(|(_, value, _)| value.is_some()) {
            self.quota.take(bytes)?;
        }
        let mut writer = self.writer();
        let mut position = writer.position;
        let mut winners: BTreeMap<Vec<u8>, (Version<Vec<u8>>, Pending)> = BTreeMap::new();
        for (key, value, ttl) in checked {
            position.lsn += 1;
            // No record here is stamped later.
            position.stamp = self.now().max(position.stamp.saturating_add(1));
            let timestamp = position.stamp;
            let (deleted, value) = (value.is_none(), value.unwrap_or_default());
            let pending = Pending { lsn: position.lsn, bytes: (key.len() + value.len()) as u64 };
            winners.insert(key, (Version { timestamp, deleted, value, ttl }, pending));
        }
        if winners.is_empty() {
            return Ok(position.lsn);
        }
        let sync = self.options.sync_writes;
        let mut batch =
            self.store.batch(if sync { PersistMode::SyncAll } else { PersistMode::Buffer });
        let owner = position.flush_id;
        for (key, (version, pending)) in &winners {
            self.filter.insert(key);
            let stored = Stored { owner, version: version.as_ref() };
            batch.insert(&self.store.records, key.as_slice(), stored.encode());
            batch.insert(&self.store.pending, key.as_slice(), pending.encode());
        }
        batch.insert(&self.store.state, POSITION, position.encode());
        self.note_clock(&mut batch);
        self.store.commit(batch)?;
        writer.position = position;
        let memtable = self.memtable();
        if writer.pending.is_empty() {
            self.pending_watchers.wake();
        }
        for (key, (_, pending)) in winners {
            writer.note_overwritten(&memtable, &key);
            writer.note_pending(key, pending);
        }
        if writer.pending_bytes >= self.options.flush_bytes.min(MAX_BATCH as u64)
            && let Err(error) = self.flush_locked(&mut writer)
        {
            // The write itself is done. It stays pending, and the next one tries again.
            tracing::error!(%error, "can't flush");
        }
        self.publish(&writer)?;
        Ok(position.lsn)
    }
}
