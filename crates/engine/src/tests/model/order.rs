//! The order of versions itself, and merges of lists of records in memory.

use super::*;

#[derive(Debug, Clone)]
struct Case {
    /// Keys and what is written under them.
    records: Vec<(u8, Version<Vec<u8>>)>,
    /// Into which of some groups each record goes, by its number, and further ones into further
    /// groups.
    groups: Vec<Index>,
    /// In which order groups are merged, and which of them again.
    order: Vec<Index>,
}

fn case() -> BoxedStrategy<Case> {
    let records = proptest::collection::vec((0..3_u8, version()), 1..8);
    let indexes = |len| proptest::collection::vec(any::<Index>(), len);
    (records, indexes(1..12), indexes(0..6))
        .prop_map(|(records, groups, order)| Case { records, groups, order })
        .boxed()
}

type Map = BTreeMap<u8, Version<Vec<u8>>>;

/// The engine's order decides.
fn merge(into: &mut Map, key: u8, version: &Version<Vec<u8>>) {
    let there = into.entry(key).or_insert_with(|| version.clone());
    if version.as_ref() > there.as_ref() {
        *there = version.clone();
    }
}

fn check(Case { records, groups, order }: &Case) -> Check {
    for (_, a) in records {
        for (_, b) in records {
            prop_assert_eq!(a > b, wins(a, b), "{:?} over {:?}", a, b);
            prop_assert_eq!(a.cmp(b), b.cmp(a).reverse());
            prop_assert_eq!(a.cmp(b).is_eq(), a == b);
            prop_assert_eq!(a.cmp(b), a.as_ref().cmp(&b.as_ref()));
        }
        // At its time, when it has just expired, and shortly before.
        let end = a.timestamp.saturating_add(i64::from(a.ttl).saturating_mul(1_000_000_000));
        for now in [a.timestamp, end, end.saturating_sub(1), 0, i64::MAX] {
            prop_assert_eq!(a.is_live(now), is_live(a, now), "{:?} at {}", a, now);
        }
    }

    let mut model: BTreeMap<u8, &Version<Vec<u8>>> = BTreeMap::new();
    for (key, version) in records {
        let there = model.entry(*key).or_insert(version);
        if wins(version, there) {
            *there = version;
        }
    }
    let count = groups.len().div_ceil(3);
    let mut grouped = vec![Map::new(); count];
    for (i, group) in groups.iter().enumerate() {
        let (key, version) = &records[i % records.len()];
        merge(&mut grouped[group.index(count)], *key, version);
    }
    // What was put into no group comes in one more.
    let mut rest = Map::new();
    records.iter().skip(groups.len()).for_each(|(key, version)| merge(&mut rest, *key, version));
    grouped.push(rest);
    let mut merged = Map::new();
    let order = order.iter().map(|index| index.index(grouped.len()));
    for i in order.chain((0..grouped.len()).rev()) {
        grouped[i].iter().for_each(|(key, version)| merge(&mut merged, *key, version));
    }
    let merged: BTreeMap<_, _> = merged.iter().map(|(key, version)| (*key, version)).collect();
    prop_assert_eq!(merged, model);
    Ok(())
}

#[test]
fn merging_records_is_commutative_associative_and_idempotent() {
    let kind = run::Kind { name: "order", permille: 900, chunk: 200_000, some: 2000 };
    kind.run(|_| case(), || (), |(), case| check(&case).map(|()| 1), |()| Ok(run::Ops::default()));
}
