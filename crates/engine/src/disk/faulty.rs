//! A disk that fails where it is told to, and knows what a power failure would leave.
//!
//! It works on a real folder, so that everything else of the engine works on it too, and keeps a
//! [`Model`] of what is durable beside it. Operations are counted from 0; a fault is planned for
//! one of them. After a power loss every operation fails and nothing changes any more: the model
//! is as it was, and what is not under this disk (the record store) has been copied at that
//! instant, within the operation that the engine waits for. What the record store does in the
//! background meanwhile changes nothing that is in it: see [`Image::read`].

use std::ffi::OsString;
use std::fmt::{self, Debug};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::model::{Fate, Model};
use super::{Disk, DiskFile, Image, NewFile, RealDisk};

/// Names that are not under this disk, wherever they are: the record store and the lock.
const FOREIGN: [&str; 3] = ["records", "records.new", "LOCK"];

/// Why simulations and tests do not go on without it.
const FOLDER: &str = "the folder of a simulated disk can be used: is there room for it?";

/// What an operation does instead of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// EIO. A sync has lost what it was to write.
    Io,
    /// ENOSPC, if it needs space. A write writes half, and the rest fails.
    Full,
    /// EIO, as all that follow. Operations that only read are not counted for this one.
    PowerLoss,
}

/// A folder of the real disk that fails where it is told to. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    root: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    model: Model,
    operations: u64,
    /// Operations that change something.
    changes: u64,
    plan: Option<(u64, Fault)>,
    happened: bool,
    /// Bytes that may still be written.
    room: Option<u64>,
    /// This write is a short one, and what takes space after it fails.
    short: bool,
    no_links: bool,
    sync_fails: bool,
    /// Syncs of this folder, and of files that were made in it, do nothing and say that they did.
    skips: Option<PathBuf>,
    /// Moves of a folder that is not under this disk, and whether they are durable.
    moves: Vec<(PathBuf, PathBuf, bool)>,
    /// Since power was lost.
    frozen: Option<Vec<(PathBuf, Image)>>,
    told: Option<Told>,
    /// Names that were given to new files.
    names: u64,
}

/// Who is told of a planned power loss.
struct Told(Box<dyn Fn(&str) + Send + Sync>);

impl Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

/// What is done, and in which folder.
type What<'a> = (&'static str, &'a Path);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Changes nothing.
    Look,
    Remove,
    /// Takes space.
    Add,
    /// As well.
    Write,
}

impl FaultyDisk {
    /// A disk whose files are those in `root` now, all durable.
    pub fn new(root: &Path) -> Self {
        let mut model = Model::default();
        scan(root, Path::new(""), &mut model).expect(FOLDER);
        let state = State { model, ..State::default() };
        Self { root: root.to_owned(), state: Arc::new(Mutex::new(state)) }
    }

    /// The disk as the engine takes it.
    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// The disk is full once this much has been written; none for never.
    pub fn set_room(&self, bytes: Option<u64>) {
        self.state().room = bytes;
    }

    /// The `n`-th operation from now on, counted from 0, has this fault.
    pub fn plan(&self, n: u64, fault: Fault) {
        let mut state = self.state();
        let done = if fault == Fault::PowerLoss { state.changes } else { state.operations };
        (state.plan, state.happened) = (Some((done + n, fault)), false);
    }

    /// The planned operation will not come.
    pub fn cancel(&self) {
        self.state().plan = None;
    }

    /// Calls this within the operation at which power is lost as planned, with what the operation
    /// was to do. It must not use this disk.
    pub fn on_power_loss(&self, tell: impl Fn(&str) + Send + Sync + 'static) {
        self.state().told = Some(Told(Box::new(tell)));
    }

    /// Whether nothing can be written any more.
    pub fn lost_power(&self) -> bool {
        self.state().frozen.is_some()
    }

    /// Power is lost now, if it was not before.
    pub fn cut_power(&self) {
        let mut state = self.state();
        if state.frozen.is_some() {
            return;
        }
        state.frozen = Some(self.foreign(&state).expect(FOLDER));
    }

    /// Makes at `to` the folder as a power failure leaves it: the one that was, or one now, while
    /// nothing is written. Seed 0 loses all that is not durable, 1 keeps it, others choose.
    pub fn crash(&self, seed: u64, to: &Path) {
        let state = self.state();
        let foreign = match state.frozen.clone() {
            Some(foreign) => foreign,
            None => self.foreign(&state).expect(FOLDER),
        };
        let mut fate = Fate::new(seed);
        let dirs = state.model.crash(&mut fate, to).expect(FOLDER);
        for (path, image) in &foreign {
            let moved = state.moves.iter().find(|(_, to, _)| to == path);
            let path = match moved {
                Some((from, _, false)) if !fate.flip() => from,
                _ => path,
            };
            if dirs.iter().any(|dir| Some(&**dir) == path.parent()) {
                image.write(&to.join(path)).expect(FOLDER);
            }
        }
    }

    /// What is not under this disk, as it is now.
    fn foreign(&self, state: &State) -> io::Result<Vec<(PathBuf, Image)>> {
        let mut found = Vec::new();
        let mut dirs = vec![PathBuf::new()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(self.root.join(&dir))? {
                let entry = entry?;
                let path = dir.join(entry.file_name());
                if is_foreign(&path) {
                    found.push((path, Image::read(&entry.path())?));
                } else if state.model.has_dir(&path) {
                    dirs.push(path);
                }
            }
        }
        Ok(found)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(FOLDER)
    }

    fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).expect("a path on this disk")
    }

    /// Counts an operation. An error is what it fails with.
    fn begin(&self, kind: Kind, what: What<'_>) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if state.frozen.is_some() {
            return Err(eio());
        }
        let (operation, change) = (state.operations, state.changes);
        state.operations += 1;
        state.changes += u64::from(kind != Kind::Look);
        let adds = matches!(kind, Kind::Add | Kind::Write);
        if adds && std::mem::take(&mut state.short) {
            return Err(full());
        }
        match state.plan {
            Some((n, Fault::PowerLoss)) if n == change && kind != Kind::Look => {
                state.happened = true;
                state.frozen = Some(self.foreign(&state)?);
                if let Some(Told(tell)) = &state.told {
                    let (what, dir) = what;
                    tell(&format!("{what} {}", self.relative(dir).display()));
                }
                Err(eio())
            }
            Some((n, Fault::Io)) if n == operation => {
                state.happened = true;
                Err(eio())
            }
            Some((n, Fault::Full)) if n == operation => {
                state.happened = true;
                state.short = kind == Kind::Write;
                if kind == Kind::Add { Err(full()) } else { Ok(state) }
            }
            _ if adds && state.room == Some(0) => Err(full()),
            _ => Ok(state),
        }
    }

    fn look(&self) -> io::Result<()> {
        self.begin(Kind::Look, ("look at", &self.root)).map(drop)
    }
}

#[cfg(any(test, feature = "testing"))]
impl FaultyDisk {
    /// The next sync of a file fails.
    pub fn plan_sync(&self) {
        let mut state = self.state();
        (state.sync_fails, state.happened) = (true, false);
    }

    /// From now on, syncs of this folder and of files that are made in it do nothing and say that
    /// they did, as if the engine had left them out. The path is relative to the root.
    pub fn skip_syncs(&self, dir: &Path) {
        self.state().skips = Some(dir.to_owned());
    }

    /// From now on it has no hard links, as some file systems.
    pub fn forbid_links(&self) {
        self.state().no_links = true;
    }

    /// Whether the planned operation has come. If not, it never will.
    pub fn happened(&self) -> bool {
        let mut state = self.state();
        state.plan = None;
        state.happened
    }

    /// Flips a bit of a file, as a failing disk does.
    pub fn damage(&self, path: &Path, at: usize) {
        let mut bytes = fs::read(path).expect(FOLDER);
        bytes[at] ^= 1;
        fs::write(path, bytes).expect(FOLDER);
        let mut state = self.state();
        let file = state.model.file(self.relative(path)).expect(FOLDER);
        state.model.damage(file, at);
    }
}

impl Disk for FaultyDisk {
    fn create(&self, dir: &Path, prefix: &str, suffix: &str) -> io::Result<NewFile> {
        let mut state = self.begin(Kind::Add, ("make a file in", dir))?;
        // Names by chance would be another order of names, and so another fate of each.
        let (file, path) = loop {
            state.names += 1;
            let path = dir.join(format!("{prefix}{:06}{suffix}", state.names));
            let file = File::options().read(true).write(true).create_new(true).open(&path);
            match file {
                Ok(file) => break (file, path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        };
        let id = state.model.create(self.relative(&path));
        let skips = state.skips.as_deref() == Some(self.relative(dir));
        let dir = dir.to_owned();
        Ok((Box::new(FaultyFile { file, dir, id: Some(id), skips, disk: self.clone() }), path))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let dir = parent(path).to_owned();
        let state = self.begin(Kind::Look, ("open a file of", &dir))?;
        let id = state.model.file(self.relative(path));
        let file = File::open(path)?;
        Ok(Box::new(FaultyFile { file, dir, id, skips: false, disk: self.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.begin(Kind::Add, ("move a file to", parent(to)))?;
        RealDisk.rename(from, to)?;
        let (from, to) = (self.relative(from), self.relative(to));
        if is_foreign(from) {
            state.moves.push((from.to_owned(), to.to_owned(), false));
        } else {
            state.model.rename(from, to);
        }
        Ok(())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.begin(Kind::Add, ("link a file to", parent(to)))?;
        if state.no_links {
            return Err(io::ErrorKind::Unsupported.into());
        }
        RealDisk.hard_link(from, to)?;
        state.model.link(self.relative(from), self.relative(to));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.begin(Kind::Remove, ("remove a file of", parent(path)))?;
        RealDisk.remove(path)?;
        state.model.remove(self.relative(path));
        Ok(())
    }

    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        let missing: Vec<_> = dir.ancestors().take_while(|dir| !dir.exists()).collect();
        if missing.is_empty() {
            self.look()?;
        }
        for dir in missing.into_iter().rev() {
            let mut state = self.begin(Kind::Add, ("make the folder", dir))?;
            fs::create_dir(dir)?;
            state.model.make_dir(self.relative(dir));
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.look()?;
        let mut names = RealDisk.list(dir)?;
        names.sort_unstable();
        Ok(names)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        self.look()?;
        RealDisk.len(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // What is outside is none of a test's business.
        let Ok(relative) = dir.strip_prefix(&self.root) else { return Ok(()) };
        let mut state = self.begin(Kind::Add, ("sync the names in", dir))?;
        let dir = relative;
        if state.skips.as_deref() == Some(dir) {
            return Ok(());
        }
        state.model.sync_dir(dir);
        for (_, to, durable) in &mut state.moves {
            *durable |= to.parent() == Some(dir);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct FaultyFile {
    file: File,
    /// It was in this folder when it was opened.
    dir: PathBuf,
    /// In the model.
    id: Option<usize>,
    /// Its syncs do nothing.
    skips: bool,
    disk: FaultyDisk,
}

impl DiskFile for FaultyFile {
    fn sync(&self) -> io::Result<()> {
        let (result, mut state) = match self.disk.begin(Kind::Add, ("sync a file of", &self.dir)) {
            Ok(mut state) if state.sync_fails => {
                (state.sync_fails, state.happened) = (false, true);
                (Err(eio()), state)
            }
            Ok(state) => (Ok(()), state),
            Err(error) => (Err(error), self.disk.state()),
        };
        if let Some(id) = self.id
            && state.frozen.is_none()
        {
            match result {
                Ok(()) if self.skips => {}
                Ok(()) => state.model.sync(id),
                Err(_) => state.model.sync_failed(id),
            }
        }
        result
    }
}

impl Read for FaultyFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.disk.look()?;
        self.file.read(buf)
    }
}

impl Write for FaultyFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.begin(Kind::Write, ("write to a file of", &self.dir))?;
        let mut n = if state.short { buf.len().div_ceil(2) } else { buf.len() };
        if let Some(room) = &mut state.room {
            n = n.min(*room as usize);
            *room -= n as u64;
        }
        let at = self.file.stream_position()?;
        self.file.write_all(&buf[..n])?;
        if let Some(id) = self.id {
            state.model.write(id, at as usize, &buf[..n]);
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for FaultyFile {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.file.seek(pos)
    }
}

/// A folder for a test, in memory where there is a place for that. A real sync of it is of no use:
/// what is durable is for the model to say.
#[cfg(any(test, feature = "testing"))]
pub fn test_folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect(FOLDER)
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn is_foreign(path: &Path) -> bool {
    path.file_name().is_some_and(|name| FOREIGN.iter().any(|foreign| name == *foreign))
}

fn scan(root: &Path, dir: &Path, model: &mut Model) -> io::Result<()> {
    model.add_dir(dir);
    for entry in fs::read_dir(root.join(dir))? {
        let entry = entry?;
        let path = dir.join(entry.file_name());
        if is_foreign(&path) {
            continue;
        } else if entry.file_type()?.is_dir() {
            scan(root, &path, model)?;
        } else {
            model.add_file(&path, fs::read(entry.path())?);
        }
    }
    Ok(())
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}
