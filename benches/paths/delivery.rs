//! Delivery paths: a home, an owner, routing, and the log line of an attempt.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use ringpost::base::Class;
use ringpost::base::MessageId;
use ringpost::base::Mono;
use ringpost::base::PublicId;
use ringpost::base::ShardId;
use ringpost::base::SpoolNumber;
use ringpost::base::Wall;
use ringpost::base::backoff::RetrySchedule;
use ringpost::config::HostFacts;
use ringpost::config::load;
use ringpost::control::delivery::Secrets;
use ringpost::control::delivery::policy;
use ringpost::delivery::capacity::ConnId;
use ringpost::delivery::capacity::Gate;
use ringpost::delivery::destination::End;
use ringpost::delivery::destination::JobEnd;
use ringpost::delivery::destination::LinkEnd;
use ringpost::delivery::event::HomeEffect;
use ringpost::delivery::event::HomeEvent;
use ringpost::delivery::event::HomePolicy;
use ringpost::delivery::event::Written;
use ringpost::delivery::flow_hash::FlowHasher;
use ringpost::delivery::home::Home;
use ringpost::delivery::job::Life;
use ringpost::delivery::job::Now;
use ringpost::delivery::job::Resolution;
use ringpost::delivery::job::Resolved;
use ringpost::delivery::job::Route;
use ringpost::delivery::owner::Owner;
use ringpost::delivery::owner::OwnerEffect;
use ringpost::delivery::owner::OwnerParts;
use ringpost::delivery::owner::Take;
use ringpost::handoff::frame::Answer;
use ringpost::handoff::frame::Attempt;
use ringpost::handoff::frame::End as RecipientState;
use ringpost::handoff::frame::Hop;
use ringpost::handoff::frame::HostNames;
use ringpost::handoff::frame::RecipientEnd;
use ringpost::handoff::frames::Delivery;
use ringpost::handoff::frames::Flow;
use ringpost::handoff::frames::Frame;
use ringpost::handoff::frames::Incarnation;
use ringpost::handoff::frames::JobRef;
use ringpost::handoff::frames::Mail;
use ringpost::handoff::frames::MailBody;
use ringpost::handoff::frames::Outcome;
use ringpost::handoff::frames::What;
use ringpost::observe::log::Record;
use ringpost::observe::log::value::Form;
use ringpost::route::RouteQuestion;
use ringpost::route::RouteStandard;
use ringpost::route::RouteTable;
use ringpost::route::Rule;

use crate::paths::Path;
use crate::paths::record;
use crate::queue_rig;
use crate::queue_rig::NOW_MS;

/// Destinations that have connections, and jobs by turns.
const DESTINATIONS: usize = 64;
const ROUTES: usize = 1000;
const ME: ShardId = ShardId(0);

fn now_at(ms: u64) -> Now {
    let wall = Wall::from_ms(NOW_MS + ms);
    Now { mono: Mono::from_ms(1000 + ms), wall, schedule: wall }
}

/// The record of an envelope for one recipient.
fn envelope() -> Arc<[u8]> {
    let mut stored = Vec::new();
    let list = record::recipients(1);
    queue_rig::envelope(list.as_recipients()).encode(&mut stored).expect("it is not too long");
    stored.into()
}

fn mail(number: u64, envelope: &Arc<[u8]>) -> Arc<Mail> {
    let local = MessageId::from_u64(NOW_MS << 20 | number);
    let public_id = PublicId { local, spool: SpoolNumber::from_bits(1) };
    let body = MailBody::Held(Arc::clone(envelope));
    let mail = Mail::new(public_id, Arc::clone(envelope), body);
    Arc::new(mail.expect("it was encoded a moment ago"))
}

fn hop(number: usize) -> Arc<Hop> {
    Arc::new(Hop {
        destination: format!("mx:destination-{number}.recipient-domain.example").into(),
        name: "mx:recipient-domain.example".into(),
        domain: "recipient-domain.example".into(),
        stripes: 1,
        names: HostNames::Mx,
        ..Hop::default()
    })
}

fn flow(number: usize) -> Flow {
    Flow { target: number as u64, tenant: (number % 3) as u64, class: Class::Normal }
}

/// An owner with so many destinations, each with one connection that has done its first job.
pub struct BusyOwner {
    owner: Owner,
    hops: Vec<Arc<Hop>>,
    envelope: Arc<[u8]>,
    next: u64,
}

impl BusyOwner {
    /// `defaults`: lines of `[destination_defaults]`.
    pub fn with(destinations: usize, defaults: &str) -> BusyOwner {
        let host = HostFacts { hostname: "mx.example.org".to_owned(), ..HostFacts::default() };
        let text = format!("[destination_defaults]\nstripes = 1\n{defaults}");
        let config = load(&text, "owner", &host).expect("the config is good").config;
        let owner = Owner::new(OwnerParts {
            me: ME,
            shards: 1,
            policy: Arc::new(policy(&config, Secrets::Read).expect("the config is good")),
            hasher: FlowHasher::new((1, 2)),
            gate: Arc::new(Gate::new(2 * destinations as u32)),
            paused: Vec::new(),
            sent_before: Arc::default(),
            seed: 1,
        });
        let hops = (0..destinations).map(hop).collect();
        let mut busy = BusyOwner { owner, hops, envelope: envelope(), next: 1 };
        (0..destinations).for_each(|_| busy.deliver());
        busy
    }

    /// One job of the next destination: queued, begun, done. A millisecond passes.
    pub fn deliver(&mut self) {
        self.next += 1;
        let now = now_at(self.next);
        let number = self.next as usize % self.hops.len();
        let mail = mail(self.next, &self.envelope);
        let delivery = Delivery {
            job: JobRef { key: (mail.id, 0), incarnation: Incarnation(1) },
            home: ME,
            mail,
            recipients: Box::new([0]),
            hop: Arc::clone(&self.hops[number]),
            flow: flow(number),
            weight: 1,
            due: now.schedule,
            sent: now.mono,
        };
        self.owner.deliver(Box::new(delivery), now.mono);
        for effect in self.owner.take_effects() {
            match effect {
                OwnerEffect::Open { conn, .. } => {
                    self.owner.connected(conn, now.mono);
                    self.work(conn, now.mono);
                }
                OwnerEffect::Wake { conn } => self.work(conn, now.mono),
                OwnerEffect::Send { .. } => {}
                OwnerEffect::Save { .. } => panic!("no rate is set"),
                OwnerEffect::Log { .. } => panic!("no destination is in trouble"),
            }
        }
        self.owner.tick(now.mono);
    }

    /// As a connection does: jobs while there are any.
    fn work(&mut self, conn: ConnId, now: Mono) {
        let end = |job, link| End { job, asks_for_less: None, action: None, link };
        loop {
            match self.owner.take(conn, now) {
                Take::Job(_) => {
                    let done = end(Some(JobEnd::Delivered), LinkEnd::Kept);
                    self.owner.ended(conn, &done, now);
                }
                Take::IdleUntil(_) => return,
                Take::Close => return self.owner.ended(conn, &end(None, LinkEnd::Closed), now),
            }
        }
    }
}

/// A hundred jobs over 64 destinations whose connections wait for them, each queued, begun and done.
pub fn schedule() -> Path {
    let mut busy = BusyOwner::with(DESTINATIONS, "");
    Box::new(move || {
        for _ in 0..100 {
            busy.deliver();
        }
        busy.owner.connections() as u64
    })
}

/// A home and the destinations of its mail.
pub struct BusyHome {
    home: Home,
    routes: Vec<Arc<Route>>,
    envelope: Arc<[u8]>,
    effects: Vec<HomeEffect>,
    next: u64,
}

impl BusyHome {
    pub fn with(destinations: usize) -> BusyHome {
        let now = now_at(0);
        let life = Life { max_age: Duration::from_secs(5 * 86_400), fallback_after: None };
        let policy = HomePolicy {
            generation: 1,
            enabled: true,
            retry: RetrySchedule::default(),
            warning: None,
            life,
            memory_max: 64 << 20,
        };
        let envelope = envelope();
        let partition = mail(1, &envelope).id.partition();
        let routes = (0..destinations).map(|number| {
            Arc::new(Route {
                hop: hop(number),
                flow: flow(number),
                weight: 1,
                owner: ME,
                lead: ME,
                life,
                generation: 1,
                resolved: Mono::NEVER,
            })
        });
        let mut busy = BusyHome {
            home: Home::new(ME, [partition], policy, now),
            routes: routes.collect(),
            envelope,
            effects: Vec::new(),
            next: 1,
        };
        (0..destinations).for_each(|_| busy.deliver());
        busy
    }

    /// A fresh message: resolved, sent to the owner, delivered, and its end written.
    pub fn deliver(&mut self) {
        self.next += 1;
        let now = now_at(self.next / 16);
        let mail = mail(self.next, &self.envelope);
        let due = now.schedule;
        let mut event = Some(HomeEvent::Fresh { mail, recipients: 1, due });
        while let Some(told) = event.take() {
            self.home.on(told, now, &mut self.effects);
            for effect in self.effects.drain(..) {
                event = event.or(match effect {
                    HomeEffect::Resolve(job) => {
                        let route = &self.routes[self.next as usize % self.routes.len()];
                        let resolved = Resolved::One(Resolution::Hop(Arc::clone(route)));
                        Some(HomeEvent::Resolved { job, generation: 1, resolved })
                    }
                    HomeEffect::Send { frame: Frame::Deliver(delivery), .. } => {
                        Some(HomeEvent::Settle(outcome(delivery.job)))
                    }
                    HomeEffect::Write(write) => {
                        Some(HomeEvent::Written { job: write.job, written: Written::Done })
                    }
                    _ => None,
                });
            }
        }
    }
}

fn outcome(job: JobRef) -> Outcome {
    let end = RecipientEnd { index: 0, end: RecipientState::Delivered };
    let answer = Answer { status: (2, 0, 0), text: "250 OK".into(), remote: true, cause: None };
    let attempt = Box::new(Attempt::default());
    Outcome { job, what: What::Tried { ends: vec![(end, answer)], attempt }, unsettled: None }
}

/// A hundred fresh messages to 64 destinations, from their commit to the end of their jobs.
pub fn home() -> Path {
    let mut busy = BusyHome::with(DESTINATIONS);
    Box::new(move || {
        for _ in 0..100 {
            busy.deliver();
        }
        assert_eq!(busy.home.figures(), (0, 0), "all have ended");
        busy.home.counts().claimed
    })
}

/// A thousand rules, each for a tree of domains and one sender, and none for most mail.
pub fn route_table() -> RouteTable {
    let rules = (0..ROUTES).map(|number| {
        let sender = if number % 2 == 0 { "'example.org'" } else { "" };
        format!(
            "[[route]]\nrecipient_domain = ['domain-{number}.example', '.domain-{number}.example']\n\
             sender_domain = [{sender}]\nnext = 'smtp:smart.example.org'\n"
        )
    });
    let host = HostFacts { hostname: "mx.example.org".to_owned(), ..HostFacts::default() };
    let config =
        load(&rules.collect::<String>(), "routes", &host).expect("the rules are good").config;
    let rules = config.routes.into_iter().map(|route| Rule::new(route, None, None));
    let standard = RouteStandard {
        own_domain: "mx.example.org".into(),
        pool: None,
        max_age: Duration::from_secs(5 * 86_400),
    };
    RouteTable::build(rules.collect(), standard)
}

pub fn question(recipient_domain: &str) -> RouteQuestion<'_> {
    RouteQuestion {
        recipient_domain,
        sender_domain: Some("example.org"),
        listener: Some("smtp"),
        ..RouteQuestion::default()
    }
}

/// A recipient for whom there is no rule, one with a rule, one with a rule for all of a tree.
pub fn route() -> Path {
    let table = route_table();
    Box::new(move || {
        let domains = ["recipient-domain.example", "domain-700.example", "a.b.domain-7.example"];
        let choices = domains.map(|domain| table.next_hop(&question(black_box(domain))));
        let rules = choices.map(|choice| choice.rule.map_or(0, str::len) as u64);
        assert_eq!(rules, [0, 9, 7], "two of three have a rule");
        rules.iter().sum()
    })
}

/// The line of an attempt.
pub fn attempt() -> Record<'static> {
    Record::Attempt {
        id: PublicId {
            local: MessageId::from_u64(0x0678_9abc_def0_1234),
            spool: SpoolNumber::from_bits(1),
        },
        outcome: "delivered",
        from: "bounces+4711@example.org",
        to: "somebody@recipient-domain.example",
        tenant: Some("acme"),
        campaign: Some("autumn-2026"),
        hop: "mx:recipient-domain.example",
        host: Some("mx1.recipient-domain.example"),
        address: Some(([192, 0, 2, 1], 25).into()),
        tls: Some("TLSv1.3"),
        cipher: Some("TLS13_AES_256_GCM_SHA384"),
        verdict: Some("unchecked"),
        tls_policy: Some("may"),
        reply: "250 2.0.0 OK 1764158400 d75a77b69052e-4ab0cd1234si56789012 - queued",
        category: None,
        attempts: 1,
        next_ms: None,
        age_ms: 412,
        before_us: 1200,
        wait_us: 340,
        connect_us: 81_250,
        transfer_us: 230_118,
    }
}

/// The same, as the text that goes to the log.
pub fn log_line() -> Path {
    let mut line = String::with_capacity(2048);
    Box::new(move || {
        line.clear();
        black_box(attempt()).write(&mut line, Form::Text).expect("a string takes all");
        line.len() as u64
    })
}
