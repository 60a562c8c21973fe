//! Rates of destinations and tenants: over kills, over shards, and as operators see them.

use std::fs;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::process::Command;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::support::ALLOW_LOOPBACK;
use crate::support::BINARY;
use crate::support::Client;
use crate::support::Server;
use crate::support::Setup;
use crate::support::receiver::Receiver;

const PATIENCE: Duration = Duration::from_secs(30);

fn setup(cores: &str, config: &str, receiver: &Receiver) -> Setup {
    let config = format!(
        "[delivery]\nretry_schedule = ['1h']\ndelay_warning = '0s'\n{ALLOW_LOOPBACK}\n{config}\n\
         [[route]]\nnext = 'smtp:{}'\n",
        receiver.address
    );
    let server = format!("cores = \"{cores}\"\n");
    Setup { config, server, ..Setup::default() }
}

/// Returns the id of the accepted message.
fn submit(client: &mut Client, to: &str) -> String {
    client.expect("MAIL FROM:<a@sender.test>", 250);
    client.expect(&format!("RCPT TO:<{to}>"), 250);
    client.expect("DATA", 354);
    let reply = client.ask("Subject: x\r\n\r\nx\r\n.").expect("the server answers");
    assert_eq!(reply.code, 250, "{}", reply.text);
    let id = reply.text.split_once("queued as ").expect("the reply has the id").1;
    id.split_whitespace().next().unwrap_or_default().to_owned()
}

fn submit_many(server: &Server, count: usize, to: impl Fn(usize) -> String) -> Vec<String> {
    let mut client = server.connect();
    client.greet().expect("the server greets");
    (0..count).map(|number| submit(&mut client, &to(number))).collect()
}

/// Waits until `why` says of all the messages that are still queued that this keeps them.
fn await_why(server: &Server, ids: &[String], wanted: &str) {
    let end = Instant::now() + PATIENCE;
    let says = |id: &String| {
        let mut command = Command::new(BINARY);
        command.args(["why", id]).arg("--config").arg(server.folder.join("ringpost.toml"));
        let said = command.output().expect("the binary can be run");
        // It fails for a message that was delivered.
        said.status.success().then(|| String::from_utf8_lossy(&said.stdout).into_owned())
    };
    loop {
        let said: Vec<String> = ids.iter().filter_map(says).collect();
        if !said.is_empty() && said.iter().all(|text| text.contains(wanted)) {
            return;
        }
        assert!(Instant::now() < end, "{}\n{said:?}", server.log_brief());
        thread::sleep(Duration::from_millis(50));
    }
}

fn await_taken(receiver: &Receiver, count: usize) {
    let end = Instant::now() + PATIENCE;
    while receiver.taken().len() < count {
        assert!(Instant::now() < end, "{} of {count} have come", receiver.taken().len());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_rate_of_an_hour_holds_over_kills() {
    const LIMIT: usize = 40;
    /// What a save covers ahead: an eighth.
    const AHEAD: usize = LIMIT / 8;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let receiver = Receiver::start(&[], |_| None);
    // One connection, so that a kill meets one message that is counted and not taken.
    let config = format!(
        "[destination_defaults]\nmessages_per_hour = {LIMIT}\ntls = 'none'\n\
         connections_max = 1\nwindow_start = 1\n"
    );
    let setup = setup("0", &config, &receiver);
    let mut server = Server::start(folder.path(), &setup);
    let ids = submit_many(&server, 80, |number| format!("r{number}@b.test"));
    for life in 1..=3 {
        await_taken(&receiver, life * 4);
        server.kill();
        server = Server::start(folder.path(), &setup);
    }
    // The kills waste no more than that. While a save is awaited the rate binds, too.
    await_taken(&receiver, LIMIT - 3 * (AHEAD + 1));
    await_why(&server, &ids[ids.len() - 3..], "rate limit of");
    let taken = receiver.taken().len();
    assert!(taken <= LIMIT, "{taken} were sent in this hour");
    // One more restart starts no new hour.
    server.kill();
    server = Server::start(folder.path(), &setup);
    await_why(&server, &ids[ids.len() - 3..], "rate limit of");
    assert!(receiver.taken().len() <= LIMIT, "the window has begun anew");
    // A file that nobody can read neither stops the server nor its mail.
    server.kill();
    let file = folder.path().join("spool/limits");
    assert!(file.exists(), "{:?}", fs::read_dir(folder.path()).map(Iterator::collect::<Vec<_>>));
    fs::write(&file, b"RPLIMIT9 of a version to come").expect("it is writable");
    let before = receiver.taken().len();
    server = Server::start(folder.path(), &setup);
    assert!(server.log_text().contains("limits.bad"), "{}", server.log_text());
    assert!(folder.path().join("spool/limits.bad").exists());
    await_taken(&receiver, before + 1);
    drop(server);
}

#[test]
fn a_rate_of_a_tenant_holds_over_destinations_shards_and_kills() {
    const LIMIT: usize = 24;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let receivers: Vec<Receiver> = (0..6).map(|_| Receiver::start(&[], |_| None)).collect();
    let mut config = format!(
        "[destination_defaults]\ntls = 'none'\n[[network]]\ncidr = ['127.0.0.1/32']\n\
         tenant = 'acme'\n[[network]]\ncidr = ['127.0.0.2/32']\ntenant = 'other'\n\
         [[tenant]]\nname = 'acme'\nweight = 3\nmessages_per_day = {LIMIT}\n"
    );
    for (number, receiver) in receivers.iter().enumerate() {
        config.push_str(&format!(
            "[[route]]\nrecipient_domain = ['d{number}.test']\nnext = 'smtp:{}'\n",
            receiver.address
        ));
    }
    let setup = setup("0-1", &config, &receivers[0]);
    let mut server = Server::start(folder.path(), &setup);
    let taken_of = |letter: char| {
        let all = receivers.iter().flat_map(Receiver::taken);
        all.filter(|one| one.rcpts[0].contains(&format!("<{letter}"))).count()
    };
    let to = |number: usize| format!("r{number}@d{}.test", number % 6);
    let ids = submit_many(&server, 2 * LIMIT, to);
    let end = Instant::now() + PATIENCE;
    while taken_of('r') < LIMIT {
        assert!(Instant::now() < end, "less than the rate: {}", taken_of('r'));
        thread::sleep(Duration::from_millis(5));
    }
    await_why(&server, &ids, "rate limit of the tenant");
    assert_eq!(taken_of('r'), LIMIT, "no more than the rate");
    // Another tenant goes on at the same destinations.
    let mut other = Client::connect_from(Ipv4Addr::new(127, 0, 0, 2), server.address());
    let other = other.as_mut().expect("it connects");
    other.greet().expect("the server greets");
    (0..12).for_each(|number| drop(submit(other, &format!("o{number}@d{}.test", number % 6))));
    let end = Instant::now() + PATIENCE;
    while taken_of('o') < 12 {
        assert!(Instant::now() < end, "{} of 12 have come", taken_of('o'));
        thread::sleep(Duration::from_millis(5));
    }
    server.kill();
    server = Server::start(folder.path(), &setup);
    await_why(&server, &ids, "rate limit of the tenant");
    assert_eq!(taken_of('r'), LIMIT, "what was sent before the kill counts");
}

/// How many messages have come from 127.0.0.`last`.
fn taken_from(receiver: &Receiver, last: u8) -> usize {
    let from = IpAddr::from([127, 0, 0, last]);
    receiver.taken().iter().filter(|taken| taken.peer == from).count()
}

/// What `ringpost destination show` says.
fn shown(server: &Server, receiver: &Receiver) -> String {
    let mut command = Command::new(BINARY);
    command.args(["destination", "show", &receiver.address.to_string()]);
    let shown = command.arg("--config").arg(server.folder.join("ringpost.toml")).output();
    String::from_utf8_lossy(&shown.expect("the binary can be run").stdout).into_owned()
}

#[test]
fn a_rate_of_a_source_holds_over_kills_and_another_source_goes_on() {
    a_rate_of_each_source("1");
}

/// Each shard sends from both sources.
#[test]
fn a_rate_of_a_source_holds_over_shards_that_share_a_destination() {
    a_rate_of_each_source("'all'");
}

/// The mail goes from the first source until that has used up its rate.
fn a_rate_of_each_source(stripes: &str) {
    const LIMIT: usize = 16;
    const CONNECTIONS: usize = 2;
    /// What a kill wastes: what a save covers ahead, and messages that are being sent.
    const WASTE: usize = LIMIT / 8 + CONNECTIONS;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let receiver = Receiver::start(&[], |_| None);
    let source =
        |name: &str, last: u8| format!("[[source]]\nname = '{name}'\nipv4 = '127.0.0.{last}'\n");
    let config = format!(
        "pool = 'both'\n[destination_defaults]\ntls = 'none'\nstripes = {stripes}\n\
         connections_max = {CONNECTIONS}\nwindow_start = {CONNECTIONS}\n\
         source_messages_per_hour = {LIMIT}\n[[pool]]\nname = 'both'\n\
         sources = ['first:1000000', 'second:1']\n{}{}",
        source("first", 2),
        source("second", 3)
    );
    let setup = setup("0-1", &config, &receiver);
    let mut server = Server::start(folder.path(), &setup);
    let ids = submit_many(&server, 3 * LIMIT, |number| format!("r{number}@b.test"));
    let is_one_owner = stripes == "1";
    let first_is_done = || !is_one_owner || taken_from(&receiver, 2) == LIMIT;
    let end = Instant::now() + PATIENCE;
    while taken_from(&receiver, 3) < 2 || !first_is_done() {
        assert!(Instant::now() < end, "{:?}\n{}", receiver.taken().len(), server.log_brief());
        thread::sleep(Duration::from_millis(5));
    }
    server.kill();
    server = Server::start(folder.path(), &setup);
    if is_one_owner {
        await_taken(&receiver, 2 * LIMIT - WASTE);
    }
    await_why(&server, &ids, "of source address ");
    let words = [
        "rate limit of each source address: 16 per hour",
        "waits for the rate limit of source address: ",
        "source first: ",
        "source second: ",
    ];
    let end = Instant::now() + PATIENCE;
    loop {
        let shown = shown(&server, &receiver);
        let waiting = shown.matches(", rate limited until ").count();
        if words.iter().all(|words| shown.contains(words)) && (waiting == 2 || !is_one_owner) {
            break;
        }
        assert!(Instant::now() < end, "{shown}");
        thread::sleep(Duration::from_millis(20));
    }
    // One more restart starts no new hour.
    server.kill();
    server = Server::start(folder.path(), &setup);
    await_why(&server, &ids, "of source address ");
    let taken = [taken_from(&receiver, 2), taken_from(&receiver, 3)];
    assert!(taken.iter().all(|taken| (1..=LIMIT).contains(taken)), "{taken:?} in this hour");
    assert_eq!(taken.iter().sum::<usize>(), receiver.taken().len());
    drop(server);
}
