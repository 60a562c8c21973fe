//! Tokens of a limit that another shard counts.
//!
//! Promise:  a token is used once, and only while it is valid.
//! Bounds:   as many as were asked for.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::Mono;
use crate::base::ShardId;
use crate::base::limits::TOKEN_ASK_MS;
use crate::base::limits::TOKEN_NONE_MS;
use crate::handoff::frame::Hop;
use crate::handoff::frames::Frame;

#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// In the order in which they expire.
    held: VecDeque<(u32, Mono)>,
    /// Nothing is asked before.
    asks_at: Option<Mono>,
    /// Some have expired: nothing is asked before, unless a connection is free to use them.
    pauses_until: Option<Mono>,
}

impl Tokens {
    /// Tokens that are valid now.
    pub fn free(&self, now: Mono) -> u32 {
        self.held.iter().filter(|(_, until)| now < *until).map(|(tokens, _)| tokens).sum()
    }

    /// When the first of those that are valid expires.
    pub fn expires(&self, now: Mono) -> Option<Mono> {
        self.held.iter().map(|(_, until)| *until).find(|until| now < *until)
    }

    /// When, if mail waits, the lead is to be told something again.
    pub fn acts_at(&self, now: Mono) -> Option<Mono> {
        let times = [self.expires(now), self.asks_at, self.pauses_until];
        times.into_iter().flatten().filter(|at| now < *at).min()
    }

    /// Uses one, if there is one. Until when it was valid.
    pub fn use_one(&mut self, now: Mono) -> Option<Mono> {
        let (tokens, until) = self.held.iter_mut().find(|(_, until)| now < *until)?;
        let until = *until;
        *tokens -= 1;
        self.held.retain(|(tokens, _)| *tokens > 0);
        Some(until)
    }

    /// Takes back a used one. `unused` tells of it if it has expired.
    pub fn put_back(&mut self, until: Mono) {
        let place = self.held.partition_point(|(_, other)| *other <= until);
        self.held.insert(place, (1, until));
    }

    /// How many to ask for, if so many messages could go. Not answered: asked again.
    pub fn ask(&mut self, wanted: u32, is_free: bool, now: Mono) -> Option<u32> {
        let missing = wanted.saturating_sub(self.free(now));
        let pauses = !is_free && self.pauses_until.is_some_and(|until| now < until);
        if missing == 0 || pauses || self.asks_at.is_some_and(|at| now < at) {
            return None;
        }
        self.asks_at = Some(now.plus_ms(TOKEN_ASK_MS));
        Some(missing)
    }

    /// The answer: tokens, or none until then.
    pub fn on_allow(&mut self, tokens: u32, until: Mono, now: Mono) {
        if tokens > 0 {
            self.asks_at = None;
            self.held.push_back((tokens, until));
        } else {
            self.asks_at = Some(until.min(now.plus_ms(TOKEN_NONE_MS)));
        }
    }

    /// Tokens to give back: all that have expired, and the others too if no mail waits.
    pub fn unused(&mut self, waiting: usize, now: Mono) -> Vec<(u32, Mono)> {
        let (kept, unused): (_, VecDeque<_>) =
            self.held.drain(..).partition(|(_, until)| waiting > 0 && now < *until);
        self.held = kept;
        if waiting > 0 && !unused.is_empty() {
            self.pauses_until = Some(now.plus_ms(TOKEN_NONE_MS));
        }
        unused.into()
    }

    /// What the lead of the limit is told: tokens that are not used, and how many are wanted. `is_free`:
    /// a connection would use one at once. `hop`: of the destination whose source is limited.
    pub fn frames(
        &mut self,
        (queued, is_free): (u32, bool),
        (limit, from): (u64, ShardId),
        hop: Option<&Arc<Hop>>,
        now: Mono,
    ) -> impl Iterator<Item = Frame> + use<> {
        let unused = self.unused(queued as usize, now).into_iter();
        let unused = unused.map(move |(tokens, until)| Frame::Unused { limit, tokens, until });
        let asked = self.ask(queued, is_free, now);
        let hop = hop.cloned();
        unused.chain(asked.map(move |tokens| Frame::Ask { limit, from, tokens, hop }))
    }
}
