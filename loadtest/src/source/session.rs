//! One session: connects, sends, and repeats.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use ringpost::base::ChunkPool;
use ringpost::net::Channel;
use ringpost::net::transfer::ClientTimeouts;
use ringpost::net::transfer::Sent;
use ringpost::net::transfer::Transfer;
use ringpost::rt;
use ringpost::rt::Stream;
use ringpost::rt::task;
use ringpost::rt::timer;
use ringpost::wire::smtp::BodyType;
use ringpost::wire::smtp::ClientConfig;
use ringpost::wire::smtp::Mail;
use ringpost::wire::smtp::MailRecipient;
use ringpost::wire::smtp::Outcome;

use crate::ledger::Fate;
use crate::report::Collector;
use crate::source::message::Draft;
use crate::source::place;
use crate::source::plan::Plan;
use crate::source::plan::SessionResults;
use crate::source::schedule::Turn;
use crate::source::secure::Secure;
use crate::source::stages::Mark;
use crate::source::stages::Marks;
use crate::source::stages::Watcher;

/// The run is broken off if nothing ends for this long after the last message began; after a signal,
/// after the second duration.
pub const GOODBYE: Duration = Duration::from_secs(30);
const SIGNAL_GOODBYE: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(30);
/// The pause after a failed connection.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Sleeps are cut into pieces of this length, to notice the end of the run.
const NAP: Duration = Duration::from_millis(50);
/// A body up to this size is sent with its commands if the server offers BDAT.
const CHUNK_AHEAD_BYTES_MAX: u64 = 32 << 10;
/// How often a shard checks whether its sessions have ended.
const LOOK: Duration = Duration::from_millis(5);

/// A connection with timed replies.
type Link = Transfer<Stream, Watcher>;

/// What the sessions of one shard share.
struct State {
    plan: Arc<Plan>,
    secure: Secure,
    config: Arc<ClientConfig>,
    pool: Rc<ChunkPool>,
    found: RefCell<SessionResults>,
    marks: Marks,
    open: Cell<usize>,
    /// A session sends as soon as it has the reply, so that it is never idle.
    never_rests: bool,
}

/// Runs the sessions of a shard until all messages are sent.
pub async fn all(plan: &Arc<Plan>, sessions: usize, collector: Collector) -> SessionResults {
    let options = &plan.options;
    let host = place::host_of(&options.server);
    let secure = match Secure::new(&options.secure, host) {
        Ok(secure) => secure,
        Err(cause) => {
            let unconnected = sessions as u64;
            return SessionResults { unconnected, first: Some(cause), ..SessionResults::default() };
        }
    };
    let state = Rc::new(State {
        plan: Arc::clone(plan),
        config: Arc::new(ClientConfig {
            ehlo_name: plan.hostname.clone(),
            lmtp: options.lmtp,
            pipelining: !options.no_pipelining,
            chunking: !options.no_chunking,
            chunk_ahead_bytes_max: CHUNK_AHEAD_BYTES_MAX,
            tls: secure.tls_use(),
        }),
        secure,
        pool: Rc::new(ChunkPool::new(sessions * 2 + 16)),
        found: RefCell::default(),
        marks: Rc::new(RefCell::new(collector)),
        open: Cell::new(sessions),
        never_rests: plan.schedule.shape().is_none(),
    });
    for _ in 0..sessions {
        let state = Rc::clone(&state);
        task::spawn(async move {
            state.work().await;
            state.open.set(state.open.get() - 1);
        });
    }
    let mut patience = Patience::default();
    while state.open.get() > 0 {
        timer::sleep(LOOK).await;
        let now = Instant::now();
        state.marks.borrow_mut().turn(now);
        if patience.is_over(plan, now) {
            plan.stop();
            timer::interrupt_all();
        }
    }
    let stages = state.marks.borrow_mut().take(Instant::now());
    SessionResults { stages, ..state.found.take() }
}

/// How long to wait for sessions after the last message has begun.
#[derive(Default)]
struct Patience {
    /// Since when no message has ended, and how many had.
    still: Option<(Instant, u64)>,
    signalled: Option<Instant>,
}

impl Patience {
    /// Whether to break off: nothing ended for `GOODBYE`, or for `SIGNAL_GOODBYE` after a signal.
    fn is_over(&mut self, plan: &Plan, now: Instant) -> bool {
        if !plan.is_ending() {
            return false;
        }
        let sent = plan.count_of_sent();
        let still = self.still.filter(|(_, before)| *before == sent).unwrap_or((now, sent));
        self.still = Some(still);
        let is_late = |since: Instant, most| now.saturating_duration_since(since) >= most;
        let signalled = plan.is_signalled().then(|| *self.signalled.get_or_insert(now));
        is_late(still.0, GOODBYE) || signalled.is_some_and(|at| is_late(at, SIGNAL_GOODBYE))
    }
}

impl State {
    /// Sleeps until then. `false`: the run was stopped.
    async fn sleep_until(&self, then: Instant) -> bool {
        loop {
            let left = then.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            if self.plan.is_stopped() {
                return false;
            }
            timer::sleep(left.min(NAP)).await;
        }
    }

    async fn work(&self) {
        let mut link: Option<Link> = None;
        let mut draft = Draft::default();
        while let Some(turn) = self.plan.take() {
            let begin = self.await_turn(turn).await;
            if self.plan.is_stopped() {
                break;
            }
            let mut transfer = match link.take() {
                Some(transfer) => transfer,
                None => match self.connect().await {
                    Some(transfer) => transfer,
                    None => {
                        self.plan.fail();
                        if !self.plan.is_timed() && turn.begin.is_none() {
                            return;
                        }
                        // Give up this message. The pause avoids a busy loop of refused
                        // connections.
                        timer::sleep(CONNECT_PAUSE).await;
                        continue;
                    }
                },
            };
            let fate = self.send(&mut transfer, (turn.number, begin), &mut draft).await;
            self.settle(turn, fate, begin);
            match self.plan.options.keep && transfer.is_ready() {
                true => link = Some(transfer),
                false => transfer.quit().await,
            }
        }
        if let Some(transfer) = link {
            transfer.quit().await;
        }
    }

    /// Waits until the message is due, and returns the begin of its latency.
    async fn await_turn(&self, turn: Turn) -> Instant {
        let Some(begin) = self.plan.begin_of(turn) else { return Instant::now() };
        self.sleep_until(begin).await;
        begin
    }

    /// Counts a message at its end.
    fn settle(&self, turn: Turn, fate: Fate, begin: Instant) {
        let now = Instant::now();
        let took = now.saturating_duration_since(begin);
        let mut found = self.found.borrow_mut();
        match fate {
            Fate::Accepted => found.accepted += 1,
            Fate::Refused => found.refused += 1,
            Fate::Unknown => found.lost += 1,
            Fate::NotSent => {}
        }
        let mut marks = self.marks.borrow_mut();
        match fate {
            Fate::Accepted => marks.finish(Mark::Message as usize, took, now),
            // Quick refusals must not improve the latency.
            _ => {
                marks.fail(Mark::Failed as usize, took, now);
                self.plan.fail();
            }
        }
        if self.plan.options.shape.steps.is_some() {
            found.steps.count(turn.step, fate, took.as_micros() as u64);
        }
        self.plan.fates.set(turn.number, fate);
        self.plan.count_sent();
    }

    async fn connect(&self) -> Option<Link> {
        let connected = self.try_connect().await;
        let mut found = self.found.borrow_mut();
        match connected {
            Ok(transfer) => return Some(transfer),
            Err(cause) => found.note(|| cause),
        }
        found.unconnected += 1;
        None
    }

    async fn try_connect(&self) -> Result<Link, String> {
        let (place, options) = (self.plan.server, &self.plan.options);
        let began = Instant::now();
        let stream = rt::connect(place, None, CONNECT).await;
        let stream = stream.map_err(|fault| format!("connecting to {place}: {fault}"))?;
        let connected = Instant::now();
        self.marks.borrow_mut().record(Mark::Connect as usize, connected - began);
        let channel = self.secure.open(stream, &self.pool, CONNECT).await;
        let channel = channel.map_err(|fault| format!("TLS with {place}: {fault}"))?;
        if options.secure.tls {
            self.marks.borrow_mut().record(Mark::Tls as usize, connected.elapsed());
        }
        let client = self.secure.client(&self.config);
        let pool = Rc::clone(&self.pool);
        let mut transfer = Transfer::new(channel, client, pool, ClientTimeouts::default())
            .watched_by(Watcher::new(&self.marks));
        let start_tls = async |channel: &mut Channel<Stream>, pool: &ChunkPool| {
            self.secure.shake_hands(channel, pool).await
        };
        match transfer.handshake(start_tls).await {
            Ok(()) => {
                self.found.borrow_mut().handshakes.count(transfer.channel());
                Ok(transfer)
            }
            Err(fault) => {
                let cause = transfer.transport_fault().map(|cause| format!(" ({cause})"));
                Err(format!("greeting {place}: {fault}{}", cause.unwrap_or_default()))
            }
        }
    }

    async fn send(
        &self,
        transfer: &mut Link,
        (number, begin): (u64, Instant),
        draft: &mut Draft,
    ) -> Fate {
        let pattern = &self.plan.pattern;
        let body = pattern.draw(number, self.plan.wall_us(begin), draft);
        let to = |mailbox| MailRecipient { mailbox, notify: 0, orcpt: None };
        let (one, several): ([MailRecipient<'_>; 1], Vec<MailRecipient<'_>>);
        let recipients = match draft.recipients.as_slice() {
            [mailbox] => {
                one = [to(mailbox)];
                &one[..]
            }
            all => {
                several = all.iter().map(|mailbox| to(mailbox)).collect();
                &several[..]
            }
        };
        // Without the offer the bytes are sent as they are, which most servers accept.
        let says_8bit = transfer.client().offers().eight_bit_mime && pattern.is_8bit(number);
        let mail = Mail {
            sender: Some(&*draft.sender).filter(|sender| !sender.is_empty()),
            recipients,
            bytes: draft.head.len() as u64 + body.bytes(),
            body: if says_8bit { BodyType::EightBitMime } else { BodyType::SevenBit },
            smtputf8: false,
            requiretls: false,
            ret: None,
            envid: None,
        };
        let pieces = &mut body.pieces(&draft.head);
        let sent = match self.never_rests {
            true => transfer.send_at_once(&mail, pieces).await,
            false => transfer.send(&mail, pieces).await,
        };
        let fate = self.judge(transfer, &sent, &draft.recipients);
        if fate != Fate::Accepted {
            let accepted = sent.outcomes.iter().filter(|one| matches!(one, Outcome::Accepted(_)));
            let accepted = accepted.count() as u64;
            if accepted > 0 {
                self.found.borrow_mut().partly.insert(number, accepted);
            }
        }
        fate
    }

    /// One fate for all recipients.
    fn judge(&self, transfer: &Link, sent: &Sent, names: &[String]) -> Fate {
        let mut fate = Fate::Accepted;
        for (outcome, name) in sent.outcomes.iter().zip(names) {
            let text = match outcome {
                Outcome::Accepted(_) => continue,
                Outcome::Refused { stage, reply } => format!("{name} at {stage:?}: {reply:?}"),
                Outcome::Local(reply) => format!("{name}: {reply:?}"),
                Outcome::Lost { .. } => {
                    let fault = transfer.fault().map(ToString::to_string).unwrap_or_default();
                    self.found.borrow_mut().note(|| format!("{name}: no reply ({fault})"));
                    return Fate::Unknown;
                }
            };
            fate = Fate::Refused;
            self.found.borrow_mut().note(|| text);
        }
        fate
    }
}
