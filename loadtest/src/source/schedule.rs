//! Which message is next, and when it is due.
//!
//! Owner:    all sessions of all shards take their messages here.
//! Promise:  each number is given once. A message due before the end of the run is sent or counted as
//!           late: at the end, `OVERDUE` overdue messages are still sent.
//! Locks:    one, for random arrivals only, since each depends on the one before.

use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::random::Purpose;
use crate::random::Random;
use crate::source::shape::Shape;

/// Maximum number of messages; each costs one byte. Full: the run ends.
pub const MESSAGES_MAX: u64 = 1 << 32;

/// Overdue messages that are still sent at the end of the run.
const OVERDUE: u64 = 1000;

/// A message to send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    pub number: u64,
    /// Since the begin of the run; `None`: now.
    pub begin: Option<Duration>,
    /// Its stretch of the shape.
    pub step: usize,
}

/// All messages that were due.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    pub messages: u64,
    /// Messages of each stretch that were overdue at the end and not sent.
    pub late: Vec<u64>,
}

/// All messages of a run.
pub struct Schedule {
    shape: Option<Shape>,
    /// The end of the run.
    end: Option<Duration>,
    messages: u64,
    is_counted: bool,
    next: AtomicU64,
    /// Set at the end of the run: later numbers are not sent.
    cut: OnceLock<u64>,
    /// A Poisson process of rate 1: number and position of the next arrival.
    arrivals: Option<Mutex<(u64, f64)>>,
    random: Random,
}

impl Schedule {
    /// `messages`: the count of -m, if a count ends the run.
    pub fn new(
        shape: Option<Shape>,
        duration: Option<Duration>,
        messages: Option<u64>,
        random: Option<Random>,
    ) -> Schedule {
        let whole = shape.as_ref().map(Shape::seconds).filter(|seconds| seconds.is_finite());
        let whole = whole.map(Duration::from_secs_f64);
        let end = [duration, whole].into_iter().flatten().min();
        let is_random = random.is_some();
        let mut schedule = Schedule {
            end,
            messages: messages.unwrap_or(MESSAGES_MAX).min(MESSAGES_MAX),
            is_counted: messages.is_some(),
            next: AtomicU64::new(0),
            cut: OnceLock::new(),
            arrivals: None,
            random: random.unwrap_or(Random::new(0)),
            shape,
        };
        match (is_random, schedule.position_of_end()) {
            (true, _) if schedule.shape.is_some() => {
                schedule.arrivals = Some(Mutex::new((0, schedule.gap(0))));
            }
            // A message due exactly at the end is not sent, in spite of rounding.
            (_, Some(count)) => {
                schedule.messages = schedule.messages.min((count - 1e-6).ceil().max(0.0) as u64);
                schedule.is_counted = true;
            }
            _ => {}
        }
        schedule
    }

    pub fn shape(&self) -> Option<&Shape> {
        self.shape.as_ref()
    }

    pub fn end(&self) -> Option<Duration> {
        self.end
    }

    /// When a message is due, if that follows from its number alone.
    pub fn begin_of(&self, number: u64) -> Option<Duration> {
        let shape = self.shape.as_ref().filter(|_| self.arrivals.is_none())?;
        Some(Duration::from_secs_f64(shape.at(number as f64).1))
    }

    /// The next message, at this time of the run.
    pub fn next(&self, elapsed: Duration) -> Option<Turn> {
        let is_over = self.end.is_some_and(|end| elapsed >= end);
        if self.shape.is_none() {
            return if is_over { None } else { self.draw() };
        }
        if is_over {
            self.cut.get_or_init(|| self.drawn().saturating_add(OVERDUE));
        }
        if self.cut.get().is_some_and(|cut| self.drawn() >= *cut) {
            return None;
        }
        let turn = self.draw()?;
        // Another session may have taken a message in between; this one is then late.
        match self.cut.get().is_some_and(|cut| turn.number >= *cut) {
            true => None,
            false => Some(turn),
        }
    }

    /// Call this at the end of the run: it takes the remaining messages.
    pub fn planned(&self) -> Planned {
        let stretches = self.shape.as_ref().map_or(1, |shape| shape.stretches().len());
        let mut late = vec![0; stretches];
        if let Some(cut) = self.cut.get() {
            if self.arrivals.is_none() {
                self.count_late(*cut, &mut late);
            } else {
                // Sessions may have taken numbers beyond the cut without sending them.
                for number in *cut..self.drawn() {
                    late[self.step_of(number)] += 1;
                }
                while let Some(turn) = self.draw() {
                    late[turn.step] += 1;
                }
            }
        }
        let messages = if self.is_counted { self.messages } else { self.drawn() };
        Planned { messages, late }
    }

    /// Counts the messages from `cut` on by stretch with a binary search.
    fn count_late(&self, cut: u64, late: &mut [u64]) {
        let mut from = cut;
        for (step, late) in late.iter_mut().enumerate() {
            let (mut least, mut most) = (from, self.messages.max(from));
            while least < most {
                let middle = least + (most - least) / 2;
                match self.step_of(middle) <= step {
                    true => least = middle + 1,
                    false => most = middle,
                }
            }
            *late = least - from;
            from = least;
        }
    }

    fn drawn(&self) -> u64 {
        self.next.load(Ordering::Relaxed).min(self.messages)
    }

    fn draw(&self) -> Option<Turn> {
        let Some(shape) = &self.shape else {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            return (number < self.messages).then_some(Turn { number, begin: None, step: 0 });
        };
        let (number, position) = match &self.arrivals {
            None => {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                (number, number as f64)
            }
            Some(arrivals) => {
                let mut next = arrivals.lock().unwrap_or_else(PoisonError::into_inner);
                let (number, position) = *next;
                if self.position_of_end().is_some_and(|end| position >= end) {
                    return None;
                }
                *next = (number + 1, position + self.gap(number + 1));
                self.next.store(number + 1, Ordering::Relaxed);
                (number, position)
            }
        };
        let (step, seconds) = shape.at(position);
        let begin = Some(Duration::from_secs_f64(seconds));
        (number < self.messages).then_some(Turn { number, begin, step })
    }

    /// The stretch of a number beyond the cut; with random arrivals the last stretch.
    fn step_of(&self, number: u64) -> usize {
        match (&self.shape, &self.arrivals) {
            (Some(shape), None) => shape.at(number as f64).0,
            (Some(shape), Some(_)) => shape.stretches().len() - 1,
            (None, _) => 0,
        }
    }

    /// The number of messages due at the end of the run.
    fn position_of_end(&self) -> Option<f64> {
        Some(self.shape.as_ref()?.count_at(self.end?.as_secs_f64()))
    }

    /// The time from the arrival before to this one at rate 1.
    fn gap(&self, number: u64) -> f64 {
        -(1.0 - self.random.of(Purpose::Arrival, number).fraction()).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::chi_square;
    use crate::source::shape::read_flat;
    use crate::source::shape::read_steps;

    fn at_rate(rate: &str) -> Option<Shape> {
        Some(read_flat(rate).expect("a rate"))
    }

    fn seconds(count: f64) -> Option<Duration> {
        Some(Duration::from_secs_f64(count))
    }

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn a_count_ends_the_run_and_so_does_the_time() {
        let closed = Schedule::new(None, None, Some(3), None);
        let numbers: Vec<_> =
            std::iter::from_fn(|| closed.next(NOW)).map(|one| one.number).collect();
        assert_eq!((numbers, closed.planned().messages), (vec![0, 1, 2], 3));

        let timed = Schedule::new(None, seconds(1.0), None, None);
        assert_eq!(timed.next(NOW), Some(Turn { number: 0, begin: None, step: 0 }));
        assert_eq!(timed.next(Duration::from_secs(1)), None);
        assert_eq!(timed.planned(), Planned { messages: 1, late: vec![0] });

        let open = Schedule::new(at_rate("10"), seconds(2.0), None, None);
        let begins: Vec<_> = std::iter::from_fn(|| open.next(NOW)).map(|one| one.begin).collect();
        assert_eq!((begins.len(), begins[19]), (20, seconds(1.9)));
        assert_eq!(open.planned(), Planned { messages: 20, late: vec![0] });
    }

    #[test]
    fn at_the_end_a_bounded_number_of_overdue_messages_is_sent() {
        for random in [None, Some(Random::new(5))] {
            let schedule = Schedule::new(at_rate("5000"), seconds(1.0), None, random.clone());
            for _ in 0..300 {
                assert!(schedule.next(NOW).is_some());
            }
            let after = std::iter::from_fn(|| schedule.next(Duration::from_secs(1))).count();
            let planned = schedule.planned();
            assert_eq!((after, planned.late[0]), (1000, planned.messages - 1300));
            assert!((4600..=5400).contains(&planned.messages), "{planned:?}");
            assert_eq!(schedule.next(NOW), None);
        }
    }

    #[test]
    fn late_messages_count_for_their_step() {
        let steps = read_steps("1010x1s,30x1s").expect("steps");
        let schedule = Schedule::new(Some(steps), None, None, None);
        assert_eq!(schedule.next(NOW).map(|one| one.step), Some(0));
        let after: Vec<_> = std::iter::from_fn(|| schedule.next(Duration::from_secs(2))).collect();
        assert_eq!(after.len(), 1000);
        assert_eq!(schedule.planned(), Planned { messages: 1040, late: vec![9, 30] });
        // The count must not visit each message.
        let many = Schedule::new(at_rate("1e6"), seconds(3600.0), None, None);
        let end = Duration::from_secs(3600);
        assert_eq!(std::iter::from_fn(|| many.next(end)).count(), 1000);
        assert_eq!(many.planned(), Planned { messages: 3_600_000_000, late: vec![3_599_999_000] });
    }

    #[test]
    fn random_arrivals_are_a_poisson_process() {
        let schedule = Schedule::new(at_rate("100"), seconds(100.0), None, Some(Random::new(2)));
        let begins: Vec<f64> = std::iter::from_fn(|| schedule.next(NOW))
            .map(|one| one.begin.expect("an open loop").as_secs_f64())
            .collect();
        let count = begins.len() as f64;
        assert!((count - 10_000.0).abs() < 400.0, "four standard deviations: {count}");
        assert!(begins.is_sorted() && begins.iter().all(|one| *one < 100.0));
        // The gaps, in ten cells that are equally likely of an exponential distribution.
        let mut cells = vec![0; 10];
        for pair in begins.windows(2) {
            let below = 1.0 - (-100.0 * (pair[1] - pair[0])).exp();
            cells[((below * 10.0) as usize).min(9)] += 1;
        }
        // 9 degrees of freedom: above 28 once in a thousand seeds.
        let far = chi_square(&cells, &[(count - 1.0) / 10.0; 10]);
        assert!(far < 28.0, "{far} {cells:?}");
    }
}
