//! Bytes of any kind, imported as CSV.

use super::super::fuzz::{MAX_ROW, columns, sound_rows};
use super::*;

/// Imports `bytes`, and reads them with the crate `csv` as well: where no row is refused, both find
/// the same fields.
pub(crate) fn csv(bytes: &[u8]) {
    let columns = columns();
    let read = |source: &mut dyn BufRead| bounded(source, &columns, None, MAX_ROW).collect();
    let Some((_, text)) = sound_rows(bytes, read) else { return };
    let opened = Reader::open(Source::new(&text[..], MAX_ROW), &columns, None);
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
