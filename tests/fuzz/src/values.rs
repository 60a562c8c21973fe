//! Addresses, PROXY headers and stored records.

use std::hint::black_box;

use bumpalo::Bump;
use ringpost::queue::record::probe::probe;
use ringpost::wire::mail::address;
use ringpost::wire::mail::address::Mailbox;
use ringpost::wire::mail::address::ReversePath;
use ringpost::wire::mail::address_scan;
use ringpost::wire::proxy;
use ringpost::wire::proxy::ProxyHeader;
use ringpost::wire::proxy::V1_BYTES_MAX;
use ringpost::wire::proxy::V2_BYTES_MAX;

/// Every accepted address can be stored, parsed again, logged and routed.
pub fn address(data: &[u8]) {
    black_box(address::is_domain_or_literal(data));
    let bracketed = [b"<", data, b">"].concat();
    for text in [data, &bracketed] {
        let arena = Bump::new();
        if let Ok((mailbox, rest)) = address::parse_forward_path(text, &arena) {
            check_mailbox(mailbox);
            assert!(text.ends_with(rest), "the rest is the end of the text");
            assert!(text.len() - rest.len() <= address::PATH_BYTES_MAX);
        }
        if let Ok((ReversePath::Mailbox(mailbox), _)) = address::parse_reverse_path(text, &arena) {
            check_mailbox(mailbox);
            assert!(!mailbox.domain().is_empty(), "only a recipient may be the bare postmaster");
        }
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(mailbox) = Mailbox::from_stored(text)
    {
        assert_eq!(mailbox.as_str(), text);
    }
}

fn check_mailbox(mailbox: Mailbox<'_>) {
    let text = mailbox.as_str();
    assert_eq!(Mailbox::from_stored(text), Some(mailbox), "{text:?} is parsed again");
    assert!(!text.chars().any(char::is_control), "{text:?} has no control character");
    assert!(mailbox.local().len() <= address_scan::LOCAL_BYTES_MAX, "{text:?}");
    assert!(mailbox.domain().len() <= address_scan::DOMAIN_BYTES_MAX, "{text:?}");
    assert_eq!(mailbox.is_utf8(), !text.is_ascii(), "{text:?}");
    let domain = mailbox.domain_ascii().expect("an accepted domain has A-labels");
    assert!(domain.is_ascii(), "{text:?} is routed by {domain:?}");

    let arena = Bump::new();
    let again = format!("<{text}>");
    let reparsed = address::parse_forward_path(again.as_bytes(), &arena);
    assert_eq!(reparsed, Ok((mailbox, &b""[..])), "{text:?} is canonical");
}

/// A result is final: more input does not change it, less input asks for more.
pub fn proxy(data: &[u8]) {
    let found = proxy::parse(data);
    let longer = [data, b"\r\nEHLO \0"].concat();
    match found {
        Ok(None) => assert!(data.len() < V1_BYTES_MAX.max(V2_BYTES_MAX)),
        Err(_) => assert_eq!(proxy::parse(&longer), found),
        Ok(Some(ProxyHeader { consumed, .. })) => {
            assert!(consumed <= data.len() && consumed <= V2_BYTES_MAX);
            assert_eq!(proxy::parse(&longer), found);
            assert_eq!(proxy::parse(&data[..consumed]), found);
            for at in 0..consumed {
                assert_eq!(proxy::parse(&data[..at]), Ok(None), "cut at {at}");
            }
        }
    }
}

/// A record is accepted or refused with a reason. The input is also tried with a valid checksum,
/// because random bytes seldom have one.
pub fn stored(data: &[u8]) {
    let sealed = [data, &crc32(data).to_be_bytes()].concat();
    for record in [data, &sealed] {
        let shown = match probe(record) {
            Ok(found) => format!("{found:?}"),
            Err(fault) => fault.to_string(),
        };
        assert!(!black_box(shown).is_empty());
    }
}

/// The checksum that ends a record (IEEE 802.3), implemented here to need no further crate.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    })
}
