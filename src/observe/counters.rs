//! The metrics of Ringpost. One line each; nothing else is counted.
//!
//! Owner:    `ShardMetrics`: the shard. `PartitionMetrics`: the home shard, except for the failure and
//!           the sizes. These, and `ProcessMetrics`, belong to `boot` and the control plane.
//! Bounds:   labels are enums; destinations and certificates, whose names come from outside, are
//!           bounded where the monitor exposes them.

use crate::observe::label::AttemptCategory;
use crate::observe::label::AttemptOutcome;
use crate::observe::label::BodyRefusal;
use crate::observe::label::CommitCause;
use crate::observe::label::ConnectionRefusal;
use crate::observe::label::DeliveryTls;
use crate::observe::label::DeliveryTlsResult;
use crate::observe::label::Handoff;
use crate::observe::label::Refusal;
use crate::observe::label::ReloadOutcome;
use crate::observe::label::ReplyClass;
use crate::observe::label::SessionState;
use crate::observe::label::StsOutcome;
use crate::observe::label::TlsVersion;
use crate::observe::label::Verb;
use crate::observe::metric::Counter;
use crate::observe::metric::Family;
use crate::observe::metric::Gauge;
use crate::observe::metric::Grid;
use crate::observe::metric::metrics;

metrics! {
    /// The metrics of one shard.
    pub struct ShardMetrics {
        each connections_total: Counter, "Client connections accepted.";
        each connections_open: Gauge, "Client connections open now.";
        sum connections_refused_total: Family<ConnectionRefusal>,
            "Client connections closed before their session began, by reason.";
        sum accept_pauses_total: Counter,
            "Pauses of listeners because no file descriptor or memory was free.";
        sum sessions_timed_out_total: Family<SessionState>,
            "Sessions ended because the client was silent or too slow, by what the session waited for.";
        sum session_panics_total: Counter, "Sessions ended by a bug.";
        sum task_panics_total: Counter, "Tasks other than sessions ended by a bug.";
        sum tls_handshakes_total: Family<TlsVersion>,
            "TLS handshakes completed with clients, by version.";
        sum tls_failures_total: Counter, "TLS handshakes with clients that failed.";
        sum commands_total: Family<Verb>, "SMTP commands received, by verb.";
        sum replies_total: Family<ReplyClass>, "SMTP replies sent, by class.";
        sum refusals_total: Family<Refusal>, "SMTP commands refused, by reason.";
        sum bodies_refused_total: Family<BodyRefusal>,
            "Message bodies refused or aborted, by reason.";
        each messages_accepted_total: Counter, "Messages accepted (answered with 250).";
        each message_bytes_total: Counter, "Body bytes of accepted messages.";
        sum recipients_accepted_total: Counter, "Recipients of accepted messages.";
        sum attempts_total: Grid<AttemptOutcome, AttemptCategory>,
            "Delivery attempts per recipient, by outcome and category.";
        sum delivery_connections_total: Counter, "Connections opened to remote servers.";
        sum delivery_tls_total: Family<DeliveryTls>,
            "Connections to remote servers that are ready for mail, by how the server's identity was verified.";
        sum delivery_tls_failures_total: Counter,
            "Connections to remote servers where TLS was attempted or required but failed or was not offered.";
        sum delivery_tls_results_total: Family<DeliveryTlsResult>,
            "Sessions with remote servers where TLS was attempted or required, by result.";
        sum delivery_store_waits_total: Counter,
            "Deliveries held back until the outcomes of earlier ones were durable.";
        sum delivery_resource_waits_total: Counter,
            "Deliveries that waited for a resource of this server: a DNS lookup, a descriptor, a port or memory.";
        sum sts_postponed_total: Counter,
            "Jobs postponed because an MTA-STS policy was not fetched yet.";
        each jobs_in_memory: Gauge, "Due jobs held in memory.";
        each commit_batches_total: Counter, "Batches written to the store.";
        each commit_syncs_total: Counter, "Batches synced to disk.";
        sum commits_failed_total: Family<CommitCause>, "Batches that the store rejected, by cause.";
        each handoffs_total: Family<Handoff>, "Work handed to another thread, by kind.";
        sum quarantined_total: Counter, "Unreadable records moved to quarantine.";
        each transaction_memory_bytes: Gauge,
            "Memory used by senders and recipients of open transactions.";
        each body_memory_bytes: Gauge, "Memory used by message bodies.";
        each body_memory_limit_bytes: Gauge, "Limit of memory for message bodies.";
        each tasks: Gauge, "Tasks on the executor.";
    }
}

metrics! {
    /// The metrics of one partition of the spool.
    pub struct PartitionMetrics {
        each partition_failed: Gauge, "1 if the partition accepts no mail because a sync failed.";
        each partition_hung_seconds: Gauge,
            "Age of a write to the partition that the disk has not answered; 0 if none hangs.";
        each partition_messages: Gauge, "Messages stored in the partition.";
        each partition_body_bytes: Gauge, "Body bytes of messages stored in the partition.";
        each partition_event_bytes: Gauge, "Bytes of the event log of the partition on disk.";
        sum events_dropped_bytes_total: Counter,
            "Bytes of events dropped for their age or for space.";
    }
}

metrics! {
    /// The metrics of the process as a whole.
    pub struct ProcessMetrics {
        sum listening: Gauge, "1 while all listeners accept connections.";
        sum draining: Gauge, "1 once the process is shutting down.";
        sum spool_full: Gauge, "1 while new mail is refused because the disk is full.";
        sum spool_free_bytes: Gauge, "Free bytes on the file system of the spool.";
        sum spool_free_minimum_bytes: Gauge,
            "Free bytes below which new mail is refused.";
        sum spool_free_inodes: Gauge, "Free inodes on the file system of the spool.";
        sum spool_reserve_bytes: Gauge,
            "Disk space allocated for recovery from a full disk; 0 once the reserve is spent.";
        sum spool_reserve_target_bytes: Gauge, "Disk space that the reserve should have.";
        sum spool_quarantine_records: Gauge,
            "Unreadable records and folders in quarantine, counted every 10 s.";
        sum reloads_total: Family<ReloadOutcome>, "Configuration reloads, by outcome.";
        sum sts_policies: Gauge, "MTA-STS policies stored.";
        sum sts_fetches_total: Family<StsOutcome>, "Fetches of MTA-STS policies, by outcome.";
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
        let tables: [&[Descriptor]; 3] =
            [ShardMetrics::DESCRIPTORS, PartitionMetrics::DESCRIPTORS, ProcessMetrics::DESCRIPTORS];
        let mut seen = HashSet::new();
        for descriptor in tables.concat() {
            let name = descriptor.name;
            assert!(seen.insert(name), "{name} is declared twice");
            assert!(descriptor.help.ends_with('.'), "the help of {name} is a sentence");
            assert_eq!(name.ends_with("_total"), descriptor.kind == Kind::Counter, "{name}");
            for (key, values) in descriptor.labels {
                let distinct: HashSet<_> = values.iter().collect();
                assert_eq!(distinct.len(), values.len(), "the values of {key} of {name} differ");
            }
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
