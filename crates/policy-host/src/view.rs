//! What the host knows of what a peer has, and how far this node has it.
//!
//! A policy says when it is done; whether that is true is a fact. A peer is in sync when every
//! segment that it listed is here, or was retired here. The host knows both lists: it sees the
//! peer's answers to all ticks, and it has the registrations. So it compares them itself.

use std::collections::HashMap;
use std::sync::Arc;

use edgestore_engine::{Engine, Hash, Mark};
use edgestore_protocol::{Listing, PeerError};
use serde::{Deserialize, Serialize};

use super::wait::lock;
use super::{Downloads, Peer};

/// Failed segments that are remembered of a peer.
const MAX_FAILURES: usize = 10_000;

/// So many hashes of a list are compared at a time: it may have two million.
const CHUNK: usize = 10_000;

/// There is no memory for two lists of one peer that are longer than this.
const LONG: usize = 20_000;

/// Segments that a comparison names one by one.
const MAX_NAMED: usize = 100;

/// How this node compares with a peer, as the host worked it out from the peer's list and its own
/// registrations.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Comparison {
    /// Every segment that the peer listed is here, or was retired here.
    pub in_sync: bool,
    /// The root that the peer showed last, 64 hex digits; `None` before its first answer.
    pub peer_root: Option<String>,
    /// Segments in the peer's list; `None` where the list of that root was not read.
    pub listed: Option<u64>,
    /// Segments of the list that are not here: the sum of the next five.
    pub missing: u64,
    /// Of these, being fetched now.
    pub fetching: u64,
    /// Of these, no try has ended since the host started.
    pub untried: u64,
    /// Of these, failed at the last try: the peer gave other bytes, or none.
    pub failed: u64,
    /// Of these, waiting for their time: a record is stamped too far ahead of this node's clock.
    pub deferred: u64,
    /// Of these, rejected for good: the bytes are no segment that this node takes.
    pub rejected: u64,
    /// The first 100 of those that failed, wait or were rejected, in the peer's order.
    pub set_aside: Vec<SetAside>,
    /// Why it is not known whether the peer is in sync; `None` where it is known.
    pub unknown: Option<String>,
}

impl Comparison {
    /// Where it is not known what is missing.
    pub fn unknown(why: &str) -> Self {
        Self { unknown: Some(why.to_owned()), ..Self::default() }
    }
}

/// A segment that is missing, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// BLAKE3 of the segment, 64 hex digits.
    pub hash: String,
    /// What kept it from being applied.
    pub reason: SetAsideReason,
    /// The same with its details, for people.
    pub why: String,
    /// Tries in a row that failed, since the host started.
    pub tries: u32,
}

/// What keeps a segment from being applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetAsideReason {
    /// The peer did not give its bytes.
    Failed,
    /// A record is stamped too far ahead of this node's clock.
    Deferred,
    /// The bytes are no segment that this node takes.
    Rejected,
}

impl SetAsideReason {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Deferred => "deferred",
            Self::Rejected => "rejected",
        }
    }
}

/// What the host knows of a peer.
#[derive(Debug, Default)]
pub(super) struct View {
    /// The root that it showed last.
    root: Option<Hash>,
    /// Roots and lists that it has answered with.
    answers: u64,
    /// Requests and segments that have failed.
    setbacks: u64,
    /// Its last list, as long as something in it is missing here.
    list: Option<Arc<Listing>>,
    /// The list came after the root.
    list_is_newer: bool,
    /// The root came right after the list, and is of another one.
    contradicts: bool,
    /// A list made way for the next one, which has not come yet.
    list_made_way: bool,
    /// A root of which everything was here, at this state of the database.
    complete: Option<(Hash, Mark, u64)>,
    failures: HashMap<Hash, Failure>,
    /// Where the next page of what is missing begins.
    page: Option<Hash>,
    /// The first segment that is missing and that a tick was not shown.
    not_shown: Option<Hash>,
}

#[derive(Debug)]
struct Failure {
    reason: SetAsideReason,
    why: String,
    tries: u32,
}

impl View {
    fn is_list_of_root(&self) -> bool {
        self.root.is_some() && self.list.as_ref().map(|list| list.root()) == self.root
    }

    /// The list, where the root is of another one by which all is here, and something in the list is
    /// missing. One of the two is older, as from a cache, or a lie.
    fn list_against_root(&self, engine: &Engine) -> Option<&Arc<Listing>> {
        let root = self.root?;
        let list = self.list.as_ref().filter(|list| list.root() != root)?;
        let is_complete = |(of, mark, _): &(Hash, Mark, u64)| *of == root && engine.holds(mark);
        let all_here = engine.compare(&root) || self.complete.as_ref().is_some_and(is_complete);
        let against = all_here && engine.is_any_missing(list.hashes());
        against.then_some(list)
    }
}

impl Peer {
    /// The peer has shown this root.
    pub(super) fn note_root(&self, root: Hash) {
        let mut view = lock(&self.view);
        view.root = Some(root);
        view.contradicts = view.list_is_newer && !view.is_list_of_root();
        view.list_is_newer = false;
        view.answers += 1;
    }

    /// The peer is about to be asked for its list: a long one that it gave before makes way.
    pub(super) fn make_way_for_list(&self) {
        let mut view = lock(&self.view);
        if view.list.take_if(|list| list.hashes().len() > LONG).is_some() {
            view.list_made_way = true;
        }
    }

    /// The peer has listed these segments.
    pub(super) fn note_list(&self, list: &Arc<Listing>) {
        let mut view = lock(&self.view);
        view.answers += 1;
        (view.list, view.list_is_newer) = (Some(Arc::clone(list)), true);
        (view.list_made_way, view.contradicts) = (false, false);
    }

    /// Whether the peer showed a root that is not of the list that it gave right before, or gave so
    /// little of what it lists that not all of it is remembered. No policy is to blame for what it makes
    /// of that.
    pub fn misleads(&self) -> bool {
        let view = lock(&self.view);
        view.contradicts || view.failures.len() >= MAX_FAILURES
    }

    /// At which place of a list the page of it begins that a tick is shown.
    pub(super) fn page_start(&self, list: &Listing) -> usize {
        lock(&self.view).page.and_then(|first| list.position(&first)).unwrap_or(0)
    }

    /// More segments of the peer are missing than a policy was shown; this is the next one.
    pub(super) fn note_not_shown(&self, next: Hash) {
        lock(&self.view).not_shown = Some(next);
    }

    /// Whether a policy was shown a part of what is missing since this was asked last. What it is
    /// shown next begins where that ended: none of it is kept from a policy by segments before it that
    /// can't be had.
    pub fn turn_page(&self) -> bool {
        let mut view = lock(&self.view);
        view.page = view.not_shown.take();
        view.page.is_some()
    }

    /// A segment of the peer was not applied.
    pub(super) fn note_failure(&self, hash: Hash, reason: SetAsideReason, why: String) {
        let mut view = lock(&self.view);
        view.setbacks += 1;
        if let Some(failure) = view.failures.get_mut(&hash) {
            *failure = Failure { reason, why, tries: failure.tries.saturating_add(1) };
        } else if view.failures.len() < MAX_FAILURES {
            view.failures.insert(hash, Failure { reason, why, tries: 1 });
        }
    }

    /// As if no segment of the peer had been tried yet.
    pub fn forget_failures(&self) {
        lock(&self.view).failures.clear();
    }

    /// A request for the root or the list has failed.
    pub(super) fn note_error(&self) {
        lock(&self.view).setbacks += 1;
    }

    /// How often the peer has answered with a root or a list, and how often something failed that
    /// was asked of it.
    pub fn counts(&self) -> (u64, u64) {
        let view = lock(&self.view);
        (view.answers, view.setbacks)
    }

    /// The root that the peer showed last; `None` before the first.
    pub fn last_root(&self) -> Option<Hash> {
        lock(&self.view).root
    }

    /// Finds out what the peer has, whatever a policy says of it: asks for its root, unless the last
    /// one is `fresh`, and for its list, unless that of the root is known. Blocks as a policy's
    /// requests do.
    ///
    /// # Errors
    /// When the peer gives no usable answer.
    pub fn look(&self, engine: &Engine, fresh: bool) -> Result<(), PeerError> {
        if !fresh || lock(&self.view).root.is_none() {
            self.look_at_root()?;
        }
        if !lock(&self.view).is_list_of_root() {
            self.look_at_list()?;
        }
        self.settle(engine)
    }

    /// Asks the peer for its root where it has listed since what is not of the last root: it may have
    /// changed between the two. Where by its root all is here, and something is missing of a list
    /// before that, or that list made way for one that did not come, it asks for the list first.
    ///
    /// # Errors
    /// When the peer gives no usable answer.
    pub fn settle(&self, engine: &Engine) -> Result<(), PeerError> {
        let is_old = |view: &View| {
            view.list_made_way || !view.list_is_newer && view.list_against_root(engine).is_some()
        };
        if is_old(&lock(&self.view)) {
            self.look_at_list()?;
        }
        let is_settled = |view: &View| !view.list_is_newer || view.is_list_of_root();
        if is_settled(&lock(&self.view)) {
            return Ok(());
        }
        self.look_at_root()
    }

    fn look_at_list(&self) -> Result<(), PeerError> {
        self.make_way_for_list();
        let list = self.ask(|transport| transport.manifest())?;
        self.note_list(list.listing());
        Ok(())
    }

    fn look_at_root(&self) -> Result<(), PeerError> {
        let root = self.ask(|transport| transport.root())?;
        self.note_root(root);
        Ok(())
    }

    /// Compares what the peer showed last with what the engine has.
    pub fn compare(&self, engine: &Engine, downloads: &Downloads) -> Comparison {
        // Before the look at the registrations: what is lost after it ends the mark.
        let mark = engine.mark().ok();
        let mut view = lock(&self.view);
        let Some(root) = view.root else {
            return Comparison::unknown("the peer has not answered yet");
        };
        let peer_root = Some(root.to_string());
        if view.list_made_way {
            let unknown = Comparison::unknown("its list of segments could not be read again");
            return Comparison { peer_root, ..unknown };
        }
        let against = view.list_against_root(engine).cloned();
        let complete = view.complete.filter(|(of, mark, _)| *of == root && engine.holds(mark));
        let complete = complete.filter(|_| against.is_none());
        if let Some((_, _, listed)) = complete {
            view.failures.clear();
            let listed = Some(listed);
            return Comparison { in_sync: true, peer_root, listed, ..Comparison::default() };
        }
        let list = view.list.as_ref().filter(|list| list.root() == root);
        let Some(list) = against.as_ref().or(list).cloned() else {
            if engine.compare(&root) {
                view.failures.clear();
                return Comparison { in_sync: true, peer_root, ..Comparison::default() };
            }
            let unknown = Comparison::unknown(match view.contradicts {
                true => "its list of segments is not of the root that it shows",
                false => "no list of segments was read that is of its root",
            });
            return Comparison { peer_root, ..unknown };
        };
        let listed = list.hashes().len() as u64;
        let mut found = Comparison { peer_root, listed: Some(listed), ..Comparison::default() };
        let mut failures = std::mem::take(&mut view.failures);
        for hash in list.hashes().chunks(CHUNK).flat_map(|hashes| engine.missing(hashes)) {
            found.missing += 1;
            let rejected_before = || {
                let why = engine.rejected(&hash)?;
                Some(Failure { reason: SetAsideReason::Rejected, why, tries: 1 })
            };
            let Some(failure) = failures.remove(&hash).or_else(rejected_before) else {
                let fetching = downloads.has(&hash);
                *(if fetching { &mut found.fetching } else { &mut found.untried }) += 1;
                continue;
            };
            *match failure.reason {
                SetAsideReason::Failed => &mut found.failed,
                SetAsideReason::Deferred => &mut found.deferred,
                SetAsideReason::Rejected => &mut found.rejected,
            } += 1;
            if found.set_aside.len() < MAX_NAMED {
                let Failure { reason, ref why, tries } = failure;
                let (name, why) = (hash.to_string(), why.clone());
                found.set_aside.push(SetAside { hash: name, reason, why, tries });
            }
            view.failures.insert(hash, failure);
        }
        if found.missing == 0 {
            view.complete = mark.map(|mark| (root, mark, listed));
            view.list = None;
            found.in_sync = true;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use edgestore_protocol::{SegmentList, SegmentRef};

    use super::super::testing::FakePeer;
    use super::*;

    fn hash(n: u8) -> Hash {
        Hash::from_bytes([n; 32])
    }

    fn list(hashes: &[Hash]) -> Arc<Listing> {
        let segments = hashes.iter().map(|&hash| SegmentRef { hash, id: 1, info: None });
        Arc::clone(segments.collect::<SegmentList>().listing())
    }

    fn setup() -> (tempfile::TempDir, Engine, Peer) {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path()).unwrap();
        (dir, engine, Peer::new("a", Arc::new(FakePeer::default()), 1))
    }

    /// Takes the only segment of another engine.
    fn pull(engine: &Engine, from: &Engine) {
        let (mut file, _) = from.open_segment(&from.manifest()[0].hash).unwrap().unwrap();
        let mut staging = engine.stage().unwrap();
        std::io::copy(&mut file, &mut staging).unwrap();
        staging.flush().unwrap();
        engine.apply(&mut staging.verify(from.manifest()[0].hash).unwrap()).unwrap();
    }

    #[test]
    fn comparison_is_unknown_until_the_peer_has_answered_and_its_list_was_read() {
        let (_dir, engine, peer) = setup();
        let downloads = Downloads::default();
        let unknown = peer.compare(&engine, &downloads);
        assert!(!unknown.in_sync && unknown.unknown.is_some());
        peer.note_root(hash(1));
        let unread = peer.compare(&engine, &downloads);
        assert!(!unread.in_sync && unread.unknown.unwrap().contains("no list"));
        peer.note_root(engine.root());
        assert!(peer.compare(&engine, &downloads).in_sync, "equal roots need no list");
    }

    #[test]
    fn comparison_takes_no_list_that_is_not_of_the_root() {
        let (_dir, engine, peer) = setup();
        let downloads = Downloads::default();
        let nothing = list(&[]);
        peer.note_root(hash(1));
        peer.note_list(&nothing);
        let found = peer.compare(&engine, &downloads);
        assert!(!found.in_sync && found.unknown.is_some(), "{found:?}");
        assert_eq!(found.peer_root, Some(hash(1).to_string()), "what it showed");
        // The list alone is no proof either.
        let peer = Peer::new("b", Arc::new(FakePeer::default()), 1);
        peer.note_list(&nothing);
        assert!(!peer.compare(&engine, &downloads).in_sync);
        peer.note_root(nothing.root());
        assert!(peer.compare(&engine, &downloads).in_sync);
    }

    #[test]
    fn comparison_by_a_root_that_is_older_than_the_list_finds_what_the_list_has() {
        let (_dir, engine, peer) = setup();
        let downloads = Downloads::default();
        engine.put(b"ns", b"key", b"value").unwrap();
        let here = engine.flush().unwrap().unwrap().hash;
        let ours = engine.root();
        for (hashes, in_sync) in [(vec![here, hash(1)], false), (vec![here], true)] {
            peer.note_root(ours);
            peer.note_list(&list(&hashes));
            peer.note_root(ours);
            let found = peer.compare(&engine, &downloads);
            assert_eq!((found.in_sync, found.missing), (in_sync, u64::from(!in_sync)), "{found:?}");
        }
        // It had all of that root before.
        let newer = list(&[here, hash(2)]);
        peer.note_list(&newer);
        peer.note_root(ours);
        assert_eq!(peer.compare(&engine, &downloads).missing, 1);
        // As of two nodes behind one address, one of which is behind.
        peer.note_root(newer.root());
        assert_eq!(peer.compare(&engine, &downloads).missing, 1);
        peer.note_root(ours);
        assert_eq!(peer.compare(&engine, &downloads).missing, 1);
        peer.note_root(hash(9));
        assert!(peer.compare(&engine, &downloads).unknown.is_some());
        peer.note_list(&list(&[here]));
        peer.note_root(ours);
        assert!(peer.compare(&engine, &downloads).in_sync);
    }

    /// A cache in between gives an old root and a new list, and then the new ones.
    #[test]
    fn peer_is_asked_for_its_list_again_where_that_and_its_root_did_not_agree() {
        let dir = tempfile::tempdir().unwrap();
        let (engine, other) = (
            Engine::open(dir.path().join("a")).unwrap(),
            Engine::open(dir.path().join("b")).unwrap(),
        );
        other.put(b"ns", b"key", b"value").unwrap();
        other.flush().unwrap();
        let peer = Peer::new("a", Arc::new(FakePeer::offering(&other)), 1);
        let downloads = Downloads::default();
        let stale = engine.root();
        peer.note_root(stale);
        peer.note_list(&list(&[hash(8)]));
        peer.note_root(stale);
        assert_eq!(peer.compare(&engine, &downloads).missing, 1);
        peer.settle(&engine).unwrap();
        let found = peer.compare(&engine, &downloads);
        assert_eq!(found.peer_root, Some(other.root().to_string()), "it was asked for both");
        assert_eq!((found.in_sync, found.listed, found.missing), (false, Some(1), 1));
        pull(&engine, &other);
        assert!(peer.compare(&engine, &downloads).in_sync);
    }

    #[test]
    fn comparison_counts_what_is_missing_by_its_reason() {
        let (_dir, engine, peer) = setup();
        let downloads = Arc::new(Downloads::default());
        let hashes: Vec<_> = (1..=6).map(hash).collect();
        let listed = list(&hashes);
        peer.note_root(listed.root());
        peer.note_list(&listed);
        let _download = downloads.begin(hash(6), std::time::Duration::ZERO);
        peer.note_failure(hash(1), SetAsideReason::Failed, "HTTP 500".into());
        peer.note_failure(hash(1), SetAsideReason::Failed, "HTTP 404".into());
        peer.note_failure(hash(2), SetAsideReason::Deferred, "2 h ahead".into());
        peer.note_failure(hash(3), SetAsideReason::Rejected, "no records".into());
        peer.note_failure(hash(77), SetAsideReason::Rejected, "of another list".into());
        let found = peer.compare(&engine, &downloads);
        let Comparison { missing, fetching, untried, failed, deferred, rejected, .. } = found;
        assert_eq!((missing, fetching, untried, failed, deferred, rejected), (6, 1, 2, 1, 1, 1));
        assert!(!found.in_sync);
        let first = &found.set_aside[0];
        assert_eq!((first.tries, &*first.why, found.set_aside.len()), (2, "HTTP 404", 3));
    }

    #[test]
    fn comparison_of_a_complete_list_holds_until_a_segment_is_lost() {
        let (_dir, engine, peer) = setup();
        let other = tempfile::tempdir().unwrap();
        let other = Engine::open(other.path()).unwrap();
        other.put(b"ns", b"key", b"value").unwrap();
        other.flush().unwrap();
        engine.put(b"ns", b"own", b"value").unwrap();
        engine.flush().unwrap();
        let downloads = Downloads::default();
        let listed = list(&[other.manifest()[0].hash]);
        peer.note_root(listed.root());
        peer.note_list(&listed);
        assert_eq!(peer.compare(&engine, &downloads).untried, 1);
        pull(&engine, &other);
        assert!(peer.compare(&engine, &downloads).in_sync);
        peer.note_root(listed.root());
        assert!(peer.compare(&engine, &downloads).in_sync, "the list need not be read again");

        let file = engine.path().join(format!("segments/{}.dat", other.manifest()[0].hash));
        std::fs::write(file, b"damaged").unwrap();
        engine.verify(true, |_, _| {}).unwrap();
        let lost = peer.compare(&engine, &downloads);
        assert!(!lost.in_sync && lost.unknown.is_some(), "{lost:?}");
    }
}
