//! The home half of a simulated shard: which jobs are on disk, in memory, queued or leased out.
//!
//! It follows `outbound::home` and `outbound::scan` with the same queues and leases, without
//! routes, reading and writing.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use ringpost::base::MessageId;
use ringpost::base::PartitionId;
use ringpost::base::limits::JOB_LEASE_MS;
use ringpost::outbound::lease::Lease;
use ringpost::outbound::lease::LeaseTable;
use ringpost::outbound::lease::Settle;
use ringpost::outbound::line::Age;
use ringpost::outbound::line::Arrival;
use ringpost::outbound::line::Lines;
use ringpost::outbound::line::Row;
use ringpost::outbound::line::Turn;

/// How long mail counts as new.
const FRESH_MS: u64 = 10_000;
/// Time between two reads of the schedule while a part of it is not in memory.
const SCAN_MS: u64 = 10_000;
/// Time between two reads of the schedule from its start.
const SWEEP_MS: u64 = 60_000;
/// Time between two searches of the queues for expired jobs.
const LINES_EVERY_MS: u64 = 30_000;
const ROWS_MAX: usize = 40;

/// A job in the memory of the home shard, from the schedule and from its route.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub number: usize,
    pub destination: usize,
    pub due_ms: u64,
    pub attempts: u32,
    pub expires_ms: u64,
    /// Jobs that its destination takes from one home shard at a time.
    pub out_max: usize,
    pub tenant: u32,
}

struct Waiting {
    known: Known,
    is_out: bool,
}

pub struct Home {
    /// The schedule: all jobs that have not ended.
    due: BTreeMap<(u64, usize), Known>,
    jobs: BTreeMap<usize, Waiting>,
    jobs_max: usize,
    lines: Lines,
    leases: LeaseTable,
    /// The position in the schedule, and the time of the last read from its start.
    after: Option<(u64, usize)>,
    swept_ms: u64,
    left_on_disk: bool,
    looked_ms: u64,
    pub tick_ms: Option<u64>,
}

/// What the home shard has to do.
#[derive(Default)]
pub struct Work {
    /// Jobs to send to their owners.
    pub sends: Vec<(usize, Lease)>,
    /// Jobs that have expired.
    pub expired: Vec<usize>,
}

impl Home {
    pub fn new(jobs_max: usize) -> Home {
        Home {
            due: BTreeMap::new(),
            jobs: BTreeMap::new(),
            jobs_max,
            lines: Lines::new(jobs_max),
            leases: LeaseTable::new(2 * jobs_max, JOB_LEASE_MS),
            after: None,
            swept_ms: 0,
            left_on_disk: false,
            looked_ms: 0,
            tick_ms: None,
        }
    }

    /// Adds a job that is on disk.
    pub fn store(&mut self, known: Known) {
        self.due.insert((known.due_ms, known.number), known);
    }

    /// Adds a job that was just received.
    pub fn take_fresh(&mut self, known: Known, now_ms: u64, work: &mut Work) {
        self.store(known);
        if self.has_room() {
            self.admit(known, now_ms, work);
        } else {
            self.left_on_disk = true;
        }
    }

    /// Issues again the jobs whose leases have expired, and reads the due ones.
    pub fn tick(&mut self, now_ms: u64, work: &mut Work) {
        while let Some((id, _)) = self.leases.next_expired(now_ms) {
            let number = number_of(id);
            self.come_back(number, now_ms, work);
            self.start(number, now_ms, work);
        }
        if now_ms >= self.looked_ms + LINES_EVERY_MS {
            self.looked_ms = now_ms;
            self.expire_lines(now_ms, work);
        }
        if let Some((destination, left)) = self.lines.take_left(partition()) {
            self.refill(&destination, left, now_ms, work);
        }
        self.read_on(now_ms, work);
        self.check();
    }

    /// The latest time of the next action.
    pub fn next_wake_ms(&self, now_ms: u64) -> Option<u64> {
        let is_unread =
            |(due, number): &&(u64, usize)| *due > now_ms || !self.jobs.contains_key(number);
        let all_read = self.jobs.len() == self.due.len();
        let unread = if all_read { None } else { self.due.keys().find(is_unread) };
        let read_ms = unread.map(|(due_ms, _)| (*due_ms).max(now_ms + SCAN_MS));
        let looks_ms = (self.lines.in_lines() > 0).then(|| self.looked_ms + LINES_EVERY_MS);
        let looks_ms = looks_ms.map(|at_ms| at_ms.max(now_ms + SCAN_MS));
        [read_ms, looks_ms, self.leases.next_wake_ms()].into_iter().flatten().min()
    }

    /// Takes the outcome of a job from an owner. `None`: the lease is no longer valid.
    pub fn settle(
        &mut self,
        number: usize,
        lease: u32,
        now_ms: u64,
        work: &mut Work,
    ) -> Option<Known> {
        match self.leases.settle(id_of(number), 0, lease) {
            Settle::Settled => {}
            // The job may be queued again.
            Settle::SettledLate => {
                if let Some(waiting) = self.jobs.get(&number) {
                    self.lines.withdraw(&name_of(waiting.known.destination), (id_of(number), 0));
                }
            }
            Settle::Stale | Settle::Unknown => return None,
        }
        self.come_back(number, now_ms, work);
        Some(self.end(number))
    }

    fn expire_lines(&mut self, now_ms: u64, work: &mut Work) {
        let jobs = &self.jobs;
        let is_young = |(id, _): (MessageId, u16)| now_ms < jobs[&number_of(id)].known.expires_ms;
        let old = self.lines.take_out(is_young);
        old.into_iter().for_each(|(id, _)| self.expire(number_of(id), work));
    }

    fn end(&mut self, number: usize) -> Known {
        let due_ms = self.jobs[&number].known.due_ms;
        self.forget(number);
        self.due.remove(&(due_ms, number)).expect("the job has not ended before")
    }

    fn expire(&mut self, number: usize, work: &mut Work) {
        self.end(number);
        work.expired.push(number);
    }

    fn refill(&mut self, destination: &str, left: Row, now_ms: u64, work: &mut Work) {
        let first = (left.0, number_of(left.1));
        let rows: Vec<Known> = self.due.range(first..=(now_ms, usize::MAX)).map(known).collect();
        for row in rows {
            if self.lines.is_full(destination, partition()) {
                return;
            }
            if !self.has_room() {
                return self.lines.leave_again(destination, left);
            }
            self.admit(row, now_ms, work);
        }
    }

    fn read_on(&mut self, now_ms: u64, work: &mut Work) {
        let from = self.after.map_or((0, 0), |(due_ms, number)| (due_ms, number + 1));
        let until = (now_ms, usize::MAX);
        let rows: Vec<Known> = match from <= until {
            true => self.due.range(from..=until).map(known).take(ROWS_MAX).collect(),
            false => Vec::new(),
        };
        for row in &rows {
            if !self.has_room() {
                return;
            }
            self.after = Some((row.due_ms, row.number));
            self.admit(*row, now_ms, work);
        }
        let is_swept = now_ms >= self.swept_ms + SWEEP_MS;
        if rows.len() < ROWS_MAX && (is_swept || std::mem::take(&mut self.left_on_disk)) {
            (self.after, self.swept_ms) = (None, now_ms);
        }
    }

    fn has_room(&self) -> bool {
        self.jobs.len() < self.jobs_max
    }

    fn admit(&mut self, known: Known, now_ms: u64, work: &mut Work) {
        if self.jobs.contains_key(&known.number) {
            return;
        }
        self.jobs.insert(known.number, Waiting { known, is_out: false });
        self.start(known.number, now_ms, work);
    }

    fn start(&mut self, number: usize, now_ms: u64, work: &mut Work) {
        let known = self.jobs[&number].known;
        let age = match known.attempts {
            _ if now_ms >= known.expires_ms => Age::Expired,
            0 if now_ms < known.due_ms + FRESH_MS => Age::Fresh,
            _ => Age::Waited,
        };
        let row = (known.due_ms, id_of(number), 0);
        let destination = name_of(known.destination);
        match self
            .lines
            .join(&destination, Arrival { row, age, tenant: known.tenant, out_max: known.out_max })
        {
            Turn::Goes => {
                let out = self.lines.out(&destination);
                let out_max = known.out_max.max(1);
                let reserve = out_max / 4;
                assert!(out <= out_max + reserve, "{out} leased out, the limit is {out_max}");
                self.send(number, now_ms, work);
            }
            Turn::Waits { displaced } => {
                displaced.into_iter().for_each(|(id, _)| self.forget(number_of(id)));
            }
            Turn::Expires => self.expire(number, work),
            Turn::StaysOnDisk => self.forget(number),
        }
    }

    fn send(&mut self, number: usize, now_ms: u64, work: &mut Work) {
        let lease =
            self.leases.lease(id_of(number), 0, now_ms).expect("leased once, within the limit");
        self.jobs.get_mut(&number).expect("the job is in memory").is_out = true;
        work.sends.push((number, lease));
    }

    fn come_back(&mut self, number: usize, now_ms: u64, work: &mut Work) {
        let Some(waiting) = self.jobs.get_mut(&number) else { return };
        let (destination, tenant) = (name_of(waiting.known.destination), waiting.known.tenant);
        if !std::mem::take(&mut waiting.is_out) {
            return;
        }
        let (jobs, leases) = (&mut self.jobs, &mut self.leases);
        self.lines.step(&destination, tenant, |(id, _)| {
            let next = jobs.get_mut(&number_of(id)).expect("a queued job is in memory");
            assert!(!next.is_out, "leased out and queued");
            next.is_out = true;
            work.sends.push((
                number_of(id),
                leases.lease(id, 0, now_ms).expect("leased once, within the limit"),
            ));
            true
        });
    }

    fn forget(&mut self, number: usize) {
        self.jobs.remove(&number);
        self.leases.forget(id_of(number), 0);
    }

    fn check(&self) {
        assert!(self.jobs.len() <= self.jobs_max, "more jobs in memory than the limit");
        assert!(
            self.lines.in_lines() <= self.jobs_max.div_ceil(4),
            "the queues take the room of all other jobs"
        );
        let waiting = self.jobs.values().filter(|job| !job.is_out).count();
        assert_eq!(waiting, self.lines.in_lines(), "in memory, and neither leased out nor queued");
        let mut out: BTreeMap<usize, usize> = BTreeMap::new();
        for job in self.jobs.values() {
            *out.entry(job.known.destination).or_default() += usize::from(job.is_out);
        }
        for (destination, count) in out {
            assert_eq!(
                self.lines.out(&name_of(destination)),
                count,
                "leased out for destination {destination}"
            );
        }
        let due: BTreeSet<usize> = self.due.keys().map(|(_, number)| *number).collect();
        assert!(self.jobs.keys().all(|number| due.contains(number)), "in memory but not on disk");
    }
}

fn known((_, known): (&(u64, usize), &Known)) -> Known {
    *known
}

fn id_of(number: usize) -> MessageId {
    MessageId::from_u64(number as u64)
}

fn number_of(id: MessageId) -> usize {
    id.as_u64() as usize
}

fn partition() -> PartitionId {
    id_of(0).partition()
}

fn name_of(destination: usize) -> String {
    destination.to_string()
}
