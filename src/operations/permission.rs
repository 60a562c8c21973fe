//! What a caller must be allowed to do.

use serde::Deserialize;
use serde::Serialize;

/// Each operation needs one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Permission {
    /// Lists, counts and envelopes of queued messages.
    ReadQueue,
    /// The text of messages.
    ReadContent,
    /// The event log.
    ReadEvents,
    ChangeQueue,
    ReadDestinations,
    ChangeDestinations,
    /// Routes and the policy of delivery.
    ReadRoutes,
    ReadServer,
    ChangeServer,
}

impl Permission {
    pub const ALL: [Permission; 9] = [
        Permission::ReadQueue,
        Permission::ReadContent,
        Permission::ReadEvents,
        Permission::ChangeQueue,
        Permission::ReadDestinations,
        Permission::ChangeDestinations,
        Permission::ReadRoutes,
        Permission::ReadServer,
        Permission::ChangeServer,
    ];

    /// Whether operations with this permission change nothing.
    pub fn is_reading(self) -> bool {
        !matches!(
            self,
            Permission::ChangeQueue | Permission::ChangeDestinations | Permission::ChangeServer
        )
    }
}
