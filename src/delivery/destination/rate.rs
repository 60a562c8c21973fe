//! What counts the messages of a destination: a limit of its own, or tokens of the lead.

use crate::base::Mono;
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

    pub(super) fn count(&mut self, now: Mono) {
        match self {
            Rate::Own(limit) => limit.count(1, now),
            Rate::Tokens(tokens) => {
                let had_one = tokens.use_one(now);
                debug_assert!(had_one, "`free` has counted it");
            }
        }
    }

    pub(super) fn frees_at(&mut self, now: Mono) -> Option<Mono> {
        match self {
            Rate::Own(limit) => limit.frees_at(now),
            Rate::Tokens(_) => None,
        }
    }
}
