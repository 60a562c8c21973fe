//! Queues of jobs per destination at their home: which job goes now, waits in memory, or stays on disk.
//!
//! Owner:    a home. A value without I/O or clock.
//! Promise:  a destination has no more jobs out than it allows. New mail does not wait behind a
//!           backlog, and a backlog advances however much new mail arrives. A tenant with little mail
//!           does not wait behind the backlog of another. Of the jobs left on disk, the first one of
//!           each partition is remembered until there is room.
//! Bounds:   a quarter of a home's jobs are queued. When full, the longest queue gives way to a shorter
//!           one, and new mail of a tenant with few jobs evicts those of the tenant with the most.
//!           Half of the jobs may be out: a destination gets at most half of the free part, a few
//!           jobs while there is room, and always one. A reserve of a quarter more is for tenants
//!           with few jobs out: each may have as many out as are left in the reserve. So slow
//!           destinations, up to as many as a quarter of a home's jobs, leave room for others. Full:
//!           left on disk.

use std::collections::HashMap;
use std::collections::VecDeque;

use crate::base::MessageId;
use crate::base::PartitionId;
use crate::outbound::lease::JobKey;

/// A place in the schedule.
pub type Row = (u64, MessageId, u16);

/// Jobs that a destination may have out however many others have.
const OUT_LEAST: usize = 4;

/// Tenants that are looked at for one that may use the reserve. The others come to their turn later.
const LOOKS_MAX: usize = 8;

/// A job that has come before its destination.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub row: Row,
    pub age: Age,
    /// Among whom the room of a destination is shared: who sends it.
    pub tenant: u32,
    /// Jobs that the destination takes from this home at a time.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It goes now, and is counted as out. Should it not go after all, its place is free by `step`.
    Goes,
    /// It is in line, and these are no longer: they stay on disk in its stead.
    Waits { displaced: Vec<JobKey> },
    /// It is in no line and never will be.
    Expires,
    /// There is no room for it: it stays on disk, and is read again when there is.
    StaysOnDisk,
}

/// The lines of all destinations of a home.
#[derive(Debug)]
pub struct Lines {
    lines: HashMap<Box<str>, Line>,
    room: Room,
}

/// What all destinations share.
#[derive(Debug)]
struct Room {
    /// Jobs out that are none of a reserve.
    out: usize,
    out_max: usize,
    out_least: usize,
    in_reserves: usize,
    in_lines: usize,
    in_lines_max: usize,
    /// Jobs that came into lines so far.
    pushes: u64,
    /// When the longest line was last looked for, by `pushes`, and its length.
    longest: (u64, usize),
}

/// The jobs of one destination at this home. Its owner is given only what it has room for.
#[derive(Debug, Default)]
struct Line {
    /// Jobs that are out.
    out: usize,
    /// How many of them are so by the reserve.
    in_reserve: usize,
    /// How many the destination takes.
    out_max: usize,
    /// Jobs that came back so far, but for those of the reserve.
    returns: u32,
    /// Jobs in memory that wait for one of them to come back, those of all tenants.
    waiting: usize,
    /// Those that have jobs here.
    tenants: HashMap<u32, Tenant>,
    /// Those of them whose jobs wait, in the order of their turns.
    turns: VecDeque<u32>,
    /// The earliest job of each partition that was left on disk because the line was full.
    left: Vec<Row>,
    /// Jobs that came into line past those, since they were last read.
    passed: usize,
    /// As `Room::longest`: the most that a tenant has in line.
    most: (u64, usize),
}

#[derive(Debug, Default)]
struct Tenant {
    out: usize,
    in_reserve: usize,
    jobs: VecDeque<Row>,
}

impl Lines {
    /// For a home that has at most so many jobs in memory.
    pub fn new(jobs_max: usize) -> Lines {
        let room = Room {
            out: 0,
            out_max: jobs_max / 2,
            out_least: OUT_LEAST.min(jobs_max / 16).max(1),
            in_reserves: 0,
            in_lines: 0,
            in_lines_max: jobs_max.div_ceil(4),
            pushes: 0,
            longest: (0, usize::MAX),
        };
        Lines { lines: HashMap::new(), room }
    }

    /// Jobs in the queues of all destinations.
    pub fn in_lines(&self) -> usize {
        self.room.in_lines
    }

    /// Jobs of a destination that are out.
    pub fn out(&self, destination: &str) -> usize {
        self.lines.get(destination).map_or(0, |line| line.out)
    }

    /// A job comes before its destination.
    pub fn join(&mut self, destination: &str, arrival: Arrival) -> Turn {
        // Most destinations have one already; the name is not copied for them.
        if !self.lines.contains_key(destination) {
            self.lines.insert(destination.into(), Line::default());
        }
        let line = self.lines.get_mut(destination).expect("it is there by now");
        line.out_max = arrival.out_max;
        if line.owned() < line.limit(arrival.age, &self.room) {
            line.send(arrival.tenant, &mut self.room);
            return Turn::Goes;
        }
        if line.has_reserve(arrival.tenant, &self.room) {
            line.send_by_reserve(arrival.tenant, &mut self.room);
            return Turn::Goes;
        }
        if arrival.age == Age::Expired {
            return Turn::Expires;
        }
        let is_little = arrival.age == Age::Fresh && line.has_little(arrival.tenant);
        let passes = line.place_of(arrival.row.1.partition()).is_some();
        // What was left on disk has come before it, and is to come to its turn nevertheless.
        if passes && (!is_little || line.passed >= self.room.in_lines_max / 8) {
            line.leave(arrival.row);
            return Turn::StaysOnDisk;
        }
        let waiting = if is_little { line.waiting_of(arrival.tenant) } else { line.waiting };
        let displaced = match self.room.in_lines < self.room.in_lines_max {
            true => Vec::new(),
            false => self.displace_for(destination, waiting),
        };
        let line = self.lines.get_mut(destination).expect("it was there a moment ago");
        if self.room.in_lines >= self.room.in_lines_max {
            line.leave(arrival.row);
            return Turn::StaysOnDisk;
        }
        line.push(arrival.tenant, arrival.row);
        line.passed += usize::from(passes);
        self.room.in_lines += 1;
        self.room.pushes += 1;
        Turn::Waits { displaced }
    }

    /// The longest line is cut in half for one in which so many wait, if that is much less. For a
    /// tenant of that very line, if that is much less than others have in it.
    fn displace_for(&mut self, destination: &str, waiting: usize) -> Vec<JobKey> {
        // Lines that nothing has come into are no longer than they were: it is not looked for again.
        let was_vain = |(at, most): (u64, usize)| at == self.room.pushes && most <= 2 * waiting + 1;
        let own = self.lines.get(destination).map(|line| line.most);
        if was_vain(self.room.longest) || own.is_some_and(was_vain) {
            return Vec::new();
        }
        let lines = self.lines.iter_mut().map(|(name, line)| (&**name, line));
        let longest =
            lines.max_by(|(a_name, a), (b_name, b)| (a.waiting, a_name).cmp(&(b.waiting, b_name)));
        let Some((name, line)) = longest else { return Vec::new() };
        let most = match name == destination {
            true => line.tenants.values().map(|tenant| tenant.jobs.len()).max().unwrap_or(0),
            false => line.waiting,
        };
        if most <= 2 * waiting + 1 {
            self.room.longest = (self.room.pushes, line.waiting);
            if name == destination {
                line.most = (self.room.pushes, most);
            }
            return Vec::new();
        }
        let rows = line.cut();
        self.room.in_lines -= rows.len();
        rows.iter().for_each(|row| line.leave(*row));
        rows.into_iter().map(|(_, id, job)| (id, job)).collect()
    }

    /// A job of this destination and tenant has come back: the next may go. `send` tells whether one went.
    pub fn step(&mut self, destination: &str, tenant: u32, mut send: impl FnMut(JobKey) -> bool) {
        let Some(line) = self.lines.get_mut(destination) else { return };
        // Of what comes back every other place goes to those that have waited, however much comes
        // fresh; one place, for the rest of that room is kept for what comes next.
        let mut extra = line.take_back(tenant, &mut self.room) && line.returns % 2 == 0;
        while line.waiting > 0 {
            let has_place = line.owned() < line.limit(Age::Waited, &self.room)
                || line.owned() < line.limit(Age::Fresh, &self.room) && std::mem::take(&mut extra);
            let next = if has_place { line.turns.front().copied() } else { line.poor(&self.room) };
            let Some(next) = next else { break };
            let (_, id, job) = line.pop(next);
            self.room.in_lines -= 1;
            match send((id, job)) {
                false => line.forget_idle(next),
                true if has_place => line.send(next, &mut self.room),
                true => line.send_by_reserve(next, &mut self.room),
            }
        }
        if line.is_idle() {
            self.lines.remove(destination);
        }
    }

    /// Takes a job out of the line of its destination. Answers whether it stood there.
    pub fn withdraw(&mut self, destination: &str, key: JobKey) -> bool {
        let Some(line) = self.lines.get_mut(destination) else { return false };
        let was_there = line.withdraw(key);
        self.room.in_lines -= usize::from(was_there);
        was_there
    }

    /// Takes out what is not to wait any longer, line by line.
    pub fn take_out(&mut self, mut keeps: impl FnMut(JobKey) -> bool) -> Vec<JobKey> {
        let mut taken = Vec::new();
        for line in self.lines.values_mut() {
            line.retain(|(_, id, job)| {
                let keeps = keeps((*id, *job));
                if !keeps {
                    taken.push((*id, *job));
                }
                keeps
            });
        }
        self.room.in_lines -= taken.len();
        taken
    }

    /// A destination whose line has room again for what was left in this partition, and where it begins:
    /// of several the one with the least to do, so that none is forgotten for another.
    pub fn take_left(&mut self, partition: PartitionId) -> Option<(Box<str>, Row)> {
        let longest = self.lines.values().map(|line| line.waiting).max().unwrap_or(0);
        // It is not worth the reading where few would find room.
        let few = (self.room.in_lines_max - self.room.in_lines).max(longest).div_ceil(4);
        let ready = self.lines.iter_mut().filter(|(_, line)| line.waiting < few);
        let left = ready.filter_map(|(destination, line)| {
            line.place_of(partition).map(|place| (destination, line, place))
        });
        let (destination, line, place) =
            left.min_by_key(|(_, line, place)| (line.waiting, line.left[*place]))?;
        line.passed = 0;
        let (destination, row) = (destination.clone(), line.left.swap_remove(place));
        if line.is_idle() {
            self.lines.remove(&destination);
        }
        Some((destination, row))
    }

    /// What was left on disk is read from its beginning in any case. Destinations may have other names then.
    pub fn forget_left(&mut self) {
        for line in self.lines.values_mut() {
            line.left.clear();
            line.passed = 0;
        }
        self.lines.retain(|_, line| !line.is_idle());
    }

    /// What was taken could not be read to its end.
    pub fn leave_again(&mut self, destination: &str, row: Row) {
        self.lines.entry(destination.into()).or_default().leave(row);
    }

    /// Whether the line of a destination takes no more of this partition.
    pub fn is_full(&self, destination: &str, partition: PartitionId) -> bool {
        self.lines.get(destination).is_some_and(|line| line.place_of(partition).is_some())
    }
}

impl Line {
    /// How many may be out. What has just come does not wait behind a backlog: a part of the room
    /// is its own.
    fn limit(&self, age: Age, room: &Room) -> usize {
        let share = room.out_max.saturating_sub(room.out) / 2;
        let least = if room.out < room.out_max { room.out_least } else { 1 };
        let all = self.out_max.min(share.max(least)).max(1);
        if age == Age::Fresh { all } else { (all - all / 4).max(1) }
    }

    /// Jobs out that are none of the reserve.
    fn owned(&self) -> usize {
        self.out - self.in_reserve
    }

    /// What is kept for tenants with few out, beyond what all may have.
    fn reserve(&self, room: &Room) -> usize {
        let has_room = room.in_reserves < room.out_max / 4;
        if has_room { self.limit(Age::Fresh, room) / 4 } else { 0 }
    }

    /// Whether a tenant may have one more out although the destination may not: if it has fewer out than
    /// places are left of the reserve. Who comes next finds some left in turn.
    fn has_reserve(&self, tenant: u32, room: &Room) -> bool {
        let left = self.reserve(room).saturating_sub(self.in_reserve);
        self.tenants.get(&tenant).map_or(0, |tenant| tenant.out) < left
    }

    /// The next tenant whose jobs wait and who may use the reserve.
    fn poor(&mut self, room: &Room) -> Option<u32> {
        if self.in_reserve >= self.reserve(room) {
            return None;
        }
        for _ in 0..self.turns.len().min(LOOKS_MAX) {
            let tenant = *self.turns.front()?;
            if self.has_reserve(tenant, room) {
                return Some(tenant);
            }
            self.turns.rotate_left(1);
        }
        None
    }

    fn waiting_of(&self, tenant: u32) -> usize {
        self.tenants.get(&tenant).map_or(0, |tenant| tenant.jobs.len())
    }

    /// Whether a tenant has less than half in line of what those there have on average.
    fn has_little(&self, tenant: u32) -> bool {
        2 * self.waiting_of(tenant) * self.turns.len() < self.waiting
    }

    fn push(&mut self, tenant: u32, row: Row) {
        let jobs = &mut self.tenants.entry(tenant).or_default().jobs;
        if jobs.is_empty() {
            self.turns.push_back(tenant);
        }
        jobs.push_back(row);
        self.waiting += 1;
    }

    /// The first job of a tenant that waits, who stands behind all others for its next one.
    fn pop(&mut self, tenant: u32) -> Row {
        let place = self.turns.iter().position(|one| *one == tenant).expect("it waits");
        self.turns.remove(place);
        let jobs = &mut self.tenants.get_mut(&tenant).expect("it waits").jobs;
        let row = jobs.pop_front().expect("who has a turn has jobs");
        if !jobs.is_empty() {
            self.turns.push_back(tenant);
        }
        self.waiting -= 1;
        row
    }

    fn send(&mut self, tenant: u32, room: &mut Room) {
        self.tenants.entry(tenant).or_default().out += 1;
        self.out += 1;
        room.out += 1;
    }

    fn send_by_reserve(&mut self, tenant: u32, room: &mut Room) {
        let tenant = self.tenants.entry(tenant).or_default();
        tenant.out += 1;
        tenant.in_reserve += 1;
        self.out += 1;
        self.in_reserve += 1;
        room.in_reserves += 1;
    }

    /// A job of the tenant is out no more. Those by the reserve come back first, so that there is
    /// some again. Answers whether it was none of these.
    fn take_back(&mut self, tenant: u32, room: &mut Room) -> bool {
        let Some(known) = self.tenants.get_mut(&tenant) else { return false };
        if known.out == 0 {
            return false;
        }
        known.out -= 1;
        self.out -= 1;
        let is_owned = known.in_reserve == 0;
        if is_owned {
            room.out -= 1;
            self.returns = self.returns.wrapping_add(1);
        } else {
            known.in_reserve -= 1;
            self.in_reserve -= 1;
            room.in_reserves -= 1;
        }
        self.forget_idle(tenant);
        is_owned
    }

    fn withdraw(&mut self, key: JobKey) -> bool {
        let is_it = |row: &Row| (row.1, row.2) == key;
        let found = self.tenants.iter_mut().find_map(|(name, tenant)| {
            let place = tenant.jobs.iter().position(is_it)?;
            tenant.jobs.remove(place);
            Some((*name, tenant.jobs.is_empty()))
        });
        let Some((tenant, was_its_last)) = found else { return false };
        self.waiting -= 1;
        if was_its_last {
            self.turns.retain(|one| *one != tenant);
            self.forget_idle(tenant);
        }
        true
    }

    fn forget_idle(&mut self, tenant: u32) {
        let is_idle = |tenant: &Tenant| tenant.out == 0 && tenant.jobs.is_empty();
        if self.tenants.get(&tenant).is_some_and(is_idle) {
            self.tenants.remove(&tenant);
        }
    }

    fn retain(&mut self, mut keeps: impl FnMut(&Row) -> bool) {
        self.tenants.values_mut().for_each(|tenant| tenant.jobs.retain(&mut keeps));
        self.count_anew();
    }

    /// Takes out half of the line: the youngest of those who have the most in it.
    fn cut(&mut self) -> Vec<Row> {
        let keep = self.waiting.div_ceil(2);
        let kept = |level: usize| -> usize {
            self.tenants.values().map(|tenant| tenant.jobs.len().min(level)).sum()
        };
        // Up to `few` of each are kept, and of some one more: for all that would be too many.
        let (mut few, mut many) = (0, self.waiting);
        while many - few > 1 {
            let level = few.midpoint(many);
            if kept(level) <= keep {
                few = level;
            } else {
                many = level;
            }
        }
        let mut more = keep - kept(few);
        let mut rows = Vec::with_capacity(self.waiting - keep);
        for tenant in &self.turns {
            let jobs = &mut self.tenants.get_mut(tenant).expect("who has a turn has jobs").jobs;
            let one_more = usize::from(more > 0 && jobs.len() > few);
            more -= one_more;
            rows.extend(jobs.split_off(jobs.len().min(few + one_more)));
        }
        self.count_anew();
        rows
    }

    fn count_anew(&mut self) {
        self.waiting = self.tenants.values().map(|tenant| tenant.jobs.len()).sum();
        self.tenants.retain(|_, tenant| tenant.out > 0 || !tenant.jobs.is_empty());
        self.turns.retain(|one| self.tenants.get(one).is_some_and(|one| !one.jobs.is_empty()));
    }

    /// Nothing is known of its destination that is not forgotten with it.
    fn is_idle(&self) -> bool {
        self.out == 0 && self.waiting == 0 && self.left.is_empty()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64, partition: u8) -> MessageId {
        let shift = (0..64).find(|shift| MessageId::from_u64(1 << shift).partition().0 == 1);
        MessageId::from_u64(number | u64::from(partition) << shift.expect("an id names it"))
    }

    fn arrival(number: u64, age: Age, out_max: usize) -> Arrival {
        Arrival { row: (number, id(number, 0), 0), age, tenant: 0, out_max }
    }

    /// Jobs that have waited, for a destination that takes so many.
    fn put(lines: &mut Lines, destination: &str, numbers: std::ops::Range<u64>, out_max: usize) {
        for number in numbers {
            lines.join(destination, arrival(number, Age::Waited, out_max));
        }
    }

    /// Joins so many jobs, numbered from here on. Answers how many go and how many wait.
    fn join_all(
        lines: &mut Lines,
        destination: &str,
        from: u64,
        count: u64,
        age: Age,
    ) -> (usize, usize) {
        let (mut goes, mut waits) = (0, 0);
        for number in from..from + count {
            let turn = lines.join(destination, arrival(number, age, usize::MAX));
            goes += usize::from(turn == Turn::Goes);
            waits += usize::from(is_waiting(&turn));
        }
        (goes, waits)
    }

    fn is_waiting(turn: &Turn) -> bool {
        matches!(turn, Turn::Waits { .. })
    }

    /// A job comes back. Answers the numbers of those that went.
    fn step(lines: &mut Lines, destination: &str) -> Vec<u64> {
        let mut went = Vec::new();
        lines.step(destination, 0, |(id, _)| {
            went.push(id.as_u64());
            true
        });
        went
    }

    #[test]
    fn what_has_just_come_does_not_wait_behind_a_backlog() {
        let mut lines = Lines::new(1000);
        let turn = |lines: &mut Lines, number, age| lines.join("a", arrival(number, age, 8));
        let turns: Vec<Turn> = (0..8).map(|n| turn(&mut lines, n, Age::Waited)).collect();
        assert!(turns[..6].iter().all(|turn| *turn == Turn::Goes));
        assert!(turns[6..].iter().all(is_waiting));
        assert_eq!(turn(&mut lines, 8, Age::Fresh), Turn::Goes);
        assert_eq!(turn(&mut lines, 9, Age::Fresh), Turn::Goes);
        assert!(is_waiting(&turn(&mut lines, 10, Age::Fresh)));
        assert_eq!(turn(&mut lines, 11, Age::Expired), Turn::Expires);
        assert_eq!((lines.out("a"), lines.in_lines()), (8, 3));
    }

    #[test]
    fn a_backlog_that_moves_leaves_room_for_what_has_just_come() {
        let mut lines = Lines::new(100_000);
        put(&mut lines, "a", 0..1000, 40);
        for number in 0..500 {
            step(&mut lines, "a");
            assert!(lines.out("a") >= 30, "no place that may be used is left");
            let fresh = lines.join("a", arrival(2000 + number, Age::Fresh, 40));
            assert_eq!(fresh, Turn::Goes, "after {number} steps");
            step(&mut lines, "a");
        }
    }

    #[test]
    fn fresh_mail_and_a_backlog_go_by_turns() {
        for fresh_each in [1, 10] {
            let mut lines = Lines::new(100_000);
            let join = |lines: &mut Lines, number, age| lines.join("a", arrival(number, age, 40));
            put(&mut lines, "a", 0..1000, 40);
            let (mut old, mut fresh, mut next) = (0, 0, 1000);
            for _ in 0..800 {
                old += step(&mut lines, "a").iter().filter(|number| **number < 1000).count();
                for _ in 0..fresh_each {
                    fresh += usize::from(join(&mut lines, next, Age::Fresh) == Turn::Goes);
                    next += 1;
                }
                assert!(lines.out("a") <= 40);
            }
            assert!((390..=410).contains(&old), "{old} old ones of 800");
            assert!((390..=410).contains(&fresh), "{fresh} fresh ones of 800");
        }
    }

    #[test]
    fn a_backlog_has_all_the_room_while_nothing_comes_fresh() {
        let mut lines = Lines::new(100_000);
        put(&mut lines, "a", 0..100, 8);
        let went: Vec<u64> = (0..94).flat_map(|_| step(&mut lines, "a")).collect();
        assert_eq!(went, (6..100).collect::<Vec<_>>(), "in order, each once");
        assert_eq!((lines.out("a"), lines.in_lines()), (6, 0));
    }

    /// A destination with more mail of tenant 0 than fits into memory, 80 jobs of it out.
    fn flooded(jobs_max: usize) -> Lines {
        let mut lines = Lines::new(jobs_max);
        for number in 0..2 * jobs_max as u64 {
            lines.join("a", arrival(number, Age::Fresh, 80));
        }
        assert_eq!((lines.out("a"), lines.in_lines()), (80, jobs_max / 4));
        lines
    }

    fn of(tenant: u32, number: u64) -> Arrival {
        Arrival { tenant, ..arrival(number, Age::Fresh, 80) }
    }

    #[test]
    fn a_tenant_with_little_mail_goes_past_the_backlog_of_another() {
        let mut lines = flooded(1000);
        let mut number = 10_000;
        for round in 0..200 {
            // One comes each time that one goes, and the flood goes on.
            number += 2;
            assert_eq!(lines.join("a", of(1, number)), Turn::Goes, "round {round}");
            assert_ne!(lines.join("a", of(0, number + 1)), Turn::Goes, "round {round}");
            lines.step("a", 1, |_| true);
            lines.step("a", 0, |_| true);
            assert!(lines.out("a") <= 100 && lines.in_lines() <= 250);
        }
        assert_eq!(lines.lines["a"].tenants.len(), 1, "who has nothing here is forgotten");
    }

    #[test]
    fn a_flood_does_not_use_up_what_is_kept_for_others() {
        let mut lines = flooded(1000);
        // Half of the 20 that are left, half of what is left then, and so on.
        for (tenant, some) in [(1, 10), (2, 5), (3, 3), (4, 1)] {
            let goes = (0..1000).filter(|number| {
                let arrival = of(tenant, 10_000 * u64::from(tenant) + number);
                lines.join("a", arrival) == Turn::Goes
            });
            assert_eq!(goes.count(), some, "tenant {tenant}");
        }
        assert_eq!(lines.join("a", of(9, 99_999)), Turn::Goes);
        assert_eq!(lines.out("a"), 100);
    }

    #[test]
    fn tenants_in_line_have_their_turns() {
        let mut lines = flooded(1000);
        for number in 0..500 {
            lines.join("a", of(1, 10_000 + number));
        }
        let line = &lines.lines["a"];
        // Some stand in memory though those before are left on disk, which come to their turn too.
        assert_eq!(line.waiting_of(1), 250 / 8);
        assert!(lines.in_lines() <= 250);
        let mut went = [0_usize; 2];
        let mut back = std::iter::repeat_n(0, 80).chain(std::iter::repeat_n(1, 10));
        for _ in 0..90 {
            lines.step("a", back.next().expect("so many were out"), |(id, _)| {
                went[usize::from(id.as_u64() >= 10_000)] += 1;
                true
            });
        }
        assert!(went[0].abs_diff(went[1]) <= 10, "{went:?} of two tenants");
    }

    #[test]
    fn the_longest_line_gives_way_by_those_who_have_the_most_in_it() {
        let mut lines = Lines::new(400);
        put(&mut lines, "a", 0..1, 1);
        for tenant in 1..=20 {
            let ours = if tenant == 1 { 60 } else { 2 };
            for number in 0..ours {
                let number = 1000 * u64::from(tenant) + number;
                lines.join("a", Arrival { tenant, ..arrival(number, Age::Waited, 1) });
            }
        }
        assert_eq!(lines.in_lines(), 98);
        put(&mut lines, "b", 90_000..90_001, 1);
        for number in 90_001..90_005 {
            let turn = lines.join("b", arrival(number, Age::Waited, 1));
            let Turn::Waits { displaced } = turn else { panic!("{turn:?}") };
            let of_first = displaced.iter().filter(|(id, _)| id.as_u64() < 2000).count();
            assert_eq!(displaced.len(), of_first, "{displaced:?}");
        }
    }

    #[test]
    fn the_backlogs_of_many_tenants_leave_room_for_what_has_just_come() {
        for tenants in [2, 5, 50] {
            let mut lines = Lines::new(100_000);
            for number in 0..5000 {
                let tenant = number as u32 % tenants;
                lines.join("a", Arrival { tenant, ..arrival(number, Age::Waited, 40) });
            }
            assert!(lines.out("a") <= 40, "30 and the reserve");
            for round in 0..100_u32 {
                for back in 0..10 {
                    lines.step("a", (10 * round + back) % tenants, |_| true);
                }
                let number = 10_000 + u64::from(round);
                let tenant = round % tenants;
                let fresh = lines.join("a", Arrival { tenant, ..arrival(number, Age::Fresh, 40) });
                assert_eq!(fresh, Turn::Goes, "round {round} of {tenants} tenants");
            }
        }
    }

    #[test]
    fn half_of_a_line_gives_way_however_many_share_it() {
        for each in [1, 3] {
            let mut lines = Lines::new(4000);
            for number in 0.. {
                let tenant = number as u32 / each;
                let row = Arrival { tenant, ..arrival(number, Age::Waited, 1) };
                lines.join("a", row);
                if lines.in_lines() == 1000 {
                    break;
                }
            }
            put(&mut lines, "b", 90_000..90_001, 1);
            let turn = lines.join("b", arrival(90_001, Age::Waited, 1));
            let Turn::Waits { displaced } = turn else { panic!("{turn:?}") };
            assert_eq!((displaced.len(), lines.in_lines()), (500, 501), "{each} of each");
            let line = &lines.lines["a"];
            let queued: usize = line.tenants.values().map(|tenant| tenant.jobs.len()).sum();
            assert_eq!((line.waiting, queued), (500, 500));
            assert!(line.turns.iter().all(|tenant| line.waiting_of(*tenant) > 0));
        }
    }

    #[test]
    fn what_was_left_comes_to_its_turn_however_many_small_tenants_come() {
        let mut lines = flooded(1000);
        let partition = id(0, 0).partition();
        let mut number = 10_000;
        for round in 0.. {
            // More comes than goes, each of a tenant of its own.
            for _ in 0..12 {
                number += 1;
                lines.join("a", of(number as u32, number));
            }
            for _ in 0..5 {
                lines.step("a", 0, |_| true);
                let tenants = &lines.lines["a"].tenants;
                let others = tenants.iter().filter(|(name, one)| **name > 0 && one.out > 0);
                let other = others.map(|(name, _)| *name).min().unwrap_or(0);
                lines.step("a", other, |_| true);
            }
            if lines.take_left(partition).is_some() {
                assert!(round > 5, "it is not read while there is no room");
                break;
            }
            assert!(round < 100, "it is never read");
        }
    }

    #[test]
    fn many_slow_destinations_leave_room_for_another_one() {
        let jobs_max = 1000;
        let partition = id(0, 0).partition();
        for slow in [1, 5, 50] {
            let mut lines = Lines::new(jobs_max);
            let mut out = 0;
            for destination in 0..slow {
                let name = format!("slow {destination}");
                let (goes, _) = join_all(&mut lines, &name, 0, 2000, Age::Waited);
                let (fresh, _) = join_all(&mut lines, &name, 2000, 2000, Age::Fresh);
                assert!(goes > 0 && goes + fresh <= jobs_max / 4);
                out += goes + fresh;
            }
            assert_eq!(lines.in_lines(), jobs_max / 4, "{slow} destinations have a backlog");
            assert!(out + lines.in_lines() < jobs_max, "{slow} destinations take all");
            let (goes, waits) = join_all(&mut lines, "quick", 0, 300, Age::Waited);
            assert!(goes > 0 && waits > 0, "{slow} destinations: {goes} of 300 go, {waits} wait");
            assert_eq!(lines.in_lines(), jobs_max / 4);
            assert!(
                (0..slow)
                    .all(|destination| lines.is_full(&format!("slow {destination}"), partition))
            );
            let (goes, _) = join_all(&mut lines, "new", 0, 1, Age::Fresh);
            assert_eq!(goes, 1, "{slow} destinations");
        }
    }

    #[test]
    fn who_is_displaced_stands_on_disk_and_is_remembered() {
        let mut lines = Lines::new(80);
        put(&mut lines, "long", 0..30, 1);
        assert_eq!(lines.in_lines(), 20);
        assert_eq!(lines.lines["long"].left, [(21, id(21, 0), 0)]);
        put(&mut lines, "short", 100..101, 1);
        let Turn::Waits { displaced } = lines.join("short", arrival(101, Age::Waited, 1)) else {
            panic!("it waits");
        };
        assert_eq!(displaced, (11..21).map(|number| (id(number, 0), 0)).collect::<Vec<_>>());
        assert_eq!(lines.in_lines(), 11);
        assert_eq!(lines.lines["long"].left, [(11, id(11, 0), 0)]);
        // Ten each: neither is so much shorter that the other gives way.
        put(&mut lines, "short", 102..150, 1);
        assert_eq!(lines.in_lines(), 20);
        assert_eq!(lines.lines["long"].waiting, 10);
    }

    #[test]
    fn what_was_left_is_read_again_for_the_destination_with_the_least_to_do() {
        let mut lines = Lines::new(40);
        let mut number = 0;
        let destinations = ["a", "b", "slow"];
        for destination in destinations {
            join_all(&mut lines, destination, number, 100, Age::Waited);
            number += 100;
            assert!(lines.is_full(destination, id(0, 0).partition()));
            assert!(!lines.is_full(destination, id(0, 1).partition()), "of another partition");
        }
        assert_eq!(lines.take_left(id(0, 1).partition()), None);
        let mut refills = [0; 2];
        for _ in 0..100 {
            // Both quick ones send what they have; then as much is read again as there is room for.
            for destination in ["a", "b"] {
                while lines.out(destination) > 0 {
                    step(&mut lines, destination);
                }
            }
            let (destination, left) = lines.take_left(id(0, 0).partition()).expect("there is room");
            let place = destinations
                .iter()
                .position(|one| *one == &*destination)
                .expect("it is one of them");
            assert!(place < 2, "the slow one has no room");
            refills[place] += 1;
            assert!(!lines.is_full(&destination, id(0, 0).partition()));
            join_all(&mut lines, &destination, left.0, 50, Age::Waited);
        }
        assert!(refills.iter().all(|count| *count > 40), "one for the other: {refills:?}");
    }

    #[test]
    fn nothing_is_known_of_a_destination_of_which_nothing_is_left() {
        let mut lines = Lines::new(4);
        lines.leave_again("a", (7, id(7, 0), 0));
        lines.take_left(id(0, 0).partition()).expect("it was left");
        assert!(lines.lines.is_empty());
        put(&mut lines, "b", 0..8, 1);
        lines.leave_again("a", (7, id(7, 0), 0));
        lines.forget_left();
        assert!(!lines.is_full("b", id(0, 0).partition()) && !lines.lines.contains_key("a"));
        assert_eq!((lines.out("b"), lines.in_lines()), (1, 1));
    }

    #[test]
    fn the_first_that_was_left_is_remembered() {
        let mut lines = Lines::new(4);
        let row = |number, partition| (number, id(number, partition), 0);
        lines.leave_again("a", row(7, 0));
        lines.leave_again("a", row(5, 0));
        lines.leave_again("a", row(9, 0));
        lines.leave_again("a", row(8, 1));
        let partition = |number| id(0, number).partition();
        assert_eq!(lines.take_left(partition(0)), Some(("a".into(), row(5, 0))));
        assert_eq!(lines.take_left(partition(0)), None);
        assert_eq!(lines.take_left(partition(1)), Some(("a".into(), row(8, 1))));
    }

    #[test]
    fn who_leaves_a_line_makes_room() {
        let mut lines = Lines::new(1000);
        put(&mut lines, "a", 0..10, 2);
        put(&mut lines, "b", 10..20, 2);
        assert_eq!(lines.in_lines(), 16);
        assert!(lines.withdraw("a", (id(5, 0), 0)));
        assert!(!lines.withdraw("a", (id(5, 0), 0)), "it is gone");
        assert!(!lines.withdraw("a", (id(15, 0), 0)), "it stands elsewhere");
        let mut taken = lines.take_out(|(id, _)| id.as_u64() % 2 == 1);
        taken.sort_unstable();
        let even: Vec<JobKey> =
            [2, 4, 6, 8, 12, 14, 16, 18].map(|number| (id(number, 0), 0)).into();
        assert_eq!(taken, even[..], "those that are out stand in no line");
        assert_eq!(lines.in_lines(), 7);
        assert_eq!(step(&mut lines, "a"), [3]);
    }

    #[test]
    fn a_job_that_cannot_go_makes_way_for_the_next() {
        let mut lines = Lines::new(1000);
        put(&mut lines, "a", 0..5, 1);
        let mut asked = Vec::new();
        lines.step("a", 0, |(id, _)| {
            asked.push(id.as_u64());
            id.as_u64() == 3
        });
        assert_eq!(asked, [1, 2, 3]);
        lines.step("a", 0, |_| false);
        assert_eq!((lines.out("a"), lines.in_lines()), (0, 0));
        assert!(lines.lines.is_empty(), "what is known of it is forgotten");
    }

    #[test]
    fn the_smallest_home_sends_all_it_has() {
        let mut lines = Lines::new(1);
        let mut stored: std::collections::BTreeSet<u64> = (0..50).collect();
        join_all(&mut lines, "a", 0, 50, Age::Waited);
        let mut went = vec![0];
        while went.len() < 50 {
            went.extend(step(&mut lines, "a"));
            stored.retain(|number| !went.contains(number));
            if let Some((_, left)) = lines.take_left(id(0, 0).partition()) {
                let again: Vec<u64> = stored.range(left.0..).copied().collect();
                for number in again {
                    if lines.join("a", arrival(number, Age::Waited, 1)) == Turn::Goes {
                        went.push(number);
                    }
                }
            }
        }
        assert_eq!(went, (0..50).collect::<Vec<_>>());
    }
}
