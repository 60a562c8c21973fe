//! Foreign text in a report: masked, cut and folded, so that it cannot end its field or line.

use crate::wire::mail::address_scan::is_control;
use crate::wire::mail::date;

/// Octets quoted of a remote server's reply.
pub(super) const WORDS_BYTES_MAX: usize = 1024;
/// Octets of an address or a name; valid ones are far shorter.
const TOKEN_BYTES_MAX: usize = 640;
/// Octets after which a word without spaces is broken.
const WORD_BYTES_MAX: usize = 640;
const WIDTH: usize = 76;

/// The characters that are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Charset {
    Ascii,
    Utf8,
}

impl Charset {
    pub(super) fn of(is_utf8: bool) -> Charset {
        if is_utf8 { Charset::Utf8 } else { Charset::Ascii }
    }

    fn shown(self, c: char) -> char {
        if is_control(c) || (self == Charset::Ascii && !c.is_ascii()) { '?' } else { c }
    }
}

/// Appends `Name: value` as one line.
pub(super) fn push_field(name: &str, value: &str, charset: Charset, out: &mut Vec<u8>) {
    push_text(name, out);
    push_text(": ", out);
    push_masked(value, charset, out);
    push_text("\r\n", out);
}

/// Appends `Name: type; value` as one line (RFC 3464 s2.1.2).
pub(super) fn push_typed(name: &str, kind: &str, value: &str, charset: Charset, out: &mut Vec<u8>) {
    push_text(name, out);
    push_text(": ", out);
    push_masked(kind, Charset::Ascii, out);
    push_text("; ", out);
    push_masked(value, charset, out);
    push_text("\r\n", out);
}

pub(super) fn push_date(name: &str, at_ms: u64, out: &mut Vec<u8>) {
    push_text(name, out);
    push_text(": ", out);
    date::rfc5322(at_ms, out);
    push_text("\r\n", out);
}

pub(super) fn push_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(text.as_bytes());
}

/// Appends an address or a name. Line breaks are masked, spaces are kept.
pub(super) fn push_masked(text: &str, charset: Charset, out: &mut Vec<u8>) {
    let head = &text[..text.floor_char_boundary(TOKEN_BYTES_MAX)];
    head.chars().for_each(|c| push_char(charset.shown(c), out));
}

/// Appends a host name or a token. Everything that could end a word is masked.
pub(super) fn push_token(text: &str, out: &mut Vec<u8>) {
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"._-[]:".contains(&b);
    out.extend(text.bytes().take(255).map(|b| if valid(b) { b } else { b'?' }));
}

/// Appends running text, folded and ended by CRLF. `column` is the current column. White space and
/// control characters become one space; further lines begin with `indent`.
pub(super) fn push_folded(
    text: &str,
    charset: Charset,
    column: usize,
    indent: &str,
    out: &mut Vec<u8>,
) {
    let mut fold = Fold { column, is_start: true, left: WORDS_BYTES_MAX };
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    for word in words.filter(|word| !word.is_empty()) {
        for piece in pieces(word) {
            if piece.len() > fold.left {
                fold.push("...", charset, indent, out);
                return push_text("\r\n", out);
            }
            fold.left = fold.left.saturating_sub(piece.len() + 1);
            fold.push(piece, charset, indent, out);
        }
    }
    push_text("\r\n", out);
}

struct Fold {
    column: usize,
    is_start: bool,
    left: usize,
}

impl Fold {
    fn push(&mut self, piece: &str, charset: Charset, indent: &str, out: &mut Vec<u8>) {
        if self.is_start {
            self.is_start = false;
        } else if self.column + 1 + piece.len() > WIDTH {
            push_text("\r\n", out);
            push_text(indent, out);
            self.column = indent.len();
        } else {
            out.push(b' ');
            self.column += 1;
        }
        piece.chars().for_each(|c| push_char(charset.shown(c), out));
        self.column += piece.len();
    }
}

/// The pieces of a word that fit in a line.
fn pieces(word: &str) -> impl Iterator<Item = &str> {
    let mut rest = word;
    std::iter::from_fn(move || {
        let end = rest.floor_char_boundary(WORD_BYTES_MAX);
        let (piece, behind) = rest.split_at(end);
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

fn push_char(c: char, out: &mut Vec<u8>) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(text: &str, charset: Charset) -> String {
        let mut out = b"A: ".to_vec();
        push_folded(text, charset, 3, "  ", &mut out);
        String::from_utf8(out).expect("masked text is UTF-8")
    }

    #[test]
    fn running_text_is_folded() {
        let rows = [
            ("", "A: \r\n"),
            ("one", "A: one\r\n"),
            (" a\r\n\tb\0\x1b c ", "A: a b c\r\n"),
            ("\u{e4} \u{2028}b", "A: ? b\r\n"),
        ];
        for (text, line) in rows {
            assert_eq!(folded(text, Charset::Ascii), line, "{text:?}");
        }
        assert_eq!(folded("\u{e4}", Charset::Utf8), "A: \u{e4}\r\n");
        let many = folded(&"word ".repeat(50), Charset::Ascii);
        assert!(many.split_terminator("\r\n").skip(1).all(|line| line.starts_with("  word")));
        assert!(many.lines().all(|line| line.len() <= WIDTH));
        for endless in ["x".repeat(5000), "\u{4e00}".repeat(3000), "x ".repeat(5000)] {
            let lines = folded(&endless, Charset::Utf8);
            assert!(lines.lines().all(|line| line.len() <= 998) && lines.ends_with("...\r\n"));
            assert!(lines.len() < 2 * WORDS_BYTES_MAX);
        }
    }

    #[test]
    fn names_stay_on_their_line() {
        let mut out = Vec::new();
        push_field("To", "a\r\nBcc: x\u{85}\u{2028}\u{fc}", Charset::Utf8, &mut out);
        push_typed("To", "a\n", "\"a  b\"\u{fc}", Charset::Ascii, &mut out);
        push_token("a b\n(\u{fc}", &mut out);
        let expected = "To: a??Bcc: x??\u{fc}\r\nTo: a?; \"a  b\"?\r\na?b?(??";
        assert_eq!(String::from_utf8_lossy(&out), expected.replace("?(??", "????"));
    }
}
