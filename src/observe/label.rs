//! The labels of metrics. The values are fixed: dashboards and alerts name them.

use crate::observe::metric::labels;

labels! {
    /// Why a connection was closed before its session began.
    pub enum ConnectionRefusal: "reason" {
        Connections = "connections", PerAddress = "per_address", PerNetwork = "per_network",
        Rate = "rate", Proxy = "proxy",
    }

    /// What a session waited for.
    pub enum SessionState: "state" {
        Proxy = "proxy", Handshake = "handshake", Command = "command", Body = "body", Rate = "rate",
        Write = "write",
    }

    /// How far the identity of a remote server is proven.
    pub enum DeliveryTls: "verdict" {
        Clear = "clear", Unverified = "unverified", Verified = "verified", Dane = "dane",
    }

    /// The outcome of fetching an MTA-STS policy.
    pub enum StsOutcome: "outcome" {
        Fetched = "fetched",
        /// The domain's web server has no valid policy; mail is sent without one.
        Failed = "failed",
        /// The fault is ours; the mail waits.
        Prevented = "prevented",
        /// Too many fetches are waiting; the mail waits too.
        NoRoom = "no_room",
    }

    /// The outcome of TLS with a remote server. Failures have their names of RFC 8460 s4.3; the rarer
    /// ones are grouped.
    pub enum DeliveryTlsResult: "result" {
        Success = "success", StarttlsNotSupported = "starttls-not-supported",
        CertificateHostMismatch = "certificate-host-mismatch",
        CertificateExpired = "certificate-expired",
        CertificateNotTrusted = "certificate-not-trusted", ValidationFailure = "validation-failure",
        /// TLSA records are unavailable or do not match.
        Dane = "dane",
        /// An MTA-STS policy is unavailable.
        StsPolicy = "sts-policy",
    }

    pub enum TlsVersion: "version" {
        Tls12 = "1.2", Tls13 = "1.3",
    }

    pub enum Verb: "verb" {
        Helo = "helo", Ehlo = "ehlo", Lhlo = "lhlo", Mail = "mail", Rcpt = "rcpt", Data = "data",
        Bdat = "bdat", Rset = "rset", Noop = "noop", Vrfy = "vrfy", Expn = "expn", Help = "help",
        Quit = "quit", StartTls = "starttls", Auth = "auth", Xclient = "xclient",
        Unknown = "unknown",
    }

    pub enum ReplyClass: "class" {
        Success = "2xx", Continue = "3xx", Temporary = "4xx", Permanent = "5xx",
    }

    /// Why a command was refused.
    pub enum Refusal: "reason" {
        Syntax = "syntax", Sequence = "sequence",
        /// Unknown, or not offered.
        Unknown = "unknown",
        /// The line is too long or does not end in CRLF.
        Line = "line",
        /// Sent before the greeting, or before a reply that it must wait for.
        Early = "early",
        Parameter = "parameter", Address = "address", Recipient = "recipient", Relay = "relay",
        Recipients = "recipients", Size = "size", TlsRequired = "tls_required",
        /// Too many commands, errors or messages in one session.
        Limit = "limit",
        /// XCLIENT from a peer that is not trusted.
        Trust = "trust",
        /// The disk is full, or too much mail is in progress.
        Spool = "spool",
        Other = "other",
    }

    /// Why a body was refused or aborted.
    pub enum BodyRefusal: "reason" {
        Size = "size", LineEnd = "line_end", LineLength = "line_length", Loop = "loop",
        Memory = "memory", Spool = "spool", Busy = "busy", Commit = "commit", TooSlow = "too_slow",
        Aborted = "aborted", Other = "other",
    }

    /// What is handed to another thread. Work that stays on its shard is not counted.
    pub enum Handoff: "kind" {
        /// A job to the shard that owns its destination.
        Deliver = "deliver",
        /// The outcome of a job, to the shard that stores the message.
        Settle = "settle",
        /// A request to return a job.
        Recall = "recall",
        /// Places of homes at owners, and shares of destinations with several owners.
        Places = "places",
        /// An order to a commit thread: a message, a part of one, or the outcome of a job.
        Commit = "commit",
    }

    /// Why the store rejected a batch.
    pub enum CommitCause: "cause" {
        NoSpace = "no_space", Damage = "damage", Other = "other",
    }

    /// How an attempt ended for one recipient.
    pub enum AttemptOutcome: "outcome" {
        Delivered = "delivered", Deferred = "deferred", Bounced = "bounced", Expired = "expired",
    }

    /// Why an attempt ended so: the categories of `wire::classify`, in their order.
    pub enum AttemptCategory: "category" {
        Delivered = "delivered", BadMailbox = "bad-mailbox", BadDomain = "bad-domain",
        Inactive = "inactive", QuotaFull = "quota-full", TooBig = "too-big", Content = "content",
        Spam = "spam", Policy = "policy", Auth = "auth", RateLimited = "rate-limited",
        Greylisted = "greylisted", Blocklisted = "blocklisted", TlsRequired = "tls-required",
        Protocol = "protocol", Routing = "routing", Connection = "connection", Timeout = "timeout",
        RemoteBusy = "remote-busy", Relaying = "relaying", Expired = "expired", Other = "other",
    }

    pub enum ReloadOutcome: "outcome" {
        Done = "done", Refused = "refused",
    }
}

impl Refusal {
    /// The reason of a reply that refuses a command, by its code and enhanced code; `None` for a reply
    /// that does not refuse.
    pub fn of_reply(line: &[u8]) -> Option<Refusal> {
        if !matches!(line.first(), Some(b'4' | b'5')) {
            return None;
        }
        let (code, rest) = line.split_at_checked(3)?;
        let says = |enhanced: &[u8]| rest.get(1..).is_some_and(|rest| rest.starts_with(enhanced));
        let refusal = match code {
            b"421" => Refusal::Limit,
            b"452" if says(b"4.5.3") => Refusal::Recipients,
            b"452" => Refusal::Spool,
            b"500" | b"521" if says(b"5.5.2") => Refusal::Line,
            b"500" | b"502" | b"521" => Refusal::Unknown,
            b"501" if says(b"5.1.") => Refusal::Address,
            b"501" => Refusal::Syntax,
            b"503" => Refusal::Sequence,
            b"530" => Refusal::TlsRequired,
            b"550" if says(b"5.7.0") => Refusal::Trust,
            b"550" if says(b"5.7.1") => Refusal::Relay,
            b"550" => Refusal::Recipient,
            b"552" => Refusal::Size,
            b"553" => Refusal::Address,
            b"554" if says(b"5.5.0") => Refusal::Early,
            b"555" => Refusal::Parameter,
            _ => Refusal::Other,
        };
        Some(refusal)
    }
}

impl ReplyClass {
    /// The class of a reply code.
    pub fn of(code: u16) -> ReplyClass {
        match code / 100 {
            3 => ReplyClass::Continue,
            4 => ReplyClass::Temporary,
            5 => ReplyClass::Permanent,
            _ => ReplyClass::Success,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart_by_their_replies() {
        let rows = [
            ("250 2.0.0 Ok", None),
            ("354 Go on", None),
            ("", None),
            ("5", None),
            ("421 4.7.0 Too many errors, closing", Some(Refusal::Limit)),
            ("452 4.5.3 Too many recipients", Some(Refusal::Recipients)),
            ("452 4.3.1 Insufficient system storage", Some(Refusal::Spool)),
            ("500 5.5.1 Command not recognised", Some(Refusal::Unknown)),
            ("500 5.5.2 Line too long", Some(Refusal::Line)),
            ("501 5.1.7 Bad sender address", Some(Refusal::Address)),
            ("501 5.5.4 Syntax: MAIL FROM:<address>", Some(Refusal::Syntax)),
            ("503 5.5.1 Send MAIL first", Some(Refusal::Sequence)),
            ("530 5.7.0 Must issue a STARTTLS command first", Some(Refusal::TlsRequired)),
            ("550 5.7.1 Relaying denied", Some(Refusal::Relay)),
            ("550 5.1.1 Recipient refused", Some(Refusal::Recipient)),
            ("552 5.3.4 Message exceeds the size limit", Some(Refusal::Size)),
            ("555 5.5.4 Parameters need EHLO", Some(Refusal::Parameter)),
            ("451 4.3.0 try again", Some(Refusal::Other)),
        ];
        for (line, refusal) in rows {
            assert_eq!(Refusal::of_reply(line.as_bytes()), refusal, "{line}");
        }
    }
}
