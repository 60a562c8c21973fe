//! Operations of operators that are being carried out at this home.
//!
//! Owner:    `home`, which applies an operation to each job of a message and reports it here.
//! Promise:  each operation is answered once. A job that is being sent is finished first: the caller is
//!           told so, and the operation follows the attempt. It lives in memory: a restart forgets it.
//!           A message that is changed meanwhile is listed again.
//! Order:    list the jobs, apply the operation to each one in memory or on disk, answer.
//! Bounds:   one operation of a message at a time; `PATIENCE` for the attempts that are under way;
//!           `ROUNDS_MAX` lists.

use std::time::Duration;

use crate::base::IdMap;
use crate::base::MessageId;
use crate::queue::admin::operate::Carried;
use crate::queue::admin::operate::Operation;

/// How long an operation waits for jobs that are recalled or written.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How often the jobs of a message are listed because it changed meanwhile.
const ROUNDS_MAX: u8 = 8;

/// What an operation came to at one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Done,
    /// Already in the requested state.
    Already,
    /// Queued for delivery or being sent; nothing to do.
    UnderWay,
    Refused(Refusal),
    /// There is no such job any more.
    Gone,
}

/// Why an operation was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such message.
    Unknown,
    NotHeld,
    Held,
    /// Another operation on the same message is in progress.
    Crossed,
    /// The message kept changing meanwhile.
    Restless,
    /// The store failed.
    Failed,
}

/// The answer to the caller.
pub type Answered = Result<Carried, Refusal>;

/// What follows a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Answer(Answered),
    /// List the jobs of this message again.
    ListAgain(MessageId),
    Wait,
}

#[derive(Debug)]
struct Ongoing {
    id: MessageId,
    operation: Operation,
    /// Jobs of the last list that have not been reported.
    open: usize,
    done: usize,
    under_way: usize,
    refused: Option<Refusal>,
    gone: usize,
    rounds: u8,
}

/// The operations without an answer, by their number.
#[derive(Debug, Default)]
pub struct Operations {
    ongoing: IdMap<u64, Ongoing>,
    by_message: IdMap<MessageId, u64>,
}

impl Operations {
    pub fn begin(
        &mut self,
        ticket: u64,
        id: MessageId,
        operation: Operation,
    ) -> Result<(), Refusal> {
        if self.by_message.contains_key(&id) {
            return Err(Refusal::Crossed);
        }
        self.by_message.insert(id, ticket);
        let (open, done, under_way, gone) = (0, 0, 0, 0);
        let ongoing =
            Ongoing { id, operation, open, done, under_way, refused: None, gone, rounds: 0 };
        self.ongoing.insert(ticket, ongoing);
        Ok(())
    }

    /// The message and the operation, while the caller waits for the answer.
    pub fn get(&self, ticket: u64) -> Option<(MessageId, &Operation)> {
        self.ongoing.get(&ticket).map(|ongoing| (ongoing.id, &ongoing.operation))
    }

    /// Adds jobs that will be reported.
    pub fn expect(&mut self, ticket: u64, jobs: usize) {
        if let Some(ongoing) = self.ongoing.get_mut(&ticket) {
            ongoing.open += jobs;
        }
    }

    /// What the operation came to at one job. Nobody may wait for it any more.
    pub fn report(&mut self, ticket: u64, part: Part) -> Step {
        let Some(ongoing) = self.ongoing.get_mut(&ticket) else { return Step::Wait };
        ongoing.open = ongoing.open.saturating_sub(1);
        match part {
            Part::Done => ongoing.done += 1,
            Part::Already => (),
            Part::UnderWay => ongoing.under_way += 1,
            Part::Refused(refusal) => ongoing.refused = Some(refusal),
            Part::Gone => ongoing.gone += 1,
        }
        if ongoing.open > 0 {
            return Step::Wait;
        }
        if std::mem::take(&mut ongoing.gone) > 0 && ongoing.rounds < ROUNDS_MAX {
            // Its recipients may be in other jobs now.
            ongoing.rounds += 1;
            return Step::ListAgain(ongoing.id);
        }
        let answer = match (ongoing.done, ongoing.under_way, ongoing.refused) {
            _ if ongoing.rounds >= ROUNDS_MAX => Err(Refusal::Restless),
            (1.., _, _) => Ok(Carried::Done),
            (0, 1.., _) => Ok(Carried::UnderWay),
            (0, 0, Some(refusal)) => Err(refusal),
            (0, 0, None) => Ok(Carried::Already),
        };
        self.end(ticket, answer)
    }

    /// Whether a deletion found no job, so that the message may only be kept after its end.
    pub fn is_deletion_of_kept(&self, ticket: u64) -> bool {
        let ongoing = self.ongoing.get(&ticket);
        ongoing.is_some_and(|one| one.operation == Operation::Delete && one.done == 0)
    }

    /// The message has no jobs.
    pub fn none_found(&mut self, ticket: u64) -> Step {
        let is_done = self.ongoing.get(&ticket).is_some_and(|ongoing| ongoing.done > 0);
        self.end(ticket, if is_done { Ok(Carried::Done) } else { Err(Refusal::Unknown) })
    }

    /// `PATIENCE` is over: what is left follows the attempts.
    pub fn lose_patience(&mut self, ticket: u64) -> Step {
        self.end(ticket, Ok(Carried::AfterAttempt))
    }

    pub fn end(&mut self, ticket: u64, answer: Answered) -> Step {
        match self.ongoing.remove(&ticket) {
            Some(ongoing) => {
                self.by_message.remove(&ongoing.id);
                Step::Answer(answer)
            }
            None => Step::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(reports: &[Part]) -> Step {
        let mut operations = Operations::default();
        operations.begin(1, MessageId::from_u64(9), Operation::Hold).expect("the first");
        operations.expect(1, reports.len());
        let steps: Vec<Step> = reports.iter().map(|part| operations.report(1, *part)).collect();
        let (last, before) = steps.split_last().expect("some reports");
        assert!(before.iter().all(|step| *step == Step::Wait), "{reports:?}");
        *last
    }

    #[test]
    fn the_answer_sums_up_all_jobs() {
        use Part::*;
        let not_held = Refused(Refusal::NotHeld);
        for (reports, answer) in [
            (&[Done][..], Ok(Carried::Done)),
            (&[Already, Done, UnderWay, not_held], Ok(Carried::Done)),
            (&[Already, UnderWay], Ok(Carried::UnderWay)),
            (&[Already, not_held], Err(Refusal::NotHeld)),
            (&[Already, Already], Ok(Carried::Already)),
        ] {
            assert_eq!(ask(reports), Step::Answer(answer), "{reports:?}");
        }
        assert_eq!(ask(&[Done, Gone]), Step::ListAgain(MessageId::from_u64(9)));
    }

    #[test]
    fn one_operation_of_a_message_at_a_time_and_one_answer() {
        let mut operations = Operations::default();
        let id = MessageId::from_u64(9);
        assert_eq!(operations.begin(1, id, Operation::Hold), Ok(()));
        assert_eq!(operations.begin(2, id, Operation::Delete), Err(Refusal::Crossed));
        operations.expect(1, 1);
        let answer = Step::Answer(Ok(Carried::AfterAttempt));
        assert_eq!(operations.lose_patience(1), answer);
        assert_eq!(operations.report(1, Part::Done), Step::Wait, "nobody waits any more");
        assert_eq!(operations.begin(2, id, Operation::Delete), Ok(()));
        assert!(operations.is_deletion_of_kept(2));
        assert_eq!(operations.none_found(2), Step::Answer(Err(Refusal::Unknown)));
        assert!(operations.ongoing.is_empty());
    }

    #[test]
    fn a_message_that_never_rests_is_given_up() {
        let mut operations = Operations::default();
        operations.begin(1, MessageId::from_u64(9), Operation::Hold).expect("the first");
        for _ in 0..ROUNDS_MAX {
            operations.expect(1, 1);
            assert!(matches!(operations.report(1, Part::Gone), Step::ListAgain(_)));
        }
        operations.expect(1, 1);
        assert_eq!(operations.report(1, Part::Gone), Step::Answer(Err(Refusal::Restless)));
    }
}
