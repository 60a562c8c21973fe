//! The source and the sink of a comparison: this program as separate processes, so that their cost is
//! not counted as the server's.

use std::fs;
use std::fs::File;
use std::io::BufReader;
use std::io::ErrorKind;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use serde_json::Value;

use crate::compare::instance::free_port;
use crate::compare::options::Options;
use crate::compare::peer::DOMAIN;
use crate::ledger::Balance;
use crate::ledger::Ledger;
use crate::ledger::Sent;
use crate::tied;

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
    /// The folder for files of the run.
    pub folder: &'l Path,
}

/// The result of a source.
#[derive(Debug)]
pub struct Sending {
    record: Value,
    pub accepted: u64,
    /// Refused, not sent, or without a reply.
    pub failed: u64,
    /// Not sent because they were overdue at the end.
    pub late: u64,
    /// Failed connections.
    pub unconnected: u64,
    pub per_second: f64,
}

impl Load<'_> {
    fn record(&self) -> PathBuf {
        self.folder.join("source.json")
    }

    fn sent(&self) -> PathBuf {
        self.folder.join("sent")
    }

    /// Sends, and returns after the last reply.
    pub fn run(&self) -> Result<Sending, String> {
        // Files of an earlier part must not be read after a crash of this one.
        [self.record(), self.sent()].iter().try_for_each(|path| remove(path))?;
        let own = std::env::current_exe().map_err(|cause| format!("this program: {cause}"))?;
        let mut command = tied::command(own)?;
        command.args("source -A -d --no-chunking --json -f a@example.org -t".split(' '));
        command.arg(format!("b@{DOMAIN}"));
        command.args(["-s", &self.sessions.to_string(), "-l", &self.options.length.to_string()]);
        match self.messages.or(self.options.messages) {
            Some(count) => command.args(["-m", &count.to_string()]),
            None => command.args(["--duration", &format!("{}s", self.options.seconds)]),
        };
        command.args(["--domains", &self.domains.to_string()]);
        if let Some(rate) = self.rate {
            command.args(["--rate", &rate.to_string()]);
        }
        command.arg("--sent").arg(self.sent()).arg("--output").arg(self.record());
        command.arg(format!("127.0.0.1:{}", self.port)).stdout(Stdio::null());
        let output = command.output().map_err(|cause| format!("starting the source: {cause}"))?;
        let failed = || {
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            format!("the source failed ({}): {words}", output.status)
        };
        // 1: some messages were not accepted; the record has the details.
        if !matches!(output.status.code(), Some(0 | 1)) {
            return Err(failed());
        }
        let text = fs::read_to_string(self.record()).map_err(|_| failed())?;
        let record: Value =
            serde_json::from_str(&text).map_err(|cause| format!("the source's record: {cause}"))?;
        let count = |name: &str| record["counts"][name].as_u64().unwrap_or(0);
        let sending = Sending {
            accepted: count("accepted"),
            failed: count("refused") + count("lost") + count("not_sent"),
            late: count("late"),
            unconnected: count("unconnected"),
            per_second: record["per_second"].as_f64().unwrap_or(0.0),
            record,
        };
        match sending.accepted {
            0 => Err(format!("it accepted no mail: {}", sending.fault())),
            _ => Ok(sending),
        }
    }

    /// Saves the record under this name, with --records.
    pub fn keep(&self, name: &str) -> Result<(), String> {
        let Some(folder) = &self.options.records else { return Ok(()) };
        let path = folder.join(format!("{name}.json"));
        let copied = fs::copy(self.record(), &path);
        copied.map(|_| ()).map_err(|cause| format!("{}: {cause}", path.display()))
    }
}

impl Sending {
    pub fn fault(&self) -> &str {
        self.record["first_fault"].as_str().unwrap_or("no error was recorded")
    }

    /// A quantile of a stage in milliseconds.
    pub fn ms(&self, stage: &str, quantile: &str) -> Option<f64> {
        milliseconds(&self.record, stage, quantile)
    }
}

fn milliseconds(record: &Value, stage: &str, quantile: &str) -> Option<f64> {
    record[format!("{stage}_us")][quantile].as_f64().map(|us| us / 1000.0)
}

/// A running sink.
pub struct Receiver {
    child: Child,
    messages: Arc<AtomicU64>,
    ledger: PathBuf,
}

/// The result of a sink.
#[derive(Debug)]
pub struct Received {
    told: Value,
    pub balance: Balance,
    /// The arrival of the last message, Unix time.
    pub last_us: u64,
}

impl Receiver {
    /// Starts a sink on a free port, and returns when clients may connect. For several domains it
    /// listens on `SINK_HOSTS` addresses.
    pub fn start(folder: &Path, domains: u64) -> Result<(Receiver, u16), String> {
        // The sink ends with this process.
        let own = std::env::current_exe().map_err(|cause| format!("this program: {cause}"))?;
        let mut command = tied::command(own)?;
        let ledger = folder.join("seen");
        // Without CHUNKING, since most servers deliver with DATA only.
        command.args(["sink", "--no-chunking", "--json", "--ledger"]).arg(&ledger);
        let port = free_port()?;
        let network = if domains > 1 { "127.0.1.0/26" } else { "127.0.0.1" };
        command.arg(format!("{network}:{port}")).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|cause| format!("starting the sink: {cause}"))?;
        let mut errors = child.stderr.take().expect("it is a pipe");
        let messages = Arc::new(AtomicU64::new(0));
        let mut receiver = Receiver { child, messages, ledger };
        let line = first_line(&mut errors);
        if !line.starts_with("listening on ") {
            receiver.end();
            return Err(format!("the sink did not start: {line}"));
        }
        let counted = Arc::clone(&receiver.messages);
        // The thread ends with the sink.
        thread::spawn(move || count(errors, &counted));
        Ok((receiver, port))
    }

    /// Waits for this number of messages, or until `SILENCE_MAX` without any.
    pub fn wait(&self, messages: u64) {
        let (mut best, mut since) = (0, Instant::now());
        while best < messages && since.elapsed() < SILENCE_MAX {
            self.signal(Signal::USR1);
            thread::sleep(LOOK);
            let now = self.messages.load(Ordering::Relaxed);
            if now > best {
                (best, since) = (now, Instant::now());
            }
        }
        thread::sleep(AFTERWARDS);
    }

    /// Stops it and compares with the messages that were sent.
    pub fn stop(mut self, load: &Load) -> Result<Received, String> {
        self.signal(Signal::TERM);
        let mut text = String::new();
        if let Some(out) = &mut self.child.stdout {
            out.read_to_string(&mut text).map_err(|cause| format!("the sink: {cause}"))?;
        }
        self.end();
        let told = serde_json::from_str(&text).map_err(|cause| format!("the sink: {cause}"))?;
        let seen = Ledger::read(open(&self.ledger)?)?;
        let sent = Sent::read(open(&load.sent())?)?;
        Ok(Received { told, balance: seen.compare(&sent), last_us: seen.last_us() })
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // A missing process is noticed when its figures are read.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    fn end(&mut self) {
        // As above.
        let _ = self.child.wait();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Does nothing after `stop`.
        let _ = self.child.kill();
        self.end();
    }
}

impl Received {
    pub fn ms(&self, quantile: &str) -> Option<f64> {
        milliseconds(&self.told, "end_to_end", quantile)
    }
}

fn remove(path: &Path) -> Result<(), String> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => {
            Err(format!("{}: {cause}", path.display()))
        }
        _ => Ok(()),
    }
}

fn open(path: &Path) -> Result<BufReader<File>, String> {
    File::open(path).map(BufReader::new).map_err(|cause| format!("{}: {cause}", path.display()))
}

fn first_line(input: &mut impl Read) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while matches!(input.read(&mut byte), Ok(1)) && byte != *b"\n" {
        line.push(byte[0]);
    }
    String::from_utf8_lossy(&line).into_owned()
}

/// Reads lines with `mesg=N`.
fn count(mut input: impl Read, messages: &AtomicU64) {
    loop {
        let line = first_line(&mut input);
        if line.is_empty() {
            return;
        }
        let number = line.split_once("mesg=").and_then(|(_, rest)| {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..digits].parse().ok()
        });
        if let Some(number) = number {
            messages.store(number, Ordering::Relaxed);
        }
    }
}
