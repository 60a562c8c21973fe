//! Operations on the server itself.

use serde::Deserialize;
use serde::Serialize;

use crate::operations::operation::operation;

operation! {
    /// Whether the server accepts and delivers mail.
    CheckHealth {}
    "server.health", Get "/v1/server/health", ReadServer => Health
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Faults of shards and disks.
    pub faults: Vec<String>,
    /// Why no mail is accepted now.
    pub obstacles: Vec<String>,
    /// Problems that need attention although mail is accepted and delivered.
    pub warnings: Vec<String>,
}

operation! {
    /// Reads the config file again, as SIGHUP does.
    ReloadConfig {}
    "server.reload", Post "/v1/server/reload", ChangeServer => Reloaded;
    fn counts(done: &Reloaded) -> (usize, usize) {
        (done.changed.len(), done.needs_restart.len())
    }
}

/// The changes of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Keys whose new values are in force.
    pub changed: Vec<String>,
    /// Keys that changed in the file and need a restart.
    pub needs_restart: Vec<String>,
    pub warnings: Vec<String>,
}
