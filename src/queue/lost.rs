//! Where a start knows that rows are lost.
//!
//! Why:      the records of a message lie in several families, and so in several files. While all
//!           that is stored can be read, a message without a job can be given a new one. Once rows
//!           of a family are lost, an absent record says nothing any more, and an old version of
//!           one may have come back from below the lost one: then recovery compares families, and
//!           puts aside what they do not agree on.
//! On disk:  one byte behind the key `mending`, until a recovery has come to its end.

use crate::queue::schema::FAMILIES;

/// Families that have lost rows, and whether the log has lost batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost(u8);

const LOG: u8 = 1 << 7;

const _: () = assert!(FAMILIES.len() < 7, "each family has its bit below that of the log");

impl Lost {
    /// Batches of the log; each whole, so that families still agree.
    pub const BATCHES: Lost = Lost(LOG);

    pub fn any(self) -> bool {
        self.0 != 0
    }

    pub fn add(&mut self, family: &str) {
        self.0 |= bit(family);
    }

    /// What either of them says.
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

    pub fn to_bytes(self) -> [u8; 1] {
        [self.0]
    }

    /// An older Ringpost wrote none.
    pub fn from_bytes(bytes: &[u8]) -> Lost {
        Lost(bytes.first().copied().unwrap_or(0))
    }
}

fn bit(family: &str) -> u8 {
    FAMILIES.iter().position(|known| *known == family).map_or(0, |place| 1 << place)
}
