//! Tenant, campaign and header fields of a message: its route, its share of a destination, its log
//! lines.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::relay::receiver::At;
use crate::relay::receiver::How;
use crate::relay::receiver::Misbehaviour;
use crate::relay::receiver::Receiver;
use crate::relay::rig::BARE;
use crate::relay::rig::FULL;
use crate::relay::rig::queue_text;
use crate::relay::rig::route;
use crate::relay::rig::start_patient_server;
use crate::relay::rig::start_server;
use crate::relay::rig::submit;
use crate::support::BINARY;
use crate::support::Client;
use crate::support::PATIENCE;
use crate::support::Server;

fn place(number: u8) -> SocketAddr {
    (Ipv4Addr::new(127, 80, 0, number), 0).into()
}

fn start(number: u8, misbehaviours: &[Misbehaviour]) -> Receiver {
    Receiver::start(place(number), FULL, misbehaviours)
}

/// Networks of the tenants, each of one address.
const TENANTS: [&str; 3] = ["acme", "umbrella", "other"];

fn networks() -> String {
    let network = |(place, tenant): (usize, &&str)| {
        format!("[[network]]\ncidr = '127.81.0.{}'\ntenant = '{tenant}'\n", place + 1)
    };
    TENANTS.iter().enumerate().map(network).collect()
}

/// A client in the network of a tenant.
fn client_of(server: &Server, tenant: &str) -> Client {
    let place = TENANTS.iter().position(|one| *one == tenant).expect("it has a network");
    let source = Ipv4Addr::new(127, 81, 0, place as u8 + 1);
    let mut client = Client::connect_from(source, server.address()).expect("the server listens");
    client.greet().expect("a healthy server greets");
    client
}

fn greeted(server: &Server) -> Client {
    let mut client = server.connect();
    client.greet().expect("a healthy server greets");
    client
}

fn send(client: &mut Client, id: &str, header: &str) {
    let body = format!("{header}Subject: {id}\r\n\r\nX-Pool: gold\r\nX-Campaign: body\r\n");
    submit(client, id, &["x@far.test".to_owned()], body.as_bytes());
}

fn settle(server: &Server) {
    let end = Instant::now() + PATIENCE;
    while !queue_text(server).is_empty() {
        assert!(Instant::now() < end, "the queue is not empty:\n{}", server.log_brief());
        thread::sleep(Duration::from_millis(50));
    }
}

/// The log records of all attempts for mail of this sender, in order, once there are `count`.
fn attempts(server: &Server, id: &str, count: usize) -> Vec<Value> {
    let sender = format!("{id}@sender.test");
    let end = Instant::now() + PATIENCE;
    loop {
        let log = server.log_text();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let lines: Vec<Value> =
            lines.filter(|line| line["record"] == "attempt" && line["from"] == *sender).collect();
        // A record is written after the event.
        if lines.len() >= count {
            return lines;
        }
        assert!(Instant::now() < end, "{} attempts of {id}:\n{}", lines.len(), server.log_brief());
        thread::sleep(Duration::from_millis(10));
    }
}

fn ids(receiver: &Receiver) -> Vec<String> {
    let mut ids: Vec<String> = receiver.record().taken.iter().map(|one| one.id.clone()).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn mail_is_routed_by_its_header() {
    let [gold, spring, acme, rest] = [1, 2, 3, 4].map(|number| start(number, &[]));
    let rule = |conditions: &str, receiver: &Receiver| {
        format!("[[route]]\n{conditions}\nnext = 'smtp:{}'\n", receiver.address)
    };
    let routes = [
        rule("headers = ['X-Pool: gold', 'X-Priority: *']\nrecipient_domain = '.test'", &gold),
        rule("tenants = ['acme', 'umbrella']\ncampaigns = 'spring'", &spring),
        rule("tenants = 'acme'", &acme),
        rule("recipient_domain = 'far.test'", &rest),
    ];
    let (server, _folder) = start_server(&(routes.concat() + &networks()));
    let filler = "X-Filler: of some length, as others write them\r\n".repeat(1900);
    let late = format!("{filler}X-Pool: gold\r\n");
    let folded = "X-Campaign:\r\n spring \r\n";
    type Row<'r> = (&'r str, &'r str, &'r Receiver, Option<&'r str>, Option<&'r str>);
    let rows: &[Row<'_>] = &[
        ("pool", "X-Pool: gold\r\n", &gold, Some("acme"), None),
        ("any", "x-priority:\r\n", &gold, None, None),
        ("late", &late, &gold, None, None),
        ("folded", folded, &spring, Some("acme"), Some("spring")),
        ("else", "X-CAMPAIGN: x\r\n", &acme, Some("acme"), Some("x")),
        ("case", "X-Pool: Gold\r\nX-Tenant: acme\r\n", &rest, Some("other"), None),
        ("masked", "X-Campaign: a\u{e9}\u{1b}b\r\n", &rest, None, Some("a\u{e9}?b")),
        ("nothing", "", &rest, None, None),
        ("empty", "X-Tenant: acme\r\nX-Campaign:\r\n", &rest, None, None),
    ];
    for (id, header, _, tenant, _) in rows {
        let mut client = match tenant {
            Some(tenant) => client_of(&server, tenant),
            None => greeted(&server),
        };
        send(&mut client, id, header);
    }
    settle(&server);
    for receiver in [&gold, &spring, &acme, &rest] {
        let is_here =
            |(_, _, expected, ..): &&(_, _, &Receiver, _, _)| expected.address == receiver.address;
        let mut expected: Vec<String> =
            rows.iter().filter(is_here).map(|(id, ..)| id.to_string()).collect();
        expected.sort_unstable();
        assert_eq!(ids(receiver), expected);
    }
    for (id, _, receiver, tenant, campaign) in rows {
        let lines = attempts(&server, id, 1);
        let [line] = &lines[..] else { panic!("{id}: {lines:?}") };
        assert_eq!(line["tenant"].as_str(), *tenant, "{line}");
        assert_eq!(line["campaign"].as_str(), *campaign, "{line}");
        assert_eq!(line["address"], receiver.address.to_string(), "{line}");
    }
}

/// Header fields are stored with the message: a restarted server routes by them.
#[test]
fn labels_survive_a_restart() {
    let [gold, rest] = [5, 6].map(|number| start(number, &[]));
    let pool = "[[route]]\nheaders = 'X-Pool: g*'\ntenants = 'acme'";
    let routes =
        format!("{pool}\nnext = 'smtp:{}'\n{}", gold.address, route("far.test", rest.address));
    let routes = routes + &networks();
    let (mut server, folder) = start_server(&routes);
    let config = folder.path().join("ringpost.toml");
    let text = std::fs::read_to_string(&config).expect("the config exists");
    server.kill();
    let held = text.replace("[delivery]\n", "[delivery]\nenabled = false\n");
    assert_ne!(text, held);
    let setup = |text: &str| {
        let from = text.find("\n[delivery]").expect("the config has a delivery section");
        crate::support::Setup { config: text[from..].to_owned(), ..Default::default() }
    };
    let mut server = Server::start(folder.path(), &setup(&held));
    let mut client = greeted(&server);
    send(&mut client_of(&server, "acme"), "kept", "X-Pool: gold\r\n");
    send(&mut client, "plain", "X-Pool: gold\r\n");
    drop(client);
    server.kill();
    let server = Server::start(folder.path(), &setup(&text));
    settle(&server);
    assert_eq!((ids(&gold), ids(&rest)), (vec!["kept".to_owned()], vec!["plain".to_owned()]));
    assert_eq!(attempts(&server, "kept", 1)[0]["tenant"], "acme");
}

/// A tenant with many senders does not delay another tenant.
#[test]
fn tenants_get_fair_shares() {
    let receiver = start(7, &[]);
    let destination = format!(
        "[[destination]]\nname = 'slow'\nmx_host = '[{}]'\nconnections_max = 1\nwindow_start = 1\n\
         tls = 'none'\n",
        receiver.address.ip()
    );
    let routes = format!("{}{destination}", route("far.test", receiver.address));
    let (server, folder) = start_patient_server(&(routes + &networks()));
    let mut client = client_of(&server, "acme");
    receiver.record().holds = true;
    for number in 0..40 {
        send(&mut client, &format!("many-{number}"), "");
    }
    // It is longer than any of them, so that size does not put it in front.
    let filler = "X-Filler: longer\r\n";
    send(&mut client_of(&server, "other"), "of-another-tenant", filler);
    let listed = server.queue(&["list", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let rows = listed.as_array().expect("rows");
    assert_eq!(rows.len(), 41, "all messages are queued: {listed}");
    let ours = rows.iter().find(|row| row["sender"] == "of-another-tenant@sender.test");
    let id = ours.and_then(|row| row["id"].as_str()).expect("the message is listed");
    // The destination takes them one after the other.
    await_why(folder.path(), id, &["Queued for"]);
    receiver.record().holds = false;
    settle(&server);
    let record = receiver.record();
    let place = record
        .taken
        .iter()
        .position(|one| one.id == "of-another-tenant")
        .expect("the message arrived");
    assert_eq!(record.taken.len(), 41);
    assert!(place <= 4, "{place}");
}

fn us(line: &Value, key: &str) -> u64 {
    line[key].as_u64().unwrap_or_else(|| panic!("no {key} in {line}"))
}

#[test]
fn delays_are_attributed_to_their_causes() {
    let late =
        |at, ms| Misbehaviour { at, how: How::Late(Duration::from_millis(ms)), times: 1, only: "" };
    let later = Misbehaviour { at: At::End, how: How::Say("451 4.3.0 later"), times: 1, only: "" };
    let receiver = start(8, &[late(At::Banner, 300), late(At::End, 200), late(At::Mail, 50)]);
    let again = Receiver::start(place(9), BARE, &[later]);
    let routes =
        format!("{}{}", route("far.test", receiver.address), route("again.test", again.address));
    let (server, _folder) = start_patient_server(&routes);
    let mut client = greeted(&server);
    client.expect("MAIL FROM:<first@sender.test>", 250);
    thread::sleep(Duration::from_millis(150));
    client.expect("RCPT TO:<x@far.test>", 250);
    client.expect("DATA", 354);
    client.send(b"Subject: x\r\n\r\nx\r\n.\r\n").expect("the server reads it");
    assert_eq!(client.reply().expect("the server answers").code, 250);
    submit(&mut client, "again", &["x@again.test".to_owned()], b"Subject: x\r\n\r\nx\r\n");
    let first = &attempts(&server, "first", 1)[0];
    // Its connection is idle now.
    submit(&mut client, "second", &["x@far.test".to_owned()], b"Subject: x\r\n\r\nx\r\n");
    settle(&server);

    assert!(us(first, "before_us") >= 150_000, "the client was slow: {first}");
    assert!(us(first, "connect_us") >= 300_000, "the greeting was late: {first}");
    assert!(us(first, "transfer_us") >= 250_000, "MAIL and the end were late: {first}");
    let spent = us(first, "wait_us") + us(first, "connect_us") + us(first, "transfer_us");
    let age_us = us(first, "age_ms") * 1000;
    assert!(spent <= age_us + 3000, "no time is counted twice: {first}");
    assert!(spent + 500_000 >= age_us, "no time is missing: {first}");

    let second = &attempts(&server, "second", 1)[0];
    assert_eq!(us(second, "connect_us"), 0, "the connection existed: {second}");
    assert!(us(second, "transfer_us") > 0, "{second}");

    let lines = attempts(&server, "again", 2);
    let [deferred, delivered] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(
        (&deferred["outcome"], &delivered["outcome"]),
        (&"deferred".into(), &"delivered".into())
    );
    assert!(us(delivered, "before_us") >= 2_700_000, "it waited for its retry: {delivered}");
    assert!(us(delivered, "wait_us") < 2_700_000, "that is no queueing time: {delivered}");
}

/// The greeting of a server that refuses us is quoted and classified.
#[test]
fn a_refusing_greeting_is_quoted() {
    const WORDS: &str = "554 5.7.1 Blocked, see zen.spamhaus.org";
    let refuse = |how| Misbehaviour { at: At::Banner, how, times: usize::MAX, only: "" };
    let receiver = start(10, &[refuse(How::SayAndClose(WORDS))]);
    let (server, folder) = start_server(&(route("far.test", receiver.address) + &networks()));
    send(&mut client_of(&server, "acme"), "unheard", "");
    let line = server.wait_for_log("\"outcome\":\"deferred\"");
    let event: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(event["reply"], WORDS, "{line}");
    assert_eq!(event["tenant"], "acme", "{line}");
    assert_eq!(event["category"], "blocklisted", "{line}");
    let id = event["id"].as_str().expect("an id");
    await_why(folder.path(), id, &[&format!(": {WORDS}"), "last reply"]);
}

/// Waits until `ringpost why` prints all of these texts.
fn await_why(folder: &Path, id: &str, texts: &[&str]) {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut why = Command::new(BINARY);
        why.args(["why", id, "--config"]).arg(folder.join("ringpost.toml"));
        let output = why.output().expect("the binary can be run");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if texts.iter().all(|text| said.contains(text)) {
            return;
        }
        assert!(Instant::now() < end, "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        thread::sleep(Duration::from_millis(50));
    }
}
