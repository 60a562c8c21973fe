//! The explanation for people: what happened, the server's reply, and what the sender can do.

use crate::wire::classify::Category;
use crate::wire::dsn::field::Charset;
use crate::wire::dsn::field::push_folded;
use crate::wire::dsn::field::push_masked;
use crate::wire::dsn::field::push_text;
use crate::wire::dsn::field::push_token;
use crate::wire::dsn::plan::Plan;
use crate::wire::dsn::report::Kind;
use crate::wire::dsn::report::Report;
use crate::wire::dsn::report::ReportRecipient;
use crate::wire::mail::date;
use crate::wire::mail::header;

pub(super) const fn subject(kind: Kind) -> &'static str {
    match kind {
        Kind::Failed => "Undeliverable: your message could not be delivered",
        Kind::Delayed => "Delayed: your message has not been delivered yet",
        Kind::Delivered => "Delivered: your message has arrived",
        Kind::Relayed => "Relayed: your message has been sent to another mail server",
        Kind::Expanded => "Expanded: your message has been sent to a list",
    }
}

/// Appends the text of the first part.
pub(super) fn write(report: &Report<'_>, plan: &Plan<'_>, out: &mut Vec<u8>) {
    push_text("This is the mail system at ", out);
    push_token(report.reporting_mta, out);
    push_text(".\r\n\r\n", out);
    push_folded(&opening(report.kind, report.recipients.len()), Charset::Ascii, 0, "", out);
    for recipient in report.recipients {
        push_text("\r\n", out);
        write_recipient(report.kind, recipient, plan.charset, out);
    }
    push_text("\r\nYour message:\r\n", out);
    let summary = header::summary(&plan.header);
    // A subject in UTF-8 must not make an otherwise 7-bit report 8-bit.
    let is_shown = |text: &String| text.is_ascii() || plan.charset == Charset::Utf8;
    if let Some(subject) = summary.subject.filter(is_shown) {
        push_text("  Subject:  ", out);
        push_folded(&subject, plan.charset, 12, "            ", out);
    }
    push_text("  Received: ", out);
    date::rfc5322(report.arrival_ms, out);
    push_text("\r\n\r\n", out);
    push_folded(closing(plan.whole), Charset::Ascii, 0, "", out);
}

fn write_recipient(
    kind: Kind,
    recipient: &ReportRecipient<'_>,
    charset: Charset,
    out: &mut Vec<u8>,
) {
    push_text("  <", out);
    push_masked(recipient.mailbox, charset, out);
    push_text(">\r\n", out);
    if let Some(cause) = recipient.cause {
        push_paragraph(cause, out);
    }
    if let Some(reply) = recipient.reply {
        push_text("    ", out);
        match recipient.remote_mta {
            Some(host) => {
                push_text("The mail server ", out);
                push_token(host, out);
                push_text(" said:\r\n", out);
            }
            None => push_text("The mail server said:\r\n", out),
        }
        push_text("      ", out);
        push_folded(reply, Charset::Ascii, 6, "      ", out);
    }
    match kind {
        Kind::Failed => {
            let (meaning, remedy) = explain(recipient.category);
            push_paragraph(meaning, out);
            push_paragraph(remedy, out);
        }
        Kind::Delayed => write_patience(recipient.will_retry_until_ms, out),
        Kind::Delivered | Kind::Relayed | Kind::Expanded => {}
    }
}

fn write_patience(until_ms: Option<u64>, out: &mut Vec<u8>) {
    if let Some(until_ms) = until_ms {
        push_text("    Delivery will be retried until ", out);
        date::rfc5322(until_ms, out);
        push_text(".\r\n", out);
    }
}

fn push_paragraph(text: &str, out: &mut Vec<u8>) {
    push_text("    ", out);
    push_folded(text, Charset::Ascii, 4, "    ", out);
}

fn opening(kind: Kind, recipients: usize) -> String {
    let to =
        if recipients == 1 { "to the following address" } else { "to the following addresses" };
    match kind {
        Kind::Failed => {
            format!("Your message could not be delivered {to}. Delivery will not be retried.")
        }
        Kind::Delayed => format!(
            "Your message has not been delivered {to} yet. You do not need to send it again: \
             delivery will be retried."
        ),
        Kind::Delivered => format!("Your message was delivered {to}."),
        Kind::Relayed => "Your message was sent to the recipient's mail server. That server does \
                          not support delivery confirmations, so you may not receive another one."
            .into(),
        Kind::Expanded => "Your message was sent to the members of the following list. You will \
                           not receive another confirmation."
            .into(),
    }
}

const fn closing(whole: bool) -> &'static str {
    if whole {
        "Details for mail administrators and your message are attached."
    } else {
        "Details for mail administrators and the header of your message are attached."
    }
}

/// The meaning of a failure, and what the sender can do.
const fn explain(category: Category) -> (&'static str, &'static str) {
    match category {
        Category::BadMailbox => (
            "The address does not seem to exist.",
            "Please check the spelling, or ask the recipient for the correct address.",
        ),
        Category::BadDomain => (
            "The domain (the part after the @) does not exist or does not accept mail.",
            "Please check the spelling, or ask the recipient for the correct address.",
        ),
        Category::Inactive => {
            ("The mailbox is no longer in use.", "Please ask the recipient for another address.")
        }
        Category::QuotaFull => (
            "The mailbox is full.",
            "Please ask the recipient to free some space, and send the message again later.",
        ),
        Category::TooBig => (
            "The message is larger than the recipient's server accepts.",
            "Please send it without large attachments, or share them as links.",
        ),
        Category::Content => (
            "The recipient's server did not accept the contents of the message.",
            "Please remove attachments or links that may look dangerous, and send it again.",
        ),
        Category::Spam => (
            "The recipient's server classified the message as spam.",
            "Please change its words and links and send it again, or show this report to your mail \
             administrator.",
        ),
        Category::Auth => (
            "The recipient's server could not verify that the message comes from your domain.",
            "Please show this report to your mail administrator: SPF, DKIM, DMARC or the reverse \
             DNS entry needs attention.",
        ),
        Category::Blocklisted => (
            "The recipient's server does not trust the sending server at present.",
            "Please show this report to your mail administrator.",
        ),
        Category::TlsRequired => (
            "The connection could not be encrypted as required.",
            "Please show this report to your mail administrator.",
        ),
        Category::Policy | Category::Relaying => (
            "The recipient's server does not accept this message because of a local rule.",
            "Please show this report to your mail administrator, or reach the recipient in another \
             way.",
        ),
        Category::RateLimited | Category::Greylisted | Category::RemoteBusy => (
            "The recipient's server did not accept the message in time.",
            "Please send it again later.",
        ),
        Category::Protocol | Category::Routing => (
            "The message could not be transferred because of a mail server problem.",
            "Please show this report to your mail administrator.",
        ),
        Category::Connection | Category::Timeout | Category::Expired => (
            "The recipient's server could not be reached, or did not accept the message in time.",
            "Please check the domain (the part after the @), or send the message again later.",
        ),
        Category::Delivered | Category::Other => (
            "The message was not accepted.",
            "The reply above may give the reason. If not, please show this report to your mail \
             administrator.",
        ),
    }
}
