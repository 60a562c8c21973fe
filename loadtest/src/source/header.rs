//! Header lines of `--header`: `Name: value`; %n is the number of the message, %r its first recipient.

/// The maximum of a line is 998 bytes, with room for a recipient.
const TEXT_BYTES_MAX: usize = 600;

/// A line with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderLine(String);

impl HeaderLine {
    pub fn parse(text: &str) -> Result<HeaderLine, String> {
        let name = text.split_once(':').map(|(name, _)| name).unwrap_or_default();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("`{text}` is not a header line; write 'Name: value'"));
        }
        if text.contains(['\r', '\n', '\0']) || text.len() > TEXT_BYTES_MAX {
            return Err(format!("a header line is one line of at most {TEXT_BYTES_MAX} bytes"));
        }
        Ok(HeaderLine(format!("{text}\r\n")))
    }

    pub fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }

    /// The line with its CRLF.
    pub fn fill(&self, number: u64, recipient: &str) -> String {
        self.0.replace("%n", &number.to_string()).replace("%r", recipient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced() {
        for (text, expected) in [
            ("X-Campaign: spring", "X-Campaign: spring\r\n"),
            ("X: %n of 100%, %r%r", "X: 7 of 100%, a@b.testa@b.test\r\n"),
            ("X:%n", "X:7\r\n"),
        ] {
            let line = HeaderLine::parse(text).expect(text);
            assert_eq!(line.fill(7, "a@b.test"), expected, "{text}");
        }
        assert!(!HeaderLine::parse("X: \u{e9}").expect("8 bits are lawful").is_ascii());
        let long = format!("X: {}", "y".repeat(TEXT_BYTES_MAX));
        for bad in ["", "X", ": y", "X Y: z", "X: a\nB: c", "\u{e9}: x", &long] {
            assert!(HeaderLine::parse(bad).is_err(), "{bad}");
        }
    }
}
