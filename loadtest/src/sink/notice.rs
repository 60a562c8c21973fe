//! Delivery status notifications (RFC 3464): the id of the message and the recipients that failed.
//!
//! Form:     the fields of `message/delivery-status`, followed by the returned header. Both are read
//!           line by line without MIME parsing: every field starts a line and is not encoded.

use crate::ledger;
use crate::ledger::Id;

/// Identifies a report by its header.
pub const CONTENT_TYPE: &[u8] = b"multipart/report";

/// The content of a report.
#[derive(Debug, PartialEq, Eq)]
pub struct Notice<'r> {
    /// The id of the reported message.
    pub id: Id<'r>,
    /// Recipients that failed; empty in a report of a delay or of a delivery.
    pub failed: Vec<&'r [u8]>,
}

/// Reads the body of a report; dots may be stuffed. `None`: no id is returned with it.
pub fn read(body: &[u8]) -> Option<Notice<'_>> {
    let mut failed = Vec::new();
    let mut group = Group::default();
    for line in body.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            failed.extend(std::mem::take(&mut group).failed());
        } else if let Some(recipient) = value(line, b"Final-Recipient:") {
            group.recipient = Some(address(recipient));
        } else if let Some(action) = value(line, b"Action:") {
            // RFC 3464 s2.3.3: a comment may follow.
            group.has_failed = action.get(..6).is_some_and(|word| is_same(word, b"failed"));
        } else if let Some(id) = value(line, ledger::HEADER).and_then(Id::parse) {
            failed.extend(group.failed());
            return Some(Notice { id, failed });
        }
    }
    None
}

/// The fields of one recipient.
#[derive(Default)]
struct Group<'r> {
    recipient: Option<&'r [u8]>,
    has_failed: bool,
}

impl<'r> Group<'r> {
    fn failed(self) -> Option<&'r [u8]> {
        self.recipient.filter(|_| self.has_failed)
    }
}

fn value<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let (own, value) = line.split_at_checked(name.len())?;
    is_same(own, name).then(|| value.trim_ascii())
}

fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// `rfc822; someone@where.test`; some servers add `<` and `>`.
fn address(value: &[u8]) -> &[u8] {
    let at = memchr::memchr(b';', value).map_or(0, |at| at + 1);
    let address = value[at..].trim_ascii();
    let bare = address.strip_prefix(b"<").and_then(|rest| rest.strip_suffix(b">"));
    bare.unwrap_or(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(report: &str) -> Option<(u64, Vec<String>)> {
        let report = report.replace('\n', "\r\n");
        read(report.as_bytes()).map(|notice| {
            let failed = notice.failed.iter().map(|one| String::from_utf8_lossy(one).into());
            (notice.id.number, failed.collect())
        })
    }

    #[test]
    fn only_failed_recipients_are_read() {
        let head = "--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; x\n\n";
        let one = "Final-Recipient: rfc822; one@c.test\nAction: failed\nStatus: 5.1.1\n";
        let two = "final-recipient: RFC822;<two@c.test>\nACTION: Failed (expired)\n";
        let late = "Final-Recipient: utf-8; late@c.test\nAction: delayed\n";
        let message = "--b\nContent-Type: text/rfc822-headers\n\nReceived: x\n\
                       X-Ringpost-Load: r-7-99\nSubject: x\n\nFinal-Recipient: x; a\nAction: failed\n";
        type Told<'a> = Option<(u64, &'a [&'a str])>;
        let rows: [(&str, String, Told<'_>); 6] = [
            ("one", format!("{head}{one}\n{message}"), Some((7, &["one@c.test"]))),
            (
                "several",
                format!("{head}{one}\n{late}\n{two}\n{message}"),
                Some((7, &["one@c.test", "two@c.test"])),
            ),
            ("a delay", format!("{head}{late}\n{message}"), Some((7, &[]))),
            ("no status", message.to_owned(), Some((7, &[]))),
            ("no id", format!("{head}{one}\n--b--\n"), None),
            ("a foreign id", format!("{head}{one}\nX-Ringpost-Load: nonsense\n"), None),
        ];
        for (name, report, expected) in rows {
            let expected = expected
                .map(|(number, all)| (number, all.iter().map(|one| (*one).to_owned()).collect()));
            assert_eq!(told(&report), expected, "{name}");
        }
    }
}
