//! A database that is opened directly, or reached through the host that holds it.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::args;
use crate::admin::{AdminClient, AdminError, Op, SegmentInfo, batch};
use crate::engine::{
    Compacted, Engine, EngineError, EngineOptions, EngineStats, RateLimiter, Record, StoreRepair,
    lost_format,
};
use crate::runtime::{Health, HostStatus};

/// How long to wait for a program that has the database and is no host (yet): one that writes a
/// record, or a host that starts or stops.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// What to do when there is no database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Create,
    Fail,
}

/// That there is a database, whether or not it can be opened.
pub(super) fn exists(dir: &Path) -> Result<()> {
    if dir.join("FORMAT").is_file() {
        return Ok(());
    }
    match lost_format(dir) {
        Some(why) => bail!("{} is no database of this host: {why}", dir.display()),
        None => bail!("there is no database at {}: is --db right?", dir.display()),
    }
}

/// An open database.
pub(super) enum Database {
    Direct(Box<Engine>),
    Remote(AdminClient),
}

/// How the database and its host are.
pub(super) enum Status {
    Running(Box<HostStatus>),
    Idle { engine: EngineStats, root: String, health: Box<Health> },
}

impl Database {
    pub(super) fn open(dir: &Path, missing: Missing) -> Result<Self> {
        Self::open_with(dir, missing, &EngineOptions::default())
    }

    /// Opens a database to read alone: nothing on disk changes.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        Self::read_with(dir, &EngineOptions::default())
    }

    /// [`Database::read`], with options for when it is opened directly.
    pub(super) fn read_with(dir: &Path, options: &EngineOptions) -> Result<Self> {
        Self::reach(dir, Missing::Fail, || Engine::open_to_read(dir, options.clone()))
    }

    /// Opens a database that may be damaged, to repair it, and says what was done; none where a host
    /// runs on it.
    pub(super) fn repair(
        dir: &Path,
        options: &EngineOptions,
    ) -> Result<Option<(Engine, StoreRepair)>> {
        let mut report = StoreRepair::default();
        let open = || -> Result<Engine, EngineError> {
            let (engine, said) = Engine::open_to_repair(dir, options.clone())?;
            report = said;
            Ok(engine)
        };
        Ok(match Self::reach(dir, Missing::Fail, open)? {
            Self::Direct(engine) => Some((*engine, report)),
            Self::Remote(_) => None,
        })
    }

    /// Opens a database to write to; makes one only where `create` says so.
    pub(super) fn open_to_write(dir: &Path, create: bool) -> Result<Self> {
        if !create && let Err(error) = exists(dir) {
            if lost_format(dir).is_some() {
                return Err(error);
            }
            bail!("{error} To make a new one there, give --create");
        }
        Self::open(dir, if create { Missing::Create } else { Missing::Fail })
    }

    /// [`Database::open`], with options for when it is opened directly.
    pub(super) fn open_with(dir: &Path, missing: Missing, options: &EngineOptions) -> Result<Self> {
        Self::reach(dir, missing, || match missing {
            Missing::Create => Engine::open_with(dir, options.clone()),
            // The folder may go while this waits for whoever has it.
            Missing::Fail => Engine::open_existing(dir, options.clone()),
        })
    }

    fn reach(
        dir: &Path,
        missing: Missing,
        mut open: impl FnMut() -> Result<Engine, EngineError>,
    ) -> Result<Self> {
        // The engine makes this file together with a database.
        if missing == Missing::Fail {
            exists(dir)?;
        }
        let give_up = Instant::now() + PATIENCE;
        loop {
            // First, since the engine waits a while for a lock.
            let host = AdminClient::connect_within(dir, args::host_timeout());
            let unreachable = match host {
                Ok(client) => return Ok(Self::Remote(client)),
                Err(error) => error,
            };
            match (open(), unreachable) {
                (Ok(engine), _) => return Ok(Self::Direct(Box::new(engine))),
                (Err(EngineError::Locked { .. }), AdminError::Absent(_)) => {}
                (Err(EngineError::Locked { .. }), error) => return Err(error.into()),
                (Err(error), _) => return Err(error.into()),
            }
            if Instant::now() >= give_up {
                bail!(
                    "the database {} is open in another process, which offers no admin socket: \
                     stop that process, or use its own interface",
                    dir.display()
                );
            }
            thread::sleep(PAUSE);
        }
    }

    /// Opens a database to run a host on; no other host may have it.
    pub(super) fn own(dir: &Path, missing: Missing, options: &EngineOptions) -> Result<Engine> {
        match Self::open_with(dir, missing, options)? {
            Self::Direct(engine) => Ok(*engine),
            Self::Remote(_) => bail!(
                "a host runs on the database {} already: see it by `status`, stop it, or give \
                 another --db",
                dir.display()
            ),
        }
    }

    pub(super) fn write(&mut self, ops: Vec<Op>) -> Result<()> {
        match self {
            Self::Direct(engine) => engine.write(batch(&ops)).map(drop)?,
            Self::Remote(client) => client.write(ops).map(drop)?,
        }
        Ok(())
    }

    pub(super) fn get(&mut self, ns: &[u8], key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(match self {
            Self::Direct(engine) => engine.get(ns, key)?,
            Self::Remote(client) => client.get(ns, key)?,
        })
    }

    /// At most `limit` records with start <= key < end, or to the end of the namespace.
    pub(super) fn scan(
        &mut self,
        ns: &[u8],
        start: &[u8],
        end: Option<&[u8]>,
        limit: u64,
    ) -> Result<Box<dyn Iterator<Item = Result<Record>> + '_>> {
        Ok(match self {
            Self::Direct(engine) => {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                let records = engine.range(ns, start, end)?.take(limit);
                Box::new(records.map(|record| record.map_err(Into::into)))
            }
            Self::Remote(client) => {
                let records = client.scan(ns, start, end, limit);
                Box::new(records.map(|record| record.map_err(Into::into)))
            }
        })
    }

    /// What is wrong with the database, as far as it is known.
    pub(super) fn health(&mut self) -> Result<Health> {
        Ok(match self.status()? {
            Status::Running(host) => host.health,
            Status::Idle { health, .. } => *health,
        })
    }

    /// What keeps reads from finding all that was written, as a clause; none where nothing does.
    pub(super) fn incomplete(&mut self) -> Result<Option<String>> {
        let health = match self {
            Self::Direct(engine) => Health::of(engine),
            Self::Remote(_) => self.health()?,
        };
        let count = health.lost + health.unregistered;
        Ok((!health.is_complete()).then(|| match count {
            0 => "local writes may be lost: see `edgestore-host status`".to_owned(),
            _ => format!(
                "the records of {count} segments can't be read now: see `edgestore-host status`"
            ),
        }))
    }

    pub(super) fn flush(&mut self) -> Result<Option<SegmentInfo>> {
        Ok(match self {
            Self::Direct(engine) => engine.flush()?.map(SegmentInfo::from),
            Self::Remote(client) => client.flush()?,
        })
    }

    /// Compacts, at most at this pace.
    pub(super) fn compact(&mut self, bytes_per_sec: Option<u64>) -> Result<Compacted> {
        Ok(match self {
            Self::Direct(engine) => engine.compact(&RateLimiter::new(bytes_per_sec))?,
            Self::Remote(client) => client.compact(bytes_per_sec)?,
        })
    }

    pub(super) fn segments(&mut self) -> Result<Vec<SegmentInfo>> {
        Ok(match self {
            Self::Direct(engine) => engine.manifest().into_iter().map(Into::into).collect(),
            Self::Remote(client) => client.segments()?,
        })
    }

    pub(super) fn status(&mut self) -> Result<Status> {
        Ok(match self {
            Self::Direct(engine) => {
                let (root, health) = (engine.root().to_string(), Box::new(Health::of(engine)));
                Status::Idle { engine: engine.stats(), root, health }
            }
            Self::Remote(client) => {
                let status = client.status().context("the running host does not tell how it is")?;
                Status::Running(Box::new(status))
            }
        })
    }
}
