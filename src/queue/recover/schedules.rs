//! Recovery of schedules: each job has its entry in `due`, and each kept message its row in `kept`.

use crate::base::MessageId;
use crate::queue::fault::QueueFault;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::family;
use crate::queue::record::job::Job;
use crate::queue::record::key;
use crate::queue::recover::pass::Recovery;
use crate::queue::store::rows::count_rows;
use crate::queue::store::rows::each_row;

impl Recovery<'_> {
    pub(super) fn has_due(&self, id: MessageId, job: &Job<'_>) -> Result<bool, rocksdb::Error> {
        let due_key = key::of_due(job.due_ms, id, job.number);
        Ok(self.partition.db().get_pinned_cf(self.families.due, due_key)?.is_some())
    }

    pub(super) fn check_due(&mut self, id: MessageId, job: &Job<'_>) -> Result<(), QueueFault> {
        let due_key = key::of_due(job.due_ms, id, job.number);
        if !self.has_due(id, job)? {
            self.partition.db().put_cf(self.families.due, due_key, [])?;
            self.repaired("schedule entry recreated", &due_key);
        }
        Ok(())
    }

    /// Removes schedule entries without a job. Each job has its entry by now, so the entries are only
    /// checked if there are more of them than jobs.
    pub(super) fn scan_due(&mut self) -> Result<(), QueueFault> {
        let due = self.families.due;
        if count_rows(self.iterate(due))? == self.jobs && !self.lost.any_of_mail() {
            return Ok(());
        }
        each_row(self.iterate(due), |due_key, value| match key::due_of(due_key) {
            None => self.move_record(family::DUE, due_key, value, "its key is not a schedule"),
            Some((due_ms, id, number)) if !self.is_due(due_ms, id, number)? => {
                self.note_lost_job(id)?;
                self.remove_once(due, due_key)?;
                self.repaired("schedule entry without a job removed", due_key);
                Ok(())
            }
            Some(_) => Ok(()),
        })
    }

    fn is_due(&self, due_ms: u64, id: MessageId, number: u16) -> Result<bool, rocksdb::Error> {
        let family = self.families.job;
        let record = self.partition.db().get_pinned_cf(family, key::of_job(id, number))?;
        Ok(record.is_some_and(|record| Job::decode(&record).is_ok_and(|job| job.due_ms == due_ms)))
    }

    /// Recreates the row of a kept message if it is missing.
    pub(super) fn check_kept(&mut self, id: MessageId, until_ms: u64) -> Result<(), QueueFault> {
        let (family, row) = (self.families.kept, key::of_kept(until_ms, id));
        if self.partition.db().get_pinned_cf(family, row)?.is_none() {
            self.partition.db().put_cf(family, row, [])?;
            self.repaired("expiry of a kept message recreated", &row);
        }
        self.kept += 1;
        Ok(())
    }

    /// Removes expiries without a kept message. Each kept message has its row by now, so the rows are
    /// only checked if there are more of them than kept messages.
    pub(super) fn scan_kept(&mut self) -> Result<(), QueueFault> {
        let kept = self.families.kept;
        if count_rows(self.iterate(kept))? == self.kept {
            return Ok(());
        }
        each_row(self.iterate(kept), |row, value| match key::kept_of(row) {
            None => self.move_record(family::KEPT, row, value, "its key is not an expiry"),
            Some((until_ms, id)) if !self.is_kept(id, until_ms)? => {
                self.partition.db().delete_cf(kept, row)?;
                self.repaired("expiry without a kept message removed", row);
                Ok(())
            }
            Some(_) => Ok(()),
        })
    }

    fn is_kept(&self, id: MessageId, until_ms: u64) -> Result<bool, rocksdb::Error> {
        let family = self.families.envelope;
        let record = self.partition.db().get_pinned_cf(family, key::of_id(id))?;
        let envelope = record.as_deref().map(Envelope::decode);
        Ok(envelope.is_some_and(|read| read.is_ok_and(|it| it.kept_until_ms == Some(until_ms))))
    }
}
