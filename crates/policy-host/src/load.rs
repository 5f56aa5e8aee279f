//! From bytes to a policy: compile, check, link, and ask it who it is.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use edgestore_engine::Hash;
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use super::code_cache::{CodeCache, Refusal};
use super::compiler::{AddressSpace, Compiler, compile_here};
use super::contract::{self, Linked};
use super::epoch::EpochClock;
use super::state::State;
use super::wait::lock;
use super::{Limits, LoadError, Outline, Policy, check};

/// Largest component. Interpreters with a script in them have 20 MB.
const MAX_BYTES: u64 = 64 << 20;

/// The policy that is built into the host.
static DEFAULT: &[u8] = include_bytes!("../../../guest-sync/sync.wasm");

/// Compiles and checks policies. Policies outlive it.
#[derive(Clone)]
pub struct PolicyEngine {
    engine: Engine,
    epochs: Arc<EpochClock>,
    linker: Linker<State>,
    limits: Limits,
    space: AddressSpace,
    /// None to compile in this process.
    compiler: Option<Compiler>,
    /// What was loaded and need not be compiled again; none where nothing is kept.
    known: Option<Arc<Mutex<HashMap<Hash, Policy>>>>,
    cache: Option<CodeCache>,
    cache_hits: Arc<AtomicUsize>,
}

impl PolicyEngine {
    /// `cache_dir`: where compiled code is kept, made when it is missing; none to compile each
    /// time. A folder that can't be used costs time alone, and a warning.
    ///
    /// # Errors
    /// [`LoadError::System`] when this machine can't run policies.
    pub fn new(cache_dir: Option<&Path>, limits: Limits) -> Result<Self, LoadError> {
        let system = |error: wasmtime::Error| LoadError::System(format!("{error:#}"));
        let space = AddressSpace::of_process();
        let cache = cache_dir.and_then(|dir| match CodeCache::open(dir) {
            Ok(cache) => Some(cache),
            Err(error) => {
                tracing::warn!(
                    dir = %dir.display(), %error,
                    "can't keep compiled policies; they are compiled at each start"
                );
                None
            }
        });
        let engine = Engine::new(&space.config()).map_err(system)?;
        let linker = contract::linker(&engine).map_err(system)?;
        let epochs = EpochClock::start(&engine)
            .map_err(|error| LoadError::System(format!("can't start a thread: {error}")))?;
        let (compiler, known, cache_hits) = (None, None, Arc::default());
        Ok(Self { engine, epochs, linker, limits, space, compiler, known, cache, cache_hits })
    }

    /// Compiles what others hand in by this program from now on, so that a component which takes
    /// too much time or memory takes nothing of this process. Without it,
    /// [`Limits::compile_time`] and [`Limits::compile_memory_bytes`] do not apply.
    #[must_use]
    pub fn compile_by(self, compiler: Compiler) -> Self {
        Self { compiler: Some(compiler), ..self }
    }

    /// Compiles and checks a component.
    ///
    /// # Errors
    /// [`LoadError`], which says what to do.
    pub fn load(&self, component: &[u8]) -> Result<Policy, LoadError> {
        self.load_by(component, false)
    }

    /// As [`PolicyEngine::load`], but does not try again what did not compile within the same
    /// limits: a host that starts need not wait for that each time.
    ///
    /// # Errors
    /// [`LoadError`]; [`LoadError::Refused`] where it was tried before.
    pub fn load_unless_refused(&self, component: &[u8]) -> Result<Policy, LoadError> {
        self.load_by(component, true)
    }

    fn load_by(&self, component: &[u8], unless_refused: bool) -> Result<Policy, LoadError> {
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
        let compiled = self.compiled(component, unless_refused)?;
        check::resources(&compiled)?;
        let mismatch = |error: wasmtime::Error| LoadError::Mismatch(format!("{error:#}"));
        let linked = self.linker.instantiate_pre(&compiled).map_err(mismatch)?;
        let linked = Linked::new(linked, contract).map_err(mismatch)?;
        let policy = Policy::new(linked, &self.epochs, component, self.limits.clone())?;
        if let Some((known, hash)) = known {
            lock(known).insert(hash, policy.clone());
        }
        Ok(policy)
    }

    /// From the cache, or else compiled and kept there.
    fn compiled(&self, component: &[u8], unless_refused: bool) -> Result<Component, LoadError> {
        let key = self.key(component);
        if let Some(code) = self.with_cache(|cache| cache.load(&key)).flatten() {
            match code_to_component(&self.engine, &code) {
                Ok(compiled) => {
                    self.cache_hits.fetch_add(1, Ordering::Relaxed);
                    return Ok(compiled);
                }
                // Of another build that has the same key by chance.
                Err(error) => tracing::debug!(%error, "compiled code does not fit"),
            }
        }
        let compiler = self.compiler.as_ref().filter(|_| component != DEFAULT);
        if compiler.is_some()
            && unless_refused
            && let Some(refusal) = self.with_cache(|cache| cache.refusal(&key)).flatten()
            && refusal.time >= self.limits.compile_time
            && refusal.memory >= self.limits.compile_memory_bytes
        {
            return Err(LoadError::Refused(refusal.why));
        }
        let code = match compiler {
            Some(compiler) => compiler.run(component, &self.limits, self.space),
            None => compile_here(&self.engine, component),
        };
        let code = code.inspect_err(|error| {
            if error.is_limit_of_compiler() {
                let refusal = Refusal {
                    time: self.limits.compile_time,
                    memory: self.limits.compile_memory_bytes,
                    why: error.to_string(),
                };
                self.with_cache(|cache| cache.refuse(&key, &refusal));
            }
        })?;
        self.with_cache(|cache| cache.store(&key, &code));
        code_to_component(&self.engine, &code)
            .map_err(|error| LoadError::System(format!("can't use what was compiled: {error:#}")))
    }

    /// Under which code is kept: it depends on the component, and on how it is compiled.
    fn key(&self, component: &[u8]) -> Hash {
        let mut compatible = DefaultHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut compatible);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&compatible.finish().to_le_bytes());
        hasher.update(component);
        hasher.finalize().into()
    }

    /// `None` where there is no cache, or it fails, which costs time alone.
    fn with_cache<T>(&self, act: impl FnOnce(&CodeCache) -> io::Result<T>) -> Option<T> {
        let result = act(self.cache.as_ref()?);
        result
            .inspect_err(|error| tracing::warn!(%error, "can't keep or read a compiled policy"))
            .ok()
    }

    /// Keeps all policies that it and its clones load from now on: no component is compiled twice.
    pub fn keep_all(self) -> Self {
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
    pub fn check_size(component: &[u8]) -> Result<(), LoadError> {
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
        self.cache_hits.load(Ordering::Relaxed)
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

/// The one place where bytes become code that runs outside of the sandbox.
#[expect(unsafe_code, reason = "no other function of wasmtime takes compiled code")]
fn code_to_component(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `deserialize` asks that the bytes are what `precompile_component` made, unchanged.
    // They come from this process, from its compiler, which is of the same build, or from
    // `CodeCache::load`, which has checked their BLAKE3, and that this user alone could write them.
    unsafe { Component::deserialize(engine, code) }
}
