//! Faults: when they begin and end, and what they change.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use edgestore_engine::{Hash, Problem};

use super::node::Node;
use super::outcome::{Invariant, Span};
use super::run::{Action, Active, NAMESPACE, Run};
use super::scenario::{Fault, FaultKind, When};

/// Power is lost within one of so many operations of a node's disk, or after so long.
const OPERATIONS: u64 = 40;
const PATIENCE: Duration = Duration::from_secs(120);

/// Before a node is started again that did not start.
const RESTART: Duration = Duration::from_secs(30);

impl Run {
    pub(super) fn begin(&mut self, index: usize) {
        let fault = self.scenario().faults[index].clone();
        if let When::PerHour(rate) = fault.when {
            let next = self.time().saturating_add(self.pause(rate / 3600.0));
            self.at(next, Action::Begin(index));
        }
        let node = fault.nodes[self.setup.schedule.below(fault.nodes.len())];
        // One at a time of a kind on a node.
        let again = self.active.values().any(|active| active.fault == index && active.node == node);
        if again {
            return;
        }
        if fault.kind == FaultKind::Crash && self.setup.schedule.chance() < 0.5 {
            self.plan_crash(index, node);
            return;
        }
        let what = words(&fault, node);
        let (from, until) = (self.time(), self.time() + fault.lasts);
        self.setup.log.note(from, format_args!("begins: {what}"));
        self.set(index, node, true);
        let active = Active { fault: index, node, waits: false, boots: false };
        let key = self.lasts(Span { from, until, what }, active);
        self.at(until, Action::End(key));
    }

    /// Notes that a fault lasts, and returns its key.
    fn lasts(&mut self, span: Span, active: Active) -> usize {
        let key = self.faults.len();
        self.faults.push(span);
        self.active.insert(key, active);
        key
    }

    /// Has a node lose power within one of the next operations of its disk, whatever that is.
    fn plan_crash(&mut self, fault: usize, node: usize) {
        let n = self.setup.schedule.random() % OPERATIONS;
        self.nodes[node].plan_power_loss(n);
        let (from, until) = (self.time(), self.time() + PATIENCE);
        let what = format!("n{node} without power, between two operations of its disk");
        self.setup.log.note(from, format_args!("n{node} is to lose power {n} operations from now"));
        let key = self
            .lasts(Span { from, until, what }, Active { fault, node, waits: true, boots: false });
        self.at(until, Action::Cut(key));
    }

    /// Of a planned crash, the operation has not come.
    pub(super) fn cut(&mut self, key: usize) {
        if let Some(&Active { node, waits: true, .. }) = self.active.get(&key) {
            self.crash(node);
        }
    }

    /// To be called before anything else is done to the nodes.
    pub(super) fn crash_those_without_power(&mut self) {
        while let Some(node) = self.nodes.iter().position(Node::lost_power) {
            self.crash(node);
        }
    }

    /// A node has lost power, or does now: that is what all crashes waited for that were planned.
    fn crash(&mut self, node: usize) {
        let (at, planned) = (self.time(), self.nodes[node].lost_power());
        let mut ends = Vec::new();
        for (key, active) in &mut self.active {
            if active.node != node || !std::mem::take(&mut active.waits) {
                continue;
            }
            let until = at + self.setup.scenario.faults[active.fault].lasts;
            let span = &mut self.faults[*key];
            (span.from, span.until) = (at, until);
            if !planned {
                span.what = format!("n{node} without power");
            }
            self.setup.log.note(at, format_args!("begins: {}", span.what));
            ends.push((until, *key));
        }
        for (until, key) in ends {
            self.at(until, Action::End(key));
        }
        self.nodes[node].crash();
    }

    pub(super) fn end(&mut self, key: usize) {
        if self.active.get(&key).is_some_and(|active| active.waits) {
            self.cut(key);
        }
        let Some(Active { fault, node, boots, .. }) = self.active.remove(&key) else { return };
        let now = self.time();
        self.faults[key].until = now;
        self.setup.log.note(now, format_args!("ends: {}", self.faults[key].what));
        if boots {
            self.boot(fault, node);
        } else {
            self.set(fault, node, false);
        }
    }

    /// Begins a fault of a node, or ends it.
    fn set(&mut self, index: usize, node: usize, on: bool) {
        let fault = self.scenario().faults[index].clone();
        let network = Arc::clone(&self.setup.network);
        let mut network_faults = network.faults();
        let put = |set: &mut BTreeSet<usize>| if on { set.insert(node) } else { set.remove(&node) };
        match fault.kind {
            FaultKind::Partition => {
                let island: BTreeSet<usize> = fault.nodes.iter().copied().collect();
                if on {
                    network_faults.partitions.push(island);
                } else if let Some(at) =
                    network_faults.partitions.iter().position(|other| *other == island)
                {
                    network_faults.partitions.remove(at);
                }
            }
            FaultKind::Slow { factor } if on => drop(network_faults.slow.insert(node, factor)),
            FaultKind::Slow { .. } => drop(network_faults.slow.remove(&node)),
            FaultKind::Hang => drop(put(&mut network_faults.hanging)),
            FaultKind::CutBody => drop(put(&mut network_faults.cutting)),
            FaultKind::BitFlip => drop(put(&mut network_faults.flipping)),
            FaultKind::LyingRoot => drop(put(&mut network_faults.lying_root)),
            FaultKind::LyingManifest => drop(put(&mut network_faults.lying_manifest)),
            FaultKind::DiskFull => self.nodes[node].set_disk_full(on),
            FaultKind::ClockJump { by_secs } => {
                let by = by_secs.saturating_mul(1_000_000_000);
                self.nodes[node].jump(if on { by } else { -by });
            }
            FaultKind::ClockFarAhead { by_secs } => {
                let by = by_secs.saturating_mul(1_000_000_000);
                self.model.clock_far_ahead(node);
                self.nodes[node].jump(if on { by } else { -by });
            }
            FaultKind::Crash
            | FaultKind::Swap
            | FaultKind::SegmentLost
            | FaultKind::SegmentDamaged
            | FaultKind::BackupRestored => {
                drop(network_faults);
                self.set_node(index, node, on);
            }
        }
    }

    /// Of these faults, the node's tasks have a part.
    fn set_node(&mut self, index: usize, node: usize, on: bool) {
        let fault = &self.setup.scenario.faults[index];
        match (&fault.kind, on) {
            (FaultKind::Crash, true) => self.crash(node),
            (FaultKind::SegmentLost, true) => self.hurt(node, false),
            (FaultKind::SegmentDamaged, true) => self.hurt(node, true),
            (FaultKind::BackupRestored, true) => {
                self.nodes[node].back_up(index);
                self.copies.insert((index, node), self.model.copy(node));
            }
            (FaultKind::BackupRestored, false) => self.restore(index, node),
            (FaultKind::Crash | FaultKind::SegmentLost | FaultKind::SegmentDamaged, false) => {
                self.boot(index, node);
            }
            (_, on) => {
                if let Err(why) = self.nodes[node].swap(on) {
                    self.fault_failed(node, &why);
                }
            }
        }
    }

    /// Whether it is of any use to know: a node that lost power meanwhile has said so, and has a
    /// crash of its own that ends.
    fn fault_failed(&self, node: usize, why: &str) -> bool {
        let counts = !self.nodes[node].lost_power();
        if counts {
            self.setup.log.note(self.time(), format_args!("n{node}: {why}"));
        }
        counts
    }

    /// Starts a node, unless another fault has it down for longer.
    fn boot(&mut self, fault: usize, node: usize) {
        if self.is_down(node) {
            return;
        }
        let at = self.time();
        let booted = self.nodes[node].boot();
        // As the crash left it, before a tick makes up for that.
        self.checks.cursors(at, &self.nodes[node]);
        if let Err(why) = booted
            && self.fault_failed(node, &why)
        {
            // As a supervisor does, it is started again: its disk may be full, and not for ever.
            let what = format!("n{node} does not start");
            let span = Span { from: at, until: at + RESTART, what };
            let key = self.lasts(span, Active { fault, node, waits: false, boots: true });
            self.at(at + RESTART, Action::End(key));
        }
    }

    /// A node loses power, and then the file of a segment, or a bit of it.
    fn hurt(&mut self, node: usize, damage: bool) {
        self.crash(node);
        let at = self.time();
        let did = if damage { "damaged" } else { "lost" };
        match self.nodes[node].hurt_segment(damage) {
            Ok(Some(hash)) => {
                let hash = hash.short();
                self.setup.log.note(at, format_args!("n{node}: segment {hash} is {did}"));
            }
            Ok(None) => self.setup.log.note(at, format_args!("n{node} has no segment to be {did}")),
            Err(error) => self.setup.log.note(at, format_args!("n{node}: {error}")),
        }
    }

    /// A node loses power, and starts with older data.
    fn restore(&mut self, fault: usize, node: usize) {
        self.crash(node);
        let Some(copy) = self.copies.remove(&(fault, node)) else { return };
        if let Err(error) = self.nodes[node].restore(fault) {
            let what = format!("n{node}: the copy can't be put back: {error}");
            self.checks.fails(self.time(), Invariant::Durability, what);
            return;
        }
        self.boot(fault, node);
        let nodes = &self.nodes;
        self.model.restored(node, &copy, |key| {
            nodes.iter().filter_map(|node| node.stored(NAMESPACE, key)).collect()
        });
    }

    /// Whether a fault has the node down that lasts.
    fn is_down(&self, node: usize) -> bool {
        let mut lasting =
            self.active.values().filter(|active| active.node == node && !active.waits);
        lasting.any(|active| {
            active.boots || self.scenario().faults[active.fault].kind.takes_the_node_down()
        })
    }

    /// What somebody has to do who looks after the nodes: of files that were hurt, those that no
    /// peer sends again are given up, after a restart.
    fn repair(&mut self) {
        for node in 0..self.nodes.len() {
            let hurt = self.nodes[node].hurt.clone();
            let damaged: Vec<Hash> = hurt
                .iter()
                .filter(|hurt| hurt.damaged && self.nodes[node].is_damaged(&hurt.hash))
                .map(|hurt| hurt.hash)
                .collect();
            let gone = |hash: &Hash| {
                let known = self.nodes[node].engine().is_none_or(|engine| engine.has(hash));
                !known && !self.nodes.iter().any(|other| other.lists(hash))
            };
            if damaged.is_empty() && !hurt.iter().any(|hurt| gone(&hurt.hash)) {
                continue;
            }
            let at = self.time();
            self.setup.log.note(at, format_args!("n{node} is repaired"));
            self.crash(node);
            let found = match self.nodes[node].boot_after_repair() {
                Ok(found) => found,
                Err(why) => {
                    let what = format!("n{node}: {why}");
                    self.checks.fails(at, Invariant::Integrity, what);
                    continue;
                }
            };
            self.checks.cursors(at, &self.nodes[node]);
            for hash in damaged {
                let noticed = found.problems.iter().any(|problem| match problem {
                    Problem::Damaged(named, _) | Problem::Missing(named) => *named == hash,
                    _ => false,
                });
                if !noticed {
                    let hash = hash.short();
                    let what =
                        format!("n{node}: a check does not find that segment {hash} changed");
                    self.checks.fails(at, Invariant::Integrity, what);
                }
            }
        }
    }

    /// All that goes wrong ends, and what does not start now never will.
    pub(super) fn end_all(&mut self) {
        // A node may not start before its disk has room again.
        for _ in 0..3 {
            for key in self.active.keys().copied().collect::<Vec<_>>() {
                self.end(key);
            }
        }
        let at = self.time();
        for active in std::mem::take(&mut self.active).into_values() {
            let what = format!("n{} does not start again", active.node);
            self.checks.fails(at, Invariant::Durability, what);
        }
        self.repair();
    }
}

impl Run {
    /// What was stamped by a clock that was far ahead is stamped again, as somebody does who looks
    /// after the node. Whether there was such a clock.
    pub(super) fn restamp(&mut self) -> bool {
        let far = self.model.far_nodes();
        for &node in &far {
            let at = self.time();
            self.setup.log.note(at, format_args!("n{node} stamps again"));
            self.crash(node);
            if let Err(why) = self.nodes[node].boot_after_restamp() {
                self.checks.fails(at, Invariant::Convergence, format!("n{node}: {why}"));
                continue;
            }
            self.checks.cursors(at, &self.nodes[node]);
            let restarted = &self.nodes[node];
            self.model.restamped(node, |key| restarted.stored(NAMESPACE, key));
        }
        !far.is_empty()
    }
}

impl FaultKind {
    /// For as long as it lasts.
    fn takes_the_node_down(&self) -> bool {
        matches!(self, Self::Crash | Self::SegmentLost | Self::SegmentDamaged)
    }
}

fn words(fault: &Fault, node: usize) -> String {
    match &fault.kind {
        FaultKind::Partition => {
            let nodes: Vec<_> = fault.nodes.iter().map(|node| format!("n{node}")).collect();
            format!("{} cut off", nodes.join(", "))
        }
        FaultKind::Crash => format!("n{node} without power"),
        FaultKind::Slow { factor } => format!("n{node} slow by {factor}"),
        FaultKind::Hang => format!("n{node} hangs"),
        FaultKind::CutBody => format!("n{node} cuts bodies"),
        FaultKind::BitFlip => format!("n{node} flips bits"),
        FaultKind::LyingRoot => format!("n{node} lies about its root"),
        FaultKind::LyingManifest => format!("n{node} lies about its segments"),
        FaultKind::DiskFull => format!("n{node} has a full disk"),
        FaultKind::Swap => format!("n{node} runs another file of the policy"),
        FaultKind::ClockJump { by_secs } => format!("n{node}'s clock jumps by {by_secs} s"),
        FaultKind::ClockFarAhead { by_secs } => format!("n{node}'s clock is ahead by {by_secs} s"),
        FaultKind::SegmentLost => format!("n{node} without power, and then without a segment file"),
        FaultKind::SegmentDamaged => {
            format!("n{node} without power, and then with a damaged segment file")
        }
        FaultKind::BackupRestored => {
            format!("n{node} is copied, and gets the copy back at the end")
        }
    }
}
