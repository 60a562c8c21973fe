//! The decisions about one report: character sets, the part of the original to return, and the
//! fields that can be parsed.

use crate::wire::dsn::field::Charset;
use crate::wire::dsn::report::Kind;
use crate::wire::dsn::report::Report;
use crate::wire::smtp::xtext;

/// Everything that is decided before the report is written.
pub(super) struct Plan<'a> {
    /// The character set of the header and the explanation.
    pub(super) charset: Charset,
    pub(super) status_is_utf8: bool,
    pub(super) orcpts: Vec<Option<Orcpt<'a>>>,
    /// Return the whole message, not only its header block.
    pub(super) whole: bool,
    pub(super) original_is_8bit: bool,
    original_is_utf8: bool,
    pub(super) header: Vec<u8>,
    pub(super) message_id: Option<String>,
}

/// A parsed ORCPT.
pub(super) struct Orcpt<'a> {
    pub(super) kind: &'a str,
    pub(super) address: String,
}

impl<'a> Plan<'a> {
    pub(super) fn new(report: &Report<'a>) -> Plan<'a> {
        let (header, message_id) = report.original.read_header();
        let orcpts: Vec<_> =
            report.recipients.iter().map(|one| one.orcpt.and_then(split_orcpt)).collect();
        let status_is_utf8 = report.recipients.iter().any(|one| !one.mailbox.is_ascii())
            || orcpts.iter().flatten().any(|orcpt| !orcpt.address.is_ascii());
        let is_utf8 = status_is_utf8 || !report.to.is_ascii() || !report.from.is_ascii();
        // RFC 3461 s4.3: RET applies to failures; other reports return the header block only.
        let whole = report.kind == Kind::Failed && report.original.is_returnable();
        let returned_is_ascii = if whole { report.original.is_ascii() } else { header.is_ascii() };
        Plan {
            charset: Charset::of(is_utf8),
            status_is_utf8,
            orcpts,
            whole,
            original_is_8bit: !returned_is_ascii,
            original_is_utf8: report.original.smtputf8 && !header.is_ascii(),
            header,
            message_id,
        }
    }

    pub(super) fn smtputf8(&self) -> bool {
        self.charset == Charset::Utf8 || self.original_is_utf8
    }

    pub(super) fn eight_bit(&self) -> bool {
        self.smtputf8() || self.original_is_8bit
    }

    pub(super) fn status_charset(&self) -> Charset {
        Charset::of(self.status_is_utf8)
    }

    /// RFC 3462 s2, RFC 6533 s5.
    pub(super) fn original_type(&self) -> &'static str {
        match (self.whole, self.original_is_utf8) {
            (true, false) => "message/rfc822",
            (true, true) => "message/global",
            (false, false) => "text/rfc822-headers",
            (false, true) => "message/global-headers",
        }
    }
}

/// `type;xtext` of RFC 3461 s4.2. An invalid ORCPT is left out.
fn split_orcpt(orcpt: &str) -> Option<Orcpt<'_>> {
    let (kind, address) = orcpt.split_once(';')?;
    let is_keyword = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if kind.is_empty() || !kind.bytes().all(is_keyword) {
        return None;
    }
    Some(Orcpt { kind, address: xtext::decode(address.as_bytes())? })
}
