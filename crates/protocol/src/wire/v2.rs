//! The bytes of protocol version 2, which is two routes more: the manifest with what the peer knows
//! of each segment, and what has changed in it. Maps with field names; hashes and keys are `bin`.
//!
//! What is known is advice to choose by, and never verified. It is bounded like the rest: keys are
//! no longer than keys can be, and come out of a body that is within its limit.

use std::num::ParseIntError;
use std::sync::Arc;

use edgestore_engine::{
    self as engine, Engine, Extent, Hash, KeyRange, MAX_KEY, Revision, SegmentMeta, Watermark,
};
use serde::de::{self, Deserializer};
use serde::ser::{SerializeSeq as _, Serializer};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteBuf, Bytes};

use super::WatermarkBody;
use crate::{Changes, Delta, SegmentInfo, SegmentRef};

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

/// The answer to `GET /v2/changes`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ChangesBody {
    /// In hex: a JSON number can't be as large.
    epoch: String,
    seq: u64,
    root: Hash,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    watermark: Option<WatermarkBody>,
    /// Neither is there where the manifest is to be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    added: Option<Vec<SegmentBody>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retired: Option<Vec<Hash>>,
}

impl ChangesBody {
    pub(crate) fn new(changes: engine::Changes, watermark: Watermark) -> Self {
        let engine::Changes { revision, root, delta } = changes;
        let (added, retired) = delta.map(|delta| (delta.added, delta.removed)).unzip();
        let segment = |(meta, extent): (SegmentMeta, Option<Extent>)| {
            let info = extent.map(|extent| InfoBody(SegmentInfo::new(&meta, extent)));
            SegmentBody { id: meta.id, hash: meta.hash, info }
        };
        Self {
            epoch: format!("{:016x}", revision.epoch),
            seq: revision.seq,
            root,
            watermark: Some(watermark.into()),
            added: added.map(|added| added.into_iter().map(segment).collect()),
            retired,
        }
    }

    /// As where nobody knows what has changed: for what would be too long.
    pub(crate) fn without_delta(self) -> Self {
        Self { added: None, retired: None, ..self }
    }

    pub(crate) fn into_changes(self) -> Result<Changes, ParseIntError> {
        let epoch = u64::from_str_radix(&self.epoch, 16)?;
        let delta = self.added.zip(self.retired).map(|(added, removed)| Delta {
            added: added.into_iter().map(Into::into).collect(),
            removed,
        });
        Ok(Changes {
            revision: Revision { epoch, seq: self.seq },
            root: self.root,
            watermark: self.watermark.map(Into::into),
            delta,
        })
    }
}

/// One entry of it.
#[derive(Debug, Serialize, Deserialize)]
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
#[derive(Debug)]
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
