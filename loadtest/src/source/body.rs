//! Bodies of a given length, as slices of one block of text.

use ringpost::net::transfer::BodySource;
use ringpost::net::transfer::BodyUnreadable;

use crate::ledger::sum::BodySum;

/// The lines of smtp-source.
pub const LINE: &[u8] =
    b"XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX\r\n";
/// Lines of the block of which bodies consist; one block fits one write.
const BLOCK_LINES: usize = 800;
const BLOCK: usize = BLOCK_LINES * LINE.len();
/// The last line of a body ends with a number and CRLF of this length. Shorter bodies have no number.
pub const TAIL: usize = 22;
pub const TAIL_DIGITS: usize = TAIL - 2;

/// A block of lines, rotated so that the tail of a line comes first.
pub fn block() -> Box<[u8]> {
    let mut block = LINE.repeat(BLOCK_LINES);
    block.rotate_right(TAIL);
    block.into()
}

/// A body: slices of the pattern's block or text, and a tail that the draft holds.
#[derive(Clone, Copy, Debug)]
pub struct Body<'p> {
    first: [&'p [u8]; 2],
    block: &'p [u8],
    blocks: u64,
    /// Length of the tail.
    tail: usize,
}

impl<'p> Body<'p> {
    /// A text of its own.
    pub fn of_text(text: &'p [u8]) -> Body<'p> {
        Body { first: [b"", text], block: b"", blocks: 0, tail: 0 }
    }

    /// Lines of this many bytes: the end of a block, whole blocks, and the tail.
    pub fn of_lines(block: &'p [u8], bytes: u64) -> Body<'p> {
        let Some(bytes) = bytes.checked_sub(TAIL as u64) else {
            // LF must not come without its CR.
            let all = if bytes == 1 { &LINE[..1] } else { &LINE[LINE.len() - bytes as usize..] };
            return Body { first: [b"", all], block, blocks: 0, tail: 0 };
        };
        let end = &block[BLOCK - (bytes % BLOCK as u64) as usize..];
        // As above: the first line gets one more letter instead.
        let first: [&[u8]; 2] = match end {
            [b'\n', rest @ ..] => [&LINE[..1], rest],
            _ => [b"", end],
        };
        Body { first, block, blocks: bytes / BLOCK as u64, tail: TAIL }
    }

    pub fn tail(&self) -> usize {
        self.tail
    }

    /// Its length without the tail.
    pub fn bytes(&self) -> u64 {
        let first: usize = self.first.iter().map(|piece| piece.len()).sum();
        first as u64 + self.block.len() as u64 * self.blocks
    }

    /// The message: header, body, and the tail that is at the end of `head`.
    pub fn pieces(self, head: &'p [u8]) -> Pieces<'p> {
        let (head, tail) = head.split_at(head.len() - self.tail);
        Pieces { first: [head, self.first[0], self.first[1]], at: 0, rest: self, tail: Some(tail) }
    }

    /// The checksum. `known` caches the one of the last body without its tail.
    pub fn sum(self, tail: &[u8], known: &mut Option<(u64, BodySum)>) -> u32 {
        let bytes = self.bytes();
        if known.as_ref().is_none_or(|(length, _)| *length != bytes) {
            let mut sum = BodySum::default();
            // Bodies of one length are equal except for the tail.
            let own = Body { tail: 0, ..self };
            own.pieces(b"").for_each(|piece| sum.add(piece));
            *known = Some((bytes, sum));
        }
        let mut sum = known.as_ref().map(|(_, sum)| sum.clone()).unwrap_or_default();
        sum.add(tail);
        sum.end()
    }
}

/// The pieces of a message, without copies.
pub struct Pieces<'p> {
    first: [&'p [u8]; 3],
    at: usize,
    rest: Body<'p>,
    tail: Option<&'p [u8]>,
}

impl<'p> Iterator for Pieces<'p> {
    type Item = &'p [u8];

    fn next(&mut self) -> Option<&'p [u8]> {
        while self.at < self.first.len() {
            let piece = self.first[self.at];
            self.at += 1;
            if !piece.is_empty() {
                return Some(piece);
            }
        }
        let Some(blocks) = self.rest.blocks.checked_sub(1) else {
            return self.tail.take().filter(|tail| !tail.is_empty());
        };
        self.rest.blocks = blocks;
        Some(self.rest.block)
    }
}

impl<'p> BodySource for Pieces<'p> {
    type Piece = &'p [u8];

    async fn next(&mut self) -> Option<Result<&'p [u8], BodyUnreadable>> {
        Iterator::next(self).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_their_length_and_valid_lines() {
        let block = block();
        let big = BLOCK as u64;
        let around = |length: u64| length - 1..=length + 1;
        let lengths = (0..=200).chain(around(4096)).chain([100_001]).chain(around(big));
        for length in lengths.chain(around(3 * big + 80)).chain(around(big + 22)) {
            let parts = Body::of_lines(&block, length);
            let tail = &LINE[LINE.len() - parts.tail..];
            assert_eq!(parts.bytes() + parts.tail as u64, length);
            let body = parts.pieces(tail).collect::<Vec<_>>().concat();
            assert_eq!(body.len() as u64, length);
            let mut known = None;
            for _ in 0..2 {
                assert_eq!(parts.sum(tail, &mut known), BodySum::of(&body), "{length}");
            }
            if length == 1 {
                assert_eq!(body, b"X", "there is no room for a line end");
                continue;
            }
            assert!(length == 0 || body.ends_with(b"\r\n"), "{length}");
            let bare = |at: usize| {
                body[at] == b'\n' && (at == 0 || body[at - 1] != b'\r')
                    || body[at] == b'\r' && body.get(at + 1) != Some(&b'\n')
            };
            assert!(!(0..body.len()).any(bare), "{length}");
            assert!(body.split(|byte| *byte == b'\n').all(|line| line.len() <= 80), "{length}");
        }
    }
}
