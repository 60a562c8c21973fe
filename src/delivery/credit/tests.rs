//! Places that owners grant, and who gets them.

use std::collections::BTreeMap;

use super::*;

use crate::base::MessageId;
use crate::delivery::home::tests::route;
use crate::handoff::frames::Binds;
use crate::handoff::frames::Incarnation;

impl Target {
    pub fn pause_for_ever(&mut self) {
        self.paused_until = Mono::NEVER;
    }

    /// The counts agree.
    pub fn check(&self) {
        let sum = |of: fn(&Share) -> u32| self.shares.values().map(of).sum::<u32>();
        assert_eq!(sum(|share| share.waiting), self.waiting, "jobs that wait");
        assert_eq!(sum(|share| share.out), self.out, "jobs that are out");
        let bytes: usize = self.shares.values().map(|share| share.bytes).sum();
        assert_eq!(bytes, self.bytes, "bytes of a destination");
        assert!(self.queue.len() <= self.waiting as usize, "queued but not waiting");
    }
}

fn job(number: u64) -> JobRef {
    JobRef { key: (MessageId::from_u64(number), 0), incarnation: Incarnation(number as u32) }
}

fn flow(tenant: u64, class: Class) -> Flow {
    Flow { target: 7, tenant, class }
}

fn at(ms: u64) -> Mono {
    Mono::from_ms(ms)
}

/// A destination with waiting jobs; those of each flow are numbered from its tenant times 1000.
fn target(flows: &[(Flow, u32)]) -> Target {
    let mut target = Target::new(&route(7, 1, Default::default()), at(0));
    for (flow, jobs) in flows {
        for number in 0..u64::from(*jobs) {
            let origin = Origin {
                tenant: flow.tenant,
                class: flow.class,
                weight: 1,
                bytes: 1000,
                ..Origin::default()
            };
            target.enter(flow, 100);
            target.queue(job(flow.tenant * 1000 + number), origin, false);
        }
    }
    target
}

/// Sends what may be sent; how many of each tenant.
fn sent(target: &mut Target, now: Mono) -> BTreeMap<u64, u32> {
    let mut sent = BTreeMap::new();
    while let Some(job) = target.next(now) {
        let tenant = job.key.0.as_u64() / 1000;
        target.go(&flow(tenant, Class::Normal));
        *sent.entry(tenant).or_default() += 1;
        target.check();
    }
    sent
}

fn granted(target: &mut Target, total: u32, per_flow: u32, now: Mono) -> bool {
    let binds = if total == 0 { Binds::BackingOff } else { Binds::Nothing };
    let until = (total == 0).then(|| at(60_000));
    let state = GrantState { binds, until, ..GrantState::default() };
    target.grant(Places { total, per_flow }, Arc::new(state), now)
}

#[test]
fn no_more_is_out_than_there_are_places() {
    let normal = |tenant| flow(tenant, Class::Normal);
    for (name, grant, flows, expected) in [
        ("opening credit of a flow", None, &[(normal(1), 100)][..], &[(1, 16)][..]),
        (
            "opening credit",
            None,
            &[(normal(1), 100), (normal(2), 100), (normal(3), 100)],
            &[(1, 11), (2, 11), (3, 10)],
        ),
        ("a flow may have all", Some((40, 40)), &[(normal(1), 100)], &[(1, 40)]),
        (
            "a small flow first",
            Some((10, 9)),
            &[(normal(1), 100), (normal(2), 1)],
            &[(1, 9), (2, 1)],
        ),
        ("nothing", Some((0, 0)), &[(normal(1), 100)], &[]),
    ] {
        let mut target = target(flows);
        if let Some((total, per_flow)) = grant {
            granted(&mut target, total, per_flow, at(0));
        }
        let expected: BTreeMap<u64, u32> = expected.iter().copied().collect();
        assert_eq!(sent(&mut target, at(0)), expected, "{name}");
    }
}

#[test]
fn urgent_mail_has_places_of_its_own_before_the_first_grant() {
    let (urgent, normal) = (flow(2, Class::Urgent), flow(1, Class::Normal));
    let mut target = target(&[(normal, 100), (flow(3, Class::Normal), 100)]);
    assert_eq!(sent(&mut target, at(0)).values().sum::<u32>(), PLACES_OPENING);
    assert!(!target.may_go(&normal, at(0)));
    for _ in 0..PLACES_OPENING_URGENT {
        assert!(target.may_go(&urgent, at(0)));
        target.enter(&urgent, 100);
        target.go(&urgent);
    }
    assert!(!target.may_go(&urgent, at(0)));
    target.check();
}

#[test]
fn a_smaller_grant_recalls_nothing() {
    let normal = flow(1, Class::Normal);
    let mut target = target(&[(normal, 30)]);
    assert!(!granted(&mut target, 10, 10, at(0)), "fewer than before");
    assert_eq!(sent(&mut target, at(0))[&1], 10);
    granted(&mut target, 4, 4, at(1));
    for out in (4..10).rev() {
        target.leave(&normal, 100, true, at(2));
        assert_eq!((target.out(), sent(&mut target, at(2)).len()), (out, 0));
    }
    target.leave(&normal, 100, true, at(3));
    assert_eq!(sent(&mut target, at(3))[&1], 1);
    assert!(granted(&mut target, 5, 5, at(4)));
    assert_eq!(sent(&mut target, at(4))[&1], 1);
    target.check();
}

#[test]
fn a_returned_job_is_the_first_of_its_flow() {
    let normal = flow(1, Class::Normal);
    let mut target = target(&[(normal, 3)]);
    granted(&mut target, 1, 1, at(0));
    let first = target.next(at(0)).expect("a place");
    target.go(&normal);
    target.come_back(&normal);
    target.pause(at(0));
    let origin = Origin { tenant: 1, weight: 1, bytes: 1000, ..Origin::default() };
    target.queue(first, origin, true);
    assert_eq!(target.next(at(99)), None);
    assert_eq!(target.next(at(100)), Some(first));
}

#[test]
fn wants_are_repeated_while_nothing_may_go() {
    let mut target = target(&[(flow(1, Class::Normal), 3), (flow(2, Class::Normal), 1)]);
    assert_eq!(target.next_want(at(0)), None, "there are places");
    granted(&mut target, 0, 0, at(10));
    assert_eq!(target.zero_since(), Some(at(10)));
    assert_eq!(target.next_want(at(10)), Some((4, 2)));
    assert_eq!(target.next_want(at(20_000)), None, "the backoff is known");
    assert_eq!(target.next_want(at(60_000)), Some((4, 2)));
    granted(&mut target, 1, 1, at(60_001));
    assert_eq!((target.zero_since(), target.next_want(at(60_002))), (None, None));
    assert_eq!(target.next_want(at(120_000)), Some((4, 2)), "more flows than places");
    target.set_owner(ShardId(9));
    assert_eq!(target.places().total, PLACES_OPENING, "another owner has granted nothing");
}

#[test]
fn an_owner_that_returns_everything_is_asked_less_and_less() {
    let mut target = target(&[(flow(1, Class::Normal), 3)]);
    let mut now = at(0);
    let mut waits = Vec::new();
    for _ in 0..8 {
        target.pause(now);
        // Others that come back meanwhile were sent before.
        target.pause(now.plus_ms(1));
        waits.push(target.paused_until().ms_since(now));
        now = target.paused_until();
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    target.note_tried();
    target.pause(now);
    assert_eq!(target.paused_until().ms_since(now), 100);
}
