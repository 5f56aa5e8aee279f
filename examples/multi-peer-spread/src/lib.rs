//! Multi-peer spread: each segment is taken from the least loaded of the peers that have it.
//!
//! For nodes with several peers, each behind a line of its own. A tick pulls what the peer that it is
//! for lists, but from all who list it too: one tick that is due uses all lines, and what a single
//! peer has is not held up by what others could give. The ticks of all peers may run side by side:
//! none starts what another one is fetching, and each goes by an order of chance, so that no two look
//! at the same segment at the same moment. What the fewest peers have comes first.
//!
//! `window` is the number of requests to one peer, from all ticks together; half of it is kept for the
//! tick of the peer itself, which alone knows what nobody else has. What one peer gives wrong is taken
//! from the next at once. The price: with something to pull, a tick asks every peer for its manifest,
//! and waits for one that does not answer.

use std::collections::{HashMap, HashSet, VecDeque};

use edgestore_policy::ledger;
use edgestore_policy::prelude::*;
use edgestore_policy::segments::Landed;

#[cfg(test)]
mod tests;

/// This many fetches in a row without an answer, and the tick leaves the peer alone.
const GIVE_UP_AFTER: u32 = 3;

/// The policy.
pub struct MultiPeerSpread;

edgestore_policy::export!(MultiPeerSpread);

impl Policy for MultiPeerSpread {
    const NAME: &str = "multi-peer-spread";
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const CURSOR_SCHEMA: u32 = ledger::SCHEMA;

    fn tick<H: Host>(host: &H, context: &Context) -> Result<TickReport, TickFailure> {
        let budget = Budget::new(host, context);
        let mut settings = Settings::new(&context.settings);
        let window: u32 = settings.number("window", 4, 1..=64)?;
        let rules = Rules::read(&mut settings)?;
        settings.finish()?;

        Ledger::load(host, rules).round(context, |ledger, manifest, report| {
            let ready = ledger.queue(manifest.missing(), report)?.into_iter().collect();
            let mut round = Round { host, budget, window, ledger };
            round.pull(&ready, report)
        })
    }
}

struct Round<'a, 'l, H: Host> {
    host: &'a H,
    budget: Budget,
    window: u32,
    ledger: &'l mut Ledger<'a, H>,
}

/// A peer, and what it has of what is to pull.
struct Source<'a, H: Host> {
    peer: &'a H::Peer,
    /// Requests to it at a time.
    window: u32,
    /// What can be had from it.
    listed: HashSet<Hash>,
    /// In which order; what another peer took is still in it.
    queue: VecDeque<Hash>,
    /// Fetches in a row that it did not answer.
    unanswered: u32,
}

impl<H: Host> Round<'_, '_, H> {
    /// Pulls from whoever is free. Returns when to go on.
    fn pull(
        &mut self,
        ready: &HashSet<Hash>,
        report: &mut TickReport,
    ) -> Result<Option<u64>, Storage> {
        let peers = if ready.is_empty() { Vec::new() } else { self.host.peers() };
        let mut sources = self.sources(&peers, ready);
        let window = self.window as usize * sources.len();
        let mut pull = Pull::new(self.host, self.budget, window);
        while let Some(landing) = pull.next(|flights| self.next(&mut sources, flights.is_empty())) {
            let (peer, hash) = (landing.peer, landing.hash);
            // Of a segment that came and could not be applied all copies are the same.
            let ask_others = landing.outcome.is_err();
            let landed = self.ledger.land(landing, report)?;
            for source in &mut sources {
                if std::ptr::eq(source.peer, peer) {
                    let more = landed == Landed::Unanswered;
                    source.unanswered = if more { source.unanswered + 1 } else { 0 };
                    source.listed.remove(&hash);
                } else if ask_others && source.listed.contains(&hash) {
                    source.queue.push_back(hash);
                }
            }
        }
        Ok(self.ledger.ended(pull, self.budget, report))
    }

    /// What each peer can give of it, the rarest first.
    fn sources<'p>(&self, peers: &'p [H::Peer], ready: &HashSet<Hash>) -> Vec<Source<'p, H>> {
        let ticked = self.host.peer().id();
        let mut sources = Vec::new();
        let mut holders: HashMap<Hash, u32> = HashMap::new();
        for peer in peers {
            let (window, listed) = if peer.id() == ticked {
                (self.window, ready.clone())
            } else {
                let missing = peer.manifest().map(|manifest| manifest.missing());
                let missing = missing.unwrap_or_default().map(|segment| segment.hash);
                (self.window.div_ceil(2), missing.filter(|hash| ready.contains(hash)).collect())
            };
            listed.iter().for_each(|hash| *holders.entry(*hash).or_default() += 1);
            let queue = listed.iter().copied().collect();
            sources.push(Source { peer, window, listed, queue, unanswered: 0 });
        }
        let chance = self.host.random() | 1;
        for source in &mut sources {
            let queue = source.queue.make_contiguous();
            queue.sort_by_cached_key(|hash| (holders[hash], hash.a.wrapping_mul(chance)));
        }
        sources
    }

    /// What to fetch next, and from whom; nothing while all are busy that have something, unless
    /// this tick is idle.
    fn next<'p>(
        &mut self,
        sources: &mut [Source<'p, H>],
        idle: bool,
    ) -> Option<(&'p H::Peer, Hash)> {
        let alive = sources.iter_mut().filter(|source| source.unanswered < GIVE_UP_AFTER);
        let mut by_load: Vec<_> = alive.map(|source| (source.peer.load(), source)).collect();
        by_load.sort_by_key(|(load, _)| *load);
        let mut free = by_load.into_iter().filter(|(load, source)| idle || *load < source.window);
        free.find_map(|(_, source)| Some((source.peer, self.ledger.next(&mut source.queue)?)))
    }
}
