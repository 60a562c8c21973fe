//! Selecting messages for an operation, and the summary of the queue by recipient domain.
//!
//! Owner:    as for `inspect`.
//! Bounds:   a summary holds `DOMAINS_MAX` domains; recipients of further domains are only counted.

use std::collections::HashMap;

use serde::Deserialize;
use serde::Serialize;

use crate::base::MessageId;
use crate::queue::fault::QueueFault;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::job::Job;
use crate::queue::record::job::JobState;
use crate::queue::record::key;
use crate::queue::spool::Spool;
use crate::queue::store::jobs;
use crate::queue::store::partition::Partition;
use crate::queue::store::records::Walk;
use crate::queue::store::rows::each_row;

const DOMAINS_MAX: usize = 10_000;
/// Bytes shown of a reply.
const REPLY_SHOWN_MAX: usize = 200;

/// A filter for messages. All conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wanted {
    /// At least one undelivered recipient belongs to this domain.
    pub recipient_domain: Option<String>,
    /// The envelope sender; `<>` or nothing for the null sender.
    pub sender: Option<String>,
    /// At least one job is held.
    pub held: bool,
    pub received_before_ms: Option<u64>,
}

impl Wanted {
    pub fn is_any(&self) -> bool {
        *self == Wanted::default()
    }

    /// Whether the filter accepts this message.
    pub fn accepts(
        &self,
        partition: &Partition,
        id: MessageId,
        record: &[u8],
    ) -> Result<bool, QueueFault> {
        if self.is_any() {
            return Ok(true);
        }
        // An unreadable envelope matches no condition.
        let Ok(envelope) = Envelope::decode(record) else { return Ok(false) };
        if self.received_before_ms.is_some_and(|before| envelope.received_ms >= before) {
            return Ok(false);
        }
        if let Some(wanted) = &self.sender {
            let wanted = wanted.trim_start_matches('<').trim_end_matches('>');
            if !envelope.sender.unwrap_or("").eq_ignore_ascii_case(wanted) {
                return Ok(false);
            }
        }
        if self.recipient_domain.is_none() && !self.held {
            return Ok(true);
        }
        let mut domains = Vec::new();
        if let Some(wanted) = &self.recipient_domain {
            let of_domain = (0_u32..).zip(envelope.recipients.iter());
            let fits = |mailbox: &str| domain_of(mailbox).eq_ignore_ascii_case(wanted);
            domains.extend(of_domain.filter(|(_, to)| fits(to.mailbox)).map(|(index, _)| index));
            if domains.is_empty() {
                return Ok(false);
            }
        }
        let (mut reached, mut held) = (self.recipient_domain.is_none(), !self.held);
        jobs::each_job(partition, id, |_, record| {
            if let Ok(job) = Job::decode(record) {
                reached |= job.recipients.iter().any(|index| domains.contains(&index));
                held |= job.state == JobState::Held;
            }
            Walk::Next
        })?;
        Ok(reached && held)
    }
}

/// The queued mail for one domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainRow {
    pub domain: String,
    pub recipients: u64,
    /// Recipients whose mail is held.
    pub held: u64,
    /// Recipients that wait for another attempt.
    pub retrying: u64,
    pub oldest_ms: u64,
    /// The earliest next attempt; `None` if all mail is held.
    pub next_due_ms: Option<u64>,
    pub last_attempt_ms: Option<u64>,
    pub last_reply: Option<String>,
}

/// The queue by recipient domain, the largest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub recipients: u64,
    pub domains: u64,
    pub rows: Vec<DomainRow>,
    /// Recipients of the domains that are not listed.
    pub others: u64,
}

/// Reads all jobs.
pub fn summary(spool: &Spool, limit: usize) -> Result<Summary, QueueFault> {
    let mut count = Count::default();
    for partition in spool.partitions() {
        count_partition(partition, &mut count)?;
    }
    let domains = count.rows.len() as u64;
    let mut rows: Vec<DomainRow> = count.rows.into_values().collect();
    rows.sort_by(|one, other| {
        other.recipients.cmp(&one.recipients).then_with(|| one.domain.cmp(&other.domain))
    });
    rows.truncate(limit);
    let shown: u64 = rows.iter().map(|row| row.recipients).sum();
    Ok(Summary { recipients: count.recipients, domains, rows, others: count.recipients - shown })
}

#[derive(Default)]
struct Count {
    rows: HashMap<String, DomainRow>,
    recipients: u64,
}

fn count_partition(partition: &Partition, count: &mut Count) -> Result<(), QueueFault> {
    let families = partition.families();
    let mut envelope: Option<(MessageId, Vec<u8>)> = None;
    each_row(partition.db().raw_iterator_cf(families.job), |job_key, record| {
        if let Some((id, _)) = key::job_of(job_key)
            && let Ok(job) = Job::decode(record)
        {
            if envelope.as_ref().is_none_or(|(known, _)| *known != id) {
                let read = partition.db().get_cf(families.envelope, key::of_id(id))?;
                envelope = read.map(|read| (id, read));
            }
            if let Some((_, read)) = &envelope
                && let Ok(read) = Envelope::decode(read)
            {
                count.add(&read, &job);
            }
        }
        Ok(())
    })
}

impl Count {
    fn add(&mut self, envelope: &Envelope<'_>, job: &Job<'_>) {
        let mut wanted = job.recipients.iter().peekable();
        for (index, recipient) in (0_u32..).zip(envelope.recipients.iter()) {
            if wanted.peek() != Some(&index) {
                continue;
            }
            wanted.next();
            self.recipients += 1;
            let domain = domain_of(recipient.mailbox).to_ascii_lowercase();
            if self.rows.len() >= DOMAINS_MAX && !self.rows.contains_key(&domain) {
                continue;
            }
            let row = self.rows.entry(domain).or_insert_with_key(|domain| DomainRow::new(domain));
            row.add(envelope.received_ms, job);
        }
    }
}

impl DomainRow {
    fn new(domain: &str) -> DomainRow {
        DomainRow {
            domain: domain.to_owned(),
            recipients: 0,
            held: 0,
            retrying: 0,
            oldest_ms: u64::MAX,
            next_due_ms: None,
            last_attempt_ms: None,
            last_reply: None,
        }
    }

    fn add(&mut self, received_ms: u64, job: &Job<'_>) {
        self.recipients += 1;
        self.oldest_ms = self.oldest_ms.min(received_ms);
        match job.state {
            JobState::Held => self.held += 1,
            JobState::Waiting => {
                self.retrying += u64::from(job.attempts > 0);
                let due_ms = self.next_due_ms.unwrap_or(u64::MAX).min(job.due_ms);
                self.next_due_ms = Some(due_ms);
            }
        }
        if !job.last_reply.is_empty() && Some(job.last_attempt_ms) >= self.last_attempt_ms {
            let end = job.last_reply.floor_char_boundary(REPLY_SHOWN_MAX);
            self.last_attempt_ms = Some(job.last_attempt_ms);
            self.last_reply = Some(job.last_reply[..end].to_owned());
        }
    }
}

fn domain_of(mailbox: &str) -> &str {
    mailbox.rsplit_once('@').map_or("", |(_, domain)| domain)
}
