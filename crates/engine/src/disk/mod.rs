//! The disk beneath the files of this crate: segments, staging, `FORMAT` and cursors.
//!
//! Whatever is to survive a power failure is written through a [`Disk`], which has no more
//! operations than that takes. There is one real disk, [`RealDisk`]. Tests and simulations have
//! another, which fails at any operation that they choose and can say what a power failure would
//! have left. The record store (fjall) does its own I/O.
//!
//! What is durable when: the bytes of a file once [`DiskFile::sync`] has returned, and a name in a
//! folder, whether new, gone or moved, once [`Disk::sync_dir`] of the folder has. That holds for
//! the names of folders too. A sync of a file that has failed is never made good by another one:
//! Linux takes the bytes that it could not write for written, and reports the error once. A folder
//! is different: its names are in the journal of the file system, which writes them or nothing
//! more at all.

#[cfg(any(test, feature = "faults"))]
mod faulty;
mod held;
mod image;
#[cfg(any(test, feature = "faults"))]
mod model;
mod private;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(any(test, feature = "testing"))]
pub use self::faulty::test_folder;
#[cfg(any(test, feature = "faults"))]
pub use self::faulty::{Fault, FaultyDisk};
pub use self::held::is_same_file;
pub use self::image::Image;
#[cfg(unix)]
pub use self::private::user;
pub use self::private::{check_owner, close, make_private};

/// All that is done to files and folders. Errors are those of the system.
pub trait Disk: Debug + Send + Sync {
    /// Makes an empty file under a free name with this beginning and end, for reads and writes.
    fn create(&self, dir: &Path, prefix: &str, suffix: &str) -> io::Result<NewFile>;
    /// Opens a file for reads.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Moves a file or a folder, over a file that may be there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a further name.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes the name of a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder and those that it is in, if they are missing.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names in a folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;
    /// The size of a file.
    fn len(&self, path: &Path) -> io::Result<u64>;
    /// Makes the names in a folder durable as they are now.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// How much room the disk of a folder has; `None` where there is no telling.
    fn space(&self, _dir: &Path) -> io::Result<Option<Space>> {
        Ok(None)
    }
    /// This disk with the folder held by its descriptor; `None` where it can't be.
    ///
    /// # Errors
    /// When the folder can't be opened.
    fn hold(&self, _dir: &Path) -> io::Result<Option<Arc<dyn Disk>>> {
        Ok(None)
    }
    /// Where this path is in a held folder, for those who do not ask the disk.
    fn real(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }
    /// Whether the held folder still has the name that it was opened by.
    ///
    /// # Errors
    /// When the system does not say.
    fn is_in_place(&self) -> io::Result<bool> {
        Ok(true)
    }
}

/// The room of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub size: u64,
    /// For this user.
    pub free: u64,
}

/// A new file and its path.
pub type NewFile = (Box<dyn DiskFile>, PathBuf);

/// An open file.
pub trait DiskFile: Read + Write + Seek + Debug + Send + Sync {
    /// Makes the bytes durable. After an error they never will be: see the module.
    fn sync(&self) -> io::Result<()>;
}

/// The disk of this machine.
#[derive(Debug, Clone, Copy)]
pub struct RealDisk;

impl RealDisk {
    /// One to share.
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(Self)
    }
}

/// Opens a file to read it, and nothing but a file, see [`open_only_file`].
pub fn open_file(path: &Path) -> io::Result<File> {
    open_only_file(path, File::options().read(true))
}

/// Opens a file, and nothing but a file: a pipe would keep whoever opens it waiting.
pub fn open_only_file(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = options.open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")),
    }
}

/// Whether a file can't be opened because there is another thing under its name, or nothing, or a
/// link that leads to none.
pub fn is_no_file(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, IsADirectory, NotADirectory, NotFound};
    #[cfg(unix)]
    {
        use rustix::io::Errno;
        // The second one is what a socket answers.
        if matches!(Errno::from_io_error(error), Some(Errno::LOOP | Errno::NXIO)) {
            return true;
        }
    }
    matches!(error.kind(), InvalidInput | IsADirectory | NotADirectory | NotFound)
}

/// All that is in a file, see [`open_file`].
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Disk for RealDisk {
    fn create(&self, dir: &Path, prefix: &str, suffix: &str) -> io::Result<NewFile> {
        let file = tempfile::Builder::new().prefix(prefix).suffix(suffix).tempfile_in(dir)?;
        let (file, path) = file.into_parts();
        Ok((Box::new(file), path.keep()?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(open_file(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        // Of a link that leads to no file, its own.
        let metadata = fs::metadata(path).or_else(|_| fs::symlink_metadata(path))?;
        Ok(metadata.len())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    #[cfg(unix)]
    fn space(&self, dir: &Path) -> io::Result<Option<Space>> {
        let disk = rustix::fs::statvfs(dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        Ok(Some(Space { size: bytes(disk.f_blocks), free: bytes(disk.f_bavail) }))
    }

    fn hold(&self, dir: &Path) -> io::Result<Option<Arc<dyn Disk>>> {
        held::shared(dir).map(Some)
    }
}

impl DiskFile for File {
    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

/// The name of a file in the making. It goes when this is dropped.
#[derive(Debug)]
pub struct TemporaryName {
    disk: Arc<dyn Disk>,
    /// None once it has gone.
    path: Option<PathBuf>,
}

/// [`Disk::create`], with a name that goes by itself.
pub fn temporary(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    prefix: &str,
    suffix: &str,
) -> io::Result<(Box<dyn DiskFile>, TemporaryName)> {
    let (file, path) = disk.create(dir, prefix, suffix)?;
    Ok((file, TemporaryName { disk: Arc::clone(disk), path: Some(path) }))
}

/// Writes a file as a whole under a temporary name, and gives it its own, over one that may be there.
/// It is durable when this returns; after a crash there is the old one, or this.
pub fn replace(disk: &Arc<dyn Disk>, path: &Path, prefix: &str, parts: &[&[u8]]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let (mut file, name) = temporary(disk, dir, prefix, "")?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync()?;
    name.persist(path)?;
    disk.sync_dir(dir)
}

impl TemporaryName {
    /// Gives the file its final name in place of this one.
    pub fn persist(mut self, to: &Path) -> io::Result<()> {
        self.move_to(to)?;
        self.path = None;
        Ok(())
    }

    /// As [`TemporaryName::persist`], and [`TemporaryName::link_back`] may follow.
    pub fn move_to(&self, to: &Path) -> io::Result<()> {
        self.with(|path| self.disk.rename(path, to))
    }

    /// Gives the file of that name this one again, too.
    pub fn link_back(&self, from: &Path) -> io::Result<()> {
        self.with(|path| self.disk.hard_link(from, path))
    }

    /// A new file beside it.
    pub fn beside(&self, prefix: &str, suffix: &str) -> io::Result<(Box<dyn DiskFile>, Self)> {
        self.with(|path| temporary(&self.disk, path.parent().unwrap_or(path), prefix, suffix))
    }

    /// Removes the name now, if it is there.
    pub fn remove(&mut self) {
        if let Some(path) = self.path.take() {
            let _ = self.disk.remove(&path);
        }
    }

    fn with<T>(&self, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        self.path.as_deref().map_or_else(|| Err(io::ErrorKind::NotFound.into()), act)
    }
}

impl Drop for TemporaryName {
    fn drop(&mut self) {
        self.remove();
    }
}
