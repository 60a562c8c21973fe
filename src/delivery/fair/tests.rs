//! Shares, order and bookkeeping of the fair queue, against ideals and a plain model.

use std::collections::HashMap;
use std::collections::VecDeque;

use super::*;

const LANE: ConnectionClass = ConnectionClass(0);
const OTHER: ConnectionClass = ConnectionClass(1);

fn of(tenant: u64) -> Origin {
    Origin { tenant, weight: 1, ..Origin::default() }
}

/// Chance from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn fill(queue: &mut FairQueue<Origin>, jobs: usize, origin: Origin) {
    for _ in 0..jobs {
        queue.push(origin, origin);
    }
}

/// Takes so many jobs, each replaced by one like it, and counts them by tenant.
fn serve_full(queue: &mut FairQueue<Origin>, turns: usize) -> HashMap<u64, usize> {
    let mut served = HashMap::new();
    for _ in 0..turns {
        let taken = queue.take(LANE).expect("the queue stays full");
        queue.push(taken.job, taken.job);
        *served.entry(taken.tenant).or_default() += 1;
    }
    served
}

fn is_near(found: usize, ideal: f64) -> bool {
    (found as f64 - ideal).abs() <= ideal * 0.05
}

#[test]
fn tenants_share_by_weight() {
    let mut queue = FairQueue::default();
    let mut random = Random(7);
    let mut bytes_served = vec![0_f64; 1000];
    let weight = |tenant: u64| 1 + (tenant % 7) as u32;
    let origin = |tenant, random: &mut Random| Origin {
        bytes: random.below(200_000),
        sender: random.below(5) as u32,
        class: Class::ALL[random.below(3) as usize],
        weight: weight(tenant),
        ..of(tenant)
    };
    for tenant in (0..1000).chain(0..1000).chain(0..1000) {
        let origin = origin(tenant, &mut random);
        queue.push(origin, origin);
    }
    for _ in 0..100_000 {
        let taken = queue.take(LANE).expect("it is full");
        bytes_served[taken.tenant as usize] += (taken.job.bytes + TURN_BYTES) as f64;
        let next = origin(taken.tenant, &mut random);
        queue.push(next, next);
    }
    let total: f64 = bytes_served.iter().sum();
    let weights: u32 = (0..1000).map(weight).sum();
    for (tenant, served) in bytes_served.iter().enumerate() {
        let ideal = total * f64::from(weight(tenant as u64)) / f64::from(weights);
        // One message of the largest size more or less, beside the 5 %.
        let off = (served - ideal).abs();
        assert!(off <= ideal * 0.05 + 232_768.0, "tenant {tenant}: {served} of {ideal}");
    }
}

#[test]
fn equal_tenants_have_equal_shares() {
    let mut queue = FairQueue::default();
    for tenant in 0..1000 {
        // The more jobs a tenant has, the more of the queue is its own; its share is not.
        for _ in 0..1 + tenant % 10 {
            queue.push(of(tenant), of(tenant));
        }
    }
    let served = serve_full(&mut queue, 50_000);
    assert!((0..1000).all(|tenant| is_near(served[&tenant], 50.0)), "{served:?}");
}

#[test]
fn a_tenant_with_little_mail_does_not_wait_behind_others() {
    let mut queue = FairQueue::default();
    for tenant in 0..500 {
        for _ in 0..20 {
            queue.push(of(tenant), of(tenant));
        }
    }
    serve_full(&mut queue, 5_000);
    // Those with little ask for half of what they could have: each of their jobs goes soon.
    let mut waits = Vec::new();
    for round in 0..2_000_u64 {
        let small = 1000 + round % 500;
        queue.push(of(small), of(small));
        let mut turns = 0;
        loop {
            let taken = queue.take(LANE).expect("it is full");
            turns += 1;
            if taken.tenant == small {
                break;
            }
            queue.push(taken.job, taken.job);
        }
        waits.push(turns);
        serve_full(&mut queue, 3);
    }
    assert!(waits.iter().all(|turns| *turns <= 3), "{:?}", waits.iter().max());
}

#[test]
fn classes_of_a_tenant_share_20_to_5_to_1() {
    for (classes, shares) in [
        (&Class::ALL[..], &[20.0, 5.0, 1.0][..]),
        (&[Class::Urgent, Class::Bulk][..], &[20.0, 1.0][..]),
        (&[Class::Normal, Class::Bulk][..], &[5.0, 1.0][..]),
    ] {
        let mut queue = FairQueue::default();
        for class in classes {
            let origin = Origin { class: *class, ..of(1) };
            fill(&mut queue, 3, origin);
        }
        let mut served = HashMap::<Class, usize>::new();
        let sum: f64 = shares.iter().sum();
        for _ in 0..20_000 {
            let taken = queue.take(LANE).expect("it is full");
            *served.entry(taken.class).or_default() += 1;
            queue.push(taken.job, taken.job);
        }
        for (class, share) in classes.iter().zip(shares) {
            assert!(is_near(served[class], 20_000.0 * share / sum), "{class:?}: {served:?}");
        }
    }
}

#[test]
fn bulk_goes_however_much_urgent_mail_comes() {
    let mut queue = FairQueue::default();
    let bulk = Origin { class: Class::Bulk, ..of(1) };
    let urgent = Origin { class: Class::Urgent, ..of(1) };
    fill(&mut queue, 100, bulk);
    let mut since = 0;
    for _ in 0..2_000 {
        queue.push(urgent, urgent);
        queue.push(urgent, urgent);
        since = match queue.take(LANE).expect("it is full").class {
            Class::Bulk => 0,
            _ => since + 1,
        };
        assert!(since <= 20, "bulk has every 21st turn");
    }
}

#[test]
fn to_mark_all_mail_urgent_gains_nothing() {
    let mut queue = FairQueue::default();
    for (tenant, class) in [(1, Class::Urgent), (2, Class::Normal), (3, Class::Bulk)] {
        let origin = Origin { class, ..of(tenant) };
        fill(&mut queue, 9, origin);
    }
    let served = serve_full(&mut queue, 3_000);
    assert!((1..=3).all(|tenant| served[&tenant] == 1000), "{served:?}");
}

#[test]
fn senders_of_a_class_share_equally() {
    let mut queue = FairQueue::default();
    for sender in 0..10 {
        let origin = Origin { sender, ..of(1) };
        fill(&mut queue, 1 + sender as usize, origin);
    }
    let mut served = [0; 10];
    for _ in 0..5_000 {
        let taken = queue.take(LANE).expect("it is full");
        served[taken.job.sender as usize] += 1;
        queue.push(taken.job, taken.job);
    }
    assert!(served.iter().all(|turns| is_near(*turns, 500.0)), "{served:?}");
}

#[test]
fn to_leave_and_come_back_gains_nothing() {
    for (name, other) in [("a tenant", of(2)), ("a sender", Origin { sender: 9, ..of(1) })] {
        let mut queue = FairQueue::default();
        let steady = of(1);
        fill(&mut queue, 50, steady);
        let mut served = 0;
        for _ in 0..10_000 {
            // It has a job whenever it has none, so that it comes anew each time.
            if queue.jobs().all(|job| *job != other) {
                queue.push(other, other);
            }
            match queue.take(LANE).expect("it is full").job {
                job if job == other => served += 1,
                job => {
                    queue.push(job, job);
                }
            }
        }
        assert!(is_near(served, 5_000.0), "{name}: {served} of 10,000");
    }
}

#[test]
fn a_pause_earns_no_credit() {
    let mut queue = FairQueue::default();
    fill(&mut queue, 10, of(1));
    serve_full(&mut queue, 10_000);
    fill(&mut queue, 10, of(2));
    let served = serve_full(&mut queue, 100);
    assert!(served[&1].abs_diff(served[&2]) <= 2, "{served:?}");
}

#[test]
fn a_connection_takes_only_jobs_of_its_class() {
    let mut queue = FairQueue::default();
    let other = Origin { connection: OTHER, ..of(2) };
    queue.push(of(1), of(1));
    queue.push(other, other);
    assert_eq!(queue.take(ConnectionClass(7)), None);
    assert_eq!(queue.take(OTHER).map(|taken| taken.tenant), Some(2));
    assert_eq!(queue.take(OTHER), None);
    assert_eq!((queue.ready(LANE), queue.ready(OTHER), queue.len()), (1, 0, 1));
}

/// Serves two connection classes in turn, `often` turns of the first to one of the second.
fn serve_both(queue: &mut FairQueue<Origin>, turns: usize, often: usize) -> [[usize; 4]; 2] {
    let mut served = [[0; 4]; 2];
    for turn in 0..turns {
        let connection = if turn % (often + 1) < often { LANE } else { OTHER };
        let taken = queue.take(connection).expect("it is full");
        served[connection.0 as usize][taken.tenant as usize] += 1;
        queue.push(taken.job, taken.job);
    }
    served
}

#[test]
fn mail_in_two_connection_classes_has_one_share() {
    let mut queue = FairQueue::default();
    for (tenant, connection) in [(1, LANE), (1, OTHER), (2, LANE), (3, OTHER)] {
        let origin = Origin { connection, ..of(tenant) };
        fill(&mut queue, 5, origin);
    }
    let [first, second] = serve_both(&mut queue, 9_000, 1);
    let sums: Vec<_> = (1..4).map(|tenant| first[tenant] + second[tenant]).collect();
    assert!(sums.iter().all(|sum| is_near(*sum, 3_000.0)), "{sums:?}");
}

#[test]
fn what_a_tenant_has_elsewhere_starves_it_in_no_connection_class() {
    let mut queue = FairQueue::default();
    for (tenant, connection) in [(1, LANE), (1, OTHER), (3, OTHER)] {
        let origin = Origin { connection, ..of(tenant) };
        fill(&mut queue, 5, origin);
    }
    let [_, second] = serve_both(&mut queue, 50_000, 49);
    assert!((55..=70).contains(&second[1]), "1 of 17 turns, not {second:?}");
    // With nothing more in the first class it is at par at once.
    while queue.take(LANE).is_some() {}
    let mut served = [0; 4];
    for _ in 0..100 {
        let taken = queue.take(OTHER).expect("it is full");
        served[taken.tenant as usize] += 1;
        queue.push(taken.job, taken.job);
    }
    assert!(served[1] >= 40, "{served:?}");
}

#[test]
fn a_held_tenant_is_out_until_released() {
    let mut queue = FairQueue::default();
    queue.hold(1, None);
    fill(&mut queue, 4, of(1));
    fill(&mut queue, 4, of(2));
    assert_eq!((queue.ready(LANE), queue.len()), (4, 8));
    queue.hold(2, None);
    assert_eq!((queue.ready(LANE), queue.take(LANE)), (0, None));
    queue.release(2, None);
    let served = |queue: &mut FairQueue<Origin>| queue.take(LANE).map(|taken| taken.tenant);
    assert_eq!((served(&mut queue), served(&mut queue)), (Some(2), Some(2)));
    queue.release(1, None);
    let order: Vec<_> = std::iter::from_fn(|| served(&mut queue)).collect();
    assert_eq!(order.iter().filter(|tenant| **tenant == 1).count(), 4);
    assert_ne!(order[0], order[1], "the wait earned no credit: {order:?}");
    // Its hold outlives its jobs, and those of all.
    queue.hold(1, None);
    let slot = queue.push(of(1), of(1));
    assert_eq!(queue.remove(slot), Some(of(1)));
    queue.push(of(1), of(1));
    assert_eq!(queue.drain().count(), 1);
    queue.push(of(1), of(1));
    assert_eq!((queue.take(LANE), queue.ready(LANE)), (None, 0));
    queue.release(1, None);
    assert_eq!(served(&mut queue), Some(1));
}

#[test]
fn a_held_class_leaves_the_turns_of_its_tenant_to_the_others() {
    let mut queue = FairQueue::default();
    for (tenant, class) in [(1, Class::Urgent), (1, Class::Bulk), (2, Class::Normal)] {
        let origin = Origin { class, ..of(tenant) };
        fill(&mut queue, 3, origin);
    }
    queue.hold(1, Some(Class::Urgent));
    let is_held = |origin: &&Origin| (origin.tenant, origin.class) == (1, Class::Urgent);
    assert_eq!((queue.ready(LANE), queue.jobs().filter(is_held).count()), (6, 3));
    let take = |queue: &mut FairQueue<Origin>| {
        let taken = queue.take(LANE).expect("some are not held");
        queue.push(taken.job, taken.job);
        (taken.tenant, taken.class)
    };
    let served: Vec<_> = (0..100).map(|_| take(&mut queue)).collect();
    assert_eq!(served.iter().filter(|one| **one == (1, Class::Bulk)).count(), 50);
    queue.hold(1, Some(Class::Bulk));
    assert!((0..10).all(|_| take(&mut queue) == (2, Class::Normal)));
    queue.release(1, Some(Class::Urgent));
    let served: Vec<_> = (0..100).map(|_| take(&mut queue)).collect();
    let urgent = served.iter().filter(|one| **one == (1, Class::Urgent)).count();
    assert!(urgent.abs_diff(50) <= 1, "the wait earned no credit: {urgent}");
}

#[test]
fn to_be_held_after_each_job_gains_nothing() {
    let mut queue = FairQueue::default();
    for tenant in 1..3 {
        fill(&mut queue, 9, of(tenant));
    }
    let mut served = 0;
    for _ in 0..1_000 {
        let taken = queue.take(LANE).expect("one is not held");
        queue.push(taken.job, taken.job);
        if taken.tenant == 1 {
            queue.hold(1, Some(Class::Normal));
            served += 1;
        }
        queue.release(1, Some(Class::Normal));
    }
    assert!(is_near(served, 500.0), "{served}");
}

#[test]
fn jobs_ahead_are_counted() {
    let mut queue = FairQueue::default();
    let mut slots = Vec::new();
    let mut number = 0;
    for (tenant, weight, jobs) in [(1, 1, 30), (2, 2, 50), (3, 1, 4)] {
        for job in 0..jobs {
            let sender = job % 3;
            let class = if job % 2 == 0 { Class::Normal } else { Class::Bulk };
            let origin = Origin { sender, class, weight, ..of(tenant) };
            slots.push((number, queue.push(number, origin)));
            number += 1;
        }
    }
    let ahead: Vec<_> =
        slots.iter().map(|(number, slot)| (*number, queue.ahead_of(*slot))).collect();
    let order: Vec<_> = std::iter::from_fn(|| queue.take(LANE)).map(|taken| taken.job).collect();
    for (number, ahead) in ahead {
        let place = order.iter().position(|taken| *taken == number).expect("all were taken");
        let ahead = ahead.expect("it was queued");
        assert!(ahead.abs_diff(place) <= 12, "job {number}: {ahead} foretold, {place} found");
    }
    assert_eq!(queue.ahead_of(slots[0].1), None);
}

type SenderKey = (ConnectionClass, u64, Class, u32);

/// The jobs by sender, in order: what `FairQueue` must keep, without its turns.
#[derive(Default)]
struct Model(HashMap<SenderKey, VecDeque<(u64, Slot)>>);

#[test]
fn no_job_is_lost_or_doubled() {
    for seed in 0..200 {
        let mut random = Random(seed);
        let mut queue = FairQueue::default();
        let mut model = Model::default();
        let mut held = Vec::new();
        for number in 0..400 {
            match random.below(11) {
                0..=4 => {
                    let origin = Origin {
                        connection: ConnectionClass(random.below(3) as u32),
                        tenant: random.below(6),
                        sender: random.below(4) as u32,
                        weight: random.below(3) as u32,
                        class: Class::ALL[random.below(3) as usize],
                        bytes: random.below(1 << 34),
                    };
                    let Origin { connection, tenant, class, sender, .. } = origin;
                    let jobs = model.0.entry((connection, tenant, class, sender)).or_default();
                    if random.below(5) == 0 {
                        let slot = queue.push_first((number, sender), origin);
                        jobs.push_front((number, slot));
                    } else {
                        jobs.push_back((number, queue.push((number, sender), origin)));
                    }
                }
                5..=7 => {
                    let connection = ConnectionClass(random.below(3) as u32);
                    let free = |(key, jobs): &(&(_, u64, _, _), &VecDeque<_>)| {
                        key.0 == connection && !held.contains(&key.1) && !jobs.is_empty()
                    };
                    let expected = model.0.iter().filter(free).count() > 0;
                    let taken = queue.take(connection);
                    assert_eq!(taken.is_some(), expected, "seed {seed}");
                    let Some(Taken { job: (job, sender), tenant, class }) = taken else { continue };
                    let jobs = model.0.get_mut(&(connection, tenant, class, sender));
                    let first = jobs.expect("it was pushed").pop_front();
                    assert_eq!(first.map(|(job, _)| job), Some(job), "seed {seed}: out of order");
                }
                8 => {
                    let Some((_, jobs)) = model.0.iter_mut().find(|(_, jobs)| !jobs.is_empty())
                    else {
                        continue;
                    };
                    let place = random.below(jobs.len() as u64) as usize;
                    let (job, slot) = jobs.remove(place).expect("it is less than the length");
                    assert_eq!(queue.remove(slot).map(|(job, _)| job), Some(job));
                }
                9 => {
                    let tenant = random.below(6);
                    queue.hold(tenant, None);
                    held.push(tenant);
                }
                _ => {
                    let Some(tenant) = held.pop() else { continue };
                    if !held.contains(&tenant) {
                        queue.release(tenant, None);
                    }
                }
            }
            check(&queue, &model, &held);
        }
    }
}

fn check(queue: &FairQueue<(u64, u32)>, model: &Model, held: &[u64]) {
    let jobs = |filter: &dyn Fn(&SenderKey) -> bool| {
        model.0.iter().filter(|(key, _)| filter(key)).map(|(_, jobs)| jobs.len()).sum::<usize>()
    };
    assert_eq!(queue.len(), jobs(&|_| true));
    assert_eq!(queue.jobs().count(), queue.len());
    for lane in 0..3 {
        let lane = ConnectionClass(lane);
        assert_eq!(queue.ready(lane), jobs(&|key| key.0 == lane && !held.contains(&key.1)));
    }
    let filled = model.0.iter().filter(|(_, jobs)| !jobs.is_empty());
    let flows: std::collections::HashSet<_> =
        filled.map(|((lane, tenant, class, _), _)| (*lane, *tenant, *class)).collect();
    assert_eq!(queue.flows(), flows.len());
}

#[test]
fn what_has_no_jobs_is_forgotten() {
    let mut queue = FairQueue::default();
    queue.push(of(0), of(0));
    for number in 1..10_000 {
        let origin = Origin { sender: number as u32, ..of(number) };
        let slot = queue.push(origin, origin);
        queue.remove(slot);
        assert!(queue.shares.len() <= IDLE_MAX + 3 && queue.tenants.len() == queue.shares.len());
        let origin = Origin { sender: number as u32, ..of(0) };
        let slot = queue.push(origin, origin);
        queue.remove(slot);
        assert!(
            queue.senders.len() <= 2 * IDLE_MAX + 10
                && queue.by_sender.len() == queue.senders.len()
        );
    }
    while queue.take(LANE).is_some() {}
    assert!(queue.shares.len() <= IDLE_FEW && queue.senders.len() <= IDLE_FEW);
}

#[test]
fn who_passes_beside_a_constant_sender_is_forgotten() {
    type Passing = (&'static str, fn(u32) -> Origin, usize);
    let passing: [Passing; 3] = [
        ("senders", |sender| Origin { sender, ..of(1) }, 2 + 2 * IDLE_FEW),
        (
            "senders of many tenants",
            |sender| Origin { sender, ..of(u64::from(2 + sender % 200)) },
            200 * (1 + IDLE_FEW),
        ),
        (
            "connection classes",
            |number| Origin { connection: ConnectionClass(1 + number), ..of(1) },
            2 + 2 * IDLE_FEW,
        ),
    ];
    for (name, origin, most) in passing {
        let mut queue = FairQueue::default();
        queue.push(of(1), of(1));
        let mut turns = 0;
        for number in 1..100_000 {
            let passing = origin(number);
            let slot = queue.push(passing, passing);
            if number % 10 == 0 {
                assert_eq!(queue.remove(slot), Some(passing), "{name}");
            } else {
                while let Some(taken) = queue.take(passing.connection)
                    && taken.job != passing
                {
                    turns += 1;
                    queue.push(taken.job, taken.job);
                }
            }
            let known = queue.senders.len().max(queue.shares.len()).max(queue.lanes.len());
            assert!(known <= most, "{name}: {known}");
            assert_eq!(queue.by_sender.len(), queue.senders.len(), "{name}");
            assert_eq!(queue.by_tenant.len(), queue.shares.len(), "{name}");
        }
        assert_eq!((queue.len(), queue.flows()), (1, 1), "{name}");
        assert!(turns < 100_000, "{name}: the constant one had {turns} turns");
    }
}

#[test]
fn to_be_forgotten_gains_nothing() {
    // More senders that have one job at a time than are remembered, and as many tenants.
    for others in [IDLE_FEW as u64 / 2, 20, 100] {
        let mut queue = FairQueue::default();
        fill(&mut queue, 50, of(1));
        let mut served = 0;
        for turn in 0..10_000_u64 {
            let other = Origin { sender: 1 + (turn % others) as u32, ..of(1) };
            queue.push(other, other);
            let taken = queue.take(LANE).expect("it is full").job;
            if taken == of(1) {
                served += 1;
                queue.push(taken, taken);
            }
        }
        let least = 10_000 / (1 + others as usize);
        assert!(served >= least * 9 / 10, "{others}: {served} of 10,000");
    }
}

#[test]
fn a_job_of_a_destination_takes_less_than_forty_bytes() {
    assert!(size_of::<Job<(u64, u32, u16)>>() <= 40);
}
