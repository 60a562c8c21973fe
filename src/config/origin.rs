//! Where each value came from, for `ringpost check --show-origin`.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use serde_json::json;

use crate::config::fault::Place;

/// A key, its value and where the value came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// As `listener[2].tls`.
    pub key: String,
    /// The value as TOML; `None` if the key is not set.
    pub value: Option<String>,
    pub file: Arc<str>,
    pub place: Place,
    /// The systemd credential that the value names.
    pub credential: Option<String>,
}

impl Origin {
    pub fn json(&self) -> Value {
        let mut origin = match &self.place {
            Place::Unset => json!({ "kind": "default" }),
            Place::Line(line) => json!({ "kind": "file", "file": &*self.file, "line": line }),
            Place::Variable(name) => json!({ "kind": "environment", "variable": &**name }),
        };
        if let Some(name) = &self.credential {
            origin["credential"] = name.as_str().into();
        }
        json!({ "key": self.key, "value": self.value, "origin": origin })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} = {value}", self.key)?,
            None => write!(f, "{} is not set", self.key)?,
        }
        match &self.place {
            Place::Unset => f.write_str("  # default")?,
            Place::Line(line) => write!(f, "  # {}:{line}", self.file)?,
            Place::Variable(name) => write!(f, "  # environment: {name}")?,
        }
        match &self.credential {
            Some(name) => write!(f, ", credential {name}"),
            None => Ok(()),
        }
    }
}
