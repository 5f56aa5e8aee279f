//! What people write and read: values of options and of files, what is said of mistakes in them, and
//! tables.
//!
//! The command line, the configuration of the host and simulations share it.

mod document;
mod mistakes;
mod table;
mod values;

pub(crate) use self::document::{Item, document, items, scalar};
pub(crate) use self::mistakes::{FileError, Mistakes};
pub(crate) use self::table::{bytes, lines, table};
pub(crate) use self::values::{duration, size, size_text, time, ttl};

/// The name that was meant, if it is close to one of these.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let close = |known: &&'a str| (strsim::jaro_winkler(name, known), *known);
    let best = known.iter().map(close).max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(closeness, _)| *closeness > 0.8).map(|(_, known)| known)
}
