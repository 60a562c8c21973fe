//! The line of a BDAT command (RFC 3030 s2), well-formed or malformed.

use crate::wire::smtp::params;

/// The size and marker of a BDAT command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) bytes: u64,
    pub(super) last: bool,
    /// The size is readable, the rest of the line is not.
    pub(super) garbled: bool,
}

impl Announced {
    pub(super) fn parse(argument: &[u8]) -> Option<Announced> {
        let mut words = argument.split(is_blank).filter(|word| !word.is_empty());
        let bytes = params::read_decimal(words.next()?)?;
        let marker = words.next();
        let last = marker.is_some_and(|word| word.eq_ignore_ascii_case(b"LAST"));
        let garbled =
            marker.is_some() && !last || words.next().is_some() || argument.contains(&b'\t');
        Some(Announced { bytes, last, garbled })
    }

    /// Parses a malformed line that `looks_like_bdat`. The size is readable if a blank separates it
    /// from the verb.
    pub(super) fn parse_malformed(line: &[u8]) -> Option<Announced> {
        let argument = &trim_blanks(line)[VERB.len()..];
        argument.first().filter(|byte| is_blank(byte))?;
        Announced::parse(argument).map(|announced| Announced { garbled: true, ..announced })
    }
}

const VERB: &[u8] = b"BDAT";

/// Whether a line that is no command may be a malformed BDAT, with a chunk after it. Also true for
/// BDATX.
pub(super) fn looks_like_bdat(line: &[u8]) -> bool {
    let verb = trim_blanks(line).get(..VERB.len());
    verb.is_some_and(|verb| verb.eq_ignore_ascii_case(VERB))
}

/// Trims spaces and tabs only: a leading CR is refused as a bare CR before the verb has arrived.
fn trim_blanks(line: &[u8]) -> &[u8] {
    let start = line.iter().position(|byte| !is_blank(byte)).unwrap_or(line.len());
    &line[start..]
}

/// RFC 5321 s4.1.1 allows only a space as separator. With a tab the line is malformed but readable.
fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_parsed() {
        let row = |bytes, last, garbled| Some(Announced { bytes, last, garbled });
        let rows: [(&str, Option<Announced>); 16] = [
            ("0", row(0, false, false)),
            ("0 LAST", row(0, true, false)),
            ("12  last", row(12, true, false)),
            ("9223372036854775808", row(1 << 63, false, false)),
            ("99999999999999999999999", row(u64::MAX, false, false)),
            ("5 LAST LAST", row(5, true, true)),
            ("5 FIRST", row(5, false, true)),
            ("5\tLAST", row(5, true, true)),
            ("\t5", row(5, false, true)),
            ("", None),
            ("LAST", None),
            ("-1", None),
            ("+1", None),
            ("1x", None),
            ("0x10", None),
            ("1.5 LAST", None),
        ];
        for (text, announced) in rows {
            assert_eq!(Announced::parse(text.as_bytes()), announced, "{text}");
        }
    }
    #[test]
    fn malformed_lines_are_recognised() {
        let row = |bytes, last| Some(Announced { bytes, last, garbled: true });
        let rows: [(&str, Option<Announced>); 9] = [
            ("BDAT\t9", row(9, false)),
            ("bdat\t9 LAST", row(9, true)),
            (" BDAT 9", row(9, false)),
            ("\tBdat \t 9\tlast", row(9, true)),
            ("BDAT9", None),
            ("BDATX 9", None),
            ("BDAT:9", None),
            ("BDAT\t-9", None),
            (" BDAT", None),
        ];
        for (line, announced) in rows {
            assert!(looks_like_bdat(line.as_bytes()), "{line}");
            assert_eq!(Announced::parse_malformed(line.as_bytes()), announced, "{line}");
        }
        for line in ["", "BDA", "XBDAT 9", "DATA", "B DAT 9"] {
            assert!(!looks_like_bdat(line.as_bytes()), "{line}");
        }
    }
}
