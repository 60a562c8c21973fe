//! Values about header fields: field names, labels such as a campaign, conditions of routes.

use std::fmt;

use crate::config::fault::Refusal;
use crate::config::kind::Spelled;
use crate::config::name::texts;
use crate::wire::mail::pick::NAME_BYTES_MAX;
use crate::wire::mail::pick::VALUE_BYTES_MAX;

/// The header field that contains a label; empty for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelField(String);

impl LabelField {
    pub fn name(&self) -> Option<&str> {
        Some(self.0.as_str()).filter(|name| !name.is_empty())
    }
}

impl Spelled for LabelField {
    fn spelling() -> String {
        "a header field name, such as `\"X-Campaign\"`, or `\"\"` for none".to_owned()
    }

    fn spell(text: &str) -> Result<LabelField, Refusal> {
        match text {
            "" => Ok(LabelField(String::new())),
            _ => field_name(text, "write it as \"X-Campaign\", or \"\" for none").map(LabelField),
        }
    }
}

texts! {
    /// A campaign in a condition of a route.
    LabelValue, "a string, such as `\"spring-sale\"`", |text| {
        let value = field_value(text, text, "write it as \"spring-sale\"")?;
        if value.ends_with('*') {
            let what = format!("\"{text}\" contains a star, which has no meaning here");
            let hint = "name it in full, or use headers = [\"X-Campaign: a*\"]";
            return Err(Refusal::new(what, hint));
        }
        Ok(value)
    };
}

/// A header field in a condition of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// In its original case.
    pub name: String,
    pub value: ValueMatch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    Any,
    Exact(String),
    /// Every value with this prefix.
    Start(String),
}

impl HeaderMatch {
    /// Whether it matches everything that `other` matches.
    pub fn covers(&self, other: &HeaderMatch) -> bool {
        self.name.eq_ignore_ascii_case(&other.name)
            && match (&self.value, &other.value) {
                (ValueMatch::Any, _) => true,
                (ValueMatch::Start(head), ValueMatch::Exact(text) | ValueMatch::Start(text)) => {
                    text.starts_with(head)
                }
                (one, other) => one == other,
            }
    }

    /// Whether the fields, each a name and a value, meet the condition.
    pub fn holds(&self, fields: &[(&str, &str)]) -> bool {
        let mut fields = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(&self.name));
        // Only the first field of a name counts.
        fields.next().is_some_and(|(_, value)| match &self.value {
            ValueMatch::Any => true,
            ValueMatch::Exact(text) => text == value,
            ValueMatch::Start(head) => value.starts_with(head),
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

impl Spelled for HeaderMatch {
    fn spelling() -> String {
        "a header field with its value, such as `\"X-Pool: gold\"`, `\"X-Pool: go*\"` or, with any \
         value, `\"X-Pool: *\"`"
            .to_owned()
    }

    fn spell(text: &str) -> Result<HeaderMatch, Refusal> {
        let Some((name, value)) = text.split_once(':') else {
            let what = format!("\"{text}\" has no colon after the field name");
            let hint = "write it as \"X-Pool: gold\", or \"X-Pool: *\" for any value";
            return Err(Refusal::new(what, hint));
        };
        let name = field_name(name.trim(), "write it as \"X-Pool: gold\"")?;
        let hint = format!("write it as \"{name}: gold\", or \"{name}: *\" for any value");
        let value = field_value(value, text, &hint)?;
        let head = value.strip_suffix('*');
        if head.unwrap_or(&value).contains('*') {
            let what = format!("\"{text}\" contains a star before its end");
            return Err(Refusal::new(what, "a star is allowed only at the end, as \"gold*\""));
        }
        let value = match head {
            Some("") => ValueMatch::Any,
            Some(head) => ValueMatch::Start(head.to_owned()),
            None => ValueMatch::Exact(value),
        };
        Ok(HeaderMatch { name, value })
    }
}

/// RFC 5322 s2.2: printable ASCII without colon and space.
fn field_name(text: &str, hint: &str) -> Result<String, Refusal> {
    let letter = |b: u8| b.is_ascii_graphic() && b != b':';
    match text.len() {
        1..=NAME_BYTES_MAX if text.bytes().all(letter) => Ok(text.to_owned()),
        1..=NAME_BYTES_MAX | 0 => {
            Err(Refusal::new(format!("\"{text}\" is not a header field name"), hint))
        }
        _ => {
            let what = format!("the field name has {} bytes", text.len());
            Err(Refusal::new(what, format!("at most {NAME_BYTES_MAX}")))
        }
    }
}

/// As `wire::mail::pick` returns values. A value of the full length could also be a truncated one.
fn field_value(text: &str, written: &str, hint: &str) -> Result<String, Refusal> {
    let value = text.trim();
    match value.len() {
        0 => Err(Refusal::new(format!("\"{written}\" has no value"), hint)),
        _ if value.contains(char::is_control) => {
            Err(Refusal::new("holds a control character", "write it on one line"))
        }
        VALUE_BYTES_MAX.. => {
            let what = format!("the value has {} bytes", value.len());
            Err(Refusal::new(what, format!("at most {}", VALUE_BYTES_MAX - 1)))
        }
        _ => Ok(value.to_owned()),
    }
}
