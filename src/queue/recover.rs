//! Recovery: what a start finds in a partition, and how it is put right.
//!
//! Promise:  leftovers of a crash are removed or completed; invalid records are moved to
//!           quarantine unchanged, counted and reported. Nothing is inferred from unreadable
//!           data: recovery stops with a fault, and `partition` has the database rescued first.
//!           If rows are lost (`Lost`), a message is served only if all its records agree;
//!           otherwise it goes to quarantine, since finished recipients must not get it again.
//!
//! Order:    1. bodies with a stream mark are removed: their transfers were aborted.
//!           2. every envelope and job is read and checked, in one pass over both; every job's
//!              schedule entry is looked up, and made again where it is missing. A message without
//!              any job gets a new one, unless rows are lost or a job was not understood.
//!           3. schedule entries without a job are removed.
//!           4. bodies: the newest are read and checked; chunks at the end that belong to no
//!              message are removed. After damage all are, and such chunks are kept.
//!           5. one sync for all of it.
//! Ledger:   what changes the number of recipients in the jobs is preceded by the mark `mending`, so
//!           that a recovery that was cut short has its ledger brought in line by the next.
//! Cost:     steps 1 to 3 read keys and small records only, step 4 at most
//!           `BODY_BYTES_READ_MAX`. Older bodies are checked when they are read. `benches/commit`
//!           measures it: 2.5 to 6 us per message with one recipient and files in the page cache
//!           (400,000 to 1,160,000 messages); a cold disk was not measured.
//! Bounds:   memory does not depend on the backlog.

use std::fs::File;
use std::io;
use std::io::Write as _;

use rocksdb::DBRawIterator;
use rocksdb::ReadOptions;
use rocksdb::WriteBatch;

use crate::base::MessageId;
use crate::queue::fault::QueueFault;
use crate::queue::holes;
use crate::queue::jobs::Jobs;
use crate::queue::key;
use crate::queue::ledger::MENDING_KEY;
use crate::queue::lost::Lost;
use crate::queue::message::MessageReader;
use crate::queue::notice::Notice;
use crate::queue::partition::Families;
use crate::queue::partition::Partition;
use crate::queue::partition::PartitionDestination;
use crate::queue::points::point;
use crate::queue::quarantine;
use crate::queue::quarantine::Suspect;
use crate::queue::record::RecordFault;
use crate::queue::schema;
use crate::queue::schema::Envelope;
use crate::queue::schema::Job;
use crate::queue::schema::Upgraded;

/// Body bytes, and bodies, that a start reads to check the newest messages.
pub const BODY_BYTES_READ_MAX: u64 = 16 << 20;
pub const BODIES_READ_MAX: usize = 256;

/// Notices kept in the answer; more are told and counted only.
const NOTICES_KEPT_MAX: usize = 1000;

/// How far recovery looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Count, and touch nothing.
    Look,
    /// After a normal end or a crash.
    Newest,
    /// After damage, or when something unreadable was met.
    All,
}

/// What a start found in one partition.
#[derive(Debug, Default)]
pub struct Recovered {
    pub newest: Option<MessageId>,
    pub messages: u64,
    pub body_bytes: u64,
    /// Transfers that were never finished, removed.
    pub swept: u64,
    /// Records made again, or schedule entries of nothing removed.
    pub repaired: u64,
    /// Records moved out, and folders set aside.
    pub quarantined: u64,
    /// Records that should have been moved out and could not be: the next start looks again.
    pub not_moved: u64,
    /// Recipients of messages and jobs moved out.
    pub recipients_moved: u64,
    pub notices: Vec<Notice>,
}

impl Recovered {
    /// Forgets what was counted of mail, for it is counted again.
    pub(in crate::queue) fn forget_counts(&mut self) {
        (self.messages, self.body_bytes) = (0, 0);
    }

    /// Tells the operator and keeps the notice for the answer.
    pub fn tell(&mut self, destination: &PartitionDestination, notice: Notice) {
        self.not_moved += u64::from(matches!(notice, Notice::NotMoved { .. }));
        (destination.on_notice)(notice.clone());
        if self.notices.len() < NOTICES_KEPT_MAX {
            self.notices.push(notice);
        }
    }
}

/// Looks through a partition and, unless it is only to look, puts it right.
pub fn run(
    partition: &Partition,
    destination: &PartitionDestination,
    depth: Depth,
    lost: Lost,
    found: &mut Recovered,
) -> Result<(), QueueFault> {
    let families = partition.families();
    let mut recovery =
        Recovery { partition, destination, families, lost, found, jobs: 0, kept: 0, marked: false };
    match depth {
        Depth::Look => recovery.count(),
        Depth::Newest | Depth::All => recovery.repair(depth),
    }
}

struct Recovery<'r> {
    partition: &'r Partition,
    destination: &'r PartitionDestination,
    families: Families<'r>,
    lost: Lost,
    found: &'r mut Recovered,
    /// Jobs that stay, each with its schedule entry.
    jobs: u64,
    /// Messages that are kept after their end, each with its row.
    kept: u64,
    /// `mending` was written.
    marked: bool,
}

/// A key and its record.
type Row = (Vec<u8>, Vec<u8>);

/// `QueueFault::Store`: something cannot be read, and nothing was concluded from that.
type Done = Result<(), QueueFault>;

impl<'r> Recovery<'r> {
    fn count(&mut self) -> Done {
        let mut envelopes = self.iterate(self.families.envelope);
        envelopes.seek_to_first();
        while let Some((_, record)) = envelopes.item() {
            if let Ok(envelope) = Envelope::decode(record) {
                self.found.messages += u64::from(envelope.kept_until_ms.is_none());
                self.found.body_bytes += envelope.body.bytes;
            }
            envelopes.next();
        }
        if let Err(cause) = envelopes.status() {
            let (family, why) = (schema::ENVELOPE, cause.into_string());
            self.found.tell(
                self.destination,
                Notice::Unreadable { partition: self.destination.id, family, why },
            );
        }
        Ok(())
    }

    fn repair(&mut self, depth: Depth) -> Done {
        self.read_default()?;
        if self.lost.any() {
            self.mark()?;
        }
        self.find_newest()?;
        point("recover::before_sweep");
        self.sweep_streams()?;
        point("recover::after_sweep");
        point("recover::before_scan");
        self.scan_messages()?;
        self.scan_due()?;
        self.check_bodies(depth)?;
        self.scan_kept()?;
        match depth {
            Depth::All => {
                self.keep_stray_heads()?;
                self.keep_stray_chunks()?;
            }
            _ => self.sweep_stray_tail()?,
        }
        point("recover::before_sync");
        self.partition.db().flush_wal(true)?;
        Ok(())
    }

    /// Whether all of the family can be read. What is in it others look at.
    fn read_default(&self) -> Done {
        let mut rows = self.iterate(self.families.default);
        rows.seek_to_first();
        while rows.valid() {
            rows.next();
        }
        rows.status()?;
        Ok(())
    }

    /// From here on the ledger may be behind what is there. Ordered before the change by the log.
    fn mark(&mut self) -> Done {
        if !self.marked {
            let lost = self.lost.to_bytes();
            let mut batch = WriteBatch::default();
            batch.put_cf(self.families.default, MENDING_KEY, lost);
            // Durable at once: a power cut must not forget what is lost, for the log that showed it
            // is gone.
            self.partition.write(batch)?;
            self.marked = true;
        }
        Ok(())
    }

    /// No id at or below this one is given out again. The record written last is also the one that a
    /// newer Ringpost has written, if one has: then nothing is changed.
    fn find_newest(&mut self) -> Done {
        let mut envelopes = self.iterate(self.families.envelope);
        envelopes.seek_to_last();
        if let Some(record) = envelopes.value() {
            refuse_newer(record)?;
        }
        for family in [self.families.envelope, self.families.body, self.families.stream] {
            let mut keys = self.iterate(family);
            keys.seek_to_last();
            let last = keys.key().and_then(key::id_of);
            self.found.newest = self.found.newest.max(last);
            if_table(keys.status())?;
        }
        Ok(())
    }

    fn sweep_streams(&mut self) -> Done {
        let mut marks = self.iterate(self.families.stream);
        marks.seek_to_first();
        while let Some((mark_key, record)) = marks.item() {
            if let (Some(id), key::ID_KEY_LEN) = (key::id_of(mark_key), mark_key.len()) {
                let mut batch = WriteBatch::default();
                // A mark beside an envelope is what a salvaged log may leave; the message stays.
                if self.has_envelope(id)? {
                    self.repaired("stream mark of a finished message removed", mark_key);
                } else if !self.lost.any_of_mail() || self.keep_body(id, "it has no envelope") {
                    self.remove_body(id, &mut batch);
                    self.found.swept += 1;
                }
                batch.single_delete_cf(self.families.stream, mark_key);
                self.partition.db().write(batch)?;
            } else {
                self.move_record(schema::STREAM, mark_key, record, "its key is no id")?;
            }
            marks.next();
        }
        marks.status()?;
        Ok(())
    }

    /// Walks envelopes and jobs side by side; both are sorted by id.
    fn scan_messages(&mut self) -> Done {
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
                            self.check_jobs((id, record), &envelope, &own)?;
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

    /// Brings an envelope of version 1 to today's form; its trace field becomes the head.
    fn upgrade(&mut self, id: MessageId, record: &[u8]) -> Done {
        let upgraded = Envelope::upgrade(record).map_err(QueueFault::Record)?;
        let Some(Upgraded { envelope, head }) = upgraded else { return Ok(()) };
        let mut batch = WriteBatch::default();
        // A record that is removed by `SingleDelete` must not be written over.
        batch.single_delete_cf(self.families.envelope, key::of_id(id));
        batch.put_cf(self.families.envelope, key::of_id(id), envelope);
        batch.put_cf(self.families.head, key::of_id(id), head);
        self.partition.db().write(batch)?;
        Ok(())
    }

    /// Makes the row of a kept message again if it is missing.
    fn check_kept(&mut self, id: MessageId, until_ms: u64) -> Done {
        let (family, row) = (self.families.kept, key::of_kept(until_ms, id));
        if self.partition.db().get_pinned_cf(family, row)?.is_none() {
            self.partition.db().put_cf(family, row, [])?;
            self.repaired("expiry of a kept message made again", &row);
        }
        self.kept += 1;
        Ok(())
    }

    /// Each kept message has its row by now, so rows are only looked at when there are more.
    fn scan_kept(&mut self) -> Done {
        let mut rows = self.iterate(self.families.kept);
        let mut count = 0;
        rows.seek_to_first();
        while rows.valid() {
            count += 1;
            rows.next();
        }
        rows.status()?;
        if count == self.kept {
            return Ok(());
        }
        rows.seek_to_first();
        while let Some((row, value)) = rows.item() {
            match key::kept_of(row) {
                None => self.move_record(schema::KEPT, row, value, "its key is no expiry")?,
                Some((until_ms, id)) if !self.is_kept(id, until_ms)? => {
                    self.partition.db().delete_cf(self.families.kept, row)?;
                    self.repaired("expiry of no kept message removed", row);
                }
                Some(_) => (),
            }
            rows.next();
        }
        rows.status()?;
        Ok(())
    }

    fn is_kept(&self, id: MessageId, until_ms: u64) -> Result<bool, rocksdb::Error> {
        let family = self.families.envelope;
        let record = self.partition.db().get_pinned_cf(family, key::of_id(id))?;
        let envelope = record.as_deref().map(Envelope::decode);
        Ok(envelope.is_some_and(|read| read.is_ok_and(|it| it.kept_until_ms == Some(until_ms))))
    }

    /// Jobs below `id`, or all that are left, have no envelope.
    fn move_jobs_before(&mut self, jobs: &mut DBRawIterator<'_>, id: Option<MessageId>) -> Done {
        while let Some((job_key, record)) = jobs.item() {
            if let (Some(id), Some(owner)) = (id, key::id_of(job_key))
                && owner >= id
            {
                break;
            }
            self.move_job(job_key, record, "it belongs to no message")?;
            jobs.next();
        }
        jobs.status()?;
        Ok(())
    }

    /// Checks the jobs of one message. Who is in none of them has ended, unless one cannot be
    /// understood or rows are lost.
    fn check_jobs(
        &mut self,
        (id, record): (MessageId, &[u8]),
        envelope: &Envelope<'_>,
        jobs: &[Row],
    ) -> Done {
        let mut covered = vec![false; envelope.recipients.len()];
        let (mut kept, mut moved) = (0, false);
        // The latest first: should an earlier one have come back, they name the same recipients.
        for (job_key, record) in jobs.iter().rev() {
            let why = match read_job(job_key, record, covered.len()) {
                Ok(job) => match self.stale(id, &job, &covered)? {
                    None => {
                        job.recipients.iter().for_each(|index| covered[index as usize] = true);
                        self.check_due(id, &job)?;
                        kept += 1;
                        continue;
                    }
                    Some(why) => why.to_owned(),
                },
                Err(why) => why.to_string(),
            };
            self.move_job(job_key, record, &why)?;
            moved = true;
        }
        self.jobs += kept;
        if kept == 0 && !moved && !self.lost.any_of_mail() {
            return self.make_job(id, envelope);
        }
        if kept == 0 {
            // Some may have been served; whom to try again is for a person to say.
            self.found.messages -= 1;
            self.found.body_bytes -= envelope.body.bytes;
            let recipients = covered.len() as u64;
            return self.move_message(
                &key::of_id(id),
                record,
                "none of its jobs can be read",
                recipients,
            );
        }
        if moved {
            let open = covered.iter().filter(|covered| !**covered).count() as u64;
            self.copy_message(id, record, open)?;
        }
        Ok(())
    }

    /// Whether a job is not as it was left last. Only lost rows bring such a one back.
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
            return Ok(Some("a later job has recipients of it"));
        }
        let is_stale = self.lost.includes(schema::JOB) && !self.has_due(id, job)?;
        Ok(is_stale.then_some("no schedule entry: the job has ended or was rescheduled"))
    }

    /// A message without a job would lie here for ever. No write of ours leaves one behind, and
    /// nothing is known to be lost: all of its recipients are tried.
    fn make_job(&mut self, id: MessageId, envelope: &Envelope<'_>) -> Done {
        let job = Job::fresh(envelope.received_ms, envelope.recipients.len());
        self.mark()?;
        let mut record = Vec::new();
        job.encode(&mut record).expect("a job without a reply has no field that could be too long");
        let mut batch = WriteBatch::default();
        batch.put_cf(self.families.job, key::of_job(id, job.number), record);
        // Written twice it would be there for ever: what removes it removes one of them.
        if !self.has_due(id, &job)? {
            batch.put_cf(self.families.due, key::of_due(job.due_ms, id, job.number), []);
        }
        self.partition.db().write(batch)?;
        self.jobs += 1;
        self.repaired("job made again", &key::of_job(id, job.number));
        Ok(())
    }

    fn has_due(&self, id: MessageId, job: &Job<'_>) -> Result<bool, rocksdb::Error> {
        let due_key = key::of_due(job.due_ms, id, job.number);
        Ok(self.partition.db().get_pinned_cf(self.families.due, due_key)?.is_some())
    }

    fn check_due(&mut self, id: MessageId, job: &Job<'_>) -> Done {
        let due_key = key::of_due(job.due_ms, id, job.number);
        if !self.has_due(id, job)? {
            self.partition.db().put_cf(self.families.due, due_key, [])?;
            self.repaired("schedule entry made again", &due_key);
        }
        Ok(())
    }

    /// Each job has its entry by now, so entries are only looked at when there are more.
    fn scan_due(&mut self) -> Done {
        let mut entries = self.iterate(self.families.due);
        let mut count = 0;
        entries.seek_to_first();
        while entries.valid() {
            count += 1;
            entries.next();
        }
        entries.status()?;
        if count == self.jobs && !self.lost.any_of_mail() {
            return Ok(());
        }
        entries.seek_to_first();
        while let Some((due_key, value)) = entries.item() {
            match key::due_of(due_key) {
                None => self.move_record(schema::DUE, due_key, value, "its key is no schedule")?,
                Some(due) if !self.is_due(due)? => {
                    self.note_lost_job(due.1)?;
                    let mut batch = WriteBatch::default();
                    batch.single_delete_cf(self.families.due, due_key);
                    self.partition.db().write(batch)?;
                    self.repaired("schedule entry of no job removed", due_key);
                }
                Some(_) => (),
            }
            entries.next();
        }
        entries.status()?;
        Ok(())
    }

    /// A schedule entry stood for a job that is lost. Others of its message may be there and be
    /// served, so a copy of it goes to quarantine for the sake of those recipients.
    fn note_lost_job(&mut self, id: MessageId) -> Done {
        let is_evidence = self.lost.includes(schema::JOB) && !self.lost.includes(schema::DUE);
        if !is_evidence {
            return Ok(());
        }
        let record = self.partition.db().get_cf(self.families.envelope, key::of_id(id))?;
        if let Some(record) = record {
            self.copy_message(id, &record, 0)?;
        }
        Ok(())
    }

    fn is_due(&self, (due_ms, id, number): (u64, MessageId, u16)) -> Result<bool, rocksdb::Error> {
        let family = self.families.job;
        let record = self.partition.db().get_pinned_cf(family, key::of_job(id, number))?;
        Ok(record.is_some_and(|record| Job::decode(&record).is_ok_and(|job| job.due_ms == due_ms)))
    }

    /// Reads bodies, the newest first. A message whose body is not what was received is moved.
    fn check_bodies(&mut self, depth: Depth) -> Done {
        let (mut bodies, mut bytes) = (0, 0);
        let mut envelopes = self.iterate(self.families.envelope);
        envelopes.seek_to_last();
        while let Some((envelope_key, record)) = envelopes.item() {
            if let Ok((id, envelope)) = read_envelope(envelope_key, record) {
                bodies += 1;
                bytes += envelope.body.bytes;
                if depth == Depth::Newest
                    && (bodies > BODIES_READ_MAX || bytes > BODY_BYTES_READ_MAX)
                {
                    break;
                }
                match MessageReader::new(Shared(self.partition), id, &envelope).check() {
                    Ok(()) => (),
                    Err(QueueFault::Store(why)) if is_of_table(&why) => {
                        return Err(QueueFault::Store(why));
                    }
                    Err(fault) => {
                        self.found.messages -= u64::from(envelope.kept_until_ms.is_none());
                        self.found.body_bytes -= envelope.body.bytes;
                        self.move_message(envelope_key, record, &fault.to_string(), 0)?;
                        self.drop_jobs(id)?;
                    }
                }
            }
            envelopes.prev();
        }
        envelopes.status()?;
        Ok(())
    }

    /// Chunks at the end of the family without a message: what an unsynced write left when the
    /// power went before the mark of its stream was written.
    fn sweep_stray_tail(&mut self) -> Done {
        let mut chunks = self.iterate(self.families.body);
        let mut bytes = 0;
        chunks.seek_to_last();
        while let Some((chunk_key, chunk)) = chunks.item() {
            bytes += chunk.len() as u64;
            if bytes > BODY_BYTES_READ_MAX {
                break;
            }
            let Some((id, _)) = key::body_of(chunk_key) else {
                self.move_record(schema::BODY, chunk_key, chunk, "its key is no chunk's")?;
                chunks.prev();
                continue;
            };
            if !self.has_envelope(id)? {
                let mut batch = WriteBatch::default();
                self.remove_body(id, &mut batch);
                self.partition.db().write(batch)?;
                self.found.swept += 1;
            }
            chunks.seek_for_prev(key::of_body(id, 0));
            // The first chunk of this message, or already one of an older one.
            if chunks.key().and_then(key::id_of) == Some(id) {
                chunks.prev();
            }
        }
        // What lies before an unreadable chunk is not the end of the family any more.
        if_table(chunks.status())
    }

    /// Heads without an envelope: only lost rows leave them.
    fn keep_stray_heads(&mut self) -> Done {
        let mut heads = self.iterate(self.families.head);
        heads.seek_to_first();
        while let Some((head_key, record)) = heads.item() {
            let id = key::id_of(head_key).filter(|_| head_key.len() == key::ID_KEY_LEN);
            match id {
                None => self.move_record(schema::HEAD, head_key, record, "its key is no id")?,
                Some(id) if !self.has_envelope(id)? => {
                    self.move_record(schema::HEAD, head_key, record, "it has no envelope")?;
                }
                Some(_) => (),
            }
            heads.next();
        }
        heads.status()?;
        Ok(())
    }

    /// As `sweep_stray_tail` after a damaged log, when the envelope may be what was lost: nothing is dropped.
    fn keep_stray_chunks(&mut self) -> Done {
        let mut chunks = self.iterate(self.families.body);
        let mut last = Vec::new();
        chunks.seek_to_first();
        loop {
            if_table(chunks.status())?;
            if chunks.status().is_err() {
                chunks = holes::skip(&|| self.iterate(self.families.body), &last, &mut |_| ());
            }
            let Some((chunk_key, chunk)) = chunks.item() else { break };
            last = chunk_key.to_vec();
            match key::body_of(chunk_key) {
                None => {
                    self.move_record(schema::BODY, chunk_key, chunk, "its key is no chunk's")?
                }
                Some((id, _)) if !self.has_envelope(id)? => {
                    let mut batch = WriteBatch::default();
                    if self.keep_body(id, "it has no envelope") {
                        self.remove_body(id, &mut batch);
                    }
                    self.partition.db().write(batch)?;
                    chunks.seek(key::of_body(id, u32::MAX));
                    continue;
                }
                Some(_) => (),
            }
            chunks.next();
        }
        if_table(chunks.status())
    }

    /// Copies a message of which some jobs stay.
    fn copy_message(&mut self, id: MessageId, record: &[u8], recipients: u64) -> Done {
        let why = "one of its jobs cannot be read; the others stay in the queue";
        if self.keep_record(schema::ENVELOPE, &key::of_id(id), record, why)? {
            self.keep_head(id, why)?;
            self.keep_body(id, why);
            self.found.recipients_moved += recipients;
        }
        Ok(())
    }

    /// Writes the head of a message to quarantine, if there is one. `false`: it must stay.
    fn keep_head(&mut self, id: MessageId, why: &str) -> Result<bool, QueueFault> {
        let head = self.partition.db().get_cf(self.families.head, key::of_id(id))?;
        head.map_or(Ok(true), |head| self.keep_record(schema::HEAD, &key::of_id(id), &head, why))
    }

    /// Moves an envelope, head and body; its jobs are met later and are moved then.
    fn move_message(
        &mut self,
        envelope_key: &[u8],
        record: &[u8],
        why: &str,
        recipients: u64,
    ) -> Done {
        self.mark()?;
        self.found.recipients_moved += recipients;
        if !self.keep_record(schema::ENVELOPE, envelope_key, record, why)? {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        if let (Some(id), key::ID_KEY_LEN) = (key::id_of(envelope_key), envelope_key.len()) {
            if !self.keep_head(id, why)? || !self.keep_body(id, why) {
                // Without its envelope the body would be taken for an aborted transfer's.
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

    /// Moves the jobs of a message that was moved after they had been found sound.
    fn drop_jobs(&mut self, id: MessageId) -> Done {
        let mut jobs = Jobs::of(self.partition, id);
        while let Some((job_key, record)) = jobs.next() {
            self.move_job(job_key, record, "its message was moved")?;
        }
        Ok(jobs.end()?)
    }

    fn move_job(&mut self, job_key: &[u8], record: &[u8], why: &str) -> Done {
        self.mark()?;
        if !self.keep_record(schema::JOB, job_key, record, why)? {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.families.job, job_key);
        if let (Some((id, number)), Ok(job)) = (key::job_of(job_key), Job::decode(record)) {
            let due_key = key::of_due(job.due_ms, id, number);
            batch.single_delete_cf(self.families.due, due_key);
            self.found.recipients_moved += job.recipients.iter().count() as u64;
        }
        self.partition.db().write(batch)?;
        Ok(())
    }

    /// Moves a record that stands for itself.
    fn move_record(&mut self, family: &'static str, key: &[u8], record: &[u8], why: &str) -> Done {
        if !self.keep_record(family, key, record, why)? {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        let handle = self.partition.db().cf_handle(family).expect("opened with every family");
        batch.single_delete_cf(handle, key);
        self.partition.db().write(batch)?;
        Ok(())
    }

    /// Writes a record's bytes to quarantine. `false`: it could not be, and must stay. A sound record
    /// of a newer version is a fault: to quarantine it would lose mail that a newer Ringpost reads.
    fn keep_record(
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

    /// Writes all chunks of a body to one file of quarantine, if there are any.
    fn keep_body(&mut self, id: MessageId, why: &str) -> bool {
        let (db, family) = (self.partition.db(), self.families.body);
        let open = move || {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            // Damaged bytes are kept as they are.
            options.set_verify_checksums(false);
            options.set_iterate_upper_bound((id.as_u64() + 1).to_be_bytes());
            db.raw_iterator_cf_opt(family, options)
        };
        let mut chunks = open();
        chunks.seek(key::of_id(id));
        if !chunks.valid() && chunks.status().is_ok() {
            return true;
        }
        self.keep(schema::BODY, &key::of_id(id), why, |file| {
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
                // What not even RocksDB can unpack is missing from the copy.
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
        let partition = self.destination.id;
        let suspect = Suspect { partition, family, key, why, now_ms: self.destination.now_ms };
        let hex = key::hex(key);
        match quarantine::keep(&self.destination.quarantine(), &suspect, write) {
            Ok(file) => {
                self.found.quarantined += 1;
                let why = why.to_owned();
                let notice = Notice::Quarantined { partition, family, key: hex, why, file };
                self.found.tell(self.destination, notice);
                true
            }
            Err(cause) => {
                let why = format!("{why}; moving it failed: {cause}");
                self.found
                    .tell(self.destination, Notice::NotMoved { partition, family, key: hex, why });
                false
            }
        }
    }

    /// One range tombstone, for how many chunks there are is not known without reading them.
    fn remove_body(&self, id: MessageId, batch: &mut WriteBatch) {
        let (first, last) = (key::of_body(id, 0), key::of_body(id, u32::MAX));
        batch.delete_range_cf(self.families.body, first, last);
    }

    fn has_envelope(&self, id: MessageId) -> Result<bool, rocksdb::Error> {
        let db = self.partition.db();
        Ok(db.get_pinned_cf(self.families.envelope, key::of_id(id))?.is_some())
    }

    fn repaired(&mut self, what: &'static str, key: &[u8]) {
        self.found.repaired += 1;
        let key = key::hex(key);
        self.found
            .tell(self.destination, Notice::Repaired { partition: self.destination.id, what, key });
    }

    fn iterate(&self, family: &rocksdb::ColumnFamily) -> DBRawIterator<'r> {
        let mut options = ReadOptions::default();
        // Read once: it shall not push out what serving needs.
        options.fill_cache(false);
        options.set_readahead_size(1 << 20);
        self.partition.db().raw_iterator_cf_opt(family, options)
    }
}

/// Whether a fault is of a table, which holds keys of many messages. One of a blob file costs the
/// messages whose chunks are in it, and no more.
pub fn is_of_table(why: &str) -> bool {
    why.contains(".sst")
}

fn if_table(status: Result<(), rocksdb::Error>) -> Done {
    match status {
        Err(cause) if is_of_table(cause.as_ref()) => Err(cause.into()),
        _ => Ok(()),
    }
}

fn refuse_newer(record: &[u8]) -> Done {
    match schema::probe(record) {
        Err(fault @ RecordFault::Version(_)) => Err(QueueFault::Record(fault)),
        _ => Ok(()),
    }
}

/// A partition lent to a reader.
struct Shared<'p>(&'p Partition);

impl AsRef<Partition> for Shared<'_> {
    fn as_ref(&self) -> &Partition {
        self.0
    }
}

fn read_envelope<'a>(
    envelope_key: &[u8],
    record: &'a [u8],
) -> Result<(MessageId, Envelope<'a>), String> {
    let id = key::id_of(envelope_key).filter(|_| envelope_key.len() == key::ID_KEY_LEN);
    let id = id.ok_or("its key is no id")?;
    let envelope = Envelope::decode(record).map_err(|fault| fault.to_string())?;
    Ok((id, envelope))
}

/// Takes the jobs of one message.
fn jobs_of(id: MessageId, jobs: &mut DBRawIterator<'_>) -> Result<Vec<Row>, rocksdb::Error> {
    let mut own = Vec::new();
    while let Some((job_key, record)) = jobs.item() {
        if key::id_of(job_key) != Some(id) {
            break;
        }
        own.push((job_key.to_vec(), record.to_vec()));
        jobs.next();
    }
    jobs.status()?;
    Ok(own)
}

fn read_job<'a>(
    job_key: &[u8],
    record: &'a [u8],
    recipients: usize,
) -> Result<Job<'a>, QueueFault> {
    let job = Job::decode(record).map_err(QueueFault::Record)?;
    let named = key::job_of(job_key).is_some_and(|(_, number)| number == job.number);
    if !named {
        return Err(QueueFault::Record(RecordFault::Value("job number")));
    }
    if job.recipients.iter().any(|index| index as usize >= recipients) {
        return Err(QueueFault::Record(RecordFault::Value("recipient indexes")));
    }
    Ok(job)
}
