//! Engines that many cases share, each case in namespaces of its own, because making a database
//! takes as long as hundreds of cases.

use std::collections::{BTreeSet, HashSet, VecDeque};

use super::run::{Ops, by_command};
use super::*;

/// How many cases are looked at again after a restart.
const KEPT: usize = 64;

pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    pub(super) ops: Ops,
    cases: u64,
    /// The last cases, each with what every node must hold of it.
    left: VecDeque<(u64, Model)>,
    /// All namespaces with live records of all cases that are done.
    namespaces: BTreeSet<Vec<u8>>,
    // Goes after the engines.
    _dir: tempfile::TempDir,
}

pub(super) struct Node {
    /// None while it is opened again.
    engine: Option<Engine>,
    path: std::path::PathBuf,
    /// Of the last local write.
    pub(super) lsn: u64,
    /// What the node's clock has reached for certain, and at most.
    pub(super) clock: (i64, i64),
}

impl Node {
    pub(super) fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }
}

impl World {
    pub(super) fn new(nodes: usize) -> Self {
        // Segments are fsynced, and millions of fsyncs take days on a disk.
        let memory = Path::new("/dev/shm");
        let dir = if by_command() && memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let dir = dir.unwrap();
        let node = |n: usize| {
            let path = dir.path().join(n.to_string());
            Node { engine: Some(open(&path)), path, lsn: 0, clock: (0, 0) }
        };
        let nodes = (0..nodes).map(node).collect();
        let (left, namespaces) = (VecDeque::new(), BTreeSet::new());
        Self { nodes, ops: Ops::default(), cases: 0, left, namespaces, _dir: dir }
    }

    /// The number of a new case.
    pub(super) fn number(&mut self) -> u64 {
        self.cases += 1;
        self.cases
    }

    pub(super) fn engine(&self, node: usize) -> &Engine {
        self.nodes[node].engine()
    }

    /// Everything that a node holds of a case.
    pub(super) fn check(&mut self, node: usize, model: &Model, case: u64) -> Check {
        self.ops.reads += check_all(self.engine(node), model, case)?;
        Ok(())
    }

    pub(super) fn read(
        &mut self,
        node: usize,
        model: &Model,
        case: u64,
        read: &(usize, Read),
    ) -> Check {
        self.ops.reads += 1;
        check_read(self.engine(node), model, case, read)
    }

    /// Applies a segment, and compares what is told of it with the model, which follows. True when
    /// it was new.
    pub(super) fn apply(
        &mut self,
        node: usize,
        model: &mut Model,
        bytes: &[u8],
        entries: &[Entry],
    ) -> Check<bool> {
        let engine = self.engine(node);
        let duplicate = engine.has(&Hash::of(bytes));
        let applied = apply(engine, bytes).unwrap();
        let expected = if duplicate {
            Applied { duplicate, ..Applied::default() }
        } else {
            let written = model.merge_segment(entries);
            Applied { written, skipped: entries.len() as u64 - written, duplicate }
        };
        let keys: HashSet<_> = entries.iter().map(|entry| &entry.key).collect();
        if keys.len() == entries.len() || applied.written <= expected.written {
            prop_assert_eq!(applied, expected);
        }
        // In chunks, a key may be written more than once.
        prop_assert_eq!(applied.written + applied.skipped, expected.written + expected.skipped);
        self.ops.applies += 1;
        self.ops.records += entries.len() as u64;
        Ok(!duplicate)
    }

    /// A case is done, and all nodes hold the same of it.
    pub(super) fn leave(&mut self, case: u64, model: &Model) {
        self.namespaces.extend(model.namespaces().cloned());
        if self.left.len() == KEPT {
            self.left.pop_front();
        }
        self.left.push_back((case, model.clone()));
    }

    /// After a case, or cases that ran together. By command there are too many to look at each time.
    pub(super) fn done(&self) -> Check {
        if by_command() {
            return Ok(());
        }
        (0..self.nodes.len()).try_for_each(|node| self.check_namespaces(node))
    }

    /// Those of all cases that are done.
    pub(super) fn check_namespaces(&self, node: usize) -> Check {
        let namespaces = self.engine(node).namespaces().unwrap();
        prop_assert!(namespaces.is_sorted_by_key(|ns| (ns.len(), ns.clone())));
        let namespaces: BTreeSet<_> = namespaces.into_iter().collect();
        let wrong: Vec<_> = namespaces.symmetric_difference(&self.namespaces).collect();
        prop_assert!(wrong.is_empty(), "{wrong:?}");
        Ok(())
    }

    /// Closes and opens a node, and looks at what earlier cases left in it.
    pub(super) fn reopen(&mut self, node: usize) -> Check {
        self.ops.reopens += 1;
        let node_there = &mut self.nodes[node];
        let stats = node_there.engine().stats();
        let (root, watermark) = (node_there.engine().root(), node_there.engine().watermark());
        node_there.engine = None;
        node_there.engine = Some(open(&node_there.path));
        let engine = self.nodes[node].engine();
        prop_assert_eq!((engine.root(), engine.watermark()), (root, watermark));
        let again = engine.stats();
        // These change with time, or by themselves.
        let steady = |stats| EngineStats {
            disk_bytes: 0,
            disk_free: None,
            clock_ahead_secs: 0,
            segments_ahead: 0,
            records_ahead: 0,
            ..stats
        };
        prop_assert_eq!(steady(again), steady(stats));
        for (case, model) in &self.left {
            self.ops.reads += check_all(engine, model, *case)?;
        }
        Ok(())
    }

    /// After the last case. `same` when the nodes have the same segments.
    pub(super) fn finish(mut self, same: bool) -> Check<Ops> {
        for node in 0..self.nodes.len() {
            self.reopen(node)?;
            self.check_namespaces(node)?;
            let engine = self.engine(node);
            let manifest = engine.manifest();
            let hashes: Vec<_> = manifest.iter().map(|segment| segment.hash).collect();
            prop_assert_eq!(engine.root(), Hash::root(hashes.iter().copied()));
            prop_assert!(engine.missing(&hashes).is_empty());
            prop_assert!(!same || engine.root() == self.engine(0).root());
            let verified = engine.verify(false, |_, _| {}).unwrap();
            prop_assert_eq!(verified.count, 0, "{:?}", verified);
        }
        for node in 0..self.nodes.len() {
            self.engine(node).compact(&RateLimiter::unbounded()).unwrap();
            self.reopen(node)?;
            self.check_namespaces(node)?;
            let verified = self.engine(node).verify(false, |_, _| {}).unwrap();
            prop_assert_eq!(verified.count, 0, "{:?}", verified);
        }
        Ok(self.ops)
    }
}
