//! Bytes of any kind, imported as JSON.

use std::collections::HashMap;
use std::io::BufReader;

use super::super::source::begin;
use super::*;

/// Imports `bytes`, and has serde_json read them as well: where no row is refused, both find the
/// same keys and values.
pub(crate) fn json(bytes: &[u8]) {
    let columns = Columns { ns: "n".to_owned(), ..Columns::default() };
    let rows = |capacity| -> Vec<_> {
        let source = BufReader::with_capacity(capacity, bytes);
        let (source, _) = begin(source).expect("memory can be read");
        bounded(source, &columns, 10_000).collect()
    };
    let found = rows(1 << 16);
    assert_eq!(found, rows(3), "what is read at a time makes a difference");
    let problem = found.iter().position(Result::is_err);
    assert!(problem.is_none_or(|at| at + 1 == found.len()), "rows follow a problem");
    if problem.is_some() {
        return;
    }

    let (mut source, _) = begin(bytes).expect("memory can be read");
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut source, &mut text).expect("memory can be read");
    type Object = HashMap<String, Box<RawValue>>;
    let objects: Vec<Object> = match text.trim_ascii_start().first() {
        Some(b'[') => serde_json::from_slice(&text).expect("an array of objects"),
        _ => {
            let stream = serde_json::Deserializer::from_slice(&text).into_iter();
            stream.collect::<Result<_, _>>().expect("objects")
        }
    };
    assert_eq!(found.len(), objects.len());
    for (row, object) in found.iter().flatten().zip(objects) {
        for (name, bytes) in [("key", &row.1.key), ("value", row.1.value.as_ref().expect("a put"))]
        {
            let written = object[name].get();
            match serde_json::from_str::<String>(written) {
                Ok(text) => assert_eq!(bytes, text.as_bytes(), "{name}"),
                Err(_) => assert_eq!(bytes, written.as_bytes(), "{name}"),
            }
        }
    }
}
