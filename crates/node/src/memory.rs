//! The memory that a host may take, and the shares that its parts have of it.

use std::fs;
use std::path::{Path, PathBuf};

use edgestore_engine::EngineOptions;
use serde::{Deserialize, Serialize};

/// What a host may take of memory, in bytes.
///
/// Its parts are bounded by shares of it. Together these are the whole: what the program itself takes,
/// some 30 MiB, is made up for by shares that are not used up at the same time. An instance of a
/// policy and the compiler of policies have limits of their own ([`edgestore_policy_host::Limits`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryBudget(u64);

const MIB: u64 = 1 << 20;

/// The memory of a host at one moment, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemoryUse {
    /// What its parts share.
    pub budget: u64,
    /// What the process has now; `None` where the system does not say.
    pub resident: Option<u64>,
}

impl MemoryUse {
    pub(super) fn now(budget: MemoryBudget) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Self { budget: budget.0, resident: kib.map(|kib| kib * 1024) }
    }
}

impl MemoryBudget {
    /// Where nothing says how much there is.
    pub const DEFAULT: Self = Self(256 * MIB);
    /// A host takes no less.
    pub const LEAST: Self = Self(64 * MIB);

    /// So many bytes; none where that is less than [`MemoryBudget::LEAST`].
    pub fn new(bytes: u64) -> Option<Self> {
        (bytes >= Self::LEAST.0).then_some(Self(bytes))
    }

    /// As much as the control group of this process may take, its parents included, and at least
    /// [`MemoryBudget::LEAST`]; [`MemoryBudget::DEFAULT`] where it is in none that is bounded.
    pub fn of_this_process() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let least = limit_files(&groups).filter_map(|file| limit(&file)).min();
        least.map_or(Self::DEFAULT, |bytes| Self(bytes.max(Self::LEAST.0)))
    }

    /// The whole.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// For the lists of segments of all peers.
    pub fn lists(self) -> u64 {
        self.0 / 8 * 3
    }

    /// For the manifests that are sent to peers.
    pub fn manifests(self) -> u64 {
        self.0 / 16
    }

    /// Sets the shares of the engine. More than the least memory makes the caches larger, and nothing
    /// else beyond its default.
    pub fn share(self, options: &mut EngineOptions) {
        let default = EngineOptions::default();
        options.cache_bytes = self.0 / 8;
        options.filter_bytes = usize::try_from((self.0 / 16).min(256 * MIB)).unwrap_or(usize::MAX);
        options.memtable_bytes = (self.0 / 16).min(default.memtable_bytes);
        options.prepared_bytes = (self.0 / 4).min(default.prepared_bytes);
    }
}

/// Where the limits of a process may be, by its `/proc/self/cgroup`: a line for each hierarchy, as
/// `0::/path` (version 2) or `4:memory:/path` (version 1). Each folder above bounds it as well. In a
/// container the path may be that outside of it, and the limit is in the root.
fn limit_files(groups: &str) -> impl Iterator<Item = PathBuf> {
    let hierarchy = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            some if some.split(',').any(|one| one == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let folders = Path::new(path.trim_start_matches('/')).ancestors();
        let files = folders.map(|folder| Path::new(root).join(folder).join(file));
        Some(files.collect::<Vec<_>>())
    };
    groups.lines().filter_map(hierarchy).flatten().collect::<Vec<_>>().into_iter()
}

/// The limit in this file; none where it says that there is none: `max`, or more than any machine has.
fn limit(file: &Path) -> Option<u64> {
    let bytes = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    (bytes < 1 << 60).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_both_versions_are_looked_for_up_to_the_root() {
        let files = |groups| limit_files(groups).collect::<Vec<_>>();
        let text = |groups| files(groups).iter().map(|file| file.display().to_string()).collect();
        let v2: Vec<String> = text("0::/a.slice/b.service\n");
        assert_eq!(
            v2,
            [
                "/sys/fs/cgroup/a.slice/b.service/memory.max",
                "/sys/fs/cgroup/a.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        let v1: Vec<String> = text("3:cpu,cpuacct:/x\n2:memory:/docker/1\n1:name=systemd:/\n");
        assert_eq!(v1.len(), 3);
        assert_eq!(v1[0], "/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes");
        assert_eq!(v1[2], "/sys/fs/cgroup/memory/memory.limit_in_bytes");
        assert!(files("").is_empty() && files("nonsense\n0:\n").is_empty());
    }

    #[test]
    fn limit_is_a_number_of_bytes_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("memory.max");
        for (text, expected) in [
            ("268435456\n", Some(256 * MIB)),
            ("max\n", None),
            // That of version 1 without a limit.
            ("9223372036854771712\n", None),
            ("", None),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(limit(&file), expected, "{text:?}");
        }
        assert_eq!(limit(&dir.path().join("none")), None);
    }

    #[test]
    fn shares_are_the_defaults_at_the_default_and_never_more_than_the_whole() {
        let default = EngineOptions::default();
        for mib in [64, 100, 256, 1024, 100_000] {
            let budget = MemoryBudget::new(mib * MIB).unwrap();
            let mut options = EngineOptions::default();
            budget.share(&mut options);
            let EngineOptions { cache_bytes, memtable_bytes, prepared_bytes, .. } = options;
            let filter_bytes = options.filter_bytes as u64;
            let engine = cache_bytes + filter_bytes + 2 * memtable_bytes + prepared_bytes;
            assert!(engine + budget.lists() + budget.manifests() <= budget.bytes(), "{mib} MiB");
            if budget == MemoryBudget::DEFAULT {
                assert_eq!(cache_bytes, default.cache_bytes);
                assert_eq!(options.filter_bytes, default.filter_bytes);
                assert_eq!(memtable_bytes, default.memtable_bytes);
                assert_eq!(prepared_bytes, default.prepared_bytes);
            }
        }
        assert_eq!(MemoryBudget::new(64 * MIB - 1), None);
    }
}
