//! The queue as text: lists, details, counts.

use crate::base::clock::wall_ms;
use crate::cli::text;
use crate::cli::text::field;
use crate::cli::text::field_if;
use crate::cli::text::plain;
use crate::cli::text::time;
use crate::control::sentences::span;
use crate::operations::queue::MessageDetails;
use crate::operations::why::Explanation;
use crate::queue::admin::audit::Balance;
use crate::queue::admin::audit::SpoolAudit;
use crate::queue::admin::inspect::ListRow;
use crate::queue::admin::inspect::SpoolStats;
use crate::queue::admin::select::DomainRow;
use crate::queue::admin::select::Summary;

pub fn print_list(rows: &[ListRow]) {
    println!("{:17}  {:24}  {:>10}  {:32}  recipients", "id", "received", "bytes", "sender");
    for row in rows {
        if let Some(fault) = &row.fault {
            println!("{:17}  unreadable: {fault}", row.id);
            continue;
        }
        let more = match row.recipients {
            count @ 2.. => format!(" and {} more", count - 1),
            _ => String::new(),
        };
        println!(
            "{:17}  {:24}  {:>10}  {:32}  {}{more}",
            row.id,
            time(row.received_ms),
            row.bytes,
            text::sender(row.sender.as_deref()),
            row.first_recipient.as_deref().unwrap_or_default(),
        );
    }
    println!("{} messages", rows.len());
}

pub fn print_show(details: &MessageDetails) {
    let MessageDetails { stored, header } = details;
    field("id", &stored.id);
    field("partition", stored.partition);
    field("received", time(stored.received_ms));
    field("sender", text::sender(stored.sender.as_deref()));
    println!("recipients:");
    for recipient in &stored.recipients {
        let notify = match recipient.notify.is_empty() {
            true => String::new(),
            false => format!("  NOTIFY={}", recipient.notify.join(",")),
        };
        let orcpt = recipient.orcpt.as_ref().map(|orcpt| format!("  ORCPT={orcpt}"));
        let line = format!("{}{notify}{}", recipient.mailbox, orcpt.unwrap_or_default());
        println!("  {}", plain(&line));
    }
    field_if("from", header.from.as_ref());
    field_if("to", header.to.as_ref());
    field_if("subject", header.subject.as_ref());
    field_if("date", header.date.as_ref());
    field_if("message id", stored.message_id.as_ref());
    field("body", format!("{} bytes, {}", stored.body_bytes, stored.body_type));
    field_if("RET", stored.ret.as_ref());
    field_if("ENVID", stored.envid.as_ref());
    field_if("AUTH", stored.auth.as_ref());
    field("SMTPUTF8", stored.smtputf8);
    field("REQUIRETLS", stored.requiretls);
    field("peer", format!("{} ({})", stored.peer, stored.helo));
    field("listener", format!("{}, {}", stored.listener, stored.protocol));
    field_if("TLS", stored.tls.as_ref());
    println!("jobs:");
    for job in &stored.jobs {
        let due = match job.state == "held" {
            true => String::new(),
            false => format!(", due {}", time(job.due_ms)),
        };
        println!(
            "  {}: {}{due}, {} recipients, {} attempts",
            job.number,
            job.state,
            job.recipients.len(),
            job.attempts
        );
        let facts = [
            ("next hop", &job.rerouted_to),
            ("last reply", &job.last_reply),
            ("unreadable", &job.fault),
        ];
        for (name, fact) in facts {
            if let Some(fact) = fact {
                println!("    {name}: {}", plain(fact));
            }
        }
    }
}

pub fn print_stats(stats: &SpoolStats) {
    field("messages", stats.messages);
    field("body bytes", stats.body_bytes);
    field_if("oldest", stats.oldest_ms.map(time));
    field("in quarantine", stats.in_quarantine);
    for one in &stats.partitions {
        println!(
            "partition {}: {} messages, {} body bytes, {} bodies being received; on disk: {} bytes \
             of tables, {} of blobs, {} of log",
            one.partition,
            one.messages,
            one.body_bytes,
            one.streams,
            one.sst_bytes,
            one.blob_bytes,
            one.log_bytes,
        );
        if let Some(failure) = &one.failure {
            println!("partition {} accepts no mail: {failure}", one.partition);
        }
    }
}

pub fn print_audit(audit: &SpoolAudit) {
    for one in &audit.partitions {
        println!("partition {}: {}", one.partition, equation(&one.balance));
    }
    println!("total: {}", equation(&audit.sum));
    println!("{}", if audit.adds_up { "the counts add up" } else { "THE COUNTS DO NOT ADD UP" });
    if audit.in_quarantine > 0 {
        println!(
            "IN QUARANTINE: {} unreadable records or folders. The reason is in a .why file beside \
             each or in the log. Remove each from the spool's quarantine folder when resolved.",
            audit.in_quarantine
        );
    }
}

fn equation(balance: &Balance) -> String {
    let ended = &balance.ended;
    let told = format!(
        "{} accepted = {} delivered + {} bounced + {} expired + {} cancelled + {} suppressed + \
         {} quarantined + {} queued",
        balance.taken,
        ended.delivered,
        ended.bounced,
        ended.expired,
        ended.cancelled,
        ended.suppressed,
        balance.quarantined,
        balance.queued,
    );
    match (balance.difference, balance.unreadable_jobs) {
        (0, 0) => told,
        (difference, 0) => format!("{told}; difference {difference}"),
        (difference, jobs) => format!("{told}; difference {difference}, {jobs} unreadable jobs"),
    }
}

pub fn print_summary(summary: &Summary) {
    let now_ms = wall_ms();
    println!(
        "{:32}  {:>10}  {:>12}  {:28}  last reply",
        "recipient domain", "recipients", "oldest", "state"
    );
    for row in &summary.rows {
        println!(
            "{:32}  {:>10}  {:>12}  {:28}  {}",
            row.domain,
            row.recipients,
            span(now_ms.saturating_sub(row.oldest_ms)),
            domain_state(row, now_ms),
            row.last_reply.as_deref().map(plain).unwrap_or_default(),
        );
    }
    println!("{} recipients in {} domains", summary.recipients, summary.domains);
    if summary.others > 0 {
        println!("{} of them in domains not shown; see --limit", summary.others);
    }
}

/// Whether mail of a domain is held, and when the next attempt is.
fn domain_state(row: &DomainRow, now_ms: u64) -> String {
    let mut words = Vec::new();
    match row.held {
        0 => {}
        held if held == row.recipients => words.push("held".to_owned()),
        held => words.push(format!("{held} held")),
    }
    match row.next_due_ms {
        Some(due_ms) if due_ms > now_ms => words.push(format!("next in {}", span(due_ms - now_ms))),
        Some(_) => words.push("due".to_owned()),
        None => {}
    }
    words.join(", ")
}

pub fn print_explanation(explanation: &Explanation) {
    println!(
        "{} from {}, received {}",
        explanation.id,
        text::sender(explanation.sender.as_deref()),
        time(explanation.received_ms),
    );
    for job in &explanation.jobs {
        for (place, sentence) in job.sentences.iter().enumerate() {
            println!("{}{}", if place == 0 { "" } else { "  " }, plain(sentence));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_domain_is_short() {
        let row = |recipients, held, next_due_ms| DomainRow {
            domain: "y.test".to_owned(),
            recipients,
            held,
            retrying: 0,
            oldest_ms: 0,
            next_due_ms,
            last_attempt_ms: None,
            last_reply: None,
        };
        let rows = [
            (row(3, 3, None), "held"),
            (row(3, 1, Some(5)), "1 held, due"),
            (row(3, 0, Some(61_000)), "next in 60 seconds"),
        ];
        for (row, words) in rows {
            assert_eq!(domain_state(&row, 1000), words);
        }
    }
}
