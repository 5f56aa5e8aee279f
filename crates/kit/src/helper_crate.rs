//! The helper crate of Rust policies, as it stands in a project. It is on no registry, so its
//! sources go with the program; its manifest is made of the one in this workspace, with the
//! versions that stand there.

use include_dir::{Dir, include_dir};
use toml::{Table, Value};

use super::KitError;

static SOURCES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../policy/src");
const MANIFEST: &str = include_str!("../../policy/Cargo.toml");
const WORKSPACE: &str = include_str!("../../../Cargo.toml");

/// Where the crate finds the contract in this repository, and in a project.
const WIT_HERE: &str = "path: \"../../wit\"";
const WIT_THERE: &str = "path: \"../wit\"";

/// Its files, with their paths in it.
pub(super) fn files() -> Result<Vec<(String, Vec<u8>)>, KitError> {
    let broken = |error: toml::de::Error| KitError::Broken(format!("a manifest: {error}"));
    let manifest =
        standalone(MANIFEST.parse().map_err(broken)?, &WORKSPACE.parse().map_err(broken)?)?;
    let mut files = vec![("Cargo.toml".to_owned(), manifest.into_bytes())];
    collect(&SOURCES, &mut files);
    // In a project, the contract lies beside the crate.
    for (_, contents) in &mut files {
        if let Ok(text) = str::from_utf8(contents) {
            *contents = text.replace(WIT_HERE, WIT_THERE).into_bytes();
        }
    }
    Ok(files)
}

fn collect(dir: &Dir<'_>, files: &mut Vec<(String, Vec<u8>)>) {
    for file in dir.files() {
        let path = format!("src/{}", file.path().display());
        files.push((path, file.contents().to_owned()));
    }
    dir.dirs().for_each(|dir| collect(dir, files));
}

/// The manifest without its workspace: what it takes from there stands in it, and what is of no use
/// outside, its tests and lints, does not.
fn standalone(mut manifest: Table, workspace: &Table) -> Result<String, KitError> {
    let workspace = workspace.get("workspace").and_then(Value::as_table);
    let shared = |table: &str| workspace?.get(table)?.as_table();
    manifest.remove("dev-dependencies");
    manifest.remove("lints");
    for table in ["package", "dependencies"] {
        let Some(Value::Table(entries)) = manifest.get_mut(table) else { continue };
        for (key, value) in entries {
            inherit(key, value, shared(table))?;
        }
    }
    toml::to_string(&manifest).map_err(|error| KitError::Broken(error.to_string()))
}

/// Replaces `{ workspace = true, .. }` by what the workspace says of `key`, and what stands beside
/// it.
fn inherit(key: &str, value: &mut Value, shared: Option<&Table>) -> Result<(), KitError> {
    let Value::Table(own) = value else { return Ok(()) };
    if own.remove("workspace").is_none() {
        return Ok(());
    }
    let missing = || KitError::Broken(format!("the workspace says nothing of {key}"));
    let inherited = shared.and_then(|shared| shared.get(key)).ok_or_else(missing)?;
    if own.is_empty() {
        *value = inherited.clone();
        return Ok(());
    }
    let mut merged = match inherited {
        Value::Table(table) => table.clone(),
        version => Table::from_iter([("version".to_owned(), version.clone())]),
    };
    for (key, value) in std::mem::take(own) {
        match (merged.get_mut(&key), value) {
            // Features add up.
            (Some(Value::Array(all)), Value::Array(more)) => all.extend(more),
            (_, value) => {
                merged.insert(key, value);
            }
        }
    }
    *value = merged.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_stands_alone_with_the_versions_of_the_workspace() {
        let workspace = r#"
            [workspace.package]
            edition = "2024"
            [workspace.dependencies]
            plain = "1"
            full = { version = "2", default-features = false, features = ["a"] }
        "#;
        let manifest = r#"
            [package]
            name = "x"
            edition.workspace = true
            [dependencies]
            plain = { workspace = true, optional = true }
            full = { workspace = true, features = ["b"] }
            [dev-dependencies]
            gone.workspace = true
            [lints]
            workspace = true
        "#;
        let made = standalone(manifest.parse().unwrap(), &workspace.parse().unwrap()).unwrap();
        let made: Table = made.parse().unwrap();
        let expected = r#"
            [package]
            name = "x"
            edition = "2024"
            [dependencies]
            plain = { version = "1", optional = true }
            full = { version = "2", default-features = false, features = ["a", "b"] }
        "#;
        assert_eq!(made, expected.parse().unwrap());

        let unknown = "[dependencies]\nother.workspace = true".parse().unwrap();
        let error = standalone(unknown, &workspace.parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("other"), "{error}");
    }

    #[test]
    fn the_crate_goes_with_all_its_sources_and_needs_no_workspace() {
        let files = files().unwrap();
        let (name, manifest) = &files[0];
        assert_eq!(name, "Cargo.toml");
        assert!(!String::from_utf8_lossy(manifest).contains("workspace"));
        let mut left = vec![std::path::PathBuf::from("src")];
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../policy");
        let mut on_disk = 0;
        while let Some(dir) = left.pop() {
            for entry in std::fs::read_dir(root.join(&dir)).unwrap() {
                let entry = entry.unwrap();
                let path = dir.join(entry.file_name());
                if entry.file_type().unwrap().is_dir() {
                    left.push(path);
                    continue;
                }
                on_disk += 1;
                let name = path.display().to_string();
                assert!(files.iter().any(|(file, _)| *file == name), "{name} is missing");
            }
        }
        assert_eq!(files.len(), on_disk + 1);
    }
}
