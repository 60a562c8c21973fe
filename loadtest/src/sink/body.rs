//! What is looked at in a body: where it ends, and the id in its header.
//!
//! Cost:     one search for the end of the header, one for the id in it, and after DATA one for
//!           CRLF.CRLF, all by the vector instructions of `memchr`. Nothing is copied unless a
//!           header comes in several parts.

use memchr::memmem;
use memchr::memmem::Finder;

use crate::ledger;
use crate::ledger::Id;
use crate::ledger::Ledger;
use crate::ledger::RunIndex;

const END: &[u8; 5] = b"\r\n.\r\n";
const HEADER_END: &[u8] = b"\r\n\r\n";
/// An id behind so many bytes of a header is not found, and its message counts as nameless.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// Finds the end of a body of DATA. Only CRLF.CRLF ends one, wherever the input is split.
#[derive(Debug)]
pub struct DotEnd {
    finder: Finder<'static>,
    /// Bytes of `END` that the input so far ends with.
    matched: usize,
}

impl DotEnd {
    pub fn new() -> DotEnd {
        DotEnd { finder: Finder::new(END), matched: 2 }
    }

    /// At the start of a body: the CRLF of DATA counts as that of a line before.
    pub fn begin(&mut self) {
        self.matched = 2;
    }

    /// How many bytes of `input` the body took with its end; none when all of it was body.
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

/// The id of a message, as the ledger keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub run: Option<RunIndex>,
    pub number: u64,
    pub begun_us: Option<u64>,
}

/// Looks for the id in the header of a message, as it comes.
#[derive(Debug)]
pub struct IdScan {
    finder: Finder<'static>,
    header_end: Finder<'static>,
    /// A header that came in part.
    held: Vec<u8>,
    done: bool,
    found: Option<Known>,
}

impl IdScan {
    pub fn new() -> IdScan {
        IdScan {
            finder: Finder::new(ledger::HEADER),
            header_end: Finder::new(HEADER_END),
            held: Vec::new(),
            done: false,
            found: None,
        }
    }

    pub fn begin(&mut self) {
        self.held.clear();
        self.done = false;
        self.found = None;
    }

    pub fn feed(&mut self, piece: &[u8], ledger: &mut Ledger) {
        if self.done {
            return;
        }
        if self.held.is_empty()
            && let Some(end) = self.header_end.find(piece)
        {
            return self.read(&piece[..end], ledger);
        }
        // The end may have begun in what came before.
        let from = self.held.len().saturating_sub(HEADER_END.len() - 1);
        let room = HEADER_BYTES_MAX - self.held.len();
        self.held.extend_from_slice(&piece[..piece.len().min(room)]);
        let end = self.header_end.find(&self.held[from..]).map(|end| from + end);
        if end.is_some() || self.held.len() == HEADER_BYTES_MAX {
            let held = std::mem::take(&mut self.held);
            self.read(&held[..end.unwrap_or(held.len())], ledger);
            self.held = held;
        }
    }

    /// The id, at the end of the message.
    pub fn end(&mut self, ledger: &mut Ledger) -> Option<Known> {
        if !self.done {
            // A header without a body.
            let held = std::mem::take(&mut self.held);
            self.read(&held, ledger);
            self.held = held;
        }
        self.found
    }

    fn read(&mut self, header: &[u8], ledger: &mut Ledger) {
        self.done = true;
        let mut from = 0;
        while let Some(found) = self.finder.find(&header[from..]) {
            let at = from + found;
            from = at + ledger::HEADER.len();
            // Elsewhere it is part of another field.
            if at > 0 && header[at - 1] != b'\n' {
                continue;
            }
            let value = &header[from..];
            let line = memmem::find(value, b"\r\n").map_or(value, |end| &value[..end]);
            if let Some(id) = Id::parse(line) {
                let run = ledger.run(id.run);
                self.found = Some(Known { run, number: id.number, begun_us: id.begun_us });
                return;
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

    #[test]
    fn ids_are_found_in_headers_only_wherever_they_are_cut() {
        let own: &[u8] = b"A: b\r\nX-Ringpost-Load: r.1-5-77\r\nS: x\r\n\r\nbody\r\n";
        let rows: [(&[u8], Option<u64>); 6] = [
            (own, Some(5)),
            (b"X-Ringpost-Load: r.1-5-77\r\n\r\n", Some(5)),
            (b"X-Ringpost-Load: r.1-5-77\r\n", Some(5)),
            (b"S: x\r\n\r\nX-Ringpost-Load: r.1-5-77\r\n", None),
            (b"S: X-Ringpost-Load: r.1-5-77\r\n\r\n", None),
            (b"X-Ringpost-Load: nonsense\r\nX-Ringpost-Load: r-5\r\n\r\n", Some(5)),
        ];
        for (message, expected) in rows {
            for cut in 0..=message.len() {
                let mut ledger = Ledger::default();
                let mut scan = IdScan::new();
                scan.begin();
                scan.feed(&message[..cut], &mut ledger);
                scan.feed(&message[cut..], &mut ledger);
                let found = scan.end(&mut ledger).map(|known| known.number);
                assert_eq!(found, expected, "{} at {cut}", String::from_utf8_lossy(message));
            }
        }
        let mut ledger = Ledger::default();
        let mut scan = IdScan::new();
        scan.feed(&vec![b'x'; 100_000], &mut ledger);
        scan.feed(b"\r\nX-Ringpost-Load: r-5\r\n\r\n", &mut ledger);
        assert_eq!(scan.end(&mut ledger), None, "a header has an end");
    }
}
