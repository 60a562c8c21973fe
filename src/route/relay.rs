//! The relay policy: whether mail for a recipient is accepted.
//!
//! Promise:  mail for foreign domains is accepted only from configured networks and authenticated
//!           peers. The text of a local part never reroutes a message.
//! Order:    the first matching line decides.
//!
//! ```text
//! postmaster, bare or at an accepted domain   accept    RFC 5321 s4.5.1: always, for everybody
//! %-hack, bang path, inner @                  refuse    553 5.1.3 to our own, 550 5.7.1 to others
//! a refused sender                            refuse    550 5.7.1
//! a refused recipient                         refuse    550 5.1.1
//! an accepted domain                          accept
//! a trusted client                            relay
//! all others                                  refuse    550 5.7.1
//! ```

use crate::config::DomainPattern;
use crate::config::RelayConfig;
use crate::route::domain_index::DomainIndex;

/// The relay policy, as one immutable snapshot.
#[derive(Clone, Debug, Default)]
pub struct RelayPolicy {
    domains: DomainIndex,
    refuse_senders: DomainIndex,
    refuse_recipients: DomainIndex,
}

/// One recipient of one transaction. All texts have passed the address parser.
#[derive(Clone, Copy, Debug)]
pub struct Question<'q> {
    /// The client may send to any domain: see `directory::Identity`.
    pub trusted: bool,
    /// `local@domain`; empty for the null sender.
    pub sender: &'q str,
    /// In A-labels; a literal keeps its brackets; empty for the bare `Postmaster`.
    pub recipient_domain: &'q str,
    /// The local part names another hop: `%`, `!`, or an inner `@`.
    pub rerouting: bool,
    /// The local part is `postmaster`, case-insensitive.
    pub is_postmaster: bool,
}

/// The decision on a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The domain is one of ours.
    Accept,
    /// The domain is foreign, and the peer may relay.
    Relay,
    Refuse(RelayRefusal),
}

/// Why a recipient is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayRefusal {
    NotRelayed,
    /// For peers that may relay: the address itself is at fault.
    Rerouting,
    Sender,
    Recipient,
}

impl RelayRefusal {
    /// The reply code, the enhanced code (RFC 3463) and the text.
    pub fn reply(self) -> (u16, (u8, u16, u16), &'static str) {
        match self {
            RelayRefusal::NotRelayed => (550, (5, 7, 1), "Relaying denied"),
            RelayRefusal::Rerouting => (553, (5, 1, 3), "Source-routed addresses are not relayed"),
            RelayRefusal::Sender => (550, (5, 7, 1), "Sender refused"),
            RelayRefusal::Recipient => (550, (5, 1, 1), "Recipient refused"),
        }
    }
}

impl RelayPolicy {
    pub fn build(config: &RelayConfig) -> RelayPolicy {
        let index = |patterns: &[DomainPattern]| DomainIndex::of(patterns);
        RelayPolicy {
            domains: index(&config.domains),
            refuse_senders: index(&config.refuse_senders),
            refuse_recipients: index(&config.refuse_recipients),
        }
    }

    /// Decides on one recipient without allocating.
    pub fn judge(&self, question: &Question<'_>) -> Decision {
        let accepted = self.domains.contains(question.recipient_domain);
        if question.is_postmaster && (accepted || question.recipient_domain.is_empty()) {
            return Decision::Accept;
        }
        if question.rerouting {
            return Decision::Refuse(match question.trusted {
                true => RelayRefusal::Rerouting,
                false => RelayRefusal::NotRelayed,
            });
        }
        let sender_domain = question.sender.rsplit_once('@').map_or("", |(_, domain)| domain);
        if self.refuse_senders.contains(sender_domain) {
            return Decision::Refuse(RelayRefusal::Sender);
        }
        if self.refuse_recipients.contains(question.recipient_domain) {
            return Decision::Refuse(RelayRefusal::Recipient);
        }
        match (accepted, question.trusted) {
            (true, _) => Decision::Accept,
            (false, true) if !question.recipient_domain.is_empty() => Decision::Relay,
            (false, _) => Decision::Refuse(RelayRefusal::NotRelayed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::kind::Spelled;

    const INSIDE: bool = true;
    const OUTSIDE: bool = false;

    fn policy() -> RelayPolicy {
        relaying(&["ours.test", ".tree.test"], &["bad.test", ".evil.test"], &["gone.test"])
    }

    fn relaying(domains: &[&str], senders: &[&str], recipients: &[&str]) -> RelayPolicy {
        let list = |entries: &[&str]| {
            entries.iter().map(|one| DomainPattern::spell(one).expect("it is good")).collect()
        };
        RelayPolicy::build(&RelayConfig {
            networks: Vec::new(),
            domains: list(domains),
            refuse_senders: list(senders),
            refuse_recipients: list(recipients),
        })
    }

    fn question<'q>(trusted: bool, sender: &'q str, recipient: &'q str) -> Question<'q> {
        let (local, domain) = recipient.rsplit_once('@').unwrap_or((recipient, ""));
        Question {
            trusted,
            sender,
            recipient_domain: domain,
            rerouting: local.contains(['%', '!', '@']),
            is_postmaster: local.eq_ignore_ascii_case("postmaster"),
        }
    }

    #[test]
    fn decisions_follow_the_table() {
        use Decision::Accept;
        use Decision::Refuse;
        use Decision::Relay;
        let denied = Refuse(RelayRefusal::NotRelayed);
        let table = [
            ("inside to anywhere", INSIDE, "a@x.test", "b@far.test", Relay),
            ("inside to ours", INSIDE, "a@x.test", "b@ours.test", Accept),
            ("inside to a foreign literal", INSIDE, "a@x.test", "b@[192.0.2.9]", Relay),
            ("outside to ours", OUTSIDE, "a@x.test", "b@OURS.test", Accept),
            ("outside to our tree", OUTSIDE, "a@x.test", "b@mx.tree.test", Accept),
            ("outside to a literal", OUTSIDE, "a@x.test", "b@[192.0.2.9]", denied),
            ("outside to anywhere", OUTSIDE, "a@x.test", "b@far.test", denied),
            ("outside from ours to anywhere", OUTSIDE, "a@ours.test", "b@far.test", denied),
            ("null sender to ours", OUTSIDE, "", "b@ours.test", Accept),
            ("null sender to anywhere", OUTSIDE, "", "b@far.test", denied),
            ("null sender from inside", INSIDE, "", "b@far.test", Relay),
            ("bare postmaster", OUTSIDE, "a@x.test", "PostMaster", Accept),
            ("bare postmaster, bad sender", OUTSIDE, "a@mx.evil.test", "Postmaster", Accept),
            (
                "our postmaster is never refused",
                OUTSIDE,
                "a@x.test",
                "POSTMASTER@ours.test",
                Accept,
            ),
            ("their postmaster", OUTSIDE, "a@x.test", "postmaster@far.test", denied),
            ("their postmaster, from inside", INSIDE, "a@x.test", "postmaster@far.test", Relay),
            (
                "a refused sender",
                INSIDE,
                "Spammer@Bad.test",
                "b@far.test",
                Refuse(RelayRefusal::Sender),
            ),
            (
                "a refused domain",
                INSIDE,
                "a@x.test",
                "b@gone.test",
                Refuse(RelayRefusal::Recipient),
            ),
        ];
        let policy = policy();
        for (case, peer, sender, recipient, expected) in table {
            assert_eq!(policy.judge(&question(peer, sender, recipient)), expected, "{case}");
        }
    }

    #[test]
    fn nothing_is_rerouted_for_anybody() {
        let recipients = [
            "b%far.test@ours.test",
            "far.test!b@ours.test",
            "b%far.test@far.test",
            "\"b@far.test\"@ours.test",
            "b%far.test@[192.0.2.1]",
            "b%far.test",
        ];
        let policy = policy();
        for recipient in recipients {
            for (peer, refusal) in
                [(INSIDE, RelayRefusal::Rerouting), (OUTSIDE, RelayRefusal::NotRelayed)]
            {
                let decision = policy.judge(&question(peer, "a@x.test", recipient));
                assert_eq!(decision, Decision::Refuse(refusal), "{recipient} from {peer}");
            }
        }
    }

    #[test]
    fn refusals_have_their_codes() {
        let table = [
            (RelayRefusal::NotRelayed, 550, (5, 7, 1)),
            (RelayRefusal::Rerouting, 553, (5, 1, 3)),
            (RelayRefusal::Sender, 550, (5, 7, 1)),
            (RelayRefusal::Recipient, 550, (5, 1, 1)),
        ];
        for (refusal, code, enhanced) in table {
            let (found, found_enhanced, text) = refusal.reply();
            assert_eq!((found, found_enhanced), (code, enhanced), "{refusal:?}");
            assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
    }

    /// Prints what a question costs; it asserts nothing about time.
    #[test]
    fn a_question_of_ten_thousand_domains_is_measured() {
        let domains = (0..10_000).map(|n| match n % 10 {
            0 => format!(".tree{n}.example.net"),
            _ => format!("customer{n}.example.com"),
        });
        let domains: Vec<String> = domains.collect();
        let domains: Vec<&str> = domains.iter().map(String::as_str).collect();
        let policy = relaying(&domains, &["bad.test"], &[]);
        let table = [
            ("an exact name", "b@Customer9999.example.com", Decision::Accept),
            ("a name in a tree", "b@mx.tree5000.example.net", Decision::Accept),
            ("no member, three labels", "b@www.far.test", Decision::Relay),
            ("no member, six labels", "b@a.b.c.d.far.test", Decision::Relay),
            ("no member, of the length of trees", "b@a.b.c.d.treenot.example.net", Decision::Relay),
        ];
        const ROUNDS: u32 = 200_000;
        for (case, recipient, expected) in table {
            let question = question(INSIDE, "news@sender.test", recipient);
            let start = std::time::Instant::now();
            for _ in 0..ROUNDS {
                assert_eq!(std::hint::black_box(&policy).judge(&question), expected, "{case}");
            }
            println!("judge, {case}: {} ns", start.elapsed().as_nanos() / u128::from(ROUNDS));
        }
    }
}
