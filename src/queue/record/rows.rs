//! The rows of the schedule that a job has: a pure function of its record.
//!
//! Promise:  a row of `due` for each job (its next attempt, or the next deadline of a filed job), and a
//!           row of `backlog` for each filed job. A row that its record does not have is a leftover:
//!           readers skip it.
//! Order:    a row is put only if the new record has it and the old one has not, in the batch that
//!           removes what only the old one has. So no row is put twice, and each is removed once.

use crate::queue::record::family::Family;
use crate::queue::record::job::Schedule;
use crate::queue::record::key;
use crate::queue::record::key::BacklogKey;
use crate::queue::record::key::DueKey;
use crate::queue::record::key::JobKey;

/// What a plan puts together: puts and removals that are written as one.
pub trait Batch {
    fn put(&mut self, family: Family, key: &[u8], value: &[u8]);

    /// Removes a key in the way of its family: see `Family::removal`.
    fn remove(&mut self, family: Family, key: &[u8]);
}

/// A row of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Row {
    Due(DueKey),
    Backlog(BacklogKey),
}

impl Row {
    pub fn job(&self) -> JobKey {
        match self {
            Row::Due(row) => row.job,
            Row::Backlog(row) => row.due.job,
        }
    }

    /// Shows its family and its key.
    pub fn with_key<T>(&self, show: impl FnOnce(Family, &[u8]) -> T) -> T {
        match self {
            Row::Due(row) => show(Family::Due, &key::of_row(*row)),
            Row::Backlog(row) => show(Family::Backlog, &key::of_backlog(*row)),
        }
    }

    pub fn put(&self, batch: &mut impl Batch) {
        self.with_key(|family, key| batch.put(family, key, &[]));
    }

    pub fn remove(&self, batch: &mut impl Batch) {
        self.with_key(|family, key| batch.remove(family, key));
    }
}

/// The rows of a job: one, or two of a filed job.
pub fn rows_of(job: JobKey, schedule: Schedule) -> impl Iterator<Item = Row> + Clone {
    let Schedule { due_ms, filed } = schedule;
    let at_ms = filed.map_or(due_ms, |filed| filed.deadline_ms);
    let backlog = filed.map(|filed| {
        Row::Backlog(BacklogKey { flow: filed.flow, due: DueKey { at_ms: due_ms, job } })
    });
    std::iter::once(Row::Due(DueKey { at_ms, job })).chain(backlog)
}

/// The rows that only the second record has.
pub fn rows_added(
    job: JobKey,
    old: Option<Schedule>,
    new: Option<Schedule>,
) -> impl Iterator<Item = Row> {
    let old = old.into_iter().flat_map(move |old| rows_of(job, old));
    let new = new.into_iter().flat_map(move |new| rows_of(job, new));
    new.filter(move |row| !old.clone().any(|other| other == *row))
}

/// Changes the rows of a job from those of its old record to those of its new one.
pub fn put_rows(batch: &mut impl Batch, job: JobKey, old: Option<Schedule>, new: Option<Schedule>) {
    rows_added(job, new, old).for_each(|row| row.remove(batch));
    rows_added(job, old, new).for_each(|row| row.put(batch));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::MessageId;
    use crate::queue::record::job::Filed;
    use crate::queue::record::key::FlowKey;

    /// Rows as they are put and removed: family, time, whether put.
    #[derive(Default)]
    struct Written(Vec<(Family, u64, bool)>);

    impl Written {
        fn note(&mut self, family: Family, key: &[u8], is_put: bool) {
            let at_ms = match family {
                Family::Due => key::due_of(key).expect("a row").at_ms,
                _ => key::backlog_of(key).expect("a row").due.at_ms,
            };
            self.0.push((family, at_ms, is_put));
        }
    }

    impl Batch for Written {
        fn put(&mut self, family: Family, key: &[u8], _: &[u8]) {
            self.note(family, key, true);
        }

        fn remove(&mut self, family: Family, key: &[u8]) {
            self.note(family, key, false);
        }
    }

    #[test]
    fn rows_of_both_records_are_left_alone() {
        const DUE: Family = Family::Due;
        const LOG: Family = Family::Backlog;
        let job = (MessageId::from_u64(9), 1);
        let filed = |class, deadline_ms| {
            let flow = FlowKey { destination: 1, tenant: 2, class };
            Some(Filed { flow, deadline_ms })
        };
        let plain = |due_ms| Some(Schedule { due_ms, filed: None });
        let in_flow = |due_ms, class, deadline_ms| {
            Some(Schedule { due_ms, filed: filed(class, deadline_ms) })
        };
        for (name, old, new, written) in [
            ("accepted", None, plain(5), &[(DUE, 5, true)][..]),
            ("tried again", plain(5), plain(8), &[(DUE, 5, false), (DUE, 8, true)]),
            ("the same again", plain(5), plain(5), &[]),
            (
                "filed",
                plain(5),
                in_flow(5, 0, 90),
                &[(DUE, 5, false), (DUE, 90, true), (LOG, 5, true)],
            ),
            ("filed by its deadline", plain(90), in_flow(7, 0, 90), &[(LOG, 7, true)]),
            (
                "tried again in its flow",
                in_flow(5, 0, 90),
                in_flow(8, 0, 90),
                &[(LOG, 5, false), (LOG, 8, true)],
            ),
            ("refiled", in_flow(5, 0, 90), in_flow(5, 1, 90), &[(LOG, 5, false), (LOG, 5, true)]),
            (
                "no longer filed",
                in_flow(5, 0, 90),
                plain(8),
                &[(DUE, 90, false), (LOG, 5, false), (DUE, 8, true)],
            ),
            ("ended", in_flow(5, 0, 90), None, &[(DUE, 90, false), (LOG, 5, false)]),
            ("ended, not filed", plain(5), None, &[(DUE, 5, false)]),
        ] {
            let mut batch = Written::default();
            put_rows(&mut batch, job, old, new);
            assert_eq!(batch.0, written, "{name}");
        }
    }
}
