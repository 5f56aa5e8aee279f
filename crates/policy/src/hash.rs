//! Hashes as bytes and as words: the contract passes four big-endian words, a cursor holds 32 bytes.

use crate::types::Hash;

impl Hash {
    /// The root of an engine without segments.
    pub const ZERO: Hash = Hash { a: 0, b: 0, c: 0, d: 0 };

    /// Most significant byte first.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip([self.a, self.b, self.c, self.d]) {
            chunk.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// None unless there are 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Hash> {
        let (words, []) = bytes.as_chunks::<8>() else { return None };
        let &[a, b, c, d] = words else { return None };
        let word = u64::from_be_bytes;
        Some(Hash { a: word(a), b: word(b), c: word(c), d: word(d) })
    }

    /// The first eight hex digits: enough to find a segment in a log.
    pub fn short(self) -> String {
        let digit = |shift: u32| char::from(b"0123456789abcdef"[(self.a >> shift) as usize & 15]);
        (0..8).map(|i| digit(60 - 4 * i)).collect()
    }
}

/// As 32 bytes.
#[cfg(feature = "serde")]
impl serde::Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.to_bytes())
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        struct Bytes;

        impl serde::de::Visitor<'_> for Bytes {
            type Value = Hash;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("the 32 bytes of a hash")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Hash, E> {
                Hash::from_bytes(bytes).ok_or_else(|| E::invalid_length(bytes.len(), &self))
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_big_endian_so_that_their_order_is_that_of_the_bytes() {
        let bytes: [u8; 32] = std::array::from_fn(|i| i as u8);
        let hash = Hash::from_bytes(&bytes).unwrap();
        assert_eq!(hash.a, 0x0001_0203_0405_0607);
        assert_eq!(hash.to_bytes(), bytes);
        assert_eq!(hash.short(), "00010203");
        let mut greater = bytes;
        greater[9] += 1;
        assert!(Hash::from_bytes(&greater).unwrap() > hash);
    }

    #[test]
    fn only_32_bytes_are_a_hash() {
        for len in [0, 8, 31, 33, 40] {
            assert_eq!(Hash::from_bytes(&vec![7; len]), None, "{len} bytes");
        }
    }
}
