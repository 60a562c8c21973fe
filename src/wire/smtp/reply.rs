//! Replies: a code, an enhanced code (RFC 3463) and a text, written as CRLF lines.
//!
//! Promise:  the output is printable ASCII in lines of at most `REPLY_LINE_BYTES_MAX` bytes, all
//!           with the same code, the last one marked as the last, whatever the text contains. A
//!           text that quotes a peer can therefore never forge a second reply.
//! Bounds:   none for the text, which is broken into lines at spaces.

use std::borrow::Cow;

/// Bytes of a reply line with its code and CRLF (RFC 5321 s4.5.3.1.5).
pub const REPLY_LINE_BYTES_MAX: usize = 512;

/// Bytes of text in a line with the longest code, `550-5.999.999 `, and CRLF.
const TEXT_BYTES_MAX: usize = REPLY_LINE_BYTES_MAX - 16;

/// One reply, perhaps of several lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    /// `None` where RFC 2034 forbids it: in greetings, answers to HELO and EHLO, and 3xx.
    pub enhanced: Option<(u8, u16, u16)>,
    /// A `\n` starts a new line.
    pub text: Cow<'static, str>,
}

impl Reply {
    pub const fn new(code: u16, enhanced: (u8, u16, u16), text: &'static str) -> Reply {
        Reply { code, enhanced: Some(enhanced), text: Cow::Borrowed(text) }
    }

    /// A reply without an enhanced code.
    pub const fn plain(code: u16, text: &'static str) -> Reply {
        Reply { code, enhanced: None, text: Cow::Borrowed(text) }
    }

    /// As `new`, with a text composed at run time.
    pub fn composed(code: u16, enhanced: (u8, u16, u16), text: String) -> Reply {
        Reply { code, enhanced: Some(enhanced), text: Cow::Owned(text) }
    }

    /// Whether the reply is a permanent failure, which counts as an error of the session.
    pub fn is_permanent(&self) -> bool {
        self.code >= 500
    }

    /// Whether the session ends after the reply (RFC 5321 s3.8, RFC 7504).
    pub fn ends_session(&self) -> bool {
        self.code == 421 || self.code == 521
    }

    /// Appends the lines of the reply to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut rest = self.text.as_bytes();
        loop {
            let line = out.len();
            let (text, behind) = cut_text(rest);
            push_code(self.code, b'-', out);
            self.push_text(text, out);
            match behind {
                Some(behind) => rest = behind,
                None => return mark_last_line(line, out),
            }
        }
    }

    /// The lines joined by ` / `, for logs.
    pub fn in_one_line(&self) -> String {
        let mut lines = Vec::with_capacity(80);
        self.write(&mut lines);
        String::from_utf8_lossy(&lines).lines().collect::<Vec<_>>().join(" / ")
    }

    fn push_text(&self, text: &[u8], out: &mut Vec<u8>) {
        if let Some(enhanced) = self.enhanced {
            push_enhanced(enhanced, out);
            out.push(b' ');
        }
        push_printable(text, out);
        out.extend_from_slice(b"\r\n");
    }
}

/// The text of one line, and the rest.
fn cut_text(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    let window = &text[..text.len().min(TEXT_BYTES_MAX)];
    if let Some(end) = memchr::memchr(b'\n', window) {
        let line = text[..end].strip_suffix(b"\r").unwrap_or(&text[..end]);
        return (line, Some(&text[end + 1..]));
    }
    if window.len() == text.len() {
        return (text, None);
    }
    match memchr::memrchr(b' ', window) {
        Some(space) if space > 0 => (&text[..space], Some(&text[space + 1..])),
        _ => (window, Some(&text[window.len()..])),
    }
}

/// Starts a line: three digits and `-` (more lines follow) or a space.
pub fn push_code(code: u16, separator: u8, out: &mut Vec<u8>) {
    debug_assert!((200..600).contains(&code), "{code} is no SMTP reply code");
    let digit = |n: u16| b'0' + (n % 10) as u8;
    out.extend_from_slice(&[digit(code / 100), digit(code / 10), digit(code), separator]);
}

/// Replaces the `-` of the line at offset `line` with the space of the last line.
pub fn mark_last_line(line: usize, out: &mut [u8]) {
    out[line + 3] = b' ';
}

/// Appends an enhanced code, such as `5.7.1`.
pub fn push_enhanced((class, subject, detail): (u8, u16, u16), out: &mut Vec<u8>) {
    push_decimal(class.into(), out);
    out.push(b'.');
    push_decimal(subject.into(), out);
    out.push(b'.');
    push_decimal(detail.into(), out);
}

/// Appends `number` without an allocation.
pub fn push_decimal(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut rest = number;
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends `text` with everything but printable ASCII replaced by question marks.
pub fn push_printable(text: &[u8], out: &mut Vec<u8>) {
    out.extend(text.iter().map(|&byte| if matches!(byte, b' '..=b'~') { byte } else { b'?' }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write(&mut out);
        String::from_utf8(out).expect("a reply is ASCII")
    }

    #[test]
    fn replies_are_written() {
        let rows: [(&str, Reply, &str); 7] = [
            ("plain", Reply::plain(354, "Go on"), "354 Go on\r\n"),
            ("enhanced", Reply::new(250, (2, 1, 5), "Ok"), "250 2.1.5 Ok\r\n"),
            ("empty", Reply::plain(250, ""), "250 \r\n"),
            ("two lines", Reply::new(550, (5, 7, 1), "a\nb"), "550-5.7.1 a\r\n550 5.7.1 b\r\n"),
            ("CRLF in text", Reply::plain(550, "a\r\nb"), "550-a\r\n550 b\r\n"),
            ("bare CR in text", Reply::plain(550, "a\rb"), "550 a?b\r\n"),
            ("no ASCII", Reply::plain(550, "\u{e4}\0\u{7f}"), "550 ????\r\n"),
        ];
        for (name, reply, expected) in rows {
            assert_eq!(written(&reply), expected, "{name}");
        }
    }

    #[test]
    fn a_long_text_is_broken_into_short_lines() {
        let unbroken = "x".repeat(2000);
        let words = "word ".repeat(400);
        for text in [unbroken, words] {
            let all = written(&Reply::composed(550, (5, 999, 999), text.clone()));
            let lines: Vec<&str> = all.split_terminator("\r\n").collect();
            let last = lines.len() - 1;
            let mut letters = 0;
            for (number, line) in lines.iter().enumerate() {
                assert!(line.len() + 2 <= REPLY_LINE_BYTES_MAX, "{}", line.len());
                let separator = if number == last { "550 5.999.999 " } else { "550-5.999.999 " };
                let text = line.strip_prefix(separator).expect("each line has the codes");
                letters += text.bytes().filter(|byte| *byte != b' ').count();
            }
            assert_eq!(letters, text.bytes().filter(|byte| *byte != b' ').count());
        }
    }

    #[test]
    fn numbers_are_written() {
        for number in [0, 9, 10, 12_345, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(number, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), number.to_string());
        }
    }
}
