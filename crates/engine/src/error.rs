//! What can go wrong, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::record::{MAX_BATCH, MAX_KEY, MAX_RECORD};
use crate::Hash;

/// Why the engine did not do what it was asked. Nothing of it is visible then; after a failure of
/// the disk it may be after the next start, as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Another engine has it open.
    #[error("the database {path} is open in another process: stop that one, or talk to it")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds something else.
    #[error("{path} is no database of this host: {why}")]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What it is, and what to do.
        why: String,
    },
    /// A put into the namespace without a name, which peers alone make.
    #[error("a namespace must have at least one byte")]
    EmptyNamespace,
    /// A put of the key without bytes, which peers alone make.
    #[error("a key must have at least one byte")]
    EmptyKey,
    /// Namespace and key are too long together.
    #[error("namespace and key have {bytes} bytes together; the limit is {MAX_KEY}")]
    KeyTooLong {
        /// Their length.
        bytes: usize,
    },
    /// The record does not fit into a block of a segment.
    #[error(
        "the record takes {bytes} bytes in a segment; the format's limit is {MAX_RECORD}: \
         split the value over several keys"
    )]
    RecordTooLarge {
        /// Its length in a segment.
        bytes: usize,
    },
    /// A batch is larger than a segment may be.
    #[error("the batch has {bytes} bytes; the limit is {MAX_BATCH}: split it")]
    BatchTooLarge {
        /// Bytes of its namespaces, keys and values.
        bytes: usize,
    },
    /// A time to live that can't be stored.
    #[error("a time to live is between one second and {} seconds", u32::MAX)]
    Ttl,
    /// A file could not be read or written.
    #[error("{context}: {}", describe_io(.source))]
    Io {
        /// Which file, and what for.
        context: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The disk has less room than stays free.
    #[error(
        "no space left for writes and downloads: the disk has {free} bytes free, and {reserve} stay \
         free (--disk-reserve). Deletes and compactions go on: make room"
    )]
    DiskReserve {
        /// Bytes that are free.
        free: u64,
        /// Bytes that stay free.
        reserve: u64,
    },
    /// The database takes as much of the disk as it may.
    #[error(
        "no space left for writes and downloads: the database takes {taken} bytes of disk, and may \
         take {max} (--max-db-bytes). Deletes and compactions go on: make room, or raise the bound"
    )]
    DatabaseFull {
        /// Bytes that it takes.
        taken: u64,
        /// [`EngineOptions::max_db_bytes`](super::EngineOptions::max_db_bytes).
        max: u64,
    },
    /// The record store failed.
    #[error("the record store failed: {}", describe_store(.0))]
    Store(#[source] Box<fjall::Error>),
    /// The record store does not get its data to disk.
    #[error(
        "the record store has waited {} s for the disk: see that it has space and is healthy",
        .0.as_secs()
    )]
    Stalled(Duration),
    /// A write ended in a panic, and memory may be behind the disk.
    #[error("a write panicked")]
    Panicked,
    /// The record store has lost some of what was acknowledged.
    #[error(
        "the database {path} is damaged: {what}. Nothing was changed. Put a backup in its place, or \
         run `edgestore-host verify --repair`, which keeps the damaged files in quarantine/ and goes \
         on with what can be read"
    )]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What is missing or not as it was.
        what: String,
    },
    /// Somebody has put other files in the place of those that were opened.
    #[error(
        "files of the database were removed, replaced or cut while it was open: nothing more is \
         written. What is there now is left as it is, and the next start looks at it; writes that \
         came after the files went are not in it"
    )]
    Replaced,
    /// It was opened to read alone.
    #[error("the database is open to read alone: open it to write")]
    ReadOnly,
    /// What is on disk is not what was written.
    #[error("the database is damaged: {0}")]
    Corrupt(String),
}

impl EngineError {
    /// Whether the disk is full, read-only, damaged or failing, as opposed to a bad argument.
    pub fn is_storage(&self) -> bool {
        matches!(
            self,
            Self::Io { .. }
                | Self::Store(_)
                | Self::DiskReserve { .. }
                | Self::DatabaseFull { .. }
                | Self::Stalled(_)
                | Self::Panicked
                | Self::Replaced
                | Self::Corrupt(_)
                | Self::Damaged { .. }
        )
    }

    /// Whether files of the record store are not what was written, so that a repair is needed.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt(_) | Self::Damaged { .. } => true,
            Self::Store(error) => match &**error {
                fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
                    is_of_content(error)
                }
                error => !matches!(error, fjall::Error::Poisoned | fjall::Error::Locked),
            },
            _ => false,
        }
    }

    /// Whether space, descriptors or memory ran out, of which there may be more later.
    pub(super) fn is_shortage(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_of_shortage(source),
            Self::Store(error) => match &**error {
                fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => {
                    is_of_shortage(error)
                }
                // A thread of its own failed, while it moved what its journals have. It doesn't say
                // why.
                fjall::Error::Poisoned => true,
                _ => false,
            },
            _ => false,
        }
    }

    /// The same, with another path in its text.
    pub(super) fn renamed(mut self, from: &Path, to: &Path) -> Self {
        if let Self::Io { context: text, .. } | Self::Corrupt(text) = &mut self {
            *text = text.replace(&*from.to_string_lossy(), &to.to_string_lossy());
        }
        self
    }

    /// For `map_err`: what was done to which file.
    pub(super) fn io(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let context = format!("can't {what} {}", path.display());
        move |source| Self::Io { context, source }
    }
}

impl From<fjall::Error> for EngineError {
    fn from(error: fjall::Error) -> Self {
        Self::Store(Box::new(error))
    }
}

fn describe_io(error: &io::Error) -> String {
    let fix = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ": free space on the disk",
        io::ErrorKind::ReadOnlyFilesystem => ": mount the disk writable",
        io::ErrorKind::PermissionDenied => {
            ": the user that runs this must own the database and may write to it"
        }
        _ => "",
    };
    format!("{error}{fix}")
}

/// Whether an error comes of what is in a file, such as one that is too short to have an end.
fn is_of_content(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
}

/// Whether an error comes of what this process may do or has left, and says nothing of a file.
pub(super) fn is_of_process(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, PermissionDenied, StaleNetworkFileHandle, TimedOut};
    is_of_descriptors(error)
        || matches!(
            error.kind(),
            OutOfMemory | PermissionDenied | StaleNetworkFileHandle | TimedOut
        )
}

fn is_of_shortage(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, QuotaExceeded, StorageFull};
    is_of_descriptors(error) || matches!(error.kind(), OutOfMemory | QuotaExceeded | StorageFull)
}

/// ENFILE and EMFILE: too many open files, of all or of this process.
fn is_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

fn describe_store(error: &fjall::Error) -> String {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error))
            if !is_of_content(error) =>
        {
            describe_io(error)
        }
        fjall::Error::Poisoned => "an earlier write failed, and what came of it is unknown until \
                                   the database is opened again. A host does so by itself once \
                                   there is room; else see that the disk is healthy, then restart; \
                                   acknowledged writes are on it"
            .to_owned(),
        other => format!(
            "{other}: a file of it is damaged. Put a backup in the place of the database, or stop \
             its host and run `edgestore-host verify --repair`"
        ),
    }
}

/// Why a segment was not applied. Nothing of it is visible then.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The bytes are those of the hash and yet no segment. They are the same at every try.
    #[error("segment {hash} is not one: {why}")]
    Rejected {
        /// Its name.
        hash: Hash,
        /// The first thing that is wrong with it.
        why: String,
    },
    /// A record is stamped too far in the future. The staged segment can be applied again, once
    /// the time has come.
    #[error(
        "segment {hash} has a record that is stamped {} ahead of this node's clock, and the bound \
         is {}: set the clocks of the nodes (NTP), or raise the bound (--max-clock-ahead)",
        humantime::format_duration(*ahead), humantime::format_duration(*bound)
    )]
    ClockAhead {
        /// Its name.
        hash: Hash,
        /// How far, in whole seconds.
        ahead: Duration,
        /// [`EngineOptions::max_clock_ahead`](super::EngineOptions::max_clock_ahead).
        bound: Duration,
    },
    /// The engine could not write. The staged segment can be applied again.
    #[error(transparent)]
    Storage(#[from] EngineError),
}
