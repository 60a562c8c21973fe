//! Why a delivery failed before a remote server said anything: our own reasons.

use crate::wire::classify::category::Advice;
use crate::wire::classify::category::Category;
use crate::wire::classify::category::Verdict;

/// A reason that no reply gave us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// DNS says that the domain does not exist.
    NoDomain,
    /// The domain says that it takes no mail (RFC 7505).
    NullMx,
    /// The domain has neither mail exchangers nor addresses.
    NoHost,
    /// DNS gave no answer, or a broken one.
    DnsFailed,
    /// Every way leads back to us.
    Loop,
    /// The message has been passed on too often.
    TooManyHops,
    ConnectRefused,
    ConnectTimeout,
    Unreachable,
    /// The connection ended in the middle of a dialogue.
    ConnectionLost,
    /// The remote did not answer in time.
    ReplyTimeout,
    /// What the remote said is no SMTP.
    ProtocolError,
    /// TLS is a must and was not offered.
    TlsNotOffered,
    TlsFailed,
    /// The certificate does not fit what DANE, MTA-STS or the route ask for.
    CertificateRefused,
    /// The remote announced a lower SIZE than the message has.
    TooBigForRemote,
    NoSmtputf8,
    NoEightBitMime,
    NoRequireTls,
    /// One of our own rules refuses it.
    Rejected,
    /// Others wait for the same destination, and there is no room for more.
    NoRoom,
    /// Tried for as long as its route allows.
    Expired,
    /// An operator removed it.
    Removed,
    /// Our own fault: disk, memory, a bug.
    OurFault,
}

impl Cause {
    /// The enhanced code for the sender, by the registry of RFC 3463. Its class says whether the
    /// delivery is tried again; `Expired` has the class of what it was tried against in vain.
    pub const fn status(self) -> (u8, u16, u16) {
        match self {
            Cause::NoDomain => (5, 1, 2),
            Cause::NullMx => (5, 1, 10),
            Cause::NoHost => (5, 4, 4),
            Cause::DnsFailed => (4, 4, 3),
            Cause::Loop | Cause::TooManyHops => (5, 4, 6),
            Cause::ConnectRefused | Cause::ConnectTimeout | Cause::Unreachable => (4, 4, 1),
            Cause::ConnectionLost | Cause::ReplyTimeout => (4, 4, 2),
            Cause::ProtocolError => (4, 5, 0),
            Cause::TlsNotOffered => (4, 7, 10),
            Cause::TlsFailed => (4, 7, 5),
            Cause::CertificateRefused => (4, 7, 5),
            Cause::TooBigForRemote => (5, 3, 4),
            Cause::NoSmtputf8 => (5, 6, 7),
            Cause::NoEightBitMime => (5, 6, 3),
            Cause::NoRequireTls => (5, 7, 30),
            Cause::Rejected => (5, 7, 1),
            Cause::NoRoom => (4, 3, 2),
            Cause::Expired => (4, 4, 7),
            Cause::Removed => (5, 7, 0),
            Cause::OurFault => (4, 3, 0),
        }
    }

    pub const fn verdict(self) -> Verdict {
        let (category, advice) = match self {
            Cause::NoDomain | Cause::NullMx => (Category::BadDomain, Advice::Suppress),
            Cause::NoHost => (Category::BadDomain, Advice::Follow),
            Cause::DnsFailed => (Category::Routing, Advice::Follow),
            Cause::Loop | Cause::TooManyHops => (Category::Routing, Advice::Fix),
            Cause::ConnectRefused | Cause::Unreachable | Cause::ConnectionLost => {
                (Category::Connection, Advice::Follow)
            }
            Cause::ConnectTimeout | Cause::ReplyTimeout => (Category::Timeout, Advice::Follow),
            Cause::ProtocolError => (Category::Protocol, Advice::Follow),
            Cause::TlsNotOffered | Cause::TlsFailed | Cause::CertificateRefused => {
                (Category::TlsRequired, Advice::Follow)
            }
            Cause::NoRequireTls => (Category::TlsRequired, Advice::Follow),
            Cause::TooBigForRemote => (Category::TooBig, Advice::Follow),
            Cause::NoSmtputf8 | Cause::NoEightBitMime => (Category::Protocol, Advice::Follow),
            Cause::Rejected => (Category::Policy, Advice::Follow),
            Cause::NoRoom => (Category::RateLimited, Advice::Follow),
            Cause::Expired => (Category::Expired, Advice::Follow),
            Cause::Removed => (Category::Policy, Advice::Follow),
            Cause::OurFault => (Category::Other, Advice::Fix),
        };
        Verdict { category, advice }
    }

    /// One sentence for the sender of the message.
    pub const fn text(self) -> &'static str {
        match self {
            Cause::NoDomain => "The domain does not exist.",
            Cause::NullMx => "The domain does not accept mail.",
            Cause::NoHost => "The domain has no mail server.",
            Cause::DnsFailed => "The domain's mail servers could not be looked up.",
            Cause::Loop => "The domain's mail servers lead back to this one.",
            Cause::TooManyHops => "The message has been passed on too many times.",
            Cause::ConnectRefused => "The remote server refused the connection.",
            Cause::ConnectTimeout => "The remote server could not be reached in time.",
            Cause::Unreachable => "The remote server could not be reached.",
            Cause::ConnectionLost => "The remote server ended the connection.",
            Cause::ReplyTimeout => "The remote server did not answer in time.",
            Cause::ProtocolError => "The remote server's answer made no sense.",
            Cause::TlsNotOffered => "The remote server does not offer encryption.",
            Cause::TlsFailed => "No encrypted connection could be made.",
            Cause::CertificateRefused => "The remote server could not prove who it is.",
            Cause::TooBigForRemote => "The message is larger than the remote server accepts.",
            Cause::NoSmtputf8 => "The remote server does not support international addresses.",
            Cause::NoEightBitMime => "The remote server does not accept 8-bit messages.",
            Cause::NoRequireTls => "The remote server does not support REQUIRETLS.",
            Cause::Rejected => "A rule of this mail system refuses the message.",
            Cause::NoRoom => "Too much mail waits for the same destination.",
            Cause::Expired => "The message could not be delivered for too long.",
            Cause::Removed => "The message was removed by an operator.",
            Cause::OurFault => "The mail system had a fault of its own.",
        }
    }
}
