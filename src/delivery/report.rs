//! Reports to the sender of a message: of failure, delay and success, as messages of their own.
//!
//! Owner:    the home shard of the message.
//! Promise:  a report has one kind and goes from the null sender to the sender of the message, or to
//!           nobody if that is the null sender (RFC 5321 s4.5.5). If a report of ours fails, the
//!           postmaster is notified if the config names one; if that fails too, it is only logged. So
//!           a report never causes more than one further report.
//! Bounds:   `ROWS_MAX` recipients per report; more make further reports. Of a large message only the
//!           header is quoted. No more than the configured number of reports leaves per minute. All
//!           reports that are not stored yet, and what they quote, take `REPORT_BYTES_MAX` of memory;
//!           further ones wait before a body is read.

use std::borrow::Cow;
use std::cell::Cell;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::MessageId;
use crate::base::PublicId;
use crate::base::limits::CHUNK_BYTES;
use crate::base::limits::REPORT_BYTES_MAX;
use crate::config::SenderReports;
use crate::delivery::byte_gate::ByteGate;
use crate::delivery::byte_gate::HeldBytes;
use crate::delivery::report_pace::ReportPace;
use crate::delivery::verdict::category_of;
use crate::delivery::verdict::cause_text;
use crate::delivery::verdict::mta_name;
use crate::delivery::verdict::status_of;
use crate::delivery::write::Told;
use crate::handoff::Reader;
use crate::handoff::frame::Attempt;
use crate::handoff::frames::Mail;
use crate::handoff::frames::MailBody;
use crate::observe::log::Record;
use crate::queue::Committer;
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
use crate::route::delivery::DeliveryPolicy;
use crate::wire::dsn;
use crate::wire::dsn::Kind;
use crate::wire::dsn::NOTIFY_NEVER;
use crate::wire::smtp::transaction::BodyType;
use crate::wire::smtp::transaction::Ret;

/// The protocol of mail that this server makes. No client can send mail with it.
const MADE_HERE: &str = "local";
/// The listener of reports to senders, for routes.
const REPORTS: &str = "reports";
/// The listener of reports to the postmaster about reports.
const DOUBLE_BOUNCES: &str = "double-bounces";
/// Recipients in one report. Nobody reads a longer one.
const ROWS_MAX: usize = 1000;
/// Bytes of a report without its rows and the quoted message, and of a row.
const TEXT_BYTES: usize = 4096;
const ROW_BYTES: usize = 1024;
/// The message to report about, and its last attempt.
pub struct Story<'a> {
    pub mail: &'a Arc<Mail>,
    pub envelope: &'a Envelope<'a>,
    pub attempt: &'a Attempt,
    /// The time of the last attempt, if the report is about one.
    pub tried_ms: Option<u64>,
    pub expires_ms: u64,
    pub now_ms: u64,
    /// Of the partition of the message.
    pub committer: &'a Committer,
    pub policy: &'a DeliveryPolicy,
}

/// What the log says of reports once they are durable.
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

/// Builds the reports of one shard.
pub struct Reporter {
    hostname: Box<str>,
    reader: Reader,
    pace: Cell<ReportPace>,
    gate: Rc<ByteGate>,
    shards: u32,
}

/// Reports to store with the state that they report, and what the log says of them.
#[derive(Default)]
pub struct Reports {
    pub list: Vec<Report>,
    pub notes: Vec<Note>,
    /// The memory of the reports, to be held until they are stored.
    pub held: Option<HeldBytes>,
}

impl Reporter {
    pub fn new(hostname: Box<str>, reader: Reader, shards: usize, now_ms: u64) -> Reporter {
        let pace = Cell::new(ReportPace::new(now_ms));
        let gate = ByteGate::new(REPORT_BYTES_MAX);
        Reporter { hostname, reader, pace, gate, shards: shards.max(1) as u32 }
    }

    /// The reports about these recipients.
    pub async fn reports(&self, story: &Story<'_>, told: &[Told]) -> Reports {
        let mut made = Reports::default();
        let recipients: Vec<Recipient<'_>> = story.envelope.recipients.iter().collect();
        let papers = papers(story, told, &recipients, &mut made.notes);
        let Some(body_max) = papers.iter().map(|paper| paper.body_max).max() else { return made };
        let body_bytes = body_bytes(story.envelope, body_max);
        let texts: usize = papers.iter().map(|paper| paper.text_bytes(body_bytes)).sum();
        made.held = Some(self.gate.take(body_bytes + texts).await);
        let body = self.read_body(story, body_max).await;
        for paper in &papers {
            for rows in paper.rows.chunks(ROWS_MAX) {
                let Some(report) = self.write(story, paper, &recipients, (&body, rows)) else {
                    continue;
                };
                made.notes.push(Note::Made {
                    id: report.id,
                    kind: paper.kind,
                    to: paper.to.into(),
                    recipients: rows.len(),
                    due_ms: report.job.schedule.due_ms,
                });
                made.list.push(report);
            }
        }
        made
    }

    fn write(
        &self,
        story: &Story<'_>,
        paper: &Paper<'_>,
        recipients: &[Recipient<'_>],
        (body, rows): (&[u8], &[&Told]),
    ) -> Option<Report> {
        let Story { mail, envelope, attempt, now_ms, policy, .. } = *story;
        let id = story.committer.next_id(now_ms);
        let remote_mta = mta_name(&attempt.host);
        let causes: Vec<Option<String>> =
            rows.iter().map(|told| cause_text(&told.answer)).collect();
        let each = rows.iter().zip(&causes);
        let rows: Vec<dsn::ReportRecipient<'_>> = each
            .filter_map(|(told, cause)| {
                let (answer, recipient) = (&told.answer, recipients.get(told.index as usize)?);
                Some(dsn::ReportRecipient {
                    mailbox: recipient.mailbox,
                    orcpt: recipient.orcpt,
                    status: status_of(paper.kind, answer.status),
                    category: category_of(&policy.replies, answer, &attempt.host),
                    reply: answer.remote.then_some(&*answer.text),
                    cause: cause.as_deref(),
                    // RFC 3464 s2.3.5: the server that replied, if one did.
                    remote_mta: remote_mta.as_deref().filter(|_| answer.remote),
                    last_attempt_ms: story.tried_ms,
                    will_retry_until_ms: Some(story.expires_ms),
                })
            })
            .collect();
        let is_whole = envelope.bytes() == body.len() as u64;
        let mut text = Vec::with_capacity(TEXT_BYTES + body.len());
        let built = dsn::Report {
            kind: paper.kind,
            reporting_mta: &self.hostname,
            from: &policy.bounce.from,
            to: paper.to,
            id: &PublicId { local: id, ..mail.public_id }.to_string(),
            now_ms,
            arrival_ms: envelope.received_ms,
            envid: envelope.envid,
            received_from: Some(envelope.helo).filter(|helo| !helo.is_empty()),
            recipients: &rows,
            original: dsn::Original {
                slices: &[body],
                ret: envelope.ret,
                full_bytes_max: if is_whole { paper.body_max as usize } else { 0 },
                smtputf8: envelope.smtputf8,
            },
        }
        .write(&mut text);
        let mut pace = self.pace.get();
        let due_ms = pace.take(now_ms, policy.bounce.per_minute_max / self.shards);
        self.pace.set(pace);
        let mut to = RecipientsBuf::default();
        // RFC 3461 s6.1: NEVER is the only parameter of a report.
        to.push(&Recipient { mailbox: paper.to, notify: NOTIFY_NEVER, orcpt: None }).ok()?;
        let stored = self.envelope(envelope, paper, built, (&to, now_ms));
        Report::new(id, &stored, text, due_ms).ok()
    }

    /// The envelope of a report about the message with the envelope `of`.
    fn envelope<'a>(
        &'a self,
        of: &Envelope<'a>,
        paper: &Paper<'a>,
        built: dsn::Built,
        (to, now_ms): (&'a RecipientsBuf, u64),
    ) -> Envelope<'a> {
        Envelope {
            received_ms: now_ms,
            intake_ms: 0,
            sender: None,
            smtputf8: built.smtputf8,
            // RFC 8689 s5: a report is protected like the message.
            requiretls: of.requiretls,
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
            helo: &self.hostname,
            listener: paper.listener,
            protocol: MADE_HERE,
            tls: None,
            message_id: None,
            head_bytes: 0,
            kept_until_ms: None,
            tenant: of.tenant,
            credential: None,
            stream: of.stream,
            tags: Texts::default(),
            metadata: Fields::default(),
            labels: Labels::default(),
            recipients: to.as_recipients(),
        }
    }

    /// The body if it is short enough, else the beginning of the message with its header.
    async fn read_body<'s>(&self, story: &Story<'s>, whole_max: u64) -> Cow<'s, [u8]> {
        let partition = match &story.mail.body {
            MailBody::Held(bytes) => return Cow::Borrowed(bytes),
            MailBody::Stored(partition) => Arc::clone(partition),
        };
        let id = story.mail.id;
        let is_whole = story.envelope.bytes() <= whole_max;
        let mut pieces: SharedMessageReader = MessageReader::new(partition, id, story.envelope);
        let read = self.reader.run(move || {
            let mut body = Vec::new();
            let mut bodies = 0;
            while let Some(Ok(())) = pieces.next_piece(|piece| body.extend_from_slice(piece)) {
                bodies += 1;
                // The head, and the first chunk, in which the header may continue.
                if !is_whole && bodies == 2 {
                    break;
                }
            }
            body
        });
        // A report without the original is better than none.
        read.await.unwrap_or_default().into()
    }
}

/// The reports of one kind about one message.
struct Paper<'a> {
    kind: Kind,
    to: &'a str,
    listener: &'static str,
    body_max: u64,
    rows: Vec<&'a Told>,
}

impl Paper<'_> {
    /// Memory of the texts.
    fn text_bytes(&self, body_bytes: usize) -> usize {
        self.rows.len().div_ceil(ROWS_MAX) * (TEXT_BYTES + body_bytes) + self.rows.len() * ROW_BYTES
    }
}

/// Memory for what `read_body` returns.
fn body_bytes(envelope: &Envelope<'_>, whole_max: u64) -> usize {
    match envelope.bytes() {
        whole if whole <= whole_max => whole as usize,
        _ => envelope.head_bytes as usize + CHUNK_BYTES,
    }
}

fn papers<'a>(
    story: &Story<'a>,
    told: &'a [Told],
    recipients: &[Recipient<'_>],
    notes: &mut Vec<Note>,
) -> Vec<Paper<'a>> {
    let bounce = &story.policy.bounce;
    let reports = match is_report(story.envelope) {
        true => SenderReports::All,
        false => bounce.reports_of(story.envelope.listener),
    };
    let mut papers = Vec::new();
    for kind in [Kind::Failed, Kind::Delayed, Kind::Delivered, Kind::Relayed] {
        let is_wanted = |told: &&Told| {
            told.kind == kind && dsn::wants(notify_of(story.envelope, recipients, told), kind)
        };
        let rows: Vec<&Told> = told.iter().filter(is_wanted).collect();
        if rows.is_empty() || kind == Kind::Delayed && reports == SenderReports::NoDelays {
            continue;
        }
        let postmaster = bounce.postmaster.as_deref();
        let (to, listener) = match addressee(reports, story.envelope, kind, postmaster) {
            Ok(addressee) => addressee,
            Err(reason) => {
                let failed = kind == Kind::Failed;
                notes.extend(failed.then_some(Note::Nobody { recipients: rows.len(), reason }));
                continue;
            }
        };
        let body_max = match (kind, story.envelope.ret) {
            // RFC 3461 s4.3: RET applies to failures only.
            (Kind::Failed, None | Some(Ret::Full)) => bounce.body_bytes_max,
            _ => 0,
        };
        papers.push(Paper { kind, to, listener, body_max, rows });
    }
    papers
}

/// Who gets a report, and the listener that it seems to come by; or why nobody does.
fn addressee<'a>(
    reports: SenderReports,
    envelope: &Envelope<'a>,
    kind: Kind,
    postmaster: Option<&'a str>,
) -> Result<(&'a str, &'static str), &'static str> {
    match (envelope.sender, postmaster) {
        (Some(_), _) if reports == SenderReports::None => Err("the listener sends no reports"),
        (Some(sender), _) => Ok((sender, REPORTS)),
        (None, _) if kind != Kind::Failed => Err("the sender is null"),
        (None, _) if is_report(envelope) && envelope.listener == DOUBLE_BOUNCES => {
            Err("the message is itself a report to the postmaster")
        }
        (None, Some(postmaster)) => Ok((postmaster, DOUBLE_BOUNCES)),
        (None, None) => Err("the sender is null and delivery.postmaster is not set"),
    }
}

/// Whether this server has made the message.
fn is_report(envelope: &Envelope<'_>) -> bool {
    envelope.sender.is_none() && envelope.protocol == MADE_HERE
}

/// The NOTIFY parameter of the recipient. That of our own reports is meant for other servers.
fn notify_of(envelope: &Envelope<'_>, recipients: &[Recipient<'_>], told: &Told) -> u8 {
    match recipients.get(told.index as usize) {
        Some(recipient) if !is_report(envelope) => recipient.notify,
        _ => 0,
    }
}
