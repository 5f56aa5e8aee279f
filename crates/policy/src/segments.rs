//! Where each missing segment stands: new, failed and waiting, set aside, or rejected for ever.
//!
//! The ledger keeps this in its cursor. It is usable alone, in a cursor of the author's own type:
//! with the feature `serde` it can be a field of it, and so can a [`Backlog`], which remembers too
//! whether that is all.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Deref;

use crate::backoff;
use crate::settings::{SettingError, Settings};
use crate::types::{Hash, SegmentRef};

/// When to try a segment again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Failed tries of a segment in a row before it is set aside.
    pub max_tries: u32,
    /// Wait after the first failure; doubles with every further one.
    pub backoff_ms: u64,
    /// Longest such wait.
    pub backoff_cap_ms: u64,
    /// Longest time for which a segment is set aside. The first time it is a minute, and twice as
    /// long after each further round of tries: a source that gave bad bytes for a moment costs no
    /// hour.
    pub quarantine_ms: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            max_tries: 5,
            backoff_ms: 1000,
            backoff_cap_ms: 5 * 60 * 1000,
            quarantine_ms: 3600 * 1000,
        }
    }
}

/// How long a segment is set aside at first.
const FIRST_QUARANTINE_MS: u64 = 60 * 1000;
const DAY_SECS: u64 = 24 * 3600;
/// When to look again at what could not be tried in this tick.
pub(crate) const SOON_MS: u64 = 1000;

impl Rules {
    /// Reads the settings `max-tries`, `backoff-ms`, `backoff-cap-ms` and `quarantine-secs`.
    pub fn read(settings: &mut Settings) -> Result<Rules, SettingError> {
        let Rules { max_tries, backoff_ms, backoff_cap_ms, quarantine_ms } = Rules::default();
        let (day_ms, year_secs) = (DAY_SECS * 1000, 365 * DAY_SECS);
        Ok(Rules {
            max_tries: settings.number("max-tries", max_tries, 1..=1000)?,
            backoff_ms: settings.number("backoff-ms", backoff_ms, 1..=day_ms)?,
            backoff_cap_ms: settings.number("backoff-cap-ms", backoff_cap_ms, 1..=day_ms)?,
            quarantine_ms: 1000
                * settings.number("quarantine-secs", quarantine_ms / 1000, 1..=year_secs)?,
        })
    }
}

/// Where one missing segment stands. All but the rejected ones are pending.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum State {
    /// Not tried yet, or not since its quarantine.
    New,
    /// It failed.
    Retry {
        /// So many times.
        tries: u32,
        /// Leave it alone until then, since the Unix epoch.
        not_before_ms: u64,
    },
    /// It failed too often.
    Quarantined {
        /// It gets another round of tries then, since the Unix epoch.
        until_ms: u64,
        /// So many times, in all rounds.
        #[cfg_attr(feature = "serde", serde(default))]
        tries: u32,
    },
    /// It can never be applied.
    Rejected,
}

impl State {
    /// How often it has failed.
    fn tries(&self) -> u32 {
        match *self {
            State::Retry { tries, .. } | State::Quarantined { tries, .. } => tries,
            State::New | State::Rejected => 0,
        }
    }

    /// A wall clock that was put back, or a rule that was relaxed, never makes a segment wait for
    /// longer than the rule says.
    fn wait_ms(&self, rules: &Rules, now_ms: u64) -> Option<u64> {
        let (until_ms, longest_ms) = match *self {
            State::Quarantined { until_ms, .. } => (until_ms, rules.quarantine_ms),
            State::Retry { not_before_ms, .. } => (not_before_ms, rules.backoff_cap_ms),
            State::New | State::Rejected => return None,
        };
        until_ms.checked_sub(now_ms).filter(|wait_ms| (1..=longest_ms).contains(wait_ms))
    }
}

/// What a peer offers and the engine lacks, in the order of the hashes.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Segments(BTreeMap<Hash, State>);

/// To look at it; what changes it are the functions of [`Segments`].
impl Deref for Segments {
    type Target = BTreeMap<Hash, State>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl FromIterator<(Hash, State)> for Segments {
    fn from_iter<I: IntoIterator<Item = (Hash, State)>>(states: I) -> Self {
        Segments(states.into_iter().collect())
    }
}

impl Extend<(Hash, State)> for Segments {
    fn extend<I: IntoIterator<Item = (Hash, State)>>(&mut self, states: I) {
        self.0.extend(states);
    }
}

impl Segments {
    /// The segments still to pull.
    pub fn pending(&self) -> impl Iterator<Item = &Hash> {
        self.0.iter().filter(|(_, state)| **state != State::Rejected).map(|(hash, _)| hash)
    }

    /// How many are set aside.
    pub fn quarantined(&self) -> usize {
        self.0.values().filter(|state| matches!(state, State::Quarantined { .. })).count()
    }

    /// Takes in what is missing of a manifest and returns what is to pull, in the order given: all
    /// but what was rejected. Forgets what the peer no longer offers, so this stays bounded.
    pub fn learn(&mut self, missing: impl IntoIterator<Item = SegmentRef>) -> Vec<Hash> {
        let (segments, to_pull) = self.learned(missing);
        *self = segments;
        to_pull
    }

    /// As [`learn`](Segments::learn), but as a new value.
    pub(crate) fn learned(
        &self,
        missing: impl IntoIterator<Item = SegmentRef>,
    ) -> (Segments, Vec<Hash>) {
        let mut segments = BTreeMap::new();
        let mut to_pull = Vec::new();
        for segment in missing {
            let state = self.0.get(&segment.hash).copied().unwrap_or(State::New);
            if segments.insert(segment.hash, state).is_none() && state != State::Rejected {
                to_pull.push(segment.hash);
            }
        }
        (Segments(segments), to_pull)
    }

    /// Those of the segments that may be tried now. What failed before comes last, so that it holds
    /// up nothing else; what has done its quarantine gets another round of tries.
    pub fn ready(&mut self, to_pull: Vec<Hash>, rules: &Rules, now_ms: u64) -> VecDeque<Hash> {
        let (mut ready, mut again) = (VecDeque::with_capacity(to_pull.len()), Vec::new());
        for hash in to_pull {
            match self.0.get_mut(&hash) {
                None | Some(State::New) => ready.push_back(hash),
                Some(State::Rejected) => {}
                Some(state) if state.wait_ms(rules, now_ms).is_some() => {}
                Some(state) => {
                    if let State::Quarantined { tries, .. } = *state {
                        *state = State::Retry { tries, not_before_ms: 0 };
                    }
                    again.push(hash);
                }
            }
        }
        ready.extend(again);
        ready
    }

    /// How long a segment has to wait still; none when it may be tried now.
    pub fn wait_ms(&self, hash: &Hash, rules: &Rules, now_ms: u64) -> Option<u64> {
        self.0.get(hash)?.wait_ms(rules, now_ms)
    }

    /// The shortest wait among all segments that failed; 0 when one may be tried now.
    pub fn shortest_wait_ms(&self, rules: &Rules, now_ms: u64) -> Option<u64> {
        let failed = |state: &&State| !matches!(state, State::New | State::Rejected);
        let states = self.0.values().filter(failed);
        states.map(|state| state.wait_ms(rules, now_ms).unwrap_or(0)).min()
    }

    /// How long until a segment that failed may be tried again. Never 0: what might be tried now, but
    /// not in this tick, waits a little, or ticks would follow each other without a pause.
    pub fn next_try_ms(&self, rules: &Rules, now_ms: u64) -> Option<u64> {
        self.shortest_wait_ms(rules, now_ms).map(|ms| if ms == 0 { SOON_MS } else { ms })
    }

    /// The segment is in the local engine.
    pub fn applied(&mut self, hash: &Hash) {
        self.0.remove(hash);
    }

    /// The segment can never be applied: it is not pulled again, and nobody waits for it.
    pub fn rejected(&mut self, hash: Hash) {
        self.0.insert(hash, State::Rejected);
    }

    /// A try of the segment failed: leave it alone for a while, and for long after too many tries.
    /// True when it was set aside. `random` is the jitter.
    pub fn failed(&mut self, hash: Hash, rules: &Rules, now_ms: u64, random: u64) -> bool {
        let state = self.0.entry(hash).or_insert(State::New);
        let tries = state.tries().saturating_add(1);
        let (rounds, round) = (tries / rules.max_tries, tries % rules.max_tries);
        let set_aside = round == 0;
        *state = if set_aside {
            let wait_ms = backoff::doubled(FIRST_QUARANTINE_MS, rounds).min(rules.quarantine_ms);
            State::Quarantined { until_ms: now_ms.saturating_add(wait_ms), tries }
        } else {
            let wait_ms =
                backoff::segment_ms(round, rules.backoff_ms, rules.backoff_cap_ms, random);
            State::Retry { tries, not_before_ms: now_ms.saturating_add(wait_ms) }
        };
        set_aside
    }

    /// A try of the segment failed, and time will heal it: leave it alone for a while, and never
    /// for longer than `rules.backoff_cap_ms`, however often that happens.
    pub fn postponed(&mut self, hash: Hash, rules: &Rules, now_ms: u64, random: u64) {
        let state = self.0.entry(hash).or_insert(State::New);
        let tries = state.tries().saturating_add(1);
        let wait_ms = backoff::segment_ms(tries, rules.backoff_ms, rules.backoff_cap_ms, random);
        *state = State::Retry { tries, not_before_ms: now_ms.saturating_add(wait_ms) };
    }
}

mod backlog;
mod land;

pub use self::backlog::Backlog;
pub use self::land::Landed;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::segment;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn missing(numbers: &[u64]) -> Vec<SegmentRef> {
        let reference = |&n| SegmentRef { hash: segment(n), id: n, info: None };
        numbers.iter().map(reference).collect()
    }

    #[test]
    fn the_rules_are_settings_each_in_its_unit() {
        let given = [
            ("max-tries", "2"),
            ("backoff-ms", "30"),
            ("backoff-cap-ms", "4000"),
            ("quarantine-secs", " 5 "),
        ];
        let given = given.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut settings = Settings::new(&given);
        let expected =
            Rules { max_tries: 2, backoff_ms: 30, backoff_cap_ms: 4000, quarantine_ms: 5000 };
        assert_eq!(Rules::read(&mut settings), Ok(expected));
        assert_eq!(settings.finish(), Ok(()));
        assert_eq!(Rules::read(&mut Settings::new(&[])), Ok(Rules::default()));
    }

    #[test]
    fn what_failed_comes_last_and_what_waits_not_at_all() {
        let rules = Rules::default();
        let mut segments = Segments::default();
        segments.failed(segment(1), &rules, NOW_MS - 10_000, 0);
        segments.failed(segment(2), &rules, NOW_MS, 0);
        segments.rejected(segment(3));
        let to_pull = segments.learn(missing(&[1, 2, 3, 4, 4]));
        assert_eq!(to_pull, [segment(1), segment(2), segment(4)]);
        assert_eq!(segments.ready(to_pull, &rules, NOW_MS), [segment(4), segment(1)]);
        assert_eq!(segments.wait_ms(&segment(2), &rules, NOW_MS), Some(500));
        assert_eq!(segments.shortest_wait_ms(&rules, NOW_MS), Some(0));
        assert_eq!(segments.next_try_ms(&rules, NOW_MS), Some(SOON_MS));
        segments.applied(&segment(1));
        assert_eq!(segments.next_try_ms(&rules, NOW_MS), Some(500));
    }

    #[test]
    fn what_is_no_longer_missing_is_forgotten() {
        let mut segments: Segments = [(segment(1), State::Rejected)].into_iter().collect();
        segments.learn(missing(&[2]));
        assert_eq!(segments.keys().collect::<Vec<_>>(), [&segment(2)]);
    }

    #[test]
    fn quarantines_get_longer_from_a_minute_to_the_longest_and_each_is_followed_by_a_round_of_tries()
     {
        let rules = Rules { max_tries: 2, ..Rules::default() };
        let mut segments = Segments::default();
        let mut now_ms = NOW_MS;
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(!segments.failed(segment(1), &rules, now_ms, 0));
            assert_eq!(segments.wait_ms(&segment(1), &rules, now_ms), Some(500));
            assert!(segments.failed(segment(1), &rules, now_ms, 0));
            assert_eq!(segments.quarantined(), 1);
            assert!(segments.ready(vec![segment(1)], &rules, now_ms).is_empty());
            now_ms += minutes * 60_000;
            assert_eq!(segments.wait_ms(&segment(1), &rules, now_ms - 1), Some(1));
            assert_eq!(segments.ready(vec![segment(1)], &rules, now_ms), [segment(1)]);
            assert_eq!(segments.quarantined(), 0);
        }
        let short = Rules { max_tries: 1, quarantine_ms: 5000, ..rules };
        let mut segments = Segments::default();
        segments.failed(segment(1), &short, NOW_MS, 0);
        assert_eq!(segments.wait_ms(&segment(1), &short, NOW_MS), Some(5000));
    }

    #[cfg(feature = "serde")]
    #[test]
    fn quarantines_of_older_cursors_are_read() {
        #[derive(serde::Serialize)]
        enum Older {
            Quarantined { until_ms: u64 },
        }
        let older = Older::Quarantined { until_ms: 7 };
        let expected = State::Quarantined { until_ms: 7, tries: 0 };
        for bytes in [rmp_serde::to_vec(&older).unwrap(), rmp_serde::to_vec_named(&older).unwrap()]
        {
            assert_eq!(rmp_serde::from_slice::<State>(&bytes).unwrap(), expected);
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn it_can_be_a_part_of_an_authors_own_cursor() {
        let mut segments = Segments::default();
        segments.failed(segment(1), &Rules::default(), NOW_MS, 0);
        segments.rejected(segment(2));
        let bytes = rmp_serde::to_vec_named(&segments).unwrap();
        assert_eq!(rmp_serde::from_slice::<Segments>(&bytes).unwrap(), segments);
    }
}
