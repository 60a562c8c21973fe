//! The envelope of one mail: the extensions that it needs, and the text of MAIL and RCPT.
//!
//! Promise:  no parameter is sent that the peer does not offer, and no text can end a command line.

use crate::wire::dsn::NOTIFY_WORDS;
use crate::wire::smtp::client_offers::Offers;
use crate::wire::smtp::line::LineFault;
use crate::wire::smtp::reply;
use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::transaction::BodyType;
use crate::wire::smtp::transaction::Ret;

/// A mail to send. All text was validated when it was received.
#[derive(Clone, Copy, Debug)]
pub struct Mail<'a> {
    /// `None` is the null reverse-path.
    pub sender: Option<&'a str>,
    pub recipients: &'a [MailRecipient<'a>],
    /// Bytes of the body before dot-stuffing. With BDAT exactly this many are sent.
    pub bytes: u64,
    pub body: BodyType,
    pub smtputf8: bool,
    pub requiretls: bool,
    pub ret: Option<Ret>,
    /// ENVID, in xtext.
    pub envid: Option<&'a str>,
}

/// One recipient of a mail.
#[derive(Clone, Copy, Debug)]
pub struct MailRecipient<'a> {
    pub mailbox: &'a str,
    /// `dsn::NOTIFY_*` joined by `|` (RFC 3461 s4.1); 0 without NOTIFY.
    pub notify: u8,
    /// ORCPT, unchanged.
    pub orcpt: Option<&'a str>,
}

const NEEDS_CONVERSION: Reply =
    Reply::new(554, (5, 6, 3), "The next server does not accept 8-bit mail");
const NEEDS_BINARY: Reply =
    Reply::new(554, (5, 6, 3), "The next server does not accept binary mail");
const ADDRESS_NEEDS_UTF8: Reply =
    Reply::new(553, (5, 6, 7), "The next server does not accept UTF-8 addresses");
const HEADER_NEEDS_UTF8: Reply =
    Reply::new(550, (5, 6, 9), "The next server does not accept UTF-8 headers");
const TOO_BIG: Reply =
    Reply::new(552, (5, 3, 4), "The message is larger than the next server allows");
const NEEDS_REQUIRETLS: Reply =
    Reply::new(550, (5, 7, 30), "The next server does not support REQUIRETLS");
const BAD_SENDER: Reply = Reply::new(553, (5, 1, 7), "The sender address is not valid in SMTP");
const BAD_RECIPIENT: Reply =
    Reply::new(553, (5, 1, 3), "The recipient address is not valid in SMTP");

/// RFC 3463 s3.7: conversion required but not supported.
pub(super) fn needs_chunking(fault: LineFault) -> Reply {
    let cause = match fault {
        LineFault::BareCr => "bare <CR>",
        LineFault::BareLf => "bare <LF>",
        LineFault::Nul => "NUL byte",
        LineFault::TooLong => "line that is too long",
    };
    let text = format!(
        "The message contains a {cause}, so it can only be sent by BDAT, which the next server does not support"
    );
    Reply::composed(554, (5, 6, 3), text)
}

/// The properties of a connection that decide how a mail is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub offers: Offers,
    pub tls: bool,
    /// BDAT may be used.
    pub chunking: bool,
    /// RSET must be sent first.
    pub rset: bool,
}

/// The reason why the mail cannot be sent to this peer, if there is one.
pub(super) fn obstacle(mail: &Mail<'_>, terms: Terms) -> Option<Reply> {
    match is_clean(mail.sender.unwrap_or_default()) {
        true => lack(mail, terms),
        false => Some(BAD_SENDER),
    }
}

/// Whether another peer may take the mail, or a recipient of it, that this one cannot take.
pub(super) fn wants_another(mail: &Mail<'_>, terms: Terms) -> bool {
    let is_foreign = |one: &MailRecipient<'_>| !terms.offers.smtputf8 && !one.mailbox.is_ascii();
    lack(mail, terms).is_some() || mail.recipients.iter().any(is_foreign)
}

/// What this peer lacks for the mail.
fn lack(mail: &Mail<'_>, terms: Terms) -> Option<Reply> {
    let offers = terms.offers;
    let sender = mail.sender.unwrap_or_default();
    // RFC 8689 s4.2.1: never without REQUIRETLS, which is offered under TLS only.
    if mail.requiretls && !(offers.requiretls && terms.tls) {
        return Some(NEEDS_REQUIRETLS);
    }
    // RFC 6531 s3.1 (8): a message flagged SMTPUTF8 stays flagged, even if all addresses are ASCII.
    if !offers.smtputf8 && !sender.is_ascii() {
        return Some(ADDRESS_NEEDS_UTF8);
    }
    if !offers.smtputf8 && mail.smtputf8 {
        let in_addresses = mail.recipients.iter().any(|one| !one.mailbox.is_ascii());
        return Some(if in_addresses { ADDRESS_NEEDS_UTF8 } else { HEADER_NEEDS_UTF8 });
    }
    // RFC 1870 s6.1: an attempt that exceeds the announced SIZE need not be made.
    if offers.size_max.is_some_and(|size_max| mail.bytes > size_max) {
        return Some(TOO_BIG);
    }
    match mail.body {
        BodyType::EightBitMime if !offers.eight_bit_mime => Some(NEEDS_CONVERSION),
        BodyType::BinaryMime if !(offers.binary_mime && terms.chunking) => Some(NEEDS_BINARY),
        _ => None,
    }
}

pub(super) fn recipient_obstacle(recipient: &MailRecipient<'_>, terms: Terms) -> Option<Reply> {
    if recipient.mailbox.is_empty() || !is_clean(recipient.mailbox) {
        return Some(BAD_RECIPIENT);
    }
    let needs_utf8 = !terms.offers.smtputf8 && !recipient.mailbox.is_ascii();
    needs_utf8.then_some(ADDRESS_NEEDS_UTF8)
}

/// Whether `text` contains nothing that can end a command line.
fn is_clean(text: &str) -> bool {
    !text.bytes().any(|byte| byte.is_ascii_control())
}

/// Whether `text` contains nothing that can end a parameter or a command line.
fn is_value(text: &&str) -> bool {
    is_clean(text) && !text.is_empty() && !text.contains(' ')
}

/// Appends MAIL. Returns whether a DSN parameter was left out.
pub(super) fn push_mail(mail: &Mail<'_>, utf8: bool, terms: Terms, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(b"MAIL FROM:<");
    out.extend_from_slice(mail.sender.unwrap_or_default().as_bytes());
    out.push(b'>');
    if terms.offers.size {
        out.extend_from_slice(b" SIZE=");
        reply::push_decimal(mail.bytes, out);
    }
    if mail.body != BodyType::SevenBit {
        out.extend_from_slice(b" BODY=");
        out.extend_from_slice(mail.body.label().as_bytes());
    }
    if utf8 {
        out.extend_from_slice(b" SMTPUTF8");
    }
    if mail.requiretls {
        out.extend_from_slice(b" REQUIRETLS");
    }
    if terms.offers.dsn {
        if let Some(ret) = mail.ret {
            out.extend_from_slice(b" RET=");
            out.extend_from_slice(ret.label().as_bytes());
        }
        if let Some(envid) = mail.envid.filter(is_value) {
            out.extend_from_slice(b" ENVID=");
            out.extend_from_slice(envid.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
    !terms.offers.dsn && (mail.ret.is_some() || mail.envid.is_some())
}

/// Appends RCPT. Returns whether a DSN parameter was left out.
pub(super) fn push_recipient(
    recipient: &MailRecipient<'_>,
    utf8: bool,
    terms: Terms,
    out: &mut Vec<u8>,
) -> bool {
    out.extend_from_slice(b"RCPT TO:<");
    out.extend_from_slice(recipient.mailbox.as_bytes());
    out.push(b'>');
    if terms.offers.dsn {
        push_notify(recipient.notify, out);
        // RFC 6533 s3: raw UTF-8 only in a mail with SMTPUTF8.
        let orcpt = recipient.orcpt.filter(is_value).filter(|orcpt| utf8 || orcpt.is_ascii());
        if let Some(orcpt) = orcpt {
            out.extend_from_slice(b" ORCPT=");
            out.extend_from_slice(orcpt.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
    !terms.offers.dsn && (recipient.notify != 0 || recipient.orcpt.is_some())
}

fn push_notify(notify: u8, out: &mut Vec<u8>) {
    let mut lead: &[u8] = b" NOTIFY=";
    for (_, word) in NOTIFY_WORDS.into_iter().filter(|(flag, _)| notify & flag != 0) {
        out.extend_from_slice(lead);
        out.extend_from_slice(word.as_bytes());
        lead = b",";
    }
}
