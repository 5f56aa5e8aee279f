//! The file `records/acknowledged`: the numbers of the last commit that was acknowledged.
//!
//! After a crash there is no mark of a clean stop, and a journal that lost its end looks like one
//! that a crash cut short. What a process wrote before it was killed is in its files, though, synced
//! or not. So each commit leaves its numbers here, without a sync: whatever is behind them at the
//! next start was acknowledged, and is gone. After a failure of the machine that holds of synced
//! writes alone, which were on disk before they came here.

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::clean_stop::{read_sealed, sealed, unsealed};
use super::inspect::{journals, number};
use super::store::Position;
use crate::disk::{is_same_file, open_file};

const NAME: &str = "acknowledged";
const TITLE: &str = "edgestore-host acknowledged 1";

/// What was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// Of the last local write.
    pub(super) lsn: u64,
    /// See [`Position::next_id`].
    pub(super) next_id: u64,
    /// Each write was on disk before it was acknowledged.
    synced: bool,
    /// When the machine ran that time: one word, empty where the system does not say.
    boot: String,
}

impl Acknowledged {
    /// What is written down of a record store, if it can be relied on: the machine has not failed
    /// since, or all was on disk by then.
    pub(super) fn read(records: &Path) -> io::Result<Option<Self>> {
        let path = records.join(NAME);
        let Some(found) = read_sealed(&path, Self::decode)? else { return Ok(None) };
        if found.is_none() {
            tracing::warn!(
                file = %path.display(),
                "what was acknowledged last can't be read: whether writes are missing is told by \
                 the journal alone"
            );
        }
        Ok(found.filter(|found| found.synced || (!found.boot.is_empty() && found.boot == boot())))
    }

    /// Whether this is behind what was acknowledged.
    pub(super) fn is_ahead_of(&self, position: &Position) -> bool {
        position.lsn < self.lsn || position.next_id < self.next_id
    }

    /// The same length for all numbers, so that one takes the place of another.
    fn encode(&self) -> String {
        let Self { lsn, next_id, synced, boot } = self;
        sealed(format!(
            "{TITLE}\nlsn {lsn:020}\nnext-id {next_id:020}\nsynced {synced:5}\nboot {boot}\n"
        ))
    }

    fn decode(text: &str) -> Option<Self> {
        let mut lines = unsealed(text)?.lines();
        let mut value = |name| lines.next()?.strip_prefix(name).map(str::trim);
        value(TITLE)?;
        Some(Self {
            lsn: value("lsn")?.parse().ok()?,
            next_id: value("next-id")?.parse().ok()?,
            synced: value("synced")?.parse().ok()?,
            boot: value("boot")?.to_owned(),
        })
    }
}

/// The file, kept up to date.
#[derive(Debug)]
pub(super) struct AcknowledgedFile {
    file: File,
    path: PathBuf,
    last: Acknowledged,
    /// The disk took it.
    is_written: bool,
    journal: OpenJournal,
}

/// The journal that commits go to: the newest one. The record store has it open, whatever comes to
/// have its name.
#[derive(Debug)]
struct OpenJournal {
    records: PathBuf,
    newest: Option<(PathBuf, File)>,
}

impl OpenJournal {
    fn open(records: &Path) -> io::Result<Self> {
        let mut this = Self { records: records.to_owned(), newest: None };
        this.look()?;
        Ok(this)
    }

    /// Whether it has its name, also where the system does not say.
    fn is_in_place(&mut self) -> bool {
        let is_same = |(path, file): &(PathBuf, File)| is_same_file(file, path).unwrap_or(true);
        // A full one makes way for another, and is removed once the tables have what it holds.
        self.newest.as_ref().is_some_and(is_same) || self.look().unwrap_or(true)
    }

    /// Takes up a newer one; false where there is none, and the one before is gone or another file.
    fn look(&mut self) -> io::Result<bool> {
        let before = self.newest.as_ref();
        let Some(path) = journals(&self.records)?.pop() else { return Ok(false) };
        if before.is_some_and(|(known, _)| *known == path) {
            return Ok(before.is_some_and(|(_, file)| is_same_file(file, &path).unwrap_or(true)));
        }
        if before.is_some_and(|(known, _)| number(known) > number(&path)) {
            return Ok(false);
        }
        let file = open_file(&path)?;
        self.newest = Some((path, file));
        Ok(true)
    }
}

impl AcknowledgedFile {
    /// Begins with what the record store holds.
    pub(super) fn open(records: &Path, position: &Position, synced: bool) -> io::Result<Self> {
        let mut options = File::options();
        // There is always one that can be read.
        let path = records.join(NAME);
        let file = options.create(true).truncate(false).write(true).open(&path)?;
        let Position { lsn, next_id, .. } = *position;
        let last = Acknowledged { lsn, next_id, synced, boot: boot() };
        let journal = OpenJournal::open(records)?;
        let mut this = Self { file, path, last, is_written: true, journal };
        this.write()?;
        this.file.set_len(this.last.encode().len() as u64)?;
        Ok(this)
    }

    /// After a commit. A disk that does not take it leaves the numbers of an earlier one, which are
    /// as true. Returns whether this file and the journal are in their places: if not, what was
    /// committed is in files without a name.
    pub(super) fn note(&mut self, position: &Position) -> bool {
        // Nothing that is not acknowledged is noted.
        if !(self.has_its_name() && self.journal.is_in_place()) {
            return false;
        }
        if (self.last.lsn, self.last.next_id) != (position.lsn, position.next_id) {
            (self.last.lsn, self.last.next_id) = (position.lsn, position.next_id);
            let written = self.write();
            self.is_written = written.is_ok();
            if let Err(error) = written {
                tracing::debug!(%error, "can't note what was acknowledged");
            }
        }
        true
    }

    /// Whether this is the file of the record store, and nobody else has written to it, and whether
    /// the journal has its name. Also where the system does not say.
    pub(super) fn is_in_place(&mut self) -> bool {
        let is_last = || {
            // A damaged one is no other database's.
            let found = read_sealed(&self.path, Acknowledged::decode).ok().flatten().flatten();
            !self.is_written || found.is_none_or(|found| found == self.last)
        };
        self.has_its_name() && is_last() && self.journal.look().unwrap_or(true)
    }

    fn has_its_name(&self) -> bool {
        is_same_file(&self.file, &self.path).unwrap_or(true)
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(self.last.encode().as_bytes())
    }
}

/// What is another word after each start of the machine; empty where the system has none.
fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(lsn: u64, next_id: u64) -> Position {
        Position { lsn, next_id, ..Position::default() }
    }

    #[test]
    fn acknowledged_is_what_was_noted_last() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Acknowledged::read(dir.path()).unwrap(), None);
        fs::write(dir.path().join("0.jnl"), "").unwrap();
        let mut file = AcknowledgedFile::open(dir.path(), &position(3, 1), true).unwrap();
        assert!(file.note(&position(1_000_000, 7)) && file.note(&position(1_000_001, 7)));
        let read = Acknowledged::read(dir.path()).unwrap().unwrap();
        assert_eq!((read.lsn, read.next_id), (1_000_001, 7));
        assert!(
            read.is_ahead_of(&position(1_000_000, 9)) && read.is_ahead_of(&position(u64::MAX, 6))
        );
        assert!(!read.is_ahead_of(&position(1_000_001, 7)));
    }

    #[test]
    fn acknowledged_before_the_machine_failed_counts_where_writes_were_synced() {
        let dir = tempfile::tempdir().unwrap();
        for synced in [true, false] {
            let file = AcknowledgedFile::open(dir.path(), &position(3, 1), synced).unwrap();
            let before = Acknowledged { boot: "another".to_owned(), ..file.last };
            fs::write(dir.path().join(NAME), before.encode()).unwrap();
            assert_eq!(Acknowledged::read(dir.path()).unwrap().is_some(), synced);
        }
    }

    #[test]
    fn acknowledged_with_any_flipped_bit_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = AcknowledgedFile::open(dir.path(), &position(7, 9), true).unwrap();
        let text = file.last.encode();
        assert!(Acknowledged::decode(&text).is_some());
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let decoded =
                String::from_utf8(bytes).ok().and_then(|text| Acknowledged::decode(&text));
            assert_eq!(decoded, None, "{at}");
        }
    }
}
