//! What became of each message of a run, a byte each.
//!
//! Owner:    all sessions write, each the messages it has taken.
//! Bounds:   `MESSAGES_MAX`, in chunks that are made when they are first written to.
//!
//! As text (`--sent FILE`): the run, and from message 0 on how many in a row have the same fate:
//!
//! ```text
//! ringpost-load sent 1
//! run 19ab3c.4d2
//! recipients 1
//! 8000 accepted
//! 1 refused
//! 1999 accepted
//! ```

use std::io;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;

use crate::source::schedule::MESSAGES_MAX;

const CHUNK: u64 = 1 << 16;
const HEAD: &str = "ringpost-load sent 1";

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// The server has not seen the end of it.
    NotSent = 0,
    /// For all its recipients.
    Accepted = 1,
    /// For one of its recipients at least.
    Refused = 2,
    /// The connection was lost before the answer.
    Unknown = 3,
}

/// By their numbers.
const NAMES: [&str; 4] = ["not-sent", "accepted", "refused", "unknown"];

/// The fates of a run that goes on.
pub struct Fates(Box<[OnceLock<Box<[AtomicU8]>>]>);

impl Default for Fates {
    fn default() -> Fates {
        Fates((0..MESSAGES_MAX / CHUNK).map(|_| OnceLock::new()).collect())
    }
}

impl Fates {
    pub fn set(&self, number: u64, fate: Fate) {
        let chunk = self.0[(number / CHUNK) as usize]
            .get_or_init(|| (0..CHUNK).map(|_| AtomicU8::new(Fate::NotSent as u8)).collect());
        chunk[(number % CHUNK) as usize].store(fate as u8, Ordering::Relaxed);
    }

    /// Of the first so many messages.
    fn take(&self, messages: u64) -> Vec<u8> {
        let mut all = Vec::with_capacity(messages as usize);
        for chunk in &self.0[..messages.div_ceil(CHUNK) as usize] {
            match chunk.get() {
                Some(chunk) => all.extend(chunk.iter().map(|one| one.load(Ordering::Relaxed))),
                None => all.resize(all.len() + CHUNK as usize, Fate::NotSent as u8),
            }
        }
        all.truncate(messages as usize);
        all
    }
}

/// A run that is over, for whoever compares it with what has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// As in the `X-Ringpost-Load` header of its messages.
    pub run: String,
    pub recipients_per_message: u64,
    /// `Fate` of each message, by its number.
    pub fates: Vec<u8>,
}

impl Sent {
    pub fn new(run: &str, recipients_per_message: u64, fates: &Fates, messages: u64) -> Sent {
        Sent { run: run.to_owned(), recipients_per_message, fates: fates.take(messages) }
    }

    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{HEAD}\nrun {}", self.run)?;
        writeln!(out, "recipients {}", self.recipients_per_message)?;
        for same in self.fates.chunk_by(|one, next| one == next) {
            writeln!(out, "{} {}", same.len(), NAMES[usize::from(same[0])])?;
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_are_kept_and_told() {
        let fates = Fates::default();
        let far = 3 * CHUNK + 5;
        for number in 0..4 {
            fates.set(number, Fate::Accepted);
        }
        fates.set(2, Fate::Refused);
        fates.set(far, Fate::Unknown);
        let sent = Sent::new("1a.2b", 3, &fates, far + 2);
        assert_eq!((sent.fates.len() as u64, &sent.fates[..5]), (far + 2, &[1, 1, 2, 1, 0][..]));
        let mut text = Vec::new();
        sent.write(&mut text).expect("memory takes it");
        let expected = format!(
            "ringpost-load sent 1\nrun 1a.2b\nrecipients 3\n2 accepted\n1 refused\n1 accepted\n\
             {} not-sent\n1 unknown\n1 not-sent\n",
            far - 4
        );
        assert_eq!(String::from_utf8_lossy(&text), expected);
        assert!(Sent::new("x", 1, &fates, 0).fates.is_empty());
    }
}
