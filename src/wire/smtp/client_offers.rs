//! The extensions in a peer's answer to EHLO or LHLO.
//!
//! Promise:  an unknown or malformed keyword is ignored.

use crate::wire::smtp::client_reply::ReplyReader;
use crate::wire::smtp::params::read_decimal;

/// The extensions that a client uses. None after HELO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 3030.
    pub chunking: bool,
    /// RFC 3030.
    pub binary_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 8689.
    pub requiretls: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 4616, over RFC 4954.
    pub auth_plain: bool,
    /// AUTH LOGIN, which no RFC specifies.
    pub auth_login: bool,
    /// RFC 1870.
    pub size: bool,
    /// Bytes of a message; `None` for no limit.
    pub size_max: Option<u64>,
    /// RCPTMAX of RFC 9422: recipients of a message.
    pub recipients_max: Option<u64>,
    /// MAILMAX of RFC 9422: messages of a session.
    pub messages_max: Option<u64>,
}

impl Offers {
    /// Parses the complete reply in `reader`. Its first line is the peer's name.
    pub(super) fn read(reader: &ReplyReader) -> Offers {
        let mut offers = Offers::default();
        for line in reader.lines().skip(1) {
            offers.read_line(line);
        }
        offers
    }

    fn read_line(&mut self, line: &[u8]) {
        let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let Some(keyword) = words.next() else { return };
        match keyword.to_ascii_uppercase().as_slice() {
            b"PIPELINING" => self.pipelining = true,
            b"8BITMIME" => self.eight_bit_mime = true,
            b"CHUNKING" => self.chunking = true,
            b"BINARYMIME" => self.binary_mime = true,
            b"SMTPUTF8" => self.smtputf8 = true,
            b"DSN" => self.dsn = true,
            b"REQUIRETLS" => self.requiretls = true,
            b"STARTTLS" => self.starttls = true,
            b"SIZE" => {
                self.size = true;
                // RFC 1870 s4: 0 is no limit.
                self.size_max = words.next().and_then(read_decimal).filter(|size| *size > 0);
            }
            b"AUTH" => words.for_each(|word| self.read_auth(word)),
            b"LIMITS" => words.for_each(|word| self.read_limit(word)),
            _ => {}
        }
    }

    fn read_auth(&mut self, word: &[u8]) {
        match word.to_ascii_uppercase().as_slice() {
            b"PLAIN" => self.auth_plain = true,
            b"LOGIN" => self.auth_login = true,
            _ => {}
        }
    }

    fn read_limit(&mut self, word: &[u8]) {
        let Some(equals) = memchr::memchr(b'=', word) else { return };
        let value = read_decimal(&word[equals + 1..]).filter(|limit| *limit > 0);
        match word[..equals].to_ascii_uppercase().as_slice() {
            b"RCPTMAX" => self.recipients_max = value,
            b"MAILMAX" => self.messages_max = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &str) -> Offers {
        let mut reader = ReplyReader::default();
        assert_eq!(reader.feed(input.as_bytes()), Ok(input.len()), "{input}");
        Offers::read(&reader)
    }

    #[test]
    fn offers_are_read() {
        let all = "250-mx.test PIPELINING\r\n250-pipelining\r\n250-8BITMIME\r\n250-CHUNKING\r\n\
            250-BINARYMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250-REQUIRETLS\r\n250-STARTTLS\r\n\
            250-SIZE 1000\r\n250-AUTH PLAIN X login\r\n250 LIMITS RCPTMAX=20 mailmax=5 X=1 RCPTDOMAINMAX\r\n";
        let expected = Offers {
            pipelining: true,
            eight_bit_mime: true,
            chunking: true,
            binary_mime: true,
            smtputf8: true,
            dsn: true,
            requiretls: true,
            starttls: true,
            auth_plain: true,
            auth_login: true,
            size: true,
            size_max: Some(1000),
            recipients_max: Some(20),
            messages_max: Some(5),
        };
        assert_eq!(read(all), expected);
    }

    #[test]
    fn sizes_are_read() {
        let rows: [(&str, Option<u64>); 5] = [
            ("SIZE", None),
            ("SIZE 0", None),
            ("SIZE 5", Some(5)),
            ("SIZE x", None),
            ("size 99999999999999999999", Some(u64::MAX)),
        ];
        for (line, expected) in rows {
            let offers = read(&format!("250-mx.test\r\n250 {line}\r\n"));
            assert!(offers.size, "{line}");
            assert_eq!(offers.size_max, expected, "{line}");
        }
    }

    #[test]
    fn the_first_line_offers_nothing() {
        assert_eq!(read("250 PIPELINING\r\n"), Offers::default());
        assert_eq!(read("250-a\r\n250-PIPELININGX\r\n250-\r\n250 X-SIZE 5\r\n"), Offers::default());
    }
}
