//! A window of transfers in flight, filled from a source that is asked for the next segment.
//!
//! The source names a peer with each segment, so one pull can take from many peers. What comes back
//! is a [`Landing`] for each segment that was tried; applying it is the policy's business.

use std::mem;

use crate::budget::Budget;
use crate::host::{Host, Peer, Transfer};
use crate::types::{FetchError, Hash};

/// The transfers of a tick. Dropping it cancels those in flight.
pub struct Pull<'a, H: Host> {
    host: &'a H,
    budget: Budget,
    window: usize,
    patience_ms: u64,
    flights: Vec<Flight<'a, H>>,
    /// The transfer of each flight, at the same place.
    transfers: Vec<H::Transfer>,
    /// What the source gave and the host did not start yet.
    held: Option<(&'a H::Peer, Hash)>,
    out_of_bytes: bool,
    end: End,
}

/// A transfer in flight.
pub struct Flight<'a, H: Host> {
    /// From whom.
    pub peer: &'a H::Peer,
    /// What.
    pub hash: Hash,
    /// When it was started, by the monotonic clock.
    pub started_ms: u64,
}

/// A segment that came, or why it did not.
pub struct Landing<'a, H: Host> {
    /// From whom.
    pub peer: &'a H::Peer,
    /// What.
    pub hash: Hash,
    /// From the start of the transfer until now.
    pub took_ms: u64,
    /// Whether the host began to fetch it.
    pub begun: bool,
    /// The segment, to be applied. Dropping it throws the bytes away.
    pub outcome: Result<H::Segment, FetchError>,
}

/// Why [`Pull::next`] gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The source has nothing more, and nothing is in flight.
    Drained,
    /// The time of the tick is up. What was in flight still is, see [`Pull::abandon`].
    OutOfTime,
    /// The host lets the tick pull no more bytes, and nothing is in flight.
    OutOfBytes,
    /// The host starts no transfer, not even one.
    Blocked,
    /// Nothing landed for as long as [`Pull::set_patience_ms`] says. The pull goes on.
    Quiet,
}

impl<'a, H: Host> Pull<'a, H> {
    /// A pull with `window` transfers in flight at a time, at least one.
    pub fn new(host: &'a H, budget: Budget, window: usize) -> Self {
        Pull {
            host,
            budget,
            window: window.max(1),
            patience_ms: u64::MAX,
            flights: Vec::new(),
            transfers: Vec::new(),
            held: None,
            out_of_bytes: false,
            end: End::Drained,
        }
    }

    /// Transfers in flight at a time. Smaller than it was set when the host allows no more.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Changes the window, to at least 1. What flies above a smaller one is left alone.
    pub fn set_window(&mut self, window: usize) {
        self.window = window.max(1);
    }

    /// How long [`next`](Pull::next) waits for a landing before it gives up with [`End::Quiet`].
    /// For policies that do something about slow transfers, such as asking another peer too.
    pub fn set_patience_ms(&mut self, patience_ms: u64) {
        self.patience_ms = patience_ms;
    }

    /// What is in flight, longest first.
    pub fn flights(&self) -> &[Flight<'a, H>] {
        &self.flights
    }

    /// Fills the window from `source` and waits for the next landing; none when there is nothing
    /// more to wait for, and [`end`](Pull::end) says why.
    ///
    /// The source sees what is in flight. It is not asked while the window is full, and asked again
    /// after it gave nothing.
    pub fn next(
        &mut self,
        mut source: impl FnMut(&[Flight<'a, H>]) -> Option<(&'a H::Peer, Hash)>,
    ) -> Option<Landing<'a, H>> {
        let quiet_ms = self.host.monotonic_ms().saturating_add(self.patience_ms);
        loop {
            if let Some(failed) = self.fill(&mut source) {
                return Some(failed);
            }
            if self.flights.is_empty() {
                return None;
            }
            let position = self.wait(quiet_ms)?;
            if let Some(landing) = self.land(position) {
                return Some(landing);
            }
        }
    }

    /// Why the last [`next`](Pull::next) gave nothing.
    pub fn end(&self) -> End {
        self.end
    }

    /// Cancels the transfers of one segment, from whichever peer.
    pub fn cancel(&mut self, hash: Hash) {
        while let Some(position) = self.flights.iter().position(|flight| flight.hash == hash) {
            self.flights.remove(position);
            self.transfers.remove(position);
        }
    }

    /// Cancels all transfers, and says which were in flight.
    pub fn abandon(&mut self) -> Vec<Flight<'a, H>> {
        self.transfers.clear();
        mem::take(&mut self.flights)
    }

    /// Starts transfers until the window is full. Returns the first that does not even start.
    fn fill(
        &mut self,
        source: &mut impl FnMut(&[Flight<'a, H>]) -> Option<(&'a H::Peer, Hash)>,
    ) -> Option<Landing<'a, H>> {
        while self.flights.len() < self.window {
            self.held = self.held.take().or_else(|| source(&self.flights));
            let Some((peer, hash)) = self.held else {
                self.end = End::Drained;
                break;
            };
            if self.out_of_bytes {
                self.end = End::OutOfBytes;
                break;
            }
            if !self.budget.may_start(self.host) {
                self.end = End::OutOfTime;
                break;
            }
            match peer.start_fetch(hash) {
                Ok(transfer) => {
                    let started_ms = self.host.monotonic_ms();
                    self.flights.push(Flight { peer, hash, started_ms });
                    self.transfers.push(transfer);
                }
                Err(FetchError::TooManyTransfers) => {
                    self.end = End::Blocked;
                    self.window = self.flights.len().max(1);
                    break;
                }
                Err(FetchError::TooManyBytes) => {
                    self.out_of_bytes = true;
                    continue;
                }
                Err(error) => {
                    self.held = None;
                    return Some(Landing {
                        peer,
                        hash,
                        took_ms: 0,
                        begun: false,
                        outcome: Err(error),
                    });
                }
            }
            self.held = None;
        }
        None
    }

    /// The position of a flight that is done; none when the time is up.
    fn wait(&mut self, quiet_ms: u64) -> Option<usize> {
        let left_ms = self.budget.wait_ms(self.host);
        let patience_ms = quiet_ms.saturating_sub(self.host.monotonic_ms());
        self.end = if patience_ms < left_ms { End::Quiet } else { End::OutOfTime };
        if left_ms == 0 {
            return None;
        }
        let transfers: Vec<_> = self.transfers.iter().collect();
        let position = self.host.wait_any(&transfers, left_ms.min(patience_ms))? as usize;
        (position < self.flights.len()).then_some(position)
    }

    /// What became of a flight that is done; none when the host ran out of bytes for it.
    fn land(&mut self, position: usize) -> Option<Landing<'a, H>> {
        let Flight { peer, hash, started_ms } = self.flights.remove(position);
        let outcome = self.transfers.remove(position).take();
        if let Err(FetchError::TooManyBytes) = outcome {
            self.out_of_bytes = true;
            self.held = self.held.or(Some((peer, hash)));
            return None;
        }
        let took_ms = self.host.monotonic_ms().saturating_sub(started_ms);
        Some(Landing { peer, hash, took_ms, begun: true, outcome })
    }
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
