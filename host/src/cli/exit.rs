//! What the exit status says: 0, the command did all of its work and the answer is yes; 1, the
//! answer is no; 2, the command line or the configuration is wrong; 3, the program could not find
//! out.

use std::process::ExitCode;

use crate::admin::AdminError;
use crate::engine::EngineError;
use crate::policy::LoadError;
use crate::runtime::{HostError, SwapError};
use crate::text::FileError;

/// The status of a command that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// The command did its work, and the answer is no.
    No = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// The program could not find out.
    Unknown = 3,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

/// An error that says its status itself.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Known {
    status: Status,
    text: String,
}

/// The answer is no, for this reason.
pub(super) fn no(text: impl Into<String>) -> anyhow::Error {
    Known { status: Status::No, text: text.into() }.into()
}

/// The command line is wrong, for this reason.
pub(super) fn usage(text: impl Into<String>) -> anyhow::Error {
    Known { status: Status::Usage, text: text.into() }.into()
}

/// The program could not find out, for this reason.
pub(super) fn unknown(text: impl Into<String>) -> anyhow::Error {
    Known { status: Status::Unknown, text: text.into() }.into()
}

/// What a request of the running host comes to: a refusal by the host is its answer.
pub(super) fn answered<T>(result: Result<T, AdminError>) -> anyhow::Result<T> {
    result.map_err(|error| match error {
        AdminError::Failed(text) => no(text),
        error => error.into(),
    })
}

impl Status {
    /// The status for a command that failed with this error.
    pub(super) fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(of_cause).unwrap_or(Self::Unknown)
    }
}

/// None where the cause alone does not decide it.
fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Status> {
    if let Some(known) = cause.downcast_ref::<Known>() {
        return Some(known.status);
    }
    if cause.is::<clap::Error>() || cause.is::<FileError>() {
        return Some(Status::Usage);
    }
    if let Some(error) = cause.downcast_ref::<EngineError>() {
        return of_engine(error);
    }
    if let Some(error) = cause.downcast_ref::<HostError>() {
        return Some(of_host(error));
    }
    if let Some(error) = cause.downcast_ref::<SwapError>() {
        return Some(of_swap(error));
    }
    if let Some(error) = cause.downcast_ref::<LoadError>() {
        return Some(of_load(error));
    }
    matches!(cause.downcast_ref::<AdminError>(), Some(AdminError::TooLarge(_)))
        .then_some(Status::Usage)
}

/// What no database takes is wrong in the command line.
fn of_engine(error: &EngineError) -> Option<Status> {
    use EngineError::{BatchTooLarge, EmptyKey, EmptyNamespace, KeyTooLong, RecordTooLarge, Ttl};
    matches!(
        error,
        EmptyNamespace
            | EmptyKey
            | KeyTooLong { .. }
            | RecordTooLarge { .. }
            | BatchTooLarge { .. }
            | Ttl
    )
    .then_some(Status::Usage)
}

fn of_host(error: &HostError) -> Status {
    match error {
        HostError::Policy(error) => of_swap(error),
        HostError::Io { .. } => Status::Unknown,
        _ => Status::Usage,
    }
}

fn of_swap(error: &SwapError) -> Status {
    if error.is_answer() { Status::No } else { Status::Unknown }
}

fn of_load(error: &LoadError) -> Status {
    if error.is_answer() { Status::No } else { Status::Unknown }
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Context as _;

    use super::*;

    #[test]
    fn an_exit_status_is_that_of_the_first_cause_that_says_one() {
        let fails = |error: anyhow::Error| Status::of(&error);
        assert_eq!(fails(anyhow::anyhow!("anything")), Status::Unknown);
        assert_eq!(fails(io::Error::other("disk").into()), Status::Unknown);
        assert_eq!(fails(no("not found")), Status::No);
        assert_eq!(fails(Err::<(), _>(no("not found")).context("more").unwrap_err()), Status::No);
        assert_eq!(fails(usage("--x")), Status::Usage);
        assert_eq!(fails(EngineError::EmptyKey.into()), Status::Usage);
        assert_eq!(fails(EngineError::Corrupt(String::new()).into()), Status::Unknown);
        assert_eq!(fails(HostError::DuplicatePeer(String::new()).into()), Status::Usage);
        assert_eq!(fails(SwapError::NoFallback.into()), Status::No);
        assert_eq!(fails(HostError::from(LoadError::NotWasm).into()), Status::No);
        let error = LoadError::Io { path: "p".into(), error: io::ErrorKind::NotFound.into() };
        assert_eq!(fails(error.into()), Status::Unknown);
        assert_eq!(fails(AdminError::Denied.into()), Status::Unknown);
        assert_eq!(
            fails(answered::<()>(Err(AdminError::Failed("no".into()))).unwrap_err()),
            Status::No
        );
    }
}
