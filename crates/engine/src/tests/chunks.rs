//! Segments whose records take more memory than the memtable has are merged some records at a time.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::damage::copy;
use super::*;
use crate::disk::test_folder;

/// Room for two or three records.
const SMALL: u64 = 500;

/// Puts and deletes of a few keys, in any order, with the same key many times, stamped as local writes
/// may be that are made meanwhile.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let value = proptest::option::weighted(0.8, proptest::collection::vec(any::<u8>(), 0..200));
    let entry = (0..12_u8, 0..12_i64, value).prop_map(|(key, secs, value)| Entry {
        key: record::store_key(&[b'a' + key % 2], &[key]).unwrap(),
        version: Version {
            timestamp: (Clocks::START + secs) * 1_000_000_000,
            deleted: value.is_none(),
            value: value.unwrap_or_default(),
            ttl: 0,
        },
        lsn: 1,
    });
    proptest::collection::vec(entry, 1..40)
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, Vec<u8>),
    Delete(u8),
    Flush,
    /// Some are prepared first.
    Apply(Vec<Entry>, bool),
    Compact,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..12_u8, proptest::collection::vec(any::<u8>(), 0..50))
            .prop_map(|(key, value)| Step::Put(key, value)),
        1 => (0..12_u8).prop_map(Step::Delete),
        1 => Just(Step::Flush),
        4 => (entries(), any::<bool>()).prop_map(|(entries, ahead)| Step::Apply(entries, ahead)),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn a_segment_in_chunks_leaves_what_it_leaves_as_a_whole(
        steps in proptest::collection::vec(step(), 1..12)
    ) {
        let dir = test_folder();
        let clocks = Clocks::new();
        let open = |name: &str, memtable_bytes: u64| {
            let options = EngineOptions { memtable_bytes, ..clocks.options() };
            let options = EngineOptions { tombstone_grace: Duration::MAX, ..options };
            Engine::open_with(dir.path().join(name), options).unwrap()
        };
        let mut pair = Some((open("chunks", SMALL), open("whole", 1 << 20)));
        for step in steps {
            let (chunks, whole) = pair.take().unwrap();
            clocks.pass(1);
            let both = [&chunks, &whole];
            match step {
                Step::Put(key, value) => for engine in both {
                    engine.put(&[b'a' + key % 2], &[key], &value).unwrap();
                },
                Step::Delete(key) => for engine in both {
                    engine.delete(&[b'a' + key % 2], &[key]).unwrap();
                },
                Step::Flush => for engine in both {
                    engine.flush_all().unwrap();
                },
                Step::Apply(entries, ahead) => {
                    let bytes = segment::testing::of_small_blocks(&entries);
                    for engine in both {
                        let mut staged = stage(engine, &bytes);
                        if ahead {
                            engine.prepare(&mut staged);
                        }
                        engine.apply(&mut staged).unwrap();
                    }
                }
                Step::Compact => for engine in both {
                    compact(engine);
                },
                Step::Reopen => {
                    drop((chunks, whole));
                    pair = Some((open("chunks", SMALL), open("whole", 1 << 20)));
                    continue;
                }
            }
            prop_assert_eq!(dump(&chunks), dump(&whole));
            prop_assert_eq!(chunks.stats().pending_records, whole.stats().pending_records);
            pair = Some((chunks, whole));
        }
        let (chunks, whole) = pair.unwrap();
        both_are_sound_and_agree(&chunks, &whole)?;
    }
}

#[test]
fn a_segment_takes_no_more_memory_than_a_chunk_of_it() {
    let dir = test_folder();
    let options = EngineOptions { memtable_bytes: 20_000, ..fast() };
    let engine = Engine::open_with(dir.path(), options).unwrap();
    let deleted = |key: u32| Entry {
        key: record::store_key(b"ns", &key.to_be_bytes()).unwrap(),
        version: Version { timestamp: 1, deleted: true, value: Vec::new(), ttl: 0 },
        lsn: 1,
    };
    let entries: Vec<Entry> = (0..20_000).map(deleted).collect();
    // Of 171 bytes each, as readers count them.
    for ahead in [false, true] {
        let mut staged = stage(&engine, &segment_of(&entries[usize::from(ahead)..]));
        if ahead {
            // Others have all the room.
            let rest = 64 << 20;
            engine.prepared.fetch_add(rest, Ordering::Relaxed);
            engine.prepare(&mut staged);
            engine.prepared.fetch_sub(rest, Ordering::Relaxed);
        }
        let applied = engine.apply(&mut staged).unwrap();
        assert_eq!(applied.written + applied.skipped, 20_000 - u64::from(ahead));
        assert!(engine.memtable().weight() < 40_000, "{}", engine.memtable().weight());
    }
    assert_sound(&engine);
}

/// A start reads such a segment again, and drains its first records before it has read the last ones.
#[test]
fn a_segment_counts_as_drained_once_all_of_it_is() {
    let dir = test_folder();
    let options = EngineOptions { memtable_bytes: SMALL, ..fast() };
    // The last one is too small to be drained.
    let entries = (0..11_u8).map(|key| Entry {
        key: record::store_key(b"ns", &[key]).unwrap(),
        version: Version {
            timestamp: 1,
            deleted: false,
            value: vec![7; if key < 10 { 300 } else { 1 }],
            ttl: 0,
        },
        lsn: 1,
    });
    let bytes = segment::testing::of_small_blocks(&Vec::from_iter(entries));
    // Nothing of it is drained there.
    let mut engine = Engine::open_with(dir.path().join("0"), fast()).unwrap();
    apply(&engine, &bytes).unwrap();
    for crashes in 1..4 {
        let path = dir.path().join(crashes.to_string());
        copy(engine.path(), &path);
        engine = Engine::open_with(&path, options.clone()).unwrap();
        assert_eq!(dump(&engine).len(), 11, "after {crashes} crashes");
        assert!(!engine.memtable().is_empty(), "there is something to lose");
    }
    assert_sound(&engine);
}

fn both_are_sound_and_agree(chunks: &Engine, whole: &Engine) -> Result<(), TestCaseError> {
    assert_sound(chunks);
    assert_sound(whole);
    // What a peer pulls of either is the same.
    let dir = test_folder();
    for (name, engine) in [("a", chunks), ("b", whole)] {
        engine.flush_all().unwrap();
        let replica = Engine::open_with(dir.path().join(name), fast()).unwrap();
        let (_, errors) = pull(&replica, engine);
        prop_assert!(errors.is_empty());
        prop_assert_eq!(dump(&replica), dump(whole));
    }
    Ok(())
}
