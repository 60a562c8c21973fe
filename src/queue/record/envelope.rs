//! The envelope of a message: what was received, how, and for whom.
//!
//! Promise:  encoding and decoding are each other's inverse; decoding borrows from the record, checks
//!           every field and never panics. Golden tests hold the bytes.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;

use crate::base::CredentialId;
use crate::base::StreamNumber;
use crate::base::TenantId;
use crate::queue::record::head::encode_head;
use crate::queue::record::outer::Kind;
use crate::queue::record::outer::Reader;
use crate::queue::record::outer::RecordFault;
use crate::queue::record::outer::Writer;
use crate::queue::record::recipients::Recipients;
use crate::queue::record::texts::Fields;
use crate::queue::record::texts::Labels;
use crate::queue::record::texts::Texts;
use crate::wire::smtp::transaction::BodyType;
use crate::wire::smtp::transaction::Ret;

/// Version 2 has the length of the head instead of the trace field, and identity, tags, metadata
/// and expiry.
const KIND_ENVELOPE: Kind = Kind { byte: b'E', version: 2 };
const FLAG_SMTPUTF8: u8 = 1;
const FLAG_REQUIRETLS: u8 = 2;
const FLAG_DECLARED: u8 = 4;
const FLAG_TLS: u8 = 8;
/// Fields with default values are left out: most mail has no labels, tags or metadata.
const FLAG_LABELS: u8 = 16;
const FLAG_INTAKE: u8 = 32;
/// Since version 2: identity, tags, metadata and expiry.
const FLAG_PRODUCT: u8 = 64;
const FLAGS_V1: u8 = FLAG_PRODUCT - 1;
const FLAGS_ALL: u8 = FLAGS_V1 | FLAG_PRODUCT;

/// The TLS session in which the message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tls<'a> {
    pub version: &'a str,
    pub cipher: &'a str,
}

/// The sum of all chunks of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodySum {
    pub bytes: u64,
    pub chunks: u32,
    pub crc32: u32,
}

/// The envelope. It borrows from the session when written, from the record when read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    pub received_ms: u64,
    /// Milliseconds from the start of the transaction until then; 0 if unknown.
    pub intake_ms: u32,
    /// `None` is the null sender, `<>`.
    pub sender: Option<&'a str>,
    pub smtputf8: bool,
    pub requiretls: bool,
    pub body_type: BodyType,
    pub ret: Option<Ret>,
    pub envid: Option<&'a str>,
    /// The value of AUTH= of MAIL, which is not the identity that logged in.
    pub auth: Option<&'a str>,
    /// The value of SIZE=.
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

    /// Appends the record to `buffer`. After a fault the appended bytes are meaningless.
    pub fn encode(&self, buffer: &mut Vec<u8>) -> Result<(), RecordFault> {
        let mut writer = Writer::new(buffer, KIND_ENVELOPE);
        let flags = self.flags();
        writer.u64(self.received_ms);
        writer.u8(flags);
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
        if flags & FLAG_INTAKE != 0 {
            writer.u32(self.intake_ms);
        }
        if flags & FLAG_PRODUCT != 0 {
            writer.u64(self.kept_until_ms.unwrap_or(0));
            writer.u64(self.tenant.0);
            writer.u64(self.credential.map_or(0, |credential| credential.0));
            writer.u16(self.stream.0);
            self.tags.encode(&mut writer)?;
            self.metadata.encode(&mut writer)?;
        }
        if flags & FLAG_LABELS != 0 {
            self.labels.encode(&mut writer)?;
        }
        self.recipients.encode(&mut writer);
        writer.seal();
        Ok(())
    }

    /// Reads a whole record, checking everything.
    pub fn decode(record: &'a [u8]) -> Result<Envelope<'a>, RecordFault> {
        Envelope::read(record).map(|(envelope, _)| envelope)
    }

    /// Converts a record of version 1 to an envelope and a head of the present version. `None`: the
    /// record has the present version.
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
        if flags & !(if is_v1 { FLAGS_V1 } else { FLAGS_ALL }) != 0 {
            return Err(RecordFault::Value("flags"));
        }
        let has = |flag: u8| flags & flag != 0;
        let mut trace = None;
        let body_type = body_type_of(reader.u8()?)?;
        let ret = ret_of(reader.u8()?)?;
        let declared = reader.u64()?;
        if flags & FLAG_DECLARED == 0 && declared != 0 {
            return Err(RecordFault::Value("declared size"));
        }
        let mut envelope = Envelope {
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
            kept_until_ms: None,
            tenant: TenantId::OPERATOR,
            credential: None,
            stream: StreamNumber(0),
            tags: Texts::default(),
            metadata: Fields::default(),
            labels: Labels::default(),
            recipients: Recipients::default(),
        };
        if has(FLAG_PRODUCT) {
            envelope.kept_until_ms = Some(reader.u64()?).filter(|ms| *ms != 0);
            envelope.tenant = TenantId(reader.u64()?);
            envelope.credential = Some(reader.u64()?).filter(|raw| *raw != 0).map(CredentialId);
            envelope.stream = StreamNumber(reader.u16()?);
            envelope.tags = Texts::decode(&mut reader)?;
            envelope.metadata = Fields::decode(&mut reader)?;
        }
        if has(FLAG_LABELS) {
            envelope.labels = Labels::decode(&mut reader)?;
        }
        let count = reader.u32()?;
        envelope.recipients = Recipients::check(count, reader.rest())?;
        Ok((envelope, trace))
    }

    fn has_product_fields(&self) -> bool {
        self.kept_until_ms.is_some()
            || self.tenant != TenantId::OPERATOR
            || self.credential.is_some()
            || self.stream != StreamNumber(0)
            || self.tags != Texts::default()
            || self.metadata != Fields::default()
    }

    fn flags(&self) -> u8 {
        let mut flags = 0;
        for (set, flag) in [
            (self.smtputf8, FLAG_SMTPUTF8),
            (self.requiretls, FLAG_REQUIRETLS),
            (self.declared_bytes.is_some(), FLAG_DECLARED),
            (self.tls.is_some(), FLAG_TLS),
            (self.labels != Labels::default(), FLAG_LABELS),
            (self.intake_ms != 0, FLAG_INTAKE),
            (self.has_product_fields(), FLAG_PRODUCT),
        ] {
            if set {
                flags |= flag;
            }
        }
        flags
    }
}

/// An envelope of version 1, rewritten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upgraded {
    pub envelope: Vec<u8>,
    pub head: Vec<u8>,
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
