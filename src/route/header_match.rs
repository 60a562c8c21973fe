//! A condition of a rule on a header field.

use std::fmt;

/// The name of a field and the required value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Case-insensitive.
    pub name: Box<str>,
    pub value: ValueMatch,
}

/// The required value; case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// The field exists.
    Any,
    Exact(Box<str>),
    Start(Box<str>),
}

impl HeaderMatch {
    /// Whether the fields, each a name and a value, meet the condition.
    pub fn holds(&self, fields: &[(&str, &str)]) -> bool {
        let mut fields = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(&self.name));
        // Only the first field of a name counts.
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
