//! `policy pack`: from a core module to a component.

use std::fmt::Display;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::cli::{exit, output};
use crate::kit;
use crate::policy::PolicyEngine;

#[derive(Debug, clap::Args)]
pub(super) struct PackArgs {
    /// The core module, built with bindings of wit/sync.wit
    #[arg(value_name = "MODULE")]
    module: PathBuf,
    /// The component to write [default: MODULE with the extension .component.wasm]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &PackArgs) -> Result<ExitCode> {
    let PackArgs { module, output } = args;
    let bytes = PolicyEngine::read_file(module)?;
    let in_module = |error: &dyn Display| exit::no(format!("{}: {error}", module.display()));
    PolicyEngine::check_size(&bytes).map_err(|error| in_module(&error))?;
    let component = kit::pack(&bytes).map_err(|error| in_module(&error))?;
    let file = output.clone().unwrap_or_else(|| module.with_extension("component.wasm"));
    replace(&file, &component).with_context(|| format!("can't write {}", file.display()))?;
    let size = output::size(component.len() as u64);
    output::print(&format!("{}: {size}\n", file.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Whoever reads the file meanwhile, a host that is told to swap say, finds the old or the new one.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // As of any new file; the process's mask takes its share.
    builder.permissions(fs::Permissions::from_mode(0o666));
    let mut file = builder.prefix(".edgestore-pack-").tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.wasm");
        replace(&path, b"old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        // A folder is in the way.
        let taken = dir.path().join("taken");
        fs::create_dir(&taken).unwrap();
        fs::write(taken.join("x"), "").unwrap();
        assert!(replace(&taken, b"new").is_err());
        assert!(replace(&dir.path().join("no/such/p.wasm"), b"new").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "something is left behind");
    }
}
