//! Figures and strange text, for people.

use std::time::Duration;

use edgestore_text as text;

use super::super::{Invariant, Outcome, Violation};
use super::Side;
use super::metric::Unit;

/// Three digits and a suffix: `999`, `12.3k`, `1.20M`.
pub(super) fn count(value: u64) -> String {
    scaled(value as f64)
}

fn scaled(value: f64) -> String {
    let mut rest = value;
    for suffix in ["", "k", "M", "G", "T", "P"] {
        if rest.abs() < 999.5 {
            let whole = suffix.is_empty() && rest.fract() == 0.0;
            return format!("{}{suffix}", if whole { rest.to_string() } else { digits(rest) });
        }
        rest /= 1000.0;
    }
    format!("{value:.2e}")
}

/// Three of them.
fn digits(value: f64) -> String {
    let places = match value.abs() {
        size if size < 9.995 => 2,
        size if size < 99.95 => 1,
        _ => 0,
    };
    // Without this, what rounds to zero from below would be "-0.00".
    let text = format!("{value:.places$}");
    if text.trim_start_matches('-').bytes().all(|byte| matches!(byte, b'0' | b'.')) {
        return text.trim_start_matches('-').to_owned();
    }
    text
}

pub(super) fn bytes(value: u64) -> String {
    text::bytes(value)
}

/// Three digits: `180 KiB`.
pub(super) fn short_bytes(value: u64) -> String {
    let (mut rest, mut units) = (value as f64, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].iter());
    let mut unit = units.next();
    while rest >= 999.5
        && let Some(next) = units.next()
    {
        (rest, unit) = (rest / 1024.0, Some(next));
    }
    let size = if value < 1000 { value.to_string() } else { digits(rest) };
    format!("{size} {}", unit.unwrap_or(&"B"))
}

/// `0s`, `340ms`, `12.3s`, `2m 03s`, `1h 02m`, `3d 04h`.
pub(super) fn time(value: Duration) -> String {
    seconds(value.as_secs_f64())
}

pub(super) fn seconds(value: f64) -> String {
    if value == 0.0 {
        return "0s".to_owned();
    }
    let whole = value.round() as u64;
    match value {
        value if value < 0.9995 => format!("{}ms", digits(value * 1000.0)),
        value if value < 59.95 => format!("{}s", digits(value)),
        _ if whole < 3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        _ if whole < 86_400 => format!("{}h {:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d {:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

pub(super) fn ratio(value: f64) -> String {
    format!("{}x", digits(value))
}

/// A figure of some unit, such as a mean, which need not be whole; `-` where there is none.
pub(super) fn mean(value: Option<f64>, unit: Unit) -> String {
    let Some(value) = value.filter(|value| value.is_finite()) else {
        return "-".to_owned();
    };
    let (sign, size) = (if value < 0.0 { "-" } else { "" }, value.abs());
    match unit {
        Unit::Share => format!("{}%", digits(value * 100.0)),
        Unit::Seconds => format!("{sign}{}", seconds(size)),
        Unit::Bytes => format!("{sign}{}", bytes(size.round() as u64)),
        Unit::Ratio => ratio(value),
        Unit::Count => scaled(value),
    }
}

/// A difference, with its sign.
pub(super) fn change(value: Option<f64>, unit: Unit) -> String {
    let plus = value.is_some_and(|value| value > 0.0);
    format!("{}{}", if plus { "+" } else { "" }, mean(value, unit))
}

pub(super) fn invariant(invariant: Invariant) -> &'static str {
    match invariant {
        Invariant::Durability => "durability",
        Invariant::Merge => "merge",
        Invariant::Convergence => "convergence",
        Invariant::Cursor => "cursor",
        Invariant::Honesty => "honesty",
        Invariant::Integrity => "integrity",
        Invariant::Limits => "limits",
        Invariant::Starvation => "starvation",
        Invariant::Expectation => "expectation",
    }
}

/// One line: what was broken, when, and how.
pub(super) fn violation(violation: &Violation) -> String {
    let (kind, what) = (invariant(violation.invariant), clean(&violation.what));
    format!("{kind}, at {}: {what}", time(violation.at))
}

/// One line in which nothing is hidden, as a policy may have put into its log.
pub(super) fn clean(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\t' => line.push(' '),
            character if text::is_hidden(character) => line.extend(character.escape_default()),
            character => line.push(character),
        }
    }
    line
}

/// `1 run`, `2 runs`.
pub(super) fn many(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The command that repeats a run.
pub(super) fn replay(side: Side<'_>, run: &Outcome) -> String {
    let mut command = "edgestore-host policy test".to_owned();
    let mut push = |word: &str| {
        command.push(' ');
        command += &quoted(word);
    };
    if !side.replay.is_some_and(|replay| replay.embedded) {
        push(side.file);
    }
    let scenarios = side.replay.map_or(&[][..], |replay| &replay.scenarios);
    let given = scenarios.iter().find(|(name, _)| *name == run.scenario);
    for word in ["--scenario", given.map_or(&*run.scenario, |(_, given)| given)] {
        push(word);
    }
    for word in ["--seed", &run.seed.to_string()] {
        push(word);
    }
    for word in side.replay.iter().flat_map(|replay| &replay.options) {
        push(word);
    }
    command
}

/// A word of a POSIX shell.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/+:@%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// As many of these as are of use, and how many are left out.
pub(super) fn seeds(seeds: &[u64], most: usize) -> String {
    let shown: Vec<String> = seeds.iter().take(most).map(u64::to_string).collect();
    let left = seeds.len().saturating_sub(most);
    shown.join(", ") + &if left > 0 { format!(" and {left} more") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        let counts = [0, 7, 999, 1000, 12_345, 999_499, 999_500, 123_456_789].map(count);
        assert_eq!(counts, ["0", "7", "999", "1.00k", "12.3k", "999k", "1.00M", "123M"]);
        let sizes = [0, 999, 1024, 184_320, 1 << 30].map(short_bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.00 KiB", "180 KiB", "1.00 GiB"]);
        let times = [0, 340, 12_340, 59_960, 123_000, 3_720_000, 273_600_000]
            .map(|millis| time(Duration::from_millis(millis)));
        assert_eq!(times, ["0s", "340ms", "12.3s", "1m 00s", "2m 03s", "1h 02m", "3d 04h"]);
        assert_eq!(ratio(1.0), "1.00x");
    }

    #[test]
    fn differences_have_their_sign() {
        assert_eq!(change(Some(-1.5), Unit::Seconds), "-1.50s");
        assert_eq!(change(Some(2048.0), Unit::Bytes), "+2.00 KiB");
        assert_eq!(change(Some(0.25), Unit::Share), "+25.0%");
        assert_eq!(change(Some(-0.001), Unit::Ratio), "0.00x");
        assert_eq!(change(Some(f64::NAN), Unit::Count), "-");
        assert_eq!(change(None, Unit::Count), "-");
    }

    #[test]
    fn a_terminal_takes_no_orders_from_a_log() {
        assert_eq!(clean("a\x1b[2Jb\nc\td ü"), "a\\u{1b}[2Jb\\nc d ü");
    }

    #[test]
    fn strange_file_names_survive_a_shell() {
        assert_eq!(quoted("target/sync.wasm"), "target/sync.wasm");
        assert_eq!(quoted("my policy.wasm"), "'my policy.wasm'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn long_lists_of_seeds_are_cut() {
        assert_eq!(seeds(&[1, 2, 3], 3), "1, 2, 3");
        assert_eq!(seeds(&[1, 2, 3], 2), "1, 2 and 1 more");
    }
}
