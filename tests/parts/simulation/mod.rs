//! The queues, the leases, the scheduler and the stripes of a whole machine, without sockets and in
//! virtual time: lost frames, crashes, slow peers, pauses. The invariants are in `world`.
//!
//! `SEED=n` repeats one run; `RUNS=n` sets the number of runs.

mod home;
mod peer;
mod world;

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::time::Duration;

use ringpost::base::Random;
use ringpost::route::destination::DestinationPolicy;
use ringpost::route::destination::Rates;
use ringpost::route::destination::Stripes;

use crate::simulation::peer::Peer;
use crate::simulation::world::DestinationPlan;
use crate::simulation::world::End;
use crate::simulation::world::Job;
use crate::simulation::world::Plan;
use crate::simulation::world::World;

const RUNS: u64 = 3000;
const THREADS: u64 = 4;

#[test]
fn every_job_ends_once_and_no_limit_is_exceeded() {
    if let Some(seed) = number("SEED") {
        let mut world = World::new(plan(seed));
        world.run();
        println!("SEED={seed}: {} events, {} stale", world.events_handled, world.stale);
        return;
    }
    let runs = number("RUNS").unwrap_or(RUNS);
    let failed: Vec<u64> = std::thread::scope(|scope| {
        let range = |thread| (0..runs).filter(move |seed| seed % THREADS == thread);
        let some = |thread| scope.spawn(move || range(thread).find(|seed| !passes(*seed)));
        let threads: Vec<_> = (0..THREADS).map(some).collect();
        threads.into_iter().filter_map(|t| t.join().expect("panics are caught")).collect()
    });
    let repeat =
        |seed: &u64| format!("SEED={seed} cargo test --release --test parts -- simulation\n");
    let repeats: String = failed.iter().map(repeat).collect();
    assert!(failed.is_empty(), "these seeds fail; repeat them with\n{repeats}");
}

fn passes(seed: u64) -> bool {
    catch_unwind(AssertUnwindSafe(|| World::new(plan(seed)).run())).is_ok()
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// A machine and its surroundings, different for each seed.
fn plan(seed: u64) -> Plan {
    let mut random = Random::new(seed.wrapping_mul(0x9E37_79B9) + 1);
    let d = &mut random;
    let shards = 1 + d.below(4) as usize;
    let destinations: Vec<DestinationPlan> =
        (0..1 + d.below(6)).map(|_| destination_plan(d)).collect();
    let crashes = (0..d.below(6).saturating_sub(3)).map(|_| d.below(900_000)).collect();
    let destination_count = destinations.len() as u64;
    let pauses = (0..d.below(3))
        .map(|_| (d.below(300_000), d.below(destination_count) as usize, d.below(7_200_000)))
        .collect();
    let reloads = (0..d.below(6).saturating_sub(2))
        .map(|_| (d.below(9_000_000), d.below(destination_count) as usize, stripes(d)))
        .collect();
    Plan {
        seed,
        shards,
        destinations,
        loss: [0, 0, 30, 200][d.below(4) as usize],
        crashes,
        pauses,
        reloads,
        connections_max: 1 + d.below(60) as usize,
        destinations_max: 1 + d.below(10) as usize,
        jobs_max: 8 + d.below(200) as usize,
        arrival_ms: 1 + d.below(300_000),
    }
}

fn stripes(d: &mut Random) -> Stripes {
    [Stripes::Count(1), Stripes::Count(2), Stripes::Count(3), Stripes::All, Stripes::Auto]
        [d.below(5) as usize]
}

fn destination_plan(d: &mut Random) -> DestinationPlan {
    let peer = peer::ALL[d.below(peer::ALL.len() as u64) as usize];
    let stripes = stripes(d);
    let mut some =
        |chance: u64, most: u64| (d.below(chance) == 0).then(|| (1 + d.below(most)) as u32);
    let rates = Rates {
        per_second: some(4, 10),
        per_minute: some(4, 100),
        per_hour: some(6, 1000),
        ..Rates::default()
    };
    let policy = DestinationPolicy {
        connections_max: (1 + d.below(20)) as u32,
        window_start: 1 + d.below(6) as u32,
        messages_per_connection: 1 + d.below(100) as u32,
        rates,
        idle_reuse: Duration::from_millis(d.below(3) * 2500),
        failures_to_back_off: 1 + d.below(6) as u32,
        back_off_first: Duration::from_secs(1 + d.below(60)),
        back_off_max: Duration::from_secs(60 + d.below(3600)),
        jobs_max: 1 + d.below(200) as usize,
        stripes,
        ..DestinationPolicy::default()
    };
    DestinationPlan { peer, policy, jobs: 1 + d.below(60) as usize }
}

fn calm(seed: u64, peers: &[Peer]) -> Plan {
    let destination = |peer: &Peer| DestinationPlan {
        peer: *peer,
        policy: DestinationPolicy::default(),
        jobs: 200,
    };
    Plan {
        seed,
        shards: 1,
        destinations: peers.iter().map(destination).collect(),
        loss: 0,
        crashes: Vec::new(),
        pauses: Vec::new(),
        reloads: Vec::new(),
        connections_max: 40,
        destinations_max: 100,
        jobs_max: 10_000,
        arrival_ms: 1,
    }
}

#[test]
fn dead_and_slow_destinations_do_not_delay_a_healthy_one() {
    for seed in 0..30 {
        let mut alone = World::new(calm(seed, &[Peer::Fast]));
        alone.run();
        let bad = [Peer::Dead, Peer::Tarpit, Peer::Refusing, Peer::Dead, Peer::Breaking];
        let mut among = World::new(calm(seed, &[&[Peer::Fast], &bad[..]].concat()));
        among.run();
        let (alone_ms, among_ms) = (alone.ended_ms(0), among.ended_ms(0));
        assert!(among_ms <= alone_ms * 12 / 10 + 200, "seed {seed}: {alone_ms}, {among_ms}");
        assert!(among.disk.iter().all(|job| job.destination != 1 || job.end_is(End::Expired)));
    }
}

#[test]
fn repeated_changes_of_stripes_exceed_no_limit() {
    for seed in 0..200 {
        let mut plan = calm(seed, &[Peer::Slow, Peer::Fast]);
        plan.shards = 4;
        let mut d = Random::new(seed + 1);
        for destination in &mut plan.destinations {
            let rates = Rates { per_minute: Some(40), per_hour: Some(300), ..Rates::default() };
            destination.policy.rates = if d.below(2) == 0 { rates } else { Rates::default() };
            destination.policy.stripes = stripes(&mut d);
            destination.jobs = 500;
        }
        plan.arrival_ms = 7_200_000;
        plan.reloads =
            (0..6).map(|_| (d.below(10_000_000), d.below(2) as usize, stripes(&mut d))).collect();
        let mut world = World::new(plan);
        world.run();
        let is_well = |job: &Job| job.end_is(End::Delivered) || job.end_is(End::Refused);
        let other = world.disk.iter().find(|job| !is_well(job));
        assert!(other.is_none(), "seed {seed}: {other:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..20 {
        let ends = || {
            let mut world = World::new(plan(seed));
            world.run();
            let ends = world.disk.iter().map(|job| job.end).collect::<Vec<_>>();
            (ends, world.events_handled)
        };
        assert!(ends() == ends(), "seed {seed}");
    }
}

#[test]
fn a_large_sender_does_not_delay_a_small_one() {
    for seed in 0..30 {
        let mut plan = calm(seed, &[Peer::Fast]);
        plan.destinations[0].jobs = 600;
        let mut world = World::new(plan);
        let few = [100, 300, 599];
        for (number, job) in world.disk.iter_mut().enumerate() {
            job.sender = if few.contains(&number) { 4 } else { 0 };
        }
        world.run();
        let ended = |small: bool| {
            let jobs = world.disk.iter().filter(move |job| (job.sender == 4) == small);
            jobs.filter_map(|job| job.end.map(|(_, at_ms)| at_ms))
                .max()
                .expect("all jobs have ended")
        };
        assert!(ended(true) * 4 < ended(false), "{} of {}", ended(true), ended(false));
    }
}
