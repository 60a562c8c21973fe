//! The parser of incoming replies.
//!
//! Promise:  `feed` stops after the reply that it completes, so that two replies are never joined
//!           and an unsolicited one is noticed. The text of a `Reply` is valid UTF-8 without
//!           control characters except the `\n` between its lines.
//! Lenient:  LF alone ends a line. The text and the space before it may be missing. If the codes of
//!           the lines differ, the last one counts.
//! Strict:   a line starts with three digits from 200 to 599, followed by `-`, a space or nothing.
//!           Anything else is a fault.
//! Bounds:   `LINE_BYTES_MAX`, `LINES_MAX` and `REPLY_BYTES_MAX` of input, `TEXT_BYTES_MAX` of the
//!           stored text. Between replies a reader keeps the memory of a small reply.

use std::borrow::Cow;

use thiserror::Error;

use crate::wire::smtp::reply::Reply;

/// Bytes of a line with its end. RFC 5321 s4.5.3.1.5 allows 512; some greetings are longer.
pub const LINE_BYTES_MAX: usize = 4096;
/// Lines of a reply. The longest answers to EHLO have about 30.
pub const LINES_MAX: usize = 64;
/// Bytes of a reply.
pub const REPLY_BYTES_MAX: usize = 16 << 10;
/// Bytes of text in a `Reply`: a thousand refused recipients take at most 2 MB.
pub const TEXT_BYTES_MAX: usize = 2048;

/// Bytes of memory that a reader keeps between replies.
const KEPT_BYTES_MAX: usize = 1024;

/// Why input is no valid reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReplyFault {
    #[error("the peer sent something other than an SMTP reply")]
    NotAReply,
    #[error("the peer sent a reply with an overlong line")]
    LineTooLong,
    #[error("the peer sent a reply with too many lines")]
    TooManyLines,
    #[error("the peer sent an overlong reply")]
    TooLong,
}

/// Reads one reply at a time.
#[derive(Debug, Default)]
pub struct ReplyReader {
    /// The current line, without its end.
    line: Vec<u8>,
    /// The texts of the complete lines, each followed by `\n`.
    text: Vec<u8>,
    lines: usize,
    code: u16,
    complete: bool,
}

impl ReplyReader {
    /// Consumes input up to the end of one reply and returns the number of bytes. Consumes nothing
    /// until a complete reply is cleared.
    pub fn feed(&mut self, input: &[u8]) -> Result<usize, ReplyFault> {
        let mut taken = 0;
        while !self.complete && taken < input.len() {
            let rest = &input[taken..];
            let window = &rest[..rest.len().min(LINE_BYTES_MAX - self.line.len())];
            match memchr::memchr(b'\n', window) {
                Some(end) => {
                    self.end_line(&window[..end])?;
                    taken += end + 1;
                }
                None => {
                    self.keep_line(window)?;
                    taken += window.len();
                }
            }
        }
        Ok(taken)
    }

    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether a reply has arrived in part.
    pub fn is_midway(&self) -> bool {
        !self.complete && (self.lines > 0 || !self.line.is_empty())
    }

    /// The code of the complete reply.
    pub fn code(&self) -> u16 {
        debug_assert!(self.complete, "the reply is complete");
        self.code
    }

    /// The texts of the lines of the complete reply.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.text.split(|byte| *byte == b'\n').take(self.lines)
    }

    /// The complete reply, copied.
    pub fn reply(&self) -> Reply {
        let enhanced = self.lines().filter_map(|line| read_enhanced(self.code, line)).last();
        let mut text = String::new();
        for line in self.lines() {
            let line = match read_enhanced(self.code, line) {
                Some((_, rest)) => rest,
                None => line,
            };
            if !text.is_empty() {
                text.push('\n');
            }
            push_harmless(line, &mut text);
            if text.len() >= TEXT_BYTES_MAX {
                break;
            }
        }
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        let enhanced = enhanced.map(|(enhanced, _)| enhanced);
        Reply { code: self.code, enhanced, text: Cow::Owned(text) }
    }

    /// Prepares for the next reply.
    pub fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(KEPT_BYTES_MAX);
        self.lines = 0;
        self.complete = false;
    }

    fn keep_line(&mut self, part: &[u8]) -> Result<(), ReplyFault> {
        self.line.extend_from_slice(part);
        // Checked at once: a peer with another protocol may never send a line end.
        if !self.line.iter().take(3).all(u8::is_ascii_digit) {
            return Err(ReplyFault::NotAReply);
        }
        if self.line.len() >= LINE_BYTES_MAX {
            return Err(ReplyFault::LineTooLong);
        }
        Ok(())
    }

    fn end_line(&mut self, tail: &[u8]) -> Result<(), ReplyFault> {
        if self.line.is_empty() {
            return self.take_line(tail);
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(tail);
        let result = self.take_line(&line);
        line.clear();
        line.shrink_to(KEPT_BYTES_MAX);
        self.line = line;
        result
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), ReplyFault> {
        let (code, more, text) = read_line(line).ok_or(ReplyFault::NotAReply)?;
        self.lines += 1;
        if self.lines > LINES_MAX {
            return Err(ReplyFault::TooManyLines);
        }
        if self.text.len() + line.len() > REPLY_BYTES_MAX {
            return Err(ReplyFault::TooLong);
        }
        self.text.extend_from_slice(text);
        self.text.push(b'\n');
        self.code = code;
        self.complete = !more;
        Ok(())
    }
}

/// The code, whether more lines follow, and the text of a line without its LF.
fn read_line(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let mut line = line;
    while let [rest @ .., b'\r'] = line {
        line = rest;
    }
    let [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] = line else {
        return None;
    };
    let digit = |byte: &u8| u16::from(byte - b'0');
    let code = digit(a) * 100 + digit(b) * 10 + digit(c);
    match rest {
        [] => Some((code, false, rest)),
        [b'-', text @ ..] => Some((code, true, text)),
        [b' ' | b'\t', text @ ..] => Some((code, false, text)),
        _ => None,
    }
}

pub type Enhanced = (u8, u16, u16);

/// The enhanced code at the start of `text`, if its class is that of `code`, and the rest.
pub fn read_enhanced(code: u16, text: &[u8]) -> Option<(Enhanced, &[u8])> {
    let end = text.iter().position(|byte| *byte == b' ').unwrap_or(text.len());
    let mut parts = text[..end].split(|byte| *byte == b'.');
    let class = parts.next().and_then(read_number)?;
    let subject = parts.next().and_then(read_number)?;
    let detail = parts.next().and_then(read_number)?;
    if parts.next().is_some() || class != code / 100 || class == 3 {
        return None;
    }
    let class = u8::try_from(class).ok()?;
    Some(((class, subject, detail), text.get(end + 1..).unwrap_or_default()))
}

/// RFC 3463 s2: at most three digits.
fn read_number(digits: &[u8]) -> Option<u16> {
    let is_number = (1..=3).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')))
}

fn push_harmless(line: &[u8], text: &mut String) {
    for part in line.utf8_chunks() {
        text.extend(part.valid().chars().map(|c| if c.is_control() { '?' } else { c }));
        if !part.invalid().is_empty() {
            text.push('?');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All replies in `input`, fed `step` bytes at a time.
    fn read_all(input: &[u8], step: usize) -> Result<Vec<Reply>, ReplyFault> {
        let mut reader = ReplyReader::default();
        let mut replies = Vec::new();
        for mut piece in input.chunks(step) {
            while !piece.is_empty() {
                let taken = reader.feed(piece)?;
                piece = &piece[taken..];
                if reader.is_complete() {
                    assert_eq!(reader.feed(b"x"), Ok(0), "a complete reply takes nothing more");
                    replies.push(reader.reply());
                    reader.clear();
                }
            }
        }
        Ok(replies)
    }

    fn shown(reply: &Reply) -> String {
        let enhanced = reply.enhanced.map(|(a, b, c)| format!("{a}.{b}.{c}")).unwrap_or_default();
        format!("{}|{enhanced}|{}", reply.code, reply.text)
    }

    #[test]
    fn replies_of_any_form_are_parsed_at_every_split() {
        let rows: [(&str, &[u8], &[&str]); 18] = [
            ("plain", b"250 ok\r\n", &["250||ok"]),
            ("code only", b"250\r\n", &["250||"]),
            ("code and space", b"250 \r\n", &["250||"]),
            ("bare LF", b"250 ok\n354 go\n", &["250||ok", "354||go"]),
            ("two CRs", b"250 ok\r\r\n", &["250||ok"]),
            ("a tab", b"250\tok\r\n", &["250||ok"]),
            ("two", b"250 a\r\n550 b\r\n", &["250||a", "550||b"]),
            ("two lines", b"250-a\r\n250 b\r\n", &["250||a\nb"]),
            ("an empty line of text", b"250-\r\n250 b\r\n", &["250||b"]),
            ("mixed codes", b"250-a\r\n550 b\r\n", &["550||a\nb"]),
            ("enhanced", b"250 2.1.5 ok\r\n", &["250|2.1.5|ok"]),
            ("enhanced only", b"450 4.7.1\r\n", &["450|4.7.1|"]),
            ("enhanced twice", b"550-5.7.1 a\r\n550 5.7.1 b\r\n", &["550|5.7.1|a\nb"]),
            ("of another class", b"550 2.1.5 ok\r\n", &["550||2.1.5 ok"]),
            ("an address", b"550 5.1.2.3 ok\r\n", &["550||5.1.2.3 ok"]),
            ("a large detail", b"550 5.7.509 no\r\n", &["550|5.7.509|no"]),
            ("control characters", b"550 a\x00\x1b[\xffb\r\n", &["550||a??[?b"]),
            ("UTF-8", "550 \u{e4}\r\n".as_bytes(), &["550||\u{e4}"]),
        ];
        for (name, input, expected) in rows {
            for step in [1, 2, 3, 5, input.len()] {
                let replies = read_all(input, step).expect(name);
                let replies: Vec<String> = replies.iter().map(shown).collect();
                assert_eq!(replies, expected, "{name}, {step} bytes at a time");
            }
        }
    }

    #[test]
    fn invalid_replies_are_faults() {
        let endless = [b"250 ".as_slice(), &[b'x'; LINE_BYTES_MAX]].concat();
        let flood = b"250-x\r\n".repeat(LINES_MAX + 1);
        let line = [b"250-".as_slice(), &[b'x'; 1000], b"\r\n"].concat();
        let long = line.repeat(REPLY_BYTES_MAX / 1000 + 1);
        let rows: [(&str, &[u8], ReplyFault); 13] = [
            ("an empty line", b"\r\n", ReplyFault::NotAReply),
            ("two digits", b"25\r\n", ReplyFault::NotAReply),
            ("four digits", b"2500 ok\r\n", ReplyFault::NotAReply),
            ("no separator", b"250ok\r\n", ReplyFault::NotAReply),
            ("a code too small", b"150 ok\r\n", ReplyFault::NotAReply),
            ("a code too large", b"650 ok\r\n", ReplyFault::NotAReply),
            ("HTTP", b"HTTP/1.1 400 Bad Request\r\n", ReplyFault::NotAReply),
            ("TLS without a line end", b"\x15\x03\x01\x00\x02", ReplyFault::NotAReply),
            ("a second line that is none", b"250-a\r\nb\r\n", ReplyFault::NotAReply),
            ("a space first", b" 250 ok\r\n", ReplyFault::NotAReply),
            ("an endless line", &endless, ReplyFault::LineTooLong),
            ("endless lines", &flood, ReplyFault::TooManyLines),
            ("too long", &long, ReplyFault::TooLong),
        ];
        for (name, input, fault) in rows {
            for step in [1, 7, input.len()] {
                assert_eq!(read_all(input, step), Err(fault), "{name}, {step} bytes at a time");
            }
        }
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let line = format!("550-{}\r\n", "\u{e4}".repeat(1000));
        let input = format!("{line}{line}550 end\r\n");
        let replies = read_all(input.as_bytes(), 4096).expect("the input is a reply");
        assert!(replies[0].text.len() <= TEXT_BYTES_MAX);
        assert!(replies[0].text.len() > TEXT_BYTES_MAX - 4);
    }

    #[test]
    fn a_partial_reply_is_reported() {
        let mut reader = ReplyReader::default();
        assert!(!reader.is_midway());
        for part in [&b"2"[..], b"50-a\r\n", b"250 b\r"] {
            assert_eq!(reader.feed(part), Ok(part.len()));
            assert!(reader.is_midway());
        }
        assert_eq!(reader.feed(b"\n250"), Ok(1));
        assert!(reader.is_complete() && !reader.is_midway());
    }
}
