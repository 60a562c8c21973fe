//! The account of a run: what became of every recipient that was accepted.
//!
//! Promise:  accepted = arrived + bounced + stuck + lost, where `arrived` is known by the id of each
//!           message. Bounces and what is stuck are counted by the server, and the bounces again at
//!           the sink they came to, where a scenario compares the two.
//! Doubt:    a message of which the source has no answer may have been taken and bounced. Then a
//!           bounce may stand for it and hide a loss; `in_doubt` tells how many may.

use crate::ledger::Balance;
use crate::ledger::Ledger;
use crate::ledger::Sent;
use crate::run::server::Audit;

/// Recipients of all sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub accepted: u64,
    pub arrived: u64,
    /// Came back to the sender, or expired.
    pub bounced: u64,
    /// In the queue when the time was over.
    pub stuck: u64,
    /// Nobody has them.
    pub lost: u64,
    /// Came once more than they should.
    pub duplicated: u64,
    /// Nobody sent them.
    pub alien: u64,
    /// The sinks' ledgers had no room for these.
    pub unrecorded: u64,
    pub in_doubt: u64,
}

/// Who knows of bounces.
#[derive(Clone, Copy, Debug)]
pub enum Returned {
    /// The server is ours and was asked.
    Asked(Audit),
    /// So many came to the sinks for bounces.
    Came(u64),
}

impl Account {
    /// `parts` are what the sources sent, each with its balance against the sum of the ledgers.
    pub fn draw(parts: &[(&Sent, Balance)], ledger: &Ledger, returned: Returned) -> Account {
        let sum = |of: &dyn Fn(&Balance) -> u64| parts.iter().map(|(_, one)| of(one)).sum::<u64>();
        let missing = sum(&|one| one.lost + one.bounced);
        let arrived = sum(&|one| one.arrived);
        let duplicated = sum(&|one| one.duplicated);
        // To each source the copies of the others are alien; here only what is no one's.
        let known = arrived + duplicated;
        let known = known + sum(&|one| one.unknown_but_seen) + sum(&|one| one.refused_but_seen);
        let recorded = ledger.copies.saturating_sub(ledger.unrecorded);
        let (bounced, stuck) = match returned {
            Returned::Asked(audit) => (audit.bounced, audit.queued),
            Returned::Came(bounces) => (bounces, 0),
        };
        let unknown: u64 = parts.iter().map(|(sent, _)| unknown_of(sent)).sum();
        let unseen = unknown.saturating_sub(sum(&|one| one.unknown_but_seen));
        Account {
            accepted: missing + arrived,
            arrived,
            bounced,
            stuck,
            lost: missing.saturating_sub(bounced + stuck),
            duplicated,
            alien: ledger.nameless + recorded.saturating_sub(known),
            unrecorded: ledger.unrecorded,
            in_doubt: unseen.min(bounced + stuck),
        }
    }

    pub fn counts(&self) -> [(&'static str, u64); 9] {
        [
            ("accepted", self.accepted),
            ("arrived", self.arrived),
            ("bounced", self.bounced),
            ("stuck", self.stuck),
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("alien", self.alien),
            ("unrecorded", self.unrecorded),
            ("in_doubt", self.in_doubt),
        ]
    }
}

/// Recipients of messages that nobody answered.
fn unknown_of(sent: &Sent) -> u64 {
    let unknown = crate::ledger::Fate::Unknown as u8;
    let messages = sent.fates.iter().filter(|fate| **fate == unknown).count();
    messages as u64 * sent.recipients_per_message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Fate;

    fn sent(run: &str, fates: &[Fate]) -> Sent {
        Sent {
            run: run.to_owned(),
            recipients_per_message: 1,
            fates: fates.iter().map(|fate| *fate as u8).collect(),
        }
    }

    fn account(came: &[(&str, u64)], returned: Returned) -> Account {
        let sources = [
            sent("a.1", &[Fate::Accepted, Fate::Accepted, Fate::Unknown]),
            sent("b.1", &[Fate::Accepted, Fate::Accepted]),
        ];
        let mut seen = "ringpost-load seen 1\n".to_owned();
        for (run, number) in came {
            seen += &format!("run {run}\n{number} 7 1 1\n");
        }
        let ledger = Ledger::read(seen.as_bytes()).expect("it is a ledger");
        let parts = sources.each_ref().map(|sent| (sent, ledger.compare(sent)));
        Account::draw(&parts, &ledger, returned)
    }

    #[test]
    fn every_recipient_is_somewhere() {
        let audit = |bounced, queued| {
            Returned::Asked(Audit { adds_up: true, bounced, queued, ..Audit::default() })
        };
        let all = [("a.1", 0), ("a.1", 1), ("b.1", 0), ("b.1", 1)];
        let well = Account { accepted: 4, arrived: 4, ..Account::default() };
        assert_eq!(account(&all, audit(0, 0)), well);
        let one_gone = Account { accepted: 4, arrived: 3, ..Account::default() };
        assert_eq!(account(&all[1..], audit(0, 0)), Account { lost: 1, ..one_gone });
        let bounced = Account { bounced: 1, in_doubt: 1, ..one_gone };
        assert_eq!(account(&all[1..], audit(1, 0)), bounced);
        assert_eq!(account(&all[1..], Returned::Came(1)), bounced);
        let stuck = Account { stuck: 1, in_doubt: 1, ..one_gone };
        assert_eq!(account(&all[1..], audit(0, 1)), stuck);
    }

    #[test]
    fn copies_of_another_source_are_not_alien() {
        let came = [("a.1", 0), ("a.1", 1), ("a.1", 2), ("b.1", 0), ("b.1", 1), ("b.1", 1)];
        let with = |more: &[(&str, u64)]| {
            let came: Vec<_> = came.iter().chain(more).copied().collect();
            let account = account(&came, Returned::Came(0));
            (account.lost, account.duplicated, account.alien)
        };
        assert_eq!(with(&[]), (0, 1, 0));
        assert_eq!(with(&[("b.1", 9), ("c.1", 0), ("c.1", 0)]), (0, 1, 3));
    }
}
