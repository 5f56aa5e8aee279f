//! Two policies on the same scenarios and seeds.
//!
//! One seed gives both policies the same writes and faults, so what chance does to a run it does
//! to both, and the difference of a pair says more than the two means do. See
//! [`Interval::of_mean`] for how sure a mean difference is.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::Outcome;
use super::metric::{Metric, Unit};
use super::stats::{Interval, mean};

/// Two policies, by scenario.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Those that both have run, in the order of the first policy's runs.
    pub scenarios: Vec<Pairs>,
}

/// Two policies in one scenario.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pairs {
    /// Its name.
    pub scenario: String,
    /// Seeds that both have run.
    pub pairs: u64,
    /// Runs whose seed the other has not run. They count for nothing here.
    pub unpaired: u64,
    /// By metric, in the order of [`Metric::ALL`].
    pub metrics: Vec<Difference>,
}

/// How two policies differ by one metric.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// [`Metric::name`].
    pub metric: &'static str,
    /// [`Metric::unit`].
    pub unit: Unit,
    /// Pairs in which both runs have a value; the rest of this is about them.
    pub pairs: u64,
    /// Mean of the first.
    pub a: Option<f64>,
    /// Mean of the second.
    pub b: Option<f64>,
    /// Mean of second minus first.
    pub difference: Option<f64>,
    /// Where that mean is, with a confidence of 95 %. None for fewer than two pairs.
    pub interval: Option<Interval>,
    /// What follows from it.
    pub verdict: Verdict,
}

/// What a difference says of the second policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It needs less: the whole interval is below zero.
    Better,
    /// It needs more: the whole interval is above zero.
    Worse,
    /// Both are the same in each pair.
    Same,
    /// Zero is in the interval: the runs do not tell the two apart.
    Unclear,
    /// There are fewer than two pairs.
    TooFew,
}

impl Comparison {
    /// Of all scenarios and seeds that are in both. A seed that one has twice counts once.
    pub fn of(a: &[Outcome], b: &[Outcome]) -> Self {
        let (first, second) = (by_seed(a), by_seed(b));
        let mut scenarios: Vec<&str> = Vec::new();
        for outcome in a {
            let name = outcome.scenario.as_str();
            if !scenarios.contains(&name) && b.iter().any(|other| other.scenario == name) {
                scenarios.push(name);
            }
        }
        let none = BTreeMap::new();
        let pairs = scenarios.into_iter().map(|name| {
            let first = first.get(name).unwrap_or(&none);
            Pairs::of(name, first, second.get(name).unwrap_or(&none))
        });
        Self { scenarios: pairs.collect() }
    }
}

type Seeds<'a> = BTreeMap<u64, &'a Outcome>;

fn by_seed(outcomes: &[Outcome]) -> BTreeMap<&str, Seeds<'_>> {
    let mut all = BTreeMap::<&str, Seeds<'_>>::new();
    for outcome in outcomes {
        all.entry(&outcome.scenario).or_default().entry(outcome.seed).or_insert(outcome);
    }
    all
}

impl Pairs {
    fn of(scenario: &str, first: &Seeds<'_>, second: &Seeds<'_>) -> Self {
        let pairs: Vec<(&Outcome, &Outcome)> = first
            .iter()
            .filter_map(|(seed, one)| second.get(seed).map(|other| (*one, *other)))
            .collect();
        Self {
            scenario: scenario.to_owned(),
            pairs: pairs.len() as u64,
            unpaired: (first.len() + second.len() - 2 * pairs.len()) as u64,
            metrics: Metric::ALL.iter().map(|metric| Difference::of(metric, &pairs)).collect(),
        }
    }
}

impl Difference {
    fn of(metric: &Metric, pairs: &[(&Outcome, &Outcome)]) -> Self {
        let (a, b): (Vec<f64>, Vec<f64>) = pairs
            .iter()
            .filter_map(|(a, b)| Some(((metric.of)(a)?, (metric.of)(b)?)))
            .filter(|(a, b)| a.is_finite() && b.is_finite())
            .unzip();
        let differences: Vec<f64> = a.iter().zip(&b).map(|(a, b)| b - a).collect();
        let interval = Interval::of_mean(&differences);
        Self {
            metric: metric.name,
            unit: metric.unit,
            pairs: differences.len() as u64,
            a: mean(&a),
            b: mean(&b),
            difference: mean(&differences),
            interval,
            verdict: Verdict::of(&differences, interval),
        }
    }
}

impl Verdict {
    fn of(differences: &[f64], interval: Option<Interval>) -> Self {
        match interval {
            None => Self::TooFew,
            Some(_) if differences.iter().all(|one| *one == 0.0) => Self::Same,
            Some(interval) if !interval.excludes_zero() => Self::Unclear,
            Some(interval) if interval.high < 0.0 => Self::Better,
            Some(_) => Self::Worse,
        }
    }

    /// Whether chance alone would show as much in fewer than one comparison in twenty.
    pub fn is_significant(self) -> bool {
        matches!(self, Self::Better | Self::Worse)
    }
}
