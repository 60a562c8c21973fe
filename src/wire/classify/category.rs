//! Categories and advice. Their labels appear in metrics, logs and the rules file, and never
//! change.

use std::fmt;
use std::time::Duration;

/// The outcome of a delivery, or the kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    Delivered,
    /// No such mailbox.
    BadMailbox,
    /// The domain does not exist or does not accept mail.
    BadDomain,
    /// The mailbox existed and is closed.
    Inactive,
    QuotaFull,
    TooBig,
    /// The contents of the message: attachments, links, viruses.
    Content,
    Spam,
    Policy,
    /// SPF, DKIM, DMARC or reverse DNS.
    Auth,
    RateLimited,
    Greylisted,
    /// The reputation of our address or domain.
    Blocklisted,
    TlsRequired,
    Protocol,
    Routing,
    Connection,
    Timeout,
    RemoteBusy,
    /// The server does not relay for us, or requires authentication.
    Relaying,
    Expired,
    Other,
}

impl Category {
    pub const ALL: [Category; 22] = [
        Category::Delivered,
        Category::BadMailbox,
        Category::BadDomain,
        Category::Inactive,
        Category::QuotaFull,
        Category::TooBig,
        Category::Content,
        Category::Spam,
        Category::Policy,
        Category::Auth,
        Category::RateLimited,
        Category::Greylisted,
        Category::Blocklisted,
        Category::TlsRequired,
        Category::Protocol,
        Category::Routing,
        Category::Connection,
        Category::Timeout,
        Category::RemoteBusy,
        Category::Relaying,
        Category::Expired,
        Category::Other,
    ];

    pub const fn label(self) -> &'static str {
        match self {
            Category::Delivered => "delivered",
            Category::BadMailbox => "bad-mailbox",
            Category::BadDomain => "bad-domain",
            Category::Inactive => "inactive",
            Category::QuotaFull => "quota-full",
            Category::TooBig => "too-big",
            Category::Content => "content",
            Category::Spam => "spam",
            Category::Policy => "policy",
            Category::Auth => "auth",
            Category::RateLimited => "rate-limited",
            Category::Greylisted => "greylisted",
            Category::Blocklisted => "blocklisted",
            Category::TlsRequired => "tls-required",
            Category::Protocol => "protocol",
            Category::Routing => "routing",
            Category::Connection => "connection",
            Category::Timeout => "timeout",
            Category::RemoteBusy => "remote-busy",
            Category::Relaying => "relaying",
            Category::Expired => "expired",
            Category::Other => "other",
        }
    }

    pub fn from_label(label: &str) -> Option<Category> {
        Category::ALL.into_iter().find(|category| category.label() == label)
    }
}

/// The recommended reaction, in addition to what the reply code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Advice {
    /// No more than the code says.
    Follow,
    /// The address is unusable; do not send to it again.
    Suppress,
    /// Retry later; concerns this recipient only.
    Wait,
    /// Send more slowly to this destination.
    Slow,
    /// Stop sending to this destination for a while.
    Pause,
    /// Change something on our side.
    Fix,
}

impl Advice {
    pub const ALL: [Advice; 6] =
        [Advice::Follow, Advice::Suppress, Advice::Wait, Advice::Slow, Advice::Pause, Advice::Fix];

    pub const fn label(self) -> &'static str {
        match self {
            Advice::Follow => "follow",
            Advice::Suppress => "suppress",
            Advice::Wait => "wait",
            Advice::Slow => "slow",
            Advice::Pause => "pause",
            Advice::Fix => "fix",
        }
    }

    pub fn from_label(label: &str) -> Option<Advice> {
        Advice::ALL.into_iter().find(|advice| advice.label() == label)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub category: Category,
    pub advice: Advice,
}

/// What a rule does to the mail that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action {
    pub measure: Measure,
    pub time: Duration,
    pub scope: Scope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Connections and rates are lowered to this part of what they are, in percent.
    Slow { percent: u8 },
    /// No connection is opened, and open ones take no more mail.
    Suspend,
}

/// Where an action applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The source address that received the reply, at this destination.
    Source,
    /// The destination, from every source address.
    Destination,
}

/// As in a file of rules.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.measure {
            Measure::Slow { percent } => write!(f, "slow {percent}% ")?,
            Measure::Suspend => f.write_str("suspend ")?,
        }
        let seconds = self.time.as_secs();
        let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')];
        let (length, unit) =
            units.into_iter().find(|(length, _)| seconds % length == 0).unwrap_or((1, 's'));
        let scope = match self.scope {
            Scope::Source => "source",
            Scope::Destination => "destination",
        };
        write!(f, "{}{unit} {scope}", seconds / length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_back() {
        for category in Category::ALL {
            assert_eq!(Category::from_label(category.label()), Some(category));
        }
        for advice in Advice::ALL {
            assert_eq!(Advice::from_label(advice.label()), Some(advice));
        }
        assert_eq!(Category::from_label("Spam"), None);
    }
}
