//! The way in for foreign bytes: a temporary file that is hashed as it is
//! written and becomes a [`StagedSegment`] only when the hash is the one that
//! was asked for. No other code makes one, so whatever holds a `StagedSegment`
//! holds verified bytes, on the same file system as the segments.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use tempfile::{NamedTempFile, TempPath};

use super::apply::Prepared;
use crate::Hash;

/// An unverified download in progress. Removed from disk when dropped.
pub struct StagingFile {
    file: NamedTempFile,
    hasher: blake3::Hasher,
    len: u64,
}

/// The bytes that came are not those that the hash names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("asked for segment {expected}, got the bytes of {actual}")]
pub struct HashMismatch {
    /// The hash that was asked for.
    pub expected: Hash,
    /// The hash of what came.
    pub actual: Hash,
}

impl StagingFile {
    /// Opens a new file in `dir`, which must exist.
    ///
    /// # Errors
    /// When the file can't be created: the disk is full or read-only.
    pub(super) fn create_in(dir: &Path) -> io::Result<Self> {
        let file = super::folder::temporary(dir)?;
        Ok(Self { file, hasher: blake3::Hasher::new(), len: 0 })
    }

    /// One for tests that have no engine.
    #[cfg(test)]
    pub(crate) fn for_test(dir: &Path) -> Self {
        Self::create_in(dir).unwrap()
    }

    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Ends the writing of bytes that this node made itself.
    pub(super) fn finish(self) -> StagedSegment {
        let hash = Hash::from(self.hasher.finalize());
        let (file, path) = self.file.into_parts();
        StagedSegment { file, path, hash, len: self.len, prepared: None, synced: false }
    }

    /// Ends the download.
    ///
    /// # Errors
    /// [`HashMismatch`] when the bytes are not those of `expected`; the file is
    /// gone then.
    pub fn verify(self, expected: Hash) -> Result<StagedSegment, HashMismatch> {
        let staged = self.finish();
        let actual = staged.hash;
        if actual == expected { Ok(staged) } else { Err(HashMismatch { expected, actual }) }
    }
}

impl Write for StagingFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buf)?;
        self.hasher.update(&buf[..n]);
        self.len += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Verified segment bytes in a temporary file, which goes when this is dropped
/// without having been applied.
#[derive(Debug)]
pub struct StagedSegment {
    pub(super) file: File,
    pub(super) path: TempPath,
    hash: Hash,
    len: u64,
    /// What was done ahead: see [`Engine::prepare`](super::Engine::prepare).
    pub(super) prepared: Option<Prepared>,
    synced: bool,
}

impl StagedSegment {
    /// The name of the segment.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the segment has no bytes at all, and so can't be a valid one.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes the bytes durable, as [`Engine::apply`](super::Engine::apply) does by itself.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&mut self) -> io::Result<()> {
        if !self.synced {
            self.file.sync_all()?;
            self.synced = true;
        }
        Ok(())
    }

    /// Makes the bytes durable under the name `to`, in the same file system.
    pub(super) fn move_to(&mut self, to: &Path) -> io::Result<()> {
        self.sync()?;
        fs::rename(&self.path, to)
    }

    /// After [`StagedSegment::move_to`]: the bytes are here again, and stay there.
    pub(super) fn link_back(&self, from: &Path) -> io::Result<()> {
        fs::hard_link(from, &self.path).or_else(|_| fs::copy(from, &self.path).map(drop))
    }

    /// After the file has moved for good.
    pub(super) fn release(&mut self) {
        // Of two links to one file, a rename leaves both.
        let _ = fs::remove_file(&self.path);
        self.path.disable_cleanup(true);
    }
}
