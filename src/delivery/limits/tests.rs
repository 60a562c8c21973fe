//! No rate is exceeded: in any interval, over shards, and over kills.

use super::*;

use crate::delivery::tokens::Tokens;

/// Chance from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

const RATES: Rates =
    Rates { per_second: Some(5), per_minute: Some(60), per_hour: Some(600), per_day: Some(4000) };

/// `sent` holds the milliseconds at which a message went, in order.
fn check(name: &str, sent: &[u64], rates: &Rates) {
    for (limit, span_ms) in [
        (rates.per_second, SECOND_MS),
        (rates.per_minute, MINUTE_MS),
        (rates.per_hour, HOUR_MS),
        (rates.per_day, DAY_MS),
    ] {
        let Some(limit) = limit else { continue };
        for pair in sent.windows(limit as usize + 1) {
            let (first, last) = (pair[0], pair[limit as usize]);
            assert!(last - first >= span_ms, "{name}: {limit} in {span_ms} ms exceeded at {last}");
        }
    }
}

/// A wait in which some windows empty and others do not.
fn pause_ms(random: &mut Random) -> u64 {
    match random.below(60) {
        0 => random.below(HOUR_MS),
        1..=3 => random.below(MINUTE_MS),
        _ => random.below(400),
    }
}

#[test]
fn no_interval_has_more_than_the_rate() {
    for seed in 0..15 {
        let mut random = Random(seed);
        let mut limit = RateLimit::new(&RATES, Keeping::InMemory, Users::OneShard);
        let mut at_ms = random.below(DAY_MS);
        let mut sent = Vec::new();
        while sent.len() < 6_000 {
            at_ms += pause_ms(&mut random);
            let now = Mono::from_ms(at_ms);
            for _ in 0..limit.free(now).min(random.below(20) as u32) {
                limit.count(1, now);
                sent.push(at_ms);
            }
            match limit.frees_at(now) {
                Some(later) => {
                    let before = Mono::from_ms(later.ms_since(Mono::ZERO) - 1);
                    assert_eq!(limit.clone().free(before), 0, "not free before {later:?}");
                    assert!(limit.clone().free(later) > 0);
                }
                None => assert!(limit.free(now) > 0),
            }
        }
        check(&format!("seed {seed}"), &sent, &RATES);
    }
}

#[test]
fn a_rate_is_used_up() {
    let rates = Rates { per_minute: Some(600), ..Rates::default() };
    for (users, least) in [(Users::OneShard, 600 * 19 / 20), (Users::Shards, 600 * 18 / 20)] {
        let mut limit = RateLimit::new(&rates, Keeping::InMemory, users);
        let mut sent = 0;
        for at_ms in (0..10 * MINUTE_MS).step_by(20) {
            let free = limit.free(Mono::from_ms(at_ms));
            limit.count(free, Mono::from_ms(at_ms));
            sent += free;
        }
        assert!((10 * least..=6_000 + 600).contains(&sent), "{sent} in ten minutes");
    }
}

#[test]
fn a_reload_keeps_what_was_sent() {
    let now = Mono::from_ms(5_000);
    let mut limit = RateLimit::new(&RATES, Keeping::InMemory, Users::OneShard);
    limit.count(5, now);
    assert_eq!((limit.free(now), limit.frees_at(now)), (0, Some(Mono::from_ms(6_050))));
    limit.set_rates(&Rates { per_second: Some(7), per_hour: Some(9), ..Rates::default() });
    assert_eq!(limit.free(now), 2);
    assert_eq!(limit.free(Mono::from_ms(7_000)), 4, "of nine an hour");
    limit.set_rates(&Rates { per_hour: Some(0), ..Rates::default() });
    assert_eq!(limit.frees_at(now), Some(Mono::NEVER));
    limit.set_rates(&Rates::default());
    assert!(limit.windows.is_empty());
    assert_eq!(
        (limit.free(now), limit.frees_at(now), limit.empties_at(now)),
        (u32::MAX, None, Mono::ZERO)
    );
}

#[test]
fn nothing_counts_after_the_longest_window() {
    let mut limit = RateLimit::new(&RATES, Keeping::InMemory, Users::OneShard);
    limit.count(1, Mono::from_ms(10));
    let empty = limit.empties_at(Mono::from_ms(20));
    assert!(empty >= Mono::from_ms(DAY_MS) && empty <= Mono::from_ms(DAY_MS / 20 * 22));
    assert_eq!(limit.empties_at(empty), Mono::ZERO);
}

#[test]
fn shards_with_tokens_exceed_no_rate() {
    for seed in 0..15 {
        let mut random = Random(seed);
        let mut lead = RateLimit::new(&RATES, Keeping::InMemory, Users::Shards);
        let mut shards = [Tokens::default(), Tokens::default(), Tokens::default()];
        // Answers under way, by when they arrive; some are lost.
        let mut frames: Vec<(u64, usize, u32, Mono)> = Vec::new();
        let mut sent = Vec::new();
        let mut at_ms = 0;
        while sent.len() < 3_000 {
            at_ms += pause_ms(&mut random) / 4;
            let now = Mono::from_ms(at_ms);
            frames.retain(|(arrives_ms, shard, tokens, until)| {
                let arrives = *arrives_ms <= at_ms;
                if arrives {
                    shards[*shard].on_allow(*tokens, *until, now);
                }
                !arrives
            });
            for (number, tokens) in shards.iter_mut().enumerate() {
                let waiting = random.below(4) as usize;
                if let Some(asked) = tokens.ask(waiting as u32, true, now) {
                    let (given, until) = lead.allow(asked, now);
                    if random.below(10) > 0 {
                        frames.push((at_ms + random.below(300), number, given, until));
                    }
                }
                for _ in 0..waiting {
                    if tokens.use_one(now).is_some() {
                        sent.push(at_ms);
                    }
                }
                if random.below(3) == 0 {
                    for (unused, until) in tokens.unused(random.below(2) as usize, now) {
                        lead.give_back(unused, until, now);
                    }
                }
            }
        }
        check(&format!("seed {seed}"), &sent, &RATES);
    }
}

#[test]
fn unused_tokens_are_free_again() {
    let rates = Rates { per_hour: Some(10), ..Rates::default() };
    let mut lead = RateLimit::new(&rates, Keeping::InMemory, Users::Shards);
    let (mut first, mut second) = (Tokens::default(), Tokens::default());
    let at = Mono::from_ms;
    assert_eq!(first.ask(0, true, at(0)), None);
    assert_eq!(first.ask(8, true, at(0)), Some(8));
    assert_eq!(first.ask(8, true, at(50)), None, "it has asked");
    let (given, until) = lead.allow(8, at(60));
    assert_eq!((given, until), (5, at(310)));
    first.on_allow(given, until, at(60));
    assert_eq!(first.ask(8, true, at(61)), Some(3));
    assert!(first.use_one(at(309)).is_some() && first.free(at(309)) == 4);
    assert!(first.use_one(at(310)).is_none() && first.free(at(310)) == 0);
    assert_eq!(first.unused(3, at(309)), []);
    assert_eq!(first.unused(3, at(310)), [(4, at(310))]);
    lead.give_back(4, at(310), at(320));
    assert_eq!(lead.free(at(320)), 9);
    let (given, until) = lead.allow(100, at(330));
    second.on_allow(given, until, at(330));
    assert_eq!(second.unused(0, at(331)), [(5, at(580))], "nothing waits");
    let (none, until) =
        RateLimit::new(&Rates { per_hour: Some(0), ..rates }, Keeping::InMemory, Users::Shards)
            .allow(5, at(340));
    assert_eq!(second.ask(5, true, at(340)), Some(5));
    assert_eq!(none, 0);
    second.on_allow(none, until, at(340));
    assert_eq!(second.ask(5, true, at(589)), None, "there are none until then");
    assert_eq!(second.ask(5, true, at(590)), Some(5));
    second.on_allow(none, Mono::NEVER, at(600));
    assert_eq!((second.ask(5, true, at(1599)), second.ask(5, true, at(1600))), (None, Some(5)));
    second.on_allow(5, at(1900), at(1650));
    assert_eq!(second.unused(5, at(1900)), [(5, at(1900))]);
    assert_eq!(second.ask(5, false, at(2899)), None, "no connection has used them");
    assert_eq!(second.ask(5, true, at(2899)), Some(5));
}

/// A process that sends under a stored limit, and the file that a kill leaves.
struct Sender {
    limit: RateLimit,
    started_ms: u64,
    file: Option<StoredLimit>,
    /// Of the file, and of what is being written.
    written_ms: u64,
    writing: Option<(StoredLimit, u64)>,
}

impl Sender {
    /// `at_ms` is true time; the clock of each process begins at 0.
    fn start(rates: &Rates, file: Option<(StoredLimit, u64)>, at_ms: u64) -> Sender {
        let mut limit = RateLimit::new(rates, Keeping::Stored, Users::OneShard);
        let mut kept = None;
        if let Some((mut stored, written_ms)) = file {
            stored.age_ms += at_ms - written_ms;
            stored.settle_ahead();
            limit.restore(&stored, Mono::ZERO);
            kept = Some(stored);
        }
        Sender { limit, started_ms: at_ms, file: kept, written_ms: at_ms, writing: None }
    }

    fn now(&self, at_ms: u64) -> Mono {
        Mono::from_ms(at_ms - self.started_ms)
    }

    /// What a kill leaves: a file that was being written may be the old or the new one.
    fn kill(self, random: &mut Random) -> Option<(StoredLimit, u64)> {
        match self.writing {
            Some(fresh) if random.below(2) == 0 => Some(fresh),
            _ => self.file.map(|file| (file, self.written_ms)),
        }
    }
}

#[test]
fn kills_exceed_no_rate() {
    let rates = Rates { per_second: None, ..RATES };
    for seed in 0..60 {
        let mut random = Random(seed);
        let mut at_ms = 0;
        let mut sender = Sender::start(&rates, None, at_ms);
        let mut sent = Vec::new();
        let mut kills = 0;
        while sent.len() < 2_000 {
            at_ms += pause_ms(&mut random) / 2;
            let now = sender.now(at_ms);
            for _ in 0..sender.limit.free(now).min(random.below(20) as u32) {
                sender.limit.count(1, now);
                sent.push(at_ms);
            }
            if let Some(stored) = sender.limit.save(now) {
                assert!(sender.writing.is_none(), "one write at a time");
                sender.writing = Some((stored, at_ms));
            }
            if random.below(3) == 0
                && let Some((stored, written_ms)) = sender.writing.take()
            {
                sender.limit.saved();
                (sender.file, sender.written_ms) = (Some(stored), written_ms);
            }
            if random.below(200) == 0 {
                let file = sender.kill(&mut random);
                at_ms += pause_ms(&mut random);
                sender = Sender::start(&rates, file, at_ms);
                kills += 1;
            }
        }
        assert!(kills > 0, "seed {seed} has no kill");
        check(&format!("seed {seed}"), &sent, &rates);
    }
}

#[test]
fn a_kill_wastes_seconds_of_a_rate_and_no_more() {
    let rates = Rates { per_hour: Some(36_000), ..Rates::default() };
    let mut sender = Sender::start(&rates, None, 0);
    for at_ms in (0..10 * MINUTE_MS).step_by(100) {
        // Ten a second, and a write takes 100 ms.
        if sender.limit.free(sender.now(at_ms)) > 0 {
            sender.limit.count(1, sender.now(at_ms));
        }
        if let Some((stored, written_ms)) = sender.writing.take() {
            sender.limit.saved();
            (sender.file, sender.written_ms) = (Some(stored), written_ms);
        }
        sender.writing = sender.limit.save(sender.now(at_ms)).map(|stored| (stored, at_ms));
    }
    let sent = sender.limit.sent;
    assert!(sent > 5_950, "{sent} of 6000: the writes do not hold up mail");
    let at_ms = 10 * MINUTE_MS;
    let file = sender.file.map(|file| (file, sender.written_ms));
    let mut next = Sender::start(&rates, file, at_ms);
    assert_eq!(next.limit.free(Mono::ZERO), 0, "nothing goes before the first write");
    assert!(next.limit.save(Mono::ZERO).is_some());
    next.limit.saved();
    let left = u64::from(next.limit.windows[0].room(Mono::ZERO));
    assert!((36_000 - sent - 60..=36_000 - sent).contains(&left), "{left} left");
}

#[test]
fn an_idle_limit_is_written_once_more_and_then_no_longer() {
    let mut limit = RateLimit::new(&RATES, Keeping::Stored, Users::OneShard);
    let at = Mono::from_ms;
    assert!(limit.save(at(0)).is_none(), "nobody wants to send");
    assert_eq!(limit.free(at(0)), 0);
    let stored = limit.save(at(0)).expect("a message waits");
    assert_eq!((stored.ahead, stored.windows.len()), (7, 3), "an eighth of 60");
    assert_eq!(limit.free(at(0)), 0, "it is not durable");
    limit.saved();
    assert_eq!(limit.free(at(0)), 5);
    limit.count(1, at(0));
    assert!(limit.save(at(1_000)).is_none());
    let stored = limit.save(at(2_000)).expect("it has changed");
    assert_eq!(stored.windows[0].slices, [Slice { age_ms: 0, count: 1 }]);
    limit.saved();
    assert!(limit.save(at(90_000)).is_none());
    let mut seconds = RateLimit::new(
        &Rates { per_second: Some(1), ..Rates::default() },
        Keeping::Stored,
        Users::OneShard,
    );
    assert_eq!(seconds.free(at(0)), 1);
    seconds.count(1, at(0));
    assert!(seconds.save(at(5_000)).is_none(), "a second is over before a restart is");
}
