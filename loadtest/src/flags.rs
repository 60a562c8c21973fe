//! Values of flags that several commands share, and command lines from other sources than the shell.

use std::fs::OpenOptions;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::Parser;
use clap::builder::RangedU64ValueParser;

/// Longer times are typing errors.
const SECONDS_MAX: f64 = 1e8;
/// So are higher rates.
const RATE_MAX: f64 = 1e9;

/// A count of at least 1.
pub fn count<T: TryFrom<u64>>() -> RangedU64ValueParser<T> {
    RangedU64ValueParser::new().range(1..)
}

/// `60s`, `5m`, `500ms`, `1h`; a bare number is in seconds.
pub fn read_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time; write for example 60s, 5m, 1h or 500ms");
    let digits = text.trim_end_matches(|one: char| one.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let seconds = digits.parse::<f64>().map_err(|_| wrong())? * unit;
    match seconds > 0.0 && seconds <= SECONDS_MAX {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => {
            Err(format!("`{text}`: a time must be more than 0 and at most {SECONDS_MAX} seconds"))
        }
    }
}

/// Messages per second, or none.
pub fn read_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.0..=RATE_MAX).contains(rate));
    rate.ok_or_else(|| {
        format!("`{text}` is not a rate; write messages per second, for example 5000")
    })
}

/// Messages per second.
pub fn read_positive_rate(text: &str) -> Result<f64, String> {
    match read_rate(text)? {
        0.0 => Err("a rate must be more than 0".to_owned()),
        rate => Ok(rate),
    }
}

pub fn read_line(text: &str) -> Result<String, String> {
    match text.contains(['\r', '\n', '\0']) {
        true => Err("it must be one line".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// An existing folder.
pub fn read_folder(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_dir() { Ok(path) } else { Err("no such folder".to_owned()) }
}

/// Checks before a run that the file of a flag can be written.
pub fn check_writable(flag: &str, path: Option<&Path>) -> Result<(), String> {
    let Some(path) = path else { return Ok(()) };
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map(drop).map_err(|cause| format!("{flag}: {}: {cause}", path.display()))
}

#[derive(Parser)]
#[command(no_binary_name = true)]
struct Line<T: Args> {
    #[command(flatten)]
    options: T,
}

/// Reads the options of a command; an error is one line.
pub fn parse<T: Args>(words: impl IntoIterator<Item = String>) -> Result<T, String> {
    Line::<T>::try_parse_from(words).map(|line| line.options).map_err(|fault| {
        let text = fault.to_string();
        let first = text.lines().next().unwrap_or_default();
        format!("options: {}", first.trim_start_matches("error: "))
    })
}

/// `parse` of words between spaces.
pub fn parse_text<T: Args>(text: &str) -> Result<T, String> {
    parse(text.split_whitespace().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_are_read() {
        for (text, ms) in [("60", 60_000), ("1.5s", 1500), ("5m", 300_000), ("500ms", 500)] {
            assert_eq!(read_time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "0s", "-1s", "1y", "nan", "1e9"] {
            assert!(read_time(bad).is_err(), "{bad}");
        }
        for bad in ["0", "-1", "1e300", "nan", "x"] {
            assert!(read_positive_rate(bad).is_err(), "{bad}");
        }
    }
}
