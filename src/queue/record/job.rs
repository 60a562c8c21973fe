//! A job: the recipients of one message that share a next hop, and when they are due.
//!
//! Promise:  as of `envelope`. A record of version 1 is read as a job that is not filed.

use crate::queue::record::key::FlowKey;
use crate::queue::record::outer::Kind;
use crate::queue::record::outer::Reader;
use crate::queue::record::outer::RecordFault;
use crate::queue::record::outer::Writer;

/// Version 2 has filed jobs.
const KIND_JOB: Kind = Kind { byte: b'J', version: 2 };

/// Flags in the byte of the state.
const JOB_WARNED: u8 = 0x80;
const JOB_REROUTED: u8 = 0x40;
const JOB_FILED: u8 = 0x20;

/// The state of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobState {
    /// Tried when it is due.
    #[default]
    Waiting,
    /// Held by an operator.
    Held,
}

/// The place of a job in the index by destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filed {
    pub flow: FlowKey,
    /// The first of delay warning, fallback relay and expiry.
    pub deadline_ms: u64,
}

/// The fields of a job that decide its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The next attempt.
    pub due_ms: u64,
    pub filed: Option<Filed>,
}

/// One next hop's share of a message. Fresh mail has one job with all recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job<'a> {
    pub number: u16,
    pub state: JobState,
    /// The sender was told of the delay.
    pub warned: bool,
    pub attempts: u32,
    pub last_attempt_ms: u64,
    pub due_ms: u64,
    pub last_reply: &'a str,
    /// The next hop that an operator has set instead of the route's, written as in a route.
    pub next_hop: Option<&'a str>,
    pub filed: Option<Filed>,
    pub recipients: Indexes<'a>,
}

/// Positions in the envelope's list of recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexes<'a> {
    /// The first ones, this many.
    First(u32),
    /// As stored: four bytes each.
    Stored(&'a [u8]),
}

impl Indexes<'_> {
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let (first, stored): (u32, &[u8]) = match *self {
            Indexes::First(count) => (count, &[]),
            Indexes::Stored(bytes) => (0, bytes),
        };
        let stored = stored.as_chunks::<4>().0;
        (0..first).chain(stored.iter().map(|four| u32::from_be_bytes(*four)))
    }
}

impl<'a> Job<'a> {
    /// The job of a message just received: every recipient, no attempt yet.
    pub fn fresh(due_ms: u64, recipients: usize) -> Job<'static> {
        Job {
            number: 0,
            state: JobState::Waiting,
            warned: false,
            attempts: 0,
            last_attempt_ms: 0,
            due_ms,
            last_reply: "",
            next_hop: None,
            filed: None,
            recipients: Indexes::First(recipients as u32),
        }
    }

    pub fn schedule(&self) -> Schedule {
        Schedule { due_ms: self.due_ms, filed: self.filed }
    }

    /// Appends the record to `buffer`. After a fault the appended bytes are meaningless.
    pub fn encode(&self, buffer: &mut Vec<u8>) -> Result<(), RecordFault> {
        let mut writer = Writer::new(buffer, KIND_JOB);
        writer.u16(self.number);
        let warned = if self.warned { JOB_WARNED } else { 0 };
        let rerouted = if self.next_hop.is_some() { JOB_REROUTED } else { 0 };
        let filed = if self.filed.is_some() { JOB_FILED } else { 0 };
        writer.u8(self.state as u8 | warned | rerouted | filed);
        writer.u32(self.attempts);
        writer.u64(self.last_attempt_ms);
        writer.u64(self.due_ms);
        writer.text("last reply", Some(self.last_reply))?;
        if self.next_hop.is_some() {
            writer.text("next hop", self.next_hop)?;
        }
        if let Some(Filed { flow, deadline_ms }) = self.filed {
            writer.u64(flow.destination);
            writer.u64(flow.tenant);
            writer.u8(flow.class);
            writer.u64(deadline_ms);
        }
        match self.recipients {
            Indexes::First(count) => (0..count).for_each(|index| writer.u32(index)),
            Indexes::Stored(bytes) => writer.raw(bytes),
        }
        writer.seal();
        Ok(())
    }

    /// Reads a whole record, checking everything.
    pub fn decode(record: &'a [u8]) -> Result<Job<'a>, RecordFault> {
        let mut reader = Reader::open(record, KIND_JOB)?;
        let number = reader.u16()?;
        let flags = reader.u8()?;
        let filed = if reader.version() > 1 { JOB_FILED } else { 0 };
        let state = match flags & !(JOB_WARNED | JOB_REROUTED | filed) {
            0 => JobState::Waiting,
            1 => JobState::Held,
            _ => return Err(RecordFault::Value("job state")),
        };
        let job = Job {
            number,
            state,
            warned: flags & JOB_WARNED != 0,
            attempts: reader.u32()?,
            last_attempt_ms: reader.u64()?,
            due_ms: reader.u64()?,
            last_reply: reader.some_text("last reply")?,
            next_hop: match flags & JOB_REROUTED {
                0 => None,
                _ => Some(reader.some_text("next hop")?),
            },
            filed: match flags & JOB_FILED {
                0 => None,
                _ => Some(read_filed(&mut reader)?),
            },
            recipients: Indexes::Stored(reader.rest()),
        };
        match job.recipients {
            Indexes::Stored(bytes) if bytes.len() % 4 != 0 => {
                Err(RecordFault::Value("recipient indexes"))
            }
            _ => Ok(job),
        }
    }
}

fn read_filed(reader: &mut Reader<'_>) -> Result<Filed, RecordFault> {
    let flow = FlowKey { destination: reader.u64()?, tenant: reader.u64()?, class: reader.u8()? };
    Ok(Filed { flow, deadline_ms: reader.u64()? })
}
