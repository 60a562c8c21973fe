//! The header block of a message, scanned as the body streams through. Nothing is stored but a few
//! values.
//!
//! Promise:  the results do not depend on how the body is split. A line may end in LF alone,
//!           because a binary body need not obey the CRLF rule.
//! Cost:     none after the header block. Within the block one search per line, and memory only for
//!           the Message-ID and the requested values (`pick`).
//! End:      the blank line, or the first line that is no header field. Every reader treats the
//!           rest as the body, so `Received:` lines in it are not counted.

use std::sync::Arc;

use mail_parser::Address;
use mail_parser::MessageParser;

use crate::base::limits::FIELD_NAME_BYTES_MAX;
use crate::wire::mail::address_scan::is_control;
use crate::wire::mail::pick::NAME_BYTES_MAX;
use crate::wire::mail::pick::PickedFields;
use crate::wire::mail::pick::WantedFields;

/// Octets stored of a Message-ID.
pub const MESSAGE_ID_BYTES_MAX: usize = 255;
/// Octets of each text in a summary.
pub const SUMMARY_BYTES_MAX: usize = 255;

/// The state of a scan and its results.
#[derive(Debug)]
pub struct HeaderScan {
    place: Place,
    /// As much of the field's name as the longest requested name has.
    name: [u8; NAME_BYTES_MAX],
    name_len: usize,
    /// The current field is the Message-ID, and the id is not complete.
    in_message_id: bool,
    in_field: bool,
    /// Bytes of earlier calls, and the offset at which the current line began.
    fed: u64,
    line_start: u64,
    fields: u32,
    received: u32,
    has_date: bool,
    has_from: bool,
    has_message_id: bool,
    message_id: String,
    picked: PickedFields,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    LineStart,
    LineStartCr,
    Name,
    /// Space before the colon, which RFC 5322 s4.5 allows in old messages.
    NameSpace,
    Value,
    Ended,
}

impl Default for HeaderScan {
    fn default() -> HeaderScan {
        HeaderScan::wanting(Arc::default())
    }
}

impl HeaderScan {
    /// Also takes the values of these fields.
    pub fn wanting(wanted: Arc<WantedFields>) -> HeaderScan {
        HeaderScan {
            place: Place::LineStart,
            name: [0; NAME_BYTES_MAX],
            name_len: 0,
            in_message_id: false,
            in_field: false,
            fed: 0,
            line_start: 0,
            fields: 0,
            received: 0,
            has_date: false,
            has_from: false,
            has_message_id: false,
            message_id: String::new(),
            picked: PickedFields::new(wanted),
        }
    }

    /// Scans the next bytes of the body.
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

    /// `Received:` fields so far: the number of hops of the message.
    pub fn received_count(&self) -> u32 {
        self.received
    }

    /// All fields so far.
    pub fn fields(&self) -> u32 {
        self.fields
    }

    /// Ends the message. An incomplete line that is not yet a field ends the header block.
    pub fn finish(&mut self) {
        if matches!(self.place, Place::LineStartCr | Place::Name | Place::NameSpace) {
            self.end(self.line_start);
        }
    }

    /// Whether the header block has ended. A message may end within it.
    pub fn ended(&self) -> bool {
        self.place == Place::Ended
    }

    /// Octets of the header block with its blank line; before the end, the octets seen so far.
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

    /// The first Message-ID with its brackets. Characters other than printable ASCII are masked.
    pub fn message_id(&self) -> Option<&str> {
        (!self.message_id.is_empty()).then_some(self.message_id.as_str())
    }

    /// The requested values found so far.
    pub fn picked(&self) -> &PickedFields {
        &self.picked
    }

    fn end(&mut self, block_bytes: u64) {
        self.place = Place::Ended;
        self.fed = block_bytes;
    }

    /// Adds a byte to the field's name; false if the line is no field.
    fn take_name(&mut self, byte: u8) -> bool {
        match byte {
            b':' if self.name_len > 0 => self.start_field(),
            b' ' | b'\t' if self.name_len > 0 => self.place = Place::NameSpace,
            b'!'..=b'~'
                if byte != b':'
                    && self.place == Place::Name
                    && self.name_len < FIELD_NAME_BYTES_MAX =>
            {
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
        self.fields = self.fields.saturating_add(1);
        self.in_message_id = false;
        let name = self.name.get(..self.name_len);
        self.picked.begin(name.unwrap_or(b""));
        match name {
            Some(b"received") => self.received = self.received.saturating_add(1),
            Some(b"date") => self.has_date = true,
            Some(b"from") => self.has_from = true,
            Some(b"message-id") if !self.has_message_id => {
                self.has_message_id = true;
                self.in_message_id = true;
            }
            _ => {}
        }
    }

    /// Scans the rest of a line and returns the number of bytes consumed from `rest`.
    fn take_value(&mut self, rest: &[u8]) -> usize {
        let line_bytes = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let line = rest.get(..line_bytes).unwrap_or(rest);
        if self.in_message_id {
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

    /// Stores the id up to its `>`, or up to the first space if it has no brackets.
    fn capture_message_id(&mut self, line: &[u8]) {
        for &byte in line {
            let bracketed = self.message_id.starts_with('<');
            if byte.is_ascii_whitespace() {
                if bracketed || self.message_id.is_empty() {
                    continue;
                }
                self.in_message_id = false;
                return;
            }
            let shown = if byte.is_ascii_graphic() { char::from(byte) } else { '?' };
            self.message_id.push(shown);
            if (bracketed && byte == b'>') || self.message_id.len() == MESSAGE_ID_BYTES_MAX {
                self.in_message_id = false;
                return;
            }
        }
    }
}

/// Subject, sender and so on for display: decoded, bounded, without control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderSummary {
    pub from: Option<String>,
    pub to: Option<String>,
    pub subject: Option<String>,
    /// RFC 3339, in the time zone of the header.
    pub date: Option<String>,
    pub message_id: Option<String>,
}

/// Parses the header block at the start of a message. For display, not for the data path.
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

/// `Name <address>, ...`, cut to `SUMMARY_BYTES_MAX`.
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

/// The first `SUMMARY_BYTES_MAX` octets, with control characters masked.
fn bounded(text: &str) -> String {
    let head = &text[..text.floor_char_boundary(SUMMARY_BYTES_MAX)];
    head.replace(is_control, "?")
}

#[cfg(test)]
mod tests;
