//! Rows of JSON lines: an object on each line.

use std::collections::HashMap;
use std::io::{BufRead, Read};
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;

use super::{BOM, Columns, Problem, ttl_seconds};
use crate::admin::Op;

/// Bytes of the longest line.
const MAX_LINE: u64 = 64 << 20;

/// The rows of `source`; empty lines are none.
pub(super) fn rows<R: BufRead>(source: R, columns: &Columns) -> Lines<R> {
    let name = |name: &Option<String>, default: &str| name.clone().unwrap_or(default.to_owned());
    Lines {
        source,
        line: 0,
        buffer: Vec::new(),
        key: name(&columns.key, "key"),
        value: name(&columns.value, "value"),
        ns: columns.ns.clone(),
        ttl: columns.ttl,
    }
}

pub(super) struct Lines<R> {
    source: R,
    line: u64,
    buffer: Vec<u8>,
    key: String,
    value: String,
    ns: String,
    ttl: Option<Duration>,
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<(u64, Op), Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.buffer.clear();
            self.line += 1;
            let problem = |text| Some(Err(Problem { line: self.line, text }));
            match self.source.by_ref().take(MAX_LINE).read_until(b'\n', &mut self.buffer) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return problem(format!("can't read on: {error}")),
            }
            if self.buffer.len() as u64 >= MAX_LINE && !self.buffer.ends_with(b"\n") {
                return problem("the line is over 64 MiB: is this JSON lines?".to_owned());
            }
            let text = self.buffer.as_slice();
            let text = if self.line == 1 { text.strip_prefix(BOM).unwrap_or(text) } else { text };
            if !text.trim_ascii().is_empty() {
                let line = self.line;
                let op = self.op(text).map_err(|text| Problem { line, text });
                return Some(op.map(|op| (line, op)));
            }
        }
    }
}

impl<R> Lines<R> {
    fn op(&self, text: &[u8]) -> Result<Op, String> {
        // Raw, so that numbers keep their digits and objects the order of their fields.
        type Object = HashMap<String, Box<RawValue>>;
        let object: Object = serde_json::from_slice(text).map_err(|error| {
            // The position within the line, without a line number that is always 1.
            let at = error.column();
            format!("not a JSON object, from character {at} on: write one object on each line")
        })?;
        let field = |name: &str, option: &str| {
            object.get(name).ok_or_else(|| {
                format!("the object has no {name:?}: add it, or name another field by {option}")
            })
        };
        let (key, value) = (field(&self.key, "--key")?, field(&self.value, "--value")?);
        let key = match parsed(key) {
            Value::String(key) if key.is_empty() => {
                return Err(format!("{:?} is empty: fill it, or drop the line", self.key));
            }
            Value::String(key) => key,
            Value::Number(_) => key.get().to_owned(),
            _ => return Err(format!("{:?} is no string: quote it", self.key)),
        };
        let value = match parsed(value) {
            Value::String(value) => value,
            _ => value.get().to_owned(),
        };
        let optional = |name: &str| object.get(name).map_or(Value::Null, |value| parsed(value));
        let ns = match optional("ns") {
            Value::Null => self.ns.clone(),
            Value::String(ns) => ns,
            _ => return Err("\"ns\" is no string: quote it".to_owned()),
        };
        let ttl = match optional("ttl") {
            Value::Null => self.ttl,
            Value::String(ttl) => Some(ttl_seconds(&ttl)?),
            other => Some(ttl_seconds(&other.to_string())?),
        };
        Ok(Op { ns: ns.into(), key: key.into(), value: Some(value.into()), ttl })
    }
}

/// A raw value has been parsed before, and is valid.
fn parsed(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<Result<Op, Problem>> {
        let columns = Columns { ns: "n".into(), ..Columns::default() };
        rows(text.as_bytes(), &columns).map(|row| row.map(|(_, op)| op)).collect()
    }

    #[test]
    fn strings_are_taken_as_they_are_and_other_values_as_their_text() {
        for (json, value) in [
            (r#""a\nb""#, "a\nb"),
            ("21.5", "21.5"),
            ("null", "null"),
            ("1.50", "1.50"),
            (r#"{"b": [1, true], "a": 1}"#, r#"{"b": [1, true], "a": 1}"#),
        ] {
            let ops = parse(&format!(r#"{{"key":"k","value":{json}}}"#));
            assert_eq!(ops[0].as_ref().unwrap().value.as_deref(), Some(value.as_bytes()));
        }
    }

    #[test]
    fn empty_lines_and_a_missing_line_end_do_no_harm() {
        let text = "\u{feff}{\"key\":\"a\",\"value\":1}\r\n\n  \n{\"key\":7,\"value\":\"\"}";
        let keys: Vec<_> = parse(text).into_iter().map(|op| op.unwrap().key).collect();
        assert_eq!(keys, [b"a", b"7"]);
    }

    #[test]
    fn a_line_may_have_a_namespace_and_a_time_to_live() {
        let ops = parse(
            "{\"key\":\"a\",\"value\":1,\"ns\":\"m\",\"ttl\":60}\n\
             {\"key\":\"a\",\"value\":1,\"ns\":null,\"ttl\":null}",
        );
        let op = |at: usize| ops[at].as_ref().unwrap();
        assert_eq!((op(0).ns.as_slice(), op(0).ttl), (&b"m"[..], Some(Duration::from_secs(60))));
        assert_eq!((op(1).ns.as_slice(), op(1).ttl), (&b"n"[..], None));
    }

    #[test]
    fn problems_name_the_line_and_the_fix() {
        for (text, part) in [
            ("[1]", "one object on each line"),
            ("{\"key\":\"a\"", "one object on each line"),
            ("{\"key\":\"a\"}", "no \"value\": add it, or name another field by --value"),
            ("{\"value\":1}", "--key"),
            ("{\"key\":[],\"value\":1}", "quote it"),
            ("{\"key\":\"\",\"value\":1}", "fill it"),
            ("{\"key\":\"a\",\"value\":1,\"ttl\":-1}", "whole number"),
            ("{\"key\":\"a\",\"value\":1,\"ns\":3}", "quote it"),
        ] {
            let rows = parse(&format!("{{\"key\":\"ok\",\"value\":1}}\n{text}"));
            let problem = rows[1].as_ref().unwrap_err();
            assert!(problem.text.contains(part), "{}", problem.text);
            assert_eq!(problem.line, 2);
        }
    }
}
