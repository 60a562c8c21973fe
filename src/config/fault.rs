//! What is wrong with a config file, in words for whoever wrote it.
//!
//! Promise:  a fault names file, line, key, what was found and, where something helps, what to write,
//!           on one line of bounded length whatever the file holds.

use std::fmt;
use std::sync::Arc;

/// One thing that is wrong, or worth a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The name of the file, as given to `load`.
    pub file: Arc<str>,
    /// The line, from 1; none for what was not written at all.
    pub line: Option<usize>,
    /// The key, as `listener[2].tls` (lists count from 1); empty for a fault of syntax.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What would help; may be empty.
    pub hint: String,
}

impl Fault {
    /// Place, key and what is wrong, for where the hint stands in a field of its own.
    pub fn without_hint(&self) -> String {
        let line = self.line.map(|line| format!(":{line}")).unwrap_or_default();
        let key = if self.key.is_empty() { String::new() } else { format!(": {}", self.key) };
        format!("{}{line}{key}: {}", self.file, self.what)
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

/// Why a value was refused, before its place is known.
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

/// Letters of a part of a fault; more are cut off.
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

/// The candidate that `word` was probably meant to be.
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
            line: Some(12),
            key: "listener[1].tls".into(),
            what: "\"foo\" is not one of none, starttls, implicit".into(),
            hint: String::new(),
        };
        let plain =
            "ringpost.toml:12: listener[1].tls: \"foo\" is not one of none, starttls, implicit";
        assert_eq!(fault.to_string(), plain);
        fault.hint = "choose one of them".into();
        assert_eq!(fault.to_string(), format!("{plain} - choose one of them"));
        (fault.line, fault.key) = (None, String::new());
        assert!(fault.to_string().starts_with("ringpost.toml: \"foo\" is not"));
    }
}
