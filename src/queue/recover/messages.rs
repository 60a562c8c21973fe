//! Recovery of envelopes and jobs: each message has its jobs, and each job its message.

use rocksdb::DBRawIterator;
use rocksdb::WriteBatch;

use crate::base::MessageId;
use crate::queue::fault::QueueFault;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::envelope::Upgraded;
use crate::queue::record::family;
use crate::queue::record::job::Job;
use crate::queue::record::key;
use crate::queue::record::outer::RecordFault;
use crate::queue::recover::pass::Recovery;

impl Recovery<'_> {
    /// Walks envelopes and jobs side by side; both are sorted by id.
    pub(super) fn scan_messages(&mut self) -> Result<(), QueueFault> {
        let mut envelopes = self.iterate(self.families.envelope);
        let mut jobs = self.iterate(self.families.job);
        envelopes.seek_to_first();
        jobs.seek_to_first();
        while let Some((envelope_key, record)) = envelopes.item() {
            match read_envelope(envelope_key, record) {
                Ok((id, envelope)) => {
                    self.upgrade(id, record)?;
                    self.move_jobs_before(&mut jobs, Some(id))?;
                    self.found.body_bytes += envelope.body.bytes;
                    let own = jobs_of(id, &mut jobs)?;
                    match envelope.kept_until_ms.filter(|_| own.is_empty()) {
                        Some(until_ms) => self.check_kept(id, until_ms)?,
                        None => {
                            self.found.messages += 1;
                            self.check_jobs(id, record, &envelope, &own)?;
                        }
                    }
                }
                Err(why) => self.move_message(envelope_key, record, &why, 0)?,
            }
            envelopes.next();
        }
        envelopes.status()?;
        self.move_jobs_before(&mut jobs, None)
    }

    /// Jobs below `id`, or all that are left, have no envelope.
    pub(super) fn move_jobs_before(
        &mut self,
        jobs: &mut DBRawIterator<'_>,
        id: Option<MessageId>,
    ) -> Result<(), QueueFault> {
        while let Some((job_key, record)) = jobs.item() {
            if let (Some(id), Some(owner)) = (id, key::id_of(job_key))
                && owner >= id
            {
                break;
            }
            self.move_job(job_key, record, "it belongs to no message")?;
            jobs.next();
        }
        Ok(jobs.status()?)
    }

    /// Checks the jobs of one message. Recipients in no job have ended, unless a job is unreadable or
    /// rows are lost.
    fn check_jobs(
        &mut self,
        id: MessageId,
        record: &[u8],
        envelope: &Envelope<'_>,
        jobs: &[Row],
    ) -> Result<(), QueueFault> {
        let mut covered = vec![false; envelope.recipients.len()];
        let (mut kept, mut moved) = (0, false);
        // The latest first: an old version of a job names the same recipients.
        for (job_key, record) in jobs.iter().rev() {
            let why = match read_job(job_key, record, covered.len()) {
                Ok(job) => match self.stale(id, &job, &covered)? {
                    None => {
                        job.recipients.iter().for_each(|index| covered[index as usize] = true);
                        self.check_rows(id, &job)?;
                        kept += 1;
                        continue;
                    }
                    Some(why) => why.to_owned(),
                },
                Err(fault) => QueueFault::from(fault).to_string(),
            };
            self.move_job(job_key, record, &why)?;
            moved = true;
        }
        if kept == 0 && !moved && !self.lost.any_of_mail() {
            return self.make_job(id, envelope);
        }
        if kept == 0 {
            // Some recipients may have the mail; the operator decides which to retry.
            self.found.messages -= 1;
            self.found.body_bytes -= envelope.body.bytes;
            let recipients = covered.len() as u64;
            let why = "none of its jobs can be read";
            return self.move_message(&key::of_id(id), record, why, recipients);
        }
        if moved {
            let open = covered.iter().filter(|covered| !**covered).count() as u64;
            self.copy_message(id, record, open)?;
        }
        Ok(())
    }

    /// Why a job is an old version that a later write replaced. Only lost rows bring one back.
    fn stale(
        &self,
        id: MessageId,
        job: &Job<'_>,
        covered: &[bool],
    ) -> Result<Option<&'static str>, QueueFault> {
        if !self.lost.any_of_mail() {
            return Ok(None);
        }
        if job.recipients.iter().any(|index| covered[index as usize]) {
            return Ok(Some("a later job contains some of its recipients"));
        }
        let is_stale = self.lost.includes(family::JOB) && !self.has_rows(id, job)?;
        Ok(is_stale.then_some("no schedule entry: the job has ended or was rescheduled"))
    }

    /// Recreates the job of a message, for all its recipients: without a job there would be no attempt.
    /// No write leaves such a message, and no rows are known to be lost.
    fn make_job(&mut self, id: MessageId, envelope: &Envelope<'_>) -> Result<(), QueueFault> {
        let job = Job::fresh(envelope.received_ms, envelope.recipients.len());
        self.mark()?;
        let mut record = Vec::new();
        job.encode(&mut record).expect("a job without a reply has no field that could be too long");
        let mut batch = WriteBatch::default();
        batch.put_cf(self.families.job, key::of_job(id, job.number), record);
        // A second row would stay for ever: `SingleDelete` removes only one of two.
        if !self.has_rows(id, &job)? {
            batch.put_cf(self.families.due, key::of_due(job.due_ms, id, job.number), []);
        }
        self.partition.db().write(batch)?;
        self.jobs += 1;
        self.repaired("job recreated", &key::of_job(id, job.number));
        Ok(())
    }

    /// Rewrites an envelope of version 1; its trace field becomes the head.
    fn upgrade(&mut self, id: MessageId, record: &[u8]) -> Result<(), QueueFault> {
        let Some(Upgraded { envelope, head }) = Envelope::upgrade(record)? else { return Ok(()) };
        let mut batch = WriteBatch::default();
        // `SingleDelete` requires that a row is written only once.
        batch.single_delete_cf(self.families.envelope, key::of_id(id));
        batch.put_cf(self.families.envelope, key::of_id(id), envelope);
        batch.put_cf(self.families.head, key::of_id(id), head);
        Ok(self.partition.db().write(batch)?)
    }

    /// Copies the message of a lost job to quarantine, for the recipients of that job. The other jobs
    /// stay in the queue.
    pub(super) fn note_lost_job(&mut self, id: MessageId) -> Result<(), QueueFault> {
        let is_evidence = self.lost.includes(family::JOB) && !self.lost.includes(family::DUE);
        if !is_evidence {
            return Ok(());
        }
        let record = self.partition.db().get_cf(self.families.envelope, key::of_id(id))?;
        if let Some(record) = record {
            self.copy_message(id, &record, 0)?;
        }
        Ok(())
    }
}

/// A key and its record.
type Row = (Vec<u8>, Vec<u8>);

pub(super) fn read_envelope<'a>(
    envelope_key: &[u8],
    record: &'a [u8],
) -> Result<(MessageId, Envelope<'a>), String> {
    let id = key::whole_id_of(envelope_key).ok_or("its key is not a message id")?;
    let envelope = Envelope::decode(record).map_err(|fault| fault.to_string())?;
    Ok((id, envelope))
}

/// Reads the jobs of one message.
fn jobs_of(id: MessageId, jobs: &mut DBRawIterator<'_>) -> Result<Vec<Row>, rocksdb::Error> {
    let mut own = Vec::new();
    while let Some((job_key, record)) = jobs.item() {
        if key::id_of(job_key) != Some(id) {
            break;
        }
        own.push((job_key.to_vec(), record.to_vec()));
        jobs.next();
    }
    jobs.status().map(|()| own)
}

fn read_job<'a>(
    job_key: &[u8],
    record: &'a [u8],
    recipients: usize,
) -> Result<Job<'a>, RecordFault> {
    let job = Job::decode(record)?;
    let named = key::job_of(job_key).is_some_and(|(_, number)| number == job.number);
    if !named {
        return Err(RecordFault::Value("job number"));
    }
    if job.recipients.iter().any(|index| index as usize >= recipients) {
        return Err(RecordFault::Value("recipient indexes"));
    }
    Ok(job)
}
