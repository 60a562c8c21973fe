//! The fixed words of a verdict. Labels are for metrics, logs and the rules file: they never change.

/// What became of a recipient, or what stood in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    Delivered,
    /// No such mailbox.
    BadMailbox,
    /// No such domain, or one that takes no mail.
    BadDomain,
    /// The mailbox was there and is closed.
    Inactive,
    QuotaFull,
    TooBig,
    /// What is in the message: attachments, links, viruses.
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
    /// They do not relay for us, or want a login.
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

/// What to do about it, beside what the code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Advice {
    /// As the code says.
    Follow,
    /// The address is of no use; do not send to it again.
    Suppress,
    /// For this recipient only: later may do.
    Wait,
    /// Send more slowly to this destination.
    Slow,
    /// Stop sending to this destination for a while.
    Pause,
    /// Somebody must change something on our side.
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
