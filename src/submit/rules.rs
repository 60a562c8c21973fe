//! Which changes apply to a header block, by its sender. The trace field is added on top last.
//!
//! ```text
//! edit                                        trusted network   network of   anyone
//!                                             without tenant    a tenant
//! remove X-Ringpost-*                         yes               yes          yes
//! remove Bcc, Return-Path, control fields     -                 yes          -
//!   of other mail services
//! add Date, Message-ID, MIME-Version          -                 if missing   -
//! end the block with a blank line             -                 if missing   -
//! Received on top                             yes               yes          yes
//! ```
//! An operator's relay and port 25 relay mail; the network of a tenant submits mail (RFC 6409 s8).

use std::borrow::Cow;

use crate::directory::Identity;
use crate::directory::Origin;
use crate::submit::edit::Edit;
use crate::wire::mail::date;

/// Fields that only this server may set.
const OWN: Edit = Edit::Strip(&["x-ringpost-*"]);

/// For mail that is passed on.
const RELAYED: &[Edit] = &[OWN];

/// Fields that recipients must not see, and those that control other mail services.
const SUBMITTED: Edit = Edit::Strip(&[
    "bcc",
    "return-path",
    "x-smtpapi",
    "x-pm-*",
    "x-mailgun-*",
    "x-ses-*",
    "x-mc-*",
    "resend-*",
]);

/// The edits for mail of this identity, in their order.
pub fn edits(identity: &Identity, hostname: &str, id: &str, now_ms: u64) -> Cow<'static, [Edit]> {
    let submits = match identity.origin() {
        Origin::Credential => true,
        Origin::Network => identity.tenant().is_some(),
        Origin::Anyone | Origin::System => false,
    };
    if !submits {
        return RELAYED.into();
    }
    let mut now = Vec::new();
    date::rfc5322(now_ms, &mut now);
    let now = String::from_utf8(now).expect("a date is ASCII");
    vec![
        OWN,
        SUBMITTED,
        Edit::AddMissing { name: "MIME-Version", value: "1.0".to_owned() },
        Edit::AddMissing { name: "Message-ID", value: format!("<{id}@{hostname}>") },
        Edit::AddMissing { name: "Date", value: now },
        Edit::EndBlock,
    ]
    .into()
}
