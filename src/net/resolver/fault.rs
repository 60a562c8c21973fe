//! Why a lookup gave nothing.

use std::error::Error;
use std::fmt;

use crate::base::fault::Blame;
use crate::base::fault::Retry;
use crate::rt::IoFault;

/// Why a lookup gave nothing, by cause. The first three are facts about the domain, all others
/// are about us, the name servers or the way there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsFault {
    /// NXDOMAIN: there is no such name.
    NoSuchDomain,
    /// The name is there, without records of this kind.
    NoData,
    /// The domain says that it takes no mail (RFC 7505).
    NullMx,
    /// No name that DNS can hold.
    BadName,
    /// SERVFAIL: the server could not find out, or validation failed.
    ServerFailure,
    /// REFUSED: the server does not serve us.
    Refused,
    /// No answer in time.
    Timeout,
    /// Nobody listens at the server's address, or there is no way there.
    Unreachable,
    /// The server neither knows the zone nor asks others.
    Lame,
    /// An answer that cannot be read, or contradicts itself.
    Malformed,
    /// Answers came, but to other questions or about other names.
    Mismatched,
    /// The aliases run in a circle, or there are too many.
    CnameLoop,
    /// Too many lookups are under way.
    Busy,
    /// No name server is configured.
    NoServers,
    /// A socket of ours failed.
    Local(IoFault),
    /// The lookup ended by a fault of ours.
    Abandoned,
}

impl DnsFault {
    /// Whether mail may bounce for it. Everything else is tried again later.
    pub fn is_final(self) -> bool {
        matches!(self, DnsFault::NoSuchDomain | DnsFault::NoData | DnsFault::NullMx)
    }

    /// Who has to act.
    pub fn blame(self) -> Blame {
        match self {
            DnsFault::NoServers | DnsFault::Refused | DnsFault::Unreachable => Blame::Operator,
            DnsFault::Busy | DnsFault::Abandoned => Blame::Us,
            DnsFault::Local(fault) => fault.blame(),
            _ => Blame::Peer,
        }
    }

    /// Whether it says nothing of the domain, for nobody was asked. A refusal may be passed on from
    /// the domain's own servers.
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

    /// Whether the same lookup may succeed later.
    pub fn retry(self) -> Retry {
        if self.is_final() { Retry::Never } else { Retry::Later }
    }

    /// Whether the server has said something, be it no use. It is not asked the same again.
    pub(in crate::net::resolver) fn is_said(self) -> bool {
        let silence = matches!(self, DnsFault::Timeout | DnsFault::Unreachable);
        !silence && self != DnsFault::Mismatched
    }

    /// Whether it is kept for a moment, so that those who ask at once do not all wait for it.
    pub(in crate::net::resolver) fn is_cached(self) -> bool {
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
            DnsFault::NoData => "no records of this kind (NODATA)",
            DnsFault::NullMx => "the domain takes no mail (null MX)",
            DnsFault::BadName => "not a name that DNS can hold",
            DnsFault::ServerFailure => "the name server failed (SERVFAIL)",
            DnsFault::Refused => "the name server refused (REFUSED)",
            DnsFault::Timeout => "the name servers did not answer in time",
            DnsFault::Unreachable => "the name servers cannot be reached",
            DnsFault::Lame => "the name server does not know and does not ask others (lame)",
            DnsFault::Malformed => "the name server's answer cannot be read",
            DnsFault::Mismatched => "the name server answered another question",
            DnsFault::CnameLoop => "too many aliases, or aliases in a circle (CNAME)",
            DnsFault::Busy => "too many lookups under way",
            DnsFault::NoServers => "no name server is configured",
            DnsFault::Local(fault) => return write!(f, "no socket to ask with: {fault}"),
            DnsFault::Abandoned => "the lookup was abandoned",
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
            assert_eq!(fault.retry() == Retry::Never, is_final, "{fault}");
        }
    }
}
