//! Reading a stored message: the head, then the body chunk by chunk, checked against the envelope.
//!
//! Promise:  the last piece comes only if all pieces add up; a missing, surplus or changed head or
//!           chunk is a fault, never a shorter message.
//! Bounds:   one piece in memory.

use std::sync::Arc;

use crate::base::MessageId;
use crate::queue::fault::QueueFault;
use crate::queue::record::envelope::BodySum;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::head::decode_head;
use crate::queue::record::key;
use crate::queue::store::partition::Partition;

/// Reads the pieces of one message in their order.
pub struct MessageReader<P> {
    partition: P,
    id: MessageId,
    head_bytes: u32,
    sum: BodySum,
    next: Piece,
    bytes: u64,
    crc: crc32fast::Hasher,
}

/// What is read next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Piece {
    Head,
    Chunk(u32),
    None,
}

/// A reader that may move to another thread.
pub type SharedMessageReader = MessageReader<Arc<Partition>>;

impl<P: AsRef<Partition>> MessageReader<P> {
    pub fn new(partition: P, id: MessageId, envelope: &Envelope<'_>) -> MessageReader<P> {
        MessageReader {
            partition,
            id,
            head_bytes: envelope.head_bytes,
            sum: envelope.body,
            next: Piece::Head,
            bytes: 0,
            crc: crc32fast::Hasher::new(),
        }
    }

    /// Hands the next piece to `take`; the head may be empty. `None` after the last piece, and
    /// after a fault.
    pub fn next_piece<T>(
        &mut self,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Option<Result<T, QueueFault>> {
        let read = match self.next {
            Piece::Head => self.read_head(take),
            Piece::Chunk(chunk) => self.read_chunk(chunk, take),
            Piece::None => return None,
        };
        if let Err(fault) = &read {
            self.next = Piece::None;
            if let QueueFault::Store(why) = fault {
                self.partition.as_ref().note_unreadable(why);
            }
        }
        Some(read)
    }

    /// Reads to the end, for the sake of the check alone.
    pub fn check(mut self) -> Result<(), QueueFault> {
        while let Some(read) = self.next_piece(|_| ()) {
            read?;
        }
        Ok(())
    }

    fn read_head<T>(&mut self, take: impl FnOnce(&[u8]) -> T) -> Result<T, QueueFault> {
        self.next = self.after(0)?;
        let partition = self.partition.as_ref();
        let found = partition.db().get_pinned_cf(partition.families().head, key::of_id(self.id))?;
        let record = found.ok_or(QueueFault::Head("it is missing"))?;
        let head = decode_head(&record).map_err(QueueFault::Record)?;
        if head.len() != self.head_bytes as usize {
            return Err(QueueFault::Head("its length is not that of the envelope"));
        }
        Ok(take(head))
    }

    fn read_chunk<T>(
        &mut self,
        chunk: u32,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, QueueFault> {
        let partition = self.partition.as_ref();
        let family = partition.families().body;
        let found = partition.db().get_pinned_cf(family, key::of_body(self.id, chunk))?;
        let bytes = found.ok_or(QueueFault::Body { chunk, why: "it is missing" })?;
        self.crc.update(&bytes);
        self.bytes += bytes.len() as u64;
        let next = self.after(chunk + 1)?;
        let taken = take(&bytes);
        drop(bytes);
        self.next = next;
        Ok(taken)
    }

    /// What follows the chunks before that one. The sum is checked before the last is handed out.
    fn after(&self, chunk: u32) -> Result<Piece, QueueFault> {
        if chunk < self.sum.chunks {
            return Ok(Piece::Chunk(chunk));
        }
        let why = if self.bytes != self.sum.bytes {
            "its length is not the one received"
        } else if self.crc.clone().finalize() != self.sum.crc32 {
            "its bytes are not those received"
        } else {
            return Ok(Piece::None);
        };
        Err(QueueFault::Body { chunk, why })
    }
}
