//! Reading a stored body: chunk by chunk, checked against what the envelope promised.
//!
//! Promise:  the last piece comes only if all of them add up; a missing, surplus or changed chunk
//!           is a fault, never a shorter body.
//! Bounds:   one chunk in memory.

use std::sync::Arc;

use crate::base::MessageId;
use crate::queue::fault::QueueFault;
use crate::queue::key;
use crate::queue::partition::Partition;
use crate::queue::schema::BodySum;

/// Reads the chunks of one body in their order.
pub struct BodyReader<P> {
    partition: P,
    id: MessageId,
    sum: BodySum,
    next: u32,
    bytes: u64,
    crc: crc32fast::Hasher,
}

/// A reader that may travel to another thread.
pub type SharedBodyReader = BodyReader<Arc<Partition>>;

impl<P: AsRef<Partition>> BodyReader<P> {
    /// Reads the body of `id`, of which the envelope says `sum`.
    pub fn new(partition: P, id: MessageId, sum: BodySum) -> BodyReader<P> {
        BodyReader { partition, id, sum, next: 0, bytes: 0, crc: crc32fast::Hasher::new() }
    }

    /// Hands the next chunk to `take`. `None` after the last one, and after a fault.
    pub fn next_chunk<T>(
        &mut self,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Option<Result<T, QueueFault>> {
        if self.next == self.sum.chunks {
            return None;
        }
        let read = self.read(take);
        if let Err(fault) = &read {
            self.next = self.sum.chunks;
            if let QueueFault::Store(why) = fault {
                self.partition.as_ref().note_unreadable(why);
            }
        }
        Some(read)
    }

    /// Reads to the end, for the sake of the check alone.
    pub fn check(mut self) -> Result<(), QueueFault> {
        if self.sum.chunks == 0 {
            return self.check_sum();
        }
        while let Some(read) = self.next_chunk(|_| ()) {
            read?;
        }
        Ok(())
    }

    fn read<T>(&mut self, take: impl FnOnce(&[u8]) -> T) -> Result<T, QueueFault> {
        let chunk = self.next;
        let partition = self.partition.as_ref();
        let family = partition.families().body;
        let found = partition.db().get_pinned_cf(family, key::of_body(self.id, chunk))?;
        let bytes = found.ok_or(QueueFault::Body { chunk, why: "it is missing" })?;
        self.crc.update(&bytes);
        self.bytes += bytes.len() as u64;
        self.next += 1;
        if self.next == self.sum.chunks {
            self.check_sum()?;
        }
        Ok(take(&bytes))
    }

    fn check_sum(&self) -> Result<(), QueueFault> {
        let why = if self.bytes != self.sum.bytes {
            "its length is not the one received"
        } else if self.crc.clone().finalize() != self.sum.crc32 {
            "its bytes are not those received"
        } else {
            return Ok(());
        };
        Err(QueueFault::Body { chunk: self.next, why })
    }
}
