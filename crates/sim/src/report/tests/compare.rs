//! Policies side by side.

use std::time::Duration;

use super::super::{Comparison, Difference, Verdict};
use super::*;

/// `b` converges a second faster in each run but the first, and never in the last.
fn two() -> [Vec<Outcome>; 2] {
    let a: Vec<Outcome> = (1..=8).map(|seed| testing::outcome("ring", seed, 3)).collect();
    let mut b = a.clone();
    for outcome in &mut b[1..] {
        let time = outcome.converged_after.unwrap();
        outcome.converged_after = Some(time - Duration::from_secs(1));
    }
    b[7].converged_after = None;
    for node in b.iter_mut().flat_map(|outcome| &mut outcome.nodes) {
        node.requests += 5;
    }
    [a, b]
}

fn metric<'a>(comparison: &'a Comparison, name: &str) -> &'a Difference {
    let metrics = &comparison.scenarios[0].metrics;
    metrics.iter().find(|one| one.metric == name).unwrap()
}

#[test]
fn pairs_tell_a_small_gain_from_chance() {
    let [a, b] = two();
    let comparison = Comparison::of(&a, &b);
    let time = metric(&comparison, "converge_seconds");
    // Six runs gain a second, one gains nothing, one has no pair.
    assert_eq!(time.pairs, 7);
    assert!((time.difference.unwrap() - -6.0 / 7.0).abs() < 1e-9);
    // Student's t with six degrees of freedom: 2.447 * 0.37796 / sqrt(7).
    let interval = time.interval.unwrap();
    assert!((interval.high - interval.low - 2.0 * 0.34957).abs() < 1e-4, "{interval:?}");
    assert_eq!(time.verdict, Verdict::Better);
    assert!(time.verdict.is_significant());
    let requests = metric(&comparison, "requests");
    assert_eq!((requests.difference, requests.verdict), (Some(15.0), Verdict::Worse));
    assert_eq!(metric(&comparison, "ticks").verdict, Verdict::Same);
}

#[test]
fn differences_that_go_both_ways_are_not_clear() {
    let [a, mut b] = two();
    for (index, outcome) in b.iter_mut().enumerate() {
        outcome.nodes[0].fuel = if index % 2 == 0 { 1_000_000 } else { 8_000_000 };
    }
    let comparison = Comparison::of(&a, &b);
    let fuel = metric(&comparison, "fuel");
    assert_eq!(fuel.verdict, Verdict::Unclear);
    assert!(!fuel.verdict.is_significant());
}

#[test]
fn only_seeds_that_both_have_run_are_compared() {
    let [a, b] = two();
    let comparison = Comparison::of(&a[..5], &b[4..]);
    assert_eq!((comparison.scenarios[0].pairs, comparison.scenarios[0].unpaired), (1, 7));
    let requests = metric(&comparison, "requests");
    assert_eq!((requests.interval, requests.verdict), (None, Verdict::TooFew));
    let strangers = [testing::outcome("mesh", 1, 2)];
    assert_eq!(Comparison::of(&a, &strangers).scenarios, []);
    assert_eq!(Comparison::of(&[], &[]).scenarios, []);
}

#[test]
fn the_terminal_shows_two_policies_side_by_side() {
    let [a, b] = two();
    let report = Report::comparing(side("a.wasm", &a), side("b.wasm", &b));
    golden("compared.txt", &report.text());
}

#[test]
fn json_has_the_comparison() {
    let [a, b] = two();
    let report = Report::comparing(side("a.wasm", &a), side("b.wasm", &b));
    let value: serde_json::Value = serde_json::from_str(&json(&report)).unwrap();
    let time = &value["comparison"]["scenarios"][0]["metrics"][1];
    assert_eq!(time["metric"], "converge_seconds");
    assert_eq!(time["unit"], "seconds");
    assert_eq!(time["verdict"], "better");
    assert!(time["interval"]["low"].as_f64().unwrap() < time["difference"].as_f64().unwrap());
}
