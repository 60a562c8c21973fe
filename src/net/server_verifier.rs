//! Verifies the certificates of servers during the handshake.
//!
//! Promise:  a check that fails ends the handshake with an alert. `PeerCheck::Any` passes every
//!           certificate whose key the server holds; the verdict on its name is made afterwards.

use std::sync::Arc;

use rustls::CertificateError;
use rustls::DigitallySignedStruct;
use rustls::Error;
use rustls::RootCertStore;
use rustls::SignatureScheme;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::danger::ServerCertVerified;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::crypto::verify_tls12_signature;
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::SignatureVerificationAlgorithm;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::UnixTime;
use webpki::RawPublicKeyEntity;

use crate::net::dane::Shown;
use crate::net::dane::TlsaRecord;
use crate::net::tls_facts::Verdict;
use crate::net::tls_fault::CertificateFault;
use crate::net::x509::parts_of;
use crate::wire::tls::TlsVersion;

/// What a server must prove in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerCheck {
    /// Only that it holds the private key of its certificate.
    Any,
    /// That a trusted CA issued its certificate for the host's name.
    Name,
    /// That a TLSA record matches. DANE-TA accepts the host's name or that of the next hop, which is
    /// `None` if the MX lookup was not secure (RFC 7672 s3.2.2).
    Dane { records: Arc<[TlsaRecord]>, next_hop: Option<Arc<str>> },
}

/// Verifies certificate chains of servers.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl Judge {
    /// Applies the check; returns how the identity was verified.
    pub(super) fn judge(
        &self,
        check: &PeerCheck,
        (leaf, others): (&CertificateDer<'_>, &[CertificateDer<'_>]),
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<Verdict, Error> {
        let shown = Shown { leaf, others, now, algorithms: &self.algorithms };
        match check {
            PeerCheck::Any if self.roots.is_empty() => {
                Ok(Verdict::Unproven(CertificateFault::NoRoots))
            }
            PeerCheck::Any => Ok(match shown.verify(&self.roots, &[name]) {
                Ok(()) => Verdict::Name,
                Err(Error::InvalidCertificate(cause)) => {
                    Verdict::Unproven(CertificateFault::of(&cause))
                }
                Err(_) => Verdict::Unproven(CertificateFault::Other),
            }),
            PeerCheck::Name => shown.verify(&self.roots, &[name]).map(|()| Verdict::Name),
            PeerCheck::Dane { records, next_hop } => {
                let next_hop = next_hop.as_deref().and_then(|name| ServerName::try_from(name).ok());
                let names: Vec<&ServerName<'_>> = [name].into_iter().chain(&next_hop).collect();
                shown.verify_dane(records, &names).map(|()| Verdict::Dane)
            }
        }
    }
}

/// The verifier for rustls: a failed check aborts the handshake with an alert.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) judge: Judge,
    pub(super) check: PeerCheck,
}

impl Verifier {
    /// Verifies a signature with the key alone, for certificates that webpki cannot parse: version 1,
    /// or with an unknown extension.
    fn verify_by_key(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
        version: TlsVersion,
    ) -> Result<HandshakeSignatureValid, Error> {
        let unreadable = || Error::InvalidCertificate(CertificateError::BadEncoding);
        let parts = parts_of(certificate).ok_or_else(unreadable)?;
        let key = SubjectPublicKeyInfoDer::from(parts.key);
        let key = RawPublicKeyEntity::try_from(&key).map_err(|_| unreadable())?;
        let known = self.judge.algorithms.mapping.iter().find(|(scheme, _)| *scheme == dss.scheme);
        let candidates = known.map_or(&[][..], |(_, candidates)| candidates);
        // Since TLS 1.3 a scheme includes its curve, which is the first candidate.
        let count = if version == TlsVersion::Tls13 { 1 } else { candidates.len() };
        let good = |candidate: &&dyn SignatureVerificationAlgorithm| {
            key.verify_signature(*candidate, message, dss.signature()).is_ok()
        };
        match candidates.iter().take(count).any(good) {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(CertificateError::BadSignature.into()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // `Any` is judged after the handshake.
        if self.check != PeerCheck::Any {
            self.judge.judge(&self.check, (end_entity, intermediates), server_name, now)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.judge.algorithms).or_else(|error| {
            match is_readable(cert) {
                true => Err(error),
                false => self.verify_by_key(message, cert, dss, TlsVersion::Tls12),
            }
        })
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.judge.algorithms).or_else(|error| {
            match is_readable(cert) || !allowed_in_tls13(dss.scheme) {
                true => Err(error),
                false => self.verify_by_key(message, cert, dss, TlsVersion::Tls13),
            }
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.algorithms.supported_schemes()
    }
}

fn is_readable(certificate: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(certificate).is_ok()
}

/// RFC 8446 s4.2.3: no PKCS #1 v1.5 signatures in handshakes.
fn allowed_in_tls13(scheme: SignatureScheme) -> bool {
    !matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA1
            | SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
    )
}
