//! Who is connected, what each connection is doing, and which one makes way when there are too many.
//!
//! A connection is idle while the server waits for a request or for the rest of its headers, and
//! answering from then until the last byte of the answer is handed to the system. An answer lags by
//! the time that its client kept the server from writing, less what it took at [`LEAST_RATE`].
//!
//! No clock is read here: each call says the time since the server's start.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::ServerLimits;
use crate::{KnownAddresses, group};

/// Bytes a second that keep an answer from lagging.
pub(super) const LEAST_RATE: u64 = 16 * 1024;

/// No connection makes way that has been idle for less than this: its request may be on the way.
const SHORT_IDLE: Duration = Duration::from_millis(100);

/// One that was answered before makes way first from here on: clients that are at work ask again
/// sooner.
const LONG_IDLE: Duration = Duration::from_secs(1);

/// Bytes of answers taken whole, on one connection, that make its address known.
const PROOF: u64 = 1024 * 1024;

/// How long an address stays known by that.
const PROOF_LASTS: Duration = Duration::from_secs(10 * 60);

/// Addresses that are known by that.
const MOST_PROVEN: usize = 1024;

/// Of how many places one is kept for known addresses.
const RESERVED: usize = 8;

/// How long a server keeps to the number of connections at which descriptors were short.
const SHORTAGE_LASTS: Duration = Duration::from_secs(60);

/// Shortest time between two lines of the log about connections that made way.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The connections of a server.
pub(super) struct Table {
    max_connections: usize,
    max_per_address: usize,
    slow_grace: Duration,
    configured: Arc<KnownAddresses>,
    state: Mutex<State>,
    /// A connection has ended.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct State {
    next_id: u64,
    connections: HashMap<u64, Arc<Connection>>,
    /// When an address last took enough.
    proven: HashMap<IpAddr, Duration>,
    /// The number of connections that left descriptors for the rest of the process, and when there
    /// were too many.
    shortage: Option<(usize, Duration)>,
    log: Gate,
}

/// What is to become of a new connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// There is one.
    Free,
    /// Another connection made way for it.
    Made,
    /// There is none now.
    None,
}

impl Table {
    pub(super) fn new(limits: &ServerLimits, configured: Arc<KnownAddresses>) -> Arc<Self> {
        let max_connections = limits.max_connections.max(1);
        Arc::new(Self {
            max_connections,
            max_per_address: limits.max_per_address.clamp(1, max_connections),
            slow_grace: limits.slow_grace,
            configured,
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Connections that may wait for a place, accepted and unread.
    pub(super) fn max_waiting(&self) -> usize {
        self.reserve().max(1)
    }

    fn reserve(&self) -> usize {
        self.max_connections / RESERVED
    }

    /// Connections at a time, now.
    fn max_now(&self, state: &State, now: Duration) -> usize {
        let short = state.shortage.filter(|(_, at)| now.saturating_sub(*at) < SHORTAGE_LASTS);
        short.map_or(self.max_connections, |(left, _)| left.min(self.max_connections))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds a place for a connection from `address`, and closes another one for it where there is
    /// none. See [`ServerLimits`] for the rules.
    pub(super) fn place(&self, address: IpAddr, now: Duration) -> Place {
        let mut state = self.state();
        let group = group(address);
        let newcomer_is_known = self.is_known(&state, group, now);
        // Where there are many connections, most are of one address.
        let mut last = (group, newcomer_is_known);
        let mut is_known = |group: IpAddr| {
            if last.0 != group {
                last = (group, self.is_known(&state, group, now));
            }
            last.1
        };
        let (mut all, mut own, mut known) = (0, 0, 0);
        let mut victims = Victims::default();
        for connection in state.connections.values().filter(|other| !other.is_closing()) {
            let (is_own, is_known) = (connection.group == group, is_known(connection.group));
            all += 1;
            own += usize::from(is_own);
            known += usize::from(is_known);
            let Some(rank) = connection.rank(now, self.slow_grace) else { continue };
            let unknown = !is_known;
            victims.offer(connection, rank, is_own, unknown);
        }
        let max = self.max_now(&state, now);
        let is_full = match newcomer_is_known {
            true => all >= max,
            false => (all - known) + known.max(max / RESERVED) >= max,
        };
        let victim = if own >= self.max_per_address && victims.own.is_some() {
            victims.own
        } else if !is_full {
            return Place::Free;
        } else if newcomer_is_known {
            victims.unknown.or(victims.any)
        } else {
            victims.unknown
        };
        let Some((_, victim)) = victim else { return Place::None };
        let victim = Arc::clone(victim);
        state.close(&victim, now);
        Place::Made
    }

    /// Closes idle connections, and then slow ones, because the system has no more descriptors: an
    /// eighth of all. Returns how many these were. For a while there are no more connections than
    /// were left: the rest of the process needs descriptors, too.
    pub(super) fn relieve(&self, now: Duration) -> usize {
        let mut state = self.state();
        let open = state.connections.values().filter(|other| !other.is_closing());
        let mut victims: Vec<_> = open
            .filter_map(|other| Some((other.rank(now, self.slow_grace)?, Arc::clone(other))))
            .collect();
        victims.sort_unstable_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        let all = state.connections.values().filter(|other| !other.is_closing()).count();
        let wanted = (all / RESERVED).max(1);
        victims.truncate(wanted);
        victims.iter().for_each(|(_, victim)| state.close(victim, now));
        let left = all.saturating_sub(wanted).max(1);
        let least = self.max_now(&state, now).min(left);
        state.shortage = Some((least, now));
        victims.len()
    }

    /// Closes the connections whose clients take a manifest, and lag: it can't be freed.
    pub(super) fn cut_slow_manifests(&self, now: Duration) -> usize {
        let mut state = self.state();
        let open = state.connections.values().filter(|other| !other.is_closing());
        let slow = |other: &&Arc<Connection>| {
            let activity = other.activity();
            activity.manifest && activity.lag(now).is_some_and(|lag| lag >= self.slow_grace)
        };
        let victims: Vec<_> = open.filter(slow).map(Arc::clone).collect();
        victims.iter().for_each(|victim| state.close(victim, now));
        victims.len()
    }

    /// Enters a connection, for as long as the result lives.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, now: Duration) -> Entry {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        let connection = Arc::new(Connection {
            id,
            group: group(address),
            closing: AtomicBool::new(false),
            close: Notify::new(),
            activity: Mutex::new(Activity::new(now)),
        });
        state.connections.insert(id, Arc::clone(&connection));
        drop(state);
        Entry { table: Arc::clone(self), connection }
    }

    /// The last byte that was written so far is with the system.
    pub(super) fn flushed(&self, connection: &Connection, now: Duration) {
        let taken = connection.activity().flushed(now);
        if taken < PROOF {
            return;
        }
        let mut state = self.state();
        let full =
            state.proven.len() >= MOST_PROVEN && !state.proven.contains_key(&connection.group);
        let oldest = state.proven.iter().min_by_key(|(_, at)| **at).map(|(group, _)| *group);
        if let Some(oldest) = oldest.filter(|_| full) {
            state.proven.remove(&oldest);
        }
        state.proven.insert(connection.group, now);
    }

    /// Connections whose tasks have not ended.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.state().connections.len()
    }

    /// Whether places are kept for this address.
    pub(super) fn knows(&self, address: IpAddr, now: Duration) -> bool {
        self.is_known(&self.state(), group(address), now)
    }

    fn is_known(&self, state: &State, group: IpAddr, now: Duration) -> bool {
        let proven = state.proven.get(&group);
        proven.is_some_and(|at| now.saturating_sub(*at) < PROOF_LASTS) || self.configured.has(group)
    }
}

impl State {
    fn close(&mut self, victim: &Arc<Connection>, now: Duration) {
        victim.closing.store(true, Ordering::Relaxed);
        victim.close.notify_one();
        if let Some(closed) = self.log.pass(now) {
            tracing::warn!(
                closed,
                "too many connections: idle and slow ones are closed in favour of others. If they \
                 are those of peers, raise --max-connections or --max-connections-per-address"
            );
        }
    }
}

/// The connections that would make way, each with its rank.
#[derive(Default)]
struct Victims<'a> {
    own: Victim<'a>,
    unknown: Victim<'a>,
    any: Victim<'a>,
}

type Victim<'a> = Option<(Rank, &'a Arc<Connection>)>;

impl<'a> Victims<'a> {
    fn offer(&mut self, connection: &'a Arc<Connection>, rank: Rank, own: bool, unknown: bool) {
        let better = |best: &Victim<'_>| best.is_none_or(|(best, _)| rank > best);
        for (best, fits) in
            [(&mut self.own, own), (&mut self.unknown, unknown), (&mut self.any, true)]
        {
            if fits && better(best) {
                *best = Some((rank, connection));
            }
        }
    }
}

/// How little a connection is worth. The greatest makes way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Idle for a moment.
    ShortlyIdle(Duration),
    /// Its answer lags.
    Slow(Duration),
    /// Idle for long, or never answered.
    Idle(Duration),
}

/// A connection in the table.
#[derive(Debug)]
pub(super) struct Entry {
    table: Arc<Table>,
    connection: Arc<Connection>,
}

impl Entry {
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.table.state().connections.remove(&self.connection.id);
        self.table.changed.notify_one();
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    id: u64,
    /// Its address, or the network of that.
    group: IpAddr,
    closing: AtomicBool,
    /// Told when it makes way.
    close: Notify,
    activity: Mutex<Activity>,
}

impl Connection {
    /// What it is doing.
    pub(super) fn activity(&self) -> MutexGuard<'_, Activity> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when the connection is to make way.
    pub(super) async fn closed(&self) {
        self.close.notified().await;
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// None where it may stay.
    fn rank(&self, now: Duration, slow_grace: Duration) -> Option<Rank> {
        let activity = self.activity();
        match activity.phase {
            Phase::Idle { since } => match now.saturating_sub(since) {
                idle if idle < SHORT_IDLE => None,
                idle if idle < LONG_IDLE && activity.answers > 0 => Some(Rank::ShortlyIdle(idle)),
                idle => Some(Rank::Idle(idle)),
            },
            Phase::Answering { .. } => {
                activity.lag(now).filter(|lag| *lag >= slow_grace).map(Rank::Slow)
            }
        }
    }
}

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    phase: Phase,
    /// When a byte last moved.
    moved: Duration,
    /// Answers that were written to the end.
    answers: u64,
    /// Bytes written.
    written: u64,
    /// The answer is a manifest.
    manifest: bool,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Idle {
        since: Duration,
    },
    Answering {
        lag: Duration,
        /// Since when the system takes no more bytes.
        blocked: Option<Duration>,
        /// All of the answer has been written, if perhaps not to the system.
        complete: bool,
    },
}

impl Activity {
    fn new(now: Duration) -> Self {
        let phase = Phase::Idle { since: now };
        Self { phase, moved: now, answers: 0, written: 0, manifest: false }
    }

    /// When a byte last moved.
    pub(super) fn moved(&self) -> Duration {
        self.moved
    }

    /// A byte was read.
    pub(super) fn read(&mut self, now: Duration) {
        self.moved = now;
    }

    /// A request is here.
    pub(super) fn begin(&mut self) {
        self.phase = Phase::Answering { lag: Duration::ZERO, blocked: None, complete: false };
        self.manifest = false;
    }

    /// The answer is a manifest, whose memory others wait for.
    pub(super) fn is_manifest(&mut self) {
        self.manifest = true;
    }

    /// All of the answer was given to be written.
    pub(super) fn complete(&mut self) {
        if let Phase::Answering { complete, .. } = &mut self.phase {
            *complete = true;
        }
    }

    /// The system took some bytes.
    pub(super) fn wrote(&mut self, bytes: usize, now: Duration) {
        (self.moved, self.written) = (now, self.written.saturating_add(bytes as u64));
        if let Phase::Answering { lag, blocked, .. } = &mut self.phase {
            *lag += blocked.take().map_or(Duration::ZERO, |since| now.saturating_sub(since));
            let micros = (bytes as u64).saturating_mul(1_000_000) / LEAST_RATE;
            *lag = lag.saturating_sub(Duration::from_micros(micros));
        }
    }

    /// The system took none.
    pub(super) fn blocked(&mut self, now: Duration) {
        if let Phase::Answering { blocked, .. } = &mut self.phase {
            blocked.get_or_insert(now);
        }
    }

    /// All that was given is written. Returns the bytes of whole answers so far.
    fn flushed(&mut self, now: Duration) -> u64 {
        match self.phase {
            Phase::Answering { complete: true, .. } => {
                self.phase = Phase::Idle { since: now };
                self.answers += 1;
                self.manifest = false;
                self.written
            }
            _ => 0,
        }
    }

    /// How far the answer lags; none while there is none.
    fn lag(&self, now: Duration) -> Option<Duration> {
        match self.phase {
            Phase::Idle { .. } => None,
            Phase::Answering { lag, blocked, .. } => {
                let since = blocked.map_or(Duration::ZERO, |since| now.saturating_sub(since));
                Some(lag + since)
            }
        }
    }
}

/// Lets a line of the log pass now and then, and counts the others.
#[derive(Debug, Default)]
pub(super) struct Gate {
    last: Option<Duration>,
    held: u64,
}

impl Gate {
    /// The number of lines that this one stands for, where it may pass.
    pub(super) fn pass(&mut self, now: Duration) -> Option<u64> {
        self.held += 1;
        if self.last.is_some_and(|last| now.saturating_sub(last) < LOG_EVERY) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held))
    }
}

#[cfg(test)]
mod tests;
