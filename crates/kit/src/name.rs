//! Names that all four languages and the host take.

use std::fmt;
use std::str::FromStr;

use super::KitError;

/// Name of a policy, of its package and of its file: 1 to 64 lower-case letters, digits and single
/// hyphens, beginning with a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyName(String);

/// As long as the host takes in a description.
const MAX_BYTES: usize = 64;

impl FromStr for PolicyName {
    type Err = KitError;

    fn from_str(name: &str) -> Result<Self, KitError> {
        let wrong = |why| Err(KitError::Name { name: name.to_owned(), why });
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() {
            return wrong("it is empty");
        }
        if name.len() > MAX_BYTES {
            return wrong("it is too long");
        }
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
            return wrong("it does not begin with a lower-case letter");
        }
        if !name.chars().all(fits) {
            return wrong("it has other characters");
        }
        if name.ends_with('-') || name.contains("--") {
            return wrong("a hyphen stands between letters or digits");
        }
        match name {
            // Cursors are kept by the policy's name.
            "default" => wrong("it is that of the embedded policy"),
            "edgestore-policy" => wrong("it is that of the helper crate"),
            _ => Ok(Self(name.to_owned())),
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_in_kebab_case() {
        for good in ["a", "nightly-pull", "v2", "a-1-b", &"x".repeat(64)] {
            assert_eq!(good.parse::<PolicyName>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "A",
            "1a",
            "-a",
            "a-",
            "a--b",
            "a_b",
            "a b",
            "a/b",
            "..",
            "größe",
            "a.b",
            "default",
            "edgestore-policy",
            &"x".repeat(65),
        ] {
            let error = bad.parse::<PolicyName>().unwrap_err().to_string();
            assert!(error.contains("lower-case letters"), "{error}");
        }
    }
}
