//! Chunks: the memory of message bytes between the socket and the store.
//!
//! Owner:    a `ChunkPool` belongs to one shard. A `Chunk` has one owner at a time and may be sent
//!           to a commit thread and back.
//! Promise:  bytes are received into a chunk once, decoded in place, and stored from there.
//!           Returning a chunk to its pool makes it reusable; dropping it frees it. The pool's
//!           count is correct in both cases, also after a panic.
//! Bounds:   `chunks_max` per pool. Past it `try_take` returns `None`: a new body is refused with
//!           452, a body in progress waits until its deadline.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::base::limits::CHUNK_BYTES;
use crate::base::limits::CHUNKS_IDLE_MAX;

/// A fixed piece of memory, filled from the front.
#[derive(Debug)]
pub struct Chunk {
    memory: Box<[u8]>,
    filled: usize,
    /// Number of chunks of the pool in use; `None` for a chunk without a pool.
    out: Option<Arc<AtomicUsize>>,
}

impl Chunk {
    /// A chunk without a pool, for tests and tools.
    pub fn detached() -> Chunk {
        Chunk { memory: blank(), filled: 0, out: None }
    }

    /// The received bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[..self.filled]
    }

    /// The received bytes, to be decoded or masked in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.filled]
    }

    /// The free memory after the received bytes. After a write into it call `advance`.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.memory[self.filled..]
    }

    /// Counts the first `bytes` of `room` as received.
    pub fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.memory.len() - self.filled, "a chunk was filled past its end");
        self.filled += bytes;
    }

    /// Drops everything after the first `bytes`.
    pub fn truncate(&mut self, bytes: usize) {
        assert!(bytes <= self.filled, "truncation does not extend a chunk");
        self.filled = bytes;
    }

    /// Appends as many of `bytes` as fit, and returns the number.
    pub fn fill_from(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.memory.len() - self.filled);
        self.room()[..count].copy_from_slice(&bytes[..count]);
        self.advance(count);
        count
    }

    pub fn len(&self) -> usize {
        self.filled
    }

    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    pub fn is_full(&self) -> bool {
        self.filled == self.memory.len()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(out) = self.out.take() {
            out.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A range of a chunk. Owns the whole chunk.
#[derive(Debug)]
pub struct Slice {
    chunk: Chunk,
    range: Range<usize>,
}

impl Slice {
    pub fn new(chunk: Chunk, range: Range<usize>) -> Slice {
        assert!(range.start <= range.end && range.end <= chunk.len(), "a slice lies in its chunk");
        Slice { chunk, range }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.chunk.bytes()[self.range.clone()]
    }

    pub fn len(&self) -> usize {
        self.range.len()
    }

    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The chunk, to be returned to its pool.
    pub fn into_chunk(self) -> Chunk {
        self.chunk
    }
}

/// The chunks of one shard. Not `Send`, so it cannot leave its shard.
#[derive(Debug)]
pub struct ChunkPool {
    idle: RefCell<Vec<Box<[u8]>>>,
    out: Arc<AtomicUsize>,
    chunks_max: usize,
}

impl ChunkPool {
    pub fn new(chunks_max: usize) -> ChunkPool {
        assert!(chunks_max > 0, "a pool has at least one chunk");
        ChunkPool { idle: RefCell::new(Vec::new()), out: Arc::new(AtomicUsize::new(0)), chunks_max }
    }

    /// An empty chunk, or `None` if all are in use.
    pub fn try_take(&self) -> Option<Chunk> {
        if self.chunks_out() >= self.chunks_max {
            return None;
        }
        let memory = self.idle.borrow_mut().pop().unwrap_or_else(blank);
        self.out.fetch_add(1, Ordering::Relaxed);
        Some(Chunk { memory, filled: 0, out: Some(Arc::clone(&self.out)) })
    }

    /// Returns a chunk to the pool, which reuses the last returned chunk first.
    pub fn give(&self, mut chunk: Chunk) {
        let memory = std::mem::take(&mut chunk.memory);
        drop(chunk);
        let mut idle = self.idle.borrow_mut();
        if idle.len() < CHUNKS_IDLE_MAX {
            idle.push(memory);
        }
    }

    pub fn chunks_out(&self) -> usize {
        self.out.load(Ordering::Relaxed)
    }

    pub fn chunks_max(&self) -> usize {
        self.chunks_max
    }
}

/// Zeroed by the allocator, so that a page uses memory only after it was written to.
fn blank() -> Box<[u8]> {
    vec![0; CHUNK_BYTES].into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_counts_returned_and_dropped_chunks() {
        let pool = ChunkPool::new(2);
        let first = pool.try_take().expect("the first chunk is free");
        let second = pool.try_take().expect("the second chunk is free");
        assert!(pool.try_take().is_none(), "both chunks are in use");
        pool.give(first);
        drop(second);
        assert_eq!(pool.chunks_out(), 0);
        assert!(pool.try_take().is_some());
    }

    #[test]
    fn a_chunk_is_filled_from_the_front() {
        let mut chunk = Chunk::detached();
        assert_eq!(chunk.fill_from(b"hello"), 5);
        chunk.truncate(4);
        assert_eq!(chunk.fill_from(&vec![b'x'; CHUNK_BYTES]), CHUNK_BYTES - 4);
        assert!(chunk.is_full());
        assert_eq!(&chunk.bytes()[..6], b"hellxx");
        assert_eq!(Slice::new(chunk, 1..4).bytes(), b"ell");
    }
}
