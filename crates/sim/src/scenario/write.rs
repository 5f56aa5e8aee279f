//! From a scenario to the text of a file that says the same.

use std::fmt::{self, Write as _};
use std::time::Duration;

use edgestore_text::size_text;

use super::{Fault, FaultKind, Link, Scenario, Topology, When, Writer};

impl Scenario {
    /// A file that [`Scenario::parse`] reads as this scenario, with every key written out.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "name = {}", quoted(&self.name))?;
        writeln!(out, "about = {}", quoted(&self.about))?;
        writeln!(out, "nodes = {}", self.nodes)?;
        writeln!(out, "topology = {}", topology(&self.topology))?;
        writeln!(out, "duration = {}", duration(self.duration))?;
        writeln!(out, "interval = {}", duration(self.interval))?;
        writeln!(out, "flush_interval = {}", duration(self.flush_interval))?;
        writeln!(out, "compact_interval = {}", or_off(self.compact_interval.map(duration)))?;
        writeln!(out, "clock_skew = {}", duration(self.clock_skew))?;
        writeln!(out, "clock_drift_ppm = {}", self.clock_drift_ppm)?;
        if self.writers.is_empty() {
            // Without the key there would be one.
            writeln!(out, "writers = []")?;
        }
        writeln!(out, "\n[link]\n{}", link(&self.link).join("\n"))?;
        if !self.settings.is_empty() {
            writeln!(out, "\n[settings]")?;
        }
        for (key, value) in &self.settings {
            let value = toml::Value::String(value.clone());
            out.push_str(&toml::Table::from_iter([(key.clone(), value)]).to_string());
        }
        writeln!(out, "\n[expect]")?;
        writeln!(out, "converge_within = {}", duration(self.expect.converge_within))?;
        writeln!(out, "max_overhead = {}", or_off(self.expect.max_overhead.map(number)))?;
        for writer in &self.writers {
            self.writer(out, writer)?;
        }
        self.faults.iter().try_for_each(|fault| self.fault(out, fault))
    }

    fn writer(&self, out: &mut String, writer: &Writer) -> fmt::Result {
        writeln!(out, "\n[[writers]]")?;
        writeln!(out, "nodes = {}", self.nodes_of(&writer.nodes))?;
        writeln!(out, "per_minute = {}", number(writer.per_minute))?;
        writeln!(out, "keys = {}", writer.keys)?;
        writeln!(out, "skew = {}", number(writer.skew))?;
        writeln!(out, "conflicts = {}", number(writer.conflicts))?;
        writeln!(out, "deletes = {}", number(writer.deletes))?;
        writeln!(out, "expiring = {}", number(writer.expiring))?;
        writeln!(out, "ttl = {}", duration(writer.ttl))?;
        let (from, to) = writer.value_bytes;
        writeln!(out, "value_bytes = [{from}, {to}]")
    }

    fn fault(&self, out: &mut String, fault: &Fault) -> fmt::Result {
        writeln!(out, "\n[[faults]]")?;
        writeln!(out, "kind = {}", quoted(fault.kind.name()))?;
        match &fault.kind {
            FaultKind::Slow { factor } => writeln!(out, "factor = {}", number(*factor))?,
            FaultKind::ClockJump { by_secs } | FaultKind::ClockFarAhead { by_secs } => {
                let sign = if *by_secs < 0 { '-' } else { '+' };
                let length = Duration::from_secs(by_secs.unsigned_abs());
                let length = humantime::format_duration(length);
                writeln!(out, "by = \"{sign}{length}\"")?;
            }
            _ => {}
        }
        match &fault.when {
            When::At(times) => {
                let times: Vec<_> = times.iter().copied().map(duration).collect();
                writeln!(out, "at = [{}]", times.join(", "))?;
            }
            When::PerHour(times) => writeln!(out, "per_hour = {}", number(*times))?,
        }
        writeln!(out, "lasts = {}", duration(fault.lasts))?;
        writeln!(out, "nodes = {}", self.nodes_of(&fault.nodes))
    }

    /// In the shortest form.
    fn nodes_of(&self, nodes: &[usize]) -> String {
        let follow = nodes.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        match nodes {
            [0, ..] if follow && nodes.len() == self.nodes => quoted("all"),
            [first, _, .., last] if follow => quoted(&format!("{first}-{last}")),
            _ => format!("{nodes:?}"),
        }
    }
}

impl FaultKind {
    /// As a file has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Partition => "partition",
            Self::Crash => "crash",
            Self::Slow { .. } => "slow",
            Self::Hang => "hang",
            Self::CutBody => "cut-body",
            Self::BitFlip => "bit-flip",
            Self::LyingRoot => "lying-root",
            Self::LyingManifest => "lying-manifest",
            Self::DiskFull => "disk-full",
            Self::Swap => "swap",
            Self::ClockJump { .. } => "clock-jump",
            Self::ClockFarAhead { .. } => "clock-far-ahead",
            Self::SegmentLost => "segment-lost",
            Self::SegmentDamaged => "segment-damaged",
            Self::BackupRestored => "backup-restored",
        }
    }
}

fn topology(topology: &Topology) -> String {
    match topology {
        Topology::Star => quoted("star"),
        Topology::Ring => quoted("ring"),
        Topology::Mesh => quoted("mesh"),
        Topology::Random { degree } => format!("{{ kind = \"random\", degree = {degree} }}"),
        Topology::Wan { regions, between } => {
            let between = link(between).join(", ");
            format!("{{ kind = \"wan\", regions = {regions}, between = {{ {between} }} }}")
        }
    }
}

fn link(link: &Link) -> [String; 4] {
    [
        format!("latency = {}", duration(link.latency)),
        format!("jitter = {}", duration(link.jitter)),
        format!("bandwidth = {}", or_off(link.bandwidth.map(|bytes| quoted(&size_text(bytes))))),
        format!("loss = {}", number(link.loss)),
    ]
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn number(number: f64) -> String {
    toml::Value::Float(number).to_string()
}

fn duration(duration: Duration) -> String {
    quoted(&humantime::format_duration(duration).to_string())
}

fn or_off(value: Option<String>) -> String {
    value.unwrap_or_else(|| quoted("off"))
}
