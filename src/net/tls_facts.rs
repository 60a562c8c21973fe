//! What a finished handshake has established, for the log, for policy and for reports.

use std::fmt;

use crate::net::client_certificate::ClientCertificate;
use crate::net::tls_fault::CertificateFault;

/// The result of a finished handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The IANA name, as RFC 8314 s4.3 requires for the Received field.
    pub cipher: &'static str,
    /// The server name (SNI) that the client requested.
    pub server_name: Option<Box<str>>,
    pub resumed: bool,
    /// The client's certificate if we are the server.
    pub client: ClientCertificate,
    /// The server's certificate if we are the client. Boxed, because sessions of our server lack it.
    pub server: Option<Box<ServerCertificate>>,
}

impl TlsFacts {
    /// What the server has proved, if we are the client.
    pub fn verdict(&self) -> Option<Verdict> {
        self.server.as_ref().map(|server| server.verdict)
    }
}

/// The certificate of a server, for the log and for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCertificate {
    pub subject: Box<str>,
    pub issuer: Box<str>,
    pub verdict: Verdict,
}

/// How a server's identity was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A trusted CA issued the certificate for the host's name.
    Name,
    /// A TLSA record matches.
    Dane,
    /// Not verified, and not required.
    Unproven(CertificateFault),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Name => f.write_str("verified"),
            Verdict::Dane => f.write_str("dane"),
            Verdict::Unproven(fault) => write!(f, "unverified: {fault}"),
        }
    }
}
