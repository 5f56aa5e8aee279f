//! What happened, in order: one line an event, and a hash over all of them.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use edgestore_engine::Hash;

/// Lines that are kept where not all are.
const LAST: usize = 200;

/// The log of one run.
#[derive(Debug)]
pub(super) struct EventLog {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    hasher: blake3::Hasher,
    lines: VecDeque<String>,
    all: bool,
    /// Not told: it is another one each time.
    folder: String,
}

impl EventLog {
    /// `all`: keeps every line, and not the last ones alone. `folder`: what the run's folder is
    /// called, which is no part of the run.
    pub(super) fn new(all: bool, folder: &Path) -> Self {
        let (hasher, lines) = (blake3::Hasher::new(), VecDeque::new());
        let folder = format!("{}/", folder.display());
        Self { inner: Mutex::new(Inner { hasher, lines, all, folder }) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an event at a time since the start.
    pub(super) fn note(&self, at: Duration, event: fmt::Arguments<'_>) {
        let mut line = String::with_capacity(80);
        let _ = write!(line, "{}.{:06} {event}", at.as_secs(), at.subsec_micros());
        let mut inner = self.inner();
        if line.contains(&inner.folder) {
            line = line.replace(&inner.folder, "");
        }
        inner.hasher.update(line.as_bytes()).update(b"\n");
        if inner.lines.len() >= LAST && !inner.all {
            inner.lines.pop_front();
        }
        inner.lines.push_back(line);
    }

    /// The hash over all lines, and those that were kept.
    pub(super) fn end(&self) -> (Hash, Vec<String>) {
        let inner = self.inner();
        (inner.hasher.finalize().into(), inner.lines.iter().cloned().collect())
    }
}
