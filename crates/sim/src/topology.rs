//! Who pulls from whom.

use std::collections::{BTreeMap, BTreeSet};

use super::scenario::{Link, Scenario, Topology};
use super::schedule::Schedule;

/// All links of a scenario, by puller and source.
pub(super) fn links(scenario: &Scenario, schedule: &Schedule) -> BTreeMap<(usize, usize), Link> {
    let nodes = scenario.nodes;
    let mut pairs = BTreeSet::new();
    let mut between = BTreeMap::new();
    match &scenario.topology {
        Topology::Star => pairs.extend((1..nodes).map(|node| (0, node))),
        Topology::Ring => pairs.extend((0..nodes).map(|node| (node, (node + 1) % nodes))),
        Topology::Mesh => {
            pairs.extend((0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b))));
        }
        Topology::Random { degree } => {
            // A ring in an order of chance connects all; the rest is added by chance.
            let mut order: Vec<usize> = (0..nodes).collect();
            for at in (1..nodes).rev() {
                order.swap(at, schedule.below(at + 1));
            }
            pairs.extend((0..nodes).map(|at| sorted(order[at], order[(at + 1) % nodes])));
            let wanted = (nodes * degree).div_ceil(2).min(nodes * (nodes - 1) / 2);
            while pairs.len() < wanted {
                let pair = (schedule.below(nodes), schedule.below(nodes));
                if pair.0 != pair.1 {
                    pairs.insert(sorted(pair.0, pair.1));
                }
            }
        }
        Topology::Wan { regions, between: slower } => {
            let region = |node: usize| node * regions / nodes;
            let firsts: Vec<usize> = (0..*regions)
                .filter_map(|wanted| (0..nodes).find(|node| region(*node) == wanted))
                .collect();
            for a in 0..nodes {
                pairs.extend((a + 1..nodes).filter(|b| region(a) == region(*b)).map(|b| (a, b)));
            }
            for (at, &a) in firsts.iter().enumerate() {
                for &b in &firsts[at + 1..] {
                    pairs.insert(sorted(a, b));
                    between.insert(sorted(a, b), slower.clone());
                }
            }
        }
    }
    let both = |(a, b)| {
        let link = between.get(&sorted(a, b)).unwrap_or(&scenario.link);
        [((a, b), link.clone()), ((b, a), link.clone())]
    };
    pairs.into_iter().filter(|(a, b)| a != b).flat_map(both).collect()
}

fn sorted(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}
