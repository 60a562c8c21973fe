//! Charts of runs as SVG.
//!
//! Colours of axes and texts are left to the page (`html`), so that they can be read on dark and on
//! light; those of the curves can be read on both. Names stand in the page, not in the charts.

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

/// Replaced by the page's own.
const INK: RGBColor = RGBColor(0, 0, 0);
const GRID: RGBColor = RGBColor(0, 0, 1);
const SIZE: (u32, u32) = (900, 360);
/// Enough to be told apart; a chart with more curves starts over.
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
/// More labels than these would touch each other.
const MARKS_MAX: usize = 11;
/// The distance to 100 % that is shown, as a power of ten.
const NINES_MAX: f64 = 6.0;

/// One line of a chart.
pub struct Curve {
    pub color: usize,
    pub points: Vec<(f64, f64)>,
}

/// As CSS has it.
pub fn color(place: usize) -> String {
    let (red, green, blue) = COLORS[place % COLORS.len()];
    format!("rgb({red},{green},{blue})")
}

/// Latency in milliseconds over 1 / (1 - p), both as powers of ten. Points are (quantile, ms).
pub fn percentiles(curves: Vec<Curve>) -> Result<String, Box<dyn Error>> {
    let nines = |quantile: f64| match quantile < 1.0 {
        true => -(1.0 - quantile).log10(),
        false => f64::INFINITY,
    };
    let curves = map(curves, |(quantile, ms)| (nines(quantile).clamp(0.0, NINES_MAX), power(ms)));
    let furthest = most(&curves, |point| point.0).ceil().max(1.0);
    let whole = (0..=furthest as i32).map(f64::from);
    let (y, y_marks) = powers(&curves);
    let axes = Axes {
        x: (0.0, furthest),
        y,
        x_marks: Some(whole.chain([nines(0.5)]).collect()),
        y_marks: Some(y_marks),
        x_name: "percentile",
        y_name: "milliseconds",
        x_text: &percentile,
        y_text: &|power| short(10_f64.powf(power)),
    };
    draw(&axes, &curves)
}

/// Something over the seconds of the run.
pub fn over_time(y_name: &str, curves: &[Curve]) -> Result<String, Box<dyn Error>> {
    let axes = Axes {
        x: (0.0, most(curves, |point| point.0).max(1.0)),
        y: (0.0, (most(curves, |point| point.1) * 1.05).max(0.001)),
        x_marks: None,
        y_marks: None,
        x_name: "seconds",
        y_name,
        x_text: &short,
        y_text: &short,
    };
    draw(&axes, curves)
}

/// Milliseconds over the seconds of the run, as powers of ten. Where there is no number, there is a
/// gap.
pub fn latency_over_time(curves: Vec<Curve>) -> Result<String, Box<dyn Error>> {
    let curves = map(curves, |(second, ms)| (second, power(ms)));
    let (y, y_marks) = powers(&curves);
    let axes = Axes {
        x: (0.0, most(&curves, |point| point.0).max(1.0)),
        y,
        x_marks: None,
        y_marks: Some(y_marks),
        x_name: "seconds",
        y_name: "milliseconds",
        x_text: &short,
        y_text: &|power| short(10_f64.powf(power)),
    };
    draw(&axes, &curves)
}

fn map(curves: Vec<Curve>, to: impl Fn((f64, f64)) -> (f64, f64)) -> Vec<Curve> {
    let each =
        |curve: Curve| Curve { points: curve.points.into_iter().map(&to).collect(), ..curve };
    curves.into_iter().map(each).collect()
}

/// Of milliseconds, from a microsecond on.
fn power(ms: f64) -> f64 {
    // Not `f64::max`, for which what is no number is the smallest.
    if ms < 0.001 { -3.0 } else { ms.log10() }
}

/// From where to where an axis of powers of ten goes to show all of these, and its marks: 1, 2 and 5
/// of each decade, and fewer where there are many.
fn powers(curves: &[Curve]) -> ((f64, f64), Vec<f64>) {
    let all = curves.iter().flat_map(|curve| &curve.points).map(|point| point.1);
    let all = all.filter(|power| power.is_finite());
    let (least, top) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, top), one| {
        (least.min(one), top.max(one))
    });
    let (least, top) = if least > top { (0.0, 0.0) } else { (least, top) };
    let nearly = 1e-9;
    let steps =
        (-3..=8).flat_map(|decade| [1.0_f64, 2.0, 5.0].map(|one| f64::from(decade) + one.log10()));
    let steps: Vec<f64> = steps.collect();
    let below = steps.iter().rev().find(|step| **step <= least + nearly).copied().unwrap_or(-3.0);
    let above = steps.iter().find(|step| **step >= top - nearly && **step > below + nearly);
    let above = above.copied().unwrap_or(8.0);
    let within = |step: &&f64| (below - nearly..=above + nearly).contains(*step);
    let marks: Vec<f64> = steps.iter().filter(within).copied().collect();
    let is_whole = |step: &f64| (step - step.round()).abs() < nearly;
    match marks.len() > MARKS_MAX {
        true => ((below, above), marks.into_iter().filter(is_whole).collect()),
        false => ((below, above), marks),
    }
}

struct Axes<'a> {
    x: (f64, f64),
    y: (f64, f64),
    /// Where there are labels; none: at round numbers.
    x_marks: Option<Vec<f64>>,
    y_marks: Option<Vec<f64>>,
    x_name: &'a str,
    y_name: &'a str,
    x_text: &'a dyn Fn(f64) -> String,
    y_text: &'a dyn Fn(f64) -> String,
}

/// An axis that is marked where we say.
struct Marked {
    axis: RangedCoordf64,
    marks: Vec<f64>,
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

fn marked((from, to): (f64, f64), marks: Option<&Vec<f64>>) -> Marked {
    let axis = RangedCoordf64::from(from..to);
    let marks = marks.cloned().unwrap_or_else(|| axis.key_points(BoldPoints(MARKS_MAX)));
    Marked { axis, marks }
}

fn draw(axes: &Axes<'_>, curves: &[Curve]) -> Result<String, Box<dyn Error>> {
    let x = marked(axes.x, axes.x_marks.as_ref());
    let y = marked(axes.y, axes.y_marks.as_ref());
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_right(48)
            .x_label_area_size(44)
            .y_label_area_size(84)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(axes.x_name)
            .y_desc(axes.y_name)
            .x_label_formatter(&|x| (axes.x_text)(*x))
            .y_label_formatter(&|y| (axes.y_text)(*y))
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(GRID.mix(0.0))
            .label_style(("sans-serif", 15, &INK))
            .axis_desc_style(("sans-serif", 15, &INK))
            .draw()?;
        for curve in curves {
            let (red, green, blue) = COLORS[curve.color % COLORS.len()];
            let color = RGBColor(red, green, blue);
            for part in curve.points.split(|point| !point.1.is_finite()) {
                let line = LineSeries::new(part.iter().copied(), color.stroke_width(2));
                chart.draw_series(line)?;
                // A point that has no neighbour is no line.
                if let [alone] = part {
                    chart.draw_series([Circle::new(*alone, 3, color.filled())])?;
                }
            }
        }
        area.present()?;
    }
    Ok(svg)
}

fn most(curves: &[Curve], of: impl Fn(&(f64, f64)) -> f64) -> f64 {
    curves.iter().flat_map(|curve| &curve.points).map(of).fold(0.0, f64::max)
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

/// As few digits as tell it.
fn short(figure: f64) -> String {
    let text = format!("{figure:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_named_where_they_are_marked() {
        let half = -(0.5_f64).log10();
        let told = [0.0, half, 1.0, 2.0, 3.0, 5.0].map(percentile);
        assert_eq!(told, ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.999 %"]);
        let points = (1..=1000).map(|n| (f64::from(n) / 1000.0, f64::from(n) / 10.0)).collect();
        let svg = percentiles(vec![Curve { color: 0, points }]).expect("it is drawn");
        for label in ["50 %", "90 %", "99 %", "99.9 %", "0.1", "0.5", "20", "100"] {
            assert!(svg.contains(&format!("\n{label}\n")), "{label}: {svg}");
        }
        let curve = |least: f64, most: f64| Curve {
            color: 0,
            points: vec![(0.0, power(least)), (1.0, power(most))],
        };
        for (least, most, bottom, top) in [
            (0.3, 0.9, 0.2, 1.0),
            (1.0, 1.0, 1.0, 2.0),
            (0.0, 0.0001, 0.001, 0.002),
            (4.0, 8_000_000.0, 2.0, 10_000_000.0),
        ] {
            let ((from, to), marks) = powers(&[curve(least, most)]);
            assert!((from - power(bottom)).abs() < 1e-9, "{least}: {from}");
            assert!((to - power(top)).abs() < 1e-9, "{most}: {to}");
            assert!((2..=MARKS_MAX).contains(&marks.len()), "{marks:?}");
        }
    }

    #[test]
    fn gaps_and_lonely_points_are_seen() {
        let lines = |points: &[(f64, f64)]| {
            let curves = vec![Curve { color: 0, points: points.to_vec() }];
            let svg = latency_over_time(curves).expect("it is drawn");
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
        let none = || vec![Curve { color: 11, points: Vec::new() }];
        assert!(percentiles(none()).expect("it is drawn").contains("<svg"));
        assert!(latency_over_time(none()).expect("it is drawn").contains("<svg"));
        assert!(over_time("messages per second", &none()).expect("it is drawn").contains("<svg"));
    }
}
