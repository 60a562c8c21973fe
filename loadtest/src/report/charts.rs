//! Charts as SVG: percentiles, throughput and latencies over time as curves over two axes, each with its
//! own scale and labels.
//!
//! The page (`html`) sets the colours of axes and text, for light and dark screens; the colours of the
//! curves suit both. Names of curves are on the page, not in the chart.

use std::error::Error;
use std::ops::Range;

use plotters::coord::ranged1d::BoldPoints;
use plotters::coord::ranged1d::DefaultFormatting;
use plotters::coord::ranged1d::KeyPointHint;
use plotters::coord::ranged1d::Ranged;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::ChartBuilder;
use plotters::prelude::Circle;
use plotters::prelude::IntoDrawingArea;
use plotters::prelude::LineSeries;
use plotters::prelude::SVGBackend;
use plotters::style::Color;
use plotters::style::RGBColor;

use crate::report::histogram::Hdr;
use crate::report::record::Interval;
use crate::report::record::Record;

/// Replaced by colours of the page.
const INK: RGBColor = RGBColor(0, 0, 0);
const GRID: RGBColor = RGBColor(0, 0, 1);
const SIZE: (u32, u32) = (900, 360);
/// A chart with more curves starts over.
const COLORS: [(u8, u8, u8); 10] = [
    (31, 119, 180),
    (230, 120, 20),
    (44, 150, 60),
    (214, 60, 60),
    (148, 103, 189),
    (140, 100, 80),
    (220, 100, 180),
    (120, 120, 120),
    (150, 150, 20),
    (20, 160, 180),
];
/// More labels would overlap.
const MARKS_MAX: usize = 11;
/// The smallest distance to 100 % that is shown, as a power of ten.
const NINES_MAX: f64 = 6.0;
const NEARLY: f64 = 1e-9;

/// Points that a chart can show.
const POINTS_MAX: usize = 900;
/// Points for each halving of the distance to 100 %.
const TICKS: u32 = 20;
/// A shorter last second is joined with the one before: a rate of a few messages means nothing.
const SECOND_MIN: f64 = 0.5;

/// One line of a chart. A value that is not a number makes a gap.
pub struct Curve {
    pub color: usize,
    pub points: Vec<(f64, f64)>,
}

/// The colour in CSS.
pub fn color(place: usize) -> String {
    let (red, green, blue) = COLORS[place % COLORS.len()];
    format!("rgb({red},{green},{blue})")
}

/// The meaning and scale of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// 1 / (1 - quantile), logarithmic.
    Percentile,
    Seconds,
    PerSecond,
    /// Logarithmic.
    Milliseconds,
}

impl Axis {
    fn name(self) -> &'static str {
        match self {
            Axis::Percentile => "percentile",
            Axis::Seconds => "seconds",
            Axis::PerSecond => "done per second",
            Axis::Milliseconds => "milliseconds",
        }
    }

    /// Where a value is on the axis.
    fn place(self, value: f64) -> f64 {
        match self {
            Axis::Percentile if value < 1.0 => (-(1.0 - value).log10()).clamp(0.0, NINES_MAX),
            Axis::Percentile => NINES_MAX,
            Axis::Seconds | Axis::PerSecond => value,
            // A microsecond is the least. Not `f64::max`, which drops NaN.
            Axis::Milliseconds if value < 0.001 => -3.0,
            Axis::Milliseconds => value.log10(),
        }
    }

    fn label(self, place: f64) -> String {
        match self {
            Axis::Percentile => percentile(place),
            Axis::Seconds | Axis::PerSecond => short(place),
            Axis::Milliseconds => short(10_f64.powf(place)),
        }
    }

    /// The range that shows all these places, with its labels.
    fn marked(self, places: impl Iterator<Item = f64>) -> Marked {
        let places = places.filter(|place| place.is_finite());
        let (least, most) = places
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), one| {
                (least.min(one), most.max(one))
            });
        let even = |to: f64| {
            let axis = RangedCoordf64::from(0.0..to);
            let marks = axis.key_points(BoldPoints(MARKS_MAX));
            Marked { axis, marks }
        };
        match self {
            Axis::Percentile => {
                let end = most.ceil().max(1.0);
                let half = Axis::Percentile.place(0.5);
                let marks = (0..=end as i32).map(f64::from).chain([half]).collect();
                Marked { axis: RangedCoordf64::from(0.0..end), marks }
            }
            Axis::Seconds => even(most.max(1.0)),
            Axis::PerSecond => even((most * 1.05).max(0.001)),
            Axis::Milliseconds if least.is_finite() => powers(least, most),
            Axis::Milliseconds => powers(0.0, 0.0),
        }
    }
}

/// An axis with chosen labels.
struct Marked {
    axis: RangedCoordf64,
    marks: Vec<f64>,
}

/// An axis of powers of ten with labels at 1, 2 and 5 of each decade, or at 1 if there are many.
fn powers(least: f64, most: f64) -> Marked {
    let steps =
        (-3..=8).flat_map(|decade| [1.0_f64, 2.0, 5.0].map(|one| f64::from(decade) + one.log10()));
    let steps: Vec<f64> = steps.collect();
    let below = steps.iter().rev().find(|step| **step <= least + NEARLY).copied().unwrap_or(-3.0);
    let above = steps.iter().find(|step| **step >= most - NEARLY && **step > below + NEARLY);
    let above = above.copied().unwrap_or(8.0);
    let within = |step: &f64| (below - NEARLY..=above + NEARLY).contains(step);
    let mut marks: Vec<f64> = steps.into_iter().filter(within).collect();
    if marks.len() > MARKS_MAX {
        marks.retain(|step| (step - step.round()).abs() < NEARLY);
    }
    Marked { axis: RangedCoordf64::from(below..above), marks }
}

impl Ranged for Marked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.axis.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.axis.range()
    }
}

/// Draws a chart.
pub fn draw(x: Axis, y: Axis, curves: Vec<Curve>) -> Result<String, Box<dyn Error>> {
    let placed: Vec<Curve> = curves
        .into_iter()
        .map(|Curve { color, points }| {
            let points = points.into_iter().map(|(at, value)| (x.place(at), y.place(value)));
            Curve { color, points: points.collect() }
        })
        .collect();
    let all = || placed.iter().flat_map(|curve| &curve.points);
    let (x_axis, y_axis) = (x.marked(all().map(|one| one.0)), y.marked(all().map(|one| one.1)));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_right(48)
            .x_label_area_size(44)
            .y_label_area_size(84)
            .build_cartesian_2d(x_axis, y_axis)?;
        chart
            .configure_mesh()
            .x_desc(x.name())
            .y_desc(y.name())
            .x_label_formatter(&|place| x.label(*place))
            .y_label_formatter(&|place| y.label(*place))
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(GRID.mix(0.0))
            .label_style(("sans-serif", 15, &INK))
            .axis_desc_style(("sans-serif", 15, &INK))
            .draw()?;
        for curve in &placed {
            let (red, green, blue) = COLORS[curve.color % COLORS.len()];
            let color = RGBColor(red, green, blue);
            for part in curve.points.split(|point| !point.1.is_finite()) {
                let line = LineSeries::new(part.iter().copied(), color.stroke_width(2));
                chart.draw_series(line)?;
                // A single point makes no line.
                if let [alone] = part {
                    chart.draw_series([Circle::new(*alone, 3, color.filled())])?;
                }
            }
        }
        area.present()?;
    }
    Ok(svg)
}

/// Milliseconds over quantiles.
pub fn distribution(color: usize, all: &Hdr) -> Curve {
    let steps = all.0.iter_quantiles(TICKS);
    let points = steps.map(|step| {
        // 100 % is infinitely far on this axis; the last step is as far as the count supports.
        let furthest = 1.0 - 1.0 / (all.0.len().max(1) as f64 + 1.0);
        (step.quantile_iterated_to().min(furthest), step.value_iterated_to() as f64 / 1000.0)
    });
    Curve { color, points: points.collect() }
}

pub fn throughput(color: usize, record: &Record) -> Curve {
    let rate = |group: &[Interval]| {
        let done: u64 = group.iter().map(|one| one.latencies.0.len()).sum();
        done as f64 / group.iter().map(|one| one.seconds).sum::<f64>()
    };
    Curve { color, points: points(record, rate) }
}

/// The worst second of each point; a gap where nothing was done.
pub fn over_time(color: usize, record: &Record, figure: impl Fn(&Hdr) -> f64) -> Curve {
    let worst = |group: &[Interval]| {
        let busy = group.iter().filter(|one| !one.latencies.0.is_empty());
        busy.map(|one| figure(&one.latencies)).fold(f64::NAN, f64::max)
    };
    Curve { color, points: points(record, worst) }
}

/// Groups the seconds into at most `POINTS_MAX` points.
fn points(record: &Record, figure: impl Fn(&[Interval]) -> f64) -> Vec<(f64, f64)> {
    let each = record.intervals.len().div_ceil(POINTS_MAX).max(1);
    let mut groups: Vec<&[Interval]> = record.intervals.chunks(each).collect();
    let is_short =
        |group: &&[Interval]| group.iter().map(|one| one.seconds).sum::<f64>() < SECOND_MIN;
    if let [.., before, last] = groups[..]
        && is_short(&last)
    {
        groups.truncate(groups.len() - 2);
        groups.push(&record.intervals[record.intervals.len() - before.len() - last.len()..]);
    }
    let middle = |group: &[Interval]| {
        let end = group.last().map_or(0.0, |last| last.start + last.seconds);
        f64::midpoint(group.first().map_or(0.0, |first| first.start), end)
    };
    groups.into_iter().map(|group| (middle(group), figure(group))).collect()
}

fn percentile(nines: f64) -> String {
    match nines.round() as i32 {
        0 if nines > 0.1 => "50 %".to_owned(),
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        more => format!("99.{} %", "9".repeat(usize::try_from(more - 2).unwrap_or(0))),
    }
}

/// Without trailing zeros.
fn short(figure: f64) -> String {
    let text = format!("{figure:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record::tests::record;

    fn one(points: Vec<(f64, f64)>) -> Vec<Curve> {
        vec![Curve { color: 0, points }]
    }

    #[test]
    fn axes_have_labels_at_their_marks() {
        let told = [0.0, 0.5, 0.9, 0.99, 0.999, 0.99999];
        let told = told.map(|quantile| Axis::Percentile.label(Axis::Percentile.place(quantile)));
        assert_eq!(told, ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.999 %"]);
        let points = (1..=1000).map(|n| (f64::from(n) / 1000.1, f64::from(n) / 10.0)).collect();
        let svg = draw(Axis::Percentile, Axis::Milliseconds, one(points)).expect("it is drawn");
        for label in ["50 %", "90 %", "99 %", "99.9 %", "0.1", "0.5", "20", "100"] {
            assert!(svg.contains(&format!("\n{label}\n")), "{label}: {svg}");
        }
        for (least, most, bottom, top) in [
            (0.3, 0.9, 0.2, 1.0),
            (1.0, 1.0, 1.0, 2.0),
            (0.0, 0.0001, 0.001, 0.002),
            (4.0, 8_000_000.0, 2.0, 10_000_000.0),
        ] {
            let place = |ms| Axis::Milliseconds.place(ms);
            let axis = Axis::Milliseconds.marked([place(least), place(most)].into_iter());
            let Range { start, end } = axis.range();
            assert!((start - place(bottom)).abs() < NEARLY, "{least}: {start}");
            assert!((end - place(top)).abs() < NEARLY, "{most}: {end}");
            assert!((2..=MARKS_MAX).contains(&axis.marks.len()), "{:?}", axis.marks);
        }
    }

    #[test]
    fn gaps_and_single_points_are_visible() {
        let lines = |points: &[(f64, f64)]| {
            let svg = draw(Axis::Seconds, Axis::Milliseconds, one(points.to_vec()));
            let svg = svg.expect("it is drawn");
            let blue = svg.lines().filter(|line| line.contains("#1F77B4"));
            let blue: Vec<&str> = blue.collect();
            let count = |kind: &str| blue.iter().filter(|line| line.contains(kind)).count();
            (count("<polyline"), count("<circle"))
        };
        let none = f64::NAN;
        assert_eq!(lines(&[(0.5, 1.0), (1.5, 2.0), (2.5, none), (3.5, 1.0), (4.5, 1.0)]), (2, 0));
        assert_eq!(lines(&[(0.5, 1.0)]).1, 1);
        assert_eq!(lines(&[(0.5, none)]), (0, 0));
    }

    #[test]
    fn empty_runs_are_drawn_too() {
        for (x, y) in [
            (Axis::Percentile, Axis::Milliseconds),
            (Axis::Seconds, Axis::Milliseconds),
            (Axis::Seconds, Axis::PerSecond),
        ] {
            assert!(draw(x, y, one(Vec::new())).expect("it is drawn").contains("<svg"));
        }
    }

    #[test]
    fn a_day_is_shown_with_as_many_points_as_fit() {
        let mut long = record(10, 1);
        let one = long.intervals[0].clone();
        let second = |second: u32| Interval { start: f64::from(second), ..one.clone() };
        long.intervals = (0..2000).map(second).collect();
        let curve = throughput(0, &long);
        assert_eq!(curve.points.len(), 667);
        assert!(curve.points.iter().all(|point| (point.1 - 5.0).abs() < 1e-9));
        assert_eq!(curve.points[0].0, 1.5);
    }
}
