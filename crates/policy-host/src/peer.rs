//! A configured peer and the threads that run its requests.
//!
//! Requests block, and some hang for as long as a client's timeout allows, so they run on threads
//! of their own: nobody waits for such a thread, one waits for outcomes (see [`super::wait`]).
//! Threads start when there is something to do and end when there was nothing for a while.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use edgestore_engine::StagedSegment;
use edgestore_engine::env::{Env, Notify, SystemEnv};
use edgestore_protocol::{FetchError, PeerError, PeerTransport};

use super::fetch_backoff::{FetchBackoff, FetchHealth};
use super::state::lost;
use super::view::View;
use super::wait::{Bell, Slot, lock};

/// Longest wait for an answer that the host itself asks for.
const ASK_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a thread without work stays.
#[cfg(not(test))]
const IDLE: Duration = Duration::from_secs(10);

/// So long in tests that a thread does not end by itself, however slow they are.
#[cfg(test)]
const IDLE: Duration = Duration::from_secs(3600);

/// Bytes that a missing segment takes which the default policy is shown, in its instance and on the
/// way there.
const SHOWN: u64 = 220;

/// A configured peer, with the threads that run its requests.
pub struct Peer {
    env: Arc<dyn Env>,
    id: String,
    transport: Arc<dyn PeerTransport>,
    pool: Arc<Pool>,
    fetches: Arc<Mutex<FetchHealth>>,
    list_memory: u64,
    pub(super) view: Mutex<View>,
}

impl Peer {
    /// At most `max_threads` requests run at a time, but always one; the others wait.
    pub fn new(
        id: impl Into<String>,
        transport: Arc<dyn PeerTransport>,
        max_threads: usize,
    ) -> Self {
        Self::in_env(&SystemEnv::shared(), id, transport, max_threads)
    }

    /// [`Peer::new`], elsewhere than on this machine.
    pub fn in_env(
        env: &Arc<dyn Env>,
        id: impl Into<String>,
        transport: Arc<dyn PeerTransport>,
        max_threads: usize,
    ) -> Self {
        let id = id.into();
        let pool = Pool {
            env: Arc::clone(env),
            name: format!("edgestore-peer-{id}"),
            max_threads: max_threads.max(1),
            closed: AtomicBool::new(false),
            state: Mutex::default(),
            work: env.notify(),
        };
        let (env, pool, view) = (Arc::clone(env), Arc::new(pool), Mutex::default());
        Self { env, id, transport, pool, fetches: Arc::default(), list_memory: u64::MAX, view }
    }

    /// Leaves the peer alone by this rule when its fetches fail.
    #[must_use]
    pub fn with_fetch_backoff(mut self, rule: FetchBackoff) -> Self {
        self.fetches = Arc::new(Mutex::new(FetchHealth::new(rule)));
        self
    }

    /// Its ticks may hold lists of so many bytes at a time, this peer's and others', and are shown no
    /// more missing segments than take a third of that. Default: no bound.
    #[must_use]
    pub fn with_list_memory(mut self, bytes: u64) -> Self {
        self.list_memory = bytes;
        self
    }

    /// Bytes of all lists that a tick of it may hold.
    pub(super) fn list_memory(&self) -> u64 {
        self.list_memory
    }

    /// How many missing segments may be shown to a tick: what a policy makes of them takes a third as
    /// much memory as lists do.
    pub(super) fn shown(&self) -> usize {
        usize::try_from(self.list_memory / 3 / SHOWN).unwrap_or(usize::MAX).max(1)
    }

    /// Where its requests run, and its ticks wait for them.
    pub(super) fn env(&self) -> &Arc<dyn Env> {
        &self.env
    }

    /// The name it was given in the host's configuration.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Ends the peer's running tick at once, cancels its requests and refuses further ones. For
    /// good. Threads whose request hangs end when it does.
    pub fn close(&self) {
        self.pool.close();
    }

    /// Requests that run or wait now.
    pub(super) fn load(&self) -> u32 {
        let state = lock(&self.pool.state);
        let waiting = state.queue.iter().filter(|job| !job.cancel.load(Ordering::Relaxed));
        (waiting.count() + state.running.len()).try_into().unwrap_or(u32::MAX)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.pool.closed.load(Ordering::Acquire)
    }

    /// Rings `bell` when this peer is closed, for as long as the bell exists.
    pub(super) fn watch(&self, bell: &Arc<Bell>) {
        let mut state = lock(&self.pool.state);
        state.bells.retain(|bell| bell.strong_count() > 0);
        state.bells.push(Arc::downgrade(bell));
    }

    /// Whether a fetch may be begun now: not where so many have failed that the peer is left alone.
    pub(super) fn admit_fetch(&self) -> Result<(), PeerError> {
        lock(&self.fetches).admit(self.env.monotonic())
    }

    /// [`Peer::submit`] for a fetch that was admitted. It is sent even where a pause begins while it
    /// waits for a thread: a policy that is refused it may give up what is on its way beside it.
    pub(super) fn submit_fetch(
        &self,
        bell: &Arc<Bell>,
        cancel: &Arc<AtomicBool>,
        fetch: impl FnOnce(&dyn PeerTransport) -> Result<StagedSegment, FetchError> + Send + 'static,
    ) -> Result<Arc<Slot<Result<StagedSegment, FetchError>>>, PeerError> {
        let (fetches, env) = (Arc::clone(&self.fetches), Arc::clone(&self.env));
        let id = self.id.clone();
        self.submit(false, bell, cancel, move |transport| {
            let sent = env.monotonic();
            let outcome = fetch(transport);
            let pause = lock(&fetches).note(&outcome, sent, env.monotonic());
            if let (Some(pause), Err(error)) = (pause, &outcome) {
                tracing::warn!(
                    peer = id, ?pause, %error,
                    "fetches from this peer fail one after the other: it is left alone for a while"
                );
            }
            outcome
        })
    }

    /// Forgets failed fetches, so that the next one is sent.
    pub fn forget_failed_fetches(&self) {
        lock(&self.fetches).forget();
    }

    /// Runs `request` on one of the peer's threads. Once `cancel` is set it is not started any
    /// more; closing the peer sets it. What is urgent goes first, and has a thread more: a peer's
    /// own tick is not held up by the downloads of others.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        urgent: bool,
        bell: &Arc<Bell>,
        cancel: &Arc<AtomicBool>,
        request: impl FnOnce(&dyn PeerTransport) -> T + Send + 'static,
    ) -> Result<Arc<Slot<T>>, PeerError> {
        let (slot, filler) = Slot::new(bell);
        let transport = Arc::clone(&self.transport);
        let run = Box::new(move || filler.fill(request(&*transport)));
        self.pool.submit(urgent, Job { cancel: Arc::clone(cancel), run })?;
        Ok(slot)
    }
}

impl Peer {
    /// Sends a request and waits for the answer, until this peer is closed.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        request: impl FnOnce(&dyn PeerTransport) -> Result<T, PeerError> + Send + 'static,
    ) -> Result<T, PeerError> {
        let (bell, cancel) = (Arc::new(Bell::new(&self.env)), Arc::default());
        self.watch(&bell);
        let slot = self.submit(true, &bell, &cancel, request)?;
        let until = self.env.monotonic().saturating_add(ASK_TIMEOUT);
        let answer = bell.wait(until, || match slot.take() {
            None if self.is_closed() => Some(None),
            taken => taken,
        });
        cancel.store(true, Ordering::Relaxed);
        match answer {
            Some(Some(answer)) => answer,
            Some(None) => Err(lost()),
            None => Err(PeerError::Timeout(format!("{ASK_TIMEOUT:?} have passed"))),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.close();
    }
}

struct Job {
    cancel: Arc<AtomicBool>,
    run: Box<dyn FnOnce() + Send>,
}

struct Pool {
    env: Arc<dyn Env>,
    name: String,
    max_threads: usize,
    closed: AtomicBool,
    state: Mutex<State>,
    /// There is a job, or no more will be.
    work: Box<dyn Notify>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    /// Threads that wait for work.
    idle: usize,
    /// Of the jobs that run.
    running: Vec<Arc<AtomicBool>>,
    bells: Vec<Weak<Bell>>,
}

impl State {
    /// Takes the cancelled jobs off the queue. To be dropped without the lock.
    fn cancelled(&mut self) -> Vec<Job> {
        let (cancelled, queue): (Vec<_>, Vec<_>) =
            self.queue.drain(..).partition(|job| job.cancel.load(Ordering::Relaxed));
        self.queue = queue.into();
        cancelled
    }
}

impl Pool {
    fn submit(self: &Arc<Self>, urgent: bool, job: Job) -> Result<(), PeerError> {
        let mut state = lock(&self.state);
        if self.closed.load(Ordering::Acquire) {
            return Err(PeerError::Unreachable("the host is stopping".into()));
        }
        // Where requests hang, those that gave up waiting for a thread would pile up.
        let cancelled = state.cancelled();
        if urgent {
            state.queue.push_front(job);
        } else {
            state.queue.push_back(job);
        }
        let max_threads = self.max_threads + usize::from(urgent);
        let mut refused = None;
        if state.idle >= state.queue.len() {
            self.work.raise();
        } else if state.threads < max_threads {
            match self.spawn() {
                Ok(()) => state.threads += 1,
                // The threads that there are come to it later.
                Err(error) if state.threads > 0 => {
                    tracing::warn!(pool = self.name, %error, "can't start a further thread");
                }
                // Without threads nothing runs, and nothing else is in the queue.
                Err(error) => refused = Some((state.queue.pop_back(), error)),
            }
        }
        drop(state);
        drop(cancelled);
        match refused {
            None => Ok(()),
            Some((_job, error)) => Err(PeerError::Unreachable(format!(
                "can't start a thread for the request: {error}"
            ))),
        }
    }

    fn spawn(self: &Arc<Self>) -> std::io::Result<()> {
        let pool = Arc::clone(self);
        self.env.spawn(self.name.clone(), Box::new(move || pool.work())).map(drop)
    }

    /// What a thread does.
    fn work(&self) {
        while let Some(Job { cancel, run }) = self.next() {
            if !cancel.load(Ordering::Relaxed) && catch_unwind(AssertUnwindSafe(run)).is_err() {
                tracing::error!(pool = self.name, "a request panicked; please report this");
            }
            lock(&self.state).running.retain(|other| !Arc::ptr_eq(other, &cancel));
        }
    }

    /// The next job; none when the thread is to end.
    fn next(&self) -> Option<Job> {
        let until = self.env.monotonic().saturating_add(IDLE);
        loop {
            let seen = self.work.count();
            let mut state = lock(&self.state);
            if let Some(job) = state.queue.pop_front() {
                state.running.push(Arc::clone(&job.cancel));
                return Some(job);
            }
            if self.closed.load(Ordering::Acquire) || self.env.monotonic() >= until {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            drop(state);
            self.work.wait(seen, Some(until));
            lock(&self.state).idle -= 1;
        }
    }

    fn close(&self) {
        let (queue, bells) = {
            let mut state = lock(&self.state);
            self.closed.store(true, Ordering::Release);
            for cancel in state.running.iter().chain(state.queue.iter().map(|job| &job.cancel)) {
                cancel.store(true, Ordering::Relaxed);
            }
            (std::mem::take(&mut state.queue), std::mem::take(&mut state.bells))
        };
        self.work.raise();
        drop(queue);
        bells.iter().filter_map(Weak::upgrade).for_each(|bell| bell.ring());
    }
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
