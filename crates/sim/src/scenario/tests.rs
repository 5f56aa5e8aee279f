//! Files of scenarios: what they say, what is wrong with them, and those that ship.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::strategies::scenario;
use super::*;

const MINIMAL: &str = "name = \"a\"\nnodes = 5\ntopology = \"star\"\n";

fn parse(text: &str) -> Scenario {
    Scenario::parse(text, "x.toml").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// What is said of a file, without its heading.
fn diagnostics(text: &str) -> String {
    match Scenario::parse(text, "x.toml") {
        Ok(scenario) => panic!("no problem in {text}: {scenario:?}"),
        Err(ScenarioError(error)) => error.in_a_line(),
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn a_file_needs_a_name_nodes_and_a_topology() {
    let expected = Scenario {
        name: "a".into(),
        about: String::new(),
        nodes: 5,
        topology: Topology::Star,
        link: Link {
            latency: Duration::from_millis(5),
            jitter: Duration::from_millis(1),
            bandwidth: None,
            loss: 0.0,
        },
        duration: secs(3600),
        interval: secs(30),
        flush_interval: secs(30),
        compact_interval: None,
        clock_skew: secs(0),
        clock_drift_ppm: 0,
        settings: vec![],
        writers: vec![Writer {
            nodes: vec![0, 1, 2, 3, 4],
            per_minute: 6.0,
            keys: 1000,
            skew: 0.0,
            conflicts: 0.0,
            deletes: 0.05,
            expiring: 0.0,
            ttl: secs(3600),
            value_bytes: (16, 256),
        }],
        faults: vec![],
        expect: Expect { converge_within: secs(600), max_overhead: None },
    };
    assert_eq!(parse(MINIMAL), expected);
    assert_eq!(parse(&format!("{MINIMAL}[[writers]]\n")), expected);
    assert!(parse(&format!("{MINIMAL}writers = []")).writers.is_empty());
    let quick = parse(&format!("{MINIMAL}interval = \"5s\""));
    assert_eq!((quick.flush_interval, quick.expect.converge_within), (secs(5), secs(100)));
}

#[test]
fn nodes_are_all_a_list_or_from_first_to_last() {
    let nodes = |value| {
        let scenario = parse(&format!("{MINIMAL}[[writers]]\nnodes = {value}"));
        scenario.writers[0].nodes.clone()
    };
    assert_eq!(nodes("\"all\""), [0, 1, 2, 3, 4]);
    assert_eq!(nodes("[3, 0]"), [3, 0]);
    assert_eq!(nodes("\"1-3\""), [1, 2, 3]);
    assert_eq!(nodes("\"4-4\""), [4]);
}

#[test]
fn a_fault_is_at_times_or_by_chance() {
    let fault = |text: &str| {
        let scenario = parse(&format!("{MINIMAL}[[faults]]\n{text}"));
        scenario.faults[0].clone()
    };
    let slow = fault("kind = \"slow\"\nat = \"10m\"");
    assert_eq!(slow.kind, FaultKind::Slow { factor: 10.0 });
    assert_eq!((slow.when, slow.lasts), (When::At(vec![secs(600)]), secs(60)));
    assert_eq!(slow.nodes, [0, 1, 2, 3, 4]);
    let back = fault("kind = \"clock-jump\"\nby = \"-90s\"\nper_hour = 2\nnodes = [1]");
    assert_eq!(back.kind, FaultKind::ClockJump { by_secs: -90 });
    assert_eq!((back.when, back.nodes), (When::PerHour(2.0), vec![1]));
    let ahead = fault("kind = \"clock-far-ahead\"\nat = \"1m\"");
    assert_eq!(ahead.kind, FaultKind::ClockFarAhead { by_secs: 30 * 24 * 3600 });
    let twice = fault("kind = \"crash\"\nat = [\"0s\", \"1m\"]");
    assert_eq!(twice.when, When::At(vec![secs(0), secs(60)]));
}

#[test]
fn a_topology_is_a_word_or_a_table() {
    let topology = |value| parse(&MINIMAL.replace("\"star\"", value)).topology;
    assert_eq!(topology("{ kind = \"ring\" }"), Topology::Ring);
    assert_eq!(topology("{ kind = \"random\", degree = 4 }"), Topology::Random { degree: 4 });
    let wan = "{ kind = \"wan\", regions = 2, between = { bandwidth = \"64KiB\", loss = 0.1 } }";
    let between = Link {
        latency: Duration::from_millis(80),
        jitter: Duration::from_millis(20),
        bandwidth: Some(65536),
        loss: 0.1,
    };
    assert_eq!(topology(wan), Topology::Wan { regions: 2, between });
}

#[test]
fn settings_are_texts_numbers_and_truths_in_their_order() {
    let text = "[settings]\nwindow = 8\non = true\n\"a b\" = \"x = y\"";
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let expected = [pair("window", "8"), pair("on", "true"), pair("a b", "x = y")];
    assert_eq!(parse(&format!("{MINIMAL}{text}")).settings, expected);
}

#[test]
fn a_problem_is_reported_with_its_place_and_what_to_write() {
    // What follows the minimal file, whose lines are three, and what is said of it.
    for (text, answer) in [
        ("intervall = \"5s\"", "4:1: unknown key `intervall`; did you mean `interval`?"),
        ("flush-interval = \"5s\"", "4:1: unknown key `flush-interval`; did you mean `flush_in"),
        ("latency = \"5ms\"", "4:1: unknown key `latency`; it belongs in [link]"),
        ("zzz = 1", "4:1: unknown key `zzz`; known are name, about, nodes"),
        ("[[writer]]", "4:3: unknown key `writer`; did you mean `writers`?"),
        ("[writers]\nkeys = 5", "writers: there may be many: write [[writers]]"),
        ("writers = [1]", "4:12: this is a table: write [[writers]]"),
        ("link = 5", "4:8: link: this is a table, [link]"),
        ("about = 5", "4:9: about: write text in quotes"),
        ("duration = 5", "4:12: duration: the unit is missing"),
        ("duration = \"0s\"", "4:12: duration: it must be longer than zero"),
        ("duration = \"2years\"", "4:12: duration: it must be at most 365d"),
        ("interval = \"1us\"", "4:12: interval: it must be at least 1ms"),
        ("clock_skew = \"much\"", "4:14: clock_skew: write a number and its unit"),
        ("compact_interval = \"0s\"", "4:20: compact_interval: it must be longer than zero; or"),
        ("clock_drift = 5", "4:1: unknown key `clock_drift`; did you mean `clock_drift_ppm`?"),
        ("clock_drift_ppm = 0.5", "4:19: clock_drift_ppm: write a whole number from 0 to 100000"),
        ("clock_drift_ppm = 100001", "4:19: clock_drift_ppm: write a whole number from 0 to"),
        ("[link]\nloss = 1.5", "5:8: loss: write a number from 0 to 1"),
        ("[link]\nloss = nan", "5:8: loss: write a number from 0 to 1"),
        ("[link]\nbandwidth = \"fast\"", "5:13: bandwidth: write a whole number and its unit"),
        ("[link]\nkind = \"ring\"", "5:1: unknown key `kind` in [link]; it belongs in [[faults]]"),
        ("[settings]\n\"a=b\" = 1", "5:1: the key of a setting is not empty"),
        ("[settings]\na = [1]", "5:5: a: this is one value"),
        ("[[writers]]\nnodes = [0, 5]", "5:13: nodes: there is no node 5: they are 0 to 4"),
        ("[[writers]]\nnodes = [0, 0]", "5:13: nodes: this stands twice"),
        ("[[writers]]\nnodes = [-1]", "5:10: nodes: a node is a number from 0 to 4"),
        ("[[writers]]\nnodes = []", "5:9: nodes: the list is empty"),
        ("[[writers]]\nnodes = 3", "5:9: nodes: write \"all\", a list"),
        ("[[writers]]\nnodes = \"some\"", "5:9: nodes: write \"all\", a list"),
        ("[[writers]]\nnodes = \"2-5\"", "5:9: nodes: there is no node 5"),
        ("[[writers]]\nnodes = \"3-2\"", "5:9: nodes: the first must not be above the last"),
        ("[[writers]]\nper_minute = 0", "5:14: per_minute: write a number from 0.001 to 60000"),
        ("[[writers]]\nkeys = 1.5", "5:8: keys: write a whole number from 1 to 1000000"),
        ("[[writers]]\nkeys = \"5\"", "5:8: keys: write a whole number from 1 to 1000000"),
        ("[[writers]]\nttl = \"1500ms\"", "5:7: ttl: a time to live is whole seconds"),
        ("[[writers]]\nvalue_bytes = [9, 3]", "5:15: value_bytes: the first must not be above"),
        ("[[writers]]\nvalue_bytes = [9, \"2MiB\"]", "5:19: value_bytes: it must be at most 1MiB"),
        ("[[writers]]\nvalue_bytes = [1, 2, 3]", "5:15: value_bytes: write one size, or two"),
        ("[[faults]]\nat = \"5m\"", "`kind` is missing: write kind = \"crash\""),
        ("[[faults]]\nkind = \"crash\"", "`at` is missing: write at = \"10m\", or per_hour = 2"),
        (
            "[[faults]]\nkind = \"crsh\"\nat = \"5m\"",
            "5:8: kind: there is no `crsh`; did you mean `crash`?",
        ),
        (
            "[[faults]]\nkind = \"zzz\"\nat = \"5m\"",
            "5:8: kind: there is no `zzz`; known are partition, crash",
        ),
        ("[[faults]]\nkind = \"crash\"\nat = []", "6:6: at: the list is empty"),
        (
            "[[faults]]\nkind = \"crash\"\nat = [\"5m\", \"2h\"]",
            "6:13: at: it must be before the scenario's duration",
        ),
        (
            "[[faults]]\nkind = \"crash\"\nat = \"5m\"\nper_hour = 1",
            "7:1: per_hour: there is an `at`, too",
        ),
        (
            "[[faults]]\nkind = \"hang\"\nat = \"5m\"\nfactor = 2",
            "7:1: factor is for kind = \"slow\", and this is a hang",
        ),
        (
            "[[faults]]\nkind = \"slow\"\nat = \"5m\"\nfactor = 0.5",
            "7:10: factor: write a number from 1 to 100000",
        ),
        (
            "[[faults]]\nkind = \"clock-jump\"\nat = \"5m\"\nby = \"-0s\"",
            "7:6: by: it must be longer than zero",
        ),
        (
            "[[faults]]\nkind = \"crash\"\nat = \"5m\"\nby = \"1h\"",
            "7:1: by is for kind = \"clock-jump\" or \"clock-far-ahead\", and this is a crash",
        ),
        (
            "[[faults]]\nkind = \"clock-far-ahead\"\nat = \"5m\"\nby = \"-30d\"",
            "7:6: by: this clock is ahead: write it without a `-`",
        ),
        (
            "[[faults]]\nkind = \"clock-jump\"\nat = \"5m\"\nby = \"1500ms\"",
            "7:6: by: a jump is whole seconds",
        ),
        (
            "[[faults]]\nkind = \"partition\"\nat = \"5m\"",
            "`nodes` is missing: write the nodes of one side",
        ),
        (
            "[[faults]]\nkind = \"partition\"\nat = \"5m\"\nnodes = \"all\"",
            "7:9: nodes: these are all; leave at least one",
        ),
        (
            "[expect]\nmax_overhead = 0.5",
            "5:16: max_overhead: write a number from 1 to 1000000; or",
        ),
        ("[expect]\nconverge_within = \"0s\"", "5:19: converge_within: it must be longer than"),
        ("interval = ", "4:"),
    ] {
        let why = diagnostics(&format!("{MINIMAL}{text}"));
        assert!(why.starts_with("x.toml:") && why.contains(answer), "{text}:\n{why}");
        assert_eq!(why.matches("x.toml:").count(), 1, "{text}:\n{why}");
    }
}

#[test]
fn what_a_file_must_have_is_checked_as_well() {
    for (text, answer) in [
        ("nodes = 5\ntopology = \"star\"", "1:1: `name` is missing: write name = "),
        ("name = \"a\"\ntopology = \"star\"", "1:1: `nodes` is missing: write nodes = 5"),
        ("name = \"a\"\nnodes = 5", "1:1: `topology` is missing: write topology = \"star\""),
        ("name = \"A b\"\nnodes = 5\ntopology = \"star\"", "1:8: name: write small letters"),
        ("name = \"a\"\nnodes = 1\ntopology = \"star\"", "2:9: nodes: write a whole number from 2"),
        ("name = \"a\"\nnodes = 101\ntopology = \"star\"", "2:9: nodes: write a whole number"),
        (
            "name = \"a\"\nnodes = 5\ntopology = \"rign\"",
            "3:12: kind: there is no `rign`; did you mean `ring`?",
        ),
        ("name = \"a\"\nnodes = 5\ntopology = 5", "3:12: kind: write text in quotes"),
        ("name = \"a\"\nnodes = 5\ntopology = \"random\"", "3:12: `degree` is missing: write"),
        (
            "name = \"a\"\nnodes = 5\ntopology = { kind = \"random\", degree = 5 }",
            "3:40: degree: write a whole number from 2 to 4",
        ),
        (
            "name = \"a\"\nnodes = 5\ntopology = { kind = \"wan\", regions = 6 }",
            "3:38: regions: write a whole number from 2 to 5",
        ),
        (
            "name = \"a\"\nnodes = 5\ntopology = { kind = \"ring\", degree = 2 }",
            "3:29: degree is for kind = \"random\", and this is a ring",
        ),
    ] {
        let why = diagnostics(text);
        assert!(why.starts_with(&format!("x.toml:{answer}")), "{text}:\n{why}");
        assert_eq!(why.matches("x.toml:").count(), 1, "{text}:\n{why}");
    }
}

#[test]
fn all_problems_are_reported_at_once_each_with_its_line() {
    let text = "name = \"a\"\nnodes = 5\ntopology = \"star\"\nintervall = 1\n[link]\nloss = 2\n";
    let expected = "there are 2 problems in x.toml
x.toml:4:1: unknown key `intervall`; did you mean `interval`?
  4 | intervall = 1
    | ^^^^^^^^^
x.toml:6:8: loss: write a number from 0 to 1
  6 | loss = 2
    |        ^";
    assert_eq!(Scenario::parse(text, "x.toml").unwrap_err().to_string(), expected);
}

#[test]
fn a_missing_key_is_told_at_the_head_of_its_table() {
    let why = diagnostics(&format!("{MINIMAL}[[faults]]\nkind = \"crash\"\n"));
    assert!(why.starts_with("x.toml:4:1: "), "{why}");
}

#[test]
fn fifteen_scenarios_ship_and_each_says_what_it_shows() {
    let all: Vec<_> = Scenario::shipped().collect();
    let names: HashSet<_> = all.iter().map(|(name, _)| *name).collect();
    assert_eq!((all.len(), names.len()), (15, 15));
    for (name, scenario) in &all {
        assert_eq!(name, &scenario.name);
        assert!(scenario.about.len() > 20 && scenario.about.ends_with('.'), "{name}");
        assert_eq!(&parse(&scenario.to_toml()), scenario, "{name}");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let files: HashSet<_> =
        files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(files, names.into_iter().map(str::to_owned).collect());
}

#[test]
fn every_kind_of_fault_is_in_a_shipped_scenario() {
    let all: Vec<_> = Scenario::shipped().flat_map(|(_, scenario)| scenario.faults).collect();
    let kinds: HashSet<_> = all.iter().map(|fault| fault.kind.name()).collect();
    assert_eq!(kinds.len(), 15, "{kinds:?}");
}

#[test]
fn the_example_of_the_documentation_is_a_scenario() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/simulation.md");
    let docs = std::fs::read_to_string(path).unwrap();
    let examples: Vec<_> =
        docs.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let [minimal, complete] = examples[..] else { panic!("{examples:?}") };
    assert_eq!(parse(minimal).writers.len(), 1);
    let complete = parse(complete);
    assert!(!complete.faults.is_empty() && complete.expect.max_overhead.is_some());
    assert_eq!(parse(&complete.to_toml()), complete);
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_the_same(scenario in scenario()) {
        let text = scenario.to_toml();
        let read = Scenario::parse(&text, "x.toml");
        prop_assert!(read.is_ok(), "{}\n{text}", read.unwrap_err());
        prop_assert_eq!(read.unwrap(), scenario);
    }
}
