//! Cursors as files, one a peer: `{db}/sync/{peer}.cursor`.
//!
//! A file is what the policy stored, as it is, then the layout's owner and the state of the database
//! (see [`Mark`]), then what shows whether all of that is still as it was, and this peer's: the
//! checksum is that of what stands before it, and then the peer's id. Numbers are little-endian:
//!
//! ```text
//! value | policy name | epoch u64 | next id u64
//!       | schema u32 | name length u32 | value length u64 | CRC-32C u32 | "EDGP"
//! ```
//!
//! A cursor says what was pulled, so it is true only while the database still has that. One whose
//! mark does not hold is not given to the policy, which starts from none: that costs a manifest. So
//! do files without a mark, which older hosts and `edgestore-repl` have written:
//!
//! - Older hosts end the file in `EDGM`, and their checksum leaves out the peer's id.
//! - Still older ones end it in `EDGL`, without epoch and next id.
//! - The oldest ones end it in 16 bytes without an owner: the magic `EDGC`, the CRC-32C of the value
//!   (`u32`) and its length (`u64`).
//! - `edgestore-repl` writes one MessagePack array and nothing else. It reads one value and ignores
//!   what follows, so it can go on from a file of the default policy.
//!
//! When a policy of another layout takes over, the file is renamed to `{peer}.cursor.kept-{id of
//! the layout}`, and comes back when its owner does.
//!
//! A file that fails both tests is no cursor any more. It is renamed to `{peer}.cursor.corrupt-N`
//! for whoever wants to know what happened, and the policy starts from none: that costs a look at
//! the peer's manifest.

mod checkpoint;
#[cfg(any(test, feature = "testing"))]
pub(super) mod fuzz;

use std::collections::HashMap;
use std::fmt::Debug;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use edgestore_engine::disk::{Disk, RealDisk, is_no_file, replace};
use edgestore_engine::{Engine, Hash, Mark};
use edgestore_policy_host::{CursorLayout, CursorStore};
use serde::de::IgnoredAny;

use super::PeerId;

/// A larger file is no cursor. In bytes.
pub const MAX_CURSOR_FILE: u64 = 64 << 20;

const MAGIC: &[u8; 4] = b"EDGP";
/// Bytes of epoch and next id, behind the policy's name.
const MARK: usize = 16;
/// Bytes behind these.
const TRAILER: usize = 24;
/// Of files with a mark that are bound to no peer.
const MARKED_MAGIC: &[u8; 4] = b"EDGM";
/// Of files without a mark.
const UNMARKED_MAGIC: &[u8; 4] = b"EDGL";
const OLD_MAGIC: &[u8; 4] = b"EDGC";
const OLD_TRAILER: usize = 16;
const KEPT: &str = "kept-";
const TEMPORARY: &str = ".cursor-";

/// The cursor files of one database.
#[derive(Debug)]
pub struct CursorFiles {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    /// What the cursors are bound to.
    data: Arc<dyn DataState>,
    /// Whose the current file of a peer is, where that is known.
    owners: Mutex<HashMap<String, CursorLayout>>,
    /// Peers whose policy starts from none, until it stores a cursor; and whether it has started.
    forgotten: Mutex<HashMap<String, bool>>,
}

/// The data that a cursor speaks of.
pub trait DataState: Debug + Send + Sync {
    /// The present state.
    fn mark(&self) -> io::Result<Mark>;

    /// Whether all that was there at the mark still is. Without a mark nobody knows.
    fn holds(&self, mark: Option<&Mark>) -> bool;
}

impl DataState for Engine {
    fn mark(&self) -> io::Result<Mark> {
        Engine::mark(self).map_err(io::Error::other)
    }

    fn holds(&self, mark: Option<&Mark>) -> bool {
        mark.is_some_and(|mark| Engine::holds(self, mark))
    }
}

/// No data, which nothing is lost of.
#[derive(Debug)]
struct NoData;

impl DataState for NoData {
    fn mark(&self) -> io::Result<Mark> {
        Ok(Mark { epoch: 0, next_id: 0 })
    }

    fn holds(&self, _mark: Option<&Mark>) -> bool {
        true
    }
}

/// What a whole cursor file holds.
struct CursorFile {
    /// Length of the value.
    len: usize,
    owner: CursorLayout,
    /// `None` where an older host or `edgestore-repl` wrote it.
    mark: Option<Mark>,
}

impl CursorFiles {
    /// Uses `{db}/sync`, which it makes if it is missing, and clears it of what a crash left. These
    /// cursors are bound to no data, and so always given to the policy.
    ///
    /// # Errors
    /// When the folder can't be made or read.
    pub fn open(db: &Path) -> io::Result<Self> {
        Self::open_on(db, RealDisk::shared(), Arc::new(NoData))
    }

    /// [`CursorFiles::open`] on another disk, bound to the data of an engine.
    pub fn open_on(db: &Path, disk: Arc<dyn Disk>, data: Arc<dyn DataState>) -> io::Result<Self> {
        let dir = db.join("sync");
        disk.make_dir(&dir).map_err(|error| match error.kind() {
            kind @ (io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory) => {
                let what = "it is no folder; `edgestore-host verify --repair` keeps it aside";
                io::Error::new(kind, what)
            }
            _ => error,
        })?;
        disk.sync_dir(db)?;
        for name in disk.list(&dir)? {
            if name.to_string_lossy().starts_with(TEMPORARY) {
                disk.remove(&dir.join(name))?;
            }
        }
        let (owners, forgotten) = (Mutex::default(), Mutex::default());
        Ok(Self { dir, disk, data, owners, forgotten })
    }

    /// Has the policy start from none with this peer, until it stores a cursor: what it remembers
    /// is not true, or somebody wants it to try again what it has set aside.
    pub fn forget(&self, peer: &str) {
        self.forgotten().insert(peer.to_owned(), false);
    }

    /// Whether the policy starts from none because of [`CursorFiles::forget`].
    pub fn is_forgotten(&self, peer: &str) -> bool {
        self.forgotten().contains_key(peer)
    }

    fn forgotten(&self) -> std::sync::MutexGuard<'_, HashMap<String, bool>> {
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of a peer's cursor file, if it speaks of the present state of the data.
    pub fn value_of<'a>(peer: &str, bytes: &'a [u8], data: &dyn DataState) -> Option<&'a [u8]> {
        let CursorFile { len, mark, .. } = check(peer, bytes).ok()?;
        data.holds(mark.as_ref()).then(|| &bytes[..len])
    }

    /// Uses `{db}/sync` as it is, and changes nothing, as beside a running host. Damaged cursors are
    /// set aside all the same by [`CursorStore::load`].
    pub fn look(db: &Path) -> Self {
        let (owners, forgotten) = (Mutex::default(), Mutex::default());
        let (disk, data) = (RealDisk::shared(), Arc::new(NoData));
        Self { dir: db.join("sync"), disk, data, owners, forgotten }
    }

    /// The files that are no cursors any more, with what is wrong.
    ///
    /// # Errors
    /// When one can't be read.
    pub fn damaged(&self) -> io::Result<Vec<(PathBuf, &'static str)>> {
        let mut damaged = Vec::new();
        let names = match self.disk.list(&self.dir) {
            Err(error) if is_no_file(&error) => {
                // Else no host has run yet.
                let is_other = std::fs::symlink_metadata(&self.dir).is_ok();
                return Ok(is_other
                    .then(|| (self.dir.clone(), "is no folder"))
                    .into_iter()
                    .collect());
            }
            names => names?,
        };
        for name in names {
            let path = self.dir.join(name);
            let extension = path.extension().unwrap_or_default().to_string_lossy();
            if extension != "cursor" && !extension.starts_with(KEPT) {
                continue;
            }
            let checked = match self.disk.open(&path) {
                Err(error) if is_no_file(&error) => Err("is no file"),
                file => check(peer_of(&path), &read(file?)?),
            };
            if let Err(why) = checked {
                damaged.push((path, why));
            }
        }
        Ok(damaged)
    }

    /// Sets aside what [`CursorFiles::damaged`] finds, as the next tick would: each file, what was
    /// wrong with it, and where it is now.
    ///
    /// # Errors
    /// When one can't be read or renamed.
    pub fn set_aside_damaged(&self) -> io::Result<Vec<(PathBuf, &'static str, PathBuf)>> {
        let mut done = Vec::new();
        for (path, why) in self.damaged()? {
            let aside = self.set_aside(&path, why)?;
            done.push((path, why, aside));
        }
        let parents = done.iter().filter_map(|(path, ..)| path.parent()).take(1);
        for dir in parents {
            self.disk.sync_dir(dir)?;
        }
        Ok(done)
    }

    fn path(&self, peer: &str) -> io::Result<PathBuf> {
        let id: PeerId =
            peer.parse().map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        Ok(self.dir.join(format!("{id}.cursor")))
    }

    fn set_aside(&self, path: &Path, why: &str) -> io::Result<PathBuf> {
        let aside = |n: u32| PathBuf::from(format!("{}.corrupt-{n}", path.display()));
        let free = (1..).map(aside).find(|aside| !aside.exists());
        let aside = free.ok_or_else(|| io::Error::other("too many corrupt cursors"))?;
        self.disk.rename(path, &aside)?;
        tracing::warn!(
            file = %path.display(),
            aside = %aside.display(),
            "the cursor {why}; it is kept aside, and the policy starts from an empty one"
        );
        Ok(aside)
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

    /// The value in a file and what else it says; none where there is none, or no more.
    fn open_cursor(&self, path: &Path) -> io::Result<Option<(Vec<u8>, CursorFile)>> {
        let file = match self.disk.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if is_no_file(&error) => {
                self.set_aside(path, "is no file")?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut bytes = read(file)?;
        match check(peer_of(path), &bytes) {
            Ok(found) => {
                bytes.truncate(found.len);
                Ok(Some((bytes, found)))
            }
            Err(why) => {
                self.set_aside(path, why)?;
                Ok(None)
            }
        }
    }

    /// Makes the cursor of `layout` the peer's current one, and returns it. Each step is one
    /// rename, and doing them again after a crash does no harm.
    fn take_over(
        &self,
        path: &Path,
        layout: &CursorLayout,
    ) -> io::Result<Option<(Vec<u8>, CursorFile)>> {
        match self.open_cursor(path)? {
            Some((value, found)) if found.owner == *layout => return Ok(Some((value, found))),
            Some((_, CursorFile { owner, .. })) => {
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
        // Somebody may have taken it away.
        self.disk.make_dir(&self.dir)?;
        let kept = self.kept(path, layout);
        let found = self.open_cursor(&kept)?.filter(|(_, found)| found.owner == *layout);
        if found.is_some() {
            self.disk.rename(&kept, path)?;
        }
        self.disk.sync_dir(&self.dir)?;
        Ok(found)
    }
}

impl CursorStore for CursorFiles {
    fn load(&self, peer: &str, layout: &CursorLayout) -> io::Result<Option<Vec<u8>>> {
        let found = self.take_over(&self.path(peer)?, layout)?;
        self.owners().insert(peer.to_owned(), layout.clone());
        if let Some(started) = self.forgotten().get_mut(peer) {
            *started = true;
            return Ok(None);
        }
        let Some((value, CursorFile { mark, .. })) = found else { return Ok(None) };
        if self.data.holds(mark.as_ref()) {
            return Ok(Some(value));
        }
        tracing::warn!(
            peer,
            "the cursor speaks of another state of the database, of which segments may be missing \
             now; the policy starts from an empty cursor and compares the peer's manifest"
        );
        self.forgotten().insert(peer.to_owned(), true);
        Ok(None)
    }

    fn store(&self, peer: &str, layout: &CursorLayout, value: &[u8]) -> io::Result<()> {
        let path = self.path(peer)?;
        // Not known of a policy that stores and never loads.
        if self.owners().get(peer) != Some(layout) {
            self.load(peer, layout)?;
        }
        let trailer = trailer(peer, value, layout, &self.data.mark()?);
        replace(&self.disk, &path, TEMPORARY, &[value, &trailer])?;
        // A tick that began before does not know that it should have started from none.
        let mut forgotten = self.forgotten();
        if forgotten.get(peer) == Some(&true) {
            forgotten.remove(peer);
        }
        Ok(())
    }
}

/// One byte more than there may be, and so too many where there are more.
fn read(file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_CURSOR_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The peer of a file in the folder.
fn peer_of(path: &Path) -> &str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.rsplit_once(".cursor").map_or(name, |(peer, _)| peer)
}

/// What follows the value.
fn trailer(peer: &str, value: &[u8], owner: &CursorLayout, mark: &Mark) -> Vec<u8> {
    let mark = [mark.epoch.to_le_bytes(), mark.next_id.to_le_bytes()].concat();
    sealed(peer, value, owner, &mark, MAGIC)
}

/// The end of a file, with or without a mark, bound to a peer or to the empty name.
fn sealed(peer: &str, value: &[u8], owner: &CursorLayout, mark: &[u8], magic: &[u8]) -> Vec<u8> {
    let name = owner.policy.as_bytes();
    let mut trailer = Vec::with_capacity(name.len() + MARK + TRAILER);
    trailer.extend_from_slice(name);
    trailer.extend_from_slice(mark);
    trailer.extend_from_slice(&owner.schema.to_le_bytes());
    trailer.extend_from_slice(&(name.len() as u32).to_le_bytes());
    trailer.extend_from_slice(&(value.len() as u64).to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(value), &trailer);
    let checksum = crc32c::crc32c_append(checksum, peer.as_bytes());
    trailer.extend_from_slice(&checksum.to_le_bytes());
    trailer.extend_from_slice(magic);
    trailer
}

/// What a file of a peer holds, or why it holds no cursor of that one.
fn check(peer: &str, bytes: &[u8]) -> Result<CursorFile, &'static str> {
    if bytes.len() as u64 > MAX_CURSOR_FILE {
        return Err("is larger than any cursor");
    }
    if bytes.ends_with(MAGIC) {
        let changed = "has changed on disk, or is that of another peer";
        return unsealed(peer, bytes, MARK, MAGIC).ok_or(changed);
    }
    for (magic, mark) in [(MARKED_MAGIC, MARK), (UNMARKED_MAGIC, 0)] {
        if bytes.ends_with(magic) {
            return unsealed("", bytes, mark, magic).ok_or("has changed on disk");
        }
    }
    let stock = |len| CursorFile { len, owner: stock(), mark: None };
    if let Some((value, found)) = bytes.split_last_chunk::<OLD_TRAILER>()
        && found.starts_with(OLD_MAGIC)
    {
        let checksum = crc32c::crc32c(value).to_le_bytes();
        let whole = found[4..8] == checksum && found[8..] == (value.len() as u64).to_le_bytes();
        return if whole { Ok(stock(value.len())) } else { Err("has changed on disk") };
    }
    // MessagePack arrays: fixarray, array 16, array 32.
    if !matches!(bytes.first(), Some(0x90..=0x9f | 0xdc | 0xdd)) {
        return Err("is none of this host's, nor of edgestore-repl's");
    }
    let mut rest = bytes;
    let mut stream = rmp_serde::Deserializer::new(&mut rest);
    stream.set_max_depth(16);
    match serde::Deserialize::deserialize(&mut stream) {
        Ok(IgnoredAny) if rest.is_empty() => Ok(stock(bytes.len())),
        // Such as the end that shows whether it is whole, damaged itself.
        Ok(IgnoredAny) => Err("has changed on disk"),
        Err(_) => Err("is cut short"),
    }
}

/// Reads the end that [`sealed`] writes; none when it is not the end of this value.
fn unsealed(peer: &str, bytes: &[u8], mark_len: usize, magic: &[u8]) -> Option<CursorFile> {
    let (rest, tail) = bytes.split_last_chunk::<TRAILER>()?;
    let number = |at: usize| Some(u32::from_le_bytes(tail.get(at..at + 4)?.try_into().ok()?));
    let (schema, name_len) = (number(0)?, usize::try_from(number(4)?).ok()?);
    let (rest, mark) = rest.split_at_checked(rest.len().checked_sub(mark_len)?)?;
    let (value, name) = rest.split_at_checked(rest.len().checked_sub(name_len)?)?;
    let owner = CursorLayout { policy: String::from_utf8(name.to_vec()).ok()?, schema };
    let end = bytes.get(value.len()..)?;
    if *end != sealed(peer, value, &owner, mark, magic) {
        return None;
    }
    let mark = mark.split_first_chunk::<8>().and_then(|(epoch, next_id)| {
        let next_id = u64::from_le_bytes(next_id.try_into().ok()?);
        Some(Mark { epoch: u64::from_le_bytes(*epoch), next_id })
    });
    Some(CursorFile { len: value.len(), owner, mark })
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
        damaged.push([whole, vec![1, 0x92]].concat());
        let value = b"any bytes of any policy";
        // One that begins as a file of the stock loop does, and one that does not.
        for value in [&of_repl()[..], value] {
            cursors.store("a", &stock(), value).unwrap();
            let whole = fs::read(&path).unwrap();
            let cut = (1..whole.len()).map(|len| whole[..len].to_vec());
            damaged.extend(cut.filter(|cut| *cut != of_repl()));
            for at in 0..whole.len() {
                let mut flipped = whole.clone();
                flipped[at] ^= 1;
                damaged.push(flipped);
            }
        }
        for bytes in &damaged {
            fs::write(&path, bytes).unwrap();
            assert_eq!(cursors.load("a", &stock()).unwrap(), None, "{bytes:?}");
            assert!(!path.exists() && cursors.damaged().unwrap().is_empty());
        }
        assert_eq!(files(&db).len(), damaged.len());
        let first = fs::read(db.path().join("sync/a.cursor.corrupt-2")).unwrap();
        assert_eq!(first, b"garbage");
        cursors.store("a", &stock(), value).unwrap();
        assert_eq!(cursors.load("a", &stock()).unwrap().as_deref(), Some(&value[..]));
    }

    #[test]
    fn a_repair_sets_aside_what_a_tick_would() {
        let db = tempfile::tempdir().unwrap();
        let cursors = open(&db);
        for (peer, layout) in [("a", stock()), ("b", layout("mine", 1)), ("b", stock())] {
            cursors.store(peer, &layout, b"value").unwrap();
        }
        let kept = files(&db).into_iter().find(|name| name.contains(KEPT)).unwrap();
        for name in ["a.cursor", &kept] {
            fs::write(db.path().join("sync").join(name), b"garbage").unwrap();
        }
        let done = CursorFiles::look(db.path()).set_aside_damaged().unwrap();
        assert_eq!(done.len(), 2);
        let mut expected =
            ["a.cursor.corrupt-1".to_owned(), "b.cursor".to_owned(), kept + ".corrupt-1"];
        expected.sort();
        assert_eq!(files(&db), expected);
        assert!(cursors.damaged().unwrap().is_empty());
        assert_eq!(open(&db).load("a", &stock()).unwrap(), None);
        assert_eq!(open(&db).load("b", &stock()).unwrap().as_deref(), Some(&b"value"[..]));
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

    /// Data with a state that a test sets.
    #[derive(Debug, Default)]
    struct Data(std::sync::atomic::AtomicU64);

    impl DataState for Data {
        fn mark(&self) -> io::Result<Mark> {
            Ok(Mark { epoch: self.0.load(std::sync::atomic::Ordering::Relaxed), next_id: 3 })
        }

        fn holds(&self, mark: Option<&Mark>) -> bool {
            mark == self.mark().ok().as_ref()
        }
    }

    #[test]
    fn a_cursor_of_another_state_of_the_data_is_not_given_to_the_policy() {
        let db = tempfile::tempdir().unwrap();
        let data = Arc::new(Data::default());
        let open =
            || CursorFiles::open_on(db.path(), RealDisk::shared(), Arc::clone(&data) as _).unwrap();
        let cursors = open();
        cursors.store("a", &stock(), b"pulled").unwrap();
        assert_eq!(open().load("a", &stock()).unwrap().as_deref(), Some(&b"pulled"[..]));
        data.0.store(1, std::sync::atomic::Ordering::Relaxed);
        for cursors in [&cursors, &open()] {
            assert_eq!(cursors.load("a", &stock()).unwrap(), None);
        }
        cursors.store("a", &stock(), b"again").unwrap();
        assert_eq!(cursors.load("a", &stock()).unwrap().as_deref(), Some(&b"again"[..]));
        // Of older hosts and the stock loop: nobody knows of which state they speak.
        let path = db.path().join("sync/a.cursor");
        for bytes in [of_repl(), unmarked(b"old", &stock())] {
            assert!(check("a", &bytes).is_ok());
            fs::write(&path, bytes).unwrap();
            assert_eq!(open().load("a", &stock()).unwrap(), None);
        }
    }

    /// The file of an older host.
    fn unmarked(value: &[u8], owner: &CursorLayout) -> Vec<u8> {
        [value, &sealed("", value, owner, b"", UNMARKED_MAGIC)].concat()
    }

    #[test]
    fn a_forgotten_cursor_is_not_given_to_the_policy_until_it_stores_one() {
        let db = tempfile::tempdir().unwrap();
        let cursors = open(&db);
        cursors.store("a", &stock(), b"x").unwrap();
        cursors.store("b", &stock(), b"y").unwrap();
        cursors.forget("a");
        // Of a tick that had begun before.
        cursors.store("a", &stock(), b"x").unwrap();
        assert_eq!(cursors.load("a", &stock()).unwrap(), None);
        assert_eq!(cursors.load("b", &stock()).unwrap().as_deref(), Some(&b"y"[..]));
        cursors.store("a", &stock(), b"z").unwrap();
        assert_eq!(cursors.load("a", &stock()).unwrap().as_deref(), Some(&b"z"[..]));
    }

    #[test]
    fn cursors_without_a_mark_are_whole_files() {
        let file = unmarked(b"value", &layout("mine", 7));
        let found = check("a", &file).unwrap();
        assert_eq!((found.len, found.owner, found.mark), (5, layout("mine", 7), None));
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
    fn the_cursor_of_another_peer_is_set_aside() {
        let db = tempfile::tempdir().unwrap();
        let cursors = open(&db);
        let path = |name: &str| db.path().join("sync").join(name);
        for (peer, layout) in [("a", stock()), ("a", layout("mine", 1)), ("b", stock())] {
            cursors.store(peer, &layout, b"value").unwrap();
        }
        let kept = files(&db).into_iter().find(|name| name.contains(KEPT)).unwrap();
        fs::rename(path("b.cursor"), path("c.cursor")).unwrap();
        fs::rename(path(&kept), path(&kept.replacen('a', "b", 1))).unwrap();
        let damaged = cursors.damaged().unwrap();
        assert!(damaged.iter().all(|(_, why)| why.contains("another peer")), "{damaged:?}");
        assert_eq!(damaged.len(), 2);
        for peer in ["b", "c"] {
            assert_eq!(open(&db).load(peer, &stock()).unwrap(), None);
        }
        assert!(cursors.damaged().unwrap().is_empty());
        // Of the host before this rule.
        let mark = [NoData.mark().unwrap().epoch, 0].map(u64::to_le_bytes).concat();
        let older = sealed("", b"value", &stock(), &mark, MARKED_MAGIC);
        fs::write(path("d.cursor"), [&b"value"[..], &older].concat()).unwrap();
        assert_eq!(open(&db).load("d", &stock()).unwrap().as_deref(), Some(&b"value"[..]));
    }

    #[test]
    fn what_is_no_file_is_set_aside_and_a_folder_that_is_gone_is_made_again() {
        let db = tempfile::tempdir().unwrap();
        let cursors = open(&db);
        let dir = db.path().join("sync");
        fs::create_dir(dir.join("a.cursor")).unwrap();
        let pipe = dir.join("b.cursor");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        std::os::unix::fs::symlink("/dev/null", dir.join("c.cursor")).unwrap();
        for peer in ["a", "b", "c"] {
            assert_eq!(cursors.load(peer, &stock()).unwrap(), None, "{peer}");
            cursors.store(peer, &stock(), b"value").unwrap();
            assert_eq!(cursors.load(peer, &stock()).unwrap().as_deref(), Some(&b"value"[..]));
        }
        assert_eq!(files(&db).len(), 6, "{:?}", files(&db));

        fs::remove_dir_all(&dir).unwrap();
        cursors.enter("a", &Hash::of(b"policy"), true, &|_| false).unwrap();
        assert_eq!(cursors.load("a", &stock()).unwrap(), None);
        cursors.store("a", &stock(), b"again").unwrap();
        assert_eq!(cursors.load("a", &stock()).unwrap().as_deref(), Some(&b"again"[..]));
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
    fn what_is_no_folder_is_refused_with_the_way_to_fix_it() {
        let db = tempfile::tempdir().unwrap();
        fs::write(db.path().join("sync"), b"a file").unwrap();
        let error = CursorFiles::open(db.path()).unwrap_err().to_string();
        assert!(error.contains("verify --repair"), "{error}");
        CursorFiles::look(db.path()).set_aside_damaged().unwrap();
        open(&db);
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
