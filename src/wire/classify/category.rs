//! Categories and advice. Their labels appear in metrics, logs and the rules file, and never
//! change.

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
