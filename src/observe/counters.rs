//! The metrics that Ringpost has, and their labels. One line each; nothing else is counted.
//!
//! Owner:    `ShardMetrics`: the shard. `ProcessMetrics`: `boot` and the control thread, except
//!           for the spool's gauges, which whoever looks at the disk sets.

use crate::observe::metric::Counter;
use crate::observe::metric::Family;
use crate::observe::metric::Gauge;
use crate::observe::metric::labels;
use crate::observe::metric::metrics;

metrics! {
    /// What one shard counts.
    pub struct ShardMetrics {
        each connections_total: Counter, "connections", "Connections accepted.";
        each connections_open: Gauge, "connections", "Connections open now.";
        sum connections_refused_total: Family<ConnectionRefusal>, "connections",
            "Connections closed before their session began.";
        sum accept_pauses_total: Counter, "pauses",
            "Times a listener waited for a free descriptor or memory.";
        sum sessions_timed_out_total: Family<SessionState>, "sessions",
            "Sessions ended because the peer was silent or too slow.";
        sum session_panics_total: Counter, "sessions", "Sessions ended by a bug.";
        sum task_panics_total: Counter, "tasks",
            "Tasks other than sessions, such as deliveries, ended by a bug.";
        sum tls_handshakes_total: Family<TlsVersion>, "handshakes", "TLS handshakes completed.";
        sum tls_failures_total: Counter, "handshakes", "TLS handshakes that failed.";
        sum commands_total: Family<Verb>, "commands", "SMTP commands received.";
        sum replies_total: Family<ReplyClass>, "replies", "SMTP replies sent.";
        sum refusals_total: Family<Refusal>, "commands", "Commands refused.";
        sum bodies_refused_total: Family<BodyRefusal>, "bodies",
            "Bodies refused or broken off.";
        each messages_accepted_total: Counter, "messages", "Messages answered with 250.";
        each message_bytes_total: Counter, "bytes", "Body bytes of accepted messages.";
        sum recipients_accepted_total: Counter, "recipients",
            "Recipients of accepted messages.";
        each recipients_delivered_total: Counter, "recipients", "Recipients delivered.";
        sum recipients_deferred_total: Counter, "recipients",
            "Attempts after which a recipient waits for the next.";
        sum recipients_bounced_total: Counter, "recipients", "Recipients refused for good.";
        sum recipients_expired_total: Counter, "recipients",
            "Recipients given up because their time had passed.";
        sum delivery_connections_total: Counter, "connections",
            "Connections opened to deliver mail.";
        sum delivery_tls_total: Family<DeliveryTls>, "connections",
            "Connections that mail may be delivered over, by what the server has proven.";
        sum delivery_tls_failures_total: Counter, "handshakes",
            "Times that TLS with another server was wanted and not to be had.";
        sum sts_postponed_total: Counter, "jobs",
            "Jobs postponed because an MTA-STS policy could not be fetched yet.";
        sum delivery_tls_results_total: Family<DeliveryTlsResult>, "sessions",
            "Sessions with other servers in which TLS was wanted or used, by result.";
        sum delivery_store_waits_total: Counter, "deliveries",
            "Deliveries not begun before the disk had taken the outcomes of earlier ones.";
        each jobs_in_memory: Gauge, "jobs", "Jobs that are due and in memory.";
        each commit_batches_total: Counter, "batches", "Batches written to the store.";
        each commit_syncs_total: Counter, "syncs", "Batches that were synced.";
        each handoffs_total: Family<Handoff>, "handoffs",
            "What was handed to another thread, and is answered from there.";
        sum commits_failed_total: Family<CommitCause>, "batches",
            "Batches that the store did not take.";
        each commit_hung_seconds: Gauge, "seconds",
            "Age of a hung write to the spool's disk; 0 if none hangs.";
        sum quarantined_total: Counter, "records", "Records put aside as unreadable.";
        each transactions_bytes: Gauge, "bytes",
            "Memory for senders and recipients of transactions under way.";
        each chunks_out: Gauge, "chunks", "Body chunks in use.";
        each chunks_max: Gauge, "chunks", "Body chunks that may be in use.";
        each tasks_live: Gauge, "tasks", "Tasks on the executor.";
    }
}

metrics! {
    /// What the process as a whole shows. Memory, descriptors, processor time, uptime and build
    /// are read when they are asked for.
    pub struct ProcessMetrics {
        sum start_time_seconds: Gauge, "seconds", "Start of the process, since 1970.";
        sum listening: Gauge, "boolean", "1 while all listeners take connections.";
        sum draining: Gauge, "boolean", "1 once the process is ending.";
        sum spool_full: Gauge, "boolean", "1 while new mail is refused for lack of space.";
        sum spool_failed_partitions: Gauge, "partitions",
            "Partitions that no longer take mail because a sync failed.";
        sum quarantine_records: Gauge, "records",
            "Unreadable records and folders in the spool's quarantine, counted every 10 s.";
        sum spool_free_bytes: Gauge, "bytes", "Free space of the spool's file system.";
        sum spool_free_inodes: Gauge, "inodes", "Free inodes of the spool's file system.";
        sum reloads_total: Family<ReloadOutcome>, "reloads", "Configuration reloads asked for.";
        sum sts_policies: Gauge, "policies", "MTA-STS policies known.";
        sum sts_fetches_total: Family<StsOutcome>, "fetches",
            "Fetches of MTA-STS policies, by outcome.";
    }
}

labels! {
    /// Why a connection was closed before its session began.
    pub enum ConnectionRefusal: "reason" {
        Connections = "connections",
        PerAddress = "per_address",
        PerNetwork = "per_network",
        Rate = "rate",
        Proxy = "proxy",
    }

    /// What a session was waiting for.
    pub enum SessionState: "state" {
        Proxy = "proxy",
        Handshake = "handshake",
        Command = "command",
        Body = "body",
        Rate = "rate",
        Write = "write",
    }

    /// How far another server has proven who it is.
    pub enum DeliveryTls: "verdict" {
        Clear = "clear",
        Unverified = "unverified",
        Verified = "verified",
        Dane = "dane",
    }

    /// What came of a fetch of an MTA-STS policy.
    pub enum StsOutcome: "outcome" {
        Fetched = "fetched",
        /// The domain's web server has no good policy for us; its mail goes without.
        Failed = "failed",
        /// A fault of ours; the mail waits.
        Prevented = "prevented",
        /// Too many wait; the mail waits too.
        NoRoom = "no_room",
    }

    /// What came of TLS with another server; failures in the words of RFC 8460 s4.3, the rarer ones
    /// together.
    pub enum DeliveryTlsResult: "result" {
        Success = "success",
        StarttlsNotSupported = "starttls-not-supported",
        CertificateHostMismatch = "certificate-host-mismatch",
        CertificateExpired = "certificate-expired",
        CertificateNotTrusted = "certificate-not-trusted",
        ValidationFailure = "validation-failure",
        /// TLSA records that cannot be had or do not hold.
        Dane = "dane",
        /// An MTA-STS policy that cannot be had.
        StsPolicy = "sts-policy",
    }

    pub enum TlsVersion: "version" {
        Tls12 = "1.2",
        Tls13 = "1.3",
    }

    pub enum Verb: "verb" {
        Helo = "helo",
        Ehlo = "ehlo",
        Lhlo = "lhlo",
        Mail = "mail",
        Rcpt = "rcpt",
        Data = "data",
        Bdat = "bdat",
        Rset = "rset",
        Noop = "noop",
        Vrfy = "vrfy",
        Expn = "expn",
        Help = "help",
        Quit = "quit",
        StartTls = "starttls",
        Auth = "auth",
        Xclient = "xclient",
        Unknown = "unknown",
    }

    pub enum ReplyClass: "class" {
        Success = "2xx",
        Continue = "3xx",
        Temporary = "4xx",
        Permanent = "5xx",
    }

    /// Why a command was refused.
    pub enum Refusal: "reason" {
        Syntax = "syntax",
        Sequence = "sequence",
        /// Not known, or not offered.
        Unknown = "unknown",
        /// A line that breaks the line law or is too long.
        Line = "line",
        /// Sent before the greeting or the reply that it had to wait for.
        Early = "early",
        Parameter = "parameter",
        Address = "address",
        Recipient = "recipient",
        Relay = "relay",
        Recipients = "recipients",
        Size = "size",
        TlsRequired = "tls_required",
        /// Too many commands, errors or messages in one session.
        Limit = "limit",
        /// XCLIENT from a peer that is not trusted.
        Trust = "trust",
        /// No space on disk, or too much mail under way.
        Spool = "spool",
        Other = "other",
    }

    /// Why a body was refused or broken off.
    pub enum BodyRefusal: "reason" {
        Size = "size",
        LineEnd = "line_end",
        LineLength = "line_length",
        Loop = "loop",
        Memory = "memory",
        Spool = "spool",
        Busy = "busy",
        Commit = "commit",
        TooSlow = "too_slow",
        Aborted = "aborted",
        Other = "other",
    }

    /// What is handed to another thread. A shard keeps what is its own, and that is not counted.
    pub enum Handoff: "kind" {
        /// A job to the shard that owns its destination.
        Deliver = "deliver",
        /// What became of it, back to the shard that stores it.
        Settle = "settle",
        /// The question for a job to be given back.
        Recall = "recall",
        /// An order to a commit thread: a message, a part of one, or what became of a job.
        Commit = "commit",
    }

    /// Why the store did not take a batch.
    pub enum CommitCause: "cause" {
        NoSpace = "no_space",
        Damage = "damage",
        Other = "other",
    }

    pub enum ReloadOutcome: "outcome" {
        Done = "done",
        Refused = "refused",
    }
}

impl Refusal {
    /// What a refusing reply to a command says, by its code and enhanced code; none for a reply that
    /// does not refuse.
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
    use std::collections::HashSet;

    use crate::observe::metric::Declared;
    use crate::observe::metric::Descriptor;
    use crate::observe::metric::Kind;

    use super::*;

    #[test]
    fn metrics_follow_the_naming_rules() {
        let tables: [&[Descriptor]; 2] = [ShardMetrics::DESCRIPTORS, ProcessMetrics::DESCRIPTORS];
        let mut seen = HashSet::new();
        for descriptor in tables.concat() {
            let name = descriptor.name;
            assert!(seen.insert(name), "{name} is declared twice");
            assert!(descriptor.help.ends_with('.'), "{name} has a sentence as help");
            assert_eq!(name.ends_with("_total"), descriptor.kind == Kind::Counter, "{name}");
            for unit in ["bytes", "seconds", "inodes"] {
                assert_eq!(name.contains(unit), descriptor.unit == unit, "{name} names its unit");
            }
            let values = descriptor.label.map_or(&[] as &[&str], |(_, values)| values);
            let distinct: HashSet<_> = values.iter().collect();
            assert_eq!(distinct.len(), values.len(), "{name} tells its labels apart");
        }
    }

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

    #[test]
    fn a_table_reads_in_the_order_it_is_declared() {
        let metrics = ShardMetrics::default();
        metrics.connections_total.add(3);
        metrics.commands_total.add(Verb::Unknown, 2);
        metrics.replies_total.add(ReplyClass::of(452), 1);
        let sums: Vec<(&str, u64)> = crate::observe::metric::read(&[&metrics])
            .iter()
            .map(|reading| (reading.descriptor.name, reading.sums().iter().sum()))
            .filter(|(_, sum)| *sum > 0)
            .collect();
        assert_eq!(sums, [("connections_total", 3), ("commands_total", 2), ("replies_total", 1)]);
        assert_eq!(metrics.replies_total.value(ReplyClass::Temporary), 1);
    }
}
