//! Cursors as files, one a peer: `{db}/sync/{peer}.cursor`.
//!
//! A file is what the policy stored, as it is, then the layout's owner, then what tells whether
//! all of that is still as it was. Numbers are little-endian:
//!
//! ```text
//! value | policy name | schema u32 | name length u32 | value length u64 | CRC-32C u32 | "EDGL"
//! ```
//!
//! The loop of `edgestore-repl` reads one MessagePack value and ignores what follows, so it can go
//! on from a file of the default policy. Its own files have no such end; they are taken if they
//! hold a whole MessagePack array, which is how that loop begins its file, and are the default
//! policy's. So are those of older hosts, which end in 16 bytes without an owner: the magic `EDGC`,
//! the CRC-32C of the value (`u32`) and its length (`u64`).
//!
//! When a policy of another layout takes over, the file is renamed to `{peer}.cursor.kept-{id of
//! the layout}`, and comes back when its owner does.
//!
//! A file that fails both tests is no cursor any more. It is renamed to `{peer}.cursor.corrupt-N`
//! for whoever wants to know what happened, and the policy starts from none: that costs a look at
//! the peer's manifest.

use std::collections::HashMap;
mod checkpoint;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::IgnoredAny;

use super::PeerId;
use crate::Hash;
use crate::disk::{Disk, RealDisk, replace};
use crate::policy::{CursorLayout, CursorStore};

/// A larger file is no cursor. In bytes.
pub const MAX_CURSOR_FILE: u64 = 64 << 20;

const MAGIC: &[u8; 4] = b"EDGL";
/// Bytes behind the policy's name.
const TRAILER: usize = 24;
const OLD_MAGIC: &[u8; 4] = b"EDGC";
const OLD_TRAILER: usize = 16;
const KEPT: &str = "kept-";
const TEMPORARY: &str = ".cursor-";

/// The cursor files of one database.
#[derive(Debug)]
pub struct CursorFiles {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    /// Whose the current file of a peer is, where that is known.
    owners: Mutex<HashMap<String, CursorLayout>>,
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
        Ok(Self { dir, disk, owners: Mutex::default() })
    }

    /// Uses `{db}/sync` as it is, and changes nothing: for [`CursorFiles::damaged`] alone.
    pub(crate) fn look(db: &Path) -> Self {
        Self { dir: db.join("sync"), disk: RealDisk::shared(), owners: Mutex::default() }
    }

    /// The files that are no cursors any more, with what is wrong.
    ///
    /// # Errors
    /// When one can't be read.
    pub fn damaged(&self) -> io::Result<Vec<(PathBuf, &'static str)>> {
        let mut damaged = Vec::new();
        let names = match self.disk.list(&self.dir) {
            // No host has run yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names?,
        };
        for name in names {
            let path = self.dir.join(name);
            let extension = path.extension().unwrap_or_default().to_string_lossy();
            if (extension == "cursor" || extension.starts_with(KEPT))
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

impl CursorFiles {
    fn owners(&self) -> std::sync::MutexGuard<'_, HashMap<String, CursorLayout>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self, path: &Path, layout: &CursorLayout) -> PathBuf {
        let id = Hash::of(format!("{} {}", layout.schema, layout.policy).as_bytes()).to_string();
        PathBuf::from(format!("{}.{KEPT}{}", path.display(), &id[..16]))
    }

    /// The value in a file and whose it is; none where there is none, or no more.
    fn open_cursor(&self, path: &Path) -> io::Result<Option<(Vec<u8>, CursorLayout)>> {
        let file = match self.disk.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = read(file)?;
        match check(&bytes) {
            Ok((len, owner)) => {
                bytes.truncate(len);
                Ok(Some((bytes, owner)))
            }
            Err(why) => {
                self.set_aside(path, why)?;
                Ok(None)
            }
        }
    }

    /// Makes the cursor of `layout` the peer's current one, and returns it. Each step is one
    /// rename, and doing them again after a crash does no harm.
    fn take_over(&self, path: &Path, layout: &CursorLayout) -> io::Result<Option<Vec<u8>>> {
        match self.open_cursor(path)? {
            Some((value, owner)) if owner == *layout => return Ok(Some(value)),
            Some((_, owner)) => {
                let kept = self.kept(path, &owner);
                self.disk.rename(path, &kept)?;
                tracing::info!(
                    file = %kept.display(),
                    policy = owner.policy,
                    schema = owner.schema,
                    "another policy takes over; the cursor is kept for its owner"
                );
            }
            None => {}
        }
        let kept = self.kept(path, layout);
        let found = self.open_cursor(&kept)?.filter(|(_, owner)| owner == layout);
        if found.is_some() {
            self.disk.rename(&kept, path)?;
        }
        self.disk.sync_dir(&self.dir)?;
        Ok(found.map(|(value, _)| value))
    }
}

impl CursorStore for CursorFiles {
    fn load(&self, peer: &str, layout: &CursorLayout) -> io::Result<Option<Vec<u8>>> {
        let value = self.take_over(&self.path(peer)?, layout)?;
        self.owners().insert(peer.to_owned(), layout.clone());
        Ok(value)
    }

    fn store(&self, peer: &str, layout: &CursorLayout, value: &[u8]) -> io::Result<()> {
        let path = self.path(peer)?;
        // Not known of a policy that stores and never loads.
        if self.owners().get(peer) != Some(layout) {
            self.load(peer, layout)?;
        }
        replace(&self.disk, &path, TEMPORARY, &[value, &trailer(value, layout)])
    }
}

/// One byte more than there may be, and so too many where there are more.
fn read(file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_CURSOR_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What follows the value.
fn trailer(value: &[u8], owner: &CursorLayout) -> Vec<u8> {
    let name = owner.policy.as_bytes();
    let mut trailer = Vec::with_capacity(name.len() + TRAILER);
    trailer.extend_from_slice(name);
    trailer.extend_from_slice(&owner.schema.to_le_bytes());
    trailer.extend_from_slice(&(name.len() as u32).to_le_bytes());
    trailer.extend_from_slice(&(value.len() as u64).to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(value), &trailer);
    trailer.extend_from_slice(&checksum.to_le_bytes());
    trailer.extend_from_slice(MAGIC);
    trailer
}

/// The length of the value in a file and whose it is, or why there is none.
fn check(bytes: &[u8]) -> Result<(usize, CursorLayout), &'static str> {
    if bytes.len() as u64 > MAX_CURSOR_FILE {
        return Err("is larger than any cursor");
    }
    if bytes.ends_with(MAGIC) {
        return tagged(bytes).ok_or("has changed on disk");
    }
    if let Some((value, found)) = bytes.split_last_chunk::<OLD_TRAILER>()
        && found.starts_with(OLD_MAGIC)
    {
        let checksum = crc32c::crc32c(value).to_le_bytes();
        let whole = found[4..8] == checksum && found[8..] == (value.len() as u64).to_le_bytes();
        return if whole { Ok((value.len(), stock())) } else { Err("has changed on disk") };
    }
    // MessagePack arrays: fixarray, array 16, array 32.
    if !matches!(bytes.first(), Some(0x90..=0x9f | 0xdc | 0xdd)) {
        return Err("is none of this host's, nor of edgestore-repl's");
    }
    let mut stream = rmp_serde::Deserializer::from_read_ref(bytes);
    stream.set_max_depth(16);
    match serde::Deserialize::deserialize(&mut stream) {
        Ok(IgnoredAny) => Ok((bytes.len(), stock())),
        Err(_) => Err("is cut short"),
    }
}

/// Reads the end that [`trailer`] writes; none when it is not the end of this value.
fn tagged(bytes: &[u8]) -> Option<(usize, CursorLayout)> {
    let (rest, tail) = bytes.split_last_chunk::<TRAILER>()?;
    let number = |at: usize| Some(u32::from_le_bytes(tail.get(at..at + 4)?.try_into().ok()?));
    let (schema, name_len) = (number(0)?, usize::try_from(number(4)?).ok()?);
    let (value, name) = rest.split_at_checked(rest.len().checked_sub(name_len)?)?;
    let owner = CursorLayout { policy: String::from_utf8(name.to_vec()).ok()?, schema };
    let end = bytes.get(value.len()..)?;
    (*end == trailer(value, &owner)).then_some((value.len(), owner))
}

/// Of cursors that do not say: what `edgestore-repl` writes, and so what the default policy reads.
fn stock() -> CursorLayout {
    CursorLayout { policy: "default".to_owned(), schema: 1 }
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

    fn layout(policy: &str, schema: u32) -> CursorLayout {
        CursorLayout { policy: policy.into(), schema }
    }

    /// Field by field the cursor of `edgestore-repl`.
    fn of_repl() -> Vec<u8> {
        let hash = vec![0xab_u8; 32];
        rmp_serde::to_vec(&(hash.clone(), vec![hash], 1_700_000_000_u64, 300_u64, 7_u64)).unwrap()
    }

    #[test]
    fn a_peer_without_a_file_has_no_cursor() {
        let db = tempfile::tempdir().unwrap();
        assert_eq!(open(&db).load("a", &stock()).unwrap(), None);
    }

    #[test]
    fn what_was_stored_last_is_loaded_whatever_it_is() {
        let db = tempfile::tempdir().unwrap();
        let long = vec![7; 100_000];
        for value in [&b""[..], b"x", b"\xc1 is no MessagePack", MAGIC, &long] {
            open(&db).store("a", &stock(), value).unwrap();
            assert_eq!(open(&db).load("a", &stock()).unwrap().as_deref(), Some(value));
        }
        assert_eq!(open(&db).load("b", &stock()).unwrap(), None);
        assert_eq!(files(&db), ["a.cursor"]);
    }

    #[test]
    fn the_stock_loop_and_this_host_read_each_others_files() {
        let db = tempfile::tempdir().unwrap();
        let cursors = open(&db);
        let path = db.path().join("sync/a.cursor");
        fs::write(&path, of_repl()).unwrap();
        assert_eq!(cursors.load("a", &stock()).unwrap(), Some(of_repl()));
        cursors.store("a", &stock(), &of_repl()).unwrap();
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
        let whole = of_repl();
        damaged.extend((1..whole.len()).map(|len| whole[..len].to_vec()));
        let value = b"any bytes of any policy";
        cursors.store("a", &stock(), value).unwrap();
        let whole = fs::read(&path).unwrap();
        damaged.extend((1..whole.len()).map(|len| whole[..len].to_vec()));
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            damaged.push(flipped);
        }
        for bytes in &damaged {
            fs::write(&path, bytes).unwrap();
            assert_eq!(cursors.load("a", &stock()).unwrap(), None, "{bytes:?}");
            assert!(!path.exists());
        }
        assert_eq!(files(&db).len(), damaged.len());
        let first = fs::read(db.path().join("sync/a.cursor.corrupt-2")).unwrap();
        assert_eq!(first, b"garbage");
        cursors.store("a", &stock(), value).unwrap();
        assert_eq!(cursors.load("a", &stock()).unwrap().as_deref(), Some(&value[..]));
    }

    #[test]
    fn a_cut_stock_file_whose_first_value_is_whole_is_still_a_cursor() {
        let db = tempfile::tempdir().unwrap();
        let longer = [of_repl(), vec![1, 0x92]].concat();
        fs::create_dir(db.path().join("sync")).unwrap();
        fs::write(db.path().join("sync/a.cursor"), &longer).unwrap();
        assert_eq!(open(&db).load("a", &stock()).unwrap(), Some(longer));
    }

    #[test]
    fn each_layout_finds_its_own_cursor_again_whoever_came_between() {
        let db = tempfile::tempdir().unwrap();
        let (a, b, c) = (layout("default", 1), layout("mine", 1), layout("mine", 2));
        fs::create_dir(db.path().join("sync")).unwrap();
        fs::write(db.path().join("sync/p.cursor"), of_repl()).unwrap();
        let cursors = open(&db);
        // A cursor that does not say whose it is, is the default policy's.
        assert_eq!(cursors.load("p", &b).unwrap(), None);
        cursors.store("p", &b, b"of b").unwrap();
        assert_eq!(cursors.load("p", &a).unwrap(), Some(of_repl()));
        // Stored without a look at what is there.
        open(&db).store("p", &c, b"of c").unwrap();
        for _ in 0..2 {
            for (layout, value) in [(&a, &of_repl()[..]), (&b, b"of b"), (&c, b"of c")] {
                assert_eq!(open(&db).load("p", layout).unwrap().as_deref(), Some(value));
            }
        }
        assert_eq!(files(&db).len(), 3, "{:?}", files(&db));
        assert!(open(&db).damaged().unwrap().is_empty());
    }

    #[test]
    fn the_cursor_of_an_older_host_is_read() {
        let db = tempfile::tempdir().unwrap();
        fs::create_dir(db.path().join("sync")).unwrap();
        let value = b"any bytes";
        let mut old = value.to_vec();
        old.extend_from_slice(b"EDGC");
        old.extend_from_slice(&crc32c::crc32c(value).to_le_bytes());
        old.extend_from_slice(&(value.len() as u64).to_le_bytes());
        fs::write(db.path().join("sync/a.cursor"), old).unwrap();
        assert_eq!(open(&db).load("a", &stock()).unwrap().as_deref(), Some(&value[..]));
    }

    #[test]
    fn no_name_leaves_the_folder() {
        let db = tempfile::tempdir().unwrap();
        for peer in ["../x", "..", "a/b", ""] {
            let error = open(&db).store(peer, &stock(), b"x").unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(open(&db).load(peer, &stock()).is_err());
        }
        assert!(files(&db).is_empty());
    }

    #[test]
    fn what_a_crash_left_is_cleared() {
        let db = tempfile::tempdir().unwrap();
        open(&db).store("a", &stock(), b"x").unwrap();
        fs::write(db.path().join("sync/.cursor-AbC123"), b"half").unwrap();
        open(&db);
        assert_eq!(files(&db), ["a.cursor"]);
    }
}
