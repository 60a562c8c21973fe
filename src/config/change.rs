//! What a reload changes, and what has to wait for a restart.
//!
//! Promise:  `reloaded` never holds half of a change that contradicts itself: a key that a reload
//!           cannot change stays as it was, and so does the whole listener that it belongs to.

use crate::config::model::Config;

pub use crate::config::key::Changes;

/// The keys in which two configs differ.
pub fn changes(old: &Config, new: &Config) -> Changes {
    reloaded(old, new).1
}

/// What a server that runs with `old` runs with after it was given `new`.
pub fn reloaded(old: &Config, new: &Config) -> (Config, Changes) {
    let mut changes = Changes::default();
    let config = old.reload(new, &mut changes);
    (config, changes)
}
