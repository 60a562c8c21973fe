//! Questions of the gate that only another thread can answer.
//!
//! The default verdict is 451: without an answer a client tries again later.

use std::time::Duration;

use crate::handoff::NoAnswer;
use crate::handoff::Question;
use crate::wire::smtp::reply::Reply;
use crate::wire::smtp::server::Verdict;

/// Time until the default verdict.
const DEADLINE: Duration = Duration::from_secs(5);

/// A question. Password checks and suppression look-ups will be further ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateQuestion {
    /// Asked for each recipient if a test has set the fail point `gate::ask`; the fail point
    /// `gate::answer` decides the answer.
    Probe,
}

impl Question for GateQuestion {
    type Answer = Verdict;

    fn deadline(&self) -> Option<Duration> {
        Some(DEADLINE)
    }
}

/// Answers a question, on a thread of the pool.
pub fn answer(question: GateQuestion) -> Verdict {
    match question {
        GateQuestion::Probe => {
            fail::fail_point!("gate::answer", |_| {
                Verdict::Refuse(Reply::new(550, (5, 7, 1), "Refused by the probe"))
            });
            Verdict::Accept
        }
    }
}

/// The verdict if there is no answer.
pub fn default_verdict(why: NoAnswer) -> Verdict {
    let text = match why {
        NoAnswer::Full => "Too many checks in progress, try again later",
        NoAnswer::Late | NoAnswer::Away => "A check takes too long, try again later",
        NoAnswer::Failed => "A check failed, try again later",
    };
    Verdict::Refuse(Reply::new(451, (4, 3, 0), text))
}
