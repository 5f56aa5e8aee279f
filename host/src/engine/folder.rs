//! The database folder: what is where, whose it is, and that one process alone writes to it.
//!
//! ```text
//! FORMAT          which layout this is
//! LOCK            locked while an engine is open
//! records/        the record store (fjall)
//! segments/       {hash}.dat, immutable
//! staging/        downloads and segments in the making; emptied at every start
//! sync/, policies/, admin.sock   of the host
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::EngineError;
use crate::Hash;

const FORMAT: &str = "edgestore-host 1\n";

/// An open database folder. The lock goes when this is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Opens or makes the folder, and clears it of what a crash left in `staging`.
    pub(super) fn open(path: &Path) -> Result<Self, EngineError> {
        fs::create_dir_all(path).map_err(EngineError::io("make", path))?;
        let format = path.join("FORMAT");
        let known = match fs::read(&format) {
            Ok(bytes) if bytes == FORMAT.as_bytes() => true,
            Ok(bytes) => {
                let found = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
                let why = format!(
                    "its FORMAT is {:?}, and this version reads {:?}",
                    found.trim_end(),
                    FORMAT.trim_end()
                );
                return Err(EngineError::Foreign { path: path.to_owned(), why });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(EngineError::io("read", &format)(error)),
        };
        if !known {
            refuse_stock(path)?;
        }
        let folder = Self { path: path.to_owned(), _lock: lock(path)? };
        for sub in ["segments", "staging"] {
            let sub = path.join(sub);
            fs::create_dir_all(&sub).map_err(EngineError::io("make", &sub))?;
        }
        if !known {
            let write = || -> io::Result<()> {
                let mut file = tempfile::NamedTempFile::new_in(folder.staging())?;
                file.write_all(FORMAT.as_bytes())?;
                file.as_file().sync_all()?;
                file.persist(&format)?;
                sync_dir(path)
            };
            write().map_err(EngineError::io("write", &format))?;
        }
        folder.clear_staging()?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn records(&self) -> PathBuf {
        self.path.join("records")
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.path.join("staging")
    }

    pub(super) fn segments(&self) -> PathBuf {
        self.path.join("segments")
    }

    pub(super) fn segment(&self, hash: &Hash) -> PathBuf {
        self.segments().join(format!("{hash}.dat"))
    }

    /// Makes new and vanished names in `segments` durable.
    pub(super) fn sync_segments(&self) -> Result<(), EngineError> {
        let dir = self.segments();
        sync_dir(&dir).map_err(EngineError::io("sync", &dir))
    }

    fn clear_staging(&self) -> Result<(), EngineError> {
        let staging = self.staging();
        let clear = || -> io::Result<()> {
            for entry in fs::read_dir(&staging)? {
                fs::remove_file(entry?.path())?;
            }
            Ok(())
        };
        clear().map_err(EngineError::io("clear", &staging))
    }

    /// Segment files by hash, with their sizes. Anything else in the folder is left alone.
    pub(super) fn segment_files(&self) -> Result<Vec<(Hash, u64)>, EngineError> {
        let dir = self.segments();
        let read = || -> io::Result<Vec<(Hash, u64)>> {
            let mut files = Vec::new();
            for entry in fs::read_dir(&dir)? {
                let entry = entry?;
                let name = entry.file_name();
                let hash = name.to_str().and_then(|name| name.strip_suffix(".dat")?.parse().ok());
                if let Some(hash) = hash {
                    files.push((hash, entry.metadata()?.len()));
                }
            }
            Ok(files)
        };
        read().map_err(EngineError::io("read", &dir))
    }

    /// What the folder takes on disk. Files that vanish meanwhile count for nothing.
    pub(super) fn disk_bytes(&self) -> u64 {
        fn walk(dir: &Path) -> u64 {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let sizes = entries.map(|entry| match entry.metadata() {
                Ok(meta) if meta.is_dir() => walk(&entry.path()),
                Ok(meta) => on_disk(&meta),
                Err(_) => 0,
            });
            sizes.sum()
        }
        walk(&self.path)
    }
}

/// The record store makes sparse files, whose length says nothing.
fn on_disk(meta: &fs::Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::blocks(meta) * 512;
    #[cfg(not(unix))]
    return meta.len();
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn lock(path: &Path) -> Result<File, EngineError> {
    let file = path.join("LOCK");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&file)
        .map_err(EngineError::io("open", &file))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(EngineError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(EngineError::io("lock", &file)(error)),
    }
}

/// The published crate keeps its files in the same kind of folder, and would be damaged.
fn refuse_stock(path: &Path) -> Result<(), EngineError> {
    let is_stock = |name: &str| {
        name == "manifest.mf"
            || name == "WTOKEN"
            || (name.starts_with("wal-") && name.ends_with(".log"))
            || (name.starts_with("segment-") && name.ends_with(".dat"))
    };
    let entries = fs::read_dir(path).map_err(EngineError::io("read", path))?;
    for entry in entries {
        let name = entry.map_err(EngineError::io("read", path))?.file_name();
        if name.to_str().is_some_and(is_stock) {
            let why = "it holds a database of the crate `edgestore`. Give the host a folder of \
                       its own, and pull the data from that node as a peer"
                .to_owned();
            return Err(EngineError::Foreign { path: path.to_owned(), why });
        }
    }
    Ok(())
}
