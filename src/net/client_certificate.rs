//! Client certificates: the peer's identity, and whether it was verified.
//!
//! Promise:  the client always proves possession of the key, by the signature of the handshake.
//!           Whether a trusted CA issued the certificate is a fact for the log and for policy; only
//!           `Required` makes it a condition of the connection. Many senders present the certificate
//!           of their own server to everybody, and their mail must not be refused for it.

use std::sync::Arc;

use rustls::CertificateError;
use rustls::DigitallySignedStruct;
use rustls::DistinguishedName;
use rustls::Error;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerified;
use rustls::server::danger::ClientCertVerifier;
use webpki::EndEntityCert;

use crate::net::x509::subject_of;

/// The certificate of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// None presented, or none requested.
    None,
    /// Issued by a CA of `client_ca`, and currently valid.
    Verified { subject: Box<str> },
    /// The client holds the key, but no trusted CA issued the certificate.
    Unverified { subject: Box<str>, cause: Box<str> },
}

impl ClientCertificate {
    /// Verifies the chain of a finished handshake.
    pub fn judge(
        chain: Option<&[CertificateDer<'_>]>,
        verifier: Option<&Arc<dyn ClientCertVerifier>>,
        now: UnixTime,
    ) -> ClientCertificate {
        let (Some([leaf, intermediates @ ..]), Some(verifier)) = (chain, verifier) else {
            return ClientCertificate::None;
        };
        let subject = subject_of(leaf);
        match verifier.verify_client_cert(leaf, intermediates, now) {
            Ok(_) => ClientCertificate::Verified { subject },
            Err(error) => {
                let cause = error.to_string().into_boxed_str();
                ClientCertificate::Unverified { subject, cause }
            }
        }
    }
}

/// Requests a certificate and accepts any whose key the client holds.
#[derive(Debug)]
pub struct AskOnly(pub Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AskOnly {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // `ClientCertificate::judge` verifies the chain after the handshake.
        match EndEntityCert::try_from(end_entity) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(_) => Err(CertificateError::BadEncoding.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
