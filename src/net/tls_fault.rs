//! Why a TLS connection or a certificate is not usable, by cause.

use std::fmt;

use rustls::AlertDescription;
use rustls::CertificateError;

use crate::base::fault::Blame;

/// Ciphertext of a handshake, including client certificates. More: the connection is closed.
pub const HANDSHAKE_BYTES_MAX: usize = 64 << 10;

/// Why a TLS connection is closed or broken.
#[derive(Clone, Debug, PartialEq)]
pub enum TlsFault {
    /// The peer sent `close_notify`: the clean end.
    Closed,
    /// The connection ended without `close_notify`; an attacker may have truncated the data.
    Truncated,
    /// The peer does not speak TLS, violates the protocol, or shares no version or cipher with us.
    Protocol(rustls::Error),
    /// The peer aborted with an alert.
    Alert(AlertDescription),
    HandshakeTooLong,
    /// No TLSA record matches the certificate chain (RFC 7672 s2.2).
    TlsaMismatch,
    /// A verified certificate is required, but no trusted CA certificates are configured.
    NoRoots,
    /// The host is not a valid name for a handshake.
    BadHost,
    /// The encryption limit of the keys is reached.
    KeysWornOut,
    /// No chunk is free for the plaintext.
    NoChunk,
}

impl TlsFault {
    pub fn blame(&self) -> Blame {
        match self {
            TlsFault::NoChunk => Blame::Us,
            TlsFault::NoRoots => Blame::Operator,
            _ => Blame::Peer,
        }
    }

    /// The fault of the peer's certificate if that ended the handshake.
    pub fn certificate(&self) -> Option<CertificateFault> {
        match self {
            TlsFault::Protocol(rustls::Error::InvalidCertificate(cause)) => {
                Some(CertificateFault::of(cause))
            }
            TlsFault::NoRoots => Some(CertificateFault::NoRoots),
            _ => None,
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsFault::Closed => f.write_str("the peer closed the connection"),
            TlsFault::Truncated => f.write_str("the connection ended without close_notify"),
            TlsFault::Protocol(error) => write!(f, "{error}"),
            TlsFault::Alert(alert) => write!(f, "the peer sent the alert {alert:?}"),
            TlsFault::HandshakeTooLong => {
                write!(f, "the handshake exceeds {HANDSHAKE_BYTES_MAX} bytes")
            }
            TlsFault::TlsaMismatch => f.write_str("no TLSA record matches the certificate"),
            TlsFault::NoRoots => f.write_str("no trusted CA certificates are configured"),
            TlsFault::BadHost => f.write_str("the host is not a valid TLS server name"),
            TlsFault::KeysWornOut => f.write_str("the encryption limit of the keys is reached"),
            TlsFault::NoChunk => f.write_str("no memory for received data"),
        }
    }
}

impl std::error::Error for TlsFault {}

impl From<rustls::Error> for TlsFault {
    fn from(error: rustls::Error) -> TlsFault {
        match error {
            rustls::Error::AlertReceived(alert) => TlsFault::Alert(alert),
            rustls::Error::EncryptError => TlsFault::KeysWornOut,
            // Only our check of TLSA records returns this.
            rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure) => {
                TlsFault::TlsaMismatch
            }
            error => TlsFault::Protocol(error),
        }
    }
}

/// Why a certificate does not prove the host's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CertificateFault {
    Expired,
    NotYetValid,
    OtherName,
    UnknownIssuer,
    Revoked,
    BadSignature,
    BadEncoding,
    /// No trusted CA certificates are configured.
    NoRoots,
    Other,
}

impl CertificateFault {
    pub fn of(cause: &CertificateError) -> CertificateFault {
        match cause {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                CertificateFault::Expired
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                CertificateFault::NotYetValid
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                CertificateFault::OtherName
            }
            CertificateError::UnknownIssuer => CertificateFault::UnknownIssuer,
            CertificateError::Revoked => CertificateFault::Revoked,
            CertificateError::BadSignature => CertificateFault::BadSignature,
            CertificateError::BadEncoding => CertificateFault::BadEncoding,
            _ => CertificateFault::Other,
        }
    }
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CertificateFault::Expired => "expired",
            CertificateFault::NotYetValid => "not valid yet",
            CertificateFault::OtherName => "issued for another name",
            CertificateFault::UnknownIssuer => "unknown issuer",
            CertificateFault::Revoked => "revoked",
            CertificateFault::BadSignature => "bad signature",
            CertificateFault::BadEncoding => "cannot be parsed",
            CertificateFault::NoRoots => "no trusted CA certificates",
            CertificateFault::Other => "not acceptable",
        })
    }
}
