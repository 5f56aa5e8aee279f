//! The scenarios that ship, from the simplest to the worst.

use super::Scenario;

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../scenarios/", $name, ".toml")))),*]
    };
}

const FILES: [(&str, &str); 15] = shipped![
    "two-nodes-clean",
    "two-nodes-conflicts",
    "star-of-five",
    "ring-of-six-lossy",
    "mesh-with-partitions",
    "crash-and-restart",
    "slow-and-hanging-peer",
    "corrupt-peer",
    "disk-full",
    "swap-in-flight",
    "clock-skew-and-jumps",
    "lost-and-damaged-segments",
    "clock-far-ahead-once",
    "restored-backup",
    "wan-30-nodes-storm",
];

impl Scenario {
    /// The scenarios that ship, by name, from the simplest to the worst.
    pub fn shipped() -> impl Iterator<Item = (&'static str, Self)> {
        FILES.into_iter().map(|(name, text)| match Self::parse(text, name) {
            Ok(scenario) => (name, scenario),
            // They are part of the program, and the tests read each.
            Err(error) => panic!("a shipped scenario is wrong: {error}"),
        })
    }
}
