//! Whatever a node makes, a peer with the same bounds takes.

use proptest::prelude::*;

use super::*;
use crate::disk::{Fault, FaultyDisk, test_folder};
use crate::segment::{Bounds, Reader};

fn bounded(inflated: u64, file: u64) -> EngineOptions {
    EngineOptions { max_segment_inflated_bytes: inflated, max_segment_file_bytes: file, ..fast() }
}

fn assert_bounded(engine: &Engine, bounds: Bounds) {
    for segment in engine.manifest() {
        let bytes = fs::read(engine.folder.segment(&segment.hash)).unwrap();
        let read = Reader::new(&bytes[..], bytes.len() as u64, bounds).and_then(Reader::read_all);
        assert_eq!(read.unwrap().len() as u64, segment.records);
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// So many records from this key on, of values of this length, of equal bytes or random ones.
    Write(u8, u8, usize, bool),
    Delete(u8),
    Flush,
    Compact,
    /// A segment file is gone, and a repair makes others of what was in it.
    Repair(prop::sample::Index),
    /// As if an older version had made what is there.
    Forget,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![0..50_usize, 1000..9000_usize];
    prop_oneof![
        6 => (any::<u8>(), 1..60_u8, len, any::<bool>())
            .prop_map(|(key, count, len, random)| Step::Write(key, count, len, random)),
        1 => any::<u8>().prop_map(Step::Delete),
        3 => Just(Step::Flush),
        3 => Just(Step::Compact),
        1 => any::<prop::sample::Index>().prop_map(Step::Repair),
        1 => Just(Step::Forget),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 100, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn every_segment_that_a_node_makes_is_taken_by_a_reader_with_the_same_bounds(
        steps in proptest::collection::vec(step(), 1..30),
        inflated in 20_000..300_000_u64,
        file in 30_000..300_000_u64,
        flush_bytes in prop_oneof![Just(50_000_u64), Just(10 << 20)],
        seed in any::<u64>(),
    ) {
        let dir = test_folder();
        let (path, bounds) = (dir.path().join("a"), Bounds { inflated, file });
        let options = EngineOptions { flush_bytes, ..bounded(inflated, file) };
        let open = || Engine::open_with(&path, options.clone()).unwrap();
        let (mut engine, mut random) = (open(), fastrand::Rng::with_seed(seed));
        for step in steps.into_iter().chain([Step::Flush, Step::Compact]) {
            match step {
                Step::Write(first, count, len, noise) => {
                    for key in (first..=255).take(count.into()) {
                        let byte = random.u8(..);
                        let value = (0..len).map(|_| if noise { random.u8(..) } else { byte });
                        engine.put(b"ns", &[key], &Vec::from_iter(value)).unwrap();
                    }
                }
                Step::Delete(key) => drop(engine.delete(b"ns", &[key]).unwrap()),
                Step::Flush => drop(engine.flush().unwrap()),
                Step::Compact => drop(compact(&engine)),
                Step::Repair(which) => {
                    let manifest = engine.manifest();
                    if manifest.is_empty() { continue }
                    let hash = manifest[which.index(manifest.len())].hash;
                    let file = engine.folder.segment(&hash);
                    drop(engine);
                    fs::remove_file(file).unwrap();
                    engine = open();
                    engine.verify(true, |_, _| {}).unwrap();
                }
                Step::Forget => {
                    forget_bounds(&engine);
                    drop(engine);
                    engine = open();
                }
                Step::Reopen => {
                    drop(engine);
                    engine = open();
                }
            }
            assert_bounded(&engine, bounds);
        }
        assert_sound(&engine);
        let replica = Engine::open_with(dir.path().join("b"), options.clone()).unwrap();
        let (taken, errors) = pull(&replica, &engine);
        prop_assert_eq!((taken, errors.len()), (engine.manifest().len(), 0));
        prop_assert_eq!(dump(&replica), dump(&engine));
    }
}

fn fill(engine: &Engine, records: u32, len: usize) {
    for key in 0..records {
        engine.put(b"ns", &key.to_be_bytes(), &vec![b'x'; len]).unwrap();
    }
}

/// Of 640 records whose values are equal characters, peers got 64: two segments held what inflates
/// to more than any reader takes.
#[test]
fn records_that_compress_well_are_not_merged_into_what_no_peer_takes() {
    let dir = test_folder();
    let options = EngineOptions { flush_bytes: 80_000, ..bounded(5_120_000, 1 << 20) };
    let engine = Engine::open_with(dir.path().join("a"), options.clone()).unwrap();
    fill(&engine, 640, 10_000);
    engine.flush().unwrap();
    for _ in 0..3 {
        compact(&engine);
        assert_sound(&engine);
    }
    assert!(engine.manifest().len() < 10, "{}", engine.manifest().len());
    assert_eq!(compact(&engine), Compacted::default(), "nothing is rewritten for ever");
    let replica = Engine::open_with(dir.path().join("b"), options).unwrap();
    assert!(pull(&replica, &engine).1.is_empty());
    assert_eq!((dump(&replica).len(), dump(&replica)), (640, dump(&engine)));
}

#[test]
fn segments_that_older_versions_made_too_large_are_split_and_read_until_then() {
    let dir = test_folder();
    let path = dir.path().join("a");
    let engine = Engine::open_with(&path, fast()).unwrap();
    fill(&engine, 300, 2000);
    let large = engine.flush().unwrap().unwrap();
    forget_bounds(&engine);
    drop(engine);

    let options = bounded(100_000, 1 << 20);
    let engine = Engine::open_with(&path, options.clone()).unwrap();
    let replica = Engine::open_with(dir.path().join("b"), options.clone()).unwrap();
    let (taken, errors) = pull(&replica, &engine);
    assert!(
        matches!(&errors[..], [ApplyError::Rejected { why, .. }]
        if taken == 0 && why.contains("--max-segment-inflated")),
        "{errors:?}"
    );
    assert_sound(&engine);
    let before = dump(&engine);
    let done = compact(&engine);
    assert!((done.merged, done.retired) == (1, 1) && done.made >= 6, "{done:?}");
    assert!(!engine.manifest().contains(&large));
    assert_sound(&engine);
    assert!(pull(&replica, &engine).1.is_empty());
    assert_eq!((dump(&engine), dump(&replica)), (before.clone(), before.clone()));

    // Who owns what is known after a restart, and in merges to come.
    drop(engine);
    let engine = Engine::open_with(&path, options).unwrap();
    fill(&engine, 60, 1);
    engine.flush().unwrap();
    for _ in 0..3 {
        compact(&engine);
        assert_sound(&engine);
    }
    assert_eq!(compact(&engine), Compacted::default());
    assert_eq!(pull(&replica, &engine).1.len(), 0);
    assert_eq!(dump(&replica), dump(&engine));
}

#[test]
fn power_may_be_lost_while_several_segments_are_made_at_once() {
    let options = bounded(30_000, 1 << 20);
    let dir = test_folder();
    for n in 0.. {
        let root = dir.path().join(format!("root-{n}"));
        fs::create_dir(&root).unwrap();
        let (disk, db) = (FaultyDisk::new(&root), root.join("db"));
        let engine = Engine::open_on(&db, fast(), disk.shared()).unwrap();
        fill(&engine, 50, 2000);
        engine.flush().unwrap();
        forget_bounds(&engine);
        drop(engine);
        let engine = Engine::open_on(&db, options.clone(), disk.shared()).unwrap();
        for key in 50..100_u32 {
            engine.put(b"ns", &key.to_be_bytes(), &[7; 2000]).unwrap();
        }
        let expected = dump(&engine);
        disk.plan(n, Fault::PowerLoss);
        if engine.flush().is_ok() {
            let _ = engine.compact(&RateLimiter::unbounded());
        }
        let to = dir.path().join(format!("crashed-{n}"));
        disk.crash(n, &to);
        let over = !disk.lost_power();
        let after = Engine::open_with(to.join("db"), options.clone()).unwrap();
        assert_eq!(dump(&after), expected, "power lost at {n}");
        assert_sound(&after);
        after.flush().unwrap();
        compact(&after);
        assert_sound(&after);
        assert_eq!(dump(&after), expected);
        drop((engine, after));
        fs::remove_dir_all(to).unwrap();
        fs::remove_dir_all(root).unwrap();
        if over {
            assert!(n > 10, "{n}");
            break;
        }
    }
}
