//! What the sessions of one shard share: settings, counts, the ledger.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::DefaultHasher;
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
use crate::sink::Settings;
use crate::sink::behaviour::Behaviour;
use crate::sink::behaviour::Behaviours;
use crate::sink::body::Subject;
use crate::sink::marks::Mark;
use crate::sink::marks::Marks;

/// Chunks beside one for each connection.
const CHUNKS_SPARE: usize = 16;
/// Connections that may read at once have a chunk each; more wait for one, as they do in a server.
const CHUNKS_MAX: usize = 4096;
/// Who is greylisted. Full: whoever is new is let through.
const GREYLIST_MAX: usize = 1 << 20;

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What came to one shard. One thread writes, any may read.
        #[derive(Debug, Default)]
        pub struct Tally { $($(#[$doc])* pub $name: AtomicU64,)* }

        /// What came to a sink so far.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
        pub struct Counts { $($(#[$doc])* pub $name: u64,)* }

        impl Tally {
            pub fn add_to(&self, counts: &mut Counts) {
                $(counts.$name += self.$name.load(Ordering::Relaxed);)*
            }
        }
    };
}

tally! {
    /// Connections that have been accepted.
    connections,
    /// Connections that have ended.
    sessions,
    /// Sessions that ended by QUIT.
    quits,
    /// Messages that were accepted for one recipient at least.
    messages,
    /// Messages to recipients that were accepted.
    copies,
    /// Of these, those whose bodies were not as they had been sent.
    corrupted,
    /// Messages that told of others that were not delivered, or not yet.
    reports,
    /// Bytes of bodies, also of those that were refused.
    body_bytes,
    /// Commands and bodies that were answered by 4xx.
    soft_refusals,
    /// Commands and bodies that were answered by 5xx.
    hard_refusals,
    /// Connections that were ended by order, without a word or with 421.
    broken_off,
    /// Times that no connection could be accepted, most often for want of descriptors.
    accept_faults,
}

/// Adds to a count that only this thread writes.
pub fn count(one: &AtomicU64, more: u64) {
    one.store(one.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

/// What all shards share.
#[derive(Debug, Default)]
pub struct Shared {
    stopping: AtomicBool,
    done: AtomicBool,
    /// Messages and sessions, counted here only where there is a limit of them.
    limited: [AtomicU64; 2],
    /// Numbers the sessions, whose random differ.
    pub next_session: AtomicU64,
    /// For a client may come to another shard when it comes again.
    greylist: Mutex<HashMap<u64, Instant>>,
}

impl Shared {
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// What was to come has come.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// Whether this client has not waited as long as greylisting wants it to.
    pub fn is_grey(&self, peer: IpAddr, sender: &[u8], recipient: u64, wait: Duration) -> bool {
        let mut hasher = DefaultHasher::new();
        hasher.write(sender);
        hasher.write_u64(recipient);
        match peer {
            IpAddr::V4(ip) => hasher.write(&ip.octets()),
            IpAddr::V6(ip) => hasher.write(&ip.octets()),
        }
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

    fn count_to(&self, which: usize, limit: Option<u64>) {
        let Some(limit) = limit else { return };
        if self.limited[which].fetch_add(1, Ordering::Relaxed) + 1 >= limit {
            self.done.store(true, Ordering::Relaxed);
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
    pub words: Words,
    /// Connections of this shard.
    pub open: Cell<usize>,
}

impl State {
    pub fn new(
        settings: Arc<Settings>,
        shared: Arc<Shared>,
        tally: Arc<Tally>,
        marks: Marks,
    ) -> Rc<State> {
        let chunks = settings.connections_max.min(CHUNKS_MAX) + CHUNKS_SPARE;
        Rc::new(State {
            pool: ChunkPool::new(chunks),
            ledger: RefCell::new(Ledger::new(settings.ledger_bytes_max)),
            marks,
            words: Words::new(&settings),
            open: Cell::new(0),
            settings,
            shared,
            tally,
        })
    }

    pub fn behaviours(&self) -> Option<&Behaviours> {
        self.settings.behaviours.as_deref()
    }

    /// What is done before a recipient is known.
    pub fn default_behaviour(&self) -> Option<&Behaviour> {
        let behaviours = self.behaviours()?;
        behaviours.default_place().map(|place| behaviours.get(place))
    }

    pub fn end_message(&self) {
        self.shared.count_to(0, self.settings.messages_max);
    }

    pub fn end_session(&self) {
        count(&self.tally.sessions, 1);
        self.shared.count_to(1, self.settings.sessions_max);
    }

    /// Writes down that a message was accepted for one recipient.
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

    /// Writes down that a message was accepted, for as many recipients as it may be. In its second
    /// stands how old it is, and where nobody knows that, how long it took to come.
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

    /// For -v.
    pub fn show(&self, mark: &str, bytes: &[u8]) {
        if self.settings.verbose {
            for line in String::from_utf8_lossy(bytes).lines() {
                eprintln!("{mark} {line}");
            }
        }
    }
}

/// Replies, ready to send.
pub struct Words {
    pub ok: &'static [u8],
    pub sender_ok: &'static [u8],
    pub recipient_ok: &'static [u8],
    pub bye: &'static [u8],
    pub auth_ok: &'static [u8],
    pub tls_ready: &'static [u8],
    pub no_verify: &'static [u8],
    pub unknown: &'static [u8],
    pub bad_order: &'static [u8],
    pub bad_syntax: &'static [u8],
    pub no_recipients: &'static [u8],
    pub too_many_recipients: &'static [u8],
    pub helo: Vec<u8>,
    /// To EHLO in the clear, and under TLS.
    pub ehlo: [Vec<u8>; 2],
}

impl Words {
    fn new(settings: &Settings) -> Words {
        let name = &settings.hostname;
        let helo = format!("250 {name}\r\n").into_bytes();
        let ehlo = [false, true].map(|is_tls| {
            let mut offers = settings.offers.clone().unwrap_or_default();
            if settings.tls.is_some() && !is_tls {
                offers.push("STARTTLS");
            }
            let mut lines = vec![name.as_str()];
            lines.extend(offers);
            let last = lines.len() - 1;
            let line = |(place, line): (usize, &&str)| {
                format!("250{}{line}\r\n", if place == last { ' ' } else { '-' })
            };
            lines.iter().enumerate().map(line).collect::<String>().into_bytes()
        });
        let pick = |with: &'static str, without: &'static str| {
            if settings.enhanced { with.as_bytes() } else { without.as_bytes() }
        };
        Words {
            ok: pick("250 2.0.0 Ok\r\n", "250 Ok\r\n"),
            sender_ok: pick("250 2.1.0 Ok\r\n", "250 Ok\r\n"),
            recipient_ok: pick("250 2.1.5 Ok\r\n", "250 Ok\r\n"),
            bye: pick("221 2.0.0 Bye\r\n", "221 Bye\r\n"),
            auth_ok: pick("235 2.7.0 Welcome\r\n", "235 Welcome\r\n"),
            tls_ready: pick("220 2.0.0 Begin TLS\r\n", "220 Begin TLS\r\n"),
            no_verify: pick("252 2.0.0 It may exist\r\n", "252 It may exist\r\n"),
            unknown: pick("500 5.5.1 No such command\r\n", "500 No such command\r\n"),
            bad_order: pick("503 5.5.1 Not at this time\r\n", "503 Not at this time\r\n"),
            bad_syntax: pick("501 5.5.4 Syntax error\r\n", "501 Syntax error\r\n"),
            no_recipients: pick("554 5.5.1 No valid recipients\r\n", "554 No valid recipients\r\n"),
            too_many_recipients: pick(
                "452 4.5.3 Too many recipients\r\n",
                "452 Too many recipients\r\n",
            ),
            helo,
            ehlo,
        }
    }
}
