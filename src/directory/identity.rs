//! The identity of a sender: who is responsible for a message, and how the message arrived.
//!
//! Promise:  only `directory::identify` makes an identity, so that no other code can claim one.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::CredentialId;
use crate::base::StreamNumber;
use crate::base::TenantId;
use crate::directory::tenant::Tenant;

/// What an identity rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The client has proven that it holds a credential.
    Credential,
    /// The client's address is in a trusted network.
    Network,
    /// Nothing is known of the client.
    Anyone,
    /// The server itself, as for a bounce.
    System,
}

/// Who sends. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub(super) origin: Origin,
    pub(super) tenant: Option<Arc<Tenant>>,
    pub(super) credential: Option<CredentialId>,
    pub(super) stream: StreamNumber,
    pub(super) listener: Arc<str>,
    pub(super) peer: SocketAddr,
    pub(super) tls: bool,
}

impl Identity {
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// `None`: the mail belongs to the operator.
    pub fn tenant(&self) -> Option<&Tenant> {
        self.tenant.as_deref()
    }

    /// `TenantId::OPERATOR` for mail that belongs to no tenant.
    pub fn tenant_id(&self) -> TenantId {
        self.tenant.as_ref().map_or(TenantId::OPERATOR, |tenant| tenant.id())
    }

    pub fn credential(&self) -> Option<CredentialId> {
        self.credential
    }

    pub fn stream(&self) -> StreamNumber {
        self.stream
    }

    /// The name of the listener that the message arrived at.
    pub fn listener(&self) -> &str {
        &self.listener
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Whether the sender may send to any domain.
    pub fn may_relay(&self) -> bool {
        self.origin != Origin::Anyone
    }
}
