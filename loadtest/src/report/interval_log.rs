//! Interval logs as the viewers of HdrHistogram read them: a histogram for each second.

use std::time::Duration;
use std::time::SystemTime;

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;

use crate::report::record::Record;

/// The most seconds a file may tell of, so that a damaged time is no panic.
const TIME_MAX: f64 = 1e10;

/// The log of a run, in microseconds; each line's maximum is in milliseconds, as is the custom.
pub fn to_text(record: &Record) -> Result<String, String> {
    let when: jiff::Timestamp =
        record.when.parse().map_err(|cause| format!("when: {:?}: {cause}", record.when))?;
    let mut text = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment("Latencies in microseconds, the maximum of each interval in milliseconds.")
        .with_start_time(SystemTime::from(when))
        .with_max_value_divisor(1000.0)
        .begin_log_with(&mut text, &mut serializer)
        .map_err(|cause| cause.to_string())?;
    let time = |seconds: f64| Duration::from_secs_f64(seconds.clamp(0.0, TIME_MAX));
    for interval in &record.intervals {
        let (start, length) = (time(interval.start), time(interval.seconds));
        log.write_histogram(&interval.latencies.0, start, length, None)
            .map_err(|cause| cause.to_string())?;
    }
    String::from_utf8(text).map_err(|cause| cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record::Hdr;
    use crate::report::record::tests::record;
    use hdrhistogram::serialization::interval_log::IntervalLogIterator;
    use hdrhistogram::serialization::interval_log::LogEntry;

    #[test]
    fn what_is_written_is_read_again() {
        let record = record(1000, 3);
        let text = to_text(&record).expect("it is a good record");
        let entries: Vec<LogEntry<'_>> =
            IntervalLogIterator::new(text.as_bytes()).map(|entry| entry.expect(&text)).collect();
        let [LogEntry::StartTime(start), ref rows @ ..] = entries[..] else { panic!("{text}") };
        assert_eq!(start.as_secs(), 1_767_323_045);
        assert_eq!(rows.len(), record.intervals.len());
        for (entry, interval) in rows.iter().zip(&record.intervals) {
            let LogEntry::Interval(row) = entry else { panic!("{entry:?}") };
            assert_eq!(row.start_timestamp().as_secs_f64(), interval.start);
            assert_eq!(row.duration().as_secs_f64(), interval.seconds);
            assert_eq!(row.max(), interval.latencies.max_ms());
            assert_eq!(Hdr::from_text(row.encoded_histogram()), Ok(interval.latencies.clone()));
        }
    }
}
