//! The interface of the resolver.

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use crate::net::dane::TlsaRecord;
use crate::net::resolver::context::Context;
use crate::net::resolver::context::ResolverFigures;
use crate::net::resolver::fault::DnsFault;
use crate::net::resolver::lookup;
use crate::net::resolver::lookup::Pending;
use crate::net::resolver::name;
use crate::net::resolver::query::Datum;
use crate::net::resolver::query::Kind;
use crate::net::resolver::query::Outcome;
use crate::net::resolver::query::Question;
use crate::net::resolver::query::RecordSet;
use crate::net::resolver::settings::ResolverSettings;
use crate::rt::timer;

/// Mail exchangers of one domain that are returned, most preferred first.
const EXCHANGERS_MAX: usize = 64;

/// The mail exchangers of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MxAnswer {
    /// Preference and host, most preferred first, each host once. Hosts of equal preference are in the
    /// server's order; the caller must shuffle them (RFC 5321 s5.1).
    pub hosts: Vec<(u16, Box<str>)>,
    /// There is no MX record: the domain itself is the host, if it has addresses.
    pub implicit: bool,
    /// Validated by DNSSEC; never without `trust_ad`.
    pub authentic: bool,
}

/// Which address types to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
    Both,
}

/// The addresses of a host: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub v4: Vec<Ipv4Addr>,
    pub v6: Vec<Ipv6Addr>,
    pub authentic: bool,
    /// How long the addresses remain valid.
    pub ttl: Duration,
}

/// TLSA records of a host's port: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsaAnswer {
    pub records: Vec<TlsaRecord>,
    /// If `false`, the records must not be used (RFC 7672 s2.2).
    pub authentic: bool,
}

/// TXT records, the strings of each record concatenated: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxtAnswer {
    pub texts: Vec<Box<[u8]>>,
    pub authentic: bool,
}

/// A handle of a shard's resolver; clones share it.
#[derive(Clone)]
pub struct Resolver {
    context: Rc<Context>,
}

impl Resolver {
    pub fn new(settings: ResolverSettings) -> Resolver {
        Resolver { context: Rc::new(Context::new(settings)) }
    }

    /// Whether the AD bit is trusted from now on. Lookups in flight keep the old setting.
    pub fn set_trust_ad(&self, trust_ad: bool) {
        self.context.set_trust_ad(trust_ad);
    }

    /// The mail exchangers of `domain`.
    pub async fn mx(&self, domain: &str) -> Result<MxAnswer, DnsFault> {
        let name = name::checked(domain).ok_or(DnsFault::BadName)?;
        let found = match self.begin(&name, Kind::Mx).outcome().await {
            Outcome::Found(found) => found,
            Outcome::Absent { fault: DnsFault::NoData, authentic } => {
                return Ok(MxAnswer {
                    hosts: vec![(0, (*name).into())],
                    implicit: true,
                    authentic,
                });
            }
            Outcome::Absent { fault, .. } | Outcome::Failed(fault) => return Err(fault),
        };
        let hosts = exchangers(&found.data);
        if hosts.is_empty() {
            return Err(DnsFault::NullMx);
        }
        Ok(MxAnswer { hosts, implicit: false, authentic: found.authentic })
    }

    /// The addresses of `host`. For `Both`, one type is enough: the other may fail or not exist.
    pub async fn addresses(&self, host: &str, want: Family) -> Result<Addresses, DnsFault> {
        let name = name::checked(host).ok_or(DnsFault::BadName)?;
        // Both lookups start before the first is awaited.
        let kinds: &[Kind] = match want {
            Family::V4 => &[Kind::A],
            Family::V6 => &[Kind::Aaaa],
            Family::Both => &[Kind::A, Kind::Aaaa],
        };
        let pending: Vec<Pending> = kinds.iter().map(|kind| self.begin(&name, *kind)).collect();
        let mut outcomes = Vec::with_capacity(pending.len());
        for pending in pending {
            outcomes.push(pending.outcome().await);
        }
        gather(&outcomes, timer::now())
    }

    /// The TLSA records for TLS on `port` of `host` (RFC 7672 s2.2).
    pub async fn tlsa(&self, port: u16, host: &str) -> Result<TlsaAnswer, DnsFault> {
        let found = self.find(&format!("_{port}._tcp.{host}"), Kind::Tlsa).await?;
        let record = |datum: &Datum| match datum {
            Datum::Tlsa(record) => Some(record.clone()),
            _ => None,
        };
        let records = found.data.iter().filter_map(record).collect();
        Ok(TlsaAnswer { records, authentic: found.authentic })
    }

    pub async fn txt(&self, name: &str) -> Result<TxtAnswer, DnsFault> {
        let found = self.find(name, Kind::Txt).await?;
        let text = |datum: &Datum| match datum {
            Datum::Text(text) => Some(text.clone()),
            _ => None,
        };
        let texts = found.data.iter().filter_map(text).collect();
        Ok(TxtAnswer { texts, authentic: found.authentic })
    }

    pub fn figures(&self) -> ResolverFigures {
        self.context.figures()
    }

    fn begin(&self, name: &Rc<str>, kind: Kind) -> Pending {
        lookup::begin(&self.context, &Question { name: Rc::clone(name), kind })
    }

    async fn find(&self, name: &str, kind: Kind) -> Result<Rc<RecordSet>, DnsFault> {
        let name = name::checked(name).ok_or(DnsFault::BadName)?;
        match self.begin(&name, kind).outcome().await {
            Outcome::Found(found) => Ok(found),
            Outcome::Absent { fault, .. } | Outcome::Failed(fault) => Err(fault),
        }
    }
}

/// Hosts by preference; none for a null MX. The root beside other hosts is no host (RFC 7505 s3).
fn exchangers(data: &[Datum]) -> Vec<(u16, Box<str>)> {
    let mut hosts: Vec<(u16, Box<str>)> = Vec::new();
    for datum in data {
        if let Datum::Exchange(preference, host) = datum
            && !host.is_empty()
        {
            hosts.push((*preference, host.clone()));
        }
    }
    hosts.sort_by_key(|(preference, _)| *preference);
    let mut seen = std::collections::HashSet::new();
    hosts.retain(|(_, host)| seen.insert(host.clone()));
    hosts.truncate(EXCHANGERS_MAX);
    hosts
}

/// The addresses in the outcomes. Without any: a temporary fault if there is one, because the failed
/// lookup may have addresses.
fn gather(outcomes: &[Outcome], now: Instant) -> Result<Addresses, DnsFault> {
    let mut addresses =
        Addresses { v4: Vec::new(), v6: Vec::new(), authentic: true, ttl: Duration::MAX };
    let mut faults = Vec::new();
    for outcome in outcomes {
        match outcome {
            Outcome::Found(found) => take(&mut addresses, found, now),
            Outcome::Absent { fault, .. } | Outcome::Failed(fault) => faults.push(*fault),
        }
    }
    if !addresses.v4.is_empty() || !addresses.v6.is_empty() {
        return Ok(addresses);
    }
    // If one answer knows the name, the name exists.
    let weight = |fault: &DnsFault| match fault {
        DnsFault::NoSuchDomain => 0,
        DnsFault::NoData => 1,
        _ => 2,
    };
    Err(faults.into_iter().max_by_key(weight).unwrap_or(DnsFault::Abandoned))
}

fn take(addresses: &mut Addresses, found: &RecordSet, now: Instant) {
    for datum in &found.data {
        match datum {
            Datum::V4(address) => addresses.v4.push(*address),
            Datum::V6(address) => addresses.v6.push(*address),
            _ => {}
        }
    }
    addresses.authentic &= found.authentic;
    addresses.ttl = addresses.ttl.min(found.expires.saturating_duration_since(now));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(preference: u16, host: &str) -> Datum {
        Datum::Exchange(preference, host.into())
    }

    #[test]
    fn exchangers_are_sorted_and_named_once() {
        type Row<'a> = (&'a str, &'a [Datum], &'a [(u16, &'a str)]);
        let rows: &[Row] = &[
            ("null MX", &[exchange(0, "")], &[]),
            ("null MX beside another", &[exchange(0, ""), exchange(10, "a")], &[(10, "a")]),
            ("order", &[exchange(20, "b"), exchange(10, "a")], &[(10, "a"), (20, "b")]),
            ("twice", &[exchange(20, "a"), exchange(10, "a")], &[(10, "a")]),
        ];
        for (row, data, want) in rows {
            let got = exchangers(data);
            let got: Vec<(u16, &str)> =
                got.iter().map(|(number, host)| (*number, &**host)).collect();
            assert_eq!(got, *want, "{row}");
        }
    }

    #[test]
    fn what_was_not_learnt_may_be_there() {
        let now = Instant::now();
        let absent = |fault| Outcome::Absent { fault, authentic: false };
        let found = || {
            let data = [Datum::V4(Ipv4Addr::LOCALHOST)].into();
            Outcome::Found(Rc::new(RecordSet { data, expires: now, authentic: false }))
        };
        let rows = [
            ("found and failed", [found(), Outcome::Failed(DnsFault::Timeout)], None),
            ("found and absent", [found(), absent(DnsFault::NoData)], None),
            (
                "absent and failed",
                [absent(DnsFault::NoData), Outcome::Failed(DnsFault::Timeout)],
                Some(DnsFault::Timeout),
            ),
            (
                "no name and failed",
                [Outcome::Failed(DnsFault::ServerFailure), absent(DnsFault::NoSuchDomain)],
                Some(DnsFault::ServerFailure),
            ),
            (
                "no name and no data",
                [absent(DnsFault::NoSuchDomain), absent(DnsFault::NoData)],
                Some(DnsFault::NoData),
            ),
        ];
        for (row, outcomes, fault) in rows {
            assert_eq!(gather(&outcomes, now).err(), fault, "{row}");
        }
    }
}
