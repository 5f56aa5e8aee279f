//! What the host knows of a running instance, and how its calls wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use edgestore_engine::ByteQuota;
use edgestore_engine::env::{Env, SystemEnv};
use edgestore_protocol::{Listing, PeerError, PeerTransport};
use wasmtime::component::ResourceTable;

use super::bindings::types;
use super::epoch::Running;
use super::limits::Limiter;
use super::log::{Grant, Quota, printable};
use super::wait::{Bell, Slot};
use super::{CursorLayout, Limits, Observer, Peer, Services, TickError};

/// A transfer that does not come in this time is the peer's failure, even where the policy does not
/// wait for its end.
const FAIR_TIME: Duration = Duration::from_secs(1);

/// The data of a store.
pub(super) struct State {
    pub(super) table: ResourceTable,
    pub(super) limiter: Limiter,
    /// After which the instance is interrupted.
    timeout: Duration,
    deadline: Duration,
    env: Arc<dyn Env>,
    tick: Option<Tick>,
    /// So that it can be interrupted.
    pub(super) epochs: Option<Running>,
}

impl State {
    /// Of an instance that may not call an import.
    pub(super) fn without_imports(limits: &Limits, timeout: Duration) -> Self {
        Self::new(limits, timeout, SystemEnv::shared())
    }

    fn new(limits: &Limits, timeout: Duration, env: Arc<dyn Env>) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles);
        Self {
            table,
            limiter: Limiter::new(limits),
            timeout,
            deadline: env.monotonic().saturating_add(timeout),
            env,
            tick: None,
            epochs: None,
        }
    }

    /// Of an instance that is ticked.
    pub(super) fn with_services(limits: &Limits, layout: CursorLayout, services: Services) -> Self {
        let tick = Tick::new(limits.clone(), layout, services);
        let env = Arc::clone(tick.current().env());
        Self { tick: Some(tick), ..Self::new(limits, limits.tick_timeout, env) }
    }

    /// What imports work on.
    pub(super) fn tick(&mut self) -> wasmtime::Result<&mut Tick> {
        self.parts().map(|(_, tick)| tick)
    }

    /// The same, and the handles beside it.
    pub(super) fn parts(&mut self) -> wasmtime::Result<(&mut ResourceTable, &mut Tick)> {
        match &mut self.tick {
            Some(tick) => Ok((&mut self.table, tick)),
            None => Err(wasmtime::format_err!("called an import outside of a tick")),
        }
    }

    /// The tick, where the instance is ticked.
    pub(super) fn running_tick(&self) -> Option<&Tick> {
        self.tick.as_ref()
    }

    /// Why running code is to be interrupted; none when it may go on.
    pub(super) fn interrupts(&self) -> Option<TickError> {
        if self.tick.as_ref().is_some_and(Tick::is_closed) {
            Some(TickError::Closed)
        } else if self.env.monotonic() >= self.deadline {
            Some(TickError::Timeout(self.timeout))
        } else {
            None
        }
    }
}

/// What the host counts, and so no policy can invent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) segments: u32,
    pub(super) written: u64,
    pub(super) skipped: u64,
}

/// What one tick has done so far.
pub(super) struct Tick {
    pub(super) services: Services,
    pub(super) limits: Limits,
    pub(super) policy: String,
    /// Of the cursor.
    pub(super) layout: CursorLayout,
    pub(super) random: fastrand::Rng,
    /// By the clock of the environment.
    pub(super) start: Duration,
    /// Calls into the host.
    pub(super) calls: u64,
    /// Last answer of `monotonic-ms`.
    pub(super) monotonic_ms: u64,
    /// What each peer's manifests list, by the peer's position.
    pub(super) listed: HashMap<usize, Vec<Arc<Listing>>>,
    /// Transfers that were neither taken nor dropped.
    pub(super) transfers: usize,
    /// Segments applied by this tick, and what became of their records.
    pub(super) applied: Counts,
    /// Segments that were taken, and neither applied nor dropped.
    pub(super) staged: usize,
    /// Manifests that the policy holds.
    pub(super) manifests: usize,
    /// Bytes of what is listed, and of what these say besides.
    pub(super) list_bytes: usize,
    /// For what transfers write.
    pub(super) allowance: Arc<ByteQuota>,
    pub(super) bell: Arc<Bell>,
    /// Whether the policy was told of anything that a peer did wrong.
    pub(super) peer_failed: bool,
    /// What the policy was told last, and in more words.
    peer_failure: Option<(types::PeerError, String)>,
    storage_failure: Option<String>,
    /// When host calls stop to wait.
    budget_end: Duration,
    quota: Quota,
}

impl Tick {
    fn new(limits: Limits, layout: CursorLayout, services: Services) -> Self {
        let env = services.peers[services.current].env();
        let (bell, start) = (Arc::new(Bell::new(env)), env.monotonic());
        for peer in &services.peers {
            peer.watch(&bell);
        }
        Self {
            policy: layout.policy.clone(),
            layout,
            random: fastrand::Rng::with_seed(services.seed),
            start,
            calls: 0,
            monotonic_ms: 0,
            listed: HashMap::new(),
            transfers: 0,
            applied: Counts::default(),
            staged: 0,
            manifests: 0,
            list_bytes: 0,
            allowance: Arc::new(ByteQuota::new(limits.pulled_bytes)),
            bell,
            peer_failed: false,
            peer_failure: None,
            storage_failure: None,
            budget_end: start.saturating_add(limits.budget()),
            quota: Quota::new(limits.log_lines),
            services,
            limits,
        }
    }

    /// The peer being ticked.
    pub(super) fn current(&self) -> &Arc<Peer> {
        &self.services.peers[self.services.current]
    }

    pub(super) fn observer(&self) -> Option<&dyn Observer> {
        self.services.observer.as_deref()
    }

    /// By the clock that timeouts are told by.
    pub(super) fn monotonic(&self) -> Duration {
        self.current().env().monotonic()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.current().is_closed()
    }

    /// Waits until `ready` returns something, at most for `timeout` and as long as the budget lasts.
    pub(super) fn wait<R>(
        &self,
        timeout: Duration,
        mut ready: impl FnMut() -> Option<R>,
    ) -> Result<Option<R>, TickError> {
        let until = self.monotonic().saturating_add(timeout).min(self.budget_end);
        let waited = self.bell.wait(until, || {
            if self.is_closed() { Some(Err(TickError::Closed)) } else { ready().map(Ok) }
        });
        waited.transpose()
    }

    /// Whether a transfer that is given up now had a fair time to come since it was sent.
    pub(super) fn was_waited_for(&self, sent: Duration) -> bool {
        let fair = FAIR_TIME.min(self.limits.budget() / 2);
        self.monotonic().saturating_sub(sent) >= fair
    }

    /// How long until what waits for a thread is left to the next tick: the last tenth of the budget
    /// is too short for it.
    pub(super) fn until_late(&self) -> Duration {
        let late = self.budget_end.saturating_sub(self.limits.budget() / 10);
        late.saturating_sub(self.monotonic())
    }

    /// Sends a request to a peer and waits for the answer.
    pub(super) fn ask<T: Send + 'static>(
        &mut self,
        peer: usize,
        request: impl FnOnce(&dyn PeerTransport) -> Result<T, PeerError> + Send + 'static,
    ) -> Result<Result<T, types::PeerError>, TickError> {
        if self.is_closed() {
            return Err(TickError::Closed);
        }
        let cancel = Arc::new(AtomicBool::new(false));
        let answer = match self.services.peers[peer].submit(true, &self.bell, &cancel, request) {
            Ok(slot) => self.answer(peer, &slot),
            Err(error) => Ok(Err(error)),
        };
        cancel.store(true, Ordering::Relaxed);
        Ok(answer?.map_err(|error| self.note_peer_error(peer, &error)))
    }

    fn answer<T>(
        &self,
        peer: usize,
        slot: &Slot<Result<T, PeerError>>,
    ) -> Result<Result<T, PeerError>, TickError> {
        let waited = self.wait(Duration::MAX, || match slot.take() {
            None if self.services.peers[peer].is_closed() => Some(None),
            taken => taken,
        })?;
        Ok(match waited {
            Some(Some(answer)) => answer,
            Some(None) => Err(lost()),
            None => Err(PeerError::Timeout("the tick ran out of time while it waited".into())),
        })
    }

    /// What the policy is told of a peer's failure. The words are kept for the case that the tick
    /// fails of it.
    pub(super) fn note_peer_error(&mut self, peer: usize, error: &PeerError) -> types::PeerError {
        let told = types::PeerError::from(error);
        let words = printable(&words(told, Some(error)));
        let text = format!("peer {}: {words}", self.services.peers[peer].id());
        self.peer_failure = Some((told, text));
        self.peer_failed = true;
        self.services.peers[peer].note_error();
        told
    }

    /// Logs that the host can't write, and keeps the words like those of a peer.
    pub(super) fn note_storage_error(&mut self, what: &str, error: &dyn std::error::Error) {
        let text = format!("{what}: {}", chain(error));
        if self.may_log() {
            tracing::error!(policy = self.policy, peer = self.current().id(), "{text}");
        }
        self.storage_failure = Some(text);
    }

    /// In words, the peer error that the policy returned.
    pub(super) fn peer_failure(&self, returned: types::PeerError) -> String {
        match &self.peer_failure {
            Some((told, text)) if same(*told, returned) => text.clone(),
            _ => format!("peer {}: {}", self.current().id(), words(returned, None)),
        }
    }

    /// Whether the policy was told that the host's files fail.
    pub(super) fn storage_failed(&self) -> bool {
        self.storage_failure.is_some()
    }

    /// In words, the storage error that the policy returned.
    pub(super) fn storage_failure(&self) -> String {
        match &self.storage_failure {
            Some(text) => format!("storage: {text}"),
            None => "storage: the policy could not store something".to_owned(),
        }
    }

    /// Whether a further line may be logged in this tick; logs that no more follow.
    pub(super) fn may_log(&mut self) -> bool {
        let grant = self.quota.take();
        if grant == Grant::Last {
            let peer = self.current().id();
            tracing::warn!(
                policy = self.policy,
                peer,
                "further log lines of this tick are dropped"
            );
        }
        grant == Grant::Line
    }
}

/// Of a request that was cancelled, or panicked.
pub(super) fn lost() -> PeerError {
    PeerError::Unreachable("the host broke the request off".into())
}

fn same(a: types::PeerError, b: types::PeerError) -> bool {
    use types::PeerError::Status;
    match (a, b) {
        (Status(a), Status(b)) => a == b,
        _ => std::mem::discriminant(&a) == std::mem::discriminant(&b),
    }
}

/// The error as the contract calls it, and then what the host knows.
fn words(told: types::PeerError, error: Option<&PeerError>) -> String {
    let name = match (told, error) {
        (types::PeerError::Status(_), Some(error)) => return error.to_string(),
        (types::PeerError::Status(status), None) => format!("HTTP status {status}"),
        (types::PeerError::Unreachable, _) => "unreachable".into(),
        (types::PeerError::Timeout, _) => "timeout".into(),
        (types::PeerError::Malformed, _) => "malformed answer".into(),
        (types::PeerError::TooLarge, _) => "answer too large".into(),
    };
    match error {
        Some(error) => format!("{name}: {error}"),
        None => name,
    }
}

/// The error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors repeat their source.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
