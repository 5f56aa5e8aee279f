//! Peers behind lines: real engines, reached with a latency, a bandwidth and a limit.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use edgestore_host::Hash;
use edgestore_host::engine::{Engine, StagedSegment, StagingFile, Watermark};
use edgestore_host::protocol::{
    FetchError, PeerError, PeerTransport, SegmentInfo, SegmentList, SegmentRef,
};

/// A peer behind a line, as a transport.
pub struct Line {
    engine: Arc<Engine>,
    latency: Duration,
    bytes_per_sec: Option<u64>,
    most_fetches: usize,
    /// What it still carries before it goes down.
    bytes_left: AtomicU64,
    /// When the line has nothing more to carry.
    free_at: Mutex<Instant>,
    fetching: AtomicUsize,
    counts: Mutex<Counts>,
}

/// What a line has carried so far.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// The segments that were fetched, in the order in which they were asked for.
    pub fetched: Vec<Hash>,
    /// Their bytes.
    pub bytes: u64,
    /// Manifests that were asked for.
    pub manifests: u32,
    /// Requests of any kind.
    pub requests: u32,
    /// Fetches that were answered with 503.
    pub refused: u32,
}

impl Line {
    /// A line without latency and bounds.
    pub fn to(engine: &Arc<Engine>) -> Self {
        Self {
            engine: Arc::clone(engine),
            latency: Duration::ZERO,
            bytes_per_sec: None,
            most_fetches: usize::MAX,
            bytes_left: AtomicU64::new(u64::MAX),
            free_at: Mutex::new(Instant::now()),
            fetching: AtomicUsize::new(0),
            counts: Mutex::default(),
        }
    }

    /// Before the first byte of each answer.
    pub fn latency_ms(self, ms: u64) -> Self {
        Self { latency: Duration::from_millis(ms), ..self }
    }

    /// Of all transfers together.
    pub fn bytes_per_sec(self, bytes: u64) -> Self {
        Self { bytes_per_sec: Some(bytes), ..self }
    }

    /// Above so many fetches at a time, the peer refuses further ones.
    pub fn most_fetches(self, most: usize) -> Self {
        Self { most_fetches: most, ..self }
    }

    /// Lets the line carry so many bytes of segments, as in the time that a satellite is in sight. It
    /// goes down with the first segment that is too large for the rest.
    pub fn up_for(&self, bytes: u64) {
        self.bytes_left.store(bytes, Ordering::SeqCst);
    }

    /// What it has carried so far.
    pub fn counts(&self) -> Counts {
        self.count().clone()
    }

    fn count(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().expect("no panic")
    }

    fn request(&self) {
        self.count().requests += 1;
        thread::sleep(self.latency);
    }

    /// A request that is answered while the line is up.
    fn control(&self) -> Result<(), PeerError> {
        self.request();
        match self.bytes_left.load(Ordering::SeqCst) {
            0 => Err(PeerError::Unreachable("the line is down".to_owned())),
            _ => Ok(()),
        }
    }

    /// Waits until the line has carried so many bytes more, or until `cancel`.
    fn carry(&self, bytes: u64, cancel: &AtomicBool) -> Result<(), FetchError> {
        let Some(bytes_per_sec) = self.bytes_per_sec else { return Ok(()) };
        let done_at = {
            let mut free_at = self.free_at.lock().expect("no panic");
            *free_at = (*free_at).max(Instant::now())
                + Duration::from_secs_f64(bytes as f64 / bytes_per_sec as f64);
            *free_at
        };
        while Instant::now() < done_at {
            if cancel.load(Ordering::Relaxed) {
                return Err(FetchError::Cancelled);
            }
            let left = done_at.saturating_duration_since(Instant::now());
            thread::sleep(left.min(Duration::from_millis(5)));
        }
        Ok(())
    }

    fn download(
        &self,
        hash: Hash,
        mut into: StagingFile,
        cancel: &Arc<AtomicBool>,
    ) -> Result<StagedSegment, FetchError> {
        let broken = |error: &dyn std::fmt::Display| PeerError::Unreachable(error.to_string());
        let found = self.engine.open_segment(&hash).map_err(|error| broken(&error))?;
        let (mut file, len) = found.ok_or(FetchError::NotFound)?;
        let left = |left: u64| Some(left.saturating_sub(len));
        let before = self.bytes_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
        if before.is_ok_and(|before| before < len) {
            return Err(broken(&"the line is down").into());
        }
        self.count().fetched.push(hash);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error: io::Error| broken(&error))?;
        self.carry(len, cancel)?;
        self.count().bytes += len;
        into.write_all(&bytes).map_err(FetchError::Storage)?;
        Ok(into.verify(hash)?)
    }
}

impl PeerTransport for Line {
    fn root(&self) -> Result<Hash, PeerError> {
        self.control()?;
        Ok(self.engine.root())
    }

    fn watermark(&self) -> Result<Option<Watermark>, PeerError> {
        Ok(None)
    }

    fn manifest(&self) -> Result<SegmentList, PeerError> {
        self.control()?;
        self.count().manifests += 1;
        let told = self.engine.extents().map(|(meta, extent)| SegmentRef {
            hash: meta.hash,
            id: meta.id,
            info: extent.map(|extent| Box::new(SegmentInfo::new(&meta, extent))),
        });
        Ok(told.collect())
    }

    fn fetch(
        &self,
        hash: Hash,
        into: StagingFile,
        cancel: &Arc<AtomicBool>,
    ) -> Result<StagedSegment, FetchError> {
        let running = self.fetching.fetch_add(1, Ordering::SeqCst);
        self.request();
        let outcome = if running < self.most_fetches {
            self.download(hash, into, cancel)
        } else {
            self.count().refused += 1;
            Err(PeerError::Status(503).into())
        };
        self.fetching.fetch_sub(1, Ordering::SeqCst);
        outcome
    }
}

/// How many fetches of one segment, from whichever of the lines, there were beyond the first.
pub fn duplicates(lines: &[&Line]) -> usize {
    let mut times: HashMap<Hash, usize> = HashMap::new();
    for line in lines {
        line.count().fetched.iter().for_each(|hash| *times.entry(*hash).or_default() += 1);
    }
    times.values().map(|times| times - 1).sum()
}
