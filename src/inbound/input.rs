//! Input that was received and is not consumed yet.
//!
//! Owner:    one session.
//! Promise:  bytes are seen once and in order; STARTTLS drops them with `drop_all`. A session that
//!           waits for input holds no chunk: an unfinished line is kept in a small buffer of its own,
//!           so that a thousand half-sent lines cannot take the chunks that bodies need.
//! Bounds:   `FRONT_BYTES_MAX` of an unfinished line or header, and one chunk while it holds unread
//!           bytes.

use crate::base::Chunk;
use crate::base::ChunkPool;
use crate::base::limits::COMMAND_BYTES_MAX;

/// Room for the longest command line, and for the longest PROXY header.
const FRONT_BYTES_MAX: usize = 2 * COMMAND_BYTES_MAX;

#[derive(Debug, Default)]
pub struct Input {
    /// The start of an unfinished line; empty while input arrives in whole lines.
    front: Vec<u8>,
    front_at: usize,
    chunk: Option<Chunk>,
    /// Bytes of the chunk that have been read.
    at: usize,
}

impl Input {
    /// Bytes that can be read now. `extend_front` may add more.
    pub fn pending(&self) -> &[u8] {
        match &self.front[self.front_at..] {
            [] => self.behind_front(),
            front => front,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.pending().is_empty()
    }

    pub fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.pending().len(), "only pending bytes are consumed");
        if self.front_at < self.front.len() {
            self.front_at += bytes;
            if self.front_at == self.front.len() {
                self.front = Vec::new();
                self.front_at = 0;
            }
        } else {
            self.at += bytes;
        }
    }

    /// Moves more bytes of the chunk into the front. `false`: there were none.
    pub fn extend_front(&mut self) -> bool {
        if self.front_at == self.front.len() {
            return false;
        }
        self.front.drain(..self.front_at);
        self.front_at = 0;
        let room = FRONT_BYTES_MAX.saturating_sub(self.front.len());
        let fresh = self.behind_front();
        let count = fresh.len().min(room);
        if let Some(chunk) = &self.chunk {
            self.front.extend_from_slice(&chunk.bytes()[self.at..self.at + count]);
        }
        self.at += count;
        count > 0
    }

    /// Returns the chunk to the pool before a wait; the start of a line stays in the front.
    pub fn release(&mut self, pool: &ChunkPool) {
        let Some(chunk) = self.chunk.take() else { return };
        let rest = &chunk.bytes()[self.at..];
        assert!(rest.len() + self.front.len() <= FRONT_BYTES_MAX, "a line has been judged by now");
        self.front.extend_from_slice(rest);
        self.at = 0;
        pool.give(chunk);
    }

    /// Adds a chunk that was read. Only after `release`.
    pub fn put(&mut self, chunk: Chunk) {
        assert!(self.chunk.is_none(), "one chunk at a time");
        self.chunk = Some(chunk);
        self.at = 0;
        self.extend_front();
    }

    /// Takes all pending input as one chunk. Input that does not fit is dropped: TLS refuses a first
    /// flight of more than a chunk.
    pub fn take_all(&mut self, pool: &ChunkPool) -> Option<Chunk> {
        if self.is_empty() {
            self.drop_all(pool);
            return None;
        }
        let mut all = pool.try_take()?;
        while !self.is_empty() {
            let count = all.fill_from(self.pending());
            if count == 0 {
                break;
            }
            self.consume(count);
        }
        self.drop_all(pool);
        Some(all)
    }

    /// Drops all pending input.
    pub fn drop_all(&mut self, pool: &ChunkPool) {
        self.front = Vec::new();
        self.front_at = 0;
        self.at = 0;
        if let Some(chunk) = self.chunk.take() {
            pool.give(chunk);
        }
    }

    fn behind_front(&self) -> &[u8] {
        self.chunk.as_ref().map_or(&[], |chunk| &chunk.bytes()[self.at..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk_of(pool: &ChunkPool, bytes: &[u8]) -> Chunk {
        let mut chunk = pool.try_take().expect("one is free");
        assert_eq!(chunk.fill_from(bytes), bytes.len());
        chunk
    }

    #[test]
    fn half_a_line_waits_without_a_chunk() {
        let pool = ChunkPool::new(1);
        let mut input = Input::default();
        input.release(&pool);
        input.put(chunk_of(&pool, b"NOOP\r\nQU"));
        input.consume(6);
        assert_eq!(input.pending(), b"QU");
        input.release(&pool);
        assert_eq!(pool.chunks_out(), 0, "a session that waits holds no chunk");
        assert_eq!(input.pending(), b"QU");
        input.put(chunk_of(&pool, b"IT\r\n"));
        assert_eq!(input.pending(), b"QUIT\r\n");
        input.consume(6);
        assert!(input.is_empty());
        input.release(&pool);
        assert_eq!(pool.chunks_out(), 0);
    }

    #[test]
    fn every_byte_comes_once_and_in_order_at_any_cut() {
        let sent: Vec<u8> = (0..20_000u32).flat_map(|n| format!("{n}\r\n").into_bytes()).collect();
        for step in [1, 2, 7, 4_000, 30_000] {
            let pool = ChunkPool::new(1);
            let mut input = Input::default();
            let mut read = Vec::new();
            for piece in sent.chunks(step) {
                input.release(&pool);
                input.put(chunk_of(&pool, piece));
                loop {
                    let Some(end) = input.pending().iter().position(|byte| *byte == b'\n') else {
                        if input.extend_front() {
                            continue;
                        }
                        break;
                    };
                    read.extend_from_slice(&input.pending()[..=end]);
                    input.consume(end + 1);
                }
            }
            assert!(read == sent, "in pieces of {step}");
        }
    }
}
