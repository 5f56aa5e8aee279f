//! Cursors as files, one a peer: `{db}/sync/{peer}.cursor`.
//!
//! A file is what the policy stored, as it is, and 16 bytes that tell whether it still is: the
//! magic `EDGC`, the CRC-32C of the value (`u32`, little-endian) and its length (`u64`,
//! little-endian). The loop of `edgestore-repl` reads one MessagePack value and ignores what
//! follows, so it can go on from a file that was written here. Its own files have no such end;
//! they are taken if they hold a whole MessagePack array, which is how that loop begins its file.
//!
//! A file that fails both tests is no cursor any more. It is renamed to `{peer}.cursor.corrupt-N`
//! for whoever wants to know what happened, and the policy starts from none: that costs a look at
//! the peer's manifest.

use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::IgnoredAny;

use super::PeerId;
use crate::disk::{Disk, RealDisk, temporary};
use crate::policy::CursorStore;

/// A larger file is no cursor. In bytes.
pub const MAX_CURSOR_FILE: u64 = 64 << 20;

const MAGIC: &[u8; 4] = b"EDGC";
const TRAILER: usize = 16;
const TEMPORARY: &str = ".cursor-";

/// The cursor files of one database.
#[derive(Debug)]
pub struct CursorFiles {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
}

impl CursorFiles {
    /// Uses `{db}/sync`, which it makes if it is missing, and clears it of what a crash left.
    ///
    /// # Errors
    /// When the folder can't be made or read.
    pub fn open(db: &Path) -> io::Result<Self> {
        Self::open_on(db, RealDisk::shared())
    }

    /// [`CursorFiles::open`] on another disk.
    pub(crate) fn open_on(db: &Path, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let dir = db.join("sync");
        disk.make_dir(&dir)?;
        disk.sync_dir(db)?;
        for name in disk.list(&dir)? {
            if name.to_string_lossy().starts_with(TEMPORARY) {
                disk.remove(&dir.join(name))?;
            }
        }
        Ok(Self { dir, disk })
    }

    /// The files that are no cursors any more, with what is wrong.
    ///
    /// # Errors
    /// When one can't be read.
    pub fn damaged(&self) -> io::Result<Vec<(PathBuf, &'static str)>> {
        let mut damaged = Vec::new();
        for name in self.disk.list(&self.dir)? {
            let path = self.dir.join(name);
            if path.extension().is_some_and(|extension| extension == "cursor")
                && let Err(why) = check(&read(self.disk.open(&path)?)?)
            {
                damaged.push((path, why));
            }
        }
        Ok(damaged)
    }

    fn path(&self, peer: &str) -> io::Result<PathBuf> {
        let id: PeerId =
            peer.parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        Ok(self.dir.join(format!("{id}.cursor")))
    }

    fn set_aside(&self, path: &Path, why: &str) -> io::Result<()> {
        let aside = |n: u32| PathBuf::from(format!("{}.corrupt-{n}", path.display()));
        let free = (1..).map(aside).find(|aside| !aside.exists());
        let aside = free.ok_or_else(|| io::Error::other("too many corrupt cursors"))?;
        self.disk.rename(path, &aside)?;
        tracing::warn!(
            file = %path.display(),
            aside = %aside.display(),
            "the cursor {why}; it is kept aside, and the policy starts from an empty one"
        );
        Ok(())
    }
}

impl CursorStore for CursorFiles {
    fn load(&self, peer: &str) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(peer)?;
        let file = match self.disk.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = read(file)?;
        match check(&bytes) {
            Ok(len) => {
                bytes.truncate(len);
                Ok(Some(bytes))
            }
            Err(why) => {
                self.set_aside(&path, why)?;
                Ok(None)
            }
        }
    }

    fn store(&self, peer: &str, value: &[u8]) -> io::Result<()> {
        let path = self.path(peer)?;
        let (mut file, name) = temporary(&self.disk, &self.dir, TEMPORARY, "")?;
        file.write_all(value)?;
        file.write_all(&trailer(value))?;
        file.sync()?;
        name.persist(&path)?;
        self.disk.sync_dir(&self.dir)
    }
}

/// One byte more than there may be, and so too many where there are more.
fn read(file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_CURSOR_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn trailer(value: &[u8]) -> [u8; TRAILER] {
    let mut trailer = [0; TRAILER];
    trailer[..4].copy_from_slice(MAGIC);
    trailer[4..8].copy_from_slice(&crc32c::crc32c(value).to_le_bytes());
    trailer[8..].copy_from_slice(&(value.len() as u64).to_le_bytes());
    trailer
}

/// The length of the value in a file, or why there is none.
fn check(bytes: &[u8]) -> Result<usize, &'static str> {
    if bytes.len() as u64 > MAX_CURSOR_FILE {
        return Err("is larger than any cursor");
    }
    if let Some((value, found)) = bytes.split_last_chunk::<TRAILER>()
        && found.starts_with(MAGIC)
    {
        return if *found == trailer(value) { Ok(value.len()) } else { Err("has changed on disk") };
    }
    // MessagePack arrays: fixarray, array 16, array 32.
    if !matches!(bytes.first(), Some(0x90..=0x9f | 0xdc | 0xdd)) {
        return Err("is none of this host's, nor of edgestore-repl's");
    }
    let mut stock = rmp_serde::Deserializer::from_read_ref(bytes);
    stock.set_max_depth(16);
    match serde::Deserialize::deserialize(&mut stock) {
        Ok(IgnoredAny) => Ok(bytes.len()),
        Err(_) => Err("is cut short"),
    }
}

#[cfg(test)]
mod crash_tests;

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    fn open(db: &tempfile::TempDir) -> CursorFiles {
        CursorFiles::open(db.path()).unwrap()
    }

    fn files(db: &tempfile::TempDir) -> Vec<String> {
        let names = fs::read_dir(db.path().join("sync")).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Field by field the cursor of `edgestore-repl`.
    fn stock() -> Vec<u8> {
        let hash = vec![0xab_u8; 32];
        rmp_serde::to_vec(&(hash.clone(), vec![hash], 1_700_000_000_u64, 300_u64, 7_u64)).unwrap()
    }

    #[test]
    fn a_peer_without_a_file_has_no_cursor() {
        let db = tempfile::tempdir().unwrap();
        assert_eq!(open(&db).load("a").unwrap(), None);
    }

    #[test]
    fn what_was_stored_last_is_loaded_whatever_it_is() {
        let db = tempfile::tempdir().unwrap();
        let long = vec![7; 100_000];
        for value in [&b""[..], b"x", b"\xc1 is no MessagePack", MAGIC, &long] {
            open(&db).store("a", value).unwrap();
            assert_eq!(open(&db).load("a").unwrap().as_deref(), Some(value));
        }
        assert_eq!(open(&db).load("b").unwrap(), None);
        assert_eq!(files(&db), ["a.cursor"]);
    }

    #[test]
    fn the_stock_loop_and_this_host_read_each_others_files() {
        let db = tempfile::tempdir().unwrap();
        let cursors = open(&db);
        let path = db.path().join("sync/a.cursor");
        fs::write(&path, stock()).unwrap();
        assert_eq!(cursors.load("a").unwrap(), Some(stock()));
        cursors.store("a", &stock()).unwrap();
        // The stock loop decodes from the file like this.
        type Stock = (Vec<u8>, Vec<Vec<u8>>, u64, u64, u64);
        let read: Stock = rmp_serde::from_read(File::open(&path).unwrap()).unwrap();
        assert_eq!((read.2, read.3, read.4), (1_700_000_000, 300, 7));
    }

    #[test]
    fn every_damage_is_noticed_and_the_file_kept_aside() {
        let db = tempfile::tempdir().unwrap();
        let cursors = open(&db);
        let path = db.path().join("sync/a.cursor");
        let mut damaged = vec![b"".to_vec(), b"garbage".to_vec(), vec![0x95], vec![0xdc, 0xff]];
        let whole = stock();
        damaged.extend((1..whole.len()).map(|len| whole[..len].to_vec()));
        let value = b"any bytes of any policy";
        cursors.store("a", value).unwrap();
        let whole = fs::read(&path).unwrap();
        damaged.extend((1..whole.len()).map(|len| whole[..len].to_vec()));
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            damaged.push(flipped);
        }
        for bytes in &damaged {
            fs::write(&path, bytes).unwrap();
            assert_eq!(cursors.load("a").unwrap(), None, "{bytes:?}");
            assert!(!path.exists());
        }
        assert_eq!(files(&db).len(), damaged.len());
        let first = fs::read(db.path().join("sync/a.cursor.corrupt-2")).unwrap();
        assert_eq!(first, b"garbage");
        cursors.store("a", value).unwrap();
        assert_eq!(cursors.load("a").unwrap().as_deref(), Some(&value[..]));
    }

    #[test]
    fn a_cut_stock_file_whose_first_value_is_whole_is_still_a_cursor() {
        let db = tempfile::tempdir().unwrap();
        let longer = [stock(), vec![1, 0x92]].concat();
        fs::create_dir(db.path().join("sync")).unwrap();
        fs::write(db.path().join("sync/a.cursor"), &longer).unwrap();
        assert_eq!(open(&db).load("a").unwrap(), Some(longer));
    }

    #[test]
    fn no_name_leaves_the_folder() {
        let db = tempfile::tempdir().unwrap();
        for peer in ["../x", "..", "a/b", ""] {
            let error = open(&db).store(peer, b"x").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(open(&db).load(peer).is_err());
        }
        assert!(files(&db).is_empty());
    }

    #[test]
    fn what_a_crash_left_is_cleared() {
        let db = tempfile::tempdir().unwrap();
        open(&db).store("a", b"x").unwrap();
        fs::write(db.path().join("sync/.cursor-AbC123"), b"half").unwrap();
        open(&db);
        assert_eq!(files(&db), ["a.cursor"]);
    }
}
