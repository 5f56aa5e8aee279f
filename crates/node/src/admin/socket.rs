//! The socket file: bound so that it is never open to others, replaced when it is stale, and
//! reached whatever the length of the path.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use edgestore_engine::disk::{check_owner, user};

/// Name of the socket in the database folder.
pub const SOCKET_NAME: &str = "admin.sock";

/// A socket address holds 104 to 108 bytes, depending on the system.
const MAX_ADDRESS: usize = 100;

/// Binds the socket of a database whose lock the caller holds, so that whatever socket is there
/// already was left by a host that ended without cleaning up.
pub(super) fn bind(db: &Path) -> io::Result<(UnixListener, SocketFile)> {
    // Between binding and the change of its permissions the socket is as open as the umask makes
    // it, so it comes to be in a folder that nobody else can enter.
    let dir = tempfile::Builder::new()
        .prefix(".admin-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(db)?;
    let hidden = dir.path().join(SOCKET_NAME);
    let listener = with_short(&hidden, |path| UnixListener::bind(path))?;
    fs::set_permissions(&hidden, Permissions::from_mode(0o600))?;
    let id = id(&hidden)?;
    let path = db.join(SOCKET_NAME);
    fs::rename(&hidden, &path)?;
    Ok((listener, SocketFile { path, id }))
}

/// The file of a socket that was bound here.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl SocketFile {
    /// Whether it is where it was made. Where that can't be told, nothing says otherwise.
    pub(super) fn is_in_place(&self) -> bool {
        match id(&self.path) {
            Ok(id) => id == self.id,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Removes it, and leaves alone what another host has put in its place.
    pub(super) fn remove(&self) -> io::Result<()> {
        if id(&self.path)? != self.id {
            return Err(io::Error::other("the socket there belongs to another host"));
        }
        fs::remove_file(&self.path)
    }
}

/// Device and inode.
fn id(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Connects to the socket of a database. Only its owner's is taken: whoever else could put one into
/// the folder would receive what is written, and could acknowledge it.
pub(super) fn connect(db: &Path) -> io::Result<UnixStream> {
    check_socket(db)?;
    with_short(&db.join(SOCKET_NAME), |path| UnixStream::connect(path))
}

fn check_socket(db: &Path) -> io::Result<()> {
    // Root may look at the databases of others.
    let owner = match user() {
        0 => fs::metadata(db)?.uid(),
        user => {
            check_owner(db)?;
            user
        }
    };
    let socket = fs::symlink_metadata(db.join(SOCKET_NAME))?;
    if socket.is_symlink() || socket.uid() != owner {
        let text = format!("{SOCKET_NAME} there is not that of a host of user {owner}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(())
}

/// Calls `use_path` with a name of `path` that fits a socket address.
fn with_short<T>(path: &Path, use_path: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= MAX_ADDRESS {
        return use_path(path);
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return use_path(path);
    };
    // Holds the descriptor until the call is over.
    let dir = File::open(dir)?;
    use_path(&PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name))
}
