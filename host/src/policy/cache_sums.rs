//! Compiled code that is kept is run as it is: one flipped bit in it may crash the host. So its
//! BLAKE3 is kept beside it, `{folder}.sums`, and what does not match is removed before it is
//! loaded, and compiled again. The sums find damage; who may write into the folder may write them,
//! too.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::Hash;

/// Removes compiled code that is not what was written, or that nobody has noted.
pub(super) fn remove_damaged(dir: &Path) -> io::Result<()> {
    let known = read(dir);
    for (name, path) in artifacts(dir)? {
        let found = match fs::read(&path) {
            Ok(bytes) => Hash::of(&bytes),
            // Another process has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if known.get(&name) == Some(&found) {
            continue;
        }
        if known.contains_key(&name) {
            tracing::warn!(
                file = %path.display(),
                "a compiled policy is damaged; it is removed and compiled again"
            );
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Notes what has been compiled since, and forgets what is gone.
pub(super) fn note(dir: &Path) -> io::Result<()> {
    let known = read(dir);
    let mut sums = BTreeMap::new();
    for (name, path) in artifacts(dir)? {
        let sum = match known.get(&name) {
            Some(sum) => *sum,
            None => Hash::of(&fs::read(&path)?),
        };
        sums.insert(name, sum);
    }
    if sums == known {
        return Ok(());
    }
    let file = file(dir);
    let mut new = tempfile::NamedTempFile::new_in(file.parent().unwrap_or(dir))?;
    for (name, sum) in &sums {
        writeln!(new, "{sum} {name}")?;
    }
    new.persist(file)?;
    Ok(())
}

fn file(dir: &Path) -> PathBuf {
    dir.with_extension("sums")
}

fn read(dir: &Path) -> BTreeMap<String, Hash> {
    let text = fs::read(file(dir)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().filter_map(|line| {
        let (sum, name) = line.split_once(' ')?;
        Some((name.to_owned(), sum.parse().ok()?))
    });
    lines.collect()
}

/// Files of compiled code by their names in `dir`. Those with statistics about them are none.
fn artifacts(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let (mut found, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                dirs.push(path);
            } else if path.extension().is_none() {
                let name = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned();
                found.push((name, path));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiled_policy_that_was_damaged_or_not_noted_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("cache");
        fs::create_dir_all(dir.join("modules")).unwrap();
        let file = |name: &str| dir.join("modules").join(name);
        for name in ["sound", "damaged", "damaged.stats"] {
            fs::write(file(name), name).unwrap();
        }
        note(&dir).unwrap();
        fs::write(file("damaged"), "dbmaged").unwrap();
        fs::write(file("not-noted"), "x").unwrap();
        remove_damaged(&dir).unwrap();
        let left =
            ["sound", "damaged", "not-noted", "damaged.stats"].map(|name| file(name).exists());
        assert_eq!(left, [true, false, false, true]);
        note(&dir).unwrap();
        assert_eq!(read(&dir).len(), 1);
    }
}
