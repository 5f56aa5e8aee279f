//! Which policy runs, and how it makes way for another one while the node runs.
//!
//! A new component is read, compiled and rehearsed by whoever brings it, while the old one serves.
//! Only then it becomes the current one, which each tick loop asks for between two ticks: a tick
//! runs to its end with the policy that it began with.
//!
//! A new policy is on probation until a number of its ticks have ended well. When so many in a row
//! fail of one peer, by its fault, the last good one takes its place by itself, and each peer's
//! cursor is as it was before (see [`CursorFiles::enter`]). The policy that is built into the host
//! is always good, so there always is one to go back to.
//!
//! What is known of policies is in `{db}/policies` (see `store`), and what happened to them in a
//! journal.

mod journal;
mod start;
mod store;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
#[cfg(feature = "watch")]
use std::thread;
use std::time::SystemTime;

use edgestore_engine::Hash;
use edgestore_policy_host::{
    LoadError, Policy, PolicyEngine, RehearsalError, dry_run, rehearse_settings,
};
use serde::{Deserialize, Serialize};

use self::journal::Journal;
pub use self::journal::{PolicyEvent, PolicyEventKind, policy_history};
pub(super) use self::start::Start;
use self::start::fallback;
use self::store::{Choice, PolicyStore, Saved};
use super::{CursorFiles, HostBuilder, SettingsError};

/// In the folder of the database.
pub(super) const FOLDER: &str = "policies";

/// Before a file that is no policy is looked at again.
#[cfg(feature = "watch")]
const SECOND_LOOK: std::time::Duration = std::time::Duration::from_secs(1);

/// When a new policy counts as good, and when as bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    /// Ticks that have to end well.
    pub(super) probation: u32,
    /// Ticks of one peer that fail in a row by the policy's fault.
    pub(super) max_failures: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self { probation: HostBuilder::PROBATION, max_failures: HostBuilder::MAX_FAILURES }
    }
}

/// Why another policy did not take over. The one before runs on.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// It is no policy for this host.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It failed where nothing was at stake.
    #[error(transparent)]
    DryRun(#[from] RehearsalError),
    /// It could not be kept, so that it would be lost with a restart.
    #[error("can't keep the policy in {}: {source}; check free space and permissions", path.display())]
    Storage {
        /// The folder.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// There is no policy to go back to.
    #[error(
        "the built-in policy runs, and no other one is known to be good: nothing to go back to"
    )]
    NoFallback,
}

impl SwapError {
    /// Whether it says something of the policy: as opposed to a file or a disk that failed, so that
    /// nobody knows.
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Load(error) => error.is_answer(),
            Self::DryRun(RehearsalError::Stage(_)) | Self::Storage { .. } => false,
            Self::DryRun(_) | Self::NoFallback => true,
        }
    }
}

/// One policy took over from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChange {
    /// Name and version of the one that ran.
    pub from: String,
    /// Name and version of the one that runs.
    pub to: String,
    /// BLAKE3 of its component, 64 hex digits.
    pub hash: String,
    /// False when it ran already.
    pub changed: bool,
}

/// How the current policy stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PolicyState {
    /// When it took over, or the host started, in Unix seconds.
    pub since_secs: u64,
    /// Where it came from.
    pub origin: String,
    /// None once it is known to be good.
    pub probation: Option<Probation>,
    /// The last that happened to it, or to one that was refused or rolled back.
    pub last_event: Option<PolicyEvent>,
}

/// How a policy does that is not known to be good yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probation {
    /// Ticks that have ended well.
    pub passed: u32,
    /// How many it takes.
    pub needed: u32,
    /// The most ticks in a row that have failed of one peer by the policy's fault, up to now. Ticks
    /// that say nothing of the policy do not count.
    pub failures: u32,
    /// How many of them it takes to roll it back.
    pub max_failures: u32,
    /// Name and version of the one that takes over then.
    pub fallback: String,
}

/// What a tick loop needs of the current policy.
#[derive(Debug, Clone)]
pub(super) struct ActivePolicy {
    pub(super) policy: Policy,
    /// Another one has another number.
    pub(super) generation: u64,
    pub(super) probation: bool,
}

/// What a tick says of its policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It did what a policy is for: everything is here, segments came, or those that did not were
    /// tried.
    Good,
    /// Nothing: the peer or the host failed, or the policy waits.
    Neutral,
    /// It failed, and nobody else can be the cause. In words.
    Blamed(String),
}

/// The policies of one host.
pub(super) struct Policies {
    engine: PolicyEngine,
    store: PolicyStore,
    journal: Journal,
    cursors: Arc<CursorFiles>,
    rules: Rules,
    /// Nothing is swapped, and nothing written: the host runs once.
    fixed: bool,
    /// Held by who prepares a swap, so that one comes after the other.
    swapping: Mutex<()>,
    current: Mutex<Current>,
    /// Called when another policy has taken over.
    changed: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

struct Current {
    saved: Saved,
    policy: Policy,
    generation: u64,
    since_secs: u64,
    origin: String,
    trial: Option<Trial>,
    /// Failures in a row, by peer.
    failures: HashMap<usize, u32>,
    last_event: Option<PolicyEvent>,
}

/// Of a policy that is not known to be good.
struct Trial {
    passed: u32,
    fallback: (Choice, Policy),
}

impl Policies {
    /// Who is to be told when another policy has taken over. Once.
    pub(super) fn on_change(&self, changed: impl Fn() + Send + Sync + 'static) {
        // Whoever comes second is the same host.
        let _ = self.changed.set(Box::new(changed));
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next tick runs.
    pub(super) fn turn(&self) -> ActivePolicy {
        let current = self.current();
        ActivePolicy {
            policy: current.policy.clone(),
            generation: current.generation,
            probation: current.trial.is_some(),
        }
    }

    /// Whether the policy with this hash is known to be good.
    pub(super) fn is_good(&self, hash: &Hash) -> bool {
        self.current().saved.is_good(Choice::Stored(*hash))
    }

    pub(super) fn state(&self) -> PolicyState {
        let current = self.current();
        let probation = current.trial.as_ref().map(|trial| Probation {
            passed: trial.passed,
            needed: self.rules.probation,
            failures: current.failures.values().copied().max().unwrap_or_default(),
            max_failures: self.rules.max_failures,
            fallback: title(&trial.fallback.1),
        });
        PolicyState {
            since_secs: current.since_secs,
            origin: current.origin.clone(),
            probation,
            last_event: current.last_event.clone(),
        }
    }

    /// Lets the component in the file at `path` take over, if it passes a dry run with these
    /// settings.
    ///
    /// # Errors
    /// [`SwapError`]; the policy that runs goes on.
    pub(super) fn swap(
        &self,
        path: &Path,
        settings: Vec<(String, String)>,
    ) -> Result<PolicyChange, SwapError> {
        let bytes = PolicyEngine::read_file(path)?;
        self.swap_to(path, &bytes, settings, false).inspect_err(|error| self.refused(&bytes, error))
    }

    /// The file of `--plugin` has other bytes than before. One that is being written may look whole
    /// for a while, so a file that is no policy is looked at again before it is refused.
    #[cfg(feature = "watch")]
    pub(super) fn file_changed(&self, path: &Path, bytes: &[u8], settings: Vec<(String, String)>) {
        let Err(error) = self.swap_to(path, bytes, settings, true) else { return };
        if matches!(error, SwapError::Load(_)) {
            thread::sleep(SECOND_LOOK);
            // What it is now is told by another call, if it has changed.
            if PolicyEngine::read_file(path).is_ok_and(|now| now != bytes) {
                return;
            }
        }
        self.refused(bytes, &error);
    }

    /// Lets `take` take over `new` settings in place of `old` ones, if the current policy does not
    /// refuse them in a dry run. No other policy takes over meanwhile.
    ///
    /// # Errors
    /// [`SettingsError`]; nothing is taken over.
    pub(super) fn try_settings(
        &self,
        old: &[(String, String)],
        new: &[(String, String)],
        take: impl FnOnce(),
    ) -> Result<(), SettingsError> {
        let _one_at_a_time = self.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let ActivePolicy { policy, generation, .. } = self.turn();
        policy.limits().check_settings(new)?;
        match rehearse_settings(&policy, self.store.dir(), old, new) {
            Ok(None) => {
                let mut current = self.current();
                // It may have been rolled back meanwhile.
                if current.generation == generation {
                    current.policy = policy.having_passed(new.to_vec());
                }
            }
            // They are not to blame.
            Ok(Some(why)) => {
                tracing::warn!(%why, "the policy fails in a dry run, with and without new settings");
            }
            Err(error @ RehearsalError::Stage(_)) => return Err(SettingsError::Untried(error)),
            Err(error) => {
                let why = format!("its new settings, those before stay: {error}");
                self.note_current(&mut self.current(), PolicyEventKind::Refused, why);
                let policy = title(&policy);
                return Err(SettingsError::Refused { policy, source: error });
            }
        }
        take();
        Ok(())
    }

    /// [`Policies::try_settings`] of a host that runs, noted in the history.
    ///
    /// # Errors
    /// As there.
    pub(super) fn change_settings(
        &self,
        old: &[(String, String)],
        new: &[(String, String)],
        take: impl FnOnce(),
    ) -> Result<(), SettingsError> {
        self.try_settings(old, new, take)?;
        let why = differing(old, new);
        if !why.is_empty() {
            self.note_current(&mut self.current(), PolicyEventKind::Settings, why);
        }
        Ok(())
    }

    /// Whether the configuration names the policy that runs, as opposed to one that was swapped in
    /// or rolled back to.
    pub(super) fn is_named(&self) -> bool {
        let current = self.current();
        let named = current.saved.plugin.unwrap_or(Choice::Embedded);
        current.saved.active == named
    }

    fn refused(&self, bytes: &[u8], error: &SwapError) {
        let (hash, why) = (Hash::of(bytes).to_string(), error.to_string());
        self.note(&mut self.current(), PolicyEventKind::Refused, None, Some(hash), why);
    }

    fn swap_to(
        &self,
        path: &Path,
        bytes: &[u8],
        settings: Vec<(String, String)>,
        watched: bool,
    ) -> Result<PolicyChange, SwapError> {
        let _one_at_a_time = self.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let choice = Choice::Stored(Hash::of(bytes));
        let mut saved = self.current().saved.clone();
        if watched {
            saved.plugin = Some(choice);
        }
        let storage = |source| SwapError::Storage { path: self.store.dir().to_owned(), source };
        if saved.active == choice {
            if self.current().saved != saved {
                self.store.save(&saved).map_err(storage)?;
                self.current().saved = saved;
            }
            return Ok(unchanged(&self.current()));
        }
        let policy = self.engine.load(bytes).map_err(|error| in_file(path, error))?;
        dry_run(&policy, self.store.dir(), settings.clone(), None)?;
        let policy = policy.having_passed(settings);
        self.store.keep(bytes).map_err(storage)?;

        let mut current = self.current();
        // A rollback may have come between.
        saved.good.clone_from(&current.saved.good);
        saved.active = choice;
        self.store.save(&saved).map_err(storage)?;
        let trial = match saved.is_good(choice) {
            true => None,
            false => {
                let fallback = match current.trial.take() {
                    Some(trial) => trial.fallback,
                    None => (current.saved.active, current.policy.clone()),
                };
                Some(Trial { passed: 0, fallback })
            }
        };
        current.saved = saved;
        current.trial = trial;
        let change = self.take_over(&mut current, policy, file_origin(path));
        self.note_current(&mut current, PolicyEventKind::Swapped, file_origin(path));
        drop(current);
        self.tell();
        Ok(change)
    }

    /// Lets the last good policy take over from the one that runs.
    ///
    /// # Errors
    /// [`SwapError::NoFallback`] when the built-in one runs and no other one is known to be good.
    pub(super) fn roll_back(&self, why: &str) -> Result<PolicyChange, SwapError> {
        let _one_at_a_time = self.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = self.current().saved.clone();
        if saved.fallbacks().is_empty() {
            return Err(SwapError::NoFallback);
        }
        let (choice, policy) = fallback(&self.engine, &self.store, &saved)?;
        let mut current = self.current();
        if current.saved.active == choice {
            // It failed too often meanwhile, and is where it should be.
            return Ok(unchanged(&current));
        }
        let change = self.go_back(&mut current, choice, policy, why);
        drop(current);
        self.tell();
        Ok(change)
    }

    fn go_back(
        &self,
        current: &mut Current,
        choice: Choice,
        policy: Policy,
        why: &str,
    ) -> PolicyChange {
        let bad = (title(&current.policy), current.policy.hash().to_string());
        current.saved.roll_back(choice);
        current.trial = None;
        // Without this it comes back with a restart, on probation again.
        if let Err(error) = self.store.save(&current.saved) {
            let dir = self.store.dir().display();
            tracing::error!(%error, %dir, "can't note that the policy was rolled back");
        }
        let change = self.take_over(current, policy, "rollback".to_owned());
        let why = format!("{why}; {} runs again", change.to);
        self.note(current, PolicyEventKind::RolledBack, Some(bad.0), Some(bad.1), why);
        change
    }

    fn take_over(&self, current: &mut Current, policy: Policy, origin: String) -> PolicyChange {
        let change = PolicyChange {
            from: title(&current.policy),
            to: title(&policy),
            hash: policy.hash().to_string(),
            changed: true,
        };
        current.policy = policy;
        current.generation += 1;
        current.since_secs = now_secs();
        current.origin = origin;
        current.failures.clear();
        change
    }

    /// Ticks that a new policy must pass.
    pub(super) fn probation(&self) -> u32 {
        self.rules.probation
    }

    /// To be called after each tick: with the position of the peer, and the number of the turn
    /// that it was.
    pub(super) fn ticked(&self, peer: usize, generation: u64, verdict: &Verdict) {
        let mut current = self.current();
        if current.generation != generation || self.fixed {
            return;
        }
        match verdict {
            Verdict::Good => {
                current.failures.remove(&peer);
                self.passed(&mut current);
            }
            Verdict::Blamed(error) => {
                let failures = current.failures.entry(peer).or_default();
                *failures = failures.saturating_add(1);
                let failures = *failures;
                // Of a good policy that goes on failing, the first failure says it all.
                if failures == 1 || current.trial.is_some() {
                    self.note_current(&mut current, PolicyEventKind::Failed, error.clone());
                }
                if failures >= self.rules.max_failures
                    && let Some(Trial { fallback: (choice, policy), .. }) = current.trial.take()
                {
                    let why = format!("{failures} ticks in a row failed, at last by: {error}");
                    self.go_back(&mut current, choice, policy, &why);
                    drop(current);
                    self.tell();
                }
            }
            Verdict::Neutral => {}
        }
    }

    fn passed(&self, current: &mut Current) {
        let Some(trial) = &mut current.trial else { return };
        trial.passed += 1;
        if trial.passed < self.rules.probation {
            return;
        }
        let active = current.saved.active;
        current.trial = None;
        current.saved.proven(active);
        let hash = current.policy.hash();
        let kept = self.store.save(&current.saved).and_then(|()| self.cursors.keep(&hash));
        if let Err(error) = kept {
            // It is on probation again after a restart, no more.
            tracing::warn!(%error, "can't note that the policy is good");
        }
        let why = format!("{} ticks ended well", self.rules.probation);
        self.note_current(current, PolicyEventKind::Proven, why);
    }

    fn note_current(&self, current: &mut Current, event: PolicyEventKind, why: String) {
        let (policy, hash) = (title(&current.policy), current.policy.hash().to_string());
        self.note(current, event, Some(policy), Some(hash), why);
    }

    fn note(
        &self,
        current: &mut Current,
        event: PolicyEventKind,
        policy: Option<String>,
        hash: Option<String>,
        why: String,
    ) {
        let event = PolicyEvent { at_secs: 0, event, policy, hash, why };
        if !self.fixed {
            current.last_event = Some(self.journal.note(event));
        }
    }

    fn tell(&self) {
        if let Some(changed) = self.changed.get() {
            changed();
        }
    }
}

/// The keys whose values are not the same, as in `new values of a, b`. The values may be secrets.
fn differing(old: &[(String, String)], new: &[(String, String)]) -> String {
    let apart = |a: &[(String, String)], b: &[(String, String)]| {
        let other = a.iter().filter(|pair| !b.contains(pair));
        other.map(|(key, _)| key.clone()).collect::<BTreeSet<_>>()
    };
    let set = apart(new, old);
    let unset = apart(old, new).into_iter().filter(|key| !set.contains(key)).collect();
    let list = |keys: BTreeSet<String>| keys.into_iter().collect::<Vec<_>>().join(", ");
    match (list(set), list(unset)) {
        (set, unset) if unset.is_empty() && set.is_empty() => String::new(),
        (set, unset) if unset.is_empty() => format!("new values of {set}"),
        (set, unset) if set.is_empty() => format!("no more {unset}"),
        (set, unset) => format!("new values of {set}; no more {unset}"),
    }
}

/// The policy that is wanted runs already.
fn unchanged(current: &Current) -> PolicyChange {
    let (title, hash) = (title(&current.policy), current.policy.hash().to_string());
    PolicyChange { from: title.clone(), to: title, hash, changed: false }
}

/// Name and version.
pub(super) fn title(policy: &Policy) -> String {
    format!("{} {}", policy.name(), policy.version())
}

fn file_origin(path: &Path) -> String {
    path.display().to_string()
}

fn in_file(path: &Path, error: LoadError) -> LoadError {
    LoadError::File { path: path.to_owned(), error: Box::new(error) }
}

fn now_secs() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs())
}
