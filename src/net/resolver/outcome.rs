//! The result of a lookup, as the cache keeps it and as callers receive it.

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::rc::Rc;
use std::time::Instant;

use crate::net::dane::TlsaRecord;
use crate::net::resolver::fault::DnsFault;

/// What the allocator takes for each allocation: its own words, and up to 15 bytes of rounding.
pub(in crate::net::resolver) const ALLOCATION_BYTES: usize = 24;

/// What is known in the end.
#[derive(Clone, Debug)]
pub(in crate::net::resolver) enum Outcome {
    Found(Rc<Found>),
    /// `NoSuchDomain` or `NoData`.
    Absent {
        fault: DnsFault,
        authentic: bool,
    },
    Failed(DnsFault),
}

#[derive(Debug)]
pub(in crate::net::resolver) struct Found {
    pub(in crate::net::resolver) data: Box<[Datum]>,
    pub(in crate::net::resolver) expires: Instant,
    pub(in crate::net::resolver) authentic: bool,
}

/// A record's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::net::resolver) enum Datum {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    /// The root as a host is empty: no host at all (RFC 7505).
    Exchange(u16, Box<str>),
    /// The strings of one record in one.
    Text(Box<[u8]>),
    Tlsa(TlsaRecord),
    /// Another name, as PTR has it.
    Name(Box<str>),
}

impl Datum {
    /// The memory that it takes, with what it owns.
    pub(in crate::net::resolver) fn bytes(&self) -> usize {
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
