//! What the owner makes of jobs, connections, replies and operators, in one shard.

use std::net::Ipv4Addr;

use super::*;

use crate::base::Class;
use crate::base::MessageId;
use crate::base::PublicId;
use crate::base::SpoolNumber;
use crate::base::Wall;
use crate::config::Label;
use crate::config::PoolConfig;
use crate::config::delivery::value::PoolMember;
use crate::config::kind::Spelled;
use crate::delivery::destination::Blame;
use crate::delivery::destination::Failure;
use crate::delivery::destination::RuleAction;
use crate::delivery::home::tests::envelope;
use crate::handoff::frame::Answer;
use crate::handoff::frame::HostNames;
use crate::handoff::frames::Evidence;
use crate::handoff::frames::Flow;
use crate::handoff::frames::Incarnation;
use crate::handoff::frames::Mail;
use crate::handoff::frames::MailBody;
use crate::handoff::frames::OurLimit;
use crate::handoff::frames::PLACES_OPENING;
use crate::queue::Envelope;
use crate::route::OutboundTls;
use crate::route::source::Source;
use crate::route::source::SourceTable;
use crate::wire::classify::Action;
use crate::wire::classify::Cause;
use crate::wire::classify::Measure;
use crate::wire::classify::Scope;

mod classes;
mod random;
mod source_rates;
mod stripes;

const HOME: ShardId = ShardId(0);
const FLOW: Flow = Flow { target: 1, tenant: 1, class: Class::Normal };

pub(super) fn policy(text: &str) -> DeliveryPolicy {
    DeliveryPolicy::sample(text)
}

pub(super) fn hop(destination: &str) -> Hop {
    Hop {
        destination: destination.into(),
        name: "mx:b.test".into(),
        domain: "b.test".into(),
        stripes: 1,
        names: HostNames::Mx,
        ..Hop::default()
    }
}

fn envelope_of(sender: &str) -> Arc<[u8]> {
    let record = envelope(1_800_000_000_000, 1, |one| {
        let mut record = Vec::new();
        let all = Envelope { sender: Some(sender), ..*one };
        all.encode(&mut record).expect("it is short");
        record
    });
    record.into()
}

pub(super) fn delivery(
    number: u32,
    (hop, home): (&Arc<Hop>, ShardId),
    flow: Flow,
) -> Box<Delivery> {
    let id = MessageId::from_u64(u64::from(number));
    let public_id = PublicId { local: id, spool: SpoolNumber::from_bits(1) };
    let body = MailBody::Held(Arc::from(&b"text"[..]));
    let mail = Mail::new(public_id, envelope_of("s@a.test"), body).expect("it was just encoded");
    Box::new(Delivery {
        job: JobRef { key: (id, 0), incarnation: Incarnation(number) },
        home,
        mail: Arc::new(mail),
        recipients: Box::new([0]),
        hop: Arc::clone(hop),
        flow,
        weight: 1,
        due: Wall::from_ms(0),
        sent: Mono::ZERO,
    })
}

pub(super) fn target_of(hop: &Hop) -> u64 {
    FlowHasher::new((1, 2)).destination(&hop.destination, hop.pool.as_deref())
}

pub(super) fn failed(blame: Blame) -> LinkEnd {
    let answer = Arc::new(Answer::ours(Cause::ConnectTimeout, "no answer"));
    LinkEnd::Failed(Failure { blame, answer, host: "mx.test".into() })
}

pub(super) fn only(link: LinkEnd) -> End {
    End { job: None, asks_for_less: None, action: None, link }
}

pub(super) fn done(job: JobEnd) -> End {
    End { job: Some(job), ..only(LinkEnd::Kept) }
}

fn too_fast(link: LinkEnd) -> End {
    let text = "421 too fast".into();
    let asks_for_less = Some(Arc::new(Answer { text, remote: true, ..Answer::default() }));
    End { job: Some(JobEnd::Deferred), asks_for_less, ..only(link) }
}

fn at(ms: u64) -> Mono {
    Mono::from_ms(ms)
}

impl Owner {
    /// When the first tick comes that has something to do, if the last one was then.
    pub(in crate::delivery) fn next_wake(&self, ticked: Mono) -> Option<Mono> {
        let next_tick = ticked.plus_ms(20);
        let timer = self.timers.first().map(|(at, _)| *at);
        let waits = self.capacity.has_requests() && !self.is_closing;
        let has_work = waits || !self.touched.is_empty() || self.reloading.is_some();
        let idle_ms = known::idle_ms(self.entries.len());
        let idle = self.idle.first().map(|(since, _)| since.plus_ms(idle_ms));
        let rates = &self.rates;
        let unsaved = rates.unsaved.first().filter(|_| !rates.is_saving);
        let due = unsaved.into_iter().chain(rates.due.first()).map(|(at, _)| *at).min();
        let changed = (!rates.changed.is_empty()).then_some(next_tick);
        let due = due.map(|at| at.max(next_tick));
        let work = has_work.then_some(next_tick);
        [timer, work, idle, changed, due].into_iter().flatten().min()
    }
}

/// An owner, and what it wanted so far.
struct Bench {
    owner: Owner,
    ticked: Mono,
    opened: Vec<(ConnId, Box<str>, Option<Box<str>>)>,
    woken: Vec<ConnId>,
    returned: Vec<(u32, Returned)>,
    unreached: Vec<(u32, Mono)>,
    grants: Vec<(u32, Binds)>,
    jobs: u32,
    /// What is to be written; durable at the next tick.
    saves: Vec<(u64, StoredLimit)>,
}

impl Bench {
    fn new(text: &str) -> Bench {
        Bench::with(policy(text))
    }

    fn with(policy: DeliveryPolicy) -> Bench {
        Bench::of_shards(policy, 1)
    }

    fn of_shards(policy: DeliveryPolicy, shards: usize) -> Bench {
        let gate = Arc::new(Gate::new(policy.connections_max));
        let owner = Owner::new(OwnerParts {
            me: HOME,
            shards,
            policy: Arc::new(policy),
            hasher: FlowHasher::new((1, 2)),
            gate,
            paused: Vec::new(),
            sent_before: Arc::default(),
            seed: 1,
        });
        let (opened, woken, returned) = (Vec::new(), Vec::new(), Vec::new());
        let (unreached, grants, jobs) = (Vec::new(), Vec::new(), 0);
        let saves = Vec::new();
        let ticked = Mono::ZERO;
        Bench { owner, ticked, opened, woken, returned, unreached, grants, jobs, saves }
    }

    fn collect(&mut self) {
        for effect in self.owner.take_effects() {
            match effect {
                OwnerEffect::Open { conn, hop, source } => {
                    self.opened.push((conn, hop.destination.clone(), source));
                }
                OwnerEffect::Wake { conn } => self.woken.push(conn),
                OwnerEffect::Send { frame: Frame::Settle(outcome), .. } => {
                    let job = outcome.job.incarnation.0;
                    match outcome.what {
                        What::Returned(why) => self.returned.push((job, why)),
                        What::Unreached { not_before, .. } => {
                            self.unreached.push((job, not_before));
                        }
                        What::Tried { .. } => panic!("an owner does not send mail itself"),
                    }
                }
                OwnerEffect::Send { frame: Frame::Grant { total, state, .. }, .. } => {
                    self.grants.push((total, state.binds));
                }
                // The test bench has a quick disk.
                OwnerEffect::Save { limits } => self.saves.extend(limits),
                OwnerEffect::Send { .. } | OwnerEffect::Log { .. } => {}
            }
        }
    }

    fn push_of(&mut self, hop: &Arc<Hop>, count: u32, tenant: u64, ms: u64) {
        for _ in 0..count {
            let flow = Flow { target: target_of(hop), tenant, class: Class::Normal };
            let delivery = delivery(self.jobs, (hop, HOME), flow);
            self.jobs += 1;
            self.owner.deliver(delivery, at(ms));
        }
        self.collect();
    }

    fn push(&mut self, hop: &Arc<Hop>, count: u32, ms: u64) {
        self.push_of(hop, count, 1, ms);
    }

    fn want(&mut self, hop: &Arc<Hop>, ms: u64) {
        self.owner.want(hop, (target_of(hop), HOME, 5, 1), at(ms));
    }

    fn next_wake(&self) -> Option<Mono> {
        self.owner.next_wake(self.ticked)
    }

    fn tick(&mut self, ms: u64) {
        self.ticked = at(ms);
        self.owner.tick(self.ticked);
        self.collect();
        if !self.saves.is_empty() {
            self.owner.saved(at(ms));
            self.collect();
        }
    }

    fn opened(&mut self, ms: u64) -> Vec<ConnId> {
        self.tick(ms);
        std::mem::take(&mut self.opened).into_iter().map(|(conn, ..)| conn).collect()
    }

    fn connect(&mut self, ms: u64) -> Vec<ConnId> {
        let opened = self.opened(ms);
        opened.iter().for_each(|conn| self.owner.connected(*conn, at(ms)));
        opened
    }

    fn woken(&mut self, ms: u64) -> Vec<ConnId> {
        self.tick(ms);
        std::mem::take(&mut self.woken)
    }

    fn take(&mut self, conn: ConnId, ms: u64) -> Option<Box<Delivery>> {
        match self.owner.take(conn, at(ms)) {
            Take::Job(delivery) => Some(delivery),
            Take::IdleUntil(_) | Take::Close => None,
        }
    }

    fn closes(&mut self, conn: ConnId, ms: u64) -> bool {
        matches!(self.owner.take(conn, at(ms)), Take::Close)
    }

    fn end(&mut self, conn: ConnId, end: End, ms: u64) {
        self.owner.ended(conn, &end, at(ms));
        self.collect();
    }

    fn delivers(&mut self, conn: ConnId, ms: u64) -> bool {
        let has_job = self.take(conn, ms).is_some();
        if has_job {
            self.end(conn, done(JobEnd::Delivered), ms);
        }
        has_job
    }

    fn fails(&mut self, conn: ConnId, blame: Blame, ms: u64) {
        self.end(conn, only(failed(blame)), ms);
    }

    fn destination(&mut self, hop: &Hop) -> &mut Destination {
        let index = self.owner.by_name[&hop.destination];
        &mut self.owner.entries[index as usize].destination
    }

    fn window(&mut self, hop: &Hop, ms: u64) -> u32 {
        self.destination(hop).window(at(ms))
    }

    fn state(&mut self, hop: &Hop, ms: u64) -> GrantState {
        let policy = Arc::clone(&self.owner.policy);
        self.destination(hop).state(hop.pool.as_deref(), &policy.sources, at(ms))
    }

    fn until_ms(&mut self, hop: &Hop, ms: u64) -> u64 {
        self.state(hop, ms).until.expect("it rests").ms_since(Mono::ZERO)
    }
}

fn named(name: &str) -> Arc<Hop> {
    Arc::new(hop(name))
}

#[test]
fn connections_are_opened_for_jobs_within_the_window_which_grows_on_success() {
    let (mut bench, a) = (Bench::new("[destination_defaults]\nwindow_start = 2\n"), named("a"));
    bench.push(&a, 1, 0);
    let mut conns = bench.connect(0);
    assert_eq!(conns.len(), 1, "one job needs one");
    bench.push(&a, 99, 0);
    conns.extend(bench.connect(0));
    assert_eq!(conns.len(), 2, "no more than the window");
    for (round, wanted) in [(1, 3), (2, 4)] {
        for conn in conns.clone() {
            assert!(bench.delivers(conn, round));
        }
        conns.extend(bench.connect(round));
        assert_eq!(bench.window(&a, round), wanted, "a window of successes adds one");
        assert_eq!(conns.len(), wanted as usize);
    }
}

#[test]
fn the_window_stops_at_the_policy_and_counts_what_is_closing() {
    let text = "[destination_defaults]\nwindow_start = 2\nconnections_max = 2\n\
                messages_per_connection = 1\n";
    let (mut bench, a) = (Bench::new(text), named("a"));
    bench.push(&a, 9, 0);
    let conns = bench.connect(0);
    assert_eq!(conns.len(), 2);
    assert!(bench.delivers(conns[0], 1));
    assert!(bench.closes(conns[0], 1), "one message each");
    assert!(bench.opened(1).is_empty(), "it is still open at the other end");
    bench.end(conns[0], only(LinkEnd::Closed), 2);
    assert_eq!(bench.opened(2).len(), 1);
}

#[test]
fn an_idle_connection_is_woken_and_in_time_closed() {
    let (mut bench, a) = (Bench::new("[destination_defaults]\nidle_reuse = '5s'\n"), named("a"));
    bench.push(&a, 1, 0);
    let conn = bench.connect(0)[0];
    assert!(bench.delivers(conn, 10));
    assert!(matches!(bench.owner.take(conn, at(10)), Take::IdleUntil(until) if until == at(5010)));
    bench.push(&a, 1, 4000);
    assert_eq!(bench.woken(4000), [conn]);
    assert!(bench.delivers(conn, 4000) && !bench.delivers(conn, 4000));
    assert!(bench.closes(conn, 9000));
    bench.end(conn, only(LinkEnd::Closed), 9001);
    assert_eq!((bench.owner.connections(), bench.owner.gate.used()), (0, 0));
    assert!(bench.closes(conn, 9001), "a connection that is gone");
}

#[test]
fn failures_in_a_row_back_off_and_one_probe_ends_it() {
    let text = "[destination_defaults]\nfailures_to_back_off = 3\nwindow_start = 5\n\
                back_off_first = '1m'\n";
    let (mut bench, a) = (Bench::new(text), named("a"));
    bench.push(&a, 50, 0);
    let conns = bench.opened(0);
    assert_eq!(conns.len(), 5);
    for conn in &conns[..3] {
        bench.fails(*conn, Blame::Destination, 0);
    }
    assert_eq!(bench.returned.len(), 47, "no memory is held");
    assert_eq!(bench.unreached.len(), 3, "one for each connection; the others were queued");
    let until_ms = bench.until_ms(&a, 0);
    assert!((48_000..=60_000).contains(&until_ms));
    assert!(bench.unreached.iter().all(|(_, not_before)| *not_before == at(until_ms)));
    assert_eq!(bench.grants, [(0, Binds::BackingOff)]);
    bench.owner.connected(conns[3], at(1));
    assert!(bench.closes(conns[3], 1));
    bench.end(conns[3], only(LinkEnd::Closed), 1);
    bench.fails(conns[4], Blame::Destination, 2);
    bench.push(&a, 1, 5);
    bench.tick(30);
    assert_eq!(bench.returned.last(), Some(&(50, Returned::NoPlaces)));
    assert_eq!(bench.grants.last(), Some(&(0, Binds::BackingOff)), "it hears again");
    // A home that has asked hears when it may send the probe.
    bench.want(&a, 10_000);
    assert!(bench.next_wake().is_some_and(|at| at <= Mono::from_ms(until_ms)));
    bench.tick(until_ms - 1);
    assert_eq!(bench.grants.pop(), Some((0, Binds::BackingOff)));
    bench.tick(until_ms);
    bench.tick(until_ms + 20);
    assert_eq!(bench.grants.last(), Some(&(1, Binds::BackingOff)));
    bench.push(&a, 9, until_ms + 20);
    let probe = bench.opened(until_ms + 20);
    assert_eq!(probe.len(), 1, "one probe");
    (bench.returned, bench.unreached) = (Vec::new(), Vec::new());
    let returned = bench.destination(&a).counters.returned;
    bench.fails(probe[0], Blame::Destination, until_ms + 20);
    assert_eq!((bench.returned.len(), bench.unreached.len()), (8, 1));
    let counted = bench.destination(&a).counters.returned;
    assert_eq!(counted, returned + 8, "all but the tried one");
    let second_ms = bench.until_ms(&a, until_ms + 20);
    assert!((96_000..=120_000).contains(&(second_ms - until_ms - 20)), "twice as long");

    bench.want(&a, second_ms);
    bench.push(&a, 9, second_ms);
    let probe = bench.connect(second_ms)[0];
    assert_eq!(bench.state(&a, second_ms).binds, Binds::BackingOff);
    assert!(bench.state(&a, second_ms).failing_since.is_some());
    assert!(bench.delivers(probe, second_ms));
    assert_eq!(bench.window(&a, second_ms), 1, "it starts anew");
    assert!(bench.delivers(probe, second_ms));
    bench.tick(second_ms + 20);
    assert!(bench.grants.last().is_some_and(|(total, _)| *total >= 16));
    assert_eq!(bench.state(&a, second_ms).failing_since, None);
}

#[test]
fn a_probe_that_finds_nothing_out_is_followed_by_another() {
    let text = "[destination_defaults]\nfailures_to_back_off = 1\n";
    let (mut bench, a) = (Bench::new(text), named("a"));
    bench.push(&a, 1, 0);
    let conn = bench.opened(0)[0];
    bench.fails(conn, Blame::Destination, 0);
    let later = bench.until_ms(&a, 0);
    bench.push(&a, 1, later);
    let probe = bench.connect(later)[0];
    bench.end(probe, only(LinkEnd::Closed), later);
    let second = bench.connect(later)[0];
    // Its mail is recalled.
    let job = delivery(1, (&a, HOME), FLOW).job;
    bench.owner.recall(job, at(later));
    bench.collect();
    assert_eq!(bench.returned.last(), Some(&(1, Returned::Recalled)));
    assert!(bench.closes(second, later), "an idle probe would keep others out");
    bench.end(second, only(LinkEnd::Closed), later);
    bench.want(&a, later);
    bench.tick(later + 20);
    assert_eq!(bench.grants.last(), Some(&(1, Binds::BackingOff)));
}

#[test]
fn a_probe_waits_for_a_rate_and_goes_on() {
    let text = "[destination_defaults]\nfailures_to_back_off = 1\nmessages_per_second = 1\n\
                back_off_first = '1s'\nidle_reuse = '60s'\n";
    let (mut bench, a) = (Bench::new(text), named("a"));
    bench.push(&a, 9, 0);
    let first = bench.connect(0);
    assert_eq!(first.len(), 1);
    let job = bench.take(first[0], 0).expect("a job");
    bench.fails(first[0], Blame::Destination, 0);
    drop(job);
    bench.push(&a, 2, 1060);
    let probe = bench.connect(1060)[0];
    let job = bench.take(probe, 1060).expect("a job");
    bench.owner.give_back(probe, job, Returned::Hidden, at(1060));
    assert!(bench.take(probe, 1060).is_some(), "what is given back does not count");
    bench.end(probe, End { job: None, ..only(LinkEnd::Kept) }, 1061);
    bench.push(&a, 1, 1061);
    assert!(matches!(bench.owner.take(probe, at(1061)), Take::IdleUntil(_)));
    assert!(bench.woken(1500).is_empty());
    assert_eq!(bench.woken(2200), [probe]);
    assert!(bench.delivers(probe, 2200));
    assert_eq!(bench.state(&a, 2200).binds, Binds::Rate);
}

/// Tokens that are asked for come at once, valid until then; those given back are collected.
fn pass_tokens(bench: &mut Bench, until_ms: u64, ms: u64) -> Vec<(u64, u32, Mono)> {
    bench.ticked = at(ms);
    bench.owner.tick(at(ms));
    let mut unused = Vec::new();
    for effect in bench.owner.take_effects() {
        match effect {
            OwnerEffect::Send { frame: Frame::Ask { limit, tokens, .. }, .. } => {
                bench.owner.allow(limit, (tokens, at(until_ms)), at(ms));
            }
            OwnerEffect::Send { frame: Frame::Unused { limit, tokens, until }, .. } => {
                unused.push((limit, tokens, until));
            }
            OwnerEffect::Open { conn, hop, source } => {
                bench.opened.push((conn, hop.destination.clone(), source));
            }
            _ => {}
        }
    }
    unused
}

/// The first tenant may send so many messages an hour.
fn with_limited_tenant(text: &str) -> (DeliveryPolicy, u64) {
    let tenants = "[[tenant]]\nname = 't1'\nmessages_per_hour = 1000\n";
    let policy = policy(&format!("{text}{tenants}"));
    (policy, FlowHasher::new((1, 2)).tenant(Some("t1")))
}

#[test]
fn a_job_that_is_given_back_uses_no_token() {
    let text = "[destination_defaults]\nmessages_per_hour = 1000\nwindow_start = 1\nstripes = 2\n";
    let (policy, tenant) = with_limited_tenant(text);
    let (mut bench, a) = (Bench::of_shards(policy, 2), named("a"));
    bench.push_of(&a, 1, tenant, 0);
    let key = FlowHasher::new((1, 2)).destination("a", None);
    bench.owner.share(key, (HOME, 1, 1), at(0));
    for ms in [0, 100, 120] {
        assert!(pass_tokens(&mut bench, 250, ms).is_empty());
    }
    let conn = bench.connect(140)[0];
    let job = bench.take(conn, 140).expect("both tokens have come");
    bench.owner.give_back(conn, job, Returned::Hidden, at(141));
    let mut unused = pass_tokens(&mut bench, 250, 160);
    unused.sort_unstable();
    let mut expected = [(tenant, 1, at(250)), (key, 1, at(250))];
    expected.sort_unstable();
    assert_eq!(unused, expected, "the leads may give them to others");
}

#[test]
fn leads_are_bounded_and_what_was_sent_still_counts() {
    let text = "[destination_defaults]\nmessages_per_day = 1\nstripes = 2\n";
    let mut bench = Bench::of_shards(policy(text), 2);
    let keys: Vec<u64> = (0..DESTINATIONS_MAX + 3)
        .map(|number| {
            let hop = named(&format!("d{number}"));
            bench.owner.used(target_of(&hop), ShardId(1), (Some(&hop), Used::default()), at(0));
            target_of(&hop)
        })
        .collect();
    assert_eq!(bench.owner.leads.len(), DESTINATIONS_MAX);
    assert!(!bench.owner.leads.contains_key(&keys[DESTINATIONS_MAX]), "it has no room");
    let lead = bench.owner.leads.get_mut(&keys[0]).expect("it came first");
    lead.limit.count(1, at(0));
    let idle_ms = known::idle_ms(DESTINATIONS_MAX);
    bench.tick(idle_ms - 1);
    assert_eq!(bench.owner.leads.len(), DESTINATIONS_MAX);
    bench.tick(idle_ms);
    assert_eq!(bench.owner.leads.len(), 0);
    // They come again.
    for (number, key) in [(0, keys[0]), (DESTINATIONS_MAX, keys[DESTINATIONS_MAX])] {
        let hop = named(&format!("d{number}"));
        bench.owner.used(key, ShardId(1), (Some(&hop), Used::default()), at(idle_ms));
    }
    let mut ends = |key| bench.owner.leads.get_mut(key).map(|lead| lead.limit.empties_at(at(0)));
    assert!(ends(&keys[0]) > Some(at(idle_ms)), "the message counts");
    assert_eq!(ends(&keys[DESTINATIONS_MAX]), Some(Mono::ZERO));
}

#[test]
fn a_tenant_with_tokens_is_looked_at_when_they_expire() {
    let (policy, tenant) = with_limited_tenant("[destination_defaults]\nidle_reuse = '60s'\n");
    let (mut bench, a) = (Bench::with(policy), named("a"));
    bench.push_of(&a, 3, tenant, 0);
    pass_tokens(&mut bench, 250, 20);
    pass_tokens(&mut bench, 250, 40);
    assert_eq!(bench.next_wake(), Some(at(60)), "nobody has answered for two of them");
    pass_tokens(&mut bench, 250, 120);
    pass_tokens(&mut bench, 250, 140);
    assert_eq!(bench.next_wake(), Some(at(250)), "not at each tick");
    let conns = bench.connect(140);
    assert!(bench.take(conns[0], 249).is_some() && bench.take(conns[1], 250).is_none());
    assert!(bench.owner.rates.holds(tenant));
    assert_eq!(pass_tokens(&mut bench, 500, 250), [(tenant, 2, at(250))], "they have expired");
    assert!(bench.take(conns[1], 250).is_some() && bench.take(conns[2], 250).is_some());
    assert_eq!(pass_tokens(&mut bench, 500, 270), []);
    assert!(bench.next_wake().is_some_and(|wake| wake > at(290)), "no job waits");
}

#[test]
fn destinations_that_failed_do_not_take_the_last_connections() {
    let mut bench =
        Bench::new("[delivery]\nconnections_max = 8\n[destination_defaults]\nwindow_start = 1\n");
    for number in 0..20 {
        bench.push(&named(&format!("dead{number}")), 1, 0);
    }
    for _ in 0..3 {
        for conn in bench.opened(0) {
            bench.fails(conn, Blame::Destination, 0);
        }
    }
    assert_eq!(bench.opened(10_000).len(), 6);
    bench.push(&named("healthy"), 1, 10_000);
    assert_eq!(bench.opened(10_000).len(), 1);
}

#[test]
fn our_own_shortage_is_not_held_against_the_destination() {
    let text = "[destination_defaults]\nfailures_to_back_off = 1\nwindow_start = 5\n";
    let (mut bench, a, b) = (Bench::new(text), named("a"), named("b"));
    bench.push(&a, 1, 0);
    let conn = bench.opened(0)[0];
    bench.end(conn, only(LinkEnd::OurLimit(OurLimit::Descriptors)), 0);
    bench.push(&b, 1, 1);
    assert!(bench.opened(1).is_empty(), "the shard dials nothing for a moment");
    assert_eq!(bench.window(&a, 1), 5);
    assert_eq!(bench.state(&a, 1).binds, Binds::OurLimit(OurLimit::Descriptors));
    assert!(bench.state(&a, 1).last.is_none() && bench.returned.is_empty());
    assert_eq!(bench.opened(20).len(), 1, "the other one soon");
    let wake = bench.next_wake().expect("it tries again");
    assert_eq!(bench.opened(wake.ms_since(Mono::ZERO).max(250)).len(), 1);
}

#[test]
fn mail_does_not_wait_in_line_for_a_proxy_that_is_down() {
    let text = "[destination_defaults]\nfailures_to_back_off = 2\nwindow_start = 5\n";
    let (mut bench, a) = (Bench::new(text), named("a"));
    bench.push(&a, 3, 0);
    let conns = bench.opened(0);
    bench.fails(conns[0], Blame::Source, 0);
    assert_eq!(bench.window(&a, 0), 5, "the destination is not to blame");
    assert!(bench.returned.is_empty());
    bench.fails(conns[1], Blame::Source, 0);
    assert_eq!((bench.returned.len(), bench.unreached.len()), (1, 2));
    let state = bench.state(&a, 0);
    assert_eq!((state.binds, &*state.last_host), (Binds::BackingOff, "mx.test"));
}

#[test]
fn a_server_that_asks_for_less_gets_three_quarters_of_it() {
    let text = "[destination_defaults]\nwindow_start = 8\nidle_reuse = '60s'\n";
    let (mut bench, a) = (Bench::new(text), named("a"));
    bench.push(&a, 50, 0);
    let conns = bench.connect(0);
    assert!(bench.take(conns[0], 0).is_some());
    bench.end(conns[0], too_fast(LinkEnd::Kept), 0);
    assert!(bench.closes(conns[0], 0), "that connection goes");
    bench.end(conns[0], only(LinkEnd::Closed), 0);
    let mut going = 0;
    for conn in &conns[1..] {
        going += usize::from(bench.delivers(*conn, 1));
        assert!(bench.opened(1).is_empty(), "none is opened for a second");
    }
    assert_eq!(going, 6, "the others go on, in a smaller window");
    assert_eq!(&*bench.state(&a, 1).last.expect("it is kept").text, "421 too fast");
    let wake = bench.next_wake().expect("it goes on");
    assert!((20..=1251).contains(&wake.ms_since(Mono::ZERO)));
}

#[test]
fn at_a_window_of_one_there_is_silence_which_doubles() {
    let text = "[destination_defaults]\nwindow_start = 1\n";
    let (mut bench, a) = (Bench::new(text), named("a"));
    bench.push(&a, 30, 0);
    let mut now = 0;
    for full_ms in [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000] {
        let conn = bench.connect(now)[0];
        assert!(bench.take(conn, now).is_some());
        bench.end(conn, too_fast(LinkEnd::Closed), now);
        assert!(bench.opened(now + full_ms - 1).is_empty(), "{full_ms}");
        now += full_ms + full_ms / 4 + 1;
    }
    assert_eq!(bench.state(&a, now).binds, Binds::Nothing, "that is no backoff");
}

/// One 421 or rate reply, in each state of the destination.
#[test]
fn a_reply_that_asks_for_less_lengthens_the_backoff_of_a_probe() {
    for link in [LinkEnd::Closed, LinkEnd::Kept, failed(Blame::Destination)] {
        let text = "[destination_defaults]\nfailures_to_back_off = 1\nback_off_first = '1m'\n";
        let (mut bench, a) = (Bench::new(text), named("a"));
        bench.push(&a, 1, 0);
        let conn = bench.opened(0)[0];
        bench.fails(conn, Blame::Destination, 0);
        let first = bench.until_ms(&a, 0);
        bench.push(&a, 2, first);
        let probe = bench.connect(first)[0];
        assert!(bench.take(probe, first).is_some());
        bench.end(probe, too_fast(link.clone()), first);
        let second = bench.until_ms(&a, first) - first;
        assert!((96_000..=120_000).contains(&second), "{link:?}: {second}");
        if let LinkEnd::Kept = link {
            assert!(bench.closes(probe, first), "it is no probe any more");
        }
    }
}

#[test]
fn a_rate_wakes_as_many_connections_as_it_admits_jobs() {
    let text =
        "[destination_defaults]\nmessages_per_second = 3\nidle_reuse = '60s'\nwindow_start = 5\n";
    let (mut bench, a) = (Bench::new(text), named("a"));
    bench.push(&a, 50, 0);
    let conns = bench.connect(0);
    assert_eq!(conns.len(), 3, "more could do nothing");
    assert!(conns.iter().all(|conn| bench.delivers(*conn, 0)));
    assert!(!conns.iter().any(|conn| bench.delivers(*conn, 0)));
    assert!(bench.woken(1000).is_empty());
    assert_eq!(bench.state(&a, 500).binds, Binds::Rate);
    assert_eq!(bench.next_wake(), Some(at(1050)));
    assert_eq!(bench.woken(1050).len(), 3);
}

#[test]
fn a_pause_returns_the_jobs_and_a_resume_grants_places() {
    let (mut bench, a) = (Bench::new(""), named("a"));
    bench.push(&a, 3, 0);
    let conn = bench.connect(0)[0];
    let job = bench.take(conn, 0).expect("a job");
    assert_eq!(bench.owner.pause("b.test", at(1)), ["a".into()]);
    bench.collect();
    assert_eq!((bench.returned.len(), bench.grants.pop()), (2, Some((0, Binds::Paused))));
    bench.end(conn, done(JobEnd::Delivered), 2);
    drop(job);
    bench.push(&a, 1, 3);
    assert!(bench.opened(20).is_empty());
    // Another domain of it does not resume it.
    let other = Arc::new(Hop { domain: "c.test".into(), ..hop("a") });
    bench.push(&other, 1, 21);
    assert_eq!(bench.returned.len(), 4);
    assert_eq!(bench.owner.resume("b.test", at(30)), ["a".into()]);
    bench.tick(50);
    assert!(bench.grants.last().is_some_and(|(total, _)| *total > 0), "{:?}", bench.grants);
    bench.push(&a, 1, 60);
    assert!(bench.opened(60).is_empty() && bench.delivers(conn, 60), "the open ones are used");
}

#[test]
fn a_pause_does_not_depend_on_whose_mail_came_last() {
    let (mut bench, b) = (Bench::new(""), named("a"));
    let c = Arc::new(Hop { domain: "c.test".into(), ..hop("a") });
    bench.push(&b, 1, 0);
    bench.push(&c, 1, 1);
    assert_eq!(bench.owner.pause("b.test", at(2)), ["a".into()], "mail of that name waits");
    bench.push(&c, 1, 3);
    let is_paused = |bench: &mut Bench| bench.destination(&b).is_paused();
    // Other names change nothing.
    assert!(bench.owner.pause("x.test", at(4)).is_empty() && is_paused(&mut bench));
    assert!(bench.owner.resume("x.test", at(5)).is_empty() && is_paused(&mut bench));
    assert!(bench.owner.pause("c.test", at(6)).is_empty(), "it is paused already");
    assert!(bench.owner.resume("b.test", at(7)).is_empty() && is_paused(&mut bench));
    bench.push(&b, 1, 8);
    assert!(is_paused(&mut bench), "by the name of the other domain");
    assert_eq!(bench.owner.resume("c.test", at(9)), ["a".into()]);
    assert!(!is_paused(&mut bench));
}

#[test]
fn destinations_share_the_connections_of_the_shard() {
    let text = "[delivery]\nconnections_max = 8\n[destination_defaults]\nwindow_start = 20\n\
                connections_max = 20\n";
    let (mut bench, a, b) = (Bench::new(text), named("a"), named("b"));
    bench.push(&a, 1000, 0);
    let conns = bench.connect(0);
    assert_eq!(conns.len(), 6, "the last quarter is for destinations without any");
    bench.push(&b, 100, 0);
    let mut of_b = bench.connect(0).len();
    assert_eq!(of_b, 1);
    for round in 1..50 {
        for conn in &conns {
            match bench.owner.take(*conn, at(round)) {
                Take::Job(_) => bench.end(*conn, done(JobEnd::Delivered), round),
                _ => bench.end(*conn, only(LinkEnd::Closed), round),
            }
        }
        of_b += bench.connect(round).len();
    }
    let of_a = bench.destination(&a).counts.live();
    assert!((3..=4).contains(&of_a) && of_b >= 3, "{of_a} and {of_b}");
}

#[test]
fn an_idle_connection_makes_room_for_a_destination_that_waits() {
    let text = "[delivery]\nconnections_max = 1\n";
    let (mut bench, a, b) = (Bench::new(text), named("a"), named("b"));
    bench.push(&a, 2, 0);
    let conn = bench.connect(0)[0];
    assert!(bench.delivers(conn, 1) && bench.delivers(conn, 1) && !bench.delivers(conn, 1));
    bench.push(&b, 1, 2);
    assert_eq!(bench.woken(2), [conn], "it has been idle");
    assert!(bench.closes(conn, 2));
    bench.end(conn, only(LinkEnd::Closed), 3);
    let conn = bench.connect(3)[0];
    bench.push(&a, 1, 3);
    assert!(bench.opened(3).is_empty());
    assert!(bench.next_wake().is_some(), "another shard may make room");
    assert!(bench.delivers(conn, 4));
    assert!(bench.closes(conn, 4), "it is not idle first");
    bench.end(conn, only(LinkEnd::Closed), 5);
    assert_eq!((bench.opened(5).len(), bench.owner.gate.used()), (1, 1));
}

#[test]
fn idle_destinations_are_forgotten_and_those_with_a_rate_later() {
    let text = "[[destination]]\nname = 'hourly'\nrecipient_domain = 'hourly.test'\nmessages_per_hour = 9\n";
    let (mut bench, a) = (Bench::new(text), named("a"));
    let hourly = Arc::new(Hop { domain: "hourly.test".into(), ..hop("h") });
    let mut conns = Vec::new();
    for hop in [&a, &hourly] {
        bench.push(hop, 1, 1);
        conns.extend(bench.connect(1));
    }
    for conn in conns {
        assert!(bench.delivers(conn, 1));
        bench.end(conn, only(LinkEnd::Closed), 2);
    }
    bench.want(&named("asked"), 2);
    assert_eq!(bench.next_wake(), Some(at(2 + DESTINATION_IDLE_MS)).min(bench.next_wake()));
    let mut known = |ms| {
        bench.tick(ms);
        bench.owner.entries.len()
    };
    assert_eq!(known(1 + DESTINATION_IDLE_MS), 3);
    assert_eq!(known(2 + DESTINATION_IDLE_MS), 1);
    assert_eq!(known(3_600_000), 1);
    (1..=2).for_each(|more| assert!(known(3_600_000 + more * 1_000_000) <= 1));
    assert_eq!(known(7_200_000), 0);
    assert!(bench.owner.by_name.is_empty() && bench.owner.timers.is_empty());
    assert_eq!(bench.next_wake(), None);
}

#[test]
fn only_rates_that_were_stored_are_dropped_from_the_file() {
    let text = "[[destination]]\nname = 'hourly'\nrecipient_domain = 'hourly.test'\nmessages_per_hour = 9\n";
    let (mut bench, a) = (Bench::new(text), named("a"));
    let hourly = Arc::new(Hop { domain: "hourly.test".into(), ..hop("h") });
    bench.want(&a, 0);
    bench.want(&hourly, 0);
    bench.tick(DESTINATION_IDLE_MS);
    assert!(bench.owner.entries.is_empty() && bench.saves.is_empty(), "no rate was used");
    bench.push(&hourly, 1, DESTINATION_IDLE_MS);
    let conn = bench.connect(DESTINATION_IDLE_MS)[0];
    assert!(bench.delivers(conn, DESTINATION_IDLE_MS));
    bench.end(conn, only(LinkEnd::Closed), DESTINATION_IDLE_MS);
    (2..20).for_each(|round| bench.tick(round * DESTINATION_IDLE_MS));
    assert!(bench.owner.entries.is_empty());
    let last = bench.saves.last().map(|(_, stored)| stored);
    assert_eq!(last, Some(&StoredLimit::default()), "nothing counts any more");
}

#[test]
fn a_full_table_forgets_destinations_but_not_what_was_sent_to_them() {
    let text = "[destination_defaults]\nmessages_per_day = 80\nmessages_per_second = 6\nidle_reuse = '60s'\n\
                window_start = 1\nconnections_max = 1\n";
    let (mut bench, a) = (Bench::new(text), named("a"));
    bench.push(&a, 5, 0);
    bench.tick(0);
    let conn = bench.connect(0)[0];
    (0..5).for_each(|_| assert!(bench.delivers(conn, 0)));
    bench.end(conn, only(LinkEnd::Closed), 1);
    assert!(bench.owner.forget_oldest(at(2)), "no rate keeps others out");
    assert!(bench.owner.entries.is_empty());
    bench.push(&a, 9, 3);
    bench.tick(3);
    let conn = bench.connect(20)[0];
    assert!(bench.delivers(conn, 20) && !bench.delivers(conn, 20), "six a second");
    let Rate::Own(limit) = &mut bench.destination(&a).rate else { panic!("it is not striped") };
    let counted = limit.counted(at(1100)).windows.into_iter();
    let counted = counted.map(|window| window.slices.iter().map(|slice| slice.count).sum());
    assert_eq!(counted.collect::<Vec<u32>>(), [0, 6], "in a second and a day");
    // Nothing is kept for longer than it counts.
    bench.owner.close();
    bench.end(conn, only(LinkEnd::Closed), 1100);
    assert!(bench.owner.forget_oldest(at(1200)));
    bench.saves.clear();
    bench.tick(2 * 86_400_000);
    assert_eq!(bench.saves.pop(), Some((target_of(&a), StoredLimit::default())));
    assert!(bench.owner.rates.keeps_more() && bench.owner.entries.is_empty());
}

#[test]
fn a_home_that_was_told_of_no_places_hears_from_an_owner_that_forgot() {
    let (mut bench, a) = (Bench::new(""), named("a"));
    bench.want(&a, 0);
    bench.collect();
    assert_eq!(bench.grants.len(), 1);
    assert!(bench.grants[0].0 >= 16);
}

#[test]
fn places_follow_a_window_that_grows_and_then_stay() {
    let text = "[destination_defaults]\nwindow_start = 5\nconnections_max = 100\nidle_reuse = '60s'\n\
                messages_per_connection = 100000\n";
    let (mut bench, a) = (Bench::new(text), named("a"));
    bench.push(&a, 32, 0);
    let (mut conns, mut told, mut busy) = (bench.connect(0), 0, Vec::new());
    for round in 0..400 {
        let now = 100 + round * 20;
        busy.extend(conns.iter().copied().filter(|conn| bench.take(*conn, now).is_some()));
        conns.clear();
        let count = busy.len() as u32;
        for conn in busy.drain(..) {
            bench.end(conn, done(JobEnd::Delivered), now + 10);
            conns.push(conn);
        }
        bench.push(&a, count, now + 10);
        let opened = bench.connect(now + 15);
        conns.extend(opened);
        let total = bench.grants.last().map_or(32, |grant| grant.0);
        let missing = total.saturating_sub(bench.destination(&a).queued() as u32);
        bench.push(&a, missing, now + 15);
        if round == 300 {
            told = bench.grants.len();
        }
    }
    assert_eq!(bench.window(&a, 10_000), 100, "{:?}", bench.grants);
    assert!(bench.grants.last().is_some_and(|grant| grant.0 >= 160), "{:?}", bench.grants);
    assert!(bench.grants.len() <= told + 1, "steady: {:?}", &bench.grants[told..]);
}

#[test]
fn a_lost_connection_frees_its_place_and_jobs_are_checked() {
    let (mut bench, a) = (Bench::new(""), named("a"));
    bench.push(&a, 2, 0);
    let conns = bench.connect(0);
    let job = bench.take(conns[0], 0).expect("a job");
    bench.owner.recall(job.job, at(0));
    bench.collect();
    assert!(bench.returned.is_empty(), "it has begun");
    let unknown = delivery(99, (&a, HOME), FLOW).job;
    bench.owner.check(HOME, vec![job.job, unknown]);
    let missing = |effect: &OwnerEffect| match effect {
        OwnerEffect::Send { frame: Frame::Missing { jobs }, .. } => Some(jobs.clone()),
        _ => None,
    };
    let effects = bench.owner.take_effects();
    assert_eq!(effects.iter().find_map(missing), Some(vec![unknown]));
    let lost = End { job: Some(JobEnd::Lost), ..only(failed(Blame::Destination)) };
    bench.end(conns[0], lost.clone(), 1);
    let counters = bench.destination(&a).counters;
    assert_eq!((counters.lost, counters.failures), (1, 1));
    bench.end(conns[0], lost, 1);
    assert_eq!(bench.destination(&a).counters, counters, "once");
    assert_eq!(bench.destination(&a).counts.live(), conns.len() as u32 - 1);
}

#[test]
fn a_shard_that_ends_gives_all_jobs_back() {
    let (mut bench, a) = (Bench::new("[destination_defaults]\nwindow_start = 2\n"), named("a"));
    bench.push(&a, 9, 0);
    let conns = bench.connect(0);
    assert!(bench.take(conns[0], 0).is_some());
    assert!(bench.delivers(conns[1], 0));
    bench.owner.close();
    bench.push(&a, 1, 1);
    bench.collect();
    assert_eq!(bench.returned.len(), 8);
    assert!(bench.returned.iter().all(|(_, why)| *why == Returned::Closing));
    bench.end(conns[0], done(JobEnd::Delivered), 2);
    assert!(conns.iter().all(|conn| bench.closes(*conn, 3)));
    conns.iter().for_each(|conn| bench.end(*conn, only(LinkEnd::Closed), 4));
    assert_eq!((bench.owner.connections(), bench.owner.gate.used()), (0, 0));
}

#[test]
fn tenants_take_turns_whoever_came_first() {
    let (mut bench, a) = (Bench::new("[destination_defaults]\nwindow_start = 1\n"), named("a"));
    bench.push_of(&a, 100, 1, 0);
    bench.push_of(&a, 100, 2, 0);
    let conn = bench.connect(0)[0];
    let mut of_2 = 0;
    for _ in 0..40 {
        let delivery = bench.take(conn, 1).expect("a job");
        of_2 += u32::from(delivery.flow.tenant == 2);
        bench.end(conn, done(JobEnd::Delivered), 1);
    }
    assert!((19..=21).contains(&of_2), "{of_2} of 40");
}

fn pools(text: &str, pools: &[(&str, &[&str])]) -> DeliveryPolicy {
    let mut policy = policy(text);
    let source = |name: &str| Source {
        name: name.into(),
        ipv4: Some(Ipv4Addr::new(192, 0, 2, 1)),
        ipv6: None,
        ehlo_name: "a.test".into(),
        proxy: None,
    };
    let pool = |(name, members): &(&str, &[&str])| PoolConfig {
        name: Label::spell(name).expect("it is good"),
        sources: members.iter().map(|one| PoolMember::spell(one).expect("it is good")).collect(),
    };
    let pools: Vec<PoolConfig> = pools.iter().map(pool).collect();
    policy.sources = SourceTable::build(["x", "y", "z"].map(source).to_vec(), &pools);
    policy
}

fn by_pool(pool: &str) -> Arc<Hop> {
    Arc::new(Hop { pool: Some(pool.into()), ..hop("a") })
}

#[test]
fn sources_are_taken_by_weight_and_a_blocked_one_loses_its_share() {
    let text = "[destination_defaults]\nwindow_start = 1000\nconnections_max = 1000\n\
                failures_to_back_off = 3\n";
    let policy = pools(text, &[("p", &["x:1", "y:3"])]);
    let (mut bench, p) = (Bench::with(policy), by_pool("p"));
    bench.push(&p, 400, 0);
    bench.tick(0);
    let opened = std::mem::take(&mut bench.opened);
    let of = |name: &str| opened.iter().filter(|one| one.2.as_deref() == Some(name)).count();
    assert!((70..=130).contains(&of("x")), "{} of 400", of("x"));
    assert_eq!(of("x") + of("y"), 400);
    for (conn, _, source) in &opened {
        match source.as_deref() {
            Some("y") => bench.fails(*conn, Blame::Source, 0),
            _ => bench.owner.connected(*conn, at(0)),
        }
    }
    assert!(bench.returned.is_empty(), "the other source goes on");
    bench.tick(10_000);
    assert!(bench.opened.len() > 100, "{}", bench.opened.len());
    assert!(bench.opened.iter().all(|one| one.2.as_deref() == Some("x")));
}

#[test]
fn a_class_whose_source_is_silent_holds_up_no_other() {
    let text =
        "[destination_defaults]\nwindow_start = 2\nconnections_max = 8\nfailures_to_back_off = 9\n";
    let policy = pools(text, &[("p", &["x:1"]), ("q", &["y:1"])]);
    let (mut bench, p, q) = (Bench::with(policy), by_pool("p"), by_pool("q"));
    bench.push(&p, 5, 0);
    for conn in bench.opened(0) {
        bench.fails(conn, Blame::Source, 0);
    }
    bench.push(&q, 1, 1);
    bench.tick(1);
    assert_eq!(bench.opened.iter().map(|one| one.2.as_deref()).collect::<Vec<_>>(), [Some("y")]);
}

#[test]
fn an_idle_connection_gives_way_to_another_class() {
    let text =
        "[destination_defaults]\nwindow_start = 2\nconnections_max = 2\nidle_reuse = '60s'\n";
    let (mut bench, a) = (Bench::new(text), named("a"));
    let tls = Arc::new(Hop { tls: OutboundTls::Must, ..hop("a") });
    bench.push(&a, 2, 0);
    let conns = bench.connect(0);
    assert!(conns.iter().all(|conn| bench.delivers(*conn, 1)));
    assert!(!conns.iter().any(|conn| bench.delivers(*conn, 1)));
    bench.push(&tls, 1, 2);
    assert_eq!(bench.woken(2), [conns[0]], "the one that is idle for longest, and no other");
    assert!(bench.closes(conns[0], 2));
    bench.end(conns[0], only(LinkEnd::Closed), 3);
    assert_eq!(bench.opened(3).len(), 1);
}

#[test]
fn a_busy_class_gives_way_after_some_messages() {
    let text = "[destination_defaults]\nwindow_start = 2\nconnections_max = 2\n";
    let (mut bench, a) = (Bench::new(text), named("a"));
    let tls = Arc::new(Hop { tls: OutboundTls::Must, ..hop("a") });
    bench.push(&a, 90, 0);
    let conns = bench.connect(0);
    bench.push(&tls, 1, 0);
    for _ in 0..10 {
        assert!(bench.delivers(conns[0], 1));
    }
    assert!(bench.closes(conns[0], 1));
    bench.end(conns[0], only(LinkEnd::Closed), 1);
    let opened = bench.connect(1);
    assert_eq!(opened.len(), 1);
    let taken = bench.take(opened[0], 1).expect("a job");
    assert_eq!(taken.hop.tls, OutboundTls::Must);
    assert!((0..20).all(|_| bench.delivers(conns[1], 2)), "the last one of a class stays");
}

fn acts(rule: &str, action: Action) -> Option<RuleAction> {
    let (at, message) = (Wall::from_ms(1), Some(MessageId::from_u64(1)));
    let evidence = Evidence { at, rule: rule.into(), reply: "550 no".into(), message, until: at };
    Some(RuleAction { action, evidence: Arc::new(evidence) })
}

fn suspend(rule: &str, time: Duration, scope: Scope) -> Option<RuleAction> {
    acts(rule, Action { measure: Measure::Suspend, time, scope })
}

fn slow(percent: u8, rule: &str, (time, scope): (Duration, Scope)) -> Option<RuleAction> {
    acts(rule, Action { measure: Measure::Slow { percent }, time, scope })
}

#[test]
fn rules_suspend_and_slow_down_with_evidence() {
    let text = "[destination_defaults]\nwindow_start = 10\n";
    let policy = pools(text, &[("p", &["x:1"]), ("q", &["y:1"])]);
    let (mut bench, p, q) = (Bench::with(policy), by_pool("p"), by_pool("q"));
    bench.push(&p, 3, 0);
    bench.push(&q, 3, 0);
    let conns = bench.connect(0);
    let hour = Duration::from_secs(3600);
    let job = bench.take(conns[0], 0).expect("a job");
    let (mine, other) = if job.hop == p { (&p, &q) } else { (&q, &p) };
    let action = suspend("r1", hour, Scope::Source);
    bench.end(conns[0], End { action, ..done(JobEnd::Deferred) }, 0);
    assert_eq!(bench.returned.len(), 2, "those of the source that have not begun");
    assert!(bench.closes(conns[0], 0));
    let state = bench.state(mine, 1);
    assert_eq!((state.binds, state.until), (Binds::Suspended, Some(at(3_600_000))));
    assert_eq!(&*state.evidence.expect("it is kept").rule, "r1");
    assert_ne!(bench.state(other, 1).binds, Binds::Suspended);
    let is_other =
        |bench: &mut Bench, conn| bench.take(conn, 1).is_some_and(|job| job.hop == *other);
    let conn = conns[1..].iter().copied().find(|conn| is_other(&mut bench, *conn));
    let conn = conn.expect("the other source goes on");
    let action = slow(30, "r2", (hour / 2, Scope::Destination));
    bench.end(conn, End { action, ..done(JobEnd::Delivered) }, 1);
    assert_eq!((bench.window(other, 2), bench.window(other, 1_800_002)), (3, 10));
    assert_eq!(bench.destination(other).evidence().count(), 2);
    // A shorter suspension does not end a longer one.
    for (time, until) in [(hour, 3_600_010), (hour / 2, 3_600_010)] {
        bench.push(&q, 1, 5);
        let action = suspend("r3", time, Scope::Destination);
        bench.end(conn, End { action, ..only(LinkEnd::Kept) }, 10);
        assert_eq!(bench.state(other, 11).until, Some(at(until)));
    }
    bench.push(other, 1, 12);
    assert_eq!(bench.returned.last(), Some(&(bench.jobs - 1, Returned::NoPlaces)));
    bench.want(other, 13);
    bench.tick(3_600_010);
    bench.tick(3_600_030);
    assert!(bench.grants.last().is_some_and(|(total, _)| *total > 0), "{:?}", bench.grants);
}

#[test]
fn a_slower_destination_is_not_forgotten_and_keeps_four_actions() {
    let (mut bench, a) = (Bench::new("[destination_defaults]\nwindow_start = 1\n"), named("a"));
    bench.push(&a, 5, 0);
    let conn = bench.connect(0)[0];
    let time = Duration::from_millis(3 * DESTINATION_IDLE_MS);
    for number in 0..5 {
        assert!(bench.take(conn, 0).is_some());
        let action = slow(50, &number.to_string(), (time, Scope::Source));
        bench.end(conn, End { action, ..done(JobEnd::Deferred) }, 0);
    }
    let kept: Vec<_> = bench.destination(&a).evidence().map(|one| one.rule.clone()).collect();
    assert_eq!(kept.concat(), "1234");
    bench.end(conn, only(LinkEnd::Closed), 0);
    bench.tick(2 * DESTINATION_IDLE_MS);
    assert_eq!(bench.owner.entries.len(), 1, "it is slowed");
    bench.tick(3 * DESTINATION_IDLE_MS);
    bench.tick(4 * DESTINATION_IDLE_MS);
    assert_eq!(bench.owner.entries.len(), 0);
}

#[test]
fn a_reload_changes_limits_and_forgets_nothing() {
    let text = |max, rate| {
        format!(
            "[destination_defaults]\nwindow_start = {max}\nconnections_max = {max}\nmessages_per_minute = {rate}\n"
        )
    };
    let (mut bench, a) = (Bench::new(&text(9, 6)), named("a"));
    bench.push(&a, 50, 0);
    // So small a rate is saved one message ahead, at each tick.
    let mut conns = Vec::new();
    for busy in 0..5 {
        conns.extend(bench.connect(0));
        assert_eq!(conns.len(), busy + 1);
        assert!(busy == 4 || bench.take(conns[busy], 0).is_some());
    }
    conns[..4].iter().for_each(|conn| bench.end(*conn, done(JobEnd::Delivered), 0));
    bench.owner.replace_policy(Arc::new(policy(&text(3, 5))), at(20));
    bench.tick(20);
    let going: Vec<ConnId> =
        conns.iter().copied().filter(|conn| !bench.closes(*conn, 21)).collect();
    assert_eq!(going.len(), 3, "no more than the new limit");
    assert_eq!(bench.state(&a, 22).binds, Binds::Rate, "what was sent counts");
    assert_eq!(bench.destination(&a).policy().connections_max, 3);
}

#[test]
fn a_way_that_leads_nowhere_is_answered_for_all() {
    let (mut bench, a) = (Bench::new("[destination_defaults]\nwindow_start = 1\n"), named("a"));
    bench.push(&a, 3, 0);
    let conn = bench.opened(0)[0];
    let answer = |_: &Delivery| What::Returned(Returned::Hidden);
    bench.owner.refuse(conn, at(1), answer);
    bench.end(conn, only(LinkEnd::Closed), 1);
    assert_eq!(bench.returned.len(), 3);
    assert_eq!(bench.owner.connections(), 0);
    assert!(bench.opened(2).is_empty());
}

#[test]
fn tenants_share_a_destination_by_weight() {
    let text = "[destination_defaults]\nwindow_start = 1\n";
    let (mut bench, a) = (Bench::new(text), named("a"));
    for (tenant, weight) in [(1, 3), (2, 1)] {
        for _ in 0..30 {
            let flow = Flow { target: target_of(&a), tenant, class: Class::Normal };
            let job = delivery(bench.jobs, (&a, HOME), flow);
            bench.jobs += 1;
            bench.owner.deliver(Box::new(Delivery { weight, ..*job }), at(0));
        }
    }
    bench.collect();
    let conn = bench.connect(0)[0];
    let mut taken = [0, 0, 0];
    for ms in 1..=40 {
        let delivery = bench.take(conn, ms).expect("both have mail");
        taken[delivery.flow.tenant as usize] += 1;
        bench.end(conn, done(JobEnd::Delivered), ms);
    }
    assert!((29..=31).contains(&taken[1]), "{taken:?}: three times as many by weight");
}
