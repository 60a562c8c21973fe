//! Local causes of a failed delivery: those without a reply of the remote server.

use crate::wire::classify::category::Advice;
use crate::wire::classify::category::Category;
use crate::wire::classify::category::Verdict;

/// A local cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The domain does not exist in DNS.
    NoDomain,
    /// The domain does not accept mail (RFC 7505).
    NullMx,
    /// The domain has neither mail exchangers nor addresses.
    NoHost,
    /// DNS did not answer, or gave an invalid answer.
    DnsFailed,
    /// Every next hop is this server.
    Loop,
    /// Too many Received fields.
    TooManyHops,
    ConnectRefused,
    ConnectTimeout,
    Unreachable,
    /// The connection ended during the session.
    ConnectionLost,
    /// The remote server did not reply in time.
    ReplyTimeout,
    /// The remote server does not speak SMTP.
    ProtocolError,
    /// TLS is required and was not offered.
    TlsNotOffered,
    TlsFailed,
    /// The certificate does not satisfy DANE, MTA-STS or the route.
    CertificateRefused,
    /// The message exceeds the SIZE that the remote server announces.
    TooBigForRemote,
    NoSmtputf8,
    NoEightBitMime,
    NoRequireTls,
    /// A local rule refuses it.
    Rejected,
    /// Too many jobs wait for the destination.
    NoRoom,
    /// The maximum age in the queue has passed.
    Expired,
    /// An operator removed the recipient.
    Removed,
    /// A local fault: disk, memory, a bug.
    OurFault,
}

impl Cause {
    /// The enhanced code for the sender, from the registry of RFC 3463. Its class decides whether
    /// delivery is retried; `Expired` has the class of the temporary failures before it.
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
            Cause::Loop => {
                "The domain's mail servers lead back to this server or to a private address."
            }
            Cause::TooManyHops => "The message has passed through too many mail servers.",
            Cause::ConnectRefused => "The remote server refused the connection.",
            Cause::ConnectTimeout => "The remote server could not be reached in time.",
            Cause::Unreachable => "The remote server could not be reached.",
            Cause::ConnectionLost => "The remote server closed the connection.",
            Cause::ReplyTimeout => "The remote server did not answer in time.",
            Cause::ProtocolError => "The remote server sent an invalid reply.",
            Cause::TlsNotOffered => "The remote server does not offer encryption.",
            Cause::TlsFailed => "An encrypted connection could not be established.",
            Cause::CertificateRefused => "The identity of the remote server could not be verified.",
            Cause::TooBigForRemote => "The message is larger than the remote server accepts.",
            Cause::NoSmtputf8 => "The remote server does not support international addresses.",
            Cause::NoEightBitMime => "The remote server does not accept 8-bit messages.",
            Cause::NoRequireTls => "The remote server does not support REQUIRETLS.",
            Cause::Rejected => "A rule of this mail system does not allow the message.",
            Cause::NoRoom => "Too many messages are waiting for the same destination.",
            Cause::Expired => "The message expired before it could be delivered.",
            Cause::Removed => "The message was removed by an operator.",
            Cause::OurFault => "An internal error occurred in this mail system.",
        }
    }
}
