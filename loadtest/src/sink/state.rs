//! What the sessions of one shard share: settings, counts, the ledger.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use ringpost::base::ChunkPool;

use crate::ledger::Arrival;
use crate::ledger::Ledger;
use crate::sink::behaviour::Behaviours;
use crate::sink::body::Subject;
use crate::sink::marks::Mark;
use crate::sink::marks::Marks;
use crate::sink::marks::Tally;
use crate::sink::marks::count;
use crate::sink::options::Settings;

/// Chunks in addition to one per connection.
const CHUNKS_SPARE: usize = 16;
/// Connections that can read at once. Full: the others wait for a chunk, as in a server.
const CHUNKS_MAX: usize = 4096;
/// Entries of the greylist. Full: new senders are not greylisted.
const GREYLIST_MAX: usize = 1 << 20;

/// What all shards share.
#[derive(Debug, Default)]
pub struct Shared {
    stopping: AtomicBool,
    done: AtomicBool,
    /// Counted here only if there is a limit.
    messages: AtomicU64,
    /// Numbers the sessions, so that each has its own random stream.
    pub next_session: AtomicU64,
    /// Shared, because a client that returns may reach another shard.
    greylist: Mutex<HashMap<u64, Instant>>,
}

impl Shared {
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Whether the limit of messages has been reached.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// Whether this client, sender and recipient were first seen less than `wait` ago.
    pub fn is_grey(&self, peer: IpAddr, sender: &[u8], recipient: u64, wait: Duration) -> bool {
        let mut hasher = DefaultHasher::new();
        (peer, sender, recipient).hash(&mut hasher);
        let mut known = self.greylist.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = known.len() >= GREYLIST_MAX;
        match known.get(&hasher.finish()) {
            Some(first) => first.elapsed() < wait,
            None if is_full => false,
            None => {
                known.insert(hasher.finish(), Instant::now());
                true
            }
        }
    }
}

pub struct State {
    pub settings: Arc<Settings>,
    pub shared: Arc<Shared>,
    pub tally: Arc<Tally>,
    pub pool: ChunkPool,
    pub ledger: RefCell<Ledger>,
    pub marks: Marks,
    /// Replies to EHLO in the clear and under TLS.
    pub ehlo: [Vec<u8>; 2],
    /// Open connections of this shard.
    pub open: Cell<usize>,
}

impl State {
    pub fn new(
        settings: Arc<Settings>,
        shared: Arc<Shared>,
        tally: Arc<Tally>,
        marks: Marks,
    ) -> Rc<State> {
        let chunks = settings.options.connections.min(CHUNKS_MAX) + CHUNKS_SPARE;
        Rc::new(State {
            pool: ChunkPool::new(chunks),
            ledger: RefCell::new(Ledger::default()),
            marks,
            ehlo: [false, true].map(|is_tls| ehlo(&settings, is_tls)),
            open: Cell::new(0),
            settings,
            shared,
            tally,
        })
    }

    pub fn behaviours(&self) -> Option<&Behaviours> {
        self.settings.behaviours.as_ref()
    }

    pub fn end_message(&self) {
        let Some(limit) = self.settings.options.messages else { return };
        if self.shared.messages.fetch_add(1, Ordering::Relaxed) + 1 >= limit {
            self.shared.done.store(true, Ordering::Relaxed);
        }
    }

    /// Records a message accepted for one recipient.
    pub fn keep_copy(&self, subject: &Subject, recipient: u64, now_us: u64) {
        let mut ledger = self.ledger.borrow_mut();
        match subject {
            Subject::Message(known, arrival) => {
                let arrival = arrival.at(recipient);
                count(&self.tally.corrupted, u64::from(arrival == Arrival::Corrupted));
                ledger.record((known.run, known.number), recipient, now_us, arrival);
                if let Some(took) = known.age(now_us) {
                    self.marks.record(Mark::EndToEnd, took);
                }
            }
            Subject::Nameless => ledger.nameless += 1,
            Subject::Report(..) => {}
        }
    }

    /// Records an accepted message once, for any number of recipients. Its second gets its age, or
    /// the duration of its transaction if the age is unknown.
    pub fn keep_message(&self, subject: &Subject, now_us: u64, (took, now): (Duration, Instant)) {
        let age = match subject {
            Subject::Message(known, _) | Subject::Report(known, _) => known.age(now_us),
            Subject::Nameless => None,
        };
        self.marks.record(Mark::Message, took);
        self.marks.finish(age.unwrap_or(took), now);
        let Subject::Report(known, failed) = subject else { return };
        if let Some(age) = age {
            self.marks.record(Mark::Report, age);
        }
        count(&self.tally.reports, 1);
        let mut ledger = self.ledger.borrow_mut();
        ledger.notices += u64::from(failed.is_empty());
        for recipient in failed {
            ledger.bounce((known.run, known.number), *recipient, now_us);
        }
    }

    /// Prints lines of the dialogue, with -v.
    pub fn show(&self, mark: &str, bytes: &[u8]) {
        if self.settings.options.verbose {
            for line in String::from_utf8_lossy(bytes).lines() {
                eprintln!("{mark} {line}");
            }
        }
    }
}

fn ehlo(settings: &Settings, is_tls: bool) -> Vec<u8> {
    let options = &settings.options;
    let offers = [
        (!options.no_pipelining, "PIPELINING"),
        (!options.no_chunking, "CHUNKING"),
        (settings.tls.is_some() && !is_tls, "STARTTLS"),
    ];
    let mut text = format!("250-{}\r\n", options.hostname);
    for (_, word) in offers.iter().filter(|(offered, _)| *offered) {
        text += &format!("250-{word}\r\n");
    }
    text += "250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n";
    text += "250 AUTH PLAIN LOGIN\r\n";
    text.into_bytes()
}
