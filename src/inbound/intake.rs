//! An intake: one message on its way in.
//!
//! Owner:    one session, from the first body byte to the durable line or to the refusal.
//! Promise:  every body byte is counted, summed, scanned and stored exactly once, or none is kept:
//!           an intake that is refused or dropped leaves nothing behind that a sweep does not
//!           remove.
//! Order:    full chunks go to the store unsynced while the body still comes; the last ones go
//!           with the envelope, in the batch that is synced before the 250.
//! Bounds:   one chunk being filled, one held back and `STREAM_CHUNKS_IN_FLIGHT_MAX` on their way,
//!           whatever the size of the body.

use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use crate::base::Chunk;
use crate::base::Slice;
use crate::base::StreamNumber;
use crate::base::TenantId;
use crate::base::limits::SWALLOW_BYTES_MAX;
use crate::inbound::policy::LabelFields;
use crate::inbound::policy::MinimumRate;
use crate::inbound::reception::BodySlot;
use crate::inbound::reception::Reception;
use crate::inbound::session::Session;
use crate::observe::label::BodyRefusal;
use crate::queue;
use crate::queue::Body;
use crate::queue::CommitFault;
use crate::queue::Committed;
use crate::queue::Envelope;
use crate::queue::record::envelope::BodySum;
use crate::queue::record::texts::FieldsBuf;
use crate::wire::dsn;
use crate::wire::mail::address::ReversePath;
use crate::wire::mail::header::HeaderScan;
use crate::wire::mail::received::Received;
use crate::wire::mail::received::with_protocol;
use crate::wire::smtp::line_law::LineLaw;
use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::transaction::BodyType;
use crate::wire::smtp::transaction::Notify;
use crate::wire::smtp::transaction::Transaction;

/// A chunk with less room than this is stored as it is: a read into a few bytes costs as much as
/// one into many.
const ROOM_WORTH_A_READ: usize = 4096;

/// What the peer hears while the disk does not answer.
pub const STORE_HUNG: &str = "Mail storage does not answer, try again later";

/// What an intake checks while the bytes pass.
#[derive(Clone, Copy, Debug)]
pub struct IntakeLimits {
    /// 0 for no bound.
    pub size_max: u64,
    pub received_max: u32,
    pub line_bytes_max: Option<u64>,
}

pub struct Intake {
    pub began: Instant,
    pub meter: Meter,
    limits: IntakeLimits,
    bytes: u64,
    swallowed: u64,
    /// Bytes of the line under way, when lines are bounded.
    line_bytes: u64,
    /// Judges the lines of a body that comes by BDAT.
    pub lines: LineLaw,
    scan: HeaderScan,
    current: Option<Chunk>,
    fate: Fate,
    _slot: BodySlot,
}

enum Fate {
    Open(Box<Body>),
    Refused(Reply, BodyRefusal),
}

impl Intake {
    /// Without a store that takes mail, the body is read and refused.
    pub fn new(
        reception: &Rc<Reception>,
        limits: IntakeLimits,
        scan: HeaderScan,
        now_ms: u64,
    ) -> Intake {
        let body = match reception.next_committer() {
            Some(committer) => committer.body(now_ms),
            None => Err(reception.store_fault().unwrap_or(CommitFault::Failed)),
        };
        Intake {
            began: Instant::now(),
            meter: Meter::new(),
            limits,
            bytes: 0,
            swallowed: 0,
            line_bytes: 0,
            lines: LineLaw::default(),
            scan,
            current: None,
            fate: match body {
                Ok(body) => Fate::Open(Box::new(body)),
                Err(fault) => refused(fault),
            },
            _slot: reception.take_body_slot(),
        }
    }

    /// Whether so much of a refused body has come that its sender will not stop by itself.
    pub fn is_flooded(&self) -> bool {
        self.swallowed > SWALLOW_BYTES_MAX
    }

    pub fn is_refused(&self) -> bool {
        matches!(self.fate, Fate::Refused(..))
    }

    /// Nothing of the body has come yet, not even along with the command.
    pub fn is_fresh(&self) -> bool {
        self.bytes == 0
    }

    /// The chunk to receive into, if one is begun.
    pub fn take_current(&mut self) -> Option<Chunk> {
        self.current.take()
    }

    /// Puts back the chunk of which everything from `noted` on is fresh body.
    pub async fn put_current(&mut self, mut chunk: Chunk, noted: usize, reception: &Reception) {
        self.note(&chunk.bytes()[noted..]);
        let Fate::Open(body) = &mut self.fate else {
            self.swallowed += (chunk.len() - noted) as u64;
            reception.pool.give(chunk);
            return;
        };
        if chunk.is_empty() {
            reception.pool.give(chunk);
        } else if chunk.room().len() >= ROOM_WORTH_A_READ {
            self.current = Some(chunk);
        } else if let Err(fault) = body.push(whole(chunk)).await {
            self.fate = refused(fault);
        }
        self.judge(reception);
    }

    /// From here on the body is read and dropped; what was kept of it is given up.
    pub fn refuse(&mut self, reply: Reply, why: BodyRefusal, reception: &Reception) {
        self.fate = Fate::Refused(reply, why);
        if let Some(chunk) = self.current.take() {
            reception.pool.give(chunk);
        }
    }

    /// The session ended, or its transaction was reset. What was streamed is swept by the store.
    pub fn abandon(mut self: Box<Intake>, reception: &Reception) {
        if let Some(chunk) = self.current.take() {
            reception.pool.give(chunk);
        }
    }

    /// The body is complete: commit it, or say why not.
    pub async fn finish(
        mut self: Box<Intake>,
        session: &Session,
        tx: &Transaction<'_>,
    ) -> Result<Kept, (Reply, BodyRefusal)> {
        let mut body = match self.fate {
            Fate::Open(body) => body,
            Fate::Refused(reply, why) => return Err((reply, why)),
        };
        if let Some(chunk) = self.current.take() {
            body.push(whole(chunk)).await.map_err(reply_to)?;
        }
        let began = Instant::now();
        let committed = {
            let reception = &session.reception;
            let now_ms = session.now_ms();
            let id = body.id().to_string();
            let mut trace = reception.take_output();
            write_trace(session, tx, (&id, now_ms), &mut trace);
            let mut recipients = reception.take_recipients();
            let noted = note_recipients(tx, &mut recipients);
            let labels = OwnLabels::of(&self.scan, &session.policy.labels);
            let since = session.transaction_began.unwrap_or(self.began);
            let envelope = Envelope {
                received_ms: now_ms,
                intake_ms: u32::try_from(since.elapsed().as_millis()).unwrap_or(u32::MAX),
                message_id: self.scan.message_id(),
                labels: labels.as_labels(),
                recipients: recipients.as_recipients(),
                ..envelope_of(session, tx)
            };
            let committed = match noted {
                Ok(()) => body.finish(&trace, &envelope, now_ms).await,
                Err(fault) => Err(CommitFault::Record(fault)),
            };
            reception.give_output(trace);
            reception.give_recipients(recipients);
            committed.map_err(reply_to)?
        };
        Ok(Kept {
            committed,
            commit_us: began.elapsed().as_micros() as u64,
            message_id: self.scan.message_id().map(Box::from),
        })
    }

    /// Counts body bytes and reads what the header shows.
    fn note(&mut self, fresh: &[u8]) {
        self.bytes += fresh.len() as u64;
        if self.is_refused() {
            return;
        }
        self.scan.feed(fresh);
        if self.limits.line_bytes_max.is_some() {
            self.note_lines(fresh);
        }
    }

    fn note_lines(&mut self, fresh: &[u8]) {
        let line_bytes_max = self.limits.line_bytes_max.unwrap_or(u64::MAX);
        for line in fresh.split_inclusive(|byte| *byte == b'\n') {
            self.line_bytes += line.len() as u64;
            if self.line_bytes > line_bytes_max {
                // Found once is enough; nothing resets it any more.
                self.line_bytes = u64::MAX >> 1;
                return;
            }
            if line.ends_with(b"\n") {
                self.line_bytes = 0;
            }
        }
    }

    /// The limits, judged between chunks so that a refusal can free what is held.
    fn judge(&mut self, reception: &Reception) {
        if self.is_refused() {
            return;
        }
        let limits = self.limits;
        if limits.size_max > 0 && self.bytes > limits.size_max {
            let text = "Message is larger than this server accepts";
            self.refuse(Reply::new(552, (5, 3, 4), text), BodyRefusal::Size, reception);
        } else if self.scan.received_count() > limits.received_max {
            let text = "Too many hops, this message is looping";
            self.refuse(Reply::new(554, (5, 4, 6), text), BodyRefusal::Loop, reception);
        } else if limits.line_bytes_max.is_some_and(|most| self.line_bytes > most) {
            let text = "A line of the message is too long";
            self.refuse(Reply::new(554, (5, 6, 0), text), BodyRefusal::LineLength, reception);
        }
    }
}

/// What the header says that is kept with the message.
struct OwnLabels {
    tenant: Option<String>,
    campaign: Option<String>,
    fields: FieldsBuf,
}

impl OwnLabels {
    fn of(scan: &HeaderScan, wanted: &LabelFields) -> OwnLabels {
        let picked = scan.picked();
        let label = |place: Option<usize>| picked.value(place?).filter(|value| !value.is_empty());
        let mut fields = FieldsBuf::default();
        for &place in &wanted.routed {
            if let Some(value) = picked.value(place) {
                let pushed = fields.push(wanted.wanted.name(place), &value);
                pushed.expect("names and values are short, and few");
            }
        }
        OwnLabels { tenant: label(wanted.tenant), campaign: label(wanted.campaign), fields }
    }

    fn as_labels(&self) -> queue::Labels<'_> {
        queue::Labels {
            tenant: self.tenant.as_deref(),
            campaign: self.campaign.as_deref(),
            fields: self.fields.as_fields(),
        }
    }
}

/// A message behind the durable line.
pub struct Kept {
    pub committed: Committed,
    pub commit_us: u64,
    pub message_id: Option<Box<str>>,
}

/// The sender as the log and the store write it: empty for the null sender.
pub fn sender_text<'t>(tx: &Transaction<'t>) -> &'t str {
    match tx.sender {
        Some(ReversePath::Mailbox(mailbox)) => mailbox.as_str(),
        Some(ReversePath::Null) | None => "",
    }
}

/// The protocol as Received names it.
pub fn protocol_name(session: &Session, tx: &Transaction<'_>) -> &'static str {
    let server = &session.server;
    with_protocol(server.is_lmtp(), server.is_esmtp(), server.is_tls(), false, tx.params.smtputf8)
}

/// What the log calls the kind of body.
pub fn body_name(tx: &Transaction<'_>) -> &'static str {
    match tx.params.body {
        BodyType::SevenBit => "7bit",
        BodyType::EightBitMime => "8bitmime",
        BodyType::BinaryMime => "binarymime",
    }
}

/// Everything that is known before the body; the rest is filled in when it is.
fn envelope_of<'a>(session: &'a Session, tx: &Transaction<'a>) -> Envelope<'a> {
    let params = &tx.params;
    Envelope {
        received_ms: 0,
        intake_ms: 0,
        sender: match tx.sender {
            Some(ReversePath::Mailbox(mailbox)) => Some(mailbox.as_str()),
            Some(ReversePath::Null) | None => None,
        },
        smtputf8: params.smtputf8,
        requiretls: params.requiretls,
        body_type: params.body,
        ret: params.ret,
        envid: params.envid,
        auth: params.auth,
        declared_bytes: params.size,
        body: BodySum::default(),
        peer: session.peer.address,
        helo: session.helo(),
        listener: &session.listener.name,
        protocol: protocol_name(session, tx),
        tls: session
            .channel
            .tls_facts()
            .map(|facts| queue::Tls { version: facts.version, cipher: facts.cipher }),
        message_id: None,
        head_bytes: 0,
        kept_until_ms: None,
        tenant: TenantId::OPERATOR,
        credential: None,
        stream: StreamNumber::TRANSACTIONAL,
        tags: queue::record::texts::Texts::default(),
        metadata: queue::record::texts::Fields::default(),
        labels: queue::Labels::default(),
        recipients: queue::Recipients::default(),
    }
}

fn note_recipients(
    tx: &Transaction<'_>,
    recipients: &mut queue::RecipientsBuf,
) -> Result<(), queue::record::outer::RecordFault> {
    tx.recipients.iter().try_for_each(|recipient| {
        recipients.push(&queue::Recipient {
            mailbox: recipient.mailbox.as_str(),
            notify: match recipient.notify {
                None => 0,
                Some(Notify::Never) => dsn::NOTIFY_NEVER,
                Some(Notify::On { success, failure, delay }) => [
                    (success, dsn::NOTIFY_SUCCESS),
                    (failure, dsn::NOTIFY_FAILURE),
                    (delay, dsn::NOTIFY_DELAY),
                ]
                .into_iter()
                .filter_map(|(asked, flag)| asked.then_some(flag))
                .fold(0, |all, flag| all | flag),
            },
            orcpt: recipient.orcpt,
        })
    })
}

fn write_trace(
    session: &Session,
    tx: &Transaction<'_>,
    (id, at_ms): (&str, u64),
    out: &mut Vec<u8>,
) {
    // RFC 5321 s7.6: a `for` with several recipients would tell one of the others.
    let only = match &tx.recipients[..] {
        [only] => Some(only.mailbox.as_str()),
        _ => None,
    };
    Received {
        helo: session.helo(),
        peer_name: session.peer.name.as_deref(),
        peer: session.peer.address.ip(),
        by: &session.listener.server.hostname,
        with: protocol_name(session, tx),
        tls: session.channel.tls_facts().map(|facts| (facts.version, facts.cipher)),
        id,
        for_: only,
        at_ms,
    }
    .write(out);
}

fn whole(chunk: Chunk) -> Slice {
    let length = chunk.len();
    Slice::new(chunk, 0..length)
}

fn refused(fault: CommitFault) -> Fate {
    let (reply, why) = reply_to(fault);
    Fate::Refused(reply, why)
}

/// What the peer hears when the store does not take a message.
fn reply_to(fault: CommitFault) -> (Reply, BodyRefusal) {
    let (code, enhanced, text, why) = match fault {
        CommitFault::SpoolFull => {
            (452, (4, 3, 1), "Insufficient system storage, try again later", BodyRefusal::Spool)
        }
        CommitFault::Failed => {
            (451, (4, 3, 0), "Mail storage failed, try again later", BodyRefusal::Commit)
        }
        CommitFault::Hung => (451, (4, 3, 0), STORE_HUNG, BodyRefusal::Commit),
        CommitFault::Stopped => {
            (451, (4, 3, 2), "Service shutting down, try again later", BodyRefusal::Busy)
        }
        CommitFault::TooLarge => {
            (552, (5, 3, 4), "Message is too large for so many recipients", BodyRefusal::Size)
        }
        CommitFault::Record(_) => {
            (554, (5, 6, 0), "The envelope cannot be stored", BodyRefusal::Other)
        }
    };
    (Reply::new(code, enhanced, text), why)
}

/// The speed of one body, over all its chunks. Only time spent waiting for the peer counts: a slow disk is not its fault.
pub struct Meter {
    waited: Duration,
    bytes: u64,
}

impl Default for Meter {
    fn default() -> Meter {
        Meter::new()
    }
}

impl Meter {
    pub fn new() -> Meter {
        Meter { waited: Duration::ZERO, bytes: 0 }
    }

    pub fn is_too_slow(&mut self, bytes: usize, read_began: Instant, rate: &MinimumRate) -> bool {
        self.bytes += bytes as u64;
        self.waited += read_began.elapsed();
        self.waited > rate.grace && self.bytes < rate.bytes_per_second * self.waited.as_secs()
    }
}
