//! The column families of a partition, and the formats of a spool.
//!
//! Promise:  a family once made keeps its name and its place in the list.

pub const ENVELOPE: &str = "envelope";
pub const BODY: &str = "body";
pub const JOB: &str = "job";
pub const DUE: &str = "due";
pub const STREAM: &str = "stream";
pub const HEAD: &str = "head";
pub const EVENT: &str = "event";
pub const ONCE: &str = "once";
pub const SCHEDULED: &str = "scheduled";
pub const KEPT: &str = "kept";
pub const BACKLOG: &str = "backlog";
pub const DEFAULT: &str = "default";

/// Every column family of a partition, in the order in which they came. New ones are appended.
pub const FAMILIES: [&str; 12] =
    [DEFAULT, ENVELOPE, BODY, JOB, DUE, STREAM, HEAD, EVENT, ONCE, SCHEDULED, KEPT, BACKLOG];

/// Every format so far, each with the number of families that it has.
const FORMATS: [(u32, usize); 3] = [(1, 6), (2, 11), (3, 12)];

/// The format of a spool: a number, and the families of each partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub format: u32,
    pub families: &'static [&'static str],
}

impl Layout {
    /// The format of new spools. A server upgrades older spools and refuses newer ones.
    pub const CURRENT: Layout = Layout { format: 3, families: &FAMILIES };

    /// The families that a spool of that format has.
    pub fn families_of(&self, format: u32) -> &'static [&'static str] {
        let old = FORMATS.iter().find(|(old, _)| *old == format);
        old.map_or(self.families, |(_, count)| &self.families[..*count])
    }
}

/// A family that batches write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    Envelope,
    Head,
    Body,
    Job,
    Due,
    Backlog,
    Stream,
    Kept,
    Event,
    Default,
}

/// How a key is removed. RocksDB ends a compaction with an error where it meets both in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Of a key that may be written over.
    Delete,
    /// Of a key that is written once: both records vanish as soon as they meet.
    SingleDelete,
}

impl Family {
    pub const fn name(self) -> &'static str {
        match self {
            Family::Envelope => ENVELOPE,
            Family::Head => HEAD,
            Family::Body => BODY,
            Family::Job => JOB,
            Family::Due => DUE,
            Family::Backlog => BACKLOG,
            Family::Stream => STREAM,
            Family::Kept => KEPT,
            Family::Event => EVENT,
            Family::Default => DEFAULT,
        }
    }

    /// How every key of this family is removed.
    pub const fn removal(self) -> Removal {
        match self {
            Family::Job | Family::Kept | Family::Event | Family::Default => Removal::Delete,
            Family::Envelope
            | Family::Head
            | Family::Body
            | Family::Due
            | Family::Backlog
            | Family::Stream => Removal::SingleDelete,
        }
    }
}
