//! The two roles of a TLS connection, server and client, behind one interface.

use std::sync::Arc;

use rustls::CipherSuite;
use rustls::CommonState;
use rustls::HandshakeKind;
use rustls::ProtocolVersion;
use rustls::server::UnbufferedServerConnection;

use crate::net::client_certificate::ClientCertificate;
use crate::net::client_side::ClientSide;
use crate::net::record::Event;
use crate::net::record::Flow;
use crate::net::record::Held;
use crate::net::record::Outgoing;
use crate::net::record::step;
use crate::net::tls_facts::TlsFacts;
use crate::net::tls_fault::TlsFault;
use crate::net::tls_server::TlsServer;

/// The local role. The client's half is not boxed: both halves have about the same size.
pub(super) enum Side {
    Server { connection: UnbufferedServerConnection, server: Arc<TlsServer> },
    Client(ClientSide),
}

impl Side {
    pub(super) fn state(&self) -> &CommonState {
        match self {
            Side::Server { connection, .. } => connection,
            Side::Client(client) => client.connection(),
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
                step(client.connection_mut().process_tls_records(records), flow, held, outgoing)
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
