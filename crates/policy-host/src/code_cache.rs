//! Compiled code on disk, one file a component: `{key}.code`. The key is the BLAKE3 of the component
//! and of the compiler's settings.
//!
//! A file is 32 bytes of BLAKE3, keyed by that key, and the code. So a flipped bit, and the code of
//! another component, are found before the code is loaded. The sum is no secret: whoever may write
//! the file may make it. That is why folder and files have to belong to this user, who alone may
//! write them.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use edgestore_engine::Hash;
use edgestore_engine::disk::open_file;

/// Most bytes of all files. The oldest go first.
const MAX_BYTES: u64 = 1 << 30;

const CODE: &str = "code";
const REFUSED: &str = "refused";

/// A folder of compiled code.
#[derive(Debug, Clone)]
pub(super) struct CodeCache {
    dir: PathBuf,
}

/// What a component was compiled with, and did not come to an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Limit of the compiler's processor time.
    pub(super) time: Duration,
    /// Limit of its memory, in bytes.
    pub(super) memory: u64,
    pub(super) why: String,
}

impl CodeCache {
    /// Makes the folder where it is missing, and closes it to others. What they might have put into
    /// it is removed.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let cache = Self { dir: fs::canonicalize(dir)? };
        if close_to_others(&cache.dir)? {
            for name in [CODE, REFUSED] {
                cache.files(name)?.iter().try_for_each(|file| remove(&file.path))?;
            }
        }
        cache.remove_older_layout();
        // What is kept is written late, and a failure is worth a warning now.
        tempfile::tempfile_in(&cache.dir)?;
        Ok(cache)
    }

    /// The code that was stored under this key; `None` where there is none, or it is damaged. Then
    /// the file is removed.
    pub(super) fn load(&self, key: &Hash) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(key, CODE);
        let mut file = match open_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let (mut sum, mut code) = ([0; 32], Vec::new());
        let whole = file.read_exact(&mut sum).and_then(|()| file.read_to_end(&mut code));
        let whole = match whole {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            whole => whole.is_ok(),
        };
        if !whole || !is_own(&file)? || keyed(key, &code) != sum {
            tracing::warn!(
                file = %path.display(),
                "a compiled policy is damaged; it is removed and compiled again"
            );
            remove(&path)?;
            return Ok(None);
        }
        // Those that are used stay.
        file.set_modified(SystemTime::now()).or_else(|error| match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Ok(()),
            _ => Err(error),
        })?;
        Ok(Some(code))
    }

    /// Keeps code, and forgets that it was refused.
    pub(super) fn store(&self, key: &Hash, code: &[u8]) -> io::Result<()> {
        self.write(&self.path(key, CODE), &[&keyed(key, code), code])?;
        remove(&self.path(key, REFUSED))?;
        self.prune()
    }

    /// Why the component of this key is not to be compiled again, if it is not.
    pub(super) fn refusal(&self, key: &Hash) -> io::Result<Option<Refusal>> {
        let text = match fs::read_to_string(self.path(key, REFUSED)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let (first, why) = text.split_once('\n').unwrap_or((&text, ""));
        let limits = first.split_once(' ').and_then(|(time, memory)| {
            Some((Duration::from_millis(time.parse().ok()?), memory.parse().ok()?))
        });
        Ok(limits.map(|(time, memory)| Refusal { time, memory, why: why.to_owned() }))
    }

    /// Notes that the component of this key does not compile within limits.
    pub(super) fn refuse(&self, key: &Hash, refusal: &Refusal) -> io::Result<()> {
        let Refusal { time, memory, why } = refusal;
        let text = format!("{} {memory}\n{why}", time.as_millis());
        self.write(&self.path(key, REFUSED), &[text.as_bytes()])
    }

    fn path(&self, key: &Hash, extension: &str) -> PathBuf {
        self.dir.join(format!("{key}.{extension}"))
    }

    /// The temporary file is made for its owner alone.
    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let mut new = tempfile::NamedTempFile::new_in(&self.dir)?;
        parts.iter().try_for_each(|part| new.write_all(part))?;
        new.persist(path)?;
        Ok(())
    }

    /// Removes the files that were not used for the longest time, where they are too many.
    fn prune(&self) -> io::Result<()> {
        let mut files = self.files(CODE)?;
        files.sort_by_key(|file| std::cmp::Reverse(file.used));
        let mut bytes = 0_u64;
        for file in files {
            bytes = bytes.saturating_add(file.bytes);
            if bytes > MAX_BYTES {
                remove(&file.path)?;
            }
        }
        Ok(())
    }

    fn files(&self, extension: &str) -> io::Result<Vec<Kept>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|found| found != extension) {
                continue;
            }
            match fs::symlink_metadata(&path) {
                // Another process has removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                meta => {
                    let meta = meta?;
                    let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    found.push(Kept { path, bytes: meta.len(), used });
                }
            }
        }
        Ok(found)
    }

    /// Of hosts before this layout.
    fn remove_older_layout(&self) {
        let _ = fs::remove_dir_all(self.dir.join("modules"));
        let _ = fs::remove_file(self.dir.with_extension("sums"));
    }
}

struct Kept {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

fn keyed(key: &Hash, code: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(key.as_bytes(), code).as_bytes()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a file belongs to this user, who alone may write it.
#[cfg(unix)]
fn is_own(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = file.metadata()?;
    Ok(meta.uid() == edgestore_engine::disk::user() && meta.mode() & 0o022 == 0)
}

#[cfg(not(unix))]
fn is_own(_: &File) -> io::Result<bool> {
    Ok(true)
}

/// Closes the folder to other users. Whether they could write to it.
///
/// # Errors
/// When it belongs to one of them.
#[cfg(unix)]
fn close_to_others(dir: &Path) -> io::Result<bool> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    edgestore_engine::disk::check_owner(dir)?;
    let meta = fs::metadata(dir)?;
    if meta.mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    Ok(meta.mode() & 0o022 != 0)
}

#[cfg(not(unix))]
fn close_to_others(_: &Path) -> io::Result<bool> {
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::logged;

    fn cache() -> (tempfile::TempDir, CodeCache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = CodeCache::open(&folder.path().join("deep/cache")).unwrap();
        (folder, cache)
    }

    #[test]
    fn compiled_code_comes_back_and_stays_for_its_component_alone() {
        let (_folder, cache) = cache();
        let (key, other) = (Hash::of(b"one"), Hash::of(b"other"));
        assert_eq!(cache.load(&key).unwrap(), None);
        cache.store(&key, b"code").unwrap();
        assert_eq!(cache.load(&key).unwrap().as_deref(), Some(&b"code"[..]));
        fs::rename(cache.path(&key, CODE), cache.path(&other, CODE)).unwrap();
        assert_eq!(cache.load(&other).unwrap(), None, "the code of another component");
        assert!(!cache.path(&other, CODE).exists());
    }

    #[test]
    fn damaged_code_is_never_returned_whatever_bit_flips() {
        let (_folder, cache) = cache();
        let key = Hash::of(b"one");
        let code: Vec<u8> = (0..3000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let path = cache.path(&key, CODE);
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..500 {
            cache.store(&key, &code).unwrap();
            let mut bytes = fs::read(&path).unwrap();
            let at = random.usize(..bytes.len());
            bytes[at] ^= 1 << random.u8(..8);
            fs::write(&path, bytes).unwrap();
            assert_eq!(cache.load(&key).unwrap(), None, "byte {at}");
        }
        for length in [0, 31, 32, 100] {
            cache.store(&key, &code).unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
            let (lines, loaded) = logged(|| cache.load(&key));
            assert_eq!(loaded.unwrap(), None, "{length} bytes");
            assert!(lines.contains("a compiled policy is damaged"), "{lines}");
        }
    }

    #[test]
    fn refused_component_is_remembered_with_its_limits_until_it_compiles() {
        let (_folder, cache) = cache();
        let key = Hash::of(b"one");
        assert_eq!(cache.refusal(&key).unwrap(), None);
        let time = Duration::from_millis(1500);
        let refusal = Refusal { time, memory: 7, why: "it takes\ntoo long".to_owned() };
        cache.refuse(&key, &refusal).unwrap();
        assert_eq!(cache.refusal(&key).unwrap(), Some(refusal));
        cache.store(&key, b"code").unwrap();
        assert_eq!(cache.refusal(&key).unwrap(), None);
        fs::write(cache.path(&key, REFUSED), "nonsense").unwrap();
        assert_eq!(cache.refusal(&key).unwrap(), None);
    }

    #[test]
    fn least_recently_used_code_goes_first() {
        let (_folder, cache) = cache();
        let keys = [b"a", b"b", b"c"].map(|name| Hash::of(name));
        let old = |age: u64| SystemTime::now() - Duration::from_secs(age);
        for (key, age) in keys.iter().zip([300, 200, 100]) {
            cache.store(key, b"code").unwrap();
            let file = fs::File::options().write(true).open(cache.path(key, CODE)).unwrap();
            // Sparse: nothing of it is on disk.
            file.set_len(MAX_BYTES / 2).unwrap();
            file.set_modified(old(age)).unwrap();
        }
        cache.prune().unwrap();
        assert_eq!(keys.map(|key| cache.path(&key, CODE).exists()), [false, true, true]);
    }

    #[cfg(unix)]
    #[test]
    fn code_that_others_could_have_written_is_not_loaded() {
        use std::os::unix::fs::PermissionsExt as _;
        let (_folder, cache) = cache();
        let key = Hash::of(b"one");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        cache.store(&key, b"code").unwrap();
        assert_eq!((mode(&cache.dir), mode(&cache.path(&key, CODE))), (0o700, 0o600));
        open(&cache.path(&key, CODE), 0o666);
        assert_eq!(cache.load(&key).unwrap(), None);

        cache.store(&key, b"code").unwrap();
        open(&cache.dir, 0o755);
        let cache = CodeCache::open(&cache.dir).unwrap();
        assert_eq!(mode(&cache.dir), 0o700);
        assert!(cache.load(&key).unwrap().is_some(), "others could read it alone");
        open(&cache.dir, 0o777);
        let cache = CodeCache::open(&cache.dir).unwrap();
        assert_eq!(cache.load(&key).unwrap(), None);
    }
}
