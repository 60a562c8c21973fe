//! `ringpost queue`, `ringpost audit` and `ringpost why`.

use std::io;

use crate::cli::arguments::QueueCommand;
use crate::cli::arguments::Selection;
use crate::cli::queue_text::print_audit;
use crate::cli::queue_text::print_explanation;
use crate::cli::queue_text::print_list;
use crate::cli::queue_text::print_show;
use crate::cli::queue_text::print_stats;
use crate::cli::queue_text::print_summary;
use crate::cli::source::Intent;
use crate::cli::source::Source;
use crate::cli::text;
use crate::config::Config;
use crate::operations::FaultKind;
use crate::operations::OpFault;
use crate::operations::queue::AuditQueue;
use crate::operations::queue::CHANGE_IDS_MAX;
use crate::operations::queue::ChangeMessages;
use crate::operations::queue::ChangedMessage;
use crate::operations::queue::LIST_PAGE_ROWS;
use crate::operations::queue::ListMessages;
use crate::operations::queue::QueueStats;
use crate::operations::queue::ReadMessage;
use crate::operations::queue::ShowMessage;
use crate::operations::queue::SummarizeQueue;
use crate::operations::why::ExplainMessage;
use crate::queue::admin::inspect::ListRow;
use crate::queue::admin::operate::Carried;
use crate::queue::admin::operate::Operation;

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

/// Carries out `ringpost audit`. `false`: the counts do not add up, or mail is in quarantine.
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
    // A change of all messages passes over those that have left the queue and those that it does not
    // apply to.
    let is_passed_over = |fault: &OpFault| {
        let is_held = ["held", "not_held"].contains(&&*fault.code);
        !by_id && (fault.kind == FaultKind::NotFound || is_held)
    };
    let faults = rows.iter().filter_map(|row| row.fault.as_ref());
    let faults: Vec<&OpFault> = faults.filter(|fault| !is_passed_over(fault)).collect();
    if faults.is_empty() {
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
        // Some faults name the message themselves.
        (Some(fault), _) => {
            let text = fault.to_string();
            let named = text.strip_prefix(&*row.id).and_then(|rest| rest.strip_prefix(": "));
            named.map_or_else(|| text.clone(), str::to_owned)
        }
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
}
