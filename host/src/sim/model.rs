//! What the nodes must show: every write that was acknowledged, and how they merge.

use std::collections::BTreeMap;

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
}

#[derive(Debug, Default)]
struct Key {
    /// The greatest of the acknowledged writes.
    winner: Option<Write>,
    /// The greatest that was acknowledged by a node, by node.
    by_node: BTreeMap<usize, Write>,
    /// Stamps and values of all writes, those that failed included.
    all: Vec<Write>,
}

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
        Self { keys: BTreeMap::new(), skew: skew.saturating_add(1_000_000_000) }
    }

    /// A node has acknowledged a write.
    pub(super) fn acknowledged(&mut self, node: usize, key: &[u8], write: &Write) {
        let known = self.keys.entry(key.to_vec()).or_default();
        known.all.push(write.clone());
        for slot in [known.winner.get_or_insert_with(|| write.clone())] {
            if *slot < *write {
                slot.clone_from(write);
            }
        }
        let own = known.by_node.entry(node).or_insert_with(|| write.clone());
        if *own < *write {
            own.clone_from(write);
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
        let Some(winner) = &known.winner else { return Seen::Newest };
        match shown {
            Some((stamp, value)) => {
                let found =
                    known.all.iter().find(|write| write.stamp == stamp && write.value == value);
                let Some(found) = found.filter(|write| !write.deleted) else {
                    return Seen::Wrong(format!(
                        "shows a value, stamped {stamp}, that nobody wrote"
                    ));
                };
                if let Some(own) = known.by_node.get(&node)
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
                if found == winner { Seen::Newest } else { Seen::Behind }
            }
            None => {
                // Deleted or expired, by a write that is at least as great as the node's own.
                let hides = |write: &Write| {
                    write.deleted
                        || write.expires().is_some_and(|at| at.saturating_sub(self.skew) <= now)
                };
                let own = known.by_node.get(&node);
                let explained = own
                    .is_none_or(|own| known.all.iter().any(|write| write >= own && hides(write)));
                match (explained, hides(winner)) {
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
}
