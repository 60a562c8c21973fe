//! The built server between a client and receivers of the test's own.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

use crate::receiver::Misbehaviour;
use crate::receiver::Receiver;
use crate::receiver::Taken;
use crate::support::Client;
use crate::support::Server;
use crate::support::Setup;

pub const FULL: &[&str] =
    &["PIPELINING", "8BITMIME", "CHUNKING", "BINARYMIME", "SIZE", "ENHANCEDSTATUSCODES"];
pub const PIPED: &[&str] = &["PIPELINING", "8BITMIME", "SIZE 20000000", "DSN"];
pub const BARE: &[&str] = &["8BITMIME"];

/// Short waits, so that what fails comes again soon. Long enough for a machine with much to do.
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

/// Where mail for a domain goes: a receiver, and what is known of it.
pub struct Destination {
    pub name: String,
    pub domain: String,
    pub receiver: Receiver,
}

pub struct Rig {
    pub server: Server,
    pub destinations: Vec<Destination>,
    /// Reports come here.
    pub home: Receiver,
    // Behind the server, so that it goes after it.
    _folder: TempDir,
}

/// Where `sender.test` and the receivers live: one address each, as servers of the world do.
fn place(number: usize) -> SocketAddr {
    let [high, low] = u16::try_from(number + 1).expect("few receivers").to_be_bytes();
    (Ipv4Addr::new(127, 77, high, low), 0).into()
}

pub fn route(domain: &str, address: SocketAddr) -> String {
    format!("[[route]]\nrecipient_domain = ['{domain}']\nnext = 'smtp:{address}'\n")
}

impl Rig {
    /// A receiver for each plan: its name, its offers, its script.
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

    /// Sends on a connection of its own.
    pub fn client(&self) -> Client {
        let mut client = self.server.connect();
        client.greet().expect("a healthy server greets");
        client
    }

    /// Recipients whose sender was told that they failed, in the order of the alphabet.
    pub fn told(&self) -> Vec<String> {
        let record = self.home.record();
        let mut told: Vec<String> = record.taken.iter().flat_map(failed_recipients).collect();
        told.sort_unstable();
        told
    }

    /// Waits until `done`, and for the queue to be empty.
    pub fn settle(&self, patience: Duration, done: impl Fn() -> bool) {
        let end = Instant::now() + patience;
        while Instant::now() < end && !(done() && queue_text(&self.server).is_empty()) {
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// With short waits, and these routes.
pub fn start_server(routes: &str) -> (Server, TempDir) {
    start_with(WAITS, routes)
}

/// Likewise, but it waits for the answer to a body and keeps idle connections as long as any test
/// needs, and tries again after a time that no busy machine takes for anything else.
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
    let folder = tempfile::tempdir().expect("there is room");
    let setup = Setup { config: format!("{waits}{routes}"), ..Setup::default() };
    (Server::start(folder.path(), &setup), folder)
}

/// What still waits.
pub fn queue_text(server: &Server) -> String {
    let output = server.queue(&["list"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().last() {
        Some("0 messages") => String::new(),
        _ => text.into_owned(),
    }
}

/// Mail with its own sender, by which it is told apart.
pub fn submit(client: &mut Client, id: &str, recipients: &[String], body: &[u8]) {
    client.expect(&format!("MAIL FROM:<{id}@sender.test>"), 250);
    for recipient in recipients {
        client.expect(&format!("RCPT TO:<{recipient}>"), 250);
    }
    client.expect("DATA", 354);
    client.send(&crate::support::stuffed(body)).expect("a healthy server takes it");
    let reply = client.reply().expect("a healthy server answers");
    assert_eq!(reply.code, 250, "{}", reply.text);
}

pub fn failed_recipients(report: &Taken) -> Vec<String> {
    assert!(report.id.is_empty(), "a report has no sender: {}", report.id);
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

/// Each thing that is wrong, a line.
#[derive(Default)]
pub struct Faults(String);

impl Faults {
    pub fn check(&mut self, holds: bool, destination: &str, what: impl FnOnce() -> String) {
        if !holds {
            writeln!(self.0, "{destination}: {}", what()).expect("a string takes all");
        }
    }

    pub fn none_or_panic(self, server: &Server) {
        if !self.0.is_empty() {
            let log = server.log_brief();
            // The whole log is kept, for it is too long to be read here.
            let kept = std::env::temp_dir().join("relay-test.log");
            std::fs::write(&kept, log).expect("there is room");
            panic!("{}the log is in {}", self.0, kept.display());
        }
    }
}
