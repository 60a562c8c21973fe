//! What counts the messages of a destination: a limit of its own, or tokens of the lead.

use crate::base::Mono;
use crate::base::limits::TOKEN_MS;
use crate::delivery::limits::Keeping;
use crate::delivery::limits::RateLimit;
use crate::delivery::limits::Users;
use crate::delivery::tokens::Tokens;
use crate::route::DestinationPolicy;

/// What counts the messages of a destination.
#[derive(Debug)]
pub enum Rate {
    Own(RateLimit),
    /// A member of a striped destination gets them from the lead.
    Tokens(Tokens),
}

impl Rate {
    /// Of a member of a striped destination. Nothing counts where no rate is set.
    pub fn of_member(policy: &DestinationPolicy) -> Rate {
        match policy.rates.is_limited() {
            true => Rate::Tokens(Tokens::default()),
            false => Rate::Own(RateLimit::new(&policy.rates, Keeping::InMemory, Users::OneShard)),
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
}
