//! What must hold, looked at while a run lasts and at its end.

use std::sync::Arc;
use std::time::Duration;

use edgestore_engine::{Hash, Problem};
use edgestore_node::CursorFiles;

use super::model::{Model, Seen};
use super::node::{Node, Setup};
use super::outcome::{Divergence, Invariant, Outcome, Violation};
use super::scenario::{Fault, FaultKind, Scenario};

/// Violations that are reported, besides the first of each invariant: a broken policy breaks the same
/// thing again and again.
const MOST: usize = 20;

/// What was found.
pub(super) struct Checks {
    setup: Arc<Setup>,
    /// A key that a node was behind with at the last look.
    behind: Option<String>,
    pub(super) violations: Vec<Violation>,
}

/// The stock cursor: root, pending, and three numbers.
type Cursor = (Vec<u8>, Vec<Vec<u8>>, u64, u64, u64);

impl Checks {
    pub(super) fn new(setup: &Arc<Setup>) -> Self {
        Self { setup: Arc::clone(setup), behind: None, violations: Vec::new() }
    }

    pub(super) fn fails(&mut self, at: Duration, invariant: Invariant, what: String) {
        self.setup.log.note(at, format_args!("VIOLATION {invariant:?}: {what}"));
        let first = !self.violations.iter().any(|violation| violation.invariant == invariant);
        if first || self.violations.len() < MOST {
            self.violations.push(Violation { at, invariant, what });
        }
    }

    /// Looks at all keys on all nodes: how many of them each node is behind with, and whether all
    /// nodes show the newest of all.
    pub(super) fn look(
        &mut self,
        nodes: &[Node],
        model: &Model,
        namespace: &[u8],
    ) -> (Vec<Option<u64>>, bool) {
        let at = self.setup.schedule.time();
        let mut all = true;
        let mut counts = Vec::with_capacity(nodes.len());
        for node in nodes {
            let Some(engine) = node.engine() else {
                counts.push(None);
                all = false;
                continue;
            };
            let mut behind = 0;
            // In the order of keys, as the model's.
            let records: Result<Vec<_>, _> =
                engine.range(namespace, b"", None).and_then(Iterator::collect);
            let records = match records {
                Ok(records) => records,
                Err(error) => {
                    let what = format!("n{} can't read: {error}", node.index);
                    self.fails(at, Invariant::Durability, what);
                    all = false;
                    counts.push(None);
                    continue;
                }
            };
            let (now, mut records) = (node.now(), records.iter().peekable());
            for key in model.keys() {
                while let Some(unknown) = records.next_if(|record| record.key < *key) {
                    let key = String::from_utf8_lossy(&unknown.key);
                    let what = format!("n{} shows {key}, which nobody wrote", node.index);
                    self.fails(at, Invariant::Merge, what);
                }
                let shown = records.next_if(|record| record.key == *key);
                let shown = shown.map(|record| (record.timestamp, &record.value[..]));
                match model.see(node.index, key, now, shown) {
                    Seen::Newest => {}
                    Seen::Behind => {
                        behind += 1;
                        let shown = shown.map_or("nothing".to_owned(), |(stamp, _)| {
                            format!("what is stamped {stamp}")
                        });
                        let (index, newest) = (node.index, model.newest(key));
                        let key = String::from_utf8_lossy(key);
                        self.behind = Some(format!(
                            "n{index} shows {shown} at {key}, of which the newest is {newest}"
                        ));
                    }
                    Seen::Wrong(why) => {
                        let invariant = if why.contains("acknowledged") {
                            Invariant::Durability
                        } else {
                            Invariant::Merge
                        };
                        let key = String::from_utf8_lossy(key);
                        self.fails(at, invariant, format!("n{} {why} at {key}", node.index));
                    }
                }
            }
            all &= behind == 0;
            counts.push(Some(behind));
            if let Some(what) = self.lacks(nodes, node) {
                self.behind = Some(what);
                all = false;
            }
            self.cursors(at, node);
            self.honesty(at, node);
            self.starvation(at, node);
        }
        (counts, all)
    }

    /// No cursor says that a list was pulled of which something is neither here nor pending.
    pub(super) fn cursors(&mut self, at: Duration, node: &Node) {
        let Some(engine) = node.engine() else { return };
        for source in self.setup.network.sources(node.index) {
            let peer = format!("n{source}");
            let file = node.db().join(format!("sync/{peer}.cursor"));
            let Ok(bytes) = std::fs::read(file) else { continue };
            // The policy is not given one of another state of the database.
            let Some(bytes) = CursorFiles::value_of(&peer, &bytes, &**engine) else { continue };
            // Other policies have cursors of other forms, which say nothing to us.
            let Ok((root, pending, ..)) = rmp_serde::from_slice::<Cursor>(bytes) else { continue };
            let Ok(root) = Hash::try_from(root.as_slice()) else { continue };
            let Some(list) = self.setup.network.offered(&root) else { continue };
            let missing = list.iter().find(|hash| {
                !engine.has(hash) && !pending.iter().any(|pending| pending == hash.as_bytes())
            });
            if let Some(hash) = missing {
                let (index, hash) = (node.index, hash.short());
                let what = format!("n{index} notes n{source} as pulled, and lacks segment {hash}");
                self.fails(at, Invariant::Cursor, what);
            }
        }
    }

    /// What a node says of a peer is so: it is in sync when all is here that the peer lists.
    fn honesty(&mut self, at: Duration, node: &Node) {
        let Some(engine) = node.engine() else { return };
        let sources = self.setup.network.sources(node.index);
        for (source, status) in sources.into_iter().zip(node.peers()) {
            if !status.in_sync() {
                continue;
            }
            let root = status.comparison.peer_root.and_then(|root| root.parse::<Hash>().ok());
            let Some(list) = root.and_then(|root| self.setup.network.offered(&root)) else {
                // A peer that lies about its root has no list for it.
                continue;
            };
            let missing: Vec<_> = list.iter().filter(|hash| !engine.has(hash)).collect();
            if let Some(first) = missing.first() {
                let (index, count, first) = (node.index, missing.len(), first.short());
                let what = format!(
                    "n{index} says that it is in sync with n{source}, and lacks {count} of its \
                     segments, {first} one of them"
                );
                self.fails(at, Invariant::Honesty, what);
            }
        }
    }

    /// Of a node that has lost some of its data: what it still has to get from its peers.
    fn lacks(&self, nodes: &[Node], node: &Node) -> Option<String> {
        // What is far ahead stays where it is.
        let far = |fault: &Fault| matches!(fault.kind, FaultKind::ClockFarAhead { .. });
        let whole = node.hurt.is_empty() && !node.restored;
        if whole || self.setup.scenario.faults.iter().any(far) {
            return None;
        }
        let engine = node.engine()?;
        self.setup.network.sources(node.index).into_iter().find_map(|source| {
            let offered = nodes[source].engine()?.manifest();
            let missing = offered.iter().find(|segment| !engine.has(&segment.hash))?;
            let (index, hash) = (node.index, missing.hash.short());
            Some(format!("n{index} lacks segment {hash}, which n{source} has"))
        })
    }

    /// Every peer is ticked when it is due, and now and then in any case, however many fail.
    fn starvation(&mut self, at: Duration, node: &Node) {
        let late = self.setup.scenario.interval * 20;
        let bound = late.max(Duration::from_secs(60 * 60));
        for source in self.setup.network.sources(node.index) {
            let last = node.ticks.counts().last.get(&format!("n{source}")).copied();
            // A node that starts ticks all peers at once.
            let ended = last.filter(|(ended, _)| *ended >= node.up_since);
            let (ended, due) = ended.unwrap_or((node.up_since, node.up_since));
            let why = if at.saturating_sub(ended) > bound {
                format!("for {bound:?}")
            } else if at.saturating_sub(due) > late {
                format!("within {late:?} after that was due")
            } else {
                continue;
            };
            let what = format!("n{} has not ticked n{source} {why}", node.index);
            self.fails(at, Invariant::Starvation, what);
        }
    }

    /// What is looked at once. Returns the bytes that had to cross the network at least.
    pub(super) fn at_end(
        &mut self,
        nodes: &[Node],
        converged_after: Option<Duration>,
        divergence: &[Divergence],
    ) -> u64 {
        let at = self.setup.schedule.time();
        if converged_after.is_none() {
            let last = divergence.last().map(|last| last.behind.clone()).unwrap_or_default();
            let behind: Vec<_> = last
                .iter()
                .enumerate()
                .filter_map(|(node, behind)| match behind {
                    Some(0) => None,
                    Some(behind) => Some(format!("n{node} by {behind} keys")),
                    None => Some(format!("n{node} is down")),
                })
                .collect();
            let within = self.setup.scenario.expect.converge_within;
            let example = self.behind.take().unwrap_or_default();
            let behind = behind.join(", ");
            let what = format!("nodes still differ after {within:?}: {behind}; {example}");
            self.fails(at, Invariant::Convergence, what);
        }
        for node in nodes {
            let blamed = std::mem::take(&mut node.ticks.counts().blamed);
            for (at, what) in blamed {
                self.fails(at, Invariant::Limits, what);
            }
            let Some(engine) = node.engine() else { continue };
            match engine.verify(false, |_, _| {}) {
                Ok(found) if found.problems.iter().all(|one| may_be(one, node, nodes)) => {}
                Ok(found) => {
                    let what = format!("n{}: {:?}", node.index, found.problems.first());
                    self.fails(at, Invariant::Integrity, what);
                }
                Err(error) => {
                    let what = format!("n{} can't be verified: {error}", node.index);
                    self.fails(at, Invariant::Integrity, what);
                }
            }
        }
        // What compactions make of them comes on top.
        nodes.iter().map(Node::flushed_bytes).sum::<u64>() * (nodes.len() as u64 - 1)
    }
}

/// Of a segment whose file was hurt, and which no peer has any more, nothing comes again: what it
/// had is in others. That a repair would say so is no fault of the database.
fn may_be(problem: &Problem, node: &Node, nodes: &[Node]) -> bool {
    let (Problem::Missing(hash) | Problem::Lost(hash)) = problem else { return false };
    node.hurt.iter().any(|hurt| hurt.hash == *hash) && !nodes.iter().any(|other| other.lists(hash))
}

/// What the scenario asks for beside the invariants.
pub(super) fn expectations(scenario: &Scenario, outcome: &mut Outcome) {
    if let (Some(limit), Some(overhead)) = (scenario.expect.max_overhead, outcome.overhead())
        && overhead > limit
    {
        outcome.violations.push(Violation {
            at: outcome.simulated,
            invariant: Invariant::Expectation,
            what: format!(
                "{overhead:.2} times the least possible bytes crossed the network, and \
                 {limit:.2} are expected at most (max_overhead)"
            ),
        });
    }
}
