//! From the text of a scenario's file to a scenario, or to all that is wrong with it.

use std::path::Path;
use std::time::Duration;

use edgestore_text::{Diagnostics, FileError, document, scalar};
use toml::de::{DeTable, DeValue};

use super::table::{BETWEEN, EXPECT, FAULTS, LINK, Reader, SCENARIO, TOPOLOGY, Table, WRITERS};
use super::values::{self, LONGEST};
use super::{Expect, Fault, FaultKind, Link, Scenario, Topology, When, Writer};

const MAX_NODES: usize = 100;
/// A tenth: no clock that is any is worse.
pub(super) const MAX_DRIFT_PPM: u64 = 100_000;
/// How far a clock is ahead that is far ahead, where the scenario does not say.
const MONTH: i64 = 30 * 24 * 3600;
const TOPOLOGIES: [&str; 5] = ["star", "ring", "mesh", "random", "wan"];
const KINDS: [&str; 15] = [
    "partition",
    "crash",
    "slow",
    "hang",
    "cut-body",
    "bit-flip",
    "lying-root",
    "lying-manifest",
    "disk-full",
    "swap",
    "clock-jump",
    "clock-far-ahead",
    "segment-lost",
    "segment-damaged",
    "backup-restored",
];

/// All problems in the file of a scenario, each with its line, its column and what it should be.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ScenarioError(#[from] pub(super) FileError);

impl Scenario {
    /// Reads the text of a scenario's file; problems name it `name_of_file`.
    ///
    /// # Errors
    /// [`ScenarioError`], with all problems.
    pub fn parse(text: &str, name_of_file: &str) -> Result<Self, ScenarioError> {
        let path = Path::new(name_of_file);
        let (table, text) = document(path, text.as_bytes())?;
        let mut reader = Reader { diagnostics: Diagnostics::new(path, text) };
        let scenario = reader.scenario(&table);
        // Where something is missing, that problem was noted.
        match scenario {
            Some(scenario) => reader.diagnostics.check().map(|()| scenario).map_err(Into::into),
            None => Err(reader.diagnostics.into_error().into()),
        }
    }
}

impl Reader<'_> {
    fn scenario(&mut self, table: &DeTable<'_>) -> Option<Scenario> {
        let table = self.table(0..0, table, &SCENARIO);
        let name = self.required(&table, "name", "name = \"star-of-five\"", values::name);
        let about = self.optional(&table, "about", values::string).unwrap_or_default();
        let given = self.required(&table, "nodes", "nodes = 5", values::count(2..=MAX_NODES));
        // So that what follows is read with the benefit of the doubt.
        let nodes = given.unwrap_or(MAX_NODES);
        let topology = self.topology(&table, nodes);
        let link = self.inner(&table, "link", &LINK);
        let link = self.link(&link, Link::default());
        let time = |secs| Duration::from_secs(secs);
        let duration = self.optional(&table, "duration", values::duration).unwrap_or(time(60 * 60));
        let interval = self.optional(&table, "interval", values::interval).unwrap_or(time(30));
        let flush_interval =
            self.optional(&table, "flush_interval", values::interval).unwrap_or(interval);
        let compact_interval = values::or_off(values::interval);
        let compact_interval =
            self.optional(&table, "compact_interval", compact_interval).unwrap_or_default();
        let clock_skew =
            self.optional(&table, "clock_skew", values::time).unwrap_or(Duration::ZERO);
        let clock_drift_ppm =
            self.optional(&table, "clock_drift_ppm", values::whole(0..=MAX_DRIFT_PPM)).unwrap_or(0);
        let settings = self.settings(&table);
        let writers = match self.tables(&table, "writers", &WRITERS) {
            Some(tables) => tables.iter().map(|table| self.writer(table, nodes)).collect(),
            None => vec![Writer::of((0..nodes).collect())],
        };
        let faults = self.tables(&table, "faults", &FAULTS).unwrap_or_default();
        let faults: Vec<_> =
            faults.iter().filter_map(|table| self.fault(table, nodes, duration)).collect();
        let expect = self.inner(&table, "expect", &EXPECT);
        let expect = self.expect(&expect, interval);
        Some(Scenario {
            name: name?,
            about,
            nodes: given?,
            topology: topology?,
            link,
            duration,
            interval,
            flush_interval,
            compact_interval,
            clock_skew,
            clock_drift_ppm,
            settings,
            writers,
            faults,
            expect,
        })
    }

    fn topology(&mut self, outer: &Table<'_>, nodes: usize) -> Option<Topology> {
        let Some(value) = outer.value("topology") else {
            self.missing(outer, "topology", "topology = \"star\"");
            return None;
        };
        let table = match value.get_ref() {
            DeValue::Table(table) => self.table(value.span(), table, &TOPOLOGY),
            // A kind alone.
            _ => Table { span: value.span(), items: vec![("kind", value.span(), value)] },
        };
        let kind = self.required(&table, "kind", "kind = \"ring\"", values::one_of(&TOPOLOGIES))?;
        self.only(&table, "degree", kind, &["random"]);
        self.only(&table, "regions", kind, &["wan"]);
        self.only(&table, "between", kind, &["wan"]);
        Some(match kind {
            "star" => Topology::Star,
            "ring" => Topology::Ring,
            "mesh" => Topology::Mesh,
            "random" => {
                // With one other each, no more than two can be connected.
                let least = if nodes == 2 { 1 } else { 2 };
                let range = values::count(least..=nodes - 1);
                let example = "topology = { kind = \"random\", degree = 3 }";
                Topology::Random { degree: self.required(&table, "degree", example, range)? }
            }
            _ => {
                let range = values::count(2..=nodes);
                let example = "topology = { kind = \"wan\", regions = 3 }";
                let regions = self.required(&table, "regions", example, range);
                let between = self.inner(&table, "between", &BETWEEN);
                let between = self.link(&between, Link::between());
                Topology::Wan { regions: regions?, between }
            }
        })
    }

    /// Refuses a key of other kinds.
    fn only(&mut self, table: &Table<'_>, key: &str, kind: &str, of: &[&str]) {
        if let Some(span) = table.key_span(key).filter(|_| !of.contains(&kind)) {
            let of: Vec<_> = of.iter().map(|of| format!("\"{of}\"")).collect();
            let of = of.join(" or ");
            self.diagnostics.add(span, format!("{key} is for kind = {of}, and this is a {kind}"));
        }
    }

    fn link(&mut self, table: &Table<'_>, default: Link) -> Link {
        let bandwidth = self.optional(table, "bandwidth", values::or_off(values::size));
        Link {
            latency: self.optional(table, "latency", values::time).unwrap_or(default.latency),
            jitter: self.optional(table, "jitter", values::time).unwrap_or(default.jitter),
            bandwidth: bandwidth.unwrap_or(default.bandwidth),
            loss: self.optional(table, "loss", values::share).unwrap_or(default.loss),
        }
    }

    fn settings(&mut self, outer: &Table<'_>) -> Vec<(String, String)> {
        let Some(value) = outer.value("settings") else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.diagnostics.add(value.span(), "settings: this is a table, [settings]");
            return Vec::new();
        };
        let mut settings = Vec::new();
        for (key, span, value) in edgestore_text::items(table) {
            // As `--set` has it.
            if key.is_empty() || key.contains('=') {
                self.diagnostics.add(span, "the key of a setting is not empty, and has no `=`");
                continue;
            }
            match scalar(value.get_ref()) {
                Ok(text) => settings.push((key.to_owned(), text)),
                Err(why) => self.diagnostics.add(value.span(), format!("{key}: {why}")),
            }
        }
        settings
    }

    fn writer(&mut self, table: &Table<'_>, nodes: usize) -> Writer {
        let given = self.optional(table, "nodes", values::nodes(nodes));
        let default = Writer::of(given.unwrap_or_else(|| (0..nodes).collect()));
        let per_minute = self.optional(table, "per_minute", values::number(0.001..=60_000.0));
        let keys = self.optional(table, "keys", values::whole(1..=1_000_000));
        let skew = self.optional(table, "skew", values::number(0.0..=5.0));
        let bytes = self.optional(table, "value_bytes", values::sizes);
        Writer {
            per_minute: per_minute.unwrap_or(default.per_minute),
            keys: keys.unwrap_or(default.keys),
            skew: skew.unwrap_or(default.skew),
            conflicts: self
                .optional(table, "conflicts", values::share)
                .unwrap_or(default.conflicts),
            deletes: self.optional(table, "deletes", values::share).unwrap_or(default.deletes),
            expiring: self.optional(table, "expiring", values::share).unwrap_or(default.expiring),
            ttl: self.optional(table, "ttl", values::ttl).unwrap_or(default.ttl),
            value_bytes: bytes.unwrap_or(default.value_bytes),
            nodes: default.nodes,
        }
    }

    fn fault(&mut self, table: &Table<'_>, nodes: usize, duration: Duration) -> Option<Fault> {
        let kind = self.required(table, "kind", "kind = \"crash\"", values::one_of(&KINDS));
        let when = self.when(table, duration);
        let lasts = self.optional(table, "lasts", values::duration);
        let given = self.optional(table, "nodes", values::nodes(nodes));
        let kind = kind?;
        self.only(table, "factor", kind, &["slow"]);
        self.only(table, "by", kind, &["clock-jump", "clock-far-ahead"]);
        let factor = self.optional(table, "factor", values::number(1.0..=100_000.0));
        let by = match kind {
            "clock-far-ahead" => self.optional(table, "by", values::forward),
            _ => self.optional(table, "by", values::jump),
        };
        if kind == "partition" {
            self.partition(table, given.as_deref(), nodes);
        }
        let kind = match kind {
            "partition" => FaultKind::Partition,
            "crash" => FaultKind::Crash,
            "slow" => FaultKind::Slow { factor: factor.unwrap_or(10.0) },
            "hang" => FaultKind::Hang,
            "cut-body" => FaultKind::CutBody,
            "bit-flip" => FaultKind::BitFlip,
            "lying-root" => FaultKind::LyingRoot,
            "lying-manifest" => FaultKind::LyingManifest,
            "disk-full" => FaultKind::DiskFull,
            "swap" => FaultKind::Swap,
            "clock-jump" => FaultKind::ClockJump { by_secs: by.unwrap_or(600) },
            "clock-far-ahead" => FaultKind::ClockFarAhead { by_secs: by.unwrap_or(MONTH) },
            "segment-lost" => FaultKind::SegmentLost,
            "segment-damaged" => FaultKind::SegmentDamaged,
            _ => FaultKind::BackupRestored,
        };
        Some(Fault {
            kind,
            when: when?,
            lasts: lasts.unwrap_or(Duration::from_secs(60)),
            nodes: given.unwrap_or_else(|| (0..nodes).collect()),
        })
    }

    /// A partition has two sides.
    fn partition(&mut self, table: &Table<'_>, given: Option<&[usize]>, nodes: usize) {
        match (table.value("nodes"), given) {
            (None, _) => self.missing(table, "nodes", "the nodes of one side, as in nodes = [0]"),
            (Some(value), Some(side)) if side.len() >= nodes => {
                let why = "nodes: these are all; leave at least one for the other side";
                self.diagnostics.add(value.span(), why);
            }
            _ => {}
        }
    }

    fn when(&mut self, table: &Table<'_>, duration: Duration) -> Option<When> {
        let early = |value: &DeValue<'_>| match values::time(value)? {
            at if at < duration => Ok(at),
            _ => Err(values::Wrong::from("it must be before the scenario's duration".to_owned())),
        };
        let at = self.optional(table, "at", |value| values::list(value, early));
        let per_hour = self.optional(table, "per_hour", values::number(0.001..=3600.0));
        match (table.value("at"), table.key_span("per_hour")) {
            (None, None) => {
                self.missing(table, "at", "at = \"10m\", or per_hour = 2 for by chance");
                None
            }
            (Some(_), Some(span)) => {
                self.diagnostics.add(span, "per_hour: there is an `at`, too; write one of them");
                None
            }
            _ => at.map(When::At).or(per_hour.map(When::PerHour)),
        }
    }

    fn expect(&mut self, table: &Table<'_>, interval: Duration) -> Expect {
        let within = self.optional(table, "converge_within", values::duration);
        let overhead = values::or_off(values::number(1.0..=1_000_000.0));
        Expect {
            converge_within: within.unwrap_or((interval * 20).min(LONGEST)),
            max_overhead: self.optional(table, "max_overhead", overhead).unwrap_or_default(),
        }
    }
}

impl Default for Link {
    /// A good local network.
    fn default() -> Self {
        let (latency, jitter) = (Duration::from_millis(5), Duration::from_millis(1));
        Self { latency, jitter, bandwidth: None, loss: 0.0 }
    }
}

impl Link {
    /// Between two regions, where the scenario does not say.
    fn between() -> Self {
        let (latency, jitter) = (Duration::from_millis(80), Duration::from_millis(20));
        Self { latency, jitter, ..Self::default() }
    }
}

impl Writer {
    /// One that the scenario says nothing else of.
    fn of(nodes: Vec<usize>) -> Self {
        Self {
            nodes,
            per_minute: 6.0,
            keys: 1000,
            skew: 0.0,
            conflicts: 0.0,
            deletes: 0.05,
            expiring: 0.0,
            ttl: Duration::from_secs(3600),
            value_bytes: (16, 256),
        }
    }
}
