//! What a rule asks of a header field.

use std::fmt;

/// A field, and what its value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// In any case.
    pub name: Box<str>,
    pub value: ValueMatch,
}

/// Case counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// The field is there.
    Any,
    Exact(Box<str>),
    Start(Box<str>),
}

impl HeaderMatch {
    /// Whether one of the fields, each a name and a value, is what is asked for.
    pub fn holds(&self, fields: &[(&str, &str)]) -> bool {
        let mut fields = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(&self.name));
        // The first of a name counts.
        fields.next().is_some_and(|(_, value)| match &self.value {
            ValueMatch::Any => true,
            ValueMatch::Exact(text) => **text == **value,
            ValueMatch::Start(head) => value.starts_with(&**head),
        })
    }
}

impl fmt::Display for HeaderMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            ValueMatch::Any => write!(f, "{}: *", self.name),
            ValueMatch::Exact(value) => write!(f, "{}: {value}", self.name),
            ValueMatch::Start(head) => write!(f, "{}: {head}*", self.name),
        }
    }
}
