//! Client certificates: who the peer says it is, and whether that was proven.
//!
//! Promise:  possession of the key is always proven (the handshake's signature). Whether the
//!           certificate leads to a trusted authority is a fact for the log and for policy; only
//!           `Required` makes it a condition of the connection. Many senders present their own
//!           server's certificate to everybody, and mail from them must not be lost for it.
//! Bounds:   a subject's text is cut at `SUBJECT_BYTES_MAX`; it never holds a control character.

use std::fmt::Write;
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

/// Bytes of a subject's text. Longer: cut; it is for the log.
pub const SUBJECT_BYTES_MAX: usize = 255;

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

/// The subject as one line (`CN=mail.example.com,O=Example`), or the first host name when the
/// subject is empty, as modern authorities leave it.
pub fn subject_of(certificate: &CertificateDer<'_>) -> Box<str> {
    let Ok(leaf) = EndEntityCert::try_from(certificate) else {
        return Box::default();
    };
    let mut text = String::new();
    write_name(leaf.subject(), &mut text);
    if text.is_empty()
        && let Some(name) = leaf.valid_dns_names().next()
    {
        text.push_str("DNS=");
        write_value(name, &mut text);
    }
    text.into_boxed_str()
}

/// The issuer as one line.
pub fn issuer_of(certificate: &CertificateDer<'_>) -> Box<str> {
    let mut text = String::new();
    if let Some(parts) = parts_of(certificate) {
        write_name(parts.issuer, &mut text);
    }
    text.into_boxed_str()
}

/// The parts of a certificate that are told and matched, as they are encoded.
pub(in crate::net) struct Parts<'a> {
    /// The content of the sequence.
    pub issuer: &'a [u8],
    /// With its tag and length: what a TLSA record of selector 1 speaks of.
    pub key: &'a [u8],
}

/// Cuts a certificate up (RFC 5280 s4.1). It reads also what webpki does not: version 1, and what
/// is signed with an algorithm of old.
pub(in crate::net) fn parts_of<'a>(certificate: &'a CertificateDer<'_>) -> Option<Parts<'a>> {
    const VERSION: u8 = 0xA0;
    let (SEQUENCE, whole, _) = next_der(certificate.as_ref())? else { return None };
    let (SEQUENCE, body, _) = next_der(whole)? else { return None };
    let (first, _, rest) = next_der(body)?;
    // The serial number, which a version may stand before.
    let rest = if first == VERSION { next_der(rest)?.2 } else { rest };
    let (SEQUENCE, _algorithm, rest) = next_der(rest)? else { return None };
    let (SEQUENCE, issuer, rest) = next_der(rest)? else { return None };
    let (SEQUENCE, _validity, rest) = next_der(rest)? else { return None };
    let (SEQUENCE, _subject, key) = next_der(rest)? else { return None };
    let (SEQUENCE, _key, rest) = next_der(key)? else { return None };
    Some(Parts { issuer, key: &key[..key.len() - rest.len()] })
}

/// RFC 5280 s4.1.2.4: a name is a sequence of sets of (type, value).
fn write_name(mut name: &[u8], text: &mut String) {
    while let Some((SET, mut set, rest)) = next_der(name) {
        name = rest;
        while let Some((SEQUENCE, pair, rest)) = next_der(set) {
            set = rest;
            if text.len() < SUBJECT_BYTES_MAX {
                write_pair(pair, text);
            }
        }
    }
    let end = (0..=SUBJECT_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
}

fn write_pair(pair: &[u8], text: &mut String) {
    let Some((OBJECT_IDENTIFIER, kind, rest)) = next_der(pair) else { return };
    let Some((_, value, _)) = next_der(rest) else { return };
    if !text.is_empty() {
        text.push(',');
    }
    match kind {
        [0x55, 0x04, 0x03] => text.push_str("CN="),
        [0x55, 0x04, 0x05] => text.push_str("SERIALNUMBER="),
        [0x55, 0x04, 0x06] => text.push_str("C="),
        [0x55, 0x04, 0x07] => text.push_str("L="),
        [0x55, 0x04, 0x08] => text.push_str("ST="),
        [0x55, 0x04, 0x0A] => text.push_str("O="),
        [0x55, 0x04, 0x0B] => text.push_str("OU="),
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xF2, 0x2C, 0x64, 0x01, 0x19] => text.push_str("DC="),
        other => write_hex(other, text),
    }
    write_value(&String::from_utf8_lossy(value), text);
}

/// A type without a short name, as the hexadecimal bytes of its identifier.
fn write_hex(kind: &[u8], text: &mut String) {
    text.push('#');
    for byte in kind.iter().take(16) {
        write!(text, "{byte:02x}").expect("a String takes every write");
    }
    text.push('=');
}

/// A value that cannot be taken for structure or for another log line.
fn write_value(value: &str, text: &mut String) {
    for letter in value.chars().take(SUBJECT_BYTES_MAX) {
        match letter {
            ',' | '=' | '+' | '\\' | '"' => {
                text.push('\\');
                text.push(letter);
            }
            letter if letter.is_control() || letter == char::REPLACEMENT_CHARACTER => {
                text.push('?')
            }
            letter => text.push(letter),
        }
    }
}

const SET: u8 = 0x31;
const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;

/// Tag, content and what follows of the first DER value; `None` when it is not whole. Names are
/// far below 64 KiB, so lengths of more than two bytes are not read.
fn next_der(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, rest) = match (first, rest) {
        (0..=0x7F, rest) => (usize::from(*first), rest),
        (0x81, [low, rest @ ..]) => (usize::from(*low), rest),
        (0x82, [high, low, rest @ ..]) => (usize::from(*high) << 8 | usize::from(*low), rest),
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_one_safe_line() {
        let table: [(&str, &[u8], &str); 6] = [
            ("nothing", b"", ""),
            ("a common name", b"\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x01a", "CN=a"),
            ("a line end", b"\x31\x0b\x30\x09\x06\x03\x55\x04\x0a\x0c\x02\n,", "O=?\\,"),
            ("an unknown type", b"\x31\x08\x30\x06\x06\x01\x2a\x0c\x01b", "#2a=b"),
            ("not UTF-8", b"\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x01\xff", "CN=?"),
            ("cut short", b"\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x09a", ""),
        ];
        for (case, name, expected) in table {
            let mut text = String::new();
            write_name(name, &mut text);
            assert_eq!(text, expected, "{case}");
        }
    }

    #[test]
    fn a_long_name_is_cut_between_letters() {
        let pair =
            [b"\x06\x03\x55\x04\x03\x0c\x81\xc8".to_vec(), "\u{e9}".repeat(100).into_bytes()];
        let pair = pair.concat();
        let sequence = [&[0x30, 0x81, pair.len() as u8], pair.as_slice()].concat();
        let set = [&[0x31, 0x81, sequence.len() as u8], sequence.as_slice()].concat();
        let mut text = String::new();
        write_name(&set.repeat(3), &mut text);
        assert!(text.len() <= SUBJECT_BYTES_MAX && text.len() > SUBJECT_BYTES_MAX - 4);
    }
}
