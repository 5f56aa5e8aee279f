//! A BLAKE3-256 hash: the name of a segment, and the root over a set of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// 32 bytes, ordered bytewise. Prints as 64 lowercase hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hash(#[serde(with = "serde_bytes")] [u8; 32]);

impl Hash {
    /// The root of a node that has no segments.
    pub const ZERO: Self = Self([0; 32]);

    /// Wraps the raw bytes of a hash that was computed elsewhere.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Hashes `data`.
    pub fn of(data: &[u8]) -> Self {
        Self(*blake3::hash(data).as_bytes())
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The root over a set of segments: BLAKE3 over their hashes in sorted
    /// order, [`Hash::ZERO`] for none (`edgestore` 2.2: `range_merkle_root`).
    pub fn root(hashes: impl IntoIterator<Item = Self>) -> Self {
        let mut hashes: Vec<Self> = hashes.into_iter().collect();
        hashes.sort_unstable();
        Self::root_of_sorted(hashes)
    }

    /// The same of hashes that come in ascending order.
    pub fn root_of_sorted(hashes: impl IntoIterator<Item = Self>) -> Self {
        let mut hashes = hashes.into_iter().peekable();
        if hashes.peek().is_none() {
            return Self::ZERO;
        }
        let mut hasher = blake3::Hasher::new();
        // In large pieces, of which several lanes of the processor hash a part each.
        let mut piece = Vec::new();
        while hashes.peek().is_some() {
            piece.clear();
            hashes.by_ref().take(2048).for_each(|hash| piece.extend(hash.0));
            hasher.update(&piece);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The first eight hex digits, for tables and log lines.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

impl From<blake3::Hash> for Hash {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl TryFrom<&[u8]> for Hash {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        Ok(Self(bytes.try_into()?))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// The text is not 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 64 hex digits")]
pub struct ParseHashError;

impl FromStr for Hash {
    type Err = ParseHashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseHashError)?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_does_not_depend_on_order_and_is_zero_for_nothing() {
        let (a, b) = (Hash::of(b"a"), Hash::of(b"b"));
        assert_eq!(Hash::root([a, b]), Hash::root([b, a]));
        assert_ne!(Hash::root([a]), Hash::root([a, b]));
        assert_eq!(Hash::root([]), Hash::ZERO);
    }

    #[test]
    fn hex_round_trips_and_anything_else_is_refused() {
        let hash = Hash::of(b"x");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for bad in ["", "00", &"g".repeat(64), &"0".repeat(66)] {
            assert_eq!(bad.parse::<Hash>(), Err(ParseHashError));
        }
    }
}
