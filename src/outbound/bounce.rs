//! Reports to the sender of a message: of failure, delay and success, as messages of their own.
//!
//! Owner:    the home shard of the reported message.
//! Promise:  a report has one kind and goes from the null sender to the sender of the message, or to
//!           nobody if that is the null sender (RFC 5321 s4.5.5). If a report of ours fails, the
//!           postmaster is notified if the config names one; if that fails too, it is only logged. So
//!           a report never causes more than one further report.
//! Bounds:   `ROWS_MAX` recipients per report; the rest get further reports. Of a large message only
//!           the header is quoted. At most the configured number of reports per minute is created.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::MessageId;
use crate::base::PublicId;
use crate::handoff::frame::Answer;
use crate::handoff::frame::Attempt;
use crate::handoff::frame::Mail;
use crate::handoff::frame::MailBody;
use crate::observe::log::Record;
use crate::outbound::home::Home;
use crate::queue::Labels;
use crate::queue::MessageReader;
use crate::queue::RecipientsBuf;
use crate::queue::SharedMessageReader;
use crate::queue::commit::settle::Report;
use crate::queue::record::envelope::BodySum;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::recipients::Recipient;
use crate::queue::record::texts::Fields;
use crate::queue::record::texts::Texts;
use crate::wire::classify::Category;
use crate::wire::classify::Cause;
use crate::wire::classify::Classifier;
use crate::wire::classify::RemoteReply;
use crate::wire::dsn;
use crate::wire::dsn::Kind;
use crate::wire::dsn::NOTIFY_NEVER;
use crate::wire::smtp::transaction::BodyType;
use crate::wire::smtp::transaction::Ret;

/// The protocol of mail made here. No client can bring mail by it.
const MADE_HERE: &str = "local";
/// The listener of reports to senders, for routes.
const REPORTS: &str = "reports";
/// That of reports to the postmaster about reports.
const DOUBLE_BOUNCES: &str = "double-bounces";
/// Recipients in one report. More make a report that no reader opens.
const ROWS_MAX: usize = 1000;
const MINUTE_US: u64 = 60_000_000;
/// What was not used of the last half minute may go at once.
const BURST_US: u64 = MINUTE_US / 2;

/// What is to be told of one recipient.
#[derive(Clone, Debug)]
pub struct Told {
    pub kind: Kind,
    pub index: u32,
    /// An expiry has the words of the last attempt, and `Cause::Expired`.
    pub answer: Answer,
}

/// The message that is told of, and its last attempt.
pub struct Story<'a> {
    pub mail: &'a Arc<Mail>,
    pub envelope: &'a Envelope<'a>,
    pub attempt: &'a Attempt,
    /// When the last attempt was, if this is of one.
    pub tried_ms: Option<u64>,
    pub expires_ms: u64,
    pub now_ms: u64,
}

/// What the log says of reports when they are durable.
pub enum Note {
    Made { id: MessageId, kind: Kind, to: Box<str>, recipients: usize, due_ms: u64 },
    Nobody { recipients: usize, reason: &'static str },
}

impl Note {
    pub fn emit(&self, of: PublicId) {
        match self {
            Note::Made { id, kind, to, recipients, due_ms } => Record::Reported {
                id: PublicId { local: *id, ..of },
                of,
                kind: kind.label(),
                to,
                recipients: *recipients,
                due_ms: *due_ms,
            }
            .emit(),
            Note::Nobody { recipients, reason } => {
                Record::NotReported { id: of, recipients: *recipients, reason }.emit();
            }
        }
    }
}

/// When reports are sent, so that refused mail with forged senders makes no flood of ours.
#[derive(Clone, Copy, Debug)]
pub struct ReportPace {
    next_us: u64,
}

impl ReportPace {
    /// Without a burst: a server that is started again and again is no way around the limit.
    pub fn new(now_ms: u64) -> ReportPace {
        ReportPace { next_us: now_ms * 1000 }
    }

    /// When the next one is due.
    pub fn take(&mut self, now_ms: u64, per_minute: u32) -> u64 {
        let now_us = now_ms * 1000;
        let at_us = self.next_us.max(now_us.saturating_sub(BURST_US));
        self.next_us = at_us + MINUTE_US / u64::from(per_minute.max(1));
        (at_us / 1000).max(now_ms)
    }
}

/// The messages that tell of it.
pub async fn reports(home: &Home, story: &Story<'_>, told: &[Told]) -> (Vec<Report>, Vec<Note>) {
    let mut made = (Vec::new(), Vec::new());
    if told.is_empty() {
        return made;
    }
    let recipients: Vec<Recipient<'_>> = story.envelope.recipients.iter().collect();
    let policy = home.policy();
    for kind in [Kind::Failed, Kind::Delayed, Kind::Delivered, Kind::Relayed] {
        let is_wanted = |told: &&Told| {
            told.kind == kind && dsn::wants(notify_of(story.envelope, &recipients, told), kind)
        };
        let rows: Vec<&Told> = told.iter().filter(is_wanted).collect();
        if rows.is_empty() {
            continue;
        }
        let (to, listener) = match reader(story.envelope, kind, policy.bounce.postmaster.as_deref())
        {
            Reader::Sender(sender) => (sender, REPORTS),
            Reader::Postmaster(postmaster) => (postmaster, DOUBLE_BOUNCES),
            Reader::Nobody(reason) => {
                let failed = kind == Kind::Failed;
                made.1.extend(failed.then_some(Note::Nobody { recipients: rows.len(), reason }));
                continue;
            }
        };
        let body_max = match (kind, story.envelope.ret) {
            // RFC 3461 s4.3: RET is for failures.
            (Kind::Failed, None | Some(Ret::Full)) => policy.bounce.body_bytes_max,
            _ => 0,
        };
        let body = read_body(home, story, body_max).await;
        for rows in rows.chunks(ROWS_MAX) {
            let paper =
                Paper { kind, to, listener, body: &body, body_max, recipients: &recipients };
            let Some(report) = write(home, story, &paper, rows) else { continue };
            let (id, due_ms, to) = (report.id, report.job.schedule.due_ms, to.into());
            made.1.push(Note::Made { id, kind, to, recipients: rows.len(), due_ms });
            made.0.push(report);
        }
    }
    made
}

/// Who reads a report.
enum Reader<'a> {
    Sender(&'a str),
    Postmaster(&'a str),
    Nobody(&'static str),
}

fn reader<'a>(envelope: &Envelope<'a>, kind: Kind, postmaster: Option<&'a str>) -> Reader<'a> {
    match (envelope.sender, postmaster) {
        (Some(sender), _) => Reader::Sender(sender),
        (None, _) if kind != Kind::Failed => Reader::Nobody("the sender is null"),
        (None, _) if is_ours(envelope) && envelope.listener == DOUBLE_BOUNCES => {
            Reader::Nobody("the message is itself a report to the postmaster")
        }
        (None, Some(postmaster)) => Reader::Postmaster(postmaster),
        (None, None) => Reader::Nobody("the sender is null and delivery.postmaster is not set"),
    }
}

fn is_ours(envelope: &Envelope<'_>) -> bool {
    envelope.sender.is_none() && envelope.protocol == MADE_HERE
}

/// What the recipient's NOTIFY said. That of our own reports is for the servers they pass.
fn notify_of(envelope: &Envelope<'_>, recipients: &[Recipient<'_>], told: &Told) -> u8 {
    match recipients.get(told.index as usize) {
        Some(recipient) if !is_ours(envelope) => recipient.notify,
        _ => 0,
    }
}

/// What the reports of one kind have in common.
struct Paper<'a> {
    kind: Kind,
    to: &'a str,
    listener: &'a str,
    body: &'a [u8],
    body_max: u64,
    recipients: &'a [Recipient<'a>],
}

fn write(home: &Home, story: &Story<'_>, paper: &Paper<'_>, rows: &[&Told]) -> Option<Report> {
    let Story { mail, envelope, attempt, now_ms, .. } = *story;
    let store = home.stores.get(&mail.id.partition())?;
    let id = store.committer.next_id(now_ms);
    let policy = home.policy();
    let remote_mta = mta_name(&attempt.host);
    let causes: Vec<Option<String>> = rows.iter().map(|told| cause_text(&told.answer)).collect();
    let each = rows.iter().zip(&causes);
    let rows: Vec<dsn::ReportRecipient<'_>> = each
        .filter_map(|(told, cause)| {
            let (answer, recipient) = (&told.answer, paper.recipients.get(told.index as usize)?);
            Some(dsn::ReportRecipient {
                mailbox: recipient.mailbox,
                orcpt: recipient.orcpt,
                status: status_of(paper.kind, answer.status),
                category: category_of(answer, Some(&attempt.host)),
                reply: answer.remote.then_some(&*answer.text),
                cause: cause.as_deref(),
                // RFC 3464 s2.3.5: the server that said so, if one did.
                remote_mta: remote_mta.as_deref().filter(|_| answer.remote),
                last_attempt_ms: story.tried_ms,
                will_retry_until_ms: Some(story.expires_ms),
            })
        })
        .collect();
    let slices = [paper.body];
    let is_whole = envelope.bytes() == paper.body.len() as u64;
    let mut text = Vec::with_capacity(4096 + paper.body.len());
    let built = dsn::Report {
        kind: paper.kind,
        reporting_mta: &home.hostname,
        from: &policy.bounce.from,
        to: paper.to,
        id: &mail.partition.public_id(id).to_string(),
        now_ms,
        arrival_ms: envelope.received_ms,
        envid: envelope.envid,
        received_from: Some(envelope.helo).filter(|helo| !helo.is_empty()),
        recipients: &rows,
        original: dsn::Original {
            slices: &slices,
            ret: envelope.ret,
            full_bytes_max: if is_whole { paper.body_max as usize } else { 0 },
            smtputf8: envelope.smtputf8,
        },
    }
    .write(&mut text);
    let mut recipients = RecipientsBuf::default();
    // RFC 3461 s6.1: NEVER is the one word that may stand beside a report.
    recipients.push(&Recipient { mailbox: paper.to, notify: NOTIFY_NEVER, orcpt: None }).ok()?;
    let stored = Envelope {
        received_ms: now_ms,
        intake_ms: 0,
        sender: None,
        smtputf8: built.smtputf8,
        // RFC 8689 s5: a report is to be protected as what it reports of.
        requiretls: envelope.requiretls,
        body_type: match built.eight_bit {
            true => BodyType::EightBitMime,
            false => BodyType::SevenBit,
        },
        ret: Some(Ret::Headers),
        envid: None,
        auth: None,
        declared_bytes: None,
        body: BodySum::default(),
        peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        helo: &home.hostname,
        listener: paper.listener,
        protocol: MADE_HERE,
        tls: None,
        message_id: None,
        head_bytes: 0,
        kept_until_ms: None,
        tenant: envelope.tenant,
        credential: None,
        stream: envelope.stream,
        tags: Texts::default(),
        metadata: Fields::default(),
        labels: Labels::default(),
        recipients: recipients.as_recipients(),
    };
    let mut pace = home.pace.get();
    let due_ms = pace.take(now_ms, home.share_of(policy.bounce.per_minute_max));
    home.pace.set(pace);
    Report::new(id, &stored, text, due_ms).ok()
}

/// RFC 3464 s2.3.5: a name, or an address as a domain literal.
fn mta_name(host: &str) -> Option<String> {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => Some(format!("[{address}]")),
        Ok(IpAddr::V6(address)) => Some(format!("[IPv6:{address}]")),
        // A Unix socket has no name that others know.
        Err(_) => Some(host.to_owned()).filter(|host| !host.is_empty() && !host.contains('/')),
    }
}

/// RFC 3464 s2.3.4: the class fits what is told, whatever a server has paired it with. A failure
/// may be one that was never final (s2.3.3).
fn status_of(kind: Kind, (class, subject, detail): (u8, u16, u16)) -> (u8, u16, u16) {
    match kind {
        Kind::Failed if class == 4 => (4, subject, detail),
        Kind::Failed => (5, subject, detail),
        Kind::Delayed => (4, subject, detail),
        Kind::Delivered | Kind::Relayed | Kind::Expanded => (2, subject, detail),
    }
}

/// Our own part of what is said. Where a server has spoken there may be none.
fn cause_text(answer: &Answer) -> Option<String> {
    match (answer.cause, answer.remote) {
        (None, true) => None,
        (None, false) => Some(answer.text.to_string()),
        (Some(cause), false) if !answer.text.is_empty() => {
            Some(format!("{} ({})", cause.text(), answer.text))
        }
        (Some(cause), _) => Some(cause.text().to_owned()),
    }
}

pub fn category_of(answer: &Answer, host: Option<&str>) -> Category {
    thread_local! {
        static RULES: Classifier = Classifier::built_in();
    }
    if let Some(cause) = answer.cause {
        return Cause::verdict(cause).category;
    }
    let (code, text) = match answer.text.split_at_checked(3) {
        Some((code, rest)) => (code.parse().unwrap_or(0), rest.get(1..).unwrap_or("")),
        None => (0, &*answer.text),
    };
    // One without an enhanced code was given a class and nothing else: the text is asked.
    let enhanced = Some(answer.status).filter(|status| status.1 != 0 || status.2 != 0);
    let reply = RemoteReply { code, enhanced, text, host };
    RULES.with(|rules| rules.classify(&reply).verdict.category)
}

/// As much of the body as a report may return: all of one that is short enough, else what surely
/// has the header.
async fn read_body(home: &Home, story: &Story<'_>, whole_max: u64) -> Vec<u8> {
    if let MailBody::Held(bytes) = &story.mail.body {
        return bytes.to_vec();
    }
    let (partition, id) = (Arc::clone(&story.mail.partition), story.mail.id);
    let is_whole = story.envelope.bytes() <= whole_max;
    let mut pieces: SharedMessageReader = MessageReader::new(partition, id, story.envelope);
    let read = home.reader.run(move || {
        let mut body = Vec::new();
        let mut bodies = 0;
        while let Some(Ok(())) = pieces.next_piece(|piece| body.extend_from_slice(piece)) {
            bodies += 1;
            // The head, and the first chunk where the header goes on in it.
            if !is_whole && bodies == 2 {
                break;
            }
        }
        body
    });
    // What cannot be read is missing in the report, which is better than no report.
    read.await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_keep_their_pace() {
        let mut pace = ReportPace::new(100_000);
        let dues: Vec<u64> = (0..4).map(|_| pace.take(100_000, 60)).collect();
        assert_eq!(dues, [100_000, 101_000, 102_000, 103_000], "no burst after a start");
        let later = 1_000_000;
        let dues: Vec<u64> = (0..33).map(|_| pace.take(later, 60)).collect();
        assert_eq!(dues.iter().filter(|due| **due == later).count(), 31, "half a minute's");
        assert_eq!(dues[32], later + 2000);
        let mut fast = ReportPace::new(0);
        let last = (0..1_000_000).map(|_| fast.take(0, 1_000_000)).last();
        assert_eq!(last, Some(59_999));
        assert_eq!(ReportPace::new(5).take(5, 0), 5, "no limit of nothing");
    }

    #[test]
    fn a_status_fits_its_report() {
        let rows = [
            (Kind::Failed, (5, 1, 1), (5, 1, 1)),
            (Kind::Failed, (4, 4, 7), (4, 4, 7)),
            (Kind::Failed, (2, 0, 0), (5, 0, 0)),
            (Kind::Delayed, (5, 0, 0), (4, 0, 0)),
            (Kind::Relayed, (5, 0, 0), (2, 0, 0)),
        ];
        for (kind, said, told) in rows {
            assert_eq!(status_of(kind, said), told, "{kind:?} {said:?}");
        }
    }

    #[test]
    fn who_said_what_is_kept_apart() {
        let said =
            Answer { status: (4, 3, 0), text: "451 4.3.0 later".into(), remote: true, cause: None };
        assert_eq!(cause_text(&said), None);
        let expired = Answer { cause: Some(Cause::Expired), ..said.clone() };
        assert_eq!(cause_text(&expired).as_deref(), Some(Cause::Expired.text()));
        assert_eq!(category_of(&expired, None), Category::Expired);
        let ours = Answer::ours(Cause::NoDomain, "x.test: none");
        let text = "The domain does not exist. (x.test: none)";
        assert_eq!(cause_text(&ours).as_deref(), Some(text));
        let full = Answer { status: (5, 0, 0), text: "550 mailbox full".into(), ..said };
        assert_eq!(category_of(&full, None), Category::QuotaFull);
    }

    #[test]
    fn servers_are_named_as_dns_has_them() {
        let rows = [
            ("mx.test", Some("mx.test")),
            ("192.0.2.1", Some("[192.0.2.1]")),
            ("::1", Some("[IPv6:::1]")),
            ("unix:/run/lmtp", None),
            ("", None),
        ];
        for (host, name) in rows {
            assert_eq!(mta_name(host).as_deref(), name);
        }
    }
}
