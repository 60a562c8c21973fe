//! Errors in a file of rules. A test parses the built-in rules.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesFault {
    pub file: Box<str>,
    /// Counted from 1.
    pub line: usize,
    pub wrong: Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Neither five nor six fields separated by bars.
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
    Action,
    /// More rules than the table holds.
    TooMany,
    /// The last rule does not match everything.
    NoLastRule,
}

impl fmt::Display for RulesFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.wrong {
            Wrong::Fields => {
                "a rule is `codes | provider | words | category | advice` or \
                 `codes | provider | words | category | advice | action`"
            }
            Wrong::Codes => "codes are like `550`, `55x`, `x.2.2`, `4xx/x.7.1` or `*`",
            Wrong::Provider => "no earlier line `@name | suffixes` defines this provider",
            Wrong::ProviderLine => "a provider is `@name | .suffix .suffix`, at most 32 of them",
            Wrong::Words => "words are `*` or printable lower-case text, joined by ` + `",
            Wrong::Category => "unknown category",
            Wrong::Advice => "unknown advice",
            Wrong::Action => {
                "an action is `slow 50% 10m source` or `suspend 2h destination`, for 1s to 7d"
            }
            Wrong::TooMany => "too many rules",
            Wrong::NoLastRule => "the last rule must be `* | * | * | ...`",
        };
        write!(f, "{}: line {}: {what}", self.file, self.line)
    }
}

impl std::error::Error for RulesFault {}
