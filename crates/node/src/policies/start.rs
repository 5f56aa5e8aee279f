//! Which policy a host starts with.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use edgestore_engine::Hash;
use edgestore_engine::disk::Disk;
use edgestore_policy_host::{LoadError, Policy, PolicyEngine};

use super::journal::Journal;
use super::store::{Choice, PolicyStore, Saved};
use super::{
    Current, FOLDER, Policies, PolicyEventKind, Rules, SwapError, Trial, file_origin, in_file,
    now_secs, title,
};
use crate::CursorFiles;

/// What to start with.
pub(crate) struct Start<'a> {
    pub(crate) db: &'a Path,
    /// The file of `--plugin`.
    pub(crate) plugin: Option<&'a Path>,
    pub(crate) rules: Rules,
    /// The host runs once: nothing is written.
    pub(crate) fixed: bool,
    /// Of the database.
    pub(crate) disk: Arc<dyn Disk>,
}

impl Policies {
    /// Finds the policy to start with: that of `plugin` if it is another one than the last time,
    /// else the one that ran last. One that ran last and can't be used any more, as after an
    /// upgrade of the host, gives way to the last good one.
    ///
    /// # Errors
    /// When the file of `plugin` is no policy, or the folder can't be used. A database that ran
    /// with a `plugin` before starts in any case, with the policy that it ran last: a node must
    /// come back after a power failure, whatever was put in the place of its policy.
    pub(crate) fn open(
        start: &Start<'_>,
        engine: PolicyEngine,
        cursors: Arc<CursorFiles>,
    ) -> Result<Self, SwapError> {
        let dir = start.db.join(FOLDER);
        let storage = |source| SwapError::Storage { path: dir.clone(), source };
        let store = PolicyStore::open(dir.clone(), Arc::clone(&start.disk)).map_err(storage)?;
        let journal = Journal::new(&start.disk.real(store.dir()));
        let mut saved = store.saved().map_err(storage)?;
        let mut refused = None;
        let mut loaded = None;
        match start.plugin.map(|path| named(path, saved.plugin, &engine)).transpose() {
            Ok(None) if saved.plugin.is_some() => {
                (saved.active, saved.plugin) = (Choice::Embedded, None);
            }
            Ok(None) => {}
            Ok(Some(Named::Same)) => {
                if saved.plugin != Some(saved.active) {
                    tracing::warn!(
                        "the policy of --plugin was replaced since it was started: see `policy \
                         history`, or take it again by `policy swap`"
                    );
                }
            }
            Ok(Some(Named::New { bytes, policy })) => {
                if !start.fixed {
                    store.keep(&bytes).map_err(storage)?;
                }
                saved.active = Choice::Stored(policy.hash());
                saved.plugin = Some(saved.active);
                loaded = Some(policy);
            }
            Err(error) if start.fixed || saved.plugin.is_none() => return Err(error.into()),
            Err(error) => refused = Some(error.to_string()),
        }
        let policy = match loaded {
            Some(policy) => policy,
            None => match load(&engine, &store, saved.active) {
                Ok(policy) => policy,
                Err(why) => {
                    refused = Some(format!("can't use the policy that ran last: {why}"));
                    let (choice, policy) = fallback(&engine, &store, &saved)?;
                    saved.roll_back(choice);
                    policy
                }
            },
        };
        let origin = match (saved.active, start.plugin) {
            (Choice::Embedded, _) => "built in".to_owned(),
            (active, Some(path)) if saved.plugin == Some(active) => file_origin(path),
            _ => "ran before".to_owned(),
        };
        let trial = match saved.is_good(saved.active) {
            true => None,
            false => Some(Trial { passed: 0, fallback: fallback(&engine, &store, &saved)? }),
        };
        if !start.fixed {
            store.save(&saved).map_err(storage)?;
        }
        let current = Current {
            saved,
            policy,
            generation: 0,
            since_secs: now_secs(),
            origin,
            trial,
            failures: HashMap::new(),
            last_event: None,
        };
        let this = Self {
            engine,
            store,
            journal,
            cursors,
            rules: start.rules,
            fixed: start.fixed,
            swapping: Mutex::default(),
            current: Mutex::new(current),
            changed: OnceLock::new(),
        };
        let mut current = this.current();
        let origin = current.origin.clone();
        this.note_current(&mut current, PolicyEventKind::Started, origin);
        if let Some(why) = refused {
            let why = format!("{why}; {} runs in its place", title(&current.policy));
            this.note(&mut current, PolicyEventKind::Refused, None, None, why);
        }
        drop(current);
        Ok(this)
    }
}

/// What the file of `--plugin` holds.
enum Named {
    /// The same as the last time.
    Same,
    New {
        bytes: Vec<u8>,
        policy: Policy,
    },
}

fn named(path: &Path, last: Option<Choice>, engine: &PolicyEngine) -> Result<Named, LoadError> {
    let bytes = PolicyEngine::read_file(path)?;
    if last == Some(Choice::Stored(Hash::of(&bytes))) {
        return Ok(Named::Same);
    }
    let policy = engine.load_unless_refused(&bytes).map_err(|error| in_file(path, error))?;
    Ok(Named::New { bytes, policy })
}

fn load(engine: &PolicyEngine, store: &PolicyStore, choice: Choice) -> Result<Policy, String> {
    match choice {
        Choice::Embedded => engine.load_default().map_err(|error| error.to_string()),
        Choice::Stored(hash) => {
            let component = store.component(&hash);
            let component = component.map_err(|error| format!("can't read it: {error}"))?;
            engine.load_unless_refused(&component).map_err(|error| error.to_string())
        }
    }
}

/// The last good policy that can still be used.
pub(super) fn fallback(
    engine: &PolicyEngine,
    store: &PolicyStore,
    saved: &Saved,
) -> Result<(Choice, Policy), LoadError> {
    for choice in saved.fallbacks() {
        match load(engine, store, choice) {
            Ok(policy) => return Ok((choice, policy)),
            Err(why) => tracing::warn!(?choice, why, "a policy that was good can't be used"),
        }
    }
    Ok((Choice::Embedded, engine.load_default()?))
}
