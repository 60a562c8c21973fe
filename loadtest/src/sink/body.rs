//! Reads a message as it arrives: the id in its header, the checksum of its body, and of a delivery
//! status notification the message and the recipients that it reports.
//!
//! Cost:     one search for the end of the header and one for the id, vectorised by `memchr`; a CRC-32
//!           of bodies whose id has a checksum. Nothing is copied unless a header comes in several parts.
//! Bounds:   `HEADER_BYTES_MAX` of a header and `REPORT_BYTES_MAX` of a report are kept; the rest is
//!           not read. In a longer header an id counts, but the body is not checked. A message
//!           without an id and a report that is longer count as nameless.

use std::time::Duration;

use memchr::memmem;
use memchr::memmem::Finder;

use crate::ledger;
use crate::ledger::Arrival;
use crate::ledger::Id;
use crate::ledger::Ledger;
use crate::ledger::RunIndex;
use crate::ledger::hash_of;
use crate::ledger::sum::BodySum;
use crate::sink::dot::Line;
use crate::sink::notice;

const HEADER_END: &[u8] = b"\r\n\r\n";
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Room for about 50,000 recipients.
const REPORT_BYTES_MAX: usize = 8 << 20;

/// The id of a message in the ledger's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub run: Option<RunIndex>,
    pub number: u64,
    pub begun_us: Option<u64>,
}

impl Known {
    /// Its age at this UNIX time.
    pub fn age(&self, now_us: u64) -> Option<Duration> {
        self.begun_us.map(|begun_us| Duration::from_micros(now_us.saturating_sub(begun_us)))
    }

    fn new(id: &Id<'_>, ledger: &mut Ledger) -> Known {
        Known { run: ledger.run(id.run), number: id.number, begun_us: id.begun_us }
    }
}

/// What the ledger records of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Message(Known, Arrival),
    /// A notification about this message, with the recipients that failed.
    Report(Known, Vec<u64>),
    Nameless,
}

/// Whether the body has stuffed dots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Data,
    Chunks,
}

/// Reads a message piece by piece.
#[derive(Debug)]
pub struct Scan {
    finder: Finder<'static>,
    header_end: Finder<'static>,
    /// A partial header, or a report.
    held: Vec<u8>,
    form: Form,
    part: Part,
    known: Option<Known>,
}

/// The part of the message that comes next.
#[derive(Debug)]
enum Part {
    Header,
    /// A body with a checksum in the id.
    Summed(Summed),
    Report,
    Ignored,
}

#[derive(Debug)]
struct Summed {
    told: u32,
    sum: BodySum,
    line: Line,
}

impl Scan {
    pub fn new() -> Scan {
        Scan {
            finder: Finder::new(ledger::HEADER),
            header_end: Finder::new(HEADER_END),
            held: Vec::new(),
            form: Form::Data,
            part: Part::Header,
            known: None,
        }
    }

    pub fn begin(&mut self, form: Form) {
        self.held.clear();
        self.form = form;
        self.part = Part::Header;
        self.known = None;
    }

    /// Takes a piece, without the final dot of DATA if that is in the same piece.
    pub fn feed(&mut self, piece: &[u8], ledger: &mut Ledger) {
        match &mut self.part {
            Part::Header => self.feed_header(piece, ledger),
            Part::Summed(summed) => summed.add(piece, self.form),
            Part::Report => {
                let room = REPORT_BYTES_MAX - self.held.len();
                self.held.extend_from_slice(&piece[..piece.len().min(room)]);
            }
            Part::Ignored => {}
        }
    }

    fn feed_header(&mut self, piece: &[u8], ledger: &mut Ledger) {
        if self.held.is_empty()
            && let Some(end) = self.header_end.find(piece)
        {
            self.read(&piece[..end], ledger);
            return self.feed(&piece[end + HEADER_END.len()..], ledger);
        }
        // The end of the header may begin in the piece before.
        let before = self.held.len();
        let from = before.saturating_sub(HEADER_END.len() - 1);
        let room = HEADER_BYTES_MAX - before;
        self.held.extend_from_slice(&piece[..piece.len().min(room)]);
        let end = self.header_end.find(&self.held[from..]).map(|end| from + end);
        if end.is_none() && self.held.len() < HEADER_BYTES_MAX {
            return;
        }
        let mut held = std::mem::take(&mut self.held);
        self.read(&held[..end.unwrap_or(held.len())], ledger);
        held.clear();
        self.held = held;
        match end {
            Some(end) => self.feed(&piece[end + HEADER_END.len() - before..], ledger),
            // The begin of the body is unknown.
            None => self.part = Part::Ignored,
        }
    }

    /// Ends the message and returns the result.
    pub fn end(&mut self, ledger: &mut Ledger) -> Subject {
        let held = std::mem::take(&mut self.held);
        if matches!(self.part, Part::Header) {
            // A header without a body.
            self.read(&held, ledger);
        }
        let subject = match (std::mem::replace(&mut self.part, Part::Ignored), self.known) {
            (Part::Summed(summed), Some(known)) => Subject::Message(known, summed.end()),
            (_, Some(known)) => Subject::Message(known, Arrival::Whole),
            (Part::Report, None) => read_report(&held, ledger),
            (_, None) => Subject::Nameless,
        };
        // Do not keep the memory of one long header or report for the life of the connection.
        self.held = if held.capacity() > HEADER_BYTES_MAX { Vec::new() } else { held };
        self.held.clear();
        subject
    }

    fn read(&mut self, header: &[u8], ledger: &mut Ledger) {
        self.part = Part::Ignored;
        let mut from = 0;
        while let Some(found) = self.finder.find(&header[from..]) {
            let at = from + found;
            from = at + ledger::HEADER.len();
            // Elsewhere the name is part of another field.
            if at > 0 && header[at - 1] != b'\n' {
                continue;
            }
            let value = &header[from..];
            let line = memmem::find(value, b"\r\n").map_or(value, |end| &value[..end]);
            if let Some(id) = Id::parse(line) {
                self.known = Some(Known::new(&id, ledger));
                if let Some(told) = id.body_sum {
                    self.part = Part::Summed(Summed::new(told));
                }
                return;
            }
        }
        if memmem::find(header, notice::CONTENT_TYPE).is_some() {
            self.part = Part::Report;
        }
    }
}

fn read_report(body: &[u8], ledger: &mut Ledger) -> Subject {
    match notice::read(body) {
        None => Subject::Nameless,
        Some(notice) => {
            let failed = notice.failed.iter().map(|address| hash_of(address)).collect();
            Subject::Report(Known::new(&notice.id, ledger), failed)
        }
    }
}

impl Summed {
    fn new(told: u32) -> Summed {
        Summed { told, sum: BodySum::default(), line: Line::Start }
    }

    fn end(self) -> Arrival {
        match self.sum.end() ^ self.told {
            0 => Arrival::Whole,
            rest => Arrival::Marked(rest),
        }
    }

    fn add(&mut self, piece: &[u8], form: Form) {
        match form {
            Form::Chunks => self.sum.add(piece),
            Form::Data => self.line = self.line.add(piece, &mut self.sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::dot::DotEnd;

    fn subject(message: &[u8], cut: usize, form: Form) -> Subject {
        let mut ledger = Ledger::default();
        let mut scan = Scan::new();
        scan.begin(form);
        scan.feed(&message[..cut], &mut ledger);
        scan.feed(&message[cut..], &mut ledger);
        scan.end(&mut ledger)
    }

    fn number(subject: &Subject) -> Option<u64> {
        match subject {
            Subject::Message(known, _) => Some(known.number),
            _ => None,
        }
    }

    #[test]
    fn ids_are_found_in_headers_only_wherever_they_are_cut() {
        let own: &[u8] = b"A: b\r\nX-Loadtest-Id: r.1-5-77\r\nS: x\r\n\r\nbody\r\n";
        let rows: [(&[u8], Option<u64>); 6] = [
            (own, Some(5)),
            (b"X-Loadtest-Id: r.1-5-77\r\n\r\n", Some(5)),
            (b"X-Loadtest-Id: r.1-5-77\r\n", Some(5)),
            (b"S: x\r\n\r\nX-Loadtest-Id: r.1-5-77\r\n", None),
            (b"S: X-Loadtest-Id: r.1-5-77\r\n\r\n", None),
            (b"X-Loadtest-Id: nonsense\r\nX-Loadtest-Id: r-5\r\n\r\n", Some(5)),
        ];
        for (message, expected) in rows {
            for cut in 0..=message.len() {
                let found = number(&subject(message, cut, Form::Data));
                assert_eq!(found, expected, "{} at {cut}", String::from_utf8_lossy(message));
            }
        }
        let mut ledger = Ledger::default();
        let mut scan = Scan::new();
        scan.feed(&vec![b'x'; 100_000], &mut ledger);
        scan.feed(b"\r\nX-Loadtest-Id: r-5\r\n\r\n", &mut ledger);
        assert_eq!(scan.end(&mut ledger), Subject::Nameless, "a header has an end");
        let told = ledger::sum::of_message(b"r-5-77", BodySum::of(b"x"));
        let long =
            format!("X-Loadtest-Id: r-5-77-{told:08x}\r\nS: {}\r\n\r\nx", "y".repeat(70_000));
        let found = subject(long.as_bytes(), 66_000, Form::Chunks);
        assert!(matches!(found, Subject::Message(_, Arrival::Whole)), "{found:?}");
    }

    /// As it is sent by DATA, with the dot that ends it.
    fn stuff(body: &str) -> Vec<u8> {
        let dots = body.replace("\r\n.", "\r\n..");
        let dot = if body.starts_with('.') { "." } else { "" };
        let end = if body.is_empty() || body.ends_with("\r\n") { "" } else { "\r\n" };
        format!("{dot}{dots}{end}.\r\n").into()
    }

    #[test]
    fn changed_bodies_are_detected_wherever_the_input_is_cut() {
        let bodies = [
            "",
            "\r\n",
            "x",
            "x\r\n",
            ".\r\n",
            "..\r\n.\r\n\r\n",
            ".x\r\n.\ry\r\n",
            "a\r\r\n.b\r\n",
            "a\n.b\r\n",
            ".\r.\r\n",
            "a.b\r\n...c.\r\n",
        ];
        for body in bodies {
            let told = ledger::sum::of_message(b"r-5-77", BodySum::of(body.as_bytes()));
            let head = format!("X-Loadtest-Id: r-5-77-{told:08x}\r\nS: x\r\n\r\n");
            let sent = [head.as_bytes(), &stuff(body)].concat();
            for (from, to) in (0..=sent.len()).flat_map(|to| (0..=to).map(move |from| (from, to))) {
                let mut ledger = Ledger::default();
                let (mut scan, mut end) = (Scan::new(), DotEnd::new());
                scan.begin(Form::Data);
                for piece in [&sent[..from], &sent[from..to], &sent[to..]] {
                    let upto = end.find(piece).map_or(piece.len(), |end| end.saturating_sub(3));
                    scan.feed(&piece[..upto], &mut ledger);
                }
                let found = scan.end(&mut ledger);
                let whole = matches!(found, Subject::Message(_, Arrival::Whole));
                assert!(whole, "{body:?} at {from}, {to}: {found:?}");
            }
            for (form, change, expected) in [
                (Form::Chunks, "", Arrival::Whole),
                (Form::Chunks, "y", Arrival::Corrupted),
                (Form::Chunks, "\r\ny\r\n", Arrival::Corrupted),
            ] {
                let sent = format!("{head}{body}{change}");
                let Subject::Message(_, arrival) = subject(sent.as_bytes(), 5, form) else {
                    panic!("{sent}")
                };
                assert_eq!(arrival.at(7), expected, "{sent:?}");
            }
            let other = sent.iter().position(|byte| *byte == b'5').expect("its number");
            let swapped = [&sent[..other], b"6", &sent[other + 1..sent.len() - 3]].concat();
            let Subject::Message(_, found) = subject(&swapped, 9, Form::Data) else {
                panic!("{body:?}")
            };
            assert_eq!(found.at(7), Arrival::Corrupted, "it belongs to another: {body:?}");
            let told = told ^ ledger::sum::mark_of(hash_of(b"a@b.test"));
            let head = format!("X-Loadtest-Id: r-5-77-{told:08x}\r\n\r\n");
            let addressed = format!("{head}{body}");
            let Subject::Message(_, found) = subject(addressed.as_bytes(), 9, Form::Chunks) else {
                panic!("{body:?}")
            };
            assert_eq!(found.at(hash_of(b"a@B.test")), Arrival::Whole);
            assert_eq!(found.at(hash_of(b"c@b.test")), Arrival::Corrupted, "it is for another");
        }
    }

    #[test]
    fn a_report_is_known_by_its_type_and_read_to_its_end() {
        let head = "Content-Type: multipart/report; boundary=b\r\n\r\n";
        let body = "Final-Recipient: rfc822; A@b.test\r\nAction: failed\r\n\r\n\
                    X-Loadtest-Id: r-7-99\r\n";
        let report = [head, body].concat();
        for cut in 0..=report.len() {
            let Subject::Report(known, failed) = subject(report.as_bytes(), cut, Form::Data) else {
                panic!("{cut}")
            };
            assert_eq!((known.number, failed), (7, vec![hash_of(b"a@B.test")]));
        }
        for (name, text) in [
            ("of another type", report.replace("report", "mixed")),
            ("without an id", report.replace("r-7-99", "")),
            ("too long", report.replace("X-Load", &format!("{}\r\nX-Load", "y".repeat(9 << 20)))),
        ] {
            assert_eq!(subject(text.as_bytes(), 3, Form::Chunks), Subject::Nameless, "{name}");
        }
    }
}
