//! Categories and advice. Their labels appear in metrics, logs and the rules file, and never
//! change.

use std::fmt;
use std::time::Duration;

use crate::labelled;

labelled! {
    /// The outcome of a delivery, or the kind of failure.
    pub enum Category {
        Delivered = "delivered",
        /// No such mailbox.
        BadMailbox = "bad-mailbox",
        /// The domain does not exist or does not accept mail.
        BadDomain = "bad-domain",
        /// The mailbox existed and is closed.
        Inactive = "inactive",
        QuotaFull = "quota-full",
        TooBig = "too-big",
        /// The contents of the message: attachments, links, viruses.
        Content = "content",
        Spam = "spam",
        Policy = "policy",
        /// SPF, DKIM, DMARC or reverse DNS.
        Auth = "auth",
        RateLimited = "rate-limited",
        Greylisted = "greylisted",
        /// The reputation of our address or domain.
        Blocklisted = "blocklisted",
        TlsRequired = "tls-required",
        Protocol = "protocol",
        Routing = "routing",
        Connection = "connection",
        Timeout = "timeout",
        RemoteBusy = "remote-busy",
        /// The server does not relay for us, or requires authentication.
        Relaying = "relaying",
        Expired = "expired",
        Other = "other",
    }
}

labelled! {
    /// The recommended reaction, in addition to what the reply code says.
    pub enum Advice {
        /// No more than the code says.
        Follow = "follow",
        /// The address is unusable; do not send to it again.
        Suppress = "suppress",
        /// Retry later; concerns this recipient only.
        Wait = "wait",
        /// Send more slowly to this destination.
        Slow = "slow",
        /// Stop sending to this destination for a while.
        Pause = "pause",
        /// Change something on our side.
        Fix = "fix",
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
    /// The number of connections is lowered to this part of what it is, in percent.
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
        let (length, unit) = units
            .into_iter()
            .find(|(length, _)| seconds.is_multiple_of(*length))
            .unwrap_or((1, 's'));
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
            assert_eq!(Category::from_label(category.label().as_bytes()), Some(category));
        }
        for advice in Advice::ALL {
            assert_eq!(Advice::from_label(advice.label().as_bytes()), Some(advice));
        }
        assert_eq!(Category::from_label(b"Spam"), Some(Category::Spam));
        assert_eq!(Category::from_label(b"spa"), None);
    }
}
