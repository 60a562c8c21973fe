//! `ringpost events`.

use std::collections::VecDeque;
use std::io;
use std::io::Write;
use std::thread;
use std::time::Duration;

use crate::cli::arguments::EventsCommand;
use crate::cli::arguments::ExportFormat;
use crate::cli::client::output_fault;
use crate::cli::source::Intent;
use crate::cli::source::Source;
use crate::cli::text::plain;
use crate::cli::text::sender;
use crate::config::Config;
use crate::operations::OpFault;
use crate::operations::events::EventGap;
use crate::operations::events::EventRow;
use crate::operations::events::ListEvents;

/// The newest events of each partition that `tail` looks at.
const TAIL_EVENTS: u64 = 10_000;
/// How often a log is read that had nothing new.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);

/// Carries out `ringpost events`.
pub fn events(config: &Config, command: EventsCommand) -> Result<(), OpFault> {
    let mut source = Source::find(config, Intent::Read)?;
    let (mut asked, shown, lines, is_followed): (ListEvents, _, _, _) = match command {
        EventsCommand::Tail { lines, follow, filter, options } => {
            let shown = if options.json { Shown::Json } else { Shown::Text };
            let last = Some(TAIL_EVENTS.max(lines as u64));
            (ListEvents { last, ..filter.into() }, shown, Some(lines), follow)
        }
        EventsCommand::Export { from, to, format, filter } => {
            let shown = match format {
                ExportFormat::Jsonl => Shown::Json,
                ExportFormat::Csv => Shown::Csv,
            };
            (ListEvents { from_ms: from, to_ms: to, ..filter.into() }, shown, None, false)
        }
    };
    let mut out = io::stdout().lock();
    if shown == Shown::Csv {
        print(&mut out, &csv_line(CSV_NAMES.map(str::to_owned)))?;
    }
    // The newest rows, until all that were there at first have been read.
    let mut newest = lines.map(|lines| (lines, VecDeque::new()));
    loop {
        let page = source.call(asked.clone())?;
        for EventGap { partition, from, to } in page.gaps {
            let count = to - from;
            eprintln!("ringpost: {count} events of partition {partition} are no longer in the log");
        }
        for row in page.events {
            match &mut newest {
                None => print(&mut out, &shown.line(&row)?)?,
                Some((lines, rows)) => {
                    rows.push_back(row);
                    rows.drain(..rows.len().saturating_sub(*lines));
                }
            }
        }
        if page.is_end
            && let Some((_, rows)) = newest.take()
        {
            for row in rows {
                print(&mut out, &shown.line(&row)?)?;
            }
        }
        asked.after = Some(page.next);
        match (page.is_end, is_followed) {
            (true, false) => return Ok(()),
            (true, true) => {
                out.flush().map_err(|cause| output_fault(&cause))?;
                thread::sleep(FOLLOW_EVERY);
                if let Source::Stopped(_) = source {
                    // It was read as it was when it was opened.
                    source = Source::find(config, Intent::Read)?;
                }
            }
            (false, _) => {}
        }
    }
}

fn print(out: &mut impl Write, line: &str) -> Result<(), OpFault> {
    writeln!(out, "{line}").map_err(|cause| output_fault(&cause))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Text,
    Json,
    Csv,
}

impl Shown {
    fn line(self, row: &EventRow) -> Result<String, OpFault> {
        match self {
            Shown::Text => Ok(text_line(row)),
            Shown::Json => serde_json::to_string(row)
                .map_err(|cause| OpFault::other("output", cause.to_string())),
            Shown::Csv => Ok(csv_line(csv_row(row))),
        }
    }
}

/// Time, type, message, and what a person asks first.
fn text_line(row: &EventRow) -> String {
    let to = match &row.recipients[..] {
        [] => "nobody".to_owned(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    };
    let mut line = format!("{} {:<9} {} to {to}", row.time, row.kind, row.id);
    if let Some(accepted) = &row.accepted {
        let from = sender(Some(&row.sender));
        line.push_str(&format!(" from {from}, {} bytes", accepted.bytes));
    }
    if let Some(attempt) = &row.attempt {
        let host = attempt.host.as_deref().unwrap_or(&attempt.destination);
        if !host.is_empty() {
            line.push_str(&format!(" by {host}"));
        }
        line.push_str(&format!(": {}", attempt.reply));
    }
    plain(&line)
}

const CSV_NAMES: [&str; 22] = [
    "event",
    "time",
    "type",
    "id",
    "tenant",
    "stream",
    "sender",
    "recipients",
    "tags",
    "metadata",
    "bytes",
    "client",
    "message_id",
    "attempts",
    "destination",
    "host",
    "address",
    "source",
    "status",
    "reply",
    "category",
    "age_ms",
];

fn csv_row(row: &EventRow) -> [String; CSV_NAMES.len()] {
    let accepted = row.accepted.clone().unwrap_or_default();
    let attempt = row.attempt.clone().unwrap_or_default();
    let (is_accepted, is_attempt) = (row.accepted.is_some(), row.attempt.is_some());
    let metadata = row.metadata.iter().map(|(name, value)| format!("{name}={value}"));
    let of_attempt = |text: String| if is_attempt { text } else { String::new() };
    [
        row.event.clone(),
        row.time.clone(),
        row.kind.clone(),
        row.id.clone(),
        row.tenant.clone().unwrap_or_default(),
        row.stream.to_string(),
        row.sender.clone(),
        row.recipients.join(" "),
        row.tags.join(" "),
        metadata.collect::<Vec<_>>().join(" "),
        if is_accepted { accepted.bytes.to_string() } else { String::new() },
        accepted.client.unwrap_or_default(),
        accepted.message_id.unwrap_or_default(),
        of_attempt(attempt.attempts.to_string()),
        attempt.destination,
        attempt.host.unwrap_or_default(),
        attempt.address.unwrap_or_default(),
        attempt.source.unwrap_or_default(),
        attempt.status,
        attempt.reply,
        attempt.category.unwrap_or_default(),
        of_attempt(attempt.age_ms.to_string()),
    ]
}

/// RFC 4180, without the CR of its line ends.
fn csv_line<const N: usize>(fields: [String; N]) -> String {
    let quoted = fields.map(|field| match field.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field,
    });
    quoted.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::operations::events::AcceptedRow;
    use crate::operations::events::AttemptRow;

    fn rows() -> [EventRow; 2] {
        let accepted = EventRow {
            event: "3-7".to_owned(),
            time: "2026-12-01T10:00:00.000Z".to_owned(),
            kind: "accepted".to_owned(),
            id: "1M8Q333QG0000J0QQ".to_owned(),
            sender: "me@a.test".to_owned(),
            recipients: vec!["you@b.test".to_owned(), "x@b.test".to_owned()],
            accepted: Some(AcceptedRow { bytes: 812, ..AcceptedRow::default() }),
            ..EventRow::default()
        };
        let attempt = AttemptRow {
            attempts: 1,
            destination: "mx.b.test".to_owned(),
            host: Some("mx1.b.test".to_owned()),
            status: "4.2.2".to_owned(),
            reply: "452 4.2.2 \"full\",\u{7} later".to_owned(),
            remote: true,
            ..AttemptRow::default()
        };
        let deferred = EventRow {
            kind: "deferred".to_owned(),
            recipients: vec!["you@b.test".to_owned()],
            indexes: vec![0],
            accepted: None,
            attempt: Some(attempt),
            ..accepted.clone()
        };
        [accepted, deferred]
    }

    #[test]
    fn a_line_says_what_a_person_asks_first() {
        let lines = rows().map(|row| text_line(&row));
        assert_eq!(
            lines,
            [
                "2026-12-01T10:00:00.000Z accepted  1M8Q333QG0000J0QQ to you@b.test and 1 more \
                 from me@a.test, 812 bytes",
                "2026-12-01T10:00:00.000Z deferred  1M8Q333QG0000J0QQ to you@b.test by \
                 mx1.b.test: 452 4.2.2 \"full\",\\u{7} later",
            ]
        );
    }

    #[test]
    fn rows_are_read_back_from_json_and_csv_is_quoted() {
        for row in rows() {
            let text = Shown::Json.line(&row).expect("it is JSON");
            assert_eq!(serde_json::from_str::<EventRow>(&text).expect("it is a row"), row);
            let fields = csv_row(&row);
            assert_eq!(fields.len(), CSV_NAMES.len());
        }
        assert_eq!(csv_line(["a,b", "c\"d", "e"].map(str::to_owned)), "\"a,b\",\"c\"\"d\",e");
    }
}
