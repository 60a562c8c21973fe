//! The header block of a body that streams by: counted and sampled, never stored.
//!
//! Promise:  the answers do not depend on how the body is split. Lines may end in LF alone, for a
//!           BDAT body is not bound to the line law.
//! Cost:     nothing after the blank line; before it, one search per line and no memory but that of
//!           the Message-ID and of the values that are wanted (`pick`).
//! End:      the blank line, or the first line that is no header field: what follows it is body to
//!           every reader, so its `Received:` lines count for nothing.

use std::sync::Arc;

use mail_parser::Address;
use mail_parser::MessageParser;

use crate::wire::mail::pick::NAME_BYTES_MAX;
use crate::wire::mail::pick::PickedFields;
use crate::wire::mail::pick::WantedFields;

/// Octets of a Message-ID that are kept.
pub const MESSAGE_ID_BYTES_MAX: usize = 255;
/// Octets of each text in a summary.
pub const SUMMARY_BYTES_MAX: usize = 255;
/// Octets of a field's name that are looked at: as the longest name looked for.
const NAME_BYTES: usize = NAME_BYTES_MAX;

/// What has been seen of one message's header block.
#[derive(Debug)]
pub struct HeaderScan {
    place: Place,
    name: [u8; NAME_BYTES],
    name_len: usize,
    capture: Capture,
    in_field: bool,
    /// Bytes fed before this call, and where the line began.
    fed: u64,
    line_start: u64,
    received: u32,
    has_date: bool,
    has_from: bool,
    has_message_id: bool,
    message_id: String,
    picked: PickedFields,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    LineStart,
    LineStartCr,
    Name,
    /// RFC 5322 s4.5 lets old messages have space before the colon.
    NameSpace,
    Value,
    Ended,
}

/// Whether the field under way is the Message-ID, and wants more of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Capture {
    #[default]
    No,
    MessageId,
}

impl Default for HeaderScan {
    fn default() -> HeaderScan {
        HeaderScan {
            place: Place::default(),
            name: [0; NAME_BYTES],
            name_len: 0,
            capture: Capture::default(),
            in_field: false,
            fed: 0,
            line_start: 0,
            received: 0,
            has_date: false,
            has_from: false,
            has_message_id: false,
            message_id: String::new(),
            picked: PickedFields::default(),
        }
    }
}

impl HeaderScan {
    pub fn new() -> HeaderScan {
        HeaderScan::default()
    }

    /// Keeps the values of these fields too.
    pub fn wanting(wanted: Arc<WantedFields>) -> HeaderScan {
        HeaderScan { picked: PickedFields::new(wanted), ..HeaderScan::default() }
    }

    /// Takes the next bytes of the body.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.place == Place::Ended {
            return;
        }
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.place {
                Place::LineStart => {
                    self.line_start = self.fed + at as u64;
                    match byte {
                        b'\n' => return self.end(self.line_start + 1),
                        b'\r' => {
                            self.place = Place::LineStartCr;
                            at += 1;
                        }
                        b' ' | b'\t' if self.in_field => self.place = Place::Value,
                        _ => {
                            self.name_len = 0;
                            self.place = Place::Name;
                        }
                    }
                }
                Place::LineStartCr if byte == b'\n' => return self.end(self.line_start + 2),
                Place::LineStartCr => return self.end(self.line_start),
                Place::Name | Place::NameSpace => {
                    if !self.take_name(byte) {
                        return self.end(self.line_start);
                    }
                    at += 1;
                }
                Place::Value => at += self.take_value(&bytes[at..]),
                Place::Ended => return,
            }
        }
        self.fed += bytes.len() as u64;
    }

    /// `Received:` fields so far: how often the message has been passed on.
    pub fn received_count(&self) -> u32 {
        self.received
    }

    /// Whether the block is over. A message may also end within it.
    pub fn ended(&self) -> bool {
        self.place == Place::Ended
    }

    /// Octets of the block with its blank line, or what has been seen of it.
    pub fn header_bytes(&self) -> u64 {
        self.fed
    }

    pub fn has_date(&self) -> bool {
        self.has_date
    }

    pub fn has_from(&self) -> bool {
        self.has_from
    }

    pub fn has_message_id(&self) -> bool {
        self.has_message_id
    }

    /// The first Message-ID, with its brackets; printable ASCII only, the rest masked.
    pub fn message_id(&self) -> Option<&str> {
        (!self.message_id.is_empty()).then_some(self.message_id.as_str())
    }

    /// The values that are wanted, as far as they have come.
    pub fn picked(&self) -> &PickedFields {
        &self.picked
    }

    fn end(&mut self, block_bytes: u64) {
        self.place = Place::Ended;
        self.fed = block_bytes;
    }

    /// Takes a byte of a field's name, or says that the line is not a field.
    fn take_name(&mut self, byte: u8) -> bool {
        match byte {
            b':' if self.name_len > 0 => self.start_field(),
            b' ' | b'\t' if self.name_len > 0 => self.place = Place::NameSpace,
            b'!'..=b'~' if byte != b':' && self.place == Place::Name => {
                if let Some(room) = self.name.get_mut(self.name_len) {
                    *room = byte.to_ascii_lowercase();
                }
                self.name_len += 1;
            }
            _ => return false,
        }
        true
    }

    fn start_field(&mut self) {
        self.place = Place::Value;
        self.in_field = true;
        self.capture = Capture::No;
        let name = self.name.get(..self.name_len);
        self.picked.begin(name.unwrap_or(b""));
        match name {
            Some(b"received") => self.received = self.received.saturating_add(1),
            Some(b"date") => self.has_date = true,
            Some(b"from") => self.has_from = true,
            Some(b"message-id") if !self.has_message_id => {
                self.has_message_id = true;
                self.capture = Capture::MessageId;
            }
            _ => {}
        }
    }

    /// Takes the rest of a line, and says how much of `rest` it was.
    fn take_value(&mut self, rest: &[u8]) -> usize {
        let line_bytes = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let line = rest.get(..line_bytes).unwrap_or(rest);
        if self.capture == Capture::MessageId {
            self.capture_message_id(line);
        }
        if self.picked.is_taking() {
            self.picked.take(line);
        }
        if line.ends_with(b"\n") {
            self.place = Place::LineStart;
        }
        line_bytes
    }

    /// Keeps the id up to its `>`, or up to the first space if it has no brackets.
    fn capture_message_id(&mut self, line: &[u8]) {
        for &byte in line {
            let bracketed = self.message_id.starts_with('<');
            if byte.is_ascii_whitespace() {
                if bracketed || self.message_id.is_empty() {
                    continue;
                }
                self.capture = Capture::No;
                return;
            }
            let shown = if byte.is_ascii_graphic() { char::from(byte) } else { '?' };
            self.message_id.push(shown);
            if (bracketed && byte == b'>') || self.message_id.len() == MESSAGE_ID_BYTES_MAX {
                self.capture = Capture::No;
                return;
            }
        }
    }
}

/// What a person wants to see of a message: decoded, bounded, without control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderSummary {
    pub from: Option<String>,
    pub to: Option<String>,
    pub subject: Option<String>,
    /// By RFC 3339, in the zone that it was written in.
    pub date: Option<String>,
    pub message_id: Option<String>,
}

/// Reads the header block at the start of a message. For operators' eyes, not for the data path.
pub fn summary(head: &[u8]) -> HeaderSummary {
    let Some(message) = MessageParser::default().parse_headers(head) else {
        return HeaderSummary::default();
    };
    HeaderSummary {
        from: message.from().and_then(people),
        to: message.to().and_then(people),
        subject: message.subject().map(bounded),
        date: message.date().filter(|date| date.is_valid()).map(|date| date.to_rfc3339()),
        message_id: message.message_id().map(|id| bounded(&format!("<{id}>"))),
    }
}

/// `Name <address>, ...` as far as it fits.
fn people(addresses: &Address<'_>) -> Option<String> {
    let mut text = String::new();
    for person in addresses.iter() {
        if text.len() > SUMMARY_BYTES_MAX {
            break;
        }
        if !text.is_empty() {
            text.push_str(", ");
        }
        match (person.name(), person.address()) {
            (Some(name), Some(address)) => text.push_str(&format!("{name} <{address}>")),
            (Some(only), None) | (None, Some(only)) => text.push_str(only),
            (None, None) => {}
        }
    }
    (!text.is_empty()).then(|| bounded(&text))
}

/// At most `SUMMARY_BYTES_MAX` octets, with control characters masked.
fn bounded(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if out.len() + c.len_utf8() > SUMMARY_BYTES_MAX {
            break;
        }
        out.push(if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { '?' } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mail::pick::VALUE_BYTES_MAX;

    /// Received fields, block octets, id, and whether date, from and id are there.
    type Findings<'a> = (u32, u64, Option<&'a str>, [bool; 3]);

    fn findings(scan: &HeaderScan) -> Findings<'_> {
        let has = [scan.has_date(), scan.has_from(), scan.has_message_id()];
        (scan.received_count(), scan.header_bytes(), scan.message_id(), has)
    }

    #[test]
    fn a_block_is_read_alike_at_every_split() {
        let cut_id = format!("<{}", "i".repeat(MESSAGE_ID_BYTES_MAX - 1));
        let long_id = format!("Message-ID: <{}@x>\r\n\r\n", "i".repeat(300));
        let long_name = format!("{}: x\r\nDate: y\r\n\r\nbody", "n".repeat(40));
        let rows: &[(&str, &str, Findings<'_>)] = &[
            ("nothing", "", (0, 0, None, [false; 3])),
            ("no header", "\r\nReceived: x\r\n", (0, 2, None, [false; 3])),
            (
                "all of them",
                "Received: a\r\n\tb\r\nRECEIVED: c\r\nDate: d\r\nFrom: e\r\n\
                 Message-Id: <f@g>\r\n\r\nReceived: h\r\n",
                (2, 69, Some("<f@g>"), [true; 3]),
            ),
            (
                "a folded id with a comment",
                "Message-ID:\r\n <a@\r\n b> (c)\r\n\r\n",
                (0, 30, Some("<a@b>"), [false, false, true]),
            ),
            (
                "an id without brackets",
                "Message-ID: a@b c\r\n\r\n",
                (0, 21, Some("a@b"), [false, false, true]),
            ),
            (
                "the first id counts",
                "Message-ID: <1>\r\nMessage-ID: <2>\r\n\r\n",
                (0, 36, Some("<1>"), [false, false, true]),
            ),
            (
                "a hostile id",
                "Message-ID: <\u{1b}[2J\u{e9}>\r\n\r\n",
                (0, 24, Some("<?[2J??>"), [false, false, true]),
            ),
            ("an id too long", &long_id, (0, 320, Some(&cut_id), [false, false, true])),
            ("a long name", &long_name, (0, 56, None, [true, false, false])),
            (
                "a name that starts alike",
                "Receivedx: a\r\nDates: b\r\n\r\n",
                (0, 26, None, [false; 3]),
            ),
            ("space before the colon", "Received : a\r\n\r\n", (1, 16, None, [false; 3])),
            ("a text without header", "Hello\r\nReceived: a\r\n", (0, 0, None, [false; 3])),
            (
                "a text behind fields",
                "Date: a\r\noops\r\nFrom: b\r\n",
                (0, 9, None, [true, false, false]),
            ),
            ("an mbox line", "From x Sat\r\nFrom: a\r\n", (0, 0, None, [false; 3])),
            ("folding before any field", " x\r\nFrom: a\r\n", (0, 0, None, [false; 3])),
            ("LF alone", "Received: a\nDate: b\n\nFrom: c\n", (1, 21, None, [true, false, false])),
            (
                "CR in the middle",
                "From: a\rb\r\n\rDate: c\r\n",
                (0, 11, None, [false, true, false]),
            ),
            ("no blank line", "From: a\r\nDate: b\r\n", (0, 18, None, [true, true, false])),
            ("empty name", ": a\r\nDate: b\r\n", (0, 0, None, [false; 3])),
        ];
        for (name, input, expected) in rows {
            let input = input.as_bytes();
            let mut bytewise = HeaderScan::new();
            input.iter().for_each(|byte| bytewise.feed(&[*byte]));
            assert_eq!(findings(&bytewise), *expected, "{name}, byte by byte");
            for at in 0..=input.len() {
                let mut scan = HeaderScan::new();
                scan.feed(&input[..at]);
                scan.feed(&input[at..]);
                assert_eq!(findings(&scan), *expected, "{name}, split at {at}");
            }
        }
    }

    /// The values of tenant, pool and subject, fed in these pieces.
    fn picked<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> [Option<String>; 3] {
        let wanted = Arc::new(WantedFields::new(["X-Tenant", "x-pool", "Subject"]));
        let mut scan = HeaderScan::wanting(wanted);
        pieces.into_iter().for_each(|piece| scan.feed(piece));
        [0, 1, 2].map(|place| scan.picked().value(place))
    }

    #[test]
    fn wanted_values_are_read_alike_at_every_split() {
        let long = format!("X-Pool: {}\r\nX-Tenant: b\r\n\r\n", "v".repeat(300));
        let cut = "v".repeat(VALUE_BYTES_MAX);
        let long_letter = format!("X-Pool: {}\u{e9}\r\n\r\n", "v".repeat(VALUE_BYTES_MAX - 1));
        let cut_letter = "v".repeat(VALUE_BYTES_MAX - 1);
        let spaces = format!("X-Pool: a{}\r\n\r\n", " ".repeat(300));
        let long_name = format!("{}: x\r\nX-Pool: a\r\n\r\n", "x".repeat(100));
        type Row<'r> = (&'r str, &'r [u8], [Option<&'r str>; 3]);
        let rows: &[Row<'_>] = &[
            ("nothing", b"", [None; 3]),
            (
                "all of them, in any case",
                b"Received: a\r\nx-TENANT: acme\r\nX-POOL:gold\r\nsubject: \t x y \r\n\r\n",
                [Some("acme"), Some("gold"), Some("x y")],
            ),
            (
                "folded",
                b"X-Pool: a\r\n b\r\n\tc \r\nX-Tenant:\r\n  t\r\n\r\n",
                [Some("t"), Some("a b c"), None],
            ),
            ("the first counts", b"X-Pool: a\r\nX-Pool: b\r\n\r\n", [None, Some("a"), None]),
            ("an empty one counts", b"X-Pool:\r\nX-Pool: b\r\n\r\n", [None, Some(""), None]),
            ("only spaces", b"X-Pool: \t \r\n \r\n\r\n", [None, Some(""), None]),
            ("behind the header", b"A: b\r\n\r\nX-Pool: a\r\n", [None; 3]),
            ("behind what is no header", b"A: b\r\noops\r\nX-Pool: a\r\n", [None; 3]),
            ("no end", b"X-Tenant: a\r\nX-Pool: b", [Some("a"), Some("b"), None]),
            ("LF alone", b"X-Pool: a\n b\n\nSubject: x\n", [None, Some("a b"), None]),
            ("a name that starts alike", b"X-Poole: a\r\nX-Poo: b\r\n\r\n", [None; 3]),
            ("space before the colon", b"X-Pool : a\r\n\r\n", [None, Some("a"), None]),
            (
                "UTF-8",
                "X-Pool: \u{e9}\u{20ac}\r\n\r\n".as_bytes(),
                [None, Some("\u{e9}\u{20ac}"), None],
            ),
            ("8 bit", b"X-Pool: a\xe9b\xff\r\n\r\n", [None, Some("a?b?"), None]),
            ("controls", b"X-Pool: a\x1b[2J\0\x7f\r\n\r\n", [None, Some("a?[2J??"), None]),
            ("too long", long.as_bytes(), [Some("b"), Some(&cut), None]),
            ("cut in a letter", long_letter.as_bytes(), [None, Some(&cut_letter), None]),
            ("many spaces", spaces.as_bytes(), [None, Some("a"), None]),
            ("a long name before", long_name.as_bytes(), [None, Some("a"), None]),
        ];
        for (name, input, expected) in rows {
            let expected = expected.map(|value| value.map(str::to_owned));
            assert_eq!(picked(input.chunks(1)), expected, "{name}, byte by byte");
            for at in 0..=input.len() {
                let (head, tail) = input.split_at(at);
                assert_eq!(picked([head, tail]), expected, "{name}, split at {at}");
            }
        }
    }

    #[test]
    fn what_is_wanted_changes_nothing_else() {
        let input = b"Message-ID: <a@b>\r\nReceived: c\r\nDate: d\r\n\r\nx";
        let mut plain = HeaderScan::new();
        plain.feed(input);
        let wanted = Arc::new(WantedFields::new(["message-id", "received"]));
        let mut wanting = HeaderScan::wanting(wanted);
        wanting.feed(input);
        assert_eq!(findings(&plain), findings(&wanting));
        assert_eq!(wanting.picked().value(0).as_deref(), Some("<a@b>"));
        assert_eq!(wanting.picked().value(1).as_deref(), Some("c"));
        assert_eq!(plain.picked().value(0), None);
    }

    #[test]
    fn a_summary_is_decoded_and_bounded() {
        let head = "From: =?utf-8?q?J=C3=BCrgen?= <j@x.test>\r\nTo: a@y.test, B <b@y.test>\r\n\
            Subject: =?utf-8?q?one=0D=0Atwo?=\r\nDate: Sat, 21 Nov 2026 03:10:00 +0100\r\n\
            Message-ID: <1@x.test>\r\n\r\nbody";
        let expected = HeaderSummary {
            from: Some("J\u{fc}rgen <j@x.test>".into()),
            to: Some("a@y.test, B <b@y.test>".into()),
            subject: Some("one??two".into()),
            date: Some("2026-11-21T03:10:00+01:00".into()),
            message_id: Some("<1@x.test>".into()),
        };
        assert_eq!(summary(head.as_bytes()), expected);

        let long =
            format!("Subject: {}\r\nTo: {}\r\n\r\n", "\u{e9}".repeat(900), "a@b,".repeat(900));
        let found = summary(long.as_bytes());
        assert!(found.subject.is_some_and(|s| s.len() <= SUMMARY_BYTES_MAX));
        assert!(found.to.is_some_and(|s| s.len() <= SUMMARY_BYTES_MAX));
        assert_eq!(summary(b""), HeaderSummary::default());
        assert_eq!(summary(b"no header at all"), HeaderSummary::default());
    }
}
