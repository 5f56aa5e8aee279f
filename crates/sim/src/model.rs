//! What the nodes must show: every write that was acknowledged, and how they merge.

use std::collections::{BTreeMap, BTreeSet};

/// One write to a key. Ordered as the merge orders: the greatest wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Write {
    /// Unix nanoseconds.
    pub(super) stamp: i64,
    pub(super) deleted: bool,
    pub(super) value: Vec<u8>,
    /// Seconds; 0 for none.
    pub(super) ttl: u32,
}

impl Write {
    fn expires(&self) -> Option<i64> {
        (self.ttl > 0).then(|| self.stamp.saturating_add(i64::from(self.ttl) * 1_000_000_000))
    }
}

/// All writes of a run.
#[derive(Debug, Default)]
pub(super) struct Model {
    keys: BTreeMap<Vec<u8>, Key>,
    /// The clocks of nodes may differ so much, in nanoseconds.
    skew: i64,
    /// What is stamped later is of no use to nodes with a right clock while the run lasts.
    horizon: Option<i64>,
    /// Nodes whose clock was far ahead, and may have anything.
    far: BTreeSet<usize>,
}

#[derive(Debug, Default)]
struct Key {
    /// The greatest of the acknowledged writes that all nodes have to show.
    winner: Option<Write>,
    /// The greatest that was acknowledged by a node, by node.
    by_node: BTreeMap<usize, Write>,
    /// All writes.
    all: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    write: Write,
    /// Which acknowledged it.
    node: usize,
    /// No node is known to have it since one got an older copy of its data back.
    lost: bool,
}

/// What a node had acknowledged, by key: what is in a copy of its data.
pub(super) type Acknowledged = BTreeMap<Vec<u8>, Write>;

/// How what a node shows compares with what it must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// The newest write.
    Newest,
    /// An older one, or nothing yet.
    Behind,
    /// What only a bug explains.
    Wrong(String),
}

impl Model {
    pub(super) fn new(skew: std::time::Duration) -> Self {
        let skew = i64::try_from(skew.as_nanos()).unwrap_or(i64::MAX).saturating_mul(2);
        Self { skew: skew.saturating_add(1_000_000_000), ..Self::default() }
    }

    /// What is stamped later than `horizon`, in Unix nanoseconds, may be shown by nodes alone whose
    /// clock was far ahead: see [`Model::clock_far_ahead`].
    pub(super) fn with_horizon(self, horizon: i64) -> Self {
        Self { horizon: Some(horizon), ..self }
    }

    /// The clock of a node is far ahead, and may be right again later.
    pub(super) fn clock_far_ahead(&mut self, node: usize) {
        self.far.insert(node);
    }

    /// Nodes whose clock was far ahead.
    pub(super) fn far_nodes(&self) -> Vec<usize> {
        self.far.iter().copied().collect()
    }

    /// A node has stamped what was from the far future again. What it has of a key now is what all
    /// nodes have to show, unless another write is later; its versions from the future are gone.
    pub(super) fn restamped(
        &mut self,
        node: usize,
        mut stored: impl FnMut(&[u8]) -> Option<Write>,
    ) {
        self.far.remove(&node);
        let horizon = self.horizon;
        let far = |write: &Write| horizon.is_some_and(|horizon| write.stamp > horizon);
        let keys: Vec<_> = self.keys.keys().cloned().collect();
        for key in keys {
            let Some(known) = self.keys.get_mut(&key) else { continue };
            let own = known.by_node.get(&node).filter(|own| far(own)).cloned();
            let Some(own) = own else { continue };
            known.all.retain(|one| one.node != node || !far(&one.write));
            // Anything else is not the same write, and what was acknowledged is lost.
            let same = |write: &Write| (write.deleted, &write.value) == (own.deleted, &own.value);
            match stored(&key).filter(same) {
                Some(write) => {
                    known.by_node.insert(node, write.clone());
                    known.all.push(Known { write, node, lost: false });
                }
                None => known.all.push(Known { write: own, node, lost: false }),
            }
            self.choose(&key);
        }
    }

    fn is_far(&self, write: &Write) -> bool {
        self.horizon.is_some_and(|horizon| write.stamp > horizon)
    }

    /// A node has acknowledged a write.
    pub(super) fn acknowledged(&mut self, node: usize, key: &[u8], write: &Write) {
        let far = self.is_far(write);
        let known = self.keys.entry(key.to_vec()).or_default();
        known.all.push(Known { write: write.clone(), node, lost: false });
        let own = known.by_node.entry(node).or_insert_with(|| write.clone());
        if *own < *write {
            own.clone_from(write);
        }
        if far {
            self.choose(key);
        } else if known.winner.as_ref().is_none_or(|winner| winner < write) {
            known.winner = Some(write.clone());
        }
    }

    /// The greatest of the writes that all nodes have to show, once some are not of them any more.
    ///
    /// Of a node that has written to the key with a clock far ahead, none is: what it wrote before
    /// may never have left it, as one that the later one has replaced. It may have left it, though.
    fn choose(&mut self, key: &[u8]) {
        let far = |write: &Write| self.horizon.is_some_and(|horizon| write.stamp > horizon);
        let Some(known) = self.keys.get_mut(key) else { return };
        let replaced: BTreeSet<usize> =
            known.all.iter().filter(|one| far(&one.write)).map(|one| one.node).collect();
        let of_all = known
            .all
            .iter()
            .filter(|one| !one.lost && !far(&one.write) && !replaced.contains(&one.node));
        known.winner = of_all.map(|one| &one.write).max().cloned();
    }

    /// What a copy of a node's data would have of its own writes now.
    pub(super) fn copy(&self, node: usize) -> Acknowledged {
        let own = |(key, known): (&Vec<u8>, &Key)| {
            known.by_node.get(&node).map(|own| (key.clone(), own.clone()))
        };
        self.keys.iter().filter_map(own).collect()
    }

    /// A node got a copy of its data back. Whatever is later than all that nodes are known to have
    /// is lost, until one is seen to have it. `stored` is what nodes have of a key now.
    pub(super) fn restored(
        &mut self,
        node: usize,
        copy: &Acknowledged,
        mut stored: impl FnMut(&[u8]) -> Vec<Write>,
    ) {
        let keys: Vec<_> = self.keys.keys().cloned().collect();
        for key in keys {
            let stored = stored(&key);
            let horizon = self.horizon;
            let far = |write: &Write| horizon.is_some_and(|horizon| write.stamp > horizon);
            let Some(known) = self.keys.get_mut(&key) else { continue };
            match copy.get(&key) {
                Some(own) => drop(known.by_node.insert(node, own.clone())),
                None => drop(known.by_node.remove(&node)),
            }
            let had = known.by_node.values().chain(&stored).filter(|write| !far(write)).max();
            let mut changed = false;
            for one in known.all.iter_mut().filter(|one| !one.lost) {
                one.lost = !far(&one.write) && had.is_none_or(|had| *had < one.write);
                changed |= one.lost;
            }
            if changed {
                self.choose(&key);
            }
        }
    }

    /// Keys of which a write is lost, as far as is known.
    pub(super) fn with_losses(&self) -> Vec<Vec<u8>> {
        let lossy = self.keys.iter().filter(|(_, known)| known.all.iter().any(|one| one.lost));
        lossy.map(|(key, _)| key.clone()).collect()
    }

    /// A node has this of a key: it is not lost after all, and has to get to all nodes.
    pub(super) fn found(&mut self, key: &[u8], stored: &Write) {
        let Some(known) = self.keys.get_mut(key) else { return };
        let lost = known.all.iter_mut().find(|one| one.lost && one.write == *stored);
        if let Some(lost) = lost {
            lost.lost = false;
            self.choose(key);
        }
    }

    /// Keys that were written.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.keys.keys()
    }

    /// The newest write of a key, in words.
    pub(super) fn newest(&self, key: &[u8]) -> String {
        match self.keys.get(key).and_then(|known| known.winner.as_ref()) {
            Some(write) if write.deleted => format!("deleted at {}", write.stamp),
            Some(write) if write.ttl > 0 => format!("stamped {}, for {} s", write.stamp, write.ttl),
            Some(write) => format!("stamped {}", write.stamp),
            None => "none".to_owned(),
        }
    }

    /// What `node` shows of `key` at `now`: stamp and value of a live record, or none.
    pub(super) fn see(
        &self,
        node: usize,
        key: &[u8],
        now: i64,
        shown: Option<(i64, &[u8])>,
    ) -> Seen {
        let Some(known) = self.keys.get(key) else {
            return match shown {
                None => Seen::Newest,
                Some(_) => Seen::Wrong("shows a key that nobody wrote".into()),
            };
        };
        let may_have = |write: &Write| self.far.contains(&node) || !self.is_far(write);
        let (winner, own) = (known.winner.as_ref(), known.by_node.get(&node));
        match shown {
            Some((stamp, value)) => {
                let all = known.all.iter().map(|one| &one.write);
                let found = all.clone().find(|one| one.stamp == stamp && one.value == value);
                let Some(found) = found.filter(|write| !write.deleted) else {
                    return Seen::Wrong(format!(
                        "shows a value, stamped {stamp}, that nobody wrote"
                    ));
                };
                if !may_have(found) {
                    return Seen::Wrong(format!(
                        "shows a value of the far future, stamped {stamp}, that its clock forbids"
                    ));
                }
                if let Some(own) = own
                    && found < own
                {
                    return Seen::Wrong(format!(
                        "shows a value stamped {stamp}, and has acknowledged one stamped {}",
                        own.stamp
                    ));
                }
                if found.expires().is_some_and(|at| at.saturating_add(self.skew) < now) {
                    return Seen::Wrong(format!("shows a value stamped {stamp} that has expired"));
                }
                if winner.is_none_or(|winner| found >= winner) {
                    Seen::Newest
                } else {
                    Seen::Behind
                }
            }
            None => {
                // Deleted or expired, by a write that is at least as great as another.
                let hides = |write: &Write| {
                    write.deleted
                        || write.expires().is_some_and(|at| at.saturating_sub(self.skew) <= now)
                };
                let hidden = |from: Option<&Write>, lost: bool| {
                    from.is_none_or(|from| {
                        known.all.iter().any(|one| {
                            let write = &one.write;
                            write >= from && (lost || !one.lost) && may_have(write) && hides(write)
                        })
                    })
                };
                match (hidden(own, true), hidden(winner, false)) {
                    (false, _) => {
                        let stamp = own.map_or(0, |own| own.stamp);
                        Seen::Wrong(format!(
                            "shows nothing, and has acknowledged a value stamped {stamp}"
                        ))
                    }
                    (true, true) => Seen::Newest,
                    (true, false) => Seen::Behind,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(stamp: i64, value: &str) -> Write {
        Write { stamp, deleted: false, value: value.into(), ttl: 0 }
    }

    fn delete(stamp: i64) -> Write {
        Write { deleted: true, ..put(stamp, "") }
    }

    #[test]
    fn what_a_node_shows_is_the_newest_or_older_or_wrong() {
        let mut model = Model::default();
        model.acknowledged(0, b"k", &put(1, "a"));
        model.acknowledged(1, b"k", &put(2, "b"));
        let see = |node, shown| model.see(node, b"k", 100, shown);
        assert_eq!(see(0, Some((2, b"b"))), Seen::Newest);
        assert_eq!(see(0, Some((1, b"a"))), Seen::Behind);
        assert_eq!(see(2, None), Seen::Behind);
        assert!(
            matches!(see(1, Some((1, b"a"))), Seen::Wrong(why) if why.contains("acknowledged"))
        );
        assert!(matches!(see(0, None), Seen::Wrong(why) if why.contains("shows nothing")));
        assert!(
            matches!(see(0, Some((2, b"a"))), Seen::Wrong(why) if why.contains("nobody wrote"))
        );
        assert!(matches!(model.see(0, b"x", 100, Some((1, b"a"))), Seen::Wrong(_)));
    }

    #[test]
    fn deletes_win_ties_and_hide() {
        let mut model = Model::default();
        model.acknowledged(0, b"k", &put(5, "a"));
        model.acknowledged(1, b"k", &delete(5));
        assert_eq!(model.see(0, b"k", 100, None), Seen::Newest);
        assert_eq!(model.see(0, b"k", 100, Some((5, b"a"))), Seen::Behind);
        model.acknowledged(0, b"k", &put(6, "again"));
        assert!(matches!(model.see(0, b"k", 100, None), Seen::Wrong(_)));
        assert_eq!(model.see(1, b"k", 100, None), Seen::Behind);
    }

    #[test]
    fn what_has_expired_is_gone_as_far_as_clocks_agree() {
        let mut model = Model::new(std::time::Duration::from_secs(5));
        let second = 1_000_000_000;
        model.acknowledged(0, b"k", &Write { ttl: 10, ..put(0, "a") });
        assert_eq!(model.see(0, b"k", 5 * second, Some((0, b"a"))), Seen::Newest);
        assert_eq!(model.see(0, b"k", 12 * second, None), Seen::Newest);
        assert_eq!(model.see(0, b"k", 12 * second, Some((0, b"a"))), Seen::Newest);
        assert!(matches!(model.see(0, b"k", 60 * second, Some((0, b"a"))), Seen::Wrong(_)));
    }

    #[test]
    fn what_is_far_ahead_is_its_own_nodes_alone_and_holds_back_nothing_of_others() {
        let mut model = Model::default().with_horizon(1000);
        model.clock_far_ahead(1);
        model.acknowledged(0, b"k", &put(1, "a"));
        model.acknowledged(1, b"k", &put(2, "b"));
        assert_eq!(model.see(0, b"k", 100, Some((1, b"a"))), Seen::Behind);
        model.acknowledged(1, b"k", &put(5000, "far"));
        // That the second one was replaced before it left its node can't be known.
        assert_eq!(model.see(0, b"k", 100, Some((1, b"a"))), Seen::Newest);
        assert_eq!(model.see(0, b"k", 100, Some((2, b"b"))), Seen::Newest);
        assert_eq!(model.see(2, b"k", 100, None), Seen::Behind);
        let far = model.see(0, b"k", 100, Some((5000, b"far")));
        assert!(matches!(far, Seen::Wrong(why) if why.contains("far future")));
        assert_eq!(model.see(1, b"k", 100, Some((5000, b"far"))), Seen::Newest);
        let older = model.see(1, b"k", 100, Some((2, b"b")));
        assert!(matches!(older, Seen::Wrong(why) if why.contains("acknowledged")));
        model.acknowledged(1, b"k", &delete(6000));
        assert_eq!(model.see(1, b"k", 100, None), Seen::Newest);
        assert_eq!(model.see(2, b"k", 100, None), Seen::Behind);
    }

    #[test]
    fn what_is_stamped_again_has_to_get_to_all() {
        let mut model = Model::default().with_horizon(1000);
        model.clock_far_ahead(1);
        model.acknowledged(0, b"k", &put(1, "a"));
        model.acknowledged(1, b"k", &put(5000, "far"));
        model.acknowledged(1, b"x", &put(5001, "gone"));
        model.restamped(1, |key| (key == b"k").then(|| put(7, "far")));
        assert_eq!(model.see(0, b"k", 100, Some((1, b"a"))), Seen::Behind);
        assert_eq!(model.see(0, b"k", 100, Some((7, b"far"))), Seen::Newest);
        let older = model.see(1, b"k", 100, Some((1, b"a")));
        assert!(matches!(older, Seen::Wrong(why) if why.contains("acknowledged")));
        let gone = model.see(1, b"x", 100, None);
        assert!(matches!(gone, Seen::Wrong(why) if why.contains("acknowledged")));
    }

    #[test]
    fn what_a_restored_node_alone_had_is_lost_until_it_is_found() {
        let mut model = Model::default();
        model.acknowledged(0, b"k", &put(1, "a"));
        let copy = model.copy(0);
        model.acknowledged(0, b"k", &put(2, "b"));
        model.acknowledged(0, b"x", &delete(3));
        model.restored(0, &copy, |_| vec![put(1, "a")]);
        assert_eq!(model.see(0, b"k", 100, Some((1, b"a"))), Seen::Newest);
        assert_eq!(model.see(0, b"x", 100, None), Seen::Newest);
        assert_eq!(model.with_losses(), [b"k", b"x"]);
        model.found(b"k", &put(2, "b"));
        assert_eq!(model.see(0, b"k", 100, Some((1, b"a"))), Seen::Behind);
        assert_eq!(model.with_losses(), [b"x"]);
    }

    #[test]
    fn what_others_have_of_a_restored_node_is_not_lost() {
        let mut model = Model::default();
        let copy = model.copy(0);
        model.acknowledged(0, b"k", &put(1, "a"));
        model.acknowledged(0, b"k", &put(2, "b"));
        model.acknowledged(1, b"x", &put(3, "of another"));
        model.restored(0, &copy, |key| if key == b"k" { vec![put(1, "a")] } else { vec![] });
        assert_eq!(model.see(0, b"k", 100, None), Seen::Behind);
        assert_eq!(model.see(2, b"k", 100, Some((1, b"a"))), Seen::Newest);
        // What another node has acknowledged, it has.
        assert_eq!(model.see(0, b"x", 100, None), Seen::Behind);
        assert!(matches!(model.see(1, b"x", 100, None), Seen::Wrong(_)));
    }
}
