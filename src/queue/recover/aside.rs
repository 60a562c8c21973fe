//! Moving invalid records to quarantine.
//!
//! Order:    see `store::quarantine`. The mark `mending` is written before a move that changes the
//!           counts of the ledger.

use std::fs::File;
use std::io;
use std::io::Write as _;

use rocksdb::ColumnFamily;
use rocksdb::ReadOptions;
use rocksdb::WriteBatch;

use crate::base::MessageId;
use crate::queue::fault::QueueFault;
use crate::queue::notice::Notice;
use crate::queue::points::point;
use crate::queue::record::family;
use crate::queue::record::family::Family;
use crate::queue::record::job::Job;
use crate::queue::record::key;
use crate::queue::record::rows::Batch as _;
use crate::queue::record::rows::put_rows;
use crate::queue::recover::pass::Recovery;
use crate::queue::recover::pass::refuse_newer;
use crate::queue::store::families::StoreBatch;
use crate::queue::store::holes;
use crate::queue::store::jobs::StoredJob;
use crate::queue::store::jobs::jobs_of;
use crate::queue::store::quarantine;
use crate::queue::store::quarantine::Suspect;

impl Recovery<'_> {
    /// Copies a message to quarantine while some of its jobs stay in the queue.
    pub(super) fn copy_message(
        &mut self,
        id: MessageId,
        record: &[u8],
        recipients: u64,
    ) -> Result<(), QueueFault> {
        let why = "one of its jobs cannot be read; the others stay in the queue";
        if self.keep_record(family::ENVELOPE, &key::of_id(id), record, why)? {
            self.keep_head(id, why)?;
            self.keep_body(id, why);
            self.found.recipients_moved += recipients;
        }
        Ok(())
    }

    /// Writes the head of a message to quarantine, if there is one. `false`: the head must stay.
    fn keep_head(&mut self, id: MessageId, why: &str) -> Result<bool, QueueFault> {
        let head = self.partition.db().get_cf(self.families.head, key::of_id(id))?;
        head.map_or(Ok(true), |head| self.keep_record(family::HEAD, &key::of_id(id), &head, why))
    }

    /// Moves envelope, head and body of a message. The scan moves its jobs later.
    pub(super) fn move_message(
        &mut self,
        envelope_key: &[u8],
        record: &[u8],
        why: &str,
        recipients: u64,
    ) -> Result<(), QueueFault> {
        self.mark()?;
        self.found.recipients_moved += recipients;
        if !self.keep_record(family::ENVELOPE, envelope_key, record, why)? {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        if let Some(id) = key::whole_id_of(envelope_key) {
            if !self.keep_head(id, why)? || !self.keep_body(id, why) {
                // Without its envelope the body would look like the rest of an aborted transfer.
                return Ok(());
            }
            batch.single_delete_cf(self.families.head, key::of_id(id));
            self.remove_body(id, &mut batch);
        }
        batch.single_delete_cf(self.families.envelope, envelope_key);
        self.partition.db().write(batch)?;
        point("quarantine::after_removal");
        Ok(())
    }

    /// Moves the valid jobs of a message that was moved because of its body.
    pub(super) fn drop_jobs(&mut self, id: MessageId) -> Result<(), QueueFault> {
        for StoredJob { number, record } in jobs_of(self.partition, id)? {
            self.move_job(&key::of_job(id, number), &record, "its message was moved")?;
        }
        Ok(())
    }

    pub(super) fn move_job(
        &mut self,
        job_key: &[u8],
        record: &[u8],
        why: &str,
    ) -> Result<(), QueueFault> {
        self.mark()?;
        if !self.keep_record(family::JOB, job_key, record, why)? {
            return Ok(());
        }
        let mut batch = StoreBatch::new(self.families, 0);
        batch.remove(Family::Job, job_key);
        if let (Some(own), Ok(job)) = (key::job_of(job_key), Job::decode(record)) {
            put_rows(&mut batch, own, Some(job.schedule()), None);
            self.found.recipients_moved += job.recipients.iter().count() as u64;
        }
        Ok(self.partition.db().write(batch.into_writes())?)
    }

    /// Moves a single record.
    pub(super) fn move_record(
        &mut self,
        family: &'static str,
        key: &[u8],
        record: &[u8],
        why: &str,
    ) -> Result<(), QueueFault> {
        if !self.keep_record(family, key, record, why)? {
            return Ok(());
        }
        let handle = self.partition.db().cf_handle(family).expect("opened with every family");
        self.remove_once(handle, key)
    }

    /// Removes a row that is written only once.
    pub(super) fn remove_once(&self, family: &ColumnFamily, key: &[u8]) -> Result<(), QueueFault> {
        let mut batch = WriteBatch::default();
        batch.single_delete_cf(family, key);
        Ok(self.partition.db().write(batch)?)
    }

    /// Writes a record to quarantine. `false`: the write failed, and the record must stay. A valid record
    /// of a newer version is a fault, because a newer Ringpost can read it.
    pub(super) fn keep_record(
        &mut self,
        family: &'static str,
        key: &[u8],
        record: &[u8],
        why: &str,
    ) -> Result<bool, QueueFault> {
        refuse_newer(record)?;
        Ok(self.keep(family, key, why, |file| {
            file.write_all(record)?;
            Ok(record.len() as u64)
        }))
    }

    /// Writes all chunks of a body to one file in quarantine, if there are any.
    pub(super) fn keep_body(&mut self, id: MessageId, why: &str) -> bool {
        let (db, family) = (self.partition.db(), self.families.body);
        let open = move || {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            // Damaged bytes are copied too.
            options.set_verify_checksums(false);
            options.set_iterate_upper_bound((id.as_u64() + 1).to_be_bytes());
            db.raw_iterator_cf_opt(family, options)
        };
        let mut chunks = open();
        chunks.seek(key::of_id(id));
        if !chunks.valid() && chunks.status().is_ok() {
            return true;
        }
        self.keep(family::BODY, &key::of_id(id), why, |file| {
            let (mut bytes, mut last) = (0, key::of_id(id).to_vec());
            loop {
                while let Some((chunk_key, chunk)) = chunks.item() {
                    file.write_all(chunk)?;
                    bytes += chunk.len() as u64;
                    last = chunk_key.to_vec();
                    chunks.next();
                }
                if chunks.status().is_ok() {
                    return Ok(bytes);
                }
                // Chunks that RocksDB cannot unpack are missing from the copy.
                chunks = holes::skip(&open, &last, &mut |_| ());
                if !chunks.valid() {
                    return Ok(bytes);
                }
            }
        })
    }

    fn keep(
        &mut self,
        family: &'static str,
        key: &[u8],
        why: &str,
        write: impl FnOnce(&mut File) -> io::Result<u64>,
    ) -> bool {
        let partition = self.spec.id;
        let suspect = Suspect { partition, family, key, why, now_ms: self.spec.now_ms };
        let hex = key::hex(key);
        match quarantine::keep(&self.spec.quarantine(), &suspect, write) {
            Ok(file) => {
                self.found.quarantined += 1;
                let why = why.to_owned();
                let notice = Notice::Quarantined { partition, family, key: hex, why, file };
                self.found.tell(self.spec, notice);
                true
            }
            Err(cause) => {
                let why = format!("{why}; moving it failed: {cause}");
                self.found.tell(self.spec, Notice::NotMoved { partition, family, key: hex, why });
                false
            }
        }
    }

    /// Writes one range tombstone, because the number of chunks is unknown.
    pub(super) fn remove_body(&self, id: MessageId, batch: &mut WriteBatch) {
        let (first, last) = (key::of_body(id, 0), key::of_body(id, u32::MAX));
        batch.delete_range_cf(self.families.body, first, last);
    }
}
