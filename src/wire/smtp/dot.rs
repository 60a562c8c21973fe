//! The decoder of DATA bodies: removes dot-stuffing in place and finds the end (RFC 5321 s4.5.2).
//!
//! Promise:  only CRLF.CRLF ends a body, wherever the input is split (promise 6). A bare CR or LF
//!           is a fault, or becomes CRLF by `decode_normalising`. Neither helps to end a body, so
//!           no later server sees an end inside it. NUL is always a fault (RFC 2045 s2.7 and s2.8).
//! Cost:     no allocation. Bytes move only if a dot before them was removed in the same call; a
//!           body without stuffed dots is checked and not written.
//! Bounds:   the state is a few bytes.

use crate::wire::smtp::line::LineFault;

/// Decodes one body, piece by piece.
#[derive(Clone, Debug)]
pub struct DotDecoder {
    place: Place,
}

impl Default for DotDecoder {
    fn default() -> DotDecoder {
        DotDecoder::new()
    }
}

/// The result of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the body, at the front of the buffer.
    pub kept: usize,
    /// Bytes of the input that belong to the body.
    pub consumed: usize,
    /// Whether the end of the body was found.
    pub end: bool,
}

/// The state after the last byte. `crlf` says whether the line before ended in CRLF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    LineStart { crlf: bool },
    Middle,
    AfterCr,
    AfterDot { crlf: bool },
    AfterDotCr { crlf: bool },
    End,
    Broken(LineFault),
}

impl DotDecoder {
    /// At the start of a body. The CRLF of the DATA command counts as the end of a line before it.
    pub fn new() -> DotDecoder {
        DotDecoder { place: Place::LineStart { crlf: true } }
    }

    /// Checks `fresh` strictly and compacts it: then `fresh[..kept]` is body and
    /// `fresh[consumed..]` follows the end. After a fault the contents are unspecified, and each
    /// further call returns the same fault.
    pub fn decode(&mut self, fresh: &mut [u8]) -> Result<Decoded, LineFault> {
        let mut body = Compaction::default();
        let mut at = 0;
        while let Some(&byte) = fresh.get(at) {
            match self.place {
                Place::Middle => {
                    let Some(ahead) = memchr::memchr3(b'\r', b'\n', b'\0', &fresh[at..]) else {
                        at = fresh.len();
                        break;
                    };
                    at += ahead;
                    match fresh[at..] {
                        // The usual case: a complete line, and the next one starts without a dot.
                        [b'\r', b'\n', next, ..] if next != b'.' => at += 2,
                        [b'\r', ..] => {
                            at += 1;
                            self.place = Place::AfterCr;
                        }
                        [b'\n', ..] => return self.refuse(LineFault::BareLf),
                        _ => return self.refuse(LineFault::Nul),
                    }
                }
                Place::AfterCr => {
                    if byte != b'\n' {
                        return self.refuse(LineFault::BareCr);
                    }
                    at += 1;
                    self.place = Place::LineStart { crlf: true };
                }
                Place::LineStart { crlf } => {
                    if byte == b'.' {
                        body.remove(fresh, at);
                        at += 1;
                        self.place = Place::AfterDot { crlf };
                    } else {
                        self.place = Place::Middle;
                    }
                }
                // A dot before anything but CR was stuffed; it is already removed.
                Place::AfterDot { crlf } => {
                    if byte == b'\r' {
                        body.remove(fresh, at);
                        at += 1;
                        self.place = Place::AfterDotCr { crlf };
                    } else {
                        self.place = Place::Middle;
                    }
                }
                Place::AfterDotCr { .. } => {
                    if byte != b'\n' {
                        return self.refuse(LineFault::BareCr);
                    }
                    body.remove(fresh, at);
                    self.place = Place::End;
                    return Ok(Decoded { kept: body.kept, consumed: at + 1, end: true });
                }
                Place::End => break,
                Place::Broken(fault) => return Err(fault),
            }
        }
        let end = self.place == Place::End;
        body.settle(fresh, at);
        Ok(Decoded { kept: body.kept, consumed: at, end })
    }

    /// As `decode`, but appends the body to `out`, with CRLF for each CR
    /// or LF on its own. `kept` is the number of bytes appended. A dot alone on a line is text
    /// unless CRLF precedes and ends the line, as in Postfix.
    pub fn decode_normalising(
        &mut self,
        fresh: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Decoded, LineFault> {
        let before = out.len();
        let mut at = 0;
        while let Some(&byte) = fresh.get(at) {
            match (self.place, byte) {
                (Place::Middle, _) => at += self.normalise_run(&fresh[at..], out)?,
                (Place::AfterCr, b'\n') => {
                    out.extend_from_slice(b"\r\n");
                    at += 1;
                    self.place = Place::LineStart { crlf: true };
                }
                (Place::AfterCr, _) => {
                    out.extend_from_slice(b"\r\n");
                    self.place = Place::LineStart { crlf: false };
                }
                (Place::LineStart { crlf }, b'.') => {
                    at += 1;
                    self.place = Place::AfterDot { crlf };
                }
                (Place::AfterDot { crlf }, b'\r') => {
                    at += 1;
                    self.place = Place::AfterDotCr { crlf };
                }
                (Place::AfterDot { .. }, b'\n') => {
                    out.extend_from_slice(b".\r\n");
                    at += 1;
                    self.place = Place::LineStart { crlf: false };
                }
                (Place::LineStart { .. } | Place::AfterDot { .. }, _) => self.place = Place::Middle,
                (Place::AfterDotCr { crlf: true }, b'\n') => {
                    at += 1;
                    self.place = Place::End;
                }
                (Place::AfterDotCr { .. }, b'\n') => {
                    out.extend_from_slice(b".\r\n");
                    at += 1;
                    self.place = Place::LineStart { crlf: true };
                }
                (Place::AfterDotCr { .. }, _) => {
                    out.extend_from_slice(b".\r\n");
                    self.place = Place::LineStart { crlf: false };
                }
                (Place::End, _) => break,
                (Place::Broken(fault), _) => return Err(fault),
            }
        }
        Ok(Decoded { kept: out.len() - before, consumed: at, end: self.place == Place::End })
    }

    /// Copies the rest of a line. Returns the bytes of `rest` consumed, with the CR or LF.
    fn normalise_run(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Result<usize, LineFault> {
        let Some(ahead) = memchr::memchr3(b'\r', b'\n', b'\0', rest) else {
            out.extend_from_slice(rest);
            return Ok(rest.len());
        };
        out.extend_from_slice(&rest[..ahead]);
        match rest[ahead] {
            b'\r' => self.place = Place::AfterCr,
            b'\n' => {
                out.extend_from_slice(b"\r\n");
                self.place = Place::LineStart { crlf: false };
            }
            _ => return self.refuse(LineFault::Nul),
        }
        Ok(ahead + 1)
    }

    #[cold]
    fn refuse<T>(&mut self, fault: LineFault) -> Result<T, LineFault> {
        self.place = Place::Broken(fault);
        Err(fault)
    }
}

/// Closes the gaps of removed bytes; moves each run of bytes once.
#[derive(Default)]
struct Compaction {
    /// Bytes of the body that are in place, at the front.
    kept: usize,
    /// Start of the run that has not been moved yet.
    from: usize,
}

impl Compaction {
    /// Removes the byte at `at`.
    fn remove(&mut self, fresh: &mut [u8], at: usize) {
        self.settle(fresh, at);
        self.from = at + 1;
    }

    /// Moves the bytes before `to` into place.
    fn settle(&mut self, fresh: &mut [u8], to: usize) {
        if self.kept != self.from {
            fresh.copy_within(self.from..to, self.kept);
        }
        self.kept += to - self.from;
        self.from = to;
    }
}

#[cfg(test)]
mod tests;
