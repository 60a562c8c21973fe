//! Group commit from the shard's side: stored, streamed, aborted, deleted, stopped.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use crate::queue_rig::HEAD;
use crate::queue_rig::NOW_MS;
use crate::queue_rig::Rig;
use crate::queue_rig::body_of;
use crate::queue_rig::envelope;
use crate::queue_rig::pattern;
use crate::queue_rig::recipients;
use ringpost::base::MessageId;
use ringpost::base::limits::CHUNK_BYTES;
use ringpost::base::limits::COMMIT_BATCH_MESSAGES_MAX;
use ringpost::base::limits::COMMIT_WAITERS_MAX;
use ringpost::base::limits::FINISH_ALL_BYTES_MAX;
use ringpost::queue::Access;
use ringpost::queue::CommitFault;
use ringpost::queue::Committed;
use ringpost::queue::Finish;
use ringpost::queue::QueueFault;
use ringpost::queue::Recipients;
use ringpost::queue::SharedBody;
use ringpost::queue::Spool;
use ringpost::queue::SpoolOptions;
use ringpost::queue::admin::inspect;
use ringpost::queue::admin::inspect::ListFilter;
use ringpost::queue::admin::select::Wanted;

type Stored<'f> = Pin<Box<dyn Future<Output = Result<Committed, CommitFault>> + 'f>>;

const ALL: ListFilter = ListFilter { limit: usize::MAX, after: None };

#[test]
fn a_message_of_any_size_is_read_back_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let sizes = [0, 1, 4096, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 1 << 20, 5_000_001];
    let stored: Vec<_> = sizes
        .iter()
        .map(|size| {
            let bytes = pattern(*size, *size as u64);
            let id = rig.stored(&bytes);
            assert_eq!(rig.body_of(id), bytes, "{size} bytes, at once");
            (id, bytes)
        })
        .collect();
    assert_eq!(rig.pool.chunks_out(), 0, "every chunk came back");
    rig.close();
    let rig = Rig::open(folder.path());
    let found = &rig.spool.recovered()[0];
    assert_eq!((found.messages, found.swept, found.repaired, found.quarantined), (8, 0, 0, 0));
    for (id, bytes) in &stored {
        assert_eq!(&rig.body_of(*id), bytes, "{} bytes, after a restart", bytes.len());
    }
    assert!(rig.stored(b"later") > stored.last().unwrap().0, "ids go on where they were");
}

#[test]
fn many_waiters_share_a_sync() {
    let folder = tempfile::tempdir().unwrap();
    // The thread is held until all wait, so that the count depends on no disk's speed.
    let (all_wait, held) = std::sync::mpsc::channel::<()>();
    let options = SpoolOptions::new(folder.path(), NOW_MS);
    let rig = Rig::with_start(options, move || held.recv().expect("the test lets go"));
    let bytes = pattern(4096, 1);
    let mut all: Vec<Stored<'_>> =
        (0..1000).map(|_| Box::pin(rig.store(&bytes)) as Stored<'_>).collect();
    let mut context = Context::from_waker(Waker::noop());
    for stored in &mut all {
        assert!(stored.as_mut().poll(&mut context).is_pending());
    }
    all_wait.send(()).unwrap();
    let done: Vec<Committed> = rig.run_all(all).into_iter().map(|done| done.unwrap()).collect();
    let mut ids: Vec<MessageId> = done.iter().map(|done| done.id.local).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1000);
    let handle = rig.thread.handle();
    assert_eq!(handle.counts().syncs.load(Ordering::Relaxed), 2, "one for each full batch");
    let led: Vec<u32> = done.iter().filter(|done| done.leads).map(|done| done.batch).collect();
    assert_eq!(led, [512, 488], "each batch has one that stands for it");
    let batches: Vec<u32> = done.iter().map(|done| done.batch).collect();
    let full = COMMIT_BATCH_MESSAGES_MAX;
    assert_eq!(batches[..full], vec![full as u32; full]);
    assert_eq!(batches[full..], vec![(1000 - full) as u32; 1000 - full]);
    assert_eq!(rig.spool.partitions()[0].messages(), 1000);
    assert_eq!((rig.committer.waiting(), rig.pool.chunks_out()), (0, 0));
    // Deletions share batches too. How many depends on how fast they come: the thread takes what is
    // there.
    type Deleted<'a> = Pin<Box<dyn Future<Output = Result<bool, CommitFault>> + 'a>>;
    let deleting: Vec<Deleted<'_>> =
        ids.iter().map(|id| Box::pin(rig.committer.delete(*id)) as Deleted<'_>).collect();
    assert!(rig.run_all(deleting).into_iter().all(|done| done == Ok(true)));
    let syncs = handle.counts().syncs.load(Ordering::Relaxed) - 2;
    assert!(syncs < 500, "{syncs} batches for 1000 deletions");
    assert_eq!(rig.spool.partitions()[0].messages(), 0);
}

#[test]
fn a_body_dropped_on_the_way_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    for streamed in [0, 1, 3, 20] {
        let mut body = rig.committer.body(NOW_MS).unwrap();
        let bytes = pattern((streamed + 1) * CHUNK_BYTES, 2);
        rig.run(rig.push(&mut body, &bytes)).unwrap();
        drop(body);
    }
    // Orders are taken in turn: when this one is durable, the aborts before it are done.
    rig.stored(b"after");
    assert_eq!(rig.pool.chunks_out(), 0);
    let stats = inspect::stats(&rig.spool).unwrap();
    assert_eq!((stats.messages, stats.partitions[0].streams), (1, 0));
    let partition = &rig.spool.partitions()[0];
    let body = partition.families().body;
    assert_eq!(partition.db().iterator_cf(body, rocksdb::IteratorMode::Start).count(), 1);
    rig.close();
    let rig = Rig::open(folder.path());
    assert_eq!(rig.spool.recovered()[0].swept, 0, "nothing was left to sweep");
}

#[test]
fn a_session_that_leaves_while_it_waits_is_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let mut waiting = Box::pin(rig.store(b"nobody waits for this one"));
    let polled = waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    drop(waiting);
    rig.stored(b"after");
    assert_eq!(
        inspect::list(&rig.spool, ALL, &Wanted::default()).unwrap().len(),
        2,
        "what was asked for is done"
    );
    assert_eq!((rig.committer.waiting(), rig.pool.chunks_out()), (0, 0));
}

#[test]
fn a_message_that_finds_the_lane_full_waits() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let mut waiting: Vec<_> = (0..COMMIT_WAITERS_MAX)
        .map(|_| {
            let body = rig.committer.body(NOW_MS).unwrap();
            Box::pin(async move { body.finish(HEAD, &envelope(Recipients::default()), 0).await })
        })
        .collect();
    let mut context = Context::from_waker(Waker::noop());
    assert!(!rig.committer.is_busy());
    for future in &mut waiting {
        // Without a pump no ticket comes back, however fast the commit thread is.
        assert!(future.as_mut().poll(&mut context).is_pending());
    }
    assert!(rig.committer.is_busy());
    let late = rig.committer.body(NOW_MS).unwrap();
    let envelope = envelope(Recipients::default());
    let mut late = Box::pin(late.finish(HEAD, &envelope, 0));
    assert!(late.as_mut().poll(&mut context).is_pending());
    // One that streams stands in line with its first chunk; given up, it takes no ticket along.
    let mut given_up = rig.committer.body(NOW_MS).unwrap();
    let bytes = pattern(3 * CHUNK_BYTES, 1);
    assert!(Box::pin(rig.push(&mut given_up, &bytes)).as_mut().poll(&mut context).is_pending());
    drop(given_up);
    assert_eq!(rig.committer.waiting(), COMMIT_WAITERS_MAX, "who stands in line has no ticket");
    for future in waiting {
        rig.run(future).expect("those that were taken are stored");
    }
    rig.run(late).expect("it has come to its turn");
    assert!(!rig.committer.is_busy());
    assert_eq!((rig.committer.waiting(), rig.pool.chunks_out()), (0, 0));
    assert_eq!(rig.spool.partitions()[0].messages(), COMMIT_WAITERS_MAX as u64 + 1);
}

#[test]
fn answers_that_nobody_has_taken_hold_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let envelope = envelope(Recipients::default());
    let mut context = Context::from_waker(Waker::noop());
    let mut all = Vec::new();
    while !rig.committer.is_busy() {
        let body = rig.committer.body(NOW_MS).unwrap();
        let mut finished = Box::pin(body.finish(HEAD, &envelope, 0));
        assert!(finished.as_mut().poll(&mut context).is_pending());
        all.push(finished);
    }
    // Nobody asks for those answers; the next message is stored nevertheless.
    rig.stored(b"after");
    assert_eq!(rig.committer.waiting(), COMMIT_WAITERS_MAX);
    rig.run_all(all.into_iter().map(|one| one as Stored<'_>).collect());
    assert_eq!(rig.committer.waiting(), 0);
}

#[test]
fn a_body_given_up_while_the_lane_is_full_is_removed_later() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let mut streamed = rig.committer.body(NOW_MS).unwrap();
    rig.run(rig.push(&mut streamed, &pattern(5 * CHUNK_BYTES, 1))).unwrap();
    let envelope = envelope(Recipients::default());
    let mut waiting = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    while !rig.committer.is_busy() {
        let body = rig.committer.body(NOW_MS).unwrap();
        let mut finished = Box::pin(body.finish(HEAD, &envelope, 0));
        assert!(finished.as_mut().poll(&mut context).is_pending());
        waiting.push(finished);
    }
    drop(streamed);
    rig.run_all(waiting.into_iter().map(|one| one as Stored<'_>).collect());
    rig.stored(b"after");
    assert_eq!((rig.committer.waiting(), rig.pool.chunks_out()), (0, 0));
    assert_eq!(inspect::stats(&rig.spool).unwrap().partitions[0].streams, 0);
}

#[test]
fn a_message_is_listed_shown_and_deleted_once() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let kept = rig.stored(b"kept");
    let by_shard = rig.stored(&pattern(300_000, 3));
    let by_operator = rig.stored(b"three");
    let rows = inspect::list(&rig.spool, ALL, &Wanted::default()).unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0].first_recipient.as_deref(), Some("one@example.test"));
    let page =
        inspect::list(&rig.spool, ListFilter { limit: 1, after: Some(kept) }, &Wanted::default())
            .unwrap();
    assert_eq!(page[0].id, rig.spool.public_id(by_shard).to_string());
    let details = inspect::show(&rig.spool, by_shard).unwrap();
    assert_eq!(
        (details.body_bytes, details.jobs.len(), details.jobs[0].due_ms),
        (300_000, 1, NOW_MS)
    );
    assert_eq!(details.jobs[0].recipients, [0, 1]);

    assert_eq!(rig.run(rig.committer.delete(by_shard)), Ok(true));
    assert_eq!(rig.run(rig.committer.delete(by_shard)), Ok(false));
    rig.spool.partition_of(by_operator).unwrap().remove(by_operator).unwrap();
    assert!(matches!(
        rig.spool.partition_of(by_operator).unwrap().remove(by_operator),
        Err(QueueFault::Unknown)
    ));
    assert!(matches!(inspect::show(&rig.spool, by_operator), Err(QueueFault::Unknown)));
    let stats = inspect::stats(&rig.spool).unwrap();
    assert_eq!((stats.messages, stats.body_bytes), (1, 4));
    rig.close();

    let spool = Spool::open(SpoolOptions {
        access: Access::Inspect,
        ..SpoolOptions::new(folder.path(), NOW_MS)
    })
    .expect("a stopped server's spool is looked at");
    assert_eq!(body_of(&spool, kept), b"kept");
    assert_eq!(inspect::stats(&spool).unwrap().messages, 1);
    assert!(matches!(spool.partition_of(kept).unwrap().remove(kept), Err(QueueFault::ReadOnly)));
    drop(spool);
    let found = Rig::open(folder.path());
    let found = &found.spool.recovered()[0];
    assert_eq!((found.messages, found.repaired, found.quarantined), (1, 0, 0));
}

#[test]
fn a_stopped_thread_finishes_what_it_has_and_refuses_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let mut begun = Box::pin(rig.store(b"under way"));
    let mut context = Context::from_waker(Waker::noop());
    assert!(begun.as_mut().poll(&mut context).is_pending());
    let later = rig.committer.body(NOW_MS).unwrap();
    rig.thread.handle().refuse_new();
    assert!(matches!(rig.committer.body(NOW_MS), Err(CommitFault::Stopped)));
    rig.run(later.finish(HEAD, &envelope(Recipients::default()), 0)).expect("it was begun before");
    rig.run(begun).expect("it was under way");
    rig.close();
    assert_eq!(Rig::open(folder.path()).spool.recovered()[0].messages, 2);
}

#[test]
fn a_thread_that_has_gone_answers_those_who_come_late() {
    let folder = tempfile::tempdir().unwrap();
    let Rig { committer, pool, thread, spool, .. } = Rig::open(folder.path());
    let body = committer.body(NOW_MS).unwrap();
    thread.stop();
    let recipients = recipients(&["a@b.test"]);
    let envelope = envelope(recipients.as_recipients());
    let mut finish = Box::pin(body.finish(HEAD, &envelope, 0));
    let polled = finish.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert_eq!(polled, Poll::Ready(Err(CommitFault::Stopped)));
    drop((finish, spool));
    assert_eq!(pool.chunks_out(), 0);
}

/// A list of messages that share their body, one of them with a body of its own in several chunks.
#[test]
fn several_messages_are_finished_together_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::open(folder.path());
    let shared = pattern(CHUNK_BYTES + 5, 1);
    let body = SharedBody::new(shared.clone().into());
    let long = pattern(4 * CHUNK_BYTES, 2);
    let lists: Vec<_> = (0..3).map(|n| recipients(&[&format!("u{n}@example.test")])).collect();
    let finish = |heads: &[&[u8]]| {
        let mut own = rig.committer.body(NOW_MS).unwrap();
        rig.run(rig.push(&mut own, &long)).unwrap();
        let bodies = (0..2).map(|_| rig.committer.body_of(&body, NOW_MS).unwrap());
        let parts = bodies.chain([own]).zip(&lists).zip(heads);
        let all = parts.map(|((body, list), head)| Finish {
            body,
            head,
            envelope: envelope(list.as_recipients()),
            due_ms: NOW_MS,
        });
        rig.run(rig.committer.finish_all(all.collect()))
    };
    let huge = vec![b'x'; FINISH_ALL_BYTES_MAX];
    assert_eq!(finish(&[b"a", &huge, b"c"]).unwrap_err(), CommitFault::TooLarge);
    let done = finish(&[b"To: u0\r\n", b"", b"To: u2\r\n"]).expect("there is room");
    assert_eq!(done.iter().map(|done| done.batch).collect::<Vec<_>>(), [3, 3, 3], "one batch");
    let heads: [&[u8]; 3] = [b"To: u0\r\n", b"", b"To: u2\r\n"];
    let bodies: [&[u8]; 3] = [&shared, &shared, &long];
    let whole = |spool: &Spool| {
        assert_eq!(
            inspect::list(spool, ALL, &Wanted::default()).unwrap().len(),
            3,
            "and nothing of the others"
        );
        for ((done, head), body) in done.iter().zip(heads).zip(bodies) {
            let pieces = inspect::cat(spool, done.id.local).unwrap();
            let bytes: Result<Vec<_>, _> = pieces.collect();
            assert_eq!(bytes.unwrap().concat(), [head, body].concat());
        }
    };
    whole(&rig.spool);
    assert_eq!(rig.pool.chunks_out(), 0);
    rig.close();
    let rig = Rig::open(folder.path());
    let found = &rig.spool.recovered()[0];
    assert_eq!((found.messages, found.swept, found.quarantined), (3, 0, 0), "{found:?}");
    whole(&rig.spool);
    assert!(ringpost::queue::admin::audit::audit(&rig.spool).unwrap().is_clean());
    rig.close();
}
