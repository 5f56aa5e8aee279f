//! What of a folder is durable, and what a power failure may make of the rest.
//!
//! Of each file: the bytes as of its last sync, and the writes since. Of each folder: the names as
//! of its last sync, and for each name all that it has stood for since. After a power failure a
//! name stands for any of these, whatever the others do; so changes survive or not, in any order.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// All paths are relative to the root.
#[derive(Debug, Default)]
pub(super) struct Model {
    files: Vec<Bytes>,
    dirs: BTreeMap<PathBuf, Names>,
}

#[derive(Debug, Default)]
struct Bytes {
    durable: Vec<u8>,
    /// Of the file as it is read now.
    len: usize,
    writes: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct Names {
    durable: BTreeMap<OsString, Node>,
    /// Oldest first.
    since: BTreeMap<OsString, Vec<Option<Node>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(usize),
    Dir,
}

/// What becomes of that which is not durable.
#[derive(Debug)]
pub(super) enum Fate {
    /// It is lost.
    Lost,
    /// It has made it.
    Kept,
    /// Either, or something in between.
    Random(fastrand::Rng),
}

impl Fate {
    /// The first two seeds are the extremes.
    pub(super) fn new(seed: u64) -> Self {
        match seed {
            0 => Self::Lost,
            1 => Self::Kept,
            _ => Self::Random(fastrand::Rng::with_seed(seed)),
        }
    }

    /// One of `0..n`, where 0 is the oldest.
    fn choose(&mut self, n: usize) -> usize {
        match self {
            Self::Lost => 0,
            Self::Kept => n - 1,
            Self::Random(rng) => rng.usize(0..n),
        }
    }

    pub(super) fn flip(&mut self) -> bool {
        self.choose(2) == 1
    }
}

impl Model {
    /// A file that is there, with its name and bytes on disk.
    pub(super) fn add_file(&mut self, path: &Path, bytes: Vec<u8>) {
        let len = bytes.len();
        self.files.push(Bytes { durable: bytes, len, writes: Vec::new() });
        let node = Node::File(self.files.len() - 1);
        self.names(path).durable.insert(name(path), node);
    }

    /// A folder that is there; the empty path is the root.
    pub(super) fn add_dir(&mut self, path: &Path) {
        self.dirs.entry(path.to_owned()).or_default();
        if path != Path::new("") {
            self.names(path).durable.insert(name(path), Node::Dir);
        }
    }

    pub(super) fn has_dir(&self, path: &Path) -> bool {
        self.dirs.contains_key(path)
    }

    pub(super) fn make_dir(&mut self, path: &Path) {
        self.dirs.entry(path.to_owned()).or_default();
        self.set(path, Some(Node::Dir));
    }

    pub(super) fn create(&mut self, path: &Path) -> usize {
        self.files.push(Bytes::default());
        let file = self.files.len() - 1;
        self.set(path, Some(Node::File(file)));
        file
    }

    /// The file of a name.
    pub(super) fn file(&self, path: &Path) -> Option<usize> {
        let (names, name) = (self.dirs.get(parent(path))?, name(path));
        let now = names.since.get(&name).and_then(|all| all.last()).copied();
        match now.unwrap_or_else(|| names.durable.get(&name).copied()) {
            Some(Node::File(file)) => Some(file),
            _ => None,
        }
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) {
        let file = self.file(from);
        // Of two names of one file, a rename leaves both.
        if file.is_some() && file != self.file(to) {
            self.link(from, to);
            self.set(from, None);
        }
    }

    pub(super) fn link(&mut self, from: &Path, to: &Path) {
        let file = self.file(from);
        self.set(to, file.map(Node::File));
    }

    pub(super) fn remove(&mut self, path: &Path) {
        self.set(path, None);
    }

    pub(super) fn write(&mut self, file: usize, at: usize, bytes: &[u8]) {
        let file = &mut self.files[file];
        file.len = file.len.max(at + bytes.len());
        file.writes.push((at, bytes.to_vec()));
    }

    /// What has changed on the disk itself.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn damage(&mut self, file: usize, at: usize) {
        self.files[file].durable[at] ^= 1;
    }

    pub(super) fn sync(&mut self, file: usize) {
        let file = &mut self.files[file];
        file.durable.resize(file.len, 0);
        for (at, bytes) in file.writes.drain(..) {
            file.durable[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }

    /// The writes are not on disk and never will be: they count as written.
    pub(super) fn sync_failed(&mut self, file: usize) {
        self.files[file].writes.clear();
    }

    pub(super) fn sync_dir(&mut self, path: &Path) {
        let Some(names) = self.dirs.get_mut(path) else { return };
        for (name, all) in std::mem::take(&mut names.since) {
            match all.last().copied().flatten() {
                Some(node) => drop(names.durable.insert(name, node)),
                None => drop(names.durable.remove(&name)),
            }
        }
    }

    /// Makes at `to` what a power failure leaves. Returns the folders that there are then.
    pub(super) fn crash(&self, fate: &mut Fate, to: &Path) -> io::Result<Vec<PathBuf>> {
        let mut dirs = vec![PathBuf::new()];
        let mut done = 0;
        while let Some(dir) = dirs.get(done).cloned() {
            done += 1;
            fs::create_dir_all(to.join(&dir))?;
            let Some(names) = self.dirs.get(&dir) else { continue };
            let all = names.durable.keys().chain(names.since.keys());
            for name in all.collect::<std::collections::BTreeSet<_>>() {
                let mut nodes = vec![names.durable.get(name).copied()];
                nodes.extend(names.since.get(name).into_iter().flatten());
                let path = dir.join(name);
                match nodes[fate.choose(nodes.len())] {
                    None => {}
                    Some(Node::File(file)) => {
                        fs::write(to.join(path), self.files[file].crash(fate))?;
                    }
                    Some(Node::Dir) => dirs.push(path),
                }
            }
        }
        Ok(dirs)
    }

    fn names(&mut self, path: &Path) -> &mut Names {
        self.dirs.entry(parent(path).to_owned()).or_default()
    }

    fn set(&mut self, path: &Path, node: Option<Node>) {
        self.names(path).since.entry(name(path)).or_default().push(node);
    }
}

impl Bytes {
    /// The bytes after a power failure: of what was appended since the last sync, nothing, all, a
    /// beginning, or some sectors, with zeros or garbage in the place of the others.
    fn crash(&self, fate: &mut Fate) -> Vec<u8> {
        let (safe, mut bytes) = (self.durable.len(), self.durable.clone());
        bytes.resize(self.len, 0);
        for (at, write) in &self.writes {
            bytes[*at..*at + write.len()].copy_from_slice(write);
        }
        match fate.choose(4) {
            0 => bytes.truncate(safe),
            1 => bytes.truncate(safe + fate.choose(self.len - safe + 1)),
            2 => {
                let sector = if fate.flip() { 512 } else { 4096 };
                for at in (0..self.len).step_by(sector) {
                    let end = (at + sector).min(self.len);
                    let torn = &mut bytes[at.max(safe).min(end)..end];
                    match fate.choose(3) {
                        0 => torn.fill(0),
                        1 => torn.fill_with(|| fate.choose(256) as u8),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        bytes
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn name(path: &Path) -> OsString {
    path.file_name().unwrap_or_default().to_owned()
}
