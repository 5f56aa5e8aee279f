//! Bytes of any kind, imported as CSV.

use std::io::BufReader;

use super::super::source::begin;
use super::*;

/// Imports `bytes`, and reads them with the crate `csv` as well: where no row is refused, both find
/// the same fields.
pub(crate) fn csv(bytes: &[u8]) {
    let columns = Columns { ns: "n".to_owned(), ..Columns::default() };
    let rows = |capacity| -> Vec<_> {
        let source = BufReader::with_capacity(capacity, bytes);
        let (source, _) = begin(source).expect("memory can be read");
        bounded(source, &columns, None, 10_000).collect()
    };
    let found = rows(1 << 16);
    assert_eq!(found, rows(3), "what is read at a time makes a difference");
    let problem = found.iter().position(Result::is_err);
    assert!(problem.is_none_or(|at| at + 1 == found.len()), "rows follow a problem");
    let places: Vec<_> = found.iter().flatten().map(|(place, _)| *place).collect();
    let before = |a: &Place, b: &Place| (a.line, a.column) < (b.line, b.column);
    assert!(places.windows(2).all(|two| before(&two[0], &two[1])), "{places:?}");
    if problem.is_none() {
        compare(bytes, &columns);
    }
}

fn compare(bytes: &[u8], columns: &Columns) {
    let (mut source, _) = begin(bytes).expect("memory can be read");
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut source, &mut text).expect("memory can be read");
    let opened = Reader::open(Source::new(&text[..], 10_000), columns, None);
    let Ok(Reader { mut records, layout, .. }) = opened else { return };
    let start = text.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(text.len());
    // The crate knows nothing of the one, and drops a second of the other.
    if text[start..].starts_with(b"sep=") || text.starts_with(b"\xef\xbb\xbf") {
        return;
    }
    let mut theirs = ::csv::ReaderBuilder::new()
        .delimiter(records.delimiter)
        .flexible(true)
        .from_reader(&text[..]);
    let header: Vec<_> = theirs.headers().expect("it was text").iter().map(str::to_owned).collect();
    assert_eq!(layout.header, header);
    let mut theirs = theirs.into_byte_records();
    let mut record = Record::default();
    while records.read(&mut record).expect("it was read before") {
        let fields: Vec<_> = (0..record.fields.len()).map(|at| record.text(at).ok()).collect();
        let other = theirs.next().expect("a row more").expect("it is read");
        let other: Vec<_> = other.iter().map(|field| std::str::from_utf8(field).ok()).collect();
        assert_eq!(fields, other);
    }
    assert!(theirs.next().is_none(), "a row less");
}
