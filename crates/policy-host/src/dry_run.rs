//! One tick of a policy where nothing can go wrong for anybody: with a canned peer, and a database
//! that is thrown away.
//!
//! A policy that traps, loops or refuses its settings does so here too, mostly, and so before it is
//! let near a node's data.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use edgestore_engine::{Engine, Hash, StagedSegment, StagingFile, Watermark, WriteBatch};
use edgestore_protocol::{
    FetchError, PeerError, PeerTransport, SegmentInfo, SegmentList, SegmentRef,
};

use super::wait::lock;
use super::{
    Context, CursorLayout, CursorStore, Downloads, Observer, Peer, Policy, Reason, Services,
    SystemClock, TickError, TickReport,
};

/// What the canned peer offers: segments, and records in each.
const SEGMENTS: u8 = 4;
const RECORDS: u8 = 10;

/// How the name of a database begins that is thrown away.
pub const TRIAL_FOLDER: &str = ".trial-";

/// Longest time of the tick. There is next to nothing to do.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a dry run failed.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// The policy's fault.
    #[error("a trial tick against a canned peer failed: {0}")]
    Tick(#[from] TickError),
    /// The folder's fault.
    #[error("can't make a database for a trial tick: {0}")]
    Stage(String),
}

/// How a dry run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DryRun {
    /// What the policy reported.
    pub report: TickReport,
    /// Segments that the canned peer has and the local database had not.
    pub offered: u32,
    /// Of these, the ones that are there now.
    pub pulled: u32,
}

/// Ticks the policy once, in a database that is made in `dir` and removed again.
///
/// # Errors
/// [`RehearsalError`]
pub fn dry_run(
    policy: &Policy,
    dir: &Path,
    settings: Vec<(String, String)>,
    observer: Option<Arc<dyn Observer>>,
) -> Result<DryRun, RehearsalError> {
    // What the policy logs is of no peer.
    let _span = tracing::info_span!("dry-run").entered();
    let stage = |error: &dyn std::fmt::Display| RehearsalError::Stage(error.to_string());
    let dir =
        tempfile::Builder::new().prefix(TRIAL_FOLDER).tempdir_in(dir).map_err(|e| stage(&e))?;
    let (peer, engine) = cast(dir.path()).map_err(|error| stage(&error))?;
    let offered = peer.segments.keys().filter(|hash| !engine.has(hash)).count();
    let hashes: Vec<_> = peer.segments.keys().copied().collect();

    let mut limits = policy.limits().clone();
    limits.tick_timeout = limits.tick_timeout.min(TIMEOUT);
    let services = Services {
        engine: Arc::clone(&engine),
        peers: vec![Arc::new(Peer::new("trial", Arc::new(peer), 4))],
        current: 0,
        cursors: Arc::new(OneCursor::default()),
        downloads: Arc::new(Downloads::default()),
        archive: None,
        clock: Arc::new(SystemClock),
        seed: 1,
        observer,
    };
    let context = Context { reason: Reason::Wake, interval: Duration::from_secs(30), settings };
    let report = policy.limited(limits).tick(services, context)?;
    let missing = engine.missing(&hashes).len();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(DryRun { report, offered: count(offered), pulled: count(offered - missing) })
}

/// Ticks the policy as [`dry_run`] does, with `new` settings. Where that fails, `old` ones tell
/// whether the new ones are to blame: what is returned then is how the policy fails with both.
///
/// # Errors
/// [`RehearsalError`], of the new settings.
pub fn rehearse_settings(
    policy: &Policy,
    dir: &Path,
    old: &[(String, String)],
    new: &[(String, String)],
) -> Result<Option<RehearsalError>, RehearsalError> {
    let dry_run = |settings: &[_]| dry_run(policy, dir, settings.to_vec(), None);
    match dry_run(new) {
        Ok(_) => Ok(None),
        Err(error @ RehearsalError::Stage(_)) => Err(error),
        Err(error) => {
            let why = error.to_string();
            let same = dry_run(old).is_err_and(|old| old.to_string() == why);
            if same { Ok(Some(error)) } else { Err(error) }
        }
    }
}

/// A peer, and a database that has the first of its segments and one of its own.
fn cast(dir: &Path) -> Result<(CannedPeer, Arc<Engine>), Box<dyn std::error::Error>> {
    let remote = Engine::open(dir.join("peer"))?;
    let local = Arc::new(Engine::open(dir.join("local"))?);
    let mut segments = HashMap::new();
    for n in 0..SEGMENTS {
        let mut batch = WriteBatch::new();
        for key in 0..RECORDS {
            batch.put(b"trial", &[key], &[n; 100], None);
        }
        batch.delete(b"trial", &[n]);
        remote.write(batch)?;
        let Some(meta) = remote.flush()? else { continue };
        let Some((mut file, _)) = remote.open_segment(&meta.hash)? else { continue };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        if n == 0 {
            let mut staging = local.stage()?;
            staging.write_all(&bytes)?;
            local.apply(&mut staging.verify(meta.hash)?)?;
        }
        segments.insert(meta.hash, bytes);
    }
    let listed = remote.extents().map(|(meta, extent)| {
        let info = extent.map(|extent| Box::new(SegmentInfo::new(&meta, extent)));
        SegmentRef { hash: meta.hash, id: meta.id, info }
    });
    let listed = listed.collect();
    local.put(b"trial", b"local", b"value")?;
    local.flush()?;
    let watermark = remote.watermark();
    Ok((CannedPeer { segments, listed, watermark }, local))
}

struct CannedPeer {
    segments: HashMap<Hash, Vec<u8>>,
    listed: SegmentList,
    watermark: Watermark,
}

impl PeerTransport for CannedPeer {
    fn root(&self) -> Result<Hash, PeerError> {
        Ok(Hash::root(self.segments.keys().copied()))
    }

    fn watermark(&self) -> Result<Option<Watermark>, PeerError> {
        Ok(Some(self.watermark))
    }

    fn manifest(&self) -> Result<SegmentList, PeerError> {
        Ok(self.listed.clone())
    }

    fn fetch(
        &self,
        hash: Hash,
        mut into: StagingFile,
        _cancel: &Arc<AtomicBool>,
    ) -> Result<StagedSegment, FetchError> {
        let bytes = self.segments.get(&hash).ok_or(FetchError::NotFound)?;
        into.write_all(bytes).map_err(FetchError::Storage)?;
        Ok(into.verify(hash)?)
    }
}

/// A cursor in memory.
#[derive(Default)]
struct OneCursor(Mutex<Option<Vec<u8>>>);

impl CursorStore for OneCursor {
    fn load(&self, _peer: &str, _layout: &CursorLayout) -> io::Result<Option<Vec<u8>>> {
        Ok(lock(&self.0).clone())
    }

    fn store(&self, _peer: &str, _layout: &CursorLayout, value: &[u8]) -> io::Result<()> {
        *lock(&self.0) = Some(value.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{policies, policy};
    use super::*;

    #[test]
    fn the_default_policy_pulls_all_that_the_canned_peer_has() {
        let dir = tempfile::tempdir().unwrap();
        let policy = policies(Duration::from_secs(10)).load_default().unwrap();
        let dry_run = dry_run(&policy, dir.path(), Vec::new(), None).unwrap();
        let missing = u32::from(SEGMENTS) - 1;
        assert_eq!((dry_run.offered, dry_run.pulled), (missing, missing));
        assert!(dry_run.report.in_sync && dry_run.report.applied == missing);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something is left");
    }

    #[test]
    fn a_policy_that_traps_or_refuses_its_settings_fails_its_dry_run() {
        let dir = tempfile::tempdir().unwrap();
        let engine = policies(Duration::from_secs(10));
        let trapping = engine.load(&policy("", "unreachable", "")).unwrap();
        let error = dry_run(&trapping, dir.path(), Vec::new(), None).unwrap_err().to_string();
        assert!(error.contains("trapped"), "{error}");
        let settings = vec![("windwo".to_owned(), "4".to_owned())];
        let default = engine.load_default().unwrap();
        let error = dry_run(&default, dir.path(), settings, None).unwrap_err().to_string();
        assert!(error.contains("windwo"), "{error}");
    }
}
