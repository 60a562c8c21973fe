//! The messages that a source sent, and their fates.

use std::collections::BTreeMap;
use std::io;
use std::io::BufRead;
use std::io::Write;

const HEAD: &str = "ringpost-load sent 1";

/// The fate of a message as the source knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// The server has not received its end.
    NotSent,
    /// Accepted for all recipients.
    Accepted,
    /// Refused for at least one recipient.
    Refused,
    /// The connection was lost before the reply.
    Unknown,
}

impl Fate {
    const ALL: [Fate; 4] = [Fate::NotSent, Fate::Accepted, Fate::Refused, Fate::Unknown];
    const NAMES: [&str; 4] = ["not-sent", "accepted", "refused", "unknown"];

    /// By its number; other numbers mean not sent.
    pub fn of(number: u8) -> Fate {
        Fate::ALL.get(usize::from(number)).copied().unwrap_or(Fate::NotSent)
    }
}

/// The messages of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// The run in the header of its messages.
    pub run: String,
    pub recipients_per_message: u64,
    /// The `Fate` of each number.
    pub fates: Vec<u8>,
    /// Messages accepted for some recipients only, and for how many.
    pub partly: BTreeMap<u64, u64>,
}

impl Sent {
    pub fn fate(&self, number: u64) -> Fate {
        let fate = usize::try_from(number).ok().and_then(|number| self.fates.get(number));
        fate.map_or(Fate::NotSent, |fate| Fate::of(*fate))
    }

    /// The number of recipients for which a message was accepted.
    pub fn accepted_of(&self, number: u64, fate: Fate) -> u64 {
        match fate {
            Fate::Accepted => self.recipients_per_message,
            _ => {
                self.partly.get(&number).map_or(0, |count| *count.min(&self.recipients_per_message))
            }
        }
    }

    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{HEAD}\nrun {}", self.run)?;
        writeln!(out, "recipients {}", self.recipients_per_message)?;
        for same in self.fates.chunk_by(|one, next| one == next) {
            writeln!(out, "{} {}", same.len(), Fate::NAMES[Fate::of(same[0]) as usize])?;
        }
        for (number, count) in &self.partly {
            writeln!(out, "partly {number} {count}")?;
        }
        out.flush()
    }

    pub fn read(input: impl BufRead) -> Result<Sent, String> {
        let mut sent = Sent { recipients_per_message: 1, ..Sent::default() };
        read_lines(input, HEAD, |words| {
            match *words {
                ["run", name] => sent.run = name.to_owned(),
                ["recipients", count] => sent.recipients_per_message = count.parse().ok()?,
                ["partly", number, count] => {
                    sent.partly.insert(number.parse().ok()?, count.parse().ok()?);
                }
                [count, fate] => {
                    let fate = Fate::NAMES.iter().position(|name| *name == fate)?;
                    let end = sent.fates.len().checked_add(count.parse().ok()?)?;
                    let fits = end <= FATES_MAX;
                    fits.then(|| sent.fates.resize(end, fate as u8))?;
                }
                _ => return None,
            }
            Some(())
        })?;
        Ok(sent)
    }
}

/// Maximum messages of a file; each takes one byte of memory.
const FATES_MAX: usize = 1 << 32;

/// Passes the words of each line after the head to `take`; `None` from it is an error.
pub fn read_lines(
    input: impl BufRead,
    head: &str,
    mut take: impl FnMut(&[&str]) -> Option<()>,
) -> Result<(), String> {
    let mut lines = input.lines();
    let first = lines.next().transpose().map_err(|cause| cause.to_string())?;
    if first.as_deref() != Some(head) {
        return Err(format!("line 1: expected `{head}`"));
    }
    for (place, line) in lines.enumerate() {
        let line = line.map_err(|cause| cause.to_string())?;
        let words: Vec<&str> = line.split(' ').collect();
        take(&words).ok_or_else(|| format!("line {}: `{line}` is not an entry", place + 2))?;
    }
    Ok(())
}
