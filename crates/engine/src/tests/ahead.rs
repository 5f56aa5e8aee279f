//! Records that were stamped by a clock that was wrong once: they hold up no others, and can be
//! stamped again.

use super::*;
use crate::disk::{Fault, FaultyDisk, test_folder};

fn put(engine: &Engine, key: &[u8]) {
    engine.put(b"ns", key, b"value").unwrap();
}

fn keys(engine: &Engine) -> Vec<Vec<u8>> {
    dump(engine).into_keys().map(|(_, key)| key).collect()
}

fn stamp(engine: &Engine, key: &[u8]) -> i64 {
    engine.get_record(b"ns", key).unwrap().unwrap().timestamp
}

#[test]
fn a_segment_from_the_future_holds_up_no_other() {
    let (dir, clocks) = (test_folder(), Clocks::new());
    let open = |name: &str| Engine::open_with(dir.path().join(name), clocks.options()).unwrap();
    let engine = open("a");
    for key in [b"a", b"b", b"c", b"d"] {
        put(&engine, key);
        engine.flush().unwrap();
    }
    put(&engine, b"e");
    clocks.jump(Clocks::YEAR);
    put(&engine, b"future");
    assert_eq!(engine.flush_all().unwrap().len(), 2, "they share no segment");
    clocks.jump(-Clocks::YEAR);
    let before = open("before");
    let (taken, errors) = pull(&before, &engine);
    assert!(matches!(&errors[..], [ApplyError::ClockAhead { .. }]), "{errors:?}");
    assert_eq!((taken, keys(&before).len()), (5, 5));

    let done = compact(&engine);
    assert_eq!((done.merged, done.made), (5, 1));
    let after = open("after");
    let (taken, errors) = pull(&after, &engine);
    assert_eq!((taken, errors.len(), keys(&after)), (1, 1, keys(&before)));
    assert_sound(&engine);
    assert_eq!(engine.stats().segments_ahead, 1);
    assert_eq!(engine.stats().records_ahead, 1);
    assert!(engine.stats().clock_ahead_secs > 300 * 24 * 3600);
}

/// A clock that is wrong for long is believed, and what was written before is beside it.
fn mixed(path: &Path, clocks: &Clocks) -> Engine {
    let engine = Engine::open_with(path, clocks.options()).unwrap();
    for key in [b"a", b"b", b"c"] {
        put(&engine, key);
    }
    engine.put(b"ns", b"deleted", b"value").unwrap();
    clocks.jump(Clocks::YEAR);
    assert!(engine.check_wall_clock().is_err());
    clocks.pass(2 * Clocks::HOUR);
    engine.check_wall_clock().unwrap();
    put(&engine, b"b");
    engine.put_with_ttl(b"ns", b"ttl", b"value", Duration::from_secs(7 * 24 * 3600)).unwrap();
    engine.delete(b"ns", b"deleted").unwrap();
    assert_eq!(engine.flush_all().unwrap().len(), 1);
    clocks.jump(-Clocks::YEAR);
    engine
}

#[test]
fn a_segment_that_good_records_share_with_others_is_split_by_the_next_compaction() {
    let (dir, clocks) = (test_folder(), Clocks::new());
    let engine = mixed(&dir.path().join("a"), &clocks);
    let peer = Engine::open_with(dir.path().join("b"), clocks.options()).unwrap();
    assert_eq!(pull(&peer, &engine).0, 0);
    let done = compact(&engine);
    assert_eq!((done.merged, done.made), (1, 2), "{done:?}");
    assert_sound(&engine);
    assert_eq!(pull(&peer, &engine).0, 1);
    assert_eq!(keys(&peer), [b"a", b"c"]);
    assert_eq!(compact(&engine), Compacted::default(), "that is it");
}

#[test]
fn what_was_stamped_too_far_ahead_is_stamped_again_and_reaches_peers() {
    let (dir, clocks) = (test_folder(), Clocks::new());
    let path = dir.path().join("a");
    let mut engine = mixed(&path, &clocks);
    put(&engine, b"pending");
    let state = engine.clock_state().unwrap();
    assert_eq!((state.records, state.pending, state.segments.len()), (4, 1, 1), "{state:?}");
    assert!(state.is_ahead() && state.ahead_secs > 300 * 24 * 3600);
    let before = dump(&engine);

    let done = engine.restamp(false).unwrap();
    assert_eq!((done.records, done.retired), (4, 1), "{done:?}");
    for reopened in [false, true] {
        if reopened {
            drop(engine);
            engine = Engine::open_with(&path, clocks.options()).unwrap();
        }
        let state = engine.clock_state().unwrap();
        assert!(!state.is_ahead() && state.records == 0, "{state:?}");
        assert_sound(&engine);
    }
    let values = |dump: &Dump| {
        Vec::from_iter(dump.iter().map(|(key, one)| (key.clone(), one.value.clone(), one.ttl)))
    };
    assert_eq!(values(&dump(&engine)), values(&before));
    assert!(stamp(&engine, b"ttl").abs_diff(clocks.now()) < 10_000_000_000);
    let peer = Engine::open_with(dir.path().join("b"), clocks.options()).unwrap();
    assert!(pull(&peer, &engine).1.is_empty());
    assert_eq!(dump(&peer), dump(&engine));
    assert_eq!(peer.get(b"ns", b"deleted").unwrap(), None, "tombstones stay");

    clocks.pass(1);
    put(&engine, b"later");
    assert_eq!(stamp(&engine, b"later"), clocks.now(), "the clock is right again");
    compact(&engine);
    assert_sound(&engine);
    assert_eq!(engine.restamp(false).unwrap().records, 0);
    assert!(pull(&peer, &engine).1.is_empty());
    assert_eq!(dump(&peer), dump(&engine));
}

/// Overwritten by what is stamped still later, and so in more than one segment.
#[test]
fn no_older_version_from_the_future_is_left_behind() {
    let (dir, clocks) = (test_folder(), Clocks::new());
    let engine = mixed(&dir.path().join("a"), &clocks);
    for value in [b"1", b"2", b"3"] {
        for key in [b"a", b"x"] {
            engine.put(b"ns", key, value).unwrap();
        }
        if value != b"3" {
            engine.flush().unwrap();
        }
    }
    let before = keys(&engine);
    assert_eq!(engine.restamp(false).unwrap().records, 5);
    assert_sound(&engine);
    assert_eq!(keys(&engine), before);
    assert_eq!(engine.get(b"ns", b"x").unwrap().unwrap(), b"3");
    assert_eq!(engine.stats().segments_ahead, 0);
    compact(&engine);
    compact(&engine);
    assert_sound(&engine);
}

#[test]
fn nothing_is_stamped_again_beside_what_a_peer_brought_from_the_future() {
    let (dir, clocks) = (test_folder(), Clocks::new());
    let engine = mixed(&dir.path().join("a"), &clocks);
    let peer = Engine::open_with(dir.path().join("b"), clocks.options()).unwrap();
    clocks.jump(Clocks::YEAR);
    assert_eq!(pull(&peer, &engine).0, 1, "its clock was as wrong");
    put(&peer, b"theirs");
    peer.flush().unwrap();
    assert_eq!(pull(&engine, &peer).0, 1);
    clocks.jump(-Clocks::YEAR);
    for engine in [&engine, &peer] {
        let before = dump(engine);
        let error = engine.restamp(false).unwrap_err();
        assert!(matches!(error, RestampError::Foreign { count: 1, .. }), "{error}");
        assert_eq!(engine.clock_state().unwrap().foreign.len(), 1);
        assert_eq!(dump(engine), before);
        assert_sound(engine);
    }
    // All but what the peer has a record of, too.
    clocks.pass(1);
    let before = dump(&engine);
    peer.put(b"ns", b"ttl", b"theirs").unwrap();
    peer.flush().unwrap();
    clocks.jump(Clocks::YEAR);
    assert_eq!(pull(&engine, &peer).0, 1);
    engine.put(b"ns", b"ttl", b"ours").unwrap();
    clocks.jump(-Clocks::YEAR);
    let done = engine.restamp(true).unwrap();
    assert_eq!((done.records, done.kept), (2, 1), "b and the tombstone; ttl stays: {done:?}");
    assert_sound(&engine);
    assert_eq!(keys(&engine), Vec::from_iter(before.into_keys().map(|(_, key)| key)));
    assert_eq!(engine.get(b"ns", b"ttl").unwrap().unwrap(), b"ours");
    let state = engine.clock_state().unwrap();
    assert_eq!((state.records, state.segments.len(), state.foreign.len()), (1, 1, 2));
    let again = engine.restamp(true).unwrap();
    assert_eq!((again.records, again.kept), (0, 1), "{again:?}");
    compact(&engine);
    assert_sound(&engine);
}

#[test]
fn power_may_be_lost_while_records_are_stamped_again() {
    let dir = test_folder();
    for n in 0.. {
        let clocks = Clocks::new();
        let root = dir.path().join(format!("root-{n}"));
        fs::create_dir(&root).unwrap();
        let db = root.join("db");
        drop(mixed(&db, &clocks));
        let disk = FaultyDisk::new(&root);
        let engine = Engine::open_on(&db, clocks.options(), disk.shared()).unwrap();
        put(&engine, b"more");
        engine.flush().unwrap();
        put(&engine, b"pending");
        let before = keys(&engine);
        disk.plan(n, Fault::PowerLoss);
        let _ = engine.restamp(false);
        let to = dir.path().join(format!("crashed-{n}"));
        disk.crash(n, &to);
        let over = !disk.lost_power();
        let after = Engine::open_with(to.join("db"), clocks.options()).unwrap();
        assert_sound(&after);
        after.restamp(false).unwrap();
        assert_sound(&after);
        assert_eq!(keys(&after), before, "power lost at {n}");
        assert!(!after.clock_state().unwrap().is_ahead());
        let peer = Engine::open_with(root.join("peer"), clocks.options()).unwrap();
        assert!(pull(&peer, &after).1.is_empty());
        assert_eq!(keys(&peer), before);
        drop((engine, after, peer));
        fs::remove_dir_all(to).unwrap();
        fs::remove_dir_all(root).unwrap();
        if over {
            assert!(n > 5, "{n}");
            break;
        }
    }
}
