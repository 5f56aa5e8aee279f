//! What a reader gets to see of simulations: a table, JSON, JUnit XML, and a page with plots.
//!
//! All of it is made from [`Outcome`]s alone, so that it needs no simulator, and the same outcomes
//! make the same bytes.
//!
//! ```text
//! outcomes ──► Summary      one line for a scenario and a policy
//!          ──► Comparison   two policies, seed by seed
//!                 │
//!                 └──► text, json, junit, html
//! ```
//!
//! The formats are described in docs/simulation.md, under "Reports".

mod compare;
mod html;
mod json;
mod junit;
mod metric;
mod stats;
mod summary;
mod text;
mod words;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::io;

pub use self::compare::{Comparison, Difference, Pairs, Verdict};
pub use self::metric::{Metric, Unit};
pub use self::stats::{Interval, Spread};
pub use self::summary::Summary;
use super::Outcome;

/// What the user gave besides the policy and the seed, for commands that replay a run.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    /// Whether the policy is the embedded one, which has no file.
    pub embedded: bool,
    /// Options and their values, one word each.
    pub options: Vec<String>,
    /// Names of scenarios, each with the word that the user gave for it.
    pub scenarios: Vec<(String, String)>,
}

/// The runs of one policy.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// The component's file, as the user named it. Stands in commands that replay a run.
    pub file: &'a str,
    /// `None` when the user gave nothing else.
    pub replay: Option<&'a Replay>,
    /// Its runs: any scenarios and seeds. Reports keep the order in which scenarios first appear.
    pub outcomes: &'a [Outcome],
}

/// The runs of one policy, or of two side by side.
#[derive(Debug)]
pub struct Report<'a> {
    sides: Vec<(Side<'a>, Vec<Summary>)>,
    comparison: Option<Comparison>,
}

impl<'a> Report<'a> {
    /// Of the runs of one policy.
    pub fn of(side: Side<'a>) -> Self {
        Self { sides: vec![(side, Summary::of(side.outcomes))], comparison: None }
    }

    /// Of two policies, which are compared on the scenarios and seeds that both have run.
    pub fn comparing(a: Side<'a>, b: Side<'a>) -> Self {
        Self {
            sides: [a, b].map(|side| (side, Summary::of(side.outcomes))).into(),
            comparison: Some(Comparison::of(a.outcomes, b.outcomes)),
        }
    }

    /// Whether there are runs, and all of them passed. What the exit status is made from.
    pub fn passed(&self) -> bool {
        let mut outcomes = self.outcomes().peekable();
        outcomes.peek().is_some() && outcomes.all(|(_, outcome)| outcome.passed())
    }

    /// For a terminal: tables of at most 100 columns, then what failed and how to replay it.
    pub fn text(&self) -> String {
        text::of(self)
    }

    /// Writes JSON, one object.
    pub fn write_json(&self, to: impl io::Write) -> io::Result<()> {
        json::write(self, to)
    }

    /// Writes JUnit XML: a suite for each scenario and policy, a case for each seed.
    pub fn write_junit(&self, to: impl io::Write) -> io::Result<()> {
        junit::write(self, to)
    }

    /// One page of HTML that needs nothing else.
    pub fn html(&self) -> String {
        html::page(self)
    }

    fn outcomes(&self) -> impl Iterator<Item = (Side<'a>, &'a Outcome)> + '_ {
        self.sides
            .iter()
            .flat_map(|(side, _)| side.outcomes.iter().map(move |outcome| (*side, outcome)))
    }
}
