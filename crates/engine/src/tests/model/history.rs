//! Two nodes that are written to, flush and get each other's segments, and every step against the
//! model. A local write wins over all that its node knew; in the end both hold the same.

use std::collections::BTreeSet;
use std::io::Read as _;

use super::run::Kind;
use super::world::{Node, World};
use super::*;
use crate::segment::{Bounds, Invalid, Reader};

#[derive(Debug, Clone)]
struct History {
    places: [(usize, usize); 5],
    /// Each with the node that it happens to, and what is read from which node after it.
    steps: Vec<(usize, Step, usize, (usize, Read))>,
}

#[derive(Debug, Clone)]
enum Step {
    /// One alone, or a batch.
    Write(Vec<Op>),
    Flush,
    /// A segment of somebody else.
    Apply(Vec<Made>),
    /// One of the segments so far, from wherever.
    Again(Index),
    /// The records of some segments in so many others.
    Regroup(Vec<Index>, usize),
    TooLong,
    Reopen,
}

#[derive(Debug, Clone)]
struct Op {
    place: usize,
    /// None to delete.
    value: Option<&'static [u8]>,
    ttl: Option<Duration>,
}

/// A record of a segment that no node wrote.
#[derive(Debug, Clone)]
struct Made {
    place: usize,
    when: When,
    version: Version<Vec<u8>>,
}

#[derive(Debug, Clone)]
enum When {
    LongAgo(i64),
    /// So much later than what is there.
    Beside(i64),
    /// Later than all that the node knows, and so much later than now.
    Ahead(i64),
}

fn op() -> impl Strategy<Value = Op> {
    let value = prop::option::weighted(0.7, select(&VALUES[..]));
    // None expires while the test runs.
    let ttl = select(vec![
        None,
        None,
        Some(Duration::from_millis(3_600_500)),
        Some(Duration::from_secs(u32::MAX.into())),
    ]);
    (0..5_usize, value, ttl).prop_map(|(place, value, ttl)| Op { place, value, ttl })
}

fn made() -> impl Strategy<Value = Made> {
    let when = prop_oneof![
        select(vec![i64::MIN, 0, 1, 2]).prop_map(When::LongAgo),
        (-1..=1_i64).prop_map(When::Beside),
        prop_oneof![20 => 1..4_i64, 2 => Just(1_000_000), 1 => Just(50_000_000)]
            .prop_map(When::Ahead),
    ];
    (0..5_usize, when, version()).prop_map(|(place, when, version)| Made { place, when, version })
}

/// Restarts are one of so many steps.
fn step(restarts: u32) -> impl Strategy<Value = Step> {
    let n = restarts / 40;
    let indexes = proptest::collection::vec(any::<Index>(), 1..4);
    prop_oneof![
        14 * n => op().prop_map(|op| Step::Write(vec![op])),
        4 * n => proptest::collection::vec(op(), 2..6).prop_map(Step::Write),
        4 * n => Just(Step::Flush),
        6 * n => proptest::collection::vec(made(), 1..6).prop_map(Step::Apply),
        6 * n => any::<Index>().prop_map(Step::Again),
        3 * n => (indexes, 1..4_usize).prop_map(|(of, into)| Step::Regroup(of, into)),
        n => Just(Step::TooLong),
        1 => Just(Step::Reopen),
    ]
}

fn history(by_command: bool) -> BoxedStrategy<History> {
    let node = || 0..2_usize;
    let step = step(if by_command { 40_000 } else { 200 });
    let steps = proptest::collection::vec((node(), step, node(), read()), 1..24);
    let key = || place(false).boxed();
    let last = (0..NAMESPACES, prop::bool::weighted(0.1))
        .prop_map(|(ns, longest)| (ns, if longest { LONGEST } else { 0 }));
    ([key(), key(), key(), key(), last.boxed()], steps)
        .prop_map(|(places, steps)| History { places, steps })
        .boxed()
}

/// What a node holds of this case.
#[derive(Debug, Default)]
struct Held {
    model: Model,
    /// Tombstones written here whose stamps no read tells: after the first and at most the second,
    /// which is in the model. A flush tells.
    unsure: BTreeMap<Slot, (i64, i64)>,
    /// Written here, and in no segment.
    pending: BTreeSet<Slot>,
}

struct Run<'a> {
    world: &'a mut World,
    case: u64,
    slots: Vec<Slot>,
    held: [Held; 2],
    segments: Vec<(Vec<u8>, Vec<Entry>)>,
}

impl Run<'_> {
    fn step(&mut self, node: usize, step: &Step) -> Check {
        match step {
            Step::Write(ops) => self.write(node, ops),
            Step::Flush => self.flush(node),
            Step::Apply(made) => {
                let entries: Vec<_> = made.iter().map(|made| self.entry(node, made)).collect();
                self.apply_new(node, entries)
            }
            Step::Again(which) if !self.segments.is_empty() => {
                self.apply(node, which.index(self.segments.len()))
            }
            Step::Regroup(which, into) if !self.segments.is_empty() => {
                let which =
                    which.iter().map(|index| &self.segments[index.index(self.segments.len())]);
                let entries: Vec<_> =
                    which.flat_map(|(_, entries)| entries.iter().rev().cloned()).collect();
                let parts = entries.chunks(entries.len().div_ceil(*into)).map(<[_]>::to_vec);
                parts
                    .collect::<Vec<_>>()
                    .into_iter()
                    .try_for_each(|part| self.apply_new(node, part))
            }
            Step::Again(_) | Step::Regroup(..) => Ok(()),
            Step::TooLong => self.too_long(node),
            Step::Reopen => {
                self.world.reopen(node)?;
                self.world.check(node, &self.held[node].model, self.case)
            }
        }
    }

    fn write(&mut self, node: usize, ops: &[Op]) -> Check {
        let Node { lsn, clock, .. } = &mut self.world.nodes[node];
        let (wanted, (mut after, latest)) = (*lsn + ops.len() as u64, *clock);
        let engine = self.world.engine(node);
        let last = write(engine, &self.slots, ops);
        prop_assert_eq!(last, wanted);
        let latest = now().max(latest + ops.len() as i64);
        let held = &mut self.held[node];
        for (i, Op { place, value, ttl }) in ops.iter().enumerate() {
            // Of several writes to a key the last one counts.
            if ops[i + 1..].iter().any(|later| self.slots[later.place] == self.slots[*place]) {
                continue;
            }
            let slot = self.slots[*place].clone();
            let found = engine.get_record(&slot.0, &slot.1).unwrap();
            let ttl =
                ttl.filter(|_| value.is_some()).map_or(0, |ttl| ttl.as_secs_f64().ceil() as u32);
            let mut version = Version {
                timestamp: latest,
                deleted: value.is_none(),
                value: value.unwrap_or_default().to_vec(),
                ttl,
            };
            if value.is_some() {
                let Some(found) = found else { return Err(TestCaseError::fail("a write is gone")) };
                // Later than all that the node has given or seen.
                prop_assert!(
                    after < found.timestamp && found.timestamp <= latest,
                    "{after} {found:?} {latest}"
                );
                after = found.timestamp;
                version.timestamp = found.timestamp;
                let expected = Record {
                    key: slot.1.clone(),
                    value: version.value.clone(),
                    timestamp: after,
                    ttl,
                };
                prop_assert_eq!(found, expected);
                held.unsure.remove(&slot);
            } else {
                prop_assert_eq!(found, None);
                held.unsure.insert(slot.clone(), (after, latest));
            }
            held.pending.insert(slot.clone());
            prop_assert!(held.model.merge(slot, version));
        }
        let node = &mut self.world.nodes[node];
        (node.lsn, node.clock) = (last, (after, latest));
        self.world.ops.writes += ops.len() as u64;
        Ok(())
    }

    fn flush(&mut self, node: usize) -> Check {
        self.world.ops.flushes += 1;
        let engine = self.world.nodes[node].engine();
        let held = &mut self.held[node];
        let segments = engine.flush_all().unwrap();
        let mut written = BTreeSet::new();
        for segment in &segments {
            let (mut file, len) = engine.open_segment(&segment.hash).unwrap().unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            prop_assert_eq!((len, Hash::of(&bytes)), (bytes.len() as u64, segment.hash));
            let entries = Reader::new(&bytes[..], len, Bounds::NONE).and_then(Reader::read_all);
            let entries =
                entries.map_err(|error: Invalid| TestCaseError::fail(format!("{error:?}")))?;
            let entries: Vec<Entry> = entries.iter().map(Entry::to_owned).collect();
            prop_assert_eq!(entries.len() as u64, segment.records);
            prop_assert!(entries.is_sorted_by(|a, b| a.key < b.key));
            for entry in &entries {
                let slot = slot_of(entry);
                if let Some((after, latest)) = held.unsure.remove(&slot) {
                    let stamp = entry.version.timestamp;
                    prop_assert!(after < stamp && stamp <= latest, "{after} {stamp} {latest}");
                    held.model.0.get_mut(&slot).unwrap().timestamp = stamp;
                }
                prop_assert_eq!(Some(&entry.version), held.model.0.get(&slot));
                prop_assert!(written.insert(slot), "it is in two of them");
            }
            self.segments.push((bytes, entries));
        }
        prop_assert_eq!(&written, &held.pending);
        if segments.is_empty() {
            return Ok(());
        }
        held.pending.clear();
        prop_assert_eq!(engine.watermark().confirmed_lsn, self.world.nodes[node].lsn);
        Ok(())
    }

    /// A made-up record, as the node may get it from a peer.
    fn entry(&self, node: usize, Made { place, when, version }: &Made) -> Entry {
        let slot = &self.slots[*place];
        let held = &self.held[node];
        let there = held.model.0.get(slot).filter(|_| !held.unsure.contains_key(slot));
        let timestamp = match when {
            When::LongAgo(at) => *at,
            When::Beside(later) => there.map_or(1, |there| there.timestamp.saturating_add(*later)),
            When::Ahead(later) => (now() + later).max(self.world.nodes[node].clock.1 + 1),
        };
        // None expires while the test runs.
        let ttl = if let When::LongAgo(_) = when { version.ttl } else { u32::MAX - version.ttl };
        entry_of(slot, Version { timestamp, ttl, ..version.clone() })
    }

    fn apply_new(&mut self, node: usize, entries: Vec<Entry>) -> Check {
        self.segments.push((segment_of(&entries), entries));
        self.apply(node, self.segments.len() - 1)
    }

    fn apply(&mut self, node: usize, i: usize) -> Check {
        // Who wins depends on a stamp that only a flush tells.
        let unsure = |entry: &Entry| {
            let at = entry.version.timestamp;
            let unsure = self.held[node].unsure.get(&slot_of(entry));
            unsure.is_some_and(|(after, latest)| *after < at && at <= *latest)
        };
        if self.segments[i].1.iter().any(unsure) {
            self.flush(node)?;
        }
        let (bytes, entries) = &self.segments[i];
        let held = &mut self.held[node];
        let before = held.model.clone();
        if self.world.apply(node, &mut held.model, bytes, entries)? {
            let stamps = entries.iter().map(|entry| entry.version.timestamp);
            let latest = stamps.max().unwrap_or(i64::MIN);
            let clock = &mut self.world.nodes[node].clock;
            *clock = (clock.0.max(latest), clock.1.max(latest));
            // What is overtaken is not flushed any more.
            let won = |slot: &Slot| before.0.get(slot) != held.model.0.get(slot);
            held.pending.retain(|slot| !won(slot));
            held.unsure.retain(|slot, _| !won(slot));
        }
        Ok(())
    }

    /// Keys beyond the limit are refused by whatever takes one, and change nothing.
    fn too_long(&self, node: usize) -> Check {
        let engine = self.world.engine(node);
        let ns = &self.slots[0].0;
        let key = vec![0xff; MAX_KEY - ns.len() + 1];
        let mut batch = WriteBatch::new();
        batch.put(ns, &self.slots[0].1, b"not written", None);
        batch.delete(ns, &key);
        for error in [
            engine.put(ns, &key, b"").unwrap_err(),
            engine.put_with_ttl(ns, &key, b"", Duration::from_secs(1)).unwrap_err(),
            engine.delete(ns, &key).unwrap_err(),
            engine.write(batch).unwrap_err(),
            engine.range(ns, &key, None).err().unwrap(),
            engine.range(ns, b"", Some(&key)).err().unwrap(),
            engine.prefix(ns, &key).err().unwrap(),
        ] {
            let bytes = MAX_KEY + 1;
            let right = matches!(error, EngineError::KeyTooLong { bytes: there } if there == bytes);
            prop_assert!(right, "{error:?}");
            prop_assert!(error.to_string().ends_with("the limit is 65533"), "{error}");
        }
        prop_assert_eq!(engine.get(ns, &key).unwrap(), None);
        let (len, version) = (
            (ns.len() as u16).to_be_bytes(),
            Version { timestamp: 1, deleted: false, value: Vec::new(), ttl: 0 },
        );
        let entry = Entry { key: [&len[..], ns, &key].concat(), version, lsn: 1 };
        let error = apply(engine, &segment_of(&[entry])).unwrap_err();
        prop_assert!(
            matches!(&error, ApplyError::Rejected { why, .. } if why.contains("too long")),
            "{error}"
        );
        Ok(())
    }
}

/// By the method for a single write, or as a batch.
fn write(engine: &Engine, slots: &[Slot], ops: &[Op]) -> u64 {
    let written = match ops {
        [Op { place, value, ttl }] => {
            let (ns, key) = &slots[*place];
            match (value, ttl) {
                (None, _) => engine.delete(ns, key),
                (Some(value), None) => engine.put(ns, key, value),
                (Some(value), Some(ttl)) => engine.put_with_ttl(ns, key, value, *ttl),
            }
        }
        ops => {
            let mut batch = WriteBatch::new();
            for Op { place, value, ttl } in ops {
                let (ns, key) = &slots[*place];
                match value {
                    Some(value) => batch.put(ns, key, value, *ttl),
                    None => batch.delete(ns, key),
                }
            }
            engine.write(batch)
        }
    };
    written.unwrap()
}

fn check(world: &mut World, history: &History) -> Check<u64> {
    let case = world.number();
    let slots = history.places.iter().map(|place| slot(case, *place)).collect();
    let mut run = Run { world, case, slots, held: Default::default(), segments: Vec::new() };
    for (node, step, other, read) in &history.steps {
        run.step(*node, step)?;
        run.world.read(*other, &run.held[*other].model, case, read)?;
    }
    (0..2).try_for_each(|node| run.flush(node))?;
    let all = 0..run.segments.len();
    all.clone().try_for_each(|i| run.apply(0, i))?;
    all.rev().try_for_each(|i| run.apply(1, i))?;
    let Run { world, held: [a, b], .. } = run;
    prop_assert_eq!(&a.model, &b.model);
    (0..2).try_for_each(|node| world.check(node, &a.model, case))?;
    world.leave(case, &a.model);
    world.done().map(|()| 1)
}

#[test]
fn nodes_agree_with_the_model_after_every_step_and_with_each_other_in_the_end() {
    let kind = Kind { name: "history", permille: 5, chunk: 2000, some: 60 };
    kind.run(
        history,
        || World::new(2),
        |world, history| check(world, &history),
        |world| world.finish(true),
    );
}
