//! The cache of outcomes.
//!
//! Owner:    one resolver of one shard. Time is an argument.
//! Bounds:   `entries` and `bytes` of `CacheBounds`, whichever is reached first. Eviction by the clock
//!           algorithm: the next entry that has expired or was not used since the hand last passed.
//!           Expired entries stay until then. An entry larger than the whole cache is not stored.

use std::collections::HashMap;
use std::mem::size_of;
use std::time::Instant;

use crate::net::resolver::query::ALLOCATION_BYTES;
use crate::net::resolver::query::Outcome;
use crate::net::resolver::query::Question;
use crate::net::resolver::query::RecordSet;
use crate::net::resolver::settings::CacheBounds;

/// Memory of an entry besides its name and answer: its slots in the vector and the map, doubled,
/// because both may have twice the capacity in use.
const ENTRY_BYTES: usize = 2 * (size_of::<Entry>() + size_of::<(Question, usize)>() + 1);

/// The two counts of an `Rc`.
const RC_BYTES: usize = 2 * size_of::<usize>();

pub(super) struct Cache {
    places: HashMap<Question, usize>,
    entries: Vec<Entry>,
    hand: usize,
    bytes: usize,
    bounds: CacheBounds,
}

struct Entry {
    question: Question,
    outcome: Outcome,
    expires: Instant,
    bytes: usize,
    used: bool,
}

impl Cache {
    pub(super) fn new(bounds: CacheBounds) -> Cache {
        Cache { places: HashMap::new(), entries: Vec::new(), hand: 0, bytes: 0, bounds }
    }

    pub(super) fn find(&mut self, question: &Question, now: Instant) -> Option<Outcome> {
        let entry = &mut self.entries[*self.places.get(question)?];
        if entry.expires <= now {
            return None;
        }
        entry.used = true;
        Some(entry.outcome.clone())
    }

    /// Stores `outcome` until `expires`, replacing an earlier one.
    pub(super) fn keep(
        &mut self,
        question: Question,
        outcome: Outcome,
        (expires, now): (Instant, Instant),
    ) {
        if let Some(place) = self.places.get(&question).copied() {
            self.remove(place);
        }
        let bytes = bytes_of(&question, &outcome);
        if expires <= now || self.bounds.entries == 0 || bytes > self.bounds.bytes {
            return;
        }
        while self.entries.len() >= self.bounds.entries || self.bytes + bytes > self.bounds.bytes {
            let place = self.clear_place(now);
            self.remove(place);
        }
        self.bytes += bytes;
        self.places.insert(question.clone(), self.entries.len());
        self.entries.push(Entry { question, outcome, expires, bytes, used: false });
        debug_assert_eq!(self.places.len(), self.entries.len());
    }

    pub(super) fn clear(&mut self) {
        *self = Cache::new(self.bounds);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The entry to evict. The second round finds one at the latest.
    fn clear_place(&mut self, now: Instant) -> usize {
        loop {
            let place = self.hand % self.entries.len();
            self.hand = place + 1;
            let entry = &mut self.entries[place];
            if entry.expires <= now || !entry.used {
                return place;
            }
            entry.used = false;
        }
    }

    /// The last entry moves to the freed place.
    fn remove(&mut self, place: usize) {
        let gone = self.entries.swap_remove(place);
        self.places.remove(&gone.question);
        self.bytes -= gone.bytes;
        if let Some(moved) = self.entries.get(place) {
            self.places.insert(moved.question.clone(), place);
        }
    }
}

fn bytes_of(question: &Question, outcome: &Outcome) -> usize {
    let name = RC_BYTES + question.name.len() + ALLOCATION_BYTES;
    let answer = match outcome {
        Outcome::Found(found) => {
            let data: usize = found.data.iter().map(|datum| datum.bytes()).sum();
            RC_BYTES + size_of::<RecordSet>() + 2 * ALLOCATION_BYTES + data
        }
        Outcome::Absent { .. } | Outcome::Failed(_) => 0,
    };
    ENTRY_BYTES + name + answer
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::net::resolver::fault::DnsFault;
    use crate::net::resolver::query::Datum;
    use crate::net::resolver::query::Kind;

    fn room_for(entries: usize) -> Cache {
        Cache::new(CacheBounds { entries, bytes: usize::MAX })
    }

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
        let (mut cache, now) = (room_for(4), Instant::now());
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
        let (mut cache, now) = (room_for(3), Instant::now());
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
        let (mut cache, now) = (room_for(2), Instant::now());
        let (soon, late) = (now + Duration::from_secs(1), now + Duration::from_secs(99));
        keep(&mut cache, "soon", soon, now);
        keep(&mut cache, "late", late, now);
        known(&mut cache, &["soon", "late"], now);
        keep(&mut cache, "new", late, soon);
        assert_eq!(known(&mut cache, &["soon", "late", "new"], soon), [false, true, true]);
    }

    #[test]
    fn nothing_is_kept_without_room_or_time() {
        let (mut none, now) = (room_for(0), Instant::now());
        keep(&mut none, "a", now + Duration::from_secs(1), now);
        let mut some = room_for(1);
        keep(&mut some, "a", now, now);
        assert_eq!((none.len(), some.len()), (0, 0));
    }

    /// As large as 4096 bytes on the wire become, where names are compressed to two.
    fn exchangers(count: usize) -> Outcome {
        let now = Instant::now();
        let host = "x".repeat(250);
        let datum = |place: usize| Datum::Exchange(place as u16, host.as_str().into());
        let data = (0..count).map(datum).collect();
        Outcome::Found(Rc::new(RecordSet { data, expires: now, authentic: false }))
    }

    #[test]
    fn bytes_are_bounded_whatever_the_answers_are() {
        const BYTES: usize = 200_000;
        let mut cache = Cache::new(CacheBounds { entries: 1000, bytes: BYTES });
        let now = Instant::now();
        let until = now + Duration::from_secs(10);
        for number in 0..500 {
            let name = format!("{number}.test");
            let before = cache.bytes();
            let count = [1, 256, 40][number % 3];
            cache.keep(question(&name), exchangers(count), (until, now));
            assert_eq!(known(&mut cache, &[&name], now), [true], "{name}");
            assert!(cache.bytes() <= BYTES, "{} bytes", cache.bytes());
            let held: usize = count * (250 + size_of::<Datum>());
            assert!(number > 0 || cache.bytes() - before > held, "what is held is counted");
        }
        assert!(cache.len() < 20, "{} entries of up to 70 KB each", cache.len());
        // Small ones in place of the large ones.
        for number in 0..1000 {
            keep(&mut cache, &format!("{number}.small"), until, now);
        }
        let small = cache.bytes() / cache.len();
        assert!((100..1000).contains(&small), "{small} bytes each");
        assert!(cache.bytes() <= BYTES && cache.bytes() > BYTES / 2, "{} bytes", cache.bytes());
        cache.keep(question("0.small"), exchangers(2000), (until, now));
        assert_eq!(known(&mut cache, &["0.small"], now), [false], "nothing has room for it");
        let counted: usize = cache.entries.iter().map(|entry| entry.bytes).sum();
        assert_eq!(cache.bytes(), counted);
        cache.clear();
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
    }
}
