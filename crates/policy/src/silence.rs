//! Fetches that nobody answers, one after the other: of a peer that is gone, or of segments that
//! alone don't come through.

use crate::host::{Host, Peer};
use crate::pull::Landing;
use crate::segments::{Rules, Segments};
use crate::types::Hash;

/// So many in a row without an answer are reason to doubt that there is a peer.
const PATIENCE: usize = 3;

/// The fetches since the last one that had an answer.
#[derive(Debug, Default)]
pub struct Silence {
    fetches: usize,
    /// One of them was not even begun: the host leaves the peer alone.
    refused: bool,
    /// Those that time will heal.
    cut_off: Vec<Hash>,
}

impl Silence {
    /// Counts a landing. To be called for each, before it is applied.
    pub fn note<H: Host>(&mut self, landing: &Landing<'_, H>) {
        match &landing.outcome {
            Err(error) if !error.answered() => {
                self.fetches += 1;
                self.refused |= !landing.begun;
                if !error.blames_segment() {
                    self.cut_off.push(landing.hash);
                }
            }
            _ => *self = Self::default(),
        }
    }

    /// Whether there is reason to doubt that there is a peer.
    pub(crate) fn is_long(&self) -> bool {
        self.fetches >= PATIENCE
    }

    /// Whether the peer being ticked is gone: three fetches in a row had no answer, and nor has a
    /// probe. Where that has one, a box on the way cuts off these segments alone, or holds them up: they
    /// go behind the others, and the pull may go on.
    pub fn is_gone(&mut self, host: &impl Host, segments: &mut Segments, rules: &Rules) -> bool {
        if !self.is_long() {
            return false;
        }
        if self.refused || host.peer().probe().is_err() {
            return true;
        }
        for hash in std::mem::take(self).cut_off {
            segments.postponed(hash, rules, host.now_ms(), host.random());
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ledger;
    use crate::ledger::round::tests::Plain;
    use crate::mock::{Event, Fate, MockHost, PEER};
    use crate::segments::State;
    use crate::types::{FetchError, PeerError};

    const UNREACHABLE: Fate = Fate::NotFetched(FetchError::Peer(PeerError::Unreachable));

    fn states(host: &MockHost) -> Vec<State> {
        Ledger::load(host, Rules::default()).cursor().segments.values().copied().collect()
    }

    #[test]
    fn segments_that_a_peer_does_not_give_while_it_answers_keep_none_from_the_others() {
        let host = (1..=7).fold(MockHost::with(1..=20), |host, n| host.fate(n, UNREACHABLE));
        let report = host.tick::<Plain<1>>();
        assert_eq!((report.applied, report.failed, report.pending), (13, 7, 7));
        let behind = |state: &&State| matches!(state, State::Retry { tries: 1, .. });
        assert_eq!(states(&host).iter().filter(behind).count(), 6, "the seventh was alone");
        assert_eq!(host.count(&Event::Probe(PEER.into())), 3);
    }

    #[test]
    fn segments_for_which_a_peer_takes_too_long_keep_none_from_the_others() {
        let slow = Fate::NotFetched(FetchError::Peer(PeerError::Timeout));
        let host = (1..=7).fold(MockHost::with(1..=20), |host, n| host.fate(n, slow));
        let report = host.tick::<Plain<1>>();
        assert_eq!((report.applied, report.failed, report.pending), (13, 7, 7));
        assert_eq!(host.count(&Event::Probe(PEER.into())), 3);
    }

    #[test]
    fn no_segment_is_to_blame_for_a_peer_that_is_gone() {
        let host = (1..=7).fold(MockHost::with(1..=20), |host, n| host.fate(n, UNREACHABLE));
        host.peer().probes_left.set(Some(1));
        let report = host.tick::<Plain<1>>();
        assert_eq!((report.applied, report.failed, report.pending), (0, 3, 20));
        assert!(states(&host).iter().all(|state| *state == State::New));
    }
}
