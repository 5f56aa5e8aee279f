//! A policy with a fault to choose, to see whether simulations find it.
//!
//! The setting `plant` names the fault. Without one it is a plain and sound policy, which the same
//! simulations must pass: so it is the fault that they find, and not its surroundings.

use std::collections::VecDeque;

use edgestore_policy::ledger;
use edgestore_policy::prelude::*;
use edgestore_policy::segments::State;
use edgestore_policy::stock::{PeerCursor, Room};

const NONE: &str = "none";
/// What is being fetched counts as here: the cursor is noted before the segments are applied. Where
/// a fetch fails that is taken back, so only what ends the node between the two leaves it behind.
const BEFORE_APPLY: &str = "cursor-before-apply";
/// A segment that could not be fetched is pending no more.
const FORGETS: &str = "forgets-pending";
/// The root of the probe is noted, and then the manifest is asked for.
const EARLY_ROOT: &str = "root-too-early";
/// The first node is asked once a day. Where that node writes nothing, all nodes are equal all the
/// same.
const STARVES: &str = "starves-a-peer";

/// Nothing is pulled, and each tick says that all is here.
const CLAIMS: &str = "claims-in-sync";

/// The policy.
pub struct Planted;

edgestore_policy::export!(Planted);

impl Policy for Planted {
    const NAME: &str = "planted";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const CURSOR_SCHEMA: u32 = ledger::SCHEMA;

    fn tick<H: Host>(host: &H, context: &Context) -> Result<TickReport, TickFailure> {
        let budget = Budget::new(host, context);
        let mut settings = Settings::new(&context.settings);
        let injected_bugs = [NONE, BEFORE_APPLY, FORGETS, EARLY_ROOT, STARVES, CLAIMS];
        let plant = settings.choice("plant", NONE, &injected_bugs)?;
        settings.finish()?;

        let cursor = host.load_cursor().map(|bytes| PeerCursor::decode(&bytes).0);
        let mut round = Round { host, plant, cursor: cursor.unwrap_or_default() };
        let root = host.peer().probe()?.root;
        let starves = plant == STARVES && host.peer().id() == "n0";
        let next_tick_ms = starves.then_some(24 * 60 * 60 * 1000);
        if plant == CLAIMS || round.is_in_sync_with(root) {
            return Ok(TickReport { next_tick_ms, ..TickReport::default() });
        }
        if plant == EARLY_ROOT {
            round.cursor.last_root = Some(root);
            round.store()?;
        }
        Ok(TickReport { next_tick_ms, ..round.pull(budget)? })
    }
}

struct Round<'a, H: Host> {
    host: &'a H,
    plant: &'static str,
    cursor: PeerCursor,
}

impl<H: Host> Round<'_, H> {
    /// The roots agree, or all that is behind the peer's was pulled before.
    fn is_in_sync_with(&self, peer_root: Hash) -> bool {
        let local_root = self.host.local_root();
        let pulled = self.cursor.last_root == Some(peer_root) && self.is_drained();
        peer_root == local_root || pulled && local_root != Hash::ZERO
    }

    fn is_drained(&self) -> bool {
        self.cursor.segments.pending().next().is_none()
    }

    fn store(&self) -> Result<(), Storage> {
        let bytes = self.cursor.encode(&Room::ALL).ok_or(Storage)?;
        self.host.store_cursor(&bytes).map_err(|_| Storage)
    }

    /// Tries each segment that is missing once.
    fn pull(&mut self, budget: Budget) -> Result<TickReport, TickFailure> {
        let host = self.host;
        let manifest = host.peer().manifest()?;
        let root = manifest.root();
        let mut queue = VecDeque::from(self.cursor.segments.learn(manifest.missing()));
        let mut report = TickReport { missing: queue.len() as u32, ..TickReport::default() };
        self.store()?;

        let (before, mut stored) = (self.cursor.last_root, Ok(()));
        let mut pull = Pull::new(host, budget, 4);
        while let Some(landing) = pull.next(|_| {
            let hash = next(host, &mut queue)?;
            if self.plant == BEFORE_APPLY {
                self.cursor.segments.applied(&hash);
                if self.is_drained() {
                    self.cursor.last_root = Some(root);
                }
                stored = stored.and(self.store());
            }
            Some((host.peer(), hash))
        }) {
            let hash = landing.hash;
            let applied = landing.outcome.ok().map(|segment| host.apply(&segment));
            match applied {
                Some(Ok(applied)) => {
                    report.count(&applied);
                    self.cursor.segments.applied(&hash);
                }
                Some(Err(ApplyError::Rejected)) => self.cursor.segments.rejected(hash),
                Some(Err(ApplyError::Storage)) => return Err(Storage.into()),
                _ if self.plant == FORGETS => self.cursor.segments.applied(&hash),
                _ => {
                    report.failed += 1;
                    self.cursor.segments.extend([(hash, State::New)]);
                    if self.plant == BEFORE_APPLY {
                        self.cursor.last_root = before;
                    }
                }
            }
            self.store()?;
        }
        stored?;
        // What another tick has brought is here too.
        let pending: Vec<_> = self.cursor.segments.pending().copied().collect();
        for hash in pending.into_iter().filter(|hash| host.has(*hash)) {
            self.cursor.segments.applied(&hash);
        }
        if self.is_drained() {
            self.cursor.last_root = Some(root);
        }
        self.store()?;
        self.cursor.segments.fill(&mut report);
        Ok(report)
    }
}

/// The next segment of the queue that neither is here nor is being fetched.
fn next<H: Host>(host: &H, queue: &mut VecDeque<Hash>) -> Option<Hash> {
    while let Some(hash) = queue.pop_front() {
        let fetching = host.fetching(hash);
        if !fetching && !host.has(hash) {
            return Some(hash);
        }
    }
    None
}
