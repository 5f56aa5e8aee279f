//! `policy check`: what can be said of a policy without a peer, step by step, up to the first step
//! that fails.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::describe::Loaded;
use super::trace::Calls;
use crate::cli::{args, output};
use crate::policy::{self, LoadError, Outline, PolicyEngine, TickReport};

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// What is to be a policy
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A setting for the policy; may be given many times
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = args::setting)]
    settings: Vec<(String, String)>,
    /// Prints a JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckArgs) -> Result<ExitCode> {
    let mut check = Check { quiet: args.json, steps: Vec::new(), policy: json!(null) };
    let passed = check.run(&args.file, &args.settings)?;
    if args.json {
        let Check { steps, policy, .. } = check;
        let file = args.file.display().to_string();
        let value = json!({ "file": file, "ok": passed, "steps": steps, "policy": policy });
        output::print_json(&format!("{value:#}\n"))?;
    } else if passed {
        output::print("it is a policy that works\n")?;
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Check {
    /// Whether the steps are printed at the end only.
    quiet: bool,
    steps: Vec<serde_json::Value>,
    policy: serde_json::Value,
}

impl Check {
    /// Whether all steps passed. Fails where this machine is to blame.
    fn run(&mut self, file: &Path, settings: &[(String, String)]) -> Result<bool> {
        let read = match PolicyEngine::read_file(file) {
            // What can't be read may be a policy or not.
            Err(error @ LoadError::Io { .. }) => {
                self.failed("readable", &error)?;
                return Err(error.into());
            }
            read => read,
        };
        let Some(component) =
            self.step("readable", read, |bytes| output::size(bytes.len() as u64))?
        else {
            return Ok(false);
        };
        let outline = Outline::of(&component);
        let outline = match outline {
            Err(error @ LoadError::NotWasm) => {
                self.failed("WebAssembly", &error)?;
                return Ok(false);
            }
            outline => outline,
        };
        self.passed("WebAssembly", "", &[])?;
        let Some(outline) = self.step("a component", outline, |_| String::new())? else {
            return Ok(false);
        };
        match outline.check() {
            Err(error @ LoadError::MissingExport) => {
                self.imports(&outline)?;
                self.failed("exports", &error)?;
                return Ok(false);
            }
            Err(error) => {
                self.failed("imports", &error)?;
                return Ok(false);
            }
            Ok(()) => self.imports(&outline)?,
        }
        self.passed("exports", "", &outline.exports)?;

        let loaded = match Loaded::new(&component) {
            Err(error @ LoadError::System(_)) => return Err(error.into()),
            Err(error) if is_of_describe(&error) => {
                self.passed("compiles", "", &[])?;
                self.failed("describe", &error)?;
                return Ok(false);
            }
            loaded => loaded,
        };
        let Some(loaded) = self.step("compiles", loaded, Loaded::words)? else {
            return Ok(false);
        };
        self.policy = loaded.json(component.len(), &outline);
        let policy = &loaded.policy;
        let (name, version, schema) = (policy.name(), policy.version(), policy.cursor_schema());
        self.passed("describe", &format!("{name} {version}, cursor schema {schema}"), &[])?;
        self.dry_run(&loaded, settings)
    }

    /// One tick, and what it asked of the host.
    fn dry_run(&mut self, loaded: &Loaded, settings: &[(String, String)]) -> Result<bool> {
        let dir = tempfile::Builder::new().prefix("edgestore-check-").tempdir();
        let dir = dir.context("can't make a temporary folder")?;
        let calls = Arc::new(Calls::default());
        let observer = Some(Arc::clone(&calls) as _);
        let dry_run = policy::dry_run(&loaded.policy, dir.path(), settings.to_vec(), observer);
        let calls = calls.lines();
        match dry_run {
            Err(error @ policy::RehearsalError::Stage(_)) => Err(error.into()),
            Err(error) => {
                self.show(&calls)?;
                self.failed("a tick", &error)?;
                Ok(false)
            }
            Ok(dry_run) => {
                let words = told(&dry_run.report, dry_run.pulled, dry_run.offered);
                self.passed("a tick", &words, &calls)?;
                Ok(true)
            }
        }
    }

    fn imports(&mut self, outline: &Outline) -> Result<()> {
        self.passed("imports", "nothing but the contract", &outline.imports)
    }

    /// The value, where there is one.
    fn step<T, E: Display>(
        &mut self,
        name: &str,
        result: Result<T, E>,
        words: impl FnOnce(&T) -> String,
    ) -> Result<Option<T>> {
        match result {
            Ok(value) => {
                self.passed(name, &words(&value), &[])?;
                Ok(Some(value))
            }
            Err(error) => {
                self.failed(name, &error)?;
                Ok(None)
            }
        }
    }

    fn passed(&mut self, name: &str, words: &str, details: &[String]) -> Result<()> {
        self.steps.push(json!({ "step": name, "ok": true, "note": words, "details": details }));
        self.say(format!("✓ {name:<12} {words}").trim_end())?;
        self.show(details)
    }

    fn failed(&mut self, name: &str, error: &dyn Display) -> Result<()> {
        let error = error.to_string();
        self.steps.push(json!({ "step": name, "ok": false, "error": error }));
        self.say(&format!("✗ {name:<12} {error}"))
    }

    fn show(&self, details: &[String]) -> Result<()> {
        details.iter().try_for_each(|line| self.say(&format!("    {line}")))
    }

    /// At once: to compile may take a while.
    fn say(&self, line: &str) -> Result<()> {
        if !self.quiet {
            output::print(&format!("{line}\n"))?;
        }
        Ok(())
    }
}

/// Whether the component compiled, and failed when it was asked who it is.
fn is_of_describe(error: &LoadError) -> bool {
    matches!(
        error,
        LoadError::Describe(_) | LoadError::Description { .. } | LoadError::Memory { .. }
    )
}

/// What a tick reported, and what the host saw of it.
fn told(report: &TickReport, pulled: u32, offered: u32) -> String {
    let in_sync = if report.in_sync { "in sync" } else { "not in sync" };
    let mut text = format!("pulled {pulled} of {offered} segments of a made-up peer, {in_sync}");
    if report.failed > 0 {
        text += &format!(", {} failed", report.failed);
    }
    if report.in_sync && pulled < offered {
        text += "; it says that it is in sync and is not: report `in-sync` when nothing is pending";
    }
    text
}
