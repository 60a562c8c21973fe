//! The fields of X.509 certificates: for the log, for TLSA records and for validity.
//!
//! Promise:  a name becomes one line of text without control characters.
//! Bounds:   a name is cut at `SUBJECT_BYTES_MAX`.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;
use x509_cert::der;
use x509_cert::der::Decode;
use x509_cert::der::Reader;
use x509_cert::der::SliceReader;
use x509_cert::der::Tag;
use x509_cert::der::asn1::AnyRef;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::rfc4519;
use x509_cert::name::RdnSequence;

/// Bytes of a name as text. Longer names are cut.
pub const SUBJECT_BYTES_MAX: usize = 255;

/// The subject as one line (`CN=mail.example.com,O=Example`), or the first host name if the subject
/// is empty, as in certificates of modern CAs.
pub fn subject_of(certificate: &CertificateDer<'_>) -> Box<str> {
    let mut text = String::new();
    if let Some(parts) = parts_of(certificate) {
        write_name(parts.subject, &mut text);
    }
    if text.is_empty()
        && let Ok(leaf) = EndEntityCert::try_from(certificate)
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

/// Parts of a certificate in their encoded form, each with tag and length.
pub(super) struct Parts<'a> {
    pub issuer: &'a [u8],
    pub validity: &'a [u8],
    pub subject: &'a [u8],
    /// The public key, to which selector 1 of a TLSA record refers.
    pub key: &'a [u8],
}

/// Splits a certificate into its parts (RFC 5280 s4.1). Also reads certificates that webpki and
/// `x509_cert::Certificate` reject: version 1, serial numbers that are too long, old signature
/// algorithms. Mail that needs no verified name is still encrypted to such servers.
pub(super) fn parts_of<'a>(certificate: &'a CertificateDer<'_>) -> Option<Parts<'a>> {
    cut(certificate.as_ref()).ok()
}

fn cut(certificate: &[u8]) -> der::Result<Parts<'_>> {
    let certificate = AnyRef::decode(&mut SliceReader::new(certificate)?)?;
    let body = AnyRef::decode(&mut SliceReader::new(certificate.value())?)?;
    let mut fields = SliceReader::new(body.value())?;
    if matches!(fields.peek_tag()?, Tag::ContextSpecific { .. }) {
        let _version = fields.tlv_bytes()?;
    }
    let _serial_number = fields.tlv_bytes()?;
    let _algorithm = fields.tlv_bytes()?;
    Ok(Parts {
        issuer: fields.tlv_bytes()?,
        validity: fields.tlv_bytes()?,
        subject: fields.tlv_bytes()?,
        key: fields.tlv_bytes()?,
    })
}

/// Attribute types with a short name (RFC 4514 s3). Others are written as their object identifier.
const SHORT_NAMES: [(ObjectIdentifier, &str); 8] = [
    (rfc4519::CN, "CN"),
    (rfc4519::SERIAL_NUMBER, "SERIALNUMBER"),
    (rfc4519::C, "C"),
    (rfc4519::L, "L"),
    (rfc4519::ST, "ST"),
    (rfc4519::O, "O"),
    (rfc4519::OU, "OU"),
    (rfc4519::DC, "DC"),
];

fn write_name(name: &[u8], text: &mut String) {
    let Ok(name) = RdnSequence::from_der(name) else { return };
    for pair in name.0.iter().flat_map(|set| set.0.iter()) {
        if text.len() >= SUBJECT_BYTES_MAX {
            break;
        }
        if !text.is_empty() {
            text.push(',');
        }
        match SHORT_NAMES.iter().find(|(kind, _)| *kind == pair.oid) {
            Some((_, short)) => text.push_str(short),
            None => text.push_str(&pair.oid.to_string()),
        }
        text.push('=');
        write_value(&String::from_utf8_lossy(pair.value.value()), text);
    }
    let end = (0..=SUBJECT_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
}

/// Escapes a value, so that it cannot be read as structure or as another log line.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The line of a name with this content.
    fn line(content: &[u8]) -> String {
        let length = content.len();
        let head = match length {
            0..=0x7F => vec![0x30, length as u8],
            0x80..=0xFF => vec![0x30, 0x81, length as u8],
            _ => vec![0x30, 0x82, (length >> 8) as u8, length as u8],
        };
        let mut text = String::new();
        write_name(&[&head, content].concat(), &mut text);
        text
    }

    #[test]
    fn names_become_one_safe_line() {
        let table: [(&str, &[u8], &str); 6] = [
            ("nothing", b"", ""),
            ("a common name", b"\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x01a", "CN=a"),
            ("a line end", b"\x31\x0b\x30\x09\x06\x03\x55\x04\x0a\x0c\x02\n,", "O=?\\,"),
            ("an unknown type", b"\x31\x0a\x30\x08\x06\x03\x2a\x03\x04\x0c\x01b", "1.2.3.4=b"),
            ("not UTF-8", b"\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x01\xff", "CN=?"),
            ("cut short", b"\x31\x0a\x30\x08\x06\x03\x55\x04\x03\x0c\x09a", ""),
        ];
        for (case, name, expected) in table {
            assert_eq!(line(name), expected, "{case}");
        }
    }

    #[test]
    fn a_long_name_is_cut_between_letters() {
        let pair =
            [b"\x06\x03\x55\x04\x03\x0c\x81\xc8".to_vec(), "\u{e9}".repeat(100).into_bytes()];
        let pair = pair.concat();
        let sequence = [&[0x30, 0x81, pair.len() as u8], pair.as_slice()].concat();
        let set = [&[0x31, 0x81, sequence.len() as u8], sequence.as_slice()].concat();
        let text = line(&set.repeat(3));
        assert!(text.len() <= SUBJECT_BYTES_MAX && text.len() > SUBJECT_BYTES_MAX - 4);
    }
}
