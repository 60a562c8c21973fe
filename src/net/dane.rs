//! DANE for SMTP: verifies the certificate chain of a server by its TLSA records (RFC 7672).
//!
//! Promise:  pure. A server passes only if a record matches, without fallback to public CAs. The caller
//!           decides whether the records are authentic (DNSSEC).
//! Usages:   2 (DANE-TA) and 3 (DANE-EE). Others are unusable for SMTP (RFC 7672 s3.1.3), as are
//!           records with unknown fields or a wrong length.
//! EE:       only the key counts; names, dates and issuers are ignored (RFC 7672 s3.1.1).
//! TA:       the chain must lead to the matching certificate and have an expected name (RFC 7672
//!           s3.1.2).

use aws_lc_rs::digest;
use rustls::CertificateError;
use rustls::Error;
use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::client::verify_server_name;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::TrustAnchor;
use rustls::pki_types::UnixTime;
use rustls::server::ParsedCertificate;
use webpki::anchor_from_trusted_cert;

use crate::net::x509::parts_of;

const TRUST_ANCHOR: u8 = 2;
const END_ENTITY: u8 = 3;
const WHOLE_CERTIFICATE: u8 = 0;
const PUBLIC_KEY: u8 = 1;
const EXACT: u8 = 0;
const SHA_256: u8 = 1;
const SHA_512: u8 = 2;

/// One TLSA record (RFC 6698 s2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsaRecord {
    pub usage: u8,
    pub selector: u8,
    pub matching: u8,
    pub data: Box<[u8]>,
}

impl TlsaRecord {
    /// Whether the record can verify a mail server. A host with only unusable records must use TLS, with
    /// any certificate (RFC 7672 s2.2).
    pub fn is_usable(&self) -> bool {
        let length_fits = match self.matching {
            EXACT => !self.data.is_empty(),
            SHA_256 => self.data.len() == 32,
            SHA_512 => self.data.len() == 64,
            _ => false,
        };
        length_fits
            && matches!(self.usage, TRUST_ANCHOR | END_ENTITY)
            && matches!(self.selector, WHOLE_CERTIFICATE | PUBLIC_KEY)
    }

    fn matches(&self, certificate: &CertificateDer<'_>) -> bool {
        let selected = match self.selector {
            WHOLE_CERTIFICATE => Some(certificate.as_ref()),
            PUBLIC_KEY => parts_of(certificate).map(|parts| parts.key),
            _ => None,
        };
        let Some(selected) = selected else { return false };
        match self.matching {
            EXACT => *self.data == *selected,
            SHA_256 => *self.data == *digest::digest(&digest::SHA256, selected).as_ref(),
            SHA_512 => *self.data == *digest::digest(&digest::SHA512, selected).as_ref(),
            _ => false,
        }
    }

    /// The CA certificate if the record itself contains it, so that the server need not send it.
    fn carried_root(&self) -> Option<CertificateDer<'_>> {
        let whole = self.selector == WHOLE_CERTIFICATE && self.matching == EXACT;
        (whole && self.usage == TRUST_ANCHOR).then(|| CertificateDer::from(&*self.data))
    }
}

/// Whether any record is usable.
pub fn any_usable(records: &[TlsaRecord]) -> bool {
    records.iter().any(TlsaRecord::is_usable)
}

/// The chain that a server has sent, and how to verify it.
pub(super) struct Shown<'a> {
    pub leaf: &'a CertificateDer<'a>,
    pub others: &'a [CertificateDer<'a>],
    pub now: UnixTime,
    pub algorithms: &'a WebPkiSupportedAlgorithms,
}

impl Shown<'_> {
    /// Verifies that the chain leads to one of `roots` and is valid for one of `names`.
    pub fn verify(&self, roots: &RootCertStore, names: &[&ServerName<'_>]) -> Result<(), Error> {
        let leaf = ParsedCertificate::try_from(self.leaf)?;
        let known = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, roots, self.others, self.now, known)?;
        let mut verdict = Err(CertificateError::NotValidForName.into());
        for name in names {
            verdict = verify_server_name(&leaf, name);
            if verdict.is_ok() {
                break;
            }
        }
        verdict
    }

    /// Verifies the chain by the records. `ApplicationVerificationFailure`: no record matches; other
    /// errors are returned as they are.
    pub fn verify_dane(
        &self,
        records: &[TlsaRecord],
        names: &[&ServerName<'_>],
    ) -> Result<(), Error> {
        let mut anchors = Vec::new();
        for record in records.iter().filter(|record| counts(record, records)) {
            if record.usage == END_ENTITY {
                if record.matches(self.leaf) {
                    return Ok(());
                }
                continue;
            }
            let matched = self.others.iter().filter(|other| record.matches(other));
            anchors.extend(matched.filter_map(anchor_of));
            anchors.extend(record.carried_root().as_ref().and_then(anchor_of));
        }
        if anchors.is_empty() {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        self.verify(&RootCertStore { roots: anchors }, names)
    }
}

fn anchor_of(certificate: &CertificateDer<'_>) -> Option<TrustAnchor<'static>> {
    anchor_from_trusted_cert(certificate).ok().map(|anchor| anchor.to_owned())
}

/// RFC 7671 s9: of several digests with the same usage and selector only the strongest counts.
fn counts(record: &TlsaRecord, records: &[TlsaRecord]) -> bool {
    let outdone = |other: &TlsaRecord| {
        other.matching == SHA_512
            && other.usage == record.usage
            && other.selector == record.selector
            && other.is_usable()
    };
    record.is_usable() && (record.matching != SHA_256 || !records.iter().any(outdone))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(usage: u8, selector: u8, matching: u8, bytes: usize) -> TlsaRecord {
        TlsaRecord { usage, selector, matching, data: vec![7; bytes].into() }
    }

    #[test]
    fn only_what_makes_sense_for_mail_is_usable() {
        let table = [
            ("the common one", record(3, 1, 1, 32), true),
            ("an authority", record(2, 0, 2, 64), true),
            ("a whole certificate", record(3, 0, 0, 700), true),
            ("a public authority", record(0, 0, 1, 32), false),
            ("a public certificate", record(1, 1, 1, 32), false),
            ("a usage of the future", record(4, 1, 1, 32), false),
            ("a selector of the future", record(3, 2, 1, 32), false),
            ("a matching of the future", record(3, 1, 3, 48), false),
            ("a digest that was cut", record(3, 1, 1, 31), false),
            ("a digest of the other length", record(3, 1, 2, 32), false),
            ("nothing at all", record(3, 1, 0, 0), false),
        ];
        for (case, record, expected) in table {
            assert_eq!(record.is_usable(), expected, "{case}");
            assert_eq!(any_usable(&[record]), expected, "{case}");
        }
        assert!(!any_usable(&[]));
    }

    #[test]
    fn the_stronger_digest_counts() {
        let weak = record(3, 1, 1, 32);
        let strong = record(3, 1, 2, 64);
        assert!(counts(&weak, std::slice::from_ref(&weak)));
        assert!(!counts(&weak, &[weak.clone(), strong.clone()]));
        assert!(counts(&weak, &[weak.clone(), record(3, 0, 2, 64)]), "another selector");
        assert!(counts(&weak, &[weak.clone(), record(3, 1, 2, 63)]), "an unusable one");
        assert!(counts(&strong, &[weak.clone(), strong.clone()]));
    }
}
