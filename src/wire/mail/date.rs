//! Timestamps as text, always in UTC.

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::tz::TimeZone;

const PRINTER: DateTimePrinter = DateTimePrinter::new();

/// Appends a time in the format of RFC 5322 s3.3; `at_ms` is in milliseconds since 1970:
/// `Sat, 21 Nov 2026 03:10:00 +0000`.
pub fn rfc5322(at_ms: u64, out: &mut Vec<u8>) {
    let moment = timestamp(at_ms).to_zoned(TimeZone::UTC);
    PRINTER.print_zoned(&moment, out).expect("a Vec takes every write, and no year is negative");
}

/// A time in the format of logs and JSON, `2026-11-21T03:10:00.123Z`; `at_ms` as in `rfc5322`.
pub fn rfc3339(at_ms: u64) -> String {
    format!("{:.3}", timestamp(at_ms))
}

/// Times after the year 9999 are cut to its end.
fn timestamp(at_ms: u64) -> Timestamp {
    let at_ms = i64::try_from(at_ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(at_ms).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_in_the_rfcs() {
        let rows = [
            (0, "Thu, 1 Jan 1970 00:00:00 +0000", "1970-01-01T00:00:00.000Z"),
            (1_795_230_600_123, "Sat, 21 Nov 2026 03:10:00 +0000", "2026-11-21T03:10:00.123Z"),
            (951_782_400_000, "Tue, 29 Feb 2000 00:00:00 +0000", "2000-02-29T00:00:00.000Z"),
            (u64::MAX, "Thu, 30 Dec 9999 22:00:00 +0000", "9999-12-30T22:00:00.999Z"),
        ];
        for (at_ms, header, log) in rows {
            let mut out = b"Date: ".to_vec();
            rfc5322(at_ms, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), format!("Date: {header}"), "{at_ms}");
            assert_eq!(rfc3339(at_ms), log, "{at_ms}");
        }
    }
}
