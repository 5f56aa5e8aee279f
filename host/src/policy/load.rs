//! From bytes to a policy: compile, check, link, and ask it who it is.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use wasmtime::component::{Component, Linker};
use wasmtime::{Cache, CacheConfig, Config, Engine, EngineWeak};

use super::contract::{self, Linked};
use super::state::State;
use super::wait::lock;
use super::{Limits, LoadError, Outline, Policy, cache_sums, check};
use crate::Hash;

/// Largest component. Interpreters with a script in them have 20 MB.
const MAX_BYTES: u64 = 64 << 20;

/// How often a running policy is looked at.
pub(super) const EPOCH: Duration = Duration::from_millis(10);

/// Depth of a policy's stack; its threads have at least twice as much.
const STACK_BYTES: usize = 1 << 20;

/// The policy that is built into the host.
static DEFAULT: &[u8] = include_bytes!("../../../guest-sync/sync.wasm");

/// Compiles and checks policies. Policies outlive it.
#[derive(Clone)]
pub struct PolicyEngine {
    engine: Engine,
    linker: Linker<State>,
    limits: Limits,
    /// What was loaded and need not be compiled again; none where nothing is kept.
    known: Option<Arc<Mutex<HashMap<Hash, Policy>>>>,
    cache: Option<Cache>,
    /// Where `cache` is.
    cache_dir: Option<PathBuf>,
}

impl PolicyEngine {
    /// `cache_dir`: where compiled code is kept, made when it is missing; none to compile each
    /// time. A folder that can't be used costs time alone, and a warning.
    ///
    /// # Errors
    /// [`LoadError::System`] when this machine can't run policies.
    pub fn new(cache_dir: Option<&Path>, limits: Limits) -> Result<Self, LoadError> {
        let system = |error: wasmtime::Error| LoadError::System(format!("{error:#}"));
        let mut config = Config::new();
        config
            .wasm_component_model(true)
            .epoch_interruption(true)
            .consume_fuel(true)
            // The contract hands over addresses of 32 bits.
            .wasm_memory64(false)
            // No policy waits for another one, so none needs the machinery for it.
            .concurrency_support(false)
            .max_wasm_stack(STACK_BYTES);
        let cache = cache_dir.and_then(|dir| match cache(dir) {
            Ok(cache) => Some(cache),
            Err(error) => {
                tracing::warn!(
                    dir = %dir.display(),
                    error = format!("{error:#}"),
                    "can't keep compiled policies; they are compiled at each start"
                );
                None
            }
        });
        config.cache(cache.clone());
        let engine = Engine::new(&config).map_err(system)?;
        let linker = contract::linker(&engine).map_err(system)?;
        let weak = engine.weak();
        thread::Builder::new()
            .name("edgestore-epoch".into())
            .spawn(move || tick_epochs(&weak))
            .map_err(|error| LoadError::System(format!("can't start a thread: {error}")))?;
        let cache_dir = cache.is_some().then_some(cache_dir).flatten().map(Path::to_owned);
        Ok(Self { engine, linker, limits, known: None, cache, cache_dir })
    }

    /// Compiles and checks a component.
    ///
    /// # Errors
    /// [`LoadError`], which says what to do.
    pub fn load(&self, component: &[u8]) -> Result<Policy, LoadError> {
        let known = self.known.as_ref().map(|known| (known, Hash::of(component)));
        if let Some((known, hash)) = &known
            && let Some(policy) = lock(known).get(hash)
        {
            return Ok(policy.clone());
        }
        Self::check_size(component)?;
        check::nesting(component)?;
        // Before it is compiled, which takes seconds where an interpreter is in it.
        let contract = Outline::of(component)?.contract()?;
        self.with_sums(cache_sums::remove_damaged);
        let compiled = Component::from_binary(&self.engine, component)
            .map_err(|error| LoadError::Compile(format!("{error:#}")))?;
        self.with_sums(cache_sums::note);
        check::resources(&compiled)?;
        let mismatch = |error: wasmtime::Error| LoadError::Mismatch(format!("{error:#}"));
        let linked = self.linker.instantiate_pre(&compiled).map_err(mismatch)?;
        let linked = Linked::new(linked, contract).map_err(mismatch)?;
        let policy = Policy::new(linked, component, self.limits.clone())?;
        if let Some((known, hash)) = known {
            lock(known).insert(hash, policy.clone());
        }
        Ok(policy)
    }

    fn with_sums(&self, run: impl FnOnce(&Path) -> io::Result<()>) {
        if let Some(dir) = &self.cache_dir
            && let Err(error) = run(dir)
        {
            tracing::warn!(dir = %dir.display(), %error, "can't check the compiled policies");
        }
    }

    /// Keeps all policies that it and its clones load from now on: no component is compiled twice.
    pub(crate) fn keep_all(self) -> Self {
        Self { known: Some(Arc::default()), ..self }
    }

    /// Like [`PolicyEngine::load`], of a file.
    ///
    /// # Errors
    /// [`LoadError::Io`] or [`LoadError::File`]; both name the path.
    pub fn load_file(&self, path: &Path) -> Result<Policy, LoadError> {
        self.load(&Self::read_file(path)?)
            .map_err(|error| LoadError::File { path: path.to_owned(), error: Box::new(error) })
    }

    /// Whether this many bytes can be a component.
    ///
    /// # Errors
    /// [`LoadError::TooLarge`]
    pub(crate) fn check_size(component: &[u8]) -> Result<(), LoadError> {
        let limit = MAX_BYTES;
        if component.len() as u64 > limit { Err(LoadError::TooLarge { limit }) } else { Ok(()) }
    }

    /// The bytes of a file, of which one that is too large to be a component is not read to its
    /// end.
    ///
    /// # Errors
    /// [`LoadError::Io`], which names the path. A pipe or a device is no such file: nobody waits
    /// for who writes to it.
    pub fn read_file(path: &Path) -> Result<Vec<u8>, LoadError> {
        let io = |error| LoadError::Io { path: path.to_owned(), error };
        // To open a pipe waits already.
        if !fs::metadata(path).map_err(io)?.is_file() {
            return Err(io(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
        }
        let file = File::open(path).map_err(io)?;
        let mut bytes = Vec::new();
        // One more than is taken, and so too many where there is more.
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
        Ok(bytes)
    }

    /// How many of the components so far were found compiled in the cache.
    pub fn cache_hits(&self) -> usize {
        self.cache.as_ref().map_or(0, Cache::cache_hits)
    }

    /// The component that is built into the host.
    pub fn embedded() -> &'static [u8] {
        DEFAULT
    }

    /// The policy that is built into the host.
    ///
    /// # Errors
    /// None in a host that was built and tested.
    pub fn load_default(&self) -> Result<Policy, LoadError> {
        self.load(DEFAULT)
    }
}

fn cache(dir: &Path) -> wasmtime::Result<Cache> {
    fs::create_dir_all(dir)?;
    // The cache itself fails late and silently.
    tempfile::tempfile_in(dir)?;
    let mut config = CacheConfig::new();
    config.with_directory(fs::canonicalize(dir)?);
    Cache::new(config)
}

/// Advances the clock by which running policies are interrupted, until no policy is left.
fn tick_epochs(engine: &EngineWeak) {
    loop {
        thread::sleep(EPOCH);
        let Some(engine) = engine.upgrade() else { return };
        engine.increment_epoch();
    }
}
