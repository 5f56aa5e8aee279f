//! How much went over each link: a matrix of who asks and who answers.

use std::collections::BTreeMap;

use super::super::super::Outcome;
use super::super::words;
use super::scale::Classes;
use super::svg::{Anchor, Area, LEFT, RIGHT, Svg};

/// Nodes whose cells have their figure written in.
const FEW: usize = 12;
/// Nodes whose cells say more to a pointer. For more, the page would grow too large.
const SOME: usize = 40;

pub(super) fn figure(run: &Outcome) -> String {
    let mut bytes = BTreeMap::<(usize, usize), u64>::new();
    for link in &run.links {
        *bytes.entry((link.puller, link.source)).or_default() += link.segment_bytes;
    }
    let named = bytes.keys().map(|(puller, source)| puller.max(source) + 1).max();
    let Some(named) = named else {
        return String::new();
    };
    let nodes = run.nodes.len().max(named);
    let classes = Classes::of(bytes.values().copied());
    let cell = ((RIGHT - LEFT) / nodes as f64).min(if nodes <= FEW { 56.0 } else { 18.0 });
    let (left, top) = (LEFT, 40.0);
    let side = cell * nodes as f64;
    let mut svg = Svg::default();
    let mut paths: [String; 6] = Default::default();
    for ((puller, source), bytes) in &bytes {
        let (x, y) = (left + *source as f64 * cell, top + *puller as f64 * cell);
        let class = classes.class(*bytes);
        let gap = if cell > 10.0 { 1.0 } else { 0.0 };
        let area = Area { x, y, width: cell - gap, height: cell - gap };
        if nodes > SOME {
            paths[class] += &area.outline();
            continue;
        }
        let hint = format!("n{puller} from n{source}: {}", words::bytes(*bytes));
        svg.rect(area, &format!("q{class}"), &hint);
        if nodes <= FEW {
            let class = if class >= 4 { "on-strong" } else { "on-pale" };
            let middle = (x + (cell - gap) / 2.0, y + (cell - gap) / 2.0 + 4.0);
            svg.text(middle, Anchor::Middle, class, &words::short_bytes(*bytes));
        }
    }
    for (class, path) in paths.iter().enumerate() {
        svg.path(path, &format!("q{class}"));
    }
    // About two characters and a half have to fit beside each other.
    let every = (26.0 / cell).ceil() as usize;
    for node in (0..nodes).step_by(every) {
        let (middle, name) = ((node as f64 + 0.5) * cell, format!("n{node}"));
        svg.text((left + middle, top - 6.0), Anchor::Middle, "tick", &name);
        svg.text((left - 6.0, top + middle + 4.0), Anchor::End, "tick", &name);
    }
    let names = [((left, 14.0), "source, which answers →"), ((6.0, top - 6.0), "puller ↓")];
    for (at, name) in names {
        svg.text(at, Anchor::Start, "title", name);
    }
    let unit = "of segments, by link; no colour: no link";
    let figure = "Bytes of segments by link";
    svg.figure(top + side + 4.0, figure, &classes.legend(words::short_bytes, unit))
}
