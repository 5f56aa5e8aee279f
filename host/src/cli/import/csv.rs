//! Rows of CSV, whose header says what is where.

use std::io::Read;
use std::time::Duration;

use csv::{ErrorKind, Reader, ReaderBuilder, StringRecord};

use super::{Columns, Problem, Rows, ttl_seconds};
use crate::admin::Op;

/// Positions of the columns.
struct Layout {
    header: StringRecord,
    key: usize,
    /// None: the whole row.
    value: Option<usize>,
    ns: Option<usize>,
    ttl: Option<usize>,
    default_ns: Vec<u8>,
    default_ttl: Option<Duration>,
}

/// The rows of `source`. A wrong header is a wrong row.
pub(super) fn rows<'a>(source: impl Read + 'a, columns: &Columns) -> Rows<'a> {
    let mut reader = ReaderBuilder::new().from_reader(source);
    let layout = match reader.headers() {
        Ok(header) => layout(header.clone(), columns).map_err(|text| Problem { line: 1, text }),
        Err(error) => Err(problem(&error, 1)),
    };
    match layout {
        Ok(layout) => Box::new(read(reader, layout)),
        Err(problem) => Box::new(std::iter::once(Err(problem))),
    }
}

fn read(
    mut reader: Reader<impl Read>,
    layout: Layout,
) -> impl Iterator<Item = Result<(u64, Op), Problem>> {
    let mut record = StringRecord::new();
    std::iter::from_fn(move || {
        let line = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(false) => None,
            Ok(true) => {
                let line = record.position().map_or(line, csv::Position::line);
                let op = layout.op(&record).map_err(|text| Problem { line, text });
                Some(op.map(|op| (line, op)))
            }
            Err(error) => Some(Err(problem(&error, line))),
        }
    })
}

fn layout(header: StringRecord, columns: &Columns) -> Result<Layout, String> {
    let find = |name: &str| header.iter().position(|column| column == name);
    let names = || header.iter().collect::<Vec<_>>().join(", ");
    let wanted = |name: &Option<String>, option: &str| match name {
        None => Ok(None),
        Some(name) => find(name).map(Some).ok_or_else(|| {
            format!("the header has no column {name:?}, which {option} names; it has: {}", names())
        }),
    };
    if header.iter().all(str::is_empty) {
        return Err("there is no header: put the names of the columns in the first line".into());
    }
    let mut seen = std::collections::HashSet::new();
    if let Some(twice) = header.iter().find(|name| !seen.insert(*name)) {
        return Err(format!("two columns are called {twice:?}: rename one"));
    }
    let (ns, ttl) = (find("ns"), find("ttl"));
    let value = wanted(&columns.value, "--value")?.or_else(|| find("value"));
    let first = || (0..header.len()).find(|at| ![ns, ttl, value].contains(&Some(*at)));
    let key = wanted(&columns.key, "--key")?.or_else(|| find("key")).or_else(first);
    let Some(key) = key else {
        return Err(format!("no column is left for the key; there are: {}", names()));
    };
    let (default_ns, default_ttl) = (columns.ns.clone().into_bytes(), columns.ttl);
    Ok(Layout { header, key, value, ns, ttl, default_ns, default_ttl })
}

impl Layout {
    fn op(&self, record: &StringRecord) -> Result<Op, String> {
        let field = |at: usize| record.get(at).unwrap_or_default();
        let optional = |at: Option<usize>| at.map(field).filter(|text| !text.is_empty());
        let key = field(self.key);
        if key.is_empty() {
            let column = self.header.get(self.key).unwrap_or_default();
            return Err(format!("the key (column {column:?}) is empty: fill it, or drop the row"));
        }
        let value = self.value.map_or_else(|| self.object(record), |at| field(at).to_owned());
        let ns = optional(self.ns).map_or_else(|| self.default_ns.clone(), |ns| ns.into());
        let ttl = optional(self.ttl).map(ttl_seconds).transpose()?.or(self.default_ttl);
        Ok(Op { ns, key: key.into(), value: Some(value.into_bytes()), ttl })
    }

    /// The row as a JSON object of strings, in the order of the columns.
    fn object(&self, record: &StringRecord) -> String {
        let string = |text: &str| serde_json::Value::from(text).to_string();
        let field = |(name, text)| format!("{}:{}", string(name), string(text));
        let fields: Vec<_> = self.header.iter().zip(record).map(field).collect();
        format!("{{{}}}", fields.join(","))
    }
}

fn problem(error: &csv::Error, line: u64) -> Problem {
    let line = error.position().map_or(line, csv::Position::line);
    let text = match error.kind() {
        ErrorKind::UnequalLengths { expected_len, len, .. } => format!(
            "the row has {len} fields and the header {expected_len}: quote fields that have a \
             comma or line break in them"
        ),
        ErrorKind::Utf8 { .. } => "the row is not UTF-8: save the file in this encoding".into(),
        ErrorKind::Io(error) => format!("can't read on: {error}"),
        _ => error.to_string(),
    };
    Problem { line, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Columns {
        Columns { ns: "n".into(), ..Columns::default() }
    }

    fn parse(text: &[u8], columns: &Columns) -> Vec<Result<(String, String), (u64, String)>> {
        let rows = rows(text, columns).map(|row| match row {
            Ok((_, op)) => Ok((
                String::from_utf8(op.key).unwrap(),
                String::from_utf8(op.value.unwrap()).unwrap(),
            )),
            Err(problem) => Err((problem.line, problem.text)),
        });
        rows.collect()
    }

    fn ok(key: &str, value: &str) -> Result<(String, String), (u64, String)> {
        Ok((key.into(), value.into()))
    }

    #[test]
    fn key_and_value_are_found_by_name() {
        let text = b"\xef\xbb\xbfvalue,key\n1,a\n\"x,\n\"\"y\"\"\",b\n";
        assert_eq!(parse(text, &columns()), [ok("a", "1"), ok("b", "x,\n\"y\"")]);
        let named = Columns { key: Some("id".into()), value: Some("c".into()), ..columns() };
        assert_eq!(parse(b"key,id,c\nx,a,1\n", &named), [ok("a", "1")]);
    }

    #[test]
    fn without_them_the_first_column_is_the_key_and_the_row_the_value() {
        let rows = parse(b"sensor,celsius\ns1,21.5\n", &columns());
        assert_eq!(rows, [ok("s1", r#"{"sensor":"s1","celsius":"21.5"}"#)]);
        assert_eq!(parse(b"ns,id,value\nm,a,1\n", &columns()), [ok("a", "1")]);
    }

    #[test]
    fn a_row_may_have_a_namespace_and_a_time_to_live() {
        let given = Columns { ttl: Some(Duration::from_secs(9)), ..columns() };
        let ops: Vec<_> = rows(&b"key,value,ns,ttl\na,1,m,60\nb,2,,\n"[..], &given)
            .map(|row| row.unwrap().1)
            .map(|op| (op.ns, op.ttl.unwrap().as_secs()))
            .collect();
        assert_eq!(ops, [(b"m".to_vec(), 60), (b"n".to_vec(), 9)]);
    }

    #[test]
    fn problems_name_the_line_and_the_fix() {
        for (text, line, part) in [
            (&b"key,value\na,1\nb\n"[..], 3, "quote fields"),
            (b"key,value\n\"a\nb\",1\n,2\n", 4, "key (column \"key\") is empty"),
            (b"key,value\na,\xff\n", 2, "UTF-8"),
            (b"key,value,ttl\na,1,soon\n", 2, "whole number"),
            (b"key,key\n", 1, "rename one"),
            (b"", 1, "no header"),
            (b"ns,ttl\n", 1, "left for the key"),
        ] {
            let problems = parse(text, &columns());
            let (at, problem) = problems.last().unwrap().clone().unwrap_err();
            assert!(problem.contains(part), "{problem}");
            assert_eq!(at, line, "{problem}");
        }
        let named = Columns { key: Some("id".into()), ..columns() };
        let (_, problem) = parse(b"a,b\n", &named)[0].clone().unwrap_err();
        assert_eq!(problem, "the header has no column \"id\", which --key names; it has: a, b");
    }
}
