//! The command line, and which measurements it asks for.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

/// One group of measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Bootstrap,
    Incremental,
    Tick,
    Reads,
    Writes,
}

impl Part {
    const ALL: [(&str, Self); 5] = [
        ("bootstrap", Self::Bootstrap),
        ("incremental", Self::Incremental),
        ("tick", Self::Tick),
        ("reads", Self::Reads),
        ("writes", Self::Writes),
    ];

    fn parse(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        let names = Self::ALL.map(|(known, _)| known).join(", ");
        found.map(|(_, part)| *part).with_context(|| format!("--only {name}: one of {names}"))
    }
}

#[derive(Debug, Clone)]
pub struct Args {
    only: Vec<Part>,
    records: Option<u32>,
    pub quick: bool,
    pub stock: bool,
    pub value: usize,
    pub dir: Option<PathBuf>,
}

/// The time of the stock import grows with the square of the records.
const MOST_FOR_STOCK: u32 = 400_000;

pub fn parse(mut given: impl Iterator<Item = String>) -> Result<Args> {
    let mut args =
        Args { only: Vec::new(), records: None, quick: false, stock: true, value: 100, dir: None };
    while let Some(arg) = given.next() {
        let mut value = || given.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--only" => args.only.push(Part::parse(&value()?)?),
            "--records" => args.records = Some(value()?.parse().context("--records")?),
            "--value" => args.value = value()?.parse().context("--value")?,
            "--dir" => args.dir = Some(value()?.into()),
            "--quick" => args.quick = true,
            "--no-stock" => args.stock = false,
            // Cargo's own.
            "--bench" => {}
            other => bail!("unknown argument {other}: see tests/benches/compare/main.rs"),
        }
    }
    if args.records == Some(0) {
        bail!("--records 0: at least one");
    }
    Ok(args)
}

impl Args {
    pub fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// Sizes of the databases that are bootstrapped, in records.
    pub fn sizes(&self) -> Vec<u32> {
        let on_replicas = [Part::Incremental, Part::Tick, Part::Reads];
        if self.wants(Part::Bootstrap) {
            match self.records {
                Some(records) => vec![records],
                None if self.quick => vec![20_000, 60_000],
                None => vec![100_000, 400_000, 2_000_000, 4_000_000],
            }
        } else if on_replicas.into_iter().any(|part| self.wants(part)) {
            vec![self.middle()]
        } else {
            Vec::new()
        }
    }

    /// The size whose replicas are looked at further, and with which greater ones are compared.
    pub fn middle(&self) -> u32 {
        self.records.unwrap_or(if self.quick { 60_000 } else { MOST_FOR_STOCK })
    }

    pub fn stock_at(&self, records: u32) -> bool {
        self.stock && records <= MOST_FOR_STOCK
    }

    /// How often everything but the published crates is measured.
    pub fn runs(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }

    pub fn ticks(&self) -> usize {
        if self.quick { 50 } else { 500 }
    }

    /// For each kind of read.
    pub fn read_seconds(&self) -> f64 {
        if self.quick { 0.2 } else { 2.0 }
    }

    pub fn writes(&self) -> u32 {
        if self.quick { 5_000 } else { 200_000 }
    }

    /// A kind of write that takes longer is cut short.
    pub fn write_seconds(&self) -> f64 {
        if self.quick { 1.0 } else { 10.0 }
    }
}
