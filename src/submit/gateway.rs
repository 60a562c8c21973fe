//! The gateway: submissions from any thread, through one bounded lane into each shard.
//!
//! Owner:    a `Gateway` is shared by all threads; `serve` runs on each shard.
//! Promise:  `Ok` is returned only after the synced write. A sender that disappears before the message
//!           is complete leaves nothing behind; once it is complete, the commit proceeds without the
//!           sender. A lost lane loses no mail: without an outcome nothing was promised.
//! Waiting:  the gateway has no timer and no runtime. The caller passes its deadline as a future,
//!           usually `OUTCOME_DEADLINE`. After the deadline the outcome is unknown, and the sender
//!           repeats the request with the same key.
//! Bounds:   `SUBMIT_LANE_MAX` requests in a lane, `SUBMISSIONS_UNDER_WAY_MAX` on a shard,
//!           `UPLOAD_CHUNKS_MAX` chunks in each, and `SUBMIT_BYTES_MAX` in both. Full: the next shard,
//!           then `Busy`. A sender may be waited for during `UPLOAD_WAIT_MS_MAX` in all.
//! End:      a shard that drains refuses with `Stopping`. When `serve` ends, each request in the lane
//!           is answered: by `serve`, or by the sender that put it there too late.

use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::atomic::fence;
use std::task::Poll;
use std::time::Duration;

use crate::base::Chunk;
use crate::base::ShardId;
use crate::base::limits::CHUNK_BYTES;
use crate::base::limits::SUBMISSIONS_UNDER_WAY_MAX;
use crate::base::limits::SUBMIT_BYTES_MAX;
use crate::base::limits::SUBMIT_LANE_MAX;
use crate::base::limits::UPLOAD_CHUNKS_MAX;
use crate::base::limits::UPLOAD_WAIT_MS_MAX;
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
use crate::rt::timer;
use crate::submit::incoming::Accepted;
use crate::submit::intake::Intake;
use crate::submit::intake::SubmissionCount;
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

impl Request {
    /// Answers the request without taking its message.
    fn refuse(self, code: RefusalCode) {
        let slot = match self.content {
            Content::Whole(_, slot) => slot,
            Content::Stream(seed) => seed.into_slot(),
        };
        slot.answer(Err(Refusal::new(code)));
    }
}

/// Bytes of memory that a request needs on its shard, until it is dropped.
struct Load {
    of_shard: Arc<AtomicU64>,
    bytes: u64,
}

impl Load {
    /// `None`: the shard has as much as it may have.
    fn new(of_shard: &Arc<AtomicU64>, bytes: u64) -> Option<Load> {
        let before = of_shard.fetch_add(bytes, Ordering::Relaxed);
        let load = Load { of_shard: Arc::clone(of_shard), bytes };
        (before + bytes <= SUBMIT_BYTES_MAX).then_some(load)
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
    /// The shard takes no more requests.
    stopping: Arc<AtomicBool>,
}

/// The end of a lane at its shard, before it is moved there.
pub struct LaneSeed {
    lane: Seed<Request>,
    stopping: Arc<AtomicBool>,
}

/// The end of a lane at its shard.
pub struct Lane {
    requests: Receiver<Request>,
    stopping: Arc<AtomicBool>,
}

impl LaneSeed {
    /// To be called on the shard.
    pub fn settle(self) -> Lane {
        Lane { requests: self.lane.settle(), stopping: self.stopping }
    }
}

/// The way to all shards.
#[derive(Clone)]
pub struct Gateway {
    shards: Arc<[Shard]>,
    homes: Arc<Homes>,
}

/// The gateway, and for each shard its end of the lane.
pub fn gateway(homes: Homes) -> (Gateway, Vec<LaneSeed>) {
    let (shards, seeds) = (0..homes.shards())
        .map(|_| {
            let (lane, seed) = lane::lane(SUBMIT_LANE_MAX);
            let stopping = Arc::<AtomicBool>::default();
            let seed = LaneSeed { lane: seed, stopping: Arc::clone(&stopping) };
            (Shard { lane, load: Arc::default(), stopping }, seed)
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
        // A chunk has all of its memory, however little it holds.
        let bytes = (chunks.len() * CHUNK_BYTES) as u64;
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
    /// `body_bytes` of memory are needed for its body.
    fn post(
        &self,
        submission: Submission,
        content: Content,
        body_bytes: u64,
    ) -> Result<(), Refusal> {
        let bytes = body_bytes + submission.head.block().len() as u64;
        let mut parts = (Box::new(submission), content);
        let mut is_stopping = false;
        for shard in self.shards_for(parts.0.placement)? {
            if shard.stopping.load(Ordering::Acquire) {
                is_stopping = true;
                continue;
            }
            let Some(load) = Load::new(&shard.load, bytes) else { continue };
            match shard.lane.try_send(Request { submission: parts.0, content: parts.1, load }) {
                Ok(()) => {
                    shard.refuse_if_late();
                    return Ok(());
                }
                Err(Request { submission, content, .. }) => parts = (submission, content),
            }
        }
        if is_stopping {
            return Err(Refusal::new(RefusalCode::Stopping));
        }
        Err(Refusal::new(RefusalCode::Busy).with_detail("the submit lanes are full"))
    }

    /// The shards that may take a message, the one with the least load first.
    fn shards_for(&self, placement: Placement) -> Result<Vec<&Shard>, Refusal> {
        let partitions = |shard: usize| self.homes.of_shard(ShardId(shard as u16));
        let may_take = |shard: &usize| match placement {
            Placement::Partition(partition) => partitions(*shard).contains(&partition),
            Placement::Any => !partitions(*shard).is_empty(),
        };
        let mut shards: Vec<&Shard> =
            (0..self.shards.len()).filter(may_take).map(|at| &self.shards[at]).collect();
        match placement {
            Placement::Partition(partition) if shards.is_empty() => {
                return Err(Refusal::new(RefusalCode::NoSuchPartition)
                    .with_field("placement")
                    .with_detail(format!("there is no partition {partition}")));
            }
            Placement::Partition(_) | Placement::Any => {}
        }
        shards.sort_by_key(|shard| shard.load.load(Ordering::Relaxed));
        Ok(shards)
    }
}

impl Shard {
    /// Answers what lies in the lane if the shard reads it no more. Called after each sending: either
    /// `serve` finds the request when it ends, or the sender sees here that it ended.
    fn refuse_if_late(&self) {
        fence(Ordering::SeqCst);
        if self.stopping.load(Ordering::Relaxed) {
            while let Some(request) = self.lane.take_back() {
                request.refuse(RefusalCode::Stopping);
            }
        }
    }
}

impl Lane {
    /// From here on senders refuse by themselves.
    fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Answers what is left in the lane. See `Shard::refuse_if_late`.
    fn end(mut self) {
        self.stop();
        while let Some(request) = self.requests.try_receive() {
            request.refuse(RefusalCode::Stopping);
        }
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
pub async fn serve(intake: Rc<Intake>, mut lane: Lane, mut end: Bell) {
    loop {
        let next = poll_fn(|cx| match end.poll_rung(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => lane.requests.poll_receive(cx).map(Some),
        });
        let Some(request) = next.await else { return lane.end() };
        if intake.is_draining() {
            lane.stop();
            request.refuse(RefusalCode::Stopping);
        } else if intake.submissions() >= SUBMISSIONS_UNDER_WAY_MAX {
            request.refuse(RefusalCode::Busy);
        } else {
            task::spawn(take(Rc::clone(&intake), request, intake.count_submission()));
        }
    }
}

/// Takes one message, and answers its sender.
async fn take(intake: Rc<Intake>, request: Request, _under_way: SubmissionCount) {
    let Request { submission, content, load: _load } = request;
    match content {
        Content::Whole(chunks, slot) => {
            slot.answer(take_whole(&intake, submission, chunks).await);
        }
        Content::Stream(seed) => {
            let mut upload = seed.settle();
            let pieces = async || upload.next().await;
            let wait_max = Duration::from_millis(UPLOAD_WAIT_MS_MAX);
            if let Some(outcome) = take_stream(&intake, submission, pieces, wait_max).await {
                upload.slot.answer(outcome);
            }
        }
    }
}

async fn take_whole(
    intake: &Rc<Intake>,
    submission: Box<Submission>,
    chunks: Vec<Chunk>,
) -> Outcome {
    let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
    intake.admit(bytes)?;
    let mut slot = intake.take_body_slot();
    slot.count_head(submission.head.block().len()).map_err(Refusal::new)?;
    let mut incoming = intake.begin(submission).await?;
    for chunk in chunks {
        incoming.push(chunk, 0).await?;
    }
    incoming.finish().await
}

/// `None`: the sender gave up. Refused if the sender has been waited for longer than `wait_max` in all;
/// the time that the store takes does not count.
async fn take_stream(
    intake: &Rc<Intake>,
    submission: Box<Submission>,
    mut next: impl AsyncFnMut() -> Piece,
    wait_max: Duration,
) -> Option<Outcome> {
    let begun = async {
        intake.admit(0)?;
        let mut slot = intake.take_body_slot();
        slot.count_head(submission.head.block().len()).map_err(Refusal::new)?;
        Ok((slot, intake.begin(submission).await?))
    };
    let (_slot, mut incoming) = match begun.await {
        Ok(begun) => begun,
        Err(refusal) => return Some(Err(refusal)),
    };
    let mut left = wait_max;
    loop {
        let began = timer::now();
        let Ok(piece) = timer::timeout(left, next()).await else {
            let refusal = Refusal::new(RefusalCode::Aborted);
            return Some(Err(refusal.with_detail("the sender did not finish in time")));
        };
        left = left.saturating_sub(began.elapsed());
        match piece {
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

#[cfg(test)]
mod tests;
