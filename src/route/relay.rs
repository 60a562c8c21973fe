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
//! an accepted domain or literal               accept
//! a trusted client                            relay
//! all others                                  refuse    550 5.7.1
//! ```

use std::fmt;

use crate::route::membership::AddressSet;
use crate::route::membership::BadEntry;
use crate::route::membership::DomainSet;

/// The policy as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelaySettings {
    /// Domains whose mail is accepted from any peer; see `DomainSet` for the syntax.
    pub domains: Vec<String>,
    /// See `AddressSet`.
    pub refuse_senders: Vec<String>,
    pub refuse_recipients: Vec<String>,
}

/// An invalid entry of the settings, with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayProblem {
    pub key: &'static str,
    pub entry: BadEntry,
}

impl fmt::Display for RelayProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.entry)
    }
}

/// The relay policy, as one immutable snapshot.
#[derive(Clone, Debug, Default)]
pub struct RelayPolicy {
    domains: DomainSet,
    refuse_senders: AddressSet,
    refuse_recipients: AddressSet,
}

/// One recipient of one transaction. All texts have passed the address parser.
#[derive(Clone, Copy, Debug)]
pub struct Question<'q> {
    /// The client may send to any domain: see `directory::Identity`.
    pub trusted: bool,
    /// `local@domain`; empty for the null sender.
    pub sender: &'q str,
    /// `local@domain`, or the bare `Postmaster`.
    pub recipient: &'q str,
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
    /// For peers that may not relay.
    ReroutingNotRelayed,
    Sender,
    Recipient,
}

impl RelayRefusal {
    pub fn code(self) -> u16 {
        match self {
            RelayRefusal::Rerouting => 553,
            _ => 550,
        }
    }

    /// RFC 3463.
    pub fn enhanced(self) -> (u8, u16, u16) {
        match self {
            RelayRefusal::Rerouting => (5, 1, 3),
            RelayRefusal::Recipient => (5, 1, 1),
            RelayRefusal::NotRelayed | RelayRefusal::ReroutingNotRelayed | RelayRefusal::Sender => {
                (5, 7, 1)
            }
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            RelayRefusal::NotRelayed => "Relaying denied",
            RelayRefusal::Rerouting => "Source-routed addresses are not relayed",
            RelayRefusal::ReroutingNotRelayed => "Relaying denied",
            RelayRefusal::Sender => "Sender refused",
            RelayRefusal::Recipient => "Recipient refused",
        }
    }
}

impl RelayPolicy {
    /// The snapshot, or all invalid entries.
    pub fn build(settings: &RelaySettings) -> Result<RelayPolicy, Vec<RelayProblem>> {
        let mut problems = Vec::new();
        let domains = DomainSet::new(settings.domains.iter().map(String::as_str));
        let senders = AddressSet::new(settings.refuse_senders.iter().map(String::as_str));
        let recipients = AddressSet::new(settings.refuse_recipients.iter().map(String::as_str));
        let policy = RelayPolicy {
            domains: take(domains, "domains", &mut problems),
            refuse_senders: take(senders, "refuse_senders", &mut problems),
            refuse_recipients: take(recipients, "refuse_recipients", &mut problems),
        };
        if problems.is_empty() { Ok(policy) } else { Err(problems) }
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
                false => RelayRefusal::ReroutingNotRelayed,
            });
        }
        if self.refuse_senders.contains(question.sender) {
            return Decision::Refuse(RelayRefusal::Sender);
        }
        if self.refuse_recipients.contains(question.recipient) {
            return Decision::Refuse(RelayRefusal::Recipient);
        }
        match (accepted, question.trusted) {
            (true, _) => Decision::Accept,
            (false, true) if !question.recipient_domain.is_empty() => Decision::Relay,
            (false, _) => Decision::Refuse(RelayRefusal::NotRelayed),
        }
    }
}

fn take<T: Default>(
    built: Result<T, Vec<BadEntry>>,
    key: &'static str,
    problems: &mut Vec<RelayProblem>,
) -> T {
    built.unwrap_or_else(|bad| {
        problems.extend(bad.into_iter().map(|entry| RelayProblem { key, entry }));
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSIDE: bool = true;
    const OUTSIDE: bool = false;

    fn policy() -> RelayPolicy {
        let list = |entries: &[&str]| entries.iter().map(|entry| entry.to_string()).collect();
        let settings = RelaySettings {
            domains: list(&["ours.test", ".tree.test", "[192.0.2.1]"]),
            refuse_senders: list(&["spammer@bad.test", ".evil.test"]),
            refuse_recipients: list(&["nobody@ours.test", "postmaster@ours.test", "gone.test"]),
        };
        RelayPolicy::build(&settings).expect("the settings are good")
    }

    fn question<'q>(trusted: bool, sender: &'q str, recipient: &'q str) -> Question<'q> {
        let (local, domain) = recipient.rsplit_once('@').unwrap_or((recipient, ""));
        Question {
            trusted,
            sender,
            recipient,
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
            ("outside to our literal", OUTSIDE, "a@x.test", "b@[192.0.2.1]", Accept),
            ("outside to another literal", OUTSIDE, "a@x.test", "b@[192.0.2.9]", denied),
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
                "Spammer@bad.test",
                "b@far.test",
                Refuse(RelayRefusal::Sender),
            ),
            (
                "a refused recipient",
                OUTSIDE,
                "a@x.test",
                "nobody@ours.test",
                Refuse(RelayRefusal::Recipient),
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
                [(INSIDE, RelayRefusal::Rerouting), (OUTSIDE, RelayRefusal::ReroutingNotRelayed)]
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
            (RelayRefusal::ReroutingNotRelayed, 550, (5, 7, 1)),
            (RelayRefusal::Sender, 550, (5, 7, 1)),
            (RelayRefusal::Recipient, 550, (5, 1, 1)),
        ];
        for (refusal, code, enhanced) in table {
            assert_eq!((refusal.code(), refusal.enhanced()), (code, enhanced), "{refusal:?}");
            assert!(refusal.text().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
    }

    #[test]
    fn all_bad_settings_are_told_with_their_keys() {
        let settings = RelaySettings {
            domains: vec!["*".to_owned()],
            refuse_senders: vec!["a b".to_owned()],
            refuse_recipients: vec!["@x.test".to_owned()],
        };
        let problems = RelayPolicy::build(&settings).expect_err("three are bad");
        let keys: Vec<_> = problems.iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["domains", "refuse_senders", "refuse_recipients"]);
    }

    /// Prints what a question costs; it asserts nothing about time.
    #[test]
    fn a_question_of_ten_thousand_domains_is_measured() {
        let domains = (0..10_000).map(|n| match n % 10 {
            0 => format!(".tree{n}.example.net"),
            _ => format!("customer{n}.example.com"),
        });
        let settings = RelaySettings {
            domains: domains.collect(),
            refuse_senders: vec!["bad.test".to_owned()],
            ..RelaySettings::default()
        };
        let policy = RelayPolicy::build(&settings).expect("the settings are good");
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
