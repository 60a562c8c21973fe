//! The gateway: submissions from any thread, through one bounded lane into each shard.
//!
//! Owner:    a `Gateway` is shared by all threads; `serve` runs on each shard.
//! Promise:  `Ok` is returned only after the synced write. A sender that disappears before the message
//!           is complete leaves nothing behind; once it is complete, the commit proceeds without the
//!           sender. A lost lane loses no mail: without an outcome nothing was promised.
//! Waiting:  the gateway has no timer and no runtime. The caller passes the `sleep` of its own. If no
//!           shard has room, a sender waits for `SUBMIT_WAIT_MS`, then gets `Busy`. After
//!           `OUTCOME_DEADLINE` the outcome is unknown, and the sender repeats the request with the
//!           same key.
//! Bounds:   `SUBMIT_LANE_MAX` requests in a lane, `SUBMISSIONS_UNDER_WAY_MAX` on a shard,
//!           `UPLOAD_CHUNKS_MAX` chunks in each, and `SUBMIT_BYTES_MAX` in both. A shard waits for the
//!           pieces of a sender during `UPLOAD_WAIT_MS_MAX` in all.
//! End:      a shard that drains refuses with `Stopping`. When `serve` ends, each request in the lane
//!           is answered: by `serve`, or by the sender that put it there too late.

use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::atomic::fence;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use crate::base::Chunk;
use crate::base::ShardId;
use crate::base::limits::CHUNK_BYTES;
use crate::base::limits::SUBMIT_BATCH_BYTES_MAX;
use crate::base::limits::SUBMIT_BATCH_MESSAGES_MAX;
use crate::base::limits::SUBMIT_LANE_MAX;
use crate::base::limits::SUBMIT_WAIT_MS;
use crate::base::limits::SUBMIT_WAITERS_MAX;
use crate::base::limits::UPLOAD_CHUNKS_MAX;
use crate::base::limits::UPLOAD_WAIT_MS_MAX;
use crate::handoff::Placement as Homes;
use crate::handoff::Receiver;
use crate::handoff::Sender;
use crate::handoff::Waiters;
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
use crate::submit::batch;
use crate::submit::intake::Intake;
use crate::submit::intake::SubmissionCount;
use crate::submit::refusal::Refusal;
use crate::submit::refusal::RefusalCode;
use crate::submit::room::Load;
use crate::submit::room::Room;
use crate::submit::submission::Accepted;
use crate::submit::submission::Placement;
use crate::submit::submission::Submission;

/// How long a sender waits for the outcome of a whole message.
pub const OUTCOME_DEADLINE: Duration = Duration::from_secs(30);

type Outcome = Result<Accepted, Refusal>;
type Outcomes = Result<Vec<Accepted>, Refusal>;

/// One request to a shard. Losing it means that its sender gets no outcome.
pub struct Request {
    content: Content,
    /// Counts the request as a load of its shard.
    load: Load,
}

enum Content {
    Whole(Box<Submission>, Vec<Chunk>, OutcomeSlot<Outcome>),
    Batch(Vec<(Submission, Arc<[u8]>)>, OutcomeSlot<Outcomes>),
    Stream(Box<Submission>, UploadSeed<Outcome>),
}

impl Content {
    /// Answers the request without taking its message.
    fn refuse(self, code: RefusalCode) {
        let refusal = Refusal::new(code);
        match self {
            Content::Whole(_, _, slot) => slot.answer(Err(refusal)),
            Content::Batch(_, slot) => slot.answer(Err(refusal)),
            Content::Stream(_, seed) => seed.into_slot().answer(Err(refusal)),
        }
    }
}

/// The way to one shard.
#[derive(Clone)]
struct Shard {
    lane: Sender<Request>,
    room: Arc<Room>,
}

/// The end of a lane at its shard, before it is moved there.
pub struct LaneSeed {
    lane: Seed<Request>,
    room: Arc<Room>,
}

/// The end of a lane at its shard.
pub struct Lane {
    requests: Receiver<Request>,
    room: Arc<Room>,
}

impl LaneSeed {
    /// To be called on the shard.
    pub fn settle(self) -> Lane {
        Lane { requests: self.lane.settle(), room: self.room }
    }
}

/// The way to all shards.
#[derive(Clone)]
pub struct Gateway {
    shards: Arc<[Shard]>,
    homes: Arc<Homes>,
    waiters: Arc<Waiters>,
}

/// The gateway, and for each shard its end of the lane.
pub fn gateway(homes: Homes) -> (Gateway, Vec<LaneSeed>) {
    let waiters = Arc::new(Waiters::new(SUBMIT_WAITERS_MAX));
    let (shards, seeds) = (0..homes.shards())
        .map(|_| {
            let ((lane, seed), room) = (lane::lane(SUBMIT_LANE_MAX), Room::new(&waiters));
            let seed = LaneSeed { lane: seed, room: Arc::clone(&room) };
            (Shard { lane, room }, seed)
        })
        .unzip::<_, _, Vec<_>, _>();
    (Gateway { shards: shards.into(), homes: Arc::new(homes), waiters }, seeds)
}

impl Gateway {
    /// Sends a message whose body is at hand: at most `UPLOAD_CHUNKS_MAX` chunks. Once a shard has
    /// room for it, the commit proceeds also when this future is dropped.
    pub async fn send<S: Future<Output = ()>>(
        &self,
        submission: Submission,
        chunks: Vec<Chunk>,
        sleep: impl Fn(Duration) -> S,
    ) -> Outcome {
        assert!(chunks.len() <= UPLOAD_CHUNKS_MAX, "a longer body is streamed");
        let (slot, outcome) = upload::ticket();
        let bytes = body_bytes(chunks.len()) + submission.head.block().len();
        let placement = submission.placement;
        let content = Content::Whole(Box::new(submission), chunks, slot);
        self.post(placement, content, bytes, &sleep).await?;
        wait(&outcome, sleep(OUTCOME_DEADLINE)).await
    }

    /// Sends messages with their bodies, all for the same placement: all of them become durable in
    /// one batch, or none. Once a shard has room for them, the commit proceeds also when this future
    /// is dropped. The bodies are not in chunks: those of small messages would be mostly empty.
    pub async fn send_all<S: Future<Output = ()>>(
        &self,
        batch: Vec<(Submission, Arc<[u8]>)>,
        sleep: impl Fn(Duration) -> S,
    ) -> Outcomes {
        let Some((first, _)) = batch.first() else { return Ok(Vec::new()) };
        let placement = first.placement;
        let is_there = |(one, _): &(Submission, _)| one.placement == placement;
        assert!(batch.iter().all(is_there), "one batch, one partition");
        let bodies: usize = batch.iter().map(|(_, body)| body.len()).sum();
        let messages: usize = batch.iter().map(|(one, _)| one.messages()).sum();
        if messages > SUBMIT_BATCH_MESSAGES_MAX || bodies > SUBMIT_BATCH_BYTES_MAX {
            return Err(Refusal::new(RefusalCode::BatchTooLarge));
        }
        let blocks: usize = batch.iter().map(|(one, _)| one.head.block().len()).sum();
        let (slot, outcome) = upload::ticket();
        self.post(placement, Content::Batch(batch, slot), bodies + blocks, &sleep).await?;
        wait(&outcome, sleep(OUTCOME_DEADLINE)).await
    }

    /// Begins a message whose body is streamed.
    pub async fn begin<S: Future<Output = ()>>(
        &self,
        submission: Submission,
        sleep: impl Fn(Duration) -> S,
    ) -> Result<Streaming, Refusal> {
        let (uploader, seed) = upload::upload();
        let bytes = body_bytes(UPLOAD_CHUNKS_MAX) + submission.head.block().len();
        let placement = submission.placement;
        self.post(placement, Content::Stream(Box::new(submission), seed), bytes, &sleep).await?;
        Ok(Streaming(uploader))
    }

    /// Hands the request to a shard, as soon as one has room for its `bytes`.
    async fn post<S: Future<Output = ()>>(
        &self,
        placement: Placement,
        content: Content,
        bytes: usize,
        sleep: impl Fn(Duration) -> S,
    ) -> Result<(), Refusal> {
        let Some(content) = self.try_post(placement, content, bytes)? else { return Ok(()) };
        let busy = || Refusal::new(RefusalCode::Busy).with_detail("the submit lanes are full");
        let waiting = self.waiters.wait().ok_or_else(busy)?;
        let mut left = Some(content);
        let mut patience = pin!(sleep(Duration::from_millis(SUBMIT_WAIT_MS)));
        poll_fn(|cx| {
            waiting.enter(cx);
            let is_over = patience.as_mut().poll(cx).is_ready();
            let content = left.take().expect("it was not sent");
            match self.try_post(placement, content, bytes) {
                Ok(None) => Poll::Ready(Ok(())),
                Ok(Some(_)) if is_over => Poll::Ready(Err(busy())),
                Ok(Some(content)) => {
                    left = Some(content);
                    Poll::Pending
                }
                Err(refusal) => Poll::Ready(Err(refusal)),
            }
        })
        .await
    }

    /// Hands the request to the home of its partition, or to the shard with the least load. Answers
    /// the request if there is no room.
    fn try_post(
        &self,
        placement: Placement,
        mut content: Content,
        bytes: usize,
    ) -> Result<Option<Content>, Refusal> {
        let mut is_stopping = false;
        for shard in self.shards_for(placement)? {
            if shard.room.is_stopping() {
                is_stopping = true;
                continue;
            }
            let Some(load) = Load::new(&shard.room, bytes as u64) else { continue };
            match shard.lane.try_send(Request { content, load }) {
                Ok(()) => {
                    shard.refuse_if_late();
                    return Ok(None);
                }
                Err(request) => content = request.content,
            }
        }
        match is_stopping {
            true => Err(Refusal::new(RefusalCode::Stopping)),
            false => Ok(Some(content)),
        }
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
        if let Placement::Partition(partition) = placement
            && shards.is_empty()
        {
            return Err(Refusal::new(RefusalCode::NoSuchPartition)
                .with_field("placement")
                .with_detail(format!("there is no partition {partition}")));
        }
        shards.sort_by_key(|shard| shard.room.bytes());
        Ok(shards)
    }
}

/// A chunk has all of its memory, however little it holds.
fn body_bytes(chunks: usize) -> usize {
    chunks * CHUNK_BYTES
}

impl Shard {
    /// Answers what lies in the lane if the shard reads it no more. Called after each sending: either
    /// `serve` finds the request when it ends, or the sender sees here that it ended.
    fn refuse_if_late(&self) {
        fence(Ordering::SeqCst);
        if self.room.is_stopping() {
            while let Some(request) = self.lane.take_back() {
                request.content.refuse(RefusalCode::Stopping);
            }
        }
    }
}

impl Lane {
    /// Answers what is left in the lane. See `Shard::refuse_if_late`.
    fn end(mut self) {
        self.room.stop();
        fence(Ordering::SeqCst);
        while let Some(request) = self.requests.try_receive() {
            request.content.refuse(RefusalCode::Stopping);
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
    pub async fn finish<S: Future<Output = ()>>(
        mut self,
        sleep: impl Fn(Duration) -> S,
    ) -> Outcome {
        wait(self.0.end(), sleep(OUTCOME_DEADLINE)).await
    }
}

async fn wait<T>(
    outcome: &OutcomeReceiver<Result<T, Refusal>>,
    deadline: impl Future<Output = ()>,
) -> Result<T, Refusal> {
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

/// Takes the requests of one shard until `end` rings. Each runs as a task of its own; while too many
/// are under way, the next waits in the lane.
pub async fn serve(intake: Rc<Intake>, mut lane: Lane, mut end: Bell) {
    loop {
        let next = poll_fn(|cx| {
            if end.poll_rung(cx).is_ready() {
                return Poll::Ready(None);
            }
            ready!(intake.poll_submission_room(cx));
            lane.requests.poll_receive(cx).map(Some)
        });
        let Some(request) = next.await else { return lane.end() };
        lane.room.has_taken_one();
        if intake.is_draining() {
            lane.room.stop();
            request.content.refuse(RefusalCode::Stopping);
        } else {
            task::spawn(take(Rc::clone(&intake), request, intake.count_submission()));
        }
    }
}

/// Takes the messages of one request, and answers its sender.
async fn take(intake: Rc<Intake>, request: Request, _under_way: SubmissionCount) {
    let Request { content, load: _load } = request;
    match content {
        Content::Whole(submission, chunks, slot) => {
            slot.answer(take_whole(&intake, submission, chunks).await);
        }
        Content::Batch(batch, slot) => slot.answer(batch::take(&intake, batch).await),
        Content::Stream(submission, seed) => {
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
