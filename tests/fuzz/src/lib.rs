//! Properties that hold for any input, one function per fuzz target.
//!
//! The fuzzers in `fuzz_targets` call them (`cargo +nightly fuzz run --fuzz-dir tests/fuzz
//! session`). `tests/fuzz_corpus.rs` calls them with the corpus and mutations of it on the stable
//! compiler.

mod bodies;
mod values;
mod wire_session;

pub use bodies::dot;
pub use bodies::header;
pub use values::address;
pub use values::proxy;
pub use values::stored;
pub use wire_session::session;

/// A random number generator (xorshift), seeded by a byte of the input.
pub struct Choices(u64);

impl Choices {
    pub fn new(seed: u64) -> Choices {
        Choices(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() >> 16) as usize % bound.max(1)
    }
}

/// Splits bytes by the seed: 0 gives one piece, `L` one per line like a client that waits for each
/// reply, other seeds pieces of random size.
pub struct Pieces<'d> {
    rest: &'d [u8],
    seed: u8,
    choices: Choices,
}

impl<'d> Pieces<'d> {
    pub fn new(bytes: &'d [u8], seed: u8) -> Pieces<'d> {
        Pieces { rest: bytes, seed, choices: Choices::new(seed.into()) }
    }

    fn next_len(&mut self) -> usize {
        match self.seed {
            0 => self.rest.len(),
            b'L' => self.rest.iter().position(|b| *b == b'\n').map_or(self.rest.len(), |at| at + 1),
            seed => self.rest.len().min(1 + self.choices.below(usize::from(seed % 64) + 1)),
        }
    }
}

impl<'d> Iterator for Pieces<'d> {
    type Item = &'d [u8];

    fn next(&mut self) -> Option<&'d [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let (piece, rest) = self.rest.split_at(self.next_len());
        self.rest = rest;
        Some(piece)
    }
}
