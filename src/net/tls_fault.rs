//! Why a TLS connection or a certificate is not usable, by cause.

use std::fmt;

use rustls::AlertDescription;
use rustls::CertificateError;

use crate::base::fault::Blame;
use crate::base::fault::Retry;

/// Ciphertext of a handshake, client certificates included. More: the connection is closed.
pub const HANDSHAKE_BYTES_MAX: usize = 64 << 10;

/// Why a TLS connection carries nothing any more.
#[derive(Clone, Debug, PartialEq)]
pub enum TlsFault {
    /// The peer said `close_notify`: the clean end.
    Closed,
    /// The connection ended without `close_notify`; what was sent may have been cut by anybody.
    Truncated,
    /// The peer does not speak TLS, speaks it wrongly, or shares no version or cipher with us.
    Protocol(rustls::Error),
    /// The peer gave up and told why.
    Alert(AlertDescription),
    HandshakeTooLong,
    /// No TLSA record matches what the server has shown (RFC 7672 s2.2).
    TlsaMismatch,
    /// A certificate for the name is demanded, and no authority is there to vouch for one.
    NoRoots,
    /// The host cannot be named in a handshake.
    BadHost,
    /// More was sent than a key may encrypt.
    KeysWornOut,
    /// No chunk was free for the plaintext.
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

    /// What is wrong with the peer's certificate, when that is what ended the handshake.
    pub fn certificate(&self) -> Option<CertificateFault> {
        match self {
            TlsFault::Protocol(rustls::Error::InvalidCertificate(cause)) => {
                Some(CertificateFault::of(cause))
            }
            TlsFault::NoRoots => Some(CertificateFault::NoRoots),
            _ => None,
        }
    }

    /// Whether another connection may fare better.
    pub fn retry(&self) -> Retry {
        match self {
            TlsFault::Protocol(_)
            | TlsFault::Alert(_)
            | TlsFault::HandshakeTooLong
            | TlsFault::BadHost => Retry::Never,
            _ => Retry::Later,
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsFault::Closed => f.write_str("closed by the peer"),
            TlsFault::Truncated => f.write_str("ended without close_notify"),
            TlsFault::Protocol(error) => write!(f, "{error}"),
            TlsFault::Alert(alert) => write!(f, "the peer gave up: {alert:?}"),
            TlsFault::HandshakeTooLong => {
                write!(f, "a handshake of more than {HANDSHAKE_BYTES_MAX} bytes")
            }
            TlsFault::TlsaMismatch => f.write_str("no TLSA record matches the certificate"),
            TlsFault::NoRoots => f.write_str("no authority is known that could vouch for it"),
            TlsFault::BadHost => f.write_str("the host has no name for a certificate"),
            TlsFault::KeysWornOut => f.write_str("the keys have encrypted as much as they may"),
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
            // Said by nobody but our check of TLSA records.
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
    /// We know of no authority.
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
            CertificateFault::OtherName => "for another name",
            CertificateFault::UnknownIssuer => "unknown issuer",
            CertificateFault::Revoked => "revoked",
            CertificateFault::BadSignature => "bad signature",
            CertificateFault::BadEncoding => "not understood",
            CertificateFault::NoRoots => "no authorities are known",
            CertificateFault::Other => "not acceptable",
        })
    }
}
