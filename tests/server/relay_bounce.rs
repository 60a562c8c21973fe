//! Mail that is not delivered at once: reports to the sender, expiry, delay warnings, attempts.
//!
//! The real binary between a client and scripted receivers. When the queue is empty, the number of
//! reports is final.

use crate::support;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use hickory_proto::op::ResponseCode;
use mail_parser::MessageParser;
use mail_parser::MimeHeaders;
use serde_json::Value;

use crate::support::ALLOW_LOOPBACK;
use crate::support::Client;
use crate::support::ClosedPort;
use crate::support::Server;
use crate::support::Setup;
use crate::support::nameserver::Asked;
use crate::support::nameserver::NameServer;
use crate::support::nameserver::encode;
use crate::support::nameserver::mx;
use crate::support::nameserver::soa;
use crate::support::receiver::Receiver;
use crate::support::receiver::Taken;
use crate::support::stuffed;

const PATIENCE: Duration = Duration::from_secs(20);
const BODY: &[u8] = b"Subject: hello\r\nMessage-ID: <m1@sender.test>\r\n\r\nThe very words.\r\n";

/// A config that sends all mail to one receiver.
fn config(delivery: &str, routes: &str, to: SocketAddr) -> Setup {
    let config = format!(
        "[delivery]\nretry_jitter = 0\n{delivery}\n{routes}\n[[route]]\nnext = \"smtp:{to}\"\n"
    );
    Setup { config, ..Setup::default() }
}

fn route(domain: &str, next: &str) -> String {
    format!("[[route]]\nrecipient_domain = [\"{domain}\"]\nnext = \"{next}\"\n")
}

/// One transaction; parameters may follow the addresses.
fn send(client: &mut Client, from: &str, to: &[&str], body: &[u8]) {
    client.expect(&format!("MAIL FROM:{from}"), 250);
    for to in to {
        client.expect(&format!("RCPT TO:{to}"), 250);
    }
    client.expect("DATA", 354);
    client.send(&stuffed(body)).expect("the peer reads");
    let reply = client.reply().expect("the server answers");
    assert_eq!(reply.code, 250, "{}", reply.text);
}

fn greeted(server: &Server) -> Client {
    let mut client = server.connect();
    client.greet().expect("the server greets");
    client
}

fn asked(folder: &Path, words: &[&str]) -> Value {
    let words = [&["--json"], words].concat();
    let out = support::queue(folder, &words);
    serde_json::from_slice(&out.stdout).unwrap_or_else(|fault| panic!("{fault}: {out:?}"))
}

fn await_empty(server: &Server) {
    let end = Instant::now() + PATIENCE;
    while asked(&server.folder, &["stats"])["messages"] != 0 {
        assert!(Instant::now() < end, "the queue is not empty:\n{}", server.log_brief());
        thread::sleep(Duration::from_millis(50));
    }
}

/// The first log line that contains all these texts. It may be written after the mail has arrived.
fn await_line(server: &Server, texts: &[&str]) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let log = server.log_text();
        if let Some(line) = log.lines().find(|line| texts.iter().all(|text| line.contains(text))) {
            return line.to_owned();
        }
        assert!(Instant::now() < end, "no {texts:?} in:\n{log}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A parsed report.
struct Report {
    subject: String,
    text: String,
    /// The fields of the message, then those of each recipient.
    fields: Vec<Vec<(String, String)>>,
    original_type: String,
    original: String,
}

impl Report {
    fn read(taken: &Taken) -> Report {
        assert!(taken.mail.to_uppercase().starts_with("MAIL FROM:<>"), "{}", taken.mail);
        let message = MessageParser::default().parse(&taken.text).expect("a message");
        let kind = message.content_type().expect("a type");
        assert_eq!((kind.ctype(), kind.subtype()), ("multipart", Some("report")));
        assert_eq!(kind.attribute("report-type"), Some("delivery-status"));
        let from = message.from().and_then(|from| from.first()).and_then(|from| from.address());
        assert_eq!(from, Some("MAILER-DAEMON@mx.ringpost.test"));
        let part = |place: usize| {
            let part = &message.parts[place];
            let (start, end) = (part.raw_body_offset() as usize, part.raw_end_offset() as usize);
            let kind = part.content_type().expect("a type");
            let name = format!("{}/{}", kind.ctype(), kind.subtype().unwrap_or(""));
            (name, String::from_utf8_lossy(&taken.text[start..end]).into_owned())
        };
        let ((text_type, text), (status_type, status)) = (part(1), part(2));
        assert_eq!((&*text_type, &*status_type), ("text/plain", "message/delivery-status"));
        let (original_type, original) = part(3);
        let blocks = status.trim_end().split("\r\n\r\n");
        let report = Report {
            subject: message.subject().unwrap_or("").to_owned(),
            text,
            fields: blocks.map(read_fields).collect(),
            original_type,
            original,
        };
        assert_eq!(report.field(0, "Reporting-MTA"), "dns; mx.ringpost.test");
        report
    }

    /// Empty if the field is missing.
    fn field(&self, block: usize, name: &str) -> &str {
        let found = self.fields[block].iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }

    fn has_whole_original(&self) -> bool {
        match &*self.original_type {
            "message/rfc822" => true,
            "text/rfc822-headers" => false,
            other => panic!("{other}"),
        }
    }
}

fn read_fields(block: &str) -> Vec<(String, String)> {
    let unfolded = block.replace("\r\n ", " ").replace("\r\n\t", " ");
    let fields = unfolded.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
}

/// The only report to that sender.
fn only_report(receiver: &Receiver, sender: &str) -> Report {
    let found = receiver.await_for(sender, 1, PATIENCE);
    assert_eq!(found.len(), 1, "reports to {sender}");
    Report::read(&found[0])
}

#[test]
fn one_refused_of_three_recipients_causes_one_report() {
    let folder = tempfile::tempdir().expect("a folder");
    let receiver = Receiver::start(&["DSN"], |line| match line {
        _ if line.starts_with("RCPT TO:<bob@") => {
            Some("550-5.1.1 <bob@remote.test>: no\r\n550 5.1.1 such user".to_owned())
        }
        _ => None,
    });
    let server = Server::start(folder.path(), &config("", "", receiver.address));
    let mut client = greeted(&server);
    let bob = "<bob@remote.test> NOTIFY=FAILURE ORCPT=rfc822;Bob+2BList@orig.test";
    let to = ["<ann@remote.test>", bob, "<cid@remote.test>"];
    send(&mut client, "<plain@sender.test>", &to, BODY);
    send(&mut client, "<hdrs@sender.test> RET=HDRS ENVID=QQ+2B314", &to, BODY);
    send(&mut client, "<full@sender.test> RET=FULL ENVID=x", &to, BODY);
    let large = [BODY, &b"0123456789abcdef0123456789abcdef\r\n".repeat(6000)].concat();
    send(&mut client, "<large@sender.test> RET=FULL", &to, &large);
    let eight = [BODY, "gr\u{fc}n\r\n".as_bytes()].concat();
    send(&mut client, "<eight@sender.test> BODY=8BITMIME", &to, &eight);

    for (sender, envid, whole) in [
        ("plain@sender.test", "", true),
        ("hdrs@sender.test", "QQ+314", false),
        ("full@sender.test", "x", true),
        ("large@sender.test", "", false),
        ("eight@sender.test", "", true),
    ] {
        let report = only_report(&receiver, sender);
        assert_eq!(report.fields.len(), 2, "{sender}: one recipient");
        assert_eq!(report.field(0, "Original-Envelope-Id"), envid, "{sender}");
        assert_eq!(report.field(0, "Received-From-MTA"), "dns; client.ringpost.test");
        assert_ne!(report.field(0, "Arrival-Date"), "");
        for (name, value) in [
            ("Original-Recipient", "rfc822; Bob+List@orig.test"),
            ("Final-Recipient", "rfc822; bob@remote.test"),
            ("Action", "failed"),
            ("Status", "5.1.1"),
            ("Remote-MTA", "dns; [127.0.0.1]"),
        ] {
            assert_eq!(report.field(1, name), value, "{sender}: {name}");
        }
        let said = report.field(1, "Diagnostic-Code");
        assert!(said.starts_with("smtp; 550"), "{said}");
        assert!(said.contains("such user"), "{said}");
        assert_ne!(report.field(1, "Last-Attempt-Date"), "");
        assert_eq!(report.field(1, "Will-Retry-Until"), "");
        assert!(report.subject.starts_with("Undeliverable"), "{}", report.subject);
        assert!(report.text.contains("bob@remote.test"), "{}", report.text);
        assert!(!report.text.contains("ann@remote.test"), "{}", report.text);
        assert_eq!(report.has_whole_original(), whole, "{sender}");
        assert!(report.original.contains("Subject: hello"), "{}", report.original);
        assert!(report.original.contains("Received: from client.ringpost.test"));
        assert_eq!(report.original.contains("The very words."), whole, "{sender}");
        assert_eq!(
            receiver.taken_for(sender)[0].mail.contains("8BITMIME"),
            sender.starts_with("eight")
        );
    }
    await_empty(&server);
    assert_eq!(receiver.taken_for("ann@remote.test").len(), 5);
    assert_eq!(receiver.taken_for("cid@remote.test").len(), 5);
    assert_eq!(receiver.taken().len(), 10, "five messages and five reports");
    server.wait_for_log("\"record\":\"reported\"");
    await_line(&server, &["such user", "\"category\":\"bad-mailbox\""]);
}

#[test]
fn notify_is_respected() {
    let folder = tempfile::tempdir().expect("a folder");
    let refuse_bob =
        |line: &str| line.starts_with("RCPT TO:<bob@").then(|| "550 5.7.1 not you".to_owned());
    let plain = Receiver::start(&[], refuse_bob);
    let knowing = Receiver::start(&["DSN"], refuse_bob);
    let routes = [
        route("dsn.test", &format!("smtp:{}", knowing.address)),
        route("lmtp.test", &format!("lmtp:{}", plain.address)),
        route("nowhere.test", "discard"),
        route("closed.test", "reject:this domain is closed"),
    ]
    .concat();
    let server = Server::start(folder.path(), &config("", &routes, plain.address));
    let mut client = greeted(&server);
    let mut case = |sender: &str, to: &str| {
        send(&mut client, &format!("<{sender}@sender.test> ENVID=e1 RET=FULL"), &[to], BODY);
    };
    case("never", "<bob@plain.test> NOTIFY=NEVER");
    case("success-only", "<bob@plain.test> NOTIFY=SUCCESS");
    case("delay-only", "<bob@plain.test> NOTIFY=DELAY");
    case("quiet", "<ann@plain.test>");
    case("relayed", "<ann@plain.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a@o.test");
    case("passed-on", "<ann@dsn.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a@o.test");
    case("lmtp", "<ann@lmtp.test> NOTIFY=SUCCESS");
    case("gone", "<ann@nowhere.test> NOTIFY=SUCCESS");
    case("rejected", "<ann@closed.test>");

    let relayed = only_report(&plain, "relayed@sender.test");
    assert_eq!(relayed.field(1, "Action"), "relayed");
    assert_eq!(relayed.field(1, "Status"), "2.0.0");
    assert_eq!(relayed.field(1, "Original-Recipient"), "rfc822; a@o.test");
    assert_eq!(relayed.field(0, "Original-Envelope-Id"), "e1");
    assert!(!relayed.has_whole_original(), "RET applies to failures only");
    let lmtp = only_report(&plain, "lmtp@sender.test");
    assert_eq!(lmtp.field(1, "Action"), "delivered");
    let rejected = only_report(&plain, "rejected@sender.test");
    assert_eq!(rejected.field(1, "Status"), "5.7.1");
    assert_eq!(rejected.field(1, "Remote-MTA"), "", "no server was asked");
    let said = rejected.field(1, "Diagnostic-Code");
    assert!(said.starts_with("x-ringpost; ") && said.contains("this domain is closed"), "{said}");

    await_empty(&server);
    for sender in ["never", "success-only", "delay-only", "quiet", "passed-on", "gone"] {
        assert_eq!(plain.taken_for(&format!("{sender}@sender.test")).len(), 0, "{sender}");
    }
    assert_eq!(knowing.asked("<ann@dsn.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a@o.test"), 1);
    assert_eq!(knowing.asked("ENVID=e1"), 1);
    let report = &plain.taken_for("relayed@sender.test")[0];
    assert!(report.mail.starts_with("MAIL FROM:<>"));
}

#[test]
fn an_undeliverable_report_goes_to_the_postmaster_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let closed = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&closed);
    let receiver = Receiver::start(&["DSN"], move |line| {
        let refused = line.starts_with("RCPT TO:<bob@")
            || line.starts_with("RCPT TO:<gone@")
            || line.starts_with("RCPT TO:<post@") && seen.load(Ordering::Acquire);
        refused.then(|| "550 5.1.1 no such user".to_owned())
    });
    let to = receiver.address;
    let mut server =
        Server::start(folder.path(), &config("postmaster = \"post@own.test\"", "", to));
    let mut client = greeted(&server);
    send(&mut client, "<>", &["<bob@remote.test>"], BODY);
    let double = only_report(&receiver, "post@own.test");
    assert_eq!(double.field(1, "Final-Recipient"), "rfc822; bob@remote.test");
    // The sender's own address is refused, too.
    send(&mut client, "<gone@sender.test>", &["<bob@remote.test>"], BODY);
    let both = receiver.await_for("post@own.test", 2, PATIENCE);
    let double = Report::read(&both[1]);
    assert_eq!(double.field(1, "Final-Recipient"), "rfc822; gone@sender.test");
    assert!(double.original.contains("Undeliverable"), "{}", double.original);
    await_empty(&server);
    // Then the postmaster's address as well.
    closed.store(true, Ordering::Release);
    send(&mut client, "<gone@sender.test>", &["<bob@remote.test>"], BODY);
    server.wait_for_log("the message is itself a report to the postmaster");
    await_empty(&server);
    assert_eq!(receiver.taken().len(), 2);
    assert_eq!(receiver.asked("RCPT TO:<post@own.test> NOTIFY=NEVER"), 3);
    server.kill();

    let server = Server::start(folder.path(), &config("", "", to));
    send(&mut greeted(&server), "<>", &["<bob@remote.test>"], BODY);
    server.wait_for_log("delivery.postmaster is not set");
    await_empty(&server);
    assert_eq!(receiver.taken().len(), 2);
}

#[test]
fn a_delayed_message_is_reported_once_and_expires() {
    let folder = tempfile::tempdir().expect("a folder");
    let receiver = Receiver::start(&[], |line| {
        line.starts_with("RCPT TO:<slow@").then(|| "451 4.3.0 come again".to_owned())
    });
    let delivery = "retry_schedule = [\"1s\"]\nmax_age = \"1h\"\ndelay_warning = \"1s\"";
    let begun = Instant::now();
    let server = Server::start(folder.path(), &config(delivery, "", receiver.address));
    let mut client = greeted(&server);
    send(&mut client, "<all@sender.test>", &["<slow@remote.test>"], BODY);
    send(&mut client, "<delay@sender.test>", &["<slow@remote.test> NOTIFY=DELAY"], BODY);
    send(&mut client, "<fail@sender.test>", &["<slow@remote.test> NOTIFY=FAILURE"], BODY);
    for sender in ["all@sender.test", "delay@sender.test"] {
        receiver.await_for(sender, 1, PATIENCE);
    }
    // Two more attempts for each, which are not reported.
    let tries = || receiver.asked("RCPT TO:<slow@");
    let (told, end) = (tries(), Instant::now() + PATIENCE);
    while tries() < told + 6 {
        assert!(Instant::now() < end, "no further attempts:\n{}", server.log_brief());
        thread::sleep(Duration::from_millis(20));
    }
    let path = folder.path().join("ringpost.toml");
    let text = fs::read_to_string(&path).expect("the config exists");
    fs::write(&path, text.replace("max_age = \"1h\"", "max_age = \"2s\""))
        .expect("the file is ours");
    server.signal("HUP");
    await_empty(&server);

    let all = receiver.taken_for("all@sender.test");
    let delay_only = receiver.taken_for("delay@sender.test");
    let fail_only = receiver.taken_for("fail@sender.test");
    assert_eq!((all.len(), delay_only.len(), fail_only.len()), (2, 1, 1));
    for taken in [&all[0], &delay_only[0]] {
        let delayed = Report::read(taken);
        assert_eq!(delayed.field(1, "Action"), "delayed");
        assert_eq!(delayed.field(1, "Status"), "4.3.0");
        assert_ne!(delayed.field(1, "Will-Retry-Until"), "");
        assert!(delayed.subject.starts_with("Delayed"), "{}", delayed.subject);
        assert!(!delayed.has_whole_original());
    }
    for taken in [&all[1], &fail_only[0]] {
        let expired = Report::read(taken);
        assert_eq!(expired.field(1, "Action"), "failed");
        assert_eq!(expired.field(1, "Status"), "4.4.7");
        assert_eq!(expired.field(1, "Diagnostic-Code"), "smtp; 451 4.3.0 come again");
        assert_eq!(expired.field(1, "Remote-MTA"), "dns; [127.0.0.1]");
        assert!(expired.text.contains("expired before it could be delivered"), "{}", expired.text);
    }
    // One attempt at once, then one per second.
    let (tries, spent) = (tries() as u64, begun.elapsed());
    assert!(tries <= 3 * (spent.as_secs() + 1), "{tries} attempts in {spent:?}");
    for sender in ["all", "delay", "fail"] {
        await_line(&server, &[&format!("\"{sender}@sender.test"), ":\"expired\""]);
    }
}

#[test]
fn mail_for_an_unreachable_destination_expires() {
    let folder = tempfile::tempdir().expect("a folder");
    let receiver = Receiver::start(&[], |_| None);
    // No listener there. After the first failure no attempt is made for longer than the mail's
    // maximum age.
    let dead = ClosedPort::new();
    let delivery = "retry_schedule = [\"1s\"]\nmax_age = \"3s\"\n\
                    [destination_defaults]\nfailures_to_back_off = 1\nback_off_first = \"1h\"\n\
                    back_off_max = \"1h\"\n";
    let routes = route("dead.test", &format!("smtp:{}", dead.address));
    let server = Server::start(folder.path(), &config(delivery, &routes, receiver.address));
    let mut client = greeted(&server);
    send(&mut client, "<dead@sender.test>", &["<ann@dead.test> NOTIFY=FAILURE"], BODY);
    // The second message arrives during the pause.
    await_line(&server, &["\"dead@sender.test", "\"outcome\":\"deferred\""]);
    send(&mut client, "<later@sender.test>", &["<ann@dead.test> NOTIFY=FAILURE"], BODY);
    await_empty(&server);
    for sender in ["dead@sender.test", "later@sender.test"] {
        let expired = only_report(&receiver, sender);
        assert_eq!(expired.field(1, "Status"), "4.4.7", "{sender}");
        assert_eq!(expired.field(1, "Remote-MTA"), "", "{sender}: no server replied");
        let said = expired.field(1, "Diagnostic-Code");
        assert!(said.contains("connecting to"), "{sender}: {said}");
        // There was no attempt at the end, because of the pause.
        assert_eq!(expired.field(1, "Last-Attempt-Date"), "", "{sender}");
        await_line(&server, &[&format!("\"{sender}"), ":\"expired\""]);
    }
}

fn zone(asked: &Asked) -> Vec<Vec<u8>> {
    let name = asked.name();
    let owner = name.trim_end_matches('.');
    let reply = match owner {
        "null.test" => asked.with(vec![mx(owner, 0, "")]),
        "servfail.test" | "short.test" => asked.reply(ResponseCode::ServFail),
        _ => {
            let mut reply = asked.reply(ResponseCode::NXDomain);
            reply.authorities.push(soa());
            reply
        }
    };
    vec![encode(&reply)]
}

#[test]
fn invalid_domains_bounce_at_once_and_temporary_faults_wait() {
    let folder = tempfile::tempdir().expect("a folder");
    let names = NameServer::start(zone);
    let receiver = Receiver::start(&[], |_| None);
    let to = receiver.address;
    let routes = [
        route("sender.test", &format!("smtp:{to}")),
        route("typo.test", "mx:nx.test"),
        route("short.test", "mx") + "max_age = \"1s\"\n",
    ]
    .concat();
    let config = format!(
        "[delivery]\n{ALLOW_LOOPBACK}\nretry_schedule = [\"1s\"]\n[resolver]\nservers = [\"{}\"]\n{routes}",
        names.address
    );
    let server = Server::start(folder.path(), &Setup { config, ..Setup::default() });
    let mut client = greeted(&server);
    for domain in ["nx", "null", "servfail", "short", "typo"] {
        send(
            &mut client,
            &format!("<{domain}@sender.test>"),
            &[&format!("<a@{domain}.test>")],
            BODY,
        );
    }
    for (domain, status, category) in [
        ("nx", "5.1.2", "bad-domain"),
        ("null", "5.1.10", "bad-domain"),
        ("short", "4.4.7", "routing"),
    ] {
        let report = only_report(&receiver, &format!("{domain}@sender.test"));
        assert_eq!(report.field(1, "Status"), status, "{domain}");
        assert_eq!(report.field(1, "Remote-MTA"), "", "{domain}");
        assert!(report.field(1, "Diagnostic-Code").starts_with("x-ringpost; "), "{domain}");
        let ended = if domain == "short" { "expired" } else { "bounced" };
        let line = await_line(&server, &[&format!("a@{domain}.test"), &format!(":\"{ended}\"")]);
        assert!(line.contains(&format!("\"category\":\"{category}\"")), "{line}");
    }
    // Temporary faults: a server failure, and a domain that only a route defines.
    for domain in ["servfail", "typo"] {
        assert_eq!(receiver.taken_for(&format!("{domain}@sender.test")).len(), 0, "{domain}");
    }
    // A report that has arrived is listed until its delivery is committed.
    let end = Instant::now() + PATIENCE;
    loop {
        let left = asked(folder.path(), &["list"]);
        let senders: Vec<&Value> =
            left.as_array().expect("rows").iter().map(|row| &row["sender"]).collect();
        if senders == ["servfail@sender.test", "typo@sender.test"] {
            break;
        }
        assert!(Instant::now() < end, "{left}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_report_rate_is_limited_across_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let receiver = Receiver::start(&[], |_| None);
    let routes = route("closed.test", "reject:this domain is closed");
    let setup = Setup {
        server: "cores = \"0\"\n".to_owned(),
        ..config("bounce_rate = 60", &routes, receiver.address)
    };
    // A server may send one report for each second since its start.
    let start = Instant::now();
    let mut server = Server::start(folder.path(), &setup);
    let mut client = greeted(&server);
    for number in 0..5 {
        send(&mut client, &format!("<s{number}@sender.test>"), &["<a@closed.test>"], BODY);
    }
    let end = Instant::now() + PATIENCE;
    while receiver.taken().len() < 2 {
        assert!(Instant::now() < end, "the other reports wait:\n{}", server.log_brief());
        thread::sleep(Duration::from_millis(20));
    }
    // Both deliveries are committed. Checking takes time, in which another report may be due.
    while asked(folder.path(), &["stats"])["messages"].as_u64() > Some(3) {
        assert!(Instant::now() < end, "the other reports wait:\n{}", server.log_brief());
        thread::sleep(Duration::from_millis(20));
    }
    server.kill();
    let (told, spent) = (receiver.taken().len(), start.elapsed());
    // One at once, and one due within the same second.
    assert!(told as u64 <= spent.as_secs() + 2, "the limit is one a second: {told} in {spent:?}");
    let server = Server::start(folder.path(), &setup);
    await_empty(&server);
    assert!(start.elapsed() >= Duration::from_millis(3900), "{:?}", start.elapsed());
    for number in 0..5 {
        only_report(&receiver, &format!("s{number}@sender.test"));
    }
}

#[test]
fn a_report_lists_at_most_a_thousand_recipients() {
    let folder = tempfile::tempdir().expect("a folder");
    let receiver = Receiver::start(&[], |_| None);
    let routes = route("closed.test", "reject:this domain is closed");
    let setup = config("", &routes, receiver.address);
    let config = setup.config + "\n[limits]\nrecipients_per_message = 5000\n";
    let server = Server::start(folder.path(), &Setup { config, ..setup });
    let to: Vec<String> = (0..1200).map(|number| format!("<u{number}@closed.test>")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    send(&mut greeted(&server), "<a@sender.test>", &to, BODY);
    let found = receiver.await_for("a@sender.test", 2, PATIENCE);
    await_empty(&server);
    assert_eq!(receiver.taken().len(), 2);
    let mut counts: Vec<usize> =
        found.iter().map(|taken| Report::read(taken).fields.len() - 1).collect();
    counts.sort_unstable();
    assert_eq!(counts, [200, 1000]);
}

#[test]
fn attempts_are_counted_exactly_across_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let receiver = Receiver::start(&[], |line| {
        line.starts_with("RCPT TO:<slow@").then(|| "451 4.3.0 come again".to_owned())
    });
    let setup = config("retry_schedule = [\"500ms\", \"3s\"]", "", receiver.address);
    let mut server = Server::start(folder.path(), &setup);
    send(&mut greeted(&server), "<a@sender.test>", &["<slow@remote.test>"], BODY);
    let id = asked(folder.path(), &["list"])[0]["id"]
        .as_str()
        .expect("the message is queued")
        .to_owned();
    let job = || asked(folder.path(), &["show", &id])["jobs"][0].clone();
    let await_attempts = |count: u64| {
        let end = Instant::now() + PATIENCE;
        loop {
            let job = job();
            let (tried, stored) = (receiver.asked("RCPT TO:<slow@") as u64, &job["attempts"]);
            if tried >= count && *stored == tried {
                assert_eq!(job["last_reply"], "451 4.3.0 come again");
                return tried;
            }
            assert!(Instant::now() < end, "{tried} tries, {job}");
            thread::sleep(Duration::from_millis(20));
        }
    };
    let before = await_attempts(2);
    server.kill();
    assert_eq!(job()["attempts"], before, "the stopped queue shows the same");
    assert_eq!(receiver.asked("RCPT TO:<slow@") as u64, before);
    let mut server = Server::start(folder.path(), &setup);
    let after = await_attempts(before + 2);
    server.kill();
    assert_eq!(job()["attempts"], after);
}

#[test]
fn an_old_backlog_is_delivered_except_held_mail() {
    let folder = tempfile::tempdir().expect("a folder");
    let receiver = Receiver::start(&[], |_| None);
    let routes = route("hold.test", "hold");
    let disabled = config("enabled = false", &routes, receiver.address);
    let mut server = Server::start(folder.path(), &disabled);
    let mut client = greeted(&server);
    let large = [BODY, &b"0123456789abcdef0123456789abcdef\r\n".repeat(6000)].concat();
    for number in 0..60 {
        let (one, other) = (format!("<u{number}@one.test>"), format!("<u{number}@two.test>"));
        let body = if number % 10 == 0 { &large } else { BODY };
        send(&mut client, "<a@sender.test>", &[&one, &other], body);
    }
    for _ in 0..2 {
        send(&mut client, "<a@sender.test>", &["<b@hold.test>", "<b@one.test>"], BODY);
    }
    thread::sleep(Duration::from_millis(300));
    assert_eq!(receiver.taken().len(), 0);
    server.kill();

    // Despite its age, mail without an attempt gets one, and held mail does not expire.
    let enabled = config("max_age = \"1s\"\nretry_schedule = [\"1s\"]", &routes, receiver.address);
    for start in 0..2 {
        let mut server = Server::start(folder.path(), &enabled);
        let end = Instant::now() + PATIENCE;
        while asked(folder.path(), &["stats"])["messages"] != 2 {
            assert!(Instant::now() < end, "the queue is not empty:\n{}", server.log_brief());
            thread::sleep(Duration::from_millis(50));
        }
        thread::sleep(Duration::from_millis(1500));
        for row in asked(folder.path(), &["list"]).as_array().expect("a list") {
            let shown = asked(folder.path(), &["show", row["id"].as_str().expect("an id")]);
            let jobs = shown["jobs"].as_array().expect("jobs");
            assert_eq!(jobs.len(), 1, "start {start}: {shown}");
            assert_eq!(jobs[0]["state"], "held", "start {start}: {shown}");
        }
        server.kill();
    }
    for number in 0..60 {
        for domain in ["one", "two"] {
            let got = receiver.taken_for(&format!("u{number}@{domain}.test"));
            assert_eq!(got.len(), 1, "u{number}@{domain}.test");
            assert!(got[0].text.ends_with(if number % 10 == 0 {
                &large[large.len() - 64..]
            } else {
                BODY
            }));
        }
    }
    assert_eq!(receiver.taken_for("b@one.test").len(), 2);
    assert_eq!(receiver.taken_for("b@hold.test").len(), 0);
    assert_eq!(receiver.taken_for("a@sender.test").len(), 0, "no report was sent");
    assert!(fs::metadata(folder.path().join("spool")).is_ok());
}

#[test]
fn a_listener_decides_which_reports_senders_get() {
    let folder = tempfile::tempdir().expect("a folder");
    let receiver = Receiver::start(&[], |line| {
        line.starts_with("RCPT TO:<slow@").then(|| "451 4.3.0 come again".to_owned())
    });
    let delivery = "retry_schedule = [\"1s\"]\nmax_age = \"4s\"\ndelay_warning = \"1s\"";
    let listeners: String = ["all", "no-delays", "none"]
        .map(|dsn| format!("[[listener]]\naddress = \"127.0.0.1:0\"\ndsn = \"{dsn}\"\n"))
        .concat();
    let setup = config(delivery, "", receiver.address);
    let setup = Setup { listeners: Some(listeners), ..setup };
    let server = Server::start(folder.path(), &setup);
    let senders = ["<all@sender.test>", "<late@sender.test>", "<none@sender.test>"];
    for (address, sender) in server.smtp.iter().zip(senders) {
        let mut client = Client::connect(*address).expect("the server accepts connections");
        client.greet().expect("the server greets");
        send(&mut client, sender, &["<slow@remote.test> NOTIFY=DELAY,FAILURE"], BODY);
    }
    for sender in senders {
        await_line(&server, &[sender.trim_matches(['<', '>']), ":\"expired\""]);
    }
    await_empty(&server);
    for (sender, actions) in [
        ("all@sender.test", &["delayed", "failed"][..]),
        ("late@sender.test", &["failed"]),
        ("none@sender.test", &[]),
    ] {
        let taken = receiver.taken_for(sender);
        let found: Vec<String> =
            taken.iter().map(|one| Report::read(one).field(1, "Action").to_owned()).collect();
        assert_eq!(found, actions, "{sender}");
    }
    await_line(&server, &["the listener sends no reports"]);
}
