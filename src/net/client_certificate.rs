//! Client certificates: who the peer says it is, and whether that was proven.
//!
//! Promise:  possession of the key is always proven (the handshake's signature). Whether the
//!           certificate leads to a trusted authority is a fact for the log and for policy; only
//!           `Required` makes it a condition of the connection. Many senders present their own
//!           server's certificate to everybody, and mail from them must not be lost for it.

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

/// What became known of the client during the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// It presented none, or was not asked.
    None,
    /// Issued by an authority of `client_ca`, and valid now.
    Verified { subject: Box<str> },
    /// The key is its own, but nobody we trust vouches for the name.
    Unverified { subject: Box<str>, cause: Box<str> },
}

impl ClientCertificate {
    /// The verdict on the chain that a finished handshake left behind.
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

/// Asks for a certificate, and takes any whose key the client holds.
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
        // The chain is judged after the handshake, by `ClientCertificate::judge`.
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
