//! What the policy promises, one test a promise.

use edgestore_policy::mock::{Event, Fate, Listed, MockHost, PEER, root, segment};
use edgestore_policy::prelude::*;
use edgestore_policy::segments::State;
use edgestore_policy::stock::{PeerCursor, Room};

use crate::DefaultPolicy;

mod bad_segments;
mod budget;
mod dead_peers;
mod in_sync;
mod pull;
mod trouble;

const BUDGET_MS: u64 = 10_000;
const INTERVAL_MS: u64 = 30_000;

const MISMATCH: Fate = Fate::NotFetched(FetchError::HashMismatch);
const UNREACHABLE: Fate = Fate::NotFetched(FetchError::Peer(PeerError::Unreachable));
const TIMEOUT: Fate = Fate::NotFetched(FetchError::Peer(PeerError::Timeout));

/// A peer that lists these segments, and a host that checks every cursor against its data.
fn host_with(numbers: impl IntoIterator<Item = u64>) -> MockHost {
    let host = MockHost::with(numbers);
    host.check_ledger.set(true);
    host.budget_ms.set(BUDGET_MS);
    host.interval_ms.set(INTERVAL_MS);
    // A transfer takes its time even where a test does not care.
    host.peer().transfer_ms.set(10);
    host
}

fn probe() -> Event {
    Event::Probe(PEER.into())
}

fn manifest() -> Event {
    Event::Manifest(PEER.into())
}

/// The policy on a host, and what the tests look at.
trait Ticks {
    fn try_run(&self) -> Result<TickReport, TickFailure>;
    fn run(&self) -> TickReport;
    fn cursor(&self) -> PeerCursor;
}

impl Ticks for MockHost {
    fn try_run(&self) -> Result<TickReport, TickFailure> {
        self.try_tick::<DefaultPolicy>()
    }

    fn run(&self) -> TickReport {
        self.tick::<DefaultPolicy>()
    }

    fn cursor(&self) -> PeerCursor {
        PeerCursor::decode(self.stored.borrow().as_deref().unwrap()).0
    }
}
