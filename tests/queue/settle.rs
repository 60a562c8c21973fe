//! Settling and its audit: what becomes of jobs is counted, and the equation can fail.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::task::Context;
use std::task::Waker;
use std::time::Duration;
use std::time::Instant;

use crate::queue_rig::HEAD;
use crate::queue_rig::NOW_MS;
use crate::queue_rig::Rig;
use crate::queue_rig::envelope;
use crate::queue_rig::pattern;
use crate::queue_rig::recipients;
use ringpost::base::MessageId;
use ringpost::base::limits::SETTLES_IN_LANE_MAX;
use ringpost::base::limits::UNSETTLED_MAX;
use ringpost::base::limits::UNSETTLED_MS_MAX;
use ringpost::queue::Access;
use ringpost::queue::CommitFault;
use ringpost::queue::Committed;
use ringpost::queue::Job;
use ringpost::queue::Spool;
use ringpost::queue::SpoolOptions;
use ringpost::queue::admin::audit::SpoolAudit;
use ringpost::queue::admin::audit::audit;
use ringpost::queue::admin::inspect;
use ringpost::queue::admin::select::Wanted;
use ringpost::queue::commit::settle::JobChange;
use ringpost::queue::commit::settle::JobRecord;
use ringpost::queue::commit::settle::Report;
use ringpost::queue::commit::settle::Settlement;
use ringpost::queue::commit::unsettled::Unsettled;
use ringpost::queue::record::job::Indexes;
use ringpost::queue::record::key;
use ringpost::queue::record::ledger::LEDGER_KEY;
use ringpost::queue::record::ledger::Ledger;
use ringpost::queue::record::ledger::Tally;
use ringpost::queue::store::jobs::free_job_numbers;
use ringpost::queue::store::query::KeptMessage;
use ringpost::shard::kept::remove;

fn options(path: &std::path::Path) -> SpoolOptions {
    SpoolOptions { memory_bytes: 16 << 20, ..SpoolOptions::new(path, NOW_MS) }
}

fn found(rig: &Rig) -> SpoolAudit {
    audit(&rig.spool).expect("it can be read")
}

/// The audit of a stopped spool, by one who only looks.
fn found_stopped(path: &std::path::Path) -> SpoolAudit {
    let spool = Spool::open(SpoolOptions { access: Access::Inspect, ..options(path) });
    audit(&spool.expect("it can be looked into")).expect("it can be read")
}

fn part(number: u16, indexes: &[u32]) -> JobRecord {
    part_due(NOW_MS, number, indexes)
}

fn part_due(due_ms: u64, number: u16, indexes: &[u32]) -> JobRecord {
    let stored: Vec<u8> = indexes.iter().flat_map(|index| index.to_be_bytes()).collect();
    let job = Job { number, recipients: Indexes::Stored(&stored), ..Job::fresh(due_ms, 0) };
    JobRecord::new(&job).expect("it can be encoded")
}

fn settlement(id: MessageId, job: u16, change: JobChange, tally: Tally) -> Arc<Settlement> {
    Arc::new(Settlement {
        events: Default::default(),
        id,
        job,
        change,
        reports: Vec::new(),
        tally,
        is_order: false,
        keep_until_ms: None,
        envelope: None,
    })
}

fn done(id: MessageId, job: u16, delivered: u64) -> Arc<Settlement> {
    settlement(id, job, JobChange::End, Tally { delivered, ..Tally::default() })
}

fn settled(rig: &Rig, settlement: Arc<Settlement>) -> bool {
    rig.run(rig.committer.settle(settlement)).expect("it is written")
}

#[test]
fn new_mail_does_not_wait_behind_the_retries_of_a_whole_destination() {
    let folder = tempfile::tempdir().unwrap();
    // The thread is held until all wait, so that nothing is answered meanwhile.
    let (all_wait, held) = mpsc::channel::<()>();
    let (found, finding) = mpsc::channel();
    let rig = Rig::with_start(options(folder.path()), move || held.recv().expect("told"));
    let mut context = Context::from_waker(Waker::noop());
    let id = rig.committer.next_id(NOW_MS);
    let mut retries: Vec<_> = (0..3 * SETTLES_IN_LANE_MAX)
        .map(|number| {
            let found = found.clone();
            let settle = rig.committer.settle_in_turn(done(id, number as u16, 1));
            Box::pin(async move {
                assert!(!settle.await.expect("it is written"), "there is none");
                found.send(number).expect("counted below");
            })
        })
        .collect();
    for retry in &mut retries {
        assert!(retry.as_mut().poll(&mut context).is_pending());
    }
    assert_eq!(rig.committer.waiting(), SETTLES_IN_LANE_MAX);
    let mut fresh = Box::pin(rig.store(b"fresh"));
    assert!(fresh.as_mut().poll(&mut context).is_pending());
    let mut sent = Box::pin(rig.committer.settle(done(id, 0, 1)));
    assert!(sent.as_mut().poll(&mut context).is_pending());
    assert_eq!(rig.committer.waiting(), SETTLES_IN_LANE_MAX + 2, "both are on their way");
    // One of those in line goes away, one of those with a ticket too: the rest comes to its turn.
    drop(retries.remove(2 * SETTLES_IN_LANE_MAX));
    drop(retries.remove(0));
    all_wait.send(()).unwrap();
    rig.run(fresh).expect("it is stored");
    assert!(!rig.run(sent).expect("it is written"));
    rig.run_all(
        retries.into_iter().map(|retry| retry as Pin<Box<dyn Future<Output = ()>>>).collect(),
    );
    drop(found);
    assert_eq!(finding.iter().count(), 3 * SETTLES_IN_LANE_MAX - 2);
    assert_eq!(rig.committer.waiting(), 0);
}

#[test]
fn what_was_sent_is_settled_before_all_that_waits() {
    let folder = tempfile::tempdir().unwrap();
    let (all_wait, held) = mpsc::channel::<()>();
    let rig = Rig::with_start(options(folder.path()), move || held.recv().expect("told"));
    let mut context = Context::from_waker(Waker::noop());
    let mut mail: Vec<_> = (0..1000).map(|_| Box::pin(rig.store(b"mail"))).collect();
    for stored in &mut mail {
        assert!(stored.as_mut().poll(&mut context).is_pending());
    }
    let id = rig.committer.next_id(NOW_MS);
    let settle = |job| Box::pin(rig.committer.settle(done(id, job, 1)));
    let mut settles: Vec<_> = (0..500).map(settle).collect();
    for settle in &mut settles {
        assert!(settle.as_mut().poll(&mut context).is_pending());
    }
    all_wait.send(()).unwrap();
    for settle in settles {
        assert!(!rig.run(settle).expect("it is written"));
    }
    type Stored<'f> = Pin<Box<dyn Future<Output = Result<Committed, CommitFault>> + 'f>>;
    let mail = rig.run_all(mail.into_iter().map(|one| one as Stored<'_>).collect());
    let batches: Vec<u32> = mail.into_iter().map(|one| one.expect("it is stored").batch).collect();
    // Batches of 512 orders: three quarters of the first are settlements; the second begins with those
    // that are left.
    assert_eq!(batches[0], 128);
    assert_eq!(batches[128], 512 - (500 - 384));
    assert_eq!(rig.committer.waiting(), 0);
}

#[test]
fn the_ledger_adds_up_whatever_becomes_of_the_mail() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let [delivered, split, bounced, deleted, _left] = [0; 5].map(|_| rig.stored(b"two recipients"));
    assert!(settled(&rig, done(delivered, 0, 2)));
    assert!(!settled(&rig, done(delivered, 0, 2)), "what is settled is not settled again");
    let parts = JobChange::Split(vec![part(1, &[0]), part(2, &[1])]);
    assert!(settled(&rig, settlement(split, 0, parts, Tally::default())));
    assert!(settled(&rig, done(split, 1, 1)));
    let to = recipients(&["sender@example.test"]);
    let report = Report::new(
        rig.committer.next_id(NOW_MS),
        &envelope(to.as_recipients()),
        b"no".to_vec(),
        NOW_MS,
    )
    .expect("a report");
    let change = JobChange::Again(part_due(NOW_MS + 1, 0, &[1]));
    let tally = Tally { bounced: 1, ..Tally::default() };
    let with_report = Settlement {
        events: Default::default(),
        id: bounced,
        job: 0,
        change,
        reports: vec![report],
        tally,
        is_order: false,
        keep_until_ms: None,
        envelope: None,
    };
    assert!(settled(&rig, Arc::new(with_report)));
    assert!(rig.run(rig.committer.delete(deleted)).expect("it is written"));
    assert!(!settled(&rig, done(deleted, 0, 2)), "what is deleted is not delivered too");

    let expected = |found: SpoolAudit| {
        let sum = found.sum;
        assert!(found.adds_up, "{found:?}");
        assert_eq!((sum.taken, sum.queued), (11, 1 + 1 + 1 + 2), "{found:?}");
        assert_eq!((sum.ended.delivered, sum.ended.bounced, sum.ended.cancelled), (3, 1, 2));
    };
    expected(found(&rig));
    rig.close();
    expected(found_stopped(folder.path()));
    expected(found(&Rig::open(folder.path())));
}

/// A way to falsify a spool with one message.
type Crime = fn(&Rig, MessageId);

#[test]
fn what_an_operator_was_told_is_synced() {
    let folder = tempfile::tempdir().expect("a folder");
    let rig = Rig::with(options(folder.path()));
    let id = rig.stored(b"text");
    let syncs = || rig.thread.handle().counts().syncs.load(Ordering::Relaxed);
    let again = |is_order| {
        let (change, tally) = (JobChange::Again(part(0, &[0])), Tally::default());
        Arc::new(Settlement {
            events: Default::default(),
            id,
            job: 0,
            change,
            reports: Vec::new(),
            tally,
            is_order,
            keep_until_ms: None,
            envelope: None,
        })
    };
    let before = syncs();
    assert!(settled(&rig, again(false)));
    assert_eq!(syncs(), before, "an attempt may be lost: the job is due earlier then");
    assert!(settled(&rig, again(true)));
    assert_eq!(syncs(), before + 1);
    rig.close();
}

#[test]
fn the_audit_finds_what_does_not_add_up() {
    let crimes: [(&str, Crime, i64); 4] = [
        ("nothing", |_, _| (), 0),
        ("a delivery that was not", |rig, _| count(rig, |ledger| ledger.ended.delivered += 1), -1),
        ("mail that nobody knows of", |rig, _| count(rig, |ledger| ledger.taken += 3), 3),
        (
            "a job that is gone",
            |rig, id| {
                let partition = &rig.spool.partitions()[0];
                let family = partition.families().job;
                partition.db().delete_cf(family, key::of_job(id, 0)).unwrap();
            },
            2,
        ),
    ];
    for (name, crime, difference) in crimes {
        let folder = tempfile::tempdir().unwrap();
        let rig = Rig::open(folder.path());
        let id = rig.stored(b"two recipients");
        crime(&rig, id);
        for found in [found(&rig), {
            rig.close();
            found_stopped(folder.path())
        }] {
            assert_eq!(found.sum.difference, difference, "{name}: {found:?}");
            assert_eq!(found.adds_up, difference == 0, "{name}");
        }
    }
}

fn count(rig: &Rig, change: impl Fn(&mut Ledger)) {
    let partition = &rig.spool.partitions()[0];
    let mut ledger = partition.ledger();
    change(&mut ledger);
    let family = partition.families().default;
    partition.db().put_cf(family, LEDGER_KEY, ledger.encode()).unwrap();
}

/// What recovery moves away is in the ledger on disk by the time the start has ended.
#[test]
fn a_repair_is_entered_in_the_ledger_for_good() {
    let crimes: [(&str, Crime, u64); 3] = [
        ("an envelope", |rig, id| overwrite(rig, id, b"junk"), 2),
        (
            "a body",
            |rig, id| {
                let partition = &rig.spool.partitions()[0];
                let family = partition.families().body;
                partition.db().put_cf(family, key::of_body(id, 0), b"other").unwrap();
            },
            2,
        ),
        (
            "a ledger",
            |rig, _| {
                let partition = &rig.spool.partitions()[0];
                partition.db().put_cf(partition.families().default, LEDGER_KEY, b"x").unwrap();
            },
            0,
        ),
    ];
    for (name, crime, quarantined) in crimes {
        let folder = tempfile::tempdir().unwrap();
        let rig = Rig::open(folder.path());
        let victim = rig.stored(&pattern(3000, 1));
        rig.stored(b"sound");
        crime(&rig, victim);
        rig.close();
        drop(Spool::open(options(folder.path())).expect("a start never stops on what it finds"));
        let found = found_stopped(folder.path());
        assert!(found.adds_up, "{name}: {found:?}");
        assert_eq!(found.sum.quarantined, quarantined, "{name}: {found:?}");
        assert_eq!(found.sum.queued, 4 - quarantined, "{name}: {found:?}");
    }
}

fn overwrite(rig: &Rig, id: MessageId, record: &[u8]) {
    let partition = &rig.spool.partitions()[0];
    partition.db().put_cf(partition.families().envelope, key::of_id(id), record).unwrap();
}

/// Two jobs of one message, the orders for both in one batch.
fn in_one_batch(
    orders: impl Fn(MessageId) -> [Arc<Settlement>; 2],
) -> (Vec<bool>, inspect::Details) {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let id = rig.stored(b"two recipients");
    let parts = JobChange::Split(vec![part(1, &[0]), part(2, &[1])]);
    assert!(settled(&rig, settlement(id, 0, parts, Tally::default())));
    rig.close();
    // The thread begins when both wait for it.
    let (go, gone) = mpsc::channel::<()>();
    let rig = Rig::with_start(options(folder.path()), move || gone.recv().unwrap_or(()));
    let futures: Vec<std::pin::Pin<Box<dyn Future<Output = bool>>>> = orders(id)
        .map(|order| {
            let committer = rig.committer.clone();
            let settle = async move { committer.settle(order).await.expect("it is written") };
            Box::pin(settle) as std::pin::Pin<Box<dyn Future<Output = bool>>>
        })
        .into_iter()
        .collect();
    let mut go = Some(go);
    let mut futures = futures;
    futures.push(Box::pin(async move {
        // Polled last: the orders before it have been given.
        drop(go.take());
        true
    }));
    let mut found = rig.run_all(futures);
    found.pop();
    assert!(audit(&rig.spool).expect("it can be read").adds_up);
    (found, inspect::show(&rig.spool, id).expect("the message is there"))
}

#[test]
fn a_message_whose_last_other_job_is_split_in_the_same_batch_stays() {
    let (found, details) = in_one_batch(|id| {
        let split = JobChange::Split(vec![part(3, &[0])]);
        [settlement(id, 1, split, Tally::default()), done(id, 2, 1)]
    });
    assert_eq!(found, [true, true]);
    assert_eq!(details.jobs.iter().map(|job| job.number).collect::<Vec<_>>(), [3]);
}

#[test]
fn no_split_takes_the_numbers_of_another() {
    let (found, details) = in_one_batch(|id| {
        let split = |index| JobChange::Split(vec![part(3, &[index])]);
        [
            settlement(id, 1, split(0), Tally::default()),
            settlement(id, 2, split(1), Tally::default()),
        ]
    });
    assert_eq!(found, [true, false], "the second is to be made anew");
    let jobs: Vec<_> = details.jobs.iter().map(|job| (job.number, &job.recipients[..])).collect();
    assert_eq!(jobs, [(2, &[1][..]), (3, &[0][..])]);
}

/// The numbers of jobs run out at 65,535. Those of parts that have ended are used again.
#[test]
fn a_message_has_as_many_parts_as_there_are_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let count = u32::from(u16::MAX);
    let mailboxes: Vec<String> = (0..=count).map(|n| format!("r{n}@example.test")).collect();
    let to = recipients(&mailboxes.iter().map(String::as_str).collect::<Vec<_>>());
    let stored = rig.run(async {
        let mut body = rig.committer.body(NOW_MS)?;
        rig.push(&mut body, b"to many").await?;
        body.finish(HEAD, &envelope(to.as_recipients()), NOW_MS).await
    });
    let id = stored.expect("the message is stored").id.local;
    let free = |rig: &Rig, wanted| {
        free_job_numbers(&*rig.spool.partitions()[0], id, wanted).expect("it can be read")
    };
    // The last part has what is left: two recipients.
    let number = |index: u32| u16::try_from(index + 1).expect("one for each");
    let mut parts: Vec<JobRecord> =
        (0..count - 1).map(|index| part(number(index), &[index])).collect();
    assert_eq!(free(&rig, 3), [1, 2, 3]);
    parts.push(part(u16::MAX, &[count - 1, count]));
    assert!(settled(&rig, settlement(id, 0, JobChange::Split(parts), Tally::default())));
    assert!(free(&rig, 3).is_empty(), "all are in use");

    for ended in [7, 9, 10] {
        assert!(settled(&rig, done(id, ended, 1)));
    }
    assert_eq!(free(&rig, 2), [7, 9]);
    assert_eq!(free(&rig, 9), [7, 9, 10]);
    let taken = JobChange::Split(vec![part(7, &[count - 1]), part(8, &[count])]);
    assert!(!settled(&rig, settlement(id, u16::MAX, taken, Tally::default())), "8 is in use");
    let again = JobChange::Split(vec![part(7, &[count - 1]), part(9, &[count])]);
    assert!(settled(&rig, settlement(id, u16::MAX, again, Tally::default())));
    assert_eq!(free(&rig, 9), [u16::MAX, 10], "the largest first, and never 0");

    let expected = |found: SpoolAudit| {
        let (sum, all) = (found.sum, u64::from(count) + 1);
        assert!(found.adds_up, "{found:?}");
        assert_eq!((sum.taken, sum.queued, sum.ended.delivered), (all, all - 3, 3), "{found:?}");
    };
    expected(found(&rig));
    rig.close();
    expected(found_stopped(folder.path()));
    let rig = Rig::open(folder.path());
    let recovered = &rig.spool.recovered()[0];
    let repairs = (recovered.messages, recovered.repaired, recovered.quarantined);
    assert_eq!(repairs, (1, 0, 0), "{:?}", recovered.notices);
    expected(found(&rig));
    assert!(settled(&rig, done(id, 9, 1)), "a number that is used again is a job like others");
    assert!(!settled(&rig, done(id, 9, 1)));
}

#[test]
fn what_is_not_settled_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let partition = &rig.spool.partitions()[0];
    let begin = || Unsettled::begin(partition, Instant::now());
    let mut begun: Vec<Unsettled> =
        (0..UNSETTLED_MAX).map(|_| begin().expect("there is room")).collect();
    assert!(begin().is_none(), "a crash would repeat too much");
    begun.pop();
    assert!(begin().is_some(), "what is settled makes room");
}

#[test]
fn what_is_not_settled_grows_old_once_it_was_taken() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let partition = &rig.spool.partitions()[0];
    let begun_at = Instant::now();
    let at = |ms| begun_at + Duration::from_millis(ms);
    let may_begin = |ms| {
        let asked = Unsettled::may_begin(partition, at(ms));
        assert_eq!(Unsettled::begin(partition, at(ms)).is_some(), asked, "at {ms} ms");
        asked
    };
    let mut first = Unsettled::begin(partition, at(0)).expect("there is room");
    let mut second = Unsettled::begin(partition, at(0)).expect("there is room");
    let long = 100 * UNSETTLED_MS_MAX;
    assert!(may_begin(long), "a server that takes its time holds up nobody");

    first.note_taken(at(long));
    second.note_taken(at(long + 100));
    second.note_taken(at(2 * long));
    assert!(may_begin(long + UNSETTLED_MS_MAX - 1));
    assert!(!may_begin(long + UNSETTLED_MS_MAX + 1), "the first is not written yet");
    drop(first);
    assert!(may_begin(long + UNSETTLED_MS_MAX + 1), "the second is younger");
    assert!(!may_begin(long + UNSETTLED_MS_MAX + 101), "and as old as when it was first taken");
    drop(second);
    assert!(may_begin(2 * long));

    partition.set_failure("it was pulled out".to_owned());
    assert!(!may_begin(2 * long), "nothing of this can be settled");
}

/// A job in a block that cannot be read is not taken for one that has ended: the partition fails,
/// and the next start puts the message aside instead of sending it to everybody once more.
#[test]
fn a_job_that_cannot_be_read_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::with(options(folder.path()));
    let served = rig.stored(b"delivered, but its job cannot be read");
    let partition = &rig.spool.partitions()[0];
    partition.db().flush_cf(partition.families().job).unwrap();
    let other = rig.stored(b"delivered too, and its job is in the log");
    let table = partition.db().live_files().unwrap().remove(0);
    assert_eq!(table.column_family_name, "job");
    let table = folder.path().join("p00").join(table.name.trim_start_matches('/'));
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[9] ^= 1;
    std::fs::write(&table, bytes).unwrap();

    let fault = rig.run(rig.committer.settle(done(served, 0, 2))).unwrap_err();
    assert_eq!(fault, CommitFault::Failed);
    let told = rig.fatal.lock().unwrap().clone();
    assert!(told.len() == 1 && told[0].contains("Corruption"), "{told:?}");
    rig.close();

    let rig = Rig::with(options(folder.path()));
    let notices = &rig.spool.recovered()[0].notices;
    assert!(inspect::show(&rig.spool, served).is_err(), "not offered again: {notices:?}");
    assert_eq!(inspect::show(&rig.spool, other).unwrap().jobs.len(), 1, "{notices:?}");
    let audited = found(&rig);
    assert!(audited.adds_up && !audited.is_clean(), "{audited:?}");
    assert_eq!((audited.sum.queued, audited.sum.quarantined), (2, 2), "{notices:?}");
}

/// Everything that was settled in the same batch as an unreadable job is written.
#[test]
fn what_can_be_settled_beside_an_unreadable_job_is() {
    let folder = tempfile::tempdir().unwrap();
    let (all_wait, held) = mpsc::channel::<()>();
    let rig = Rig::with(options(folder.path()));
    let served = rig.stored(b"unreadable");
    let partition = &rig.spool.partitions()[0];
    partition.db().flush_cf(partition.families().job).unwrap();
    let table = partition.db().live_files().unwrap().remove(0);
    let table = folder.path().join("p00").join(table.name.trim_start_matches('/'));
    let other = rig.stored(b"settled beside it");
    rig.close();
    // Recovery would put it aside: the damage comes after the start.
    let rig = Rig::with_start(options(folder.path()), move || held.recv().expect("told"));
    let mut bytes = std::fs::read(&table).unwrap();
    bytes[9] ^= 1;
    std::fs::write(&table, bytes).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let mut bad = Box::pin(rig.committer.settle(done(served, 0, 2)));
    let mut good = Box::pin(rig.committer.settle(done(other, 0, 2)));
    assert!(bad.as_mut().poll(&mut context).is_pending());
    assert!(good.as_mut().poll(&mut context).is_pending());
    all_wait.send(()).unwrap();
    assert_eq!(rig.run(bad), Err(CommitFault::Failed));
    assert_eq!(rig.run(good), Ok(true));
    rig.close();
    let spool = Spool::open(options(folder.path())).unwrap();
    assert!(inspect::show(&spool, other).is_err(), "it has ended");
    assert_eq!(audit(&spool).unwrap().sum.ended.delivered, 2);
}

/// A message that is kept has no job and is not queued, and no start takes it for damage.
#[test]
fn a_message_is_kept_after_its_end_until_it_expires() {
    let folder = tempfile::tempdir().expect("a folder");
    let rig = Rig::with(options(folder.path()));
    let (kept, gone) = (rig.stored(b"kept"), rig.stored(b"gone"));
    let until_ms = NOW_MS + 1000;
    let end = |id, keep_until_ms| {
        let tally = Tally { delivered: 2, ..Tally::default() };
        let (change, reports) = (JobChange::End, Vec::new());
        let is_order = false;
        let envelope = None;
        Arc::new(Settlement {
            events: Default::default(),
            id,
            job: 0,
            change,
            reports,
            tally,
            is_order,
            keep_until_ms,
            envelope,
        })
    };
    assert!(settled(&rig, end(kept, Some(until_ms))));
    assert!(settled(&rig, end(gone, None)));
    rig.close();
    let row = KeptMessage { until_ms, id: kept };
    let check = |rig: &Rig, repaired: u64| {
        let start = &rig.spool.recovered()[0];
        assert_eq!((start.messages, start.repaired, start.quarantined), (0, repaired, 0));
        let partition = &rig.spool.partitions()[0];
        assert_eq!(partition.messages(), 0);
        assert_eq!(partition.kept(until_ms, 10).unwrap(), [row]);
        assert_eq!(partition.kept(until_ms - 1, 10).unwrap(), []);
        assert_eq!(rig.body_of(kept), b"kept");
        let shown = inspect::show(&rig.spool, kept).expect("it is there");
        assert_eq!((shown.kept_until_ms, shown.jobs.len()), (Some(until_ms), 0));
        let all = inspect::ListFilter { limit: 10, after: None };
        assert_eq!(
            inspect::list(&rig.spool, all, &Wanted::default()).unwrap(),
            [],
            "it is not queued"
        );
        assert!(inspect::show(&rig.spool, gone).is_err());
        let audit = found(rig);
        assert!(audit.is_clean() && audit.sum.ended.delivered == 4, "{audit:?}");
    };
    let rig = Rig::with(options(folder.path()));
    check(&rig, 0);
    // Its row in the index is lost, and one of nothing is there.
    let partition = &rig.spool.partitions()[0];
    let family = partition.families().kept;
    partition.db().delete_cf(family, key::of_kept(until_ms, kept)).unwrap();
    partition.db().put_cf(family, key::of_kept(5, gone), []).unwrap();
    rig.close();
    let rig = Rig::with(options(folder.path()));
    check(&rig, 2);
    let expired = rig.spool.partitions()[0].kept(until_ms, 10).unwrap();
    rig.run(remove(&rig.committer, &expired, || false)).expect("nothing is done in a drain");
    assert_eq!(rig.spool.partitions()[0].kept(until_ms, 10).unwrap(), [row]);
    rig.run(remove(&rig.committer, &expired, || true)).expect("it is written");
    rig.close();
    let rig = Rig::with(options(folder.path()));
    assert!(inspect::show(&rig.spool, kept).is_err());
    assert_eq!(rig.spool.partitions()[0].kept(u64::MAX, 10).unwrap(), []);
    let audit = found(&rig);
    assert!(audit.is_clean() && audit.sum.ended.cancelled == 0, "{audit:?}");
    rig.close();
}
