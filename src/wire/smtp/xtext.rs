//! xtext (RFC 3461 s4): printable ASCII in which other octets are written as `+` and two
//! hexadecimal digits.

/// Whether `text` is valid xtext and decodes to printable ASCII. A hidden control character would
/// reach the header of a delivery report.
pub fn is_xtext(text: &[u8]) -> bool {
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        rest = match first {
            b'+' => match behind {
                // Upper case only: the text is passed on unchanged, and other servers may be
                // strict.
                [
                    high @ (b'0'..=b'9' | b'A'..=b'F'),
                    low @ (b'0'..=b'9' | b'A'..=b'F'),
                    rest @ ..,
                ] if hex(*high, *low).is_some_and(is_printable) => rest,
                _ => return false,
            },
            b'=' => return false,
            b'!'..=b'~' => behind,
            _ => return false,
        };
    }
    true
}

/// Decodes xtext, with digits in any case, to text without control characters.
pub fn decode(text: &[u8]) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        let (byte, behind) = match (first, behind) {
            (b'+', [high, low, behind @ ..]) => (hex(*high, *low)?, behind),
            (b'+', _) => return None,
            (byte, behind) => (*byte, behind),
        };
        decoded.push(byte);
        rest = behind;
    }
    let decoded = String::from_utf8(decoded).ok()?;
    (!decoded.chars().any(char::is_control)).then_some(decoded)
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xtext_is_validated_and_decoded() {
        let rows: [(&str, bool, Option<&str>); 10] = [
            ("abc", true, Some("abc")),
            ("a+2Bb+3D", true, Some("a+b=")),
            ("+20", true, Some(" ")),
            ("a=b", false, Some("a=b")),
            ("a+2b", false, Some("a+")),
            ("a+", false, None),
            ("a+2", false, None),
            ("a+GG", false, None),
            ("a+0D+0Ab", false, None),
            ("+C3+A4", false, Some("\u{e4}")),
        ];
        for (text, valid, decoded) in rows {
            assert_eq!(is_xtext(text.as_bytes()), valid, "{text}");
            assert_eq!(decode(text.as_bytes()).as_deref(), decoded, "{text}");
        }
    }
}
