//! What the values of a scenario's file may be. Each parser says what to write instead.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use edgestore_text::{self as text, nearest, scalar};
use toml::Spanned;
use toml::de::DeValue;

/// The longest of all durations: 365 days.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// The largest value that is written: 1 MiB.
pub(super) const MAX_VALUE_BYTES: usize = 1 << 20;

/// What is wrong with a value.
#[derive(Debug)]
pub(super) struct Wrong {
    /// Where, if it is not the value as a whole.
    pub(super) span: Option<Range<usize>>,
    pub(super) why: String,
}

impl From<String> for Wrong {
    fn from(why: String) -> Self {
        Self { span: None, why }
    }
}

pub(super) type Parsed<T> = Result<T, Wrong>;

fn wrong<T>(why: impl Into<String>) -> Parsed<T> {
    Err(Wrong::from(why.into()))
}

fn word(value: &DeValue<'_>) -> Result<String, String> {
    scalar(value).map_err(str::to_owned)
}

/// Text in quotes.
pub(super) fn string(value: &DeValue<'_>) -> Parsed<String> {
    value.as_str().map(str::to_owned).ok_or_else(|| "write text in quotes".to_owned().into())
}

/// A name in kebab case.
pub(super) fn name(value: &DeValue<'_>) -> Parsed<String> {
    let name = string(value)?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if name.split('-').all(|part| !part.is_empty() && part.chars().all(plain)) {
        Ok(name)
    } else {
        wrong("write small letters and digits, with single hyphens between, as in `star-of-five`")
    }
}

/// One of these words.
pub(super) fn one_of(
    known: &'static [&'static str],
) -> impl Fn(&DeValue<'_>) -> Parsed<&'static str> {
    move |value| {
        let given = string(value)?;
        if let Some(found) = known.iter().find(|known| **known == given) {
            return Ok(*found);
        }
        wrong(match nearest(&given, known) {
            Some(near) => format!("there is no `{given}`; did you mean `{near}`?"),
            None => format!("there is no `{given}`; known are {}", known.join(", ")),
        })
    }
}

fn bounded(duration: Duration) -> Parsed<Duration> {
    if duration <= LONGEST { Ok(duration) } else { wrong("it must be at most 365d") }
}

/// `"0s"`, `"30s"`.
pub(super) fn time(value: &DeValue<'_>) -> Parsed<Duration> {
    bounded(text::time(&word(value)?)?)
}

/// `"30s"`, longer than zero.
pub(super) fn duration(value: &DeValue<'_>) -> Parsed<Duration> {
    bounded(text::duration(&word(value)?)?)
}

/// As [`duration`], and not so short that a simulation does nothing else.
pub(super) fn interval(value: &DeValue<'_>) -> Parsed<Duration> {
    match duration(value)? {
        short if short < Duration::from_millis(1) => wrong("it must be at least 1ms"),
        interval => Ok(interval),
    }
}

/// As [`duration`], of whole seconds.
pub(super) fn ttl(value: &DeValue<'_>) -> Parsed<Duration> {
    bounded(text::ttl(&word(value)?)?)
}

/// `"+1h"`, `"-90s"`: seconds, of which there are some.
pub(super) fn jump(value: &DeValue<'_>) -> Parsed<i64> {
    let given = word(value)?;
    let (sign, length) = match given.trim().strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, given.trim().trim_start_matches('+')),
    };
    let length = bounded(text::duration(length)?)?;
    match i64::try_from(length.as_secs()) {
        Ok(secs) if length.subsec_nanos() == 0 => Ok(sign * secs),
        _ => wrong("a jump is whole seconds, as in \"+1h\" or \"-90s\""),
    }
}

/// `"+30d"`, forward alone.
pub(super) fn forward(value: &DeValue<'_>) -> Parsed<i64> {
    match jump(value)? {
        by if by > 0 => Ok(by),
        _ => wrong("this clock is ahead: write it without a `-`"),
    }
}

/// A whole number.
pub(super) fn whole(range: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Parsed<u64> {
    move |value| {
        let number = value.is_integer().then(|| word(value).ok()?.parse().ok()).flatten();
        let number = number.filter(|number| range.contains(number));
        let (from, to) = (range.start(), range.end());
        number.ok_or_else(|| format!("write a whole number from {from} to {to}").into())
    }
}

/// As [`whole`], for what is counted in memory.
pub(super) fn count(range: RangeInclusive<usize>) -> impl Fn(&DeValue<'_>) -> Parsed<usize> {
    let whole = whole(*range.start() as u64..=*range.end() as u64);
    move |value| whole(value).map(|number| number as usize)
}

/// A number, whole or not.
pub(super) fn number(range: RangeInclusive<f64>) -> impl Fn(&DeValue<'_>) -> Parsed<f64> {
    move |value| {
        let is_number = value.is_integer() || value.is_float();
        let number = is_number.then(|| word(value).ok()?.parse().ok()).flatten();
        let number = number.filter(|number| range.contains(number));
        let (from, to) = (range.start(), range.end());
        number.ok_or_else(|| format!("write a number from {from} to {to}").into())
    }
}

/// A part of all, or a chance.
pub(super) fn share(value: &DeValue<'_>) -> Parsed<f64> {
    number(0.0..=1.0)(value)
}

/// A value, or `"off"` for none.
pub(super) fn or_off<T>(
    parse: impl Fn(&DeValue<'_>) -> Parsed<T>,
) -> impl Fn(&DeValue<'_>) -> Parsed<Option<T>> {
    move |value| match value.as_str() {
        Some("off" | "none") => Ok(None),
        _ => parse(value).map(Some).map_err(|Wrong { span, why }| {
            let why = format!("{why}; or \"off\"");
            Wrong { span, why }
        }),
    }
}

/// `"64KiB"`, or a number of bytes.
pub(super) fn size(value: &DeValue<'_>) -> Parsed<u64> {
    Ok(text::size(&word(value)?)?)
}

/// One size, or `[from, to]`.
pub(super) fn sizes(value: &DeValue<'_>) -> Parsed<(usize, usize)> {
    let one = |value: &DeValue<'_>| match size(value)?.try_into() {
        Ok(bytes) if bytes <= MAX_VALUE_BYTES => Ok(bytes),
        _ => wrong("it must be at most 1MiB"),
    };
    let Some(array) = value.as_array() else { return one(value).map(|bytes| (bytes, bytes)) };
    match &array[..] {
        [from, to] => match (element(from, one)?, element(to, one)?) {
            (from, to) if from <= to => Ok((from, to)),
            _ => wrong("the first must not be above the second"),
        },
        _ => wrong("write one size, or two as in [16, 256]"),
    }
}

/// A value, or a list of some that all differ.
pub(super) fn list<T: PartialEq>(
    value: &DeValue<'_>,
    parse: impl Fn(&DeValue<'_>) -> Parsed<T>,
) -> Parsed<Vec<T>> {
    let Some(array) = value.as_array() else { return Ok(vec![parse(value)?]) };
    let mut all = Vec::new();
    for item in array.iter() {
        let parsed = element(item, &parse)?;
        if all.contains(&parsed) {
            return Err(Wrong { span: Some(item.span()), why: "this stands twice".to_owned() });
        }
        all.push(parsed);
    }
    if all.is_empty() { wrong("the list is empty") } else { Ok(all) }
}

/// `"all"`, a list of numbers, or `"FIRST-LAST"`.
pub(super) fn nodes(count: usize) -> impl Fn(&DeValue<'_>) -> Parsed<Vec<usize>> {
    move |value| {
        let last = count.saturating_sub(1);
        let form = "write \"all\", a list as in [0, 2], or the first and the last as in \"2-5\"";
        let none = |node: usize| format!("there is no node {node}: they are 0 to {last}");
        match value {
            DeValue::String(text) if text == "all" => Ok((0..count).collect()),
            DeValue::String(text) => {
                let ends = text.split_once('-').map(|(from, to)| (from.trim(), to.trim()));
                match ends.map(|(from, to)| (from.parse::<usize>(), to.parse::<usize>())) {
                    Some((Ok(_), Ok(to))) if to >= count => wrong(none(to)),
                    Some((Ok(from), Ok(to))) if from <= to => Ok((from..=to).collect()),
                    Some((Ok(_), Ok(_))) => wrong("the first must not be above the last"),
                    _ => wrong(form),
                }
            }
            DeValue::Array(_) => list(value, |node| match word(node)?.parse::<usize>() {
                Ok(node) if node < count => Ok(node),
                Ok(node) => wrong(none(node)),
                Err(_) => wrong(format!("a node is a number from 0 to {last}")),
            }),
            _ => wrong(form),
        }
    }
}

/// One of a list: what is wrong with it stands where it stands.
fn element<T>(item: &Spanned<DeValue<'_>>, parse: impl Fn(&DeValue<'_>) -> Parsed<T>) -> Parsed<T> {
    parse(item.get_ref()).map_err(|Wrong { span, why }| {
        let span = span.or_else(|| Some(item.span()));
        Wrong { span, why }
    })
}
