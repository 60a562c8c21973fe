//! Which changes apply to a header block, by its sender. The trace field is added on top last.
//!
//! ```text
//! edit                                        trusted network   network of   anyone
//!                                             without tenant    a tenant
//! remove X-Ringpost-*                         yes               yes          yes
//! remove forged Authentication-Results        yes               yes          yes
//! drop mailbox (`From `) lines on top         -                 yes          -
//! remove Bcc, Resent-Bcc, Return-Path,        -                 yes          -
//!   Content-Length, control fields of other
//!   mail services
//! add Date, Message-ID, MIME-Version          -                 if missing   -
//! end the block with a blank line             -                 if missing   -
//! Received on top                             yes               yes          yes
//! ```
//! An operator's relay and port 25 relay mail; the network of a tenant submits mail (RFC 6409 s8).

use crate::directory::Identity;
use crate::directory::Origin;
use crate::submit::edit::Edit;
use crate::submit::head::MailboxLine;
use crate::wire::mail::date;
use crate::wire::mail::header::HeaderScan;
use crate::wire::mail::header::MESSAGE_ID_BYTES_MAX;

/// Fields that only this server may set.
const OWN: Edit = Edit::Strip(&["x-ringpost-*"]);

/// Fields that recipients must not see, and those that control other mail services. Content-Length
/// would be wrong in our copy, and mailbox files that trust it would be cut at the wrong place.
const SUBMITTED: Edit = Edit::Strip(&[
    "bcc",
    "resent-bcc",
    "return-path",
    "content-length",
    "x-smtpapi",
    "x-pm-*",
    "x-mailgun-*",
    "x-ses-*",
    "x-mc-*",
    "resend-*",
]);

/// Whether the sender submits mail, rather than relays what others have sent.
pub fn is_submission(identity: &Identity) -> bool {
    match identity.origin() {
        Origin::Credential => true,
        Origin::Network => identity.tenant().is_some(),
        Origin::Anyone | Origin::System => false,
    }
}

/// What becomes of mailbox lines in front of the header block.
pub fn mailbox_line(identity: &Identity) -> MailboxLine {
    if is_submission(identity) { MailboxLine::Drop } else { MailboxLine::Keep }
}

/// The edits for mail of this identity, in their order.
pub fn edits(identity: &Identity, hostname: &str, id: &str, now_ms: u64) -> Vec<Edit> {
    // RFC 8601 s5: nobody else may speak in our name.
    let forged = Edit::StripResultsOf { authserv_id: hostname.to_owned() };
    if !is_submission(identity) {
        return vec![OWN, forged];
    }
    let mut now = Vec::new();
    date::rfc5322(now_ms, &mut now);
    let now = String::from_utf8(now).expect("a date is ASCII");
    vec![
        OWN,
        forged,
        SUBMITTED,
        Edit::AddMissing { name: "MIME-Version", value: "1.0".to_owned() },
        Edit::AddMissing { name: "Message-ID", value: message_id(hostname, id) },
        Edit::AddMissing { name: "Date", value: now },
        Edit::EndBlock,
    ]
}

/// The Message-ID that `edits` adds, if it adds one, cut like those of clients.
pub fn added_message_id(
    identity: &Identity,
    scan: &HeaderScan,
    hostname: &str,
    id: &str,
) -> Option<String> {
    let is_added = is_submission(identity) && !scan.has_message_id();
    is_added.then(|| {
        let mut added = message_id(hostname, id);
        added.truncate(added.floor_char_boundary(MESSAGE_ID_BYTES_MAX));
        added
    })
}

fn message_id(hostname: &str, id: &str) -> String {
    format!("<{id}@{hostname}>")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::CredentialId;
    use crate::base::StreamNumber;
    use crate::directory::Connection;
    use crate::directory::Tenant;
    use crate::directory::identify;
    use crate::submit::edit;

    fn edited(identity: &Identity, block: &str) -> String {
        let mut out = Vec::new();
        edit::apply(block.as_bytes(), &edits(identity, "mx.test", "ID", 0), &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn hidden_fields_leave_submitted_mail_only() {
        const HIDDEN: &str = "Bcc: a\r\nResent-Bcc: b\r\nReturn-Path: <c>\r\nContent-Length: 4\r\n";
        const SHOWN: &str = "From: d\r\nDate: e\r\nMessage-ID: <f>\r\nMIME-Version: 1.0\r\n\r\n";
        let block = format!("{HIDDEN}{SHOWN}");
        for (name, identity, expected) in
            [("relayed", relay(), &*block), ("submitted", tenant(), SHOWN)]
        {
            assert_eq!(edited(&identity, &block), expected, "{name}");
        }
    }

    #[test]
    fn forged_results_leave_all_mail() {
        const OTHER: &str = "Authentication-Results: mx.other.test; spf=pass\r\n";
        let ours = "Authentication-Results: mx.test; spf=pass\r\nX-Ringpost-Key: 1\r\n";
        let block = format!("{ours}{OTHER}From: a\r\n\r\n");
        for (name, identity) in [("relayed", relay()), ("submitted", tenant())] {
            let edited = edited(&identity, &block);
            assert!(!edited.contains(" mx.test;") && edited.contains(OTHER), "{name}: {edited}");
        }
    }

    #[test]
    fn an_added_message_id_is_known() {
        for (name, identity, block, expected) in [
            ("submitted without", tenant(), "From: a\r\n\r\n", Some("<ID@mx.test>")),
            ("submitted with", tenant(), "Message-ID: <b@c>\r\n\r\n", None),
            ("submitted with an empty one", tenant(), "Message-ID:\r\n\r\n", None),
            ("relayed without", relay(), "From: a\r\n\r\n", None),
        ] {
            let mut scan = HeaderScan::default();
            scan.feed(block.as_bytes());
            let added = added_message_id(&identity, &scan, "mx.test", "ID");
            assert_eq!(added.as_deref(), expected, "{name}");
            let is_in = edited(&identity, block).contains("Message-ID: <ID@mx.test>\r\n");
            assert_eq!(is_in, expected.is_some(), "{name}, as it is sent");
        }
        let long = added_message_id(&tenant(), &HeaderScan::default(), &"h".repeat(253), "ID");
        assert_eq!(long.map(|id| id.len()), Some(MESSAGE_ID_BYTES_MAX));
    }

    fn connection() -> Connection {
        Connection {
            peer: "10.1.2.3:9".parse().expect("an address"),
            tls: false,
            listener: "smtp".into(),
        }
    }

    fn relay() -> Identity {
        identify::system(connection(), None)
    }

    fn tenant() -> Identity {
        let acme = Arc::new(Tenant::named("acme"));
        identify::credential(connection(), acme, CredentialId(1), StreamNumber::TRANSACTIONAL)
    }
}
