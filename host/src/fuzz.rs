//! What reads bytes that others have made, for `fuzz/` to feed: each of these takes any bytes, and
//! panics where something that must hold does not.

/// Reads bytes.
pub type Target = fn(&[u8]);

/// By name, which is also that of the target's corpus in `fuzz/corpus/`.
pub const TARGETS: [(&str, Target); 9] = [
    ("adapters", crate::policy::fuzz_adapters),
    ("admin", crate::admin::fuzz::admin),
    ("component", crate::policy::fuzz_component),
    ("csv", crate::cli::fuzz_csv),
    ("cursor", crate::runtime::fuzz_cursor),
    ("json", crate::cli::fuzz_json),
    ("manifest", crate::protocol::fuzz_manifest),
    ("scenario", crate::sim::fuzz_scenario),
    ("segment", crate::engine::fuzz_segment),
];

/// Reads `bytes` by the target of this name.
///
/// # Panics
/// When there is none, or when something does not hold.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    let (_, target) = target.unwrap_or_else(|| panic!("no fuzz target is called {name}"));
    target(bytes);
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::path::Path;

    use super::*;

    #[test]
    fn corpus_of_each_target_passes() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for (name, target) in TARGETS {
            let files: Vec<_> = std::fs::read_dir(corpus.join(name)).unwrap().collect();
            assert!(files.len() > 1, "{name} has no corpus");
            for file in files {
                let path = file.unwrap().path();
                let bytes = std::fs::read(&path).unwrap();
                assert!(catch_unwind(|| target(&bytes)).is_ok(), "{name}: {}", path.display());
            }
        }
    }
}
