//! The end of a DATA body and the stuffed dots in it (RFC 5321 s4.5.2).
//!
//! Cost:     one search for CRLF.CRLF and one for dots, both vectorised by `memchr`.
//! Apart:    the sink checks what a server sends, so that it does not use the server's decoder.

use memchr::memmem::Finder;

use crate::ledger::sum::BodySum;

const END: &[u8; 5] = b"\r\n.\r\n";
/// `.` and its line end.
pub const DOT_BYTES: usize = 3;

/// Finds the end of a DATA body. Only CRLF.CRLF ends it, wherever the input is split.
#[derive(Debug)]
pub struct DotEnd {
    finder: Finder<'static>,
    /// Length of the prefix of `END` at the end of the input so far.
    matched: usize,
}

impl DotEnd {
    pub fn new() -> DotEnd {
        DotEnd { finder: Finder::new(END), matched: 2 }
    }

    /// Starts a body: the CRLF of the DATA command counts as a line end.
    pub fn begin(&mut self) {
        self.matched = 2;
    }

    /// The length of the body and its end in `input`; `None` if all of `input` is body.
    pub fn find(&mut self, input: &[u8]) -> Option<usize> {
        let mut at = 0;
        while self.matched > 0 && at < input.len() {
            self.step(input[at]);
            at += 1;
            if self.matched == END.len() {
                return Some(at);
            }
        }
        if let Some(found) = self.finder.find(&input[at..]) {
            return Some(at + found + END.len());
        }
        for byte in &input[at.max(input.len().saturating_sub(END.len() - 1))..] {
            self.step(*byte);
        }
        None
    }

    fn step(&mut self, byte: u8) {
        self.matched = match byte == END[self.matched] {
            true => self.matched + 1,
            false => usize::from(byte == b'\r'),
        };
    }
}

/// The position within a line of a DATA body, for its checksum.
///
/// A dot at the start of a line is removed. The dot that ends the body is one too, and the CRLF after it
/// is not body: a CR after such a dot is held back until the next byte is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    Start,
    Inside,
    /// After a CR.
    Cr,
    /// After a removed dot.
    Dot,
    /// After a removed dot and a CR, which is held back.
    DotCr,
}

impl Line {
    /// Adds a piece without its stuffed dots, and returns the position at its end.
    pub fn add(mut self, piece: &[u8], sum: &mut BodySum) -> Line {
        let mut rest = piece;
        if self == Line::DotCr && !rest.is_empty() {
            sum.add(b"\r");
            self = Line::Cr;
        }
        if self == Line::Cr && rest.first() == Some(&b'\n') {
            sum.add(b"\n");
            (self, rest) = (Line::Start, &rest[1..]);
        }
        if self == Line::Start && rest.first() == Some(&b'.') {
            (self, rest) = (Line::Dot, &rest[1..]);
        }
        let mut from = 0;
        for at in memchr::memchr_iter(b'.', rest) {
            if rest[from..at].ends_with(b"\r\n") {
                sum.add(&rest[from..at]);
                from = at + 1;
                self = Line::Dot;
            }
        }
        let last = &rest[from..];
        match last {
            [] => self,
            b"\r" if self == Line::Dot => Line::DotCr,
            _ => {
                sum.add(last);
                match last {
                    [.., b'\r', b'\n'] => Line::Start,
                    [.., b'\r'] => Line::Cr,
                    _ => Line::Inside,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dot_between_line_ends_ends_a_body_wherever_it_is_cut() {
        let rows: [(&[u8], Option<usize>); 8] = [
            (b".\r\nQUIT", Some(3)),
            (b"a\r\n.\r\nb", Some(6)),
            (b"a\r\n..\r\n\r\n.\r\n", Some(12)),
            (b"a\n.\r\n\r\n.\r\n", Some(10)),
            (b"a\r\n.\n.\r\n", None),
            (b"\r\n.\r\r\n.\r\n", Some(9)),
            (b"\r\r\n.\r\n", Some(6)),
            (b".", None),
        ];
        for (body, expected) in rows {
            for cut in 0..=body.len() {
                let mut end = DotEnd::new();
                let (one, two) = body.split_at(cut);
                let found = end.find(one).or_else(|| end.find(two).map(|more| cut + more));
                assert_eq!(found, expected, "{} at {cut}", String::from_utf8_lossy(body));
            }
            let mut end = DotEnd::new();
            let bytes = body.iter().position(|byte| end.find(&[*byte]).is_some());
            assert_eq!(bytes.map(|at| at + 1), expected, "{}", String::from_utf8_lossy(body));
        }
    }
}
