//! Following a peer: a request that the peer holds open until its segments change, and what the peer
//! has by these answers. So a tick comes as soon as there is something to pull, and asks the peer for
//! nothing that is known already.
//!
//! A peer without such answers is polled, as ever. So is one while it can't be followed: what it said
//! before counts for nothing then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use edgestore_engine::env::{Env, Notify};
use edgestore_engine::{Engine, Hash, StagedSegment, StagingFile, Watermark};
use edgestore_protocol::{Changes, FetchError, PeerError, PeerTransport, Revision, SegmentList};

/// How long a peer may hold an answer: as long as one of this host does.
const WAIT: Duration = Duration::from_secs(45);

/// The same behind a box that cuts what waits.
const LEAST_WAIT: Duration = Duration::from_secs(1);

/// How often what a peer says of its changes is compared with the root that it shows: a cache on the way may
/// give the same answer for ever.
const CHECK: Duration = Duration::from_secs(2 * 60);

/// What a peer has said counts for so long after it could have answered again.
const LATE: Duration = Duration::from_secs(5);

/// After a failure, and then twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Until a peer is asked again that has no such route: it may be another version by then.
const UNSUPPORTED: Duration = Duration::from_secs(5 * 60);

/// Between two ticks for what a peer says to be new; twice as long after each that brought nothing.
const SHORTEST_GAP: Duration = Duration::from_millis(5);
const LONGEST_GAP: Duration = Duration::from_secs(1);

/// A peer that answers from what it said last, while it is followed.
pub(super) struct Followed {
    inner: Arc<dyn PeerTransport>,
    env: Arc<dyn Env>,
    /// Lists that take more are not kept.
    max_list_bytes: u64,
    mirror: Mutex<Mirror>,
}

/// What the peer has, by its answers.
#[derive(Default)]
struct Mirror {
    /// Its last answer; none before the first.
    last: Option<Answer>,
    /// Until when it counts, by the clock of the environment.
    valid_until: Duration,
    /// Its manifest, where that was read, with all changes since.
    list: Option<SegmentList>,
}

#[derive(Clone, Copy)]
struct Answer {
    root: Hash,
    watermark: Option<Watermark>,
}

impl Followed {
    pub(super) fn new(
        inner: Arc<dyn PeerTransport>,
        env: &Arc<dyn Env>,
        max_list_bytes: u64,
    ) -> Self {
        Self { inner, env: Arc::clone(env), max_list_bytes, mirror: Mutex::default() }
    }

    fn mirror(&self) -> MutexGuard<'_, Mirror> {
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the peer is followed now.
    pub(super) fn is_live(&self) -> bool {
        self.live(&self.mirror()).is_some()
    }

    /// What the peer said last, as long as it counts.
    fn live(&self, mirror: &Mirror) -> Option<Answer> {
        mirror.last.filter(|_| self.env.monotonic() < mirror.valid_until)
    }

    /// The peer has answered, and is about to be asked again to answer within `wait`.
    fn note(&self, changes: Changes, wait: Duration) {
        let Changes { root, watermark, delta, .. } = changes;
        let mut mirror = self.mirror();
        mirror.list = mirror.list.take().zip(delta).and_then(|(list, delta)| {
            let list = list.changed(delta);
            (list.memory() as u64 <= self.max_list_bytes).then_some(list)
        });
        mirror.last = Some(Answer { root, watermark });
        mirror.valid_until = self.env.monotonic().saturating_add(wait).saturating_add(LATE);
    }

    /// The peer can't be followed now.
    fn lose(&self) {
        self.mirror().valid_until = Duration::ZERO;
    }
}

impl PeerTransport for Followed {
    fn root(&self) -> Result<Hash, PeerError> {
        let live = self.live(&self.mirror());
        live.map_or_else(|| self.inner.root(), |answer| Ok(answer.root))
    }

    fn watermark(&self) -> Result<Option<Watermark>, PeerError> {
        let live = self.live(&self.mirror());
        match live.and_then(|answer| answer.watermark) {
            Some(watermark) => Ok(Some(watermark)),
            None => self.inner.watermark(),
        }
    }

    fn manifest(&self) -> Result<SegmentList, PeerError> {
        {
            let mirror = self.mirror();
            let root = self.live(&mirror).map(|answer| answer.root);
            let list = mirror.list.as_ref();
            // Of another root it is of another moment.
            if let Some(list) = list.filter(|list| Some(list.root()) == root) {
                return Ok(list.clone());
            }
        }
        let list = self.inner.manifest()?;
        let mut mirror = self.mirror();
        // What changes from the last answer on is applied to it, what it has already as well.
        if self.live(&mirror).is_some() && list.memory() as u64 <= self.max_list_bytes {
            mirror.list = Some(list.clone());
        }
        Ok(list)
    }

    fn fetch(
        &self,
        hash: Hash,
        into: StagingFile,
        cancel: &Arc<AtomicBool>,
    ) -> Result<StagedSegment, FetchError> {
        self.inner.fetch(hash, into, cancel)
    }
}

/// Follows one peer, on a thread of its own.
pub(super) struct Follower {
    followed: Arc<Followed>,
    env: Arc<dyn Env>,
    engine: Arc<Engine>,
    /// See [`CHECK`].
    check: Duration,
    stopping: Arc<AtomicBool>,
    stopped: Box<dyn Notify>,
}

impl Follower {
    /// `interval`: between two ticks. In four of them, or in two minutes, what the peer says is compared
    /// with its root.
    pub(super) fn new(followed: Arc<Followed>, engine: &Arc<Engine>, interval: Duration) -> Self {
        let env = Arc::clone(&followed.env);
        let (stopping, stopped, engine) = (Arc::default(), env.notify(), Arc::clone(engine));
        Self {
            followed,
            env,
            engine,
            check: CHECK.min(interval.saturating_mul(4)),
            stopping,
            stopped,
        }
    }

    /// Whether the peer shows the root that it claims, or claims another one a moment later.
    fn is_true(&self, claimed: Hash, since: Revision) -> bool {
        for _ in 0..3 {
            match self.followed.inner.root() {
                Ok(root) if root != claimed => {}
                // One that can't be asked shows nothing else.
                Ok(_) | Err(_) => return true,
            }
            // It may have changed in between, and the peer says so soon.
            self.sleep(LONGEST_GAP);
            let now = self.followed.inner.changes(Some(since), Duration::ZERO, &self.stopping);
            if now.is_ok_and(|changes| changes.root != claimed) {
                return true;
            }
        }
        false
    }

    /// Ends [`Follower::run`] soon.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.stopped.raise();
    }

    /// Calls `changed` when the peer has what this node has not, until it is stopped.
    pub(super) fn run(&self, peer: &str, changed: impl Fn()) {
        let (mut since, mut wait, mut longest) = (None, Duration::ZERO, WAIT);
        let (mut pause, mut gap) = (FIRST_PAUSE, SHORTEST_GAP);
        let (mut last_here, mut checked) = (None, self.env.monotonic());
        while !self.stopping.load(Ordering::Acquire) {
            let asked = self.env.monotonic();
            let answer = self.followed.inner.changes(since, wait, &self.stopping);
            let took = self.env.monotonic().saturating_sub(asked);
            let changes = match answer {
                Ok(changes) => changes,
                Err(error) if is_unsupported(&error) => {
                    tracing::debug!(peer, %error, "the peer can't be followed, so it is polled");
                    self.followed.lose();
                    self.sleep(UNSUPPORTED);
                    continue;
                }
                Err(error) => {
                    self.followed.lose();
                    tracing::debug!(peer, %error, ?took, "following the peer was cut");
                    if wait >= LEAST_WAIT && took >= LEAST_WAIT {
                        // Something on the way lets nobody wait for so long.
                        longest = (took / 4 * 3).clamp(LEAST_WAIT, longest);
                    } else {
                        self.sleep(pause);
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                    // The next answer is to come at once.
                    wait = Duration::ZERO;
                    continue;
                }
            };
            let (revision, root) = (changes.revision, changes.root);
            let is_new = since != Some(revision);
            if !is_new && took + Duration::from_millis(1) < wait.min(LEAST_WAIT) {
                // It does not wait, whatever it is asked for.
                self.sleep(LEAST_WAIT);
            }
            (since, wait, pause) = (Some(revision), longest, FIRST_PAUSE);
            self.followed.note(changes, wait);
            if is_new {
                let here = Some(self.engine.revision());
                gap = if last_here == here { (gap * 2).min(LONGEST_GAP) } else { SHORTEST_GAP };
                last_here = here;
                if !self.engine.compare(&root) {
                    changed();
                }
                self.sleep(gap);
            }
            if self.env.monotonic().saturating_sub(checked) >= self.check {
                checked = self.env.monotonic();
                if !self.is_true(root, revision) {
                    tracing::warn!(
                        peer,
                        "what the peer says of its changes is not what it has, as from a cache: it is \
                         asked at the interval for a while"
                    );
                    self.followed.lose();
                    changed();
                    since = None;
                    self.sleep(UNSUPPORTED);
                }
            }
        }
    }

    fn sleep(&self, time: Duration) {
        let until = self.env.monotonic().saturating_add(time);
        loop {
            let seen = self.stopped.count();
            if self.stopping.load(Ordering::Acquire) || self.env.monotonic() >= until {
                return;
            }
            self.stopped.wait(seen, Some(until));
        }
    }
}

/// Whether a peer of another version, or a box on the way, answers like this.
fn is_unsupported(error: &PeerError) -> bool {
    matches!(error, PeerError::Status(400 | 401 | 403 | 404 | 405 | 410 | 501))
}
