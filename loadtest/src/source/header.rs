//! Header lines of `--header`: `Name: value`; %n is the number of the message, %r its first recipient,
//! %% a percent sign.

use std::io::Write;

/// The maximum of a line is 998 bytes, with room for a recipient.
const TEXT_BYTES_MAX: usize = 600;

/// A line with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderLine(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Number,
    Recipient,
}

impl HeaderLine {
    pub fn parse(text: &str) -> Result<HeaderLine, String> {
        let name = text.split_once(':').map(|(name, _)| name).unwrap_or_default();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("`{text}` is not a header line; write 'Name: value'"));
        }
        if text.contains(['\r', '\n', '\0']) || text.len() > TEXT_BYTES_MAX {
            return Err(format!("a header line is one line of at most {TEXT_BYTES_MAX} bytes"));
        }
        let (mut parts, mut plain) = (Vec::new(), String::new());
        let mut rest = text.chars();
        while let Some(one) = rest.next() {
            let part = match one {
                '%' => match rest.next() {
                    Some('n') => Part::Number,
                    Some('r') => Part::Recipient,
                    Some('%') => {
                        plain.push('%');
                        continue;
                    }
                    _ => return Err(format!("`{text}`: % must be followed by n, r or %")),
                },
                _ => {
                    plain.push(one);
                    continue;
                }
            };
            parts.push(Part::Text(std::mem::take(&mut plain)));
            parts.push(part);
        }
        parts.push(Part::Text(plain));
        Ok(HeaderLine(parts))
    }

    pub fn is_ascii(&self) -> bool {
        self.0.iter().all(|part| !matches!(part, Part::Text(text) if !text.is_ascii()))
    }

    /// Appends the line with its CRLF.
    pub fn push(&self, number: u64, recipient: &str, out: &mut Vec<u8>) {
        for part in &self.0 {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Number => write!(out, "{number}").expect("a Vec takes every write"),
                Part::Recipient => out.extend_from_slice(recipient.as_bytes()),
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced() {
        for (text, expected) in [
            ("X-Campaign: spring", "X-Campaign: spring\r\n"),
            ("X: %n of 100%%, %r%r", "X: 7 of 100%, a@b.testa@b.test\r\n"),
            ("X:%n", "X:7\r\n"),
            ("X:", "X:\r\n"),
        ] {
            let mut out = Vec::new();
            HeaderLine::parse(text).expect(text).push(7, "a@b.test", &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected, "{text}");
        }
        assert!(!HeaderLine::parse("X: \u{e9}").expect("8 bits are lawful").is_ascii());
    }

    #[test]
    fn invalid_lines_are_refused() {
        let long = format!("X: {}", "y".repeat(TEXT_BYTES_MAX));
        for bad in ["", "X", ": y", "X Y: z", "X: a\nB: c", "X: %", "X: %d", "\u{e9}: x", &long] {
            assert!(HeaderLine::parse(bad).is_err(), "{bad}");
        }
    }
}
