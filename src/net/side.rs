//! The two roles of a TLS connection, server and client, behind one interface.

use std::sync::Arc;

use rustls::CipherSuite;
use rustls::CommonState;
use rustls::Error;
use rustls::HandshakeKind;
use rustls::ProtocolVersion;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::pki_types::UnixTime;
use rustls::server::UnbufferedServerConnection;

use crate::net::client_certificate::ClientCertificate;
use crate::net::record::Event;
use crate::net::record::Flow;
use crate::net::record::Held;
use crate::net::record::Outgoing;
use crate::net::record::step;
use crate::net::server_verifier::PeerCheck;
use crate::net::tls_client::TlsClient;
use crate::net::tls_facts::ServerCertificate;
use crate::net::tls_facts::TlsFacts;
use crate::net::tls_facts::Verdict;
use crate::net::tls_fault::TlsFault;
use crate::net::tls_server::TlsServer;
use crate::net::x509::issuer_of;
use crate::net::x509::subject_of;

/// The local role. The client's half is not boxed: both halves have about the same size.
pub(super) enum Side {
    Server { connection: UnbufferedServerConnection, server: Arc<TlsServer> },
    Client(ClientSide),
}

impl Side {
    pub(super) fn state(&self) -> &CommonState {
        match self {
            Side::Server { connection, .. } => connection,
            Side::Client(client) => &client.connection,
        }
    }

    /// Passes `records` to rustls and carries out what rustls asks for.
    pub(super) fn step(
        &mut self,
        records: &mut [u8],
        flow: &mut Flow<'_>,
        held: &mut Held,
        outgoing: Option<Outgoing<'_>>,
    ) -> (usize, Result<Event, rustls::Error>) {
        match self {
            Side::Server { connection, .. } => {
                step(connection.process_tls_records(records), flow, held, outgoing)
            }
            Side::Client(client) => {
                step(client.connection.process_tls_records(records), flow, held, outgoing)
            }
        }
    }

    #[cold]
    pub(super) fn settle(
        &mut self,
        requested_name: Option<Box<str>>,
    ) -> Result<TlsFacts, TlsFault> {
        let (client, server, requested_name) = match self {
            Side::Server { connection, server } => {
                let chain = connection.peer_certificates();
                let now = server.config().time_provider.current_time();
                let client = now.map(|now| ClientCertificate::judge(chain, server.verifier(), now));
                (client.unwrap_or(ClientCertificate::None), None, requested_name)
            }
            Side::Client(client) => {
                let (host, certificate) = client.settle()?;
                (ClientCertificate::None, Some(Box::new(certificate)), Some(host))
            }
        };
        let state = self.state();
        Ok(TlsFacts {
            version: version_name(state.protocol_version()),
            cipher: cipher_name(state.negotiated_cipher_suite().map(|suite| suite.suite())),
            server_name: requested_name,
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
            client,
            server,
        })
    }
}

fn version_name(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLS",
    }
}

fn cipher_name(suite: Option<CipherSuite>) -> &'static str {
    match suite {
        Some(CipherSuite::TLS13_AES_128_GCM_SHA256) => "TLS_AES_128_GCM_SHA256",
        Some(CipherSuite::TLS13_AES_256_GCM_SHA384) => "TLS_AES_256_GCM_SHA384",
        Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) => "TLS_CHACHA20_POLY1305_SHA256",
        Some(suite) => suite.as_str().unwrap_or("unknown"),
        None => "unknown",
    }
}

/// The client role of a connection.
pub(super) struct ClientSide {
    connection: UnbufferedClientConnection,
    client: Arc<TlsClient>,
    /// `None` after the handshake.
    expected: Option<Box<Expected>>,
}

struct Expected {
    name: ServerName<'static>,
    check: PeerCheck,
}

impl ClientSide {
    pub(super) fn new(
        client: &Arc<TlsClient>,
        host: &str,
        check: PeerCheck,
    ) -> Result<ClientSide, TlsFault> {
        let config = client.config_for(&check)?;
        let name = name_of(host).ok_or(TlsFault::BadHost)?;
        let connection = UnbufferedClientConnection::new(config, name.clone())?;
        let expected = Some(Box::new(Expected { name, check }));
        Ok(ClientSide { connection, client: Arc::clone(client), expected })
    }

    /// The server name and the verified certificate. Also verifies the certificate of a resumed
    /// session, which rustls does not.
    pub(super) fn settle(&mut self) -> Result<(Box<str>, ServerCertificate), TlsFault> {
        let expected =
            self.expected.take().expect("`settle` is called once, at the end of the handshake");
        let Some([leaf, others @ ..]) = self.connection.peer_certificates() else {
            return Err(Error::NoCertificatesPresented.into());
        };
        let resumed = self.connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let verdict = match &expected.check {
            PeerCheck::Name if !resumed => Verdict::Name,
            PeerCheck::Dane { .. } if !resumed => Verdict::Dane,
            check => {
                let verdict = self.client.judge().judge(
                    check,
                    (leaf, others),
                    &expected.name,
                    UnixTime::now(),
                );
                verdict.inspect_err(|_| self.client.forget(&expected.name))?
            }
        };
        let certificate =
            ServerCertificate { subject: subject_of(leaf), issuer: issuer_of(leaf), verdict };
        Ok((expected.name.to_str().into(), certificate))
    }
}

/// The TLS server name of a host. Brackets of an address literal are removed.
fn name_of(host: &str) -> Option<ServerName<'static>> {
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let literal = literal.map(|address| address.strip_prefix("IPv6:").unwrap_or(address));
    let host = literal.unwrap_or_else(|| host.strip_suffix('.').unwrap_or(host));
    ServerName::try_from(host.to_ascii_lowercase()).ok()
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use rustls::server::UnbufferedServerConnection;

    use super::*;

    #[test]
    fn hosts_become_names() {
        let table = [
            ("mx.theirs.test", Some("mx.theirs.test")),
            ("MX.Theirs.test.", Some("mx.theirs.test")),
            ("[192.0.2.1]", Some("192.0.2.1")),
            ("[IPv6:2001:db8::1]", Some("2001:db8::1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("_mx.theirs.test", Some("_mx.theirs.test")),
            ("", None),
            (".", None),
            ("m\u{fc}ller.test", None),
            ("a b", None),
        ];
        for (host, expected) in table {
            let name = name_of(host);
            assert_eq!(name.as_ref().map(|name| name.to_str()).as_deref(), expected, "{host}");
        }
    }

    /// Both halves lie in one enum, and idle sessions of a listener are many.
    #[test]
    fn a_client_takes_no_more_room_than_a_server() {
        assert!(size_of::<ClientSide>() <= size_of::<UnbufferedServerConnection>());
    }
}
