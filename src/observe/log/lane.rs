//! A lane: the bounded way of log lines from one thread to the log thread.
//!
//! Owner:    one `LaneEntry` (the writing thread) and one `LaneExit` (the log thread).
//! Promise:  `push` never waits, allocates or makes a syscall. Lines come out whole and in order.
//! Bounds:   a fixed ring of words. A line that does not fit is dropped and counted.
//!
//! A channel of owned lines was the other candidate: it allocates on one thread and frees on
//! another, once per line, and wakes the receiver for each. Bytes in a ring of relaxed words cost
//! a copy, and the log thread takes hundreds of lines at a time.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

const WORD_BYTES: usize = size_of::<u64>();

/// A position on a cache line of its own, so that writer and reader do not slow each other.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Position(AtomicUsize);

/// A length word and the line's bytes, then the next; positions only grow.
#[derive(Debug)]
struct Lane {
    words: Box<[AtomicU64]>,
    written: Position,
    taken: Position,
    dropped: AtomicU64,
}

/// The writing end.
#[derive(Debug)]
pub struct LaneEntry(Arc<Lane>);

/// The reading end.
#[derive(Debug)]
pub struct LaneExit(Arc<Lane>);

/// A lane of `bytes` (a power of two).
pub fn lane(bytes: usize) -> (LaneEntry, LaneExit) {
    assert!(bytes.is_power_of_two() && bytes > WORD_BYTES, "positions are masked");
    let words = (0..bytes / WORD_BYTES).map(|_| AtomicU64::new(0)).collect();
    let lane = Arc::new(Lane {
        words,
        written: Position::default(),
        taken: Position::default(),
        dropped: AtomicU64::new(0),
    });
    (LaneEntry(Arc::clone(&lane)), LaneExit(lane))
}

impl Lane {
    fn word(&self, position: usize) -> &AtomicU64 {
        &self.words[position & (self.words.len() - 1)]
    }
}

impl LaneEntry {
    /// Puts a line in, or drops and counts it.
    pub fn push(&mut self, line: &[u8]) -> bool {
        let lane = &*self.0;
        let written = lane.written.0.load(Ordering::Relaxed);
        let used = written - lane.taken.0.load(Ordering::Acquire);
        let needed = 1 + line.len().div_ceil(WORD_BYTES);
        if needed > lane.words.len() - used {
            let dropped = lane.dropped.load(Ordering::Relaxed);
            lane.dropped.store(dropped + 1, Ordering::Relaxed);
            return false;
        }
        lane.word(written).store(line.len() as u64, Ordering::Relaxed);
        for (place, part) in line.chunks(WORD_BYTES).enumerate() {
            lane.word(written + 1 + place).store(word_of(part), Ordering::Relaxed);
        }
        lane.written.0.store(written + needed, Ordering::Release);
        true
    }
}

impl LaneExit {
    /// Moves lines to the end of `batch`, until the lane is empty or about `bytes_max` were
    /// moved. `true` when the lane is empty.
    pub fn take_into(&mut self, batch: &mut Vec<u8>, bytes_max: usize) -> bool {
        let lane = &*self.0;
        let written = lane.written.0.load(Ordering::Acquire);
        let mut taken = lane.taken.0.load(Ordering::Relaxed);
        let end = batch.len() + bytes_max;
        while taken < written && batch.len() < end {
            let line_bytes = lane.word(taken).load(Ordering::Relaxed) as usize;
            let words = line_bytes.div_ceil(WORD_BYTES);
            assert!(taken + 1 + words <= written, "a line in a lane is whole");
            let line_end = batch.len() + line_bytes;
            for place in 1..=words {
                let word = lane.word(taken + place).load(Ordering::Relaxed);
                batch.extend_from_slice(&word.to_ne_bytes());
            }
            batch.truncate(line_end);
            taken += 1 + words;
        }
        lane.taken.0.store(taken, Ordering::Release);
        taken == written
    }

    pub fn is_empty(&self) -> bool {
        self.0.written.0.load(Ordering::Acquire) == self.0.taken.0.load(Ordering::Relaxed)
    }

    /// Lines that did not fit, ever.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Whether the writing thread has ended and everything it wrote was taken.
    pub fn is_finished(&mut self) -> bool {
        Arc::get_mut(&mut self.0).is_some() && self.is_empty()
    }
}

fn word_of(part: &[u8]) -> u64 {
    match part.try_into() {
        Ok(whole) => u64::from_ne_bytes(whole),
        Err(_) => {
            let mut padded = [0; WORD_BYTES];
            padded[..part.len()].copy_from_slice(part);
            u64::from_ne_bytes(padded)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_and_in_order_while_both_ends_run() {
        const LINES: usize = 20_000;
        let (mut entry, mut exit) = lane(1024);
        let writer = std::thread::spawn(move || {
            for number in 0..LINES {
                let line = format!("{number}{}\n", ".".repeat(number % 100));
                while !entry.push(line.as_bytes()) {
                    std::thread::yield_now();
                }
            }
        });
        let mut batch = Vec::new();
        while !exit.is_finished() {
            if exit.take_into(&mut batch, 300) {
                std::thread::yield_now();
            }
        }
        writer.join().expect("the writer ended");
        let text = String::from_utf8(batch).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), LINES);
        for (number, line) in lines.iter().enumerate() {
            assert_eq!(*line, format!("{number}{}", ".".repeat(number % 100)));
        }
    }

    #[test]
    fn a_full_lane_drops_and_counts() {
        let (mut entry, mut exit) = lane(64);
        assert!(entry.push(&[b'a'; 24]), "4 of 8 words");
        assert!(!entry.push(&[b'b'; 32]), "5 more do not fit");
        assert!(entry.push(&[b'c'; 24]), "4 more do");
        assert!(!entry.push(b""), "not even an empty line");
        assert_eq!(exit.dropped(), 2);
        let mut batch = Vec::new();
        assert!(exit.take_into(&mut batch, 1000));
        assert_eq!(batch, [[b'a'; 24], [b'c'; 24]].concat());
        assert!(entry.push(&[b'd'; 56]) && !entry.push(&[b'd'; 64]), "the size of the lane");
        assert!(!exit.is_finished());
        drop(entry);
        assert!(!exit.is_finished(), "a line is left");
        assert!(exit.take_into(&mut batch, 1000));
        assert!(exit.is_finished());
    }
}
