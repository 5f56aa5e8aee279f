//! Bytes of any kind, imported as JSON.

use std::collections::HashMap;

use super::super::fuzz::{MAX_ROW, columns, sound_rows};
use super::*;

/// Imports `bytes`, and has serde_json read them as well: where no row is refused, both find the
/// same keys and values.
pub(crate) fn json(bytes: &[u8]) {
    let columns = columns();
    let read = |source: &mut dyn BufRead| bounded(source, &columns, MAX_ROW).collect();
    let Some((found, text)) = sound_rows(bytes, read) else { return };

    type Object = HashMap<String, Box<RawValue>>;
    let objects: Vec<Object> = match text.trim_ascii_start().first() {
        Some(b'[') => serde_json::from_slice(&text).expect("an array of objects"),
        _ => {
            let stream = serde_json::Deserializer::from_slice(&text).into_iter();
            stream.collect::<Result<_, _>>().expect("objects")
        }
    };
    assert_eq!(found.len(), objects.len());
    for (row, object) in found.iter().zip(objects) {
        for (name, bytes) in [("key", &row.key), ("value", row.value.as_ref().expect("a put"))] {
            let written = object[name].get();
            match serde_json::from_str::<String>(written) {
                Ok(text) => assert_eq!(bytes, text.as_bytes(), "{name}"),
                Err(_) => assert_eq!(bytes, written.as_bytes(), "{name}"),
            }
        }
    }
}
