//! Builds the fuzz targets and has each read its corpus. To look for new inputs takes cargo-fuzz and
//! a nightly compiler: see CONTRIBUTING.md.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::guest::{command, root};

const PACKAGE: &str = "edgestore-fuzz";
/// Quick to compile, and in a folder of its own: with other flags, everything is built anew.
const PROFILE: &str = "fuzz-check";

/// Builds and runs them all.
pub fn run() -> Result<()> {
    let folder = root().join("target/fuzz");
    let built = command("cargo")
        .args(["build", "--locked", "--bins", "--package", PACKAGE, "--profile", PROFILE])
        .arg("--target-dir")
        .arg(&folder)
        .env("RUSTFLAGS", "--cfg fuzzing")
        .status()
        .context("cannot run cargo")?;
    ensure!(built.success(), "the fuzz targets do not build");

    for corpus in sorted(&root().join("fuzz/corpus"))? {
        let name = corpus.file_name().unwrap_or_default();
        let inputs = sorted(&corpus)?;
        let mut target = Command::new(folder.join(PROFILE).join(name));
        let output = target.args(&inputs).output();
        let output = output.with_context(|| format!("no fuzz target {}", name.display()))?;
        ensure!(
            output.status.success(),
            "{} fails on its corpus\n{}",
            name.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        println!("{}: {} inputs", name.display(), inputs.len());
    }
    Ok(())
}

fn sorted(folder: &PathBuf) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()));
    let mut paths: Vec<_> =
        entries?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    paths.sort();
    Ok(paths)
}
