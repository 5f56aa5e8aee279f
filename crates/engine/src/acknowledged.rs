//! The files `records/acknowledged` and `acknowledged`: the numbers of the last commit that was
//! acknowledged.
//!
//! After a crash there is no mark of a clean stop, and a journal that lost its end looks like one
//! that a crash cut short. What a process wrote before it was killed is in its files, though, synced
//! or not. So each commit leaves its numbers here, without a sync: whatever is behind them at the
//! next start was acknowledged, and is gone. After a failure of the machine that holds of synced
//! writes alone, which were on disk before they came here.
//!
//! The one among the record store's files goes where they go. The one outside shows when they are an
//! older copy as a whole.

use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::clean_stop::{read_sealed, sealed, unsealed};
use super::store::{Position, Writer};
use crate::disk::{is_no_file, is_same_file, open_only_file};

const NAME: &str = "acknowledged";
const TITLE: &str = "edgestore-host acknowledged 1";

/// What was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// Of the last local write.
    pub(super) lsn: u64,
    /// See [`Position::next_id`].
    pub(super) next_id: u64,
    /// Local writes that were in no segment. Earlier versions of this host did not note them.
    pub(super) pending: Option<u64>,
    /// Each write was on disk before it was acknowledged.
    synced: bool,
    /// When the machine ran that time: one word, empty where the system does not say.
    boot: String,
}

impl Acknowledged {
    /// What is written down of a record store, if it can be relied on: the machine has not failed
    /// since, or all was on disk by then.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        let path = dir.join(NAME);
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

    /// How many local writes in no segment are missing at least. What puts them into a segment, or
    /// has them lose against a peer's, takes a number for the segment.
    pub(super) fn missing_pending(&self, position: &Position, pending: usize) -> u64 {
        let none_left = self.next_id == position.next_id;
        self.pending.filter(|_| none_left).unwrap_or_default().saturating_sub(pending as u64)
    }

    /// The same length for all numbers, so that one takes the place of another.
    fn encode(&self) -> String {
        let Self { lsn, next_id, pending, synced, boot } = self;
        let pending = pending.map_or(String::new(), |pending| format!("pending {pending:020}\n"));
        sealed(format!(
            "{TITLE}\nlsn {lsn:020}\nnext-id {next_id:020}\nsynced {synced:5}\nboot {boot}\n\
             {pending}"
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
            pending: value("pending").map(str::parse).transpose().ok()?,
        })
    }
}

/// The file, kept up to date.
#[derive(Debug)]
pub(super) struct AcknowledgedFile {
    file: File,
    path: PathBuf,
    /// The one outside the record store; none where it can't be made.
    outside: Option<File>,
    last: Acknowledged,
    /// The disk took it.
    is_written: bool,
}

impl AcknowledgedFile {
    /// Begins with what the record store in `records` holds, of the database in `home`.
    pub(super) fn open(
        home: &Path,
        records: &Path,
        writer: &Writer,
        synced: bool,
    ) -> io::Result<Self> {
        // There is always one that can be read.
        let open = |path: &Path| {
            open_only_file(path, File::options().create(true).truncate(false).write(true))
        };
        let path = records.join(NAME);
        let file = open(&path)?;
        let other = home.join(NAME);
        let outside = match open(&other) {
            // What is in its place is nobody's, but a folder may hold something.
            Err(error) if is_no_file(&error) => fs::remove_file(&other).and_then(|()| open(&other)),
            opened => opened,
        };
        let outside = outside.inspect_err(|error| {
            tracing::warn!(
                file = %other.display(), %error, "an older copy of records/ will not be noticed"
            );
        });
        let Position { lsn, next_id, .. } = writer.position;
        let pending = Some(writer.pending.len() as u64);
        let last = Acknowledged { lsn, next_id, pending, synced, boot: boot() };
        let mut this = Self { file, path, outside: outside.ok(), last, is_written: true };
        this.write()?;
        let len = this.last.encode().len() as u64;
        for file in [Some(&this.file), this.outside.as_ref()].into_iter().flatten() {
            file.set_len(len)?;
        }
        Ok(this)
    }

    /// After a commit. A disk that does not take it leaves the numbers of an earlier one, which are
    /// as true. Returns whether this file is in its place: if not, what was committed is in files
    /// without a name.
    pub(super) fn note(&mut self, writer: &Writer) -> bool {
        // Nothing that is not acknowledged is noted.
        if !self.has_its_name() {
            return false;
        }
        let Position { lsn, next_id, .. } = writer.position;
        let pending = Some(writer.pending.len() as u64);
        if (self.last.lsn, self.last.next_id, self.last.pending) != (lsn, next_id, pending) {
            self.last = Acknowledged { lsn, next_id, pending, ..self.last.clone() };
            let written = self.write();
            self.is_written = written.is_ok();
            if let Err(error) = written {
                tracing::debug!(%error, "can't note what was acknowledged");
            }
        }
        true
    }

    /// Whether this is the file of the record store, and nobody else has written to it. Also where the
    /// system does not say.
    pub(super) fn is_in_place(&self) -> bool {
        let is_last = || {
            // A damaged one is no other database's.
            let found = read_sealed(&self.path, Acknowledged::decode).ok().flatten().flatten();
            !self.is_written || found.is_none_or(|found| found == self.last)
        };
        self.has_its_name() && is_last()
    }

    fn has_its_name(&self) -> bool {
        is_same_file(&self.file, &self.path).unwrap_or(true)
    }

    fn write(&mut self) -> io::Result<()> {
        let text = self.last.encode();
        for file in [Some(&mut self.file), self.outside.as_mut()].into_iter().flatten() {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(text.as_bytes())?;
        }
        Ok(())
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

    fn writer(lsn: u64, next_id: u64) -> Writer {
        Writer { position: position(lsn, next_id), ..Writer::default() }
    }

    fn open(dir: &Path, writer: &Writer, synced: bool) -> AcknowledgedFile {
        let records = dir.join("records");
        fs::create_dir_all(&records).unwrap();
        AcknowledgedFile::open(dir, &records, writer, synced).unwrap()
    }

    #[test]
    fn acknowledged_is_what_was_noted_last() {
        let dir = tempfile::tempdir().unwrap();
        let records = dir.path().join("records");
        fs::create_dir_all(&records).unwrap();
        assert_eq!(Acknowledged::read(&records).unwrap(), None);
        fs::write(records.join("0.jnl"), "").unwrap();
        let mut file = open(dir.path(), &writer(3, 1), true);
        assert!(file.note(&writer(1_000_000, 7)) && file.note(&writer(1_000_001, 7)));
        let read = Acknowledged::read(&records).unwrap().unwrap();
        assert_eq!((read.lsn, read.next_id), (1_000_001, 7));
        assert_eq!(Acknowledged::read(dir.path()).unwrap(), Some(read.clone()), "outside as well");
        assert!(
            read.is_ahead_of(&position(1_000_000, 9)) && read.is_ahead_of(&position(u64::MAX, 6))
        );
        assert!(!read.is_ahead_of(&position(1_000_001, 7)));
    }

    #[test]
    fn acknowledged_before_the_machine_failed_counts_where_writes_were_synced() {
        let dir = tempfile::tempdir().unwrap();
        for synced in [true, false] {
            let file = open(dir.path(), &writer(3, 1), synced);
            let before = Acknowledged { boot: "another".to_owned(), ..file.last };
            fs::write(dir.path().join(NAME), before.encode()).unwrap();
            assert_eq!(Acknowledged::read(dir.path()).unwrap().is_some(), synced);
        }
    }

    #[test]
    fn acknowledged_counts_pending_writes_until_a_segment_is_made() {
        let now = |pending| Acknowledged {
            lsn: 7,
            next_id: 3,
            pending,
            synced: true,
            boot: String::new(),
        };
        let (same, put, flushed) = (position(7, 3), position(8, 3), position(7, 4));
        assert_eq!(now(Some(5)).missing_pending(&same, 3), 2);
        assert_eq!(now(Some(5)).missing_pending(&same, 6), 0);
        assert_eq!(now(Some(5)).missing_pending(&put, 1), 4, "it was not noted any more");
        assert_eq!(now(Some(5)).missing_pending(&flushed, 0), 0);
        assert_eq!(now(None).missing_pending(&same, 0), 0);
        // As earlier versions of this host wrote it.
        assert_eq!(Acknowledged::decode(&now(None).encode()), Some(now(None)));
        assert_eq!(Acknowledged::decode(&now(Some(5)).encode()), Some(now(Some(5))));
    }

    #[test]
    fn acknowledged_with_any_flipped_bit_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = open(dir.path(), &writer(7, 9), true);
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
