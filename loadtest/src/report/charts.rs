//! Charts of runs as SVG.
//!
//! Colours of axes and texts are left to the page (`html`), so that they can be read on dark and on
//! light; those of the curves can be read on both. Names stand in the page, not in the charts.

use std::error::Error;

use plotters::prelude::ChartBuilder;
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
    let logarithmic = |(quantile, ms): (f64, f64)| {
        let nines = if quantile < 1.0 { -(1.0 - quantile).log10() } else { f64::INFINITY };
        (nines.clamp(0.0, NINES_MAX), ms.max(0.001).log10())
    };
    let curves: Vec<Curve> = curves
        .into_iter()
        .map(|curve| Curve { points: curve.points.into_iter().map(logarithmic).collect(), ..curve })
        .collect();
    let nines = most(&curves, |point| point.0).ceil().max(1.0);
    let least = curves.iter().flat_map(|curve| &curve.points).map(|point| point.1);
    let bottom = least.fold(f64::INFINITY, f64::min).min(0.0).floor();
    let top = most(&curves, |point| point.1).ceil().max(bottom + 1.0);
    let axes = Axes {
        x: (0.0, nines),
        y: (bottom, top),
        x_name: "percentile",
        y_name: "milliseconds",
        x_text: &|nines| whole(nines).map_or(String::new(), percentile),
        y_text: &|power| whole(power).map_or(String::new(), power_of_ten),
    };
    draw(&axes, &curves)
}

/// Something over the seconds of the run.
pub fn over_time(y_name: &str, curves: &[Curve]) -> Result<String, Box<dyn Error>> {
    let axes = Axes {
        x: (0.0, most(curves, |point| point.0).max(1.0)),
        y: (0.0, (most(curves, |point| point.1) * 1.05).max(0.001)),
        x_name: "seconds",
        y_name,
        x_text: &|seconds| short(seconds),
        y_text: &|figure| short(figure),
    };
    draw(&axes, curves)
}

struct Axes<'a> {
    x: (f64, f64),
    y: (f64, f64),
    x_name: &'a str,
    y_name: &'a str,
    x_text: &'a dyn Fn(f64) -> String,
    y_text: &'a dyn Fn(f64) -> String,
}

fn draw(axes: &Axes<'_>, curves: &[Curve]) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_right(24)
            .x_label_area_size(40)
            .y_label_area_size(80)
            .build_cartesian_2d(axes.x.0..axes.x.1, axes.y.0..axes.y.1)?;
        chart
            .configure_mesh()
            .x_desc(axes.x_name)
            .y_desc(axes.y_name)
            .x_label_formatter(&|x| (axes.x_text)(*x))
            .y_label_formatter(&|y| (axes.y_text)(*y))
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(GRID.mix(0.0))
            .label_style(("sans-serif", 14, &INK))
            .draw()?;
        for curve in curves {
            let (red, green, blue) = COLORS[curve.color % COLORS.len()];
            let style = RGBColor(red, green, blue).stroke_width(2);
            chart.draw_series(LineSeries::new(curve.points.iter().copied(), style))?;
        }
        area.present()?;
    }
    Ok(svg)
}

fn most(curves: &[Curve], of: impl Fn(&(f64, f64)) -> f64) -> f64 {
    curves.iter().flat_map(|curve| &curve.points).map(of).fold(0.0, f64::max)
}

/// A decade, where this is one.
fn whole(figure: f64) -> Option<i32> {
    ((figure - figure.round()).abs() < 1e-6).then_some(figure.round() as i32)
}

fn percentile(nines: i32) -> String {
    match nines {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        more => format!("99.{} %", "9".repeat(usize::try_from(more - 2).unwrap_or(0))),
    }
}

fn power_of_ten(power: i32) -> String {
    short(10_f64.powi(power))
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
    fn axes_are_named_by_their_decades() {
        assert_eq!([0, 1, 2, 3, 5].map(percentile), ["0 %", "90 %", "99 %", "99.9 %", "99.999 %"]);
        assert_eq!([-3, 0, 2].map(power_of_ten), ["0.001", "1", "100"]);
        assert_eq!((whole(2.0000001), whole(0.5)), (Some(2), None));
        let points = (0..=1000).map(|n| (f64::from(n) / 1000.0, f64::from(n) / 10.0)).collect();
        let svg = percentiles(vec![Curve { color: 0, points }]).expect("it is drawn");
        for label in ["90 %", "99 %", "99.9 %", "0.001", "100"] {
            assert!(svg.contains(&format!("\n{label}\n")), "{label}: {svg}");
        }
    }

    #[test]
    fn empty_runs_are_drawn_too() {
        let none = || vec![Curve { color: 11, points: Vec::new() }];
        assert!(percentiles(none()).expect("it is drawn").contains("<svg"));
        assert!(over_time("messages per second", &none()).expect("it is drawn").contains("<svg"));
    }
}
