//! Why a lookup returned no records.

use std::error::Error;
use std::fmt;

use crate::rt::IoFault;

/// Why a lookup returned no records, by cause. The first three are facts about the domain; all others
/// concern us, the name servers or the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsFault {
    /// NXDOMAIN: the name does not exist.
    NoSuchDomain,
    /// The name exists, without records of this type.
    NoData,
    /// The domain accepts no mail: null MX (RFC 7505).
    NullMx,
    /// Not a valid DNS name.
    BadName,
    /// SERVFAIL: the server's lookup or DNSSEC validation failed.
    ServerFailure,
    /// REFUSED: the server does not answer us.
    Refused,
    /// No answer in time.
    Timeout,
    /// Nothing listens at the server's address, or there is no route.
    Unreachable,
    /// The server is neither authoritative nor recursive.
    Lame,
    /// The answer cannot be parsed or contradicts itself.
    Malformed,
    /// Answers arrived, but to other queries.
    Mismatched,
    /// A loop of aliases, or too many.
    CnameLoop,
    /// Too many lookups in flight.
    Busy,
    /// No name server is configured.
    NoServers,
    /// A local socket failed.
    Local(IoFault),
    /// The lookup was aborted by a bug.
    Abandoned,
}

impl DnsFault {
    /// Whether mail may bounce because of it. All others are retried.
    pub fn is_final(self) -> bool {
        matches!(self, DnsFault::NoSuchDomain | DnsFault::NoData | DnsFault::NullMx)
    }

    /// Whether the fault says nothing about the domain, because no server was asked. REFUSED may come
    /// from the domain's own servers.
    pub fn is_ours(self) -> bool {
        matches!(
            self,
            DnsFault::Busy
                | DnsFault::Abandoned
                | DnsFault::Local(_)
                | DnsFault::NoServers
                | DnsFault::Unreachable
        )
    }

    /// Whether a limit of this server kept the lookup from being made: it passes when others end.
    pub fn is_own_limit(self) -> bool {
        match self {
            DnsFault::Busy | DnsFault::Abandoned => true,
            DnsFault::Local(fault) => fault.is_own_limit(),
            _ => false,
        }
    }

    /// Whether the server has replied. The query is not sent to that server again.
    pub(super) fn is_reply(self) -> bool {
        let silence = matches!(self, DnsFault::Timeout | DnsFault::Unreachable);
        !silence && self != DnsFault::Mismatched
    }

    /// Whether the failure is cached briefly, so that concurrent callers do not all wait for it.
    pub(super) fn is_cached(self) -> bool {
        !matches!(
            self,
            DnsFault::Busy | DnsFault::NoServers | DnsFault::Local(_) | DnsFault::Abandoned
        )
    }
}

impl From<IoFault> for DnsFault {
    fn from(fault: IoFault) -> DnsFault {
        match fault {
            IoFault::TimedOut | IoFault::NoChunk => DnsFault::Timeout,
            IoFault::Refused | IoFault::Unreachable => DnsFault::Unreachable,
            IoFault::Reset | IoFault::Closed | IoFault::Aborted => DnsFault::Unreachable,
            other => DnsFault::Local(other),
        }
    }
}

impl fmt::Display for DnsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DnsFault::NoSuchDomain => "no such domain (NXDOMAIN)",
            DnsFault::NoData => "no records of this type (NODATA)",
            DnsFault::NullMx => "the domain accepts no mail (null MX)",
            DnsFault::BadName => "not a valid DNS name",
            DnsFault::ServerFailure => "the name server failed (SERVFAIL)",
            DnsFault::Refused => "the name server refused the query (REFUSED)",
            DnsFault::Timeout => "the name servers did not answer in time",
            DnsFault::Unreachable => "the name servers cannot be reached",
            DnsFault::Lame => "the name server is neither authoritative nor recursive (lame)",
            DnsFault::Malformed => "the answer of the name server cannot be parsed",
            DnsFault::Mismatched => "the name server answered another query",
            DnsFault::CnameLoop => "too many aliases or a loop of aliases (CNAME)",
            DnsFault::Busy => "too many lookups in flight",
            DnsFault::NoServers => "no name server is configured",
            DnsFault::Local(fault) => return write!(f, "the local socket failed: {fault}"),
            DnsFault::Abandoned => "the lookup was aborted",
        })
    }
}

impl Error for DnsFault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_facts_about_the_domain_are_final() {
        let rows = [
            (DnsFault::NoSuchDomain, true),
            (DnsFault::NoData, true),
            (DnsFault::NullMx, true),
            (DnsFault::BadName, false),
            (DnsFault::ServerFailure, false),
            (DnsFault::Refused, false),
            (DnsFault::Timeout, false),
            (DnsFault::Unreachable, false),
            (DnsFault::Lame, false),
            (DnsFault::Malformed, false),
            (DnsFault::Mismatched, false),
            (DnsFault::CnameLoop, false),
            (DnsFault::Busy, false),
            (DnsFault::NoServers, false),
            (DnsFault::Local(IoFault::NoFiles), false),
            (DnsFault::Abandoned, false),
        ];
        for (fault, is_final) in rows {
            assert_eq!(fault.is_final(), is_final, "{fault}");
        }
    }
}
