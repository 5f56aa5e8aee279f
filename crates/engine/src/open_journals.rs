//! The journal that an open record store writes to, watched: who removes it, replaces it or cuts it
//! takes acknowledged writes that are nowhere else.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::inspect::{journals, number};
use crate::disk::{is_same_file, open_file};

/// The journals of an open record store. It has them open, whatever comes to have their names.
#[derive(Debug)]
pub(super) struct OpenJournals {
    records: PathBuf,
    /// Full ones, which are removed once the tables have what they hold.
    sealed: Vec<Watched>,
    /// The one that commits go to.
    newest: Option<Watched>,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    file: File,
    /// Its bytes at the last look. It never gets shorter.
    len: u64,
}

impl Watched {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = open_file(&path)?;
        let len = file.metadata()?.len();
        Ok(Self { path, file, len })
    }

    /// Whether nobody has cut it since the last look, also where the system does not say.
    fn is_whole(&mut self) -> bool {
        let Ok(now) = self.file.metadata() else { return true };
        let before = std::mem::replace(&mut self.len, now.len());
        self.len >= before
    }

    fn has_its_name(&self) -> bool {
        is_same_file(&self.file, &self.path).unwrap_or(true)
    }
}

impl OpenJournals {
    pub(super) fn open(records: &Path) -> io::Result<Self> {
        let mut all: Vec<_> =
            journals(records)?.into_iter().map(Watched::open).collect::<Result<_, _>>()?;
        let newest = all.pop();
        Ok(Self { records: records.to_owned(), sealed: all, newest })
    }

    /// Whether nobody has cut the newest one since the last look.
    pub(super) fn is_whole(&mut self) -> bool {
        self.newest.as_mut().is_none_or(Watched::is_whole)
    }

    /// The same after a commit, which may have gone to a newer one.
    pub(super) fn is_whole_after_commit(&mut self) -> bool {
        self.take_up_newer() && self.is_whole()
    }

    /// Whether the newest one has its name, and nobody has cut it.
    pub(super) fn is_in_place(&mut self) -> bool {
        self.take_up_newer()
            && self.newest.as_ref().is_none_or(Watched::has_its_name)
            && self.is_whole()
    }

    /// The same of all, of which the record store has so many. A sealed one whose name is gone was
    /// removed by the record store where the others are as many as it has.
    pub(super) fn are_in_place(&mut self, count: impl Fn() -> usize) -> bool {
        let is_kept = |one: &Watched| std::fs::symlink_metadata(&one.path).is_ok();
        self.sealed.retain(is_kept);
        // It may begin another one between the two counts.
        let are_all_here = || journals(&self.records).map_or(true, |here| here.len() >= count());
        (0..3).any(|_| are_all_here())
            && self.sealed.iter_mut().all(|one| one.has_its_name() && one.is_whole())
            && self.is_in_place()
    }

    /// The record store numbers them in turn. Whether those that nothing more is written to are whole.
    fn take_up_newer(&mut self) -> bool {
        let mut whole = true;
        while let Some(newest) = &mut self.newest
            && let Some(number) = number(&newest.path)
            && let Ok(newer) = Watched::open(self.records.join(format!("{}.jnl", number + 1)))
        {
            // Its last bytes were written after the last look.
            whole &= newest.is_whole();
            self.sealed.extend(self.newest.replace(newer));
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn cut(path: &Path, to: u64) {
        File::options().write(true).open(path).unwrap().set_len(to).unwrap();
    }

    #[test]
    fn journal_that_was_cut_is_not_whole_until_it_was_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.jnl");
        for to in [0, 99] {
            fs::write(&path, [1; 100]).unwrap();
            let mut journals = OpenJournals::open(dir.path()).unwrap();
            assert!(journals.is_in_place() && journals.is_whole());
            cut(&path, to);
            assert!(!journals.is_whole(), "{to}");
            fs::write(&path, [1; 100]).unwrap();
            assert!(journals.is_in_place());
            cut(&path, to);
            assert!(!journals.is_in_place(), "{to}");
        }
    }

    #[test]
    fn newer_journals_are_taken_up_after_the_commit_that_begins_them_and_sealed_ones_watched() {
        let dir = tempfile::tempdir().unwrap();
        let path = |n: u8| dir.path().join(format!("{n}.jnl"));
        fs::write(path(0), [1; 100]).unwrap();
        let start = || {
            fs::write(path(0), [1; 90]).unwrap();
            let _ = fs::remove_file(path(1));
            let mut journals = OpenJournals::open(dir.path()).unwrap();
            fs::write(path(0), [1; 100]).unwrap();
            fs::write(path(1), [1; 100]).unwrap();
            assert!(journals.is_whole_after_commit() && journals.are_in_place(|| 2));
            journals
        };
        let mut journals = start();
        cut(&path(1), 50);
        assert!(!journals.is_whole());
        let mut journals = start();
        cut(&path(0), 95);
        assert!(journals.is_whole() && !journals.are_in_place(|| 2));
        for (count, here) in [(2, false), (1, true)] {
            let mut journals = start();
            fs::remove_file(path(0)).unwrap();
            assert_eq!(journals.are_in_place(|| count), here, "the record store has {count}");
        }
    }
}
