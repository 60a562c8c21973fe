//! Reading the queue for operators: `ringpost queue list | show | stats | cat`.
//!
//! Owner:    any thread that may block, with the open spool of a running server or a spool opened for
//!           the purpose. A read sees the state of one moment and blocks no other thread.
//! Bounds:   `list` holds `limit` rows per partition; `cat` holds one piece.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::base::MessageId;
use crate::base::PublicId;
use crate::queue::admin::select::Wanted;
use crate::queue::fault::QueueFault;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::family::FAMILIES;
use crate::queue::record::job::Filed;
use crate::queue::record::job::Job;
use crate::queue::record::job::JobState;
use crate::queue::record::key;
use crate::queue::record::key::BacklogKey;
use crate::queue::record::key::DueKey;
use crate::queue::record::key::FlowKey;
use crate::queue::spool::Spool;
use crate::queue::store::jobs;
use crate::queue::store::jobs::StoredJob;
use crate::queue::store::message::MessageReader;
use crate::queue::store::message::SharedMessageReader;
use crate::queue::store::partition::Partition;
use crate::queue::store::quarantine;
use crate::queue::store::quarantine::QUARANTINE;
use crate::queue::store::rows::count_rows;
use crate::queue::store::schedule;
use crate::wire::dsn::NOTIFY_WORDS;

/// A fixed word in the answer of a server; owned in a client that has parsed the answer.
pub type Word = Cow<'static, str>;

/// Jobs before a filed one that are counted for operators.
pub const FILED_COUNT_MAX: usize = 10_000;

/// Which messages to list.
#[derive(Clone, Copy, Debug)]
pub struct ListFilter {
    pub limit: usize,
    /// Only messages after this one: the last id of the previous page.
    pub after: Option<MessageId>,
}

/// One message of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRow {
    pub id: String,
    pub received_ms: u64,
    pub bytes: u64,
    /// `None` is the null sender, or with a `fault` an unknown one.
    pub sender: Option<String>,
    pub recipients: usize,
    pub first_recipient: Option<String>,
    pub peer: Option<String>,
    /// Why the record cannot be read.
    pub fault: Option<String>,
}

/// All stored facts about a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    pub id: String,
    pub partition: u8,
    pub received_ms: u64,
    pub sender: Option<String>,
    pub recipients: Vec<RecipientRow>,
    pub smtputf8: bool,
    pub requiretls: bool,
    pub body_type: Word,
    pub ret: Option<Word>,
    pub envid: Option<String>,
    pub auth: Option<String>,
    pub declared_bytes: Option<u64>,
    pub head_bytes: u32,
    pub body_bytes: u64,
    pub body_chunks: u32,
    pub body_crc32: String,
    pub peer: String,
    pub helo: String,
    pub listener: String,
    pub protocol: String,
    pub tls: Option<String>,
    pub message_id: Option<String>,
    pub tenant: String,
    pub credential: Option<String>,
    pub stream: u16,
    pub tags: Vec<String>,
    pub metadata: BTreeMap<String, String>,
    /// Every recipient has its final state, and the message is kept until this time.
    pub kept_until_ms: Option<u64>,
    pub jobs: Vec<JobRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientRow {
    pub mailbox: String,
    pub notify: Vec<Word>,
    pub orcpt: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRow {
    pub number: u16,
    pub state: Word,
    pub recipients: Vec<u32>,
    pub attempts: u32,
    pub last_attempt_ms: Option<u64>,
    pub last_reply: Option<String>,
    /// The next hop that an operator has set; it overrides the route.
    pub rerouted_to: Option<String>,
    pub due_ms: u64,
    /// Why the record cannot be read.
    pub fault: Option<String>,
}

/// The figures of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStats {
    pub partition: u8,
    pub messages: u64,
    pub body_bytes: u64,
    pub oldest_ms: Option<u64>,
    /// Bodies still being received.
    pub streams: u64,
    pub sst_bytes: u64,
    pub blob_bytes: u64,
    pub log_bytes: u64,
    pub memtable_bytes: u64,
    /// Records that the last start moved to quarantine.
    pub quarantined: u64,
    /// Why the partition accepts no mail.
    pub failure: Option<String>,
}

/// The figures of the spool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolStats {
    pub messages: u64,
    pub body_bytes: u64,
    pub oldest_ms: Option<u64>,
    /// Entries of the quarantine folder, from all starts.
    pub in_quarantine: u64,
    pub partitions: Vec<PartitionStats>,
}

/// The messages of all partitions that `wanted` accepts, the oldest first.
pub fn list(
    spool: &Spool,
    filter: ListFilter,
    wanted: &Wanted,
) -> Result<Vec<ListRow>, QueueFault> {
    let mut rows = Vec::new();
    for partition in spool.partitions() {
        list_partition(spool, partition, filter, wanted, &mut rows)?;
    }
    rows.sort_by_key(|(id, _)| *id);
    rows.truncate(filter.limit);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

fn list_partition(
    spool: &Spool,
    partition: &Partition,
    filter: ListFilter,
    wanted: &Wanted,
    rows: &mut Vec<(MessageId, ListRow)>,
) -> Result<(), QueueFault> {
    let mut envelopes = partition.db().raw_iterator_cf(partition.families().envelope);
    match filter.after {
        Some(id) => envelopes.seek(key::of_id(id)),
        None => envelopes.seek_to_first(),
    }
    let rows_max = rows.len().saturating_add(filter.limit);
    while let Some((envelope_key, record)) = envelopes.item() {
        if rows.len() >= rows_max {
            break;
        }
        if let Some(id) = key::id_of(envelope_key)
            && Some(id) > filter.after
            && wanted.accepts(partition, id, record)?
        {
            rows.extend(list_row(spool.public_id(id), record).map(|row| (id, row)));
        }
        envelopes.next();
    }
    Ok(envelopes.status()?)
}

/// `None`: the message is kept after its end, no longer queued.
fn list_row(id: PublicId, record: &[u8]) -> Option<ListRow> {
    let id = id.to_string();
    Some(match Envelope::decode(record) {
        Ok(envelope) if envelope.kept_until_ms.is_some() => return None,
        Ok(envelope) => ListRow {
            id,
            received_ms: envelope.received_ms,
            bytes: envelope.bytes(),
            sender: envelope.sender.map(str::to_owned),
            recipients: envelope.recipients.len(),
            first_recipient: envelope.recipients.iter().next().map(|to| to.mailbox.to_owned()),
            peer: Some(envelope.peer.to_string()),
            fault: None,
        },
        Err(fault) => ListRow { id, fault: Some(fault.to_string()), ..ListRow::default() },
    })
}

/// All stored facts about one message.
pub fn show(spool: &Spool, id: MessageId) -> Result<Details, QueueFault> {
    let partition = spool.partition_of(id)?;
    let record = envelope_record(partition, id)?;
    let envelope = Envelope::decode(&record)?;
    let tls = envelope.tls.map(|tls| format!("{} {}", tls.version, tls.cipher));
    let owned = |text: Option<&str>| text.map(str::to_owned);
    Ok(Details {
        id: spool.public_id(id).to_string(),
        partition: id.partition().0,
        received_ms: envelope.received_ms,
        sender: owned(envelope.sender),
        recipients: envelope
            .recipients
            .iter()
            .map(|to| RecipientRow {
                mailbox: to.mailbox.to_owned(),
                notify: NOTIFY_WORDS
                    .into_iter()
                    .filter(|(flag, _)| to.notify & flag != 0)
                    .map(|(_, word)| word.into())
                    .collect(),
                orcpt: owned(to.orcpt),
            })
            .collect(),
        smtputf8: envelope.smtputf8,
        requiretls: envelope.requiretls,
        body_type: envelope.body_type.label().into(),
        ret: envelope.ret.map(|ret| ret.label().into()),
        envid: owned(envelope.envid),
        auth: owned(envelope.auth),
        declared_bytes: envelope.declared_bytes,
        head_bytes: envelope.head_bytes,
        body_bytes: envelope.body.bytes,
        body_chunks: envelope.body.chunks,
        body_crc32: format!("{:08x}", envelope.body.crc32),
        peer: envelope.peer.to_string(),
        helo: envelope.helo.to_owned(),
        listener: envelope.listener.to_owned(),
        protocol: envelope.protocol.to_owned(),
        tls,
        message_id: owned(envelope.message_id),
        tenant: envelope.tenant.to_string(),
        credential: envelope.credential.map(|credential| credential.to_string()),
        stream: envelope.stream.0,
        tags: envelope.tags.iter().map(str::to_owned).collect(),
        metadata: envelope.metadata.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        kept_until_ms: envelope.kept_until_ms,
        jobs: jobs_of(partition, id)?,
    })
}

fn jobs_of(partition: &Partition, id: MessageId) -> Result<Vec<JobRow>, QueueFault> {
    let jobs = jobs::jobs_of(partition, id)?;
    Ok(jobs.iter().map(|job| job_row(job.number, &job.record)).collect())
}

fn job_row(number: u16, record: &[u8]) -> JobRow {
    let (job, fault) = match Job::decode(record) {
        Ok(job) => (job, None),
        Err(fault) => (Job::fresh(0, 0), Some(fault.to_string())),
    };
    JobRow {
        number,
        state: match job.state {
            JobState::Waiting => "waiting".into(),
            JobState::Held => "held".into(),
        },
        recipients: job.recipients.iter().collect(),
        attempts: job.attempts,
        last_attempt_ms: (job.last_attempt_ms != 0).then_some(job.last_attempt_ms),
        last_reply: (!job.last_reply.is_empty()).then(|| job.last_reply.to_owned()),
        rerouted_to: job.next_hop.map(str::to_owned),
        due_ms: job.due_ms,
        fault,
    }
}

/// Where a filed job stands in the index by destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FiledPlace {
    pub job: u16,
    pub flow: FlowKey,
    /// Rows of the flow before its own in its partition, counted up to `FILED_COUNT_MAX`.
    pub ahead: usize,
}

/// The jobs of a message that are filed.
pub fn filed(spool: &Spool, id: MessageId) -> Result<Vec<FiledPlace>, QueueFault> {
    let partition = &**spool.partition_of(id)?;
    let mut places = Vec::new();
    for StoredJob { number, record } in jobs::jobs_of(partition, id)? {
        let Ok(job) = Job::decode(&record) else { continue };
        let Some(Filed { flow, .. }) = job.filed else { continue };
        let due = DueKey { at_ms: job.due_ms, job: (id, number) };
        let ahead = schedule::count_before(partition, BacklogKey { flow, due }, FILED_COUNT_MAX)?;
        places.push(FiledPlace { job: number, flow, ahead });
    }
    Ok(places)
}

/// Reads the figures of the spool.
pub fn stats(spool: &Spool) -> Result<SpoolStats, QueueFault> {
    let partitions = spool.partitions().iter().map(|partition| partition_stats(partition));
    let partitions = partitions.collect::<Result<Vec<_>, _>>()?;
    Ok(SpoolStats {
        messages: partitions.iter().map(|partition| partition.messages).sum(),
        body_bytes: partitions.iter().map(|partition| partition.body_bytes).sum(),
        oldest_ms: partitions.iter().filter_map(|partition| partition.oldest_ms).min(),
        in_quarantine: quarantine::count(&spool.path().join(QUARANTINE)).unwrap_or(0),
        partitions,
    })
}

fn partition_stats(partition: &Partition) -> Result<PartitionStats, QueueFault> {
    let families = partition.families();
    let mut jobs = partition.db().raw_iterator_cf(families.job);
    jobs.seek_to_first();
    let oldest_ms = jobs.key().and_then(key::id_of).map(MessageId::made_ms);
    Ok(PartitionStats {
        partition: partition.id().0,
        messages: partition.messages(),
        body_bytes: partition.body_bytes(),
        oldest_ms,
        streams: count_rows(partition.db().raw_iterator_cf(families.stream))?,
        sst_bytes: property_sum(partition, "rocksdb.total-sst-files-size")?,
        blob_bytes: property_sum(partition, "rocksdb.total-blob-file-size")?,
        log_bytes: log_bytes(partition.path()),
        memtable_bytes: property_sum(partition, "rocksdb.cur-size-all-mem-tables")?,
        quarantined: partition.quarantined(),
        failure: partition.failure().map(str::to_owned),
    })
}

fn property_sum(partition: &Partition, property: &str) -> Result<u64, QueueFault> {
    let mut sum = 0;
    for family in FAMILIES {
        let handle = partition.db().cf_handle(family).expect("opened with every family");
        sum += partition.db().property_int_value_cf(handle, property)?.unwrap_or(0);
    }
    Ok(sum)
}

/// RocksDB may create and remove files meanwhile; unreadable ones are not counted.
fn log_bytes(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "log"))
        .filter_map(|entry| entry.metadata().ok())
        .map(|file| file.len())
        .sum()
}

/// A message as it would be delivered: head, then body.
pub struct Cat(SharedMessageReader);

/// Reads a message piece by piece. The last piece is a fault if any part of the body is damaged.
pub fn cat(spool: &Spool, id: MessageId) -> Result<Cat, QueueFault> {
    let partition = spool.partition_of(id)?;
    let record = envelope_record(partition, id)?;
    let envelope = Envelope::decode(&record)?;
    Ok(Cat(MessageReader::new(Arc::clone(partition), id, &envelope)))
}

impl Iterator for Cat {
    type Item = Result<Vec<u8>, QueueFault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next_piece(<[u8]>::to_vec)
    }
}

fn envelope_record(partition: &Partition, id: MessageId) -> Result<Vec<u8>, QueueFault> {
    let family = partition.families().envelope;
    partition.db().get_cf(family, key::of_id(id))?.ok_or(QueueFault::Unknown)
}
