//! The name of a peer, which is also the name of its cursor file.

use std::fmt;
use std::str::FromStr;

use edgestore_text::secretless;

/// 1 to 64 of the letters, digits, `.`, `-` and `_`, of which the first is no dot: what names a
/// file in the cursor folder on every system, and nothing outside of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(String);

/// The text names no peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no peer id: use 1 to 64 of the letters a-z and A-Z, digits, '.', '-' and '_', \
     beginning with no dot"
)]
pub struct InvalidPeerId(String);

impl PeerId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PeerId {
    type Err = InvalidPeerId;

    fn from_str(text: &str) -> Result<Self, InvalidPeerId> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if text.len() > 64 || text.is_empty() || text.starts_with('.') || !text.bytes().all(allowed)
        {
            // A URL is none, and may have a secret in it.
            return Err(InvalidPeerId(secretless(text).chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts_and_roles_are_ids() {
        for id in ["primary", "10.0.0.7-8900", "node_1", "A", &"x".repeat(64)] {
            assert_eq!(id.parse::<PeerId>().unwrap().as_str(), id);
        }
    }

    #[test]
    fn nothing_that_leaves_the_cursor_folder_is_one() {
        let long = "x".repeat(65);
        for id in
            ["", ".", "..", "../x", "a/b", "a\\b", "/etc", ".hidden", "a b", "a\0", "é", &long]
        {
            let error = id.parse::<PeerId>().unwrap_err().to_string();
            assert!(error.contains("use 1 to 64"), "{error}");
        }
    }
}
