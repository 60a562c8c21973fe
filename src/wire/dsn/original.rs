//! The message that a report is about, as slices that need not end at line ends.

use crate::wire::mail::HeaderScan;
use crate::wire::smtp::transaction::Ret;

/// Octets of a header block that are returned.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// RFC 5322 s2.1.1, without CRLF.
pub(super) const LINE_BYTES_MAX: usize = 998;

/// The original message, and the limits on returning it.
#[derive(Clone, Copy, Debug)]
pub struct Original<'a> {
    /// Header block and body, in order; at least the whole header block.
    pub slices: &'a [&'a [u8]],
    /// RET, if the sender gave one.
    pub ret: Option<Ret>,
    /// A longer message is returned as its header block only; 0 for never the whole message.
    pub full_bytes_max: usize,
    /// Received with SMTPUTF8, so that the header block may contain UTF-8.
    pub smtputf8: bool,
}

impl Original<'_> {
    /// Whether the message may be returned as a whole: requested, short enough, and with valid
    /// lines. A BINARYMIME message may have invalid ones.
    pub(super) fn is_returnable(&self) -> bool {
        let bytes: usize = self.slices.iter().map(|slice| slice.len()).sum();
        self.ret != Some(Ret::Headers)
            && bytes <= self.full_bytes_max
            && has_valid_lines(self.slices)
    }

    pub(super) fn is_ascii(&self) -> bool {
        self.slices.iter().all(|slice| slice.is_ascii())
    }

    /// The header block with valid lines and without its blank line, and the Message-ID if it is
    /// valid.
    pub(super) fn read_header(&self) -> (Vec<u8>, Option<String>) {
        let scan = scan(self.slices.iter().copied());
        let proper = |id: &&str| id.len() > 2 && id.starts_with('<') && id.ends_with('>');
        let message_id = scan.message_id().filter(proper).map(str::to_owned);
        let mut block = Vec::new();
        let mut column = 0;
        let mut left = HEADER_BYTES_MAX;
        for slice in cut(self.slices, scan.header_bytes()) {
            let taken = slice.len().min(left);
            left -= taken;
            for &byte in slice.iter().take(taken) {
                column = push_byte(byte, column, &mut block);
            }
        }
        if column > 0 {
            end_block(left, &mut block);
        }
        (block, message_id)
    }

    /// Appends the whole message unchanged.
    pub(super) fn write_whole(&self, out: &mut Vec<u8>) {
        self.slices.iter().for_each(|slice| out.extend_from_slice(slice));
        if !out.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn scan<'a>(slices: impl IntoIterator<Item = &'a [u8]>) -> HeaderScan {
    let mut scan = HeaderScan::default();
    for slice in slices {
        scan.feed(slice);
        if scan.ended() {
            break;
        }
    }
    scan
}

/// The first `bytes` of the slices.
fn cut<'s>(slices: &'s [&'s [u8]], bytes: u64) -> impl Iterator<Item = &'s [u8]> {
    let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
    slices.iter().map_while(move |slice| {
        let taken = slice.len().min(left);
        left -= taken;
        (taken > 0 || slice.is_empty()).then(|| &slice[..taken])
    })
}

/// Appends one byte of a header block and returns the length of the line. Each line end becomes
/// CRLF, the blank line is dropped, and an overlong line is folded.
fn push_byte(byte: u8, column: usize, block: &mut Vec<u8>) -> usize {
    match byte {
        b'\r' => column,
        b'\n' if column == 0 => 0,
        b'\n' => {
            block.extend_from_slice(b"\r\n");
            0
        }
        _ => {
            let column = if column == LINE_BYTES_MAX {
                block.extend_from_slice(b"\r\n ");
                1
            } else {
                column
            };
            block.push(if byte == 0 { b'?' } else { byte });
            column + 1
        }
    }
}

/// Drops the incomplete last line of a truncated block, unless it is the only line.
fn end_block(left: usize, block: &mut Vec<u8>) {
    match memchr::memrchr(b'\n', block) {
        Some(end) if left == 0 => block.truncate(end + 1),
        _ => block.extend_from_slice(b"\r\n"),
    }
}

/// Whether only CRLF ends lines, no line is overlong, and no octet is NUL.
fn has_valid_lines(slices: &[&[u8]]) -> bool {
    let (mut column, mut after_cr) = (0, false);
    for &byte in slices.iter().copied().flatten() {
        match (after_cr, byte) {
            (true, b'\n') => (column, after_cr) = (0, false),
            (false, b'\r') => after_cr = true,
            (true, _) | (false, b'\n' | 0) => return false,
            _ => column += 1,
        }
        if column > LINE_BYTES_MAX {
            return false;
        }
    }
    !after_cr
}

#[cfg(test)]
mod tests {
    use super::*;

    fn original<'a>(slices: &'a [&'a [u8]]) -> Original<'a> {
        Original { slices, ret: None, full_bytes_max: 1000, smtputf8: false }
    }

    #[test]
    fn the_header_is_cut_wherever_the_slices_end() {
        let whole = b"Subject: a\r\n b\r\nTo: c\r\n\r\nbody\r\n\r\nend\r\n";
        for first in 0..whole.len() {
            for second in first..whole.len() {
                let slices = [&whole[..first], &whole[first..second], &whole[second..]];
                let (block, _) = original(&slices).read_header();
                assert_eq!(block, whole[..23], "{first} {second}");
            }
        }
    }

    #[test]
    fn header_blocks_become_valid() {
        let long = [&b"A: "[..], &[b'x'; 1500], b"\r\n\r\n"].concat();
        let endless = b"A: 1234\r\n".repeat(20_000);
        let rows: [(&str, &[u8], usize, &[u8]); 7] = [
            ("nothing", b"", 0, b""),
            ("no blank line", b"A: b\r\n", 6, b"A: b\r\n"),
            ("no line end", b"A: b", 6, b"A: b\r\n"),
            ("bare LF", b"A: b\nC: d\n\nx", 12, b"A: b\r\nC: d\r\n"),
            ("NUL and CR", b"A: b\0\rc\r\n\r\nx", 8, b"A: b?c\r\n"),
            ("a long line", &long, 1508, b"A: xxxx"),
            ("too much of it", &endless, 65_529, b"A: 1234\r\n"),
        ];
        for (name, text, bytes, start) in rows {
            let (block, _) = original(&[text]).read_header();
            assert_eq!(block.len(), bytes, "{name}");
            assert!(block.starts_with(start), "{name}");
            assert!(has_valid_lines(&[&block]), "{name}");
        }
    }

    #[test]
    fn only_valid_and_short_messages_are_returned_whole() {
        let rows: [(&str, &[u8], bool); 7] = [
            ("plain", b"A: b\r\n\r\nc\r\n", true),
            ("bare LF", b"A: b\r\n\r\nc\n", false),
            ("bare CR", b"A: b\r\n\r\nc\rd\r\n", false),
            ("CR at the end", b"A: b\r\n\r\nc\r", false),
            ("NUL", b"A: b\r\n\r\n\0\r\n", false),
            ("a long line", &[b'x'; 999], false),
            ("too long", &b"x\r\n".repeat(334), false),
        ];
        for (name, text, whole) in rows {
            let (head, tail) = text.split_at(text.len() / 2);
            assert_eq!(original(&[head, tail]).is_returnable(), whole, "{name}");
        }
        let slices: [&[u8]; 1] = [b"A: b\r\n"];
        let headers = Original { ret: Some(Ret::Headers), ..original(&slices) };
        assert!(!headers.is_returnable());
    }

    #[test]
    fn the_message_id_is_valid_or_absent() {
        let rows: [(&[u8], Option<&str>); 4] = [
            (b"Message-ID: <a@b>\r\n\r\n", Some("<a@b>")),
            (b"Message-ID: a@b\r\n\r\n", None),
            (b"Message-ID: <>\r\n\r\n", None),
            (b"A: b\r\n\r\nMessage-ID: <a@b>\r\n", None),
        ];
        for (text, id) in rows {
            assert_eq!(original(&[text]).read_header().1.as_deref(), id);
        }
    }
}
