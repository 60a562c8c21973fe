//! The rates of sources at a destination: the others go on, and what was sent is not forgotten.

use super::*;

/// One connection, which goes to the heavier source while that may send.
fn bench(rates: &str) -> (Bench, Arc<Hop>) {
    let text = format!(
        "[destination_defaults]\nwindow_start = 1\nconnections_max = 1\nidle_reuse = '60s'\n{rates}"
    );
    let policy = pools(&text, &[("p", &["x:1000000", "y:1"])]);
    (Bench::with(policy), by_pool("p"))
}

/// Sends what may be sent now. How many messages each source has sent.
fn sends(bench: &mut Bench, open: &mut Vec<(ConnId, Box<str>)>, ms: u64) -> [u32; 2] {
    let mut sent = [0; 2];
    // Opened, saved and closed again.
    for _ in 0..20 {
        bench.tick(ms);
        for (conn, _, source) in std::mem::take(&mut bench.opened) {
            bench.owner.connected(conn, at(ms));
            open.push((conn, source.expect("it is of a pool")));
        }
        open.retain(|(conn, source)| {
            loop {
                match bench.owner.take(*conn, at(ms)) {
                    Take::Job(_) => {
                        sent[usize::from(**source != *"x")] += 1;
                        bench.end(*conn, done(JobEnd::Delivered), ms);
                    }
                    Take::IdleUntil(_) => break true,
                    Take::Close => {
                        bench.end(*conn, only(LinkEnd::Closed), ms);
                        break false;
                    }
                }
            }
        });
    }
    sent
}

#[test]
fn a_source_without_a_rate_left_makes_room_for_another() {
    for rates in ["source_messages_per_second = 3\n", "source_messages_per_minute = 3\n"] {
        let (mut bench, p) = bench(rates);
        let mut open = Vec::new();
        bench.push(&p, 20, 0);
        assert_eq!(sends(&mut bench, &mut open, 0), [3, 3], "{rates}");
        let state = bench.state(&p, 10);
        assert_eq!(state.binds, Binds::SourceRate, "{rates}");
        assert_eq!(state.source.as_deref(), Some("x (192.0.2.1)"), "{rates}");
        let until = state.until.expect("a time frees it").ms_since(Mono::ZERO);
        assert_eq!(sends(&mut bench, &mut open, until - 1), [0, 0], "{rates}");
        assert!(bench.next_wake().is_some_and(|wake| wake <= at(until)), "{rates}");
        assert_eq!(sends(&mut bench, &mut open, until), [3, 3], "{rates}");
    }
}

#[test]
fn an_idle_connection_of_a_spent_source_makes_room() {
    let (mut bench, p) = bench("source_messages_per_minute = 1\n");
    let mut open = Vec::new();
    bench.push(&p, 1, 0);
    assert_eq!(sends(&mut bench, &mut open, 0), [1, 0]);
    assert_eq!(open.len(), 1, "it is idle");
    bench.push(&p, 1, 1000);
    assert_eq!(bench.woken(1000), [open[0].0], "to close");
    assert_eq!(sends(&mut bench, &mut open, 1000), [0, 1]);
}

#[test]
fn other_pools_and_destinations_have_rates_of_their_own() {
    let text = "[destination_defaults]\nsource_messages_per_hour = 2\n";
    let policy = pools(text, &[("p", &["x:1"]), ("q", &["x:1", "z:1"])]);
    let mut bench = Bench::with(policy);
    let b = Arc::new(Hop { pool: Some("p".into()), ..hop("b") });
    for (hop, sent) in [(by_pool("p"), 2), (by_pool("q"), 2), (b, 2), (named("b"), 2)] {
        let before = bench.jobs;
        bench.push(&hop, 10, 0);
        let mut open = Vec::new();
        let mut count = 0;
        for _ in 0..20 {
            for conn in bench.connect(0) {
                open.push(conn);
            }
            let taken = open.iter().filter(|conn| bench.delivers(**conn, 0)).count();
            count += taken;
        }
        assert_eq!(count, sent, "{:?} from {before}", hop.pool);
        assert_eq!(bench.state(&hop, 1).binds, Binds::SourceRate, "{:?}", hop.pool);
    }
}

#[test]
fn a_reload_changes_the_rates_of_sources_and_forgets_nothing() {
    let (mut bench, p) = bench("source_messages_per_hour = 3\n");
    let mut open = Vec::new();
    bench.push(&p, 30, 0);
    assert_eq!(sends(&mut bench, &mut open, 0), [3, 3]);
    let (other, _) = self::bench("source_messages_per_hour = 5\n");
    bench.owner.replace_policy(Arc::clone(&other.owner.policy), at(20));
    assert_eq!(sends(&mut bench, &mut open, 20), [2, 2]);
    let (other, _) = self::bench("");
    bench.owner.replace_policy(Arc::clone(&other.owner.policy), at(40));
    assert_eq!(sends(&mut bench, &mut open, 40).iter().sum::<u32>(), 20, "no limit");
}

#[test]
fn a_forgotten_destination_keeps_what_its_sources_have_sent() {
    let (mut bench, p) = bench("source_messages_per_hour = 3\n");
    let mut open = Vec::new();
    bench.push(&p, 6, 0);
    assert_eq!(sends(&mut bench, &mut open, 0), [3, 3]);
    for (conn, _) in open.drain(..) {
        bench.end(conn, only(LinkEnd::Closed), 0);
    }
    bench.tick(2 * DESTINATION_IDLE_MS);
    assert_eq!(bench.owner.entries.len(), 1, "what was sent counts");
    assert!(bench.owner.forget_oldest(at(2 * DESTINATION_IDLE_MS)), "there is no room");
    assert_eq!((bench.owner.entries.len(), bench.owner.by_key.len()), (0, 0));
    bench.push(&p, 6, 2 * DESTINATION_IDLE_MS);
    assert_eq!(sends(&mut bench, &mut open, 2 * DESTINATION_IDLE_MS), [0, 0]);
    assert_eq!(bench.state(&p, 2 * DESTINATION_IDLE_MS).binds, Binds::SourceRate);
}

/// A source is covered by a save when it is needed, not all of a pool for one message.
#[test]
fn only_the_limits_that_are_needed_are_saved() {
    let (mut bench, p) = bench("source_messages_per_hour = 100\n");
    let mut open = Vec::new();
    bench.push(&p, 3, 0);
    assert_eq!(sends(&mut bench, &mut open, 0), [3, 0]);
    let x = FlowHasher::new((1, 2)).source("a", Some("x"));
    let saved: BTreeSet<u64> = bench.saves.iter().map(|(key, _)| *key).collect();
    assert_eq!(saved, BTreeSet::from([x]));
}

/// Another shard asks for tokens before and after the lead has heard that it is an owner too.
#[test]
fn the_lead_counts_a_source_once_when_its_destination_becomes_striped() {
    let text = "[destination_defaults]\nsource_messages_per_hour = 3\n";
    let policy = pools(text, &[("p", &["x:1"])]);
    let mut names = (0..64).map(|number| format!("d{number}"));
    let name = names.find(|name| stripe::lead(name, 2) == HOME).expect("half of them");
    let hop = Arc::new(Hop { pool: Some("p".into()), ..hop(&name) });
    let (mut bench, other) = (Bench::of_shards(policy, 2), ShardId(1));
    bench.push(&hop, 5, 0);
    assert_eq!(sends(&mut bench, &mut Vec::new(), 0), [3, 0]);
    let hasher = FlowHasher::new((1, 2));
    let allowed = |bench: &mut Bench| {
        bench.owner.take_effects();
        bench.owner.ask(hasher.source(&name, Some("x")), (other, 3), Some(&hop), at(10));
        bench.owner.take_effects().into_iter().find_map(|effect| match effect {
            OwnerEffect::Send { to, frame: Frame::Allow { tokens, .. } } if to == other => {
                Some(tokens)
            }
            _ => None,
        })
    };
    assert_eq!(allowed(&mut bench), None, "it counts them itself");
    let used = Used { number: 0, connections: 0, wanted: 1 };
    bench.owner.used(hasher.destination(&name, None), other, (Some(&hop), used), at(10));
    assert_eq!(allowed(&mut bench), Some(0), "what the lead has sent counts");
}
