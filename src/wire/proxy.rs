//! The PROXY protocol, versions 1 and 2: reads the client's address from a trusted proxy's header,
//! and writes version 2 headers for outgoing connections through a proxy.
//!
//! Promise:  exactly one header is consumed. An IPv4-mapped IPv6 address becomes IPv4, so that
//!           policies see one spelling.
//! Bounds:   107 bytes for version 1, 2 KiB for version 2. A longer header is refused. TLVs are
//!           skipped.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::str::FromStr;

use thiserror::Error;

/// Bytes of the longest version 1 header with its CRLF.
pub const V1_BYTES_MAX: usize = 107;
/// Bytes of the longest accepted version 2 header; the TLVs of a proxy take a few hundred bytes.
pub const V2_BYTES_MAX: usize = 2048;

const V1_START: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Length of signature, version, command, family and length.
const V2_FIXED_BYTES: usize = 16;
/// Version 2, command PROXY.
const V2_PROXY: u8 = 0x21;
const V2_TCP4: u8 = 0x11;
const V2_TCP6: u8 = 0x21;

/// A header. The addresses are `None` if the proxy speaks for itself (LOCAL, UNKNOWN, UNSPEC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    pub source: Option<SocketAddr>,
    pub destination: Option<SocketAddr>,
    /// Bytes of the header.
    pub consumed: usize,
}

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HeaderFault {
    #[error("no PROXY header")]
    Missing,
    #[error("malformed PROXY header")]
    Malformed,
    #[error("PROXY header too long")]
    TooLong,
    #[error("unknown PROXY version or command")]
    Version,
    #[error("PROXY header for a connection other than TCP")]
    Family,
}

/// Parses the header at the start of a connection from a proxy. `None`: the header is incomplete.
pub fn parse(input: &[u8]) -> Read {
    if starts_alike(input, V2_SIGNATURE) {
        parse_v2(input)
    } else if starts_alike(input, V1_START) {
        parse_v1(input)
    } else {
        Err(HeaderFault::Missing)
    }
}

/// Whether `input` starts with `start` or is a prefix of it.
fn starts_alike(input: &[u8], start: &[u8]) -> bool {
    input.iter().zip(start).all(|(a, b)| a == b)
}

/// The header, or `None` if it is incomplete.
pub type Read = Result<Option<ProxyHeader>, HeaderFault>;

fn parse_v1(input: &[u8]) -> Read {
    let window = input.get(..V1_BYTES_MAX).unwrap_or(input);
    let Some(end) = memchr::memmem::find(window, b"\r\n") else {
        let full = window.len() == V1_BYTES_MAX;
        return if full { Err(HeaderFault::TooLong) } else { Ok(None) };
    };
    let line = window.get(V1_START.len()..end).ok_or(HeaderFault::Malformed)?;
    let line = std::str::from_utf8(line).map_err(|_| HeaderFault::Malformed)?;
    let consumed = end + 2;
    let mut words = line.split(' ');
    let pair = match words.next() {
        // The specification says to ignore the rest of the line.
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(v1_pair::<Ipv4Addr>(words)?),
        Some("TCP6") => Some(v1_pair::<Ipv6Addr>(words)?),
        _ => return Err(HeaderFault::Malformed),
    };
    Ok(Some(header(pair, consumed)))
}

/// Source and destination address, then source and destination port, and nothing else.
fn v1_pair<'a, A: FromStr + Into<IpAddr>>(
    mut words: impl Iterator<Item = &'a str>,
) -> Result<(SocketAddr, SocketAddr), HeaderFault> {
    let fields = [words.next(), words.next(), words.next(), words.next(), words.next()];
    let [Some(source), Some(destination), Some(source_port), Some(port), None] = fields else {
        return Err(HeaderFault::Malformed);
    };
    let address =
        |word: &str| word.parse::<A>().map(Into::into).map_err(|_| HeaderFault::Malformed);
    Ok((
        SocketAddr::new(address(source)?, v1_port(source_port)?),
        SocketAddr::new(address(destination)?, v1_port(port)?),
    ))
}

/// A port without sign and leading zeros, as the specification requires; `u16::from_str` would
/// accept them.
fn v1_port(word: &str) -> Result<u16, HeaderFault> {
    let canonical = word == "0" || matches!(word.as_bytes().first(), Some(b'1'..=b'9'));
    word.parse().ok().filter(|_| canonical).ok_or(HeaderFault::Malformed)
}

fn parse_v2(input: &[u8]) -> Read {
    let Some((fixed, rest)) = input.split_first_chunk::<V2_FIXED_BYTES>() else {
        return Ok(None);
    };
    let [.., version_command, family, len_high, len_low] = *fixed;
    let len = usize::from(u16::from_be_bytes([len_high, len_low]));
    if version_command >> 4 != 2 || version_command & 15 > 1 {
        return Err(HeaderFault::Version);
    }
    if V2_FIXED_BYTES + len > V2_BYTES_MAX {
        return Err(HeaderFault::TooLong);
    }
    let Some(block) = rest.get(..len) else {
        return Ok(None);
    };
    let consumed = V2_FIXED_BYTES + len;
    let is_local = version_command & 15 == 0;
    let pair = match family {
        _ if is_local => None,
        0x00 => None,
        V2_TCP4 => Some(v2_pair::<4>(block)?),
        V2_TCP6 => Some(v2_pair::<16>(block)?),
        _ => return Err(HeaderFault::Family),
    };
    Ok(Some(header(pair, consumed)))
}

/// Two addresses of `N` octets and two ports; TLVs may follow.
fn v2_pair<const N: usize>(block: &[u8]) -> Result<(SocketAddr, SocketAddr), HeaderFault>
where
    [u8; N]: Into<IpAddr>,
{
    let (source, rest) = block.split_first_chunk::<N>().ok_or(HeaderFault::Malformed)?;
    let (destination, rest) = rest.split_first_chunk::<N>().ok_or(HeaderFault::Malformed)?;
    let (source_port, rest) = rest.split_first_chunk::<2>().ok_or(HeaderFault::Malformed)?;
    let (port, _tlvs) = rest.split_first_chunk::<2>().ok_or(HeaderFault::Malformed)?;
    Ok((
        SocketAddr::new((*source).into(), u16::from_be_bytes(*source_port)),
        SocketAddr::new((*destination).into(), u16::from_be_bytes(*port)),
    ))
}

/// Writes a version 2 header for a connection from `source` to `destination`. Returns `false` and
/// writes nothing if the address families differ.
pub fn write_v2(source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) -> bool {
    let (family, address_bytes) = match (source, destination) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) => (V2_TCP4, 4),
        (SocketAddr::V6(_), SocketAddr::V6(_)) => (V2_TCP6, 16),
        _ => return false,
    };
    let block_bytes: u16 = 2 * (address_bytes + 2);
    out.extend_from_slice(V2_SIGNATURE);
    out.extend_from_slice(&[V2_PROXY, family]);
    out.extend_from_slice(&block_bytes.to_be_bytes());
    push_ip(source.ip(), out);
    push_ip(destination.ip(), out);
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
    true
}

/// Appends the octets of an address.
pub(super) fn push_ip(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
        IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
    }
}

fn header(pair: Option<(SocketAddr, SocketAddr)>, consumed: usize) -> ProxyHeader {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    ProxyHeader {
        source: pair.map(|(source, _)| plain(source)),
        destination: pair.map(|(_, destination)| plain(destination)),
        consumed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_of(source: &str, destination: &str, consumed: usize) -> Read {
        let address = |text: &str| text.parse().ok();
        Ok(Some(ProxyHeader {
            source: address(source),
            destination: address(destination),
            consumed,
        }))
    }

    fn v2(version_command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let mut out = V2_SIGNATURE.to_vec();
        out.extend_from_slice(&[version_command, family]);
        out.extend_from_slice(&(block.len() as u16).to_be_bytes());
        out.extend_from_slice(block);
        out
    }

    fn check(name: &str, input: &[u8], expected: Read) {
        assert_eq!(parse(input), expected, "{name}");
        let Ok(Some(ProxyHeader { consumed, .. })) = expected else { return };
        for at in 0..consumed {
            assert_eq!(parse(&input[..at]), Ok(None), "{name}, cut at {at}");
        }
        let more = [input, b"EHLO x\r\n"].concat();
        assert_eq!(parse(&more), expected, "{name}, with more behind");
    }

    #[test]
    fn version_1_is_parsed_strictly() {
        let malformed = Err(HeaderFault::Malformed);
        let none = |consumed| Ok(Some(ProxyHeader { source: None, destination: None, consumed }));
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_BYTES_MAX - 16));
        let longer = format!("PROXY UNKNOWN {}\r\n", "f".repeat(V1_BYTES_MAX - 15));
        let rows: &[(&str, &str, Read)] = &[
            (
                "TCP4",
                "PROXY TCP4 192.0.2.1 192.0.2.2 5000 25\r\n",
                header_of("192.0.2.1:5000", "192.0.2.2:25", 40),
            ),
            (
                "TCP6",
                "PROXY TCP6 2001:db8::1 ::1 65535 0\r\n",
                header_of("[2001:db8::1]:65535", "[::1]:0", 36),
            ),
            (
                "mapped",
                "PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n",
                header_of("192.0.2.1:1", "[::1]:2", 37),
            ),
            ("unknown", "PROXY UNKNOWN\r\n", none(15)),
            ("unknown with words", "PROXY UNKNOWN ::1 ::1 1 2\r\n", none(27)),
            ("the longest", &longest, none(V1_BYTES_MAX)),
            ("too long", &longer, Err(HeaderFault::TooLong)),
            ("no header", "EHLO x\r\n", Err(HeaderFault::Missing)),
            ("lower case", "proxy TCP4", Err(HeaderFault::Missing)),
            ("another word", "PROXYTCP4", Err(HeaderFault::Missing)),
            ("wrong family", "PROXY TCP4 ::1 ::1 1 2\r\n", malformed),
            ("UDP", "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", malformed),
            ("two spaces", "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n", malformed),
            ("a word too many", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", malformed),
            ("a word too few", "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", malformed),
            ("port too large", "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", malformed),
            ("port with zeros", "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", malformed),
            ("port with a sign", "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", malformed),
            ("address with zeros", "PROXY TCP4 192.0.02.1 192.0.2.2 1 2\r\n", malformed),
            ("bare LF", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\nEHLO x\r\n", malformed),
            ("nothing said", "PROXY \r\n", malformed),
        ];
        for (name, input, expected) in rows {
            check(name, input.as_bytes(), *expected);
        }
    }

    #[test]
    fn version_2_is_parsed_by_its_length() {
        let tcp4 = [192, 0, 2, 1, 192, 0, 2, 2, 0x13, 0x88, 0, 25];
        let mut tcp6 = [0; 36];
        tcp6[15] = 1;
        tcp6[31] = 2;
        tcp6[35] = 25;
        let tlvs = [&tcp4[..], &[3, 0, 4, 1, 2, 3, 4]].concat();
        let large = [&tcp4[..], &vec![0; V2_BYTES_MAX - 28]].concat();
        let larger = [&tcp4[..], &vec![0; V2_BYTES_MAX - 27]].concat();
        let none = |consumed| Ok(Some(ProxyHeader { source: None, destination: None, consumed }));
        let four = |consumed| header_of("192.0.2.1:5000", "192.0.2.2:25", consumed);
        let rows: &[(&str, Vec<u8>, Read)] = &[
            ("TCP4", v2(0x21, 0x11, &tcp4), four(28)),
            ("TCP4 with TLVs", v2(0x21, 0x11, &tlvs), four(35)),
            ("the longest", v2(0x21, 0x11, &large), four(V2_BYTES_MAX)),
            ("TCP6", v2(0x21, 0x21, &tcp6), header_of("[::1]:0", "[::2]:25", 52)),
            ("local", v2(0x20, 0x00, b""), none(16)),
            ("local with addresses", v2(0x20, 0x11, &tcp4), none(28)),
            ("unspecified", v2(0x21, 0x00, b"xyz"), none(19)),
            ("too long", v2(0x21, 0x11, &larger), Err(HeaderFault::TooLong)),
            ("too short", v2(0x21, 0x11, &tcp4[..11]), Err(HeaderFault::Malformed)),
            ("TCP6 too short", v2(0x21, 0x21, &tcp4), Err(HeaderFault::Malformed)),
            ("UDP", v2(0x21, 0x12, &tcp4), Err(HeaderFault::Family)),
            ("unix", v2(0x21, 0x31, &[0; 216]), Err(HeaderFault::Family)),
            ("version 3", v2(0x31, 0x11, &tcp4), Err(HeaderFault::Version)),
            ("command 2", v2(0x22, 0x11, &tcp4), Err(HeaderFault::Version)),
            ("a broken signature", b"\r\n\r\n\0\r\nQUIT\r".to_vec(), Err(HeaderFault::Missing)),
        ];
        for (name, input, expected) in rows {
            check(name, input, *expected);
        }
    }

    #[test]
    fn a_written_header_is_parsed() {
        for (source, destination) in
            [("192.0.2.1:0", "198.51.100.7:25"), ("[2001:db8::1]:0", "[2001:db8::2]:2525")]
        {
            let [from, to]: [SocketAddr; 2] =
                [source, destination].map(|text| text.parse().expect("an address"));
            let mut out = Vec::new();
            assert!(write_v2(from, to, &mut out));
            check(source, &out, header_of(source, destination, out.len()));
        }
        let mut out = Vec::new();
        let four = "192.0.2.1:0".parse().expect("an address");
        let six = "[::1]:25".parse().expect("an address");
        assert!(!write_v2(four, six, &mut out) && !write_v2(six, four, &mut out));
        assert_eq!(out, b"");
        assert!(write_v2(four, "192.0.2.2:25".parse().expect("an address"), &mut out));
        let bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\0\0\0\x19";
        assert_eq!(out, bytes);
    }
}
