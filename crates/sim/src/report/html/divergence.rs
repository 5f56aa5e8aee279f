//! How far each node is behind, over time: a plot for each of a few nodes, a heat map of many.

use super::super::super::Outcome;
use super::scale::{Classes, count, item};
use super::svg::{Anchor, Area, LEFT, RIGHT, Svg, TimeAxis, column_x, short, stretches};

/// Nodes that have a plot each.
const FEW: usize = 12;
/// Columns of a plot, which shows the worst of what falls into each.
const COLUMNS: usize = 224;

/// What is known of a node in a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Unknown,
    Down,
    Behind(u64),
}

pub(super) fn figure(run: &Outcome) -> String {
    let nodes = run.divergence.iter().map(|sample| sample.behind.len()).max().unwrap_or(0);
    if nodes == 0 {
        return String::new();
    }
    let axis = TimeAxis::new(run.simulated);
    let rows: Vec<Vec<Cell>> = (0..nodes).map(|node| cells(run, axis, node)).collect();
    if nodes <= FEW { multiples(&rows, axis) } else { heat(&rows, axis) }
}

/// The worst of each column, or what was last known where there is no sample.
fn cells(run: &Outcome, axis: TimeAxis, node: usize) -> Vec<Cell> {
    let mut cells = vec![None; COLUMNS];
    let mut held = vec![Cell::Unknown; COLUMNS];
    for sample in &run.divergence {
        let column = axis.column(sample.at, COLUMNS);
        let now = match sample.behind.get(node) {
            None => Cell::Unknown,
            Some(None) => Cell::Down,
            Some(Some(keys)) => Cell::Behind(*keys),
        };
        cells[column] = Some(match (cells[column], now) {
            (Some(Cell::Behind(a)), Cell::Behind(b)) => Cell::Behind(a.max(b)),
            (Some(Cell::Behind(a)), _) => Cell::Behind(a),
            (_, now) => now,
        });
        held[column..].fill(now);
    }
    cells.into_iter().zip(held).map(|(cell, held)| cell.unwrap_or(held)).collect()
}

fn behind(rows: &[Vec<Cell>]) -> impl Iterator<Item = u64> + Clone + '_ {
    rows.iter().flatten().filter_map(|cell| match cell {
        Cell::Behind(keys) => Some(*keys),
        _ => None,
    })
}

const TITLE: &str = "Divergence: keys whose newest write a node does not show";

fn multiples(rows: &[Vec<Cell>], axis: TimeAxis) -> String {
    let (height, gap) = if rows.len() <= 6 { (44.0, 12.0) } else { (30.0, 10.0) };
    let most = behind(rows).max().unwrap_or(0).max(1);
    let mut svg = Svg::default();
    let mut y = 8.0;
    for (node, row) in rows.iter().enumerate() {
        let bottom = y + height;
        svg.line((LEFT, y), (RIGHT, y), "grid");
        svg.line((LEFT, bottom), (RIGHT, bottom), "grid");
        let mut area = String::new();
        for (cell, from, until) in stretches(row) {
            let (x, until) = (column_x(from, COLUMNS), column_x(until, COLUMNS));
            match cell {
                Cell::Behind(keys) if keys > 0 => {
                    let tall = (keys as f64 / most as f64 * height).max(1.5);
                    let (y, width) = (bottom - tall, until - x);
                    area += &Area { x, y, width, height: tall }.outline();
                }
                Cell::Down => {
                    svg.rect(Area { x, y, width: until - x, height }, "down", "no power");
                }
                _ => {}
            }
        }
        svg.path(&area, "q4");
        svg.text((6.0, y + height / 2.0 + 4.0), Anchor::Start, "label", &format!("n{node}"));
        svg.text((LEFT - 6.0, y + 8.0), Anchor::End, "tick", &count(most));
        svg.text((LEFT - 6.0, bottom + 2.0), Anchor::End, "tick", "0");
        y = bottom + gap;
    }
    let end = svg.time_axis(axis, y - gap + 4.0);
    let legend = item("q4", "keys behind, on one scale for all nodes") + &item("down", "no power");
    svg.figure(end, TITLE, &legend)
}

fn heat(rows: &[Vec<Cell>], axis: TimeAxis) -> String {
    let height: f64 = if rows.len() <= 40 { 14.0 } else { 8.0 };
    let classes = Classes::of(behind(rows));
    // A path for each colour: many cells make a small page.
    let mut paths: [String; 6] = Default::default();
    let mut svg = Svg::default();
    let every = (12.0 / height).ceil() as usize;
    for (node, row) in rows.iter().enumerate() {
        let y = 4.0 + node as f64 * height;
        let known = |cell: &Cell| match cell {
            Cell::Behind(keys) => Some(Some(classes.class(*keys))),
            Cell::Down => Some(None),
            Cell::Unknown => None,
        };
        let row: Vec<Option<Option<usize>>> = row.iter().map(known).collect();
        for (cell, from, until) in stretches(&row) {
            let x = column_x(from, COLUMNS);
            let width = column_x(until, COLUMNS) - x;
            let area = Area { x, y, width, height: height - 1.0 };
            match cell {
                Some(Some(class)) => paths[class] += &area.outline(),
                Some(None) => svg.rect(area, "down", ""),
                None => {}
            }
        }
        if node.is_multiple_of(every) {
            let middle = short(y + height / 2.0 + 3.0);
            svg.text((LEFT - 6.0, middle), Anchor::End, "tick", &format!("n{node}"));
        }
    }
    for (class, path) in paths.iter().enumerate() {
        svg.path(path, &format!("q{class}"));
    }
    let end = svg.time_axis(axis, 6.0 + rows.len() as f64 * height);
    svg.figure(end, TITLE, &(classes.legend(count, "keys") + &item("down", "no power")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::super::Divergence;
    use super::super::super::testing;
    use super::*;

    #[test]
    fn a_column_has_its_worst_and_the_next_ones_what_came_last() {
        let mut run = testing::empty("one", 1);
        run.simulated = Duration::from_secs(COLUMNS as u64);
        let sample =
            |millis, behind| Divergence { at: Duration::from_millis(millis), behind: vec![behind] };
        run.divergence = vec![
            sample(1000, Some(7)),
            sample(1500, Some(2)),
            sample(3000, None),
            sample(5000, Some(0)),
        ];
        let cells = cells(&run, TimeAxis::new(run.simulated), 0);
        let expected = [
            Cell::Unknown,
            Cell::Behind(7),
            Cell::Behind(2),
            Cell::Down,
            Cell::Down,
            Cell::Behind(0),
        ];
        assert_eq!(cells[..6], expected);
        assert_eq!(cells[COLUMNS - 1], Cell::Behind(0));
    }

    #[test]
    fn many_nodes_share_a_heat_map() {
        assert!(figure(&testing::outcome("one", 1, 12)).contains("on one scale"));
        assert!(!figure(&testing::outcome("one", 1, 13)).contains("on one scale"));
        assert_eq!(figure(&testing::empty("one", 1)), "");
    }
}
