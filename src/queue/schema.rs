//! What is stored of a message: `Envelope`, `Job`, `StreamMark`, and the names of the families.
//!
//! Promise:  encoding and decoding are each other's inverse; decoding borrows from the record,
//!           checks every field and never panics. Golden tests hold the bytes.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use crate::base::CredentialId;
use crate::base::StreamNumber;
use crate::base::TenantId;
use crate::queue::labels::Fields;
use crate::queue::labels::Labels;
use crate::queue::labels::Texts;
use crate::queue::record::Kind;
use crate::queue::record::Reader;
use crate::queue::record::RecordFault;
use crate::queue::record::Writer;
use crate::queue::record::outer_form;
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
pub const HEAD: &str = "head";
pub const EVENT: &str = "event";
pub const ONCE: &str = "once";
pub const SCHEDULED: &str = "scheduled";
pub const KEPT: &str = "kept";
pub const DEFAULT: &str = "default";

/// Every column family of a partition, in the order in which they came. New ones are appended.
pub const FAMILIES: [&str; 11] =
    [DEFAULT, ENVELOPE, BODY, JOB, DUE, STREAM, HEAD, EVENT, ONCE, SCHEDULED, KEPT];

/// Every format so far, each with the number of families that it has.
const FORMATS: [(u32, usize); 2] = [(1, 6), (2, 11)];

/// The format of a spool: a number, and the families of each partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub format: u32,
    pub families: &'static [&'static str],
}

impl Layout {
    /// The one that is made. A server brings older spools to it, and refuses newer ones.
    pub const CURRENT: Layout = Layout { format: 2, families: &FAMILIES };

    /// The families that a spool of that format has.
    pub fn families_of(&self, format: u32) -> &'static [&'static str] {
        let old = FORMATS.iter().find(|(old, _)| *old == format);
        old.map_or(self.families, |(_, count)| &self.families[..*count])
    }
}

/// Version 2 has the length of the head instead of the trace field, and identity, tags, metadata
/// and expiry.
const KIND_ENVELOPE: Kind = Kind { byte: b'E', version: 2 };
const KIND_HEAD: Kind = Kind { byte: b'H', version: 1 };
const KIND_JOB: Kind = Kind { byte: b'J', version: 1 };
const KIND_STREAM: Kind = Kind { byte: b'S', version: 1 };

const NOTIFY_ALL: u8 = NOTIFY_NEVER | NOTIFY_SUCCESS | NOTIFY_FAILURE | NOTIFY_DELAY;

const FLAG_SMTPUTF8: u8 = 1;
const FLAG_REQUIRETLS: u8 = 2;
const FLAG_DECLARED: u8 = 4;
const FLAG_TLS: u8 = 8;
const FLAGS_ALL: u8 = FLAG_SMTPUTF8 | FLAG_REQUIRETLS | FLAG_DECLARED | FLAG_TLS;
/// Of version 1 only: these fields were left out where they said nothing.
const FLAG_LABELS: u8 = 16;
const FLAG_INTAKE: u8 = 32;

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
    /// Bytes of the head record. Filled in by `Body::finish`, as is the sum of the body.
    pub head_bytes: u32,
    pub body: BodySum,
    pub peer: SocketAddr,
    pub helo: &'a str,
    pub listener: &'a str,
    /// As the trace header names it: SMTP, ESMTPS, UTF8SMTPS, LMTP ...
    pub protocol: &'a str,
    pub tls: Option<Tls<'a>>,
    /// The message's own Message-ID, for the log.
    pub message_id: Option<&'a str>,
    /// Every recipient has its final state; the message is kept until then.
    pub kept_until_ms: Option<u64>,
    pub tenant: TenantId,
    pub credential: Option<CredentialId>,
    pub stream: StreamNumber,
    pub tags: Texts<'a>,
    pub metadata: Fields<'a>,
    /// Labels from the header, for routes, fair shares and the log.
    pub labels: Labels<'a>,
    pub recipients: Recipients<'a>,
}

impl<'a> Envelope<'a> {
    /// Bytes of the whole message.
    pub fn bytes(&self) -> u64 {
        u64::from(self.head_bytes) + self.body.bytes
    }

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
        writer.u32(self.head_bytes);
        writer.u32(self.intake_ms);
        writer.u64(self.kept_until_ms.unwrap_or(0));
        writer.u64(self.tenant.0);
        writer.u64(self.credential.map_or(0, |credential| credential.0));
        writer.u16(self.stream.0);
        self.tags.encode(&mut writer)?;
        self.metadata.encode(&mut writer)?;
        self.labels.encode(&mut writer)?;
        writer.u32(self.recipients.count);
        writer.raw(self.recipients.bytes);
        writer.seal();
        Ok(())
    }

    /// Reads a whole record, checking everything.
    pub fn decode(record: &'a [u8]) -> Result<Envelope<'a>, RecordFault> {
        Envelope::read(record).map(|(envelope, _)| envelope)
    }

    /// A record of version 1 as an envelope and a head of today. `None`: the record is of today.
    pub fn upgrade(record: &'a [u8]) -> Result<Option<Upgraded>, RecordFault> {
        let (envelope, trace) = Envelope::read(record)?;
        let Some(trace) = trace else { return Ok(None) };
        let mut upgraded = Upgraded::default();
        envelope.encode(&mut upgraded.envelope)?;
        encode_head(trace, &mut upgraded.head);
        Ok(Some(upgraded))
    }

    /// The envelope, and the trace field of version 1.
    fn read(record: &'a [u8]) -> Result<(Envelope<'a>, Option<&'a [u8]>), RecordFault> {
        let mut reader = Reader::open(record, KIND_ENVELOPE)?;
        let is_v1 = reader.version() == 1;
        let received_ms = reader.u64()?;
        let flags = reader.u8()?;
        let all = if is_v1 { FLAGS_ALL | FLAG_LABELS | FLAG_INTAKE } else { FLAGS_ALL };
        if flags & !all != 0 {
            return Err(RecordFault::Value("flags"));
        }
        let has = |flag: u8| !is_v1 || flags & flag != 0;
        let mut trace = None;
        let body_type = body_type_of(reader.u8()?)?;
        let ret = ret_of(reader.u8()?)?;
        let declared = reader.u64()?;
        if flags & FLAG_DECLARED == 0 && declared != 0 {
            return Err(RecordFault::Value("declared size"));
        }
        let envelope = Envelope {
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
            head_bytes: match is_v1 {
                true => trace.insert(reader.bytes()?).len() as u32,
                false => reader.u32()?,
            },
            intake_ms: if has(FLAG_INTAKE) { reader.u32()? } else { 0 },
            kept_until_ms: if is_v1 { None } else { Some(reader.u64()?).filter(|ms| *ms != 0) },
            tenant: if is_v1 { TenantId::OPERATOR } else { TenantId(reader.u64()?) },
            credential: match is_v1 {
                true => None,
                false => Some(reader.u64()?).filter(|raw| *raw != 0).map(CredentialId),
            },
            stream: StreamNumber(if is_v1 { 0 } else { reader.u16()? }),
            tags: if is_v1 { Texts::default() } else { Texts::decode(&mut reader)? },
            metadata: if is_v1 { Fields::default() } else { Fields::decode(&mut reader)? },
            labels: match has(FLAG_LABELS) {
                true => Labels::decode(&mut reader)?,
                false => Labels::default(),
            },
            recipients: {
                let count = reader.u32()?;
                Recipients::check(count, reader.rest())?
            },
        };
        Ok((envelope, trace))
    }

    fn flags(&self) -> u8 {
        let mut flags = 0;
        for (set, flag) in [
            (self.smtputf8, FLAG_SMTPUTF8),
            (self.requiretls, FLAG_REQUIRETLS),
            (self.declared_bytes.is_some(), FLAG_DECLARED),
            (self.tls.is_some(), FLAG_TLS),
        ] {
            if set {
                flags |= flag;
            }
        }
        flags
    }
}

/// What becomes of an envelope of version 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upgraded {
    pub envelope: Vec<u8>,
    pub head: Vec<u8>,
}

/// Appends the record of a head: the header block of a message, or the front of it that was written
/// here.
pub fn encode_head(head: &[u8], buffer: &mut Vec<u8>) {
    let mut writer = Writer::new(buffer, KIND_HEAD);
    writer.raw(head);
    writer.seal();
}

/// The bytes of a head.
pub fn decode_head(record: &[u8]) -> Result<&[u8], RecordFault> {
    Reader::open(record, KIND_HEAD).map(|mut reader| reader.rest())
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
    Head(&'a [u8]),
    Job(Job<'a>),
    Stream(StreamMark),
}

/// Reads bytes as whatever record they are. The fuzzer's way in.
pub fn probe(record: &[u8]) -> Result<Probed<'_>, RecordFault> {
    match outer_form(record)?.1 {
        b'E' => Envelope::decode(record).map(Box::new).map(Probed::Envelope),
        b'H' => decode_head(record).map(Probed::Head),
        b'J' => Job::decode(record).map(Probed::Job),
        b'S' => StreamMark::decode(record).map(Probed::Stream),
        kind => Err(RecordFault::Kind(kind)),
    }
}
