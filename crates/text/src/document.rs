//! From the bytes of a TOML file to values that know where they stand.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Diagnostics, FileError};

/// Parses a file that is to be TOML.
///
/// # Errors
/// [`FileError`], with all that is no UTF-8 text or no TOML.
pub fn document<'a>(path: &Path, bytes: &'a [u8]) -> Result<(DeTable<'a>, &'a str), FileError> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let mut diagnostics = Diagnostics::new(path, &valid);
        diagnostics.add(valid.len()..valid.len(), "what follows is no UTF-8 text");
        diagnostics.into_error()
    })?;
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut diagnostics = Diagnostics::new(path, text);
    for error in errors {
        diagnostics.add(error.span().unwrap_or_default(), error.message());
    }
    diagnostics.check()?;
    Ok((table.into_inner(), text))
}

/// A key and where it stands, and its value.
pub type Item<'t> = (&'t str, Range<usize>, &'t Spanned<DeValue<'t>>);

/// All of a table, in the order of the file.
pub fn items<'t>(table: &'t DeTable<'t>) -> Vec<Item<'t>> {
    let items = table.iter().map(|(key, value)| (&**key.get_ref(), key.span(), value));
    let mut items: Vec<_> = items.collect();
    items.sort_by_key(|(_, span, _)| span.start);
    items
}

/// A value that is one word, as it would stand on the command line.
pub fn scalar(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| "the number is too large"),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Boolean(value) => Ok(value.to_string()),
        DeValue::Datetime(_) => Err("a date is written in quotes"),
        DeValue::Array(_) | DeValue::Table(_) => {
            Err("this is one value: text in quotes, a number, true or false")
        }
    }
}
