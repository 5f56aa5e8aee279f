//! The engine on a disk that fails at every operation in turn, and loses power at every one.
//!
//! A program of writes, flushes, applies and repairs runs on a faulty disk beside a model of what
//! it should have come to. What was acknowledged must be there afterwards, and what was not is
//! there as a whole or not at all.

mod node;

use proptest::prelude::*;

use self::node::{Node, Step, key, live, options, stage};
use super::record::Version;
use super::segment::Entry;
use super::*;
use crate::disk::{Fault, FaultyDisk};

fn entry() -> impl Strategy<Value = Entry> {
    let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..2000));
    (0..4_u8, 0..1000_i64, value).prop_map(|(k, timestamp, value)| {
        let (deleted, value) = (value.is_none(), value.unwrap_or_default());
        Entry { key: key(k), version: Version { timestamp, deleted, value, ttl: 0 }, lsn: 1 }
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = proptest::option::weighted(0.8, proptest::collection::vec(any::<u8>(), 0..900));
    let step = prop_oneof![
        3 => proptest::collection::vec((0..4_u8, value), 1..4).prop_map(Step::Write),
        3 => Just(Step::Flush),
        3 => proptest::collection::vec(entry(), 1..6).prop_map(Step::Apply),
        1 => any::<prop::sample::Index>().prop_map(Step::Damage),
        1 => Just(Step::Repair),
        2 => Just(Step::Compact),
    ];
    proptest::collection::vec(step, 1..7)
}

/// Loses power at each operation of a program in turn. Returns how many there are.
fn lose_power_everywhere(with_database: bool, steps: &[Step], seeds: u64) -> u64 {
    for n in 0.. {
        let mut node = Node::new(with_database);
        node.disk.plan(n, Fault::PowerLoss);
        if let Ok(engine) = node.open() {
            for step in steps {
                if node.step(&engine, step, &mut None).is_err() || node.disk.lost_power() {
                    break;
                }
            }
        }
        // The first two are the extremes.
        let random = fastrand::u64(2..u64::MAX / 2);
        for seed in (0..2).chain(random..random + seeds) {
            println!("power lost at {n}, seed {seed}");
            node.check_after_crash(seed);
        }
        if !node.disk.lost_power() {
            return n;
        }
    }
    unreachable!()
}

/// Fails once, at each operation of a program in turn. Returns how many there are.
fn fail_everywhere(fault: Fault, links: bool, with_database: bool, steps: &[Step]) -> u64 {
    for n in 0.. {
        println!("{fault:?} at {n}");
        let mut node = Node::new(with_database);
        node.disk.plan(n, fault);
        if !links {
            node.disk.forbid_links();
        }
        let engine = node.open().or_else(|error| {
            check_error(&error, fault);
            node.open()
        });
        let engine = engine.unwrap();
        for step in steps {
            let mut staged = None;
            if let Err(error) = node.step(&engine, step, &mut staged) {
                check_error(&error, fault);
                node.check_reads(&engine);
                node.step(&engine, step, &mut staged).unwrap();
            }
        }
        let happened = node.disk.happened();
        node.check_after_crash(0);
        node.check(&engine);
        drop(engine);
        node.check(&node.open().unwrap());
        assert_eq!(fs::read_dir(node.db.join("staging")).unwrap().count(), 0);
        if !happened {
            return n;
        }
    }
    unreachable!()
}

fn check_error(error: &EngineError, fault: Fault) {
    assert!(error.is_storage(), "{error}");
    let says = error.to_string().contains("free space");
    assert_eq!(says, fault == Fault::Full, "{error}");
}

/// One of each step, in an order in which all of them do something.
fn program() -> Vec<Step> {
    let put = |k, byte: u8| Step::Write(vec![(k, Some(vec![byte; 500])), (k + 1, None)]);
    let entry = |k, timestamp| {
        let version = Version { timestamp, deleted: false, value: vec![k; 5000], ttl: 0 };
        Entry { key: key(k), version, lsn: 1 }
    };
    vec![
        put(0, 1),
        Step::Flush,
        Step::Apply(vec![entry(1, 5), entry(2, 5)]),
        put(1, 2),
        // Flushes by itself.
        Step::Write(vec![(3, Some(vec![3; 2000]))]),
        Step::Damage(any_index()),
        Step::Repair,
        put(0, 4),
        Step::Apply(vec![entry(3, 5)]),
        Step::Flush,
        put(2, 5),
        Step::Flush,
        Step::Compact,
        put(2, 6),
    ]
}

/// Segments that are superseded, and others that are merged, twice.
fn compactions() -> Vec<Step> {
    let put = |k, byte: u8| Step::Write(vec![(k, Some(vec![byte; 500]))]);
    let rounds = (0..2_u8).flat_map(|round| {
        let segments = (0..6).flat_map(move |k| [put(k % 5, 10 * round + k), Step::Flush]);
        segments.chain([Step::Compact])
    });
    // The files of what was retired go.
    rounds.chain([Step::Compact]).collect()
}

fn first_steps() -> [Step; 2] {
    [Step::Write(vec![(1, Some(vec![1]))]), Step::Flush]
}

fn any_index() -> prop::sample::Index {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    any::<prop::sample::Index>().new_tree(&mut runner).unwrap().current()
}

#[test]
fn a_write_that_returned_ok_survives_though_power_was_lost_in_its_flush() {
    let node = Node::new(true);
    let engine = node.open().unwrap();
    node.disk.plan(0, Fault::PowerLoss);
    engine.put(b"ns", b"k", &[7; 3000]).unwrap();
    assert!(node.disk.lost_power(), "it was to make a segment");
    let to = node.dir.path().join("crashed");
    node.disk.crash(0, &to);
    drop(engine);
    let engine = Engine::open_with(to.join("in/db"), options()).unwrap();
    assert_eq!(engine.get(b"ns", b"k").unwrap().as_deref(), Some(&[7; 3000][..]));
}

#[test]
fn power_may_be_lost_at_any_instant_of_the_making_of_a_database() {
    let operations = lose_power_everywhere(false, &first_steps(), 4);
    assert!(operations > 10, "{operations}");
}

#[test]
fn power_may_be_lost_at_any_instant_of_everything_that_an_engine_does() {
    let operations = lose_power_everywhere(true, &program(), 10);
    assert!(operations > 30, "{operations}");
}

#[test]
fn power_may_be_lost_at_any_instant_of_a_compaction() {
    let operations = lose_power_everywhere(true, &compactions(), 4);
    assert!(operations > 80, "{operations}");
}

/// What waits in memory is read again from the segment files, and that may fail, too.
#[test]
fn the_start_after_a_crash_may_fail_anywhere_and_be_tried_again() {
    let node = Node::new(true);
    let engine = node.open().unwrap();
    for byte in 0..3 {
        let version = Version { timestamp: 1, deleted: false, value: vec![byte; 9000], ttl: 0 };
        let entries = [Entry { key: key(byte), version, lsn: 1 }];
        engine.apply(&mut stage(&engine, &entries).unwrap()).unwrap();
    }
    let expected = (live(&engine), engine.manifest());
    for fault in [Fault::Io, Fault::Full] {
        for n in 0.. {
            let to = node.dir.path().join(format!("{fault:?}-{n}"));
            node.disk.crash(0, &to);
            let (disk, db) = (FaultyDisk::new(&to), to.join("in/db"));
            disk.plan(n, fault);
            // It may start without what it could not read, and must not believe to have it.
            let partial = Engine::open_on(&db, options(), disk.shared());
            drop(partial);
            let whole = Engine::open_with(&db, options()).unwrap();
            assert_eq!((live(&whole), whole.manifest()), expected, "{fault:?} at {n}");
            assert_eq!(whole.verify(false, |_, _| {}).unwrap().count, 0);
            if !disk.happened() {
                assert!(n > 5, "{n}");
                break;
            }
        }
    }
}

#[test]
fn a_compaction_may_fail_anywhere_and_be_tried_again() {
    for fault in [Fault::Io, Fault::Full] {
        let operations = fail_everywhere(fault, true, true, &compactions());
        assert!(operations > 80, "{operations}");
    }
}

#[test]
fn the_making_of_a_database_may_fail_anywhere_and_be_tried_again() {
    for fault in [Fault::Io, Fault::Full] {
        fail_everywhere(fault, true, false, &first_steps());
    }
}

#[test]
fn everything_that_an_engine_does_may_fail_anywhere_and_be_tried_again() {
    for (fault, links) in [(Fault::Io, true), (Fault::Full, true), (Fault::Io, false)] {
        let operations = fail_everywhere(fault, links, true, &program());
        assert!(operations > 50, "{operations}");
    }
}

/// What a failed sync was to write counts as written for the system, and no other sync writes it.
#[test]
fn a_segment_whose_sync_has_failed_is_written_anew_before_it_is_applied() {
    let node = Node::new(true);
    let engine = node.open().unwrap();
    let entries = |byte| {
        let version = Version { timestamp: 1, deleted: false, value: vec![byte; 9000], ttl: 0 };
        [Entry { key: key(byte), version, lsn: 1 }]
    };
    for (byte, by_apply) in [(1, true), (2, false)] {
        let mut staged = stage(&engine, &entries(byte)).unwrap();
        node.disk.plan_sync();
        if by_apply {
            engine.apply(&mut staged).unwrap_err();
        } else {
            staged.sync().unwrap_err();
            staged.sync().unwrap_err();
        }
        assert!(node.disk.happened());
        engine.apply(&mut staged).unwrap();
    }
    let to = node.dir.path().join("crashed");
    node.disk.crash(0, &to);
    let after = Engine::open_with(to.join("in/db"), options()).unwrap();
    assert_eq!(after.manifest(), engine.manifest());
    assert_eq!(after.verify(false, |_, _| {}).unwrap().count, 0);
    assert_eq!(fs::read_dir(node.db.join("staging")).unwrap().count(), 0);
}

#[test]
fn a_full_disk_stops_flushes_and_applies_until_there_is_room() {
    let bytes: Vec<u8> = (0..20_000).map(|_| fastrand::u8(..)).collect();
    let version = Version { timestamp: 1, deleted: false, value: bytes.clone(), ttl: 0 };
    let entries = [Entry { key: key(2), version, lsn: 1 }];
    for room in [0, 1, 4096, 12_000] {
        let mut node = Node::new(true);
        let engine = node.open().unwrap();
        engine.put(b"ns", &[0], &bytes[..1000]).unwrap();
        let sound = engine.flush().unwrap();
        node.disk.set_room(Some(room));
        // Its own flush fails, and yet the write is done.
        engine.put(b"ns", &[1], &bytes).unwrap();
        for _ in 0..3 {
            check_error(&engine.flush().unwrap_err(), Fault::Full);
            check_error(&stage(&engine, &entries).unwrap_err(), Fault::Full);
        }
        assert_eq!(engine.get(b"ns", &[1]).unwrap().as_ref(), Some(&bytes));
        assert_eq!(engine.manifest(), Vec::from_iter(sound));
        assert_eq!(fs::read_dir(node.db.join("staging")).unwrap().count(), 0);

        node.disk.set_room(None);
        assert_eq!(engine.flush().unwrap().unwrap().records, 1);
        engine.apply(&mut stage(&engine, &entries).unwrap()).unwrap();
        node.segments = engine.manifest();
        assert_eq!(node.segments.len(), 3);
        let to = node.dir.path().join("crashed");
        node.disk.crash(0, &to);
        let after = Engine::open_with(to.join("in/db"), options()).unwrap();
        assert_eq!((after.manifest(), live(&after)), (node.segments, live(&engine)));
        assert_eq!(after.verify(false, |_, _| {}).unwrap().count, 0);
    }
}

/// Between the name of a segment and its registration, too.
#[test]
fn flush_that_fails_anywhere_is_no_loss_to_the_next_start() {
    for fault in [Fault::Io, Fault::Full] {
        for n in 0.. {
            let node = Node::new(true);
            let engine = node.open().unwrap();
            engine.put(b"ns", b"first", b"1").unwrap();
            node.disk.plan(n, fault);
            let _ = engine.flush();
            let happened = node.disk.happened();
            // With what came meanwhile it is another segment.
            engine.put(b"ns", b"second", b"1").unwrap();
            engine.flush().unwrap();
            let manifest = engine.manifest();
            drop(engine);
            let engine = node.open().unwrap();
            assert!(engine.losses().is_empty(), "{fault:?} at {n}: {:?}", engine.losses());
            assert_eq!(engine.manifest(), manifest, "{fault:?} at {n}");
            assert_eq!(fs::read_dir(node.db.join("segments")).unwrap().count(), manifest.len());
            if !happened {
                assert!(n > 5, "{n}");
                break;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 50, ..ProptestConfig::with_cases(12) })]

    #[test]
    fn power_may_be_lost_at_any_instant_of_any_program(steps in steps()) {
        lose_power_everywhere(true, &steps, 2);
    }

    #[test]
    fn any_step_of_any_program_may_fail_and_be_tried_again(
        steps in steps(),
        full: bool,
        links: bool,
    ) {
        let fault = if full { Fault::Full } else { Fault::Io };
        fail_everywhere(fault, links, true, &steps);
    }
}
