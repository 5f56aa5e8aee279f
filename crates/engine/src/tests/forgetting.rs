//! What compactions forget, and by which clock.

use super::*;

/// A record that has expired by a clock that is a year ahead, and one that a tombstone hides.
fn short_lived(engine: &Engine) {
    engine.put_with_ttl(b"ns", b"short", b"value", Duration::from_secs(3600)).unwrap();
    engine.put(b"ns", b"long", b"value").unwrap();
    engine.flush().unwrap();
}

#[test]
fn nothing_is_forgotten_by_a_clock_that_has_jumped_ahead() {
    let (dir, clocks) = (tempfile::tempdir().unwrap(), Clocks::new());
    for reopen in [false, true] {
        let path = dir.path().join(reopen.to_string());
        let mut engine = Engine::open_with(&path, clocks.options()).unwrap();
        engine.trust_wall_clock();
        short_lived(&engine);
        clocks.jump(Clocks::YEAR);
        if reopen {
            drop(engine);
            engine = Engine::open_with(&path, clocks.options()).unwrap();
        }
        let done = compact(&engine);
        assert_eq!((done.forgotten, done.waits), (0, true), "{done:?}");
        // It was wrong, and is right again.
        clocks.jump(-Clocks::YEAR);
        let done = compact(&engine);
        assert_eq!((done.forgotten, done.waits), (0, false), "{done:?}");
        assert_eq!(engine.get(b"ns", b"short").unwrap().unwrap(), b"value");
    }
}

#[test]
fn a_node_that_was_off_for_long_forgets_after_an_hour() {
    let (dir, clocks) = (tempfile::tempdir().unwrap(), Clocks::new());
    let engine = Engine::open_with(dir.path(), clocks.options()).unwrap();
    engine.trust_wall_clock();
    short_lived(&engine);
    drop(engine);
    clocks.jump(60 * Clocks::DAY);
    let engine = Engine::open_with(dir.path(), clocks.options()).unwrap();
    assert!(compact(&engine).waits);
    clocks.pass(Clocks::HOUR / 2);
    assert!(compact(&engine).waits);
    clocks.pass(Clocks::HOUR / 2);
    let done = compact(&engine);
    assert_eq!((done.forgotten, done.waits), (1, false), "{done:?}");
    assert_eq!(engine.get(b"ns", b"long").unwrap().unwrap(), b"value");
}

#[test]
fn a_node_that_is_always_on_forgets_at_once() {
    let (dir, clocks) = (tempfile::tempdir().unwrap(), Clocks::new());
    let engine = Engine::open_with(dir.path(), clocks.options()).unwrap();
    short_lived(&engine);
    clocks.pass(60 * Clocks::DAY);
    let done = compact(&engine);
    assert_eq!((done.forgotten, done.waits), (1, false), "{done:?}");
}

/// As by commands, each of which opens it anew.
#[test]
fn a_new_database_retires_what_was_written_over_or_says_why_not() {
    for (minutes, retired) in [(3, 1), (6, 1), (10, 1), (30, 0)] {
        let (dir, clocks) = (tempfile::tempdir().unwrap(), Clocks::new());
        let open = || Engine::open_with(dir.path(), clocks.options()).unwrap();
        let write = |engine: &Engine, value: &[u8]| {
            engine.put(b"ns", b"key", value).unwrap();
            engine.flush().unwrap();
        };
        write(&open(), b"old");
        clocks.jump(minutes * 60);
        let engine = open();
        write(&engine, b"new");
        let done = compact(&engine);
        let expected = (retired, retired == 0);
        assert_eq!((done.retired, done.waits), expected, "after {minutes} minutes: {done:?}");
        clocks.pass(Clocks::HOUR);
        let done = compact(&engine);
        assert_eq!((done.retired, done.waits), (1 - retired, false), "{done:?}");
    }
}

#[test]
fn a_new_node_forgets_nothing_by_a_clock_that_was_never_right() {
    let (dir, clocks) = (tempfile::tempdir().unwrap(), Clocks::new());
    let open = |name: &str| Engine::open_with(dir.path().join(name), clocks.options()).unwrap();
    let peer = open("peer");
    short_lived(&peer);
    // The new node starts before its clock is set.
    clocks.jump(Clocks::YEAR);
    let mut node = open("node");
    for reopen in [false, true] {
        if reopen {
            drop(node);
            node = open("node");
        }
        pull(&node, &peer);
        let done = compact(&node);
        assert_eq!((done.forgotten, done.waits), (0, true), "{done:?}");
        clocks.pass(Clocks::HOUR / 3);
    }
    clocks.jump(-Clocks::YEAR);
    let done = compact(&node);
    assert_eq!((done.forgotten, done.waits), (0, false), "{done:?}");
    assert_eq!(node.get(b"ns", b"short").unwrap().unwrap(), b"value");
    // It counts from then.
    clocks.pass(20 * Clocks::DAY);
    let done = compact(&node);
    assert_eq!((done.forgotten, done.waits), (1, false), "{done:?}");
}
