//! The gate: questions of the protocol machine become verdicts, from the policy in force.
//!
//! Promise:  pure but for the state of the store. A verdict never depends on what an earlier
//!           session did, except through the limits.

use std::net::IpAddr;

use crate::base::limits::ARENA_BYTES_PER_RECIPIENT;
use crate::base::limits::ARENA_KEPT_BYTES_MAX;
use crate::base::limits::ARENAS_BYTES_MAX;
use crate::inbound::intake::STORE_HUNG;
use crate::inbound::intake::sender_text;
use crate::inbound::policy::Policy;
use crate::inbound::reception::Reception;
use crate::queue::CommitFault;
use crate::route::Decision;
use crate::route::Question as RelayQuestion;
use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::server::Question;
use crate::wire::smtp::server::Verdict;
use crate::wire::smtp::transaction::Transaction;

/// Who asks.
pub struct Caller<'a> {
    pub peer: IpAddr,
    pub policy: &'a Policy,
    pub reception: &'a Reception,
    /// Of one message, on this listener.
    pub recipients_max: u32,
}

impl Caller<'_> {
    pub fn judge(&self, question: Question, tx: &Transaction<'_>) -> Verdict {
        match question {
            Question::Helo => Verdict::Accept,
            Question::Mail => self.judge_sender(tx),
            Question::Recipient => self.judge_recipient(tx),
            Question::Body => self.judge_room(0),
        }
    }

    fn judge_sender(&self, tx: &Transaction<'_>) -> Verdict {
        self.judge_room(tx.params.size.unwrap_or(0))
    }

    fn judge_recipient(&self, tx: &Transaction<'_>) -> Verdict {
        let Some(candidate) = &tx.candidate else {
            return refuse(451, (4, 3, 0), "Recipient got lost, try again");
        };
        if let Some(refusal) = self.judge_memory(tx.arena.allocated_bytes()) {
            return refusal;
        }
        let Some(domain) = candidate.mailbox.domain_ascii() else {
            return refuse(501, (5, 1, 3), "Recipient domain is not valid");
        };
        let question = RelayQuestion {
            peer: self.peer,
            authenticated: false,
            sender: sender_text(tx),
            recipient: candidate.mailbox.as_str(),
            recipient_domain: &domain,
            rerouting: candidate.mailbox.is_rerouting(),
            is_postmaster: candidate.mailbox.is_postmaster(),
        };
        match self.policy.relay.judge(&question) {
            Decision::Relay | Decision::Accept => Verdict::Accept,
            Decision::Refuse(refusal) => {
                Verdict::Refuse(Reply::new(refusal.code(), refusal.enhanced(), refusal.text()))
            }
        }
    }

    /// Whether a transaction that takes so much memory may grow. RFC 5321 s4.5.3.1.10: who is told
    /// 452 sends the message to the other recipients afterwards.
    fn judge_memory(&self, bytes: usize) -> Option<Verdict> {
        let for_recipients = self.recipients_max as usize * ARENA_BYTES_PER_RECIPIENT;
        if bytes > ARENA_KEPT_BYTES_MAX + for_recipients {
            return Some(refuse(452, (4, 5, 3), "Recipient list takes too much memory"));
        }
        if bytes > ARENA_KEPT_BYTES_MAX && self.reception.arena_bytes() > ARENAS_BYTES_MAX {
            return Some(refuse(452, (4, 3, 1), "Too much mail under way, try again later"));
        }
        None
    }

    /// Whether a body of that many bytes, as far as known, could be kept now.
    fn judge_room(&self, bytes: u64) -> Verdict {
        let space = &self.reception.space;
        if space.is_low() || space.last().free_bytes < bytes {
            return refuse(452, (4, 3, 1), "Insufficient system storage, try again later");
        }
        if self.reception.store_fault() == Some(CommitFault::Hung) {
            return refuse(451, (4, 3, 0), STORE_HUNG);
        }
        if !self.reception.has_body_room() {
            return refuse(452, (4, 3, 1), "Too much mail under way, try again later");
        }
        Verdict::Accept
    }
}

fn refuse(code: u16, enhanced: (u8, u16, u16), text: &'static str) -> Verdict {
    Verdict::Refuse(Reply::new(code, enhanced, text))
}
