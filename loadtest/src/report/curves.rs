//! The curves of a record: percentiles, throughput and latencies over time.

use crate::report::charts::Curve;
use crate::report::histogram::Hdr;
use crate::report::record::Interval;
use crate::report::record::Record;

/// Points that a chart can show.
const POINTS_MAX: usize = 900;
/// Points for each halving of the distance to 100 %.
const TICKS: u32 = 20;
/// A shorter last second is joined with the one before: a rate of a few messages means nothing.
const SECOND_MIN: f64 = 0.5;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record::tests::record;

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
