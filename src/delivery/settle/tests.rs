//! From the end of an attempt to what is written.

use super::*;

use crate::base::MessageId;
use crate::base::Mono;
use crate::delivery::home::tests::mail;
use crate::delivery::home::tests::route;
use crate::delivery::job::Need;
use crate::delivery::job::State;
use crate::handoff::frames::Incarnation;

const HOUR: Duration = Duration::from_secs(3600);
const RECEIVED_MS: u64 = 1_800_000_000_000;
const FLOW: FlowKey = FlowKey { destination: 7, tenant: 5, class: 1 };

fn job(attempts: u32, warned: bool) -> Job {
    let schedule = Schedule { due_ms: RECEIVED_MS, filed: None };
    let head = Head { attempts, warned, ..Head::new(schedule, Need::Send) };
    Job {
        incarnation: Incarnation(1),
        state: State::Reading,
        head,
        mail: Some(mail(MessageId::from_u64(RECEIVED_MS << 20), 3)),
        recipients: Box::new([0, 1, 2]),
        route: Some(route(7, 1, Now::default())),
        tries: 0,
        pending: None,
    }
}

fn now(age: Duration) -> Now {
    let wall = Wall::from_ms(RECEIVED_MS).plus(age);
    Now { mono: Mono::ZERO, wall, schedule: wall }
}

fn context(retry: &RetrySchedule, now: Now) -> Context<'_> {
    Context {
        job: JobRef {
            key: (MessageId::from_u64(RECEIVED_MS << 20), 0),
            incarnation: Incarnation(1),
        },
        life: Life { max_age: 24 * HOUR, fallback_after: None },
        rules: Rules { retry, warning: Some(4 * HOUR), may_expire: true, started: Wall::default() },
        backlog: None,
        now,
        random: 1,
    }
}

fn retry() -> RetrySchedule {
    RetrySchedule::new([HOUR].into(), 0).expect("it lasts")
}

fn ended(ends: [End; 3], counts: bool) -> Ended {
    let answer = Answer { text: "450 later".into(), remote: true, ..Answer::default() };
    let ends = (0..).zip(ends).map(|(index, end)| (RecipientEnd { index, end }, answer.clone()));
    Ended {
        ends: ends.collect(),
        attempt: Box::default(),
        counts,
        not_before: Wall::default(),
        is_sent: true,
    }
}

fn kinds(write: &Write) -> Vec<(Kind, u32)> {
    write.told.iter().map(|told| (told.kind, told.index)).collect()
}

#[test]
fn each_recipient_has_one_end_or_is_tried_again() {
    use End::*;
    let retry = retry();
    let tally =
        |delivered, bounced, expired| Tally { delivered, bounced, expired, ..Tally::default() };
    for (name, age, ends, sum, told, again) in [
        ("all delivered", HOUR, [Delivered, Delivered, Delivered], tally(3, 0, 0), vec![], None),
        (
            "one of each",
            HOUR,
            [Delivered, Failed, Deferred],
            tally(1, 1, 0),
            vec![(Kind::Failed, 1)],
            Some((vec![2], 2 * HOUR, false)),
        ),
        (
            "the sender is told of a delay",
            4 * HOUR,
            [Deferred, Failed, Deferred],
            tally(0, 1, 0),
            vec![(Kind::Failed, 1), (Kind::Delayed, 0), (Kind::Delayed, 2)],
            Some((vec![0, 2], 5 * HOUR, true)),
        ),
        (
            "the last attempt is made when the mail expires",
            23 * HOUR + HOUR / 2,
            [Delivered, Deferred, Delivered],
            tally(2, 0, 0),
            vec![(Kind::Delayed, 1)],
            Some((vec![1], 24 * HOUR, true)),
        ),
        (
            "expired",
            24 * HOUR,
            [Deferred, Delivered, Deferred],
            tally(1, 0, 2),
            vec![(Kind::Failed, 0), (Kind::Failed, 2)],
            None,
        ),
    ] {
        let job = job(0, false);
        let write = context(&retry, now(age)).settle(&job, ended(ends, true));
        assert_eq!((write.tally, kinds(&write)), (sum, told), "{name}");
        let found = match &write.next {
            Next::End => None,
            Next::Again(image) => {
                assert_eq!((image.attempts, &*image.last_reply), (1, "450 later"), "{name}");
                let due = Wall::from_ms(image.schedule.due_ms);
                let age = Duration::from_millis(due.ms_since(Wall::from_ms(RECEIVED_MS)));
                Some((image.recipients.to_vec(), age, image.warned))
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(found, again, "{name}");
    }
}

#[test]
fn an_expiry_has_the_words_of_the_last_attempt() {
    let retry = retry();
    let all = || ended([End::Deferred, End::Deferred, End::Deferred], true);
    let write = context(&retry, now(24 * HOUR)).settle(&job(9, true), all());
    let answer = &write.told[0].answer;
    assert_eq!((answer.cause, &*answer.text), (Some(Cause::Expired), "450 later"));
    assert!(answer.remote);
    let distrusts = Context {
        rules: Rules { may_expire: false, ..context(&retry, now(24 * HOUR)).rules },
        ..context(&retry, now(24 * HOUR))
    };
    let write = distrusts.settle(&job(9, true), all());
    assert!(matches!(write.next, Next::Again(_)), "the clock has jumped: {write:?}");
}

#[test]
fn what_could_not_be_tried_counts_no_attempt() {
    let retry = retry();
    let all = Ended {
        not_before: now(HOUR).wall.plus_ms(30_000),
        ..ended([End::Deferred, End::Deferred, End::Deferred], false)
    };
    let write = context(&retry, now(HOUR)).settle(&job(2, false), all);
    let Next::Again(image) = &write.next else { panic!("{write:?}") };
    assert_eq!(image.attempts, 2);
    assert_eq!(image.schedule.due_ms, now(HOUR).wall.as_ms() + 30_000);
}

#[test]
fn a_job_stays_in_the_index_only_with_others_of_its_flow() {
    let retry = retry();
    let all = || ended([End::Deferred, End::Deferred, End::Deferred], true);
    for (backlog, age, warned, deadline) in [
        (None, HOUR, false, None),
        (Some(FLOW), HOUR, false, Some(4 * HOUR)),
        (Some(FLOW), HOUR, true, Some(24 * HOUR)),
        (Some(FLOW), 5 * HOUR, false, Some(24 * HOUR)),
    ] {
        let context = Context { backlog, ..context(&retry, now(age)) };
        let write = context.settle(&job(0, warned), all());
        let Next::Again(image) = &write.next else { panic!("{write:?}") };
        let filed = deadline.map(|deadline: Duration| Filed {
            flow: FLOW,
            deadline_ms: RECEIVED_MS + deadline.as_millis() as u64,
        });
        assert_eq!(image.schedule.filed, filed, "{backlog:?} {age:?} {warned}");
    }
}

#[test]
fn the_age_of_mail_is_judged_by_the_wall_clock() {
    let retry = retry();
    let wall = Wall::from_ms(RECEIVED_MS).plus(22 * HOUR);
    // The wall clock was set back by three hours.
    let now = Now { mono: Mono::ZERO, wall, schedule: wall.plus(3 * HOUR) };
    let all = ended([End::Deferred, End::Deferred, End::Deferred], true);
    let write = context(&retry, now).settle(&job(0, true), all);
    let Next::Again(image) = &write.next else { panic!("not expired: {write:?}") };
    assert_eq!(image.schedule.due_ms, now.schedule.plus(HOUR).as_ms());
}

#[test]
fn an_image_is_read_back_as_it_was_stored() {
    let image = JobImage {
        number: 3,
        state: JobState::Held,
        schedule: Schedule { due_ms: 9, filed: Some(Filed { flow: FLOW, deadline_ms: 99 }) },
        attempts: 4,
        last_attempt: Wall::from_ms(5),
        last_reply: "450 later".into(),
        warned: true,
        next_hop: Some("smtp:a.test:25".into()),
        recipients: Box::new([1, 5]),
    };
    assert_eq!(image.stored(JobImage::of), image);
}

#[test]
fn each_category_has_its_label() {
    for category in Category::ALL {
        assert_eq!(label_of(category).name(), category.label());
    }
}
