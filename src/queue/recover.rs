//! Recovery: what a start finds in a partition, and how it is put right.
//!
//! Promise:  a start never stops on what it finds. What a crash left is swept or made again; what
//!           cannot be understood is moved to quarantine with its bytes, counted and told.
//!           No promised message is dropped: in doubt a recipient is tried again.
//!
//! Order:    1. bodies with a stream mark are removed: their transfers were aborted.
//!           2. every envelope and job is read and checked, in one pass over both; every job's
//!              schedule entry is looked up, and made again where it is missing.
//!           3. schedule entries without a job are removed.
//!           4. bodies: the newest are read and checked; chunks at the end that belong to no
//!              message are removed. After a damaged log all are, and such chunks are kept.
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
use crate::queue::body::BodyReader;
use crate::queue::fault::QueueFault;
use crate::queue::fault::SpoolFault;
use crate::queue::key;
use crate::queue::ledger::MENDING_KEY;
use crate::queue::notice::Notice;
use crate::queue::partition::Families;
use crate::queue::partition::Partition;
use crate::queue::partition::PartitionSite;
use crate::queue::points::point;
use crate::queue::quarantine;
use crate::queue::quarantine::Suspect;
use crate::queue::record::RecordFault;
use crate::queue::schema;
use crate::queue::schema::Envelope;
use crate::queue::schema::Indexes;
use crate::queue::schema::Job;
use crate::queue::schema::JobState;

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
    /// After the log was salvaged: holes may be anywhere.
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
    /// Records moved out.
    pub quarantined: u64,
    pub notices: Vec<Notice>,
}

impl Recovered {
    /// Tells the operator and keeps the notice for the answer.
    pub fn tell(&mut self, site: &PartitionSite, notice: Notice) {
        (site.on_notice)(notice.clone());
        if self.notices.len() < NOTICES_KEPT_MAX {
            self.notices.push(notice);
        }
    }
}

/// Looks through a partition and, unless it is only to look, puts it right.
pub fn run(
    partition: &Partition,
    site: &PartitionSite,
    depth: Depth,
    found: &mut Recovered,
) -> Result<(), SpoolFault> {
    let families = partition.families();
    let mut recovery = Recovery { partition, site, families, found, jobs: 0, marked: false };
    let done = match depth {
        Depth::Look => recovery.count(),
        Depth::Newest | Depth::All => recovery.repair(depth),
    };
    done.map_err(|cause| SpoolFault::store(partition.path(), cause.into_string()))
}

struct Recovery<'r> {
    partition: &'r Partition,
    site: &'r PartitionSite,
    families: Families<'r>,
    found: &'r mut Recovered,
    /// Jobs that stay, each with its schedule entry.
    jobs: u64,
    /// `mending` was written.
    marked: bool,
}

type Done = Result<(), rocksdb::Error>;

impl<'r> Recovery<'r> {
    fn count(&mut self) -> Done {
        let mut envelopes = self.iterate(self.families.envelope);
        envelopes.seek_to_first();
        while let Some((_, record)) = envelopes.item() {
            if let Ok(envelope) = Envelope::decode(record) {
                self.found.messages += 1;
                self.found.body_bytes += envelope.body.bytes;
            }
            envelopes.next();
        }
        self.end_of(&envelopes, schema::ENVELOPE);
        Ok(())
    }

    fn repair(&mut self, depth: Depth) -> Done {
        if depth == Depth::All {
            self.mark()?;
        }
        self.find_newest();
        point("recover::before_sweep");
        self.sweep_streams()?;
        point("recover::after_sweep");
        point("recover::before_scan");
        self.scan_messages()?;
        self.scan_due()?;
        self.check_bodies(depth)?;
        match depth {
            Depth::All => self.keep_stray_chunks()?,
            _ => self.sweep_stray_tail()?,
        }
        point("recover::before_sync");
        self.partition.db().flush_wal(true)
    }

    /// From here on the ledger may be behind what is there. Ordered before the change by the log.
    fn mark(&mut self) -> Done {
        if !self.marked {
            self.partition.db().put_cf(self.families.default, MENDING_KEY, [])?;
            self.marked = true;
        }
        Ok(())
    }

    /// No id at or below this one is given out again.
    fn find_newest(&mut self) {
        for family in [self.families.envelope, self.families.body, self.families.stream] {
            let mut keys = self.iterate(family);
            keys.seek_to_last();
            let last = keys.key().and_then(key::id_of);
            self.found.newest = self.found.newest.max(last);
        }
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
                } else {
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
        self.end_of(&marks, schema::STREAM);
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
                    self.move_jobs_before(&mut jobs, Some(id))?;
                    self.found.messages += 1;
                    self.found.body_bytes += envelope.body.bytes;
                    self.check_jobs(id, &envelope, &mut jobs)?;
                }
                Err(why) => self.move_message(envelope_key, record, &why)?,
            }
            envelopes.next();
        }
        let whole = self.end_of(&envelopes, schema::ENVELOPE);
        if whole {
            self.move_jobs_before(&mut jobs, None)?;
        }
        self.end_of(&jobs, schema::JOB);
        Ok(())
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
        Ok(())
    }

    /// Checks the jobs of one message, and makes one for recipients that have none.
    fn check_jobs(
        &mut self,
        id: MessageId,
        envelope: &Envelope<'_>,
        jobs: &mut DBRawIterator<'_>,
    ) -> Done {
        let mut covered = vec![false; envelope.recipients.len()];
        let (mut kept, mut lost) = (0, None);
        while let Some((job_key, record)) = jobs.item() {
            if key::id_of(job_key) != Some(id) {
                break;
            }
            match read_job(job_key, record, covered.len()) {
                Ok(job) => {
                    job.recipients.iter().for_each(|index| covered[index as usize] = true);
                    self.check_due(id, &job)?;
                    kept += 1;
                }
                Err(why) => {
                    lost = Some(key::job_of(job_key).map_or(0, |(_, number)| number));
                    self.move_job(job_key, record, &why.to_string())?;
                }
            }
            jobs.next();
        }
        self.jobs += kept;
        if kept == 0 || lost.is_some() {
            self.make_job(id, lost.unwrap_or(0), &covered, envelope.received_ms)?;
        }
        Ok(())
    }

    /// A message without a job would lie here for ever. Recipients that no job names are tried
    /// again, though some may have been served: twice is better than never.
    fn make_job(&mut self, id: MessageId, number: u16, covered: &[bool], due_ms: u64) -> Done {
        let open = (0..).zip(covered).filter(|(_, covered)| !**covered);
        let stored: Vec<u8> = open.flat_map(|(index, _): (u32, _)| index.to_be_bytes()).collect();
        if stored.is_empty() && !covered.is_empty() {
            return Ok(());
        }
        let job = Job {
            number,
            state: JobState::Waiting,
            recipients: Indexes::Stored(&stored),
            ..Job::fresh(due_ms, 0)
        };
        self.mark()?;
        let mut record = Vec::new();
        job.encode(&mut record).expect("a job without a reply has no field that could be too long");
        let mut batch = WriteBatch::default();
        batch.put_cf(self.families.job, key::of_job(id, number), record);
        batch.put_cf(self.families.due, key::of_due(due_ms, id, number), []);
        self.partition.db().write(batch)?;
        self.jobs += 1;
        self.repaired("job made again", &key::of_job(id, number));
        Ok(())
    }

    fn check_due(&mut self, id: MessageId, job: &Job<'_>) -> Done {
        let due_key = key::of_due(job.due_ms, id, job.number);
        if self.partition.db().get_pinned_cf(self.families.due, due_key)?.is_none() {
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
        if !self.end_of(&entries, schema::DUE) || count == self.jobs {
            return Ok(());
        }
        entries.seek_to_first();
        while let Some((due_key, value)) = entries.item() {
            match key::due_of(due_key) {
                None => self.move_record(schema::DUE, due_key, value, "its key is no schedule")?,
                Some(due) if !self.is_due(due)? => {
                    let mut batch = WriteBatch::default();
                    batch.single_delete_cf(self.families.due, due_key);
                    self.partition.db().write(batch)?;
                    self.repaired("schedule entry of no job removed", due_key);
                }
                Some(_) => (),
            }
            entries.next();
        }
        self.end_of(&entries, schema::DUE);
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
                if let Err(fault) =
                    BodyReader::new(Shared(self.partition), id, envelope.body).check()
                {
                    self.found.messages -= 1;
                    self.found.body_bytes -= envelope.body.bytes;
                    self.move_message(envelope_key, record, &fault.to_string())?;
                    self.drop_jobs(id)?;
                }
            }
            envelopes.prev();
        }
        self.end_of(&envelopes, schema::ENVELOPE);
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
        self.end_of(&chunks, schema::BODY);
        Ok(())
    }

    /// As above after a damaged log, when the envelope may be what was lost: nothing is dropped.
    fn keep_stray_chunks(&mut self) -> Done {
        let mut chunks = self.iterate(self.families.body);
        chunks.seek_to_first();
        while let Some((chunk_key, chunk)) = chunks.item() {
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
        self.end_of(&chunks, schema::BODY);
        Ok(())
    }

    /// Moves an envelope and its body; its jobs are met later and are moved then.
    fn move_message(&mut self, envelope_key: &[u8], record: &[u8], why: &str) -> Done {
        self.mark()?;
        if !self.keep_record(schema::ENVELOPE, envelope_key, record, why) {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        batch.single_delete_cf(self.families.envelope, envelope_key);
        if let (Some(id), key::ID_KEY_LEN) = (key::id_of(envelope_key), envelope_key.len())
            && self.keep_body(id, why)
        {
            self.remove_body(id, &mut batch);
        }
        self.partition.db().write(batch)?;
        point("quarantine::after_removal");
        Ok(())
    }

    /// Moves the jobs of a message that was moved after they had been found sound.
    fn drop_jobs(&mut self, id: MessageId) -> Done {
        let mut jobs = self.iterate(self.families.job);
        jobs.seek(key::of_id(id));
        while let Some((job_key, record)) = jobs.item() {
            if key::id_of(job_key) != Some(id) {
                break;
            }
            self.move_job(job_key, record, "its message was moved")?;
            jobs.next();
        }
        Ok(())
    }

    fn move_job(&mut self, job_key: &[u8], record: &[u8], why: &str) -> Done {
        self.mark()?;
        if !self.keep_record(schema::JOB, job_key, record, why) {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.families.job, job_key);
        if let (Some((id, number)), Ok(job)) = (key::job_of(job_key), Job::decode(record)) {
            let due_key = key::of_due(job.due_ms, id, number);
            batch.single_delete_cf(self.families.due, due_key);
        }
        self.partition.db().write(batch)
    }

    /// Moves a record that stands for itself.
    fn move_record(&mut self, family: &'static str, key: &[u8], record: &[u8], why: &str) -> Done {
        if !self.keep_record(family, key, record, why) {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        let handle = self.partition.db().cf_handle(family).expect("opened with every family");
        batch.single_delete_cf(handle, key);
        self.partition.db().write(batch)
    }

    /// Writes a record's bytes to quarantine. `false`: it could not be, and must stay.
    fn keep_record(&mut self, family: &'static str, key: &[u8], record: &[u8], why: &str) -> bool {
        self.keep(family, key, why, |file| {
            file.write_all(record)?;
            Ok(record.len() as u64)
        })
    }

    /// Writes all chunks of a body to one file of quarantine, if there are any.
    fn keep_body(&mut self, id: MessageId, why: &str) -> bool {
        let mut chunks = self.iterate(self.families.body);
        chunks.seek(key::of_id(id));
        if chunks.key().and_then(key::id_of) != Some(id) {
            return true;
        }
        self.keep(schema::BODY, &key::of_id(id), why, |file| {
            let mut bytes = 0;
            while let Some((chunk_key, chunk)) = chunks.item() {
                if key::id_of(chunk_key) != Some(id) {
                    break;
                }
                file.write_all(chunk)?;
                bytes += chunk.len() as u64;
                chunks.next();
            }
            chunks.status().map_err(io::Error::other)?;
            Ok(bytes)
        })
    }

    fn keep(
        &mut self,
        family: &'static str,
        key: &[u8],
        why: &str,
        write: impl FnOnce(&mut File) -> io::Result<u64>,
    ) -> bool {
        let partition = self.site.id;
        let suspect = Suspect { partition, family, key, why, now_ms: self.site.now_ms };
        let hex = key::hex(key);
        match quarantine::keep(&self.site.quarantine(), &suspect, write) {
            Ok(file) => {
                self.found.quarantined += 1;
                let why = why.to_owned();
                let notice = Notice::Quarantined { partition, family, key: hex, why, file };
                self.found.tell(self.site, notice);
                true
            }
            Err(cause) => {
                let why = format!("{why}; moving it failed: {cause}");
                self.found.tell(self.site, Notice::NotMoved { partition, family, key: hex, why });
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
        self.found.tell(self.site, Notice::Repaired { partition: self.site.id, what, key });
    }

    /// Whether an iterator came to the end of its family rather than to a block it cannot read.
    fn end_of(&mut self, iterator: &DBRawIterator<'_>, family: &'static str) -> bool {
        let Err(cause) = iterator.status() else { return true };
        let partition = self.site.id;
        let why = cause.into_string();
        self.found.tell(self.site, Notice::Unreadable { partition, family, why });
        false
    }

    fn iterate(&self, family: &rocksdb::ColumnFamily) -> DBRawIterator<'r> {
        let mut options = ReadOptions::default();
        // Read once: it shall not push out what serving needs.
        options.fill_cache(false);
        options.set_readahead_size(1 << 20);
        self.partition.db().raw_iterator_cf_opt(family, options)
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
