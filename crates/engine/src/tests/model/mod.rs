//! The merge is a semilattice: any order, any grouping and any repetition of the same segments end
//! in the same records, the same reads and the same expiry. Three kinds of random cases say so:
//!
//! - [`order`]: lists of records, merged in memory;
//! - [`replicas`]: made-up segments on three engines, each with a delivery of its own;
//! - [`history`]: writes, flushes and segments on two engines, every step against the model.
//!
//! The model is a map from namespace and key to the winner, by [`wins`], which states the order
//! again rather than asking the engine. [`run`] runs a few hundred cases with the tests, and as
//! many as you like by command.

mod history;
mod order;
mod replicas;
mod run;
mod world;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::TestCaseError;

use super::*;

type Check<T = ()> = Result<T, TestCaseError>;

/// Namespace and key.
type Slot = (Vec<u8>, Vec<u8>);

/// Whether `a` wins over `b`: the later one; of two at one time a delete over a put, then the
/// greater value, byte by byte and a longer one over what it begins with, then the longer TTL.
fn wins(a: &Version<Vec<u8>>, b: &Version<Vec<u8>>) -> bool {
    if a.timestamp != b.timestamp {
        return a.timestamp > b.timestamp;
    }
    if a.deleted != b.deleted {
        return a.deleted;
    }
    for i in 0..a.value.len().max(b.value.len()) {
        match (a.value.get(i), b.value.get(i)) {
            (Some(ours), Some(theirs)) if ours == theirs => {}
            (Some(ours), Some(theirs)) => return ours > theirs,
            (ours, _) => return ours.is_some(),
        }
    }
    a.ttl > b.ttl
}

fn is_live(version: &Version<Vec<u8>>, now: i64) -> bool {
    let age = i128::from(now) - i128::from(version.timestamp);
    !version.deleted && (version.ttl == 0 || age < i128::from(version.ttl) * 1_000_000_000)
}

/// What a node must hold: of each slot the winner, tombstones and expired records included.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model(BTreeMap<Slot, Version<Vec<u8>>>);

impl Model {
    /// Whether it won.
    fn merge(&mut self, slot: Slot, version: Version<Vec<u8>>) -> bool {
        let won = self.0.get(&slot).is_none_or(|there| wins(&version, there));
        if won {
            self.0.insert(slot, version);
        }
        won
    }

    /// How many slots the entries of a segment change.
    fn merge_segment(&mut self, entries: &[Entry]) -> u64 {
        let mut segment = Self::default();
        for entry in entries {
            segment.merge(slot_of(entry), entry.version.clone());
        }
        segment
            .0
            .into_iter()
            .filter(|(slot, version)| self.merge(slot.clone(), version.clone()))
            .count() as u64
    }

    fn get(&self, (ns, key): &Slot) -> Option<Record> {
        self.select(ns, |there| there == key).pop()
    }

    /// The live records of a namespace whose keys are asked for.
    fn select(&self, ns: &[u8], asked: impl Fn(&[u8]) -> bool) -> Vec<Record> {
        let now = now();
        let slots = self.0.range((ns.to_vec(), Vec::new())..);
        let slots = slots.take_while(|((other, _), _)| other == ns);
        let live = slots.filter(|((_, key), version)| asked(key) && is_live(version, now));
        let record = |((_, key), version): (&Slot, &Version<Vec<u8>>)| {
            let Version { timestamp, value, ttl, .. } = version.clone();
            Record { key: key.clone(), value, timestamp, ttl }
        };
        live.map(record).collect()
    }

    /// Those of one case.
    fn of(&self, case: u64) -> Self {
        let namespaces = (0..NAMESPACES).map(|variant| namespace(case, variant));
        let slots = namespaces.flat_map(|ns| {
            let slots = self.0.range((ns.clone(), Vec::new())..);
            slots.take_while(move |((other, _), _)| *other == ns)
        });
        Self(slots.map(|(slot, version)| (slot.clone(), version.clone())).collect())
    }

    /// Namespaces that have live records.
    fn namespaces(&self) -> impl Iterator<Item = &Vec<u8>> {
        let now = now();
        self.0.iter().filter(move |(_, version)| is_live(version, now)).map(|((ns, _), _)| ns)
    }
}

fn slot_of(entry: &Entry) -> Slot {
    let (ns, key) = record::split(&entry.key).unwrap();
    (ns.to_vec(), key.to_vec())
}

fn entry_of((ns, key): &Slot, version: Version<Vec<u8>>) -> Entry {
    Entry { key: record::store_key(ns, key).unwrap(), version, lsn: 1 }
}

/// In one engine, namespaces that no other case has: prefixes of each other, next to those of the
/// cases before and after, and at the end of all of their length.
fn namespace(case: u64, variant: usize) -> Vec<u8> {
    let number = &case.to_be_bytes()[3..];
    let around: [(&[u8], &[u8]); NAMESPACES] =
        [(b"", b""), (b"", b"\0"), (b"", b"a"), (b"", b"ab"), (b"", b"\xff"), (b"\xff\xff", b"")];
    let (before, after) = around[variant];
    [before, number, after].concat()
}

const NAMESPACES: usize = 6;
const KEYS: [&[u8]; 7] = [b"k", b"", b"\0", b"k\0", b"kk", b"\xff", b"\xff\xff"];
/// In place of an index of [`KEYS`]: as many 0xff as a key may have.
const LONGEST: usize = KEYS.len();
/// Keys, and what is between and after them.
const BOUNDS: [&[u8]; 11] =
    [b"", b"\0", b"\0\0", b"k", b"k\0", b"kj", b"kk", b"l", b"\xfe\xff", b"\xff", b"\xff\xff\xff"];
/// Of records: those that tie, and both ends of time. What has a short TTL has expired for ever;
/// one of 136 years lasts, but for the first.
const TIMES: [i64; 8] = [0, 1, 2, -1, 1_700_000_000_000_000_000, 1 << 62, i64::MIN, i64::MAX];
const VALUES: [&[u8]; 6] = [b"", b"x", b"xx", b"y", b"\0", b"\xff"];
const TTLS: [u32; 4] = [0, 1, 2, u32::MAX];

/// A namespace's variant and a key of [`KEYS`], the empty one only where a peer may send it.
fn place(empty: bool) -> impl Strategy<Value = (usize, usize)> {
    (0..NAMESPACES, 0..KEYS.len())
        .prop_map(move |(ns, key)| (ns, if key == 1 && !empty { 0 } else { key }))
}

fn slot(case: u64, (ns, key): (usize, usize)) -> Slot {
    let ns = namespace(case, ns);
    let key = match KEYS.get(key) {
        Some(key) => key.to_vec(),
        None => vec![0xff; MAX_KEY - ns.len()],
    };
    (ns, key)
}

fn version() -> impl Strategy<Value = Version<Vec<u8>>> {
    let deleted = prop::bool::weighted(0.3);
    (select(&TIMES[..]), deleted, select(&VALUES[..]), select(&TTLS[..])).prop_map(
        |(timestamp, deleted, value, ttl)| {
            let value = if deleted { Vec::new() } else { value.to_vec() };
            Version { timestamp, deleted, value, ttl }
        },
    )
}

/// What is asked of a namespace.
#[derive(Debug, Clone)]
enum Read {
    Get(usize),
    Range(&'static [u8], Option<&'static [u8]>),
    Prefix(&'static [u8]),
    /// The whole range, so many records at a time.
    Pages(usize),
}

fn read() -> impl Strategy<Value = (usize, Read)> {
    let bound = || select(&BOUNDS[..]);
    let read = prop_oneof![
        (0..=LONGEST).prop_map(Read::Get),
        (bound(), prop::option::of(bound())).prop_map(|(start, end)| Read::Range(start, end)),
        bound().prop_map(Read::Prefix),
        (1..4_usize).prop_map(Read::Pages),
    ];
    (0..NAMESPACES, read)
}

/// One read, by the engine and by the model.
fn check_read(engine: &Engine, model: &Model, case: u64, (variant, read): &(usize, Read)) -> Check {
    let ns = namespace(case, *variant);
    match read {
        Read::Get(key) => check_get(engine, model, &slot(case, (*variant, *key))),
        Read::Range(start, end) => {
            let expected =
                model.select(&ns, |key| key >= *start && end.is_none_or(|end| key < end));
            let records: Result<Vec<_>, _> = engine.range(&ns, start, *end).unwrap().collect();
            prop_assert_eq!(records.unwrap(), expected, "range of {:?}", ns);
            Ok(())
        }
        Read::Prefix(prefix) => {
            let expected = model.select(&ns, |key| key.starts_with(prefix));
            let records: Result<Vec<_>, _> = engine.prefix(&ns, prefix).unwrap().collect();
            prop_assert_eq!(records.unwrap(), expected, "prefix of {:?}", ns);
            Ok(())
        }
        Read::Pages(limit) => {
            let (mut all, mut from) = (Vec::new(), Vec::new());
            loop {
                let page = engine.range(&ns, &from, None).unwrap().take(*limit);
                let page: Vec<_> = page.collect::<Result<_, _>>().unwrap();
                let full = page.len() == *limit;
                all.extend(page);
                // No key comes after one of the greatest length.
                let Some(last) =
                    all.last().filter(|last| full && ns.len() + last.key.len() < MAX_KEY)
                else {
                    break;
                };
                from = [&last.key[..], b"\0"].concat();
            }
            prop_assert_eq!(all, model.select(&ns, |_| true), "pages of {:?}", ns);
            Ok(())
        }
    }
}

fn check_get(engine: &Engine, model: &Model, slot: &Slot) -> Check {
    let record = engine.get_record(&slot.0, &slot.1).unwrap();
    prop_assert_eq!(&record, &model.get(slot), "get of {:?}", slot);
    let value = engine.get(&slot.0, &slot.1).unwrap();
    prop_assert_eq!(value, record.map(|record| record.value));
    Ok(())
}

/// Everything in the namespaces of a case. The count is that of the reads.
fn check_all(engine: &Engine, model: &Model, case: u64) -> Check<u64> {
    let mut reads = 0;
    for variant in 0..NAMESPACES {
        let ns = namespace(case, variant);
        let slots = model.0.range((ns.clone(), Vec::new())..);
        let mut slots = slots.take_while(|(slot, _)| slot.0 == ns).peekable();
        if slots.peek().is_some() || variant == 0 {
            check_read(engine, model, case, &(variant, Read::Range(b"", None)))?;
            reads += 1;
        }
        for (slot, _) in slots {
            check_get(engine, model, slot)?;
            reads += 2;
        }
    }
    Ok(reads)
}
