//! Lines of jobs before the sites of a home: who goes now, who waits in memory, who on disk.
//!
//! Owner:    a home. A value without I/O or clock.
//! Promise:  a site has no more jobs out than it may. What has just come does not wait behind a
//!           backlog, and a backlog moves on however much comes fresh. A job that is left on disk
//!           is remembered by the first of its partition, until there is room for it.
//! Bounds:   half of a home's jobs stand in lines, a quarter of them in one. Full: left on disk.

use std::collections::HashMap;
use std::collections::VecDeque;

use crate::base::MessageId;
use crate::base::PartitionId;
use crate::outbound::lease::JobKey;

/// A place in the schedule.
pub type Row = (u64, MessageId, u16);

/// Of a home's jobs in memory, one site may have one in so many: the rest is for others.
const LINE_SHARE: usize = 4;
/// As `LINE_SHARE`, of those that are out.
const OUT_SHARE: usize = 8;

/// A job that has come before its site.
#[derive(Clone, Copy, Debug)]
pub struct Comer {
    pub row: Row,
    pub age: Age,
    /// Jobs that the site takes from this home at a time.
    pub out_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// It was received a moment ago, and never tried.
    Fresh,
    Waited,
    /// Too old to wait any longer. It still goes if it may go now.
    Expired,
}

/// What becomes of a job that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It goes now, and is counted as out. Should it not go after all, its place is free by `step`.
    Goes,
    /// It is in line.
    Waits,
    /// It is in no line and never will be.
    Expires,
    /// There is no room for it: it stays on disk, and is read again when there is.
    StaysOnDisk,
}

/// The lines of all sites of a home.
#[derive(Debug)]
pub struct Lines {
    lines: HashMap<Box<str>, Line>,
    /// Jobs in all lines: half of the room is for what need not wait.
    in_lines: usize,
    jobs_max: usize,
}

/// The jobs of one site at this home. Its owner is given only what it has room for.
#[derive(Debug, Default)]
struct Line {
    /// Jobs that are out.
    out: usize,
    /// How many may be, and how many of those that have waited.
    out_max: usize,
    backlog_max: usize,
    /// Jobs that came back so far.
    returns: u32,
    /// Jobs in memory that wait for one of them to come back.
    jobs: VecDeque<JobKey>,
    /// The earliest job of each partition that was left on disk because the line was full.
    left: Vec<Row>,
}

impl Lines {
    /// For a home that has at most so many jobs in memory.
    pub fn new(jobs_max: usize) -> Lines {
        Lines { lines: HashMap::new(), in_lines: 0, jobs_max }
    }

    /// Jobs that stand in lines.
    pub fn in_lines(&self) -> usize {
        self.in_lines
    }

    /// Jobs of a site that are out.
    pub fn out(&self, site: &str) -> usize {
        self.lines.get(site).map_or(0, |line| line.out)
    }

    /// A job comes before its site.
    pub fn join(&mut self, site: &str, comer: Comer) -> Turn {
        // Most sites have one already; the name is not copied for them.
        if !self.lines.contains_key(site) {
            self.lines.insert(site.into(), Line::default());
        }
        let line = self.lines.get_mut(site).expect("it is there by now");
        // What has just come does not wait behind a backlog: a part of the room is its own.
        let out_max = comer.out_max.min(self.jobs_max / OUT_SHARE).max(1);
        line.out_max = out_max;
        line.backlog_max = (out_max - out_max / 4).max(1);
        let limit = if comer.age == Age::Fresh { out_max } else { line.backlog_max };
        let (_, id, job) = comer.row;
        if line.out < limit {
            line.out += 1;
            Turn::Goes
        } else if comer.age == Age::Expired {
            Turn::Expires
        } else if line.jobs.len() < self.jobs_max / LINE_SHARE
            && self.in_lines < self.jobs_max / 2
            && line.place_of(id.partition()).is_none()
        {
            line.jobs.push_back((id, job));
            self.in_lines += 1;
            Turn::Waits
        } else {
            line.leave(comer.row);
            Turn::StaysOnDisk
        }
    }

    /// A job of this site has come back: the next may go. `send` tells whether one went.
    pub fn step(&mut self, site: &str, mut send: impl FnMut(JobKey) -> bool) {
        let Some(line) = self.lines.get_mut(site) else { return };
        line.out = line.out.saturating_sub(1);
        // Of what comes back every other place goes to those that have waited, however much comes
        // fresh.
        line.returns = line.returns.wrapping_add(1);
        let limit = if line.returns % 2 == 0 { line.out_max } else { line.backlog_max };
        while line.out < limit
            && let Some(next) = line.jobs.pop_front()
        {
            self.in_lines -= 1;
            if send(next) {
                line.out += 1;
            }
        }
        if line.is_idle() {
            self.lines.remove(site);
        }
    }

    /// Takes a job out of the line of its site. Answers whether it stood there.
    pub fn withdraw(&mut self, site: &str, key: JobKey) -> bool {
        let Some(line) = self.lines.get_mut(site) else { return false };
        let Some(place) = line.jobs.iter().position(|one| *one == key) else { return false };
        line.jobs.remove(place);
        self.in_lines -= 1;
        true
    }

    /// Takes out what is not to wait any longer, in the order of its lines.
    pub fn take_out(&mut self, mut keeps: impl FnMut(JobKey) -> bool) -> Vec<JobKey> {
        let mut taken = Vec::new();
        for line in self.lines.values_mut() {
            line.jobs.retain(|key| {
                let keeps = keeps(*key);
                if !keeps {
                    taken.push(*key);
                }
                keeps
            });
        }
        self.in_lines -= taken.len();
        taken
    }

    /// A site whose line has room again for what was left in this partition, and where it begins.
    pub fn take_left(&mut self, partition: PartitionId) -> Option<(Box<str>, Row)> {
        if self.in_lines >= self.jobs_max / 4 {
            return None;
        }
        let few = self.jobs_max / LINE_SHARE / 2;
        let mut ready = self.lines.iter_mut().filter(|(_, line)| line.jobs.len() < few);
        ready.find_map(|(site, line)| {
            let place = line.place_of(partition)?;
            Some((site.clone(), line.left.swap_remove(place)))
        })
    }

    /// What was taken could not be read to its end.
    pub fn leave_again(&mut self, site: &str, row: Row) {
        self.lines.entry(site.into()).or_default().leave(row);
    }

    /// Whether the line of a site takes no more of this partition.
    pub fn is_full(&self, site: &str, partition: PartitionId) -> bool {
        self.lines.get(site).is_some_and(|line| line.place_of(partition).is_some())
    }
}

impl Line {
    /// Nothing is known of its site that is not forgotten with it.
    fn is_idle(&self) -> bool {
        self.out == 0 && self.jobs.is_empty() && self.left.is_empty()
    }

    fn place_of(&self, partition: PartitionId) -> Option<usize> {
        self.left.iter().position(|(_, id, _)| id.partition() == partition)
    }

    fn leave(&mut self, row: Row) {
        match self.place_of(row.1.partition()) {
            Some(place) => self.left[place] = self.left[place].min(row),
            None => self.left.push(row),
        }
    }
}
