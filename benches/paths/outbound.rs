//! Delivery paths: routing, scheduling, and the log line of an attempt.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use ringpost::base::MessageId;
use ringpost::base::PublicId;
use ringpost::base::SpoolNumber;
use ringpost::base::limits::JOB_LEASE_MS;
use ringpost::config::HostFacts;
use ringpost::config::load;
use ringpost::observe::log::Record;
use ringpost::observe::log::value::Form;
use ringpost::outbound::destination::JobEnd;
use ringpost::outbound::destination::JobTicket;
use ringpost::outbound::scheduler::Action;
use ringpost::outbound::scheduler::ConnId;
use ringpost::outbound::scheduler::DestinationId;
use ringpost::outbound::scheduler::Scheduler;
use ringpost::outbound::scheduler::SchedulerLimits;
use ringpost::outbound::scheduler::Take;
use ringpost::route::DestinationPolicy;
use ringpost::route::RouteQuestion;
use ringpost::route::RouteStandard;
use ringpost::route::RouteTable;
use ringpost::route::Rule;

use crate::paths::Path;

/// Destinations that have connections, and jobs by turns.
const DESTINATIONS: usize = 64;
const ROUTES: usize = 1000;

pub fn ticket(raw: u64, now_ms: u64) -> JobTicket {
    JobTicket {
        id: MessageId::from_u64(raw),
        lease_until_ms: now_ms + JOB_LEASE_MS,
        bytes: 4096,
        tenant: (raw % 3) as u32,
        sender: (raw % 5) as u32,
        lease: 1,
        recipients: 1,
        job: 0,
    }
}

/// A scheduler with so many destinations, each with one connection that has done its first job.
pub struct Busy {
    pub scheduler: Scheduler,
    pub destinations: Vec<DestinationId>,
    now_ms: u64,
    next: u64,
}

impl Busy {
    pub fn with(destinations: usize, policy: DestinationPolicy) -> Busy {
        let limits = SchedulerLimits {
            connections_max: 2 * destinations,
            destinations_max: 2 * destinations,
        };
        let mut scheduler = Scheduler::new(limits, 1);
        let policy = Arc::new(policy);
        let destinations = (0..destinations).map(|number| {
            let key = format!("mx:destination-{number}.recipient-domain.example");
            scheduler.destination(&key, &policy, 0).expect("there is room for a destination")
        });
        let destinations = destinations.collect();
        let mut busy = Busy { scheduler, destinations, now_ms: 0, next: 1 };
        (0..busy.destinations.len()).for_each(|_| busy.deliver());
        busy
    }

    /// One job of the next destination: lined up, begun, done. A millisecond passes.
    pub fn deliver(&mut self) {
        self.now_ms += 1;
        self.next += 1;
        let destination = self.destinations[self.next as usize % self.destinations.len()];
        let ticket = ticket(self.next, self.now_ms);
        self.scheduler.push(destination, ticket, self.now_ms).expect("there is room for a job");
        while let Some(action) = self.scheduler.next_action(self.now_ms) {
            match action {
                Action::Connect { conn, .. } => {
                    self.scheduler.connected(conn, self.now_ms);
                    self.work(conn);
                }
                Action::Wake { conn } => self.work(conn),
                Action::HandBack { .. } => panic!("no destination is in trouble"),
            }
        }
    }

    /// As a worker does: jobs while there are any.
    fn work(&mut self, conn: ConnId) {
        loop {
            match self.scheduler.take_job(conn, self.now_ms) {
                Take::Job(_) => {
                    let done = self.scheduler.job_done(conn, JobEnd::Delivered, self.now_ms);
                    assert!(done.is_some(), "it was under way");
                }
                Take::IdleUntil(_) => return,
                Take::Close => {
                    self.scheduler.closed(conn, self.now_ms);
                    return;
                }
            }
        }
    }
}

/// A hundred jobs over 64 destinations whose connections wait for them, each lined up, begun and done.
pub fn schedule() -> Path {
    let mut busy = Busy::with(DESTINATIONS, DestinationPolicy::default());
    Box::new(move || {
        for _ in 0..100 {
            busy.deliver();
        }
        busy.scheduler.connections() as u64
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
