//! Made-up segments reach three replicas, each in an order, a grouping and a repetition of its own.

use super::run::Kind;
use super::world::World;
use super::*;

const REPLICAS: usize = 3;

/// Cases that share segments and deliveries, so that an apply serves them all.
#[derive(Debug, Clone)]
struct Group {
    cases: Vec<Case>,
    deliveries: [Delivery; REPLICAS],
    /// One after each apply, of the cases in turn.
    reads: Vec<(usize, Read)>,
    /// The replica, and after how many of its applies.
    reopen: Option<(usize, usize)>,
}

#[derive(Debug, Clone)]
struct Case {
    places: [(usize, usize); 4],
    records: Vec<Made>,
}

/// A record, by the number of its place, and the segment that it was first in.
#[derive(Debug, Clone)]
struct Made {
    place: usize,
    segment: usize,
    version: Version<Vec<u8>>,
}

#[derive(Debug, Clone)]
struct Delivery {
    grouping: Grouping,
    /// These segments first, some of them again and again; then all, backwards.
    order: Vec<Index>,
}

/// How the records are spread over segments.
#[derive(Debug, Clone)]
enum Grouping {
    /// In order of keys, each key once, as a node writes them.
    Sorted,
    /// With a key several times, in any order.
    AsMade,
    /// In so many other segments, some records in two of them.
    Regrouped(usize, usize),
}

fn case() -> impl Strategy<Value = Case> {
    let made = (0..4_usize, 0..4_usize, version()).prop_map(|(place, segment, version)| Made {
        place,
        segment,
        version,
    });
    let places = [place(true), place(true), place(true), place(true)];
    (places, proptest::collection::vec(made, 1..10))
        .prop_map(|(places, records)| Case { places, records })
}

fn delivery() -> impl Strategy<Value = Delivery> {
    let grouping = prop_oneof![
        Just(Grouping::Sorted),
        Just(Grouping::AsMade),
        (1..6_usize, 1..100_usize).prop_map(|(into, by)| Grouping::Regrouped(into, by)),
    ];
    (grouping, proptest::collection::vec(any::<Index>(), 0..5))
        .prop_map(|(grouping, order)| Delivery { grouping, order })
}

fn group(by_command: bool) -> BoxedStrategy<Group> {
    let (cases, reopens) = if by_command { (1..256, 0.01) } else { (1..16, 0.3) };
    let reopen = prop::option::weighted(reopens, (0..REPLICAS, 0..5_usize));
    let deliveries = [delivery(), delivery(), delivery()];
    let reads = proptest::collection::vec(read(), 1..20);
    (proptest::collection::vec(case(), cases), deliveries, reads, reopen)
        .prop_map(|(cases, deliveries, reads, reopen)| Group { cases, deliveries, reads, reopen })
        .boxed()
}

impl Grouping {
    /// `made` are entries with the segment that each was first in.
    fn segments(&self, made: &[(usize, Entry)]) -> Vec<Vec<Entry>> {
        let mut segments: BTreeMap<usize, Vec<Entry>> = BTreeMap::new();
        for (i, (first, entry)) in made.iter().enumerate() {
            let mut put = |segment| segments.entry(segment).or_default().push(entry.clone());
            match self {
                Self::Sorted | Self::AsMade => put(*first),
                Self::Regrouped(into, by) => {
                    put(i * by % into);
                    if i % 3 == 0 {
                        put((i + by) / 3 % into);
                    }
                }
            }
        }
        let mut segments: Vec<_> = segments.into_values().collect();
        if let Self::Sorted = self {
            for entries in &mut segments {
                let mut winners = Model::default();
                winners.merge_segment(entries);
                let winners = winners.0.into_iter();
                *entries = winners.map(|(slot, version)| entry_of(&slot, version)).collect();
                entries.sort_by(|a, b| a.key.cmp(&b.key));
            }
        }
        segments
    }
}

fn check(world: &mut World, group: &Group) -> Check<u64> {
    let mut made = Vec::new();
    let first = world.number();
    let mut last = first;
    for (n, case) in group.cases.iter().enumerate() {
        last = if n == 0 { first } else { world.number() };
        for Made { place, segment, version } in &case.records {
            let slot = slot(last, case.places[*place]);
            made.push((*segment, entry_of(&slot, version.clone())));
        }
    }
    let mut joined = Model::default();
    for (_, entry) in &made {
        joined.merge(slot_of(entry), entry.version.clone());
    }

    let mut reads = (first..=last).cycle().zip(group.reads.iter().cycle());
    for (node, delivery) in group.deliveries.iter().enumerate() {
        let mut model = Model::default();
        let segments: Vec<_> = delivery.grouping.segments(&made);
        let segments: Vec<_> =
            segments.iter().map(|entries| (segment_of(entries), entries)).collect();
        let order = delivery.order.iter().map(|index| index.index(segments.len()));
        for (n, i) in order.chain((0..segments.len()).rev()).enumerate() {
            let (bytes, entries) = &segments[i];
            world.apply(node, &mut model, bytes, entries)?;
            if group.reopen == Some((node, n)) {
                world.reopen(node)?;
            }
            let (case, read) = reads.next().unwrap();
            world.read(node, &model, case, read)?;
        }
        prop_assert_eq!(&model, &joined);
        for case in first..=last {
            world.check(node, &joined, case)?;
        }
    }
    (first..=last).for_each(|case| world.leave(case, &joined.of(case)));
    world.done().map(|()| group.cases.len() as u64)
}

#[test]
fn segments_in_any_order_grouping_and_repetition_end_in_the_same_records() {
    let kind = Kind { name: "replicas", permille: 95, chunk: 200, some: 24 };
    kind.run(
        group,
        || World::new(REPLICAS),
        |world, group| check(world, &group),
        |world| world.finish(false),
    );
}
