//! What a report is made of, and whether one is wanted.

use crate::wire::classify::Category;
use crate::wire::dsn::original::Original;

/// The bits of NOTIFY=, as the queue stores them; 0 when nothing was said.
pub const NOTIFY_NEVER: u8 = 1;
pub const NOTIFY_SUCCESS: u8 = 2;
pub const NOTIFY_FAILURE: u8 = 4;
pub const NOTIFY_DELAY: u8 = 8;

/// What happened to the recipients of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Failed,
    /// Not yet delivered; it is tried further.
    Delayed,
    Delivered,
    /// Handed to a server that sends no reports of success.
    Relayed,
    /// Handed to the members of a list.
    Expanded,
}

impl Kind {
    /// The value of the field Action (RFC 3464 s2.3.3).
    pub const fn action(self) -> &'static str {
        match self {
            Kind::Failed => "failed",
            Kind::Delayed => "delayed",
            Kind::Delivered => "delivered",
            Kind::Relayed => "relayed",
            Kind::Expanded => "expanded",
        }
    }
}

/// Whether the sender of a message wants to hear of this, by what NOTIFY= of the recipient said.
/// RFC 3461 s4.1 leaves the default to us: failures and delays.
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

/// One report: recipients of one message to whom the same happened.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    pub kind: Kind,
    /// Our name.
    pub reporting_mta: &'a str,
    /// `MAILER-DAEMON@` us.
    pub from: &'a str,
    /// The sender of the message. Never empty.
    pub to: &'a str,
    /// Unique among our reports: it makes the Message-ID and the boundary.
    pub id: &'a str,
    pub now_ms: u64,
    pub arrival_ms: u64,
    /// ENVID= as it was given, in xtext.
    pub envid: Option<&'a str>,
    /// As the client that brought the message called itself.
    pub received_from: Option<&'a str>,
    pub recipients: &'a [ReportRecipient<'a>],
    pub original: Original<'a>,
}

/// What happened to one recipient.
#[derive(Clone, Copy, Debug)]
pub struct ReportRecipient<'a> {
    pub mailbox: &'a str,
    /// ORCPT= as it was given: `type;xtext`.
    pub orcpt: Option<&'a str>,
    pub status: (u8, u16, u16),
    pub category: Category,
    /// What the remote server said, code and all.
    pub reply: Option<&'a str>,
    /// Our own reason, where the remote server is not the one: `Cause::text`.
    pub cause: Option<&'a str>,
    pub remote_mta: Option<&'a str>,
    pub last_attempt_ms: Option<u64>,
    pub will_retry_until_ms: Option<u64>,
}
