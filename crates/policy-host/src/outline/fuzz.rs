//! Bytes of any kind, looked at as a component before it is compiled.

use super::*;

/// Reads what `bytes` import, export and start.
pub fn component(bytes: &[u8]) {
    let nested = check::nesting(bytes);
    let Ok(outline) = Outline::of(bytes) else { return };
    if outline.check().is_ok() {
        let spoken = |name: &String| name.starts_with("edgestore:sync/");
        assert!(outline.imports.iter().all(spoken), "{outline:?}");
        assert!(outline.exports.iter().any(spoken), "{outline:?}");
    }
    if let Err(error) = nested {
        assert!(!error.to_string().is_empty());
    }
}
