//! Where databases are, and the segments that are put into them.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use edgestore_host::engine::{Engine, EngineOptions, SegmentMeta};
use edgestore_host::protocol::{SegmentInfo, SegmentRef};
use tempfile::TempDir;

/// Folders that are gone after the run.
pub struct Folders {
    disk: TempDir,
    memory: TempDir,
}

impl Folders {
    /// One where temporary files are, and one in memory where the system has such a place.
    pub fn new() -> Result<Self> {
        let new =
            |parent: &Path| tempfile::Builder::new().prefix("edgestore-policy-").tempdir_in(parent);
        let disk = new(&std::env::temp_dir())?;
        let memory = new(Path::new("/dev/shm")).or_else(|_| new(disk.path()))?;
        Ok(Self { disk, memory })
    }

    /// On a disk.
    pub fn disk(&self) -> &Path {
        self.disk.path()
    }

    /// Where an fsync costs nothing, so that what the disk does is not taken for the policy.
    pub fn memory(&self) -> &Path {
        self.memory.path()
    }
}

/// A segment that a peer can offer.
pub struct Made {
    pub listed: SegmentRef,
    pub bytes: Arc<[u8]>,
}

/// A database that makes one segment after the other, of one record each.
pub struct Source {
    engine: Engine,
    made: u64,
}

impl Source {
    /// Makes it in `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        let options = EngineOptions { sync_writes: false, ..EngineOptions::default() };
        Ok(Self { engine: Engine::open_with(dir, options)?, made: 0 })
    }

    /// The database itself, with all that was made.
    pub fn into_engine(self) -> Engine {
        self.engine
    }

    /// Makes a segment; the value in it does not compress. Returns how a manifest lists it.
    pub fn list(&mut self, value: usize) -> Result<SegmentRef> {
        let mut rng = fastrand::Rng::with_seed(self.made);
        let value: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(value).collect();
        let key = format!("{:010}", self.made);
        self.engine.put(b"policy", key.as_bytes(), &value)?;
        let SegmentMeta { hash, id, bytes, records } =
            self.engine.flush()?.context("a write gives a segment")?;
        self.made += 1;
        let info = SegmentInfo { size: bytes, records, newest_ms: id, created_ms: id, keys: None };
        Ok(SegmentRef { hash, id, info: Some(Box::new(info)) })
    }

    /// The same, with its bytes.
    pub fn make(&mut self, value: usize) -> Result<Made> {
        let listed = self.list(value)?;
        let file = self.engine.open_segment(&listed.hash)?;
        let (mut file, len) = file.context("a segment has a file")?;
        let mut bytes = Vec::with_capacity(usize::try_from(len)?);
        file.read_to_end(&mut bytes)?;
        Ok(Made { listed, bytes: bytes.into() })
    }
}
