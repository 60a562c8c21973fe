//! One destination on its owner shard: queue, fair turns, rates, window, backoff.
//!
//! Owner:    the shard that owns the destination (or one stripe of it), inside its `Scheduler`.
//! Promise:  no rate is exceeded in any interval. A sender with ten thousand jobs delays the single job
//!           of another by one turn at most. A job whose lease is about to expire is not started.
//! Bounds:   `jobs_max` jobs and the reserve of the homes, 40 bytes each; none during backoff.
//!
//! ```text
//! Working     --failures_to_back_off failures in a row-->        BackingOff
//! BackingOff  --its time is over and a job is queued-->          Probing (one connection)
//! Probing     --the probe fails-->                               BackingOff, twice as long
//! Probing     --the probe gets an answer to a message-->         Working, window 1
//! BackingOff  --an older connection gets an answer-->            Working, window 1
//! ```
//!
//! No clock and no randomness of its own: the time is an argument, and `Random` is seeded.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::base::MessageId;
use crate::base::Random;
use crate::base::limits::CONNECT_HOLD_FIRST_MS;
use crate::base::limits::CONNECT_HOLD_MAX_MS;
use crate::base::limits::DESTINATION_ERROR_BYTES_MAX;
use crate::base::limits::DESTINATION_FULL_MS;
use crate::base::limits::DESTINATION_IDLE_MS;
use crate::base::limits::JOB_TRANSFER_MS_MAX;
use crate::base::limits::LEASE_SWEEP_MS;
use crate::base::limits::THROTTLE_FIRST_MS;
use crate::base::limits::THROTTLE_MAX_MS;
use crate::base::limits::TURN_BYTES;
use crate::delivery::failure::Failure;
use crate::delivery::failure::FailureKind;
use crate::route::destination::DestinationPolicy;
use crate::route::destination::Rates;

/// A job in line. What is to be sent stays with the caller, under `id` and `job`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobTicket {
    pub id: MessageId,
    /// It is started only if it can end before this.
    pub lease_until_ms: u64,
    pub bytes: u64,
    /// Hashes of tenant and sender: tenants take turns, and within one its senders do.
    pub tenant: u32,
    pub sender: u32,
    pub lease: u32,
    pub recipients: u32,
    pub job: u16,
}

/// The job was not taken in: it waits on disk until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    pub due_ms: u64,
}

/// A job that goes back to its home shard unsent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandedBack {
    pub ticket: JobTicket,
    pub due_ms: u64,
    /// A connection was tried for it, and failed: that is an attempt. To be in line is none.
    pub was_tried: bool,
}

/// How a transfer ended. `Lost` is a connection that broke before the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEnd {
    Delivered,
    Refused,
    Deferred,
    Lost,
}

/// How a destination stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationState {
    Open,
    /// A rate is used up, or the destination asked for less.
    RateLimited {
        until_ms: u64,
    },
    BackingOff {
        until_ms: u64,
    },
    Probing,
    Paused,
}

/// What keeps a job from being sent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Nothing: it goes with the next free turn.
    Nothing,
    Paused,
    BackingOff {
        until_ms: u64,
    },
    Probing,
    /// The destination asked for less (421).
    Throttled {
        until_ms: u64,
    },
    Rate {
        until_ms: u64,
    },
    /// A connection has just failed.
    Hold {
        until_ms: u64,
    },
    /// This server lacked what a connection needs, such as a descriptor.
    OwnLimit {
        until_ms: u64,
    },
    Window {
        window: u32,
    },
    ConnectionsMax {
        connections: u32,
    },
    /// All connections of the shard are in use.
    Overall {
        connections: usize,
    },
}

/// One of `stripes` equal shares of a policy, numbered from 0. The shares add up to the whole: a
/// share may be 0 where the whole is less than the number of stripes. Jobs in memory are not
/// shared out: each home gives out no more than its part of them.
pub fn stripe(whole: &DestinationPolicy, stripes: u32, number: u32) -> DestinationPolicy {
    assert!(number < stripes, "stripes are numbered from 0");
    let share = |all: u32| all / stripes + u32::from(number < all % stripes);
    DestinationPolicy {
        connections_max: share(whole.connections_max),
        window_start: share(whole.window_start).max(1),
        rates: Rates {
            per_second: whole.rates.per_second.map(share),
            per_minute: whole.rates.per_minute.map(share),
            per_hour: whole.rates.per_hour.map(share),
            per_day: whole.rates.per_day.map(share),
        },
        ..whole.clone()
    }
}

/// Connections by what they do. Kept by the scheduler, one `shift` per change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCounts {
    pub opening: u32,
    /// About to ask for a job.
    pub asking: u32,
    pub busy: u32,
    pub idle: u32,
    /// Told to close, not gone yet: it still counts at the other end.
    pub closing: u32,
}

impl ConnectionCounts {
    pub fn live(&self) -> u32 {
        self.opening + self.asking + self.busy + self.idle
    }

    pub fn all(&self) -> u32 {
        self.live() + self.closing
    }

    /// Connections that take a job without being woken or opened for it.
    fn coming(&self) -> usize {
        (self.opening + self.asking) as usize
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub delivered: u64,
    pub refused: u64,
    pub deferred: u64,
    pub lost: u64,
    pub failures: u64,
    pub handed_back: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Working,
    BackingOff { until_ms: u64, level: u32 },
    Probing { level: u32 },
}

/// Whether an event comes from the connection that tries out a destination after a backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Probe,
    Plain,
}

/// One destination.
#[derive(Debug)]
pub struct Destination {
    policy: Arc<DestinationPolicy>,
    turns: Turns,
    rates: Vec<Span>,
    pub tally: ConnectionCounts,
    health: Health,
    is_paused: bool,
    window: u32,
    /// Since the window last changed.
    successes: u32,
    /// In a row.
    failures: u32,
    /// Connections that were opened for jobs in line since the last success, and failed.
    connects_failed: usize,
    throttle_ms: u64,
    throttled_until_ms: u64,
    hold_until_ms: u64,
    sweep_at_ms: u64,
    handed_back: Vec<HandedBack>,
    pub counters: Counters,
    last_error: Box<str>,
    /// None where the destination only asked for less.
    last_failure: Option<FailureKind>,
    last_host: Box<str>,
    /// What this server lacked for the last connection; empty: nothing.
    lack: Box<str>,
}

impl Destination {
    pub fn new(policy: Arc<DestinationPolicy>) -> Destination {
        let window = policy.window_start.clamp(1, policy.connections_max.max(1));
        Destination {
            rates: Span::all(&policy.rates),
            policy,
            turns: Turns::default(),
            tally: ConnectionCounts::default(),
            health: Health::Working,
            is_paused: false,
            window,
            successes: 0,
            failures: 0,
            connects_failed: 0,
            throttle_ms: 0,
            throttled_until_ms: 0,
            hold_until_ms: 0,
            sweep_at_ms: u64::MAX,
            handed_back: Vec::new(),
            counters: Counters::default(),
            last_error: Box::default(),
            last_failure: None,
            last_host: Box::default(),
            lack: Box::default(),
        }
    }

    /// A reload, or another share of a striped destination. What was sent before still counts.
    pub fn set_policy(&mut self, policy: Arc<DestinationPolicy>) {
        let old = std::mem::replace(&mut self.rates, Span::all(&policy.rates));
        for span in &mut self.rates {
            if let Some(before) = old.iter().find(|before| before.slice_ms == span.slice_ms) {
                *span = Span { limit: span.limit, ..before.clone() };
            }
        }
        self.window = self.window.clamp(1, policy.connections_max.max(1));
        self.policy = policy;
    }

    pub fn push(
        &mut self,
        ticket: JobTicket,
        now_ms: u64,
        random: &mut Random,
    ) -> Result<(), Full> {
        if let Health::BackingOff { until_ms, .. } = self.health
            && until_ms > now_ms
        {
            return Err(Full { due_ms: until_ms + self.spread_ms(random) });
        }
        // Homes send a quarter more of tenants with few out.
        if self.turns.len >= self.policy.jobs_max + self.policy.jobs_max / 4 {
            return Err(Full {
                due_ms: now_ms + DESTINATION_FULL_MS + random.below(DESTINATION_FULL_MS),
            });
        }
        self.turns.push(ticket);
        let latest_start_ms = ticket.lease_until_ms.saturating_sub(JOB_TRANSFER_MS_MAX);
        self.sweep_at_ms = self.sweep_at_ms.min(latest_start_ms.max(now_ms + 1));
        Ok(())
    }

    /// Takes a job out of line that its home wants back.
    pub fn withdraw(&mut self, ticket: &JobTicket) -> bool {
        self.turns.remove(ticket)
    }

    /// Empties the line: another owner has the destination now.
    pub fn withdraw_all(&mut self) -> Vec<JobTicket> {
        std::mem::take(&mut self.turns).into_tickets().collect()
    }

    /// The next job, if one may start now.
    pub fn take(&mut self, role: Role, now_ms: u64) -> Option<JobTicket> {
        if self.health != Health::Working && role == Role::Plain || self.admitted(now_ms) == 0 {
            return None;
        }
        while let Some(ticket) = self.turns.pop() {
            if may_start(&ticket, now_ms) {
                self.rates.iter_mut().for_each(Span::count);
                return Some(ticket);
            }
            self.hand_back(ticket, now_ms, false);
        }
        None
    }

    /// Whether an idle connection should take a job now.
    pub fn wants_wake(&mut self, now_ms: u64) -> bool {
        self.health == Health::Working && self.wanted(now_ms) > 0
    }

    /// Whether a new connection should be opened now.
    pub fn wants_connection(&mut self, now_ms: u64) -> bool {
        if self.turns.len == 0 || self.tally.all() >= self.policy.connections_max {
            return false;
        }
        match self.health {
            Health::Working => {
                self.tally.live() < self.window
                    && self.hold_until_ms <= now_ms
                    && self.wanted(now_ms) > 0
            }
            Health::BackingOff { until_ms, .. } => until_ms <= now_ms && self.admitted(now_ms) > 0,
            Health::Probing { .. } => false,
        }
    }

    /// A connection that `wants_connection` asked for is opened. After a backoff it is the probe.
    pub fn on_open(&mut self) -> Role {
        let Health::BackingOff { level, .. } = self.health else {
            return Role::Plain;
        };
        self.health = Health::Probing { level };
        // What failed during the backoff was for jobs that are not in line any more.
        self.connects_failed = 0;
        Role::Probe
    }

    /// Whether a connection that asks for a job may stay.
    pub fn keeps(&self, role: Role) -> bool {
        match self.health {
            Health::Working => self.tally.live() <= self.window,
            _ => role == Role::Probe,
        }
    }

    /// A transfer ended with this.
    pub fn on_job_end(&mut self, end: JobEnd) {
        match end {
            JobEnd::Delivered => self.counters.delivered += 1,
            JobEnd::Refused => self.counters.refused += 1,
            JobEnd::Deferred => self.counters.deferred += 1,
            JobEnd::Lost => self.counters.lost += 1,
        }
        match end {
            JobEnd::Delivered | JobEnd::Refused => self.on_success(),
            // A deferral in a backoff may be the very 421 that began it.
            JobEnd::Deferred if matches!(self.health, Health::Probing { .. }) => self.recover(),
            JobEnd::Deferred | JobEnd::Lost => {}
        }
    }

    fn on_success(&mut self) {
        self.failures = 0;
        self.connects_failed = 0;
        self.hold_until_ms = 0;
        self.lack = Box::default();
        if self.health != Health::Working {
            return self.recover();
        }
        self.successes += 1;
        if self.successes < self.window {
            return;
        }
        self.successes = 0;
        self.throttle_ms /= 2;
        // A window that is not filled says nothing about a larger one.
        if self.tally.live() >= self.window && self.window < self.policy.connections_max {
            self.window += 1;
        }
    }

    /// The destination talks to us again.
    fn recover(&mut self) {
        if self.health != Health::Working {
            self.health = Health::Working;
            self.window = 1;
            self.successes = 0;
            self.failures = 0;
        }
    }

    /// A connection could not be opened, or broke.
    pub fn on_failure(&mut self, failure: Failure, role: Role, now_ms: u64, random: &mut Random) {
        if failure.kind == FailureKind::Ours {
            self.lack = cut(failure.text);
            self.hold_until_ms = self.hold_until_ms.max(now_ms + CONNECT_HOLD_FIRST_MS);
            return self.on_probe_gone(role, now_ms + CONNECT_HOLD_FIRST_MS);
        }
        self.note_error(failure.text);
        self.last_failure = Some(failure.kind);
        self.last_host = failure.host.into();
        let window = self.window;
        self.fail(role, now_ms, random);
        if failure.kind == FailureKind::WayOut && self.health == Health::Working {
            self.window = window;
        }
    }

    /// The next job in line was what the connection was opened for.
    pub fn on_connect_failed(&mut self) {
        self.connects_failed += 1;
    }

    /// The destination asks for less: fewer connections, and silence for a while.
    pub fn on_throttle(&mut self, text: &str, role: Role, now_ms: u64, random: &mut Random) {
        self.note_error(text);
        self.last_failure = None;
        self.last_host = Box::default();
        self.throttle_ms = (self.throttle_ms * 2).clamp(THROTTLE_FIRST_MS, THROTTLE_MAX_MS);
        self.throttled_until_ms = now_ms + self.throttle_ms + random.below(self.throttle_ms / 4);
        self.fail(role, now_ms, random);
    }

    /// The probe is gone without having found out anything: another one may try.
    pub fn on_probe_gone(&mut self, role: Role, next_ms: u64) {
        if let (Role::Probe, Health::Probing { level }) = (role, self.health) {
            self.health = Health::BackingOff { until_ms: next_ms, level };
        }
    }

    fn fail(&mut self, role: Role, now_ms: u64, random: &mut Random) {
        self.counters.failures += 1;
        self.lack = Box::default();
        match self.health {
            Health::Working => {
                self.window = (self.window / 2).max(1);
                self.successes = 0;
                let hold_ms = CONNECT_HOLD_FIRST_MS << self.failures.min(16);
                self.hold_until_ms = now_ms + hold_ms.min(CONNECT_HOLD_MAX_MS);
                self.failures += 1;
                if self.failures >= self.policy.failures_to_back_off {
                    self.back_off(0, now_ms, random);
                }
            }
            Health::Probing { level } if role == Role::Probe => {
                self.back_off(level.saturating_add(1), now_ms, random);
            }
            _ => {}
        }
    }

    /// Silence, for up to a fifth less than the doubled time. The memory of the jobs is given back:
    /// the first of them is due with the probe, the others follow. As many have been tried as
    /// connections failed.
    fn back_off(&mut self, level: u32, now_ms: u64, random: &mut Random) {
        let most_ms = ms(self.policy.back_off_max).max(1);
        let factor = 1_u64.checked_shl(level).unwrap_or(u64::MAX);
        let full_ms = ms(self.policy.back_off_first).saturating_mul(factor).clamp(1, most_ms);
        let until_ms = now_ms + full_ms - random.below(full_ms / 5 + 1);
        self.health = Health::BackingOff { until_ms, level: level.min(63) };
        self.window = 1;
        let mut due_ms = until_ms;
        let mut tried = std::mem::take(&mut self.connects_failed);
        while let Some(ticket) = self.turns.pop() {
            self.hand_back(ticket, due_ms, tried > 0);
            tried = tried.saturating_sub(1);
            due_ms = until_ms + self.spread_ms(random);
        }
    }

    fn hand_back(&mut self, ticket: JobTicket, due_ms: u64, was_tried: bool) {
        self.counters.handed_back += 1;
        self.handed_back.push(HandedBack { ticket, due_ms, was_tried });
    }

    /// So that not all jobs of a destination come back with the probe.
    fn spread_ms(&self, random: &mut Random) -> u64 {
        random.below(ms(self.policy.back_off_first) / 2 + 1)
    }

    /// Takes out of line what can no longer be started under its lease. Looks through the whole
    /// queue, but not more than once in `LEASE_SWEEP_MS`.
    pub fn sweep(&mut self, now_ms: u64) {
        if self.sweep_at_ms > now_ms {
            return;
        }
        self.sweep_at_ms = u64::MAX;
        let turns = std::mem::take(&mut self.turns);
        for ticket in turns.into_tickets() {
            if may_start(&ticket, now_ms + LEASE_SWEEP_MS) {
                let latest_start_ms = ticket.lease_until_ms - JOB_TRANSFER_MS_MAX;
                self.sweep_at_ms = self.sweep_at_ms.min(latest_start_ms);
                self.turns.push(ticket);
            } else {
                self.hand_back(ticket, now_ms, false);
            }
        }
    }

    /// When, without any event, this destination may want something it does not want now.
    pub fn next_change_ms(&mut self, now_ms: u64) -> Option<u64> {
        if self.turns.len == 0 {
            return None;
        }
        let mut next_ms = self.sweep_at_ms;
        let mut later = |at_ms: u64| {
            if at_ms > now_ms {
                next_ms = next_ms.min(at_ms);
            }
        };
        if !self.is_paused {
            later(self.throttled_until_ms);
            later(self.hold_until_ms);
            if let Health::BackingOff { until_ms, .. } = self.health {
                later(until_ms);
            }
            for span in &mut self.rates {
                later(span.frees_at_ms(now_ms).unwrap_or(0));
            }
        }
        (next_ms < u64::MAX).then_some(next_ms.max(now_ms + 1))
    }

    pub fn pause(&mut self) {
        self.is_paused = true;
    }

    pub fn resume(&mut self) {
        self.is_paused = false;
    }

    pub fn take_handed_back(&mut self) -> Vec<HandedBack> {
        std::mem::take(&mut self.handed_back)
    }

    pub fn has_handed_back(&self) -> bool {
        !self.handed_back.is_empty()
    }

    pub fn policy(&self) -> &Arc<DestinationPolicy> {
        &self.policy
    }

    pub fn window(&self) -> u32 {
        self.window
    }

    pub fn queued(&self) -> usize {
        self.turns.len
    }

    /// The queued message that was accepted first. Examines all queued jobs.
    pub fn oldest(&self) -> Option<MessageId> {
        self.turns.oldest()
    }

    pub fn last_error(&self) -> &str {
        &self.last_error
    }

    /// What this server lacked for the last connection; empty: nothing.
    pub fn lack(&self) -> &str {
        &self.lack
    }

    /// The host that the last failure is of; empty if it is of none.
    pub fn last_host(&self) -> &str {
        &self.last_host
    }

    /// What kind of failure that was.
    pub fn last_failure(&self) -> Option<FailureKind> {
        self.last_failure
    }

    pub fn idle_reuse_ms(&self) -> u64 {
        ms(self.policy.idle_reuse)
    }

    /// Its last connection failed.
    pub fn is_in_trouble(&self) -> bool {
        self.failures > 0 || self.health != Health::Working
    }

    /// Nothing would be missed but what was learnt about the destination.
    pub fn is_idle(&self) -> bool {
        self.turns.len == 0
            && self.tally.all() == 0
            && self.handed_back.is_empty()
            && !self.is_paused
    }

    /// Until when forgetting this destination would do harm: its rates would start at nothing, a dead
    /// destination would be tried as if it were new.
    pub fn is_worth_keeping_until_ms(&mut self, now_ms: u64) -> u64 {
        let backoff_ms = match self.health {
            Health::BackingOff { until_ms, .. } => until_ms + DESTINATION_IDLE_MS,
            _ => 0,
        };
        let rates_ms = self.rates.iter_mut().map(|span| span.empties_at_ms(now_ms)).max();
        backoff_ms.max(self.throttled_until_ms).max(self.hold_until_ms).max(rates_ms.unwrap_or(0))
    }

    pub fn state(&mut self, now_ms: u64) -> DestinationState {
        match self.binding(now_ms) {
            Binding::Paused => DestinationState::Paused,
            Binding::BackingOff { until_ms } => DestinationState::BackingOff { until_ms },
            Binding::Probing => DestinationState::Probing,
            Binding::Throttled { until_ms } | Binding::Rate { until_ms } => {
                DestinationState::RateLimited { until_ms }
            }
            _ => DestinationState::Open,
        }
    }

    /// What keeps the next job of this destination waiting: the limit that would have to give way first.
    pub fn binding(&mut self, now_ms: u64) -> Binding {
        if self.is_paused {
            return Binding::Paused;
        }
        match self.health {
            Health::BackingOff { until_ms, .. } if until_ms > now_ms => {
                return Binding::BackingOff { until_ms };
            }
            Health::Probing { .. } => return Binding::Probing,
            _ => {}
        }
        if self.throttled_until_ms > now_ms {
            return Binding::Throttled { until_ms: self.throttled_until_ms };
        }
        let used_up = self.rates.iter_mut().filter_map(|span| span.frees_at_ms(now_ms)).max();
        if let Some(until_ms) = used_up {
            return Binding::Rate { until_ms };
        }
        if self.tally.all() >= self.policy.connections_max {
            return Binding::ConnectionsMax { connections: self.tally.all() };
        }
        if self.tally.live() >= self.window {
            return Binding::Window { window: self.window };
        }
        let until_ms = self.hold_until_ms;
        match until_ms > now_ms {
            true if !self.lack.is_empty() => Binding::OwnLimit { until_ms },
            true => Binding::Hold { until_ms },
            false => Binding::Nothing,
        }
    }

    /// How many jobs go before this one if all are equally long and none comes. Walks through the
    /// queue: for operators.
    pub fn ahead_of(&self, id: MessageId, job: u16) -> Option<usize> {
        self.turns.ahead_of(id, job)
    }

    /// Jobs that may start now, as far as this destination is concerned.
    fn admitted(&mut self, now_ms: u64) -> usize {
        if self.is_paused || self.throttled_until_ms > now_ms {
            return 0;
        }
        let free = self.rates.iter_mut().map(|span| span.free(now_ms)).min();
        free.map_or(usize::MAX, |free| free as usize)
    }

    /// Jobs that may start now and that no connection is coming for.
    fn wanted(&mut self, now_ms: u64) -> usize {
        self.admitted(now_ms).min(self.turns.len).saturating_sub(self.tally.coming())
    }

    fn note_error(&mut self, text: &str) {
        self.last_error = cut(text);
    }
}

fn cut(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(DESTINATION_ERROR_BYTES_MAX)].into()
}

fn may_start(ticket: &JobTicket, now_ms: u64) -> bool {
    ticket.lease_until_ms >= now_ms + JOB_TRANSFER_MS_MAX
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

/// Slices of a span of time. More are exacter and cost more.
const SLICES: u64 = 20;

/// Messages in a sliding span of time. It is counted in slices, and the oldest one counts in full:
/// in no stretch of the span's length is the limit exceeded, at the price of a twentieth.
#[derive(Clone, Debug)]
struct Span {
    limit: u32,
    sum: u32,
    slice_ms: u64,
    /// The number of the newest slice, counted from time 0.
    newest: u64,
    counts: [u32; SLICES as usize + 1],
}

impl Span {
    fn all(rates: &Rates) -> Vec<Span> {
        let spans = [
            (rates.per_second, 1_000),
            (rates.per_minute, 60_000),
            (rates.per_hour, 3_600_000),
            (rates.per_day, 86_400_000),
        ];
        let limited = spans.into_iter().filter_map(|(limit, ms)| Some((limit?, ms)));
        limited.map(|(limit, span_ms)| Span::new(limit, span_ms)).collect()
    }

    fn new(limit: u32, span_ms: u64) -> Span {
        let slice_ms = span_ms.div_ceil(SLICES);
        Span { limit, sum: 0, slice_ms, newest: 0, counts: [0; SLICES as usize + 1] }
    }

    fn place(slice: u64) -> usize {
        (slice % (SLICES + 1)) as usize
    }

    fn roll(&mut self, now_ms: u64) {
        let slice = now_ms / self.slice_ms;
        for back in 0..slice.saturating_sub(self.newest).min(SLICES + 1) {
            let count = &mut self.counts[Span::place(slice - back)];
            self.sum -= std::mem::take(count);
        }
        self.newest = self.newest.max(slice);
    }

    fn free(&mut self, now_ms: u64) -> u32 {
        self.roll(now_ms);
        self.limit.saturating_sub(self.sum)
    }

    /// Counts one more, at the time of the last `free`.
    fn count(&mut self) {
        self.counts[Span::place(self.newest)] += 1;
        self.sum += 1;
    }

    /// When nothing that was sent until now counts any more; 0 if nothing does.
    fn empties_at_ms(&mut self, now_ms: u64) -> u64 {
        self.roll(now_ms);
        let mut slices = (self.newest.saturating_sub(SLICES)..=self.newest).rev();
        let newest = slices.find(|slice| self.counts[Span::place(*slice)] > 0);
        newest.map_or(0, |slice| (slice + SLICES + 1) * self.slice_ms)
    }

    /// When the limit admits a message again; `None` if it does now. A limit of 0 never does.
    fn frees_at_ms(&mut self, now_ms: u64) -> Option<u64> {
        if self.free(now_ms) > 0 {
            return None;
        }
        let mut left = self.sum;
        for slice in self.newest.saturating_sub(SLICES)..=self.newest {
            left -= self.counts[Span::place(slice)];
            if left < self.limit {
                return Some((slice + SLICES + 1) * self.slice_ms);
            }
        }
        Some(u64::MAX)
    }
}

/// Fair turns (self-clocked fair queueing): who has waited longest for what it asks goes next.
/// A key that comes anew is not behind the crowd, and gains nothing by leaving and coming again.
#[derive(Debug, Default)]
struct Order {
    /// Tag, number of entry (so that equal tags keep their order), key.
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    /// The tag of the last turn.
    clock: u64,
    entries: u64,
}

impl Order {
    fn enter(&mut self, key: u32, cost: u64) {
        self.entries += 1;
        self.heap.push(Reverse((self.clock + cost, self.entries, key)));
    }

    /// It has nothing left to ask for.
    fn leave(&mut self, key: u32) {
        self.heap.retain(|Reverse((_, _, entered))| *entered != key);
    }

    fn next(&mut self) -> Option<u32> {
        let Reverse((tag, _, key)) = self.heap.pop()?;
        self.clock = tag;
        Some(key)
    }
}

/// A ticket in a line, without what the line itself says.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    id: MessageId,
    lease_until_ms: u64,
    bytes: u64,
    lease: u32,
    recipients: u32,
    job: u16,
}

const _: () = assert!(size_of::<Waiting>() <= 40);

impl Waiting {
    fn cost(&self) -> u64 {
        self.bytes + TURN_BYTES
    }

    fn ticket(self, tenant: u32, sender: u32) -> JobTicket {
        let Waiting { id, lease_until_ms, bytes, lease, recipients, job } = self;
        JobTicket { id, lease_until_ms, bytes, tenant, sender, lease, recipients, job }
    }
}

impl From<JobTicket> for Waiting {
    fn from(ticket: JobTicket) -> Waiting {
        let JobTicket { id, lease_until_ms, bytes, lease, recipients, job, .. } = ticket;
        Waiting { id, lease_until_ms, bytes, lease, recipients, job }
    }
}

/// The lines of one tenant's senders. None of them is empty.
#[derive(Debug, Default)]
struct Tenant {
    lines: BTreeMap<u32, VecDeque<Waiting>>,
    order: Order,
    len: usize,
}

/// All jobs of a destination in line. No tenant is empty.
#[derive(Debug, Default)]
struct Turns {
    tenants: BTreeMap<u32, Tenant>,
    order: Order,
    len: usize,
}

impl Turns {
    fn push(&mut self, ticket: JobTicket) {
        let waiting = Waiting::from(ticket);
        let tenant = self.tenants.entry(ticket.tenant).or_default();
        if tenant.len == 0 {
            self.order.enter(ticket.tenant, waiting.cost());
        }
        let line = tenant.lines.entry(ticket.sender).or_default();
        if line.is_empty() {
            tenant.order.enter(ticket.sender, waiting.cost());
        }
        line.push_back(waiting);
        tenant.len += 1;
        self.len += 1;
    }

    fn pop(&mut self) -> Option<JobTicket> {
        let tenant_key = self.order.next()?;
        let tenant = self.tenants.get_mut(&tenant_key).expect("who is in the order has jobs");
        let sender = tenant.order.next().expect("a tenant has jobs");
        let line = tenant.lines.get_mut(&sender).expect("who is in the order has jobs");
        let waiting = line.pop_front().expect("a line has jobs");
        match line.front() {
            Some(next) => tenant.order.enter(sender, next.cost()),
            None => drop(tenant.lines.remove(&sender)),
        }
        tenant.len -= 1;
        self.len -= 1;
        // A tenant pays for the job just sent, since which sender comes next may still change.
        match tenant.len {
            0 => drop(self.tenants.remove(&tenant_key)),
            _ => self.order.enter(tenant_key, waiting.cost()),
        }
        Some(waiting.ticket(tenant_key, sender))
    }

    /// Takes one out of the midst. Walks through its sender's line.
    fn remove(&mut self, ticket: &JobTicket) -> bool {
        let Some(tenant) = self.tenants.get_mut(&ticket.tenant) else { return false };
        let Some(line) = tenant.lines.get_mut(&ticket.sender) else { return false };
        let wanted = |waiting: &Waiting| {
            waiting.id == ticket.id && waiting.job == ticket.job && waiting.lease == ticket.lease
        };
        let Some(place) = line.iter().position(wanted) else { return false };
        line.remove(place);
        if line.is_empty() {
            tenant.lines.remove(&ticket.sender);
            tenant.order.leave(ticket.sender);
        }
        tenant.len -= 1;
        self.len -= 1;
        if tenant.len == 0 {
            self.tenants.remove(&ticket.tenant);
            self.order.leave(ticket.tenant);
        }
        true
    }

    /// All of them, each line in its order.
    fn into_tickets(self) -> impl Iterator<Item = JobTicket> {
        self.tenants.into_iter().flat_map(|(tenant, lines)| {
            lines.lines.into_iter().flat_map(move |(sender, line)| {
                line.into_iter().map(move |waiting| waiting.ticket(tenant, sender))
            })
        })
    }

    fn oldest(&self) -> Option<MessageId> {
        let lines = self.tenants.values().flat_map(|tenant| tenant.lines.values());
        lines.flatten().map(|waiting| waiting.id).min()
    }

    fn ahead_of(&self, id: MessageId, job: u16) -> Option<usize> {
        let before = |own: usize, lens: &mut dyn Iterator<Item = usize>| {
            own + lens.map(|len| len.min(own + 1)).sum::<usize>()
        };
        for (tenant_key, tenant) in &self.tenants {
            for (sender, line) in &tenant.lines {
                let wanted = |waiting: &Waiting| waiting.id == id && waiting.job == job;
                if let Some(own) = line.iter().position(wanted) {
                    let others = tenant.lines.iter().filter(|(key, _)| *key != sender);
                    let own = before(own, &mut others.map(|(_, line)| line.len()));
                    let others = self.tenants.iter().filter(|(key, _)| *key != tenant_key);
                    return Some(before(own, &mut others.map(|(_, tenant)| tenant.len)));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(raw: u64, tenant: u32, sender: u32) -> JobTicket {
        JobTicket {
            id: MessageId::from_u64(raw),
            lease_until_ms: u64::MAX,
            bytes: 1000,
            tenant,
            sender,
            lease: 0,
            recipients: 1,
            job: 0,
        }
    }

    fn popped(turns: &mut Turns, count: usize) -> Vec<JobTicket> {
        std::iter::from_fn(|| turns.pop()).take(count).collect()
    }

    #[test]
    fn a_small_sender_goes_past_a_large_one() {
        let mut turns = Turns::default();
        (0..10_000).for_each(|raw| turns.push(ticket(raw, 1, 1)));
        popped(&mut turns, 500);
        turns.push(ticket(77_777, 1, 2));
        assert!(turns.ahead_of(MessageId::from_u64(77_777), 0).is_some_and(|ahead| ahead <= 1));
        let next = popped(&mut turns, 2);
        assert!(next.iter().any(|job| job.sender == 2), "{next:?}");
    }

    #[test]
    fn what_is_taken_out_of_the_midst_leaves_no_trace() {
        let mut turns = Turns::default();
        for raw in 0..3 {
            turns.push(ticket(raw, 1, 1));
        }
        turns.push(ticket(10, 1, 2));
        turns.push(ticket(20, 2, 3));
        assert_eq!(turns.oldest(), Some(MessageId::from_u64(0)));
        assert!(turns.remove(&ticket(1, 1, 1)) && turns.remove(&ticket(10, 1, 2)));
        assert!(turns.remove(&ticket(20, 2, 3)) && !turns.remove(&ticket(20, 2, 3)));
        assert!(!turns.remove(&ticket(99, 1, 1)), "never was there");
        let left: Vec<u64> = popped(&mut turns, 2).iter().map(|job| job.id.as_u64()).collect();
        assert_eq!((left, turns.len), (vec![0, 2], 0));
        assert_eq!(turns.oldest(), None);
        assert!(turns.pop().is_none() && turns.tenants.is_empty());
    }

    #[test]
    fn a_sender_that_comes_and_goes_gains_nothing() {
        let mut turns = Turns::default();
        (0..100).for_each(|raw| turns.push(ticket(raw, 1, 1)));
        let mut of_2 = 0;
        for raw in 0..100 {
            if !turns.tenants[&1].lines.contains_key(&2) {
                turns.push(ticket(1000 + raw, 1, 2));
            }
            of_2 += popped(&mut turns, 1).iter().filter(|job| job.sender == 2).count();
        }
        assert!((45..=55).contains(&of_2), "{of_2} of 100");
    }

    #[test]
    fn tenants_share_equally_however_many_senders_they_have() {
        let mut turns = Turns::default();
        for raw in 0..400 {
            turns.push(ticket(raw, 1, raw as u32 % 20));
            turns.push(ticket(1000 + raw, 2, 1));
        }
        let first = popped(&mut turns, 100);
        let of_2 = first.iter().filter(|job| job.tenant == 2).count();
        assert!((48..=52).contains(&of_2), "{of_2} of 100");
        let senders: std::collections::BTreeSet<u32> =
            first.iter().filter(|job| job.tenant == 1).map(|job| job.sender).collect();
        assert_eq!(senders.len(), 20, "and all senders of a tenant have had a turn");
    }

    #[test]
    fn bytes_count_and_each_line_keeps_its_order() {
        let mut turns = Turns::default();
        for raw in 0..50 {
            turns.push(JobTicket { bytes: 10 << 20, ..ticket(raw, 1, 1) });
            turns.push(ticket(1000 + raw, 1, 2));
        }
        let first = popped(&mut turns, 20);
        assert!(first.iter().filter(|job| job.sender == 2).count() >= 18);
        let all = popped(&mut turns, 100);
        assert_eq!(first.len() + all.len(), 100);
        assert_eq!(turns.len, 0);
        assert!(turns.tenants.is_empty());
        let ids: Vec<_> = first.iter().chain(&all).filter(|job| job.sender == 2).collect();
        assert!(ids.is_sorted_by_key(|job| job.id));
    }

    #[test]
    fn no_stretch_of_time_exceeds_a_rate() {
        let mut random = Random::new(3);
        for (limit, span_ms) in [(1, 1000), (7, 1000), (50, 60_000), (1000, 3_600_000)] {
            let mut span = Span::new(limit, span_ms);
            let mut sent: Vec<u64> = Vec::new();
            let mut now_ms = 12_345_678;
            let start_ms = now_ms;
            while now_ms < start_ms + 5 * span_ms {
                match span.frees_at_ms(now_ms) {
                    None => {
                        span.count();
                        sent.push(now_ms);
                        now_ms += random.below(span_ms / u64::from(limit) / 2);
                    }
                    Some(at_ms) => {
                        assert!(at_ms > now_ms);
                        now_ms = at_ms;
                    }
                }
            }
            let gaps = sent.windows(limit as usize + 1).map(|few| few[limit as usize] - few[0]);
            assert!(gaps.min().is_some_and(|gap| gap >= span_ms), "{limit} in {span_ms}");
            assert!(sent.len() >= 9 * limit as usize / 2, "and it is used: {}", sent.len());
        }
    }

    #[test]
    fn a_rate_of_nothing_admits_nothing() {
        assert_eq!(Span::new(0, 1000).frees_at_ms(5), Some(u64::MAX));
    }

    #[test]
    fn a_lowered_rate_counts_what_was_sent() {
        let rates = |limit| Rates { per_minute: Some(limit), ..Rates::default() };
        let policy = |limit| {
            Arc::new(DestinationPolicy { rates: rates(limit), ..DestinationPolicy::default() })
        };
        let mut destination = Destination::new(policy(10));
        let mut random = Random::new(1);
        (0..20).for_each(|raw| destination.push(ticket(raw, 1, 1), 0, &mut random).expect("room"));
        assert_eq!((0..20).filter_map(|_| destination.take(Role::Plain, 0)).count(), 10);
        destination.set_policy(policy(4));
        assert_eq!(destination.binding(1), Binding::Rate { until_ms: 63_000 });
        destination.set_policy(policy(12));
        assert_eq!((0..20).filter_map(|_| destination.take(Role::Plain, 1)).count(), 2);
    }

    #[test]
    fn stripes_add_up_to_the_whole() {
        let whole = DestinationPolicy {
            connections_max: 20,
            rates: Rates { per_second: Some(2), per_minute: Some(100), ..Rates::default() },
            ..DestinationPolicy::default()
        };
        let stripes: Vec<_> = (0..3).map(|number| stripe(&whole, 3, number)).collect();
        assert_eq!(stripes.iter().map(|part| part.connections_max).sum::<u32>(), 20);
        let per_second = stripes.iter().filter_map(|part| part.rates.per_second);
        assert_eq!(per_second.collect::<Vec<_>>(), [1, 1, 0]);
        let per_minute = stripes.iter().filter_map(|part| part.rates.per_minute);
        assert_eq!(per_minute.sum::<u32>(), 100);
    }

    #[test]
    fn a_backoff_doubles_up_to_its_most() {
        let mut destination = Destination::new(Arc::new(DestinationPolicy::default()));
        let mut random = Random::new(9);
        let mut waits = Vec::new();
        for level in 0..80 {
            destination.back_off(level, 0, &mut random);
            let Binding::BackingOff { until_ms } = destination.binding(0) else {
                panic!("it backs off")
            };
            waits.push(until_ms);
        }
        assert!((48_000..=60_000).contains(&waits[0]));
        assert!((96_000..=120_000).contains(&waits[1]));
        assert!(waits[6..].iter().all(|wait| (2_880_000..=3_600_000).contains(wait)));
    }
}
