//! The result of a lookup, as the cache keeps it and as callers receive it.

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::rc::Rc;
use std::time::Instant;

use crate::net::dane::TlsaRecord;
use crate::net::resolver::fault::DnsFault;

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
