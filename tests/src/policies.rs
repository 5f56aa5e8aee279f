//! The policies of `examples/` as components, built when a test first wants one.
//!
//! They are built with the toolchain of the workspace into `target/policies`. The first build takes a
//! minute; later ones only look whether anything changed. Where the toolchain has no target for
//! WebAssembly and can't get it, tests skip themselves, or fail where `EDGESTORE_KIT=all` is set.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use wit_component::ComponentEncoder;

const TARGET: &str = "wasm32-unknown-unknown";
const PROFILE: &str = "guest";

/// The component of the example of this name. None where it can't be built here, which is said on
/// stderr.
///
/// # Panics
/// When the build fails, or can't begin and `EDGESTORE_KIT=all` is set.
pub fn example(name: &str) -> Option<PathBuf> {
    let packages = examples();
    assert!(packages.iter().any(|package| package == name), "no {name} among {packages:?}");
    let components = components(&packages)?;
    Some(components.join(name).with_extension("wasm"))
}

/// The names of all examples.
fn examples() -> Vec<String> {
    let folders = fs::read_dir(root().join("examples")).expect("the folder of examples");
    let folders = folders.map(|entry| entry.expect("an entry").path());
    let crates = folders.filter(|folder| folder.join("Cargo.toml").exists());
    let name = |path: PathBuf| Some(path.file_name()?.to_str()?.to_owned());
    let mut names: Vec<_> = crates.filter_map(name).collect();
    names.sort();
    names
}

/// Builds these packages of the workspace. Returns the folder in which the component of each is, as
/// `NAME.wasm`; none as in [`example`].
///
/// # Panics
/// As [`example`].
pub fn components(packages: &[String]) -> Option<PathBuf> {
    let folder = target_folder().join("policies");
    fs::create_dir_all(&folder).expect("a folder for components");
    // Tests are processes of their own, and one build is enough. The lock ends with the file.
    let lock = File::create(folder.join("lock")).expect("a file to lock");
    lock.lock().expect("a lock");
    if let Err(why) = ready_target() {
        let strict = env::var("EDGESTORE_KIT").is_ok_and(|value| value == "all");
        assert!(!strict, "{why}, and EDGESTORE_KIT=all");
        eprintln!("skipped: {why}");
        return None;
    }
    let mut cargo = command(&env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    cargo.args(["build", "--quiet", "--locked", "--lib", "--target", TARGET]);
    cargo.args(["--profile", PROFILE, "--target-dir"]).arg(&folder);
    for package in packages {
        cargo.args(["--package", package]);
    }
    let output = cargo.output().expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for package in packages {
        let module = package.replace('-', "_") + ".wasm";
        let module = folder.join(TARGET).join(PROFILE).join(module);
        let component = folder.join(package).with_extension("wasm");
        if !is_newer(&component, &module) {
            encode(&module, &component);
        }
    }
    Some(folder)
}

fn encode(module: &Path, component: &Path) {
    let bytes = fs::read(module).expect("what cargo built");
    let bytes = ComponentEncoder::default()
        .validate(true)
        .module(&bytes)
        .and_then(|encoder| encoder.encode())
        .expect("a component");
    // A test that was killed half way must not leave half a component.
    let unfinished = component.with_extension("unfinished");
    fs::write(&unfinished, bytes).expect("room for it");
    fs::rename(&unfinished, component).expect("a rename");
}

fn is_newer(file: &Path, than: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    modified(file) > modified(than)
}

/// Sees to it that the toolchain builds for WebAssembly; or why it can't.
fn ready_target() -> Result<(), String> {
    let sysroot = command("rustc").args(["--print", "sysroot"]).output();
    let sysroot = sysroot.map_err(|error| format!("can't run rustc: {error}"))?.stdout;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot).trim());
    if sysroot.join("lib/rustlib").join(TARGET).exists() {
        return Ok(());
    }
    let added = command("rustup").args(["target", "add", TARGET]).output();
    match added {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(format!("the toolchain has no target {TARGET}, and rustup can't add it")),
    }
}

/// A command in the workspace, without what the caller's build was told.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for setting in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_WRAPPER"] {
        command.env_remove(setting);
    }
    command
}

fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// Of the tests: they are in `debug/deps` of it.
fn target_folder() -> PathBuf {
    let test = env::current_exe().expect("a path of this program");
    test.ancestors().nth(3).expect("a folder of cargo's").to_owned()
}
