//! `/v2/changes`: an answer that waits until there is something new. A request that waits holds a
//! connection and no thread.

use std::sync::Arc;
use std::time::Duration;

use edgestore_engine::{Engine, Revision, Waker};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::bodies::{Failure, encode};
use crate::wire::ChangesBody;

/// Where it is in the tree of routes.
const PATH: [&str; 2] = ["v2", "changes"];

/// The longest wait, whatever is asked for: a connection is closed where for longer nothing moves.
const LONGEST: Duration = Duration::from_secs(45);

/// A body that is longer says that the manifest is to be read.
const MAX_BODY: usize = 256 << 10;

/// Whether a request for this path may wait for its answer.
pub(super) fn may_wait(path: &str) -> bool {
    path.split('/').filter(|part| !part.is_empty()).eq(PATH)
}

/// What a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query {
    since: Option<Revision>,
    wait: Duration,
}

impl Query {
    /// Of `since=EPOCH:SEQ&wait=30s`, both of which may be missing; what else there is counts for
    /// nothing. None where one can't be read.
    pub(super) fn parse(query: Option<&str>) -> Option<Self> {
        let mut parsed = Self { since: None, wait: Duration::ZERO };
        for pair in query.unwrap_or_default().split('&') {
            match pair.split_once('=') {
                Some(("since", text)) => {
                    parsed.since = Some(text.replace("%3A", ":").replace("%3a", ":").parse().ok()?);
                }
                Some(("wait", text)) => {
                    let (digits, unit_ms) = match text.strip_suffix("ms") {
                        Some(digits) => (digits, 1),
                        None => (text.strip_suffix('s').unwrap_or(text), 1000),
                    };
                    let ms = digits.parse::<u64>().ok()?.saturating_mul(unit_ms);
                    parsed.wait = Duration::from_millis(ms).min(LONGEST);
                }
                _ => {}
            }
        }
        Some(parsed)
    }
}

/// Wakes the requests that wait.
pub(super) struct Feed {
    engine: Arc<Engine>,
    /// Whether requests may wait.
    open: watch::Sender<bool>,
    /// The engine calls it as long as it lives.
    _waker: Arc<Waker>,
}

impl Feed {
    pub(super) fn new(engine: Arc<Engine>) -> Arc<Self> {
        let open = watch::Sender::new(true);
        let waking = open.clone();
        let waker: Arc<Waker> = Arc::new(move || {
            // Whoever waits looks for itself.
            waking.send_modify(|_| {});
        });
        engine.watch_segments(Arc::downgrade(&waker));
        Arc::new(Self { engine, open, _waker: waker })
    }

    /// Answers all that wait, and lets none wait any more.
    pub(super) fn close(&self) {
        self.open.send_replace(false);
    }

    /// The answer, once there is something new.
    pub(super) async fn get(&self, query: Query, json: bool) -> Result<Vec<u8>, Failure> {
        let Query { since, wait } = query;
        let mut open = self.open.subscribe();
        let end = Instant::now() + wait;
        while *open.borrow_and_update() && since == Some(self.engine.revision()) {
            if timeout_at(end, open.changed()).await.is_err() {
                break;
            }
        }
        let engine = Arc::clone(&self.engine);
        spawn_blocking(move || body(&engine, since, json)).await?
    }
}

fn body(engine: &Engine, since: Option<Revision>, json: bool) -> Result<Vec<u8>, Failure> {
    let body = ChangesBody::new(engine.changes(since), engine.watermark());
    let bytes = encode(&body, json)?;
    if bytes.len() <= MAX_BODY { Ok(bytes) } else { encode(&body.without_delta(), json) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_and_what_it_may_wait_is_bounded() {
        let since = |epoch, seq| Some(Revision { epoch, seq });
        for (text, expected) in [
            ("", Some((None, 0))),
            ("wait=30s", Some((None, 30_000))),
            ("since=ab:7&wait=250ms&debug=json", Some((since(0xab, 7), 250))),
            ("since=ab%3A7&wait=5", Some((since(0xab, 7), 5000))),
            ("wait=99999999999999999s", Some((None, 45_000))),
            ("since=7", None),
            ("since=x:7", None),
            ("wait=-1s", None),
            ("wait=s", None),
        ] {
            let expected =
                expected.map(|(since, ms)| Query { since, wait: Duration::from_millis(ms) });
            assert_eq!(Query::parse(Some(text)), expected, "{text}");
        }
        assert!(may_wait("/v2/changes") && may_wait("//v2/changes/"));
        assert!(!may_wait("/v2/segments") && !may_wait("/changes"));
    }
}
