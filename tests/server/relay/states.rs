//! Every state of a session, every kind of failure in it, for servers of three kinds.

use std::collections::HashMap;
use std::time::Duration;
use std::time::Instant;

use crate::relay::receiver::At;
use crate::relay::receiver::How;
use crate::relay::receiver::Misbehaviour;
use crate::relay::receiver::Record;
use crate::relay::receiver::Taken;
use crate::relay::rig::BARE;
use crate::relay::rig::Destination;
use crate::relay::rig::FULL;
use crate::relay::rig::Faults;
use crate::relay::rig::PIPED;
use crate::relay::rig::Rig;
use crate::relay::rig::queue_text;
use crate::relay::rig::submit;

/// Connections to a receiver that fails twice, with two messages for it.
const CONNECTIONS_MAX: usize = 12;
const MESSAGES: usize = 2;
const LATE: Duration = Duration::from_millis(300);
/// Time limit for mail to a healthy receiver while all others fail.
const HEALTHY: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);

const MOMENTS: [At; 7] = [At::Banner, At::Ehlo, At::Mail, At::Rcpt, At::Data, At::Body, At::End];

const WAYS: [(&str, How); 13] = [
    ("451", How::Say("451 4.3.0 later")),
    ("550", How::Say("550 5.7.1 never")),
    ("421", How::SayAndClose("421 4.7.0 too much")),
    ("554 and close", How::SayAndClose("554 5.7.1 go away")),
    ("silence", How::Silence),
    ("close", How::Close),
    ("reset", How::Reset),
    ("garbage", How::Say("hello, dear")),
    ("endless line", How::EndlessLine),
    ("endless reply", How::EndlessReply),
    ("drip", How::Drip),
    ("many lines", How::Multi),
    ("late", How::Late(LATE)),
];

struct Row {
    name: String,
    offers: &'static [&'static str],
    misbehaviour: Misbehaviour,
    body: usize,
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (kind, offers) in [("full", FULL), ("piped", PIPED), ("bare", BARE)] {
        for at in MOMENTS {
            for (way, how) in WAYS {
                let is_right = matches!(how, How::Drip | How::Multi | How::Late(_));
                // A correct reply cannot be sent in the middle of a body, and BDAT has no DATA
                // command.
                if (at == At::Body && is_right) || (at == At::Data && kind == "full") {
                    continue;
                }
                let only = if at == At::Rcpt { "one-" } else { "" };
                let misbehaviour = Misbehaviour { at, how, times: 2, only };
                let name = format!("{kind}, {at:?}: {way}");
                rows.push(Row { name: name.clone(), offers, misbehaviour, body: 50 });
                if at == At::Body {
                    let name = format!("{name}, long");
                    rows.push(Row { name, offers, misbehaviour, body: 1 << 20 });
                }
            }
        }
    }
    rows
}

fn body(id: &str, bytes: usize) -> Vec<u8> {
    let mut body =
        format!("Subject: {id}\r\nX-Test-Id: {id}\r\n\r\n.dot\r\n..dots\r\n").into_bytes();
    for number in 0..bytes / 50 {
        body.extend_from_slice(format!(".{number:0>47}\r\n").as_bytes());
    }
    body
}

#[test]
fn every_state_can_fail() {
    let rows = rows();
    let mut plans: Vec<_> =
        rows.iter().map(|row| (row.name.clone(), row.offers, vec![row.misbehaviour])).collect();
    plans.push(("healthy".to_owned(), FULL, Vec::new()));
    let rig = Rig::start(&plans);
    let mut client = rig.client();
    let mut sent: HashMap<String, (Vec<u8>, Vec<String>)> = HashMap::new();
    for (number, (row, destination)) in rows.iter().zip(&rig.destinations).enumerate() {
        for count in 0..MESSAGES {
            let id = format!("m{number}-{count}");
            // One of the slow failures is enough.
            let bytes = if count == 0 { row.body } else { 50 };
            let recipients = ["one", "two"].map(|who| format!("{who}-{id}@{}", destination.domain));
            let body = body(&id, bytes);
            submit(&mut client, &id, &recipients, &body);
            sent.insert(id, (body, recipients.to_vec()));
        }
    }
    let healthy = &rig.destinations[rows.len()];
    let mut began = Vec::new();
    for count in 0..10 {
        let id = format!("well-{count}");
        submit(&mut client, &id, &[format!("{id}@{}", healthy.domain)], &body(&id, 50));
        began.push((id, Instant::now()));
    }
    rig.settle(PATIENCE, || true);
    let mut faults = Faults::default();
    check_healthy(healthy, &began, &mut faults);
    let log = rig.server.log_text();
    let told = rig.told();
    let mut expected_told = Vec::new();
    for (row, destination) in rows.iter().zip(&rig.destinations) {
        let record = destination.receiver.record();
        let refused = refused(&record, &sent);
        check_arrivals(destination, &record, &refused, &sent, &mut faults);
        check_warnings(destination, &record, &log, &mut faults);
        faults.check(record.connections <= CONNECTIONS_MAX, &destination.name, || {
            format!("{} connections", record.connections)
        });
        let may_refuse = matches!(row.misbehaviour.how, How::Say(text) | How::SayAndClose(text)
            if text.starts_with('5'));
        faults.check(may_refuse || refused.is_empty(), &destination.name, || {
            "the script was not used up".into()
        });
        expected_told.extend(refused);
    }
    expected_told.sort_unstable();
    let missing: Vec<_> = expected_told.iter().filter(|one| !told.contains(one)).collect();
    let wrong: Vec<_> = told.iter().filter(|one| !expected_told.contains(one)).collect();
    faults.check(told == expected_told, "reports", || {
        format!("not reported {missing:?}, reported wrongly {wrong:?}, of {}", told.len())
    });
    let left = queue_text(&rig.server);
    faults.check(left.is_empty(), "queue", || left.clone());
    faults.none_or_panic(&rig.server);
}

/// The recipients that the receiver has permanently refused.
fn refused(record: &Record, sent: &HashMap<String, (Vec<u8>, Vec<String>)>) -> Vec<String> {
    let whole = record.refused.iter().flat_map(|id| sent[id].1.clone());
    let mut refused: Vec<String> = whole.chain(record.refused_recipients.clone()).collect();
    refused.sort_unstable();
    refused.dedup();
    refused
}

fn check_arrivals(
    destination: &Destination,
    record: &Record,
    refused: &[String],
    sent: &HashMap<String, (Vec<u8>, Vec<String>)>,
    faults: &mut Faults,
) {
    for (id, (body, recipients)) in sent {
        for recipient in
            recipients.iter().filter(|one| one.ends_with(&format!("@{}", destination.domain)))
        {
            let to_it = |taken: &&Taken| taken.recipients.contains(recipient);
            let arrived: Vec<&Taken> = record.taken.iter().filter(to_it).collect();
            let answered = arrived.iter().filter(|taken| taken.answered).count();
            let expected = usize::from(!refused.contains(recipient));
            faults.check(answered == expected, &destination.name, || {
                format!("{recipient} arrived {answered} times, expected {expected}")
            });
            for taken in arrived {
                faults.check(
                    taken.id == *id && taken.body.ends_with(body),
                    &destination.name,
                    || format!("{recipient} got a different body"),
                );
            }
        }
    }
}

/// If the reply to a whole body was lost, the log warns of a second delivery.
fn check_warnings(destination: &Destination, record: &Record, log: &str, faults: &mut Faults) {
    let lost: usize = record
        .taken
        .iter()
        .filter(|taken| !taken.answered)
        .map(|taken| taken.recipients.len())
        .sum();
    let address = destination.receiver.address.to_string();
    let warned = log
        .lines()
        .filter(|line| line.contains(&address) && line.contains("may be delivered twice"))
        .count();
    faults.check(warned >= lost, &destination.name, || {
        format!("{lost} replies lost, {warned} warnings")
    });
}

fn check_healthy(destination: &Destination, began: &[(String, Instant)], faults: &mut Faults) {
    let record = destination.receiver.record();
    for (id, began) in began {
        let arrived: Vec<&Taken> = record.taken.iter().filter(|taken| taken.id == *id).collect();
        faults.check(arrived.len() == 1, &destination.name, || {
            format!("{id}: {} times", arrived.len())
        });
        for taken in arrived {
            let wait = taken.at.saturating_duration_since(*began);
            faults.check(wait < HEALTHY, &destination.name, || format!("{id} took {wait:?}"));
        }
    }
}
