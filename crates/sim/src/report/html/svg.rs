//! The little of SVG that the plots need.

use std::fmt::Write;
use std::time::Duration;

use super::super::words;
use super::Text;
use super::scale::instants;

/// Width of each plot, in its own units, which are pixels on a wide screen.
pub(super) const WIDTH: f64 = 760.0;
/// Where the data begin, so that plots of one run line up.
pub(super) const LEFT: f64 = 72.0;
/// Where they end.
pub(super) const RIGHT: f64 = 732.0;

/// Patterns that all plots share. Not `display: none`, or browsers would not paint them.
pub(super) const DEFINITIONS: &str = "<svg class=\"definitions\" aria-hidden=\"true\"><defs>\
    <pattern id=\"hatch\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" \
    patternTransform=\"rotate(45)\"><rect class=\"hatch-ground\" width=\"6\" height=\"6\"/>\
    <rect class=\"hatch-line\" width=\"2\" height=\"6\"/></pattern></defs></svg>";

/// A plot in the making.
#[derive(Default)]
pub(super) struct Svg(String);

/// Where text is put, as seen from its position.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let (x, y, text) = (short(x), short(y), Text(text));
        self.push(format_args!(
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>"
        ));
    }

    /// `hint` is shown to a pointer that rests on it.
    pub(super) fn rect(&mut self, area: Area, class: &str, hint: &str) {
        let Area { x, y, width, height } = area;
        let [x, y, width, height] = [x, y, width, height].map(short);
        let hint = match hint {
            "" => String::new(),
            hint => format!("<title>{}</title>", Text(hint)),
        };
        self.push(format_args!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" class=\"{class}\">\
             {hint}</rect>"
        ));
    }

    pub(super) fn line(&mut self, (x, y): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        let [x, y, x2, y2] = [x, y, x2, y2].map(short);
        self.push(format_args!(
            "<line x1=\"{x}\" y1=\"{y}\" x2=\"{x2}\" y2=\"{y2}\" class=\"{class}\"/>"
        ));
    }

    /// `data` is what the `d` of a path has.
    pub(super) fn path(&mut self, data: &str, class: &str) {
        if !data.is_empty() {
            self.push(format_args!("<path d=\"{data}\" class=\"{class}\"/>"));
        }
    }

    /// A time axis below what ends at `bottom`. Returns where it ends itself.
    pub(super) fn time_axis(&mut self, axis: TimeAxis, bottom: f64) -> f64 {
        for at in instants(axis.until.as_secs_f64()) {
            let x = axis.x_of(at);
            self.line((x, bottom), (x, bottom + 5.0), "axis");
            self.text((x, bottom + 17.0), Anchor::Middle, "tick", &instant(at));
        }
        self.line((LEFT, bottom), (RIGHT, bottom), "axis");
        let middle = ((LEFT + RIGHT) / 2.0, bottom + 34.0);
        self.text(middle, Anchor::Middle, "title", "simulated time since the start");
        bottom + 42.0
    }

    /// A figure with this title, which is also what a screen reader says of it. `legend` is HTML.
    pub(super) fn figure(self, height: f64, title: &str, legend: &str) -> String {
        let (body, height) = (self.0, short(height));
        let legend = match legend {
            "" => String::new(),
            legend => format!("<div class=\"legend\">{legend}</div>"),
        };
        format!(
            "<figure><figcaption>{title}</figcaption>{legend}<div class=\"plot\">\
             <svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">{body}\
             </svg></div></figure>\n"
        )
    }

    fn push(&mut self, arguments: std::fmt::Arguments<'_>) {
        // A string takes all that is written.
        let _ = self.0.write_fmt(arguments);
    }
}

/// A rectangle.
#[derive(Clone, Copy)]
pub(super) struct Area {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Area {
    /// As part of a path.
    pub(super) fn outline(self) -> String {
        let [x, y, width, height] = [self.x, self.y, self.width, self.height].map(short);
        format!("M{x} {y}h{width}v{height}h-{width}z")
    }
}

/// Time from left to right.
#[derive(Clone, Copy)]
pub(super) struct TimeAxis {
    until: Duration,
}

impl TimeAxis {
    pub(super) fn new(until: Duration) -> Self {
        Self { until }
    }

    /// Within the plot, whatever the time.
    pub(super) fn x(self, at: Duration) -> f64 {
        self.x_of(at.as_secs_f64())
    }

    fn x_of(self, at: f64) -> f64 {
        let until = self.until.as_secs_f64();
        let share = if until > 0.0 { (at / until).clamp(0.0, 1.0) } else { 0.0 };
        LEFT + share * (RIGHT - LEFT)
    }

    /// Which of `columns` equal columns a time is in.
    pub(super) fn column(self, at: Duration, columns: usize) -> usize {
        let column = at.as_nanos() * columns as u128 / self.until.as_nanos().max(1);
        usize::try_from(column).unwrap_or(usize::MAX).min(columns.saturating_sub(1))
    }
}

/// `class` and the stretch of columns that have it, one after the other.
pub(super) fn stretches<T: PartialEq + Copy>(columns: &[T]) -> Vec<(T, usize, usize)> {
    let mut stretches: Vec<(T, usize, usize)> = Vec::new();
    for (index, class) in columns.iter().enumerate() {
        match stretches.last_mut() {
            Some((last, _, until)) if last == class => *until = index + 1,
            _ => stretches.push((*class, index, index + 1)),
        }
    }
    stretches
}

/// Where column `index` of `columns` begins.
pub(super) fn column_x(index: usize, columns: usize) -> f64 {
    LEFT + (RIGHT - LEFT) * index as f64 / columns as f64
}

/// As short as an axis can have it: `10s` and `2m`, not `10.0s` and `2m 00s`.
fn instant(at: f64) -> String {
    if at.fract() == 0.0 && at < 60.0 {
        return format!("{at}s");
    }
    let text = words::seconds(at);
    let short = text.split_once(' ').filter(|(_, rest)| rest.starts_with("00"));
    short.map_or(text.clone(), |(first, _)| first.to_owned())
}

/// One digit after the point, where that is not zero.
pub(super) fn short(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
