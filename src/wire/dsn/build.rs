//! The message of a report: its header, its three parts, and a boundary that occurs in none of
//! them.

use crate::wire::dsn::explanation;
use crate::wire::dsn::field;
use crate::wire::dsn::field::Charset;
use crate::wire::dsn::field::push_date;
use crate::wire::dsn::field::push_field;
use crate::wire::dsn::field::push_folded;
use crate::wire::dsn::field::push_text;
use crate::wire::dsn::field::push_token;
use crate::wire::dsn::field::push_typed;
use crate::wire::dsn::plan::Orcpt;
use crate::wire::dsn::plan::Plan;
use crate::wire::dsn::report::Kind;
use crate::wire::dsn::report::Report;
use crate::wire::dsn::report::ReportRecipient;
use crate::wire::smtp::reply::push_decimal;
use crate::wire::smtp::reply::push_enhanced;
use crate::wire::smtp::xtext;

/// Occurrences of the boundary in a report: in the header, before each part, at the end.
const BOUNDARIES: usize = 5;
/// Octets of the id in the boundary; RFC 2046 s5.1.1 allows 70 in all.
const BOUNDARY_ID_BYTES_MAX: usize = 50;

/// The extensions that the transport needs to send the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// BODY=8BITMIME.
    pub eight_bit: bool,
    /// SMTPUTF8.
    pub smtputf8: bool,
}

impl Report<'_> {
    /// Appends the message, header and body.
    pub fn write(&self, out: &mut Vec<u8>) -> Built {
        debug_assert!(!self.to.is_empty(), "no report is sent to the null sender");
        let plan = Plan::new(self);
        let start = out.len();
        let mut number = 0;
        loop {
            let boundary = boundary(self.id, number);
            self.write_header(&plan, &boundary, out);
            self.write_parts(&plan, &boundary, out);
            if memchr::memmem::find_iter(&out[start..], &boundary).count() == BOUNDARIES {
                break;
            }
            // An attacker may have put boundaries into the message. One more pass is enough.
            number = free_number(&out[start..], self.id);
            out.truncate(start);
        }
        Built { eight_bit: plan.eight_bit(), smtputf8: plan.smtputf8() }
    }

    fn write_header(&self, plan: &Plan, boundary: &[u8], out: &mut Vec<u8>) {
        push_date("Date", self.now_ms, out);
        push_text("From: Mail Delivery System <", out);
        field::push_masked(self.from, plan.charset, out);
        push_text(">\r\nTo: <", out);
        field::push_masked(self.to, plan.charset, out);
        push_text(">\r\n", out);
        push_field("Subject", explanation::subject(self.kind), Charset::Ascii, out);
        push_text("Message-ID: <", out);
        push_token(self.id, out);
        push_text("@", out);
        push_token(self.reporting_mta, out);
        push_text(">\r\n", out);
        if let Some(id) = &plan.message_id {
            push_field("In-Reply-To", id, Charset::Ascii, out);
            push_field("References", id, Charset::Ascii, out);
        }
        push_text("Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n", out);
        push_text("Content-Type: multipart/report; report-type=", out);
        push_text(
            if plan.status_is_utf8 { "global-delivery-status" } else { "delivery-status" },
            out,
        );
        push_text(";\r\n\tboundary=\"", out);
        out.extend_from_slice(boundary);
        push_text("\"\r\n", out);
        push_encoding(plan.eight_bit(), out);
        push_text("\r\n", out);
    }

    fn write_parts(&self, plan: &Plan, boundary: &[u8], out: &mut Vec<u8>) {
        open_part(boundary, "Notification", out);
        let text = if plan.charset == Charset::Utf8 { "utf-8" } else { "us-ascii" };
        push_field("Content-Type", &format!("text/plain; charset={text}"), Charset::Ascii, out);
        push_encoding(plan.charset == Charset::Utf8, out);
        push_text("\r\n", out);
        explanation::write(self, plan, out);

        open_part(boundary, "Delivery report", out);
        let global = if plan.status_is_utf8 { "global-" } else { "" };
        push_text("Content-Type: message/", out);
        push_text(global, out);
        push_text("delivery-status\r\n", out);
        push_encoding(plan.status_is_utf8, out);
        push_text("\r\n", out);
        self.write_status(plan, out);

        open_part(boundary, if plan.whole { "Message" } else { "Message headers" }, out);
        push_field("Content-Type", plan.original_type(), Charset::Ascii, out);
        push_encoding(plan.original_is_8bit, out);
        push_text("\r\n", out);
        if plan.whole {
            self.original.write_whole(out);
        } else {
            out.extend_from_slice(&plan.header);
        }

        push_text("\r\n--", out);
        out.extend_from_slice(boundary);
        push_text("--\r\n", out);
    }

    /// RFC 3464 s2: the fields of the message, then a block for each recipient.
    fn write_status(&self, plan: &Plan, out: &mut Vec<u8>) {
        let envid = self.envid.and_then(|envid| xtext::decode(envid.as_bytes()));
        if let Some(envid) = envid {
            push_field("Original-Envelope-Id", &envid, Charset::Ascii, out);
        }
        push_typed("Reporting-MTA", "dns", self.reporting_mta, Charset::Ascii, out);
        if let Some(name) = self.received_from {
            push_typed("Received-From-MTA", "dns", name, Charset::Ascii, out);
        }
        push_date("Arrival-Date", self.arrival_ms, out);
        for (recipient, orcpt) in self.recipients.iter().zip(&plan.orcpts) {
            push_text("\r\n", out);
            self.write_recipient(recipient, orcpt.as_ref(), plan.status_charset(), out);
        }
    }

    fn write_recipient(
        &self,
        recipient: &ReportRecipient<'_>,
        orcpt: Option<&Orcpt<'_>>,
        charset: Charset,
        out: &mut Vec<u8>,
    ) {
        if let Some(Orcpt { kind, address }) = orcpt {
            push_typed("Original-Recipient", kind, address, charset, out);
        }
        // RFC 6533 s3.
        let kind = if recipient.mailbox.is_ascii() { "rfc822" } else { "utf-8" };
        push_typed("Final-Recipient", kind, recipient.mailbox, charset, out);
        push_field("Action", self.kind.label(), Charset::Ascii, out);
        push_text("Status: ", out);
        push_enhanced(recipient.status, out);
        push_text("\r\n", out);
        if let Some(host) = recipient.remote_mta {
            push_typed("Remote-MTA", "dns", host, Charset::Ascii, out);
        }
        // RFC 3464 s2.3.6: `smtp` is for the replies of an SMTP server.
        let words = recipient.reply.map(|reply| ("smtp", reply));
        if let Some((kind, words)) = words.or(recipient.cause.map(|cause| ("x-ringpost", cause))) {
            let start = out.len();
            push_text("Diagnostic-Code: ", out);
            push_text(kind, out);
            push_text("; ", out);
            push_folded(words, Charset::Ascii, out.len() - start, "  ", out);
        }
        if let Some(at_ms) = recipient.last_attempt_ms {
            push_date("Last-Attempt-Date", at_ms, out);
        }
        if let (Kind::Delayed, Some(until_ms)) = (self.kind, recipient.will_retry_until_ms) {
            push_date("Will-Retry-Until", until_ms, out);
        }
    }
}

/// RFC 2045 s6: 7bit is the default.
fn push_encoding(is_8bit: bool, out: &mut Vec<u8>) {
    if is_8bit {
        push_text("Content-Transfer-Encoding: 8bit\r\n", out);
    }
}

fn open_part(boundary: &[u8], description: &str, out: &mut Vec<u8>) {
    push_text("\r\n--", out);
    out.extend_from_slice(boundary);
    push_text("\r\n", out);
    push_field("Content-Description", description, Charset::Ascii, out);
}

/// `=_` never occurs in quoted-printable or base64 (RFC 2045 s6.7).
fn boundary(id: &str, number: u64) -> Vec<u8> {
    let mut boundary = b"=_".to_vec();
    push_decimal(number, &mut boundary);
    push_boundary_end(id, &mut boundary);
    boundary
}

fn push_boundary_end(id: &str, out: &mut Vec<u8>) {
    out.push(b'.');
    let plain = id.bytes().filter(u8::is_ascii_alphanumeric);
    out.extend(plain.take(BOUNDARY_ID_BYTES_MAX));
}

/// The lowest number whose boundary does not occur in `text`.
fn free_number(text: &[u8], id: &str) -> u64 {
    let mut end = Vec::new();
    push_boundary_end(id, &mut end);
    let number_before = |at: usize| {
        let digits = text[..at].iter().rev().take_while(|b| b.is_ascii_digit()).count();
        let before = text[..at - digits].ends_with(b"=_");
        let number = std::str::from_utf8(&text[at - digits..at]).ok()?.parse::<u64>().ok()?;
        before.then_some(number)
    };
    let mut taken: Vec<u64> =
        memchr::memmem::find_iter(text, &end).filter_map(number_before).collect();
    taken.sort_unstable();
    taken.dedup();
    (0..).zip(&taken).find(|(free, number)| free != *number).map_or(taken.len() as u64, |(n, _)| n)
}
