//! Scenarios of the host's simulator as a unit test of a policy's project.
//!
//! The simulator is part of the program `edgestore-host`, not of this crate: it runs the component,
//! as it will be deployed.

use std::env;
use std::path::Path;
use std::process::Command;

/// Plays scenarios with a component, by `edgestore-host policy test`. `scenarios` are names of those
/// that ship, or files; each is played with the seeds from 1 to `seeds`.
///
/// The program is the one that the variable `EDGESTORE_HOST` names, or `edgestore-host`. Where there
/// is none, or the component is not built yet, this says so and returns; with `EDGESTORE_KIT=all` it
/// panics.
///
/// ```no_run
/// #[test]
/// fn it_converges_whatever_happens() {
///     edgestore_policy::simulate("my-sync.wasm", &["crash-and-restart"], 5);
/// }
/// ```
///
/// # Panics
/// When a run fails, with what the program said of it.
pub fn simulate(component: impl AsRef<Path>, scenarios: &[&str], seeds: u32) {
    let component = component.as_ref();
    let program = env::var("EDGESTORE_HOST").unwrap_or_else(|_| "edgestore-host".to_owned());
    if !component.exists() {
        return skipped(&format!("there is no {}: build it first", component.display()));
    }
    let mut command = Command::new(&program);
    command.args(["policy", "test"]).arg(component);
    for scenario in scenarios {
        command.args(["--scenario", scenario]);
    }
    match command.args(["--seeds", &seeds.to_string()]).output() {
        Ok(output) => assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => skipped(&format!("can't run {program}: {error}")),
    }
}

fn skipped(why: &str) {
    let all = env::var("EDGESTORE_KIT").is_ok_and(|value| value == "all");
    assert!(!all, "{why}");
    eprintln!("skipped: {why}");
}
