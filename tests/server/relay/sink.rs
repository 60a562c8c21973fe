//! Postfix's smtp-sink with each of its failure modes, and then without.

use std::fs;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::relay::receiver::Receiver;
use crate::relay::rig::BARE;
use crate::relay::rig::Faults;
use crate::relay::rig::failed_recipients;
use crate::relay::rig::queue_text;
use crate::relay::rig::route;
use crate::relay::rig::start_server;
use crate::relay::rig::submit;
use crate::support::Client;
use crate::support::PATIENCE;

/// Time for which a sink fails.
const FAILING: Duration = Duration::from_secs(3);
const MESSAGES: usize = 3;

/// The result of mail while the sink fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Retried when the sink works.
    Again,
    Bounced,
    Delivered,
}

const ROWS: [(&str, Then); 26] = [
    ("-r CONNECT", Then::Again),
    ("-r EHLO,HELO", Then::Again),
    ("-r MAIL", Then::Again),
    ("-r RCPT", Then::Again),
    ("-r DATA", Then::Again),
    ("-r .", Then::Again),
    ("-f CONNECT", Then::Again),
    ("-f EHLO,HELO", Then::Again),
    ("-f EHLO", Then::Delivered),
    ("-f MAIL", Then::Bounced),
    ("-f RCPT", Then::Bounced),
    ("-f DATA", Then::Bounced),
    ("-f .", Then::Bounced),
    ("-q CONNECT", Then::Again),
    ("-q EHLO", Then::Again),
    ("-q MAIL", Then::Again),
    ("-q RCPT", Then::Again),
    ("-q DATA", Then::Again),
    ("-Q CONNECT", Then::Again),
    ("-Q MAIL", Then::Again),
    ("-Q RCPT", Then::Again),
    ("-Q .", Then::Again),
    ("-w 1", Then::Delivered),
    // With PIPELINING it would first answer the commands after RCPT.
    ("-p -W RCPT:1", Then::Delivered),
    ("-e", Then::Delivered),
    ("-8 -p -E -N", Then::Delivered),
];

struct Sink(Child);

impl Sink {
    fn start(options: &str, address: SocketAddr, dump: Option<&Path>) -> Sink {
        let mut command = Command::new("/usr/sbin/smtp-sink");
        command.args(options.split_whitespace());
        if crate::support::is_root("smtp-sink as nobody") {
            command.args(["-u", "nobody"]);
        }
        if let Some(folder) = dump {
            command.current_dir(folder).args(["-d", "mail."]);
        }
        command.arg(address.to_string()).arg("100");
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        Sink(child.expect("smtp-sink can be run"))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn smtp_sink_may_fail_in_all_its_ways() {
    if !Path::new("/usr/sbin/smtp-sink").exists() {
        println!("SKIPPED: smtp-sink is not installed");
        return;
    }
    let home = Receiver::start(([127, 78, 1, 1], 0).into(), BARE, &[]);
    let mut routes = route("sender.test", home.address);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let everyone = fs::Permissions::from_mode(0o777);
    fs::set_permissions(folder.path(), everyone.clone()).expect("the folder is writable");
    let mut sinks = Vec::new();
    for (number, (options, then)) in ROWS.iter().enumerate() {
        let address = free_address(number);
        let dump = folder.path().join(number.to_string());
        fs::create_dir(&dump).expect("the folder is writable");
        fs::set_permissions(&dump, everyone.clone()).expect("the folder is writable");
        let kept = (*then == Then::Delivered).then_some(&*dump);
        sinks.push((Sink::start(options, address, kept), address, dump.clone()));
        routes.push_str(&route(&format!("s{number}.test"), address));
    }
    sinks.iter().for_each(|(_, address, _)| await_listener(*address));
    let (server, _server_folder) = start_server(&routes);
    let mut client = server.connect();
    client.greet().expect("a healthy server greets");
    (0..ROWS.len()).for_each(|number| send(&mut client, number));
    thread::sleep(FAILING);
    let mut faults = Faults::default();
    let mut healed = Vec::new();
    for ((sink, address, dump), (options, then)) in sinks.into_iter().zip(ROWS) {
        if then != Then::Again {
            healed.push((sink, dump));
            continue;
        }
        faults.check(
            fs::read_dir(&dump).is_ok_and(|mut one| one.next().is_none()),
            options,
            || "it accepted a message".to_owned(),
        );
        drop(sink);
        healed.push((Sink::start("", address, Some(&dump)), dump));
    }
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end && !queue_text(&server).is_empty() {
        thread::sleep(Duration::from_millis(200));
    }
    let told: Vec<String> = home.record().taken.iter().flat_map(failed_recipients).collect();
    for (number, (options, then)) in ROWS.iter().enumerate() {
        let mails = read_all(&healed[number].1);
        for count in 0..MESSAGES {
            let recipient = format!("r{count}@s{number}.test");
            let text = format!("End: {number}-{count}.");
            let arrived = mails.iter().filter(|mail| mail.contains(&text)).count();
            let bounced = told.iter().filter(|one| **one == recipient).count();
            let expected = if *then == Then::Bounced { (0, 1) } else { (1, 0) };
            faults.check((arrived, bounced) == expected, options, || {
                format!("{recipient} arrived {arrived} times, {bounced} bounces")
            });
        }
    }
    let left = queue_text(&server);
    faults.check(left.is_empty(), "queue", || left.clone());
    faults.none_or_panic(&server);
}

fn free_address(number: usize) -> SocketAddr {
    let last = u8::try_from(number + 1).expect("few sinks");
    let listener = TcpListener::bind((std::net::Ipv4Addr::new(127, 78, 0, last), 0));
    listener.and_then(|one| one.local_addr()).expect("loopback has a free port")
}

fn await_listener(address: SocketAddr) {
    let end = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < end, "smtp-sink does not listen on {address}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn send(client: &mut Client, number: usize) {
    for count in 0..MESSAGES {
        let recipient = format!("r{count}@s{number}.test");
        let body = format!("Subject: x\r\n\r\nEnd: {number}-{count}.\r\n");
        submit(client, &format!("k{number}-{count}"), &[recipient], body.as_bytes());
    }
}

fn read_all(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).expect("the folder is writable").flatten();
    files.map(|file| fs::read_to_string(file.path()).expect("the file is text")).collect()
}
