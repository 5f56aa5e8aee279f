//! Encoded manifests, each of which is in memory once, however many clients take it.
//!
//! A manifest of 100,000 segments takes 8 MB to 40 MB, by its form. It is made once for each root,
//! shared by all that ask for it, and gone with the last of them. Clients that do not read can keep
//! old ones alive, so the bytes of all are bounded: where a bound is reached, answers that lag are
//! cut off, and a client whose manifest still has no room gets status 503.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::body::Bytes;
use edgestore_engine::{Engine, Hash};
use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use crate::wire::{self, ManifestBody, SegmentEntry};

/// Longest wait for room.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) version: Version,
    pub(super) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// Why there is no manifest.
#[derive(Debug)]
pub(super) enum NoBody {
    /// Other manifests take all the room.
    Busy,
    Failed(Failure),
}

/// The manifests that are being sent.
pub(super) struct Bodies {
    forms: [Mutex<Weak<Encoded>>; 4],
    /// One is made at a time.
    making: Arc<Semaphore>,
    held: Arc<Held>,
    /// Makes room, as far as that can be.
    relieve: Box<dyn Fn() + Send + Sync>,
}

impl Bodies {
    /// At most `limit` bytes and one manifest are held.
    pub(super) fn new(limit: u64, relieve: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        let held = Held { limit, bytes: Mutex::new(0), freed: Notify::new() };
        Arc::new(Self {
            forms: std::array::from_fn(|_| Mutex::default()),
            making: Arc::new(Semaphore::new(1)),
            held: Arc::new(held),
            relieve: Box::new(relieve),
        })
    }

    fn form(&self, form: Form) -> &Mutex<Weak<Encoded>> {
        let version = match form.version {
            Version::V1 => 0,
            Version::V2 => 2,
        };
        &self.forms[version + usize::from(form.json)]
    }

    /// The present manifest in this form.
    pub(super) async fn get(&self, engine: &Arc<Engine>, form: Form) -> Result<Bytes, NoBody> {
        let end = Instant::now() + PATIENCE;
        loop {
            let freed = self.held.freed.notified();
            if let Some(bytes) = self.find_or_make(engine, form).await? {
                return Ok(bytes);
            }
            (self.relieve)();
            if timeout_at(end, freed).await.is_err() {
                return Err(NoBody::Busy);
            }
        }
    }

    /// None where there is no room for it.
    async fn find_or_make(
        &self,
        engine: &Arc<Engine>,
        form: Form,
    ) -> Result<Option<Bytes>, NoBody> {
        let making = Arc::clone(&self.making).acquire_owned().await;
        let making = making.map_err(|error| NoBody::Failed(error.into()))?;
        let cached = lock(self.form(form)).upgrade();
        let (engine, held) = (Arc::clone(engine), Arc::clone(&self.held));
        let found = spawn_blocking(move || -> Result<_, Failure> {
            // It runs to its end, also when nobody waits for it any more.
            let _making = making;
            let root = engine.root();
            match cached.filter(|cached| cached.root == Some(root)) {
                Some(cached) => Ok(Some(cached)),
                None if held.is_full() => Ok(None),
                None => Ok(Some(Arc::new(Encoded::make(&engine, form, held)?))),
            }
        });
        let found = found.await.map_err(|error| NoBody::Failed(error.into()))?;
        let found = found.map_err(NoBody::Failed)?;
        Ok(found.map(|encoded| {
            *lock(self.form(form)) = Arc::downgrade(&encoded);
            Bytes::from_owner(Shared(encoded))
        }))
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> u64 {
        *lock(&self.held.bytes)
    }
}

/// A manifest as it is sent.
#[derive(Debug)]
struct Encoded {
    /// Over the segments in it; none where they changed while it was made.
    root: Option<Hash>,
    bytes: Vec<u8>,
    held: Arc<Held>,
}

impl Encoded {
    fn make(engine: &Arc<Engine>, form: Form, held: Arc<Held>) -> Result<Self, Failure> {
        let before = engine.root();
        let mut bytes = match form.version {
            Version::V1 => {
                let segments: Vec<_> = engine.manifest().iter().map(SegmentEntry::from).collect();
                encode(&segments, form.json)?
            }
            Version::V2 => encode(&ManifestBody(Arc::clone(engine)), form.json)?,
        };
        let root = Some(before).filter(|before| engine.root() == *before);
        bytes.shrink_to_fit();
        held.take(bytes.len() as u64);
        Ok(Self { root, bytes, held })
    }
}

impl Drop for Encoded {
    fn drop(&mut self) {
        self.held.free(self.bytes.len() as u64);
    }
}

/// Encodes a control answer.
pub(super) fn encode(body: &impl serde::Serialize, json: bool) -> Result<Vec<u8>, Failure> {
    Ok(if json { serde_json::to_vec(body)? } else { wire::encode(body)? })
}

/// One of the answers that have it.
struct Shared(Arc<Encoded>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

/// Bytes of all manifests in memory.
#[derive(Debug)]
struct Held {
    limit: u64,
    bytes: Mutex<u64>,
    freed: Notify,
}

impl Held {
    fn is_full(&self) -> bool {
        *lock(&self.bytes) >= self.limit
    }

    fn take(&self, bytes: u64) {
        *lock(&self.bytes) += bytes;
    }

    fn free(&self, bytes: u64) {
        let mut held = lock(&self.bytes);
        *held = held.saturating_sub(bytes);
        drop(held);
        self.freed.notify_waiters();
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: Form = Form { version: Version::V1, json: true };

    fn engine() -> (tempfile::TempDir, Arc<Engine>) {
        let dir = tempfile::tempdir().unwrap();
        let engine = Arc::new(Engine::open(dir.path()).unwrap());
        add(&engine, b"first");
        (dir, engine)
    }

    fn add(engine: &Engine, key: &[u8]) {
        engine.put(b"ns", key, b"value").unwrap();
        engine.flush().unwrap();
    }

    #[tokio::test]
    async fn a_manifest_is_in_memory_once_for_each_root_and_form() {
        let (_dir, engine) = engine();
        let bodies = Bodies::new(u64::MAX, || ());
        let first = bodies.get(&engine, JSON).await.unwrap();
        let again = bodies.get(&engine, JSON).await.unwrap();
        assert_eq!(first.as_ptr(), again.as_ptr());
        assert_eq!(bodies.held_bytes(), first.len() as u64);
        let other = bodies.get(&engine, Form { json: false, ..JSON }).await.unwrap();
        assert_ne!(first, other);
        add(&engine, b"second");
        let new = bodies.get(&engine, JSON).await.unwrap();
        assert!(new.len() > first.len());
        let all = first.len() + other.len() + new.len();
        assert_eq!(bodies.held_bytes(), all as u64);
        drop((first, again, other, new));
        assert_eq!(bodies.held_bytes(), 0, "nothing stays when nobody takes it");
    }

    #[tokio::test]
    async fn a_manifest_without_room_is_refused_until_another_is_gone() {
        let (_dir, engine) = engine();
        let bodies = Bodies::new(1, || ());
        let old = bodies.get(&engine, JSON).await.unwrap();
        bodies.get(&engine, JSON).await.expect("the same takes no room");
        add(&engine, b"second");
        assert!(matches!(bodies.get(&engine, JSON).await, Err(NoBody::Busy)));
        drop(old);
        bodies.get(&engine, JSON).await.expect("there is room");
    }

    #[tokio::test]
    async fn room_is_made_for_a_manifest_that_has_none() {
        let (_dir, engine) = engine();
        let slow = Arc::new(Mutex::new(Vec::new()));
        let reader = Arc::clone(&slow);
        let bodies = Bodies::new(1, move || lock(&reader).clear());
        let old = bodies.get(&engine, JSON).await.unwrap();
        lock(&slow).push(old);
        add(&engine, b"second");
        bodies.get(&engine, JSON).await.expect("the old one was given up");
    }
}
