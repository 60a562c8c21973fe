//! Homes with model stores, and owners, real or modelled, in virtual time: kills, power cuts, clock jumps, slow,
//! full and hung disks, lost frames, splits, operations, reloads, moving mail exchangers.
//!
//! `SEED=n` repeats one run, with `TRACE=1` each event is printed; `RUNS=n` sets the number of runs.

mod owner;
mod real;
mod world;

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use owner::Peer;
use world::Plan;
use world::World;

const RUNS: u64 = 3000;
const THREADS: u64 = 2;

#[test]
fn every_recipient_ends_once() {
    if let Some(seed) = number("SEED") {
        let mut world = World::new(Plan::of(seed));
        world.run();
        println!("SEED={seed}: {}", world.summary());
        return;
    }
    let runs = number("RUNS").unwrap_or(RUNS);
    let failed: Vec<u64> = std::thread::scope(|scope| {
        let range = |thread| (0..runs).filter(move |seed| seed % THREADS == thread);
        let some = |thread| scope.spawn(move || range(thread).find(|seed| !passes(*seed)));
        let threads: Vec<_> = (0..THREADS).map(some).collect();
        threads.into_iter().filter_map(|t| t.join().expect("panics are caught")).collect()
    });
    let repeat = |seed: &u64| format!("SEED={seed} cargo test --lib -- home::simulation\n");
    let repeats: String = failed.iter().map(repeat).collect();
    assert!(failed.is_empty(), "these seeds fail; repeat them with\n{repeats}");
}

fn passes(seed: u64) -> bool {
    catch_unwind(AssertUnwindSafe(|| World::new(Plan::of(seed)).run())).is_ok()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..10 {
        let summary = || {
            let mut world = World::new(Plan::of(seed));
            world.run();
            world.summary()
        };
        assert_eq!(summary(), summary(), "seed {seed}");
    }
}

/// A destination that is limited, with a large backlog, beside one that is not.
#[test]
fn a_backlog_is_read_as_it_is_sent_and_delays_nobody() {
    for seed in 0..10 {
        let mut plan = Plan::calm(seed);
        plan.messages = 600;
        plan.arrival_ms = 1000;
        plan.memory_max = 100 << 10;
        plan.slow_share = 90;
        let mut world = World::new(plan);
        world.run();
        let counts = world.counts();
        let (jobs, others_ms) = (world.plan.messages as u64, world.longest_ms(false));
        assert!(world.longest_ms(true) > 60_000, "seed {seed}: it has waited");
        assert!(others_ms < 5_000, "seed {seed}: others took {others_ms} ms");
        assert!(counts.filed <= 2 * jobs, "seed {seed}: {counts:?}");
        assert!(counts.claimed <= 4 * jobs, "seed {seed}: {counts:?}");
    }
}

#[test]
fn a_dead_destination_costs_one_filing_for_each_job_and_mail_expires_in_time() {
    for seed in 0..10 {
        let mut plan = Plan::calm(seed);
        plan.peers = vec![Peer::Dead, Peer::Fast];
        plan.messages = 400;
        plan.arrival_ms = 1000;
        plan.memory_max = 100 << 10;
        plan.slow_share = 80;
        plan.max_age_ms = 12 * 3_600_000;
        let max_age_ms = plan.max_age_ms;
        let mut world = World::new(plan);
        world.run();
        // Reports are jobs too.
        let (counts, jobs) = (world.counts(), world.messages() as u64);
        assert!(world.longest_ms(false) < 60_000, "seed {seed}: the others are delivered");
        let late_ms = world.longest_ms(true) - max_age_ms;
        assert!(late_ms <= 60_000, "seed {seed}: {late_ms} ms late");
        assert!(counts.filed <= jobs, "seed {seed}: {counts:?} for {jobs}");
        // Fresh, for the warning, for the expiry, and the probes.
        assert!(counts.claimed <= 12 * jobs, "seed {seed}: {counts:?} for {jobs}");
    }
}
