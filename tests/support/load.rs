//! Load: client threads that send messages of every shape until stopped, and record in the ledger
//! what they saw.
//!
//! Promise:  a state is recorded before the byte that could change it is sent, never after: a
//!           message whose reply is lost in a fault is in doubt, not forgotten.

use std::io;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use crate::support::Client;
use crate::support::PATIENCE;
use crate::support::Reply;
use crate::support::ledger::Ledger;
use crate::support::ledger::Mail;
use crate::support::ledger::MailState;
use crate::support::queue;
use crate::support::stuffed;

/// A way of sending a message, or of failing to send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A few hundred bytes to a few thousand, by DATA.
    Small,
    /// 200 KB by DATA: the store receives chunks before the end arrives.
    Streamed,
    /// Up to thirty recipients.
    Many,
    /// Commands in one write.
    Pipelined,
    /// One BDAT LAST.
    Bdat,
    /// Several BDAT of a streamed body.
    BdatChunks,
    /// Commands and BDAT LAST in one write.
    BdatPipelined,
    /// Streamed, then refused with 5xx for a bare LF near its end.
    BareLf,
    /// Refused with 554 for too many Received fields.
    Loop,
    /// Sent in part; then the client disconnects.
    Abandoned,
}

impl Shape {
    /// Mostly small messages, and some of each other shape.
    pub const ALL: &[Shape] = &[
        Shape::Small,
        Shape::Small,
        Shape::Small,
        Shape::Small,
        Shape::Streamed,
        Shape::Many,
        Shape::Pipelined,
        Shape::Pipelined,
        Shape::Bdat,
        Shape::BdatChunks,
        Shape::BdatPipelined,
        Shape::BareLf,
        Shape::Loop,
        Shape::Abandoned,
    ];
    /// All shapes that a healthy server accepts.
    pub const SOUND: &[Shape] = &[
        Shape::Small,
        Shape::Small,
        Shape::Streamed,
        Shape::Many,
        Shape::Pipelined,
        Shape::Bdat,
        Shape::BdatChunks,
        Shape::BdatPipelined,
    ];
}

/// Pseudo-random numbers from a seed.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    pub fn new(seed: u64) -> Random {
        Random { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1 }
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        ((self.state >> 16) % bound as u64) as usize
    }
}

/// The work of the clients.
#[derive(Clone)]
pub struct Plan {
    pub clients: usize,
    pub seed: u64,
    pub shapes: &'static [Shape],
    /// An additional client deletes messages, using the config in this folder.
    pub remover: Option<PathBuf>,
}

/// Running clients.
pub struct Load {
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(address: SocketAddr, ledger: &Arc<Ledger>, plan: Plan) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for number in 0..plan.clients {
            let rig = Rig {
                address,
                ledger: Arc::clone(ledger),
                stop: Arc::clone(&stop),
                random: Random::new(plan.seed ^ (number as u64 + 1) << 32),
                shapes: plan.shapes,
            };
            clients.push(thread::spawn(move || rig.work()));
        }
        if let Some(folder) = plan.remover {
            let (ledger, stop) = (Arc::clone(ledger), Arc::clone(&stop));
            clients.push(thread::spawn(move || remove_some(&folder, &ledger, &stop)));
        }
        Load { ledger: Arc::clone(ledger), stop, clients }
    }

    /// Waits for `more` further acknowledgements.
    #[track_caller]
    pub fn await_acknowledged(&self, more: usize) {
        let before = self.ledger.acknowledged();
        let end = Instant::now() + PATIENCE;
        while self.ledger.acknowledged() < before + more {
            let replies = self.ledger.replies();
            assert!(
                Instant::now() < end,
                "no {more} messages were accepted; refusals: {replies:?}"
            );
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until `count` acknowledged messages are present whose deletion nobody requested.
    #[track_caller]
    pub fn await_kept(&self, count: usize) {
        let end = Instant::now() + PATIENCE;
        while self.ledger.some_acknowledged(count, 0).len() < count {
            let replies = self.ledger.replies();
            assert!(Instant::now() < end, "no {count} messages are present; refusals: {replies:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops the clients after their current messages, or at once if the server is gone.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let done = client.join();
            assert!(done.is_ok() || thread::panicking(), "a client failed");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

struct Rig {
    address: SocketAddr,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    random: Random,
    shapes: &'static [Shape],
}

impl Rig {
    fn work(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            // The server is gone, full or draining; the next connection shows which.
            if let Err(cause) = self.session() {
                if matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
                    self.ledger.count_silence();
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// Sends messages over one connection until it breaks.
    fn session(&mut self) -> io::Result<()> {
        let mut client = Client::connect(self.address)?;
        client.greet()?;
        while !self.stop.load(Ordering::Relaxed) {
            let shape = self.shapes[self.random.below(self.shapes.len())];
            let reply = send(&mut client, &self.ledger, shape, &mut self.random)?;
            match reply.code {
                421 | 521 => return Ok(()),
                452 => thread::sleep(Duration::from_millis(5)),
                _ => (),
            }
            if reply.code >= 400 {
                client.ask("RSET")?;
            }
        }
        client.ask("QUIT").map(|_| ())
    }
}

/// Sends one message of the shape. Returns the last reply.
pub fn send(
    client: &mut Client,
    ledger: &Ledger,
    shape: Shape,
    random: &mut Random,
) -> io::Result<Reply> {
    let bytes = match shape {
        Shape::Streamed | Shape::BdatChunks | Shape::BareLf | Shape::Abandoned => 200_000,
        _ => 300 + random.below(3000),
    };
    let recipients = if shape == Shape::Many { 2 + random.below(29) } else { 1 + random.below(2) };
    let mail = ledger.begin(bytes, recipients);
    let body = mail.body();
    let reply = match shape {
        Shape::Small | Shape::Streamed | Shape::Many => by_data(client, ledger, mail, &body),
        Shape::BareLf => {
            let mut body = body;
            let mut place = body.len() - 3 - random.below(100_000);
            while matches!(body[place], b'\r' | b'\n') {
                place -= 1;
            }
            body[place] = b'\n';
            by_data(client, ledger, mail, &body)
        }
        Shape::Loop => {
            let mut looped = b"Received: from x by y; today\r\n".repeat(60);
            looped.extend_from_slice(&body);
            by_data(client, ledger, mail, &looped)
        }
        Shape::Abandoned => abandon(client, mail, &body[..random.below(bytes)]),
        Shape::Pipelined => pipelined(client, ledger, mail, &body),
        Shape::Bdat => by_bdat(client, ledger, mail, &[&body]),
        Shape::BdatChunks => {
            let (first, rest) = body.split_at(1 + random.below(100_000));
            let (second, third) = rest.split_at(random.below(rest.len()));
            by_bdat(client, ledger, mail, &[first, second, third])
        }
        Shape::BdatPipelined => bdat_pipelined(client, ledger, mail, &body),
    }?;
    if shape == Shape::BareLf || shape == Shape::Loop {
        let expected = matches!(reply.code, 421 | 451 | 452 | 521 | 554);
        assert!(expected, "{shape:?} was answered {}", reply.text);
    }
    Ok(reply)
}

fn mail_from(mail: Mail) -> String {
    format!("MAIL FROM:<{}>\r\n", mail.sender())
}

fn rcpt_to(mail: Mail) -> impl Iterator<Item = String> {
    mail.recipients().map(|recipient| format!("RCPT TO:<{recipient}>\r\n"))
}

/// Sends the envelope command by command. The inner `Err` is a refusal.
fn announce(client: &mut Client, ledger: &Ledger, mail: Mail) -> io::Result<Result<(), Reply>> {
    for command in std::iter::once(mail_from(mail)).chain(rcpt_to(mail)) {
        client.send(command.as_bytes())?;
        let reply = client.reply()?;
        if reply.code != 250 {
            ledger.count_refusal(&reply.text);
            return Ok(Err(reply));
        }
    }
    Ok(Ok(()))
}

fn by_data(client: &mut Client, ledger: &Ledger, mail: Mail, body: &[u8]) -> io::Result<Reply> {
    if let Err(refusal) = announce(client, ledger, mail)? {
        return Ok(refusal);
    }
    let go = client.ask("DATA")?;
    if go.code != 354 {
        ledger.count_refusal(&go.text);
        return Ok(go);
    }
    ledger.note(mail, MailState::InDoubt);
    finish(client, ledger, mail, &stuffed(body))
}

/// Sends the rest of the body and records the reply.
fn finish(client: &mut Client, ledger: &Ledger, mail: Mail, last: &[u8]) -> io::Result<Reply> {
    // The server may refuse and close before the whole body is sent.
    let sent = client.send(last);
    let reply = client.reply();
    if let Ok(reply) = &reply {
        ledger.note_reply(mail, &reply.text);
    }
    sent.and(reply)
}

fn abandon(client: &mut Client, mail: Mail, part: &[u8]) -> io::Result<Reply> {
    let mut start = mail_from(mail);
    rcpt_to(mail).for_each(|line| start.push_str(&line));
    start.push_str("DATA\r\n");
    client.send(start.as_bytes())?;
    for _ in 0..mail.recipients + 1 {
        if client.reply()?.code != 250 {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    }
    if client.reply()?.code == 354 {
        client.send(part)?;
    }
    // An error does not matter: the client disconnects here.
    let _ = client.stream.flush();
    let _ = client.stream.shutdown(Shutdown::Both);
    Err(io::ErrorKind::ConnectionAborted.into())
}

fn pipelined(client: &mut Client, ledger: &Ledger, mail: Mail, body: &[u8]) -> io::Result<Reply> {
    let mut commands = mail_from(mail);
    rcpt_to(mail).for_each(|line| commands.push_str(&line));
    commands.push_str("DATA\r\n");
    client.send(commands.as_bytes())?;
    let refused = replies(client, ledger, mail.recipients + 1)?;
    let go = client.reply()?;
    if go.code != 354 {
        if refused.is_none() {
            ledger.count_refusal(&go.text);
        }
        return Ok(refused.unwrap_or(go));
    }
    assert_eq!(refused, None, "354 although all recipients were refused");
    ledger.note(mail, MailState::InDoubt);
    finish(client, ledger, mail, &stuffed(body))
}

/// Reads `count` replies and returns the first other than 250. Pipelined commands after it are
/// refused with 503, which says nothing about the server.
fn replies(client: &mut Client, ledger: &Ledger, count: usize) -> io::Result<Option<Reply>> {
    let mut refused = None;
    for _ in 0..count {
        let reply = client.reply()?;
        if reply.code != 250 && refused.is_none() {
            ledger.count_refusal(&reply.text);
            refused = Some(reply);
        }
    }
    Ok(refused)
}

fn by_bdat(
    client: &mut Client,
    ledger: &Ledger,
    mail: Mail,
    chunks: &[&[u8]],
) -> io::Result<Reply> {
    if let Err(refusal) = announce(client, ledger, mail)? {
        return Ok(refusal);
    }
    let (last, before) = chunks.split_last().expect("a body has at least one chunk");
    for chunk in before {
        client.send(format!("BDAT {}\r\n", chunk.len()).as_bytes())?;
        client.send(chunk)?;
        let reply = client.reply()?;
        if reply.code != 250 {
            ledger.count_refusal(&reply.text);
            return Ok(reply);
        }
    }
    ledger.note(mail, MailState::InDoubt);
    let mut wire = format!("BDAT {} LAST\r\n", last.len()).into_bytes();
    wire.extend_from_slice(last);
    finish(client, ledger, mail, &wire)
}

fn bdat_pipelined(
    client: &mut Client,
    ledger: &Ledger,
    mail: Mail,
    body: &[u8],
) -> io::Result<Reply> {
    let mut wire = mail_from(mail);
    rcpt_to(mail).for_each(|line| wire.push_str(&line));
    wire.push_str(&format!("BDAT {} LAST\r\n", body.len()));
    let mut wire = wire.into_bytes();
    wire.extend_from_slice(body);
    ledger.note(mail, MailState::InDoubt);
    client.send(&wire)?;
    let refused = replies(client, ledger, mail.recipients + 1)?;
    let reply = client.reply()?;
    match refused {
        None => ledger.note_reply(mail, &reply.text),
        Some(_) => {
            assert_ne!(reply.code, 250, "a body was accepted without recipients");
            ledger.note(mail, MailState::Unfinished);
        }
    }
    Ok(refused.unwrap_or(reply))
}

/// Deletes a few messages at a time while mail arrives, as an operator would.
fn remove_some(folder: &std::path::Path, ledger: &Ledger, stop: &AtomicBool) {
    let mut after = 0;
    while !stop.load(Ordering::Relaxed) {
        let some = ledger.some_acknowledged(3, after);
        for (mail, id) in &some {
            after = mail.number + 1;
            ledger.note(*mail, MailState::Removing);
            let done = queue(folder, &["delete", &id.to_string()]);
            if done.status.success() {
                ledger.note(*mail, MailState::Removed);
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
}
