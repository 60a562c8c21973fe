//! The copies that a sink received.

use std::collections::HashMap;
use std::io;
use std::io::BufRead;
use std::io::Write;

use crate::ledger::balance::Balance;
use crate::ledger::balance::RecipientEnds;
use crate::ledger::balance::Totals;
use crate::ledger::entry::Arrival;
use crate::ledger::entry::Entry;
use crate::ledger::sent::Fate;
use crate::ledger::sent::Sent;
use crate::ledger::sent::read_lines;

/// Maximum runs of a ledger. One is usual; old mail from a queue adds a few.
pub const RUNS_MAX: usize = 256;
const PAGE_ENTRIES: usize = 1024;
/// Estimated memory of an entry of `more`.
const MORE_BYTES: usize = 80;
/// Memory of a shard's ledger.
const LEDGER_BYTES_MAX: usize = 1 << 30;

const HEAD: &str = "ringpost-load seen 1";

/// A run within one ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunIndex(u32);

#[derive(Debug, Default)]
struct Run {
    name: Vec<u8>,
    pages: HashMap<u64, Box<[Entry; PAGE_ENTRIES]>>,
    /// Further recipients of a message.
    more: HashMap<(u64, u64), Entry>,
}

/// All copies that a sink received.
#[derive(Debug)]
pub struct Ledger {
    runs: Vec<Run>,
    bytes: usize,
    bytes_max: usize,
    /// Copies without an id.
    pub nameless: u64,
    /// Copies and bounces that did not fit.
    pub unrecorded: u64,
    /// Reports without a failed recipient, mostly of delays.
    pub notices: u64,
    /// Copies with an id, unrecorded ones included.
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

    /// The run of this name. `None`: there are too many runs.
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

    /// Records a copy for a recipient (its `hash_of`) at this Unix time.
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

    /// Records a report of failure for a recipient.
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

    /// Adds the other ledger.
    pub fn add(&mut self, other: Ledger) {
        self.nameless += other.nameless;
        self.copies += other.copies;
        self.unrecorded += other.unrecorded;
        self.notices += other.notices;
        // The sum may use the memory of both.
        self.bytes_max = self.bytes_max.saturating_add(other.bytes_max);
        for run in other.runs {
            match self.run(&run.name) {
                Some(index) => run.each(|number, entry| self.put(index, number, *entry)),
                None => run.each(|_, entry| self.unrecorded += entry.all()),
            }
        }
    }

    /// Counts by kind.
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

    /// The runs of which messages arrived.
    pub fn run_names(&self) -> impl Iterator<Item = &[u8]> {
        self.runs.iter().map(|run| &*run.name)
    }

    /// Calls `told` with the number and the first Unix time of each message and recipient that arrived.
    pub fn arrivals(&self, run: &str, mut told: impl FnMut(u64, u64)) {
        for run in self.runs.iter().filter(|one| one.name == run.as_bytes()) {
            run.each(|number, entry| {
                if entry.copies > 0 {
                    told(number, entry.first_us);
                }
            });
        }
    }

    /// Copies and bounces of this run.
    pub fn came_of(&self, run: &[u8]) -> u64 {
        let mut came = 0;
        let own = self.runs.iter().filter(|one| one.name == run);
        own.for_each(|run| run.each(|_, entry| came += entry.all()));
        came
    }

    /// The highest number of copies of one message to one recipient.
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

    /// Compares with the messages that were sent.
    pub fn compare(&self, sent: &Sent) -> Balance {
        let mut balance =
            Balance { alien: self.nameless, unrecorded: self.unrecorded, ..Balance::default() };
        let mut several: HashMap<u64, RecipientEnds> = HashMap::new();
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
            // Messages with one recipient need no second list.
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
        writeln!(out, "{HEAD}")?;
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
        read_lines(input, HEAD, |words| {
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
