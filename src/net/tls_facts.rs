//! What a finished handshake has established, for the log, for policy and for reports.

use std::fmt;

use crate::net::client_certificate::ClientCertificate;
use crate::net::tls_fault::CertificateFault;

/// What a finished handshake has settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The name of the IANA registry, as RFC 8314 s4.3 wants it in Received.
    pub cipher: &'static str,
    /// The name that the client asked for, or that we asked for.
    pub server_name: Option<Box<str>>,
    pub resumed: bool,
    /// What a client has shown us; nothing when we are the client.
    pub client: ClientCertificate,
    /// Whom we talk to when we are the client. Boxed: sessions of our own server lack it.
    pub server: Option<Box<ServerCertificate>>,
}

/// Whom we talk to, for the log and for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCertificate {
    pub subject: Box<str>,
    pub issuer: Box<str>,
    pub verdict: Verdict,
}

/// How far a server has proven who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A public authority vouches for the host's name.
    Name,
    /// A TLSA record vouches for it.
    Dane,
    /// It has not; and nobody had asked it to.
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
