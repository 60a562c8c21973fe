//! Crashes of a relay under load: clients send mail, a sink counts deliveries, and the relay
//! between them is killed at random times and at every named point of settling.
//!
//! ```text
//! lost        acknowledged, but not at the sink for every recipient when the queue is empty: 0
//! duplicate   at the sink twice. Allowed only if the sink answered 250 and the relay died before
//!             its settlement was durable. The relay logs each durable settlement: such mail must
//!             not arrive again
//! unknown     at the sink with a body that was not sent: 0
//! audit       taken = delivered + bounced + ... + queued, before and after each restart
//! ```
//! Each message has recipients in three domains, more in each than a transaction takes, so that it
//! is split twice. One domain refuses permanently, so that senders get reports; one defers at
//! first. `RINGPOST_TEST_CRASH_KILLS` and `RINGPOST_TEST_CRASH_SEED` are those of `crash.rs`.

use crate::support;
use std::collections::HashMap;
use std::collections::HashSet;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
#[cfg(feature = "failpoints")]
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use crate::support::BINARY;
use crate::support::Client;
use crate::support::PATIENCE;
use crate::support::Server;
use crate::support::Setup;
use crate::support::events;
use crate::support::ledger::numbered_body;
use crate::support::load::Random;
use crate::support::number_from;
use crate::support::stuffed;
#[cfg(feature = "failpoints")]
use ringpost::base::limits::UNSETTLED_MS_MAX;

/// Points at which the relay is ended, in the order of a delivery.
#[cfg(feature = "failpoints")]
pub const RELAY_FAILPOINTS: &[&str] = &[
    "split::before_write",
    "split::after_write",
    "deliver::before_send",
    "deliver::after_reply",
    "settle::before_write",
    "settle::after_write",
    "again::before_write",
    "again::after_write",
    "report::before_write",
    "report::after_write",
];

/// Points of mail that leaves memory because its destination takes none.
#[cfg(feature = "failpoints")]
pub const FILING_FAILPOINTS: &[&str] = &["file::before_write", "file::after_write"];

/// Points in the tasks that a whole shard depends on, for the action `panic`.
#[cfg(feature = "failpoints")]
pub const VITAL_FAILPOINTS: &[&str] = &["vital::tend", "vital::frames", "vital::pump"];

const CLIENTS: usize = 4;
const KILLS: usize = 12;
/// Connections to each domain.
const CONNECTIONS: usize = 4;
/// The destination of mail and of reports.
const DOMAINS: [&str; 4] = ["takes.test", "later.test", "never.test", "sender.test"];
/// Time for which `later.test` defers all mail.
const PUT_OFF: Duration = Duration::from_secs(2);
/// The time limit of waits; a slow disk passes through some points dozens of times.
const POINTS_PATIENCE: Duration = PATIENCE.saturating_mul(4);
/// Time of the sink for a reply, and in a test that counts the deliveries.
const SINK_PAUSE: Duration = Duration::from_millis(2);
#[cfg(feature = "failpoints")]
const SLOW_SINK_PAUSE: Duration = Duration::from_millis(20);
#[cfg(feature = "failpoints")]
const SIGABRT: i32 = 6;

fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Message number `n`, which is determined by the number.
fn recipients_of(number: u64) -> Vec<String> {
    let mut all = Vec::new();
    for (domain, count) in [(0, 3), (1, 3), (2, u64::from(number.is_multiple_of(4)))] {
        all.extend((0..count).map(|place| format!("r{place}-{number}@{}", DOMAINS[domain])));
    }
    if number % 8 == 1 { all[..1].to_vec() } else { all }
}

fn sender_of(number: u64) -> String {
    format!("s-{number}@{}", DOMAINS[3])
}

fn body_of(number: u64) -> Vec<u8> {
    // Some messages are so large that they are read from the store while they are sent.
    let bytes = if number % 32 == 5 { 150_000 } else { 300 + (number * 7919) % 3000 };
    numbered_body(number, bytes as usize)
}

fn number_of(mailbox: &str) -> Option<u64> {
    mailbox.split_once('@')?.0.split_once('-')?.1.parse().ok()
}

/// The deliveries at the sink.
#[derive(Default)]
struct Seen {
    /// For each recipient, the lives of the relay that have delivered to it.
    deliveries: HashMap<String, Vec<usize>>,
    unknown: Vec<String>,
    put_off: HashSet<String>,
}

/// Servers for all the domains, on threads of the test.
struct Sink {
    seen: Arc<Mutex<Seen>>,
    life: Arc<AtomicUsize>,
    ports: Vec<u16>,
}

impl Sink {
    fn start(pause: Duration) -> Sink {
        let (seen, life) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicUsize>::default());
        let begun = Instant::now();
        let mut ports = Vec::new();
        for domain in DOMAINS {
            let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
            ports.push(listener.local_addr().expect("the socket is bound").port());
            let (seen, life) = (Arc::clone(&seen), Arc::clone(&life));
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let life = life.load(Ordering::SeqCst);
                    let rig = SinkState { seen: Arc::clone(&seen), domain, life, begun, pause };
                    // Fails when the relay is killed.
                    thread::spawn(move || drop(rig.serve(stream)));
                }
            });
        }
        Sink { seen, life, ports }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no thread of the sink panics")
    }
}

struct SinkState {
    seen: Arc<Mutex<Seen>>,
    domain: &'static str,
    life: usize,
    begun: Instant,
    pause: Duration,
}

impl SinkState {
    fn serve(self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(2 * PATIENCE))?;
        let mut out = stream.try_clone()?;
        let mut input = BufReader::new(stream);
        let mut to: Vec<String> = Vec::new();
        out.write_all(b"220 sink\r\n")?;
        let mut line = String::new();
        loop {
            line.clear();
            if input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let upper = line.to_ascii_uppercase();
            let reply = match upper.split([' ', '\r']).next().unwrap_or_default() {
                "EHLO" => "250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n".to_owned(),
                "MAIL" | "RSET" => {
                    to.clear();
                    "250 2.0.0 fine\r\n".to_owned()
                }
                "RCPT" => self.recipient(&line, &mut to),
                "DATA" if to.is_empty() => "554 5.5.1 to nobody\r\n".to_owned(),
                "DATA" => {
                    out.write_all(b"354 go on\r\n")?;
                    let body = read_body(&mut input)?;
                    thread::sleep(self.pause);
                    self.take(&to, &body);
                    "250 2.0.0 taken\r\n".to_owned()
                }
                "QUIT" => return out.write_all(b"221 2.0.0 bye\r\n"),
                _ => "500 5.5.1 what\r\n".to_owned(),
            };
            out.write_all(reply.as_bytes())?;
        }
    }

    fn recipient(&self, line: &str, to: &mut Vec<String>) -> String {
        let mailbox = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        if self.domain == DOMAINS[2] {
            return "550 5.1.1 nobody here\r\n".to_owned();
        }
        if self.domain == DOMAINS[1] {
            // Everything at first, later some recipients once.
            let some = number_of(&mailbox).is_some_and(|number| number.is_multiple_of(6));
            let first = some
                && mailbox.starts_with("r0")
                && self
                    .seen
                    .lock()
                    .expect("no thread panics with the lock")
                    .put_off
                    .insert(mailbox.clone());
            if first || self.begun.elapsed() < PUT_OFF {
                return "451 4.7.1 later\r\n".to_owned();
            }
        }
        to.push(mailbox);
        "250 2.1.5 fine\r\n".to_owned()
    }

    fn take(&self, to: &[String], body: &[u8]) {
        let mut seen = self.seen.lock().expect("no thread panics with the lock");
        for mailbox in to {
            let number = number_of(mailbox).unwrap_or(u64::MAX);
            let sound = match self.domain == DOMAINS[3] {
                true => contains(body, format!("r0-{number}@{}", DOMAINS[2]).as_bytes()),
                false => body.ends_with(&body_of(number)),
            };
            if !sound {
                seen.unknown.push(format!("{mailbox}: an unknown body of {} bytes", body.len()));
            }
            seen.deliveries.entry(mailbox.clone()).or_default().push(self.life);
        }
    }
}

fn contains(body: &[u8], what: &[u8]) -> bool {
    body.windows(what.len()).any(|window| window == what)
}

fn read_body(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let start = body.len();
        if input.read_until(b'\n', &mut body)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if &body[start..] == b".\r\n" {
            body.truncate(start);
            return Ok(body);
        }
        if body[start] == b'.' {
            body.remove(start);
        }
    }
}

/// The acknowledgements that clients have seen.
#[derive(Default)]
struct Sent {
    next: AtomicU64,
    acknowledged: Mutex<Vec<u64>>,
}

impl Sent {
    fn acknowledged(&self) -> MutexGuard<'_, Vec<u64>> {
        self.acknowledged.lock().expect("no client panics")
    }
}

/// Running clients.
struct Load {
    sent: Arc<Sent>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr, sent: &Arc<Sent>) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let (sent, stop) = (Arc::clone(sent), Arc::clone(&stop));
            // The client's connection ends when the relay is killed.
            thread::spawn(move || drop(work(address, &sent, &stop)))
        };
        let clients = (0..CLIENTS).map(client).collect();
        Load { sent: Arc::clone(sent), stop, clients }
    }

    #[track_caller]
    fn await_acknowledged(&self, more: usize) {
        let wanted = self.sent.acknowledged().len() + more;
        let end = Instant::now() + PATIENCE;
        while self.sent.acknowledged().len() < wanted {
            assert!(Instant::now() < end, "no {more} messages were accepted");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("no client panics");
        }
    }
}

fn work(address: SocketAddr, sent: &Sent, stop: &AtomicBool) -> io::Result<()> {
    let mut client = Client::connect(address)?;
    client.greet()?;
    while !stop.load(Ordering::Relaxed) {
        let number = sent.next.fetch_add(1, Ordering::Relaxed);
        let mut commands = format!("MAIL FROM:<{}>\r\n", sender_of(number));
        let recipients = recipients_of(number);
        for mailbox in &recipients {
            commands.push_str(&format!("RCPT TO:<{mailbox}>\r\n"));
        }
        commands.push_str("DATA\r\n");
        client.send(commands.as_bytes())?;
        for _ in 0..recipients.len() + 1 {
            if client.reply()?.code != 250 {
                return Ok(());
            }
        }
        if client.reply()?.code != 354 {
            return Ok(());
        }
        client.send(&stuffed(&body_of(number)))?;
        match client.reply()?.code {
            250 => sent.acknowledged().push(number),
            421 => return Ok(()),
            _ => (),
        }
    }
    client.ask("QUIT").map(|_| ())
}

/// A relay that is started repeatedly, its clients and its sink.
struct Field {
    folder: tempfile::TempDir,
    sink: Sink,
    sent: Arc<Sent>,
    random: Random,
    kills: usize,
    /// For each life, the recipients delivered to according to its log.
    told: Vec<HashSet<String>>,
}

impl Field {
    fn new(name: &str) -> Field {
        Field::with_sink(name, SINK_PAUSE)
    }

    fn with_sink(name: &str, pause: Duration) -> Field {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        let seed = number_from("RINGPOST_TEST_CRASH_SEED", || now.as_millis() as u64);
        println!("{name}: RINGPOST_TEST_CRASH_SEED={seed}");
        Field {
            folder: tempfile::tempdir().expect("a temporary folder"),
            sink: Sink::start(pause),
            sent: Arc::default(),
            random: Random::new(seed),
            kills: 0,
            told: Vec::new(),
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    #[track_caller]
    fn start(&self, failpoints: &str) -> Server {
        let mut server = self.spawn(failpoints);
        server.await_start().expect("the server starts");
        server
    }

    fn spawn(&self, failpoints: &str) -> Server {
        self.spawn_with(failpoints, 2, "")
    }

    /// Sets the number of partitions, and further keys of the delivery section.
    fn spawn_with(&self, failpoints: &str, partitions: u16, delivery: &str) -> Server {
        let mut config = format!(
            "[queue]\nmemory = \"16MiB\"\nmin_free_space = \"0\"\npartitions = {partitions}\n\
             [delivery]\n{delivery}retry_schedule = [\"1s\"]\nbounce_rate = 1000000\n\
             [destination_defaults]\nrecipients_per_message = 2\nconnections_max = {CONNECTIONS}\n\
             window_start = {CONNECTIONS}\nfailures_to_back_off = 1000\nback_off_first = \"100ms\"\n\
             back_off_max = \"100ms\"\n[relay]\nnetworks = [\"127.0.0.0/8\"]\n",
        );
        for (domain, port) in DOMAINS.iter().zip(&self.sink.ports) {
            config.push_str(&format!(
                "[[route]]\nrecipient_domain = [\"{domain}\"]\nnext = \"smtp:127.0.0.1:{port}\"\n"
            ));
        }
        let setup = Setup {
            config,
            server: "shutdown_timeout = \"20s\"".to_owned(),
            environment: vec![("FAILPOINTS".to_owned(), failpoints.to_owned())],
            ..Setup::default()
        };
        Server::spawn(self.path(), &setup)
    }

    fn load(&self, server: &Server) -> Load {
        Load::start(server.address(), &self.sent)
    }

    /// Evaluates the log of a relay that has ended, and audits its spool.
    fn bury(&mut self, mut server: Server, when: &str) {
        // The threads that read the log have then read all of it.
        server.whole_log();
        let log = server.log.lock().expect("no reader panics");
        let told = log.iter().filter(|line| line.contains("\"outcome\":\"delivered\""));
        let told = told.filter_map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).ok()?;
            event["to"].as_str().map(str::to_owned)
        });
        self.told.push(told.collect());
        self.sink.life.fetch_add(1, Ordering::SeqCst);
        self.audit(when);
        events::assert_agree_in(&self.path().join("spool"), when);
    }

    /// Waits until the relay has ended at a failpoint.
    #[cfg(feature = "failpoints")]
    #[track_caller]
    fn bury_aborted(&mut self, mut server: Server, failpoints: &str) {
        let status = server.wait(POINTS_PATIENCE);
        assert_eq!(status.signal(), Some(SIGABRT), "{failpoints}");
        self.kills += 1;
        self.bury(server, failpoints);
    }

    #[cfg(feature = "failpoints")]
    #[track_caller]
    fn operate(&self, words: &[&str]) {
        let mut command = Command::new(BINARY);
        command.args(words).arg("--config").arg(self.path().join("ringpost.toml"));
        let done = command.output().expect("the binary can be run");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// The relay's own audit, of a running or stopped relay. Returns the number of queued
    /// recipients.
    #[track_caller]
    fn audit(&self, when: &str) -> u64 {
        let done = Command::new(BINARY)
            .args(["audit", "--json", "--config"])
            .arg(self.path().join("ringpost.toml"))
            .output()
            .expect("the binary can be run");
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let why = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{when}: {text}{why}");
        let found: serde_json::Value = serde_json::from_str(&text).expect("the output is JSON");
        assert_eq!((&found["adds_up"], &found["difference"]), (&true.into(), &0.into()), "{when}");
        found["queued"].as_u64().expect("a number")
    }

    /// Waits until the queue is empty, and stops the relay.
    #[track_caller]
    fn drain(&mut self, server: Server) {
        // After many kills there is mail for minutes.
        let (mut least, mut end) = (u64::MAX, Instant::now());
        loop {
            let queued = self.audit("drain");
            if queued == 0 {
                break;
            }
            if queued < least {
                (least, end) = (queued, Instant::now() + 2 * PATIENCE);
            }
            assert!(Instant::now() < end, "the queue does not empty: {}", self.left());
            thread::sleep(Duration::from_millis(200));
        }
        self.end(server);
    }

    fn left(&self) -> String {
        let list = support::queue(self.path(), &["list", "--limit", "5"]);
        String::from_utf8_lossy(&list.stdout).into_owned()
    }

    /// Stops the relay with SIGTERM and checks that it ends normally.
    #[track_caller]
    fn end(&mut self, mut server: Server) {
        server.signal("TERM");
        let begun = Instant::now();
        let status = server.wait(PATIENCE);
        assert!(status.success(), "{status}: {}", server.whole_log());
        println!("ended within {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(15), "it waits without a reason");
        self.bury(server, "after SIGTERM");
    }

    /// Compares acknowledgements with deliveries. Returns the number of duplicates.
    #[track_caller]
    fn compare(&self, name: &str) -> usize {
        let seen = self.sink.seen();
        assert_eq!(seen.unknown, Vec::<String>::new(), "{name}");
        let acknowledged = self.sent.acknowledged();
        let mut lost = Vec::new();
        for number in acknowledged.iter() {
            for mailbox in recipients_of(*number) {
                let (_, domain) = mailbox.split_once('@').expect("a mailbox");
                let at = if domain == DOMAINS[2] { sender_of(*number) } else { mailbox };
                if !seen.deliveries.contains_key(&at) {
                    lost.push(at);
                }
            }
        }
        assert!(lost.is_empty(), "{name}: {} lost, such as {:?}", lost.len(), &lost[..1]);
        let (mut duplicates, mut again) = (0, Vec::new());
        for (mailbox, lives) in &seen.deliveries {
            duplicates += lives.len() - 1;
            for life in &lives[..lives.len() - 1] {
                let told = self.told.get(*life).is_some_and(|told| told.contains(mailbox));
                let twice = lives.iter().filter(|other| *other == life).count() > 1;
                if told || twice {
                    again.push((mailbox, lives));
                }
            }
        }
        println!(
            "{name}: {} kills, {} messages acknowledged, {} recipients served, {duplicates} twice",
            self.kills,
            acknowledged.len(),
            seen.deliveries.len(),
        );
        assert!(again.is_empty(), "{name}: settled, and delivered again: {:?}", &again[..1]);
        assert!(acknowledged.len() > 20, "{name}: too little mail for a result");
        duplicates
    }

    /// Queues `count` messages, each for one recipient that the sink accepts.
    #[cfg(feature = "failpoints")]
    fn fill(&self, server: &Server, count: usize) {
        let mut client = Client::connect(server.address()).expect("the peer listens");
        client.greet().expect("the server greets");
        for number in (1..).step_by(8).take(count) {
            let [mailbox] = &recipients_of(number)[..] else {
                panic!("{number} has one recipient")
            };
            for command in [
                format!("MAIL FROM:<{}>", sender_of(number)),
                format!("RCPT TO:<{mailbox}>"),
                "DATA".to_owned(),
            ] {
                client.ask(&command).expect("the server answers");
            }
            client.send(&stuffed(&body_of(number))).expect("the peer reads");
            assert_eq!(client.reply().expect("the server answers").code, 250);
            self.sent.acknowledged().push(number);
        }
    }

    /// Waits until the sink has received mail for `count` recipients.
    #[cfg(feature = "failpoints")]
    #[track_caller]
    fn await_delivered(&self, count: usize) {
        let end = Instant::now() + PATIENCE;
        while self.sink.seen().deliveries.len() < count {
            assert!(Instant::now() < end, "no {count} were delivered");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Deliveries in flight at the kills: one on each connection, to at most two recipients, and a
    /// few before it whose settlements wait for the same sync. `compare` checks that none of them
    /// was durable; this limit detects settling that falls behind.
    fn in_flight(&self) -> usize {
        const WAITING_FOR_A_SYNC: usize = 8;
        self.kills * (DOMAINS.len() - 1) * CONNECTIONS * 2 * WAITING_FOR_A_SYNC
    }
}

#[test]
fn a_relay_killed_at_any_time_loses_nothing() {
    let _alone = alone();
    let mut field = Field::new("kill -9");
    for kill in 0..number_from("RINGPOST_TEST_CRASH_KILLS", || KILLS as u64) {
        let mut server = field.start("");
        let load = field.load(&server);
        load.await_acknowledged(5);
        thread::sleep(Duration::from_millis(field.random.below(700) as u64));
        field.audit("under load");
        server.kill();
        load.stop();
        field.kills += 1;
        field.bury(server, &format!("kill {kill}"));
    }
    let server = field.start("");
    field.drain(server);
    let duplicates = field.compare("kill -9");
    assert!(duplicates <= field.in_flight(), "{duplicates} duplicates");
}

#[cfg(feature = "failpoints")]
#[test]
fn a_relay_killed_at_every_point_of_settling_loses_nothing() {
    let _alone = alone();
    let mut field = Field::new("points of settling");
    for name in RELAY_FAILPOINTS {
        let failpoints = format!("{name}={}*off->return", field.random.below(20));
        let mut server = field.spawn(&failpoints);
        // The mail of the last life may reach the point before the relay listens.
        let load = server.await_start().is_ok().then(|| field.load(&server));
        field.bury_aborted(server, &failpoints);
        load.into_iter().for_each(Load::stop);
    }
    let server = field.start("");
    field.drain(server);
    let duplicates = field.compare("points of settling");
    assert!(duplicates <= field.in_flight(), "{duplicates} duplicates");
}

/// Mail that waits for a paused destination is filed there once. A relay that is ended before or after that
/// write neither loses nor repeats any of it.
#[cfg(feature = "failpoints")]
#[test]
fn a_relay_killed_while_it_files_mail_loses_nothing() {
    let _alone = alone();
    let mut field = Field::new("filing");
    let server = field.start("");
    field.operate(&["destination", "pause", "127.0.0.1"]);
    field.fill(&server, 40);
    field.end(server);
    for name in FILING_FAILPOINTS {
        let server = field.spawn(&format!("{name}=1*return"));
        field.bury_aborted(server, name);
    }
    let server = field.start("");
    field.operate(&["destination", "resume", "127.0.0.1"]);
    field.drain(server);
    assert_eq!(field.compare("filing"), 0, "nothing was being sent");
}

/// A panic of a task that the shard depends on ends the process, rather than leaving a part of it
/// dead unnoticed.
#[cfg(feature = "failpoints")]
#[test]
fn a_panic_of_a_vital_task_ends_the_relay_and_loses_nothing() {
    let _alone = alone();
    let mut field = Field::new("vital tasks");
    for name in VITAL_FAILPOINTS {
        let passes = 20 + field.random.below(20);
        let failpoints = format!("{name}={passes}*off->panic");
        let mut server = field.spawn(&failpoints);
        let load = server.await_start().is_ok().then(|| field.load(&server));
        let status = server.wait(POINTS_PATIENCE);
        load.into_iter().for_each(Load::stop);
        assert_eq!(status.signal(), Some(SIGABRT), "{failpoints}: {status}");
        let said = server.whole_log();
        let cause =
            format!("failpoint {name} panic; the process ends, and a restart recovers from disk");
        assert!(said.contains("died: ") && said.contains(&cause), "{failpoints}: {said}");
        field.kills += 1;
        field.bury(server, &failpoints);
    }
    let server = field.start("");
    field.drain(server);
    let duplicates = field.compare("vital tasks");
    assert!(duplicates <= field.in_flight(), "{duplicates} duplicates");
}

#[test]
fn a_stopping_relay_settles_deliveries_in_flight() {
    let _alone = alone();
    let mut field = Field::new("SIGTERM");
    for life in 0..3 {
        let server = field.start("");
        let load = field.load(&server);
        load.await_acknowledged(100);
        thread::sleep(Duration::from_millis(life * 400));
        field.end(server);
        load.stop();
    }
    let server = field.start("");
    field.drain(server);
    assert_eq!(field.compare("SIGTERM"), 0, "no duplicates without a kill");
}

/// A settlement that a full disk delays is neither sent nor counted twice.
#[cfg(feature = "failpoints")]
#[test]
fn a_full_disk_delays_settling_and_repeats_nothing() {
    let _alone = alone();
    let mut field = Field::new("full disk");
    for points in [
        "commit::error=40*off->30*return(enospc)->off",
        "commit::error=3*off->20*return(enospc)->off;stream::error=3*off->9*return(enospc)->off",
    ] {
        let server = field.start(points);
        let load = field.load(&server);
        load.await_acknowledged(20);
        thread::sleep(Duration::from_millis(1500));
        field.audit(points);
        field.end(server);
        load.stop();
    }
    let server = field.start("");
    field.drain(server);
    assert_eq!(field.compare("full disk"), 0, "no duplicates without a kill");
}

/// A crash repeats deliveries whose settlements are not durable. On a hung disk delivery must
/// therefore stop soon; on a slow disk it must continue.
#[cfg(feature = "failpoints")]
#[test]
fn a_slow_disk_slows_delivery_and_bounds_what_a_crash_repeats() {
    const MESSAGES: usize = 160;
    // A connection starts a delivery no later than the limit after the first one, and each takes
    // the sink's time. One is in progress then and one at the end; two more for a shard that
    // sleeps.
    let each = UNSETTLED_MS_MAX as usize / SLOW_SINK_PAUSE.as_millis() as usize + 2 + 2;
    let most = CONNECTIONS * each;
    let _alone = alone();
    let mut field = Field::with_sink("slow disk", SLOW_SINK_PAUSE);
    let mut server = field.spawn_with("", 1, "enabled = false\n");
    server.await_start().expect("the server starts");
    field.fill(&server, MESSAGES);
    field.end(server);

    let mut server = field.spawn_with("settle::before_write=pause", 1, "");
    server.await_start().expect("the server starts");
    field.await_delivered(1);
    // Without a limit all messages would be sent in this time.
    thread::sleep(SLOW_SINK_PAUSE * (MESSAGES / CONNECTIONS) as u32 + Duration::from_millis(300));
    server.kill();
    field.kills += 1;
    field.bury(server, "on a disk that stands still");
    let repeated = field.sink.seen().deliveries.len();
    assert!(repeated <= most, "a crash repeats {repeated} deliveries, the limit is {most}");

    let mut server = field.spawn_with("settle::before_write=sleep(300)", 1, "");
    server.await_start().expect("the server starts");
    field.await_delivered(repeated + most);
    server.kill();
    field.kills += 1;
    field.bury(server, "on a slow disk");

    let mut server = field.spawn_with("settle::before_write=sleep(300)", 1, "");
    server.await_start().expect("the server starts");
    field.drain(server);
    let duplicates = field.compare("slow disk");
    // A delivery waits for the current batch and for its own.
    assert!(duplicates <= 2 * most, "{duplicates} duplicates");
}
