//! Text, JSON and JUnit.

use std::time::Duration;

use proptest::prelude::*;
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::super::super::{Invariant, Violation};
use super::*;

#[test]
fn the_terminal_shows_what_passed_what_it_cost_and_what_failed() {
    let outcomes = mixed();
    let report = Report::of(side("target/my sync.wasm", &outcomes));
    assert!(!report.passed());
    golden("report.txt", &report.text());
}

#[test]
fn no_line_of_a_table_is_wider_than_100_columns() {
    let mut outcomes = mixed();
    for outcome in &mut outcomes {
        outcome.scenario = "a-scenario-with-a-name-that-is-longer-than-it-ought-to-be".to_owned();
        outcome.violations.clear();
        for node in &mut outcome.nodes {
            node.fuel = u64::MAX / 100;
            node.requests = 999_999_999;
        }
        for link in &mut outcome.links {
            link.segment_bytes = 1 << 50;
        }
    }
    let others = outcomes.clone();
    let report = Report::comparing(side("a.wasm", &outcomes), side("b.wasm", &others));
    for line in report.text().lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
}

#[test]
fn ten_failures_are_told_and_the_rest_counted() {
    let outcomes: Vec<Outcome> = (0..13).map(|seed| testing::failing("storm", seed, 2)).collect();
    let text = Report::of(side("sync.wasm", &outcomes)).text();
    assert_eq!(text.matches("FAILED storm").count(), 10);
    assert!(text.contains("3 more runs failed"), "{text}");
    assert!(text.contains("and 1 more\n"), "{text}");
}

#[test]
fn without_runs_nothing_has_passed() {
    let report = Report::of(side("sync.wasm", &[]));
    assert!(!report.passed());
    assert!(report.text().contains("nothing was run"));
    assert!(report.html().contains("Nothing was run."));
    assert!(json(&report).contains("\"passed\":false"));
    assert!(cases(&junit(&report)).is_empty());
}

#[test]
fn runs_in_which_nothing_happened_are_no_trouble() {
    let outcomes = [testing::empty("nothing", 1), testing::empty("nothing", 2)];
    let report = Report::comparing(side("a.wasm", &outcomes), side("b.wasm", &outcomes));
    assert!(report.passed());
    for text in [report.text(), report.html(), json(&report), junit(&report)] {
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }
}

#[test]
fn json_keeps_its_names() {
    let outcomes = [testing::outcome("two-nodes-clean", 1, 2), testing::failing("ring", 2, 2)];
    let report = Report::of(side("sync.wasm", &outcomes));
    let value: serde_json::Value = serde_json::from_str(&json(&report)).unwrap();
    assert_eq!(value["format"], "edgestore-policy-test");
    assert_eq!(value["version"], 1);
    let run = &value["policies"][0]["runs"][1];
    assert_eq!(run["violations"][0]["invariant"], "cursor");
    assert_eq!(run["replay"], "edgestore-host policy test sync.wasm --scenario ring --seed 2");
    golden("report.json", &(serde_json::to_string_pretty(&value).unwrap() + "\n"));
}

#[test]
fn a_replay_has_all_that_the_user_gave() {
    let outcomes = [testing::failing("ring", 2, 2)];
    let options = ["--set", "window=it's 4", "--limit", "fuel=7"].map(str::to_owned).to_vec();
    let scenarios = vec![("ring".to_owned(), "my/ring.toml".to_owned())];
    for (embedded, file) in [(true, ""), (false, " sync.wasm")] {
        let replay = Replay { embedded, options: options.clone(), scenarios: scenarios.clone() };
        let side = Side { file: "sync.wasm", replay: Some(&replay), outcomes: &outcomes };
        let command = format!(
            "edgestore-host policy test{file} --scenario my/ring.toml --seed 2 \
             --set 'window=it'\\''s 4' --limit 'fuel=7'"
        );
        let report = Report::of(side);
        assert!(report.text().contains(&format!("replay: {command}\n")), "{}", report.text());
        let value: serde_json::Value = serde_json::from_str(&json(&report)).unwrap();
        assert_eq!(value["policies"][0]["runs"][0]["replay"], command);
    }
}

/// A case as a reader of JUnit sees it: suite, name, and what failed.
#[derive(Debug, PartialEq)]
struct Case {
    suite: String,
    class: String,
    name: String,
    failure: Option<(String, String)>,
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> String {
    let attribute = tag.try_get_attribute(name).unwrap().unwrap();
    attribute.normalized_value(XmlVersion::Explicit1_0).unwrap().into_owned()
}

fn cases(xml: &str) -> Vec<Case> {
    let mut reader = Reader::from_str(xml);
    let (mut cases, mut suite, mut inside) = (Vec::<Case>::new(), String::new(), false);
    loop {
        let event = reader.read_event().unwrap();
        let is_start = matches!(event, Event::Start(_));
        match event {
            Event::Eof => return cases,
            Event::Start(tag) | Event::Empty(tag) => match tag.name().as_ref() {
                b"testsuite" => suite = attribute(&tag, "name"),
                b"testcase" => cases.push(Case {
                    suite: suite.clone(),
                    class: attribute(&tag, "classname"),
                    name: attribute(&tag, "name"),
                    failure: None,
                }),
                b"failure" => {
                    inside = is_start;
                    let failure = (attribute(&tag, "message"), String::new());
                    cases.last_mut().unwrap().failure = Some(failure);
                }
                _ => {}
            },
            Event::End(_) => inside = false,
            Event::Text(text) if inside => {
                let (_, log) = cases.last_mut().unwrap().failure.as_mut().unwrap();
                log.push_str(&text.decode().unwrap());
            }
            Event::GeneralRef(name) if inside => {
                let (_, log) = cases.last_mut().unwrap().failure.as_mut().unwrap();
                let name = name.decode().unwrap();
                log.push_str(quick_xml::escape::resolve_predefined_entity(&name).unwrap());
            }
            _ => {}
        }
    }
}

#[test]
fn a_reader_of_junit_finds_each_seed_and_what_failed() {
    let outcomes = mixed();
    let report = Report::of(side("sync.wasm", &outcomes));
    let xml = junit(&report);
    let cases = cases(&xml);
    assert_eq!(cases.len(), 8);
    assert_eq!(cases[0].suite, "two-nodes-clean");
    assert_eq!((cases[0].name.as_str(), &cases[0].failure), ("seed 1", &None));
    assert_eq!((cases[5].class.as_str(), cases[5].name.as_str()), ("ring-with-crashes", "seed 41"));
    let (message, log) = cases[5].failure.clone().unwrap();
    assert_eq!(message, "cursor, at 5m 12s: n1 notes the root of n0 & lacks 3 of its segments");
    assert!(log.contains("--scenario ring-with-crashes --seed 41"), "{log}");
    assert!(log.contains(r#"\u{1b}[31m</script>]]>\u{0} & "quotes""#), "{log}");
    golden("report.xml", &xml);
}

#[test]
fn two_policies_are_two_suites() {
    let outcomes = [testing::outcome("ring", 1, 2)];
    let report = Report::comparing(side("a.wasm", &outcomes), side("b.wasm", &outcomes));
    let suites: Vec<String> = cases(&junit(&report)).into_iter().map(|case| case.suite).collect();
    assert_eq!(suites, ["ring (a.wasm)", "ring (b.wasm)"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Names, words and logs come from files and policies.
    #[test]
    fn no_text_breaks_a_format(text in any::<String>(), seed: u64, at: u64) {
        let mut outcome = testing::failing(&text, seed, 2);
        outcome.policy.clone_from(&text);
        outcome.log = vec![text.clone()];
        outcome.simulated = Duration::from_secs(at % (1 << 40));
        outcome.violations = vec![Violation {
            at: Duration::from_secs(at),
            invariant: Invariant::Merge,
            what: text.clone(),
        }];
        outcome.faults[0].what.clone_from(&text);
        outcome.ticks[0].took = Duration::from_secs(at);
        let outcomes = [outcome];
        let report = Report::comparing(side(&text, &outcomes), side(&text, &outcomes));
        let value: serde_json::Value = serde_json::from_str(&json(&report)).unwrap();
        prop_assert_eq!(&value["policies"][0]["file"], &text);
        prop_assert_eq!(cases(&junit(&report)).len(), 2);
        let shown = report.text();
        prop_assert!(!shown.chars().any(|one| one.is_control() && one != '\n'));
        super::html::check(&report.html());
    }
}
