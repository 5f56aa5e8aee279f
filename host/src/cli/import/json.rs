//! Rows of JSON: an object each, one after the other (JSON lines) or in one array.
//!
//! An object is cut out of the file first, under the bound for a row, and parsed then. Its values
//! stay raw: numbers keep their digits, and objects the order of their fields.

use std::collections::HashSet;
use std::fmt;
use std::io::BufRead;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::source::{Place, Problem, Source, not_utf8};
use super::{Columns, is_near, ttl_seconds, unknown};
use crate::admin::Op;
use crate::engine::MAX_RECORD;

/// Bytes of a row. The largest record fits with each of its bytes escaped, as `\u0000`.
const MAX_ROW: u64 = 13 << 20;
const _: () = assert!(MAX_ROW > 6 * MAX_RECORD as u64);

/// The rows of `input`.
pub(super) fn rows<R: BufRead>(input: R, columns: &Columns) -> Rows<R> {
    bounded(input, columns, MAX_ROW)
}

fn bounded<R: BufRead>(input: R, columns: &Columns, limit: u64) -> Rows<R> {
    let name = |name: &Option<String>, default: &str| name.clone().unwrap_or(default.to_owned());
    Rows {
        source: Source::new(input, limit),
        state: State::Start,
        text: Vec::new(),
        key: name(&columns.key, "key"),
        value: name(&columns.value, "value"),
        ns: columns.ns.clone(),
        ttl: columns.ttl,
        hex: columns.hex,
        guesses: columns.guesses(),
    }
}

pub(super) struct Rows<R> {
    source: Source<R>,
    state: State,
    /// Of the row.
    text: Vec<u8>,
    key: String,
    value: String,
    ns: String,
    ttl: Option<Duration>,
    hex: bool,
    /// The fields that mean something by their name.
    guesses: Vec<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing but white space was read.
    Start,
    /// Objects follow one another.
    Lines,
    /// In an array, before its first element.
    Array,
    /// In an array, behind a comma.
    Element,
    /// Behind the end of the array.
    Closed,
    /// Behind the end of the file, or behind a problem.
    Ended,
}

impl<R: BufRead> Iterator for Rows<R> {
    type Item = Result<(Place, Op), Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.row();
        if !matches!(row, Ok(Some(_))) {
            self.state = State::Ended;
        }
        row.transpose()
    }
}

impl<R: BufRead> Rows<R> {
    fn row(&mut self) -> Result<Option<(Place, Op)>, Problem> {
        loop {
            let byte = match (self.state, self.skip_space()?) {
                (State::Ended, _) | (State::Start | State::Lines | State::Closed, None) => {
                    return Ok(None);
                }
                (State::Array | State::Element, None) => {
                    let text = "the file ends within the array: rows at its end may be missing";
                    return Err(self.here(text));
                }
                (State::Closed, Some(_)) => {
                    return Err(self.here("more follows the end of the array: remove it"));
                }
                (_, Some(byte)) => byte,
            };
            match (self.state, byte) {
                (State::Start, b'[') => {
                    self.source.take(byte)?;
                    self.state = State::Array;
                }
                (State::Array, b']') => {
                    self.source.take(byte)?;
                    self.state = State::Closed;
                }
                (_, b'{') => {
                    let place = self.object()?;
                    let op = self.op(place)?;
                    self.state = self.behind_object()?;
                    return Ok(Some((place, op)));
                }
                (State::Lines, b',') => {
                    let text = "a comma stands between two objects: put each object on a line, and \
                                nothing else, or all of them into one array";
                    return Err(self.here(text));
                }
                _ => return Err(self.not_an_object()),
            }
        }
    }

    fn here(&self, text: impl Into<String>) -> Problem {
        Problem::row(self.source.place(), text)
    }

    fn not_an_object(&self) -> Problem {
        self.here("no JSON object begins here: a row is an object, on a line or in an array")
    }

    /// The next byte that is no white space, which stays.
    fn skip_space(&mut self) -> Result<Option<u8>, Problem> {
        loop {
            match self.source.peek()? {
                Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) => {
                    self.source.begin_row();
                    self.source.take(byte)?;
                }
                other => return Ok(other),
            }
        }
    }

    /// Reads the object that begins here into `text`. Whether it is a sound one is seen later.
    fn object(&mut self) -> Result<Place, Problem> {
        self.text.clear();
        let start = self.source.begin_row();
        let (mut depth, mut string, mut escaped) = (0_usize, None, false);
        loop {
            if string.is_some() && !escaped {
                self.source.take_run(b"\"\\", &mut self.text)?;
            }
            let Some(byte) = self.source.peek()? else {
                let text = "the object that begins here is not closed: close it";
                return Err(self.cut(start, Problem::row(start, text)));
            };
            let place = self.source.place();
            self.source.take(byte).map_err(|problem| self.cut(start, problem))?;
            self.text.push(byte);
            match (string, byte) {
                (Some(_), _) if escaped => escaped = false,
                (Some(_), b'\\') => escaped = true,
                (Some(_), b'"') => string = None,
                (Some(opened), b'\n' | b'\r') => {
                    let text = "the quote that opens here is not closed in this line: close it; a \
                                line break in a text is written as \\n";
                    return Err(Problem::row(opened, text));
                }
                (Some(_), _) => {}
                (None, b'"') => string = Some(place),
                (None, b'{' | b'[') => depth += 1,
                (None, b'}' | b']') => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(start);
                    }
                }
                (None, _) => {}
            }
        }
    }

    /// Steps to where the next row may begin. The row before is not done when something else
    /// stands there.
    fn behind_object(&mut self) -> Result<State, Problem> {
        self.source.begin_row();
        if matches!(self.state, State::Start | State::Lines) {
            loop {
                match self.source.peek()? {
                    None => return Ok(State::Lines),
                    Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) => {
                        self.source.take(byte)?;
                        if byte == b'\n' {
                            return Ok(State::Lines);
                        }
                    }
                    Some(_) => {
                        let text = "more follows the object on its line: put each object on a \
                                    line, and nothing else, or all of them into one array";
                        return Err(self.here(text));
                    }
                }
            }
        }
        let state = match self.skip_space()? {
            Some(b',') => State::Element,
            Some(b']') => State::Closed,
            None => {
                return Err(self.here("the file ends within the array: rows may be missing"));
            }
            Some(_) => return Err(self.here("`,` or `]` must follow an object of the array")),
        };
        self.source.take(if state == State::Element { b',' } else { b']' })?;
        Ok(state)
    }

    /// What is wrong with an object of which `text` has only the first part: what is seen in this
    /// part, or else `problem`.
    fn cut(&self, start: Place, problem: Problem) -> Problem {
        self.parse(start).err().flatten().unwrap_or(problem)
    }

    /// The fields of the object in `text`, which begins at `start`; no problem when its end is
    /// missing.
    fn parse(&self, start: Place) -> Result<Fields<'_>, Option<Problem>> {
        let text = std::str::from_utf8(&self.text).map_err(|error| {
            let valid = String::from_utf8_lossy(&self.text[..error.valid_up_to()]);
            error.error_len().map(|_| not_utf8(start.after(&valid)))
        })?;
        match serde_json::from_str(text) {
            Ok(fields) => Ok(fields),
            Err(error) if error.is_eof() => Err(None),
            Err(error) => {
                let (line, place) = (error.line(), start.after(before(text, &error)));
                let why = error.to_string();
                let why = why.strip_suffix(&format!(" at line {line} column {}", error.column()));
                let why = why.map_or_else(|| error.to_string(), str::to_owned);
                Err(Some(Problem::row(place, format!("this is no JSON object: {why}"))))
            }
        }
    }

    fn op(&self, start: Place) -> Result<Op, Problem> {
        let fields = self.parse(start).map_err(|problem| {
            problem.unwrap_or_else(|| Problem::row(start, "this object is not closed: close it"))
        })?;
        let whole = std::str::from_utf8(&self.text).unwrap_or_default();
        // A raw value is a part of the text.
        let place = |raw: &RawValue| {
            let at = (raw.get().as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
            start.after(whole.get(..at).unwrap_or_default())
        };
        let mut names = HashSet::new();
        if let Some((name, raw)) = fields.0.iter().find(|(name, _)| !names.insert(name)) {
            let text = format!("the object has {name:?} a second time: drop one of them");
            return Err(Problem::row(place(raw), text));
        }
        let find = |name: &str| fields.0.iter().find(|(n, _)| n == name).map(|(_, raw)| *raw);
        for name in self.guesses.iter().filter(|name| find(name).is_none()) {
            if let Some((near, raw)) = fields.0.iter().find(|(near, _)| is_near(near, name)) {
                return Err(Problem::row(place(raw), unknown("field", near, name)));
            }
        }
        let needed = |name: &str, option: &str| {
            find(name).ok_or_else(|| {
                let text = format!(
                    "the object has no {name:?}: add it, or name another field by {option}"
                );
                Problem::row(start, text)
            })
        };
        // Strings are decoded; what else there is keeps its text.
        let text = |raw: &RawValue| match raw.get().starts_with('"') {
            true => serde_json::from_str::<String>(raw.get()).map_err(|_| {
                let text = "this text has an escape that stands for no character: give both halves \
                            of a surrogate pair, or the character itself";
                Problem::row(place(raw), text)
            }),
            false => Ok(raw.get().to_owned()),
        };
        let (key, value) = (needed(&self.key, "--key")?, needed(&self.value, "--value")?);
        for (name, raw) in [(&self.key, key), (&self.value, value)] {
            if self.hex && kind(raw) != Kind::String {
                let text = format!("{name:?} is no string, and with --hex it must be: quote it");
                return Err(Problem::row(place(raw), text));
            }
        }
        let key = match kind(key) {
            Kind::String | Kind::Number => text(key).and_then(|text| match text.is_empty() {
                true => {
                    let text = format!("{:?} is empty: fill it, or drop the row", self.key);
                    Err(Problem::row(place(key), text))
                }
                false => Ok(text),
            })?,
            _ => {
                let text = format!("{:?} is no string and no number: quote it", self.key);
                return Err(Problem::row(place(key), text));
            }
        };
        let value = text(value)?;
        let ns = match find("ns").map(|raw| (raw, kind(raw))) {
            None | Some((_, Kind::Null)) => self.ns.clone(),
            Some((raw, Kind::String)) => text(raw)?,
            Some((raw, _)) => {
                return Err(Problem::row(place(raw), "\"ns\" is no string: quote it"));
            }
        };
        let ttl = match find("ttl").map(|raw| (raw, kind(raw))) {
            None | Some((_, Kind::Null)) => self.ttl,
            Some((raw, _)) => {
                Some(ttl_seconds(&text(raw)?).map_err(|text| Problem::row(place(raw), text))?)
            }
        };
        Ok(Op { ns: ns.into(), key: key.into(), value: Some(value.into()), ttl })
    }
}

/// The text before the place of an error.
fn before<'t>(text: &'t str, error: &serde_json::Error) -> &'t str {
    let lines = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    let start: usize = lines.map(str::len).sum();
    // The column counts bytes, up to and with the one that is wrong.
    let end = (start + error.column().saturating_sub(1)).min(text.len());
    &text[..text.floor_char_boundary(end)]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    String,
    Number,
    Null,
    Other,
}

fn kind(raw: &RawValue) -> Kind {
    match raw.get().as_bytes().first() {
        Some(b'"') => Kind::String,
        Some(b'-' | b'0'..=b'9') => Kind::Number,
        Some(b'n') => Kind::Null,
        _ => Kind::Other,
    }
}

/// The fields of an object in their order, also those that come twice.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests {
    use super::super::source::begin;
    use super::*;

    fn parse_bytes(text: &[u8]) -> Vec<Result<Op, Problem>> {
        let columns = Columns { ns: "n".into(), ..Columns::default() };
        let (input, _) = begin(text).unwrap();
        rows(input, &columns).map(|row| row.map(|(_, op)| op)).collect()
    }

    fn parse(text: &str) -> Vec<Result<Op, Problem>> {
        parse_bytes(text.as_bytes())
    }

    #[test]
    fn names_that_are_almost_known_are_refused_and_others_ignored() {
        let row = |columns: &Columns, text: &str| {
            let (input, _) = begin(text.as_bytes()).unwrap();
            rows(input, columns).next().unwrap().map(|(_, op)| op)
        };
        let columns = || Columns { ns: "n".into(), ..Columns::default() };
        for (text, column, part) in [
            (r#"{"key":1,"value":2,"TTL":60}"#, 26, "call it \"ttl\""),
            (r#"{"key":1,"value":2," ns":"m"}"#, 26, "\" ns\" is none that is known"),
            (r#"{"Key":1,"value":2}"#, 8, "call it \"key\""),
            (r#"{"key":1,"value ":2}"#, 19, "call it \"value\""),
        ] {
            let problem = row(&columns(), text).unwrap_err();
            assert!(problem.text.contains(part), "{}", problem.text);
            assert_eq!(problem.place, Place { line: 1, column }, "{text}");
        }
        let ttl = row(&columns(), r#"{"key":1,"value":2,"ttl":60,"TTL":61}"#).unwrap().ttl;
        assert_eq!(ttl, Some(Duration::from_secs(60)));
        let named = Columns { key: Some("id".into()), value: Some("v".into()), ..columns() };
        assert!(row(&named, r#"{"id":1,"v":2,"Key":3,"VALUE":4}"#).is_ok());
        assert!(row(&named, r#"{"id":1,"v":2,"Ttl":3}"#).is_err());
    }

    #[test]
    fn hexadecimal_digits_are_strings() {
        let columns = Columns { ns: "n".into(), hex: true, ..Columns::default() };
        for (text, column) in [
            (r#"{"key":12,"value":"ff"}"#, Some(8)),
            (r#"{"key":"12","value":34}"#, Some(21)),
            (r#"{"key":"12","value":null}"#, Some(21)),
            (r#"{"key":"12","value":"34","ttl":60}"#, None),
        ] {
            let (input, _) = begin(text.as_bytes()).unwrap();
            let problem = rows(input, &columns).next().unwrap().err();
            assert!(problem.iter().all(|problem| problem.text.contains("--hex")), "{problem:?}");
            assert_eq!(problem.map(|problem| problem.place.column), column, "{text}");
        }
    }

    fn keys(text: &str) -> Vec<String> {
        let key = |op: Result<Op, Problem>| String::from_utf8(op.unwrap().key).unwrap();
        parse(text).into_iter().map(key).collect()
    }

    #[test]
    fn strings_are_taken_as_they_are_and_other_values_as_their_text() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        for (json, value) in [
            (r#""a\nb""#, "a\nb"),
            (r#""\ud83d\ude00\u0000\/""#, "\u{1f600}\0/"),
            ("\"\"", ""),
            ("21.5", "21.5"),
            ("null", "null"),
            ("true", "true"),
            ("1.50", "1.50"),
            ("1e400", "1e400"),
            ("-0", "-0"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            (r#"{"b": [1, true], "a": 1}"#, r#"{"b": [1, true], "a": 1}"#),
            (r#"{"a":1,"a":"\ud83d"}"#, r#"{"a":1,"a":"\ud83d"}"#),
            ("[\n 1,\n 2 ]", "[\n 1,\n 2 ]"),
            (&deep, &deep),
        ] {
            let ops = parse(&format!(r#"{{"key":"k","value":{json}}}"#));
            assert_eq!(ops[0].as_ref().unwrap().value.as_deref(), Some(value.as_bytes()));
        }
    }

    #[test]
    fn numbers_as_keys_keep_their_digits() {
        let rows = ["1", "1.0", "1e400", "-7", "12345678901234567890123"];
        let text: Vec<_> = rows.map(|key| format!("{{\"key\":{key},\"value\":1}}\n")).to_vec();
        assert_eq!(keys(&text.concat()), rows);
    }

    #[test]
    fn objects_are_found_on_lines_and_in_an_array() {
        let (a, b) = (r#"{"key":"a","value":1}"#, r#"{"key":"b","value":"}]"}"#);
        for text in [
            format!("{a}\n{b}"),
            format!("\u{feff} \n{a}\r\n\n  \n{b}\r\n"),
            format!("[{a},{b}]"),
            format!("\u{feff}\n[\n{a},\n{b}\n]\n"),
            format!("[ {a} , {} ] ", b.replace(',', ",\n\t")),
            format!("{}\n{b}\n", a.replace(',', ",\n\t")),
        ] {
            assert_eq!(keys(&text), ["a", "b"], "{text}");
        }
        for text in ["", " \n\n", "[]", " [ \n ] \n"] {
            assert!(keys(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_row_may_have_a_namespace_and_a_time_to_live() {
        let ops = parse(
            "{\"key\":\"a\",\"value\":1,\"ns\":\"m\",\"ttl\":60}\n\
             {\"key\":\"a\",\"value\":1,\"ns\":null,\"ttl\":null}\n\
             {\"key\":\"a\",\"value\":1,\"ttl\":\"60\",\"more\":[1]}",
        );
        let op = |at: usize| ops[at].as_ref().unwrap();
        let minute = Some(Duration::from_secs(60));
        assert_eq!((op(0).ns.as_slice(), op(0).ttl), (&b"m"[..], minute));
        assert_eq!((op(1).ns.as_slice(), op(1).ttl), (&b"n"[..], None));
        assert_eq!((op(2).ns.as_slice(), op(2).ttl), (&b"n"[..], minute));
    }

    #[test]
    fn problems_name_the_place_and_the_fix_and_the_row_is_not_taken() {
        let deep = format!("{{\"key\":{}1", "[".repeat(5000));
        for (text, place, part) in [
            ("[1]", "2:1", "no JSON object begins here"),
            ("not json", "2:1", "no JSON object begins here"),
            ("{\"key\":\"a\"", "2:1", "not closed"),
            ("{\"key\":\"a\"\n{\"key\":\"b\",\"value\":1}\n", "3:1", "expected `,` or `}`"),
            (
                "{\"key\":\"a\",\"value\":\"1}\n{\"key\":\"b\",\"value\":\"1\"}",
                "2:20",
                "not closed",
            ),
            ("{\"key\":\"a\",\"value\":1} x", "2:23", "more follows"),
            ("{\"key\":\"a\",\"value\":1},", "2:22", "more follows"),
            ("{\"key\":\"a\",\"value\":1}{\"key\":\"b\",\"value\":1}", "2:22", "more follows"),
            ("{\"key\":\"a\",\"value\":01}", "2:21", "invalid number"),
            ("{\"key\":\"a\",\"value\":1,}", "2:22", "trailing comma"),
            ("{'key':'a','value':1}", "2:2", "key must be a string"),
            ("{\"key\":\"a\",\"value\":NaN}", "2:20", "expected value"),
            ("{\"key\":\"a\"}", "2:1", "no \"value\": add it, or name another field by --value"),
            ("{\"value\":1}", "2:1", "--key"),
            ("{\"key\":[],\"value\":1}", "2:8", "quote it"),
            ("{\"key\":null,\"value\":1}", "2:8", "quote it"),
            ("{\"key\":true,\"value\":1}", "2:8", "quote it"),
            ("{\"key\":\"\",\"value\":1}", "2:8", "fill it"),
            ("{\"key\":1,\"key\":2,\"value\":1}", "2:16", "\"key\" a second time"),
            ("{\"key\":1,\"value\":1,\"v\\u0061lue\":1}", "2:33", "\"value\" a second time"),
            // What is no text, or no number.
            ("{\"key\":\"ä\\ud83d\",\"value\":1}", "2:8", "stands for no character"),
            ("{\"key\":\"a\",\"value\":\"\\ud83d\"}", "2:20", "stands for no character"),
            ("{\"key\":\"a\",\"value\":\"\\ud83dx\"}", "2:20", "stands for no character"),
            ("{\"key\":\"a\",\"value\":1,\"ns\":\"\\udc00\"}", "2:27", "stands for no character"),
            ("{\"key\":\"a\",\"value\":1,\"ttl\":\"\\ud83d\"}", "2:28", "stands for no character"),
            ("{\"key\":\"a\",\"value\":\"\\x\"}", "2:22", "invalid escape"),
            ("{\"key\":\"a\",\"value\":1,\"ttl\":-1}", "2:28", "whole number"),
            ("{\"key\":\"a\",\"value\":1,\"ttl\":0}", "2:28", "whole number"),
            ("{\"key\":\"a\",\"value\":1,\"ttl\":60.0}", "2:28", "whole number"),
            ("{\"key\":\"a\",\"value\":1,\"ttl\":1e400}", "2:28", "whole number"),
            ("{\"key\":\"a\",\"value\":1,\"ttl\":4294967296}", "2:28", "whole number"),
            ("{\"key\":\"a\",\"value\":1,\"ttl\":true}", "2:28", "whole number"),
            ("{\"key\":\"a\",\"value\":1,\"ttl\":\"\"}", "2:28", "whole number"),
            ("{\"key\":\"a\",\"value\":1,\"ttl\":[[60]]}", "2:28", "whole number"),
            ("{\"key\":\"a\",\"value\":1,\"ns\":3}", "2:27", "quote it"),
            ("{\"key\":\"a\",\"value\":1,\"ns\":[\"m\"]}", "2:27", "quote it"),
            (&deep, "2:1", "not closed"),
        ] {
            let rows = parse(&format!("{{\"key\":\"ok\",\"value\":1}}\n{text}"));
            let problem = rows[1].as_ref().expect_err(text);
            assert!(problem.text.contains(part), "{text}: {}", problem.text);
            assert_eq!(problem.place.to_string(), place, "{text}: {}", problem.text);
            assert_eq!((rows.len(), problem.io), (2, false), "{text}");
        }
    }

    #[test]
    fn an_array_that_is_not_sound_is_a_problem_where_it_is() {
        let row = "{\"key\":\"a\",\"value\":1}";
        for (text, taken, place, part) in [
            (format!("[{row}"), 0, "1:23", "ends within the array"),
            (format!("[{row},\n"), 1, "2:1", "ends within the array"),
            (format!("[{row}\n{row}]"), 0, "2:1", "`,` or `]` must follow"),
            (format!("[{row},]"), 1, "1:24", "no JSON object begins here"),
            (format!("[{row},,{row}]"), 1, "1:24", "no JSON object begins here"),
            (format!("[{row},[{row}]]"), 1, "1:24", "no JSON object begins here"),
            (format!("[{row}]\n{row}"), 1, "2:1", "more follows the end"),
            (format!("{row}\n[{row}]"), 1, "2:1", "no JSON object begins here"),
            (format!("[{row}] x"), 1, "1:25", "more follows the end"),
            ("[".to_owned(), 0, "1:2", "ends within the array"),
            ("[[".to_owned(), 0, "1:2", "no JSON object begins here"),
        ] {
            let rows = parse(&text);
            let problem = rows[taken].as_ref().expect_err(&text);
            assert!(problem.text.contains(part), "{text}: {}", problem.text);
            assert_eq!(
                (problem.place.to_string().as_str(), rows.len()),
                (place, taken + 1),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_utf_8_is_a_problem_where_it_is() {
        for (text, place) in [
            (&b"{\"key\":\"a\",\"value\":\"\xc3\xa4\xff\"}"[..], "1:22"),
            (b"{\"key\":\"a\",\"value\":1,\n\"x\":\"\xff\"}", "2:6"),
            (b"\xff\xfe{\0", "1:1"),
        ] {
            let rows = parse_bytes(text);
            let problem = rows[0].as_ref().unwrap_err();
            assert_eq!(problem.place.to_string(), place, "{}", problem.text);
        }
    }

    #[test]
    fn a_row_is_bounded_in_bytes() {
        let columns = Columns { ns: "n".into(), ..Columns::default() };
        let row = |value: &str| format!("{{\"key\":\"a\",\"value\":{value}}}");
        let long = "[".repeat(1000);
        for (value, taken) in [("\"xxxxxxxx\"", true), ("\"xxxxxxxxx\"", false), (&long, false)] {
            for text in [
                format!("{}\n{}\n", row("1"), row(value)),
                format!("[{},\n{}]", row("1"), row(value)),
            ] {
                let rows: Vec<_> = bounded(text.as_bytes(), &columns, 30).collect();
                match &rows[1] {
                    Ok(_) => assert!(taken),
                    Err(problem) => {
                        assert!(!taken && problem.text.contains("more than 30"), "{problem:?}");
                        assert_eq!((problem.place.to_string().as_str(), rows.len()), ("2:1", 2));
                    }
                }
            }
        }
    }
}
