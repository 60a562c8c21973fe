//! The gate: answers the questions of the protocol machine with verdicts, by the policy in force.
//!
//! Promise:  a verdict depends on the identity, the transaction, the policy, the limits and the state
//!           of the store, never on an earlier session.

use crate::base::limits::ARENA_BYTES_PER_RECIPIENT;
use crate::base::limits::ARENA_KEPT_BYTES_MAX;
use crate::base::limits::ARENAS_BYTES_MAX;
use crate::directory::Identity;
use crate::inbound::ask::GateQuestion;
use crate::inbound::policy::Policy;
use crate::inbound::reception::Reception;
use crate::route::Decision;
use crate::route::Question as RelayQuestion;
use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::server::Question;
use crate::wire::smtp::server::Verdict;
use crate::wire::smtp::transaction::Transaction;

/// A verdict, or the question that must be answered first.
pub enum Judgement {
    Now(Verdict),
    Ask(GateQuestion),
}

/// The client whose command is judged, and the limits that apply.
pub struct Caller<'a> {
    pub identity: &'a Identity,
    pub policy: &'a Policy,
    pub reception: &'a Reception,
    /// Per message, on this listener.
    pub recipients_max: u32,
}

impl Caller<'_> {
    pub fn judge(&self, question: Question, tx: &Transaction<'_>) -> Judgement {
        let verdict = match question {
            Question::Helo => Verdict::Accept,
            Question::Mail => self.judge_room(tx.params.size.unwrap_or(0)),
            Question::Recipient => self.judge_recipient(tx),
            Question::Body => self.judge_room(0),
        };
        if question == Question::Recipient && verdict == Verdict::Accept {
            fail::fail_point!("gate::ask", |_| Judgement::Ask(GateQuestion::Probe));
        }
        Judgement::Now(verdict)
    }

    fn judge_recipient(&self, tx: &Transaction<'_>) -> Verdict {
        let Some(candidate) = &tx.candidate else {
            return refuse(451, (4, 3, 0), "Internal error, try again later");
        };
        if let Some(refusal) = self.judge_memory(tx.arena.allocated_bytes()) {
            return refusal;
        }
        let Some(domain) = candidate.mailbox.domain_ascii() else {
            return refuse(501, (5, 1, 3), "Recipient domain is not valid");
        };
        let question = RelayQuestion {
            trusted: self.identity.may_relay(),
            sender: tx.sender_text(),
            recipient_domain: &domain,
            rerouting: candidate.mailbox.is_rerouting(),
            is_postmaster: candidate.mailbox.is_postmaster(),
        };
        match self.policy.relay.judge(&question) {
            Decision::Relay | Decision::Accept => Verdict::Accept,
            Decision::Refuse(refusal) => {
                let (code, enhanced, text) = refusal.reply();
                refuse(code, enhanced, text)
            }
        }
    }

    /// Whether a transaction that uses `bytes` of memory may grow. RFC 5321 s4.5.3.1.10: after 452 a
    /// client sends the message to the other recipients later.
    fn judge_memory(&self, bytes: usize) -> Option<Verdict> {
        let for_recipients = self.recipients_max as usize * ARENA_BYTES_PER_RECIPIENT;
        if bytes > ARENA_KEPT_BYTES_MAX + for_recipients {
            return Some(refuse(452, (4, 5, 3), "Recipient list is too large"));
        }
        if bytes > ARENA_KEPT_BYTES_MAX && self.reception.arena_bytes() > ARENAS_BYTES_MAX {
            return Some(refuse(452, (4, 3, 1), "Too much mail in progress, try again later"));
        }
        None
    }

    /// Whether a message of `bytes`, as far as the size is known, could be stored now.
    fn judge_room(&self, bytes: u64) -> Verdict {
        match self.reception.intake.admit(bytes) {
            Ok(()) => Verdict::Accept,
            Err(refusal) => Verdict::Refuse(refusal.reply),
        }
    }
}

fn refuse(code: u16, enhanced: (u8, u16, u16), text: &'static str) -> Verdict {
    Verdict::Refuse(Reply::new(code, enhanced, text))
}
