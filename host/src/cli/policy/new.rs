//! `policy new`: a project to start from.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::cli::output;
use crate::kit::{Language, PolicyName, Project};

#[derive(Debug, clap::Args)]
pub(super) struct NewArgs {
    /// Name of the policy, in kebab-case; it names the package and the component too
    #[arg(value_name = "NAME")]
    name: PolicyName,
    /// What to write it in
    #[arg(long, value_name = "LANGUAGE", value_enum)]
    lang: Language,
    /// Folder of the project, new or empty [default: ./NAME]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &NewArgs) -> Result<ExitCode> {
    let NewArgs { name, lang, dir } = args;
    let dir = dir.clone().unwrap_or_else(|| name.to_string().into());
    let project = Project::new(name, *lang)?;
    project.write(&dir)?;
    let (files, folder) = (project.files().count(), dir.display());
    output::print(&format!(
        "made {folder}: a policy in {language}, {files} files; begin at {source}\n\
         next:\n  \
         cd {folder}\n  \
         ./build.sh\n  \
         edgestore-host policy check {name}.wasm\n  \
         edgestore-host policy run {name}.wasm --peer http://HOST:8900 --once --explain\n\
         the build needs {needs}; README.md says more\n",
        language = lang.name(),
        source = lang.source(),
        needs = lang.needs(),
    ))?;
    Ok(ExitCode::SUCCESS)
}
