//! What is stored of a message: `Envelope`, `Job`, `StreamMark`, and the names of the families.
//!
//! Promise:  encoding and decoding are each other's inverse; decoding borrows from the record,
//!           checks every field and never panics. Golden tests hold the bytes.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use crate::queue::labels::Labels;
use crate::queue::record::Reader;
use crate::queue::record::RecordFault;
use crate::queue::record::Writer;
use crate::queue::record::kind_of;
use crate::queue::record::put_text;
use crate::wire::dsn::NOTIFY_DELAY;
use crate::wire::dsn::NOTIFY_FAILURE;
use crate::wire::dsn::NOTIFY_NEVER;
use crate::wire::dsn::NOTIFY_SUCCESS;
use crate::wire::smtp::transaction::BodyType;
use crate::wire::smtp::transaction::Ret;

pub const ENVELOPE: &str = "envelope";
pub const BODY: &str = "body";
pub const JOB: &str = "job";
pub const DUE: &str = "due";
pub const STREAM: &str = "stream";
pub const DEFAULT: &str = "default";

/// Every column family of a partition.
pub const FAMILIES: [&str; 6] = [DEFAULT, ENVELOPE, BODY, JOB, DUE, STREAM];

const KIND_ENVELOPE: u8 = b'E';
const KIND_JOB: u8 = b'J';
const KIND_STREAM: u8 = b'S';

const NOTIFY_ALL: u8 = NOTIFY_NEVER | NOTIFY_SUCCESS | NOTIFY_FAILURE | NOTIFY_DELAY;

const FLAG_SMTPUTF8: u8 = 1;
const FLAG_REQUIRETLS: u8 = 2;
const FLAG_DECLARED: u8 = 4;
const FLAG_TLS: u8 = 8;
const FLAG_LABELS: u8 = 16;
const FLAG_INTAKE: u8 = 32;
const FLAGS_ALL: u8 =
    FLAG_SMTPUTF8 | FLAG_REQUIRETLS | FLAG_DECLARED | FLAG_TLS | FLAG_LABELS | FLAG_INTAKE;

/// Beside the state of a job.
const JOB_WARNED: u8 = 0x80;
const JOB_REROUTED: u8 = 0x40;

/// How the message came over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tls<'a> {
    pub version: &'a str,
    pub cipher: &'a str,
}

/// What the chunks of a body must add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodySum {
    pub bytes: u64,
    pub chunks: u32,
    pub crc32: u32,
}

/// One recipient as RCPT gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient<'a> {
    pub mailbox: &'a str,
    /// `NOTIFY_*` joined by `|`; 0 when nothing was said.
    pub notify: u8,
    /// The value of ORCPT as it was sent (`rfc822;user+40example`).
    pub orcpt: Option<&'a str>,
}

/// Recipients in stored form. The same bytes serve the session and the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recipients<'a> {
    count: u32,
    bytes: &'a [u8],
}

impl<'a> Recipients<'a> {
    /// Believes nothing: every recipient is read once.
    fn check(count: u32, bytes: &'a [u8]) -> Result<Recipients<'a>, RecordFault> {
        let mut reader = Reader::bare(bytes);
        for _ in 0..count {
            read_recipient(&mut reader)?;
        }
        reader.end()?;
        Ok(Recipients { count, bytes })
    }

    pub fn len(&self) -> usize {
        self.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = Recipient<'a>> + use<'a> {
        let mut reader = Reader::bare(self.bytes);
        (0..self.count).map_while(move |_| read_recipient(&mut reader).ok())
    }
}

fn read_recipient<'a>(reader: &mut Reader<'a>) -> Result<Recipient<'a>, RecordFault> {
    let notify = reader.u8()?;
    if notify & !NOTIFY_ALL != 0 {
        return Err(RecordFault::Value("notify"));
    }
    let mailbox = reader.some_text("mailbox")?;
    Ok(Recipient { mailbox, notify, orcpt: reader.text()? })
}

/// Recipients as they are gathered, one RCPT after the other. Cleared, it keeps its memory.
#[derive(Clone, Debug, Default)]
pub struct RecipientsBuf {
    count: u32,
    bytes: Vec<u8>,
}

impl RecipientsBuf {
    pub fn push(&mut self, recipient: &Recipient<'_>) -> Result<(), RecordFault> {
        let before = self.bytes.len();
        let pushed = self.try_push(recipient);
        if pushed.is_err() {
            self.bytes.truncate(before);
        }
        pushed
    }

    fn try_push(&mut self, recipient: &Recipient<'_>) -> Result<(), RecordFault> {
        if recipient.notify & !NOTIFY_ALL != 0 {
            return Err(RecordFault::Value("notify"));
        }
        self.bytes.push(recipient.notify);
        put_text(&mut self.bytes, "mailbox", Some(recipient.mailbox))?;
        put_text(&mut self.bytes, "orcpt", recipient.orcpt)?;
        self.count = self.count.checked_add(1).ok_or(RecordFault::TooLong("recipients"))?;
        Ok(())
    }

    pub fn clear(&mut self) {
        self.count = 0;
        self.bytes.clear();
    }

    pub fn len(&self) -> usize {
        self.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn as_recipients(&self) -> Recipients<'_> {
        Recipients { count: self.count, bytes: &self.bytes }
    }
}

/// What was received, and how. Borrowed from the session when written, from the record when read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub received_ms: u64,
    /// How long it took to come in, until then; 0 where it was not noted.
    pub intake_ms: u32,
    /// `None` is the null sender, `<>`.
    pub sender: Option<&'a str>,
    pub smtputf8: bool,
    pub requiretls: bool,
    pub body_type: BodyType,
    pub ret: Option<Ret>,
    pub envid: Option<&'a str>,
    /// The value of AUTH= of MAIL, which is not who logged in.
    pub auth: Option<&'a str>,
    /// What SIZE= said.
    pub declared_bytes: Option<u64>,
    /// Filled in by `Body::finish`.
    pub body: BodySum,
    pub peer: SocketAddr,
    pub helo: &'a str,
    pub listener: &'a str,
    /// As the trace header names it: SMTP, ESMTPS, UTF8SMTPS, LMTP ...
    pub protocol: &'a str,
    pub tls: Option<Tls<'a>>,
    /// The message's own Message-ID, for the log.
    pub message_id: Option<&'a str>,
    /// Our Received: header, put before the body at delivery, so that chunks stay as they came.
    pub trace: &'a [u8],
    /// What its header says for routes, fair turns and the log.
    pub labels: Labels<'a>,
    pub recipients: Recipients<'a>,
}

impl<'a> Envelope<'a> {
    /// Appends the record to `buffer`. On a fault what was appended has no meaning.
    pub fn encode(&self, buffer: &mut Vec<u8>) -> Result<(), RecordFault> {
        let mut writer = Writer::new(buffer, KIND_ENVELOPE);
        writer.u64(self.received_ms);
        writer.u8(self.flags());
        writer.u8(body_code(self.body_type));
        writer.u8(ret_code(self.ret));
        writer.u64(self.declared_bytes.unwrap_or(0));
        writer.u64(self.body.bytes);
        writer.u32(self.body.chunks);
        writer.u32(self.body.crc32);
        write_peer(&mut writer, self.peer);
        writer.text("sender", self.sender)?;
        writer.text("envid", self.envid)?;
        writer.text("auth", self.auth)?;
        writer.text("helo", Some(self.helo))?;
        writer.text("listener", Some(self.listener))?;
        writer.text("protocol", Some(self.protocol))?;
        if let Some(tls) = self.tls {
            writer.text("tls version", Some(tls.version))?;
            writer.text("tls cipher", Some(tls.cipher))?;
        }
        writer.text("message id", self.message_id)?;
        writer.bytes("trace", self.trace)?;
        if self.intake_ms != 0 {
            writer.u32(self.intake_ms);
        }
        if !self.labels.is_empty() {
            self.labels.encode(&mut writer)?;
        }
        writer.u32(self.recipients.count);
        writer.raw(self.recipients.bytes);
        writer.seal();
        Ok(())
    }

    /// Reads a whole record, checking everything.
    pub fn decode(record: &'a [u8]) -> Result<Envelope<'a>, RecordFault> {
        let mut reader = Reader::open(record, KIND_ENVELOPE)?;
        let received_ms = reader.u64()?;
        let flags = reader.u8()?;
        if flags & !FLAGS_ALL != 0 {
            return Err(RecordFault::Value("flags"));
        }
        let body_type = body_type_of(reader.u8()?)?;
        let ret = ret_of(reader.u8()?)?;
        let declared = reader.u64()?;
        if flags & FLAG_DECLARED == 0 && declared != 0 {
            return Err(RecordFault::Value("declared size"));
        }
        Ok(Envelope {
            received_ms,
            smtputf8: flags & FLAG_SMTPUTF8 != 0,
            requiretls: flags & FLAG_REQUIRETLS != 0,
            body_type,
            ret,
            declared_bytes: (flags & FLAG_DECLARED != 0).then_some(declared),
            body: BodySum { bytes: reader.u64()?, chunks: reader.u32()?, crc32: reader.u32()? },
            peer: read_peer(&mut reader)?,
            sender: reader.text()?,
            envid: reader.text()?,
            auth: reader.text()?,
            helo: reader.some_text("helo")?,
            listener: reader.some_text("listener")?,
            protocol: reader.some_text("protocol")?,
            tls: if flags & FLAG_TLS != 0 { Some(read_tls(&mut reader)?) } else { None },
            message_id: reader.text()?,
            trace: reader.bytes()?,
            intake_ms: match flags & FLAG_INTAKE {
                0 => 0,
                _ => some_ms(reader.u32()?)?,
            },
            labels: match flags & FLAG_LABELS {
                0 => Labels::default(),
                _ => Labels::decode(&mut reader)?,
            },
            recipients: {
                let count = reader.u32()?;
                Recipients::check(count, reader.rest())?
            },
        })
    }

    fn flags(&self) -> u8 {
        let mut flags = 0;
        for (set, flag) in [
            (self.smtputf8, FLAG_SMTPUTF8),
            (self.requiretls, FLAG_REQUIRETLS),
            (self.declared_bytes.is_some(), FLAG_DECLARED),
            (self.tls.is_some(), FLAG_TLS),
            (!self.labels.is_empty(), FLAG_LABELS),
            (self.intake_ms != 0, FLAG_INTAKE),
        ] {
            if set {
                flags |= flag;
            }
        }
        flags
    }
}

/// None is written without the place for it.
fn some_ms(ms: u32) -> Result<u32, RecordFault> {
    if ms == 0 { Err(RecordFault::Value("intake time")) } else { Ok(ms) }
}

fn body_code(body: BodyType) -> u8 {
    match body {
        BodyType::SevenBit => 0,
        BodyType::EightBitMime => 1,
        BodyType::BinaryMime => 2,
    }
}

fn body_type_of(value: u8) -> Result<BodyType, RecordFault> {
    match value {
        0 => Ok(BodyType::SevenBit),
        1 => Ok(BodyType::EightBitMime),
        2 => Ok(BodyType::BinaryMime),
        _ => Err(RecordFault::Value("body type")),
    }
}

fn ret_code(ret: Option<Ret>) -> u8 {
    match ret {
        None => 0,
        Some(Ret::Full) => 1,
        Some(Ret::Headers) => 2,
    }
}

fn ret_of(value: u8) -> Result<Option<Ret>, RecordFault> {
    match value {
        0 => Ok(None),
        1 => Ok(Some(Ret::Full)),
        2 => Ok(Some(Ret::Headers)),
        _ => Err(RecordFault::Value("ret")),
    }
}

fn write_peer(writer: &mut Writer<'_>, peer: SocketAddr) {
    match peer.ip() {
        IpAddr::V4(ip) => {
            writer.u8(4);
            writer.raw(&ip.octets());
        }
        IpAddr::V6(ip) => {
            writer.u8(6);
            writer.raw(&ip.octets());
        }
    }
    writer.u16(peer.port());
}

fn read_peer(reader: &mut Reader<'_>) -> Result<SocketAddr, RecordFault> {
    let ip = match reader.u8()? {
        4 => IpAddr::V4(Ipv4Addr::from_bits(reader.u32()?)),
        6 => {
            let (high, low) = (reader.u64()?, reader.u64()?);
            IpAddr::V6(Ipv6Addr::from_bits((high as u128) << 64 | low as u128))
        }
        _ => return Err(RecordFault::Value("address family")),
    };
    Ok(SocketAddr::new(ip, reader.u16()?))
}

fn read_tls<'a>(reader: &mut Reader<'a>) -> Result<Tls<'a>, RecordFault> {
    let version = reader.some_text("tls version")?;
    Ok(Tls { version, cipher: reader.some_text("tls cipher")? })
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobState {
    /// To be tried when it is due.
    #[default]
    Waiting,
    /// Kept by an operator's order.
    Held,
}

/// One next hop's share of a message. Fresh mail has one job with every recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job<'a> {
    pub number: u16,
    pub state: JobState,
    /// The sender was told that it takes longer.
    pub warned: bool,
    pub attempts: u32,
    pub last_attempt_ms: u64,
    pub due_ms: u64,
    pub last_reply: &'a str,
    /// Where an operator sends it, written as in a route, instead of where its route does.
    pub next_hop: Option<&'a str>,
    pub recipients: Indexes<'a>,
}

/// Places in the envelope's list of recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexes<'a> {
    /// The first so many.
    First(u32),
    /// As stored: four bytes each.
    Stored(&'a [u8]),
}

impl Indexes<'_> {
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let (first, stored): (u32, &[u8]) = match *self {
            Indexes::First(count) => (count, &[]),
            Indexes::Stored(bytes) => (0, bytes),
        };
        let stored = stored.as_chunks::<4>().0;
        (0..first).chain(stored.iter().map(|four| u32::from_be_bytes(*four)))
    }
}

impl<'a> Job<'a> {
    /// The job of a message just received: every recipient, no attempt yet.
    pub fn fresh(due_ms: u64, recipients: usize) -> Job<'static> {
        Job {
            number: 0,
            state: JobState::Waiting,
            warned: false,
            attempts: 0,
            last_attempt_ms: 0,
            due_ms,
            last_reply: "",
            next_hop: None,
            recipients: Indexes::First(recipients as u32),
        }
    }

    /// Appends the record to `buffer`. On a fault what was appended has no meaning.
    pub fn encode(&self, buffer: &mut Vec<u8>) -> Result<(), RecordFault> {
        let mut writer = Writer::new(buffer, KIND_JOB);
        writer.u16(self.number);
        let warned = if self.warned { JOB_WARNED } else { 0 };
        let rerouted = if self.next_hop.is_some() { JOB_REROUTED } else { 0 };
        writer.u8(self.state as u8 | warned | rerouted);
        writer.u32(self.attempts);
        writer.u64(self.last_attempt_ms);
        writer.u64(self.due_ms);
        writer.text("last reply", Some(self.last_reply))?;
        if self.next_hop.is_some() {
            writer.text("next hop", self.next_hop)?;
        }
        match self.recipients {
            Indexes::First(count) => (0..count).for_each(|index| writer.u32(index)),
            Indexes::Stored(bytes) => writer.raw(bytes),
        }
        writer.seal();
        Ok(())
    }

    /// Reads a whole record, checking everything.
    pub fn decode(record: &'a [u8]) -> Result<Job<'a>, RecordFault> {
        let mut reader = Reader::open(record, KIND_JOB)?;
        let number = reader.u16()?;
        let flags = reader.u8()?;
        let state = match flags & !(JOB_WARNED | JOB_REROUTED) {
            0 => JobState::Waiting,
            1 => JobState::Held,
            _ => return Err(RecordFault::Value("job state")),
        };
        let job = Job {
            number,
            state,
            warned: flags & JOB_WARNED != 0,
            attempts: reader.u32()?,
            last_attempt_ms: reader.u64()?,
            due_ms: reader.u64()?,
            last_reply: reader.some_text("last reply")?,
            next_hop: match flags & JOB_REROUTED {
                0 => None,
                _ => Some(reader.some_text("next hop")?),
            },
            recipients: Indexes::Stored(reader.rest()),
        };
        match job.recipients {
            Indexes::Stored(bytes) if bytes.len() % 4 != 0 => {
                Err(RecordFault::Value("recipient indexes"))
            }
            _ => Ok(job),
        }
    }
}

/// Stands for a body under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamMark {
    pub started_ms: u64,
}

/// Bytes of an encoded `StreamMark`.
pub const STREAM_MARK_LEN: usize = 14;

impl StreamMark {
    /// Appends the record to `buffer`.
    pub fn encode(&self, buffer: &mut Vec<u8>) {
        let mut writer = Writer::new(buffer, KIND_STREAM);
        writer.u64(self.started_ms);
        writer.seal();
    }

    /// Reads a whole record, checking everything.
    pub fn decode(record: &[u8]) -> Result<StreamMark, RecordFault> {
        let mut reader = Reader::open(record, KIND_STREAM)?;
        let mark = StreamMark { started_ms: reader.u64()? };
        reader.end()?;
        Ok(mark)
    }
}

/// Any record, as `probe` found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed<'a> {
    Envelope(Box<Envelope<'a>>),
    Job(Job<'a>),
    Stream(StreamMark),
}

/// Reads bytes as whatever record they are. The fuzzer's way in.
pub fn probe(record: &[u8]) -> Result<Probed<'_>, RecordFault> {
    match kind_of(record)? {
        KIND_ENVELOPE => Envelope::decode(record).map(Box::new).map(Probed::Envelope),
        KIND_JOB => Job::decode(record).map(Probed::Job),
        KIND_STREAM => StreamMark::decode(record).map(Probed::Stream),
        kind => Err(RecordFault::Kind(kind)),
    }
}
