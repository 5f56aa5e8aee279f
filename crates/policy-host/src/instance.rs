//! A loaded policy, and one tick of it.

use std::sync::Arc;
use std::time::Duration;

use edgestore_engine::Hash;
use wasmtime::{Store, UpdateDeadline};

use super::bindings::policy;
use super::contract::Linked;
use super::epoch::EpochClock;
use super::log::printable;
use super::resources::{PeerHandle, handle};
use super::state::{State, Tick};
use super::{
    Context, CursorLayout, Limits, LoadError, Reason, Services, TickError, TickReport, check, trap,
};

/// Of `describe`.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(10);

/// A compiled, checked policy. Cheap to clone.
#[derive(Clone)]
pub struct Policy {
    inner: Arc<Inner>,
    /// Settings that it passed a dry run with.
    passed: Option<Arc<Vec<(String, String)>>>,
}

struct Inner {
    linked: Linked,
    epochs: Arc<EpochClock>,
    limits: Limits,
    description: policy::Description,
    hash: Hash,
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Policy({} {}, {})", self.name(), self.version(), self.hash().short())
    }
}

impl Policy {
    /// Asks the policy for its name; `component` is what `linked` was made of.
    pub(super) fn new(
        linked: Linked,
        epochs: &Arc<EpochClock>,
        component: &[u8],
        limits: Limits,
    ) -> Result<Self, LoadError> {
        let state = State::without_imports(&limits, DESCRIBE_TIMEOUT);
        let store = store(&linked, epochs, state, &limits);
        let mut store = store.map_err(|error| LoadError::System(format!("{error:#}")))?;
        let described =
            linked.instantiate(&mut store).and_then(|instance| instance.describe(&mut store));
        let description = described.map_err(|error| undescribed(&error, &limits))?;
        check::description(&description)?;
        let hash = Hash::of(component);
        let epochs = Arc::clone(epochs);
        let inner = Arc::new(Inner { linked, epochs, limits, description, hash });
        Ok(Self { inner, passed: None })
    }

    /// What the policy calls itself: 1 to 64 printable bytes.
    pub fn name(&self) -> &str {
        &self.inner.description.name
    }

    /// Which version the policy says it is: 1 to 64 printable bytes.
    pub fn version(&self) -> &str {
        &self.inner.description.version
    }

    /// Which layout of the cursor the policy writes.
    pub fn cursor_schema(&self) -> u32 {
        self.inner.description.cursor_schema
    }

    /// Which cursors the policy reads and writes.
    pub fn cursor_layout(&self) -> CursorLayout {
        CursorLayout { policy: self.name().to_owned(), schema: self.cursor_schema() }
    }

    /// Which version of the contract the policy was built for, such as `0.2`.
    pub fn contract(&self) -> &'static str {
        self.inner.linked.contract().version()
    }

    /// What one tick may use.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// The same policy with other limits.
    #[must_use]
    pub fn limited(&self, limits: Limits) -> Self {
        let Inner { linked, epochs, description, hash, .. } = &*self.inner;
        let (linked, epochs) = (linked.clone(), Arc::clone(epochs));
        let (description, hash) = (description.clone(), *hash);
        let inner = Arc::new(Inner { linked, epochs, limits, description, hash });
        Self { inner, passed: self.passed.clone() }
    }

    /// The same policy, which has passed a dry run with these settings: to refuse them later is its
    /// own fault.
    #[must_use]
    pub fn having_passed(&self, settings: Vec<(String, String)>) -> Self {
        Self { inner: Arc::clone(&self.inner), passed: Some(Arc::new(settings)) }
    }

    /// Whether it alone is to blame when it does not take these settings.
    fn answers_for(&self, settings: &[(String, String)]) -> bool {
        settings.is_empty() || self.passed.as_ref().is_some_and(|passed| **passed == *settings)
    }

    /// BLAKE3 of the component.
    pub fn hash(&self) -> Hash {
        self.inner.hash
    }

    /// A fresh instance that only says its name, as at the start of a tick. For benchmarks.
    ///
    /// # Errors
    /// When the policy can't be started any more, which it could when it was loaded.
    #[doc(hidden)]
    pub fn instantiate(&self) -> wasmtime::Result<()> {
        let Inner { linked, epochs, limits, .. } = &*self.inner;
        let state = State::without_imports(limits, DESCRIBE_TIMEOUT);
        let mut store = store(linked, epochs, state, limits)?;
        let instance = linked.instantiate(&mut store)?;
        instance.describe(&mut store).map(drop)
    }

    /// One tick in a fresh instance. Blocks until it ends, which is soon after
    /// [`Limits::tick_timeout`] at the latest, unless the disk hangs.
    ///
    /// # Errors
    /// [`TickError`]; what was applied before stays applied.
    ///
    /// # Panics
    /// When `services.current` is no position in `services.peers`.
    pub fn tick(&self, services: Services, context: Context) -> Result<TickReport, TickError> {
        let Inner { linked, epochs, limits, .. } = &*self.inner;
        limits.check_settings(&context.settings)?;
        let answers = self.answers_for(&context.settings);
        let current = services.current;
        let state = State::with_services(limits, self.cursor_layout(), services);
        if state.running_tick().is_some_and(|tick| tick.is_closed()) {
            return Err(TickError::Closed);
        }
        let store = store(linked, epochs, state, limits);
        let mut store = store.map_err(|error| TickError::System(format!("{error:#}")))?;
        // The same component has started before, without an import, so it starts again.
        let started = linked.instantiate(&mut store);
        let instance = started.map_err(|error| match failure(&error, limits) {
            TickError::Trap(text) if !error.is::<wasmtime::Trap>() => TickError::System(text),
            other => other,
        })?;
        let result = handle(&mut store.data_mut().table, PeerHandle(current)).and_then(|handle| {
            // A borrow ends with the call; the handle goes with the store.
            let peer = wasmtime::component::Resource::new_borrow(handle.rep());
            let context = told(context, limits);
            instance.tick(&mut store, context, peer)
        });
        let left = store.get_fuel().unwrap_or_default();
        if let Some(observer) = store.data().running_tick().and_then(Tick::observer) {
            observer.spent(limits.fuel.saturating_sub(left));
        }
        match result {
            Ok(Ok(report)) => {
                let counted = store.data().running_tick().map(|tick| tick.applied);
                let counted = counted.unwrap_or_default();
                Ok(TickReport {
                    applied: counted.segments,
                    records_written: counted.written,
                    records_skipped: counted.skipped,
                    ..report.into()
                })
            }
            Ok(Err(failure)) => Err(returned(store.data(), failure, answers)),
            Err(error) => Err(self::failure(&error, limits)),
        }
    }
}

/// A store that holds its instance to the limits.
fn store(
    linked: &Linked,
    epochs: &EpochClock,
    mut state: State,
    limits: &Limits,
) -> wasmtime::Result<Store<State>> {
    state.epochs = Some(epochs.running());
    let mut store = Store::new(linked.engine(), state);
    store.limiter(|state| &mut state.limiter);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|mut store| match store.data_mut().interrupts() {
        Some(why) => Err(why.into()),
        None => Ok(UpdateDeadline::Continue(1)),
    });
    store.set_fuel(limits.fuel)?;
    // What the host copies out of the instance for one call. A cursor that is somewhat too large
    // is refused with the error that says so, not here.
    store.set_hostcall_fuel(limits.cursor_bytes.saturating_mul(2).saturating_add(16 << 20));
    Ok(store)
}

/// Why the instance ended without a result.
fn failure(error: &wasmtime::Error, limits: &Limits) -> TickError {
    if let Some(ours) = error.downcast_ref::<TickError>() {
        return ours.clone();
    }
    match error.downcast_ref::<wasmtime::Trap>() {
        Some(wasmtime::Trap::OutOfFuel) => TickError::Fuel(limits.fuel),
        _ => TickError::Trap(trap::explain(error)),
    }
}

/// Why a component did not say who it is.
fn undescribed(error: &wasmtime::Error, limits: &Limits) -> LoadError {
    match failure(error, limits) {
        TickError::Timeout(timeout) => {
            LoadError::Describe(format!("it took longer than {timeout:?}"))
        }
        TickError::Fuel(fuel) => {
            LoadError::Describe(format!("it ran more than {fuel} instructions (limits.fuel)"))
        }
        TickError::Memory(limit) => LoadError::Memory { limit },
        TickError::Table(limit) => LoadError::Table { limit },
        // Of all that wasmtime counts itself, this alone is not looked at before.
        TickError::Trap(text) if text.contains("instance count too high") => {
            LoadError::Instances { limit: limits.instances }
        }
        TickError::Trap(text) => LoadError::Describe(text),
        other => LoadError::Describe(other.to_string()),
    }
}

/// The failure that the policy returned. `answers`: for its settings, too.
fn returned(state: &State, failure: policy::TickFailure, answers: bool) -> TickError {
    use policy::PolicyError;
    let Some(tick) = state.running_tick() else { return TickError::Closed };
    if tick.is_closed() {
        return TickError::Closed;
    }
    let (message, blame) = match failure.error {
        PolicyError::Peer(error) => (tick.peer_failure(error), !tick.peer_failed),
        PolicyError::Storage => (tick.storage_failure(), !tick.storage_failed()),
        // Theirs who set it, where anybody has, and the policy has not taken the same before.
        PolicyError::Setting(text) => {
            (format!("the policy does not take a setting: {}", printable(&text)), answers)
        }
        PolicyError::Other(text) => (printable(&text), true),
    };
    let next_tick = failure.next_tick_ms.map(Duration::from_millis);
    TickError::Policy { message, next_tick, blame }
}

pub(super) fn told(context: Context, limits: &Limits) -> policy::Context {
    policy::Context {
        reason: match context.reason {
            Reason::Interval => policy::Reason::Interval,
            Reason::Wake => policy::Reason::Wake,
            Reason::Swap => policy::Reason::Swap,
            Reason::Retry => policy::Reason::Retry,
        },
        budget_ms: millis(limits.budget()),
        interval_ms: millis(context.interval),
        settings: context.settings,
    }
}

/// Whole milliseconds, as many as there can be.
pub(super) fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

impl From<policy::TickReport> for TickReport {
    fn from(report: policy::TickReport) -> Self {
        Self {
            in_sync: report.in_sync,
            missing: report.missing,
            applied: report.applied,
            records_written: report.records_written,
            records_skipped: report.records_skipped,
            failed: report.failed,
            pending: report.pending,
            quarantined: report.quarantined,
            next_tick: report.next_tick_ms.map(Duration::from_millis),
        }
    }
}
