//! The ledger of a partition: how many recipients were taken, and what became of them.
//!
//! Owner:    the commit thread, which writes it in the same batch as what it counts; a batch that
//!           is lost is lost with its counts.
//! Promise:  taken = delivered + bounced + expired + deleted + quarantined + queued, at any moment
//!           and after any crash. `queued` is not kept but counted from the jobs, so that the
//!           equation can fail.

use serde::Serialize;

use crate::base::MessageId;
use crate::queue::record::Reader;
use crate::queue::record::RecordFault;
use crate::queue::record::Writer;

/// Its key in the family `default`.
pub const LEDGER_KEY: &[u8] = b"ledger";

/// There while recovery changes what the ledger counts. A start that finds it was preceded by one
/// that was cut short, and brings the ledger in line as that one would have.
pub const MENDING_KEY: &[u8] = b"mending";

const KIND_LEDGER: u8 = b'L';

/// Recipients by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub delivered: u64,
    /// Refused for good by us or by a remote server, and reported.
    pub bounced: u64,
    /// Given up after the time for tries had passed.
    pub expired: u64,
    /// Removed by an operator.
    pub deleted: u64,
}

impl Tally {
    pub fn total(&self) -> u64 {
        self.delivered + self.bounced + self.expired + self.deleted
    }

    pub fn add(&mut self, more: &Tally) {
        self.delivered += more.delivered;
        self.bounced += more.bounced;
        self.expired += more.expired;
        self.deleted += more.deleted;
    }
}

/// The counts since the spool was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Recipients of mail taken from clients, and of bounces made here.
    pub taken: u64,
    pub ended: Tally,
    /// Moved out because their records could not be understood.
    pub quarantined: u64,
    /// The largest id ever given: a clock that is set back must not give it again.
    pub newest: u64,
}

impl Ledger {
    /// Recipients that should be in the jobs now.
    pub fn queued(&self) -> u64 {
        self.taken.saturating_sub(self.ended.total() + self.quarantined)
    }

    /// Makes the equation hold with so many in the jobs: recovery has told of every job that it
    /// moved or made again.
    pub fn bring_in_line(&mut self, queued: u64) {
        let accounted = self.ended.total() + self.quarantined + queued;
        self.quarantined += self.taken.saturating_sub(accounted);
        self.taken = self.taken.max(accounted);
    }

    pub fn note_id(&mut self, id: MessageId) {
        self.newest = self.newest.max(id.as_u64());
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut record = Vec::with_capacity(64);
        let mut writer = Writer::new(&mut record, KIND_LEDGER);
        let ended = &self.ended;
        for count in [
            self.taken,
            ended.delivered,
            ended.bounced,
            ended.expired,
            ended.deleted,
            self.quarantined,
            self.newest,
        ] {
            writer.u64(count);
        }
        writer.seal();
        record
    }

    pub fn decode(record: &[u8]) -> Result<Ledger, RecordFault> {
        let mut reader = Reader::open(record, KIND_LEDGER)?;
        let ledger = Ledger {
            taken: reader.u64()?,
            ended: Tally {
                delivered: reader.u64()?,
                bounced: reader.u64()?,
                expired: reader.u64()?,
                deleted: reader.u64()?,
            },
            quarantined: reader.u64()?,
            newest: reader.u64()?,
        };
        reader.end()?;
        Ok(ledger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_is_read_back() {
        let ledger = Ledger {
            taken: 9,
            ended: Tally { delivered: 1, bounced: 2, expired: 3, deleted: 1 },
            quarantined: 1,
            newest: 77,
        };
        assert_eq!(Ledger::decode(&ledger.encode()), Ok(ledger));
        assert_eq!(ledger.queued(), 1);
        let mut bad = ledger.encode();
        bad[5] ^= 1;
        assert_eq!(Ledger::decode(&bad), Err(RecordFault::Checksum));
    }
}
