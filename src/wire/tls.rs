//! What a server asks of its peers under TLS.

/// The oldest accepted TLS version. 1.0 and 1.1 are not supported (RFC 8996).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// Whether client certificates are requested, from the loosest to the strictest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientCertificates {
    None,
    /// Requested; its verification is a fact of the connection, not a condition.
    Optional,
    /// Without a certificate of `client_ca` the handshake fails.
    Required,
}
