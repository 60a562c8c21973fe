//! Dot-stuffing without copying: pieces of a body become segments for one vectored write.
//!
//! Promise:  `dot::DotDecoder` decodes the segments of all pieces and the end marker to the body.
//!           The body must obey the CRLF rule (`LineLaw`): then every line that starts with a dot
//!           follows a CRLF.
//! Cost:     no allocation and no copy: a segment is a part of the piece, or a static dot. A piece
//!           without a line that starts with a dot is one segment.
//! Bounds:   the state is two bytes. A piece of n bytes has at most n + 1 segments.

use memchr::memmem::Finder;

/// Stuffs one body, piece by piece.
#[derive(Clone, Debug)]
pub struct Stuffer {
    /// The last two bytes; before the first piece, the CRLF of the DATA command.
    last: [u8; 2],
}

impl Stuffer {
    pub fn new() -> Stuffer {
        Stuffer { last: *b"\r\n" }
    }

    /// The segments to send for the next piece of the body.
    pub fn segments<'p>(&mut self, piece: &'p [u8]) -> Segments<'p> {
        let dot_is_due = self.last[1] == b'\n' && piece.starts_with(b".");
        match piece {
            [] => {}
            [only] => self.last = [self.last[1], *only],
            [.., before, last] => self.last = [*before, *last],
        }
        Segments { rest: piece, dot_is_due, finder: Finder::new(b"\n.") }
    }

    /// The end marker to send after the last piece, with the CRLF that the body lacks.
    pub fn end(&self) -> &'static [u8] {
        if self.last == *b"\r\n" { b".\r\n" } else { b"\r\n.\r\n" }
    }
}

impl Default for Stuffer {
    fn default() -> Stuffer {
        Stuffer::new()
    }
}

/// The segments of one piece, in order. None is empty.
#[derive(Clone, Debug)]
pub struct Segments<'p> {
    rest: &'p [u8],
    dot_is_due: bool,
    finder: Finder<'static>,
}

impl<'p> Iterator for Segments<'p> {
    type Item = &'p [u8];

    fn next(&mut self) -> Option<&'p [u8]> {
        if self.dot_is_due {
            self.dot_is_due = false;
            return Some(b".");
        }
        if self.rest.is_empty() {
            return None;
        }
        let end = match self.finder.find(self.rest) {
            Some(line_feed) => {
                self.dot_is_due = true;
                line_feed + 1
            }
            None => self.rest.len(),
        };
        let (segment, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(segment)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::smtp::dot::DotDecoder;

    fn stuffed(pieces: &[&[u8]]) -> Vec<u8> {
        let mut stuffer = Stuffer::new();
        let mut out = Vec::new();
        for piece in pieces {
            for segment in stuffer.segments(piece) {
                assert!(!segment.is_empty(), "an empty segment in {pieces:?}");
                out.extend_from_slice(segment);
            }
        }
        out.extend_from_slice(stuffer.end());
        out
    }

    #[test]
    fn bodies_are_stuffed() {
        type Row<'a> = (&'a str, &'a [&'a [u8]], &'a [u8]);
        let rows: [Row; 12] = [
            ("empty", &[], b".\r\n"),
            ("empty pieces", &[b"", b""], b".\r\n"),
            ("no dot", &[b"a\r\nb\r\n"], b"a\r\nb\r\n.\r\n"),
            ("no end", &[b"a"], b"a\r\n.\r\n"),
            ("ends in CR", &[b"a\r"], b"a\r\r\n.\r\n"),
            ("ends in LF", &[b"a\n"], b"a\n\r\n.\r\n"),
            ("only a dot", &[b"."], b"..\r\n.\r\n"),
            ("dots on lines", &[b".a\r\n..\r\n.\r\n"], b"..a\r\n...\r\n..\r\n.\r\n"),
            ("a dot amid a line", &[b"a.b", b".c\r\n"], b"a.b.c\r\n.\r\n"),
            ("cut before the dot", &[b"a\r\n", b".\r\n"], b"a\r\n..\r\n.\r\n"),
            ("cut in CRLF", &[b"a\r", b"\n", b"", b".b\r", b"\n"], b"a\r\n..b\r\n.\r\n"),
            ("behind a bare LF", &[b"a\n.\r\nb\r\n"], b"a\n..\r\nb\r\n.\r\n"),
        ];
        for (name, pieces, expected) in rows {
            assert_eq!(
                stuffed(pieces).escape_ascii().to_string(),
                expected.escape_ascii().to_string(),
                "{name}"
            );
        }
    }

    #[test]
    fn a_piece_without_dots_is_one_segment() {
        let body = b"one\r\ntwo.\r\nthree\r\n";
        let segments: Vec<&[u8]> = Stuffer::new().segments(body).collect();
        assert_eq!(segments, [&body[..]]);
        assert!(std::ptr::eq(segments[0], &body[..]), "nothing was copied");
    }

    /// The stuffed body by the definition, line by line on the whole body.
    fn stuff_by_lines(body: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(body.len() + 8);
        for line in body.split_inclusive(|b| *b == b'\n') {
            if line.starts_with(b".") {
                out.push(b'.');
            }
            out.extend_from_slice(line);
        }
        if !body.is_empty() && !body.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
        out
    }

    fn cut(body: &[u8], cuts: u64) -> Vec<&[u8]> {
        let mut pieces = Vec::new();
        let mut start = 0;
        for at in 1..body.len() {
            if cuts >> (at % 64) & 1 == 1 {
                pieces.push(&body[start..at]);
                start = at;
            }
        }
        pieces.push(&body[start..]);
        pieces
    }

    proptest! {
        #[test]
        fn the_decoder_gives_the_body_back(
            lines in prop::collection::vec("[.a]{0,4}", 0..12),
            ends_in_crlf: bool,
            cuts: u64,
        ) {
            let mut body = lines.join("\r\n").into_bytes();
            if ends_in_crlf {
                body.extend_from_slice(b"\r\n");
            }
            let mut wire = stuffed(&cut(&body, cuts));
            let decoded = DotDecoder::new().decode(&mut wire);
            let decoded = decoded.expect("a stuffed body is valid");
            prop_assert!(decoded.end && decoded.consumed == wire.len());
            if !body.is_empty() && !body.ends_with(b"\r\n") {
                body.extend_from_slice(b"\r\n");
            }
            prop_assert_eq!(&wire[..decoded.kept], &body[..]);
        }

        #[test]
        fn segments_equal_stuffing_in_one_piece(
            body in prop::collection::vec(prop::sample::select(b".\r\na\0".to_vec()), 0..40),
            cuts: u64,
        ) {
            prop_assert_eq!(stuffed(&cut(&body, cuts)), stuff_by_lines(&body));
        }
    }
}
