//! The order of children that share something: the lowest tag has the next turn.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Tenants without jobs in a connection class.
pub(super) const IDLE_MAX: usize = 256;
/// In the rank of a child that has had a turn.
const OLD: u64 = 1 << 63;

/// Children by tag; those without jobs stay until their turn. Equal tags keep their order, new
/// children before others.
#[derive(Debug, Default)]
pub(super) struct Turns {
    pub(super) heap: BinaryHeap<Reverse<Entry>>,
    pub(super) clock: u64,
    pub(super) entered: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) tag: u64,
    /// Among equal tags.
    pub(super) rank: u64,
    pub(super) child: u32,
}

impl Turns {
    pub(super) fn enter(&mut self, child: u32, tag: u64) {
        self.entered += 1;
        self.heap.push(Reverse(Entry { tag, rank: self.entered | OLD, child }));
    }

    pub(super) fn enter_first(&mut self, child: u32) {
        self.entered += 1;
        self.heap.push(Reverse(Entry { tag: self.clock, rank: self.entered, child }));
    }

    pub(super) fn next(&mut self) -> Option<u32> {
        let Reverse(next) = self.heap.pop()?;
        self.clock = self.clock.max(next.tag);
        Some(next.child)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.heap.iter().map(|Reverse(entry)| entry)
    }

    /// Takes out the children that `keeps` does not, if there are more than `max`.
    pub(super) fn forget_idle(&mut self, max: usize, keeps: impl Fn(u32) -> bool) -> Vec<u32> {
        if self.heap.len() <= max {
            return Vec::new();
        }
        let children = self.entries().map(|entry| entry.child);
        let idle = children.filter(|child| !keeps(*child)).collect();
        self.heap.retain(|Reverse(entry)| keeps(entry.child));
        idle
    }
}
