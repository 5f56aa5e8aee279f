//! What people write and read: values of options and of files, what is said of problems in them,
//! tables, and text that others chose, without what hides in it.
//!
//! The command line, the configuration of the host and simulations share it. What needs parsers of
//! files is there with the feature `files`.
#![forbid(unsafe_code)]

#[cfg(feature = "files")]
mod diagnostics;
#[cfg(feature = "files")]
mod document;
mod escape;
mod secrets;
#[cfg(feature = "files")]
mod table;
#[cfg(feature = "files")]
mod values;

#[cfg(feature = "files")]
use std::fs::File;
#[cfg(feature = "files")]
use std::io::{self, Read as _};
#[cfg(feature = "files")]
use std::path::Path;

#[cfg(feature = "files")]
pub use self::diagnostics::{Diagnostics, FileError};
#[cfg(feature = "files")]
pub use self::document::{Item, document, items, scalar};
pub use self::escape::{LINE, LINES, Style, exact, is_hidden, push_bytes, push_escaped, visible};
pub use self::secrets::{json_without_secrets, secretless, secretless_url, without_secrets};
#[cfg(feature = "files")]
pub use self::table::{bytes, lines, table};
#[cfg(feature = "files")]
pub use self::values::{duration, size, size_text, time, ttl};

#[cfg(feature = "files")]
/// Of a file that people write.
const MAX_FILE: u64 = 16 << 20;

#[cfg(feature = "files")]
/// The bytes of a file that people write: one that is too large for that is not read to its end.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        let why = format!("it has more than {}", size_text(MAX_FILE));
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    Ok(bytes)
}

#[cfg(feature = "files")]
/// The name that was meant, if it is close to one of these.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let close = |known: &&'a str| (strsim::jaro_winkler(name, known), *known);
    let best = known.iter().map(close).max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(closeness, _)| *closeness > 0.8).map(|(_, known)| known)
}
