//! What both importers are held to, whatever they read.

use std::io::{BufRead, BufReader, Read as _};

use super::source::{Place, begin};
use super::{Columns, Op, Row};

/// Bytes of a row: fewer than a user may have, so that inputs reach the bound.
pub(super) const MAX_ROW: u64 = 10_000;

pub(super) fn columns() -> Columns {
    Columns { ns: "n".to_owned(), ..Columns::default() }
}

/// The rows of `bytes`, and the text that they are in; none where a row is refused. How much is read
/// at a time makes no difference, and no row follows one that is refused.
pub(super) fn sound_rows(
    bytes: &[u8],
    read: impl Fn(&mut dyn BufRead) -> Vec<Row>,
) -> Option<(Vec<Op>, Vec<u8>)> {
    let rows = |capacity| {
        let source = BufReader::with_capacity(capacity, bytes);
        let (mut source, _) = begin(source).expect("memory can be read");
        read(&mut source)
    };
    let found = rows(1 << 16);
    assert_eq!(found, rows(3), "what is read at a time makes a difference");
    let problem = found.iter().position(Result::is_err);
    assert!(problem.is_none_or(|at| at + 1 == found.len()), "rows follow a problem");
    let places: Vec<_> = found.iter().flatten().map(|(place, _)| *place).collect();
    let before = |a: &Place, b: &Place| (a.line, a.column) < (b.line, b.column);
    assert!(places.windows(2).all(|two| before(&two[0], &two[1])), "{places:?}");

    let ops: Vec<Op> =
        found.into_iter().map(|row| row.map(|(_, op)| op)).collect::<Result<_, _>>().ok()?;
    let mut text = Vec::new();
    let (mut source, _) = begin(bytes).expect("memory can be read");
    source.read_to_end(&mut text).expect("memory can be read");
    Some((ops, text))
}
