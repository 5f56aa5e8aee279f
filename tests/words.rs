//! Words that this project does not use, since there are standard ones: `docs/GLOSSARY.md` has these.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// What is found by whole words, whatever their case, and what to say instead.
const BANNED: &[(&str, &str)] = &[
    ("mistake", "problem, error or bug"),
    ("mistakes", "problems, errors or bugs"),
    ("mend", "fix or repair"),
    ("mends", "fixes or repairs"),
    ("mended", "fixed or repaired"),
    ("census", "liveness scan"),
    ("heir", "redirect"),
    ("rehearsal", "dry run"),
    ("weather", "network faults"),
    ("none is for no bound", "`None` means unlimited"),
    ("does so, too, with those of which", "a sentence with one subject"),
];

fn files(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        let is_made = name == "target" || name.to_string_lossy().starts_with('.');
        if entry.file_type().unwrap().is_dir() && !is_made {
            files(&path, all);
        } else if path
            .extension()
            .is_some_and(|of| ["md", "rs", "toml", "wit"].iter().any(|one| of == *one))
            && !path.ends_with("tests/words.rs")
        {
            all.push(path);
        }
    }
}

/// Where a text has a phrase as whole words: numbers of lines, from 1.
fn lines_with(text: &str, phrase: &str) -> Vec<usize> {
    let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let has = |line: &str| {
        line.match_indices(phrase).any(|(at, _)| {
            let (before, after) = (&line[..at], &line[at + phrase.len()..]);
            !is_part(before.chars().next_back()) && !is_part(after.chars().next())
        })
    };
    let lines = text.lines().map(str::to_lowercase).enumerate();
    lines.filter(|(_, line)| has(line)).map(|(n, _)| n + 1).collect()
}

#[test]
fn words_that_have_a_standard_term_are_not_used() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut all = Vec::new();
    files(root, &mut all);
    assert!(all.len() > 300, "{} files", all.len());
    let mut found = Vec::new();
    for path in all {
        let text = fs::read_to_string(&path).unwrap();
        for (phrase, instead) in BANNED {
            for line in lines_with(&text, phrase) {
                let path = path.strip_prefix(root).unwrap().display();
                found.push(format!("{path}:{line}: \"{phrase}\": say {instead}"));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn words_are_found_whole_and_whatever_their_case() {
    let text = "Mend it.\nmendicant, amend\na (mend)";
    assert_eq!(lines_with(text, "mend"), [1, 3]);
}
