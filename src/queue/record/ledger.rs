//! The ledger of a partition: how many recipients were accepted, and their final states.
//!
//! Owner:    the commit thread, which writes it in the same batch as what it counts; a batch that
//!           is lost is lost with its counts.
//! Promise:  taken = delivered + bounced + expired + cancelled + suppressed + quarantined + queued,
//!           at any moment and after any crash. `queued` is not stored but counted from the jobs, so
//!           that the equation can fail. A copy outside the database (`copies`) lets it fail for a
//!           database that lost its ledger too.

use serde::Deserialize;
use serde::Serialize;

use crate::base::MessageId;
use crate::queue::record::outer::Kind;
use crate::queue::record::outer::Reader;
use crate::queue::record::outer::RecordFault;
use crate::queue::record::outer::Writer;

/// Its key in the family `default`.
pub const LEDGER_KEY: &[u8] = b"ledger";

/// Set while recovery changes what the ledger counts. A start that finds this key follows a recovery
/// that was cut short, and corrects the ledger.
pub const MENDING_KEY: &[u8] = b"mending";

/// Version 2 counts suppressed recipients, version 3 events.
const KIND_LEDGER: Kind = Kind { byte: b'L', version: 3 };

/// Bytes of an encoded `Ledger`.
pub const LEDGER_LEN: usize = 78;
const LEDGER_V2_LEN: usize = 70;
const LEDGER_V1_LEN: usize = 62;

/// Recipients by their final state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub delivered: u64,
    /// Refused permanently by us or by a remote server.
    pub bounced: u64,
    /// Given up because the message expired.
    pub expired: u64,
    /// Removed on request, or answered 451 because the disk did not answer in time.
    pub cancelled: u64,
    /// Not tried, because the address is on a suppression list.
    pub suppressed: u64,
}

impl Tally {
    pub fn total(&self) -> u64 {
        self.delivered + self.bounced + self.expired + self.cancelled + self.suppressed
    }

    pub fn add(&mut self, more: &Tally) {
        self.delivered += more.delivered;
        self.bounced += more.bounced;
        self.expired += more.expired;
        self.cancelled += more.cancelled;
        self.suppressed += more.suppressed;
    }
}

/// The counts since the spool was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Recipients of accepted mail, and of reports made here.
    pub taken: u64,
    pub ended: Tally,
    /// Moved to quarantine with damaged records, or missing.
    pub quarantined: u64,
    /// The largest id ever given: a clock that is set back must not give it again.
    pub newest: u64,
    /// The number of the next event.
    pub events: u64,
}

/// Recipients for which ledger and jobs did not agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Miscount {
    /// In no job and without a final state.
    pub missing: u64,
    /// Queued again after their end.
    pub returned: u64,
}

impl Ledger {
    /// Recipients that should be in the jobs now.
    pub fn queued(&self) -> u64 {
        self.taken.saturating_sub(self.ended.total() + self.quarantined)
    }

    /// Taken minus all that is accounted for with this many recipients in the jobs: missing if positive,
    /// queued again after their end if negative.
    pub fn difference(&self, queued: u64) -> i64 {
        let accounted = self.ended.total() + self.quarantined + queued;
        self.taken.wrapping_sub(accounted) as i64
    }

    /// Makes the equation hold with this many recipients in the jobs, of whom `ends` are known to have
    /// ended.
    pub fn bring_in_line(&mut self, queued: u64, ends: u64) -> Miscount {
        let difference = self.difference(queued);
        let more = if difference < 0 { difference.unsigned_abs() } else { 0 };
        let returned = more.max(ends.min(queued));
        self.taken += returned;
        let missing = self.difference(queued).unsigned_abs();
        self.quarantined += missing;
        Miscount { missing, returned }
    }

    /// The larger of each count. Counts only grow, so the larger one is the later one.
    pub fn or_more(&self, other: &Ledger) -> Ledger {
        Ledger {
            taken: self.taken.max(other.taken),
            ended: Tally {
                delivered: self.ended.delivered.max(other.ended.delivered),
                bounced: self.ended.bounced.max(other.ended.bounced),
                expired: self.ended.expired.max(other.ended.expired),
                cancelled: self.ended.cancelled.max(other.ended.cancelled),
                suppressed: self.ended.suppressed.max(other.ended.suppressed),
            },
            quarantined: self.quarantined.max(other.quarantined),
            newest: self.newest.max(other.newest),
            events: self.events.max(other.events),
        }
    }

    pub fn note_id(&mut self, id: MessageId) {
        self.newest = self.newest.max(id.as_u64());
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut record = Vec::with_capacity(LEDGER_LEN);
        let mut writer = Writer::new(&mut record, KIND_LEDGER);
        let ended = &self.ended;
        for count in [
            self.taken,
            ended.delivered,
            ended.bounced,
            ended.expired,
            ended.cancelled,
            self.quarantined,
            self.newest,
            ended.suppressed,
            self.events,
        ] {
            writer.u64(count);
        }
        writer.seal();
        record
    }

    pub fn decode(record: &[u8]) -> Result<Ledger, RecordFault> {
        let mut reader = Reader::open(record, KIND_LEDGER)?;
        let mut ledger = Ledger {
            taken: reader.u64()?,
            ended: Tally {
                delivered: reader.u64()?,
                bounced: reader.u64()?,
                expired: reader.u64()?,
                cancelled: reader.u64()?,
                suppressed: 0,
            },
            quarantined: reader.u64()?,
            newest: reader.u64()?,
            events: 0,
        };
        if reader.version() > 1 {
            ledger.ended.suppressed = reader.u64()?;
        }
        if reader.version() > 2 {
            ledger.events = reader.u64()?;
        }
        reader.end()?;
        Ok(ledger)
    }

    /// The ledger at the front of `bytes`, whatever follows.
    pub fn decode_front(bytes: &[u8]) -> Result<Ledger, RecordFault> {
        let len = match bytes.first() {
            Some(1) => LEDGER_V1_LEN,
            Some(2) => LEDGER_V2_LEN,
            _ => LEDGER_LEN,
        };
        Ledger::decode(bytes.get(..len).ok_or(RecordFault::TooShort)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_returns_do_not_make_up_for_each_other() {
        let ended = Tally { delivered: 4, ..Tally::default() };
        let ledger = Ledger { taken: 10, ended, ..Ledger::default() };
        for (name, queued, ends, missing, returned) in [
            ("nothing", 6, 0, 0, 0),
            ("some are missing", 4, 0, 2, 0),
            ("some are back", 8, 0, 0, 2),
            ("two of each", 6, 2, 2, 2),
            ("all are missing, and their ends with them", 0, 4, 6, 0),
        ] {
            let mut found = ledger;
            let miscount = Miscount { missing, returned };
            assert_eq!(found.bring_in_line(queued, ends), miscount, "{name}");
            assert_eq!(found.difference(queued), 0, "{name}");
        }
    }

    #[test]
    fn a_ledger_is_read_back() {
        let ledger = Ledger {
            taken: 11,
            ended: Tally { delivered: 1, bounced: 2, expired: 3, cancelled: 1, suppressed: 2 },
            quarantined: 1,
            newest: 77,
            events: 5,
        };
        assert_eq!(ledger.encode().len(), LEDGER_LEN);
        assert_eq!(Ledger::decode(&ledger.encode()), Ok(ledger));
        assert_eq!(ledger.queued(), 1);
        let mut bad = ledger.encode();
        bad[5] ^= 1;
        assert_eq!(Ledger::decode(&bad), Err(RecordFault::Checksum));
    }
}
