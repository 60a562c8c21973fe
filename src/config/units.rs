//! Durations and sizes in human notation: `5m`, `1h30m`, `250ms`; `25MB`, `64KiB`, `512`.
//!
//! Promise:  `parse_*` reads back what `show_*` writes. A unit is never guessed:
//!           a bare number is a size in bytes, but no duration (except 0), and `M` alone is refused.

use std::time::Duration;

use crate::config::fault::Refusal;

/// Milliseconds, in which durations are bounded.
pub const SECOND_MS: u64 = 1000;
pub const MINUTE_MS: u64 = 60 * SECOND_MS;
pub const HOUR_MS: u64 = 60 * MINUTE_MS;
pub const DAY_MS: u64 = 24 * HOUR_MS;

/// Bytes, in which sizes are bounded.
pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
pub const TIB: u64 = 1 << 40;

/// Units of time, largest first, in microseconds.
const SPANS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// Units of size, largest first within each of the two families.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

const SPAN_HINT: &str = "write numbers with units d, h, m, s, ms or us, as \"5m\" or \"1h30m\"";
const SIZE_HINT: &str = "write a number with KB, MB, GB, KiB, MiB or GiB, as \"25MB\"";

/// Reads `1h30m`: parts from the largest unit to the smallest, each at most once.
pub fn parse_duration(text: &str) -> Result<Duration, Refusal> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut smallest_next = 0;
    let mut micros: u64 = 0;
    while !rest.is_empty() || text.is_empty() {
        let (number, unit, behind) = split_part(rest);
        let refused = |what: String| Err(Refusal::new(what, SPAN_HINT));
        if number.is_empty() {
            return refused(format!("\"{text}\" is not a duration"));
        }
        let Some(place) = SPANS.iter().position(|(name, _)| *name == unit) else {
            return refused(match unit {
                "" => format!("\"{text}\" has no unit"),
                _ => format!("\"{text}\" has the unknown unit {unit}"),
            });
        };
        if place < smallest_next {
            return refused(format!("\"{text}\" is not ordered from larger to smaller units"));
        }
        smallest_next = place + 1;
        let part = number.parse::<u64>().ok().and_then(|count| count.checked_mul(SPANS[place].1));
        match part.and_then(|part| micros.checked_add(part)) {
            Some(sum) => micros = sum,
            None => return refused(format!("\"{text}\" is too long")),
        }
        rest = behind;
    }
    Ok(Duration::from_micros(micros))
}

/// Reads `25MB` or `64KiB` or `512`; case does not matter.
pub fn parse_size(text: &str) -> Result<u64, Refusal> {
    let (number, unit, behind) = split_part(text);
    let refused = |what: String| Err(Refusal::new(what, SIZE_HINT));
    if number.is_empty() || !behind.is_empty() {
        return refused(format!("\"{text}\" is not a size"));
    }
    let unit = if unit.is_empty() { "B" } else { unit };
    let Some((_, bytes)) = SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) else {
        return refused(format!("\"{text}\" has the unknown unit {unit}"));
    };
    match number.parse::<u64>().ok().and_then(|count| count.checked_mul(*bytes)) {
        Some(bytes) => Ok(bytes),
        None => refused(format!("\"{text}\" is too large")),
    }
}

/// The shortest text that reads back to the same duration (to the microsecond).
pub fn show_duration(duration: Duration) -> String {
    let mut left = duration.as_micros() as u64;
    let mut text = String::new();
    for (unit, micros) in SPANS {
        if left >= micros {
            text.push_str(&format!("{}{unit}", left / micros));
            left %= micros;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// The size in the largest unit that divides it.
pub fn show_size(bytes: u64) -> String {
    let whole = |of: &&(&str, u64)| bytes >= of.1 && bytes.is_multiple_of(of.1);
    match SIZES.iter().filter(whole).min_by_key(|(_, unit)| bytes / unit) {
        Some((unit, size)) => format!("{}{unit}", bytes / size),
        None => bytes.to_string(),
    }
}

/// A number, the letters behind it, and what follows them.
fn split_part(text: &str) -> (&str, &str, &str) {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let rest = rest.strip_prefix(' ').unwrap_or(rest);
    let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let (unit, behind) = rest.split_at(letters);
    (number, unit, behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, micros) in [
            ("0", 0),
            ("0s", 0),
            ("5m", 300_000_000),
            ("1h30m", 5_400_000_000),
            ("250ms", 250_000),
            ("1d2h3m4s5ms6us", 93_784_005_006),
            ("90s", 90_000_000),
            ("5 m", 300_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_micros(micros)), "{text}");
        }
        for (text, what) in [
            ("", "\"\" is not a duration"),
            ("5", "\"5\" has no unit"),
            ("m", "\"m\" is not a duration"),
            ("-5m", "\"-5m\" is not a duration"),
            ("1.5h", "\"1.5h\" has no unit"),
            ("5min", "\"5min\" has the unknown unit min"),
            ("5m1h", "\"5m1h\" is not ordered from larger to smaller units"),
            ("5m5m", "\"5m5m\" is not ordered from larger to smaller units"),
            ("99999999999999d", "\"99999999999999d\" is too long"),
            ("5m ", "\"5m \" is not a duration"),
        ] {
            assert_eq!(parse_duration(text).map_err(|r| r.what), Err(what.to_owned()), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("25MB", 25_000_000),
            ("64KiB", 65_536),
            ("64kib", 65_536),
            ("1 GB", 1_000_000_000),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for (text, what) in [
            ("", "\"\" is not a size"),
            ("MB", "\"MB\" is not a size"),
            ("25M", "\"25M\" has the unknown unit M"),
            ("2.5MB", "\"2.5MB\" is not a size"),
            ("25MB2", "\"25MB2\" is not a size"),
            ("99999999TiB", "\"99999999TiB\" is too large"),
        ] {
            assert_eq!(parse_size(text).map_err(|r| r.what), Err(what.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for micros in [0, 1, 999, 60_000_000, 5_400_000_000, 86_400_000_001, 93_784_005_006] {
            let duration = Duration::from_micros(micros);
            assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
        }
        for bytes in [0, 1, 1000, 1024, 25_000_000, 65_536, 1 << 40, u64::MAX] {
            assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }
        assert_eq!(show_size(25_000_000), "25MB");
        assert_eq!(show_size(64 << 20), "64MiB");
        assert_eq!(show_duration(Duration::from_secs(5_400)), "1h30m");
    }
}
