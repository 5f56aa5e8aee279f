//! Watches one file, and hands over its new bytes once they have stopped changing.
//!
//! What a name refers to is looked up anew each time, so it does not matter how the file changes:
//! written in place, renamed over, linked to elsewhere, or gone for a while. Whether it has changed
//! is told by a `Stamp`. The system's notices of its folder only say when to look. They are lost
//! now and then, do not come from every file system, and say nothing of what lies behind a link to
//! another folder; so this looks every now and then without one, too.

#[cfg(test)]
mod tests;

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use edgestore_engine::Hash;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

/// How long a file stays as it is before it counts as written.
const DEBOUNCE: Duration = Duration::from_millis(300);

/// How often to look when nothing says so.
const POLL: Duration = Duration::from_secs(2);

/// A watched file. The watch ends when this is dropped, after the closure has returned.
#[must_use]
#[derive(Debug)]
pub struct FileWatch {
    /// None where the system has no such thing to give.
    notices: Option<RecommendedWatcher>,
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    look: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

impl FileWatch {
    /// Calls `deliver` with the whole file, on a thread of the watch, each time that it has other
    /// bytes than before and has not changed for 300 ms. `last` is what the caller has read of it
    /// already: a change since then is delivered as well.
    ///
    /// An empty file is one that somebody is about to write, and is not delivered. A file that is
    /// empty or gone, or can't be read, is logged, and delivered once it is back with other bytes.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        path: &Path,
        last: &[u8],
        deliver: impl FnMut(Vec<u8>) + Send + 'static,
    ) -> io::Result<Self> {
        Self::with(path, last, Pace { debounce: DEBOUNCE, poll: POLL, notices: true }, deliver)
    }

    fn with(
        path: &Path,
        last: &[u8],
        pace: Pace,
        deliver: impl FnMut(Vec<u8>) + Send + 'static,
    ) -> io::Result<Self> {
        // One notice that waits is as good as many.
        let (look, looks) = mpsc::sync_channel(1);
        let notices = if pace.notices { notices(path, look.clone()) } else { None };
        let stop = Arc::new(AtomicBool::new(false));
        let watched = Watched {
            path: path.to_owned(),
            pace,
            taken: None,
            changing: None,
            delivered: Hash::of(last),
            deliver,
        };
        let reload = Arc::new(AtomicBool::new(false));
        let (stopped, reloaded) = (Arc::clone(&stop), Arc::clone(&reload));
        let thread = thread::Builder::new()
            .name("edgestore-watch".to_owned())
            .spawn(move || watched.run(&looks, &stopped, &reloaded))?;
        Ok(Self { notices, stop, reload, look, thread: Some(thread) })
    }

    /// Has the file read now, whether or not it seems to have changed.
    pub fn reload(&self) {
        self.reload.store(true, Ordering::Release);
        // A full channel wakes the thread, too.
        let _ = self.look.try_send(());
    }
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        drop(self.notices.take());
        self.stop.store(true, Ordering::Release);
        // A full channel wakes the thread, too.
        let _ = self.look.try_send(());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that watches a file panicked");
        }
    }
}

/// Has the system say when something changes in the file's folder.
fn notices(path: &Path, look: SyncSender<()>) -> Option<RecommendedWatcher> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let handler = move |event: notify::Result<notify::Event>| {
        // Reads of the file are events, too, and this reads it.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = look.try_send(());
        }
    };
    let watcher = notify::recommended_watcher(handler).and_then(|mut watcher| {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    let because = |error| {
        tracing::debug!(
            file = %path.display(), %error, every = ?POLL,
            "the system gives no notice of changes; looking for them at an interval"
        );
    };
    watcher.map_err(because).ok()
}

#[derive(Debug, Clone, Copy)]
struct Pace {
    debounce: Duration,
    poll: Duration,
    notices: bool,
}

/// What the thread knows.
struct Watched<F> {
    path: PathBuf,
    pace: Pace,
    /// The file as it was dealt with last; none before the first time.
    taken: Option<Stamp>,
    /// The file as it is now, where that is something else, and since when it has been so.
    changing: Option<(Stamp, Instant)>,
    /// Of the bytes that the receiver has.
    delivered: Hash,
    deliver: F,
}

impl<F: FnMut(Vec<u8>)> Watched<F> {
    fn run(mut self, looks: &Receiver<()>, stop: &AtomicBool, reload: &AtomicBool) {
        loop {
            if reload.swap(false, Ordering::AcqRel) {
                let before = self.delivered;
                self.take(Stamp::of(&self.path));
                if self.delivered == before {
                    tracing::info!(file = %self.path.display(), "nothing new in the file");
                }
            }
            self.look();
            let wait = match &self.changing {
                Some((_, since)) => self.pace.debounce.saturating_sub(since.elapsed()),
                None => self.pace.poll,
            };
            match looks.recv_timeout(wait) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if stop.load(Ordering::Acquire) {
                return;
            }
        }
    }

    fn look(&mut self) {
        let now = Stamp::of(&self.path);
        if self.taken.as_ref() == Some(&now) {
            self.changing = None;
            return;
        }
        match &self.changing {
            Some((stamp, since)) if *stamp == now => {
                if since.elapsed() >= self.pace.debounce {
                    self.take(now);
                }
            }
            _ => self.changing = Some((now, Instant::now())),
        }
    }

    /// Deals with a file that has stopped changing.
    fn take(&mut self, now: Stamp) {
        let file = self.path.display();
        let read = match &now {
            Stamp::Gone => {
                tracing::warn!(%file, "the file is gone; what it said last stays in use");
                None
            }
            Stamp::Unreadable(error) => {
                tracing::warn!(%file, error, "can't look at the file; it stays in use as it was");
                None
            }
            Stamp::NoFile => {
                tracing::warn!(%file, "this is no file any more; what it said last stays in use");
                None
            }
            Stamp::File { len: 0, .. } => {
                // One that was empty before says the same.
                if self.delivered != Hash::of(b"") {
                    tracing::warn!(%file, "the file is empty; what it said last stays in use");
                }
                None
            }
            Stamp::File { .. } => Some(fs::read(&self.path)),
        };
        if read.is_some() && Stamp::of(&self.path) != now {
            // It changed meanwhile, so nobody knows what was read.
            self.changing = None;
            return;
        }
        (self.taken, self.changing) = (Some(now), None);
        match read {
            None => {}
            Some(Err(error)) => {
                tracing::warn!(%file, %error, "can't read the file; it stays in use as it was");
            }
            Some(Ok(bytes)) => {
                let hash = Hash::of(&bytes);
                if hash != self.delivered {
                    self.delivered = hash;
                    (self.deliver)(bytes);
                }
            }
        }
    }
}

/// What tells that a file has changed, without a look at its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stamp {
    Gone,
    Unreadable(String),
    /// A folder, a pipe or a device.
    NoFile,
    File {
        len: u64,
        version: Version,
    },
}

impl Stamp {
    fn of(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => {
                Self::File { len: metadata.len(), version: version(&metadata) }
            }
            Ok(_) => Self::NoFile,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Gone,
            Err(error) => Self::Unreadable(error.to_string()),
        }
    }
}

/// Which file it is, and the time of its last change, which (unlike that of its last write) nobody
/// can set back.
type Version = (u64, u64, i64, i64);

fn version(metadata: &Metadata) -> Version {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}
