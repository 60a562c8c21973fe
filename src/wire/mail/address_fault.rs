//! Why an address is refused.

use std::fmt;

/// Why a path was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressFault {
    /// Any other violation of the grammar.
    Syntax,
    /// `<>` as a recipient.
    NullRecipient,
    LocalTooLong,
    DomainTooLong,
    LabelTooLong,
    PathTooLong,
    /// Invalid UTF-8, or a control character.
    NotUtf8,
    /// Valid, but only with SMTPUTF8 (`Mailbox::require_ascii`).
    NeedsSmtputf8,
    /// Brackets around something that is neither an IPv4 nor an IPv6 address.
    BadLiteral,
    /// A domain that IDNA does not allow.
    BadIdna,
}

impl AddressFault {
    /// The cause, as text for the peer.
    pub fn text(self) -> &'static str {
        match self {
            AddressFault::Syntax => "Bad address syntax",
            AddressFault::NullRecipient => "The null address is not a recipient",
            AddressFault::LocalTooLong => "Local part longer than 64 octets",
            AddressFault::DomainTooLong => "Domain longer than 255 octets",
            AddressFault::LabelTooLong => "Domain label longer than 63 octets",
            AddressFault::PathTooLong => "Path longer than 256 octets",
            AddressFault::NotUtf8 => "Address is not valid UTF-8 text",
            AddressFault::NeedsSmtputf8 => "Address needs SMTPUTF8",
            AddressFault::BadLiteral => "Bad address literal",
            AddressFault::BadIdna => "Bad internationalised domain",
        }
    }
}

impl fmt::Display for AddressFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for AddressFault {}
