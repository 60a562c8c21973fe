//! Reading a stored message: the head, then the body chunk by chunk, checked against the envelope.
//!
//! Promise:  the last piece comes only if all pieces add up; a missing, surplus or changed head or
//!           chunk is a fault, never a shorter message.
//! Bounds:   one piece in memory.

use std::ops::Deref;
use std::sync::Arc;

use crate::base::MessageId;
use crate::queue::fault::QueueFault;
use crate::queue::record::envelope::BodySum;
use crate::queue::record::envelope::Envelope;
use crate::queue::record::family::Family;
use crate::queue::record::head::decode_head;
use crate::queue::record::key;
use crate::queue::store::partition::Partition;
use crate::queue::store::records::Records;

/// Reads the pieces of one message in their order.
pub struct MessageReader<S> {
    store: S,
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

impl<S: Deref<Target: Records>> MessageReader<S> {
    pub fn new(store: S, id: MessageId, envelope: &Envelope<'_>) -> MessageReader<S> {
        MessageReader {
            store,
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
        if read.is_err() {
            self.next = Piece::None;
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

    /// The whole message, head and body.
    pub fn read_whole(mut self) -> Result<Arc<[u8]>, QueueFault> {
        let mut bytes = Vec::with_capacity(self.head_bytes as usize + self.sum.bytes as usize);
        while let Some(piece) = self.next_piece(|piece| bytes.extend_from_slice(piece)) {
            piece?;
        }
        Ok(bytes.into())
    }

    fn read_head<T>(&mut self, take: impl FnOnce(&[u8]) -> T) -> Result<T, QueueFault> {
        self.next = after(0, &self.sum, self.bytes, &self.crc)?;
        let head_bytes = self.head_bytes as usize;
        let found = self.store.get(Family::Head, &key::of_id(self.id), |record| {
            let head = decode_head(record).map_err(QueueFault::Record)?;
            match head.len() == head_bytes {
                true => Ok(take(head)),
                false => Err(QueueFault::Head("its length is not that of the envelope")),
            }
        });
        found?.unwrap_or(Err(QueueFault::Head("it is missing")))
    }

    fn read_chunk<T>(
        &mut self,
        chunk: u32,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, QueueFault> {
        let MessageReader { id, sum, .. } = *self;
        let (bytes_before, mut crc) = (self.bytes, self.crc.clone());
        let found = self.store.get(Family::Body, &key::of_body(id, chunk), |piece| {
            crc.update(piece);
            let bytes = bytes_before + piece.len() as u64;
            let next = after(chunk + 1, &sum, bytes, &crc)?;
            Ok((take(piece), bytes, next))
        });
        let found = found?.unwrap_or(Err(QueueFault::Body { chunk, why: "it is missing" }));
        let (taken, bytes, next) = found?;
        (self.bytes, self.crc, self.next) = (bytes, crc, next);
        Ok(taken)
    }
}

/// The piece that follows the chunks before that one, of which so many bytes were read. The sum is
/// checked before the last piece is handed out.
fn after(
    chunk: u32,
    sum: &BodySum,
    bytes: u64,
    crc: &crc32fast::Hasher,
) -> Result<Piece, QueueFault> {
    if chunk < sum.chunks {
        return Ok(Piece::Chunk(chunk));
    }
    let why = if bytes != sum.bytes {
        "its length is not the one received"
    } else if crc.clone().finalize() != sum.crc32 {
        "its bytes are not those received"
    } else {
        return Ok(Piece::None);
    };
    Err(QueueFault::Body { chunk, why })
}
