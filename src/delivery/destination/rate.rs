//! What counts the messages of a destination or a source: a limit of its own, or tokens of the lead.

use crate::base::Mono;
use crate::base::limits::TOKEN_MS;
use crate::delivery::limits::Keeping;
use crate::delivery::limits::RateLimit;
use crate::delivery::limits::Users;
use crate::delivery::tokens::Tokens;
use crate::route::Rates;

/// Until when the tokens were valid that a message has used. `None`: no rate counts it.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountedBy {
    pub destination: Option<Mono>,
    pub source: Option<Mono>,
}

/// What counts the messages of a destination, or of one of its sources.
#[derive(Debug)]
pub enum Rate {
    Own(RateLimit),
    /// A member of a striped destination gets them from the lead.
    Tokens(Tokens),
}

impl Rate {
    /// Of a member of a striped destination. Nothing counts where no rate is set.
    pub fn of_member(rates: &Rates) -> Rate {
        match rates.is_limited() {
            true => Rate::Tokens(Tokens::default()),
            false => Rate::Own(RateLimit::new(rates, Keeping::InMemory, Users::OneShard)),
        }
    }

    /// A reload. What was sent before still counts; of a member the lead counts it.
    pub(super) fn set_rates(&mut self, rates: &Rates, is_member: bool) {
        let has_tokens = matches!(self, Rate::Tokens(_));
        match self {
            Rate::Own(limit) if !is_member => limit.set_rates(rates),
            _ if has_tokens != rates.is_limited() => *self = Rate::of_member(rates),
            _ => {}
        }
    }

    /// Messages that it admits now, whether a save covers them or not.
    pub(super) fn room(&self, now: Mono) -> u32 {
        match self {
            Rate::Own(limit) => limit.room(now),
            Rate::Tokens(tokens) => tokens.free(now),
        }
    }

    /// As `free`, but no save becomes due.
    pub(super) fn saved_room(&self, now: Mono) -> u32 {
        match self {
            Rate::Own(limit) => limit.saved_room(now),
            Rate::Tokens(tokens) => tokens.free(now),
        }
    }

    /// Whether a message has to wait.
    pub(super) fn is_spent(&self, now: Mono) -> bool {
        match self {
            Rate::Own(limit) => limit.awaits_save() || limit.room(now) == 0,
            Rate::Tokens(tokens) => tokens.free(now) == 0,
        }
    }

    pub(super) fn free(&mut self, now: Mono) -> u32 {
        match self {
            Rate::Own(limit) => limit.free(now),
            Rate::Tokens(tokens) => tokens.free(now),
        }
    }

    /// Counts a message. Until when its token was valid, if it counts.
    pub(super) fn count(&mut self, now: Mono) -> Option<Mono> {
        match self {
            Rate::Own(limit) => {
                limit.count(1, now);
                limit.is_limited().then(|| now.plus_ms(TOKEN_MS))
            }
            Rate::Tokens(tokens) => {
                let used = tokens.use_one(now);
                debug_assert!(used.is_some(), "`free` has counted it");
                used
            }
        }
    }

    /// The message with the token that was valid until then does not count.
    pub fn give_back(&mut self, until: Mono, now: Mono) {
        match self {
            Rate::Own(limit) => limit.give_back(1, until, now),
            Rate::Tokens(tokens) => tokens.put_back(until),
        }
    }

    pub(super) fn frees_at(&mut self, now: Mono) -> Option<Mono> {
        match self {
            Rate::Own(limit) => limit.frees_at(now),
            Rate::Tokens(_) => None,
        }
    }

    /// Whether something that was sent still counts here.
    pub(super) fn counts(&mut self, now: Mono) -> bool {
        match self {
            Rate::Own(limit) => limit.empties_at(now) > now,
            Rate::Tokens(_) => false,
        }
    }
}
