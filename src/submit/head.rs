//! The header block while it is received: copied once, bounded, and indexed on the fly.
//!
//! Promise:  the block ends at the blank line, or before the first line that is not a header field.
//!           All bytes after its end are body: none is lost or seen twice.
//!           Of submitted mail, mailbox lines in front of the block are dropped: see `MailboxLine`.
//! Bounds:   `HEAD_BYTES_MAX` and `HEAD_FIELDS_MAX`. Beyond them the message is refused with 552.

use std::sync::Arc;

use crate::base::limits::HEAD_BYTES_MAX;
use crate::base::limits::HEAD_FIELDS_MAX;
use crate::submit::refusal::RefusalCode;
use crate::wire::mail::header::HeaderScan;
use crate::wire::mail::pick::WantedFields;

/// What the config says of header blocks. A snapshot, replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct HeadPolicy {
    /// The name of this server in the trace field.
    pub hostname: Box<str>,
    /// `Received` fields of a message. More: the message loops.
    pub received_max: u32,
    pub labels: LabelFields,
}

/// The header fields that are kept with a message, by their places in `wanted`.
#[derive(Clone, Debug, Default)]
pub struct LabelFields {
    pub wanted: Arc<WantedFields>,
    pub campaign: Option<usize>,
    /// Fields that routes ask for.
    pub routed: Vec<usize>,
}

/// What becomes of lines in front of the first field that begin with `From ` or `>From `, as mailbox
/// files (mbox) have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailboxLine {
    /// For relayed mail, which keeps its bytes: nothing is stripped from it or added to its end, so
    /// that the next server sees what our client sent.
    Keep,
    /// For submitted mail. Such a line is no field and would end the block: all fields would become
    /// body text, and Bcc would reach every recipient. Postfix turns the line into a field.
    Drop,
}

/// A header block as the sender wrote it.
#[derive(Debug)]
pub struct RawHead {
    policy: Arc<HeadPolicy>,
    mailbox_line: MailboxLine,
    /// Within a mailbox line that is dropped.
    in_mailbox_line: bool,
    /// Bytes of the mailbox lines that were dropped.
    dropped: usize,
    scan: HeaderScan,
    bytes: Vec<u8>,
    /// Where the block ends in `bytes`; the rest belongs to the body.
    end: usize,
}

/// What came of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// All of them were header, and more is expected.
    More,
    /// The block is over. The bytes from here on are body.
    End { body_from: usize },
}

impl RawHead {
    /// An empty block. `buffer` keeps its memory.
    pub fn new(
        policy: &Arc<HeadPolicy>,
        mailbox_line: MailboxLine,
        mut buffer: Vec<u8>,
    ) -> RawHead {
        buffer.clear();
        let scan = HeaderScan::wanting(Arc::clone(&policy.labels.wanted));
        RawHead {
            policy: Arc::clone(policy),
            mailbox_line,
            in_mailbox_line: false,
            dropped: 0,
            scan,
            bytes: buffer,
            end: 0,
        }
    }

    /// Takes the next bytes of the message. Not to be called behind the end of the block.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Fed, RefusalCode> {
        assert!(!self.scan.ended(), "the block is over");
        let mut from = 0;
        loop {
            from += self.drop_mailbox_line(&bytes[from..])?;
            if self.in_mailbox_line {
                return Ok(Fed::More);
            }
            let rest = &bytes[from..];
            self.scan.feed(rest);
            if !self.begins_with_mailbox_line(rest) {
                return self.take_scanned(rest).map(|fed| match fed {
                    Fed::More => Fed::More,
                    Fed::End { body_from } => Fed::End { body_from: from + body_from },
                });
            }
            self.in_mailbox_line = true;
            self.dropped += self.bytes.len();
            self.bytes.clear();
            self.scan = HeaderScan::wanting(Arc::clone(&self.policy.labels.wanted));
        }
    }

    /// Drops the rest of a mailbox line, and returns how many of the bytes belong to it.
    fn drop_mailbox_line(&mut self, bytes: &[u8]) -> Result<usize, RefusalCode> {
        if !self.in_mailbox_line {
            return Ok(0);
        }
        let line_end = bytes.iter().position(|byte| *byte == b'\n');
        self.in_mailbox_line = line_end.is_none();
        let count = line_end.map_or(bytes.len(), |at| at + 1);
        self.dropped += count;
        if self.dropped > HEAD_BYTES_MAX { Err(RefusalCode::HeadTooLarge) } else { Ok(count) }
    }

    /// Whether the scan ended at a mailbox line that is to be dropped. `fresh` was just scanned. A line
    /// `From : a@x.test` is a field (RFC 5322 s4.5), and the scan has taken it for one.
    fn begins_with_mailbox_line(&self, fresh: &[u8]) -> bool {
        if self.mailbox_line == MailboxLine::Keep
            || !self.scan.ended()
            || self.scan.header_bytes() > 0
        {
            return false;
        }
        let begins_with =
            |start: &[u8]| self.bytes.iter().chain(fresh).take(start.len()).eq(start.iter());
        begins_with(b"From ") || begins_with(b">From ")
    }

    /// Stores the bytes that were just scanned, as far as they belong to the block.
    fn take_scanned(&mut self, bytes: &[u8]) -> Result<Fed, RefusalCode> {
        let before = self.bytes.len();
        let fed = if self.scan.ended() {
            self.end = self.scan.header_bytes() as usize;
            // The line that ended the block may have begun in earlier bytes.
            Fed::End { body_from: self.end.saturating_sub(before) }
        } else {
            self.end = before + bytes.len();
            Fed::More
        };
        if self.end > HEAD_BYTES_MAX || self.scan.fields() > HEAD_FIELDS_MAX {
            return Err(self.excess());
        }
        self.bytes.extend_from_slice(&bytes[..self.end.saturating_sub(before)]);
        Ok(fed)
    }

    /// Why a block that is too large is refused: a looping message is told so.
    fn excess(&self) -> RefusalCode {
        if self.loops() {
            RefusalCode::Loop
        } else if self.end > HEAD_BYTES_MAX {
            RefusalCode::HeadTooLarge
        } else {
            RefusalCode::TooManyFields
        }
    }

    /// Whether the message has passed through too many servers.
    pub fn loops(&self) -> bool {
        self.scan.received_count() > self.policy.received_max
    }

    /// The message has ended within its header block.
    pub fn finish(&mut self) {
        if !self.scan.ended() {
            self.scan.finish();
            self.end = self.scan.header_bytes() as usize;
        }
    }

    /// The block with its blank line, if it has one.
    pub fn block(&self) -> &[u8] {
        &self.bytes[..self.end]
    }

    /// Bytes that were fed before it was clear that they are body.
    pub fn early_body(&self) -> &[u8] {
        &self.bytes[self.end..]
    }

    pub fn scan(&self) -> &HeaderScan {
        &self.scan
    }

    pub fn policy(&self) -> &HeadPolicy {
        &self.policy
    }

    /// The buffer, for another block.
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Arc<HeadPolicy> {
        Arc::new(HeadPolicy { received_max: 50, ..HeadPolicy::default() })
    }

    /// The block and the body, with the message fed in two pieces.
    fn split(message: &[u8], line: MailboxLine, at: usize) -> (Vec<u8>, Vec<u8>) {
        let mut head = RawHead::new(&policy(), line, Vec::new());
        let mut body = None;
        for piece in [&message[..at], &message[at..]] {
            match &mut body {
                Some(body) => Vec::extend_from_slice(body, piece),
                None => match head.feed(piece).expect("it is short") {
                    Fed::More => {}
                    Fed::End { body_from } => {
                        body = Some([head.early_body(), &piece[body_from..]].concat());
                    }
                },
            }
        }
        head.finish();
        let body = body.unwrap_or_else(|| head.early_body().to_vec());
        (head.block().to_vec(), body)
    }

    #[test]
    fn every_byte_is_header_or_body_at_every_split() {
        let rows: &[(&str, &str, &str)] = &[
            ("nothing", "", ""),
            ("a block and a body", "From: a\r\nTo: b\r\n\r\n", "text\r\n"),
            ("a block alone", "From: a\r\n\r\n", ""),
            ("no blank line", "From: a\r\nTo: b\r\n", ""),
            ("no blank line and a body", "From: a\r\n", "no field\r\nTo: b\r\n"),
            ("no header", "", "Hello there\r\n"),
            ("no header, one word", "", "Hello"),
            ("a blank line first", "\r\n", "From: a\r\n"),
            ("LF alone", "From: a\n\n", "text\n"),
            ("CR at the end", "From: a\r\n", "\r"),
            ("a bare CR", "From: a\r\n", "\rTo: b\r\n"),
        ];
        for (name, block, body) in rows {
            let message = [block.as_bytes(), body.as_bytes()].concat();
            for at in 0..=message.len() {
                let found = split(&message, MailboxLine::Drop, at);
                let found = (String::from_utf8(found.0), String::from_utf8(found.1));
                assert_eq!(found, (Ok((*block).into()), Ok((*body).into())), "{name}, at {at}");
            }
        }
    }

    #[test]
    fn mailbox_lines_before_the_block_are_dropped_from_submitted_mail() {
        const FIELDS: &str = "From: a@x.test\r\nBcc: b@x.test\r\n\r\n";
        let rows: &[(&str, &str, &str, &str)] = &[
            ("a line", "From a@x.test Mon Nov 30\r\n", FIELDS, "text\r\n"),
            ("a quoted line", ">From a@x.test\r\n", FIELDS, "text\r\n"),
            ("LF alone", "From a@x.test\n", FIELDS, "text\r\n"),
            ("two lines", "From a\r\n>From b\r\n", FIELDS, "text\r\n"),
            ("an empty line of its kind", "From \r\n", FIELDS, "text\r\n"),
            ("a line alone", "From a@x.test\r\n", "", ""),
            ("a line and no field", "From a\r\n", "", "no field\r\nTo: b\r\n"),
            ("a field with a space", "", "From : a\r\nTo: b\r\n\r\n", "text\r\n"),
            ("behind a field", "", "To: b\r\n", "From a\r\nCc: c\r\n"),
            ("behind a blank line", "", "\r\n", "From a\r\n"),
            ("another word", "", "", "Fromage a\r\n"),
        ];
        for (name, dropped, block, body) in rows {
            let message = [dropped.as_bytes(), block.as_bytes(), body.as_bytes()].concat();
            for at in 0..=message.len() {
                let found = split(&message, MailboxLine::Drop, at);
                let found = (String::from_utf8(found.0), String::from_utf8(found.1));
                assert_eq!(found, (Ok((*block).into()), Ok((*body).into())), "{name}, at {at}");
                let (block, body) = split(&message, MailboxLine::Keep, at);
                assert_eq!([block, body].concat(), message, "{name}, relayed, at {at}");
            }
        }
        let mut head = RawHead::new(&policy(), MailboxLine::Drop, Vec::new());
        let long = "From a\r\n".repeat(HEAD_BYTES_MAX / 8 + 1);
        assert_eq!(head.feed(long.as_bytes()), Err(RefusalCode::HeadTooLarge));
    }

    #[test]
    fn a_block_is_bounded_in_bytes_and_fields() {
        let fits = format!("X: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX - 7));
        assert_eq!(fits.len(), HEAD_BYTES_MAX);
        let fields = "X: y\r\n".repeat(HEAD_FIELDS_MAX as usize);
        let word = "x".repeat(2 * HEAD_BYTES_MAX);
        let end = |body_from| Ok(Fed::End { body_from });
        for (name, message, expected) in [
            ("as many bytes as may be", fits.clone(), end(HEAD_BYTES_MAX)),
            ("a byte more", format!("Y{fits}"), Err(RefusalCode::HeadTooLarge)),
            ("a large body", format!("X: y\r\n\r\n{word}"), end(8)),
            ("a large body without a header", word.clone(), end(0)),
            ("as many fields as may be", format!("{fields}\r\n"), end(fields.len() + 2)),
            ("a field more", format!("{fields}X: y\r\n\r\n"), Err(RefusalCode::TooManyFields)),
        ] {
            let whole =
                RawHead::new(&policy(), MailboxLine::Drop, Vec::new()).feed(message.as_bytes());
            assert_eq!(whole, expected, "{name}");
            let mut head = RawHead::new(&policy(), MailboxLine::Drop, Vec::new());
            let mut pieces = message.as_bytes().chunks(1000).map(|piece| head.feed(piece));
            let last = pieces.find(|fed| *fed != Ok(Fed::More)).expect("it comes to an end");
            assert_eq!(last.is_err(), expected.is_err(), "{name}, in pieces");
        }
    }
}
