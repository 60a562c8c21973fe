//! Questions, queries as bytes, and the result of a lookup as the cache keeps it and callers receive it.

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::rc::Rc;
use std::time::Instant;

use hickory_proto::op::Edns;
use hickory_proto::op::Message;
use hickory_proto::op::Query as WireQuery;
use hickory_proto::rr::Name;
use hickory_proto::rr::RecordType;

use crate::net::dane::TlsaRecord;
use crate::net::resolver::fault::DnsFault;
use crate::net::resolver::name;

/// The record types that the resolver looks up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    A,
    Aaaa,
    Mx,
    Txt,
    Tlsa,
    Ptr,
}

impl Kind {
    pub(super) fn record_type(self) -> RecordType {
        match self {
            Kind::A => RecordType::A,
            Kind::Aaaa => RecordType::AAAA,
            Kind::Mx => RecordType::MX,
            Kind::Txt => RecordType::TXT,
            Kind::Tlsa => RecordType::TLSA,
            Kind::Ptr => RecordType::PTR,
        }
    }
}

/// A name and a record type. The name has passed `name::checked`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) name: Rc<str>,
    pub(super) kind: Kind,
}

/// Options of a query.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueryOptions {
    /// The largest UDP answer; `None`: without EDNS.
    pub(super) edns_bytes: Option<u16>,
    /// Requests the AD bit: whether the server has validated the answer (RFC 6840 s5.7).
    pub(super) authentic: bool,
}

/// A question as a message with a random id.
pub(super) struct Query {
    pub(super) id: u16,
    pub(super) name: Name,
    pub(super) kind: Kind,
    pub(super) options: QueryOptions,
    pub(super) bytes: Vec<u8>,
}

impl Query {
    /// `None` if the name does not fit the wire format; a checked name always fits.
    pub(super) fn new(question: &Question, options: QueryOptions) -> Option<Query> {
        let Question { name, kind } = question;
        let name = name::to_wire(name)?;
        // The id comes from a cryptographic random generator.
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.metadata.authentic_data = options.authentic;
        message.add_query(WireQuery::query(name.clone(), kind.record_type()));
        if let Some(bytes) = options.edns_bytes {
            let mut edns = Edns::new();
            edns.set_max_payload(bytes);
            message.set_edns(edns);
        }
        let (id, bytes) = (message.metadata.id, message.to_vec().ok()?);
        Some(Query { id, name, kind: *kind, options, bytes })
    }
}

/// Overhead of each allocation: the allocator's header, and up to 15 bytes of rounding.
pub(super) const ALLOCATION_BYTES: usize = 24;

/// The outcome of a lookup.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Found(Rc<RecordSet>),
    /// `NoSuchDomain` or `NoData`.
    Absent {
        fault: DnsFault,
        authentic: bool,
    },
    Failed(DnsFault),
}

#[derive(Debug)]
pub(super) struct RecordSet {
    pub(super) data: Box<[Datum]>,
    pub(super) expires: Instant,
    pub(super) authentic: bool,
}

/// The content of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Datum {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    /// The root as a host is empty: a null MX (RFC 7505).
    Exchange(u16, Box<str>),
    /// The strings of one record, concatenated.
    Text(Box<[u8]>),
    Tlsa(TlsaRecord),
    /// The name in a PTR record.
    Name(Box<str>),
}

impl Datum {
    /// Memory use in bytes, including owned data.
    pub(super) fn bytes(&self) -> usize {
        let owned = match self {
            Datum::V4(_) | Datum::V6(_) => return size_of::<Datum>(),
            Datum::Exchange(_, host) => host.len(),
            Datum::Text(text) => text.len(),
            Datum::Tlsa(record) => record.data.len(),
            Datum::Name(name) => name.len(),
        };
        size_of::<Datum>() + owned + ALLOCATION_BYTES
    }
}
