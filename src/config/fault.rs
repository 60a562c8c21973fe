//! Faults of a config, in words for its author.
//!
//! Promise:  a fault names its place (file and line, or environment variable), the key, what was found
//!           and, if possible, a remedy, on one line of bounded length whatever the file holds.

use std::fmt;
use std::sync::Arc;

/// Where a value is set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A line of the file, from 1.
    Line(usize),
    /// An environment variable.
    Variable(Arc<str>),
    /// Nowhere.
    Unset,
}

/// An error, or a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The name of the file, as given to `load`.
    pub file: Arc<str>,
    pub place: Place,
    /// The key, as `listener[2].tls` (lists count from 1); empty for a fault of syntax.
    pub key: String,
    pub what: String,
    /// The remedy; may be empty.
    pub hint: String,
}

impl Fault {
    /// Place, key and fault, without the hint.
    pub fn without_hint(&self) -> String {
        let place = match &self.place {
            Place::Line(line) => format!("{}:{line}", self.file),
            Place::Variable(name) => name.to_string(),
            Place::Unset => self.file.to_string(),
        };
        let key = if self.key.is_empty() { String::new() } else { format!(": {}", self.key) };
        format!("{place}{key}: {}", self.what)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.without_hint())?;
        if !self.hint.is_empty() {
            write!(f, " - {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// Why a value is refused, before its place is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub what: String,
    pub hint: String,
}

impl Refusal {
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Refusal {
        Refusal { what: what.into(), hint: hint.into() }
    }
}

/// Characters of one part of a fault. The rest is cut.
const PART_CHARS_MAX: usize = 300;

/// `text` fit for one line of a terminal.
pub fn one_line(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if let Some((end, _)) = line.char_indices().nth(PART_CHARS_MAX) {
        line.truncate(end);
        line.push_str("...");
    }
    line
}

/// The candidate that `word` probably means.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    let reach = (word.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (strsim::osa_distance(&word, candidate), candidate))
        .filter(|(distance, _)| *distance <= reach)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near() {
        let known = ["address", "protocol", "tls", "tls_required"];
        for (word, want) in [
            ("adress", Some("address")),
            ("Protocol", Some("protocol")),
            ("tsl", Some("tls")),
            ("tls-required", Some("tls_required")),
            ("banner", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known.into_iter()), want, "{word}");
        }
    }

    #[test]
    fn a_fault_reads_as_one_line() {
        let mut fault = Fault {
            file: "ringpost.toml".into(),
            place: Place::Line(12),
            key: "listener[1].tls".into(),
            what: "\"foo\" is not one of none, starttls, implicit".into(),
            hint: String::new(),
        };
        let plain =
            "ringpost.toml:12: listener[1].tls: \"foo\" is not one of none, starttls, implicit";
        assert_eq!(fault.to_string(), plain);
        fault.hint = "choose one of them".into();
        assert_eq!(fault.to_string(), format!("{plain} - choose one of them"));
        fault.place = Place::Variable("RINGPOST_LISTENER_1_TLS".into());
        assert!(fault.to_string().starts_with("RINGPOST_LISTENER_1_TLS: listener[1].tls: "));
        (fault.place, fault.key) = (Place::Unset, String::new());
        assert!(fault.to_string().starts_with("ringpost.toml: \"foo\" is not"));
    }
}
