//! One session: connect, send, and again.

use std::cell::Cell;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use ringpost::base::ChunkPool;
use ringpost::net::Channel;
use ringpost::net::session::TlsFault;
use ringpost::outbound::transfer::BodySource;
use ringpost::outbound::transfer::BodyUnreadable;
use ringpost::outbound::transfer::ClientTimeouts;
use ringpost::outbound::transfer::Transfer;
use ringpost::rt;
use ringpost::rt::Stream;
use ringpost::rt::task;
use ringpost::rt::timer;
use ringpost::wire::smtp::BodyType;
use ringpost::wire::smtp::Client;
use ringpost::wire::smtp::ClientConfig;
use ringpost::wire::smtp::Mail;
use ringpost::wire::smtp::MailRecipient;
use ringpost::wire::smtp::Outcome;
use ringpost::wire::smtp::TlsUse;

use crate::report::Collector;
use crate::source::Found;
use crate::source::Plan;
use crate::source::message::Pattern;
use crate::source::message::Piece;
use crate::source::stages::Mark;
use crate::source::stages::Marks;
use crate::source::stages::Watcher;

const CONNECT: Duration = Duration::from_secs(30);
/// The pause before the second try to connect; each further one is twice as long.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);
/// A body up to this leaves with its commands where the server takes BDAT.
const CHUNK_AHEAD_BYTES_MAX: u64 = 32 << 10;
/// How often it is looked whether the sessions have ended.
const LOOK: Duration = Duration::from_millis(5);

/// A connection whose replies are timed.
type Link = Transfer<Stream, Watcher>;

/// What the sessions of one shard share.
struct Desk {
    plan: Arc<Plan>,
    pattern: Pattern,
    config: Arc<ClientConfig>,
    pool: Rc<ChunkPool>,
    found: RefCell<Found>,
    marks: Marks,
    open: Cell<usize>,
    dice: Cell<u64>,
}

/// Runs so many sessions until there is nothing left to send.
pub async fn all(plan: &Arc<Plan>, sessions: usize, shard: usize, collector: Collector) -> Found {
    let options = &plan.options;
    let pattern = match Pattern::new(options, &plan.run) {
        Ok(pattern) => pattern,
        Err(cause) => return Found { lost: 1, first: Some(cause), ..Found::default() },
    };
    let desk = Rc::new(Desk {
        plan: Arc::clone(plan),
        pattern,
        config: Arc::new(ClientConfig {
            ehlo_name: options.hostname.clone(),
            lmtp: options.lmtp,
            pipelining: !options.no_pipelining,
            chunking: !options.no_chunking,
            chunk_ahead_bytes_max: CHUNK_AHEAD_BYTES_MAX,
            tls: TlsUse::Never,
        }),
        pool: Rc::new(ChunkPool::new(sessions * 2 + 16)),
        found: RefCell::default(),
        marks: Rc::new(RefCell::new(collector)),
        open: Cell::new(sessions),
        dice: Cell::new(shard as u64 + 1),
    });
    for _ in 0..sessions {
        let desk = Rc::clone(&desk);
        task::spawn(async move {
            desk.work().await;
            desk.open.set(desk.open.get() - 1);
        });
    }
    while desk.open.get() > 0 {
        timer::sleep(LOOK).await;
        desk.marks.borrow_mut().turn(Instant::now());
    }
    let stages = desk.marks.borrow_mut().take(Instant::now());
    Found { stages, ..desk.found.take() }
}

/// A body in pieces that are held already.
struct Pieces<'p>(std::slice::Iter<'p, Piece>);

impl<'p> BodySource for Pieces<'p> {
    type Piece = &'p [u8];

    async fn next(&mut self) -> Option<Result<&'p [u8], BodyUnreadable>> {
        Iterator::next(&mut self.0).map(|piece| Ok(&**piece))
    }
}

impl Desk {
    async fn work(&self) {
        let mut link: Option<Link> = None;
        while let Some(number) = self.plan.take() {
            let begin = self.await_turn(number).await;
            let mut transfer = match link.take() {
                Some(transfer) => transfer,
                None => match self.connect().await {
                    Some(transfer) => transfer,
                    None => return self.plan.fail(),
                },
            };
            self.send(&mut transfer, number).await;
            let now = Instant::now();
            let took = now.saturating_duration_since(begin);
            self.marks.borrow_mut().finish(Mark::Message as usize, took, now);
            self.plan.count_sent();
            match self.plan.options.keep && transfer.is_ready() {
                true => link = Some(transfer),
                false => transfer.quit().await,
            }
            self.rest().await;
        }
        if let Some(transfer) = link {
            transfer.quit().await;
        }
    }

    /// Waits until the message is to begin, and says since when its latency counts.
    async fn await_turn(&self, number: u64) -> Instant {
        let Some(begin) = self.plan.begin_of(number) else { return Instant::now() };
        let pause = begin.saturating_duration_since(Instant::now());
        if !pause.is_zero() {
            timer::sleep(pause).await;
        }
        begin
    }

    async fn connect(&self) -> Option<Link> {
        let mut pause = CONNECT_PAUSE;
        for attempt in 0..self.plan.options.connects {
            if attempt > 0 {
                timer::sleep(pause).await;
                pause = pause.saturating_mul(2);
            }
            match self.try_connect().await {
                Ok(transfer) => return Some(transfer),
                Err(cause) => self.found.borrow_mut().note(|| cause),
            }
        }
        self.found.borrow_mut().unconnected += 1;
        None
    }

    async fn try_connect(&self) -> Result<Link, String> {
        let address = self.plan.address;
        let began = Instant::now();
        let stream = rt::connect(address, None, CONNECT).await;
        let stream = stream.map_err(|fault| format!("connecting to {address}: {fault}"))?;
        self.marks.borrow_mut().record(Mark::Connect as usize, began.elapsed());
        let client = Client::new(Arc::clone(&self.config), false);
        let pool = Rc::clone(&self.pool);
        let mut transfer =
            Transfer::new(Channel::plain(stream), client, pool, ClientTimeouts::default())
                .watched_by(Watcher::new(&self.marks));
        let never = async |_: &mut Channel<Stream>, _: &ChunkPool| Err(TlsFault::NoRoots.into());
        match transfer.handshake(never).await {
            Ok(()) => Ok(transfer),
            Err(fault) => Err(format!("greeting {address}: {fault}")),
        }
    }

    async fn send(&self, transfer: &mut Link, number: u64) {
        let options = &self.plan.options;
        let pieces = self.pattern.message(number);
        let names = self.pattern.recipients(options, number);
        let recipients: Vec<MailRecipient<'_>> =
            names.iter().map(|mailbox| MailRecipient { mailbox, notify: 0, orcpt: None }).collect();
        let mail = Mail {
            sender: Some(&*options.from).filter(|from| !matches!(*from, "" | "<>")),
            recipients: &recipients,
            bytes: pieces.iter().map(|piece| piece.len() as u64).sum(),
            body: BodyType::SevenBit,
            smtputf8: false,
            requiretls: false,
            ret: None,
            envid: None,
        };
        let sent = transfer.send(&mail, &mut Pieces(pieces.iter())).await;
        let mut found = self.found.borrow_mut();
        let mut is_well = true;
        for (outcome, name) in sent.outcomes.iter().zip(&names) {
            let text = match outcome {
                Outcome::Accepted(_) => continue,
                Outcome::Refused { stage, reply } => format!("{name} at {stage:?}: {reply:?}"),
                Outcome::Local(reply) => format!("{name}: {reply:?}"),
                Outcome::Lost { .. } => {
                    found.lost += 1;
                    self.marks.borrow_mut().fail();
                    let fault = transfer.fault().map(ToString::to_string).unwrap_or_default();
                    found.note(|| format!("{name}: no answer ({fault})"));
                    self.plan.fail();
                    return;
                }
            };
            is_well = false;
            found.note(|| text);
        }
        match is_well {
            true => found.accepted += 1,
            false => {
                found.refused += 1;
                self.marks.borrow_mut().fail();
                self.plan.fail();
            }
        }
    }

    /// The pause of -w or -R.
    async fn rest(&self) {
        let options = &self.plan.options;
        let seconds = match (options.wait, options.random_wait) {
            (Some(seconds), _) => seconds,
            (None, Some(most)) => most * self.roll(),
            (None, None) => return,
        };
        timer::sleep(Duration::from_secs_f64(seconds)).await;
    }

    /// From 0 to 1 (xorshift64*).
    fn roll(&self) -> f64 {
        let mut state = self.dice.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.dice.set(state);
        (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
