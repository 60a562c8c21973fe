//! A server with short waits, and access to the attempts in its log.

use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RData;
use hickory_proto::rr::Record;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::rdata::AAAA;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::BINARY;
use crate::support::Server;
use crate::support::Setup;
use crate::support::nameserver::NameServer;
use crate::support::nameserver::encode;
use crate::support::nameserver::record;
use crate::support::nameserver::soa;
use crate::support::receiver::Receiver;

pub const PATIENCE: Duration = Duration::from_secs(20);

pub const ONE_SHARD: &str = "cores = \"0\"\n";

pub struct Out {
    pub server: Server,
    folder: TempDir,
}

impl Out {
    /// Sets the connect timeout. A failure bounces at once and is not retried.
    pub fn start(connect: &str, delivery: &str, config: &str) -> Out {
        Out::start_at(connect, delivery, config, "")
    }

    /// Sets failpoints.
    pub fn start_at(connect: &str, delivery: &str, config: &str, failpoints: &str) -> Out {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let setup = Out::setup(connect, delivery, config, failpoints);
        Out { server: Server::start(folder.path(), &setup), folder }
    }

    /// Starts a server with these keys of `[server]`, this config, and variables of the environment.
    pub fn with(server: &str, config: String, environment: &[(&str, String)]) -> Out {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let owned = |(name, value): &(&str, String)| (name.to_string(), value.clone());
        let environment = environment.iter().map(owned).collect();
        let setup = Setup { config, server: server.to_owned(), environment, ..Setup::default() };
        Out { server: Server::start(folder.path(), &setup), folder }
    }

    /// The server dies, and another one starts on its spool with this config.
    pub fn start_again(mut self, connect: &str, delivery: &str, config: &str) -> Out {
        self.server.kill();
        let setup = Out::setup(connect, delivery, config, "");
        let server = Server::start(self.folder.path(), &setup);
        Out { server, folder: self.folder }
    }

    fn setup(connect: &str, delivery: &str, config: &str, failpoints: &str) -> Setup {
        let retry = match delivery.contains("retry_schedule") {
            true => "",
            false => "retry_schedule = ['1h']",
        };
        let allow = match delivery.contains("allow_networks") {
            true => "",
            false => crate::support::ALLOW_LOOPBACK,
        };
        let config = format!(
            "[delivery]\n{retry}\n{allow}\ndelay_warning = '0s'\n{delivery}\n\
             [delivery.timeouts]\nconnect = '{connect}'\ngreeting = '2s'\n\
             [destination_defaults]\ntls = 'none'\nfailures_to_back_off = 1\n{config}"
        );
        let server = ONE_SHARD.to_owned();
        let environment = vec![("FAILPOINTS".to_owned(), failpoints.to_owned())];
        Setup { config, server, environment, ..Setup::default() }
    }

    /// Returns the id of the accepted message.
    pub fn submit(&self, to: &[&str]) -> String {
        let mut client = self.server.connect();
        client.greet().expect("the server greets");
        client.expect("MAIL FROM:<a@sender.test>", 250);
        for to in to {
            client.expect(&format!("RCPT TO:<{to}>"), 250);
        }
        client.expect("DATA", 354);
        let reply = client.ask("Subject: x\r\n\r\nx\r\n.").expect("the server answers");
        assert_eq!(reply.code, 250, "{}", reply.text);
        let id = reply.text.split_once("queued as ").expect("the reply has the id").1;
        id.split_whitespace().next().unwrap_or_default().to_owned()
    }

    /// Runs `ringpost ...` with this server's config and returns its output.
    pub fn ringpost(&self, words: &[&str]) -> String {
        let mut command = Command::new(BINARY);
        command.args(words).arg("--config").arg(self.server.folder.join("ringpost.toml"));
        let done = command.output().expect("the binary can be run");
        assert!(done.status.success(), "{words:?}: {done:?}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// The destinations of `ringpost destination list`.
    pub fn destinations(&self) -> Vec<Value> {
        let list = self.ringpost(&["destination", "list", "--json"]);
        let list: Value = serde_json::from_str(&list).expect("JSON");
        list["destinations"].as_array().expect("a list").clone()
    }

    /// Waits until `count` messages are queued. A delivered message counts until its delivery is
    /// committed.
    pub fn await_left(&self, count: u64) {
        let end = Instant::now() + PATIENCE;
        loop {
            let audit: Value =
                serde_json::from_str(&self.ringpost(&["audit", "--json"])).expect("JSON");
            assert_eq!(audit["adds_up"], true, "{audit}");
            if audit["queued"] == count {
                return;
            }
            assert!(Instant::now() < end, "{audit}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until `ringpost why` says this of the message.
    pub fn await_why(&self, id: &str, sentence: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let said = self.ringpost(&["why", id]);
            if said.contains(sentence) {
                return said;
            }
            assert!(Instant::now() < end, "{said}\n{}", self.server.log_brief());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The log record of the first attempt.
    pub fn attempt(&self, to: &str) -> Value {
        let end = Instant::now() + PATIENCE;
        let wanted = format!("\"to\":\"{to}\"");
        loop {
            let log = self.server.log_text();
            let is_it =
                |line: &&str| line.contains("\"record\":\"attempt\"") && line.contains(&wanted);
            if let Some(line) = log.lines().find(is_it) {
                return serde_json::from_str(line).expect("JSON");
            }
            assert!(Instant::now() < end, "no attempt for {to}:\n{}", self.server.log_brief());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A receiver that takes this long for a message, and the most messages that it took at a time.
pub fn counting(pause: Duration) -> (Receiver, Arc<AtomicUsize>) {
    let (now, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let seen = Arc::clone(&most);
    let receiver = Receiver::start(&[], move |line| {
        if line.starts_with("DATA") {
            seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(pause);
            now.fetch_sub(1, Ordering::SeqCst);
        }
        None
    });
    (receiver, most)
}

pub fn outcome(attempt: &Value) -> &str {
    attempt["outcome"].as_str().unwrap_or_default()
}

pub fn reply(attempt: &Value) -> &str {
    attempt["reply"].as_str().unwrap_or_default()
}

pub fn route(domain: &str, next: &str) -> String {
    format!("[[route]]\nrecipient_domain = ['{domain}']\nnext = '{next}'\n")
}

/// A name server with these records, by name.
pub fn name_server(records: Vec<(&'static str, Record)>) -> SocketAddr {
    let server = NameServer::start(move |asked| {
        let name = asked.name();
        let name = name.trim_end_matches('.');
        let own: Vec<Record> = records
            .iter()
            .filter(|(owner, record)| *owner == name && record.record_type() == asked.kind())
            .map(|(_, record)| record.clone())
            .collect();
        let known = records.iter().any(|(owner, _)| *owner == name);
        let mut reply = match (own.is_empty(), known) {
            (false, _) => return vec![encode(&asked.with(own))],
            (true, true) => asked.reply(ResponseCode::NoError),
            (true, false) => asked.reply(ResponseCode::NXDomain),
        };
        reply.authorities.push(soa());
        vec![encode(&reply)]
    });
    server.address
}

pub fn a(owner: &'static str, address: [u8; 4]) -> (&'static str, Record) {
    (owner, record(owner, RData::A(A(Ipv4Addr::from(address)))))
}

pub fn aaaa(owner: &'static str, address: Ipv6Addr) -> (&'static str, Record) {
    (owner, record(owner, RData::AAAA(AAAA(address))))
}

pub fn mx(owner: &'static str, preference: u16, host: &str) -> (&'static str, Record) {
    let record = crate::support::nameserver::mx(owner, preference, host);
    assert_eq!(record.record_type(), RecordType::MX);
    (owner, record)
}
