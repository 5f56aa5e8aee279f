//! A private view of a closed record store, for those who only read.
//!
//! The store (fjall) can't be opened without writing: it cuts its journal where it ends, flushes and
//! compacts. So a reader opens a copy in a temporary folder instead. Journals and lists of tables
//! are copied; tables never change, and the copy has links to them.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::inspect::{Inspected, odd_files};
use super::journal;

/// Makes a view of a sound record store in `to`, which must not exist.
pub(super) fn make(records: &Path, inspected: &Inspected, to: &Path) -> io::Result<()> {
    let records = fs::canonicalize(records)?;
    let torn = inspected.torn.as_ref().map(|(path, valid, _)| (path.file_name(), *valid));
    let odd = odd_files(&records)?;
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        fs::create_dir(join(to, &dir))?;
        for entry in fs::read_dir(join(&records, &dir))? {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            let (from, to) = (entry.path(), to.join(&path));
            if odd.contains(&from) {
                continue;
            } else if from.is_dir() {
                dirs.push(path);
            } else if dir.ends_with("tables") {
                // The store names them by numbers, and ends where it finds another name.
                if entry.file_name().to_string_lossy().parse::<u64>().is_ok() {
                    link(&from, &to)?;
                }
            } else if path.extension().is_some_and(|ext| ext == "jnl") {
                let torn = torn.filter(|(name, _)| *name == Some(&entry.file_name()));
                let len = match torn {
                    Some((_, valid)) => valid,
                    // Without the zeros behind it, which the store cuts off anyway.
                    None => journal::end(&from, 0)?,
                };
                io::copy(&mut File::open(&from)?.take(len), &mut File::create(&to)?)?;
            } else {
                fs::copy(&from, &to)?;
            }
        }
    }
    Ok(())
}

fn join(root: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { root.to_owned() } else { root.join(path) }
}

#[cfg(unix)]
fn link(from: &Path, to: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(from, to)
}

#[cfg(not(unix))]
fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to).map(drop)
}
