//! Builds the default policy as a component, byte for byte the same on every machine.
//!
//! Four things could tell two builds apart, and are taken out of them: the toolchain (pinned in
//! `rust-toolchain.toml`), the caller's environment (cargo's and rustc's variables are not passed
//! on), the paths of sources in panic messages (remapped to names that say nothing), and the hash
//! that cargo gives each crate: it depends on the system that builds, and decides the order of
//! functions (replaced on the way to rustc).

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use wit_component::{ComponentEncoder, DecodedWasm};

const TARGET: &str = "wasm32-unknown-unknown";
const PACKAGE: &str = "guest-sync";
const PROFILE: &str = "guest";
/// The host embeds this file.
const COMPONENT: &str = "guest-sync/sync.wasm";
/// The only package a policy may import from.
const CONTRACT: &str = "edgestore:sync/";

/// Set where cargo calls this program in rustc's place.
const AS_RUSTC: &str = "EDGESTORE_XTASK_AS_RUSTC";

/// Builds and writes the component.
pub fn write() -> Result<()> {
    let component = build()?;
    let path = root().join(COMPONENT);
    fs::write(&path, &component).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{COMPONENT}: {}", describe(&component));
    Ok(())
}

/// Builds and compares with the committed component.
pub fn check() -> Result<()> {
    let built = build()?;
    let path = root().join(COMPONENT);
    let committed = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(
        built == committed,
        "{COMPONENT} is not what its sources build to\n  committed: {}\n  built:     {}\n\
         fix: run `cargo xtask guest` and commit {COMPONENT}",
        describe(&committed),
        describe(&built),
    );
    println!("{COMPONENT} is up to date: {}", describe(&built));
    Ok(())
}

fn describe(component: &[u8]) -> String {
    format!("{} bytes, BLAKE3 {}", component.len(), blake3::hash(component).to_hex())
}

fn build() -> Result<Vec<u8>> {
    install_target()?;
    let metadata = metadata()?;
    run(command("cargo")
        .args(["build", "--quiet", "--locked", "--lib"])
        .args(["--package", PACKAGE, "--profile", PROFILE, "--target", TARGET])
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&metadata)?)
        .env("RUSTC_WRAPPER", env::current_exe().context("cannot find myself")?)
        .env(AS_RUSTC, "1"))?;
    let target_dir = directory(&metadata, "target_directory")?;
    let module = target_dir.join(TARGET).join(PROFILE).join("guest_sync.wasm");
    let module = fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
    let component = ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|encoder| encoder.encode())
        .context("the module does not make a component")?;
    check_imports(&component)?;
    Ok(component)
}

/// Whether cargo calls this program in rustc's place, which [`build`] asks for.
pub fn is_rustc() -> bool {
    env::var_os(AS_RUSTC).is_some()
}

/// Runs rustc, the first argument, with the rest of them. A crate of the module is told apart from
/// others by its name and version; that is enough, since the module has each crate once.
pub fn rustc() -> Result<()> {
    let mut args = env::args_os().skip(1);
    let rustc = args.next().context("cargo names no rustc")?;
    let mut args: Vec<_> = args.collect();
    if args.iter().any(|arg| arg == TARGET) {
        let variable = |name| env::var(name).unwrap_or_default();
        let name = variable("CARGO_PKG_NAME") + "-" + &variable("CARGO_PKG_VERSION");
        for arg in &mut args {
            if arg.to_string_lossy().starts_with("metadata=") {
                *arg = format!("metadata={name}").into();
            }
        }
    }
    let status = Command::new(rustc).args(args).status().context("cannot run rustc")?;
    std::process::exit(status.code().unwrap_or(1));
}

/// A policy has no authority but what the contract gives it.
fn check_imports(component: &[u8]) -> Result<()> {
    let DecodedWasm::Component(resolve, env) = wit_component::decode(component)? else {
        bail!("the encoder made no component");
    };
    for key in resolve.worlds[env].imports.keys() {
        let name = resolve.name_world_key(key);
        ensure!(name.starts_with(CONTRACT), "{PACKAGE} imports {name}, outside of {CONTRACT}*");
    }
    Ok(())
}

fn install_target() -> Result<()> {
    let sysroot = output(command("rustc").args(["--print", "sysroot"]))?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).exists() {
        return Ok(());
    }
    match command("rustup").args(["target", "add", TARGET]).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => bail!("`rustup target add {TARGET}` failed"),
        Err(_) => bail!(
            "the toolchain has no {TARGET} target, and there is no rustup to add it\n\
             fix: install rustup from https://rustup.rs, or your system's package of this target"
        ),
    }
}

/// Flags that take this machine's paths out of the module. The last match counts in rustc, so the
/// directories inside the workspace come after it.
fn rustflags(metadata: &Value) -> Result<String> {
    let sysroot = output(command("rustc").args(["--print", "sysroot"]))?;
    let version = output(command("rustc").arg("-vV"))?;
    let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: "));
    let std_sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    let std_name = format!("/rustc/{}", commit.context("rustc names no commit")?);

    let mut paths = vec![
        (directory(metadata, "workspace_root")?, "/workspace".to_owned()),
        (directory(metadata, "target_directory")?, "/target".to_owned()),
    ];
    paths.extend(crate_dirs(metadata)?.into_iter().map(|dir| (dir, "/crates".to_owned())));
    paths.push((std_sources, std_name));

    let flags: Result<Vec<_>> = paths
        .iter()
        .map(|(from, to)| {
            let from = from.to_str().with_context(|| format!("{from:?} is not UTF-8"))?;
            Ok(format!("--remap-path-prefix={from}={to}"))
        })
        .collect();
    Ok(flags?.join("\u{1f}"))
}

/// The directories that hold the sources of dependencies, wherever cargo keeps them.
fn crate_dirs(metadata: &Value) -> Result<BTreeSet<PathBuf>> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let foreign = packages.iter().filter(|package| !package["source"].is_null());
    let manifests = foreign.filter_map(|package| package["manifest_path"].as_str());
    let parent = |manifest| Path::new(manifest).ancestors().nth(2).map(Path::to_owned);
    Ok(manifests.filter_map(parent).collect())
}

fn metadata() -> Result<Value> {
    let json = output(command("cargo").args([
        "metadata",
        "--locked",
        "--format-version=1",
        "--filter-platform",
        TARGET,
    ]))?;
    serde_json::from_str(&json).context("cannot read what cargo metadata says")
}

fn directory(metadata: &Value, key: &str) -> Result<PathBuf> {
    let path = metadata[key].as_str();
    path.map(PathBuf::from).with_context(|| format!("cargo metadata names no {key}"))
}

pub fn root() -> PathBuf {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir).to_owned()
}

/// A command in the workspace, with its toolchain and without the caller's build settings.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for (name, _) in env::vars_os() {
        if is_build_setting(&name) {
            command.env_remove(name);
        }
    }
    command
}

fn is_build_setting(name: &OsStr) -> bool {
    const OURS: [&str; 4] = ["CARGO", "RUST", "WIT_BINDGEN", "SOURCE_DATE_EPOCH"];
    const KEPT: [&str; 8] = [
        "CARGO_HOME",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_JOBS",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "RUSTUP_HOME",
        "RUSTUP_DIST_SERVER",
    ];
    let name = name.to_string_lossy();
    let starts = |prefix: &&str| name.starts_with(*prefix);
    OURS.iter().any(starts) && !KEPT.iter().any(starts)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "the build of {PACKAGE} failed");
    Ok(())
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(output.status.success(), "{:?} failed", command.get_program());
    String::from_utf8(output.stdout).context("its output is not UTF-8")
}
