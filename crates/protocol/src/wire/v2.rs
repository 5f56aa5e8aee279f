//! The bytes of protocol version 2, which is one route more: the manifest with what the peer knows
//! of each segment. Maps with field names; hashes and keys are `bin`.
//!
//! What is known is advice to choose by, and never verified. It is bounded like the rest: keys are
//! no longer than keys can be, and come out of a body that is within its limit.

use std::sync::Arc;

use edgestore_engine::{Engine, Hash, KeyRange, MAX_KEY};
use serde::de::{self, Deserializer};
use serde::ser::{SerializeSeq as _, Serializer};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteBuf, Bytes};

use crate::{SegmentInfo, SegmentRef};

/// The answer to `GET /v2/segments`, encoded as the engine reads it.
pub(crate) struct ManifestBody(pub(crate) Arc<Engine>);

impl Serialize for ManifestBody {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let segments = self.0.extents();
        let mut list = serializer.serialize_seq(Some(segments.len()))?;
        for (meta, extent) in segments {
            let info = extent.map(|extent| InfoBody(SegmentInfo::new(&meta, extent)));
            list.serialize_element(&SegmentBody { id: meta.id, hash: meta.hash, info })?;
        }
        list.end()
    }
}

/// One entry of it.
#[derive(Serialize, Deserialize)]
pub(super) struct SegmentBody {
    id: u64,
    hash: Hash,
    /// What the peer knows, all or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    info: Option<InfoBody>,
}

impl From<SegmentBody> for SegmentRef {
    fn from(SegmentBody { id, hash, info }: SegmentBody) -> Self {
        Self { hash, id, info: info.map(|InfoBody(info)| Box::new(info)) }
    }
}

/// [`SegmentInfo`] on the wire.
struct InfoBody(SegmentInfo);

#[derive(Serialize, Deserialize)]
struct InfoFields<B> {
    size: u64,
    records: u64,
    newest_ms: u64,
    created_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys: Option<KeysBody<B>>,
}

/// Each end is a namespace and a key.
#[derive(Serialize, Deserialize)]
struct KeysBody<B> {
    first: (B, B),
    last: (B, B),
}

impl Serialize for InfoBody {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let SegmentInfo { size, records, newest_ms, created_ms, keys } = &self.0;
        let end = |(ns, key)| (Bytes::new(ns), Bytes::new(key));
        let keys = keys.as_ref();
        let keys = keys.map(|keys| KeysBody { first: end(keys.first()), last: end(keys.last()) });
        let (size, records, newest_ms, created_ms) = (*size, *records, *newest_ms, *created_ms);
        InfoFields { size, records, newest_ms, created_ms, keys }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for InfoBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let InfoFields { size, records, newest_ms, created_ms, keys } =
            InfoFields::<ByteBuf>::deserialize(deserializer)?;
        let range = |KeysBody { first, last }: KeysBody<ByteBuf>| {
            KeyRange::new((&first.0, &first.1), (&last.0, &last.1)).ok_or_else(|| {
                de::Error::custom(format_args!("a key of more than {MAX_KEY} bytes"))
            })
        };
        let keys = keys.map(range).transpose()?;
        Ok(Self(SegmentInfo { size, records, newest_ms, created_ms, keys }))
    }
}

#[cfg(any(test, feature = "testing"))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests;
