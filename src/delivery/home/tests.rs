//! The matrix of states and events: what each event makes of a job in each state.

use std::net::Ipv4Addr;
use std::net::SocketAddr;

use super::*;

use crate::base::Class;
use crate::base::PublicId;
use crate::base::SpoolNumber;
use crate::base::StreamNumber;
use crate::base::TenantId;
use crate::base::backoff::RetrySchedule;
use crate::handoff::frame::Attempt;
use crate::handoff::frame::Hop;
use crate::handoff::frame::HostNames;
use crate::handoff::frame::RecipientEnd;
use crate::handoff::frames::MailBody;
use crate::handoff::frames::OurLimit;
use crate::queue::Envelope;
use crate::queue::Labels;
use crate::queue::Recipient;
use crate::queue::RecipientsBuf;
use crate::queue::record::envelope::BodySum;
use crate::queue::record::texts::Fields;
use crate::queue::record::texts::Texts;
use crate::route::DestinationPolicy;
use crate::wire::smtp::transaction::BodyType;

mod check;

const START_MS: u64 = 1_800_000_000_000;
const KEY: JobKey = (MessageId::from_u64(START_MS << 20), 0);
const TARGET: u64 = 77;
const ME: ShardId = ShardId(0);
const OWNER: ShardId = ShardId(1);

pub(in crate::delivery) fn now_at(ms: u64) -> Now {
    let wall = Wall::from_ms(START_MS + ms);
    Now { mono: Mono::from_ms(1000 + ms), wall, schedule: wall }
}

pub(in crate::delivery) fn mail(id: MessageId, recipients: u32) -> Arc<Mail> {
    let record = envelope(START_MS, recipients, |envelope| {
        let mut record = Vec::new();
        envelope.encode(&mut record).expect("it is short");
        record
    });
    let public_id = PublicId { local: id, spool: SpoolNumber::from_bits(1) };
    let body = MailBody::Held(Arc::from(&b"text"[..]));
    Arc::new(Mail::new(public_id, record.into(), body).expect("it was just encoded"))
}

/// The envelope of a message to so many recipients.
pub(in crate::delivery) fn envelope<T>(
    received_ms: u64,
    recipients: u32,
    show: impl FnOnce(&Envelope<'_>) -> T,
) -> T {
    let mut list = RecipientsBuf::default();
    for number in 0..recipients {
        let mailbox = format!("r{number}@b.test");
        list.push(&Recipient { mailbox: &mailbox, notify: 0, orcpt: None }).expect("it is short");
    }
    show(&Envelope {
        received_ms,
        intake_ms: 0,
        sender: Some("s@a.test"),
        smtputf8: false,
        requiretls: false,
        body_type: BodyType::SevenBit,
        ret: None,
        envid: None,
        auth: None,
        declared_bytes: None,
        head_bytes: 10,
        body: BodySum { bytes: 1000, ..BodySum::default() },
        peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        helo: "a.test",
        listener: "smtp",
        protocol: "SMTP",
        tls: None,
        message_id: None,
        kept_until_ms: None,
        tenant: TenantId::OPERATOR,
        credential: None,
        stream: StreamNumber(0),
        tags: Texts::default(),
        metadata: Fields::default(),
        labels: Labels::default(),
        recipients: list.as_recipients(),
    })
}

pub(in crate::delivery) fn route(target: u64, generation: u32, now: Now) -> Arc<Route> {
    let flow = Flow { target, tenant: 5, class: Class::Normal };
    let (hop, life, resolved) = (hop(target), life(), now.mono);
    let (owner, lead, weight) = (OWNER, OWNER, 1);
    Arc::new(Route { hop, flow, weight, owner, lead, life, generation, resolved })
}

pub(in crate::delivery) fn hop(target: u64) -> Arc<Hop> {
    let hop = Hop {
        destination: format!("mx{target}.b.test").into(),
        name: "mx:b.test".into(),
        domain: "b.test".into(),
        policy: Arc::new(DestinationPolicy {
            recipients_per_message: 3,
            ..DestinationPolicy::default()
        }),
        stripes: 1,
        names: HostNames::Mx,
        ..Hop::default()
    };
    Arc::new(hop)
}

fn life() -> Life {
    Life { max_age: Duration::from_secs(5 * 86_400), fallback_after: None }
}

fn policy(generation: u32) -> HomePolicy {
    HomePolicy {
        generation,
        enabled: true,
        retry: RetrySchedule::default(),
        warning: Some(Duration::from_secs(4 * 3600)),
        life: life(),
        memory_max: 1 << 20,
    }
}

/// A home with one job, and what it wanted last.
struct Rig {
    home: Home,
    now: Now,
    effects: Vec<HomeEffect>,
    job: JobRef,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(policy(1))
    }

    fn with(policy: HomePolicy) -> Rig {
        let now = now_at(0);
        let mut home = Home::new(ME, [KEY.0.partition()], policy, now);
        let mut effects = Vec::new();
        home.on(HomeEvent::Start { refile: false }, now, &mut effects);
        // The first readings find nothing.
        for effect in std::mem::take(&mut effects) {
            let event = match effect {
                HomeEffect::Read(Errand::Due { partition, .. }) => {
                    HomeEvent::Due { partition, rows: Vec::new(), next_ms: None }
                }
                HomeEffect::Read(Errand::Flows { partition, .. }) => {
                    HomeEvent::Flows { partition, flows: Vec::new(), is_end: true }
                }
                other => panic!("{other:?}"),
            };
            home.on(event, now, &mut effects);
        }
        let job = JobRef { key: KEY, incarnation: Incarnation(0) };
        Rig { home, now, effects, job }
    }

    fn on(&mut self, event: HomeEvent) {
        self.effects.clear();
        self.home.on(event, self.now, &mut self.effects);
        self.home.check();
        if let Some(job) = self.home.job(KEY) {
            self.job = JobRef { key: KEY, incarnation: job.incarnation };
        }
    }

    /// The job in this state.
    fn in_state(state: &str) -> Rig {
        let mut rig = Rig::new();
        let fresh =
            || HomeEvent::Fresh { mail: mail(KEY.0, 3), recipients: 3, due: now_at(0).wall };
        let resolved = |rig: &mut Rig| {
            let one = Resolution::Hop(route(TARGET, 1, rig.now));
            rig.on(rig.resolved(one));
        };
        match state {
            "absent" => (),
            "reading" => {
                rig.home.tell(row_due(now_at(0)));
                rig.on(HomeEvent::Tick);
                rig.on(rig.met());
            }
            "resolving" => rig.on(fresh()),
            "waiting" => {
                rig.on(fresh());
                resolved(&mut rig);
                rig.on(rig.settle(What::Returned(Returned::NoPlaces)));
            }
            "out" => {
                rig.on(fresh());
                resolved(&mut rig);
            }
            "writing" => {
                rig.on(fresh());
                resolved(&mut rig);
                rig.on(rig.settle(deferred()));
            }
            other => panic!("{other}"),
        }
        assert_eq!(rig.state(), state, "the rig");
        rig
    }

    fn state(&self) -> &'static str {
        self.home.job(KEY).map_or("absent", |job| job.state.name())
    }

    fn met(&self) -> HomeEvent {
        let rows = vec![DueKey { at_ms: START_MS, job: KEY }];
        HomeEvent::Due { partition: KEY.0.partition(), rows, next_ms: None }
    }

    fn resolved(&self, one: Resolution) -> HomeEvent {
        HomeEvent::Resolved { job: self.job, generation: 1, resolved: Resolved::One(one) }
    }

    fn settle(&self, what: What) -> HomeEvent {
        HomeEvent::Settle(Outcome { job: self.job, what, unsettled: None })
    }

    fn read(&self, found: Found) -> HomeEvent {
        HomeEvent::Read { jobs: vec![(self.job, found)] }
    }

    fn grant(&self, total: u32) -> HomeEvent {
        let state = Arc::default();
        let (target, per_flow) = (TARGET, total);
        HomeEvent::Frame(Frame::Grant { target, from: OWNER, total, per_flow, state })
    }

    /// What is wanted, but readings by cursors, which the rest of the tests is about.
    fn wanted(&self) -> String {
        let name = |effect: &HomeEffect| match effect {
            HomeEffect::Read(errand) => match errand {
                Errand::Due { .. } | Errand::Backlog { .. } | Errand::Flows { .. } => None,
                Errand::Jobs { .. } => Some("read"),
                Errand::Numbers { .. } => Some("numbers"),
                Errand::List { .. } => Some("list"),
            },
            HomeEffect::Resolve(_) | HomeEffect::LookUp(_) => Some("resolve"),
            HomeEffect::Send { frame: Frame::Deliver(_), .. } => Some("deliver"),
            HomeEffect::Send { frame: Frame::Recall { .. }, .. } => Some("recall"),
            HomeEffect::Send { frame: Frame::Want { .. }, .. } => Some("want"),
            HomeEffect::Send { frame: Frame::Check { .. }, .. } => Some("check"),
            HomeEffect::Send { .. } => Some("frame"),
            HomeEffect::Write(write) => Some(match write.next {
                Next::End => "end",
                Next::Again(_) => "again",
                Next::Split(_) => "split",
                Next::Operation(_) => "operation",
            }),
            HomeEffect::File { .. } => Some("file"),
            HomeEffect::Leftover { .. } => Some("leftover"),
            HomeEffect::Remove { .. } => Some("remove"),
            HomeEffect::Answer { .. } => Some("answer"),
            HomeEffect::Refiled => Some("refiled"),
            HomeEffect::Log(_) => Some("log"),
        };
        let names: Vec<&str> = self.effects.iter().filter_map(name).collect();
        names.join(" ")
    }
}

fn row_due(now: Now) -> Row {
    Row::Due(DueKey { at_ms: now.schedule.as_ms(), job: KEY })
}

fn image(due_ms: u64) -> JobImage {
    JobImage {
        number: 0,
        state: JobState::Waiting,
        schedule: Schedule { due_ms, filed: None },
        attempts: 0,
        last_attempt: Wall::default(),
        last_reply: Box::default(),
        warned: false,
        next_hop: None,
        recipients: Box::new([0, 1, 2]),
    }
}

pub(super) fn ends_of(recipients: &[u32], end: End) -> What {
    let answer = Answer { text: "451 later".into(), remote: true, ..Answer::default() };
    let each = recipients.iter();
    let each = each.map(|i| (RecipientEnd { index: *i, end: end.clone() }, answer.clone()));
    What::Tried { ends: each.collect(), attempt: Box::new(Attempt::default()) }
}

fn ends(end: End) -> What {
    ends_of(&[0, 1, 2], end)
}

fn deferred() -> What {
    ends(End::Deferred)
}

const STATES: [&str; 6] = ["absent", "reading", "resolving", "waiting", "out", "writing"];

/// A change of a rig before the event, and the event.
type Event = fn(&mut Rig) -> HomeEvent;

/// What each event makes of a job in each state: the state behind it and what is wanted. `-` is
/// dropped and counted, `=` changes nothing.
const MATRIX: &[(&str, Event, [&str; 6])] = &[
    (
        "1 fresh",
        |_| HomeEvent::Fresh { mail: mail(KEY.0, 3), recipients: 3, due: now_at(0).wall },
        ["resolving: resolve", "=", "=", "=", "=", "="],
    ),
    ("2 met by a cursor", |rig| rig.met(), ["reading: read", "=", "=", "=", "=", "="]),
    (
        "3 read",
        |rig| rig.read(Found::Job { mail: mail(KEY.0, 3), image: image(START_MS) }),
        ["-", "resolving: resolve", "-", "-", "-", "-"],
    ),
    ("3 gone", |rig| rig.read(Found::Gone), ["-", "absent: leftover", "-", "-", "-", "-"]),
    ("3 damaged", |rig| rig.read(Found::Damaged), ["-", "absent: log", "-", "-", "-", "-"]),
    (
        "3 another due time",
        |rig| rig.read(Found::Job { mail: mail(KEY.0, 3), image: image(START_MS + 9) }),
        ["-", "absent: leftover", "-", "-", "-", "-"],
    ),
    (
        "4 one hop",
        |rig| rig.resolved(Resolution::Hop(route(TARGET, 1, rig.now))),
        ["-", "-", "out: deliver", "-", "-", "-"],
    ),
    (
        "4 no route is known",
        |rig| HomeEvent::Unknown { job: rig.job },
        ["-", "-", "resolving: resolve", "-", "-", "-"],
    ),
    (
        "4 several hops",
        |rig| {
            let parts = vec![Box::from([0]), Box::from([1, 2])];
            let (job, generation) = (rig.job, 1);
            HomeEvent::Resolved { job, generation, resolved: Resolved::Parts(parts) }
        },
        ["-", "-", "writing: split", "-", "-", "-"],
    ),
    (
        "4 discard",
        |rig| rig.resolved(Resolution::Discard(life())),
        ["-", "-", "writing: end", "-", "-", "-"],
    ),
    ("4 hold", |rig| rig.resolved(Resolution::Hold), ["-", "-", "writing: again", "-", "-", "-"]),
    (
        "4 no domain",
        |rig| rig.resolved(Resolution::Failed(Answer::ours(Cause::NoDomain, "x"), life())),
        ["-", "-", "writing: end", "-", "-", "-"],
    ),
    (
        "4 no DNS",
        |rig| rig.resolved(Resolution::Deferred(Answer::ours(Cause::DnsFailed, "x"), life())),
        ["-", "-", "writing: again", "-", "-", "-"],
    ),
    (
        "4 our own limit",
        |rig| rig.resolved(Resolution::OurLimit(OurLimit::Dns)),
        ["-", "-", "=", "-", "-", "-"],
    ),
    (
        "4 old policy",
        |rig| {
            let one = Resolved::One(Resolution::Hop(route(TARGET, 0, rig.now)));
            HomeEvent::Resolved { job: rig.job, generation: 0, resolved: one }
        },
        ["-", "-", "resolving: resolve", "-", "-", "-"],
    ),
    (
        "5 place",
        |rig| {
            rig.now = now_at(200);
            rig.grant(10)
        },
        ["=", "=", "=", "out: deliver", "=", "="],
    ),
    (
        "5 place, its partition behind",
        |rig| {
            let partition = KEY.0.partition();
            rig.on(HomeEvent::Behind { partition, is_behind: true });
            rig.now = now_at(200);
            rig.grant(10)
        },
        ["=", "=", "=", "=", "=", "="],
    ),
    (
        "6 warning",
        |rig| {
            rig.on(rig.grant(0));
            rig.home.targets.entry(TARGET).and_modify(|target| target.pause_for_ever());
            // Not a jump of the clock: the schedule alone is late.
            rig.home.now = now_at(4 * 3_600_000 - 1);
            rig.now = now_at(4 * 3_600_000);
            HomeEvent::Tick
        },
        ["=", "=", "=", "writing: want again", "out: recall check", "="],
    ),
    (
        "6 expiry",
        |rig| {
            rig.on(rig.grant(0));
            rig.home.targets.entry(TARGET).and_modify(|target| target.pause_for_ever());
            rig.home.now = now_at(5 * 86_400_000 - 1);
            rig.now = now_at(5 * 86_400_000);
            HomeEvent::Tick
        },
        ["=", "=", "=", "writing: want end", "out: recall check", "="],
    ),
    ("7 tried", |rig| rig.settle(ends(End::Delivered)), ["-", "-", "-", "-", "writing: end", "-"]),
    ("7 deferred", |rig| rig.settle(deferred()), ["-", "-", "-", "-", "writing: again", "-"]),
    (
        "7 unreached",
        |rig| {
            let answer = Answer::ours(Cause::ConnectTimeout, "x");
            let not_before = rig.now.mono.plus_ms(5);
            rig.settle(What::Unreached { answer, host: "mx.b.test".into(), not_before })
        },
        ["-", "-", "-", "-", "writing: again", "-"],
    ),
    (
        "7 returned",
        |rig| rig.settle(What::Returned(Returned::NoPlaces)),
        ["-", "-", "-", "-", "waiting: ", "-"],
    ),
    (
        "7 missing",
        |rig| {
            rig.now = now_at(CHECK_AFTER.as_millis() as u64);
            rig.on(rig.grant(0));
            HomeEvent::Frame(Frame::Missing { jobs: vec![rig.job] })
        },
        ["-", "=", "=", "=", "waiting: want log", "="],
    ),
    (
        "7 missing, but sent anew since the question",
        |rig| HomeEvent::Frame(Frame::Missing { jobs: vec![rig.job] }),
        ["-", "=", "=", "=", "=", "="],
    ),
    ("8 hold", |rig| rig.operation(Operation::Hold), OPERATION),
    ("8 delete", |rig| rig.operation(Operation::Delete), DELETION),
    (
        "8 retry",
        |rig| rig.operation(Operation::Retry),
        ["reading: read", "=", "resolving: answer", "waiting: answer", "out: answer", "="],
    ),
    (
        "9 written",
        |rig| HomeEvent::Written { job: rig.job, written: Written::Done },
        ["-", "-", "-", "-", "-", "absent: "],
    ),
    (
        "9 no record",
        |rig| HomeEvent::Written { job: rig.job, written: Written::NotFound },
        ["-", "-", "-", "-", "-", "absent: "],
    ),
    (
        "9 disk full",
        |rig| {
            rig.on(HomeEvent::Written { job: rig.job, written: Written::DiskFull });
            rig.now = now_at(1000);
            HomeEvent::Tick
        },
        ["=", "=", "=", "out: deliver", "=", "writing: again"],
    ),
    (
        "10 reload",
        |_| HomeEvent::Reload { policy: policy(2), refile: true },
        [
            "absent: refiled",
            "reading: refiled",
            "resolving: refiled",
            "resolving: resolve refiled",
            "out: refiled",
            "writing: refiled",
        ],
    ),
    (
        "11 abandoned",
        |rig| {
            rig.on(HomeEvent::Abandoned { jobs: vec![rig.job] });
            rig.on(rig.grant(0));
            rig.now = now_at(60_000);
            HomeEvent::Tick
        },
        [
            "=",
            "reading: read",
            "resolving: resolve",
            "waiting: want",
            "out: check",
            "writing: again",
        ],
    ),
    ("12 drain", |_| HomeEvent::Drain, ["=", "absent: ", "absent: ", "absent: ", "=", "="]),
];

const OPERATION: [&str; 6] = ["reading: read", "=", "=", "writing: operation", "out: recall", "="];
const DELETION: [&str; 6] = ["reading: read", "=", "=", "writing: end", "out: recall", "="];

impl Rig {
    fn operation(&mut self, operation: Operation) -> HomeEvent {
        self.on(HomeEvent::Operate { ticket: 9, id: KEY.0, operation });
        assert_eq!(self.wanted(), "list");
        HomeEvent::Listed { ticket: 9, numbers: vec![0] }
    }
}

#[test]
fn each_event_makes_of_each_state_what_the_matrix_says() {
    let mut wrong = Vec::new();
    for (name, event, expected) in MATRIX {
        for (before, expected) in STATES.into_iter().zip(expected) {
            let mut rig = Rig::in_state(before);
            let event = event(&mut rig);
            let state = rig.state();
            let stale = rig.home.counts().stale;
            rig.on(event);
            let found = format!("{}: {}", rig.state(), rig.wanted());
            let is_stale = rig.home.counts().stale > stale;
            let found = match found == format!("{state}: ") {
                true if is_stale => "-",
                true => "=",
                false => &found,
            };
            if found != *expected {
                wrong.push(format!("{name}, {before}: {found}, not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_answer_for_another_incarnation_changes_nothing() {
    let answers: [fn(&Rig) -> HomeEvent; 6] = [
        |rig| HomeEvent::Unknown { job: rig.job },
        |rig| rig.read(Found::Gone),
        |rig| rig.resolved(Resolution::Hold),
        |rig| HomeEvent::Numbers { job: rig.job, numbers: vec![1, 2] },
        |rig| rig.settle(ends(End::Delivered)),
        |rig| HomeEvent::Written { job: rig.job, written: Written::Done },
    ];
    for before in STATES {
        for (number, answer) in answers.iter().enumerate() {
            let mut rig = Rig::in_state(before);
            rig.job.incarnation = Incarnation(rig.job.incarnation.0 + 1);
            let stale = rig.home.counts().stale;
            rig.on(answer(&rig));
            assert_eq!((rig.state(), &*rig.wanted()), (before, ""), "answer {number}");
            assert_eq!(rig.home.counts().stale, stale + 1, "answer {number}, {before}");
        }
    }
}

#[test]
fn operators_are_told_where_a_job_stands() {
    let told = |rig: &Rig| {
        let standings = rig.home.standings(KEY.0, &[0, 1], rig.now);
        format!("{standings:?}")
    };
    for (state, words) in [
        ("absent", &["[]"][..]),
        ("reading", &["[(0, Reading)]"]),
        ("resolving", &["Resolving(Answer)"]),
        ("waiting", &["mx77.b.test", "mx:b.test", "ahead: Some(0)", "total: 32", "out: 0"]),
        ("out", &["Out { owner: ShardId(1), job: JobRef { key: "]),
        ("writing", &["Writing { partition: "]),
    ] {
        let told = told(&Rig::in_state(state));
        for word in words {
            assert!(told.contains(word), "{state}: {word} is not in {told}");
        }
    }
    let mut rig = Rig::in_state("resolving");
    rig.on(rig.resolved(Resolution::OurLimit(OurLimit::Dns)));
    let told_lack = told(&rig);
    assert!(told_lack.contains("lack: Some(Dns)"), "{told_lack}");
    let mut rig = Rig::in_state("waiting");
    rig.on(rig.grant(0));
    let told_places = told(&rig);
    assert!(told_places.contains("total: 0"), "{told_places}");
    let flow = rig.home.filed_under((TARGET, 0), rig.now).expect("it is known");
    assert_eq!((&*flow.name, flow.places.total), ("mx:b.test", 0));
    assert!(rig.home.filed_under((TARGET + 1, 0), rig.now).is_none());
}

#[test]
fn mail_that_expires_at_once_is_written_a_part_at_a_time() {
    let mut rig = Rig::with(HomePolicy { memory_max: 64 << 20, ..policy(1) });
    // Without the check after each event, which looks at all jobs.
    let on = |rig: &mut Rig, event| rig.home.on(event, rig.now, &mut rig.effects);
    let count = 2 * WRITES_MAX as u64 + 100;
    for number in 0..count {
        let id = MessageId::from_u64(KEY.0.as_u64() + (number << 20));
        on(&mut rig, HomeEvent::Fresh { mail: mail(id, 1), recipients: 1, due: now_at(0).wall });
        let job = rig.home.reference((id, 0));
        let resolved = Resolved::One(Resolution::Hop(route(TARGET, 1, rig.now)));
        on(&mut rig, HomeEvent::Resolved { job, generation: 1, resolved });
    }
    let waiting = count as usize - rig.home.figures().1;
    rig.on(rig.grant(0));
    rig.home.targets.entry(TARGET).and_modify(|target| target.pause_for_ever());
    // Not a jump of the clock, and before the mail is filed.
    rig.home.now = Now { mono: now_at(1).mono, ..now_at(5 * 86_400_000 - 1) };
    rig.now = Now { mono: now_at(2).mono, ..now_at(5 * 86_400_000) };
    rig.on(HomeEvent::Tick);
    let mut written = 0;
    while written < waiting {
        let job_of = |effect: &HomeEffect| match effect {
            HomeEffect::Write(write) => Some(write.job),
            _ => None,
        };
        let jobs: Vec<JobRef> = rig.effects.iter().filter_map(job_of).collect();
        assert_eq!(jobs.len(), WRITES_MAX.min(waiting - written), "after {written}");
        written += jobs.len();
        rig.effects.clear();
        for job in jobs {
            on(&mut rig, HomeEvent::Written { job, written: Written::Done });
        }
        rig.home.check();
    }
    assert_eq!(rig.home.figures().0, rig.home.figures().1, "what is out is left");
}

const HOUR_MS: u64 = 3_600_000;

/// A route whose fallback relay is asked after an hour.
fn route_with_fallback(now: Now) -> Resolution {
    let Ok(mut route) = Arc::try_unwrap(route(TARGET, 1, now)) else { panic!("it is new") };
    route.life.fallback_after = Some(Duration::from_millis(HOUR_MS));
    Resolution::Hop(Arc::new(route))
}

impl Rig {
    /// Not a jump of the clock.
    fn wait_until(&mut self, ms: u64) {
        self.home.now = now_at(ms - 1);
        self.now = now_at(ms);
    }

    /// The owner has failed since this time, and rests until then.
    fn failing(&self, since: Now, until: Now) -> HomeEvent {
        let state = GrantState {
            binds: Binds::BackingOff,
            until: Some(until.mono),
            failing_since: Some(since.mono),
            ..GrantState::default()
        };
        let (target, from, total, per_flow) = (TARGET, OWNER, 0, 0);
        HomeEvent::Frame(Frame::Grant { target, from, total, per_flow, state: Arc::new(state) })
    }

    fn asks_for_fallback(&self) -> bool {
        self.home.question(self.job).is_some_and(|question| question.falls_back)
    }
}

#[test]
fn mail_that_has_failed_for_so_long_goes_to_the_fallback_relay() {
    // Attempts, age, and whether the fallback relay is asked.
    for (attempts, age_ms, is_asked) in
        [(0, 2 * HOUR_MS, false), (1, HOUR_MS - 1, false), (1, HOUR_MS, true)]
    {
        let mut rig = Rig::new();
        rig.home.tell(row_due(now_at(0)));
        rig.wait_until(age_ms);
        rig.on(HomeEvent::Tick);
        rig.on(rig.met());
        let image = JobImage { attempts, ..image(START_MS) };
        rig.on(rig.read(Found::Job { mail: mail(KEY.0, 3), image }));
        rig.on(rig.resolved(route_with_fallback(rig.now)));
        let state = if is_asked { "resolving" } else { "out" };
        assert_eq!(
            (rig.state(), rig.asks_for_fallback()),
            (state, is_asked),
            "{attempts} {age_ms}"
        );
        if is_asked {
            rig.on(rig.resolved(Resolution::Hop(route(TARGET + 1, 1, rig.now))));
            assert_eq!((rig.state(), &*rig.wanted()), ("out", "deliver"));
        }
    }
}

#[test]
fn a_destination_that_has_failed_for_so_long_loses_its_mail_to_the_fallback_relay() {
    let waiting = || {
        let mut rig = Rig::in_state("resolving");
        rig.on(rig.resolved(route_with_fallback(rig.now)));
        rig.on(rig.settle(What::Returned(Returned::NoPlaces)));
        rig
    };
    let (later, probe) = (now_at(3 * HOUR_MS), now_at(HOUR_MS));
    // Since when it fails, until when it rests, and whether the fallback relay is asked.
    for (since_ms, until, is_asked) in
        [(0, later, true), (HOUR_MS + 1, later, false), (0, probe, false)]
    {
        let mut rig = waiting();
        rig.wait_until(2 * HOUR_MS);
        rig.on(rig.failing(now_at(since_ms), until));
        let state = if is_asked { "resolving" } else { "waiting" };
        assert_eq!((rig.state(), rig.asks_for_fallback()), (state, is_asked), "{since_ms}");
    }
    // In time, without a word of the owner.
    let mut rig = waiting();
    rig.on(rig.failing(now_at(0), later));
    rig.wait_until(HOUR_MS);
    rig.on(HomeEvent::Tick);
    assert!(rig.asks_for_fallback());
}

#[test]
fn old_mail_has_ten_minutes_after_a_start_for_its_first_attempt() {
    const AGE_MS: u64 = 5 * 86_400_000;
    let mut rig = Rig::in_state("waiting");
    let expiry = |rig: &Rig| rig.home.deadlines_of(KEY).expiry;
    let by_age = now_at(AGE_MS).schedule;
    assert_eq!(expiry(&rig), by_age);
    // The server was down for longer than mail may last.
    rig.home.started = now_at(2 * AGE_MS).schedule;
    assert_eq!(expiry(&rig), now_at(2 * AGE_MS + 600_000).schedule);
    rig.home.jobs.get_mut(&KEY).expect("it waits").head.attempts = 1;
    assert_eq!(expiry(&rig), by_age, "it had its attempt");
}

#[test]
fn old_mail_that_could_not_be_tried_after_a_start_is_not_given_up_for_ten_minutes() {
    const START_AGE_MS: u64 = 10 * 86_400_000;
    let answer = || Answer::ours(Cause::DnsFailed, "no answer");
    let postponed = || Resolution::Postponed(answer(), Duration::from_secs(1), life());
    // Attempts, time since the start, what the lookup says, and what follows.
    for (name, attempts, since_ms, resolution, expected) in [
        ("postponed", 0, 1000, postponed(), ("writing", "again")),
        ("postponed too late", 0, 600_000, postponed(), ("writing", "end")),
        ("postponed, with an attempt", 1, 1000, postponed(), ("writing", "end")),
        ("our own limit", 0, 1000, Resolution::OurLimit(OurLimit::Dns), ("resolving", "")),
        ("an attempt", 0, 1000, Resolution::Deferred(answer(), life()), ("writing", "end")),
    ] {
        let mut rig = Rig::in_state("resolving");
        rig.home.started = now_at(START_AGE_MS).schedule;
        rig.home.jobs.get_mut(&KEY).expect("it is being resolved").head.attempts = attempts;
        rig.wait_until(START_AGE_MS + since_ms);
        rig.on(HomeEvent::Tick);
        rig.on(rig.resolved(resolution));
        assert_eq!((rig.state(), &*rig.wanted()), expected, "{name}");
        let due_ms = rig.effects.iter().find_map(|effect| match effect {
            HomeEffect::Write(write) => match &write.next {
                Next::Again(image) => Some(image.schedule.due_ms),
                _ => None,
            },
            _ => None,
        });
        let next_ms = rig.now.schedule.as_ms() + 1000;
        assert_eq!(due_ms, (expected.1 == "again").then_some(next_ms), "{name}");
    }
}

#[test]
fn a_job_that_an_owner_holds_too_long_expires_at_home() {
    let mut rig = Rig::in_state("out");
    rig.wait_until(5 * 86_400_000);
    rig.on(HomeEvent::Tick);
    assert_eq!((rig.state(), &*rig.wanted()), ("out", "recall check"));
    rig.on(rig.settle(What::Returned(Returned::Recalled)));
    assert_eq!((rig.state(), &*rig.wanted()), ("writing", "end"));
}

#[test]
fn the_end_of_a_refile_pass_is_stored_once() {
    let now = now_at(0);
    let mut home = Home::new(ME, [KEY.0.partition()], policy(1), now);
    let mut effects = Vec::new();
    home.on(HomeEvent::Start { refile: true }, now, &mut effects);
    let partition = KEY.0.partition();
    let due = DueKey { at_ms: START_MS + HOUR_MS, job: KEY };
    let flow = route(TARGET, 1, now).flow.key();
    let flows = vec![crate::queue::record::key::BacklogKey { flow, due }];
    effects.clear();
    home.on(HomeEvent::Flows { partition, flows, is_end: true }, now, &mut effects);
    let reads = |effect: &HomeEffect| matches!(effect, HomeEffect::Read(Errand::Backlog { pass: Pass::Refile, flow: read, .. }) if *read == flow);
    // Rows that are not due are read too.
    assert!(effects.iter().any(reads), "{effects:?}");
    effects.clear();
    let pass = Pass::Refile;
    let rows = Vec::new();
    home.on(HomeEvent::Backlog { partition, flow, pass, rows, next_ms: None }, now, &mut effects);
    home.on(HomeEvent::Tick, now, &mut effects);
    let ends = effects.iter().filter(|effect| matches!(effect, HomeEffect::Refiled)).count();
    assert_eq!(ends, 1, "{effects:?}");
}

impl Rig {
    /// A fresh message to one recipient; its route is not known.
    fn unknown(&mut self, number: u64) -> JobRef {
        let job = self.fresh(number);
        self.home.on(HomeEvent::Unknown { job }, self.now, &mut self.effects);
        job
    }

    fn fresh(&mut self, number: u64) -> JobRef {
        self.fresh_of(number, None)
    }

    fn fresh_of(&mut self, number: u64, sender: Option<u32>) -> JobRef {
        let id = MessageId::from_u64(KEY.0.as_u64() + (number << 20));
        let due = self.now.schedule;
        let mut mail = mail(id, 1);
        let own = Arc::get_mut(&mut mail).expect("nobody else has it yet");
        own.sender = sender.unwrap_or(own.sender);
        let fresh = HomeEvent::Fresh { mail, recipients: 1, due };
        self.home.on(fresh, self.now, &mut self.effects);
        self.home.reference((id, 0))
    }
}

#[test]
fn mail_whose_route_is_known_passes_mail_that_waits_for_a_lookup() {
    let mut rig = Rig::with(HomePolicy { memory_max: 64 << 20, ..policy(1) });
    let jobs: Vec<JobRef> =
        (0..LOOKUPS_WAITING_MAX as u64).map(|number| rig.unknown(number)).collect();
    rig.home.check();
    let looked_up = rig.effects.iter().filter(|effect| matches!(effect, HomeEffect::LookUp(_)));
    assert_eq!(looked_up.count(), LOOKUPS_MAX);
    // One more stays on disk, where its cursor finds it later.
    let surplus = rig.unknown(jobs.len() as u64);
    assert!(rig.home.job(surplus.key).is_none());
    assert!(rig.home.covers(Row::Due(DueKey { at_ms: START_MS, job: surplus.key })));
    assert!(!rig.home.may_claim());
    // One with a known route is sent at once.
    let job = rig.fresh(jobs.len() as u64 + 1);
    let resolved = Resolved::One(Resolution::Hop(route(TARGET, 1, rig.now)));
    rig.on(HomeEvent::Resolved { job, generation: 1, resolved });
    assert_eq!(rig.wanted(), "deliver");
    // Those that wait for long make room for others, and are due later.
    rig.now = now_at(LOOKUP_PATIENCE.as_millis() as u64);
    rig.on(HomeEvent::Tick);
    let aside = |effect: &HomeEffect| match effect {
        HomeEffect::Write(write) => match &write.next {
            Next::Again(image) => Some((image.schedule.due_ms, image.attempts)),
            _ => None,
        },
        _ => None,
    };
    let aside: Vec<(u64, u32)> = rig.effects.iter().filter_map(aside).collect();
    let due_ms = rig.now.schedule.plus(LOOKUP_PAUSE).as_ms();
    assert_eq!(aside, [(due_ms, 0)], "as many as keep others out");
    assert!(rig.home.may_claim());
}

#[test]
fn mail_that_keeps_nobody_out_waits_for_a_lookup_in_memory() {
    let mut rig = Rig::new();
    let jobs: Vec<JobRef> = (0..100).map(|number| rig.unknown(number)).collect();
    rig.now = now_at(2 * LOOKUP_PATIENCE.as_millis() as u64);
    rig.on(HomeEvent::Tick);
    assert!(!rig.effects.iter().any(|effect| matches!(effect, HomeEffect::Write(_))));
    assert!(jobs.iter().all(|job| rig.home.job(job.key).is_some_and(Job::is_resolving)));
}

#[test]
fn a_reload_sends_mail_of_tenants_whose_rate_was_used_up() {
    let mut rig = Rig::in_state("out");
    let until = rig.now.mono.plus_ms(HOUR_MS);
    rig.on(rig.settle(What::Returned(Returned::TenantRate { until })));
    rig.on(rig.grant(10));
    assert_eq!((rig.state(), &*rig.wanted()), ("waiting", ""));
    rig.on(HomeEvent::Reload { policy: policy(2), refile: false });
    assert_eq!((rig.state(), &*rig.wanted()), ("resolving", "resolve"));
    let resolved = Resolved::One(Resolution::Hop(route(TARGET, 2, rig.now)));
    rig.on(HomeEvent::Resolved { job: rig.job, generation: 2, resolved });
    assert_eq!((rig.state(), &*rig.wanted()), ("out", "deliver"));
}

#[test]
fn mail_whose_route_has_had_no_servers_for_so_long_goes_to_the_fallback_relay() {
    let life = Life { fallback_after: Some(Duration::from_millis(HOUR_MS)), ..life() };
    let answer = || Answer::ours(Cause::DnsFailed, "no answer");
    let faults: [fn(Answer, Life) -> Resolution; 2] = [
        |answer, life| Resolution::Deferred(answer, life),
        |answer, life| Resolution::Postponed(answer, Duration::from_secs(1), life),
    ];
    for fault in faults {
        // Attempts, age, and whether the fallback relay is asked.
        for (attempts, age_ms, is_asked) in
            [(0, 2 * HOUR_MS, false), (1, HOUR_MS - 1, false), (1, HOUR_MS, true)]
        {
            let mut rig = Rig::new();
            rig.home.tell(row_due(now_at(0)));
            rig.wait_until(age_ms);
            rig.on(HomeEvent::Tick);
            rig.on(rig.met());
            let image = JobImage { attempts, ..image(START_MS) };
            rig.on(rig.read(Found::Job { mail: mail(KEY.0, 3), image }));
            rig.on(rig.resolved(fault(answer(), life)));
            let state = if is_asked { "resolving" } else { "writing" };
            let found = (rig.state(), rig.asks_for_fallback());
            assert_eq!(found, (state, is_asked), "{attempts} {age_ms}");
            if is_asked {
                // The fallback relay has none of its own.
                rig.on(rig.resolved(fault(answer(), life)));
                assert_eq!((rig.state(), &*rig.wanted()), ("writing", "again"));
            }
        }
    }
}

#[test]
fn many_idle_destinations_are_forgotten_soon() {
    for (targets, left) in [(TARGETS_MANY as u64, TARGETS_MANY), (TARGETS_MANY as u64 + 1, 0)] {
        let mut rig = Rig::with(HomePolicy { memory_max: 64 << 20, ..policy(1) });
        for number in 0..targets {
            let job = rig.fresh(number);
            let resolved = Resolved::One(Resolution::Hop(route(1000 + number, 1, rig.now)));
            let what = ends_of(&[0], End::Delivered);
            for event in [
                HomeEvent::Resolved { job, generation: 1, resolved },
                HomeEvent::Settle(Outcome { job, what, unsettled: None }),
                HomeEvent::Written { job, written: Written::Done },
            ] {
                rig.home.on(event, rig.now, &mut rig.effects);
            }
        }
        assert_eq!((rig.home.jobs.len(), rig.home.targets.len()), (0, targets as usize));
        rig.now = now_at(SWEEP_EVERY.max(TARGET_IDLE_CROWDED).as_millis() as u64);
        rig.on(HomeEvent::Tick);
        assert_eq!(rig.home.targets.len(), left);
    }
}

#[test]
fn idle_destinations_give_way_to_mail_when_memory_is_short() {
    let memory_max = 1 << 20;
    let mut rig = Rig::with(HomePolicy { memory_max, ..policy(1) });
    let mut number = 0;
    while rig.home.memory.takes_fresh(JOB_GUESS_BYTES) {
        let job = rig.fresh(number);
        let resolved = Resolved::One(Resolution::Hop(route(1000 + number, 1, rig.now)));
        rig.on(HomeEvent::Resolved { job, generation: 1, resolved });
        if number > 0 {
            let what = ends_of(&[0], End::Delivered);
            rig.on(HomeEvent::Settle(Outcome { job, what, unsettled: None }));
            rig.on(HomeEvent::Written { job, written: Written::Done });
        }
        number += 1;
    }
    assert_eq!((rig.home.jobs.len(), rig.home.targets.len()), (1, number as usize));
    assert!(number as usize * TARGET_BYTES <= memory_max * 3 / 4, "{number} destinations");
    rig.now = now_at(1000);
    rig.on(HomeEvent::Tick);
    assert_eq!(rig.home.targets.len(), 1, "that of the job which is out");
    rig.fresh(number);
}

#[test]
fn fresh_mail_for_a_destination_without_places_is_filed_but_the_first_of_its_flow() {
    let mut rig = Rig::in_state("waiting");
    rig.on(rig.grant(0));
    rig.now = now_at(ZERO_PATIENCE.as_millis() as u64);
    rig.on(HomeEvent::Tick);
    for number in 1..4 {
        let job = rig.fresh(number);
        let resolved = Resolved::One(Resolution::Hop(route(TARGET, 1, rig.now)));
        rig.on(HomeEvent::Resolved { job, generation: 1, resolved });
        assert_eq!(rig.home.job(job.key).map(Job::is_writing), Some(true), "{number}");
        assert_eq!(rig.state(), "waiting");
        assert!(!rig.home.target(TARGET).is_some_and(Target::has_surplus));
    }
}

#[test]
fn a_sender_with_little_mail_stays_in_memory_when_its_flow_is_full() {
    let mut rig = Rig::in_state("waiting");
    rig.on(rig.grant(0));
    let mut number = 0;
    let mut stays = |rig: &mut Rig, sender| {
        number += 1;
        let job = rig.fresh_of(number, sender);
        let resolved = Resolved::One(Resolution::Hop(route(TARGET, 1, rig.now)));
        rig.on(HomeEvent::Resolved { job, generation: 1, resolved });
        rig.home.job(job.key).is_some_and(Job::is_waiting)
    };
    while stays(&mut rig, None) {}
    for sender in 1..3 {
        for has_room in [[true; LIGHT_SENDER_JOBS].as_slice(), &[false]].concat() {
            assert_eq!(stays(&mut rig, Some(sender)), has_room, "{sender}");
        }
    }
    assert!(!stays(&mut rig, None));
    // Senders without number leave room for fresh mail to others.
    let mut sender = 3;
    while stays(&mut rig, Some(sender)) {
        sender += 1;
    }
    assert!(rig.home.memory.takes_fresh((1 << 20) / 8));
}

#[test]
fn operators_are_told_once_that_flows_are_full() {
    let mut rig = Rig::new();
    let partition = KEY.0.partition();
    let due = DueKey { at_ms: START_MS + HOUR_MS, job: KEY };
    for destination in 0..crate::delivery::schedule::FLOWS_MAX as u64 + 3 {
        let flow = FlowKey { destination, ..FlowKey::FIRST };
        rig.home.tell(Row::Backlog(BacklogKey { flow, due }));
    }
    let flow = FlowKey { destination: u64::MAX, ..FlowKey::FIRST };
    rig.home.tell_flow(partition, BacklogKey { flow, due });
    let is_told = |effect: &&HomeEffect| matches!(effect, HomeEffect::Log(Note::FlowsFull));
    assert_eq!(rig.home.effects.iter().filter(is_told).count(), 1);
}

#[test]
fn tenants_take_turns_at_lookups() {
    let mut rig = Rig::with(HomePolicy { memory_max: 64 << 20, ..policy(1) });
    let flood: Vec<JobRef> = (0..500).map(|number| rig.unknown(number)).collect();
    let id = MessageId::from_u64(KEY.0.as_u64() + (500 << 20));
    let own = envelope(START_MS, 1, |envelope| {
        let mut record = Vec::new();
        let tenant = TenantId(7);
        Envelope { tenant, ..*envelope }.encode(&mut record).expect("it is short");
        record
    });
    let public_id = PublicId { local: id, spool: SpoolNumber::from_bits(1) };
    let body = MailBody::Held(Arc::from(&b"text"[..]));
    let mail = Arc::new(Mail::new(public_id, own.into(), body).expect("it was just encoded"));
    rig.on(HomeEvent::Fresh { mail, recipients: 1, due: rig.now.schedule });
    let job = rig.home.reference((id, 0));
    rig.on(HomeEvent::Unknown { job });
    // The next lookup that ends makes room for the other tenant.
    let resolved = Resolved::One(Resolution::Hold);
    rig.on(HomeEvent::Resolved { job: flood[0], generation: 1, resolved });
    let next = |effect: &HomeEffect| match effect {
        HomeEffect::LookUp(job) => Some(*job),
        _ => None,
    };
    assert_eq!(rig.effects.iter().find_map(next), Some(job));
}

/// The jobs whose lookups began with the last event.
fn looked_up(rig: &Rig) -> Vec<JobRef> {
    let job_of = |effect: &HomeEffect| match effect {
        HomeEffect::LookUp(job) => Some(*job),
        _ => None,
    };
    rig.effects.iter().filter_map(job_of).collect()
}

#[test]
fn a_domain_that_answers_does_not_wait_for_silent_ones() {
    let mut rig = Rig::with(HomePolicy { memory_max: 64 << 20, ..policy(1) });
    let silent: Vec<JobRef> = (0..200).map(|number| rig.unknown(number)).collect();
    let healthy = rig.unknown(silent.len() as u64);
    assert_eq!(looked_up(&rig), silent[..LOOKUPS_MAX]);
    let quick_ms = LOOKUP_QUICK.as_millis() as u64;
    for second in 1..4 {
        rig.now = now_at(second * quick_ms - 1);
        rig.on(HomeEvent::Tick);
        assert_eq!(looked_up(&rig), [], "the earlier ones may answer yet");
        rig.now = now_at(second * quick_ms);
        rig.on(HomeEvent::Tick);
    }
    assert_eq!(looked_up(&rig).last(), Some(&healthy));
    // One that ends when its place is given up makes room for nobody; a quick one does.
    let more: Vec<JobRef> = (300..400).map(|number| rig.unknown(number)).collect();
    for (ended, begun) in [(silent[0], vec![]), (healthy, vec![more[55]])] {
        let resolved = Resolved::One(Resolution::Hold);
        rig.on(HomeEvent::Resolved { job: ended, generation: 1, resolved });
        assert_eq!(looked_up(&rig), begun);
    }
}

#[test]
fn lookups_without_an_answer_are_bounded() {
    let mut rig = Rig::with(HomePolicy { memory_max: 64 << 20, ..policy(1) });
    let jobs: Vec<JobRef> = (0..2000).map(|number| rig.unknown(number)).collect();
    let mut out = looked_up(&rig).len();
    for second in 1..100 {
        rig.now = now_at(second * LOOKUP_QUICK.as_millis() as u64);
        rig.on(HomeEvent::Tick);
        out += looked_up(&rig).len();
        // They keep no cursor from reading.
        assert!(rig.home.may_claim());
    }
    assert_eq!(out, LOOKUPS_OUT_MAX);
    let resolved = Resolved::One(Resolution::Hold);
    rig.on(HomeEvent::Resolved { job: jobs[0], generation: 1, resolved });
    assert_eq!(looked_up(&rig), jobs[out..=out]);
}
