//! Recovery of schedules: each job has its rows in `due` and `backlog`, and each kept message its row
//! in `kept`.

use crate::base::MessageId;
use crate::queue::fault::QueueFault;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::family;
use crate::queue::record::family::Family;
use crate::queue::record::job::Job;
use crate::queue::record::key;
use crate::queue::record::rows::Row;
use crate::queue::record::rows::rows_of;
use crate::queue::recover::pass::Recovery;
use crate::queue::store::rows::count_rows;
use crate::queue::store::rows::each_row;

impl Recovery<'_> {
    /// Whether the schedule has all rows of a job.
    pub(super) fn has_rows(&self, id: MessageId, job: &Job<'_>) -> Result<bool, rocksdb::Error> {
        for row in rows_of((id, job.number), job.schedule()) {
            if !self.has_row(&row)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn has_row(&self, row: &Row) -> Result<bool, rocksdb::Error> {
        row.with_key(|family, row_key| {
            let handle = self.families.of_family(family);
            Ok(self.partition.db().get_pinned_cf(handle, row_key)?.is_some())
        })
    }

    pub(super) fn check_rows(&mut self, id: MessageId, job: &Job<'_>) -> Result<(), QueueFault> {
        for row in rows_of((id, job.number), job.schedule()) {
            if !self.has_row(&row)? {
                row.with_key(|family, row_key| {
                    let handle = self.families.of_family(family);
                    self.partition.db().put_cf(handle, row_key, [])?;
                    self.repaired("schedule entry recreated", row_key);
                    Ok::<(), QueueFault>(())
                })?;
            }
        }
        self.jobs += 1;
        self.filed += u64::from(job.filed.is_some());
        Ok(())
    }

    /// Removes schedule entries without a job. Each job has its rows by now, so the entries are only
    /// checked if there are more of them than expected.
    pub(super) fn scan_schedule(&mut self) -> Result<(), QueueFault> {
        self.scan_rows(Family::Due, self.jobs, |key| key::due_of(key).map(Row::Due))?;
        self.scan_rows(Family::Backlog, self.filed, |key| key::backlog_of(key).map(Row::Backlog))
    }

    fn scan_rows(
        &mut self,
        family: Family,
        expected: u64,
        row_of: impl Fn(&[u8]) -> Option<Row>,
    ) -> Result<(), QueueFault> {
        let handle = self.families.of_family(family);
        if count_rows(self.iterate(handle))? == expected && !self.lost.any_of_mail() {
            return Ok(());
        }
        each_row(self.iterate(handle), |row_key, value| match row_of(row_key) {
            None => self.move_record(family.name(), row_key, value, "its key is not a schedule"),
            Some(row) if !self.is_own(&row)? => {
                if family == Family::Due {
                    self.note_lost_job(row.job().0)?;
                }
                self.remove_once(handle, row_key)?;
                self.repaired("schedule entry without a job removed", row_key);
                Ok(())
            }
            Some(_) => Ok(()),
        })
    }

    /// Whether the record of its job has the row.
    fn is_own(&self, row: &Row) -> Result<bool, rocksdb::Error> {
        let (id, number) = row.job();
        let family = self.families.job;
        let record = self.partition.db().get_pinned_cf(family, key::of_job(id, number))?;
        let job = record.as_deref().and_then(|record| Job::decode(record).ok());
        Ok(job.is_some_and(|job| rows_of((id, number), job.schedule()).any(|own| own == *row)))
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
