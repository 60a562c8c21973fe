//! The account of a run: the fate of every accepted recipient.
//!
//! Promise:  accepted = arrived + bounced + stuck + lost. `arrived` and `bounced` are known by the id of
//!           each message; the server counts `stuck`.
//! Doubt:    a message without a reply may have been accepted and be stuck, and hide a loss. `in_doubt` is
//!           the number of such messages.

use crate::ledger::Balance;
use crate::ledger::Ledger;
use crate::ledger::Sent;

/// Counts of recipients of all sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Account {
    pub accepted: u64,
    pub arrived: u64,
    /// Reported as failed.
    pub bounced: u64,
    /// In the queue at the deadline.
    pub stuck: u64,
    /// Neither arrived, bounced nor queued.
    pub lost: u64,
    /// Additional copies.
    pub duplicated: u64,
    /// The highest number of copies of one message to one recipient.
    pub copies_max: u64,
    /// Not sent by any source.
    pub alien: u64,
    /// Changed bodies.
    pub corrupted: u64,
    /// Arrived, although reported as failed.
    pub bounced_but_seen: u64,
    /// Arrived, although refused.
    pub refused_but_seen: u64,
    /// Did not fit the ledgers of the sinks.
    pub unrecorded: u64,
    pub in_doubt: u64,
}

impl Account {
    /// `parts`: each source with its balance against the sum of all ledgers.
    pub fn draw(parts: &[(&Sent, Balance)], ledger: &Ledger, stuck: u64) -> Account {
        let sum = |of: &dyn Fn(&Balance) -> u64| parts.iter().map(|(_, one)| of(one)).sum::<u64>();
        let missing = sum(&|one| one.lost);
        let arrived = sum(&|one| one.arrived);
        let duplicated = sum(&|one| one.duplicated);
        let bounced = sum(&|one| one.bounced);
        // For each source the mail of the others is alien; here only mail of no source is.
        let all: u64 = ledger.run_names().map(|run| ledger.came_of(run)).sum();
        let refused = |(sent, one): &(&Sent, Balance)| match sent.recipients_per_message {
            0 | 1 => one.refused_but_seen,
            _ => 0,
        };
        let own = |sent: &Sent| ledger.came_of(sent.run.as_bytes());
        let ours: u64 = parts.iter().map(|(sent, _)| own(sent)).sum();
        let not_ours = |(sent, one): &(&Sent, Balance)| {
            one.alien.saturating_sub(ledger.nameless + (all - own(sent)))
        };
        let alien = ledger.nameless + (all - ours) + parts.iter().map(not_ours).sum::<u64>();
        let unknown: u64 = parts.iter().map(|(sent, _)| unknown_of(sent)).sum();
        let unseen = unknown.saturating_sub(sum(&|one| one.unknown_but_seen));
        Account {
            accepted: missing + arrived + bounced,
            arrived,
            bounced,
            stuck,
            lost: missing.saturating_sub(stuck),
            duplicated,
            copies_max: ledger.copies_max(),
            alien,
            corrupted: sum(&|one| one.corrupted),
            bounced_but_seen: sum(&|one| one.bounced_but_seen),
            refused_but_seen: parts.iter().map(refused).sum(),
            unrecorded: ledger.unrecorded,
            in_doubt: unseen.min(stuck),
        }
    }
}

/// Recipients of messages without a reply.
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
            ..Sent::default()
        }
    }

    /// `came` are copies, `back` are reports of failure.
    fn account(came: &[(&str, u64)], back: &[(&str, u64)], stuck: u64) -> Account {
        let sources = [
            sent("a.1", &[Fate::Accepted, Fate::Accepted, Fate::Unknown]),
            sent("b.1", &[Fate::Accepted, Fate::Accepted, Fate::Refused]),
        ];
        let mut seen = "ringpost-load seen 1\n".to_owned();
        for (run, number) in came {
            seen += &format!("run {run}\n{number} 7 1 1\n");
        }
        for (run, number) in back {
            seen += &format!("run {run}\n{number} 7 0 1 0 1\n");
        }
        let ledger = Ledger::read(seen.as_bytes()).expect("the text is valid");
        let parts = sources.each_ref().map(|sent| (sent, ledger.compare(sent)));
        Account::draw(&parts, &ledger, stuck)
    }

    #[test]
    fn every_recipient_is_accounted_for() {
        let all = [("a.1", 0), ("a.1", 1), ("b.1", 0), ("b.1", 1)];
        let well = Account { accepted: 4, arrived: 4, copies_max: 1, ..Account::default() };
        assert_eq!(account(&all, &[], 0), well);
        let one_gone = Account { arrived: 3, ..well };
        assert_eq!(account(&all[1..], &[], 0), Account { lost: 1, ..one_gone });
        let bounced = Account { bounced: 1, ..one_gone };
        assert_eq!(account(&all[1..], &all[..1], 0), bounced);
        let wrong = Account { bounced_but_seen: 1, ..well };
        assert_eq!(account(&all, &all[..1], 0), wrong, "it was reported as failed");
        let stuck = Account { stuck: 1, in_doubt: 1, ..one_gone };
        assert_eq!(account(&all[1..], &[], 1), stuck);
    }

    #[test]
    fn refused_mail_that_arrives_is_counted() {
        let all = [("a.1", 0), ("a.1", 1), ("b.1", 0), ("b.1", 1), ("b.1", 1), ("b.1", 2)];
        let account = account(&all, &[], 0);
        let found = (account.accepted, account.arrived, account.refused_but_seen);
        assert_eq!(found, (4, 4, 1));
        assert_eq!((account.duplicated, account.copies_max, account.alien), (1, 2, 0));
    }

    #[test]
    fn copies_of_another_source_are_not_alien() {
        let came = [("a.1", 0), ("a.1", 1), ("a.1", 2), ("b.1", 0), ("b.1", 1), ("b.1", 1)];
        let with = |more: &[(&str, u64)]| {
            let came: Vec<_> = came.iter().chain(more).copied().collect();
            let account = account(&came, &[], 0);
            (account.lost, account.duplicated, account.alien)
        };
        assert_eq!(with(&[]), (0, 1, 0));
        assert_eq!(with(&[("b.1", 9), ("c.1", 0), ("c.1", 0)]), (0, 1, 3));
    }
}
