//! Percentile distributions as the HDR plotters read them (.hgrm).

use std::fmt::Write;

use hdrhistogram::Histogram;

/// Sub-buckets of a histogram with three significant digits. The format wants them named.
const SUB_BUCKETS: u64 = 2048;

/// Lines per halving of the distance to 100 %.
const TICKS_PER_HALF: u32 = 5;

pub(super) fn write(of: &Histogram<u64>) -> String {
    let mut out = String::new();
    let mut total = 0;
    write_head(&mut out);
    for step in of.iter_quantiles(TICKS_PER_HALF) {
        total += step.count_since_last_iteration();
        let (value, quantile) = (step.value_iterated_to(), step.quantile_iterated_to());
        write!(out, "{:12.3} {quantile:14.12} {total:10}", value as f64)
            .expect("a String takes everything");
        if quantile < 1.0 {
            write!(out, " {:14.2}", 1.0 / (1.0 - quantile)).expect("a String takes everything");
        }
        out.push('\n');
    }
    write_foot(&mut out, of);
    out
}

fn write_head(out: &mut String) {
    let columns = ("Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", columns.0, columns.1, columns.2, columns.3)
        .expect("a String takes everything");
}

fn write_foot(out: &mut String, of: &Histogram<u64>) {
    let rows = [
        format!("Mean    = {:12.3}, StdDeviation   = {:12.3}", of.mean(), of.stdev()),
        format!("Max     = {:12.3}, Total count    = {:12}", of.max() as f64, of.len()),
        format!("Buckets = {:12}, SubBuckets     = {:12}", of.buckets(), SUB_BUCKETS),
    ];
    for row in rows {
        writeln!(out, "#[{row}]").expect("a String takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: &[u64]) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_max(65_535, 3).expect("the bounds are valid");
        values.iter().for_each(|value| histogram.saturating_record(*value));
        histogram
    }

    #[test]
    fn a_hgrm_file_is_as_the_plotters_read_it() {
        let hgrm = write(&histogram(&[1, 2, 3, 4]));
        let lines: Vec<&str> = hgrm.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[1], "");
        assert_eq!(lines[2], "       1.000 0.000000000000          1           1.00");
        assert!(lines.contains(&"       2.000 0.500000000000          2           2.00"), "{hgrm}");
        assert!(lines.contains(&"       4.000 1.000000000000          4"), "{hgrm}");
        let foot = [
            "#[Mean    =        2.500, StdDeviation   =        1.118]",
            "#[Max     =        4.000, Total count    =            4]",
            "#[Buckets =            6, SubBuckets     =         2048]",
        ];
        assert_eq!(lines[lines.len() - 3..], foot);
        let empty = write(&histogram(&[]));
        assert!(empty.contains("Total count    =            0"), "{empty}");
    }
}
