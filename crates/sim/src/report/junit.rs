//! The report for CI: JUnit XML, as GitLab and the usual actions of GitHub read it.
//!
//! There is no standard, but what the readers agree on: suites, cases with a class name, and
//! failures with a message and a text. `time` is simulated time, since real time would make two
//! reports of the same runs differ.

use std::io;
use std::time::Duration;

use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};

use super::super::Outcome;
use super::{Report, Side, text, words};

pub(super) fn write(report: &Report<'_>, to: impl io::Write) -> io::Result<()> {
    let mut document = quick_junit::Report::new("edgestore-host policy test");
    let compares = report.sides.len() > 1;
    for (side, summaries) in &report.sides {
        for summary in summaries {
            let runs: Vec<&Outcome> = side
                .outcomes
                .iter()
                .filter(|run| run.scenario == summary.scenario && run.policy == summary.policy)
                .collect();
            // Files tell two policies apart that may have one name.
            let name = match compares {
                true => format!("{} ({})", summary.scenario, side.file),
                false => summary.scenario.clone(),
            };
            let mut suite = TestSuite::new(words::clean(&name));
            suite.set_time(runs.iter().map(|run| run.simulated).sum());
            suite.add_property(("policy", words::clean(&summary.policy).as_str()));
            suite.add_test_cases(runs.into_iter().map(|run| case(*side, run, &name)));
            document.add_test_suite(suite);
        }
    }
    let simulated: Duration = report.outcomes().map(|(_, run)| run.simulated).sum();
    document.set_time(simulated);
    document.serialize(to).map_err(io::Error::other)
}

fn case(side: Side<'_>, run: &Outcome, suite: &str) -> TestCase {
    let mut status = TestCaseStatus::success();
    if let Some(first) = run.violations.first() {
        status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        status.set_message(words::violation(first));
        status.set_type(words::invariant(first.invariant));
        status.set_description(text::failure(side, run));
    }
    let mut case = TestCase::new(format!("seed {}", run.seed), status);
    case.set_classname(words::clean(suite));
    case.set_time(run.simulated);
    case
}
