//! Plays a scenario: writes, faults and looks at what the nodes show, in the order of their times.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use edgestore_engine::EngineOptions;

use super::check::Checks;
use super::log::EventLog;
use super::model::{Acknowledged, Model, Write};
use super::network::Network;
use super::node::{Node, Setup};
use super::outcome::{Divergence, NodeCounts, Outcome, Span};
use super::policy_under_test::{PolicyUnderTest, SimError};
use super::scenario::{FaultKind, Scenario, When, Writer};
use super::schedule::{EPOCH_SECS, Schedule};
use super::topology;

/// Looks at all nodes while a run lasts.
const LOOKS: u32 = 30;

/// Room that a folder in memory is to have.
#[cfg(target_os = "linux")]
const MEMORY_BYTES: u64 = 1 << 30;

/// The namespace of all writes.
pub(super) const NAMESPACE: &[u8] = b"sim";

/// Runs a scenario once. `all_events`: the outcome has the whole event log.
///
/// # Errors
/// [`SimError`]; what goes wrong in the simulation is in the outcome.
pub fn run(
    scenario: &Scenario,
    subject: &PolicyUnderTest,
    seed: u64,
    all_events: bool,
) -> Result<Outcome, SimError> {
    let folder = folder()?;
    let schedule = Ending(Schedule::new(seed));
    let run = Run::start(&schedule.0, scenario, subject, seed, all_events, folder.path());
    let outcome = run?.play();
    // Requests that were on their way end, and let go of the engines that they ask.
    schedule.0.sleep_until(schedule.0.time() + Duration::from_secs(24 * 60 * 60));
    outcome
}

/// Ends the schedule, whatever becomes of the run.
struct Ending(Schedule);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// In memory where the system has such a folder with room: nothing is to survive.
fn folder() -> std::io::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let prefix = "edgestore-sim-";
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix(prefix);
    if has_room(memory)
        && let Ok(folder) = builder.tempdir_in(memory)
    {
        return Ok(folder);
    }
    builder.tempdir()
}

/// Containers often have 64 MiB there, which is too little.
fn has_room(folder: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        let stat = rustix::fs::statvfs(folder);
        stat.is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) >= MEMORY_BYTES)
    }
    #[cfg(not(target_os = "linux"))]
    {
        folder.is_dir()
    }
}

pub(super) enum Action {
    Write(usize),
    Begin(usize),
    End(usize),
    /// Power that was to be lost within an operation of a node's disk is cut at last.
    Cut(usize),
    Look,
}

pub(super) struct Run {
    pub(super) setup: Arc<Setup>,
    pub(super) seed: u64,
    pub(super) title: String,
    pub(super) nodes: Vec<Node>,
    pub(super) model: Model,
    pub(super) checks: Checks,
    pub(super) agenda: BTreeMap<(Duration, u64), Action>,
    pub(super) sequence: u64,
    /// Faults that last, by their places in `faults`.
    pub(super) active: BTreeMap<usize, Active>,
    pub(super) faults: Vec<Span>,
    /// What nodes had acknowledged when they were copied, by fault and node.
    pub(super) copies: BTreeMap<(usize, usize), Acknowledged>,
    pub(super) divergence: Vec<Divergence>,
    pub(super) written: u64,
}

pub(super) struct Active {
    pub(super) fault: usize,
    pub(super) node: usize,
    /// Of a crash: power is still to be lost.
    pub(super) waits: bool,
    /// At its end the node is started, and no more.
    pub(super) boots: bool,
}

impl Run {
    fn start(
        schedule: &Schedule,
        scenario: &Scenario,
        subject: &PolicyUnderTest,
        seed: u64,
        all_events: bool,
        folder: &Path,
    ) -> Result<Self, SimError> {
        let log = Arc::new(EventLog::new(all_events, folder));
        let links = topology::links(scenario, schedule);
        let network = Network::new(schedule, &log, scenario.nodes, links);
        let power = schedule.notify();
        let (plugin, variant) = (folder.join("policy.wasm"), folder.join("copy.wasm"));
        std::fs::write(&plugin, &subject.component)?;
        std::fs::write(&variant, &subject.variant)?;
        let setup = Arc::new(Setup {
            schedule: schedule.clone(),
            network,
            power: power.into(),
            log,
            scenario: scenario.clone(),
            policies: subject.engine.clone(),
            plugin,
            variant,
            #[cfg(test)]
            plant: subject.plant,
        });
        let skew = scenario.clock_skew.as_nanos() as f64;
        let mut nodes = Vec::with_capacity(scenario.nodes);
        for index in 0..scenario.nodes {
            let ahead = (schedule.chance() * 2.0 - 1.0) * skew;
            // No chance is taken where there is none, so that older seeds stay what they are.
            let drift = match scenario.clock_drift_ppm {
                0 => 0.0,
                ppm => (schedule.chance() * 2.0 - 1.0) * ppm as f64 * 1000.0,
            };
            let node = Node::start(&setup, index, folder, (ahead as i64, drift as i64));
            nodes.push(node.map_err(|why| SimError::Node { node: index, why })?);
        }
        // Clocks that jump differ by as much.
        let jumps = scenario.faults.iter().filter_map(|fault| match fault.kind {
            FaultKind::ClockJump { by_secs } => Some(Duration::from_secs(by_secs.unsigned_abs())),
            _ => None,
        });
        let jumps: Duration = jumps.sum();
        let drift = (scenario.duration + scenario.expect.converge_within)
            .mul_f64(scenario.clock_drift_ppm as f64 / 1e6);
        let off = scenario.clock_skew + jumps + drift;
        let far = scenario
            .faults
            .iter()
            .any(|fault| matches!(fault.kind, FaultKind::ClockFarAhead { .. }));
        let model = Model::new(off);
        let model = if far { model.with_horizon(horizon(scenario, off)) } else { model };
        let mut run = Self {
            seed,
            title: subject.title(),
            model,
            checks: Checks::new(&setup),
            setup,
            nodes,
            agenda: BTreeMap::new(),
            sequence: 0,
            active: BTreeMap::new(),
            faults: Vec::new(),
            copies: BTreeMap::new(),
            divergence: Vec::new(),
            written: 0,
        };
        run.plan();
        Ok(run)
    }

    pub(super) fn scenario(&self) -> &Scenario {
        &self.setup.scenario
    }

    pub(super) fn time(&self) -> Duration {
        self.setup.schedule.time()
    }

    pub(super) fn at(&mut self, time: Duration, action: Action) {
        self.sequence += 1;
        self.agenda.insert((time, self.sequence), action);
    }

    /// The first of everything.
    fn plan(&mut self) {
        let scenario = self.scenario().clone();
        for (index, writer) in scenario.writers.iter().enumerate() {
            let first = self.pause(writer.per_minute / 60.0);
            self.at(first, Action::Write(index));
        }
        for (index, fault) in scenario.faults.iter().enumerate() {
            match &fault.when {
                When::At(times) => {
                    for time in times {
                        self.at(*time, Action::Begin(index));
                    }
                }
                When::PerHour(rate) => {
                    let first = self.pause(rate / 3600.0);
                    self.at(first, Action::Begin(index));
                }
            }
        }
        for n in 1..=LOOKS {
            self.at(scenario.duration * n / LOOKS, Action::Look);
        }
    }

    /// Until the next of what happens `per_second` times in the mean (a Poisson process).
    pub(super) fn pause(&self, per_second: f64) -> Duration {
        if per_second <= 0.0 {
            return Duration::MAX;
        }
        let chance = self.setup.schedule.chance();
        Duration::try_from_secs_f64(-libm::log(1.0 - chance) / per_second).unwrap_or(Duration::MAX)
    }

    fn play(mut self) -> Result<Outcome, SimError> {
        let end = self.scenario().duration;
        while let Some((&(time, _), _)) = self.agenda.first_key_value() {
            if time > end {
                break;
            }
            let Some((_, action)) = self.agenda.pop_first() else { break };
            self.sleep_until(time);
            match action {
                Action::Write(index) => self.write(index),
                Action::Begin(index) => self.begin(index),
                Action::End(key) => self.end(key),
                Action::Cut(key) => self.cut(key),
                Action::Look => drop(self.look()),
            }
        }
        self.sleep_until(end);
        self.end_all();
        let mut converged_after = self.converge();
        if converged_after.is_some() && self.restamp() {
            // What was held back has to arrive, too.
            converged_after = self.converge();
        }
        Ok(self.finish(converged_after))
    }

    /// Waits until the clock is at `time`, and crashes nodes that lose power meanwhile.
    fn sleep_until(&mut self, time: Duration) {
        let (schedule, power) = (self.setup.schedule.clone(), Arc::clone(&self.setup.power));
        self.crash_those_without_power();
        loop {
            let seen = power.count();
            if self.time() < time {
                power.wait(seen, Some(time));
            } else {
                // What else is ready comes first.
                schedule.sleep_until(time);
            }
            self.crash_those_without_power();
            if self.time() >= time {
                return;
            }
        }
    }

    fn write(&mut self, index: usize) {
        let writer = self.scenario().writers[index].clone();
        let next = self.time().saturating_add(self.pause(writer.per_minute / 60.0));
        self.at(next, Action::Write(index));
        let schedule = self.setup.schedule.clone();
        let node = writer.nodes[schedule.below(writer.nodes.len())];
        let key = format!("{index}/{}", choose(&writer, schedule.chance()));
        // No chance is taken where there is none, so that older seeds stay what they are.
        if writer.conflicts > 0.0 && schedule.chance() < writer.conflicts {
            let others: Vec<_> = writer.nodes.iter().filter(|other| **other != node).collect();
            if !others.is_empty() {
                let other = *others[schedule.below(others.len())];
                self.write_to(other, &writer, &key);
            }
        }
        self.write_to(node, &writer, &key);
    }

    fn write_to(&mut self, node: usize, writer: &Writer, key: &str) {
        let schedule = self.setup.schedule.clone();
        self.written += 1;
        let deleted = schedule.chance() < writer.deletes;
        let expiring = schedule.chance() < writer.expiring;
        let (from, to) = writer.value_bytes;
        let len = from + schedule.below(to - from + 1);
        let mut value = format!("{} ", self.written).into_bytes();
        value.resize(value.len().max(len), b'.');
        let Some(engine) = self.nodes[node].engine() else { return };
        let ttl = (expiring && !deleted).then_some(writer.ttl);
        let result = if deleted {
            engine.delete(NAMESPACE, key.as_bytes())
        } else {
            match ttl {
                Some(ttl) => engine.put_with_ttl(NAMESPACE, key.as_bytes(), &value, ttl),
                None => engine.put(NAMESPACE, key.as_bytes(), &value),
            }
        };
        let at = schedule.time();
        match result {
            Ok(_) => {
                let stamp = engine.last_stamp();
                let ttl = ttl.map_or(0, |ttl| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX));
                let value = if deleted { Vec::new() } else { value };
                let write = Write { stamp, deleted, value, ttl };
                self.model.acknowledged(node, key.as_bytes(), &write);
                self.nodes[node].writes += 1;
                let what = if deleted { "deletes" } else { "puts" };
                self.setup.log.note(at, format_args!("n{node} {what} {key}, stamp {stamp}"));
            }
            Err(error) => {
                self.setup.log.note(at, format_args!("n{node} can't write {key}: {error}"));
            }
        }
    }

    /// Looks at what all nodes show. Returns whether all show the newest of everything.
    fn look(&mut self) -> bool {
        for key in self.model.with_losses() {
            for node in &self.nodes {
                if let Some(stored) = node.stored(NAMESPACE, &key) {
                    self.model.found(&key, &stored);
                }
            }
        }
        let (behind, all) = self.checks.look(&self.nodes, &self.model, NAMESPACE);
        self.divergence.push(Divergence { at: self.time(), behind });
        all
    }

    /// Waits until all nodes are equal; none when that takes too long.
    fn converge(&mut self) -> Option<Duration> {
        let start = self.time();
        let step = (self.scenario().interval / 4).max(Duration::from_millis(100));
        // What takes long is not told more exactly than to a sixteenth.
        let step = |since: Duration| step.max(since / 16);
        let limit = self.scenario().expect.converge_within;
        loop {
            if self.look() {
                return Some(self.time() - start);
            }
            let since = self.time() - start;
            if since >= limit {
                return None;
            }
            self.setup.schedule.sleep_until(self.time() + step(since).min(limit - since));
        }
    }

    fn finish(mut self, converged_after: Option<Duration>) -> Outcome {
        let simulated = self.time();
        // One that waits would keep the looks at the databases waiting, and so itself.
        self.nodes.iter().for_each(Node::stop_compacting);
        self.setup.schedule.sleep_until(simulated);
        let network = Arc::clone(&self.setup.network);
        let least_bytes = self.checks.at_end(&self.nodes, converged_after, &self.divergence);
        let pulls = network.pulls();
        let nodes = self.nodes.iter().zip(&pulls).map(|(node, pulls)| {
            let counts = node.ticks.counts();
            NodeCounts {
                ticks: counts.ended,
                failed_ticks: counts.failed,
                requests: pulls.requests,
                failed_requests: pulls.failed,
                pulls: pulls.segments,
                duplicate_pulls: pulls.duplicates,
                fuel: node.ticks.fuel.load(std::sync::atomic::Ordering::Relaxed),
                writes: node.writes,
                crashes: node.crashes,
            }
        });
        let nodes = nodes.collect();
        // A crash is planned before its time is known.
        self.faults.sort_by_key(|fault| fault.from);
        let mut ticks: Vec<_> = self
            .nodes
            .iter()
            .flat_map(|node| std::mem::take(&mut node.ticks.counts().marks))
            .collect();
        ticks.sort_by_key(|tick| (tick.at, tick.node));
        let links = network.counts();
        let (log_hash, log) = self.setup.log.end();
        for node in &mut self.nodes {
            node.stop();
        }
        let mut outcome = Outcome {
            scenario: self.setup.scenario.name.clone(),
            policy: self.title,
            seed: self.seed,
            simulated,
            converged_after,
            nodes,
            links,
            least_bytes,
            divergence: self.divergence,
            faults: self.faults,
            ticks,
            violations: self.checks.violations,
            log_hash: log_hash.to_string(),
            log,
        };
        super::check::expectations(&self.setup.scenario, &mut outcome);
        outcome
    }
}

/// What is stamped later comes into force on no node before the end of the run, if its clock is off
/// by no more than this.
fn horizon(scenario: &Scenario, off: Duration) -> i64 {
    let ahead = EngineOptions::default().max_clock_ahead;
    let end = scenario.duration + scenario.expect.converge_within + ahead + off;
    let end = Duration::from_secs(EPOCH_SECS) + end;
    i64::try_from(end.as_nanos()).unwrap_or(i64::MAX)
}

/// A key by Zipf's law, or less uneven: `chance` is from 0 to 1. The functions are those of a library,
/// since the systems' differ in the last bit, and so would runs.
fn choose(writer: &Writer, chance: f64) -> u64 {
    let keys = writer.keys.max(1);
    if writer.skew <= 0.0 {
        return (chance * keys as f64) as u64 % keys;
    }
    // The inverse of the continuous distribution with density x^-skew on 1 to keys + 1.
    let (n, s) = (keys as f64 + 1.0, writer.skew);
    let x = if (s - 1.0).abs() < 1e-9 {
        libm::pow(n, chance)
    } else {
        libm::pow(chance * (libm::pow(n, 1.0 - s) - 1.0) + 1.0, 1.0 / (1.0 - s))
    };
    (x as u64).clamp(1, keys) - 1
}
