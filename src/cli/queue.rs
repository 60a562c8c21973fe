//! `ringpost queue`, `ringpost audit` and `ringpost why`.

use std::io;

use crate::base::clock::wall_ms;
use crate::cli::arguments::QueueCommand;
use crate::cli::arguments::Selection;
use crate::cli::source::Intent;
use crate::cli::source::Source;
use crate::cli::text;
use crate::cli::text::field;
use crate::cli::text::field_if;
use crate::cli::text::plain;
use crate::cli::text::time;
use crate::config::Config;
use crate::control::explain::span;
use crate::operations::FaultKind;
use crate::operations::OpFault;
use crate::operations::queue::AuditQueue;
use crate::operations::queue::CHANGE_IDS_MAX;
use crate::operations::queue::ChangeMessages;
use crate::operations::queue::ChangedMessage;
use crate::operations::queue::LIST_PAGE_ROWS;
use crate::operations::queue::ListMessages;
use crate::operations::queue::MessageDetails;
use crate::operations::queue::QueueStats;
use crate::operations::queue::ReadMessage;
use crate::operations::queue::ShowMessage;
use crate::operations::queue::SummarizeQueue;
use crate::operations::why::ExplainMessage;
use crate::operations::why::Explanation;
use crate::queue::admin::audit::Balance;
use crate::queue::admin::audit::SpoolAudit;
use crate::queue::admin::inspect::ListRow;
use crate::queue::admin::inspect::SpoolStats;
use crate::queue::admin::operate::Carried;
use crate::queue::admin::operate::Operation;
use crate::queue::admin::select::DomainRow;
use crate::queue::admin::select::Summary;

/// Carries out `ringpost queue`.
pub fn queue(config: &Config, command: QueueCommand, json: bool) -> Result<(), OpFault> {
    let read = || Source::find(config, Intent::Read);
    match command {
        QueueCommand::Summary { limit } => {
            let summary = read()?.call(SummarizeQueue { limit })?;
            text::print(&summary, json, print_summary)
        }
        QueueCommand::List { limit, after, filter } => {
            let asked = ListMessages { after, ..filter.into() };
            text::print(&list(&read()?, limit, asked)?, json, |rows| print_list(rows))
        }
        QueueCommand::Show { id } => {
            text::print(&read()?.call(ShowMessage { id })?, json, print_show)
        }
        QueueCommand::Stats => text::print(&read()?.call(QueueStats {})?, json, print_stats),
        QueueCommand::Cat { id } => read()?.read(&ReadMessage { id }, &mut io::stdout().lock()),
        QueueCommand::Hold(selection) => change(config, Operation::Hold, selection, json),
        QueueCommand::Release(selection) => change(config, Operation::Release, selection, json),
        QueueCommand::Retry(selection) => change(config, Operation::Retry, selection, json),
        QueueCommand::Reroute { selection, to } => {
            change(config, Operation::Reroute(to.0), selection, json)
        }
        QueueCommand::Bounce { ids } => change(config, Operation::Bounce, these(ids), json),
        QueueCommand::Delete { ids } => change(config, Operation::Delete, these(ids), json),
    }
}

fn these(ids: Vec<String>) -> Selection {
    Selection { ids, recipient_domain: None, all: false }
}

/// Carries out `ringpost audit`. A failed audit is a fault without text.
pub fn audit(config: &Config, json: bool) -> Result<bool, OpFault> {
    let audit = Source::find(config, Intent::Read)?.call(AuditQueue {})?;
    text::print(&audit, json, print_audit)?;
    Ok(audit.adds_up && audit.in_quarantine == 0)
}

/// Carries out `ringpost why`.
pub fn why(config: &Config, id: String, json: bool) -> Result<(), OpFault> {
    let explanation = Source::find(config, Intent::Read)?.call(ExplainMessage { id })?;
    text::print(&explanation, json, print_explanation)
}

/// Page by page, up to the limit or the end.
fn list(source: &Source, limit: usize, mut asked: ListMessages) -> Result<Vec<ListRow>, OpFault> {
    let mut rows = Vec::new();
    while rows.len() < limit {
        asked.limit = Some((limit - rows.len()).min(LIST_PAGE_ROWS));
        let page = source.call(asked.clone())?;
        rows.extend(page.messages);
        asked.after = page.next;
        if asked.after.is_none() {
            break;
        }
    }
    Ok(rows)
}

/// Makes the same change to all selected messages, page by page.
fn change(
    config: &Config,
    operation: Operation,
    selection: Selection,
    json: bool,
) -> Result<(), OpFault> {
    let source = Source::find(config, Intent::Change)?;
    let by_id = !selection.ids.is_empty();
    let rows = match by_id {
        true => change_these(&source, &operation, &selection.ids)?,
        false => change_wanted(&source, &operation, selection.recipient_domain)?,
    };
    text::print(&rows, json, |rows| {
        for row in rows {
            let line = changed_line(&operation, row);
            match (&row.fault, by_id) {
                (Some(_), true) => eprintln!("ringpost: {line}"),
                _ => println!("{line}"),
            }
        }
    })?;
    let faults: Vec<&OpFault> = rows.iter().filter_map(|row| row.fault.as_ref()).collect();
    // Messages that leave the queue while all are changed are no failure.
    if faults.is_empty() || (!by_id && faults.len() < rows.len()) {
        return Ok(());
    }
    let kind = faults[0].kind;
    let kind = if faults.iter().all(|fault| fault.kind == kind) { kind } else { FaultKind::Other };
    let what = format!("{} of {} messages not changed", faults.len(), rows.len());
    Err(OpFault::new(kind, "not_changed", what))
}

fn change_these(
    source: &Source,
    operation: &Operation,
    ids: &[String],
) -> Result<Vec<ChangedMessage>, OpFault> {
    let mut rows = Vec::with_capacity(ids.len());
    for ids in ids.chunks(CHANGE_IDS_MAX) {
        let change = ChangeMessages { operation: operation.clone(), ids: ids.to_vec() };
        rows.extend(source.call(change)?);
    }
    Ok(rows)
}

fn change_wanted(
    source: &Source,
    operation: &Operation,
    recipient_domain: Option<String>,
) -> Result<Vec<ChangedMessage>, OpFault> {
    let mut asked = ListMessages {
        limit: Some(CHANGE_IDS_MAX),
        recipient_domain,
        // Only held messages can be released; others are not selected.
        held: *operation == Operation::Release,
        ..ListMessages::default()
    };
    let mut rows = Vec::new();
    loop {
        let page = source.call(asked.clone())?;
        let ids: Vec<String> = page.messages.into_iter().map(|row| row.id).collect();
        rows.extend(change_these(source, operation, &ids)?);
        asked.after = page.next;
        if asked.after.is_none() {
            return Ok(rows);
        }
    }
}

fn changed_line(operation: &Operation, row: &ChangedMessage) -> String {
    let done = match operation {
        Operation::Hold => "held",
        Operation::Release => "released and due now",
        Operation::Retry => "due now",
        Operation::Bounce => "bounced",
        Operation::Delete => "deleted",
        Operation::Reroute(Some(_)) => "rerouted",
        Operation::Reroute(None) => "follows the routes again",
    };
    let said = match (&row.fault, row.outcome) {
        (Some(fault), _) => fault.to_string(),
        (None, Some(Carried::Done)) => done.to_owned(),
        (None, Some(Carried::AfterAttempt)) => {
            format!("is being sent now; {done} after this attempt unless it succeeds")
        }
        (None, Some(Carried::UnderWay)) => {
            "is queued for a connection or being sent already; see `ringpost why`".to_owned()
        }
        (None, Some(Carried::Already)) => match operation {
            Operation::Hold => "is held already".to_owned(),
            Operation::Reroute(_) => "has this next hop already".to_owned(),
            _ => "is due already".to_owned(),
        },
        (None, None) => "no answer".to_owned(),
    };
    format!("{}: {said}", row.id)
}

fn print_list(rows: &[ListRow]) {
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

fn print_show(details: &MessageDetails) {
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

fn print_stats(stats: &SpoolStats) {
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

fn print_audit(audit: &SpoolAudit) {
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

fn print_summary(summary: &Summary) {
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

fn print_explanation(explanation: &Explanation) {
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
    fn outcomes_are_sentences() {
        let row = |done| ChangedMessage::new("A", done);
        let gone = || OpFault::not_found("no_such_message", "no such message");
        let rows = [
            (Operation::Hold, row(Ok(Carried::Done)), "A: held"),
            (Operation::Hold, row(Ok(Carried::Already)), "A: is held already"),
            (Operation::Retry, row(Ok(Carried::Done)), "A: due now"),
            (Operation::Bounce, row(Err(gone())), "A: no such message"),
            (Operation::Reroute(None), row(Ok(Carried::Done)), "A: follows the routes again"),
            (
                Operation::Reroute(Some("hold".into())),
                row(Ok(Carried::Already)),
                "A: has this next hop already",
            ),
        ];
        for (operation, row, line) in rows {
            assert_eq!(changed_line(&operation, &row), line);
        }
    }

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
