//! The real disk with one folder that is held by its descriptor: what is read and written in it is
//! in that folder wherever it has been moved, and never in another one that took its name.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Disk, DiskFile, NewFile, RealDisk, Space};

/// See the module. Paths in and out are those by the folder's name, also once it has another one.
#[derive(Debug)]
pub(super) struct HeldFolder {
    path: PathBuf,
    dir: File,
    /// A name of the folder that follows it; `None` where the system has none.
    fixed: Option<PathBuf>,
}

impl HeldFolder {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let dir = File::open(path)?;
        let fixed = fixed(&dir);
        Ok(Self { path: path.to_owned(), dir, fixed })
    }

    /// Passes the real path of a file and returns what comes of it.
    fn at<T>(&self, path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        act(&self.real(path))
    }
}

#[cfg(target_os = "linux")]
fn fixed(dir: &File) -> Option<PathBuf> {
    use std::os::fd::AsRawFd as _;
    let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    // Some containers have no /proc.
    is_same_file(dir, &path).unwrap_or(false).then_some(path)
}

#[cfg(not(target_os = "linux"))]
fn fixed(_: &File) -> Option<PathBuf> {
    None
}

/// Whether the path names this file or folder.
#[cfg(unix)]
pub fn is_same_file(open: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let named = match fs::metadata(path) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(false);
        }
        named => named?,
    };
    let held = open.metadata()?;
    Ok((named.dev(), named.ino()) == (held.dev(), held.ino()))
}

/// Whether there is a file of that name. Its identity is not known on this system.
#[cfg(not(unix))]
pub fn is_same_file(_: &File, path: &Path) -> io::Result<bool> {
    fs::exists(path)
}

impl Disk for HeldFolder {
    fn create(&self, dir: &Path, prefix: &str, suffix: &str) -> io::Result<NewFile> {
        let (file, path) = self.at(dir, |dir| RealDisk.create(dir, prefix, suffix))?;
        let name = path.file_name().unwrap_or_default();
        Ok((file, dir.join(name)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.at(path, |path| RealDisk.open(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.at(from, |from| self.at(to, |to| RealDisk.rename(from, to)))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.at(from, |from| self.at(to, |to| RealDisk.hard_link(from, to)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.at(path, |path| RealDisk.remove(path))
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        self.at(dir, |dir| RealDisk.make_dir(dir))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.at(dir, |dir| RealDisk.list(dir))
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.at(path, |path| RealDisk.len(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.at(dir, |dir| RealDisk.sync_dir(dir))
    }

    fn space(&self, dir: &Path) -> io::Result<Option<Space>> {
        self.at(dir, |dir| RealDisk.space(dir))
    }

    fn real(&self, path: &Path) -> PathBuf {
        match (&self.fixed, path.strip_prefix(&self.path)) {
            (Some(fixed), Ok(rest)) if rest.as_os_str().is_empty() => fixed.clone(),
            (Some(fixed), Ok(rest)) => fixed.join(rest),
            _ => path.to_owned(),
        }
    }

    fn is_in_place(&self) -> io::Result<bool> {
        is_same_file(&self.dir, &self.path)
    }
}

/// The real disk, with this folder held.
pub(super) fn shared(path: &Path) -> io::Result<Arc<dyn Disk>> {
    Ok(Arc::new(HeldFolder::open(path)?))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::disk::{TemporaryName, temporary};

    #[test]
    fn a_held_folder_keeps_its_files_when_another_takes_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (name, moved) = (dir.path().join("db"), dir.path().join("moved"));
        fs::create_dir(&name).unwrap();
        let disk = RealDisk.hold(&name).unwrap().unwrap();
        assert!(disk.is_in_place().unwrap());
        fs::rename(&name, &moved).unwrap();
        assert!(!disk.is_in_place().unwrap(), "it is gone");
        fs::create_dir(&name).unwrap();
        assert!(!disk.is_in_place().unwrap(), "it is another one");

        let (mut file, temp) = temporary(&disk, &name, "x-", ".part").unwrap();
        file.write_all(b"1").unwrap();
        TemporaryName::persist(temp, &name.join("file")).unwrap();
        disk.make_dir(&name.join("sub/folder")).unwrap();
        disk.hard_link(&name.join("file"), &name.join("sub/link")).unwrap();
        disk.sync_dir(&name).unwrap();
        assert_eq!(disk.len(&name.join("sub/link")).unwrap(), 1);
        assert_eq!(fs::read(disk.real(&name.join("file"))).unwrap(), b"1");
        assert_eq!(fs::read_dir(&name).unwrap().count(), 0, "the other folder is untouched");
        assert_eq!(disk.list(&name).unwrap().len(), 2);
        assert_eq!(fs::read_dir(&moved).unwrap().count(), 2);
        disk.remove(&name.join("file")).unwrap();
        assert!(disk.open(&name.join("file")).is_err());

        // What is in no held folder is where its path says.
        assert_eq!(disk.real(dir.path()), dir.path());
        fs::remove_dir(&name).unwrap();
        fs::rename(&moved, &name).unwrap();
        assert!(disk.is_in_place().unwrap(), "it is back");
    }
}
