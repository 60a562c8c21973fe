//! Gateway, splits and memory of the intake: on plain lanes, and on a shard with one partition.

use std::future::Pending;
use std::future::Ready;
use std::future::pending;
use std::future::ready;
use std::sync::atomic::AtomicUsize;
use std::task::Context;
use std::task::Wake;
use std::task::Waker;

use super::*;
use crate::base::ChunkPool;
use crate::base::PartitionId;
use crate::base::limits::HEAD_BYTES_MAX;
use crate::base::limits::SUBMISSIONS_UNDER_WAY_MAX;
use crate::base::limits::SUBMIT_BYTES_MAX;
use crate::directory::Connection;
use crate::directory::identify;
use crate::observe::Histograms;
use crate::observe::Observed;
use crate::queue::CommitOptions;
use crate::queue::CommitThread;
use crate::queue::Committer;
use crate::queue::Recipient;
use crate::queue::SpaceWatch;
use crate::queue::Spool;
use crate::queue::SpoolOptions;
use crate::rt;
use crate::rt::ShardSpec;
use crate::submit::EnvelopeBuf;
use crate::submit::HeadPolicy;
use crate::submit::Incoming;
use crate::submit::MailboxLine;
use crate::submit::RawHead;
use crate::submit::SendOptions;
use crate::submit::intake::IntakeParts;

fn submission(recipients: usize, head_bytes: usize, placement: Placement) -> Submission {
    let policy = HeadPolicy { received_max: 3, ..HeadPolicy::default() };
    let mut head = RawHead::new(&Arc::new(policy), MailboxLine::Keep, Vec::new());
    let block = format!("X: {}\r\n\r\n", "x".repeat(head_bytes));
    head.feed(block.as_bytes()).expect("the header is small");
    let mut envelope = EnvelopeBuf::new("HTTP");
    for _ in 0..recipients {
        let recipient = Recipient { mailbox: "b@y.test", notify: 0, orcpt: None };
        envelope.push(&recipient).expect("it fits");
    }
    let peer = "192.0.2.1:4711".parse().expect("an address");
    let connection = Connection { peer, tls: true, listener: "http".into() };
    Submission {
        identity: identify::system(connection, None),
        envelope,
        head,
        options: SendOptions { split: recipients > 1 },
        placement,
    }
}

/// A deadline that never comes, and one that has passed.
fn never(_: Duration) -> Pending<()> {
    pending()
}

fn now(_: Duration) -> Ready<()> {
    ready(())
}

/// The result of what does not wait.
fn at_once<T>(future: impl Future<Output = Result<T, Refusal>>) -> Result<T, RefusalCode> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome.map_err(|refusal| refusal.code),
        Poll::Pending => panic!("it waits"),
    }
}

fn begin(gateway: &Gateway) -> Result<Streaming, RefusalCode> {
    at_once(gateway.begin(submission(1, 9, Placement::Any), now))
}

/// The outcome as it is now.
fn outcome_of(streaming: Streaming) -> Result<(), RefusalCode> {
    at_once(streaming.finish(now)).map(|_| ())
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Woken>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn fill(gateway: &Gateway) -> Vec<Streaming> {
    std::iter::from_fn(|| begin(gateway).ok()).collect()
}

#[test]
fn a_partition_that_does_not_exist_is_refused_for_good() {
    let (gateway, _lanes) = gateway(Homes::deal(2, 2));
    for (number, expected) in [(0, None), (1, None), (2, Some(RefusalCode::NoSuchPartition))] {
        let placement = Placement::Partition(PartitionId(number));
        let code = at_once(gateway.begin(submission(1, 9, placement), now)).err();
        assert_eq!(code, expected, "{number}");
    }
}

#[test]
fn the_memory_of_waiting_requests_is_bounded() {
    let (gateway, mut lanes) = gateway(Homes::deal(1, 1));
    let streams = fill(&gateway);
    assert_eq!(begin(&gateway).err(), Some(RefusalCode::Busy));
    let bytes = (streams.len() * UPLOAD_CHUNKS_MAX * CHUNK_BYTES) as u64;
    assert!(bytes <= SUBMIT_BYTES_MAX && bytes > SUBMIT_BYTES_MAX / 2, "{bytes} bytes");
    let loaded = gateway.shards[0].room.bytes();
    assert!(loaded <= SUBMIT_BYTES_MAX, "what was refused does not count: {loaded}");
    lanes.pop().expect("one lane").settle().end();
    assert_eq!(gateway.shards[0].room.bytes(), 0);
}

#[test]
fn a_sender_waits_for_room_in_any_lane() {
    let (gateway, lanes) = gateway(Homes::deal(2, 2));
    let mut lanes: Vec<Lane> = lanes.into_iter().map(LaneSeed::settle).collect();
    let _streams = fill(&gateway);
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut waits =
        [0, 1].map(|_| Box::pin(gateway.begin(submission(1, 9, Placement::Any), never)));
    waits.iter_mut().for_each(|wait| assert!(wait.as_mut().poll(&mut context).is_pending()));
    drop(lanes[1].requests.try_receive().expect("it is full"));
    assert_eq!(woken.0.load(Ordering::Relaxed), 2, "both look again");
    assert!(matches!(waits[0].as_mut().poll(&mut context), Poll::Ready(Ok(_))));
    assert!(waits[1].as_mut().poll(&mut context).is_pending(), "there was room for one");
    lanes.remove(1).end();
    assert!(woken.0.load(Ordering::Relaxed) > 2);
    let Poll::Ready(Err(refusal)) = waits[1].as_mut().poll(&mut context) else {
        panic!("a shard has ended");
    };
    assert_eq!(refusal.code, RefusalCode::Stopping);
}

#[test]
fn the_number_of_senders_that_wait_is_bounded() {
    let (gateway, _lanes) = gateway(Homes::deal(1, 1));
    let _streams = fill(&gateway);
    let mut waits: Vec<_> = (0..=SUBMIT_WAITERS_MAX)
        .map(|_| Box::pin(gateway.begin(submission(1, 9, Placement::Any), never)))
        .collect();
    let mut context = Context::from_waker(Waker::noop());
    let refused: Vec<_> = waits
        .iter_mut()
        .filter_map(|wait| match wait.as_mut().poll(&mut context) {
            Poll::Ready(outcome) => outcome.err(),
            Poll::Pending => None,
        })
        .map(|refusal| refusal.code)
        .collect();
    assert_eq!(refused, [RefusalCode::Busy]);
    drop(waits);
    for _ in 0..3 * SUBMIT_WAITERS_MAX {
        assert_eq!(begin(&gateway).err(), Some(RefusalCode::Busy), "and goes away");
    }
    let mut last = pin!(gateway.begin(submission(1, 9, Placement::Any), never));
    assert!(last.as_mut().poll(&mut context).is_pending(), "those that went away do not count");
}

#[test]
fn a_batch_is_bounded_before_it_is_sent() {
    let (gateway, _lanes) = gateway(Homes::deal(1, 1));
    let body: Arc<[u8]> = vec![0; 1 << 20].into();
    let send = |count, recipients, body: &Arc<[u8]>| {
        let one = || (submission(recipients, 9, Placement::Any), Arc::clone(body));
        at_once(gateway.send_all((0..count).map(|_| one()).collect(), now)).err()
    };
    let (small, too_large) = (Arc::from([]), Some(RefusalCode::BatchTooLarge));
    let sent = Some(RefusalCode::OutcomeUnknown);
    assert_eq!(send(0, 1, &small), None, "nothing is done at once");
    assert_eq!(send(SUBMIT_BATCH_MESSAGES_MAX, 1, &small), sent);
    assert_eq!(send(SUBMIT_BATCH_MESSAGES_MAX + 1, 1, &small), too_large);
    assert_eq!(send(2, SUBMIT_BATCH_MESSAGES_MAX / 2, &small), sent, "split");
    assert_eq!(send(2, SUBMIT_BATCH_MESSAGES_MAX / 2 + 1, &small), too_large);
    assert_eq!(send(SUBMIT_BATCH_BYTES_MAX >> 20, 1, &body), sent);
    assert_eq!(send((SUBMIT_BATCH_BYTES_MAX >> 20) + 1, 1, &body), too_large);
}

#[test]
fn each_request_left_in_the_lane_is_answered_at_the_end() {
    let (gateway, mut lanes) = gateway(Homes::deal(1, 1));
    let left = begin(&gateway).expect("there is room");
    let mut whole = pin!(gateway.send(submission(1, 9, Placement::Any), Vec::new(), never));
    let mut context = Context::from_waker(Waker::noop());
    assert!(whole.as_mut().poll(&mut context).is_pending());
    lanes.pop().expect("one lane").settle().end();
    assert_eq!(outcome_of(left), Err(RefusalCode::Stopping));
    let Poll::Ready(Err(refusal)) = whole.as_mut().poll(&mut context) else {
        panic!("the whole message is not refused");
    };
    assert_eq!(refusal.code, RefusalCode::Stopping);
    assert_eq!(begin(&gateway).err(), Some(RefusalCode::Stopping), "after the end");
}

#[test]
fn a_request_sent_while_the_lane_ends_is_answered_by_its_sender() {
    let (gateway, _lanes) = gateway(Homes::deal(1, 1));
    let late = begin(&gateway).expect("there is room");
    let shard = &gateway.shards[0];
    shard.refuse_if_late();
    assert!(!shard.lane.is_empty(), "the lane is still read");
    shard.room.stop();
    shard.refuse_if_late();
    assert_eq!(outcome_of(late), Err(RefusalCode::Stopping));
}

/// Runs `body` on a shard with an intake on one partition.
fn on_shard<F: Future<Output = ()> + 'static>(body: impl FnOnce(Rc<Intake>) -> F + Send + 'static) {
    let folder = tempfile::tempdir().expect("a folder");
    let options = SpoolOptions { memory_bytes: 16 << 20, ..SpoolOptions::new(folder.path(), 1) };
    let spool = Spool::open(options).expect("the spool opens");
    let options = CommitOptions {
        on_start: Box::new(|| ()),
        on_fatal: Arc::new(|_, cause| panic!("{cause}")),
    };
    let partition = Arc::clone(&spool.partitions()[0]);
    let commits = CommitThread::start(partition, options).expect("a thread starts");
    let handle = commits.handle();
    let shard = rt::start(ShardSpec::new("shard", None), move || async move {
        let pool = Rc::new(ChunkPool::new(64));
        let (doorbell, mut bell) = rt::doorbell();
        let committer = Committer::new(handle, Rc::clone(&pool), Arc::new(move || doorbell.ring()));
        let observed = Arc::clone(&Observed::new(1, 1).shards[0]);
        let intake = Intake::new(IntakeParts {
            pool,
            committers: vec![committer.clone()],
            space: Arc::new(SpaceWatch::new()),
            histograms: Rc::new(Histograms::new(Arc::clone(&observed.shelf))),
            observed,
        });
        let mut body = pin!(body(intake));
        poll_fn(|cx| {
            while bell.poll_rung(cx).is_ready() {
                committer.pump();
            }
            body.as_mut().poll(cx)
        })
        .await;
    });
    let left = shard.expect("a shard starts").join().expect("the shard ends in order");
    assert_eq!(left, 0, "every task has ended");
    commits.stop();
}

#[test]
fn a_sender_that_stands_still_is_given_up() {
    on_shard(async |intake| {
        let wait_max = Duration::from_millis(1);
        let mut pieces = vec![Piece::Chunk(Chunk::detached())];
        let next = async || match pieces.pop() {
            Some(piece) => piece,
            None => pending().await,
        };
        let submission = Box::new(submission(1, 9, Placement::Any));
        let outcome = take_stream(&intake, submission, next, wait_max).await;
        let code = outcome.expect("the sender is still there").map_err(|refusal| refusal.code);
        assert_eq!(code, Err(RefusalCode::Aborted));
    });
}

#[test]
fn a_draining_shard_refuses_submissions() {
    let (gateway, mut lanes) = gateway(Homes::deal(1, 1));
    let lane = lanes.pop().expect("one lane");
    on_shard(async move |intake| {
        let (end, ended) = rt::doorbell();
        intake.start_draining();
        let late = begin(&gateway).expect("nobody has told the gateway yet");
        task::spawn(serve(Rc::clone(&intake), lane.settle(), ended));
        let refusal = late.finish(never).await.expect_err("the shard drains");
        assert_eq!(refusal.code, RefusalCode::Stopping);
        assert_eq!(begin(&gateway).err(), Some(RefusalCode::Stopping), "told by now");
        end.ring();
    });
}

#[test]
fn a_request_waits_in_the_lane_while_too_many_are_under_way() {
    let (gateway, mut lanes) = gateway(Homes::deal(1, 1));
    let lane = lanes.pop().expect("one lane");
    on_shard(async move |intake| {
        let (end, ended) = rt::doorbell();
        let mut under_way: Vec<_> =
            (0..SUBMISSIONS_UNDER_WAY_MAX).map(|_| intake.count_submission()).collect();
        task::spawn(serve(Rc::clone(&intake), lane.settle(), ended));
        let mut send = pin!(gateway.send(submission(1, 9, Placement::Any), Vec::new(), never));
        let early = poll_fn(|cx| Poll::Ready(send.as_mut().poll(cx).is_ready())).await;
        timer::sleep(Duration::from_millis(1)).await;
        assert!(!early && !gateway.shards[0].lane.is_empty(), "it waits");
        under_way.pop();
        assert!(send.await.is_ok());
        drop(under_way);
        end.ring();
    });
}

#[test]
fn large_header_blocks_count_as_memory_of_bodies() {
    on_shard(async |intake| {
        let mut alone = intake.take_body_slot();
        assert_eq!(alone.count_head(100 * CHUNK_BYTES), Ok(()), "a body that is alone");
        assert!(intake.admit(0).is_err(), "beside a block that is too large for the pool");
        drop(alone);
        // Of 64 chunks, 56 are for bodies: 20 for ten of them, and the rest for their blocks.
        let mut slots: Vec<_> = (0..10).map(|_| intake.take_body_slot()).collect();
        let counted: Vec<_> =
            slots.iter_mut().map(|slot| slot.count_head(HEAD_BYTES_MAX).is_ok()).collect();
        assert_eq!(counted.iter().filter(|fits| **fits).count(), 9, "{counted:?}");
        slots.push(intake.take_body_slot());
        assert_eq!(intake.admit(0).map_err(|refusal| refusal.code), Err(RefusalCode::Busy));
        let last = &mut slots[9];
        assert_eq!(last.count_head(2000), Ok(()), "a usual block is never refused");
        assert_eq!(last.count_head(HEAD_BYTES_MAX), Err(RefusalCode::Busy));
        drop(slots.remove(0));
        assert_eq!(slots[8].count_head(HEAD_BYTES_MAX), Ok(()), "another has ended");
        drop(slots);
        assert!(intake.admit(0).is_ok());
    });
}

/// Parts of a body, a megabyte each, until one is refused.
async fn fill_body(incoming: &mut Incoming, parts: usize) -> Result<(), RefusalCode> {
    for _ in 0..parts * (1 << 20) / CHUNK_BYTES {
        let mut chunk = Chunk::detached();
        chunk.fill_from(&[b'x'; CHUNK_BYTES]);
        incoming.push(chunk, 0).await.map_err(|refusal| refusal.code)?;
    }
    Ok(())
}

#[test]
fn the_memory_of_splits_is_bounded_before_it_is_taken() {
    on_shard(async |intake| {
        let begin = async |recipients, head_bytes| {
            let submission = Box::new(submission(recipients, head_bytes, Placement::Any));
            intake.begin(submission).await.map_err(|refusal| refusal.code)
        };
        let code = begin(1000, 100_000).await.err();
        assert_eq!(code, Some(RefusalCode::BatchTooLarge), "the header blocks alone are too much");
        assert_eq!(intake.batch_bytes.get(), 0, "what was refused does not count");
        let mut first = begin(2, 9).await.expect("there is room");
        assert_eq!(fill_body(&mut first, 20).await, Ok(()));
        let mut second = begin(2, 9).await.expect("there is room");
        assert_eq!(fill_body(&mut second, 20).await, Err(RefusalCode::Busy), "beside the first");
        assert_eq!(fill_body(&mut first, 20).await, Err(RefusalCode::Busy), "beside the second");
        drop(second);
        assert_eq!(fill_body(&mut first, 20).await, Err(RefusalCode::BatchTooLarge));
        drop(first);
        assert_eq!(intake.batch_bytes.get(), 0);
        let accepted = begin(2, 9).await.expect("there is room").finish().await;
        assert_eq!(accepted.expect("it is accepted").others.len(), 1);
        assert_eq!(intake.batch_bytes.get(), 0);
    });
}
