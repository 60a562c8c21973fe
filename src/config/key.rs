//! The declaration of a key: name, default, bounds, manual and whether a reload can change it.

use crate::config::fault::Refusal;
use crate::config::file::Plain;
use crate::config::kind::Bounds;
use crate::config::reading::Reading;

/// Whether a reload applies a changed key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    Live,
    Restart,
}

/// The value of a key that is not set. Texts are TOML, with single quotes.
#[derive(Clone, Copy, Debug)]
pub enum Standard {
    Is(&'static str),
    /// Derived from the machine or from other keys: how, in words; an example; the value.
    Follows(&'static str, &'static str, fn(&Reading<'_>) -> String),
    /// None; with an example.
    Unset(&'static str),
    /// The key must be set; with an example.
    Required(&'static str),
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    /// Section and name: `limits.message_size`.
    pub path: &'static str,
    pub doc: &'static str,
    pub standard: Standard,
    pub reload: Reload,
    pub bounds: Bounds,
    /// The type of a value, in words.
    pub written: fn() -> String,
    /// A bound in the unit of the key.
    pub show: fn(u64) -> String,
    /// The value of an environment variable as TOML would have it.
    pub from_text: fn(&str) -> Result<Plain, Refusal>,
}

/// One section.
#[derive(Clone, Copy, Debug)]
pub struct SectionDoc {
    pub path: &'static str,
    pub about: &'static str,
    /// Whether the section may occur several times, as `[[path]]`.
    pub repeated: bool,
    pub keys: &'static [Key],
}

impl SectionDoc {
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}
