//! Errors in the rules file. A test parses the built-in rules.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RulesFault {
    /// Counted from 1.
    pub line: usize,
    pub wrong: Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Not five fields separated by bars.
    Fields,
    Codes,
    /// No earlier `@` line defines it.
    Provider,
    /// An `@` line without name or suffixes, or too many providers.
    ProviderLine,
    /// Empty, or not in lower case.
    Words,
    Category,
    Advice,
    /// More rules than the table holds.
    TooMany,
    /// The last rule does not match everything.
    NoLastRule,
}

impl fmt::Display for RulesFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.wrong {
            Wrong::Fields => "a rule is `codes | provider | words | category | advice`",
            Wrong::Codes => "codes are like `550`, `55x`, `x.2.2`, `4xx/x.7.1` or `*`",
            Wrong::Provider => "no earlier line `@name | suffixes` defines this provider",
            Wrong::ProviderLine => "a provider is `@name | .suffix .suffix`, at most 32 of them",
            Wrong::Words => "words are `*` or printable lower-case text, joined by ` + `",
            Wrong::Category => "unknown category",
            Wrong::Advice => "unknown advice",
            Wrong::TooMany => "too many rules",
            Wrong::NoLastRule => "the last rule must be `* | * | * | ...`",
        };
        write!(f, "line {}: {what}", self.line)
    }
}

impl std::error::Error for RulesFault {}
