//! A node on a faulty disk, what it has acknowledged, and what must therefore be there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use crate::disk::{FaultyDisk, Image, test_folder};
use crate::record::{Version, store_key};
use crate::segment::Entry;
use crate::*;

pub(super) fn options() -> EngineOptions {
    EngineOptions {
        sync_writes: false,
        cache_bytes: 1 << 20,
        flush_bytes: 2000,
        filter_bytes: 1 << 10,
        // Segments of some records are merged in chunks.
        memtable_bytes: 3000,
        // What peers bring is very old here.
        tombstone_grace: Duration::MAX,
        ..Default::default()
    }
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Several writes at once; none to delete.
    Write(Vec<(u8, Option<Vec<u8>>)>),
    Flush,
    Apply(Vec<Entry>),
    /// Flips a bit in the file of a segment.
    Damage(proptest::sample::Index),
    Repair,
    Compact,
}

pub(super) fn key(key: u8) -> Vec<u8> {
    store_key(b"ns", &[key]).unwrap()
}

/// What the node should hold. Local writes are stamped later than any that come from peers.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    versions: BTreeMap<Vec<u8>, Version<Vec<u8>>>,
    writes: i64,
}

pub(super) type Live = BTreeMap<Vec<u8>, Vec<u8>>;

impl Model {
    pub(super) fn after(&self, step: &Step) -> Self {
        let mut after = self.clone();
        match step {
            Step::Write(ops) => {
                for (k, value) in ops {
                    after.writes += 1;
                    let (deleted, value) = (value.is_none(), value.clone().unwrap_or_default());
                    let timestamp = 1_000_000 + after.writes;
                    after.merge(&key(*k), Version { timestamp, deleted, value, ttl: 0 });
                }
            }
            Step::Apply(entries) => {
                entries.iter().for_each(|entry| after.merge(&entry.key, entry.version.clone()));
            }
            Step::Flush | Step::Damage(_) | Step::Repair | Step::Compact => {}
        }
        after
    }

    fn merge(&mut self, key: &[u8], version: Version<Vec<u8>>) {
        let there = self.versions.entry(key.to_vec()).or_insert_with(|| version.clone());
        *there = version.max(there.clone());
    }

    pub(super) fn live(&self) -> Live {
        let live = self.versions.iter().filter(|(_, version)| !version.deleted);
        live.map(|(key, version)| (key.clone(), version.value.clone())).collect()
    }
}

pub(super) fn live(engine: &Engine) -> Live {
    let mut all = Live::new();
    for ns in engine.namespaces().unwrap() {
        for record in engine.range(&ns, b"", None).unwrap() {
            let record = record.unwrap();
            all.insert(store_key(&ns, &record.key).unwrap(), record.value);
        }
    }
    all
}

/// A node on a disk of its own, and what it has acknowledged.
pub(super) struct Node {
    pub(super) dir: tempfile::TempDir,
    pub(super) db: PathBuf,
    pub(super) disk: FaultyDisk,
    pub(super) acknowledged: Model,
    /// With what was being done when power was lost.
    pub(super) attempted: Model,
    pub(super) segments: Vec<SegmentMeta>,
    pub(super) compacting: bool,
    pub(super) damaged: BTreeSet<Hash>,
    pub(super) quarantined: BTreeSet<Hash>,
}

impl Node {
    /// With an empty database, or without any.
    pub(super) fn new(with_database: bool) -> Self {
        static EMPTY: OnceLock<Image> = OnceLock::new();
        let dir = test_folder();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let db = root.join("in/db");
        if with_database {
            let empty = EMPTY.get_or_init(|| {
                let dir = test_folder();
                drop(Engine::open_with(dir.path(), options()).unwrap());
                Image::read(dir.path()).unwrap()
            });
            empty.write(&db).unwrap();
        }
        Self {
            dir,
            db,
            disk: FaultyDisk::new(&root),
            acknowledged: Model::default(),
            attempted: Model::default(),
            segments: Vec::new(),
            compacting: false,
            damaged: BTreeSet::new(),
            quarantined: BTreeSet::new(),
        }
    }

    pub(super) fn open(&self) -> Result<Engine, EngineError> {
        Engine::open_on(&self.db, options(), self.disk.shared())
    }

    /// Does a step. An apply that has failed is tried again with the same staged segment.
    pub(super) fn step(
        &mut self,
        engine: &Engine,
        step: &Step,
        staged: &mut Option<StagedSegment>,
    ) -> Result<(), EngineError> {
        self.attempted = self.acknowledged.after(step);
        self.compacting = matches!(step, Step::Compact);
        match step {
            Step::Write(ops) => {
                let mut batch = WriteBatch::new();
                for (k, value) in ops {
                    match value {
                        Some(value) => batch.put(b"ns", &[*k], value, None),
                        None => batch.delete(b"ns", &[*k]),
                    }
                }
                engine.write(batch)?;
            }
            Step::Flush => {
                engine.flush()?;
            }
            Step::Apply(entries) => {
                if staged.is_none() {
                    *staged = Some(stage(engine, entries)?);
                }
                let applied = engine.apply(staged.as_mut().unwrap());
                applied.map(drop).map_err(|error| match error {
                    ApplyError::Storage(error) => error,
                    other => panic!("{other}"),
                })?;
                *staged = None;
            }
            Step::Damage(index) => {
                let sound = |segment: &&SegmentMeta| !self.damaged.contains(&segment.hash);
                let sound: Vec<_> = self.segments.iter().filter(sound).cloned().collect();
                if !sound.is_empty() {
                    // Until then, the file is all that there is of its records.
                    engine.drain(&mut engine.writer())?;
                    let hash = sound[index.index(sound.len())].hash;
                    self.disk.damage(&engine.folder.segment(&hash), 20);
                    self.damaged.insert(hash);
                }
            }
            Step::Repair => {
                engine.verify(true, |_, _| {})?;
                self.quarantined.append(&mut self.damaged);
            }
            Step::Compact => drop(engine.compact(&RateLimiter::unbounded())?),
        }
        self.acknowledged = self.attempted.clone();
        self.segments = engine.manifest();
        Ok(())
    }

    /// Reads go on after a step has failed. Of a segment that is merged in chunks, some may be there.
    pub(super) fn check_reads(&self, engine: &Engine) {
        let (before, after) = (self.acknowledged.live(), self.attempted.live());
        let found = live(engine);
        for key in before.keys().chain(after.keys()).chain(found.keys()) {
            let value = found.get(key);
            assert!(value == before.get(key) || value == after.get(key), "{key:?}");
        }
    }

    /// Looks at what a power failure leaves.
    pub(super) fn check_after_crash(&self, seed: u64) {
        let to = self.dir.path().join(format!("crashed-{seed}"));
        self.disk.crash(seed, &to);
        let db = to.join("in/db");
        let engine = Engine::open_with(&db, options()).unwrap();
        self.check(&engine);
        assert_eq!(fs::read_dir(db.join("staging")).unwrap().count(), 0);
        for hash in &self.quarantined {
            let file = format!("{hash}.dat");
            let again = self.segments.iter().any(|segment| segment.hash == *hash);
            assert!(again || db.join("quarantine").join(file).exists(), "evidence is lost");
        }
        // And it can go on.
        engine.put(b"ns", b"more", b"x").unwrap();
        engine.flush().unwrap();
        assert_eq!(engine.verify(false, |_, _| {}).unwrap().count, 0);
        drop(engine);
        fs::remove_dir_all(to).unwrap();
    }

    pub(super) fn check(&self, engine: &Engine) {
        let (found, acknowledged) = (live(engine), self.acknowledged.live());
        assert!(found == acknowledged || found == self.attempted.live(), "half a step");
        let manifest = engine.manifest();
        for segment in &self.segments {
            // What was being compacted may be retired, or not yet.
            let here = match self.compacting {
                true => engine.has(&segment.hash),
                false => manifest.contains(segment),
            };
            let damaged = self.damaged.contains(&segment.hash);
            assert!(here || damaged, "an acknowledged segment is gone");
        }
        if !self.damaged.is_empty() {
            engine.verify(true, |_, _| {}).unwrap();
            assert_eq!(live(engine), found, "a repair changes no record");
        }
        let verified = engine.verify(false, |_, _| {}).unwrap();
        assert_eq!(verified.count, 0, "{:?}", verified.problems);
    }
}

pub(super) fn stage(engine: &Engine, entries: &[Entry]) -> Result<StagedSegment, EngineError> {
    let bytes = segment::testing::of_small_blocks(entries);
    let mut file = engine.stage()?;
    bytes.chunks(3000).try_for_each(|chunk| file.write_all(chunk))?;
    Ok(file.verify(Hash::of(&bytes)).unwrap())
}
