//! The database folder: what is where, whose it is, and that one process alone writes to it.
//!
//! ```text
//! FORMAT          which layout this is
//! LOCK            locked while an engine is open
//! records/        the record store (fjall)
//! segments/       {hash}.dat, immutable
//! staging/        downloads and segments in the making; cleared at every start
//! quarantine/     what is damaged, and what nobody knows: kept for whoever wants to look at it
//! REPAIR          while one runs: what it has lost so far
//! LOSSES          what a start found to be lost, and no repair has reported
//! sync/, policies/, admin.sock   of the host
//! ```

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::acknowledged::{Acknowledged, AcknowledgedFile};
use super::clean_stop::{Mark, Progress};
use super::inspect::{Inspected, inspect};
use super::store::{Position, Writer};
use super::{EngineError, StagingFile, view};
use crate::Hash;
use crate::disk::{Disk, check_owner, close, is_no_file, is_same_file, open_only_file, temporary};

const FORMAT: &str = "edgestore-host 2\n";

/// Files of sentences, a line each.
const REPAIR: &str = "REPAIR";
const LOSSES: &str = "LOSSES";

/// What an open database takes of files and of space in its first moments, and more.
const TRIAL_FILES: usize = 64;
const TRIAL_BYTES: usize = 8 << 20;

/// What an engine is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing on disk changes.
    Read,
    Write,
    /// To write to one that there is.
    Existing,
    /// As [`Access::Existing`], also where a repair was stopped.
    Resume,
    /// As to write, of a database that has lost some of what it knew.
    Repair,
}

/// An open database folder. The lock goes when this is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    access: Access,
    /// Where a reader has its view of the record store.
    view: Option<TempDir>,
    /// How far the writer was when it stopped.
    stopped: Mutex<Option<Progress>>,
    /// None where there is no file to lock, and so nobody else.
    lock: Option<File>,
    /// What a stop has found to be wrong, once it is through.
    wrong: Arc<OnceLock<String>>,
}

impl Drop for Folder {
    /// The record store has been closed: what is on disk now is what it holds.
    fn drop(&mut self) {
        let stopped = self.stopped.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let Some(progress) = stopped else { return };
        match Mark::write(&self.records(), progress) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.found_wrong(format!("{error}: run `edgestore-host verify`"));
            }
            Err(error) => tracing::warn!(
                %error, "the stop leaves no mark: the next start checks as after a crash"
            ),
        }
    }
}

impl Folder {
    /// Opens the folder, with the record store in it, and clears it of what a crash left. Makes both
    /// where they are missing, for [`Access::Write`] alone. `open` opens or makes a record store; `synced`
    /// says whether its writes are synced one by one, and `check` what is missing of what was
    /// acknowledged, as a clause: it is asked before the end of a journal is cut.
    pub(super) fn open<S>(
        path: &Path,
        disk: Arc<dyn Disk>,
        access: Access,
        synced: bool,
        open: impl Fn(&Path) -> Result<S, EngineError>,
        check: impl Fn(&S, &Inspected) -> Result<Option<String>, EngineError>,
    ) -> Result<(Self, S, Inspected), EngineError> {
        if path.is_file() {
            let why = "it is a file. Give the host a folder".to_owned();
            return Err(EngineError::Foreign { path: path.to_owned(), why });
        }
        let reads = access == Access::Read;
        let none = || {
            let why = "there is none. See that the path is right".to_owned();
            let why = lost_format(path).unwrap_or(why);
            Err(EngineError::Foreign { path: path.to_owned(), why })
        };
        if access == Access::Write {
            disk.make_dir(path).map_err(EngineError::io("make", path))?;
        }
        if !reads && path.exists() {
            check_owner(path).map_err(EngineError::io("use", path))?;
        }
        if access != Access::Write && !is_database(path, &*disk)? {
            return none();
        }
        // From here on all is in this folder, whatever comes to have its name.
        let held = disk.hold(path).map_err(EngineError::io("open", path))?;
        let disk = held.unwrap_or(disk);
        let known = reads || is_database(path, &*disk)?;
        if !reads {
            close_to_others(path, &*disk, known)?;
        }
        let lock = lock(path, &*disk, reads)?;
        let (view, stopped) = (None, Mutex::default());
        let held = Arc::clone(&disk);
        let wrong = Arc::default();
        let mut folder = Self { path: path.to_owned(), disk, access, view, stopped, lock, wrong };
        let repairs = matches!(access, Access::Resume | Access::Repair);
        if !repairs && folder.unfinished_repair()?.is_some() {
            return Err(folder.damaged(&["a repair of it was stopped before its end".to_owned()]));
        }
        if let Some(dir) = folder.displaced().first() {
            let name = dir.file_name().unwrap_or_default().display();
            return Err(folder.damaged(&[format!("{name} is no folder")]));
        }
        // Who reads an error knows the folder by its path.
        let real = held.real(path);
        let by_path = |error: EngineError| error.renamed(&real, path);
        let open = |records: &Path| open(&held.real(records)).map_err(by_path);
        let records = folder.records();
        if known {
            if !records.is_dir() {
                return Err(folder.damaged(&["the folder records is missing".to_owned()]));
            }
        } else if access == Access::Write {
            folder.make(&records, open)?;
        } else {
            // The folder was moved, and another one has its name.
            return none();
        }
        let inspected = inspect(&held.real(&records), synced)
            .map_err(by_path)?
            .map_err(|found| folder.damaged(&found.what))?;
        if reads {
            let store = open(&folder.make_view(&inspected)?)?;
            return Ok((folder, store, inspected));
        }
        // A backup may have left out what is empty.
        for dir in [folder.segments(), folder.staging()] {
            folder.disk.make_dir(&dir).map_err(EngineError::io("make", &dir))?;
        }
        // Of `FORMAT`: this start has made it, or one that ended before it came to this.
        folder.disk.sync_dir(path).map_err(EngineError::io("sync", path))?;
        folder.clear_staging()?;
        if let Some((journal, valid, end)) = &inspected.torn {
            if access != Access::Repair {
                let seen = open(&folder.make_view(&inspected)?)?;
                let missing = check(&seen, &inspected)?;
                drop(seen);
                folder.view = None;
                missing.map_or(Ok(()), |what| Err(folder.damaged(&[what])))?;
            }
            tracing::info!(
                bytes = end - valid,
                "the last write was cut short by a crash, and never acknowledged: it is left out"
            );
            let cut = || -> io::Result<()> {
                let file = File::options().write(true).open(journal)?;
                file.set_len(*valid)?;
                file.sync_all()
            };
            cut().map_err(EngineError::io("cut", journal))?;
        }
        let store = open(&records)?;
        Ok((folder, store, inspected))
    }

    /// Opens the folder of a database alone, without a look at its record store.
    pub(super) fn open_damaged(path: &Path, disk: Arc<dyn Disk>) -> Result<Self, EngineError> {
        check_owner(path).map_err(EngineError::io("use", path))?;
        let held = disk.hold(path).map_err(EngineError::io("open", path))?;
        let disk = held.unwrap_or(disk);
        close_to_others(path, &*disk, true)?;
        let lock = lock(path, &*disk, false)?;
        let (path, view, stopped) = (path.to_owned(), None, Mutex::default());
        let wrong = Arc::default();
        Ok(Self { path, disk, access: Access::Repair, view, stopped, lock, wrong })
    }

    fn make_view(&mut self, inspected: &Inspected) -> Result<PathBuf, EngineError> {
        let make = |view: &mut Option<TempDir>| -> io::Result<PathBuf> {
            let dir = tempfile::Builder::new().prefix("edgestore-read-").tempdir()?;
            let to = dir.path().join("records");
            view::make(&self.path.join("records"), inspected, &to)?;
            *view = Some(dir);
            Ok(to)
        };
        let mut view = None;
        let made = make(&mut view).map_err(EngineError::io(
            "make a view in the folder for temporary files (TMPDIR) of",
            &self.records(),
        ))?;
        self.view = view;
        Ok(made)
    }

    /// Says what is wrong and what to do.
    pub(super) fn damaged(&self, what: &[String]) -> EngineError {
        EngineError::Damaged { path: self.path.clone(), what: what.join("; ") }
    }

    /// Whether nothing on disk may change.
    pub(super) fn is_read_only(&self) -> bool {
        self.access == Access::Read
    }

    pub(super) fn records(&self) -> PathBuf {
        self.path.join("records")
    }

    /// The next start may count on this, if the record store can be closed.
    pub(super) fn stopped(&self, progress: Progress) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }

    /// What a stop finds to be wrong comes here, also after this is dropped.
    pub(super) fn wrong(&self) -> Arc<OnceLock<String>> {
        Arc::clone(&self.wrong)
    }

    /// A stop has found the database damaged, or another one.
    pub(super) fn found_wrong(&self, why: String) {
        tracing::error!(error = why, "the stop leaves no mark");
        let _ = self.wrong.set(why);
    }

    /// Whether the last stop left a mark, which may be damaged.
    pub(super) fn stopped_cleanly(&self) -> bool {
        Mark::is_there(&self.disk.real(&self.records()))
    }

    /// Whether the file that is locked is still the one that others lock.
    pub(super) fn is_locked(&self) -> bool {
        let lock = self.disk.real(&self.path.join("LOCK"));
        self.lock.as_ref().is_none_or(|open| is_same_file(open, &lock).unwrap_or(true))
    }

    /// Begins to write down what is acknowledged, from what the record store holds.
    pub(super) fn note_acknowledged(
        &self,
        writer: &Writer,
        synced: bool,
    ) -> Result<AcknowledgedFile, EngineError> {
        let (home, records) = (self.disk.real(&self.path), self.disk.real(&self.records()));
        AcknowledgedFile::open(&home, &records, writer, synced)
            .map_err(EngineError::io("note what was acknowledged in", &self.records()))
    }

    /// What the database has acknowledged of local writes and an older record store doesn't know, as a
    /// sentence.
    pub(super) fn older_records(&self, position: &Position) -> Result<Option<String>, EngineError> {
        let left = match Acknowledged::read(&self.disk.real(&self.path)) {
            Err(error) if is_no_file(&error) => None,
            left => left.map_err(EngineError::io("read what was acknowledged in", &self.path))?,
        };
        let lsn = left.map_or(0, |left| left.lsn);
        Ok((lsn > position.lsn).then(|| {
            format!(
                "the record store is older than this database: {lsn} local writes were acknowledged, and \
                 it has {}. What sound segments hold of the others is merged; the rest is lost",
                position.lsn
            )
        }))
    }

    /// Before the first write.
    pub(super) fn forget_clean_stop(&self) -> Result<(), EngineError> {
        let records = self.records();
        Mark::remove(&records)
            .map_err(EngineError::io("remove the mark of the last stop in", &records))
    }

    /// What a repair that was stopped had lost by then, a sentence each; none where none was.
    pub(super) fn unfinished_repair(&self) -> Result<Option<Vec<String>>, EngineError> {
        self.note(REPAIR)
    }

    /// What starts found to be lost, a sentence each, and no repair has reported.
    pub(super) fn losses(&self) -> Result<Vec<String>, EngineError> {
        Ok(self.note(LOSSES)?.unwrap_or_default())
    }

    fn note(&self, name: &str) -> Result<Option<Vec<String>>, EngineError> {
        let path = self.path.join(name);
        let mut bytes = Vec::new();
        let read = self.disk.open(&path).and_then(|mut file| file.read_to_end(&mut bytes));
        match read {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && fs::symlink_metadata(self.disk.real(&path)).is_err() =>
            {
                return Ok(None);
            }
            // Somebody has put another thing into its place.
            Err(error) if is_no_file(&error) => {}
            read => drop(read.map_err(EngineError::io("read", &path))?),
        }
        let text = String::from_utf8(bytes).unwrap_or_default();
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        if lines.is_empty() {
            lines.push(format!(
                "what {name} said can't be read any more: some local writes may be missing"
            ));
        }
        Ok(Some(lines))
    }

    /// Makes durable what a repair has lost, and that it runs.
    pub(super) fn note_repair(&self, lost: &[String]) -> Result<(), EngineError> {
        self.write_note(REPAIR, lost)
    }

    /// Makes durable what is lost, until a repair reports it.
    pub(super) fn note_losses(&self, lost: &[String]) -> Result<(), EngineError> {
        self.write_note(LOSSES, lost)
    }

    fn write_note(&self, name: &str, lost: &[String]) -> Result<(), EngineError> {
        let path = self.path.join(name);
        let write = || -> io::Result<()> {
            self.disk.make_dir(&self.staging())?;
            let (mut file, name) = temporary(&self.disk, &self.staging(), PREFIX, SUFFIX)?;
            file.write_all(lost.join("\n").as_bytes())?;
            file.sync()?;
            self.clear_place_of_file(&path)?;
            name.persist(&path)?;
            self.disk.sync_dir(&self.path)
        };
        write().map_err(EngineError::io("write", &path))
    }

    /// Moves a folder that has the name of a file to `quarantine/`.
    fn clear_place_of_file(&self, path: &Path) -> io::Result<()> {
        if !self.disk.real(path).is_dir() {
            return Ok(());
        }
        let dir = self.quarantine();
        self.disk.make_dir(&dir)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.disk.rename(path, &free_name(&dir, &name))
    }

    /// The repair has ended, and has reported all that is lost.
    pub(super) fn forget_losses(&self) -> Result<(), EngineError> {
        for name in [LOSSES, REPAIR] {
            let path = self.path.join(name);
            self.clear_place_of_file(&path).map_err(EngineError::io("move", &path))?;
            match self.disk.remove(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(EngineError::io("remove", &path))?,
            }
        }
        self.disk.sync_dir(&self.path).map_err(EngineError::io("sync", &self.path))
    }

    /// The names of folders in whose place there is something else.
    pub(super) fn displaced(&self) -> Vec<PathBuf> {
        let is_other = |dir: &PathBuf| {
            let real = self.disk.real(dir);
            fs::symlink_metadata(&real).is_ok() && !real.is_dir()
        };
        [self.segments(), self.staging()].into_iter().filter(is_other).collect()
    }

    /// Moves to `quarantine/` what is in the place of a folder. Returns where it is now.
    pub(super) fn clear_places(&self) -> Result<Vec<PathBuf>, EngineError> {
        let (mut moved, dir) = (Vec::new(), self.quarantine());
        for from in self.displaced() {
            let name = from.file_name().unwrap_or_default().to_string_lossy();
            let to = free_name(&dir, &name);
            let rename = || -> io::Result<()> {
                self.disk.make_dir(&dir)?;
                self.disk.rename(&from, &to)?;
                self.disk.sync_dir(&dir)
            };
            rename().map_err(EngineError::io("move to quarantine", &from))?;
            moved.push(to);
        }
        Ok(moved)
    }

    /// Whether files can be made, written and synced, as many and as large as an open database needs.
    pub(super) fn try_out(&self) -> io::Result<()> {
        let dir = self.staging();
        let mut files = Vec::new();
        for _ in 0..TRIAL_FILES {
            files.push(temporary(&self.disk, &dir, PREFIX, SUFFIX)?);
        }
        let (file, _) = &mut files[0];
        let piece = vec![0xA5; 64 << 10];
        for _ in 0..TRIAL_BYTES / piece.len() {
            file.write_all(&piece)?;
        }
        file.sync()
    }

    /// Moves a segment file to `quarantine/`, under a name that is free there.
    pub(super) fn set_aside(&self, hash: &Hash) -> Result<PathBuf, EngineError> {
        let (from, dir) = (self.segment(hash), self.quarantine());
        let set_aside = || -> io::Result<PathBuf> {
            self.disk.make_dir(&dir)?;
            self.disk.sync_dir(&self.path)?;
            let to = free_name(&dir, &format!("{hash}.dat"));
            self.disk.rename(&from, &to)?;
            Ok(to)
        };
        set_aside().map_err(EngineError::io("move to quarantine", &from))
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
        if self.is_read_only() {
            return Err(io::Error::other(EngineError::ReadOnly));
        }
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

    /// What has the name of a segment file. Anything else in the folder is left alone.
    pub(super) fn segment_files(&self) -> Result<SegmentFiles, EngineError> {
        let dir = self.segments();
        let read = || -> io::Result<SegmentFiles> {
            let mut found = SegmentFiles::default();
            let names = match self.disk.list(&dir) {
                // A backup may have left out what is empty.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                names => names?,
            };
            for name in names {
                let Some(hash) = hash_of_name(&name) else { continue };
                if self.is_folder(&hash) {
                    found.folders.push(hash);
                } else {
                    match self.disk.len(&dir.join(name)) {
                        // It was retired this moment.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        len => found.files.push((hash, len?)),
                    }
                }
            }
            Ok(found)
        };
        read().map_err(EngineError::io("read", &dir))
    }

    /// Whether a folder has the name of a segment's file.
    pub(super) fn is_folder(&self, hash: &Hash) -> bool {
        self.disk.real(&self.segment(hash)).is_dir()
    }

    /// Whether something has the name of a segment's file.
    pub(super) fn is_file(&self, hash: &Hash) -> bool {
        self.disk.len(&self.segment(hash)).is_ok()
    }

    /// Whether the file of a segment is what its name says.
    pub(super) fn is_intact(&self, hash: &Hash) -> Result<bool, EngineError> {
        Ok(self.hash_of(hash)? == *hash)
    }

    /// The hash of what is in the file of a segment.
    pub(super) fn hash_of(&self, hash: &Hash) -> Result<Hash, EngineError> {
        let path = self.segment(hash);
        let read = || -> io::Result<Hash> {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(self.disk.open(&path)?)?;
            Ok(Hash::from(hasher.finalize()))
        };
        read().map_err(EngineError::io("read", &path))
    }
}

/// What is in `segments` by the name of a segment.
#[derive(Debug, Default)]
pub(super) struct SegmentFiles {
    /// With their sizes.
    pub(super) files: Vec<(Hash, u64)>,
    /// Folders, which are no segments.
    pub(super) folders: Vec<Hash>,
}

fn hash_of_name(name: &OsStr) -> Option<Hash> {
    name.to_str()?.strip_suffix(".dat")?.parse().ok()
}

/// Nobody but this user needs to read records, or to hold the lock.
fn close_to_others(path: &Path, disk: &dyn Disk, known: bool) -> Result<(), EngineError> {
    let was_open = close(&disk.real(path)).map_err(EngineError::io("close to others", path))?;
    if was_open && known {
        tracing::warn!(
            db = %path.display(),
            "other users could read the database, or lock it; its folders and files are this \
             user's alone now"
        );
    }
    Ok(())
}

/// Several may read at a time.
fn lock(path: &Path, disk: &dyn Disk, reads: bool) -> Result<Option<File>, EngineError> {
    let file = path.join("LOCK");
    let mut options = File::options();
    match reads {
        true => options.read(true),
        false => options.create(true).truncate(false).write(true),
    };
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let lock = match open_only_file(&disk.real(&file), &mut options) {
        Err(error) if reads && error.kind() == io::ErrorKind::NotFound => return Ok(None),
        lock => lock.map_err(EngineError::io("open", &file))?,
    };
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match if reads { lock.try_lock_shared() } else { lock.try_lock() } {
            Ok(()) => return Ok(Some(lock)),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(LOCK_PATIENCE / 20);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(EngineError::Locked { path: path.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(EngineError::io("lock", &file)(error)),
        }
    }
}

/// A process that this one is starting holds all that was open here, the lock of a database that
/// was just closed as well, until it has become its program.
const LOCK_PATIENCE: Duration = Duration::from_millis(200);

/// `name` in `dir`, or with a number where that is taken.
pub(super) fn free_name(dir: &Path, name: &str) -> PathBuf {
    let numbered = (1_u32..).map(|n| dir.join(format!("{name}-{n}")));
    let mut all = std::iter::once(dir.join(name)).chain(numbered);
    all.find(|path| !path.exists()).unwrap_or_else(|| dir.join(name))
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
        Ok(_) if bytes.trim_ascii_end() == FORMAT.trim_end().as_bytes() => return Ok(true),
        Ok(_) => {
            let found = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            return foreign(format!(
                "its FORMAT is {:?}, and this version reads {:?}. Pull everything again into a \
                 new folder; if the file was damaged, write that into it",
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
        if let Some(why) = lost_format(path) {
            return foreign(why);
        }
        let name = name.display();
        return foreign(format!("there is {name} in it. Give the host a folder of its own"));
    }
    Ok(false)
}

/// What to do where all but `FORMAT` says that this is a database.
pub fn lost_format(path: &Path) -> Option<String> {
    let is_segment = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| hash_of_name(&entry.file_name()).is_some())
    };
    let segments = || fs::read_dir(path.join("segments")).into_iter().flatten().any(is_segment);
    let format = path.join("FORMAT");
    let lost = !format.exists() && (path.join("records/version").is_file() || segments());
    lost.then(|| {
        format!(
            "it holds the data of one, and the file FORMAT is missing. Write {:?} into {}",
            FORMAT.trim_end(),
            format.display()
        )
    })
}
