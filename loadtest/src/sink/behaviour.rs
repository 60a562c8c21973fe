//! How the sink treats mail for a domain: delays, refusals, drops, limits.
//!
//! Choice:   the exact domain, then the longest `*.suffix`, then `[default]`. `*.suffix` matches the
//!           subdomains only. At DATA, and at the end of the body unless the protocol is LMTP, the
//!           domain of the first recipient decides for all.
//! Owner:    all shards share one. Only the connection counts change; a limit covers the whole sink.

use std::collections::HashMap;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;

use crate::random::LogNormal;
use crate::random::Random;

/// The longest delay, whatever a distribution gives.
pub const DELAY_SECONDS_MAX: f64 = 3600.0;

/// A point of the session at which a behaviour acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Moment {
    Connect,
    /// HELO, EHLO or LHLO.
    #[value(aliases = ["helo", "lhlo"])]
    Ehlo,
    Mail,
    Rcpt,
    /// DATA or the first BDAT.
    Data,
    /// The end of the body.
    #[value(name = ".")]
    End,
}

impl Moment {
    pub fn knows_the_recipient(self) -> bool {
        matches!(self, Moment::Rcpt | Moment::Data | Moment::End)
    }
}

/// A delay in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spread {
    Constant(f64),
    Uniform(f64, f64),
    LogNormal(LogNormal),
}

impl Spread {
    fn draw(self, random: &mut Random) -> Duration {
        let ms = match self {
            Spread::Constant(ms) => ms,
            Spread::Uniform(least, most) => least + (most - least) * random.fraction(),
            Spread::LogNormal(spread) => spread.draw(random),
        };
        Duration::from_secs_f64((ms / 1000.0).min(DELAY_SECONDS_MAX))
    }
}

/// One entry of a behaviour file.
#[derive(Debug, Default)]
pub struct Behaviour {
    pub delays: Vec<(Moment, Spread)>,
    /// With the share of cases that get this reply.
    pub replies: Vec<(Moment, f64, Box<[u8]>)>,
    pub drops: Vec<(Moment, f64)>,
    pub tarpit_bytes_per_second: Option<u32>,
    pub connections_max: Option<u32>,
    pub messages_max: Option<u32>,
    pub greylist: Option<Duration>,
    pub connections: AtomicU32,
}

/// What happens at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'b> {
    Proceed,
    /// A whole reply, with its line ends.
    Reply(&'b [u8]),
    Drop,
}

impl Behaviour {
    pub fn delay(&self, moment: Moment, random: &mut Random) -> Duration {
        let own = self.delays.iter().filter(|(at, _)| *at == moment);
        own.map(|(_, spread)| spread.draw(random)).sum()
    }

    pub fn action(&self, moment: Moment, random: &mut Random) -> Action<'_> {
        for (_, rate) in self.drops.iter().filter(|(at, _)| *at == moment) {
            if random.fraction() < *rate {
                return Action::Drop;
            }
        }
        let mut replies = self.replies.iter().filter(|(at, ..)| *at == moment).peekable();
        if replies.peek().is_none() {
            return Action::Proceed;
        }
        // One draw for all replies: their rates are shares of the same whole.
        let mut left = random.fraction();
        for (_, rate, text) in replies {
            if left < *rate {
                return Action::Reply(text);
            }
            left -= rate;
        }
        Action::Proceed
    }

    /// Counts a connection; `false` if the limit is reached.
    pub fn try_connect(&self) -> bool {
        let most = self.connections_max.unwrap_or(u32::MAX);
        let more = |now: u32| (now < most).then(|| now + 1);
        self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub fn disconnect(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All entries of a file.
#[derive(Debug, Default)]
pub struct Behaviours {
    pub all: Vec<Behaviour>,
    pub exact: HashMap<Box<[u8]>, usize>,
    /// By the suffix behind `*.`.
    pub below: HashMap<Box<[u8]>, usize>,
    pub default: Option<usize>,
}

impl Behaviours {
    /// The index of the entry for a domain in lower case.
    pub fn find(&self, domain: &[u8]) -> Option<usize> {
        if let Some(place) = self.exact.get(domain) {
            return Some(*place);
        }
        let mut rest = domain;
        while let Some(dot) = memchr::memchr(b'.', rest).filter(|_| !self.below.is_empty()) {
            rest = &rest[dot + 1..];
            if let Some(place) = self.below.get(rest) {
                return Some(*place);
            }
        }
        self.default
    }

    pub fn get(&self, place: usize) -> &Behaviour {
        &self.all[place]
    }

    /// The entry that acts before a recipient is known.
    pub fn of_default(&self) -> Option<&Behaviour> {
        self.default.map(|place| self.get(place))
    }
}
