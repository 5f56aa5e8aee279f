//! A folder in memory, as it is at an instant. Long runs of zeros cost nothing: the record store
//! makes files that are larger than what is in them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

const PAGE: usize = 4096;

/// Files and folders by their paths, folders before what is in them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Image {
    entries: Vec<(PathBuf, Entry)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Entry {
    Dir,
    File {
        len: u64,
        /// All that is not zero.
        pages: Vec<(u64, Vec<u8>)>,
    },
}

impl Image {
    /// Reads a file or a folder. A record store that is open may put files in the place of others
    /// meanwhile; then it is read again, so that this is what was there at one instant.
    pub fn read(path: &Path) -> io::Result<Self> {
        loop {
            let read = || {
                let before = files(path)?;
                let mut image = Self::default();
                image.add(path, Path::new(""))?;
                Ok::<_, io::Error>((files(path)? == before).then_some(image))
            };
            match read() {
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound && path.exists() => {}
                Ok(Some(image)) => return Ok(image),
                Err(error) => return Err(error),
            }
        }
    }

    fn add(&mut self, root: &Path, path: &Path) -> io::Result<()> {
        let full = join(root, path);
        if !full.is_dir() {
            self.entries.push((path.to_owned(), read_file(&full)?));
            return Ok(());
        }
        self.entries.push((path.to_owned(), Entry::Dir));
        for entry in fs::read_dir(&full)? {
            self.add(root, &path.join(entry?.file_name()))?;
        }
        Ok(())
    }

    /// Writes it all to `to`.
    pub fn write(&self, to: &Path) -> io::Result<()> {
        for (path, entry) in &self.entries {
            let path = join(to, path);
            match entry {
                Entry::Dir => fs::create_dir_all(&path)?,
                Entry::File { len, pages } => {
                    let mut file = File::create(&path)?;
                    for (at, page) in pages {
                        file.seek(SeekFrom::Start(*at))?;
                        file.write_all(page)?;
                    }
                    file.set_len(*len)?;
                }
            }
        }
        Ok(())
    }
}

/// The files in a folder, and what tells one from another of its name.
fn files(path: &Path) -> io::Result<BTreeMap<PathBuf, (u64, u64)>> {
    let (mut all, mut left) = (BTreeMap::new(), vec![path.to_owned()]);
    while let Some(path) = left.pop() {
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            for entry in fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        }
        #[cfg(unix)]
        let number = std::os::unix::fs::MetadataExt::ino(&meta);
        #[cfg(not(unix))]
        let number = 0;
        all.insert(path, (if meta.is_dir() { 0 } else { meta.len() }, number));
    }
    Ok(all)
}

/// As `join`, but the empty path adds no slash.
fn join(root: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { root.to_owned() } else { root.join(path) }
}

fn read_file(path: &Path) -> io::Result<Entry> {
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    // Behind these, all is zeros.
    #[cfg(unix)]
    let mut left = std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
    #[cfg(not(unix))]
    let mut left = u64::MAX;
    let (mut pages, mut at) = (Vec::new(), 0);
    let mut buffer = vec![0; 64 * PAGE];
    while left > 0 {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        for page in buffer[..n].chunks(PAGE) {
            if page != &[0; PAGE][..page.len()] {
                pages.push((at, page.to_vec()));
                left = left.saturating_sub(PAGE as u64);
            }
            at += page.len() as u64;
        }
    }
    Ok(Entry::File { len: meta.len(), pages })
}
