//! The way in for foreign bytes: a temporary file that is hashed as it is
//! written and becomes a [`StagedSegment`] only when the hash is the one that
//! was asked for. No other code makes one, so whatever holds a `StagedSegment`
//! holds verified bytes, on the same file system as the segments.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::apply::Prepared;
use super::disk_quota::DiskQuota;
use super::folder::{PREFIX, SUFFIX};
use super::segment::{Bounds, Invalid, Reader};
use crate::Hash;
use crate::disk::{Disk, DiskFile, TemporaryName, temporary};

/// How much room a download asks for at a time, in bytes.
pub(super) const GRANT: u64 = 256 << 10;

/// An unverified download in progress. Removed from disk when dropped.
pub struct StagingFile {
    file: Box<dyn DiskFile>,
    name: TemporaryName,
    hasher: blake3::Hasher,
    len: u64,
    allowance: Option<Arc<ByteQuota>>,
    /// Of bytes that were written, for whoever watches.
    counter: Option<Arc<AtomicU64>>,
    quota: Option<Arc<DiskQuota>>,
    /// Bytes that the room still has for it.
    granted: u64,
}

/// How many bytes all files that share it may still take. Bytes that were thrown away count too.
#[derive(Debug)]
pub struct ByteQuota(AtomicU64);

/// A write that would take more than the file's [`ByteQuota`] is refused with this, as the inner
/// error of an [`io::Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("as many bytes as allowed were staged")]
pub struct ByteQuotaSpent;

impl ByteQuota {
    /// So many bytes.
    pub fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    /// Whether nothing more is taken.
    pub fn is_spent(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    /// Before `bytes` are written. Once a write was refused, so are all others.
    fn take(&self, bytes: u64) -> io::Result<()> {
        let left = |left: u64| Some(left.saturating_sub(bytes));
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        match before {
            Ok(before) if before >= bytes => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::QuotaExceeded, ByteQuotaSpent)),
        }
    }
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
    pub(super) fn create_in(disk: &Arc<dyn Disk>, dir: &Path) -> io::Result<Self> {
        Ok(Self::new(temporary(disk, dir, PREFIX, SUFFIX)?))
    }

    fn new((file, name): (Box<dyn DiskFile>, TemporaryName)) -> Self {
        Self {
            file,
            name,
            hasher: blake3::Hasher::new(),
            len: 0,
            allowance: None,
            quota: None,
            counter: None,
            granted: 0,
        }
    }

    /// Counts what is written from now on.
    #[must_use]
    pub fn within(self, allowance: &Arc<ByteQuota>) -> Self {
        Self { allowance: Some(Arc::clone(allowance)), ..self }
    }

    /// Adds what is written from now on to a counter.
    #[must_use]
    pub fn counting(self, counter: &Arc<AtomicU64>) -> Self {
        Self { counter: Some(Arc::clone(counter)), ..self }
    }

    /// Takes no more than there is room for.
    pub(super) fn within_quota(mut self, quota: &Arc<DiskQuota>) -> io::Result<Self> {
        self.quota = Some(Arc::clone(quota));
        self.grant(0)?;
        Ok(self)
    }

    /// Before `bytes` are written.
    fn grant(&mut self, bytes: u64) -> io::Result<()> {
        let Some(quota) = &self.quota else { return Ok(()) };
        if bytes >= self.granted {
            let more = bytes.max(GRANT);
            quota.take(more).map_err(|full| io::Error::new(io::ErrorKind::StorageFull, full))?;
            self.granted = more;
        }
        self.granted -= bytes;
        Ok(())
    }

    /// One for tests that have no engine.
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    pub fn for_test(dir: &Path) -> Self {
        Self::create_in(&crate::disk::RealDisk::shared(), dir).expect("a folder for a test")
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
        let Self { file, name, len, .. } = self;
        StagedSegment { file, name, hash, len, prepared: None, synced: Synced::No }
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
        if let Some(allowance) = &self.allowance {
            allowance.take(buf.len() as u64)?;
        }
        self.grant(buf.len() as u64)?;
        let n = self.file.write(buf)?;
        self.hasher.update(&buf[..n]);
        self.len += n as u64;
        if let Some(counter) = &self.counter {
            counter.fetch_add(n as u64, Ordering::Relaxed);
        }
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
    pub(super) file: Box<dyn DiskFile>,
    name: TemporaryName,
    hash: Hash,
    len: u64,
    /// What was done ahead: see [`Engine::prepare`](super::Engine::prepare).
    pub(super) prepared: Option<Box<Prepared>>,
    synced: Synced,
}

/// Whether the bytes of a file are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Synced {
    No,
    Yes,
    /// They may not be and yet count as such, as after a failed sync.
    Never,
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
    /// When the disk fails. Then only `apply` can, which writes them to a new file.
    pub fn sync(&mut self) -> io::Result<()> {
        match self.synced {
            Synced::Yes => return Ok(()),
            Synced::No => {}
            Synced::Never => {
                return Err(io::Error::other("an earlier sync of its file has failed"));
            }
        }
        let synced = self.file.sync();
        self.synced = if synced.is_ok() { Synced::Yes } else { Synced::Never };
        synced
    }

    /// To read it from the beginning. Bytes whose sync has failed are taken for written by the
    /// system, and no other sync writes them. So they go into a new file, if they can still be
    /// read as they were.
    fn rewind(&mut self) -> io::Result<()> {
        self.file.rewind()?;
        if self.synced == Synced::Never {
            let mut copy = StagingFile::new(self.name.beside(PREFIX, SUFFIX)?);
            io::copy(&mut self.file, &mut copy)?;
            *self = copy.verify(self.hash).map_err(io::Error::other)?;
            self.file.rewind()?;
        }
        Ok(())
    }

    /// Reads it from the beginning.
    pub(super) fn reader(
        &mut self,
        bounds: Bounds,
    ) -> Result<Reader<&mut Box<dyn DiskFile>>, Invalid> {
        self.rewind()?;
        Reader::new(&mut self.file, self.len, bounds)
    }

    /// Makes the bytes durable under the name `to`, in the same file system.
    pub(super) fn move_to(&mut self, to: &Path) -> io::Result<()> {
        self.sync()?;
        self.name.move_to(to)
    }

    /// After [`StagedSegment::move_to`]: the bytes are here again, and stay there.
    pub(super) fn link_back(&mut self, from: &Path) {
        if self.name.link_back(from).is_err() {
            // A file system without links. The next one who wants the bytes copies them.
            self.synced = Synced::Never;
        }
    }

    /// After the file has moved for good.
    pub(super) fn release(&mut self) {
        // Of two links to one file, a rename leaves both.
        self.name.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_share_an_allowance_never_take_more_than_it() {
        let dir = tempfile::tempdir().unwrap();
        let allowance = Arc::new(ByteQuota::new(100));
        let file = || StagingFile::for_test(dir.path()).within(&allowance);
        let (mut a, mut b, mut thrown_away) = (file(), file(), file());
        a.write_all(&[1; 40]).unwrap();
        thrown_away.write_all(&[1; 10]).unwrap();
        drop(thrown_away);
        b.write_all(&[2; 49]).unwrap();
        assert!(!allowance.is_spent());
        let error = b.write_all(&[2; 2]).unwrap_err();
        assert!(error.get_ref().is_some_and(|inner| inner.is::<ByteQuotaSpent>()), "{error:?}");
        assert!(a.write_all(&[1]).is_err(), "the first refusal is one to all");
        assert!(allowance.is_spent());
        assert_eq!((a.len(), b.len()), (40, 49));
        StagingFile::for_test(dir.path()).write_all(&[3; 1000]).unwrap();
    }
}
