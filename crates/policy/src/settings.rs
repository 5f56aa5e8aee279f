//! What the user may tune. A typing error is reported, not ignored: a policy that silently runs with
//! defaults is worse than one that does not run.
//!
//! Each setting is read by a call that names its default and what is allowed;
//! [`finish`](Settings::finish) then refuses what nobody asked for.
//!
//! ```
//! # use edgestore_policy::{Settings, SettingError};
//! # fn main() -> Result<(), SettingError> {
//! # let pairs = [("window".to_owned(), "8".to_owned())];
//! let mut settings = Settings::new(&pairs);
//! let window: usize = settings.number("window", 4, 1..=64)?;
//! let order = settings.choice("order", "newest", &["newest", "oldest"])?;
//! settings.finish()?;
//! assert_eq!((window, order), (8, "newest"));
//!
//! let misspelt = [("windw".to_owned(), "8".to_owned())];
//! let mut settings = Settings::new(&misspelt);
//! let window: usize = settings.number("window", 4, 1..=64)?;
//! let error = settings.finish().unwrap_err().to_string();
//! assert_eq!(error, "unknown setting \"windw\", perhaps \"window\"; known are window");
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::ops::RangeInclusive;

use crate::types::{PolicyError, TickFailure};

/// The user's key-value pairs, on the way to being read. Of a key given twice the last value counts.
pub struct Settings<'a> {
    pairs: &'a [(String, String)],
    known: Vec<&'static str>,
}

/// A setting that the policy does not understand, in a sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError(String);

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SettingError {}

impl From<SettingError> for TickFailure {
    fn from(error: SettingError) -> Self {
        PolicyError::Setting(error.0).into()
    }
}

impl<'a> Settings<'a> {
    /// The settings as the context of a tick has them.
    pub fn new(pairs: &'a [(String, String)]) -> Self {
        Settings { pairs, known: Vec::new() }
    }

    /// A whole number within a range.
    pub fn number<T: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        default: T,
        range: RangeInclusive<u64>,
    ) -> Result<T, SettingError> {
        let Some(value) = self.value(key) else { return Ok(default) };
        let number = value.parse().ok().filter(|number| range.contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            let (low, high) = (range.start(), range.end());
            bad(key, value, format_args!("a whole number from {low} to {high}"))
        })
    }

    /// True or false.
    pub fn flag(&mut self, key: &'static str, default: bool) -> Result<bool, SettingError> {
        match self.value(key) {
            None => Ok(default),
            Some("true" | "yes" | "on" | "1") => Ok(true),
            Some("false" | "no" | "off" | "0") => Ok(false),
            Some(value) => Err(bad(key, value, "true or false")),
        }
    }

    /// One of several words.
    pub fn choice(
        &mut self,
        key: &'static str,
        default: &'static str,
        words: &[&'static str],
    ) -> Result<&'static str, SettingError> {
        let Some(value) = self.value(key) else { return Ok(default) };
        let word = words.iter().find(|word| **word == value).copied();
        word.ok_or_else(|| bad(key, value, format_args!("one of {}", words.join(", "))))
    }

    /// Any text.
    pub fn text(&mut self, key: &'static str) -> Option<&'a str> {
        self.value(key)
    }

    /// Words with commas between them; none at all when the setting is not given.
    pub fn list(&mut self, key: &'static str) -> Vec<&'a str> {
        let words = self.value(key).unwrap_or_default().split(',').map(str::trim);
        words.filter(|word| !word.is_empty()).collect()
    }

    /// Refuses a key that no call has read.
    pub fn finish(self) -> Result<(), SettingError> {
        let unknown = |key: &&String| !self.known.contains(&key.as_str());
        let Some(key) = self.pairs.iter().map(|(key, _)| key).find(unknown) else {
            return Ok(());
        };
        let mut message = format!("unknown setting \"{key}\"");
        if let Some(nearest) = nearest(key, &self.known) {
            message += &format!(", perhaps \"{nearest}\"");
        }
        let known = if self.known.is_empty() { "none".into() } else { self.known.join(", ") };
        Err(SettingError(format!("{message}; known are {known}")))
    }

    fn value(&mut self, key: &'static str) -> Option<&'a str> {
        self.known.push(key);
        self.pairs.iter().rev().find(|(given, _)| given == key).map(|(_, value)| value.trim())
    }
}

pub(crate) fn bad(key: &str, value: &str, expected: impl fmt::Display) -> SettingError {
    SettingError(format!("{key} must be {expected}, not \"{value}\""))
}

/// The known key that takes the fewest edits to get to, if it is not more than a third of them.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let (edits, nearest) = known.iter().map(|known| (edits(key, known), *known)).min()?;
    (edits <= nearest.len().div_ceil(3)).then_some(nearest)
}

/// The Levenshtein distance: characters to insert, remove or replace.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<_> = to.chars().collect();
    let mut row: Vec<_> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn what_is_not_given_is_the_default() {
        let mut settings = Settings::new(&[]);
        assert_eq!(settings.number("window", 4u32, 1..=64), Ok(4));
        assert_eq!(settings.flag("archive", true), Ok(true));
        assert_eq!(settings.choice("order", "newest", &["newest", "oldest"]), Ok("newest"));
        assert_eq!(settings.text("site"), None);
        assert!(settings.list("namespaces").is_empty());
        assert_eq!(settings.finish(), Ok(()));
    }

    #[test]
    fn values_are_read_without_the_spaces_around_them_and_the_last_one_counts() {
        let pairs = pairs(&[
            ("window", "3"),
            ("window", " 6 "),
            ("archive", "off"),
            ("order", "oldest"),
            ("site", "north"),
            ("namespaces", "a, b,,c "),
        ]);
        let mut settings = Settings::new(&pairs);
        assert_eq!(settings.number("window", 4u64, 1..=64), Ok(6));
        assert_eq!(settings.flag("archive", true), Ok(false));
        assert_eq!(settings.choice("order", "newest", &["newest", "oldest"]), Ok("oldest"));
        assert_eq!(settings.text("site"), Some("north"));
        assert_eq!(settings.list("namespaces"), ["a", "b", "c"]);
        assert_eq!(settings.finish(), Ok(()));
    }

    #[test]
    fn a_bad_value_is_answered_with_the_key_the_value_and_what_is_allowed() {
        for value in ["0", "65", "-1", "four", "", "4.5", "99999999999999999999999"] {
            let pairs = pairs(&[("window", value)]);
            let error = Settings::new(&pairs).number("window", 4u32, 1..=64).unwrap_err();
            let expected = format!("window must be a whole number from 1 to 64, not \"{value}\"");
            assert_eq!(error.to_string(), expected);
        }
        let pairs = pairs(&[("order", "random"), ("archive", "maybe")]);
        let mut settings = Settings::new(&pairs);
        let error = settings.choice("order", "newest", &["newest", "oldest"]).unwrap_err();
        assert_eq!(error.to_string(), "order must be one of newest, oldest, not \"random\"");
        let error = settings.flag("archive", true).unwrap_err();
        assert_eq!(error.to_string(), "archive must be true or false, not \"maybe\"");
    }

    #[test]
    fn a_number_that_its_type_does_not_hold_is_refused() {
        let pairs = pairs(&[("tries", "300")]);
        assert!(Settings::new(&pairs).number("tries", 1u8, 1..=1000).is_err());
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest_and_all_known_ones() {
        for (key, hint) in [
            ("windw", ", perhaps \"window\""),
            ("max_tries", ", perhaps \"max-tries\""),
            ("quux", ""),
        ] {
            let pairs = pairs(&[(key, "4")]);
            let mut settings = Settings::new(&pairs);
            settings.number("window", 4u32, 1..=64).unwrap();
            settings.number("max-tries", 4u32, 1..=64).unwrap();
            let expected = format!("unknown setting \"{key}\"{hint}; known are window, max-tries");
            assert_eq!(settings.finish().unwrap_err().to_string(), expected);
        }
    }
}
