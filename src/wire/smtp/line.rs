//! Command lines. Only CRLF ends a line (promise 6).
//!
//! Promise:  a returned line contains no CR, LF or NUL. A violation of the rule is returned as a
//!           fault; no raw bytes are passed on.
//! Bounds:   `COMMAND_BYTES_MAX` with the CRLF. A search never looks further, so feeding a line
//!           byte by byte costs at most the square of that limit.

use thiserror::Error;

use crate::base::limits::COMMAND_BYTES_MAX;

/// The front of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'i> {
    /// A line without its CRLF, and the bytes consumed with it.
    Complete { text: &'i [u8], consumed: usize },
    /// The end of the line has not arrived.
    Partial,
    /// An invalid line. If `input[..consumed]` ends in CRLF, the line is complete. Otherwise pass
    /// the rest to `skip` before the next `cut`, or close the session.
    Fault { fault: LineFault, consumed: usize },
}

/// A violation of the CRLF rule, as text for the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LineFault {
    #[error("Bare <CR> received")]
    BareCr,
    #[error("Bare <LF> received")]
    BareLf,
    #[error("NUL byte received")]
    Nul,
    #[error("Line too long")]
    TooLong,
}

/// What to do with a CR or LF on its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineEnding {
    /// Refuse it.
    #[default]
    Strict,
    /// Take it for CRLF, for old software on trusted listeners. It never helps to end a body, which
    /// takes CRLF.CRLF here too.
    Normalise,
}

/// Cuts one command line from the front of `input`.
pub fn cut(input: &[u8], ending: LineEnding) -> Line<'_> {
    let window = input.get(..COMMAND_BYTES_MAX).unwrap_or(input);
    let Some(at) = memchr::memchr3(b'\r', b'\n', b'\0', window) else {
        return unfinished(input);
    };
    let (text, end) = window.split_at(at);
    let normalise = ending == LineEnding::Normalise;
    match end {
        [b'\r', b'\n', ..] => Line::Complete { text, consumed: at + 2 },
        [b'\r'] => unfinished(input),
        [b'\r' | b'\n', ..] if normalise => Line::Complete { text, consumed: at + 1 },
        [b'\r', ..] => refuse(input, LineFault::BareCr),
        [b'\n', ..] => refuse(input, LineFault::BareLf),
        _ => refuse(input, LineFault::Nul),
    }
}

/// Skips the rest of a line that `cut` refused. Returns the number of bytes of `input` that belong
/// to it, and whether they end in CRLF.
pub fn skip(input: &[u8]) -> (usize, bool) {
    if let Some(at) = memchr::memmem::find(input, b"\r\n") {
        return (at + 2, true);
    }
    // The CR may be the first half of the line end.
    (input.len() - usize::from(input.ends_with(b"\r")), false)
}

fn unfinished(input: &[u8]) -> Line<'_> {
    if input.len() < COMMAND_BYTES_MAX {
        return Line::Partial;
    }
    refuse(input, LineFault::TooLong)
}

#[cold]
fn refuse(input: &[u8], fault: LineFault) -> Line<'_> {
    Line::Fault { fault, consumed: skip(input).0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(text: &[u8], consumed: usize) -> Line<'_> {
        Line::Complete { text, consumed }
    }

    fn fault(fault: LineFault, consumed: usize) -> Line<'static> {
        Line::Fault { fault, consumed }
    }

    #[test]
    fn only_crlf_ends_a_line() {
        let strict: &[(&str, &[u8], Line<'_>)] = &[
            ("empty input", b"", Line::Partial),
            ("no end yet", b"NOOP", Line::Partial),
            ("half an end", b"NOOP\r", Line::Partial),
            ("a line", b"NOOP\r\n", complete(b"NOOP", 6)),
            ("an empty line", b"\r\nQUIT", complete(b"", 2)),
            ("two lines", b"NOOP\r\nQUIT\r\n", complete(b"NOOP", 6)),
            ("bare LF", b"NOOP\nQUIT\r\nNOOP\r\n", fault(LineFault::BareLf, 11)),
            ("bare LF, no more", b"NOOP\n", fault(LineFault::BareLf, 5)),
            ("bare CR", b"NOOP\rQUIT\r\n", fault(LineFault::BareCr, 11)),
            ("CR CR LF", b"NOOP\r\r\n", fault(LineFault::BareCr, 7)),
            ("CR twice", b"NOOP\r\r", fault(LineFault::BareCr, 5)),
            ("LF CR", b"NOOP\n\r", fault(LineFault::BareLf, 5)),
            ("NUL", b"NO\0OP\r\n", fault(LineFault::Nul, 7)),
            ("NUL before a bare LF", b"NO\0OP\n", fault(LineFault::Nul, 6)),
        ];
        for (name, input, expected) in strict {
            assert_eq!(cut(input, LineEnding::Strict), *expected, "{name}");
        }
    }

    #[test]
    fn a_trusted_listener_accepts_bare_line_ends() {
        let normalise: &[(&str, &[u8], Line<'_>)] = &[
            ("a line", b"NOOP\r\nQUIT\r\n", complete(b"NOOP", 6)),
            ("bare LF", b"NOOP\nQUIT\r\n", complete(b"NOOP", 5)),
            ("bare CR", b"NOOP\rQUIT\r\n", complete(b"NOOP", 5)),
            ("CR that may still meet its LF", b"NOOP\r", Line::Partial),
            ("NUL", b"NO\0OP\nQ", fault(LineFault::Nul, 7)),
        ];
        for (name, input, expected) in normalise {
            assert_eq!(cut(input, LineEnding::Normalise), *expected, "{name}");
        }
    }

    #[test]
    fn an_overlong_line_is_refused_at_the_limit() {
        let mut longest = vec![b'x'; COMMAND_BYTES_MAX - 2];
        longest.extend_from_slice(b"\r\n");
        let text = &longest[..COMMAND_BYTES_MAX - 2];
        assert_eq!(cut(&longest, LineEnding::Strict), complete(text, COMMAND_BYTES_MAX));

        let mut longer = vec![b'x'; COMMAND_BYTES_MAX - 1];
        assert_eq!(cut(&longer, LineEnding::Strict), Line::Partial);
        longer.push(b'\r');
        let expected = fault(LineFault::TooLong, COMMAND_BYTES_MAX - 1);
        assert_eq!(cut(&longer, LineEnding::Strict), expected, "its LF would be past the limit");
        longer.extend_from_slice(b"\nNOOP\r\n");
        let expected = fault(LineFault::TooLong, COMMAND_BYTES_MAX + 1);
        assert_eq!(cut(&longer, LineEnding::Strict), expected, "the next line is left");
    }

    #[test]
    fn the_rest_of_a_refused_line_is_skipped_at_any_split() {
        assert_eq!(skip(b"xx"), (2, false));
        assert_eq!(skip(b"xx\r"), (2, false), "the CR is left for its LF");
        assert_eq!(skip(b"\r"), (0, false));
        assert_eq!(skip(b"\r\nNOOP\r\n"), (2, true));
        assert_eq!(skip(b"x\ny\r\nNOOP"), (5, true));
    }
}
