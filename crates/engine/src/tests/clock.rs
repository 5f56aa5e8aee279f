//! The hybrid clock, and what it does not let in.

use super::*;
use crate::testing::TestClock;

#[test]
fn no_stamp_goes_back_whatever_the_clocks_of_peers_and_restarts_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = Engine::open(dir.path()).unwrap();
    let ahead = Duration::from_secs(200);
    apply(&engine, &stamped(ahead)).unwrap();
    let stamp =
        |engine: &Engine, key: &[u8]| engine.get_record(b"ns", key).unwrap().unwrap().timestamp;
    let mut last = stamp(&engine, b"k");
    for i in 0..6_u8 {
        engine.put(b"ns", &[i % 2], &[i]).unwrap();
        assert!(stamp(&engine, &[i % 2]) > last);
        last = stamp(&engine, &[i % 2]);
        if i % 3 == 1 {
            drop(engine);
            engine = Engine::open(dir.path()).unwrap();
        }
    }
    engine.put(b"ns", b"k", b"ours").unwrap();
    assert_eq!(engine.get(b"ns", b"k").unwrap().unwrap(), b"ours");
}

#[test]
fn a_record_from_too_far_in_the_future_waits() {
    let dir = tempfile::tempdir().unwrap();
    let bound = Duration::from_secs(2);
    let clock = TestClock::new();
    let options = EngineOptions { clock: clock.wall(), max_clock_ahead: bound, ..fast() };
    let engine = Engine::open_with(dir.path(), options).unwrap();
    engine.put(b"ns", b"k", b"ours").unwrap();
    let mut staged = stage(&engine, &stamped(Duration::from_secs(8)));
    let error = engine.apply(&mut staged).unwrap_err();
    assert!(matches!(&error, ApplyError::ClockAhead { ahead, .. } if *ahead >= bound));
    assert!(error.to_string().contains("s ahead") && error.to_string().contains("NTP"), "{error}");
    assert_eq!(engine.get(b"ns", b"k").unwrap().unwrap(), b"ours");
    assert!(engine.manifest().is_empty());
    clock.advance(Duration::from_millis(8000));
    assert_eq!(engine.apply(&mut staged).unwrap().written, 1);
    let far = apply(&engine, &stamped(Duration::from_secs(1 << 32))).unwrap_err();
    assert!(far.to_string().contains("years"), "{far}");
}
