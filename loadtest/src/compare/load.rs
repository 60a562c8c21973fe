//! The load of a comparison: a source and a sink in this process, whose cost is not a server's.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Resource;
use rustix::process::getrlimit;
use rustix::process::setrlimit;

use crate::compare::instance::free_port;
use crate::compare::options::Options;
use crate::compare::peer::DOMAIN;
use crate::flags::parse_text;
use crate::ledger::Balance;
use crate::ledger::Sent;
use crate::report::Hdr;
use crate::report::Record;
use crate::report::describe_machine;
use crate::sink;
use crate::sink::Sink;
use crate::source;

const LOOK: Duration = Duration::from_millis(20);
/// After this silence missing mail counts as lost.
pub const SILENCE_MAX: Duration = Duration::from_secs(20);
/// The wait for unexpected copies.
const AFTERWARDS: Duration = Duration::from_millis(300);

/// The task of a source.
pub struct Load<'l> {
    pub options: &'l Options,
    pub sessions: usize,
    pub port: u16,
    /// Messages per second; `None`: as fast as possible.
    pub rate: Option<f64>,
    /// Overrides the options.
    pub messages: Option<u64>,
    /// Recipient domains.
    pub domains: u64,
}

/// The result of a source.
pub struct Sending {
    pub record: Record,
    sent: Sent,
}

impl Load<'_> {
    /// Sends, and returns after the last reply.
    pub fn run(&self) -> Result<Sending, String> {
        let Load { options, sessions, port, domains, .. } = self;
        let length = options.length;
        let mut words = format!(
            "-A -d --no-chunking -f a@example.org -t b@{DOMAIN} --domains {domains} -s {sessions} \
             -l {length} 127.0.0.1:{port}"
        );
        words += &match self.messages.or(options.messages) {
            Some(count) => format!(" -m {count}"),
            None => format!(" --duration {}s", options.seconds.as_secs_f64()),
        };
        if let Some(rate) = self.rate {
            words += &format!(" --rate {rate}");
        }
        let limit = getrlimit(Resource::Nofile);
        let sent = source::send_live(parse_text(&words)?, false);
        // Servers that start later must not inherit the limit that the source has raised.
        let restored = setrlimit(Resource::Nofile, limit);
        restored.map_err(|cause| format!("the limit of open files: {cause}"))?;
        let mut finished = sent.map_err(|why| format!("the source failed: {why}"))?;
        let settings = BTreeMap::from([("flags".to_owned(), words)]);
        let mut record = Record::begin("source", describe_machine(None), settings);
        let sent = finished.sent();
        finished.complete(&mut record);
        let sending = Sending { record, sent };
        match sending.count("accepted") {
            0 => Err(format!("it accepted no mail: {}", sending.fault())),
            _ => Ok(sending),
        }
    }
}

impl Sending {
    pub fn count(&self, name: &str) -> u64 {
        self.record.counts.get(name).copied().unwrap_or(0)
    }

    /// Messages that were refused, not sent, or have no reply.
    pub fn failed(&self) -> u64 {
        ["refused", "lost", "not_sent"].map(|name| self.count(name)).iter().sum()
    }

    pub fn fault(&self) -> &str {
        self.record.first_fault.as_deref().unwrap_or("no error was recorded")
    }

    /// Latencies from the end of a body to its reply.
    pub fn replies(&self) -> Option<&Hdr> {
        let mut stages = self.record.stages.iter();
        stages.find(|stage| stage.name == "body to reply").map(|stage| &stage.latencies)
    }

    /// Saves the record under this name, with --records.
    pub fn keep(&self, options: &Options, name: &str) -> Result<(), String> {
        let Some(folder) = &options.records else { return Ok(()) };
        let path = folder.join(format!("{name}.json"));
        let written = fs::write(&path, self.record.to_json().to_string());
        written.map_err(|cause| format!("{}: {cause}", path.display()))
    }
}

/// A running sink.
pub struct Receiver(Sink);

/// The result of a sink.
pub struct Received {
    pub balance: Balance,
    /// The arrival of the last message, Unix time.
    pub last_us: u64,
    /// From the time at which a message was due to its arrival.
    pub end_to_end: Option<Hdr>,
}

impl Receiver {
    /// Starts a sink on a free port. For several domains it listens on `SINK_HOSTS` addresses.
    pub fn start(domains: u64) -> Result<(Receiver, u16), String> {
        let port = free_port()?;
        let network = if domains > 1 { "127.0.1.0/26" } else { "127.0.0.1" };
        // Without CHUNKING, since most servers deliver with DATA only.
        let options: sink::options::Options =
            parse_text(&format!("--no-chunking {network}:{port}"))?;
        let mut settings = options.settings()?;
        settings.live = false;
        Ok((Receiver(Sink::start(settings)?), port))
    }

    /// Waits for this number of messages, or until `SILENCE_MAX` without any.
    pub fn wait(&self, messages: u64) {
        let (mut best, mut since) = (0, Instant::now());
        while best < messages && since.elapsed() < SILENCE_MAX {
            thread::sleep(LOOK);
            let now = self.0.counts().messages;
            if now > best {
                (best, since) = (now, Instant::now());
            }
        }
        thread::sleep(AFTERWARDS);
    }

    /// Stops it and compares with the messages that were sent.
    pub fn stop(self, sending: &Sending) -> Result<Received, String> {
        let taken = self.0.stop()?;
        Ok(Received {
            balance: taken.ledger.compare(&sending.sent),
            last_us: taken.ledger.last_us(),
            end_to_end: taken.end_to_end().cloned(),
        })
    }
}
