//! What tests of any module share.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::engine::WallClock;

/// The limit of everything that tests wait for. No machine is so busy that it takes this long: a
/// test that reaches it waits for something that never happens.
pub(crate) const LONG: Duration = Duration::from_secs(300);

/// Waits until `done`; panics after [`LONG`].
#[track_caller]
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LONG, "not in {LONG:?}: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A wall clock that stands still unless the test advances it, so that nothing depends on how long
/// the steps of a test take.
#[derive(Debug, Clone)]
pub(crate) struct TestClock(Arc<AtomicI64>);

impl TestClock {
    /// A clock that shows the time at which it was made.
    pub(crate) fn new() -> Self {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
        Self(Arc::new(AtomicI64::new(now.as_nanos().try_into().unwrap())))
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos().try_into().unwrap(), Ordering::SeqCst);
    }

    /// The same clock for [`EngineOptions`](crate::engine::EngineOptions).
    pub(crate) fn wall(&self) -> WallClock {
        let nanos = Arc::clone(&self.0);
        WallClock::new(move || {
            let nanos = nanos.load(Ordering::SeqCst).try_into().unwrap();
            SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
        })
    }
}
