//! Percentile distributions as the plotters of HdrHistogram read them (`.hgrm`).

use std::fmt::Write;

use crate::report::collector::Latencies;

/// Lines for each halving of the distance to 100 %, as the original has them.
const TICKS: u32 = 5;

/// The distribution, in milliseconds.
pub fn to_text(latencies: &Latencies) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let ms = |us: f64| us / 1000.0;
    let mut sum = 0;
    for step in latencies.iter_quantiles(TICKS) {
        sum += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = ms(step.value_iterated_to() as f64);
        let written = match quantile < 1.0 {
            true => writeln!(
                text,
                "{value:>12.3} {quantile:.12} {sum:>10} {:>14.2}",
                1.0 / (1.0 - quantile)
            ),
            // There is no last column at 100 %.
            false => writeln!(text, "{value:>12.3} {quantile:.12} {sum:>10}"),
        };
        written.expect("a String takes every write");
    }
    let foot = |left: &str, a: String, right: &str, b: String| {
        format!("#[{left:<7} = {a:>12}, {right:<14} = {b:>12}]\n")
    };
    let figure = |us: f64| format!("{:.3}", ms(us));
    text += &foot("Mean", figure(latencies.mean()), "StdDeviation", figure(latencies.stdev()));
    let count = latencies.len().to_string();
    text += &foot("Max", figure(latencies.max() as f64), "Total count", count);
    let sub_buckets = 2 * 10_u64.pow(u32::from(latencies.sigfig()));
    let sub_buckets = sub_buckets.next_power_of_two().to_string();
    text + &foot("Buckets", latencies.buckets().to_string(), "SubBuckets", sub_buckets)
}

/// A stage as the name of a file: nothing that a shell or a path takes for more.
pub fn file_name(stage: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = stage.chars().take(60).map(safe).collect();
    format!("{name}.hgrm")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::collector::latencies;

    #[test]
    fn what_is_written_is_read_again() {
        let mut all = latencies();
        (0..10_000_u64).for_each(|n| all.saturating_record(n * n / 7));
        all.saturating_record(40_000_000);
        let text = to_text(&all);
        let mut lines = text.lines();
        let head: Vec<&str> = lines.next().expect("a head").split_whitespace().collect();
        assert_eq!(head, ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
        assert_eq!(lines.next(), Some(""));
        let (rows, foot): (Vec<&str>, Vec<&str>) = lines.partition(|line| !line.starts_with('#'));
        let mut last = 0.0;
        for row in &rows {
            let fields: Vec<f64> =
                row.split_whitespace().map(|field| field.parse().expect("a number")).collect();
            let us = (fields[0] * 1000.0).round() as u64;
            assert_eq!(fields[2] as u64, all.count_between(0, us), "{row}");
            assert!(fields[1] >= last, "{row}");
            last = fields[1];
            match fields.get(3) {
                Some(inverse) => assert!((inverse * (1.0 - fields[1]) - 1.0).abs() < 0.01, "{row}"),
                None => assert_eq!((fields[1], fields[2] as u64), (1.0, all.len())),
            }
        }
        assert!(rows.len() > 30 && last == 1.0, "{text}");
        let mean = format!("{:.3}", all.mean() / 1000.0);
        assert!(foot[0].starts_with("#[Mean    =") && foot[0].contains(&mean), "{}", foot[0]);
        assert!(foot[1].contains("Total count    =        10001]"), "{}", foot[1]);
        assert!(foot[2].contains("SubBuckets     =         2048]"), "{}", foot[2]);
        assert_eq!(to_text(&latencies()).lines().count(), 5, "nothing is a distribution too");
    }

    #[test]
    fn no_stage_leaves_its_folder() {
        assert_eq!(file_name("Body to reply"), "body-to-reply.hgrm");
        assert_eq!(file_name("../../etc/x\0"), "------etc-x-.hgrm");
    }
}
