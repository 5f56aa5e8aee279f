//! The mark of a clean stop: `records/clean-stop`, which says what the record store holds.
//!
//! A journal that was cut short at the end of a batch looks like one that has always ended there.
//! So a stop writes down what is in the journals, and how far the writer was; the next start
//! compares, and takes the mark away before it writes anything. After a crash there is none, and
//! [`journal`] alone decides. The mark lies among the files that it speaks of, so
//! that a copy of the folder, or of `records/` alone, brings its own.
//!
//! It is text, with its own BLAKE3 in the last line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::inspect::{journals, keyspaces, version_number};
use super::journal::{self, Tail};
use crate::Hash;
use crate::disk::{is_no_file, read_file};

const NAME: &str = "clean-stop";
const TITLE: &str = "edgestore-host clean stop 1";

/// How far the writer was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Of the last local write.
    pub(super) lsn: u64,
    pub(super) next_id: u64,
    pub(super) stamp: i64,
    /// How many are registered.
    pub(super) segments: u64,
    /// Local writes that were in no segment.
    pub(super) pending: u64,
}

/// A journal as the stop left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JournalMark {
    pub(super) name: String,
    /// Of all that is not zero behind it.
    pub(super) len: u64,
    pub(super) hash: Hash,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) progress: Progress,
    pub(super) journals: Vec<JournalMark>,
    /// The numbers of the keyspaces. Earlier versions of this host did not note them.
    pub(super) keyspaces: Vec<u64>,
    /// Of each keyspace, by its number, the number of its list of tables. These only grow.
    pub(super) versions: BTreeMap<u64, u64>,
}

impl JournalMark {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let len = journal::end(path, 0)?;
        Ok(Self { name, len, hash: hash(path, len)? })
    }

    /// Whether the file begins with what was there.
    pub(super) fn holds(&self, path: &Path) -> io::Result<bool> {
        Ok(fs::metadata(path)?.len() >= self.len && hash(path, self.len)? == self.hash)
    }
}

fn hash(path: &Path, len: u64) -> io::Result<Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(io::Read::take(File::open(path)?, len))?;
    Ok(Hash::from(hasher.finalize()))
}

impl Mark {
    /// Writes the mark of a record store that is closed.
    ///
    /// # Errors
    /// When the disk fails, or a journal can't be read through, as after damage to it while it was
    /// open: with a mark, the next start would take that for what was written.
    pub(super) fn write(records: &Path, progress: Progress) -> io::Result<()> {
        let mark = |path: PathBuf| -> io::Result<JournalMark> {
            match journal::scan(&path, true)?.tail {
                Tail::Nothing => JournalMark::of(&path),
                Tail::Torn | Tail::Damaged => {
                    let why = format!("the journal {} is damaged", path.display());
                    Err(io::Error::new(io::ErrorKind::InvalidData, why))
                }
            }
        };
        let journals = journals(records)?.into_iter().map(mark).collect::<io::Result<_>>()?;
        let keyspaces = keyspaces(records)?;
        let version = |&number: &u64| Some((number, version_number(records, number)?));
        let versions = keyspaces.iter().filter_map(version).collect();
        let mark = Self { progress, journals, keyspaces, versions };
        let mut file = tempfile::NamedTempFile::new_in(records)?;
        file.write_all(mark.encode().as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(records.join(NAME))?;
        sync(records)
    }

    /// Makes durable that there is none.
    pub(super) fn remove(records: &Path) -> io::Result<()> {
        match fs::remove_file(records.join(NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => sync(records),
        }
    }

    /// Whether there is one, if a damaged one.
    pub(super) fn is_there(records: &Path) -> bool {
        fs::symlink_metadata(records.join(NAME)).is_ok()
    }

    /// None where there is none, or none that can be read.
    pub(super) fn read(records: &Path) -> io::Result<Option<Self>> {
        let path = records.join(NAME);
        let Some(mark) = read_sealed(&path, Self::decode)? else { return Ok(None) };
        if mark.is_none() {
            tracing::warn!(
                file = %path.display(),
                "the mark of the last clean stop is damaged; the database is checked as after a \
                 crash"
            );
        }
        Ok(mark)
    }

    fn encode(&self) -> String {
        let Progress { lsn, next_id, stamp, segments, pending } = self.progress;
        let mut text = format!(
            "{TITLE}\nlsn {lsn}\nnext-id {next_id}\nstamp {stamp}\nsegments {segments}\n\
             pending {pending}\n"
        );
        for JournalMark { name, len, hash } in &self.journals {
            let _ = writeln!(text, "journal {len} {hash} {name}");
        }
        for keyspace in &self.keyspaces {
            let _ = writeln!(text, "keyspace {keyspace}");
        }
        for (keyspace, version) in &self.versions {
            let _ = writeln!(text, "version {keyspace} {version}");
        }
        sealed(text)
    }

    fn decode(text: &str) -> Option<Self> {
        let mut lines = unsealed(text)?.lines();
        if lines.next()? != TITLE {
            return None;
        }
        let mut mark = Self::default();
        let progress = &mut mark.progress;
        for line in lines {
            let (name, value) = line.split_once(' ')?;
            match name {
                "lsn" => progress.lsn = value.parse().ok()?,
                "next-id" => progress.next_id = value.parse().ok()?,
                "stamp" => progress.stamp = value.parse().ok()?,
                "segments" => progress.segments = value.parse().ok()?,
                "pending" => progress.pending = value.parse().ok()?,
                "journal" => {
                    let mut words = value.splitn(3, ' ');
                    mark.journals.push(JournalMark {
                        len: words.next()?.parse().ok()?,
                        hash: words.next()?.parse().ok()?,
                        name: words.next()?.to_owned(),
                    });
                }
                "keyspace" => mark.keyspaces.push(value.parse().ok()?),
                "version" => {
                    let (keyspace, version) = value.split_once(' ')?;
                    mark.versions.insert(keyspace.parse().ok()?, version.parse().ok()?);
                }
                // Of a later version.
                _ => {}
            }
        }
        Some(mark)
    }
}

/// Lines, with their BLAKE3 in one more.
pub(super) fn sealed(body: String) -> String {
    let sum = Hash::of(body.as_bytes());
    body + &format!("blake3 {sum}\n")
}

/// The lines without that of their BLAKE3; none where they are not what it says.
pub(super) fn unsealed(text: &str) -> Option<&str> {
    let end = text.strip_suffix('\n')?.rfind('\n')? + 1;
    let (body, sum) = text.split_at(end);
    let sum = sum.strip_prefix("blake3 ")?.strip_suffix('\n')?;
    (sum.parse() == Ok(Hash::of(body.as_bytes()))).then_some(body)
}

/// What a sealed file says; none where there is none. The inner one is none where it is damaged, or
/// where another thing has its name.
pub(super) fn read_sealed<T>(
    path: &Path,
    decode: impl FnOnce(&str) -> Option<T>,
) -> io::Result<Option<Option<T>>> {
    match read_file(path) {
        Ok(bytes) => Ok(Some(String::from_utf8(bytes).ok().and_then(|text| decode(&text)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if is_no_file(&error) => Ok(Some(None)),
        Err(error) => Err(error),
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_stop_mark_with_any_flipped_bit_is_none() {
        let progress = Progress { lsn: 7, next_id: 9, stamp: -3, segments: 2, pending: 1 };
        let journal = JournalMark { name: "0.jnl".into(), len: 12, hash: Hash::of(b"x") };
        let (keyspaces, versions) = (vec![0, 1], BTreeMap::from([(0, 3), (1, 0)]));
        let mark = Mark { progress, journals: vec![journal], keyspaces, versions };
        let text = mark.encode();
        assert_eq!(Mark::decode(&text), Some(mark));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let decoded = String::from_utf8(bytes).ok().and_then(|text| Mark::decode(&text));
            assert_eq!(decoded, None, "{at}");
        }
    }
}
