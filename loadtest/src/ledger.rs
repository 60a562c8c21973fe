//! The ledger: which numbered messages came, to whom, how often and when, and of which it was
//! reported that they never will; and what that is against what was sent.
//!
//! Owner:    each shard of a sink fills a `Ledger` of its own; they are added up at the end.
//! Promise:  lost, duplicated and alien copies are counted exactly: of what was accepted, each
//!           message to a recipient has arrived, or else has bounced, or else is lost. A recipient is
//!           known by 64 bits of a hash of its address, so that two recipients of one message are
//!           mistaken for one with a chance of 1 in 10^19; recipients of different messages never
//!           are. A body is known by 32 bits (see `sum`), and so is the recipient of a message that has
//!           one; an id without them is taken at its word. Of a message with several recipients it is
//!           counted to how many it came, not looked at whether these are its own.
//! Bounds:   `bytes_max`. A message takes 24 bytes for its first recipient (numbers are dense, so
//!           that pages of `PAGE_ENTRIES` are filled) and about 80 for each more: a million messages
//!           to one recipient each are 24 MB for each shard. Full, or with more than `RUNS_MAX` runs:
//!           what comes is counted as `unrecorded`, and no balance is good that has any.
//! Files:    text, one line an entry. `sent`, which a source writes, has its run, the recipients of
//!           each message, runs of equal fates (`1000 accepted`), and for how many recipients a message
//!           was accepted that was not for all (`partly 7 999`); `seen` has one line for each
//!           message and recipient: number, recipient, copies and first time, and where one of them
//!           is not 0, how many copies were corrupted and how many bounces came back.

pub mod sum;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::hash::DefaultHasher;
use std::hash::Hasher;
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
    /// Of its body, where it is told.
    pub body_sum: Option<u32>,
}

impl<'h> Id<'h> {
    /// Reads `RUN-NUMBER`, `RUN-NUMBER-MICROS` or `RUN-NUMBER-MICROS-SUM`.
    pub fn parse(value: &'h [u8]) -> Option<Id<'h>> {
        let value = value.trim_ascii();
        let mut parts = value.split(|byte| *byte == b'-');
        let run = parts.next().filter(|run| (1..=RUN_BYTES_MAX).contains(&run.len()))?;
        let number = decimal(parts.next()?)?;
        let begun_us = parts.next().map(decimal);
        let told_sum = parts.next().map(hexadecimal);
        let is_whole = parts.next().is_none() && begun_us != Some(None) && told_sum != Some(None);
        let is_word = run.iter().all(|byte| byte.is_ascii_graphic());
        let own = &value[..value.len().saturating_sub(1 + SUM_DIGITS)];
        let body_sum = told_sum.flatten().map(|told| sum::of_message(own, told));
        (is_whole && is_word).then_some(Id { run, number, begun_us: begun_us.flatten(), body_sum })
    }
}

/// Of the sum in an id.
const SUM_DIGITS: usize = 8;

fn hexadecimal(text: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() == SUM_DIGITS)?;
    text.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(())?;
    u32::from_str_radix(text, 16).ok()
}

/// What a recipient is known by. A relay may write a domain in small letters, so that case does not
/// count.
pub fn hash_of(address: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut small = [0; 128];
    for part in address.chunks(small.len()) {
        let small = &mut small[..part.len()];
        small.copy_from_slice(part);
        small.make_ascii_lowercase();
        hasher.write(small);
    }
    hasher.finish()
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

/// A copy of a message, as its body has been found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// As it was sent, as far as its id told how that was.
    Whole,
    /// As it was sent, if its recipient has this mark: see `sum::mark_of`.
    Marked(u32),
    Corrupted,
}

impl Arrival {
    /// For this recipient (its `hash_of`): whole or corrupted.
    pub fn at(self, recipient: u64) -> Arrival {
        match self {
            Arrival::Marked(mark) if mark == sum::mark_of(recipient) => Arrival::Whole,
            Arrival::Marked(_) => Arrival::Corrupted,
            known => known,
        }
    }
}

/// One message to one recipient. Nothing of it has come where all counts are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    recipient: u64,
    /// UNIX time.
    first_us: u64,
    copies: u32,
    /// Of the copies.
    corrupted: u16,
    /// Reports that it will not come.
    bounces: u16,
}

const _: () = assert!(size_of::<Entry>() == 24, "it is what a million messages cost");

impl Entry {
    fn add(&mut self, other: &Entry) {
        self.first_us =
            if self.is_none() { other.first_us } else { self.first_us.min(other.first_us) };
        self.copies = self.copies.saturating_add(other.copies);
        self.corrupted = self.corrupted.saturating_add(other.corrupted);
        self.bounces = self.bounces.saturating_add(other.bounces);
    }

    fn is_none(&self) -> bool {
        self.copies == 0 && self.bounces == 0
    }

    /// All that came of it.
    fn all(&self) -> u64 {
        u64::from(self.copies) + u64::from(self.bounces)
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
    /// Copies and bounces for which there was no room.
    pub unrecorded: u64,
    /// Reports that were not of a failure: delays, most often.
    pub notices: u64,
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
        Ledger {
            runs: Vec::new(),
            bytes: 0,
            bytes_max,
            nameless: 0,
            unrecorded: 0,
            notices: 0,
            copies: 0,
        }
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

    /// A copy came for a recipient (its `hash_of`), at that UNIX time.
    pub fn record(
        &mut self,
        (run, number): (Option<RunIndex>, u64),
        recipient: u64,
        at_us: u64,
        arrival: Arrival,
    ) {
        self.copies += 1;
        let corrupted = u16::from(arrival.at(recipient) != Arrival::Whole);
        let entry = Entry { recipient, first_us: at_us, copies: 1, corrupted, bounces: 0 };
        self.put_or_count(run, number, entry);
    }

    /// It was reported that it will not come to that recipient.
    pub fn bounce(&mut self, (run, number): (Option<RunIndex>, u64), recipient: u64, at_us: u64) {
        let entry = Entry { recipient, first_us: at_us, bounces: 1, ..Entry::default() };
        self.put_or_count(run, number, entry);
    }

    fn put_or_count(&mut self, run: Option<RunIndex>, number: u64, entry: Entry) {
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
                    self.unrecorded += new.all();
                    return;
                }
                self.bytes += bytes;
                run.pages.entry(page).or_insert_with(|| Box::new([Entry::default(); PAGE_ENTRIES]))
            }
        };
        let entry = &mut page[(number % PAGE_ENTRIES as u64) as usize];
        if entry.is_none() || entry.recipient == new.recipient {
            entry.recipient = new.recipient;
            return entry.add(&new);
        }
        if let Some(entry) = run.more.get_mut(&(number, new.recipient)) {
            return entry.add(&new);
        }
        if self.bytes + MORE_BYTES > self.bytes_max {
            self.unrecorded += new.all();
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
        self.notices += other.notices;
        // What two shards were allowed, their sum is.
        self.bytes_max = self.bytes_max.saturating_add(other.bytes_max);
        for run in other.runs {
            match self.run(&run.name) {
                Some(index) => run.each(|number, entry| self.put(index, number, *entry)),
                None => run.each(|_, entry| self.unrecorded += entry.all()),
            }
        }
    }

    /// What there is of each kind.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            nameless: self.nameless,
            unrecorded: self.unrecorded,
            notices: self.notices,
            ..Totals::default()
        };
        for run in &self.runs {
            run.each(|_, entry| {
                totals.distinct += u64::from(entry.copies > 0);
                totals.again += u64::from(entry.copies.saturating_sub(1));
                totals.corrupted += u64::from(entry.corrupted);
                totals.bounced += u64::from(entry.bounces > 0);
            });
        }
        totals
    }

    /// The runs whose messages came.
    pub fn run_names(&self) -> impl Iterator<Item = &[u8]> {
        self.runs.iter().map(|run| &*run.name)
    }

    /// Tells of each message of a run that came: its number, and when its first copy did, in
    /// microseconds since 1970. One with several recipients is told for each of them.
    pub fn arrivals(&self, run: &str, mut told: impl FnMut(u64, u64)) {
        for run in self.runs.iter().filter(|one| one.name == run.as_bytes()) {
            run.each(|number, entry| {
                if entry.copies > 0 {
                    told(number, entry.first_us);
                }
            });
        }
    }

    /// Copies and reports of this run.
    pub fn came_of(&self, run: &[u8]) -> u64 {
        let mut came = 0;
        let own = self.runs.iter().filter(|one| one.name == run);
        own.for_each(|run| run.each(|_, entry| came += entry.all()));
        came
    }

    /// Of the one message to a recipient that came most often.
    pub fn copies_max(&self) -> u64 {
        let mut most = 0;
        self.runs.iter().for_each(|run| run.each(|_, entry| most = most.max(entry.copies)));
        most.into()
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
        let mut several: HashMap<u64, Found> = HashMap::new();
        let none = Run { name: sent.run.clone().into_bytes(), ..Run::default() };
        let run = self.runs.iter().find(|run| run.name == none.name).unwrap_or(&none);
        for other in self.runs.iter().filter(|other| other.name != none.name) {
            other.each(|_, entry| balance.alien += entry.all());
        }
        run.each(|number, entry| {
            if sent.fate(number) == Fate::NotSent {
                balance.alien += entry.all();
                return;
            }
            balance.count(entry);
            // Most messages have one recipient, for which no second list is needed.
            if sent.recipients_per_message > 1 || run.first_of(number) != entry.recipient {
                several.entry(number).or_default().add(entry);
            }
        });
        for (number, fate) in sent.fates.iter().enumerate() {
            let number = number as u64;
            let mut found = several.get(&number).copied().unwrap_or_default();
            if let Some(first) = run.entry(number).filter(|_| sent.recipients_per_message <= 1) {
                found.add(first);
            }
            let fate = Fate::of(*fate);
            let accepted = sent.accepted_of(number, fate);
            balance.weigh(fate, found, (accepted, sent.recipients_per_message));
        }
        balance
    }

    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{SEEN_HEAD}")?;
        writeln!(out, "nameless {}\nunrecorded {}", self.nameless, self.unrecorded)?;
        if self.notices > 0 {
            writeln!(out, "notices {}", self.notices)?;
        }
        for run in &self.runs {
            writeln!(out, "run {}", String::from_utf8_lossy(&run.name))?;
            let mut written = Ok(());
            run.each(|number, entry| {
                if written.is_ok() {
                    written = entry.write(number, out);
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
                ["notices", count] => ledger.notices = count.parse().ok()?,
                ["run", name] => run = Some(ledger.run(name.as_bytes())?),
                _ => {
                    let (number, entry) = Entry::read(words)?;
                    ledger.copies += u64::from(entry.copies);
                    ledger.put(run?, number, entry);
                }
            }
            Some(())
        })?;
        Ok(ledger)
    }
}

impl Entry {
    fn write(&self, number: u64, out: &mut impl Write) -> io::Result<()> {
        let Entry { recipient, first_us, copies, corrupted, bounces } = self;
        write!(out, "{number} {recipient:x} {copies} {first_us}")?;
        match (corrupted, bounces) {
            (0, 0) => writeln!(out),
            _ => writeln!(out, " {corrupted} {bounces}"),
        }
    }

    fn read(words: &[&str]) -> Option<(u64, Entry)> {
        let (number, recipient, copies, first_us, rest) = match *words {
            [number, recipient, copies, first_us, ref rest @ ..] => {
                (number, recipient, copies, first_us, rest)
            }
            _ => return None,
        };
        let (corrupted, bounces) = match *rest {
            [] => (0, 0),
            [corrupted, bounces] => (corrupted.parse().ok()?, bounces.parse().ok()?),
            _ => return None,
        };
        let entry = Entry {
            recipient: u64::from_str_radix(recipient, 16).ok()?,
            first_us: first_us.parse().ok()?,
            copies: copies.parse().ok()?,
            corrupted,
            bounces,
        };
        (!entry.is_none()).then_some((number.parse().ok()?, entry))
    }
}

impl Run {
    fn each(&self, mut told: impl FnMut(u64, &Entry)) {
        for (page, entries) in &self.pages {
            for (place, entry) in entries.iter().enumerate().filter(|(_, one)| !one.is_none()) {
                told(page * PAGE_ENTRIES as u64 + place as u64, entry);
            }
        }
        self.more.iter().for_each(|((number, _), entry)| told(*number, entry));
    }

    fn entry(&self, number: u64) -> Option<&Entry> {
        let page = self.pages.get(&(number / PAGE_ENTRIES as u64))?;
        Some(&page[(number % PAGE_ENTRIES as u64) as usize]).filter(|entry| !entry.is_none())
    }

    fn first_of(&self, number: u64) -> u64 {
        self.entry(number).map_or(0, |entry| entry.recipient)
    }
}

/// What a source knows of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// The server has not seen the end of it.
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
    /// As in the header of its messages.
    pub run: String,
    pub recipients_per_message: u64,
    /// A `Fate` for each number.
    pub fates: Vec<u8>,
    /// Of messages that were not accepted for all, for how many recipients they were; nothing for none.
    pub partly: BTreeMap<u64, u64>,
}

impl Sent {
    fn fate(&self, number: u64) -> Fate {
        let fate = usize::try_from(number).ok().and_then(|number| self.fates.get(number));
        fate.map_or(Fate::NotSent, |fate| Fate::of(*fate))
    }

    /// For how many recipients a message was accepted.
    fn accepted_of(&self, number: u64, fate: Fate) -> u64 {
        match fate {
            Fate::Accepted => self.recipients_per_message,
            _ => {
                self.partly.get(&number).map_or(0, |count| *count.min(&self.recipients_per_message))
            }
        }
    }

    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "{SENT_HEAD}\nrun {}", self.run)?;
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
        read_lines(input, SENT_HEAD, |words| {
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

/// What a ledger has of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Messages to recipients that came at least once.
    pub distinct: u64,
    /// What came of these more than once.
    pub again: u64,
    /// Copies whose bodies were not as they had been sent.
    pub corrupted: u64,
    /// Messages to recipients of which it was reported that they will not come.
    pub bounced: u64,
    pub nameless: u64,
    pub unrecorded: u64,
    pub notices: u64,
}

/// What is left of both sides. Copies are counted, not messages; of those that were accepted each is
/// one of `arrived`, `bounced` and `lost`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Balance {
    /// Accepted, and never came, nor a report of it.
    pub lost: u64,
    /// Came once more than it should, or was reported so.
    pub duplicated: u64,
    /// Came and was not sent: no id, another run, a number or recipient that was not.
    pub alien: u64,
    /// Came, and the body was not as it had been sent, or it was for another recipient.
    pub corrupted: u64,
    /// Nobody knew whether it was accepted, and it came, or came back.
    pub unknown_but_seen: u64,
    /// Refused, and it came, or came back.
    pub refused_but_seen: u64,
    /// Accepted, and came.
    pub arrived: u64,
    /// Accepted, and came back in a report that it could not be delivered.
    pub bounced: u64,
    /// It was reported that it will not come, and it came.
    pub bounced_but_seen: u64,
    /// There was no room to count these.
    pub unrecorded: u64,
}

/// How many of a message's recipients something was heard of.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    arrived: u64,
    bounced: u64,
}

impl Found {
    fn add(&mut self, entry: &Entry) {
        match entry.copies {
            0 => self.bounced += 1,
            _ => self.arrived += 1,
        }
    }
}

impl Balance {
    /// One message to one recipient that was sent.
    fn count(&mut self, entry: &Entry) {
        self.duplicated += u64::from(entry.copies.saturating_sub(1));
        self.duplicated += u64::from(entry.bounces.saturating_sub(1));
        self.corrupted += u64::from(entry.corrupted);
        self.bounced_but_seen += u64::from(entry.copies > 0 && entry.bounces > 0);
    }

    /// One message, and what was found of its recipients. Who of them it was accepted for is not known,
    /// only for how many: what was found is taken to be of these first.
    fn weigh(&mut self, fate: Fate, found: Found, (accepted, recipients): (u64, u64)) {
        if fate == Fate::NotSent {
            return;
        }
        let arrived = found.arrived.min(recipients);
        let bounced = found.bounced.min(recipients - arrived);
        let own_arrived = arrived.min(accepted);
        let own_bounced = bounced.min(accepted - own_arrived);
        self.arrived += own_arrived;
        self.bounced += own_bounced;
        self.lost += accepted - own_arrived - own_bounced;
        let more = arrived - own_arrived + bounced - own_bounced;
        match fate {
            Fate::Unknown => self.unknown_but_seen += more,
            _ => self.refused_but_seen += more,
        }
        self.alien += found.arrived - arrived + found.bounced - bounced;
    }

    /// Nothing was lost, duplicated, alien or corrupted, nothing came although it was said not to,
    /// and all was counted. What bounced did what it should.
    pub fn is_well(&self) -> bool {
        let wrong = self.lost + self.duplicated + self.alien + self.corrupted;
        let untrue = self.refused_but_seen + self.bounced_but_seen;
        wrong + untrue + self.unrecorded == 0
    }
}

#[cfg(test)]
mod tests;
