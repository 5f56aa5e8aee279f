//! The database folder: what is where, whose it is, and that one process alone writes to it.
//!
//! ```text
//! FORMAT          which layout this is
//! LOCK            locked while an engine is open
//! records/        the record store (fjall)
//! segments/       {hash}.dat, immutable
//! staging/        downloads and segments in the making; cleared at every start
//! sync/, policies/, admin.sock   of the host
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{EngineError, StagingFile};
use crate::Hash;
use crate::disk::{Disk, temporary};

const FORMAT: &str = "edgestore-host 2\n";

/// An open database folder. The lock goes when this is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    _lock: File,
}

impl Folder {
    /// Opens or makes the folder, with the record store in it, and clears it of what a crash left.
    /// `open` opens or makes a record store.
    pub(super) fn open<S>(
        path: &Path,
        disk: Arc<dyn Disk>,
        open: impl Fn(&Path) -> Result<S, EngineError>,
    ) -> Result<(Self, S), EngineError> {
        if path.is_file() {
            let why = "it is a file. Give the host a folder".to_owned();
            return Err(EngineError::Foreign { path: path.to_owned(), why });
        }
        disk.make_dir(path).map_err(EngineError::io("make", path))?;
        // From here on all is in this folder, whatever comes to have its name.
        let held = disk.hold(path).map_err(EngineError::io("open", path))?;
        let disk = held.unwrap_or(disk);
        let open = |records: &Path| open(&disk.real(records));
        let known = is_database(path, &*disk)?;
        let lock = lock(path, &*disk)?;
        let folder = Self { path: path.to_owned(), disk: Arc::clone(&disk), _lock: lock };
        let records = path.join("records");
        if known {
            if !records.is_dir() {
                let why = format!(
                    "{} is missing: restore it, or pull everything again into a new folder",
                    records.display()
                );
                return Err(EngineError::Corrupt(why));
            }
        } else {
            folder.make(&records, &open)?;
        }
        // Of `FORMAT`: this start has made it, or one that ended before it came to this.
        folder.disk.sync_dir(path).map_err(EngineError::io("sync", path))?;
        folder.clear_staging()?;
        let store = open(&records)?;
        Ok((folder, store))
    }

    /// Makes what a database has. The record store comes whole or not at all, because it can't be
    /// opened half made, and `FORMAT` comes last.
    fn make<S>(
        &self,
        records: &Path,
        open: impl Fn(&Path) -> Result<S, EngineError>,
    ) -> Result<(), EngineError> {
        for dir in [self.segments(), self.staging()] {
            self.disk.make_dir(&dir).map_err(EngineError::io("make", &dir))?;
        }
        if !records.exists() {
            let half = self.path.join("records.new");
            if half.exists() {
                fs::remove_dir_all(&half).map_err(EngineError::io("remove", &half))?;
            }
            drop(open(&half)?);
            self.disk.rename(&half, records).map_err(EngineError::io("rename", &half))?;
        }
        let format = self.path.join("FORMAT");
        let write = || -> io::Result<()> {
            let (mut file, name) = temporary(&self.disk, &self.staging(), PREFIX, SUFFIX)?;
            file.write_all(FORMAT.as_bytes())?;
            file.sync()?;
            self.sync_ancestors()?;
            self.disk.sync_dir(&self.path)?;
            name.persist(&format)
        };
        write().map_err(EngineError::io("write", &format))
    }

    /// Makes the name of the folder itself durable, and those of the folders that it is in, which
    /// may be as new.
    fn sync_ancestors(&self) -> io::Result<()> {
        use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
        for dir in self.path.ancestors().skip(1) {
            let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
            match self.disk.sync_dir(dir) {
                // Somebody else has made it.
                Err(error)
                    if matches!(
                        error.kind(),
                        PermissionDenied | ReadOnlyFilesystem | InvalidInput | Unsupported
                    ) => {}
                result => result?,
            }
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The disk, to share.
    pub(super) fn shared_disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// A file in `staging`, which goes when it is dropped, or at the next start.
    pub(super) fn stage(&self) -> io::Result<StagingFile> {
        StagingFile::create_in(&self.disk, &self.staging())
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.path.join("staging")
    }

    pub(super) fn segments(&self) -> PathBuf {
        self.path.join("segments")
    }

    pub(super) fn quarantine(&self) -> PathBuf {
        self.path.join("quarantine")
    }

    pub(super) fn segment(&self, hash: &Hash) -> PathBuf {
        self.segments().join(format!("{hash}.dat"))
    }

    /// Makes new and vanished names in `segments` durable.
    pub(super) fn sync_segments(&self) -> Result<(), EngineError> {
        let dir = self.segments();
        self.disk.sync_dir(&dir).map_err(EngineError::io("sync", &dir))
    }

    /// Removes the files that [`Folder::stage`] made, and nothing else.
    fn clear_staging(&self) -> Result<(), EngineError> {
        let staging = self.staging();
        let clear = || -> io::Result<()> {
            for name in self.disk.list(&staging)? {
                if !is_temporary(&name) {
                    continue;
                }
                match self.disk.remove(&staging.join(name)) {
                    // A download that was given up may be going at this moment.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    result => result?,
                }
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
            for name in self.disk.list(&dir)? {
                let hash = name.to_str().and_then(|name| name.strip_suffix(".dat")?.parse().ok());
                if let Some(hash) = hash {
                    files.push((hash, self.disk.len(&dir.join(name))?));
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
        walk(&self.disk.real(&self.path))
    }
}

/// The record store makes sparse files, whose length says nothing.
fn on_disk(meta: &fs::Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::blocks(meta) * 512;
    #[cfg(not(unix))]
    return meta.len();
}

fn lock(path: &Path, disk: &dyn Disk) -> Result<File, EngineError> {
    let file = path.join("LOCK");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(disk.real(&file))
        .map_err(EngineError::io("open", &file))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(EngineError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(error)) => Err(EngineError::io("lock", &file)(error)),
    }
}

/// Of the names in `staging`.
pub(super) const PREFIX: &str = "fetch-";
pub(super) const SUFFIX: &str = ".part";

fn is_temporary(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
}

/// Whether the folder holds a database; false when it holds nothing, or what a crash left of the
/// making of one. Anything else is somebody else's, and is not touched.
fn is_database(path: &Path, disk: &dyn Disk) -> Result<bool, EngineError> {
    let foreign = |why: String| Err(EngineError::Foreign { path: path.to_owned(), why });
    let format = path.join("FORMAT");
    let mut bytes = Vec::new();
    match disk.open(&format).and_then(|file| file.take(100).read_to_end(&mut bytes)) {
        Ok(_) if bytes == FORMAT.as_bytes() => return Ok(true),
        Ok(_) => {
            let found = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            return foreign(format!(
                "its FORMAT is {:?}, and this version reads {:?}. Pull everything again into a \
                 new folder",
                found.trim_end(),
                FORMAT.trim_end()
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(EngineError::io("read", &format)(error)),
    }
    let names = |dir: &Path| -> Result<Vec<OsString>, EngineError> {
        disk.list(dir).map_err(EngineError::io("read", dir))
    };
    let found = names(path)?;
    let stock = |name: &OsString| {
        name.to_str().is_some_and(|name| {
            matches!(name, "manifest.mf" | "WTOKEN")
                || name.starts_with("segment-")
                || name.starts_with("wal-")
        })
    };
    if found.iter().any(stock) {
        return foreign(
            "it holds a database of the crate `edgestore`. Give the host a folder of its own, and \
             pull the data from that node as a peer"
                .to_owned(),
        );
    }
    for name in found {
        let ours = match name.to_str() {
            Some("LOCK" | "records" | "records.new" | "lost+found") => true,
            Some("segments") => names(&path.join("segments"))?.is_empty(),
            Some("staging") => names(&path.join("staging"))?.iter().all(|name| is_temporary(name)),
            _ => false,
        };
        if ours {
            continue;
        }
        // Another process may be making the database at this moment.
        if format.exists() {
            return Ok(true);
        }
        let name = name.display();
        return foreign(format!("there is {name} in it. Give the host a folder of its own"));
    }
    Ok(false)
}
