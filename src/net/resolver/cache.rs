//! What is known, and for how long.
//!
//! Owner:    one resolver of one shard. Time is an argument.
//! Bounds:   `entries_max`. When full, the clock's hand takes the next entry that has expired or
//!           was not used since the hand last passed. Expired entries lie until then.

use std::collections::HashMap;
use std::time::Instant;

use crate::net::resolver::lookup::Outcome;
use crate::net::resolver::query::Question;

pub(in crate::net::resolver) struct Cache {
    places: HashMap<Question, usize>,
    entries: Vec<Entry>,
    hand: usize,
    entries_max: usize,
}

struct Entry {
    question: Question,
    outcome: Outcome,
    expires: Instant,
    used: bool,
}

impl Cache {
    pub(in crate::net::resolver) fn new(entries_max: usize) -> Cache {
        Cache { places: HashMap::new(), entries: Vec::new(), hand: 0, entries_max }
    }

    pub(in crate::net::resolver) fn find(
        &mut self,
        question: &Question,
        now: Instant,
    ) -> Option<Outcome> {
        let entry = &mut self.entries[*self.places.get(question)?];
        if entry.expires <= now {
            return None;
        }
        entry.used = true;
        Some(entry.outcome.clone())
    }

    /// Keeps `outcome` until it `expires`.
    pub(in crate::net::resolver) fn keep(
        &mut self,
        question: Question,
        outcome: Outcome,
        (expires, now): (Instant, Instant),
    ) {
        if expires <= now || self.entries_max == 0 {
            return;
        }
        let entry = Entry { question: question.clone(), outcome, expires, used: false };
        if let Some(place) = self.places.get(&question) {
            self.entries[*place] = entry;
            return;
        }
        let place = if self.entries.len() < self.entries_max {
            self.entries.push(entry);
            self.entries.len() - 1
        } else {
            let place = self.clear_place(now);
            self.places.remove(&self.entries[place].question);
            self.entries[place] = entry;
            place
        };
        self.places.insert(question, place);
        debug_assert_eq!(self.places.len(), self.entries.len());
    }

    pub(in crate::net::resolver) fn clear(&mut self) {
        *self = Cache::new(self.entries_max);
    }

    pub(in crate::net::resolver) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The place of an entry that is missed least. A second turn finds one at the latest.
    fn clear_place(&mut self, now: Instant) -> usize {
        loop {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.entries.len();
            let entry = &mut self.entries[place];
            if entry.expires <= now || !entry.used {
                return place;
            }
            entry.used = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::net::resolver::fault::DnsFault;
    use crate::net::resolver::query::Kind;

    fn question(name: &str) -> Question {
        Question { name: name.into(), kind: Kind::Mx }
    }

    fn keep(cache: &mut Cache, name: &str, until: Instant, now: Instant) {
        let outcome = Outcome::Failed(DnsFault::ServerFailure);
        cache.keep(question(name), outcome, (until, now));
    }

    fn known(cache: &mut Cache, names: &[&str], now: Instant) -> Vec<bool> {
        names.iter().map(|name| cache.find(&question(name), now).is_some()).collect()
    }

    #[test]
    fn entries_expire() {
        let (mut cache, now) = (Cache::new(4), Instant::now());
        let until = now + Duration::from_secs(10);
        keep(&mut cache, "a", until, now);
        assert_eq!(known(&mut cache, &["a", "b"], now), [true, false]);
        assert_eq!(known(&mut cache, &["a"], until - Duration::from_nanos(1)), [true]);
        assert_eq!(known(&mut cache, &["a"], until), [false]);
        keep(&mut cache, "a", until + Duration::from_secs(10), until);
        assert_eq!((known(&mut cache, &["a"], until), cache.len()), (vec![true], 1));
        let other = Question { kind: Kind::A, ..question("a") };
        assert!(cache.find(&other, now).is_none(), "kinds are kept apart");
    }

    #[test]
    fn what_is_used_stays_and_the_bound_holds() {
        let (mut cache, now) = (Cache::new(3), Instant::now());
        let until = now + Duration::from_secs(10);
        for name in ["a", "b", "c"] {
            keep(&mut cache, name, until, now);
        }
        known(&mut cache, &["a", "c"], now);
        keep(&mut cache, "d", until, now);
        assert_eq!(known(&mut cache, &["a", "b", "c", "d"], now), [true, false, true, true]);
        for number in 0..1000 {
            let name = number.to_string();
            keep(&mut cache, &name, until, now);
            assert_eq!(known(&mut cache, &[&name], now), [true]);
            assert_eq!(cache.len(), 3);
        }
    }

    #[test]
    fn what_has_expired_makes_room_first() {
        let (mut cache, now) = (Cache::new(2), Instant::now());
        let (soon, late) = (now + Duration::from_secs(1), now + Duration::from_secs(99));
        keep(&mut cache, "soon", soon, now);
        keep(&mut cache, "late", late, now);
        known(&mut cache, &["soon", "late"], now);
        keep(&mut cache, "new", late, soon);
        assert_eq!(known(&mut cache, &["soon", "late", "new"], soon), [false, true, true]);
    }

    #[test]
    fn nothing_is_kept_without_room_or_time() {
        let (mut none, now) = (Cache::new(0), Instant::now());
        keep(&mut none, "a", now + Duration::from_secs(1), now);
        let mut some = Cache::new(1);
        keep(&mut some, "a", now, now);
        assert_eq!((none.len(), some.len()), (0, 0));
    }
}
