//! The ledger: which numbered messages came, to whom, how often and when; and what that is against
//! what was sent.
//!
//! Owner:    each shard of a sink fills a `Ledger` of its own; they are added up at the end.
//! Promise:  lost, duplicated and alien copies are counted exactly. A recipient is known by 64 bits
//!           of a hash of its address, so that two recipients of one message are mistaken for one
//!           with a chance of 1 in 10^19; recipients of different messages never are.
//! Bounds:   `bytes_max`. A message takes 24 bytes for its first recipient (numbers are dense, so
//!           that pages of `PAGE_ENTRIES` are filled) and about 80 for each more: a million messages
//!           to one recipient each are 24 MB for each shard. Full, or with more than `RUNS_MAX` runs:
//!           what comes is counted as `unrecorded`, and no balance is good that has any.
//! Files:    text, one line an entry. `sent`, which a source writes, has its run, the recipients of
//!           each message, and runs of equal fates (`1000 accepted`); `seen` has one line for each
//!           message and recipient.

use std::collections::HashMap;
use std::io;
use std::io::BufRead;
use std::io::Write;

/// Runs of one ledger: one is usual, and old mail out of a queue is a few more.
const RUNS_MAX: usize = 256;
/// Bytes of a run's name.
const RUN_BYTES_MAX: usize = 64;
const PAGE_ENTRIES: usize = 1024;
/// What an entry of `more` is reckoned as.
const MORE_BYTES: usize = 80;
/// What a sink's shard may keep unless it is told otherwise.
pub const LEDGER_BYTES_MAX: usize = 1 << 30;

const SENT_HEAD: &str = "ringpost-load sent 1";
const SEEN_HEAD: &str = "ringpost-load seen 1";

/// The header that names a message, without its value.
pub const HEADER: &[u8] = b"X-Ringpost-Load:";

/// What the header of a message says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id<'h> {
    pub run: &'h [u8],
    pub number: u64,
    /// UNIX time of its begin, where it is told.
    pub begun_us: Option<u64>,
}

impl<'h> Id<'h> {
    /// Reads `RUN-NUMBER` or `RUN-NUMBER-MICROS`.
    pub fn parse(value: &'h [u8]) -> Option<Id<'h>> {
        let mut parts = value.trim_ascii().split(|byte| *byte == b'-');
        let run = parts.next().filter(|run| (1..=RUN_BYTES_MAX).contains(&run.len()))?;
        let number = decimal(parts.next()?)?;
        let begun_us = parts.next().map(decimal);
        let is_whole = parts.next().is_none() && begun_us != Some(None);
        let is_word = run.iter().all(|byte| byte.is_ascii_graphic());
        (is_whole && is_word).then_some(Id { run, number, begun_us: begun_us.flatten() })
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        sum.checked_mul(10)?.checked_add(digit.into())
    })
}

/// A run, within one ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunIndex(u32);

/// One message to one recipient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    recipient: u64,
    /// UNIX time.
    first_us: u64,
    /// None means that nothing of this number came.
    copies: u32,
}

impl Entry {
    fn add(&mut self, copies: u32, first_us: u64) {
        self.first_us = if self.copies == 0 { first_us } else { self.first_us.min(first_us) };
        self.copies = self.copies.saturating_add(copies);
    }
}

#[derive(Debug, Default)]
struct Run {
    name: Vec<u8>,
    pages: HashMap<u64, Box<[Entry; PAGE_ENTRIES]>>,
    /// Recipients behind the first of a message.
    more: HashMap<(u64, u64), Entry>,
}

/// All that came.
#[derive(Debug)]
pub struct Ledger {
    runs: Vec<Run>,
    bytes: usize,
    bytes_max: usize,
    /// Copies without an id.
    pub nameless: u64,
    /// Copies for which there was no room.
    pub unrecorded: u64,
    /// Copies with an id, also those without room.
    pub copies: u64,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger::new(LEDGER_BYTES_MAX)
    }
}

impl Ledger {
    pub fn new(bytes_max: usize) -> Ledger {
        Ledger { runs: Vec::new(), bytes: 0, bytes_max, nameless: 0, unrecorded: 0, copies: 0 }
    }

    /// The run of that name; none when there is no room for another.
    pub fn run(&mut self, name: &[u8]) -> Option<RunIndex> {
        let known = self.runs.iter().position(|run| run.name == name);
        let place = known.or_else(|| {
            (self.runs.len() < RUNS_MAX).then(|| {
                self.runs.push(Run { name: name.to_vec(), ..Run::default() });
                self.runs.len() - 1
            })
        });
        place.map(|place| RunIndex(place as u32))
    }

    /// A copy came for `recipient`, at that UNIX time.
    pub fn record(&mut self, run: Option<RunIndex>, number: u64, recipient: u64, at_us: u64) {
        self.copies += 1;
        let entry = Entry { recipient, first_us: at_us, copies: 1 };
        match run {
            Some(run) => self.put(run, number, entry),
            None => self.unrecorded += 1,
        }
    }

    fn put(&mut self, run: RunIndex, number: u64, new: Entry) {
        let run = &mut self.runs[run.0 as usize];
        let page = number / PAGE_ENTRIES as u64;
        let page = match run.pages.get_mut(&page) {
            Some(page) => page,
            None => {
                let bytes = size_of::<[Entry; PAGE_ENTRIES]>();
                if self.bytes + bytes > self.bytes_max {
                    self.unrecorded += u64::from(new.copies);
                    return;
                }
                self.bytes += bytes;
                run.pages.entry(page).or_insert_with(|| Box::new([Entry::default(); PAGE_ENTRIES]))
            }
        };
        let entry = &mut page[(number % PAGE_ENTRIES as u64) as usize];
        if entry.copies == 0 || entry.recipient == new.recipient {
            entry.recipient = new.recipient;
            return entry.add(new.copies, new.first_us);
        }
        if let Some(entry) = run.more.get_mut(&(number, new.recipient)) {
            return entry.add(new.copies, new.first_us);
        }
        if self.bytes + MORE_BYTES > self.bytes_max {
            self.unrecorded += u64::from(new.copies);
            return;
        }
        self.bytes += MORE_BYTES;
        run.more.insert((number, new.recipient), new);
    }

    /// All of `other` came too.
    pub fn add(&mut self, other: Ledger) {
        self.nameless += other.nameless;
        self.copies += other.copies;
        self.unrecorded += other.unrecorded;
        // What two shards were allowed, their sum is.
        self.bytes_max = self.bytes_max.saturating_add(other.bytes_max);
        for run in other.runs {
            match self.run(&run.name) {
                Some(index) => run.each(|number, entry| self.put(index, number, *entry)),
                None => run.each(|_, entry| self.unrecorded += u64::from(entry.copies)),
            }
        }
    }

    /// Messages to recipients that came at least once, and what came of them more than once.
    pub fn totals(&self) -> (u64, u64) {
        let (mut distinct, mut again) = (0, 0);
        for run in &self.runs {
            run.each(|_, entry| {
                distinct += 1;
                again += u64::from(entry.copies - 1);
            });
        }
        (distinct, again)
    }

    /// When the last message came first, UNIX time.
    pub fn last_us(&self) -> u64 {
        let mut last = 0;
        self.runs.iter().for_each(|run| run.each(|_, entry| last = last.max(entry.first_us)));
        last
    }

    /// Weighs what came against what was sent.
    pub fn compare(&self, sent: &Sent) -> Balance {
        let mut balance =
            Balance { alien: self.nameless, unrecorded: self.unrecorded, ..Balance::default() };
        let mut own = HashMap::new();
        let none = Run { name: sent.run.clone().into_bytes(), ..Run::default() };
        let run = self.runs.iter().find(|run| run.name == none.name).unwrap_or(&none);
        for other in self.runs.iter().filter(|other| other.name != none.name) {
            other.each(|_, entry| balance.alien += u64::from(entry.copies));
        }
        run.each(|number, entry| {
            if sent.fate(number) == Fate::NotSent {
                balance.alien += u64::from(entry.copies);
                return;
            }
            balance.duplicated += u64::from(entry.copies - 1);
            // Most messages have one recipient, for which no second list is needed.
            if sent.recipients_per_message > 1 || run.first_of(number) != entry.recipient {
                *own.entry(number).or_insert(0) += 1;
            }
        });
        for (number, fate) in sent.fates.iter().enumerate() {
            let number = number as u64;
            let found = match own.get(&number) {
                Some(more) if sent.recipients_per_message > 1 => *more,
                more => u64::from(run.has(number)) + more.copied().unwrap_or(0),
            };
            balance.weigh(Fate::of(*fate), found, sent.recipients_per_message);
        }
        balance
    }

    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{SEEN_HEAD}")?;
        writeln!(out, "nameless {}\nunrecorded {}", self.nameless, self.unrecorded)?;
        for run in &self.runs {
            writeln!(out, "run {}", String::from_utf8_lossy(&run.name))?;
            let mut written = Ok(());
            run.each(|number, Entry { recipient, first_us, copies }| {
                if written.is_ok() {
                    written = writeln!(out, "{number} {recipient:x} {copies} {first_us}");
                }
            });
            written?;
        }
        Ok(())
    }

    pub fn read(input: impl BufRead) -> Result<Ledger, String> {
        let mut ledger = Ledger::new(usize::MAX);
        let mut run = None;
        read_lines(input, SEEN_HEAD, |words| {
            match *words {
                ["nameless", count] => ledger.nameless = count.parse().ok()?,
                ["unrecorded", count] => ledger.unrecorded = count.parse().ok()?,
                ["run", name] => run = Some(ledger.run(name.as_bytes())?),
                [number, recipient, copies, first_us] => {
                    let recipient = u64::from_str_radix(recipient, 16).ok()?;
                    let copies = copies.parse().ok().filter(|copies| *copies > 0)?;
                    let first_us = first_us.parse().ok()?;
                    let entry = Entry { recipient, first_us, copies };
                    ledger.copies += u64::from(copies);
                    ledger.put(run?, number.parse().ok()?, entry);
                }
                _ => return None,
            }
            Some(())
        })?;
        Ok(ledger)
    }
}

impl Run {
    fn each(&self, mut told: impl FnMut(u64, &Entry)) {
        for (page, entries) in &self.pages {
            for (place, entry) in entries.iter().enumerate().filter(|(_, one)| one.copies > 0) {
                told(page * PAGE_ENTRIES as u64 + place as u64, entry);
            }
        }
        self.more.iter().for_each(|((number, _), entry)| told(*number, entry));
    }

    fn entry(&self, number: u64) -> Option<&Entry> {
        let page = self.pages.get(&(number / PAGE_ENTRIES as u64))?;
        Some(&page[(number % PAGE_ENTRIES as u64) as usize]).filter(|entry| entry.copies > 0)
    }

    fn has(&self, number: u64) -> bool {
        self.entry(number).is_some()
    }

    fn first_of(&self, number: u64) -> u64 {
        self.entry(number).map_or(0, |entry| entry.recipient)
    }
}

/// What a source knows of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    NotSent,
    /// For all its recipients.
    Accepted,
    /// For one of its recipients at least.
    Refused,
    /// The connection was lost before the answer.
    Unknown,
}

impl Fate {
    const ALL: [Fate; 4] = [Fate::NotSent, Fate::Accepted, Fate::Refused, Fate::Unknown];
    const NAMES: [&str; 4] = ["not-sent", "accepted", "refused", "unknown"];

    /// Of its number; what has none was not sent.
    pub fn of(number: u8) -> Fate {
        Fate::ALL.get(usize::from(number)).copied().unwrap_or(Fate::NotSent)
    }
}

/// What a source sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub run: String,
    pub recipients_per_message: u64,
    /// A `Fate` for each number.
    pub fates: Vec<u8>,
}

impl Sent {
    fn fate(&self, number: u64) -> Fate {
        let fate = usize::try_from(number).ok().and_then(|number| self.fates.get(number));
        fate.map_or(Fate::NotSent, |fate| Fate::of(*fate))
    }

    pub fn read(input: impl BufRead) -> Result<Sent, String> {
        let mut sent = Sent { recipients_per_message: 1, ..Sent::default() };
        read_lines(input, SENT_HEAD, |words| {
            match *words {
                ["run", name] => sent.run = name.to_owned(),
                ["recipients", count] => sent.recipients_per_message = count.parse().ok()?,
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

/// Messages of a file of fates: one byte each.
const FATES_MAX: usize = 1 << 32;

/// Has `take` read each line behind the head; a line that it does not take is a fault.
fn read_lines(
    input: impl BufRead,
    head: &str,
    mut take: impl FnMut(&[&str]) -> Option<()>,
) -> Result<(), String> {
    let mut lines = input.lines();
    let first = lines.next().transpose().map_err(|cause| cause.to_string())?;
    if first.as_deref() != Some(head) {
        return Err(format!("line 1: `{head}` is expected"));
    }
    for (place, line) in lines.enumerate() {
        let line = line.map_err(|cause| cause.to_string())?;
        let words: Vec<&str> = line.split(' ').collect();
        take(&words).ok_or_else(|| format!("line {}: `{line}` is no entry", place + 2))?;
    }
    Ok(())
}

/// What is left of both sides. Copies are counted, not messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Balance {
    /// Accepted, and never came.
    pub lost: u64,
    /// Came once more than it should.
    pub duplicated: u64,
    /// Came and was not sent: no id, another run, a number or recipient that was not.
    pub alien: u64,
    /// Nobody knew whether it was accepted, and it came.
    pub unknown_but_seen: u64,
    /// Refused, for one of its recipients at least, and it came.
    pub refused_but_seen: u64,
    /// Accepted, and came.
    pub arrived: u64,
    /// There was no room to count these.
    pub unrecorded: u64,
}

impl Balance {
    /// One message, of which so many of its recipients were found.
    fn weigh(&mut self, fate: Fate, found: u64, recipients: u64) {
        let own = found.min(recipients);
        match fate {
            Fate::NotSent => return,
            Fate::Accepted => {
                self.arrived += own;
                self.lost += recipients - own;
            }
            Fate::Refused => self.refused_but_seen += own,
            Fate::Unknown => self.unknown_but_seen += own,
        }
        self.alien += found - own;
    }

    /// Nothing was lost, duplicated or alien, and all was counted.
    pub fn is_well(&self) -> bool {
        self.lost + self.duplicated + self.alien + self.unrecorded == 0
    }
}

#[cfg(test)]
mod tests;
