//! The journal that an open record store writes to, watched: who removes it, replaces it or cuts it
//! takes acknowledged writes that are nowhere else.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::inspect::{journals, number};
use crate::disk::{is_same_file, open_file};

/// The journal that commits go to: the newest one. The record store has it open, whatever comes to
/// have its name.
#[derive(Debug)]
pub(super) struct OpenJournal {
    records: PathBuf,
    newest: Option<(PathBuf, File)>,
    /// Its bytes at the last look. It never gets shorter.
    len: u64,
}

impl OpenJournal {
    pub(super) fn open(records: &Path) -> io::Result<Self> {
        let mut this = Self { records: records.to_owned(), newest: None, len: 0 };
        this.look()?;
        Ok(this)
    }

    /// Whether it has its name, also where the system does not say.
    pub(super) fn is_in_place(&mut self) -> bool {
        let is_same = |(path, file): &(PathBuf, File)| is_same_file(file, path).unwrap_or(true);
        // A full one makes way for another, and is removed once the tables have what it holds.
        (self.newest.as_ref().is_some_and(is_same) || self.look().unwrap_or(true))
            && self.is_whole()
    }

    /// Whether nobody has cut it since the last look.
    pub(super) fn is_whole(&mut self) -> bool {
        let Some(Ok(now)) = self.newest.as_ref().map(|(_, file)| file.metadata()) else {
            return true;
        };
        let before = std::mem::replace(&mut self.len, now.len());
        self.len >= before
    }

    /// Takes up a newer one; false where there is none, and the one before is gone or another file.
    pub(super) fn look(&mut self) -> io::Result<bool> {
        let before = self.newest.as_ref();
        let Some(path) = journals(&self.records)?.pop() else { return Ok(false) };
        if before.is_some_and(|(known, _)| *known == path) {
            return Ok(before.is_some_and(|(_, file)| is_same_file(file, &path).unwrap_or(true)));
        }
        if before.is_some_and(|(known, _)| number(known) > number(&path)) {
            return Ok(false);
        }
        let file = open_file(&path)?;
        (self.newest, self.len) = (Some((path, file)), 0);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn journal_that_was_cut_is_not_whole_until_it_was_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.jnl");
        for to in [0, 99] {
            fs::write(&path, [1; 100]).unwrap();
            let mut journal = OpenJournal::open(dir.path()).unwrap();
            assert!(journal.is_in_place() && journal.is_whole());
            File::options().write(true).open(&path).unwrap().set_len(to).unwrap();
            assert!(!journal.is_whole(), "{to}");
            fs::write(&path, [1; 100]).unwrap();
            assert!(journal.is_in_place());
            File::options().write(true).open(&path).unwrap().set_len(to).unwrap();
            assert!(!journal.is_in_place(), "{to}");
        }
    }
}
