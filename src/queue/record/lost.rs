//! Which families of a partition are known to have lost rows.
//!
//! Why:      the records of a message lie in several families, and so in several files. While all
//!           rows can be read, a message without a job can be given a new one. Once rows of a family
//!           are lost, a missing record proves nothing, and an old version of a record may have come
//!           back from below the lost one. Recovery then compares families and quarantines records on
//!           which they disagree.
//! On disk:  two bytes at the key `mending`, until a recovery has ended.

use crate::queue::record::family::EVENT;
use crate::queue::record::family::FAMILIES;
use crate::queue::record::family::ONCE;
use crate::queue::record::family::SCHEDULED;

/// Families that have lost rows, and whether the log has lost batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost(u16);

/// The eighth bit, where format 1 had it; the families have the bits below and above.
const LOG_BIT: usize = 7;
const LOG: u16 = 1 << LOG_BIT;

const _: () = assert!(FAMILIES.len() < 16, "each family and the log have a bit");

impl Lost {
    /// Batches of the log; each whole, so that families still agree.
    pub const BATCHES: Lost = Lost(LOG);

    pub fn any(self) -> bool {
        self.0 != 0
    }

    /// Whether rows are lost that the records of a message are compared with.
    pub fn any_of_mail(self) -> bool {
        let others = [EVENT, ONCE, SCHEDULED].into_iter().map(bit).fold(0, |all, bit| all | bit);
        self.0 & !others != 0
    }

    pub fn add(&mut self, family: &str) {
        self.0 |= bit(family);
    }

    /// The union of both.
    pub fn union(self, other: Lost) -> Lost {
        Lost(self.0 | other.0)
    }

    /// Whether rows of the family are lost.
    pub fn includes(self, family: &str) -> bool {
        self.0 & bit(family) != 0
    }

    /// Names for the operator.
    pub fn names(self) -> Vec<&'static str> {
        let families = FAMILIES.iter().copied().filter(|family| self.includes(family));
        families.chain((self.0 & LOG != 0).then_some("log")).collect()
    }

    pub fn to_bytes(self) -> [u8; 2] {
        self.0.to_le_bytes()
    }

    /// Format 1 wrote one byte.
    pub fn from_bytes(bytes: &[u8]) -> Lost {
        let byte = |place: usize| bytes.get(place).copied().unwrap_or(0);
        Lost(u16::from_le_bytes([byte(0), byte(1)]))
    }
}

fn bit(family: &str) -> u16 {
    let place = FAMILIES.iter().position(|known| *known == family);
    place.map_or(0, |place| 1 << (place + usize::from(place >= LOG_BIT)))
}
