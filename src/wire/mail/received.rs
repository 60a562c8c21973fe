//! The Received field that a server adds to each message (RFC 5321 s4.4).
//!
//! Promise:  no text of the peer can end the field. The field is folded, and no line is longer than
//!           998 octets (RFC 5322 s2.1.1).

use std::io::Write;
use std::net::IpAddr;

use crate::wire::mail::address_scan::is_control;
use crate::wire::mail::date;

/// Octets written of a host name; no valid name is longer.
const NAME_BYTES_MAX: usize = 255;
/// Octets written of a token of our own, such as a cipher or an id.
const TOKEN_BYTES_MAX: usize = 64;
/// Octets written of the recipient: a path without its brackets.
const FOR_BYTES_MAX: usize = 320;

/// The contents of a Received field.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The argument of HELO, EHLO or LHLO.
    pub helo: &'a str,
    /// The peer's name in DNS, if the look-up succeeded.
    pub peer_name: Option<&'a str>,
    pub peer: IpAddr,
    /// Our own name.
    pub by: &'a str,
    /// The result of `with_protocol`.
    pub with: &'a str,
    /// Version and cipher.
    pub tls: Option<(&'a str, &'a str)>,
    pub id: &'a str,
    /// The recipient, when there is exactly one.
    pub for_: Option<&'a str>,
    pub at_ms: u64,
}

impl Received<'_> {
    /// Appends the field with its CRLF.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"Received: from ");
        push_name(self.helo, out);
        out.extend_from_slice(b" (");
        push_name(self.peer_name.unwrap_or(""), out);
        push_address(self.peer, out);
        out.extend_from_slice(b")\r\n\t");
        if let Some((version, cipher)) = self.tls {
            out.extend_from_slice(b"(using ");
            push_token(version, TOKEN_BYTES_MAX, out);
            out.extend_from_slice(b" with cipher ");
            push_token(cipher, TOKEN_BYTES_MAX, out);
            out.extend_from_slice(b")\r\n\t");
        }
        out.extend_from_slice(b"by ");
        push_name(self.by, out);
        out.extend_from_slice(b" with ");
        push_token(self.with, TOKEN_BYTES_MAX, out);
        out.extend_from_slice(b" id ");
        push_token(self.id, TOKEN_BYTES_MAX, out);
        if let Some(recipient) = self.for_ {
            out.extend_from_slice(b"\r\n\tfor <");
            push_recipient(recipient, out);
            out.push(b'>');
        }
        out.extend_from_slice(b";\r\n\t");
        date::rfc5322(self.at_ms, out);
        out.extend_from_slice(b"\r\n");
    }
}

/// The protocol's name by RFC 3848 and RFC 6531 s4.3. Without EHLO it is always SMTP.
pub fn with_protocol(lmtp: bool, esmtp: bool, tls: bool, auth: bool, utf8: bool) -> &'static str {
    const NAMES: [[[&str; 4]; 2]; 2] = [
        [
            ["ESMTP", "ESMTPA", "ESMTPS", "ESMTPSA"],
            ["UTF8SMTP", "UTF8SMTPA", "UTF8SMTPS", "UTF8SMTPSA"],
        ],
        [
            ["LMTP", "LMTPA", "LMTPS", "LMTPSA"],
            ["UTF8LMTP", "UTF8LMTPA", "UTF8LMTPS", "UTF8LMTPSA"],
        ],
    ];
    if !lmtp && !esmtp {
        return "SMTP";
    }
    NAMES[usize::from(lmtp)][usize::from(utf8)][2 * usize::from(tls) + usize::from(auth)]
}

/// A host's name or literal; `unknown` for none.
fn push_name(name: &str, out: &mut Vec<u8>) {
    push_token(if name.is_empty() { "unknown" } else { name }, NAME_BYTES_MAX, out);
}

/// An address literal as in RFC 5321 s4.1.3, with the IPv6 tag.
fn push_address(address: IpAddr, out: &mut Vec<u8>) {
    let written = match address.to_canonical() {
        IpAddr::V4(v4) => write!(out, " [{v4}]"),
        IpAddr::V6(v6) => write!(out, " [IPv6:{v6}]"),
    };
    written.expect("writing to a Vec never fails");
}

/// One word. Octets that could end it, or open a comment or a string, are masked.
fn push_token(text: &str, bytes_max: usize, out: &mut Vec<u8>) {
    let valid = |b: u8| b.is_ascii_graphic() && !b"()<>\\\";,".contains(&b);
    out.extend(text.bytes().take(bytes_max).map(|b| if valid(b) { b } else { b'?' }));
}

/// An address in angle brackets. The address parser has accepted it, so only control characters are
/// masked; quoted and international addresses stay readable.
fn push_recipient(text: &str, out: &mut Vec<u8>) {
    let end = text.floor_char_boundary(FOR_BYTES_MAX);
    for c in text[..end].chars() {
        let shown = if is_control(c) { '?' } else { c };
        out.extend_from_slice(shown.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::net::Ipv6Addr;

    fn example() -> Received<'static> {
        Received {
            helo: "client.test",
            peer_name: Some("mail.client.test"),
            peer: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            by: "mx.example",
            with: "ESMTPS",
            tls: Some(("TLSv1.3", "TLS_AES_256_GCM_SHA384")),
            id: "06AB3CDEFGHJK",
            for_: Some("a@b.test"),
            at_ms: 1_795_230_600_000,
        }
    }

    fn written(received: &Received<'_>) -> String {
        let mut out = Vec::new();
        received.write(&mut out);
        String::from_utf8(out).expect("a Received field is text")
    }

    #[test]
    fn a_full_field_has_all_parts() {
        let expected = "Received: from client.test (mail.client.test [192.0.2.1])\r\n\
            \t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384)\r\n\
            \tby mx.example with ESMTPS id 06AB3CDEFGHJK\r\n\
            \tfor <a@b.test>;\r\n\
            \tSat, 21 Nov 2026 03:10:00 +0000\r\n";
        assert_eq!(written(&example()), expected);
    }

    #[test]
    fn unknown_parts_are_left_out() {
        let bare = Received {
            helo: "[IPv6:2001:db8::1]",
            peer_name: None,
            peer: IpAddr::V6(Ipv6Addr::LOCALHOST),
            tls: None,
            for_: None,
            with: "SMTP",
            ..example()
        };
        let expected = "Received: from [IPv6:2001:db8::1] (unknown [IPv6:::1])\r\n\
            \tby mx.example with SMTP id 06AB3CDEFGHJK;\r\n\
            \tSat, 21 Nov 2026 03:10:00 +0000\r\n";
        assert_eq!(written(&bare), expected);
    }

    #[test]
    fn no_name_can_end_the_field() {
        let long = "x\u{e9}".repeat(2000);
        for hostile in ["a\r\nBcc: x", "a) by evil (", "a\0b", "", "\n", "\"", long.as_str()] {
            let line = written(&Received {
                helo: hostile,
                peer_name: Some(hostile),
                by: hostile,
                with: hostile,
                id: hostile,
                tls: Some((hostile, hostile)),
                for_: Some(hostile),
                ..example()
            });
            let lines: Vec<&str> = line.split_terminator("\r\n").collect();
            assert_eq!(lines.len(), 5, "{hostile:?}: {line:?}");
            assert!(lines[1..].iter().all(|l| l.starts_with('\t')), "{hostile:?}");
            assert!(lines.iter().all(|l| l.len() <= 998 && !l.contains(['\r', '\n', '\0'])));
            let names: String = lines[..3].concat();
            assert_eq!(names.matches('(').count(), 2, "{hostile:?}: {line:?}");
        }
    }

    #[test]
    fn an_international_recipient_stays_readable() {
        let line = written(&Received { for_: Some("\u{e9}@b\u{fc}cher.test"), ..example() });
        assert!(line.contains("for <\u{e9}@b\u{fc}cher.test>;"), "{line}");
    }

    #[test]
    fn protocols_are_named_as_in_the_registry() {
        let rows = [
            ((false, false, false, false, false), "SMTP"),
            ((false, false, true, false, false), "SMTP"),
            ((false, true, false, false, false), "ESMTP"),
            ((false, true, true, false, false), "ESMTPS"),
            ((false, true, false, true, false), "ESMTPA"),
            ((false, true, true, true, false), "ESMTPSA"),
            ((true, true, false, false, false), "LMTP"),
            ((true, true, true, true, false), "LMTPSA"),
            ((false, true, false, false, true), "UTF8SMTP"),
            ((false, true, true, false, true), "UTF8SMTPS"),
            ((false, true, true, true, true), "UTF8SMTPSA"),
            ((true, true, true, false, true), "UTF8LMTPS"),
        ];
        for ((lmtp, esmtp, tls, auth, utf8), name) in rows {
            assert_eq!(with_protocol(lmtp, esmtp, tls, auth, utf8), name);
        }
    }
}
