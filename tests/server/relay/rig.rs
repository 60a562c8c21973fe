//! The built server between a client and scripted receivers.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

use crate::relay::receiver::Misbehaviour;
use crate::relay::receiver::Receiver;
use crate::relay::receiver::Taken;
use crate::support::Client;
use crate::support::Server;
use crate::support::Setup;

pub const FULL: &[&str] =
    &["PIPELINING", "8BITMIME", "CHUNKING", "BINARYMIME", "SIZE", "ENHANCEDSTATUSCODES"];
pub const PIPED: &[&str] = &["PIPELINING", "8BITMIME", "SIZE 20000000", "DSN"];
pub const BARE: &[&str] = &["8BITMIME"];

/// Short retry waits, but long enough for a busy machine.
const WAITS: &str = "
[delivery]
retry_schedule = ['1s']
delay_warning = '0s'
max_age = '10m'
[delivery.timeouts]
connect = '3s'
greeting = '3s'
ehlo = '3s'
mail = '3s'
rcpt = '3s'
data_init = '3s'
data_block = '3s'
data_end = '6s'
quit = '500ms'
[destination_defaults]
tls = 'none'
failures_to_back_off = 3
back_off_first = '1s'
back_off_max = '2s'
idle_reuse = '300ms'
";

/// The receiver of a domain, and its properties.
pub struct Destination {
    pub name: String,
    pub domain: String,
    pub receiver: Receiver,
}

pub struct Rig {
    pub server: Server,
    pub destinations: Vec<Destination>,
    /// Receives the reports.
    pub home: Receiver,
    // Declared after the server, so that it is dropped later.
    _folder: TempDir,
}

/// The addresses of `sender.test` and of the receivers, one each.
fn place(number: usize) -> SocketAddr {
    let [high, low] = u16::try_from(number + 1).expect("few receivers").to_be_bytes();
    (Ipv4Addr::new(127, 77, high, low), 0).into()
}

pub fn route(domain: &str, address: SocketAddr) -> String {
    format!("[[route]]\nrecipient_domain = ['{domain}']\nnext = 'smtp:{address}'\n")
}

impl Rig {
    /// One receiver for each plan: its name, its offers, its script.
    pub fn start(plans: &[(String, &'static [&'static str], Vec<Misbehaviour>)]) -> Rig {
        let home = Receiver::start(place(0), BARE, &[]);
        let mut config = route("sender.test", home.address);
        let mut destinations = Vec::new();
        for (number, (name, offers, misbehaviours)) in plans.iter().enumerate() {
            let domain = format!("d{number}.test");
            let receiver = Receiver::start(place(number + 1), offers, misbehaviours);
            config.push_str(&route(&domain, receiver.address));
            destinations.push(Destination { name: name.clone(), domain, receiver });
        }
        let (server, folder) = start_server(&config);
        Rig { server, destinations, home, _folder: folder }
    }

    /// Sends a message on a connection of its own.
    pub fn client(&self) -> Client {
        let mut client = self.server.connect();
        client.greet().expect("a healthy server greets");
        client
    }

    /// Recipients that were reported as failed, sorted.
    pub fn told(&self) -> Vec<String> {
        let record = self.home.record();
        let mut told: Vec<String> = record.taken.iter().flat_map(failed_recipients).collect();
        told.sort_unstable();
        told
    }

    /// Waits until `done`, and until the queue is empty.
    pub fn settle(&self, patience: Duration, done: impl Fn() -> bool) {
        let end = Instant::now() + patience;
        while Instant::now() < end && !(done() && queue_text(&self.server).is_empty()) {
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// A config with short waits and these routes.
pub fn start_server(routes: &str) -> (Server, TempDir) {
    start_with(WAITS, routes)
}

/// The same with long limits: for the reply to a body, for idle connections, and between retries.
pub fn start_patient_server(routes: &str) -> (Server, TempDir) {
    let mut patient = WAITS.to_owned();
    for (short, long) in [
        ("data_end = '6s'", "data_end = '10m'"),
        ("idle_reuse = '300ms'", "idle_reuse = '1m'"),
        ("retry_schedule = ['1s']", "retry_schedule = ['3s']"),
    ] {
        assert!(patient.contains(short), "{short}");
        patient = patient.replace(short, long);
    }
    start_with(&patient, routes)
}

fn start_with(waits: &str, routes: &str) -> (Server, TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let setup = Setup { config: format!("{waits}{routes}"), ..Setup::default() };
    (Server::start(folder.path(), &setup), folder)
}

/// The queued messages.
pub fn queue_text(server: &Server) -> String {
    let output = server.queue(&["list"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().last() {
        Some("0 messages") => String::new(),
        _ => text.into_owned(),
    }
}

/// Sends mail with a sender of its own, by which it is identified.
pub fn submit(client: &mut Client, id: &str, recipients: &[String], body: &[u8]) {
    client.expect(&format!("MAIL FROM:<{id}@sender.test>"), 250);
    for recipient in recipients {
        client.expect(&format!("RCPT TO:<{recipient}>"), 250);
    }
    client.expect("DATA", 354);
    client.send(&crate::support::stuffed(body)).expect("a healthy server reads it");
    let reply = client.reply().expect("a healthy server answers");
    assert_eq!(reply.code, 250, "{}", reply.text);
}

pub fn failed_recipients(report: &Taken) -> Vec<String> {
    assert!(report.id.is_empty(), "a report has the null sender: {}", report.id);
    let text = String::from_utf8_lossy(&report.body);
    let mut failed = Vec::new();
    let mut last = String::new();
    for line in text.lines() {
        if let Some(recipient) = line.strip_prefix("Final-Recipient: rfc822;") {
            recipient.trim().clone_into(&mut last);
        }
        if line.eq_ignore_ascii_case("Action: failed") {
            failed.push(std::mem::take(&mut last));
        }
    }
    failed
}

/// All findings, one per line.
#[derive(Default)]
pub struct Faults(String);

impl Faults {
    pub fn check(&mut self, holds: bool, destination: &str, what: impl FnOnce() -> String) {
        if !holds {
            writeln!(self.0, "{destination}: {}", what()).expect("writing to a string");
        }
    }

    pub fn none_or_panic(self, server: &Server) {
        if !self.0.is_empty() {
            let log = server.log_brief();
            // The log is too long for the output of a test, so it is kept in a file.
            let kept = std::env::temp_dir().join("relay-test.log");
            std::fs::write(&kept, log).expect("the file is writable");
            panic!("{}the log is in {}", self.0, kept.display());
        }
    }
}
