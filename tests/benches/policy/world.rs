//! A node with one peer, and one tick of it on either side.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use edgestore_host::Hash;
use edgestore_host::engine::Engine;
use edgestore_host::policy::{
    Context, CursorLayout, CursorStore, HostCall, Limits, Observer, Peer, Policy, Reason, Services,
    SystemClock, TickReport,
};
use edgestore_host::protocol::PeerTransport;
use edgestore_host::runtime::CursorFiles;
use guest_sync::DefaultPolicy;

use crate::native;
use crate::pairs::Side;

/// As many as the host has for one peer.
const THREADS: usize = 8;

/// What services a tick gets.
pub struct World {
    engine: Arc<Engine>,
    peers: Vec<Arc<Peer>>,
    cursors: Arc<dyn CursorStore>,
    policy: Policy,
    native: NativeTick,
}

type NativeTick = fn(&Limits, CursorLayout, Services, Context) -> Result<TickReport>;

impl World {
    /// A node with the default policy, whose cursors are in memory.
    pub fn new(policy: &Policy, engine: Engine, peer: impl PeerTransport + 'static) -> Self {
        Self {
            engine: Arc::new(engine),
            peers: vec![Arc::new(Peer::new("peer", Arc::new(peer), THREADS))],
            cursors: Arc::new(InMemory::default()),
            policy: policy.clone(),
            native: native::tick::<DefaultPolicy>,
        }
    }

    /// The same with another policy, which is `P` natively.
    pub fn with_policy<P: edgestore_policy::Policy>(self, policy: &Policy) -> Self {
        Self { policy: policy.clone(), native: native::tick::<P>, ..self }
    }

    /// Has another peer from now on.
    pub fn set_peer(&mut self, peer: impl PeerTransport + 'static) {
        self.peers = vec![Arc::new(Peer::new("peer", Arc::new(peer), THREADS))];
    }

    /// The root over what the node has.
    pub fn root(&self) -> Hash {
        self.engine.root()
    }

    /// The same with its cursors in files below `dir`, as a host has them.
    pub fn with_cursor_files(self, dir: &Path) -> Result<Self> {
        Ok(Self { cursors: Arc::new(CursorFiles::open(dir)?), ..self })
    }

    /// One tick, and how long it took.
    pub fn tick(&self, side: Side) -> Result<(Duration, TickReport)> {
        self.observed(side, None)
    }

    /// Ticks as a host does that is to pull all there is: at once again while the policy asks for
    /// it. Returns the time of all ticks together.
    pub fn pull(&self, side: Side, segments: u32) -> Result<Duration> {
        let (mut took, mut applied) = (Duration::ZERO, 0);
        loop {
            let (tick, report) = self.tick(side)?;
            took += tick;
            applied += report.applied;
            if report.in_sync {
                ensure!(applied == segments, "{applied} segments pulled, and not {segments}");
                return Ok(took);
            }
            let again = report.next_tick == Some(Duration::ZERO) && report.applied > 0;
            ensure!(again, "not in sync: {report:?}");
        }
    }

    /// Fails unless a tick makes the same calls into the host on both sides.
    pub fn check_calls(&self) -> Result<()> {
        let calls = |side| -> Result<_> {
            let seen = Arc::new(Calls::default());
            self.observed(side, Some(Arc::clone(&seen) as _))?;
            let calls = seen.0.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(calls.clone())
        };
        let (native, wasm) = (calls(Side::Native)?, calls(Side::Wasm)?);
        ensure!(!wasm.is_empty() && native == wasm, "natively {native:?}, but in wasm {wasm:?}");
        Ok(())
    }

    fn observed(
        &self,
        side: Side,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<(Duration, TickReport)> {
        let Self { engine, peers, cursors, policy, native } = self;
        let layout = policy.cursor_layout();
        let services = Services {
            engine: Arc::clone(engine),
            peers: peers.clone(),
            current: 0,
            cursors: Arc::clone(cursors),
            archive: None,
            clock: Arc::new(SystemClock),
            downloads: Arc::default(),
            seed: 7,
            observer,
        };
        let (reason, interval) = (Reason::Interval, Duration::from_secs(30));
        let context = Context { reason, interval, settings: Vec::new() };
        let start = Instant::now();
        let report = match side {
            Side::Wasm => policy.tick(services, context).context("in wasm")?,
            Side::Native => {
                native(policy.limits(), layout, services, context).context("natively")?
            }
        };
        Ok((start.elapsed(), report))
    }
}

/// A cursor that is kept in memory.
#[derive(Default)]
struct InMemory(Mutex<Option<Vec<u8>>>);

impl CursorStore for InMemory {
    fn load(&self, _peer: &str, _layout: &CursorLayout) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn store(&self, _peer: &str, _layout: &CursorLayout, value: &[u8]) -> io::Result<()> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value.into());
        Ok(())
    }
}

/// Host calls by name, with their arguments.
#[derive(Default)]
struct Calls(Mutex<Vec<(&'static str, String)>>);

impl Observer for Calls {
    fn called(&self, call: &HostCall<'_>) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push((call.name, call.arguments.to_owned()));
    }
}
