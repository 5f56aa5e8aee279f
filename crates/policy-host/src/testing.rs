//! Components and peers for tests.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use edgestore_engine::testing::LONG;
use edgestore_engine::{Engine, Hash, StagedSegment, StagingFile, Watermark};
use edgestore_protocol::{FetchError, PeerError, PeerTransport, SegmentList, SegmentRef};
use tracing::Level;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::wait::lock;
use super::*;

/// A component for the world `sync-policy`, of a core module in text form. It exports memory,
/// `cabi_realloc` and, with the names of `wit-component`, the policy's functions.
pub(super) fn component(wat: &str) -> Vec<u8> {
    component_of(wat, include_str!("../../../wit/sync.wit"), "sync-policy")
}

/// The same for another contract.
pub(super) fn component_of(wat: &str, wit: &str, world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("test.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut module = wat::parse_str(wat).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap()
}

/// A module whose `describe` says "hostile", version "1", and whose `tick` is `body`. `imports`
/// and `more` stand before and after the functions.
pub(super) fn policy(imports: &str, body: &str, more: &str) -> Vec<u8> {
    component(&module(imports, DESCRIBE, body, more))
}

/// Returns the description that lies at 16.
pub(super) const DESCRIBE: &str = "(i32.const 16)";

/// Of `policy`, with the body of `describe`.
pub(super) fn module(imports: &str, describe: &str, tick: &str, more: &str) -> String {
    format!(
        r#"(module {imports}
        (import "edgestore:sync/peers@0.2.0" "[resource-drop]peer" (func $drop (param i32)))
        (memory (export "memory") 2)
        (global $next (mut i32) (i32.const 4096))
        (data (i32.const 16) "\30\00\00\00\07\00\00\00\40\00\00\00\01\00\00\00\05\00\00\00")
        (data (i32.const 48) "hostile")
        (data (i32.const 64) "1")
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            (local.set $at
                (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
            (global.set $next (i32.add (local.get $at) (local.get 3)))
            (local.get $at))
        (func (export "edgestore:sync/policy@0.2.0#describe") (result i32) {describe})
        (func $body (param $peer i32) (param $budget i64) (result i32) {tick})
        (func (export "edgestore:sync/policy@0.2.0#tick")
            (param $reason i32) (param $budget i64) (param $interval i64)
            (param $settings i32) (param $settings_len i32) (param $peer i32)
            (result i32)
            (call $body (local.get $peer) (local.get $budget))
            (call $drop (local.get $peer)))
        {more})"#
    )
}

pub(super) use super::memory_cursors::Cursors;

type Answer = Box<dyn Fn() -> Result<(), PeerError> + Send + Sync>;
type BeforeFetch = Box<dyn Fn(&AtomicBool) -> Result<(), FetchError> + Send + Sync>;

/// A peer without a network.
pub(super) struct FakePeer {
    /// Runs before each answer but that of `fetch`, and may be an error in its place.
    pub(super) first: Answer,
    /// Runs before each `fetch`.
    pub(super) before_fetch: BeforeFetch,
    /// Name and bytes of each segment.
    pub(super) segments: Vec<(Hash, Vec<u8>)>,
}

impl Default for FakePeer {
    fn default() -> Self {
        Self {
            first: Box::new(|| Ok(())),
            before_fetch: Box::new(|_| Ok(())),
            segments: Vec::new(),
        }
    }
}

impl FakePeer {
    /// One that answers no request but fetches.
    pub(super) fn failing(error: PeerError) -> Self {
        Self { first: Box::new(move || Err(error.clone())), ..Self::default() }
    }

    /// One whose requests never end.
    pub(super) fn hanging() -> Self {
        let forever = || loop {
            std::thread::park();
        };
        Self { first: Box::new(forever), ..Self::default() }
    }

    /// One that offers what `engine` has.
    pub(super) fn offering(engine: &Engine) -> Self {
        let bytes = |hash: Hash| {
            let (mut file, _) = engine.open_segment(&hash).unwrap().unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            (hash, bytes)
        };
        let segments = engine.manifest().iter().map(|meta| bytes(meta.hash)).collect();
        Self { segments, ..Self::default() }
    }
}

impl PeerTransport for FakePeer {
    fn root(&self) -> Result<Hash, PeerError> {
        (self.first)()?;
        Ok(Hash::root(self.segments.iter().map(|(hash, _)| *hash)))
    }

    fn watermark(&self) -> Result<Option<Watermark>, PeerError> {
        (self.first)().map(|()| None)
    }

    fn manifest(&self) -> Result<SegmentList, PeerError> {
        (self.first)()?;
        Ok((0..)
            .zip(&self.segments)
            .map(|(id, &(hash, _))| SegmentRef { hash, id, info: None })
            .collect())
    }

    fn fetch(
        &self,
        hash: Hash,
        mut into: StagingFile,
        cancel: &Arc<AtomicBool>,
    ) -> Result<StagedSegment, FetchError> {
        (self.before_fetch)(cancel)?;
        let found = self.segments.iter().find(|(name, _)| *name == hash);
        let (_, bytes) = found.ok_or(FetchError::NotFound)?;
        into.write_all(bytes).map_err(FetchError::Storage)?;
        Ok(into.verify(hash)?)
    }
}

/// An archive in memory.
#[derive(Default)]
pub(super) struct MemoryArchive(pub(super) Mutex<HashMap<Hash, Vec<u8>>>);

impl Archive for MemoryArchive {
    fn upload(&self, engine: &Engine, hash: Hash) -> io::Result<UploadOutcome> {
        let (mut file, _) = engine.open_segment(&hash).unwrap().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(match lock(&self.0).insert(hash, bytes) {
            None => UploadOutcome::Stored,
            Some(_) => UploadOutcome::AlreadyThere,
        })
    }
}

/// An empty database, peers and cursors.
pub(super) struct World {
    _dir: tempfile::TempDir,
    pub(super) engine: Arc<Engine>,
    pub(super) peers: Vec<Arc<Peer>>,
    pub(super) cursors: Arc<Cursors>,
    pub(super) archive: Option<Arc<dyn Archive>>,
}

impl World {
    /// The peers are called a, b and so on.
    pub(super) fn new(peers: impl IntoIterator<Item = FakePeer>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let engine = Arc::new(Engine::open(dir.path().join("db")).unwrap());
        let peer = |(name, peer): (char, FakePeer)| {
            Arc::new(Peer::new(name.to_string(), Arc::new(peer), 4))
        };
        let peers = ('a'..).zip(peers).map(peer).collect();
        Self { _dir: dir, engine, peers, cursors: Arc::default(), archive: None }
    }

    pub(super) fn services(&self) -> Services {
        Services {
            engine: Arc::clone(&self.engine),
            peers: self.peers.clone(),
            current: 0,
            cursors: self.cursors.clone(),
            archive: self.archive.clone(),
            clock: Arc::new(SystemClock),
            downloads: Arc::default(),
            seed: 7,
            observer: None,
        }
    }

    pub(super) fn tick(&self, policy: &Policy) -> Result<TickReport, TickError> {
        policy.tick(self.services(), context())
    }
}

pub(super) fn context() -> Context {
    Context { reason: Reason::Wake, interval: Duration::from_secs(30), settings: Vec::new() }
}

/// Small ones.
pub(super) fn limits() -> Limits {
    Limits {
        tick_timeout: LONG,
        memory_bytes: 64 << 20,
        transfers: 4,
        cursor_bytes: 1000,
        log_lines: 10,
        ..Limits::default()
    }
}

/// An engine without a cache whose ticks take at most so long.
pub(super) fn policies(tick_timeout: Duration) -> PolicyEngine {
    PolicyEngine::new(None, Limits { tick_timeout, ..limits() }).unwrap()
}

thread_local! {
    /// What this thread has logged; `None` where nobody wants to know.
    static LINES: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// What `run` logs on this thread.
///
/// The subscriber is one for all threads of the process. Call sites cache whether anybody listens,
/// and ask the subscriber of the thread that comes to them first: one of a single thread misses
/// the lines that another test had come to before.
pub(super) fn logged<R>(run: impl FnOnce() -> R) -> (String, R) {
    static SUBSCRIBER: Once = Once::new();
    SUBSCRIBER.call_once(|| {
        let wanted = dynamic_filter_fn(|metadata, _| {
            *metadata.level() <= Level::DEBUG
                && LINES.try_with(|lines| lines.borrow().is_some()).unwrap_or(false)
        });
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| Lines);
        let subscriber = tracing_subscriber::registry().with(lines.with_filter(wanted));
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
    // Of a call site that was reached while the subscriber was being installed.
    tracing::callsite::rebuild_interest_cache();
    LINES.set(Some(Vec::new()));
    let result = run();
    let lines = LINES.take().unwrap();
    (String::from_utf8(lines).unwrap(), result)
}

/// Writes to [`LINES`].
struct Lines;

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.as_mut().map_or(Ok(bytes.len()), |to| to.write(bytes)))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_test_reads_its_log_though_another_thread_came_to_the_call_site_first() {
    fn log() {
        tracing::info!("a line");
    }
    let (lines, ()) = logged(|| {
        std::thread::spawn(log).join().unwrap();
        log();
    });
    assert_eq!(lines.matches("a line").count(), 1, "{lines}");
}
