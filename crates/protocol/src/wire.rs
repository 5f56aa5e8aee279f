//! The bytes of protocol version 1: MessagePack maps with field names, a hash
//! as an array of 32 integers. Those of version 2 are in `v2`.
//!
//! What is written here is byte for byte what `edgestore-repl` 2.2 writes. What
//! is read is more: maps or arrays for the structs, `bin` or an array of
//! integers for a hash. Nothing here allocates by a length that came over the
//! wire, and a hash is never copied through a `Vec`.

mod v2;

use std::fmt;
use std::io::Read;
use std::marker::PhantomData;

use edgestore_engine::{Hash, SegmentMeta, Watermark};
use rmp_serde::decode::ReadRefReader;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

#[cfg(any(test, feature = "testing"))]
pub(super) use self::v2::fuzz;
pub(super) use self::v2::{ChangesBody, ManifestBody};
use super::list::{ListBounds, ListBuilder, MAX_ENTRIES};
use super::{SegmentList, SegmentRef};

/// Nesting of lists and maps. The crate's own limit of 1024 is enough for a peer
/// to overflow the stack of a thread by a field that is skipped.
const MAX_DEPTH: usize = 16;

/// The answer to `GET /merkle`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MerkleBody {
    pub(super) root: WireHash,
}

/// The answer to `GET /watermark`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WatermarkBody {
    pub(super) confirmed_lsn: u64,
    pub(super) wtoken: u64,
}

/// One entry of the answer to `GET /segments`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SegmentEntry {
    pub(super) segment_id: u64,
    pub(super) segment_hash: WireHash,
}

impl From<Watermark> for WatermarkBody {
    fn from(watermark: Watermark) -> Self {
        Self { confirmed_lsn: watermark.confirmed_lsn, wtoken: watermark.write_token }
    }
}

impl From<WatermarkBody> for Watermark {
    fn from(body: WatermarkBody) -> Self {
        Self { confirmed_lsn: body.confirmed_lsn, write_token: body.wtoken }
    }
}

impl From<SegmentEntry> for SegmentRef {
    fn from(entry: SegmentEntry) -> Self {
        Self { hash: entry.segment_hash.0, id: entry.segment_id, info: None }
    }
}

impl From<&SegmentMeta> for SegmentEntry {
    fn from(meta: &SegmentMeta) -> Self {
        Self { segment_id: meta.id, segment_hash: WireHash(meta.hash) }
    }
}

/// A hash as the wire has it. `Hash` itself serializes as `bin`, which the
/// published client can't read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WireHash(pub(super) Hash);

impl Serialize for WireHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.as_bytes())
    }
}

impl<'de> Deserialize<'de> for WireHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(HashVisitor)
    }
}

struct HashVisitor;

impl<'de> Visitor<'de> for HashVisitor {
    type Value = WireHash;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a hash of 32 bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<WireHash, E> {
        Hash::try_from(bytes).map(WireHash).map_err(|_| wrong_length(bytes.len()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<WireHash, A::Error> {
        let mut bytes = [0; 32];
        let mut len = 0;
        while let Some(byte) = seq.next_element::<u8>()? {
            if let Some(slot) = bytes.get_mut(len) {
                *slot = byte;
            }
            len += 1;
        }
        if len != bytes.len() {
            return Err(wrong_length(len));
        }
        Ok(WireHash(Hash::from_bytes(bytes)))
    }
}

fn wrong_length<E: de::Error>(len: usize) -> E {
    E::custom(format_args!("a hash has 32 bytes, this one has {len}"))
}

/// Encodes a body as the published server does.
pub(super) fn encode<T: Serialize>(body: &T) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    rmp_serde::to_vec_named(body)
}

/// Decodes a struct in either form. Bytes after it are ignored, as the
/// published client ignores them.
pub(super) fn decode<'de, T: Deserialize<'de>>(
    body: &'de [u8],
) -> Result<T, rmp_serde::decode::Error> {
    T::deserialize(&mut deserializer(body))
}

fn deserializer(body: &[u8]) -> rmp_serde::Deserializer<ReadRefReader<'_, [u8]>> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(body);
    deserializer.set_max_depth(MAX_DEPTH);
    deserializer
}

/// Reads a manifest of version 1 as it comes: the peer's order, each hash once.
pub(super) fn read_manifest(
    from: impl Read,
    bounds: ListBounds,
) -> Result<SegmentList, rmp_serde::decode::Error> {
    read_entries::<SegmentEntry>(from, bounds)
}

/// [`read_manifest`] for version 2.
pub(super) fn read_manifest_v2(
    from: impl Read,
    bounds: ListBounds,
) -> Result<SegmentList, rmp_serde::decode::Error> {
    read_entries::<v2::SegmentBody>(from, bounds)
}

fn read_entries<E: DeserializeOwned + Into<SegmentRef>>(
    from: impl Read,
    bounds: ListBounds,
) -> Result<SegmentList, rmp_serde::decode::Error> {
    let mut deserializer = rmp_serde::Deserializer::new(from);
    deserializer.set_max_depth(MAX_DEPTH);
    ManifestSeed::<E> { bounds, entry: PhantomData }.deserialize(&mut deserializer)
}

/// Reads a list of entries `E`.
struct ManifestSeed<E> {
    bounds: ListBounds,
    entry: PhantomData<E>,
}

impl<'de, E: Deserialize<'de> + Into<SegmentRef>> DeserializeSeed<'de> for ManifestSeed<E> {
    type Value = SegmentList;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, E: Deserialize<'de> + Into<SegmentRef>> Visitor<'de> for ManifestSeed<E> {
    type Value = SegmentList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of segments")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = ListBuilder::new(self.bounds.infos);
        while let Some(entry) = seq.next_element::<E>()? {
            let most = self.bounds.entries;
            if list.len() == most {
                let why = match most {
                    MAX_ENTRIES => "",
                    _ => ", and there is no memory for more (--memory-budget)",
                };
                return Err(de::Error::custom(format_args!(
                    "the manifest has more than {most} entries{why}"
                )));
            }
            list.push(entry.into());
        }
        Ok(list.finish())
    }
}

#[cfg(test)]
mod tests;
