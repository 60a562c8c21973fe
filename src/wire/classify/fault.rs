//! What is wrong with a line of rules. The built-in rules have no fault: a test reads them.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RulesFault {
    /// Counted from 1.
    pub line: usize,
    pub wrong: Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Not five fields between bars.
    Fields,
    Codes,
    /// No `@` line above names it.
    Provider,
    /// An `@` line without name or ends, or one too many.
    ProviderLine,
    /// Empty, or not in lower case.
    Words,
    Category,
    Advice,
    /// More rules than the table holds.
    TooMany,
    /// The last rule does not fit everything.
    NoLastRule,
}

impl fmt::Display for RulesFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.wrong {
            Wrong::Fields => "a rule is `codes | provider | words | category | advice`",
            Wrong::Codes => "codes are like `550`, `55x`, `x.2.2`, `4xx/x.7.1` or `*`",
            Wrong::Provider => "no line `@name | ends` above defines this provider",
            Wrong::ProviderLine => "a provider is `@name | .end .end`, at most 32 of them",
            Wrong::Words => "words are `*` or printable lower case, joined by ` + `",
            Wrong::Category => "no such category",
            Wrong::Advice => "no such advice",
            Wrong::TooMany => "too many rules",
            Wrong::NoLastRule => "the last rule must be `* | * | * | ...`",
        };
        write!(f, "line {}: {what}", self.line)
    }
}

impl std::error::Error for RulesFault {}
