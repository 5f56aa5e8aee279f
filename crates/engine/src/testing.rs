//! What tests of any crate share.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::WallClock;

/// The limit of everything that tests wait for. No machine is so busy that it takes this long: a
/// test that reaches it waits for something that never happens.
pub const LONG: Duration = Duration::from_secs(300);

/// Waits until `done`; panics after [`LONG`].
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LONG, "not in {LONG:?}: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A wall clock that stands still unless the test advances it, so that nothing depends on how long
/// the steps of a test take.
#[derive(Debug, Clone)]
pub struct TestClock(Arc<AtomicI64>);

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).expect("it is before 2262")
}

impl Default for TestClock {
    fn default() -> Self {
        Self::new()
    }
}

impl TestClock {
    /// A clock that shows the time at which it was made.
    pub fn new() -> Self {
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("it is after 1970");
        Self(Arc::new(AtomicI64::new(nanos(now))))
    }

    /// Shows a later time.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(nanos(by), Ordering::SeqCst);
    }

    /// The same clock for [`EngineOptions`](crate::EngineOptions).
    pub fn wall(&self) -> WallClock {
        let nanos = Arc::clone(&self.0);
        WallClock::new(move || {
            let nanos = nanos.load(Ordering::SeqCst);
            SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos.unsigned_abs())
        })
    }
}
