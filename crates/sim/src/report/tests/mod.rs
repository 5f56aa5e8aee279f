//! The formats, from made-up runs: what they say, and that readers can read it.

mod compare;
mod formats;
mod html;

use std::path::Path;

use super::super::Outcome;
use super::{Replay, Report, Side, testing};

/// Two scenarios, of which one has failures.
fn mixed() -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> =
        (1..=5).map(|seed| testing::outcome("two-nodes-clean", seed, 2)).collect();
    outcomes.push(testing::failing("ring-with-crashes", 41, 3));
    outcomes.push(testing::outcome("ring-with-crashes", 42, 3));
    outcomes.push(testing::failing("ring-with-crashes", 7, 3));
    outcomes
}

fn side<'a>(file: &'a str, outcomes: &'a [Outcome]) -> Side<'a> {
    Side { file, replay: None, outcomes }
}

/// `text` has to be what the file `name` beside this one has.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/report/tests/golden").join(name);
    if std::env::var_os("EDGESTORE_NEW_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text == wanted,
        "not what {} has. If it is meant to differ, run this with EDGESTORE_NEW_GOLDEN=1 and read \
         the difference.\n{text}",
        path.display()
    );
}

fn json(report: &Report<'_>) -> String {
    let mut bytes = Vec::new();
    report.write_json(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn junit(report: &Report<'_>) -> String {
    let mut bytes = Vec::new();
    report.write_junit(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}
