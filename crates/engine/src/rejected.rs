//! Segments that can never be applied, so that a restarted host knows why they are missing.
//!
//! They are kept in the record store with the bound of readers that held then: where it is another
//! one now, they may be tried again.

use std::collections::HashMap;

use fjall::PersistMode;

use super::store::Store;
use super::{Engine, EngineError};
use crate::Hash;

/// Keys in the state keyspace: this, and the hash.
const PREFIX: &[u8] = b"rejected ";

/// More are not remembered.
const MAX: usize = 10_000;

/// Why segments were rejected, by their hashes.
pub(super) type Rejected = HashMap<Hash, String>;

impl Store {
    /// Those that were rejected with this bound of readers.
    pub(super) fn load_rejected(&self, limit: u64) -> Result<Rejected, EngineError> {
        let mut rejected = Rejected::new();
        for guard in self.state.prefix(PREFIX) {
            let (key, value) = guard.into_inner()?;
            let hash = key.strip_prefix(PREFIX).and_then(|hash| <[u8; 32]>::try_from(hash).ok());
            if let (Some(hash), Some((bound, why))) = (hash, value.split_first_chunk::<8>())
                && u64::from_le_bytes(*bound) == limit
            {
                rejected.insert(Hash::from_bytes(hash), String::from_utf8_lossy(why).into_owned());
            }
        }
        Ok(rejected)
    }
}

impl Engine {
    /// Why the segment was rejected, if it was, now or before a restart.
    pub fn rejected(&self, hash: &Hash) -> Option<String> {
        self.rejections().get(hash).cloned()
    }

    /// Remembers that a segment was rejected. What can't be stored is known until the next start.
    pub(super) fn note_rejected(&self, hash: Hash, why: &str) {
        let mut rejected = self.rejections();
        if rejected.len() >= MAX || rejected.insert(hash, why.to_owned()).is_some() {
            return;
        }
        drop(rejected);
        let mut batch = self.store.batch(PersistMode::Buffer);
        let limit = self.options.max_segment_inflated_bytes.to_le_bytes();
        batch.insert(
            &self.store.state,
            [PREFIX, hash.as_bytes()].concat(),
            [&limit[..], why.as_bytes()].concat(),
        );
        let _writer = self.writer();
        if let Err(error) = self.store.commit(batch) {
            tracing::warn!(%hash, %error, "it is forgotten at the next start that it was rejected");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::{ApplyError, EngineOptions};

    #[test]
    fn rejected_segments_are_known_after_a_restart_with_the_same_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let open = |max_segment_inflated_bytes| {
            let options = EngineOptions { max_segment_inflated_bytes, ..EngineOptions::default() };
            Engine::open_with(dir.path(), options).unwrap()
        };
        let bytes = b"no segment at all";
        let engine = open(512 << 20);
        let mut staging = engine.stage().unwrap();
        staging.write_all(bytes).unwrap();
        let mut staged = staging.verify(Hash::of(bytes)).unwrap();
        let error = engine.apply(&mut staged).unwrap_err();
        let ApplyError::Rejected { hash, why } = error else { panic!("{error}") };
        assert_eq!(engine.rejected(&hash), Some(why.clone()));
        drop(staged);
        drop(engine);
        assert_eq!(open(512 << 20).rejected(&hash), Some(why));
        assert_eq!(open(1 << 30).rejected(&hash), None);
    }
}
