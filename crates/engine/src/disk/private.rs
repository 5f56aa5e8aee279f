//! Folders and files that are this user's alone.

#[cfg(unix)]
use std::fs;
use std::io;
use std::path::Path;

/// The user that this process runs as.
#[cfg(unix)]
pub fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether other users can do anything with it.
#[cfg(unix)]
fn is_open(meta: &fs::Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o077 != 0
}

/// Refuses a folder that belongs to another user, or whose path is a link that one of them made: what
/// is read from it, and written to it, would be theirs to choose.
#[cfg(unix)]
pub fn check_owner(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let user = user();
    let refuse = |what: &str, owner: u32| {
        let text = format!(
            "{what} belongs to user {owner}, and this process runs as user {user}: run it as user \
             {owner}, or change the owner"
        );
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    };
    let link = fs::symlink_metadata(dir)?;
    // The system's own links are as good as one's own.
    if link.is_symlink() && ![user, 0].contains(&link.uid()) {
        return refuse("the link", link.uid());
    }
    match fs::metadata(dir)?.uid() {
        owner if owner == user => Ok(()),
        owner => refuse("the folder", owner),
    }
}

/// Takes away what others may do with a folder and with all in it, the folder itself last: where
/// that is closed, so is the rest. Returns whether it was open.
#[cfg(unix)]
pub fn close(dir: &Path) -> io::Result<bool> {
    if !is_open(&fs::metadata(dir)?) {
        return Ok(false);
    }
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        // A link has no permissions, and what it leads to is not ours.
        let meta = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            meta => meta?,
        };
        if meta.is_dir() {
            close(&path)?;
        } else if !meta.is_symlink() && is_open(&meta) {
            close_one(&path, &meta)?;
        }
    }
    close_one(dir, &fs::metadata(dir)?)?;
    Ok(true)
}

/// One folder or file.
#[cfg(unix)]
fn close_one(path: &Path, meta: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = meta.permissions().mode() & 0o700;
    match fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Has all files and folders that this process makes from now on be its user's alone.
#[cfg(unix)]
pub fn make_private() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Where files have no owners of this kind.
#[cfg(not(unix))]
#[allow(missing_docs)]
mod elsewhere {
    use super::*;

    pub fn check_owner(_: &Path) -> io::Result<()> {
        Ok(())
    }

    pub fn close(_: &Path) -> io::Result<bool> {
        Ok(false)
    }

    pub fn make_private() {}
}
#[cfg(not(unix))]
pub use elsewhere::{check_owner, close, make_private};

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn folder_is_closed_with_all_in_it_and_nothing_that_links_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let (db, other) = (dir.path().join("db"), dir.path().join("other"));
        let paths: Vec<PathBuf> = ["sub", "sub/file", "tool"].map(|name| db.join(name)).into();
        fs::create_dir_all(&paths[0]).unwrap();
        for file in [&paths[1], &paths[2], &other] {
            fs::write(file, b"").unwrap();
        }
        std::os::unix::fs::symlink(&other, db.join("link")).unwrap();
        for (path, mode) in
            [(&db, 0o755), (&paths[0], 0o777), (&paths[1], 0o666), (&paths[2], 0o755)]
        {
            set(path, mode);
        }
        set(&other, 0o644);
        assert!(close(&db).unwrap());
        let modes: Vec<u32> = paths.iter().map(|path| mode(path)).collect();
        assert_eq!((mode(&db), modes), (0o700, vec![0o700, 0o600, 0o700]));
        assert_eq!(mode(&other), 0o644);
        assert!(!close(&db).unwrap(), "it is closed");
    }

    #[test]
    fn own_folder_is_taken_and_that_of_another_user_refused() {
        let dir = tempfile::tempdir().unwrap();
        check_owner(dir.path()).unwrap();
        // Of root, or where root runs this, somebody else's.
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        let path = match user() {
            0 if std::os::unix::fs::chown(&other, Some(12345), None).is_ok() => other,
            0 => return,
            _ => PathBuf::from("/"),
        };
        let error = check_owner(&path).unwrap_err();
        assert!(error.to_string().contains("run it as user"), "{error}");
    }
}
