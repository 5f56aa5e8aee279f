//! `policy compile`, which no user types: a host starts it to compile a policy in a process that
//! may use so much and no more.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cli::exit::Status;
use crate::cli::output;
use crate::policy::{Compiler, Limits, LoadError, PolicyEngine};

#[derive(Debug, clap::Args)]
pub(super) struct CompileArgs {
    /// Most memory, in bytes
    memory: u64,
    /// Most processor time, in seconds
    time: u64,
    /// 1 where address space is limited, else 0
    small_reservation: u8,
}

pub(super) fn run(args: &CompileArgs) -> ExitCode {
    let time = Duration::from_secs(args.time);
    match Compiler::serve(args.memory, time, args.small_reservation != 0) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&format!("{error:#}"));
            Status::No.into()
        }
    }
}

/// This program, as a compiler.
pub(in crate::cli) fn compiler() -> Result<Compiler> {
    // Names the program that runs, also when an upgrade has replaced its file.
    let running = Path::new("/proc/self/exe");
    let program = match running.exists() {
        true => PathBuf::from(running),
        false => {
            env::current_exe().context("can't find this program, to compile policies by it")?
        }
    };
    Ok(Compiler::new(program, ["policy", "compile"]))
}

/// An engine that compiles by this program, and keeps what it compiled for this user.
pub(in crate::cli) fn policy_engine(limits: Limits) -> Result<PolicyEngine> {
    Ok(PolicyEngine::new(super::cache_dir().as_deref(), limits)?.compile_by(compiler()?))
}

/// As [`policy_engine`], for who tells a bad policy from a bad machine.
pub(super) fn load(component: &[u8]) -> Result<(crate::policy::Policy, bool), LoadError> {
    let engine = policy_engine(Limits::default())
        .map_err(|error| LoadError::System(format!("{error:#}")))?;
    let policy = engine.load(component)?;
    Ok((policy, engine.cache_hits() > 0))
}
