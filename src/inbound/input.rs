//! What a peer has sent and nobody has read yet.
//!
//! Owner:    one session. Holds a chunk only while there is something in it.
//! Promise:  bytes are seen once and in order; `drop_all` is what STARTTLS asks for.

use crate::base::Chunk;
use crate::base::ChunkPool;

#[derive(Debug, Default)]
pub struct Input {
    chunk: Option<Chunk>,
    /// Bytes of the chunk that have been read.
    at: usize,
}

impl Input {
    pub fn pending(&self) -> &[u8] {
        self.chunk.as_ref().map_or(&[], |chunk| &chunk.bytes()[self.at..])
    }

    pub fn is_empty(&self) -> bool {
        self.pending().is_empty()
    }

    pub fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.pending().len(), "only what came can be consumed");
        self.at += bytes;
    }

    /// The chunk to read more into, with what is pending at its front; `None` when nothing is
    /// pending, so that the wait holds no memory.
    pub fn take_for_more(&mut self, pool: &ChunkPool) -> Option<Chunk> {
        let mut chunk = self.chunk.take()?;
        let at = std::mem::take(&mut self.at);
        if at == chunk.len() {
            pool.give(chunk);
            return None;
        }
        let pending = chunk.len() - at;
        chunk.bytes_mut().copy_within(at.., 0);
        chunk.truncate(pending);
        Some(chunk)
    }

    /// Puts back what `take_for_more` gave, with more in it.
    pub fn put(&mut self, chunk: Chunk) {
        assert!(self.chunk.is_none(), "one chunk at a time");
        self.chunk = Some(chunk);
        self.at = 0;
    }

    /// Forgets everything pending.
    pub fn drop_all(&mut self, pool: &ChunkPool) {
        self.at = 0;
        if let Some(chunk) = self.chunk.take() {
            pool.give(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_bytes_move_to_the_front_before_more_is_read() {
        let pool = ChunkPool::new(1);
        let mut input = Input::default();
        assert!(input.take_for_more(&pool).is_none(), "an idle session holds no chunk");
        let mut chunk = pool.try_take().expect("one is free");
        chunk.fill_from(b"NOOP\r\nQU");
        input.put(chunk);
        input.consume(6);
        assert_eq!(input.pending(), b"QU");
        let mut chunk = input.take_for_more(&pool).expect("something is pending");
        chunk.fill_from(b"IT\r\n");
        input.put(chunk);
        assert_eq!(input.pending(), b"QUIT\r\n");
        input.consume(6);
        assert!(input.take_for_more(&pool).is_none());
        assert_eq!(pool.chunks_out(), 0);
    }
}
