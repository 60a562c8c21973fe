//! What the queue's tests share: a spool in a folder of its own, a shard of one thread, messages.

#![allow(dead_code, reason = "each test file uses its part of this")]

use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::Context;
use std::task::Poll;
use std::task::Wake;
use std::task::Waker;
use std::thread::Thread;

use ringpost::base::Chunk;
use ringpost::base::ChunkPool;
use ringpost::base::MessageId;
use ringpost::base::Slice;
use ringpost::base::TenantId;
use ringpost::queue::Body;
use ringpost::queue::CommitFault;
use ringpost::queue::CommitOptions;
use ringpost::queue::CommitThread;
use ringpost::queue::Committed;
use ringpost::queue::Committer;
use ringpost::queue::Envelope;
use ringpost::queue::Recipient;
use ringpost::queue::Recipients;
use ringpost::queue::RecipientsBuf;
use ringpost::queue::Spool;
use ringpost::queue::SpoolOptions;
use ringpost::queue::Tls;
use ringpost::queue::admin::inspect;
use ringpost::queue::record::envelope::BodySum;

/// The head of every message.
pub const HEAD: &[u8] = b"Received: from client.example.test\r\n";

pub const NOW_MS: u64 = 1_700_000_000_000;

/// One spool, one commit thread on its first partition, and this thread as the shard.
pub struct Rig {
    pub committer: Committer,
    pub pool: Rc<ChunkPool>,
    pub thread: CommitThread,
    pub spool: Spool,
    pub fatal: Arc<Mutex<Vec<String>>>,
}

impl Rig {
    pub fn open(path: &Path) -> Rig {
        Rig::with(SpoolOptions { memory_bytes: 16 << 20, ..SpoolOptions::new(path, NOW_MS) })
    }

    pub fn with(options: SpoolOptions) -> Rig {
        Rig::with_start(options, || ())
    }

    /// With `on_start` run by the commit thread before it takes its first order.
    pub fn with_start(options: SpoolOptions, on_start: impl FnOnce() + Send + 'static) -> Rig {
        let spool = Spool::open(options).expect("the spool opens");
        let fatal: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = Arc::clone(&fatal);
        let options = CommitOptions {
            on_start: Box::new(on_start),
            on_fatal: Arc::new(move |_, cause| told.lock().unwrap().push(cause.to_owned())),
        };
        let partition = Arc::clone(&spool.partitions()[0]);
        let thread = CommitThread::start(partition, options).expect("a thread starts");
        let pool = Rc::new(ChunkPool::new(4096));
        let shard = std::thread::current();
        let committer =
            Committer::new(thread.handle(), Rc::clone(&pool), Arc::new(move || shard.unpark()));
        Rig { committer, pool, thread, spool, fatal }
    }

    /// Runs a future to its end, pumping whenever the bell rings.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = Box::pin(future);
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
                return done;
            }
            if self.committer.pump() == 0 {
                std::thread::park();
            }
        }
    }

    /// Runs all futures side by side and answers in their order.
    pub fn run_all<'f, T>(&self, futures: Vec<Pin<Box<dyn Future<Output = T> + 'f>>>) -> Vec<T> {
        let mut waiting: Vec<_> = futures.into_iter().map(Some).collect();
        let mut done: Vec<Option<T>> = waiting.iter().map(|_| None).collect();
        let left = std::future::poll_fn(|context| {
            let mut pending = false;
            for (future, done) in waiting.iter_mut().zip(&mut done) {
                if let Some(running) = future {
                    match running.as_mut().poll(context) {
                        Poll::Ready(value) => (*done, *future) = (Some(value), None),
                        Poll::Pending => pending = true,
                    }
                }
            }
            if pending { Poll::Pending } else { Poll::Ready(()) }
        });
        self.run(left);
        done.into_iter().map(|value| value.expect("all have ended")).collect()
    }

    pub async fn push(&self, body: &mut Body, bytes: &[u8]) -> Result<(), CommitFault> {
        for piece in bytes.chunks(ringpost::base::limits::CHUNK_BYTES) {
            let mut chunk = self.pool.try_take().expect("the pool is large");
            chunk.fill_from(piece);
            body.push(Slice::new(chunk, 0..piece.len())).await?;
        }
        Ok(())
    }

    /// Stores one message whole.
    pub async fn store(&self, bytes: &[u8]) -> Result<Committed, CommitFault> {
        let mut body = self.committer.body(NOW_MS)?;
        self.push(&mut body, bytes).await?;
        let recipients = recipients(&["one@example.test", "two@example.test"]);
        body.finish(HEAD, &envelope(recipients.as_recipients()), NOW_MS).await
    }

    pub fn stored(&self, bytes: &[u8]) -> MessageId {
        self.run(self.store(bytes)).expect("the message is stored").id.local
    }

    /// The body as it is stored, checked on the way.
    pub fn body_of(&self, id: MessageId) -> Vec<u8> {
        body_of(&self.spool, id)
    }

    pub fn close(self) {
        self.thread.stop();
    }
}

/// The stored body, without the head.
pub fn body_of(spool: &Spool, id: MessageId) -> Vec<u8> {
    let pieces: Result<Vec<_>, _> = inspect::cat(spool, id).expect("it is there").collect();
    pieces.expect("it is sound")[1..].concat()
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub fn recipients(mailboxes: &[&str]) -> RecipientsBuf {
    let mut buffer = RecipientsBuf::default();
    for mailbox in mailboxes {
        let recipient = Recipient { mailbox, notify: 0, orcpt: None };
        buffer.push(&recipient).expect("an address fits");
    }
    buffer
}

pub fn envelope<'a>(recipients: Recipients<'a>) -> Envelope<'a> {
    Envelope {
        received_ms: NOW_MS,
        intake_ms: 0,
        sender: Some("sender@example.test"),
        smtputf8: false,
        requiretls: false,
        body_type: Default::default(),
        ret: Default::default(),
        envid: None,
        auth: None,
        declared_bytes: Some(4096),
        body: BodySum::default(),
        peer: "192.0.2.1:4321".parse().expect("an address"),
        helo: "client.example.test",
        listener: "smtp",
        protocol: "ESMTPS",
        tls: Some(Tls { version: "TLSv1.3", cipher: "TLS13_AES_256_GCM_SHA384" }),
        message_id: Some("<1@example.test>"),
        head_bytes: 0,
        kept_until_ms: None,
        tenant: TenantId::OPERATOR,
        credential: None,
        stream: Default::default(),
        tags: Default::default(),
        metadata: Default::default(),
        labels: Default::default(),
        recipients,
    }
}

/// Bytes that look alike in no two places.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

pub fn detached(bytes: &[u8]) -> Slice {
    let mut chunk = Chunk::detached();
    assert_eq!(chunk.fill_from(bytes), bytes.len());
    Slice::new(chunk, 0..bytes.len())
}

pub fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
