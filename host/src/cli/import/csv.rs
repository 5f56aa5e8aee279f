//! Rows of CSV (RFC 4180), whose header says what is where.
//!
//! The reader is our own because a row that is not understood must be refused, with its place: the
//! `csv` crate takes a quote that is never closed for one that the end of the file closes, drops
//! quotes in odd places, and reads a field into memory however long it is.

use std::collections::HashSet;
use std::io::BufRead;
use std::time::Duration;

use super::source::{Place, Problem, Source, not_utf8};
use super::{Columns, NAMES, Rows, is_near, ttl_seconds, unknown};
use crate::admin::Op;
use crate::engine::MAX_RECORD;

/// Bytes of a row. The largest record fits in hexadecimal, or with each of its bytes a quote.
const MAX_ROW: u64 = 5 << 20;
const _: () = assert!(MAX_ROW > 2 * MAX_RECORD as u64);

/// What fields are separated by, where the user does not say.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// Positions of the columns.
struct Layout {
    header: Vec<String>,
    key: usize,
    /// None: the whole row.
    value: Option<usize>,
    ns: Option<usize>,
    ttl: Option<usize>,
    default_ns: Vec<u8>,
    default_ttl: Option<Duration>,
}

/// The rows of `source`. A header that is not understood is a problem of its own.
pub(super) fn rows<'a>(
    source: impl BufRead + 'a,
    columns: &Columns,
    delimiter: Option<u8>,
) -> Rows<'a> {
    bounded(source, columns, delimiter, MAX_ROW)
}

fn bounded<'a>(
    source: impl BufRead + 'a,
    columns: &Columns,
    delimiter: Option<u8>,
    limit: u64,
) -> Rows<'a> {
    match Reader::open(Source::new(source, limit), columns, delimiter) {
        Ok(mut reader) => Box::new(std::iter::from_fn(move || reader.row().transpose())),
        Err(problem) => Box::new(std::iter::once(Err(problem))),
    }
}

struct Reader<R> {
    records: Records<R>,
    layout: Layout,
    record: Record,
    ended: bool,
}

impl<R: BufRead> Reader<R> {
    fn open(
        mut source: Source<R>,
        columns: &Columns,
        delimiter: Option<u8>,
    ) -> Result<Self, Problem> {
        let (mut place, mut line) = header_line(&mut source)?;
        let mut given = delimiter;
        // As some programs write it before the header.
        if let [b's', b'e', b'p', b'=', byte] = line.as_slice().trim_ascii_end() {
            given = given.or(Some(*byte));
            (place, line) = header_line(&mut source)?;
        }
        let text = String::from_utf8(line).map_err(|_| not_utf8(place))?;
        let problem = |text: String| Problem::row(place, text);
        if delimiter.is_none() && text.starts_with(['{', '[']) {
            let text =
                "this looks like JSON, not like the header of a CSV file: give --format json";
            return Err(problem(text.to_owned()));
        }
        let delimiter = match given {
            Some(delimiter) => delimiter,
            None => detect(&text, columns).map_err(problem)?,
        };
        let header = fields(&text, delimiter).map_err(|Problem { place: at, text, .. }| {
            // The place in the header, which may be of any line.
            let line = place.line + at.line - 1;
            Problem::row(Place { line, column: at.column }, text)
        })?;
        let layout = layout(header, columns).map_err(problem)?;
        let records = Records { source, delimiter };
        Ok(Self { records, layout, record: Record::default(), ended: false })
    }

    /// The next row; none at the end, and after a problem.
    fn row(&mut self) -> Result<Option<(Place, Op)>, Problem> {
        if std::mem::replace(&mut self.ended, true) || !self.records.read(&mut self.record)? {
            return Ok(None);
        }
        let op = self.layout.op(&self.record)?;
        self.ended = false;
        Ok(Some((self.records.source.row_start(), op)))
    }
}

/// Reads the first line that is not empty, with all that its quotes enclose, without its end.
fn header_line<R: BufRead>(source: &mut Source<R>) -> Result<(Place, Vec<u8>), Problem> {
    skip_empty_lines(source)?;
    let place = source.begin_row();
    let (mut line, mut quoted) = (Vec::new(), false);
    while let Some(byte) = source.peek()? {
        if !quoted && (byte == b'\n' || byte == b'\r') {
            break;
        }
        quoted ^= byte == b'"';
        source.take(byte)?;
        line.push(byte);
    }
    if quoted {
        let text = "a quote of the header is never closed: close it, or double a quote in a name";
        return Err(Problem::row(place, text));
    }
    Ok((place, line))
}

fn skip_empty_lines<R: BufRead>(source: &mut Source<R>) -> Result<(), Problem> {
    while let Some(byte @ (b'\n' | b'\r')) = source.peek()? {
        source.begin_row();
        source.take(byte)?;
    }
    Ok(())
}

/// The fields of a single record.
fn fields(text: &str, delimiter: u8) -> Result<Vec<String>, Problem> {
    let source = Source::new(text.as_bytes(), u64::MAX);
    let (mut records, mut record) = (Records { source, delimiter }, Record::default());
    records.read(&mut record)?;
    if records.source.peek()?.is_some() {
        let place = records.source.place();
        return Err(Problem::row(place, "the header ends within quotes: double a quote in a name"));
    }
    (0..record.fields.len()).map(|at| record.text(at).map(str::to_owned)).collect()
}

/// What separates the fields of this header.
fn detect(header: &str, columns: &Columns) -> Result<u8, String> {
    let split = |delimiter: u8| fields(header, delimiter).unwrap_or_default();
    let separate = |delimiter: &u8| split(*delimiter).len() > 1;
    let used: Vec<u8> = DELIMITERS.into_iter().filter(separate).collect();
    let wanted = |name: &String| {
        NAMES.contains(&name.as_str())
            || [&columns.key, &columns.value].iter().any(|named| named.as_ref() == Some(name))
    };
    match used.as_slice() {
        [] => {
            // The key, and nothing else.
            let plain = |c: char| c.is_alphanumeric() || "_-.".contains(c);
            match split(b',').first() {
                Some(name) if !wanted(name) && !name.chars().all(plain) => Err(format!(
                    "the header is one column, {name:?}: give --delimiter with what separates the \
                     columns, or --key with this name if it is the key"
                )),
                _ => Ok(b','),
            }
        }
        [one] => Ok(*one),
        many => {
            let known = |delimiter: &&u8| split(**delimiter).iter().any(wanted);
            let known: Vec<_> = many.iter().filter(known).collect();
            let names: Vec<_> =
                many.iter().map(|&byte| format!("{:?}", char::from(byte))).collect();
            match known.as_slice() {
                [one] => Ok(**one),
                _ => Err(format!(
                    "the header has {}: give --delimiter with the one that separates the columns",
                    names.join(" and ")
                )),
            }
        }
    }
}

/// Splits a file into records.
struct Records<R> {
    source: Source<R>,
    delimiter: u8,
}

/// The fields of a record, one behind the other.
#[derive(Default)]
struct Record {
    bytes: Vec<u8>,
    fields: Vec<Field>,
}

struct Field {
    /// Where it ends in the bytes.
    end: usize,
    place: Place,
}

impl Record {
    /// The text of a field that is there.
    fn text(&self, at: usize) -> Result<&str, Problem> {
        let start = at.checked_sub(1).and_then(|before| self.fields.get(before));
        let Some(field) = self.fields.get(at) else { return Ok("") };
        let bytes = &self.bytes[start.map_or(0, |field| field.end)..field.end];
        std::str::from_utf8(bytes).map_err(|error| {
            let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            not_utf8(field.place.after(&valid))
        })
    }

    fn place(&self, at: usize) -> Place {
        self.fields.get(at).map_or(Place::START, |field| field.place)
    }
}

impl<R: BufRead> Records<R> {
    /// Reads the next record; false at the end.
    fn read(&mut self, record: &mut Record) -> Result<bool, Problem> {
        record.bytes.clear();
        record.fields.clear();
        skip_empty_lines(&mut self.source)?;
        if self.source.peek()?.is_none() {
            return Ok(false);
        }
        self.source.begin_row();
        loop {
            let place = self.source.place();
            let more = match self.source.peek()? {
                Some(b'"') => self.quoted(record, place)?,
                _ => self.bare(record)?,
            };
            record.fields.push(Field { end: record.bytes.len(), place });
            if !more {
                return Ok(true);
            }
        }
    }

    /// Reads a field without quotes around it. Returns whether another one follows.
    fn bare(&mut self, record: &mut Record) -> Result<bool, Problem> {
        let start = record.bytes.len();
        loop {
            if let Some(more) = self.end_of_field()? {
                return Ok(more);
            }
            let Some(byte) = self.source.peek()? else { return Ok(false) };
            let before = &record.bytes[start..];
            if byte == b'"' && !before.is_empty() && before.trim_ascii().is_empty() {
                let text = "a space stands before a quote: drop one of them, or quote the whole \
                            field and double the quotes in it";
                return Err(Problem::row(self.source.place(), text));
            }
            self.source.take(byte)?;
            record.bytes.push(byte);
            // Behind anything else than space, a quote is like any other character.
            if !byte.is_ascii_whitespace() {
                self.source.take_run(&[self.delimiter], &mut record.bytes)?;
            }
        }
    }

    /// Reads a field in quotes. Returns whether another one follows.
    fn quoted(&mut self, record: &mut Record, place: Place) -> Result<bool, Problem> {
        self.source.take(b'"')?;
        loop {
            self.source.take_run(b"\"", &mut record.bytes)?;
            let Some(byte) = self.source.peek()? else {
                let text = "the quote that opens here is never closed: close it, and double each \
                            quote within the field";
                return Err(Problem::row(place, text));
            };
            self.source.take(byte)?;
            if byte != b'"' {
                record.bytes.push(byte);
                continue;
            }
            if self.source.peek()? == Some(b'"') {
                self.source.take(b'"')?;
                record.bytes.push(b'"');
                continue;
            }
            return self.end_of_field()?.ok_or_else(|| {
                let text = format!(
                    "text follows the quote that closes a field (it was opened at {place}): close \
                     the quote where the field ends, and double each quote within it"
                );
                Problem::row(self.source.place(), text)
            });
        }
    }

    /// Steps over what ends a field, if that comes next: true for a delimiter, false for the end
    /// of the row.
    fn end_of_field(&mut self) -> Result<Option<bool>, Problem> {
        match self.source.peek()? {
            None => Ok(Some(false)),
            Some(byte) if byte == self.delimiter => {
                self.source.take(byte)?;
                Ok(Some(true))
            }
            Some(byte @ (b'\n' | b'\r')) => {
                self.source.take(byte)?;
                if byte == b'\r' && self.source.peek()? == Some(b'\n') {
                    self.source.take(b'\n')?;
                }
                Ok(Some(false))
            }
            Some(_) => Ok(None),
        }
    }
}

fn layout(header: Vec<String>, columns: &Columns) -> Result<Layout, String> {
    let find = |name: &str| header.iter().position(|column| column == name);
    let names = || header.join(", ");
    let wanted = |name: &Option<String>, option: &str| match name {
        None => Ok(None),
        Some(name) => find(name).map(Some).ok_or_else(|| {
            format!("the header has no column {name:?}, which {option} names; it has: {}", names())
        }),
    };
    if header.iter().all(String::is_empty) {
        return Err("there is no header: put the names of the columns in the first line".into());
    }
    let mut seen = HashSet::new();
    if let Some(twice) = header.iter().find(|name| !seen.insert(*name)) {
        return Err(format!("two columns are called {twice:?}: rename one"));
    }
    let named = (wanted(&columns.key, "--key")?, wanted(&columns.value, "--value")?);
    let (ns, ttl) = (find("ns"), find("ttl"));
    let value = named.1.or_else(|| find("value"));
    let first = || (0..header.len()).find(|at| ![ns, ttl, value].contains(&Some(*at)));
    let key = named.0.or_else(|| find("key")).or_else(first);
    let Some(key) = key else {
        return Err(format!("no column is left for the key; there are: {}", names()));
    };
    // The first column is the key where none is called so, whatever else it is called.
    let guessed = columns.key.is_none() && header[key] != "key";
    let guessed = guessed && !is_near(&header[key], "key");
    let missing = [
        ("key", guessed),
        ("value", value.is_none()),
        ("ns", ns.is_none()),
        ("ttl", ttl.is_none()),
    ];
    for (name, missing) in missing {
        let near = header.iter().find(|column| is_near(column, name));
        if let Some(near) = near.filter(|_| missing) {
            return Err(unknown("column", near, name));
        }
    }
    let (default_ns, default_ttl) = (columns.ns.clone().into_bytes(), columns.ttl);
    Ok(Layout { header, key, value, ns, ttl, default_ns, default_ttl })
}

impl Layout {
    fn op(&self, record: &Record) -> Result<Op, Problem> {
        let (len, expected) = (record.fields.len(), self.header.len());
        if len != expected {
            let s = |count| if count == 1 { "" } else { "s" };
            return Err(Problem::row(
                record.place(len.min(expected + 1) - 1),
                format!(
                    "the row has {len} field{} and the header {expected}: quote fields that have a \
                     delimiter or line break in them",
                    s(len)
                ),
            ));
        }
        // Also of columns that are not imported: who knows what the file is.
        let texts: Vec<&str> = (0..len).map(|at| record.text(at)).collect::<Result<_, _>>()?;
        let optional =
            |at: Option<usize>| at.map(|at| (at, texts[at])).filter(|(_, text)| !text.is_empty());
        let key = texts[self.key];
        if key.is_empty() {
            let column = &self.header[self.key];
            let text = format!("the key (column {column:?}) is empty: fill it, or drop the row");
            return Err(Problem::row(record.place(self.key), text));
        }
        let value = self.value.map_or_else(|| self.object(&texts), |at| texts[at].to_owned());
        let ns = optional(self.ns).map_or_else(|| self.default_ns.clone(), |(_, ns)| ns.into());
        let ttl = optional(self.ttl)
            .map(|(at, text)| {
                ttl_seconds(text).map_err(|text| Problem::row(record.place(at), text))
            })
            .transpose()?;
        let ttl = ttl.or(self.default_ttl);
        Ok(Op { ns, key: key.into(), value: Some(value.into_bytes()), ttl })
    }

    /// The row as a JSON object of strings, in the order of the columns.
    fn object(&self, texts: &[&str]) -> String {
        let string = |text: &str| serde_json::Value::from(text).to_string();
        let field = |(name, text): (&String, &&str)| format!("{}:{}", string(name), string(text));
        let fields: Vec<_> = self.header.iter().zip(texts).map(field).collect();
        format!("{{{}}}", fields.join(","))
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests {
    use super::super::source::begin;
    use super::*;

    fn columns() -> Columns {
        Columns { ns: "n".into(), ..Columns::default() }
    }

    type Parsed = Result<(String, String), String>;

    fn parse_by(text: &[u8], columns: &Columns, delimiter: Option<u8>) -> Vec<Parsed> {
        let rows = rows(begin(text).unwrap().0, columns, delimiter).map(|row| match row {
            Ok((_, op)) => Ok((
                String::from_utf8(op.key).unwrap(),
                String::from_utf8(op.value.unwrap()).unwrap(),
            )),
            Err(problem) => {
                assert!(!problem.io, "{problem:?}");
                Err(format!("{}: {}", problem.place, problem.text))
            }
        });
        rows.collect()
    }

    fn parse(text: &[u8], columns: &Columns) -> Vec<Parsed> {
        parse_by(text, columns, None)
    }

    fn ok(key: &str, value: &str) -> Parsed {
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
        let ops: Vec<_> = rows(&b"key,value,ns,ttl\na,1,m,60\nb,2,,\n"[..], &given, None)
            .map(|row| row.unwrap().1)
            .map(|op| (op.ns, op.ttl.unwrap().as_secs()))
            .collect();
        assert_eq!(ops, [(b"m".to_vec(), 60), (b"n".to_vec(), 9)]);
    }

    #[test]
    fn what_is_understood_is_stored_as_it_is_given() {
        let cases: &[(&[u8], &[Parsed])] = &[
            // Line ends of all systems, with and without the last one; empty lines.
            (b"key,value\r\na,1\r\n\r\nb,2", &[ok("a", "1"), ok("b", "2")]),
            (b"\n\nkey,value\ra,1\rb,2\r", &[ok("a", "1"), ok("b", "2")]),
            // Numbers, spaces and escapes are text.
            (b"key,value\n007,1.0\n 7 , 1e3 \n", &[ok("007", "1.0"), ok(" 7 ", " 1e3 ")]),
            (b"key,value\na,\\n\nb,null\n", &[ok("a", "\\n"), ok("b", "null")]),
            (b"key,value\na,\nb,\"\"\n", &[ok("a", ""), ok("b", "")]),
            // A quote within a field that does not begin with one.
            (b"key,value\na,5\" disk\nb;{\"x\":1}", &[ok("a", "5\" disk")]),
            (b"key;value\na;{\"x\":[1,2]}\n", &[ok("a", "{\"x\":[1,2]}")]),
            // Another delimiter.
            (b"key;value\na;1,5\n", &[ok("a", "1,5")]),
            (b"key\tvalue\na\t1;5\nb\t\"x\ty\"\n", &[ok("a", "1;5"), ok("b", "x\ty")]),
            (b"id|name|\na|b|\n", &[ok("a", r#"{"id":"a","name":"b","":""}"#)]),
            (b"key;value,unit\na;1\n", &[ok("a", r#"{"key":"a","value,unit":"1"}"#)]),
            (b"sep=;\r\nkey;value\r\na;1\r\n", &[ok("a", "1")]),
            // A column that is not known, a quoted header, one column.
            (b"\"key\",other,\"value\"\na,b,c\n", &[ok("a", "c")]),
            (b"id\na\n", &[ok("a", r#"{"id":"a"}"#)]),
            (b"key,value\n", &[]),
        ];
        for (text, expected) in cases {
            let mut rows = parse(text, &columns());
            rows.truncate(expected.len().max(1));
            assert_eq!(rows, *expected, "{}", String::from_utf8_lossy(text));
        }
        let rows = parse_by(b"key:value,x\na:b,\n", &columns(), Some(b':'));
        assert_eq!(rows, [ok("a", r#"{"key":"a","value,x":"b,"}"#)]);
    }

    #[test]
    fn problems_name_the_place_and_the_fix() {
        for (text, place, part) in [
            (&b"key,value\na,1\nb\n"[..], "3:1", "has 1 field and the header 2: quote fields"),
            (b"key,value\na,1,2\n", "2:5", "has 3 fields and the header 2"),
            (b"key,value\n\"a\nb\",1\n,2\n", "4:1", "key (column \"key\") is empty"),
            (b"key,value\na,x\xff\n", "2:4", "UTF-8"),
            (b"key,value,z\na,1,\"\xc3\xa4\n\xff\"\n", "3:1", "UTF-8"),
            (b"key,val\xfce\na,1\n", "1:1", "UTF-8"),
            (b"\xff\xfek\0e\0y\0\n\0", "1:1", "UTF-8"),
            (b"key,value,ttl\na,1,soon\n", "2:5", "whole number"),
            (b"key,value,ttl\na,1,-1\n", "2:5", "whole number"),
            (b"key,value,ttl\na,1,0\n", "2:5", "whole number"),
            (b"key,value,ttl\na,1,1e400\n", "2:5", "whole number"),
            (b"key,value,ttl\na,1,4294967296\n", "2:5", "whole number"),
            // Quotes.
            (b"key,value\na,1\nb,\"2\nc,3\nd,4\n", "3:3", "never closed"),
            (b"key,value\nb,\"2\nc,\"3\"\n", "3:4", "opened at 2:3"),
            (b"key,value\nb,\"2\" \n", "2:6", "text follows the quote"),
            (b"key,value\nb, \"2\"\n", "2:4", "a space stands before a quote"),
            (b"key,value\nb,\x0c\x0c\"2\"\n", "2:5", "a space stands before a quote"),
            (b"key,\"value\na,1\n", "1:1", "quote of the header is never closed"),
            (b"ke\"y,\"value\na,1\n", "1:6", "never closed"),
            (b"key,value\r\xc3\xa4,\"1\r", "2:3", "never closed"),
            // The header.
            (b"key,key\n", "1:1", "rename one"),
            (b"", "1:1", "no header"),
            (b"\n\n", "3:1", "no header"),
            (b"ns,ttl\n", "1:1", "left for the key"),
            (b"key, value\na, 1\n", "1:1", "column \" value\" is none that is known"),
            (b"key,Value\na,1\n", "1:1", "call it \"value\""),
            (b"celsius,Key\n21,a\n", "1:1", "call it \"key\""),
            (b"key,value,TTL\na,1,60\n", "1:1", "call it \"ttl\""),
            (b"name,temp;unit\na,1\n", "1:1", "has ',' and ';': give --delimiter"),
            (b"key value\na 1\n", "1:1", "one column, \"key value\": give --delimiter"),
            (b"[{\"key\":\"a\",\"value\":1}]", "1:1", "give --format json"),
        ] {
            let shown = String::from_utf8_lossy(text);
            let problems = parse(text, &columns());
            let problem = problems.last().unwrap().clone().unwrap_err();
            assert!(problem.contains(part), "{shown}: {problem}");
            assert!(problem.starts_with(&format!("{place}: ")), "{shown}: {problem}");
        }
        let named = Columns { key: Some("id".into()), ..columns() };
        let problem = parse(b"a,b\n", &named)[0].clone().unwrap_err();
        assert_eq!(
            problem,
            "1:1: the header has no column \"id\", which --key names; it has: a, b"
        );
    }

    #[test]
    fn a_row_is_bounded_in_bytes() {
        for (row, taken) in [("b,\"yyyyyyy\"\n", true), ("b,\"yyyyyyyy\"\n", false)] {
            for last in ["", "c,1\n"] {
                let text = format!("key,value\na,1\n{row}{last}");
                let rows: Vec<_> = bounded(text.as_bytes(), &columns(), None, 12).collect();
                match &rows[1] {
                    Ok(_) => assert!(taken),
                    Err(problem) => {
                        assert!(!taken && problem.text.contains("more than 12"), "{problem:?}");
                        assert_eq!((problem.place.to_string().as_str(), rows.len()), ("3:1", 2));
                    }
                }
            }
        }
    }
}
