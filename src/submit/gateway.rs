//! The gateway: submissions from any thread, through one bounded lane into each shard.
//!
//! Owner:    a `Gateway` is shared by all threads; `serve` runs on each shard.
//! Promise:  `Ok` is returned only after the synced write. A sender that disappears before the message
//!           is complete leaves nothing behind; once it is complete, the commit proceeds without the
//!           sender. A lost lane loses no mail: without an outcome nothing was promised.
//! Waiting:  the gateway has no timer and no runtime. The caller passes its deadline as a future,
//!           usually `OUTCOME_DEADLINE`. After the deadline the outcome is unknown, and the sender
//!           repeats the request with the same key.
//! Bounds:   `SUBMIT_LANE_MAX` requests in a lane, `SUBMISSIONS_UNDER_WAY_MAX` on a shard, and
//!           `UPLOAD_CHUNKS_MAX` chunks in each. Full: the next shard, then `Busy`.

use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use crate::base::Chunk;
use crate::base::ShardId;
use crate::base::limits::CHUNK_BYTES;
use crate::base::limits::SUBMISSIONS_UNDER_WAY_MAX;
use crate::base::limits::SUBMIT_LANE_MAX;
use crate::base::limits::UPLOAD_CHUNKS_MAX;
use crate::handoff::Placement as Homes;
use crate::handoff::Receiver;
use crate::handoff::Sender;
use crate::handoff::lane;
use crate::handoff::lane::Seed;
use crate::handoff::upload;
use crate::handoff::upload::OutcomeReceiver;
use crate::handoff::upload::OutcomeSlot;
use crate::handoff::upload::Piece;
use crate::handoff::upload::UploadSeed;
use crate::handoff::upload::Uploader;
use crate::rt::Bell;
use crate::rt::task;
use crate::submit::incoming::Accepted;
use crate::submit::intake::Intake;
use crate::submit::refusal::Refusal;
use crate::submit::refusal::RefusalCode;
use crate::submit::submission::Placement;
use crate::submit::submission::Submission;

/// How long a sender usually waits for the outcome of a whole message.
pub const OUTCOME_DEADLINE: Duration = Duration::from_secs(30);

type Outcome = Result<Accepted, Refusal>;

/// One request to a shard. Losing it means that its sender gets no outcome.
pub struct Request {
    submission: Box<Submission>,
    content: Content,
    /// Counts the request as a load of its shard.
    load: Load,
}

enum Content {
    Whole(Vec<Chunk>, OutcomeSlot<Outcome>),
    Stream(UploadSeed<Outcome>),
}

/// Bytes that a request puts on its shard, until it is dropped.
struct Load {
    of_shard: Arc<AtomicU64>,
    bytes: u64,
}

impl Load {
    fn new(of_shard: &Arc<AtomicU64>, bytes: u64) -> Load {
        of_shard.fetch_add(bytes, Ordering::Relaxed);
        Load { of_shard: Arc::clone(of_shard), bytes }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.of_shard.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The way to one shard.
#[derive(Clone)]
struct Shard {
    lane: Sender<Request>,
    load: Arc<AtomicU64>,
}

/// The way to all shards.
#[derive(Clone)]
pub struct Gateway {
    shards: Arc<[Shard]>,
    homes: Arc<Homes>,
}

/// The gateway, and for each shard its end of the lane.
pub fn gateway(homes: Homes) -> (Gateway, Vec<Seed<Request>>) {
    let (shards, seeds) = (0..homes.shards())
        .map(|_| {
            let (lane, seed) = lane::lane(SUBMIT_LANE_MAX);
            (Shard { lane, load: Arc::default() }, seed)
        })
        .unzip::<_, _, Vec<_>, _>();
    (Gateway { shards: shards.into(), homes: Arc::new(homes) }, seeds)
}

impl Gateway {
    /// Sends a message whose body is at hand: at most `UPLOAD_CHUNKS_MAX` chunks. The commit proceeds
    /// also when this future is dropped.
    pub async fn send(
        &self,
        submission: Submission,
        chunks: Vec<Chunk>,
        deadline: impl Future<Output = ()>,
    ) -> Outcome {
        assert!(chunks.len() <= UPLOAD_CHUNKS_MAX, "a longer body is streamed");
        let (slot, outcome) = upload::ticket();
        let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        self.post(submission, Content::Whole(chunks, slot), bytes)?;
        wait(&outcome, deadline).await
    }

    /// Begins a message whose body is streamed.
    pub fn begin(&self, submission: Submission) -> Result<Streaming, Refusal> {
        let (uploader, seed) = upload::upload();
        let bytes = (UPLOAD_CHUNKS_MAX * CHUNK_BYTES) as u64;
        self.post(submission, Content::Stream(seed), bytes)?;
        Ok(Streaming(uploader))
    }

    /// Hands the request to the home of its partition, or to the shard with the least load.
    fn post(&self, submission: Submission, content: Content, bytes: u64) -> Result<(), Refusal> {
        let mut order: Vec<&Shard> = match submission.placement {
            Placement::Partition(partition) => {
                let is_home = |shard: &usize| {
                    self.homes.of_shard(ShardId(*shard as u16)).contains(&partition)
                };
                let home = (0..self.shards.len()).find(is_home);
                home.map(|home| &self.shards[home]).into_iter().collect()
            }
            Placement::Any => {
                let has_partition =
                    |shard: &usize| !self.homes.of_shard(ShardId(*shard as u16)).is_empty();
                (0..self.shards.len()).filter(has_partition).map(|at| &self.shards[at]).collect()
            }
        };
        order.sort_by_key(|shard| shard.load.load(Ordering::Relaxed));
        let mut parts = Some((Box::new(submission), content));
        for shard in order {
            let (submission, content) = parts.take().expect("given back by a full lane");
            let request = Request { submission, content, load: Load::new(&shard.load, bytes) };
            match shard.lane.try_send(request) {
                Ok(()) => return Ok(()),
                Err(Request { submission, content, .. }) => parts = Some((submission, content)),
            }
        }
        Err(Refusal::new(RefusalCode::Busy).with_detail("the submit lanes are full"))
    }
}

/// A message that is being streamed. Dropped before `finish`, it is given up.
pub struct Streaming(Uploader<Outcome>);

impl Streaming {
    /// Sends the next bytes of the body. Waits while the shard has as many chunks as it may have.
    pub async fn push(&mut self, chunk: Chunk) -> Result<(), Refusal> {
        self.0.push(chunk).await.map_err(|outcome| match outcome {
            Some(Err(refusal)) => refusal,
            Some(Ok(_)) | None => Refusal::new(RefusalCode::Aborted),
        })
    }

    /// The message is whole: waits until it is durable. The commit proceeds also when this future is
    /// dropped.
    pub async fn finish(mut self, deadline: impl Future<Output = ()>) -> Outcome {
        wait(self.0.end(), deadline).await
    }
}

async fn wait(outcome: &OutcomeReceiver<Outcome>, deadline: impl Future<Output = ()>) -> Outcome {
    let mut deadline = pin!(deadline);
    poll_fn(|cx| match outcome.poll(cx) {
        Poll::Ready(Some(outcome)) => Poll::Ready(outcome),
        // The shard ended while the message was whole.
        Poll::Ready(None) => Poll::Ready(Err(Refusal::new(RefusalCode::OutcomeUnknown))),
        Poll::Pending => {
            deadline.as_mut().poll(cx).map(|()| Err(Refusal::new(RefusalCode::OutcomeUnknown)))
        }
    })
    .await
}

/// Takes the requests of one shard until `end` rings. Each runs as a task of its own.
pub async fn serve(intake: Rc<Intake>, mut lane: Receiver<Request>, mut end: Bell) {
    loop {
        let next = poll_fn(|cx| match end.poll_rung(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => lane.poll_receive(cx).map(Some),
        });
        let Some(Request { submission, content, load }) = next.await else { return };
        if intake.submissions() >= SUBMISSIONS_UNDER_WAY_MAX {
            let slot = match content {
                Content::Whole(_, slot) => slot,
                Content::Stream(seed) => seed.into_slot(),
            };
            slot.answer(Err(Refusal::new(RefusalCode::Busy)));
            continue;
        }
        let intake = Rc::clone(&intake);
        let under_way = intake.count_submission();
        task::spawn(async move {
            let (_load, _under_way) = (load, under_way);
            match content {
                Content::Whole(chunks, slot) => {
                    slot.answer(take_whole(&intake, submission, chunks).await);
                }
                Content::Stream(seed) => {
                    let mut upload = seed.settle();
                    let pieces = async || upload.next().await;
                    let outcome = take_stream(&intake, submission, pieces).await;
                    if let Some(outcome) = outcome {
                        upload.slot.answer(outcome);
                    }
                }
            }
        });
    }
}

async fn take_whole(
    intake: &Rc<Intake>,
    submission: Box<Submission>,
    chunks: Vec<Chunk>,
) -> Outcome {
    let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
    intake.admit(bytes)?;
    let _slot = intake.take_body_slot();
    let mut incoming = intake.begin(submission).await?;
    for chunk in chunks {
        incoming.push(chunk, 0).await?;
    }
    incoming.finish().await
}

/// `None`: the sender gave up.
async fn take_stream(
    intake: &Rc<Intake>,
    submission: Box<Submission>,
    mut next: impl AsyncFnMut() -> Piece,
) -> Option<Outcome> {
    let begun = async {
        intake.admit(0)?;
        let slot = intake.take_body_slot();
        Ok((slot, intake.begin(submission).await?))
    };
    let (_slot, mut incoming) = match begun.await {
        Ok(begun) => begun,
        Err(refusal) => return Some(Err(refusal)),
    };
    loop {
        match next().await {
            Piece::Chunk(chunk) => {
                if let Err(refusal) = incoming.push(chunk, 0).await {
                    return Some(Err(refusal));
                }
            }
            Piece::End => return Some(incoming.finish().await),
            Piece::Abort => return None,
        }
    }
}
