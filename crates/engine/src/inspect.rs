//! A look at the files of a closed record store, for the damage that it would not notice itself.
//!
//! The store checks the blocks of its tables whenever it reads them. It does not check which tables
//! there are (`keyspaces/*/current` and the version file that this names), and takes a damaged
//! journal for one that ends earlier. Nothing here changes a file.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::EngineError;
use super::acknowledged::Acknowledged;
use super::clean_stop::Mark;
use super::error::is_of_process;
use super::journal::{self, Tail};
use crate::disk::is_no_file;

/// The content of `version`.
pub(super) const VERSION: &[u8] = b"FJL\x03";

/// A sound record store, as it is on disk.
#[derive(Debug, Default)]
pub(super) struct Inspected {
    /// Of the last stop, if it was a clean one.
    pub(super) mark: Option<Mark>,
    /// Nothing was written since the mark.
    pub(super) exact: bool,
    /// Of the last process that wrote, whether it has stopped or was killed.
    pub(super) acknowledged: Option<Acknowledged>,
    /// The last journal, how much of it to keep, and of how much, where its last write was cut
    /// short.
    pub(super) torn: Option<(PathBuf, u64, u64)>,
}

/// What is wrong with a record store.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) mark: Option<Mark>,
    /// Each a clause.
    pub(super) what: Vec<String>,
    /// These can be made sound by leaving out the batches that can't be read.
    pub(super) journals: Vec<PathBuf>,
    /// The names of journals that are not there.
    pub(super) gone: Vec<String>,
    /// More than journals is damaged.
    pub(super) store: bool,
    /// Keyspaces whose lists of tables can't be read.
    pub(super) keyspaces: Vec<PathBuf>,
    /// In the places of files and folders, and none. Nothing but journals was looked at where there are any.
    pub(super) odd: Vec<PathBuf>,
}

/// The journals of a record store that are files, oldest first.
pub(super) fn journals(records: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(records)? {
        let path = entry?.path();
        if let Some(number) = number(&path)
            && path.is_file()
        {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The numbers of the keyspaces of which there are folders, in ascending order.
pub(super) fn keyspaces(records: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(records.join("keyspaces"))? {
        let path = entry?.path();
        if path.is_dir() {
            let name = path.file_name().and_then(|name| name.to_str());
            found.extend(name.and_then(|name| name.parse::<u64>().ok()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

pub(super) fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".jnl")?.parse().ok()
}

/// Looks at everything that the store itself would not check. `synced` as of [`journal::scan`].
pub(super) fn inspect(
    records: &Path,
    synced: bool,
) -> Result<Result<Inspected, Findings>, EngineError> {
    let look = || -> io::Result<Result<Inspected, Findings>> {
        let mut findings = Findings { odd: odd_files(records)?, ..Findings::default() };
        let name = |path: &PathBuf| {
            let name = path.strip_prefix(records).unwrap_or(path).to_string_lossy();
            // A name with line breaks forges no line.
            let name = name.escape_debug();
            format!("in the place of {name} there is something else")
        };
        findings.what = findings.odd.iter().map(name).collect();
        findings.store = !findings.odd.is_empty();
        let inspected = inspect_journals(records, synced, &mut findings)?;
        if findings.odd.is_empty() {
            inspect_versions(records, &mut findings)?;
        }
        Ok(if findings.what.is_empty() { Ok(inspected) } else { Err(findings) })
    };
    look().map_err(EngineError::io("read", records))
}

/// What is in the places of files and is no file, such as a pipe, for which whoever opens it waits;
/// and in the places of folders, and no folder.
pub(super) fn odd_files(records: &Path) -> io::Result<Vec<PathBuf>> {
    let mut odd = Vec::new();
    let mut dirs = vec![(records.to_owned(), 0)];
    while let Some((dir, depth)) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
            let metadata = match fs::metadata(&path) {
                // A table that is compacted this moment.
                Err(error) if is_no_file(&error) && fs::symlink_metadata(&path).is_err() => {
                    continue;
                }
                // A link that leads nowhere.
                Err(error) if is_no_file(&error) => {
                    odd.push(path);
                    continue;
                }
                metadata => metadata?,
            };
            let is_place_of_folder = match depth {
                0 => name == "keyspaces",
                1 => name.to_str().is_some_and(|name| name.parse::<u64>().is_ok()),
                2 => name == "tables",
                _ => false,
            };
            match is_place_of_folder {
                true if metadata.is_dir() => dirs.push((path, depth + 1)),
                // Beside the keyspaces, the store passes over files, and ends where anything else has no
                // number for a name.
                false if depth == 1 && !fs::symlink_metadata(&path)?.is_file() => odd.push(path),
                false if metadata.is_file() => {}
                _ => odd.push(path),
            }
        }
    }
    Ok(odd)
}

fn inspect_journals(
    records: &Path,
    synced: bool,
    findings: &mut Findings,
) -> io::Result<Inspected> {
    let files = journals(records)?;
    let mut mark = Mark::read(records)?;
    findings.mark.clone_from(&mark);
    let odd = findings.odd.iter().filter(|path| number(path).is_some());
    let names = odd.map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    findings.gone = names.collect();
    let Some((last, _)) = files.split_last() else {
        findings.what.push("its journal is missing".to_owned());
        if findings.gone.is_empty() {
            findings.gone.push("that is missing".to_owned());
        }
        return Ok(Inspected::default());
    };
    let mut exact = mark.is_some();
    for known in mark.as_ref().map(|mark| mark.journals.clone()).unwrap_or_default() {
        if files.iter().any(|file| file.ends_with(&known.name)) {
            continue;
        }
        let missing = number(Path::new(&known.name));
        if number(last) > missing {
            // A version of this program that knows of no marks has written since.
            (mark, exact) = (None, false);
            break;
        }
        findings.what.push(format!("its journal {} is missing", known.name));
        if !findings.gone.contains(&known.name) {
            findings.gone.push(known.name);
        }
    }
    let mut torn = None;
    for file in &files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if fs::symlink_metadata(file)?.is_symlink() {
            // The store opens none.
            findings.what.push(format!("its journal {name} is a link"));
            findings.journals.push(file.clone());
            continue;
        }
        let known = mark.iter().flat_map(|mark| &mark.journals);
        if let Some(known) = known.clone().find(|known| known.name == name) {
            if !known.holds(file)? {
                let len = fs::metadata(file)?.len();
                findings.what.push(match len < known.len {
                    true => format!(
                        "its journal {name} has {len} of the {} bytes that the last clean stop left",
                        known.len
                    ),
                    false => format!("its journal {name} is not what the last clean stop left"),
                });
                findings.journals.push(file.clone());
                continue;
            }
            if journal::end(file, known.len)? == known.len {
                continue;
            }
        }
        let scan = journal::scan(file, synced)?;
        // Debris behind the mark is no write.
        exact &= known.clone().any(|known| known.name == name && known.len >= scan.valid);
        match scan.tail {
            Tail::Nothing => {}
            Tail::Torn if file == last => torn = Some((file.clone(), scan.valid, scan.end)),
            Tail::Torn | Tail::Damaged => {
                findings.what.push(format!(
                    "its journal {name} can't be read from byte {} of {} on, and there are whole \
                     writes behind",
                    scan.valid, scan.end
                ));
                findings.journals.push(file.clone());
            }
        }
    }
    let acknowledged = Acknowledged::read(records)?;
    Ok(Inspected { mark, exact, acknowledged, torn })
}

fn inspect_versions(records: &Path, findings: &mut Findings) -> io::Result<()> {
    let before = findings.what.len();
    match fs::read(records.join("version")) {
        Ok(version) if version == VERSION => {}
        Err(error) if is_of_process(&error) => return Err(error),
        _ => findings.what.push("its file version is damaged".to_owned()),
    }
    match keyspaces(records) {
        Ok(found) => inspect_keyspaces(records, &found, findings)?,
        Err(error) if is_of_process(&error) => return Err(error),
        Err(error) => findings.what.push(format!("its folder keyspaces can't be read: {error}")),
    }
    findings.store |= findings.what.len() > before;
    Ok(())
}

/// Keyspaces whose lists of tables can't be read.
pub(super) fn without_lists(records: &Path) -> io::Result<Vec<PathBuf>> {
    let mut findings = Findings::default();
    inspect_versions(records, &mut findings)?;
    Ok(findings.keyspaces)
}

/// `found`: those of which there are folders.
fn inspect_keyspaces(records: &Path, found: &[u64], findings: &mut Findings) -> io::Result<()> {
    let marked = findings.mark.iter().flat_map(|mark| &mark.keyspaces).copied();
    let mut used: BTreeSet<u64> = marked.collect();
    if used.is_empty() {
        for journal in journals(records)? {
            used.append(&mut journal::keyspaces(&journal)?);
        }
    }
    // Of the names of the others.
    used.insert(0);
    for number in used.difference(&found.iter().copied().collect()) {
        findings.what.push(format!("its folder keyspaces/{number} is missing"));
    }
    for &number in found {
        let dir = records.join("keyspaces").join(number.to_string());
        let why = match current_version(&dir)? {
            Ok(None) if !used.contains(&number) && is_new(&dir)? => continue,
            Ok(None) => "the file current is missing".to_owned(),
            Ok(Some(_)) => {
                let left = findings.mark.as_ref().and_then(|mark| mark.versions.get(&number));
                match version_number(records, number) {
                    Some(found) if left.is_some_and(|&left| found < left) => {
                        "the list of tables is older than the one that the last clean stop left"
                            .to_owned()
                    }
                    _ => continue,
                }
            }
            Err(why) => why,
        };
        findings.what.push(format!("in its folder keyspaces/{number}, {why}"));
        findings.keyspaces.push(dir);
    }
    Ok(())
}

/// Whether a keyspace without its file `current` may be one whose making was cut short. The store
/// writes the first list of tables before that file, and begins to use the keyspace behind it. It
/// removes such a keyspace, and makes it anew.
fn is_new(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let used = match name.to_str() {
            Some("tables") => fs::read_dir(entry.path())?.next().is_some(),
            Some("v0") => false,
            // Of the file in the making.
            Some(name) => !name.starts_with(".tmp"),
            None => true,
        };
        if used {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The number of the list of tables of a keyspace, as far as its file `current` says.
pub(super) fn version_number(records: &Path, keyspace: u64) -> Option<u64> {
    let current = fs::read(records.join(format!("keyspaces/{keyspace}/current"))).ok()?;
    Some(u64::from_le_bytes(*current.first_chunk()?))
}

/// The path of the file that lists the tables of a keyspace, checked against its checksum; none where
/// nothing names one. The inner error says what is wrong.
fn current_version(dir: &Path) -> io::Result<Result<Option<PathBuf>, String>> {
    let current = match fs::read(dir.join("current")) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(None)),
        Err(error) if is_of_process(&error) => return Err(error),
        Err(error) => return Ok(Err(format!("the file current can't be read: {error}"))),
    };
    // Number, XXH3 of 128 bits, and the kind of checksum, little-endian.
    let parse = || {
        let (number, rest) = current.split_first_chunk::<8>()?;
        let (sum, rest) = rest.split_first_chunk::<16>()?;
        (rest == [0]).then_some((u64::from_le_bytes(*number), u128::from_le_bytes(*sum)))
    };
    let Some((number, sum)) = parse() else {
        return Ok(Err("the file current is damaged".to_owned()));
    };
    let path = dir.join(format!("v{number}"));
    Ok(match fs::read(&path) {
        Ok(bytes) if xxhash_rust::xxh3::xxh3_128(&bytes) == sum => Ok(Some(path)),
        Ok(_) => Err(format!("the file v{number} is not what current says")),
        Err(error) if is_of_process(&error) => return Err(error),
        Err(error) => {
            Err(format!("the file v{number}, which current names, can't be read: {error}"))
        }
    })
}

/// The tables of a record store that are not what they were when they were written: path, and what
/// is wrong. Reads all of them. While the store is open, a table that is not there was compacted
/// meanwhile.
pub(super) fn damaged_tables(records: &Path, closed: bool) -> io::Result<Vec<(PathBuf, String)>> {
    let mut damaged = Vec::new();
    for dir in fs::read_dir(records.join("keyspaces"))? {
        let dir = dir?.path();
        let Ok(Some(version)) = current_version(&dir)? else { continue };
        for (id, sum) in tables(&version)? {
            let path = dir.join("tables").join(id.to_string());
            let mut hasher = xxhash_rust::xxh3::Xxh3::new();
            let mut read = || -> io::Result<u128> {
                let mut file = fs::File::open(&path)?;
                let mut buffer = vec![0; 256 << 10];
                loop {
                    match io::Read::read(&mut file, &mut buffer)? {
                        0 => return Ok(hasher.digest128()),
                        n => hasher.update(&buffer[..n]),
                    }
                }
            };
            match read() {
                Ok(found) if found == sum => {}
                Ok(_) => damaged.push((path, "its bytes have changed".to_owned())),
                Err(error) if error.kind() == io::ErrorKind::NotFound && !closed => {}
                Err(error) if is_of_process(&error) => return Err(error),
                Err(error) => damaged.push((path, format!("it can't be read: {error}"))),
            }
        }
    }
    Ok(damaged)
}

/// The tables that a version file lists, with their checksums: levels of runs of `id: u64, kind of
/// checksum: u8, checksum: u128, seqno: u64`, little-endian.
fn tables(version: &Path) -> io::Result<Vec<(u64, u128)>> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "the list of tables is damaged");
    let archive = sfa::Reader::new(version).map_err(|_| broken())?;
    let section = archive.toc().section(b"tables").ok_or_else(broken)?;
    let bytes = journal::read(version, section.pos()..section.pos() + section.len())?;
    let mut rest = &bytes[..];
    let mut tables = Vec::new();
    let mut parse = || -> Option<()> {
        let ([levels], mut at) = rest.split_first_chunk::<1>()?;
        for _ in 0..*levels {
            let ([runs], after) = at.split_first_chunk::<1>()?;
            at = after;
            for _ in 0..*runs {
                let (count, after) = at.split_first_chunk::<4>()?;
                at = after;
                for _ in 0..u32::from_le_bytes(*count) {
                    let (entry, after) = at.split_first_chunk::<33>()?;
                    at = after;
                    let id = u64::from_le_bytes(*entry.first_chunk()?);
                    tables.push((id, u128::from_le_bytes(entry[9..25].try_into().ok()?)));
                }
            }
        }
        rest = at;
        Some(())
    };
    parse().ok_or_else(broken)?;
    Ok(tables)
}
