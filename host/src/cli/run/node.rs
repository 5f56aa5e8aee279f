//! A host on an open database, from its start to its stop. `run` has one after the other where the
//! database has to be opened again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use signal_hook::consts::SIGHUP;

use super::{Effective, default_port_taken, log_start};
use crate::admin::AdminServer;
use crate::cli::database::{Database, Missing};
use crate::engine::{Engine, EngineError};
use crate::runtime::Host;
use crate::runtime::watch::FileWatch;

/// How often to look whether the database folder is still in its place, and takes writes.
const LOOK: Duration = Duration::from_secs(1);

/// Between two attempts to open the database again; twice as long each time, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What was open for this long was worth the attempt.
const GOOD_LIFE: Duration = Duration::from_secs(60);

/// A running host, and what belongs to it.
pub(super) struct Node {
    engine: Arc<Engine>,
    host: Arc<Host>,
    admin: AdminServer,
    watch: Option<FileWatch>,
}

/// Why a host is to stop.
pub(super) enum Ended {
    Signal(i32),
    /// Nothing was written for want of space, descriptors or memory, and now there is some.
    Recovered,
}

/// Where a host stopped.
pub(super) struct Stopped {
    /// Where it served.
    pub(super) listen: Option<SocketAddr>,
    /// What was wrong with the database in the end.
    pub(super) wrong: Option<String>,
}

impl Node {
    pub(super) fn start(
        config: &Arc<Effective>,
        missing: Missing,
        listen: Option<SocketAddr>,
    ) -> Result<Self> {
        let (db, args) = (config.db(), config.args());
        let engine = Arc::new(Database::own(db, missing, &args.engine())?);
        let mut builder = args.builder(Arc::clone(&engine))?;
        if let Some(addr) = listen {
            builder = builder.listen(addr);
        }
        let host = Arc::new(builder.start().map_err(|error| default_port_taken(args, error))?);
        let admin = AdminServer::start(&engine.home(), Arc::clone(&host) as _)
            .with_context(|| format!("can't open the admin socket in {}", db.display()))?;
        log_start(db, &host);
        let watch = config.watch(&host);
        Ok(Self { engine, host, admin, watch })
    }

    /// Until the host is to stop. It goes on for `pause` at least where nothing is written any more.
    ///
    /// # Errors
    /// What else ends it: its folder is not where it was, or no more signals can come.
    pub(super) fn wait(
        &mut self,
        signals: &Receiver<i32>,
        config: &Effective,
        pause: Duration,
    ) -> Result<Ended> {
        let mut reachable = true;
        let mut since = None;
        loop {
            match signals.recv_timeout(LOOK) {
                Ok(SIGHUP) => reload(config, self.watch.as_ref()),
                Ok(signal) => return Ok(Ended::Signal(signal)),
                Err(RecvTimeoutError::Timeout) => {
                    check_folder(&self.engine)?;
                    reachable = check_admin(&mut self.admin, reachable);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(no_signals()),
            }
            if self.engine.poisoned().is_some()
                && since.get_or_insert_with(Instant::now).elapsed() >= pause
                && self.engine.should_reopen()
            {
                return Ok(Ended::Recovered);
            }
        }
    }

    /// Ends all that runs and closes the database.
    pub(super) fn stop(self) -> Stopped {
        // Somebody may wait for one at the admin socket.
        self.host.stop_compacting();
        self.admin.shutdown();
        drop(self.watch);
        let listen = self.host.local_addr();
        match Arc::try_unwrap(self.host) {
            Ok(host) => host.shutdown(),
            Err(shared) => drop(shared),
        }
        self.engine.settle();
        let poisoned = self.engine.poisoned();
        let poisoned =
            poisoned.map(|why| format!("nothing was written any more before this stop: {why}"));
        // Who has it still closes it.
        let closed = Arc::into_inner(self.engine).map_or(Ok(()), Engine::close);
        Stopped { listen, wrong: poisoned.or(closed.err()) }
    }
}

/// How long what is open has to last before it is closed and opened again.
pub(super) struct Pauses {
    began: Instant,
    next: Duration,
}

impl Pauses {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), next: FIRST_PAUSE }
    }

    pub(super) fn next(&self) -> Duration {
        self.next
    }

    /// A host has begun again.
    pub(super) fn begin(&mut self) {
        self.next = match self.began.elapsed() {
            life if life >= GOOD_LIFE.max(2 * self.next) => FIRST_PAUSE,
            _ => (2 * self.next).min(LONGEST_PAUSE),
        };
        self.began = Instant::now();
    }
}

/// Starts a host on the database again, however often that takes; `None` where a signal comes first.
///
/// # Errors
/// Where it is no use: the database is damaged, or gone.
pub(super) fn start_again(
    config: &Arc<Effective>,
    listen: Option<SocketAddr>,
    signals: &Receiver<i32>,
) -> Result<Option<Node>> {
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match Node::start(config, Missing::Fail, listen) {
            Ok(node) => return Ok(Some(node)),
            Err(error) => error,
        };
        let engine = error.downcast_ref::<EngineError>();
        let final_ =
            engine.is_some_and(|e| e.is_damage() || matches!(e, EngineError::Foreign { .. }));
        if final_ {
            return Err(error);
        }
        let why = crate::cli::logging::chain(&error);
        tracing::error!(error = why, "can't open the database again; trying on");
        match signals.recv_timeout(pause) {
            Ok(SIGHUP) | Err(RecvTimeoutError::Timeout) => {}
            Ok(_) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => return Err(no_signals()),
        }
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

fn no_signals() -> anyhow::Error {
    anyhow!("signals can't be received")
}

fn reload(config: &Effective, watch: Option<&FileWatch>) {
    match (config.path(), watch) {
        (Some(file), Some(watch)) => {
            tracing::info!(file = %file.display(), "SIGHUP: reading the configuration again");
            watch.reload();
        }
        (Some(file), None) => tracing::warn!(
            file = %file.display(), "SIGHUP: this host can't follow the file; restart it"
        ),
        (None, _) => tracing::info!(
            "SIGHUP: nothing to read again, because this host was started without a file"
        ),
    }
}

/// What this host holds stays its own. But other programs look for it by the path, where another
/// host may start.
fn check_folder(engine: &Engine) -> Result<()> {
    let db = engine.path().display();
    match engine.is_in_place() {
        Ok(true) => Ok(engine.check_files()?),
        Ok(false) => Err(anyhow!(
            "the database folder {db} was moved, removed or replaced under the running host: \
             start a host with --db where the folder is now"
        )),
        Err(error) => {
            tracing::warn!(%error, "can't check whether the database folder is still at {db}");
            Ok(())
        }
    }
}

/// Makes the admin socket again where it is gone: without it nobody reaches this host, and nobody
/// else opens its database. Whether it is there now; `reachable` is what came of it the last time.
fn check_admin(admin: &mut AdminServer, reachable: bool) -> bool {
    if admin.is_in_place() {
        return true;
    }
    match admin.renew() {
        Ok(()) => {
            tracing::warn!("the admin socket was removed or replaced; it was made again");
            true
        }
        Err(error) => {
            if reachable {
                tracing::warn!(
                    %error, "the admin socket is gone and can't be made again; trying on"
                );
            }
            false
        }
    }
}
