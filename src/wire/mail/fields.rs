//! The fields of a whole header block, by their places in it.

use std::ops::Range;

/// One field: its name as written, and the place of its bytes with the last line end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field<'b> {
    pub name: &'b [u8],
    pub bytes: Range<usize>,
}

/// The fields of a block in their order. The blank line belongs to none.
pub fn fields(block: &[u8]) -> Fields<'_> {
    Fields { block, at: 0 }
}

/// See `fields`.
#[derive(Clone, Debug)]
pub struct Fields<'b> {
    block: &'b [u8],
    at: usize,
}

impl<'b> Iterator for Fields<'b> {
    type Item = Field<'b>;

    fn next(&mut self) -> Option<Field<'b>> {
        let start = self.at;
        let rest = self.block.get(start..).filter(|rest| !is_blank(rest))?;
        let mut end = 0;
        loop {
            end += memchr::memchr(b'\n', &rest[end..]).map_or(rest.len() - end, |at| at + 1);
            // RFC 5322 s2.2.3: a line that begins with space or tab continues the field.
            if !matches!(rest.get(end), Some(b' ' | b'\t')) {
                break;
            }
        }
        self.at = start + end;
        let name = &rest[..memchr::memchr(b':', &rest[..end]).unwrap_or(0)];
        Some(Field { name: name.trim_ascii_end(), bytes: start..self.at })
    }
}

/// Whether the block ends here: at its blank line, or after its last byte.
fn is_blank(rest: &[u8]) -> bool {
    matches!(rest, [] | [b'\n', ..] | [b'\r', b'\n', ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_with_their_folded_lines() {
        let block = b"From: a\r\nX-Long : one\r\n two\r\n\tthree\r\nTo: b\nCut: c";
        let found: Vec<(&[u8], &[u8])> =
            fields(block).map(|field| (field.name, &block[field.bytes])).collect();
        let expected: [(&[u8], &[u8]); 4] = [
            (b"From", b"From: a\r\n"),
            (b"X-Long", b"X-Long : one\r\n two\r\n\tthree\r\n"),
            (b"To", b"To: b\n"),
            (b"Cut", b"Cut: c"),
        ];
        assert_eq!(found, expected);
        for (name, block) in [("nothing", &b""[..]), ("CRLF", b"\r\n"), ("LF", b"\n")] {
            assert_eq!(fields(block).next(), None, "{name}");
        }
        assert_eq!(fields(b"A: b\r\n\r\n").count(), 1, "the blank line is no field");
    }
}
