//! Local causes of a failed delivery: those without a reply of the remote server.

use crate::wire::classify::category::Advice;
use crate::wire::classify::category::Category;
use crate::wire::classify::category::Verdict;

/// One row for each cause: the enhanced code, category, advice, and a sentence for the sender of the
/// message.
macro_rules! causes {
    ($($(#[$doc:meta])* $cause:ident $status:tt $category:ident $advice:ident $text:literal;)+) => {
        /// A local cause.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause {
            $($(#[$doc])* $cause,)+
        }

        impl Cause {
            /// The enhanced code for the sender, from the registry of RFC 3463. Its class decides
            /// whether delivery is retried; `Expired` has the class of the temporary failures
            /// before it.
            pub const fn status(self) -> (u8, u16, u16) {
                match self {
                    $(Cause::$cause => $status,)+
                }
            }

            pub const fn verdict(self) -> Verdict {
                let (category, advice) = match self {
                    $(Cause::$cause => (Category::$category, Advice::$advice),)+
                };
                Verdict { category, advice }
            }

            /// One sentence for the sender of the message.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Cause::$cause => $text,)+
                }
            }
        }
    };
}

causes! {
    NoDomain (5, 1, 2) BadDomain Suppress "The domain does not exist.";
    /// RFC 7505.
    NullMx (5, 1, 10) BadDomain Suppress "The domain does not accept mail.";
    /// The domain has neither mail exchangers nor addresses.
    NoHost (5, 4, 4) BadDomain Follow "The domain has no mail server.";
    DnsFailed (4, 4, 3) Routing Follow "The domain's mail servers could not be looked up.";
    /// Every next hop is this server.
    Loop (5, 4, 6) Routing Fix "The domain's mail servers lead back to this server or to a private address.";
    /// Too many Received fields.
    TooManyHops (5, 4, 6) Routing Fix "The message has passed through too many mail servers.";
    ConnectRefused (4, 4, 1) Connection Follow "The remote server refused the connection.";
    ConnectTimeout (4, 4, 1) Timeout Follow "The remote server could not be reached in time.";
    Unreachable (4, 4, 1) Connection Follow "The remote server could not be reached.";
    ConnectionLost (4, 4, 2) Connection Follow "The remote server closed the connection.";
    ReplyTimeout (4, 4, 2) Timeout Follow "The remote server did not answer in time.";
    ProtocolError (4, 5, 0) Protocol Follow "The remote server sent an invalid reply.";
    /// TLS is required.
    TlsNotOffered (4, 7, 10) TlsRequired Follow "The remote server does not offer encryption.";
    TlsFailed (4, 7, 5) TlsRequired Follow "An encrypted connection could not be established.";
    /// The certificate does not satisfy DANE, MTA-STS or the route.
    CertificateRefused (4, 7, 5) TlsRequired Follow "The identity of the remote server could not be verified.";
    /// The message exceeds the SIZE that the remote server announces.
    TooBigForRemote (5, 3, 4) TooBig Follow "The message is larger than the remote server accepts.";
    NoSmtputf8 (5, 6, 7) Protocol Follow "The remote server does not support international addresses.";
    NoEightBitMime (5, 6, 3) Protocol Follow "The remote server does not accept 8-bit messages.";
    NoRequireTls (5, 7, 30) TlsRequired Follow "The remote server does not support REQUIRETLS.";
    Rejected (5, 7, 1) Policy Follow "A rule of this mail system does not allow the message.";
    NoRoom (4, 3, 2) RateLimited Follow "Too many messages are waiting for the same destination.";
    Expired (4, 4, 7) Expired Follow "The message expired before it could be delivered.";
    Removed (5, 7, 0) Policy Follow "The message was removed by an operator.";
    /// A local fault: disk, memory, a bug.
    OurFault (4, 3, 0) Other Fix "An internal error occurred in this mail system.";
}
