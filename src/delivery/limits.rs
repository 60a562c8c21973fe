//! Rates: how many messages may go in a second, a minute, an hour and a day.
//!
//! Owner:    a `RateLimit` belongs to one shard, which counts; other shards get tokens from it.
//! Promise:  no rate is exceeded in any interval of its length, however shards share it, and a kill
//!           at any instant does not change that.
//! Order:    the windows of a minute and more are kept on disk. What is on disk counts more messages
//!           than were sent, and nothing is sent beyond it: a write comes first. Until a write is
//!           known to be durable the old and the new bound both hold, since a kill may leave either.
//! Cost:     the oldest of `SLICES` + 1 slices counts in full, so that a rate is used to at least
//!           20/21. After a kill up to `RESERVE_MS` of it are wasted. Shared rates count a token for
//!           `TOKEN_MS` longer.
//! Bounds:   about 120 bytes per window.

use crate::base::Mono;
use crate::base::limits::RESERVE_MS;
use crate::base::limits::SAVE_INTERVAL_MS;
use crate::base::limits::TOKEN_MS;
use crate::delivery::limit_record::Slice;
use crate::delivery::limit_record::StoredLimit;
use crate::delivery::limit_record::StoredWindow;
use crate::route::Rates;

const SLICES: u64 = 20;
const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
/// The zero of slice numbers lies so long before that of the clock, for what an earlier process sent.
const BEFORE_START_MS: u64 = 2 * DAY_MS;
/// Messages that a save covers at least, unless that is an eighth of a rate.
const RESERVE_MIN: u64 = 8;

/// Whether a limit outlives the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    Stored,
    InMemory,
}

/// Who uses a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    OneShard,
    /// Shards with tokens.
    Shards,
}

impl Users {
    /// A token may be used that much later than it was counted.
    const fn longer_ms(self) -> u64 {
        match self {
            Users::OneShard => 0,
            Users::Shards => TOKEN_MS,
        }
    }
}

/// The rates of one destination, source or tenant, and what was sent under them.
#[derive(Clone, Debug)]
pub struct RateLimit {
    windows: Vec<Window>,
    keeping: Keeping,
    users: Users,
    sent: u64,
    /// What the file on disk covers of `sent`, and what the one being written will.
    covered: u64,
    saving: Option<u64>,
    /// What the last save added to `sent`.
    reserve: u64,
    /// At the last save.
    saved_sent: u64,
    saved_at: Mono,
    /// The next message had to wait for a save.
    is_short: bool,
}

impl RateLimit {
    pub fn new(rates: &Rates, keeping: Keeping, users: Users) -> RateLimit {
        RateLimit {
            windows: windows(rates, users),
            keeping,
            users,
            sent: 0,
            covered: 0,
            saving: None,
            reserve: 0,
            saved_sent: 0,
            saved_at: Mono::ZERO,
            is_short: false,
        }
    }

    /// A reload. What was sent before still counts.
    pub fn set_rates(&mut self, rates: &Rates) {
        let old = std::mem::replace(&mut self.windows, windows(rates, self.users));
        for window in &mut self.windows {
            if let Some(before) = old.iter().find(|before| before.span_ms == window.span_ms) {
                *window = Window { limit: window.limit, ..before.clone() };
            }
        }
    }

    /// Others use it from now on. What was sent before still counts.
    pub fn set_users(&mut self, users: Users, now: Mono) {
        if self.users == users {
            return;
        }
        self.users = users;
        for window in &mut self.windows {
            let mut fresh = Window::new(window.limit, window.span_ms, users.longer_ms());
            window.roll(now);
            for slice in window.stored(now).slices {
                fresh.count_aged(slice.count, slice.age_ms, now);
            }
            *window = fresh;
        }
    }

    pub fn is_limited(&self) -> bool {
        !self.windows.is_empty()
    }

    /// Messages that may go now. If one only waits for a save, the save is due.
    pub fn free(&mut self, now: Mono) -> u32 {
        let free = self.room(now);
        self.is_short |= free > 0 && self.left() == 0 && self.saving.is_none();
        self.saved_room(now)
    }

    /// Messages that the windows admit now, whether a save covers them or not.
    pub fn room(&self, now: Mono) -> u32 {
        self.windows.iter().map(|window| window.room(now)).min().unwrap_or(u32::MAX)
    }

    /// As `free`, but no save becomes due.
    pub fn saved_room(&self, now: Mono) -> u32 {
        self.room(now).min(u32::try_from(self.left()).unwrap_or(u32::MAX))
    }

    /// A message waits for a save.
    pub fn awaits_save(&self) -> bool {
        self.left() == 0 && (self.is_short || self.saving.is_some())
    }

    /// Counts messages that `free` has admitted.
    pub fn count(&mut self, messages: u32, now: Mono) {
        self.sent += u64::from(messages);
        self.windows.iter_mut().for_each(|window| window.count(messages, now));
    }

    /// When `free` admits a message again; `None` if it does now, or when a save is durable. A rate
    /// of 0 never does.
    pub fn frees_at(&mut self, now: Mono) -> Option<Mono> {
        self.windows.iter_mut().filter_map(|window| window.frees_at(now)).max()
    }

    /// When nothing that was sent until now counts any more.
    pub fn empties_at(&mut self, now: Mono) -> Mono {
        let windows = self.windows.iter_mut().map(|window| window.empties_at(now));
        windows.max().unwrap_or(Mono::ZERO)
    }

    /// Tokens for another shard and until when they are valid: at most half of what is left, so that
    /// others find some.
    pub fn allow(&mut self, wanted: u32, now: Mono) -> (u32, Mono) {
        assert!(self.users == Users::Shards, "the windows of a shared limit are longer");
        let tokens = wanted.min(self.free(now).div_ceil(2));
        self.count(tokens, now);
        (tokens, now.plus_ms(TOKEN_MS))
    }

    /// Takes back tokens that were valid until then.
    pub fn give_back(&mut self, tokens: u32, until: Mono, now: Mono) {
        for window in &mut self.windows {
            window.uncount(tokens, until, now);
        }
    }

    /// When `save` has something to write. `None`: nothing, or a save is under way.
    pub fn saves_at(&self) -> Option<Mono> {
        if self.saving.is_some() || self.kept_windows().next().is_none() {
            return None;
        }
        let has_sent = self.sent > self.saved_sent;
        if self.is_short || has_sent && self.left() <= self.reserve / 2 {
            return Some(Mono::ZERO);
        }
        // After a burst a smaller reserve is written, so that a kill wastes little.
        let is_old = has_sent || self.reserve > RESERVE_MIN;
        is_old.then(|| self.saved_at.plus_ms(SAVE_INTERVAL_MS))
    }

    /// What is to be written now: the windows, and a reserve for the next `RESERVE_MS` at the
    /// present pace. `saved` must follow when it is durable.
    pub fn save(&mut self, now: Mono) -> Option<StoredLimit> {
        self.saves_at().filter(|at| *at <= now)?;
        let smallest = self.kept_windows().map(|window| u64::from(window.limit)).min()?;
        let waited_ms = now.ms_since(self.saved_at);
        let most = (smallest / 8).max(1);
        let pace = (self.sent - self.saved_sent) * RESERVE_MS / waited_ms.max(1);
        self.reserve = pace.clamp(RESERVE_MIN.min(most), most);
        self.saving = Some(self.sent + self.reserve);
        self.saved_sent = self.sent;
        self.saved_at = now;
        self.is_short = false;
        for window in &mut self.windows {
            window.roll(now);
        }
        let windows = self.kept_windows().map(|window| window.stored(now)).collect();
        Some(StoredLimit { age_ms: 0, ahead: self.reserve as u32, windows })
    }

    /// Whether a save has been begun: the file counts messages that may not have been sent.
    pub fn was_saved(&self) -> bool {
        self.covered > 0 || self.saving.is_some()
    }

    /// The last save is durable.
    pub fn saved(&mut self) {
        self.covered = self.saving.take().unwrap_or(self.covered);
    }

    /// All that counts now, for `restore`.
    pub fn counted(&mut self, now: Mono) -> StoredLimit {
        self.windows.iter_mut().for_each(|window| window.roll(now));
        let windows = self.windows.iter().map(|window| window.stored(now)).collect();
        StoredLimit { age_ms: 0, ahead: 0, windows }
    }

    /// Counts what was sent before, by an earlier process with all of its reserve.
    pub fn restore(&mut self, stored: &StoredLimit, now: Mono) {
        for window in &mut self.windows {
            let Some(old) = stored.windows.iter().find(|old| old.span_ms == window.span_ms) else {
                continue;
            };
            for slice in &old.slices {
                window.count_aged(slice.count, slice.age_ms + stored.age_ms, now);
            }
            window.count(stored.ahead, now);
        }
    }

    fn kept_windows(&self) -> impl Iterator<Item = &Window> {
        let keeps = self.keeping == Keeping::Stored;
        self.windows.iter().filter(move |window| keeps && window.span_ms >= MINUTE_MS)
    }

    /// Messages that the disk covers beyond those sent.
    fn left(&self) -> u64 {
        if self.kept_windows().next().is_none() {
            return u64::MAX;
        }
        self.saving
            .map_or(self.covered, |saving| saving.min(self.covered))
            .saturating_sub(self.sent)
    }
}

fn windows(rates: &Rates, users: Users) -> Vec<Window> {
    let spans = [
        (rates.per_second, SECOND_MS),
        (rates.per_minute, MINUTE_MS),
        (rates.per_hour, HOUR_MS),
        (rates.per_day, DAY_MS),
    ];
    let limited = spans.into_iter().filter_map(|(limit, span_ms)| Some((limit?, span_ms)));
    limited.map(|(limit, span_ms)| Window::new(limit, span_ms, users.longer_ms())).collect()
}

/// Messages in a sliding span of time, counted in slices.
#[derive(Clone, Debug)]
struct Window {
    limit: u32,
    span_ms: u64,
    sum: u32,
    slice_ms: u64,
    /// The number of the newest slice.
    newest: u64,
    counts: [u32; SLICES as usize + 1],
}

impl Window {
    fn new(limit: u32, span_ms: u64, longer_ms: u64) -> Window {
        let slice_ms = (span_ms + longer_ms).div_ceil(SLICES);
        Window { limit, span_ms, sum: 0, slice_ms, newest: 0, counts: [0; SLICES as usize + 1] }
    }

    fn place(slice: u64) -> usize {
        (slice % (SLICES + 1)) as usize
    }

    /// Where a slice begins.
    fn start_of(&self, slice: u64) -> Mono {
        Mono::from_ms((slice * self.slice_ms).saturating_sub(BEFORE_START_MS))
    }

    fn roll(&mut self, now: Mono) {
        let slice = ms(now) / self.slice_ms;
        for back in 0..slice.saturating_sub(self.newest).min(SLICES + 1) {
            let count = &mut self.counts[Window::place(slice - back)];
            self.sum -= std::mem::take(count);
        }
        self.newest = self.newest.max(slice);
    }

    fn room(&self, now: Mono) -> u32 {
        let gone = (ms(now) / self.slice_ms).saturating_sub(self.newest).min(SLICES + 1);
        let last = self.newest + gone;
        let gone = (0..gone).map(|back| self.counts[Window::place(last - back)]).sum::<u32>();
        self.limit.saturating_sub(self.sum - gone)
    }

    fn count(&mut self, messages: u32, now: Mono) {
        self.count_aged(messages, 0, now);
    }

    /// Counts messages that went at least so long ago; those of an earlier process may be more than
    /// the limit is now.
    fn count_aged(&mut self, messages: u32, age_ms: u64, now: Mono) {
        self.roll(now);
        let slice = ms(now).saturating_sub(age_ms) / self.slice_ms;
        if slice + SLICES >= self.newest {
            let messages = messages.min(u32::MAX - self.sum);
            self.counts[Window::place(slice.min(self.newest))] += messages;
            self.sum += messages;
        }
    }

    /// Takes back what was counted when tokens were given that are valid until then.
    fn uncount(&mut self, tokens: u32, until: Mono, now: Mono) {
        self.roll(now);
        let slice = ms(until).saturating_sub(TOKEN_MS) / self.slice_ms;
        if slice + SLICES >= self.newest && slice <= self.newest {
            let count = &mut self.counts[Window::place(slice)];
            let tokens = tokens.min(*count);
            *count -= tokens;
            self.sum -= tokens;
        }
    }

    fn frees_at(&mut self, now: Mono) -> Option<Mono> {
        self.roll(now);
        if self.sum < self.limit {
            return None;
        }
        let mut left = self.sum;
        for slice in self.newest.saturating_sub(SLICES)..=self.newest {
            left -= self.counts[Window::place(slice)];
            if left < self.limit {
                return Some(self.start_of(slice + SLICES + 1));
            }
        }
        Some(Mono::NEVER)
    }

    fn empties_at(&mut self, now: Mono) -> Mono {
        self.roll(now);
        let mut slices = (self.newest.saturating_sub(SLICES)..=self.newest).rev();
        let last = slices.find(|slice| self.counts[Window::place(*slice)] > 0);
        last.map_or(Mono::ZERO, |slice| self.start_of(slice + SLICES + 1))
    }

    /// The slices with the ages that their messages have at least. Called after `roll`.
    fn stored(&self, now: Mono) -> StoredWindow {
        let slices = self.newest.saturating_sub(SLICES)..=self.newest;
        let filled = slices.filter(|slice| self.counts[Window::place(*slice)] > 0);
        let slices = filled.map(|slice| Slice {
            age_ms: (ms(now) + 1).saturating_sub((slice + 1) * self.slice_ms),
            count: self.counts[Window::place(slice)],
        });
        StoredWindow { span_ms: self.span_ms, slices: slices.collect() }
    }
}

/// Milliseconds since the zero of slice numbers.
fn ms(at: Mono) -> u64 {
    at.ms_since(Mono::ZERO) + BEFORE_START_MS
}

#[cfg(test)]
mod tests;
