//! What people write: values of options and of files, and what is said of mistakes in them.
//!
//! The command line, the configuration of the host and the scenarios of a simulation share it.

mod document;
mod mistakes;
mod values;

pub(crate) use self::document::{Item, document, items, scalar};
pub(crate) use self::mistakes::{FileError, Mistakes};
pub(crate) use self::values::{duration, size, size_text, time, ttl};

/// The name that was meant, if it is close to one of these.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let close = |known: &&'a str| (strsim::jaro_winkler(name, known), *known);
    let best = known.iter().map(close).max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(closeness, _)| *closeness > 0.8).map(|(_, known)| known)
}
