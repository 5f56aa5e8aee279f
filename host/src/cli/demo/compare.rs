//! Whether two nodes hold the same: record by record, in step.

use std::collections::BTreeSet;

use crate::cli::output::printable;
use crate::engine::{Engine, EngineError, Record};

/// What a comparison found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Comparison {
    /// Live records of both, up to the first difference.
    pub(super) records: [u64; 2],
    /// The first one.
    pub(super) difference: Option<String>,
}

/// Compares all live records of all namespaces.
pub(super) fn engines(primary: &Engine, replica: &Engine) -> Result<Comparison, EngineError> {
    let namespaces: BTreeSet<_> =
        primary.namespaces()?.into_iter().chain(replica.namespaces()?).collect();
    let mut all = Comparison { records: [0, 0], difference: None };
    for ns in namespaces {
        let found = records(primary.range(&ns, b"", None)?, replica.range(&ns, b"", None)?)?;
        for (sum, records) in all.records.iter_mut().zip(found.records) {
            *sum += records;
        }
        if let Some(difference) = found.difference {
            all.difference = Some(format!("{}/{difference}", printable(&ns)));
            break;
        }
    }
    Ok(all)
}

/// Compares two lists in key order.
fn records<E>(
    primary: impl Iterator<Item = Result<Record, E>>,
    replica: impl Iterator<Item = Result<Record, E>>,
) -> Result<Comparison, E> {
    let (mut primary, mut replica) = (primary, replica);
    let mut counts = [0, 0];
    loop {
        let pair = (primary.next().transpose()?, replica.next().transpose()?);
        counts[0] += u64::from(pair.0.is_some());
        counts[1] += u64::from(pair.1.is_some());
        let difference = match pair {
            (None, None) => None,
            (Some(a), Some(b)) if a == b => continue,
            (Some(a), Some(b)) if a.key == b.key => Some(format!(
                "{}: the primary has {}, the replica {}",
                printable(&a.key),
                describe(&a),
                describe(&b)
            )),
            (Some(a), Some(b)) if a.key > b.key => Some(only(&b, "replica")),
            (Some(a), _) => Some(only(&a, "primary")),
            (None, Some(b)) => Some(only(&b, "replica")),
        };
        return Ok(Comparison { records: counts, difference });
    }
}

fn only(record: &Record, node: &str) -> String {
    format!("{}: the {node} alone has {}", printable(&record.key), describe(record))
}

fn describe(record: &Record) -> String {
    let Record { value, timestamp, ttl, .. } = record;
    format!("{} (written at {timestamp} ns, ttl {ttl} s)", printable(value))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn list(keys: &[(&str, i64)]) -> Vec<Result<Record, Infallible>> {
        let record = |(key, timestamp): &(&str, i64)| {
            Ok(Record { key: (*key).into(), value: b"v".into(), timestamp: *timestamp, ttl: 0 })
        };
        keys.iter().map(record).collect()
    }

    fn difference(a: &[(&str, i64)], b: &[(&str, i64)]) -> Option<String> {
        records(list(a).into_iter(), list(b).into_iter()).unwrap().difference
    }

    #[test]
    fn the_first_difference_is_named() {
        let both = [("a", 1), ("b", 2)];
        assert_eq!(difference(&both, &both), None);
        assert_eq!(difference(&[], &[]), None);
        for (a, b, part) in [
            (&both[..], &both[..1], "b: the primary alone"),
            (&both[..1], &both[..], "b: the replica alone"),
            (&both[1..], &both[..], "a: the replica alone"),
            (&both[..], &both[1..], "a: the primary alone"),
            (&both[..], &[("a", 1), ("b", 3)], "written at 2 ns"),
        ] {
            let text = difference(a, b).unwrap();
            assert!(text.contains(part), "{text}");
        }
    }
}
