//! A real shard with an intake on one partition, for submissions and questions from other threads.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::task::Context;
use std::task::Poll;
use std::task::Wake;
use std::task::Waker;
use std::thread;
use std::thread::Thread;
use std::time::Duration;
use std::time::Instant;

use ringpost::base::Chunk;
use ringpost::base::ChunkPool;
use ringpost::base::PartitionId;
use ringpost::base::PublicId;
use ringpost::base::limits::CHUNK_BYTES;
use ringpost::directory::Connection;
use ringpost::directory::Identity;
use ringpost::directory::identify;
use ringpost::handoff::AskPool;
use ringpost::handoff::NoAnswer;
use ringpost::handoff::Placement as Homes;
use ringpost::handoff::Question;
use ringpost::handoff::ask::LATE_IN_A_ROW_MAX;
use ringpost::observe::Histograms;
use ringpost::observe::Observed;
use ringpost::queue::CommitOptions;
use ringpost::queue::CommitThread;
use ringpost::queue::Committer;
use ringpost::queue::Recipient;
use ringpost::queue::SpaceWatch;
use ringpost::queue::Spool;
use ringpost::queue::SpoolOptions;
use ringpost::queue::admin::inspect;
use ringpost::rt;
use ringpost::rt::ShardSpec;
use ringpost::rt::ShardThread;
use ringpost::rt::task;
use ringpost::rt::wake::Doorbell;
use ringpost::submit::Accepted;
use ringpost::submit::EnvelopeBuf;
use ringpost::submit::Gateway;
use ringpost::submit::HeadPolicy;
use ringpost::submit::Intake;
use ringpost::submit::MailboxLine;
use ringpost::submit::Placement;
use ringpost::submit::RawHead;
use ringpost::submit::Refusal;
use ringpost::submit::RefusalCode;
use ringpost::submit::SendOptions;
use ringpost::submit::Submission;
use ringpost::submit::Text;
use ringpost::submit::gateway;
use ringpost::submit::gateway::Streaming;
use ringpost::submit::intake::IntakeParts;
use ringpost::submit::signature::Signature;
use ringpost::submit::signature::Signer;
use ringpost::submit::signature::Signing;

use crate::queue_rig::NOW_MS;
use crate::queue_rig::pattern;

const PATIENCE: Duration = Duration::from_secs(20);

struct Shard {
    gateway: Gateway,
    spool: Spool,
    commits: CommitThread,
    thread: ShardThread,
    end: Doorbell,
}

impl Shard {
    /// With `on_start` run by the commit thread before it takes its first order.
    fn start(path: &Path, on_start: impl FnOnce() + Send + 'static) -> Shard {
        Shard::start_signing(path, on_start, false)
    }

    fn start_signing(path: &Path, on_start: impl FnOnce() + Send + 'static, signs: bool) -> Shard {
        let options = SpoolOptions { memory_bytes: 16 << 20, ..SpoolOptions::new(path, NOW_MS) };
        let spool = Spool::open(options).expect("the spool opens");
        let options = CommitOptions {
            on_start: Box::new(on_start),
            on_fatal: Arc::new(|_, cause| panic!("{cause}")),
        };
        let partition = Arc::clone(&spool.partitions()[0]);
        let commits = CommitThread::start(partition, options).expect("a thread starts");
        let handle = commits.handle();
        let (gateway, mut lanes) = gateway::gateway(Homes::deal(1, 1));
        let lane = lanes.pop().expect("one for each shard");
        let (end, mut ended) = rt::doorbell();
        let thread = rt::start(ShardSpec::new("shard", None), move || async move {
            let pool = Rc::new(ChunkPool::new(64));
            let (doorbell, mut bell) = rt::doorbell();
            let ring = doorbell.clone();
            let committer = Committer::new(handle, Rc::clone(&pool), Arc::new(move || ring.ring()));
            let observed = Arc::clone(&Observed::new(1, 1).shards[0]);
            let intake = Intake::new(IntakeParts {
                pool,
                committers: vec![committer.clone()],
                space: Arc::new(SpaceWatch::new()),
                histograms: Rc::new(Histograms::new(Arc::clone(&observed.shelf))),
                observed,
            });
            if signs {
                intake.set_signer(Some(Rc::new(Sum(0))));
            }
            let (serve_end, serve_ended) = rt::doorbell();
            task::spawn(gateway::serve(Rc::clone(&intake), lane.settle(), serve_ended));
            let is_over = Rc::new(std::cell::Cell::new(false));
            let over = Rc::clone(&is_over);
            task::spawn_latency(async move {
                while !over.get() {
                    bell.wait().await;
                    committer.pump();
                }
            });
            ended.wait().await;
            while intake.submissions() > 0 {
                rt::timer::sleep(Duration::from_millis(1)).await;
            }
            serve_end.ring();
            is_over.set(true);
            doorbell.ring();
        });
        Shard { gateway, spool, commits, thread: thread.expect("a shard starts"), end }
    }

    /// Ends the shard in order and gives back its spool.
    fn end(self) -> Spool {
        self.end.ring();
        let left = self.thread.join().expect("the shard ends in order");
        assert_eq!(left, 0, "every task has ended");
        self.commits.stop();
        self.spool
    }

    fn messages(&self) -> u64 {
        self.spool.partitions()[0].messages()
    }
}

/// The executor of a plain thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Unpark>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park_timeout(PATIENCE),
        }
    }
}

/// A deadline that never comes.
fn never(_: Duration) -> std::future::Pending<()> {
    std::future::pending()
}

fn begin(shard: &Shard, submission: Submission) -> Streaming {
    block_on(shard.gateway.begin(submission, never)).expect("there is room")
}

fn submission(header: &str) -> Submission {
    let policy = HeadPolicy { hostname: "mx.test".into(), received_max: 3, ..Default::default() };
    let mut head = RawHead::new(&Arc::new(policy), MailboxLine::Keep, Vec::new());
    head.feed(header.as_bytes()).expect("the header is small");
    head.finish();
    let mut envelope = EnvelopeBuf::new("HTTP");
    envelope.set(Text::Sender, "a@x.test");
    envelope.set(Text::Helo, "client.test");
    let recipient = Recipient { mailbox: "b@y.test", notify: 0, orcpt: None };
    envelope.push(&recipient).expect("it fits");
    let peer = "192.0.2.1:4711".parse().expect("an address");
    let connection = Connection { peer, tls: true, listener: "http".into() };
    Submission {
        identity: identify::system(connection, None),
        envelope,
        head,
        options: SendOptions::default(),
        placement: Placement::Any,
    }
}

fn chunks(bytes: &[u8]) -> Vec<Chunk> {
    let filled = |piece: &[u8]| {
        let mut chunk = Chunk::detached();
        chunk.fill_from(piece);
        chunk
    };
    bytes.chunks(CHUNK_BYTES).map(filled).collect()
}

const HEADER: &str = "From: a@x.test\r\nX-Ringpost-Key: 1\r\nSubject: x\r\n\r\n";

/// Trace field and the rest of a stored message.
fn stored(spool: &Spool, id: PublicId) -> (String, Vec<u8>) {
    let pieces: Result<Vec<_>, _> = inspect::cat(spool, id.local).expect("it is there").collect();
    let message = pieces.expect("it is sound").concat();
    let block = b"From: ";
    let trace = message.windows(block.len()).position(|at| at == block).expect("it has a block");
    let (trace, rest) = message.split_at(trace);
    (String::from_utf8(trace.to_vec()).expect("a trace field is text"), rest.to_vec())
}

fn expected(body: &[u8]) -> Vec<u8> {
    [b"From: a@x.test\r\nSubject: x\r\n\r\n", body].concat()
}

fn await_messages(shard: &Shard, count: u64) {
    let end = Instant::now() + PATIENCE;
    while shard.messages() != count {
        assert!(Instant::now() < end, "{} messages, not {count}", shard.messages());
        thread::yield_now();
    }
}

#[test]
fn a_plain_thread_sends_whole_and_streamed_messages() {
    let folder = tempfile::tempdir().unwrap();
    let shard = Shard::start(folder.path(), || ());
    let gateway = shard.gateway.clone();
    let large = pattern(3_000_000, 7);
    let body = large.clone();
    let sender = thread::spawn(move || {
        let whole = block_on(gateway.send(submission(HEADER), chunks(b"text\r\n"), never));
        let mut named = submission(HEADER);
        named.placement = Placement::Partition(PartitionId(0));
        let empty = block_on(gateway.send(named, Vec::new(), never));
        let mut streaming =
            block_on(gateway.begin(submission(HEADER), never)).expect("there is room");
        for chunk in chunks(&body) {
            block_on(streaming.push(chunk)).expect("the shard takes it");
        }
        (whole, empty, block_on(streaming.finish(never)))
    });
    let (whole, empty, streamed) = sender.join().expect("the sender ends");
    let spool = shard.end();
    for (outcome, body) in [(whole, &b"text\r\n"[..]), (empty, b""), (streamed, &large)] {
        let Accepted { id, bytes, .. } = outcome.expect("it is accepted");
        assert_eq!(bytes, (HEADER.len() + body.len()) as u64);
        let (trace, rest) = stored(&spool, id);
        assert!(rest == expected(body), "a body of {} bytes", body.len());
        assert!(trace.starts_with("Received: from client.test"), "{trace}");
        assert!(trace.contains(&format!("with HTTP id {id}")) && trace.contains("for <b@y.test>"));
    }
}

#[test]
fn a_tokio_task_sends_with_a_timer() {
    let folder = tempfile::tempdir().unwrap();
    let shard = Shard::start(folder.path(), || ());
    let gateway = shard.gateway.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let outcome = runtime.expect("a runtime starts").block_on(async move {
        gateway.send(submission(HEADER), chunks(b"text\r\n"), tokio::time::sleep).await
    });
    let id = outcome.expect("it is accepted").id;
    assert_eq!(stored(&shard.end(), id).1, expected(b"text\r\n"));
}

#[test]
fn a_sender_that_goes_away_early_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let shard = Shard::start(folder.path(), || ());
    let mut streaming = begin(&shard, submission(HEADER));
    for chunk in chunks(&pattern(1_000_000, 3)) {
        block_on(streaming.push(chunk)).expect("the shard takes it");
    }
    drop(streaming);
    // The shard is in order behind it: another message passes.
    block_on(shard.gateway.send(submission(HEADER), chunks(b"x\r\n"), never)).expect("accepted");
    assert_eq!(shard.messages(), 1);
    let spool = shard.end();
    assert_eq!(spool.partitions()[0].messages(), 1);
}

/// The commit waits until the test lets it go: the sender hears in time that the outcome is unknown,
/// or goes away, and the messages become durable all the same.
#[test]
fn a_whole_message_is_committed_without_its_sender() {
    let folder = tempfile::tempdir().unwrap();
    let (release, held) = mpsc::channel::<()>();
    let shard = Shard::start(folder.path(), move || held.recv().expect("the test lets it go"));
    let now = |_| std::future::ready(());
    let outcome = block_on(shard.gateway.send(submission(HEADER), chunks(b"one\r\n"), now));
    let code = outcome.map_err(|refusal| refusal.code);
    assert_eq!(code, Err(RefusalCode::OutcomeUnknown));
    let mut streaming = begin(&shard, submission(HEADER));
    block_on(streaming.push(chunks(b"two\r\n").remove(0))).expect("the shard takes it");
    let mut finish = Box::pin(streaming.finish(never));
    let mut context = Context::from_waker(Waker::noop());
    assert!(finish.as_mut().poll(&mut context).is_pending());
    drop(finish);
    assert_eq!(shard.messages(), 0);
    release.send(()).expect("the commit thread waits");
    await_messages(&shard, 2);
    shard.end();
}

#[test]
fn a_refusal_reaches_its_sender() {
    let folder = tempfile::tempdir().unwrap();
    let shard = Shard::start(folder.path(), || ());
    let looping = format!("{}\r\n", "Received: x\r\n".repeat(4));
    let code = |refusal: Refusal| refusal.code;
    let whole = block_on(shard.gateway.send(submission(&looping), Vec::new(), never));
    assert_eq!(whole.map_err(code), Err(RefusalCode::Loop));
    let mut streaming = begin(&shard, submission(&looping));
    let refused = loop {
        match block_on(streaming.push(chunks(b"more\r\n").remove(0))) {
            Ok(()) => thread::yield_now(),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refused.code, RefusalCode::Loop, "before the message is whole");
    drop(streaming);
    assert_eq!(shard.end().partitions()[0].messages(), 0);
}

/// A split submission: one message for each recipient, each with a header of its own, or none at all.
#[test]
fn a_split_submission_is_one_message_for_each_recipient() {
    let folder = tempfile::tempdir().unwrap();
    let shard = Shard::start(folder.path(), || ());
    let split = || {
        let mut submission = submission(HEADER);
        let other = Recipient { mailbox: "c@y.test", notify: 0, orcpt: None };
        submission.envelope.push(&other).expect("it fits");
        submission.options.split = true;
        submission
    };
    let body = pattern(200_000, 5);
    let outcome = block_on(shard.gateway.send(split(), chunks(&body), never));
    let accepted = outcome.expect("it is accepted");
    // 64 MiB in all: the half of it is too much for two.
    let mut streaming = begin(&shard, split());
    let large = pattern(CHUNK_BYTES, 1);
    let refused = loop {
        if let Err(refusal) = block_on(streaming.push(chunks(&large).remove(0))) {
            break refusal;
        }
    };
    assert_eq!((refused.code, refused.reply.code), (RefusalCode::BatchTooLarge, 552));
    drop(streaming);
    assert_eq!(shard.messages(), 2);
    let spool = shard.end();
    let ids = [&[accepted.id], &accepted.others[..]].concat();
    for (id, recipient) in ids.into_iter().zip(["b@y.test", "c@y.test"]) {
        let (trace, rest) = stored(&spool, id);
        assert!(rest == expected(&body), "the body of {recipient}");
        assert!(trace.contains(&format!("for <{recipient}>")), "{trace}");
    }
}

/// The submissions of a batch share one write, or are refused together.
#[test]
fn a_batch_is_accepted_as_a_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let shard = Shard::start(folder.path(), || ());
    let split = || {
        let mut submission = submission(HEADER);
        let other = Recipient { mailbox: "c@y.test", notify: 0, orcpt: None };
        submission.envelope.push(&other).expect("it fits");
        submission.options.split = true;
        submission
    };
    let body = pattern(200_000, 5);
    let shared: Arc<[u8]> = body.as_slice().into();
    let send = |batch| block_on(shard.gateway.send_all(batch, never));
    let looping = submission(&format!("{}\r\n", "Received: x\r\n".repeat(4)));
    let bad = vec![(submission(HEADER), Arc::clone(&shared)), (looping, Arc::clone(&shared))];
    let refusal = send(bad).expect_err("one of them loops");
    assert_eq!((refusal.code, refusal.field.as_deref()), (RefusalCode::Loop, Some("messages[1]")));
    assert_eq!(shard.messages(), 0);
    let good = vec![
        (submission(HEADER), Arc::from(&b"text\r\n"[..])),
        (split(), Arc::clone(&shared)),
        // A header without its blank line: the first bytes of the body were fed with it.
        (submission("From: a@x.test\r\nline"), Arc::from(&b"\r\n"[..])),
    ];
    let accepted = send(good).expect("it is accepted");
    let others: Vec<usize> = accepted.iter().map(|one| one.others.len()).collect();
    assert_eq!(others, [0, 1, 0]);
    let batches = shard.commits.handle().counts().batches.load(Ordering::Relaxed);
    assert_eq!((batches, shard.messages()), (1, 4));
    let spool = shard.end();
    let bodies = [&b"text\r\n"[..], &body];
    for (one, body) in accepted.iter().zip(bodies) {
        assert_eq!(one.bytes, (HEADER.len() + body.len()) as u64);
        for id in [&[one.id], &one.others[..]].concat() {
            assert!(stored(&spool, id).1 == expected(body), "a body of {} bytes", body.len());
        }
    }
    let early = stored(&spool, accepted[2].id).1;
    assert!(early.ends_with(b"\r\nline\r\n"), "{}", String::from_utf8_lossy(&early));
}

/// Sums the body, and says so in a field.
struct Sum(u64);

impl Signer for Sum {
    fn begin(&self, _: &Identity, block: &[u8]) -> Option<Box<dyn Signature>> {
        assert!(!block.starts_with(b"Received:"), "trace fields are not signed");
        Some(Box::new(Sum(self.0)))
    }
}

impl Signature for Sum {
    fn body(&mut self, bytes: &[u8]) {
        self.0 += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    }

    fn sign<'s>(&'s mut self, block: &'s [u8]) -> Signing<'s> {
        let field = format!("X-Sum: {} {}\r\n", block.len(), self.0);
        Box::pin(async move {
            rt::timer::sleep(Duration::from_millis(1)).await;
            match self.0 {
                0 => Err(Refusal::new(RefusalCode::NotSigned)),
                _ => Ok(field.into_bytes()),
            }
        })
    }
}

#[test]
fn a_signature_sees_the_edited_header_and_all_of_the_body() {
    let folder = tempfile::tempdir().unwrap();
    let shard = Shard::start_signing(folder.path(), || (), true);
    let body = pattern(300_000, 9);
    let mut streaming = begin(&shard, submission(HEADER));
    for chunk in chunks(&body) {
        block_on(streaming.push(chunk)).expect("the shard takes it");
    }
    let id = block_on(streaming.finish(never)).expect("it is accepted").id;
    let unsigned = block_on(shard.gateway.send(submission(HEADER), Vec::new(), never));
    assert_eq!(unsigned.map_err(|refusal| refusal.code), Err(RefusalCode::NotSigned));
    assert_eq!(shard.messages(), 1);
    let (front, rest) = stored(&shard.end(), id);
    let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
    let block = expected(b"").len();
    assert!(front.ends_with(&format!("\r\nX-Sum: {block} {sum}\r\n")), "{front}");
    assert!(rest == expected(&body));
}

/// A question that waits for the test, panics, or is answered at once.
enum Test {
    Double(u32),
    Panic,
    Hold(mpsc::Receiver<()>),
}

impl Question for Test {
    type Answer = u32;

    fn deadline(&self) -> Option<Duration> {
        Some(Duration::from_millis(if matches!(self, Test::Hold(_)) { 30 } else { 20_000 }))
    }
}

fn work(question: Test) -> u32 {
    match question {
        Test::Double(number) => 2 * number,
        Test::Panic => panic!("a bug of the test"),
        Test::Hold(held) => {
            // The test has gone on when nothing comes any more.
            let _ = held.recv();
            0
        }
    }
}

#[test]
fn questions_have_answers_deadlines_and_bounds() {
    let (told, hear) = mpsc::channel();
    let shard = rt::start(ShardSpec::new("asks", None), move || async move {
        let (doorbell, mut bell) = rt::doorbell();
        let ring = doorbell.clone();
        let pool = AskPool::start("test", 1, 3, || work).expect("a thread starts");
        let asker = pool.asker(2, Arc::new(move || ring.ring()));
        let over = Rc::new(std::cell::Cell::new(false));
        let (pumping, is_over) = (asker.clone(), Rc::clone(&over));
        task::spawn_latency(async move {
            while !is_over.get() {
                bell.wait().await;
                pumping.pump();
            }
        });
        let double = |number| asker.ask(Test::Double(number));
        let mut seen = vec![double(1).await, asker.ask(Test::Panic).await, double(2).await];
        // Two slots: a third question finds none.
        let (mut releases, mut waits) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (release, held) = mpsc::channel();
            releases.push(release);
            waits.push(Box::pin(asker.ask(Test::Hold(held))));
        }
        let mut context = Context::from_waker(Waker::noop());
        waits.iter_mut().for_each(|wait| assert!(wait.as_mut().poll(&mut context).is_pending()));
        seen.push(double(3).await);
        assert_eq!(asker.under_way(), 2);
        // Dropped, they free their slots; the worker skips the one that it has not begun.
        drop(waits);
        assert_eq!(asker.under_way(), 0);
        releases.clear();
        seen.push(double(4).await);
        // Late answers; then the pool is away, and comes back.
        let mut kept = Vec::new();
        for _ in 0..LATE_IN_A_ROW_MAX {
            let (release, held) = mpsc::channel();
            seen.push(asker.ask(Test::Hold(held)).await);
            kept.push(release);
            // The worker is free again, or it would find no place for the next one.
            kept.clear();
        }
        seen.push(double(5).await);
        rt::timer::sleep(ringpost::handoff::ask::AWAY).await;
        seen.push(double(6).await);
        over.set(true);
        doorbell.ring();
        told.send(seen).expect("the test waits");
    });
    let left = shard.expect("a shard starts").join().expect("it ends in order");
    assert_eq!(left, 0);
    let seen = hear.recv().expect("the shard has told");
    let late = vec![Err(NoAnswer::Late); LATE_IN_A_ROW_MAX as usize];
    let expected = [
        vec![Ok(2), Err(NoAnswer::Failed), Ok(4), Err(NoAnswer::Full), Ok(8)],
        late,
        vec![Err(NoAnswer::Away), Ok(12)],
    ];
    assert_eq!(seen, expected.concat());
}
