//! What operators and the survey see of an owner.

use std::time::Duration;

use super::*;

use crate::base::Class;
use crate::base::Mono;
use crate::delivery::capacity::ConnId;
use crate::delivery::capacity::Gate;
use crate::delivery::destination::End;
use crate::delivery::destination::JobEnd;
use crate::delivery::destination::LinkEnd;
use crate::delivery::destination::RuleAction;
use crate::delivery::flow_hash::FlowHasher;
use crate::delivery::home::tests::hop;
use crate::delivery::home::tests::mail;
use crate::delivery::home::tests::now_at;
use crate::delivery::owner::OwnerEffect;
use crate::delivery::owner::OwnerParts;
use crate::delivery::owner::Take;
use crate::handoff::frames::Delivery;
use crate::handoff::frames::Flow;
use crate::handoff::frames::Incarnation;
use crate::route::DeliveryPolicy;
use crate::wire::classify::Action;
use crate::wire::classify::Cause;
use crate::wire::classify::Measure;
use crate::wire::classify::Scope;

/// An owner whose destinations have one connection each at the start.
pub(in crate::delivery) fn owner(connections_max: u32) -> Owner {
    let text = "[destination_defaults]\nstripes = 1\nwindow_start = 1\n";
    Owner::new(OwnerParts {
        me: ShardId(0),
        shards: 1,
        policy: Arc::new(DeliveryPolicy::sample(text)),
        hasher: FlowHasher::new((1, 2)),
        gate: Arc::new(Gate::new(connections_max)),
        paused: Vec::new(),
        sent_before: Arc::default(),
        seed: 1,
    })
}

fn reference(number: u64) -> JobRef {
    JobRef { key: (MessageId::from_u64(number), 0), incarnation: Incarnation(1) }
}

/// A job of this number for a destination.
pub(in crate::delivery) fn deliver(owner: &mut Owner, number: u64, target: u64) {
    let delivery = Delivery {
        job: reference(number),
        home: ShardId(0),
        mail: mail(MessageId::from_u64(number), 1),
        recipients: Box::new([0]),
        hop: hop(target),
        flow: Flow { target, tenant: 0, class: Class::Normal },
        weight: 1,
        due: now_at(0).wall,
        sent: now_at(0).mono,
    };
    owner.deliver(Box::new(delivery), now_at(0).mono);
}

fn opened(owner: &mut Owner) -> Vec<ConnId> {
    let effects = owner.take_effects().into_iter();
    let opened = effects.filter_map(|effect| match effect {
        OwnerEffect::Open { conn, .. } => Some(conn),
        _ => None,
    });
    opened.collect()
}

/// The connection is open and has taken a job.
fn begin(owner: &mut Owner, conn: ConnId, now: Mono) {
    owner.connected(conn, now);
    assert!(matches!(owner.take(conn, now), Take::Job(_)));
}

fn names(views: &[DestinationView]) -> Vec<&str> {
    views.iter().map(|view| &*view.key).collect()
}

#[test]
fn destinations_are_found_by_size_by_key_and_by_name() {
    let mut owner = owner(100);
    for (target, jobs) in [(1, 2), (2, 5), (3, 3)] {
        (0..jobs).for_each(|job| deliver(&mut owner, 100 * target + job, target));
    }
    let now = now_at(0);
    let largest = owner.destinations(2, now);
    assert_eq!(names(&largest), ["mx2.b.test", "mx3.b.test"]);
    assert_eq!((largest[0].queued, &*largest[0].name), (5, "mx:b.test"));
    assert_eq!(largest[0].oldest, Some(mail(MessageId::from_u64(1), 1).received));
    let keys = ["mx3.b.test".into(), "unknown.test".into()];
    assert_eq!(names(&owner.destinations_keyed(&keys, now)), ["mx3.b.test"]);
    let (named, is_paused) = owner.destinations_named("mx:b.test", now);
    assert_eq!((named.len(), is_paused), (3, false));
    owner.pause("mx2.b.test", now.mono);
    let (paused, is_paused) = owner.destinations_named("mx2.b.test", now);
    assert_eq!((paused[0].binding, is_paused), ((Binds::Paused, None), true));
    assert_eq!(paused[0].queued, 0, "its mail is back at home");
}

#[test]
fn a_survey_looks_at_few_destinations_and_jobs_at_a_time() {
    let mut owner = owner(0);
    for target in 0..600 {
        deliver(&mut owner, target, target);
    }
    let mut steps = Vec::new();
    let mut from = Some(0);
    while let Some(place) = from {
        let mut seen = 0;
        from = owner.loads(place, &mut |_, load| {
            assert_eq!((load.queued, load.weight), (1, 1));
            seen += 1;
        });
        steps.push(seen);
    }
    assert_eq!(steps.iter().sum::<usize>(), 600);
    assert!(steps.iter().all(|seen| *seen <= DESTINATIONS_PER_TICK), "{steps:?}");
    let mut crowded = self::owner(0);
    for number in 0..2 * JOBS_PER_TICK as u64 {
        deliver(&mut crowded, number, number % 4);
    }
    let mut seen = 0;
    let next = crowded.loads(0, &mut |_, _| seen += 1);
    assert_eq!((seen, next), (2, Some(2)), "jobs count as well");
}

#[test]
fn a_job_is_queued_behind_others_or_being_sent() {
    let mut owner = owner(100);
    (1..=3).for_each(|number| deliver(&mut owner, number, 1));
    let conns = opened(&mut owner);
    let now = now_at(5);
    begin(&mut owner, conns[0], now.mono);
    let first = owner.why(reference(1), now).expect("it is here");
    assert_eq!((first.ahead, first.destination.connections.busy), (None, 1));
    let last = owner.why(reference(3), now).expect("it is here");
    assert_eq!((last.ahead, &*last.under_way), (Some(1), &[MessageId::from_u64(1)][..]));
    assert_eq!(last.holders, [("mx1.b.test".into(), 1)]);
    let window = (Binds::Window(1), None);
    assert_eq!(last.destination.binding, window);
    let JobRef { key, .. } = reference(3);
    let other = JobRef { key, incarnation: Incarnation(2) };
    assert!(owner.why(other, now).is_none(), "another stay of the job");
}

#[test]
fn the_limit_of_the_process_is_told_with_its_holders() {
    let mut owner = owner(1);
    deliver(&mut owner, 1, 1);
    begin_first(&mut owner);
    deliver(&mut owner, 2, 2);
    let now = now_at(1);
    let waiting = owner.why(reference(2), now).expect("it is here");
    assert_eq!(waiting.destination.binding, (Binds::Process(1), None));
    assert_eq!(waiting.holders, [("mx1.b.test".into(), 1)]);
}

fn begin_first(owner: &mut Owner) -> ConnId {
    let conns = opened(owner);
    begin(owner, conns[0], now_at(0).mono);
    conns[0]
}

#[test]
fn errors_lacks_and_rules_are_shown_with_their_sources() {
    let mut owner = owner(100);
    (1..=3).for_each(|number| deliver(&mut owner, number, 1));
    let conn = begin_first(&mut owner);
    let now = now_at(0);
    let evidence = Arc::new(Evidence {
        at: now.wall,
        rule: "rules:7".into(),
        reply: "450 4.7.1 too much".into(),
        message: Some(MessageId::from_u64(1)),
        until: now.wall.plus_ms(60_000),
    });
    let end = End {
        job: Some(JobEnd::Deferred),
        asks_for_less: None,
        action: Some(RuleAction {
            evidence: Arc::clone(&evidence),
            action: Action {
                measure: Measure::Suspend,
                time: Duration::from_secs(60),
                scope: Scope::Source,
            },
        }),
        link: LinkEnd::Closed,
    };
    owner.ended(conn, &end, now.mono);
    let view = &owner.destinations(1, now)[0];
    let until = now.mono.plus_ms(60_000);
    assert_eq!(view.binding, (Binds::Suspended, Some(until)));
    assert_eq!(view.evidence, [evidence]);
    assert_eq!(view.sources.len(), 1);
    assert_eq!(
        (view.sources[0].bound, view.sources[0].connections),
        ((Binds::Suspended, Some(until)), 0)
    );
    assert_eq!(view.at.wall_at(until), Some(now.wall.plus_ms(60_000)));

    let end = |link| End { job: None, asks_for_less: None, action: None, link };
    deliver(&mut owner, 11, 3);
    let conn = begin_first(&mut owner);
    let answer = Arc::new(Answer::ours(Cause::Unreachable, "421 too many"));
    let less = End { asks_for_less: Some(answer), ..end(LinkEnd::Closed) };
    owner.ended(conn, &End { job: Some(JobEnd::Deferred), ..less }, now.mono);
    let view = owner.destinations_keyed(&["mx3.b.test".into()], now).remove(0);
    assert_eq!(view.last_error.expect("it has said so").text.as_ref(), "421 too many");
    assert!(matches!(view.binding, (Binds::Throttled, Some(_))));

    // What this server lacks is told as such. Nothing more is dialled for a moment.
    deliver(&mut owner, 9, 2);
    let conn = opened(&mut owner)[0];
    owner.ended(conn, &end(LinkEnd::OurLimit(OurLimit::Ports)), now.mono);
    let keys = ["mx2.b.test".into()];
    let view = owner.destinations_keyed(&keys, now).remove(0);
    assert_eq!(view.lack, Some(OurLimit::Ports));
    let (Binds::OurLimit(OurLimit::Ports), Some(_)) = view.binding else {
        panic!("{:?}", view.binding);
    };
    assert!(view.last_error.is_none(), "nobody is blamed");
}
