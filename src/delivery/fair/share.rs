//! The parts of a fair queue: connection classes, tenants, their classes and senders.

use crate::base::Class;
use crate::base::limits::TURN_BYTES;
use crate::delivery::fair::turns::Turns;

/// Precision of tags: a weight of up to this divides without loss.
pub(super) const SCALE: u64 = 1 << 10;

/// Which connections of a destination may carry a job: an index that the destination assigns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionClass(pub u32);

/// The jobs of one connection class.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) turns: Turns,
    /// Tenants with jobs.
    pub(super) active: usize,
    /// Jobs that are not held.
    pub(super) ready: usize,
}

#[derive(Debug)]
pub(super) struct Tenant {
    pub(super) weight: u32,
    /// The steps of its turns in all connection classes.
    pub(super) served: u64,
    pub(super) shares: u32,
    pub(super) held: Held,
}

/// The classes of a tenant that are held, and whether all of them are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) classes: [bool; 3],
    pub(super) all: bool,
}

impl Held {
    pub(super) fn frees(self, class: Class) -> bool {
        !self.all && !self.classes[class as usize]
    }
}

/// A tenant in one connection class.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) connection: ConnectionClass,
    pub(super) tenant: u64,
    pub(super) is_in_turns: bool,
    /// Its tag, but for what the tenant has been served in other connection classes since `seen`.
    pub(super) tag: u64,
    pub(super) seen: u64,
    /// What its last turn cost.
    pub(super) step: u64,
    pub(super) jobs: usize,
    /// The tag of the class that had the last turn.
    pub(super) clock: u64,
    pub(super) classes: [ClassQueue; 3],
}

#[derive(Debug, Default)]
pub(super) struct ClassQueue {
    pub(super) tag: u64,
    pub(super) jobs: usize,
    pub(super) turns: Turns,
    /// Senders with jobs.
    pub(super) active: usize,
}

#[derive(Debug)]
pub(super) struct Sender {
    pub(super) share: u32,
    pub(super) class: Class,
    pub(super) name: u32,
    pub(super) jobs: usize,
    pub(super) first: u32,
    pub(super) last: u32,
}

impl Tenant {
    pub(super) const NEW: Tenant =
        Tenant { weight: 1, served: 0, shares: 0, held: Held { classes: [false; 3], all: false } };

    pub(super) fn usual_step(&self) -> u64 {
        (TURN_BYTES * SCALE / u64::from(self.weight.max(1))).max(1)
    }
}

impl Share {
    pub(super) fn new(connection: ConnectionClass, tenant: u64) -> Share {
        Share {
            connection,
            tenant,
            is_in_turns: false,
            tag: 0,
            seen: 0,
            step: 0,
            jobs: 0,
            clock: 0,
            classes: Default::default(),
        }
    }

    /// Jobs that are not held.
    pub(super) fn free(&self, held: Held) -> usize {
        let free = Class::ALL.into_iter().filter(|class| held.frees(*class));
        free.map(|class| self.classes[class as usize].jobs).sum()
    }

    pub(super) fn senders(&self) -> usize {
        self.classes.iter().map(|queue| queue.turns.heap.len()).sum()
    }

    pub(super) fn start(&mut self, tag: u64, step: u64, served: u64) {
        self.is_in_turns = true;
        self.tag = tag;
        self.step = step;
        self.seen = served;
    }
}
