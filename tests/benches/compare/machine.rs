//! What a figure is worth nothing without: the day, the machine and the build. Nothing that names
//! the machine or its folders.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

/// Most memory that this process has had, in bytes; none where the system does not say.
pub fn peak_rss() -> Option<u64> {
    kib_of(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:").map(|kib| kib * 1024)
}

/// One line. What the system does not say is left out.
pub fn describe(dir: &Path) -> String {
    let parts = [Some(today()), processor(), memory(), file_system(dir), rustc(), commit()];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn today() -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    now.chars().take_while(|&c| c != 'T').collect()
}

fn processor() -> Option<String> {
    let cores = std::thread::available_parallelism().ok()?;
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or(std::env::consts::ARCH, |(_, model)| model.trim());
    Some(format!("{cores} cores of {model}"))
}

fn memory() -> Option<String> {
    let kib = kib_of(&fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")?;
    Some(format!("{:.0} GiB", kib as f64 / f64::from(1 << 20)))
}

/// The type of the file system that `dir` is on: the mount with the longest path above it.
fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let above = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        dir.starts_with(point).then_some((point.len(), kind))
    });
    above.max_by_key(|(len, _)| *len).map(|(_, kind)| kind.to_owned())
}

fn rustc() -> Option<String> {
    let version = output("rustc", &["--version"])?;
    Some(version.split(' ').take(2).collect::<Vec<_>>().join(" "))
}

fn commit() -> Option<String> {
    let commit = output("git", &["rev-parse", "--short", "HEAD"])?;
    let changed = !output("git", &["status", "--porcelain"])?.is_empty();
    Some(format!("commit {commit}{}", if changed { " with changes" } else { "" }))
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn kib_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
