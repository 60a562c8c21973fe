//! The contents of a report, and whether the sender requested it.

use crate::labelled;
use crate::wire::classify::Category;
use crate::wire::dsn::original::Original;

/// The bits of NOTIFY, as the queue stores them; 0 without NOTIFY.
pub const NOTIFY_NEVER: u8 = 1;
pub const NOTIFY_SUCCESS: u8 = 2;
pub const NOTIFY_FAILURE: u8 = 4;
pub const NOTIFY_DELAY: u8 = 8;

/// The words of NOTIFY. NEVER stands alone, the others can be combined (RFC 3461 s4.1).
pub const NOTIFY_WORDS: [(u8, &str); 4] = [
    (NOTIFY_NEVER, "NEVER"),
    (NOTIFY_SUCCESS, "SUCCESS"),
    (NOTIFY_FAILURE, "FAILURE"),
    (NOTIFY_DELAY, "DELAY"),
];

labelled! {
    /// The event that a report is about, labelled as in the Action field (RFC 3464 s2.3.3).
    pub enum Kind {
        Failed = "failed",
        /// Not delivered yet; delivery is retried.
        Delayed = "delayed",
        Delivered = "delivered",
        /// Passed on to a server that sends no success reports.
        Relayed = "relayed",
        /// Passed on to the members of a list.
        Expanded = "expanded",
    }
}

/// Whether the sender requested a report of this kind by the recipient's NOTIFY. Without NOTIFY,
/// RFC 3461 s4.1 leaves the choice to the server: failures and delays.
pub fn wants(notify: u8, kind: Kind) -> bool {
    if notify & NOTIFY_NEVER != 0 {
        return false;
    }
    let asked = if notify == 0 { NOTIFY_FAILURE | NOTIFY_DELAY } else { notify };
    let bit = match kind {
        Kind::Failed => NOTIFY_FAILURE,
        Kind::Delayed => NOTIFY_DELAY,
        Kind::Delivered | Kind::Relayed | Kind::Expanded => NOTIFY_SUCCESS,
    };
    asked & bit != 0
}

/// One report, about recipients of one message with the same event.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    pub kind: Kind,
    /// Our host name.
    pub reporting_mta: &'a str,
    /// `MAILER-DAEMON@` our host name.
    pub from: &'a str,
    /// The sender of the message. Never empty.
    pub to: &'a str,
    /// Unique among our reports; part of the Message-ID and of the boundary.
    pub id: &'a str,
    pub now_ms: u64,
    pub arrival_ms: u64,
    /// ENVID, in xtext.
    pub envid: Option<&'a str>,
    /// The client's argument of HELO or EHLO.
    pub received_from: Option<&'a str>,
    pub recipients: &'a [ReportRecipient<'a>],
    pub original: Original<'a>,
}

/// What happened to one recipient.
#[derive(Clone, Copy, Debug)]
pub struct ReportRecipient<'a> {
    pub mailbox: &'a str,
    /// ORCPT, unchanged: `type;xtext`.
    pub orcpt: Option<&'a str>,
    pub status: (u8, u16, u16),
    pub category: Category,
    /// The reply of the remote server, with its code.
    pub reply: Option<&'a str>,
    /// The local reason (`Cause::text`), if the failure is not a reply of the remote server.
    pub cause: Option<&'a str>,
    pub remote_mta: Option<&'a str>,
    pub last_attempt_ms: Option<u64>,
    pub will_retry_until_ms: Option<u64>,
}
