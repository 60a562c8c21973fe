//! The only functions that make an `Identity`.
//!
//! A session calls `client` again whenever its facts change: after a PROXY header, a TLS handshake
//! or XCLIENT. Nothing of the identity before survives.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::CredentialId;
use crate::base::StreamNumber;
use crate::directory::identity::Identity;
use crate::directory::identity::Origin;
use crate::directory::network::Networks;
use crate::directory::tenant::Tenant;

/// What a server knows of a connection.
#[derive(Clone, Debug)]
pub struct Connection {
    pub peer: SocketAddr,
    pub tls: bool,
    pub listener: Arc<str>,
}

/// A client that has not authenticated: one of a trusted network, or anyone.
pub fn client(networks: &Networks, connection: Connection) -> Identity {
    let network = networks.find(connection.peer.ip());
    let (origin, tenant, stream) = match network {
        Some(network) => (Origin::Network, network.tenant.clone(), network.stream),
        None => (Origin::Anyone, None, StreamNumber::TRANSACTIONAL),
    };
    identity(connection, origin, tenant, stream)
}

/// A client that has proven that it holds a credential of `tenant`.
pub fn credential(
    connection: Connection,
    tenant: Arc<Tenant>,
    credential: CredentialId,
    stream: StreamNumber,
) -> Identity {
    let identity = identity(connection, Origin::Credential, Some(tenant), stream);
    Identity { credential: Some(credential), ..identity }
}

/// The server itself. Mail that it makes for a tenant, as a bounce, belongs to that tenant.
pub fn system(connection: Connection, tenant: Option<Arc<Tenant>>) -> Identity {
    identity(connection, Origin::System, tenant, StreamNumber::TRANSACTIONAL)
}

fn identity(
    connection: Connection,
    origin: Origin,
    tenant: Option<Arc<Tenant>>,
    stream: StreamNumber,
) -> Identity {
    let Connection { peer, tls, listener } = connection;
    Identity { origin, tenant, credential: None, stream, listener, peer, tls }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::TenantId;
    use crate::directory::network::Network;

    fn connection(peer: &str, tls: bool) -> Connection {
        Connection { peer: peer.parse().expect("an address"), tls, listener: "smtp".into() }
    }

    #[test]
    fn each_way_in_has_its_identity() {
        let acme = Arc::new(Tenant::named("acme"));
        let networks = Networks::new(vec![Network {
            cidr: "10.0.0.0/8".parse().expect("a network"),
            tenant: Some(Arc::clone(&acme)),
            stream: StreamNumber::BROADCAST,
        }]);
        let inside = client(&networks, connection("10.1.2.3:9", true));
        assert_eq!((inside.origin(), inside.tenant()), (Origin::Network, Some(&*acme)));
        assert_eq!((inside.stream(), inside.is_tls()), (StreamNumber::BROADCAST, true));
        assert!(inside.may_relay() && inside.listener() == "smtp");
        let outside = client(&networks, connection("192.0.2.1:9", false));
        assert_eq!((outside.origin(), outside.tenant_id()), (Origin::Anyone, TenantId::OPERATOR));
        assert!(!outside.may_relay() && !outside.is_tls());
        let number = CredentialId(7);
        let outside = connection("192.0.2.1:9", true);
        let user = credential(outside.clone(), acme, number, StreamNumber::TRANSACTIONAL);
        assert_eq!((user.origin(), user.credential()), (Origin::Credential, Some(number)));
        let own = system(outside, None);
        assert!(own.may_relay() && own.origin() == Origin::System && own.credential().is_none());
    }
}
